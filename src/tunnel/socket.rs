//! The sockets that tunnels receive by: one for each address and port, shared by all tunnels that use it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use config::Checksum;
use netio::udp::{ReceivingSocket, ReceivingSocketSpec, UdpError};
use packet::Timestamp;
use tunnel::{FramingKind, Stranger, Strangers, Unknown};
use vswitch::PortId;

use super::spec::TunnelSpec;

/// How long a sender that is no peer is a problem.
const RECENTLY: Duration = Duration::from_secs(60);

/// The identity of a receiving socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SocketKey {
    /// Unspecified for any address of its family.
    pub(crate) local: IpAddr,
    pub(crate) port: u16,
    pub(crate) device: Option<String>,
    pub(crate) framing: FramingKind,
}

/// A receiving socket and what is known of it.
#[derive(Debug)]
pub(crate) struct SocketControl {
    /// Its number among the ports.
    pub(crate) id: PortId,
    pub(crate) key: SocketKey,
    pub(crate) udp: ReceivingSocket,
    /// How it was opened.
    opened_as: ReceivingSocketSpec,
    /// Datagrams that the kernel dropped on former sockets.
    dropped: u64,
    /// Why its groups are not joined now.
    problem: Option<String>,
    /// Senders that are no peers, as workers note them.
    pub(super) strangers: Arc<Strangers>,
    /// The last sender with an unknown identifier, and the last with an unknown address, each with the time.
    last_strangers: [Option<(Timestamp, Stranger)>; 2],
}

impl SocketControl {
    /// Checks that a new tunnel can receive by it: a socket for any address serves a single address too, and not the other way
    /// round. `leaving` are the tunnels that have it, if the same change removes them all.
    pub(super) fn check_room_for(&self, spec: &TunnelSpec, leaving: Option<&str>) -> anyhow::Result<()> {
        let key = key_of(spec);
        let fix = |fix: &str| match leaving {
            Some(leaving) => format!("remove {leaving} first, then apply this"),
            None => format!("{fix}, or choose another port"),
        };
        anyhow::ensure!(
            self.key.local == key.local || self.key.local.is_unspecified(),
            "tunnel {}: {} leaves no room for a socket of any address beside it: {}",
            spec.name,
            self.name(),
            fix(&format!("say local={}", self.key.local))
        );
        anyhow::ensure!(
            !spec.is_ipv6() || spec.outer.checksum != Checksum::Off || self.opened_as.zero_checksum,
            "tunnel {}: {} takes no datagrams without checksum: {}",
            spec.name,
            self.name(),
            fix("leave csum=off out")
        );
        Ok(())
    }

    /// Joins the groups of these tunnels and leaves all others. A group that cannot be joined is tried again each second.
    pub(super) fn hear_groups_of<'a>(&mut self, specs: impl Iterator<Item = &'a TunnelSpec>) {
        let groups = groups_of(specs);
        if groups == self.opened_as.groups {
            return;
        }
        for group in self.opened_as.groups.iter().filter(|group| !groups.contains(group)) {
            if let Err(error) = self.udp.leave(&self.opened_as, *group) {
                tracing::warn!(socket = self.name(), %group, %error, "cannot leave a multicast group");
            }
        }
        self.opened_as.groups = groups;
        self.join_again();
    }

    /// Opens its socket again, for an interface that was made anew.
    pub(super) fn reopen(&mut self) -> Result<(), UdpError> {
        let udp = ReceivingSocket::open(&self.opened_as)?;
        self.dropped += self.udp.dropped();
        self.udp = udp;
        Ok(())
    }

    /// Datagrams that the kernel dropped before we read them.
    pub(super) fn dropped(&mut self) -> u64 {
        self.dropped + self.udp.dropped()
    }

    /// Joins its groups again, since the kernel leaves them when an interface goes.
    pub(super) fn join_again(&mut self) {
        let problem = self.udp.join_again(&self.opened_as).err().map(|error| error.to_string());
        if problem != self.problem {
            match &problem {
                Some(problem) => {
                    tracing::warn!(socket = self.name(), problem, "cannot join a multicast group; trying each second");
                }
                None => tracing::info!(socket = self.name(), "all multicast groups are joined"),
            }
            self.problem = problem;
        }
    }

    /// Once a second: looks for senders that are no peers.
    pub(super) fn look_for_strangers(&mut self, now: Timestamp) {
        for (last, unknown) in self.last_strangers.iter_mut().zip([Unknown::Vni, Unknown::Peer]) {
            if let Some(stranger) = self.strangers.take(unknown) {
                *last = Some((now, stranger));
            }
        }
    }

    /// A sender with an unknown identifier, and one with an unknown address, of the last minute.
    pub(super) fn strangers_now(&self, now: Timestamp) -> [Option<Stranger>; 2] {
        self.last_strangers.map(|last| last.filter(|(seen, _)| now.since(*seen) < RECENTLY).map(|(_, stranger)| stranger))
    }

    /// Its name in messages and counters.
    pub(crate) fn name(&self) -> String {
        let SocketKey { local, port, framing, .. } = &self.key;
        let kind = framing.name();
        if local.is_unspecified() {
            format!("{kind}:{port}")
        } else {
            format!("{kind}:{}", std::net::SocketAddr::new(*local, *port))
        }
    }
}

