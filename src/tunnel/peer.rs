//! A host at the other end of a tunnel, and the path to it.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use config::DontFragment;
use netio::udp::{Path, path};
use packet::{Features, Timestamp};
use tunnel::Underlay;
use tunnel::mtu::{MIN_MTU, overlay_mtu};
use vswitch::{Coalesce, Encapsulation, Port, PortId, PortKind, StormLimits};

use super::health::Hearing;
use super::spec::TunnelSpec;

/// Path MTU assumed while there is no route: Ethernet's, in bytes.
const USUAL_MTU: u32 = 1500;

/// One host.
#[derive(Debug)]
pub(crate) struct PeerControl {
    pub(crate) id: PortId,
    /// Its tunnel's place among all.
    pub(super) tunnel: usize,
    pub(crate) address: IpAddr,
    is_flooded: bool,
    /// The path, when there last was one.
    path: Option<Path>,
    /// Why there is no path now.
    problem: Option<String>,
    /// When it was heard.
    pub(super) hearing: Hearing,
}

impl PeerControl {
    pub(super) fn new(id: PortId, tunnel: usize, address: IpAddr, is_flooded: bool) -> PeerControl {
        PeerControl { id, tunnel, address, is_flooded, path: None, problem: None, hearing: Hearing::default() }
    }

    /// Asks the kernel for the path to it.
    pub(super) fn look(&mut self, spec: &TunnelSpec) {
        match path(spec.local, self.address, spec.device.as_deref()) {
            Ok(path) => {
                let is_ours = path.source == self.address;
                (self.path, self.problem) = (Some(path), is_ours.then(|| "it is an address of this host".to_owned()));
            }
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    /// Seconds since it was heard; `None` if it never was. `received` frames have come from it.
    pub(crate) fn last_heard(&self, received: u64, now: Timestamp) -> Option<u64> {
        self.hearing.last(received, now)
    }

    /// Why there is no path to it now.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Our address on the path to it.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.path.map(|path| path.source)
    }

    /// The longest packet that a frame to it may hold, in bytes.
    pub(crate) fn mtu(&self, spec: &TunnelSpec) -> u32 {
        let path = self.path.map_or(USUAL_MTU, |path| path.mtu);
        // A path too narrow for any packet counts as the minimum; packets that do not fit are dropped when they are sent.
        let most = overlay_mtu(path, spec.framing, Underlay::of(self.address)).unwrap_or(MIN_MTU);
        match spec.mtu {
            // The kernel may fragment the datagram, and so may routers.
            Some(mtu) if spec.outer.dont_fragment == DontFragment::Unset => mtu,
            Some(mtu) => mtu.min(most),
            None => most,
        }
    }

    /// The peer's port as workers know it.
    pub(crate) fn to_pipeline(&self, spec: &TunnelSpec) -> Port {
        let encapsulation = Encapsulation {
            framing: spec.framing,
            tos: spec.outer.tos,
            ttl: spec.outer.ttl,
            dont_fragment: match spec.outer.dont_fragment {
                DontFragment::Set => Some(true),
                DontFragment::Unset => Some(false),
                DontFragment::Inherit => None,
            },
            is_flooded: self.is_flooded,
            learns: spec.learning,
        };
        Port {
            bridge: spec.bridge,
            vlan: spec.vlan.clone(),
            mtu: self.mtu(spec),
            features: Features::NONE,
            coalesce: Coalesce::Off,
            bursts: false,
            kind: if spec.framing.kind().carries_ethernet() {
                PortKind::Peer(encapsulation)
            } else {
                PortKind::IpPeer(encapsulation)
            },
            limits: StormLimits::NONE,
            guard: None,
            isolated: spec.isolated,
        }
    }
}

/// Where datagrams are sent; a link-local address needs its interface.
pub(super) fn socket_address(address: IpAddr, port: u16, device: Option<&str>) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast() => {
            let scope = device.and_then(|name| netio::link::get(name).ok()).map_or(0, |link| link.index);
            SocketAddrV6::new(v6, port, 0, scope).into()
        }
        address => SocketAddr::new(address, port),
    }
}
