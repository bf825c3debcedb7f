//! The router: from the gateway's MAC address, or the uplink, to the next hop.
//!
//! ```text
//!  from a guest    valid? > for the gateway? > TTL > route > fits? > MSS > translate > next hop > queue
//!  from the host   of the host? > network > next hop > queue
//!  from outside    for us? > valid? > translate > TTL > MSS > network > next hop > fits? > queue
//! ```
//!
//! A packet from one network inside to another is not translated. A packet from inside to an outside address of the
//! router is translated as if it went out, and then as if it came in (hairpin, RFC 4787 section 6): it meets the rules
//! for packets from outside, and its receiver sees an outside address.
//!
//! Each worker has a `RouterWorker`; all of them look up the same `RouterTables`.

use std::net::Ipv4Addr;
use std::sync::Arc;

use nat::{FirstFragment, FlowCache, Nat};
use packet::MacAddr;

use crate::domain::Domain;
use crate::routed::neighbour::{InterfaceId, Neighbours};
use crate::routed::reassembly::Reassembly;
use crate::routed::routing::Routing;

pub(crate) mod error;
pub(crate) mod guest_routes;
pub(crate) mod host;
pub(crate) mod inbound;
pub(crate) mod local;
pub mod neighbour;
pub(crate) mod next_hop;
pub(crate) mod outbound;
pub(crate) mod places;
pub(crate) mod reassembly;
pub(crate) mod resume;
pub mod routing;
pub(crate) mod translate;
pub(crate) mod v4;

/// The uplink's number among the networks of [`Neighbours`].
pub const UPLINK: InterfaceId = InterfaceId(0x7fff);

/// Maximum number of things that batches can leave to be resumed: of the one at hand, and of those before.
const MAX_DEFERRED: usize = 2 * packet::batch::MAX_FRAMES;

/// One worker's router.
#[derive(Debug)]
pub struct Router {
    pub(crate) tables: RouterTables,
    pub(crate) worker: RouterWorker,
}

/// What the routers of all workers look up.
#[derive(Debug)]
pub(crate) struct RouterTables {
    pub(crate) routing: Arc<Routing>,
    pub(crate) nat: Option<Arc<Nat>>,
    pub(crate) neighbours: Arc<Neighbours>,
}

/// What one worker's router changes as it routes packets.
#[derive(Debug)]
pub(crate) struct RouterWorker {
    /// What the batch left to be resumed.
    pub(crate) deferred: Vec<Deferred>,
    /// The translation of the fragment that is resumed now.
    pub(crate) first_fragment: Option<FirstFragment>,
    /// Connections used last.
    pub(crate) flows: FlowCache,
    /// Pings to a gateway that come in fragments.
    pub(crate) reassembly: Reassembly,
    /// Next hops looked up in this second, by the low bits of their addresses.
    pub(crate) hops: Box<[Hop; HOPS]>,
}

/// What a batch left to be resumed after it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deferred {
    /// A neighbour became known for which packets wait.
    Neighbour(InterfaceId, Ipv4Addr),
    /// Something contradicts what is known of a neighbour, which must be asked.
    Doubt(InterfaceId, Ipv4Addr),
    /// The first fragment of a datagram came, for which later fragments wait.
    Fragments(FirstFragment),
    /// A ping to a gateway is whole, in this place of the reassembly.
    Whole(u8),
}

pub(crate) const HOPS: usize = 256;

/// A neighbour as it was looked up last. Valid while the second and the version of the neighbours are the same.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hop {
    /// Its network and address, as [`Hop::key_of`] packs them; 0 in a place that is free.
    pub(crate) key: u64,
    pub(crate) mac: MacAddr,
    pub(crate) secs: u32,
    pub(crate) version: u32,
}

impl Hop {
    #[inline(always)]
    pub(crate) fn key_of(id: InterfaceId, address: Ipv4Addr) -> u64 {
        1 << 63 | u64::from(id.0) << 32 | u64::from(address.to_bits())
    }
}

impl Router {
    /// A router that shares its tables with those of the other workers.
    #[must_use]
    pub fn new(routing: Arc<Routing>, nat: Option<Arc<Nat>>, neighbours: Arc<Neighbours>) -> Router {
        let deferred = Vec::with_capacity(MAX_DEFERRED);
        let hops = Box::new([Hop::default(); HOPS]);
        Router {
            tables: RouterTables { routing, nat, neighbours },
            worker: RouterWorker {
                deferred,
                first_fragment: None,
                flows: FlowCache::default(),
                reassembly: Reassembly::new(),
                hops,
            },
        }
    }
}

impl Router {
    /// The translation.
    pub fn nat_mut(&mut self) -> Option<&mut Arc<Nat>> {
        self.tables.nat.as_mut()
    }

    /// The neighbours.
    pub fn neighbours_mut(&mut self) -> &mut Arc<Neighbours> {
        &mut self.tables.neighbours
    }

    /// As [`Router::new`] with the same translation and neighbours, in the same memory: for tests that live through one short
    /// life after another.
    pub fn reset(&mut self, routing: Arc<Routing>) {
        self.tables.routing = routing;
        let RouterWorker { deferred, first_fragment, flows, reassembly, hops } = &mut self.worker;
        deferred.clear();
        *first_fragment = None;
        flows.clear();
        reassembly.clear();
        hops.fill(Hop::default());
    }
}

impl RouterTables {
    /// The network of a domain, and the MAC address of its gateway. `None` if the domain has no gateway.
    #[inline]
    pub(crate) fn at(&self, domain: Domain) -> Option<(InterfaceId, MacAddr)> {
        let id = self.routing.of_domain(domain)?;
        Some((id, self.routing.interface(id)?.mac))
    }
}

impl RouterWorker {
    /// Leaves something to be resumed after the batch. Dropped if there is no room: packets that wait are then resumed
    /// by a later batch, or expire.
    pub(crate) fn defer(&mut self, deferred: Deferred) {
        if self.deferred.len() < MAX_DEFERRED {
            self.deferred.push(deferred);
        }
    }
}