/// The receiving sockets that these tunnels need. A socket for any address leaves no room for one of a single address beside it,
/// so those are merged.
pub(super) fn keys(specs: &[TunnelSpec]) -> Vec<SocketKey> {
    let mut keys: Vec<SocketKey> = Vec::new();
    for spec in specs {
        let mut key = key_of(spec);
        let shared = |other: &SocketKey| is_shared(other, &key);
        let locals: Vec<IpAddr> = keys.iter().filter(|other| shared(other)).map(|other| other.local).collect();
        if locals.iter().any(|local| *local != key.local) {
            key.local = unspecified(key.local.is_ipv6());
        }
        if !locals.is_empty() {
            keys.retain(|other| !is_shared(other, &key));
        }
        keys.push(key);
    }
    keys
}

/// The receiving socket of a tunnel.
pub(super) fn of(sockets: &[SocketControl], spec: &TunnelSpec) -> Option<usize> {
    let key = key_of(spec);
    sockets.iter().position(|socket| is_shared(&socket.key, &key))
}

fn key_of(spec: &TunnelSpec) -> SocketKey {
    // A group's datagrams come to the group's address.
    let local = spec.local.filter(|_| spec.group.is_none());
    SocketKey {
        local: local.unwrap_or_else(|| unspecified(spec.is_ipv6())),
        port: spec.port,
        device: spec.device.clone(),
        framing: spec.framing.kind(),
    }
}

fn is_shared(one: &SocketKey, other: &SocketKey) -> bool {
    let is_met = one.local == other.local || one.local.is_unspecified() || other.local.is_unspecified();
    is_met
        && one.local.is_ipv6() == other.local.is_ipv6()
        && (one.port, &one.device, one.framing) == (other.port, &other.device, other.framing)
}

/// Opens these sockets.
pub(super) fn open(
    specs: &[TunnelSpec],
    ids: &mut dyn Iterator<Item = PortId>,
    queues: impl Fn(PortId) -> usize,
) -> anyhow::Result<Vec<SocketControl>> {
    let open = |key: SocketKey| {
        let id = ids.next().context("there is no number left for one more socket")?;
        let mine = specs.iter().filter(|spec| is_shared(&key, &key_of(spec)));
        let names: Vec<&str> = mine.clone().map(|spec| spec.name.as_str()).collect();
        let opened_as = ReceivingSocketSpec {
            local: key.local,
            port: key.port,
            queues: queues(id),
            device: key.device.clone(),
            groups: groups_of(mine.clone()),
            zero_checksum: mine.clone().any(|spec| spec.outer.checksum == Checksum::Off),
        };
        let udp = ReceivingSocket::open(&opened_as).with_context(|| format!("tunnel {}", names.join(", ")))?;
        Ok(SocketControl {
            id,
            key,
            udp,
            opened_as,
            dropped: 0,
            problem: None,
            strangers: Arc::default(),
            last_strangers: [None; 2],
        })
    };
    keys(specs).into_iter().map(open).collect()
}

fn groups_of<'a>(specs: impl Iterator<Item = &'a TunnelSpec>) -> Vec<IpAddr> {
    let mut groups: Vec<IpAddr> = specs.filter_map(|spec| Some(spec.group.as_ref()?.address)).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

pub(super) fn unspecified(is_ipv6: bool) -> IpAddr {
    if is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}
