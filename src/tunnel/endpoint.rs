//! The sockets that tunnels receive by: one for each address and port, whoever shares them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context;
use netio::udp::{Endpoint, EndpointSpec, UdpError};
use tunnel::FramingKind;
use vswitch::PortId;

use super::line::Line;
use crate::config::tunnel::Checksum;

/// What tells one endpoint from another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EndpointKey {
    /// Unspecified: any address of its family.
    pub(crate) local: IpAddr,
    pub(crate) port: u16,
    pub(crate) device: Option<String>,
    pub(crate) framing: FramingKind,
}

/// One endpoint.
#[derive(Debug)]
pub(crate) struct EndpointControl {
    /// Its number among the ports.
    pub(crate) id: PortId,
    pub(crate) key: EndpointKey,
    pub(crate) socket: Endpoint,
    /// How it was opened.
    spec: EndpointSpec,
    /// By the kernel, on sockets that it had before.
    dropped: u64,
    /// Why its groups are not heard now.
    problem: Option<String>,
}

impl EndpointControl {
    /// Can a tunnel receive by it that comes later? A socket for any address can stand for one of a single address, and not the
    /// other way round.
    pub(super) fn check_room_for(&self, line: &Line) -> anyhow::Result<()> {
        let key = key_of(line);
        anyhow::ensure!(
            self.key.local == key.local || self.key.local.is_unspecified(),
            "tunnel {}: {} leaves no room for a socket of any address beside it: say local={}, or choose another port",
            line.name,
            self.name(),
            self.key.local
        );
        anyhow::ensure!(
            !line.is_ipv6() || line.outer.checksum != Checksum::Off || self.spec.zero_checksum,
            "tunnel {}: {} takes no datagrams without checksum: leave csum=off out, or choose another port",
            line.name,
            self.name()
        );
        Ok(())
    }

    /// Hears the groups of these tunnels from now on, and no others. One that cannot be joined is tried for as one whose
    /// interface is away.
    pub(super) fn hear_groups_of<'a>(&mut self, lines: impl Iterator<Item = &'a Line>) {
        let groups = groups_of(lines);
        if groups == self.spec.groups {
            return;
        }
        for group in self.spec.groups.iter().filter(|group| !groups.contains(group)) {
            if let Err(error) = self.socket.leave(&self.spec, *group) {
                tracing::warn!(socket = self.name(), %group, %error, "cannot leave a multicast group");
            }
        }
        self.spec.groups = groups;
        self.join_again();
    }

    /// Opens its socket anew, for a device that is another one now.
    pub(super) fn reopen(&mut self) -> Result<(), UdpError> {
        let socket = Endpoint::open(&self.spec)?;
        self.dropped += self.socket.dropped();
        self.socket = socket;
        Ok(())
    }

    /// Datagrams that the kernel dropped before we read them.
    pub(super) fn dropped(&mut self) -> u64 {
        self.dropped + self.socket.dropped()
    }

    /// Its groups are left by the kernel when an interface goes.
    pub(super) fn join_again(&mut self) {
        let problem = self.socket.join_again(&self.spec).err().map(|error| error.to_string());
        if problem != self.problem {
            match &problem {
                Some(problem) => {
                    tracing::warn!(socket = self.name(), problem, "cannot join a multicast group; trying each second")
                }
                None => tracing::info!(socket = self.name(), "all multicast groups are joined"),
            }
            self.problem = problem;
        }
    }

    /// For people and counters.
    pub(crate) fn name(&self) -> String {
        let EndpointKey { local, port, framing, .. } = &self.key;
        let kind = framing.name();
        if local.is_unspecified() {
            format!("{kind}:{port}")
        } else {
            format!("{kind}:{}", std::net::SocketAddr::new(*local, *port))
        }
    }
}

/// What belongs together: a socket for any address leaves no room for one of a single address beside it.
pub(super) fn keys(lines: &[Line]) -> Vec<EndpointKey> {
    let mut keys: Vec<EndpointKey> = Vec::new();
    for line in lines {
        let mut key = key_of(line);
        let shared = |other: &EndpointKey| is_shared(other, &key);
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

/// The endpoint of a tunnel among these.
pub(super) fn key_for<'a>(keys: &'a [EndpointKey], line: &Line) -> Option<&'a EndpointKey> {
    let key = key_of(line);
    keys.iter().find(|other| is_shared(other, &key))
}

/// The endpoint of a tunnel.
pub(super) fn of(endpoints: &[EndpointControl], line: &Line) -> Option<usize> {
    let key = key_of(line);
    endpoints.iter().position(|endpoint| is_shared(&endpoint.key, &key))
}

fn key_of(line: &Line) -> EndpointKey {
    // A group's datagrams come to the group's address.
    let local = line.local.filter(|_| line.group.is_none());
    EndpointKey {
        local: local.unwrap_or_else(|| unspecified(line.is_ipv6())),
        port: line.port,
        device: line.device.clone(),
        framing: line.framing.kind(),
    }
}

fn is_shared(one: &EndpointKey, other: &EndpointKey) -> bool {
    let is_met = one.local == other.local || one.local.is_unspecified() || other.local.is_unspecified();
    is_met
        && one.local.is_ipv6() == other.local.is_ipv6()
        && (one.port, &one.device, one.framing) == (other.port, &other.device, other.framing)
}

/// Opens all endpoints.
pub(super) fn open(
    lines: &[Line],
    ids: &mut dyn Iterator<Item = PortId>,
    queues: impl Fn(PortId) -> usize,
) -> anyhow::Result<Vec<EndpointControl>> {
    let open = |key: EndpointKey| {
        let id = ids.next().context("there is no number left for one more socket")?;
        let mine = lines.iter().filter(|line| is_shared(&key, &key_of(line)));
        let names: Vec<&str> = mine.clone().map(|line| line.name.as_str()).collect();
        let spec = EndpointSpec {
            local: key.local,
            port: key.port,
            queues: queues(id),
            device: key.device.clone(),
            groups: groups_of(mine.clone()),
            zero_checksum: mine.clone().any(|line| line.outer.checksum == Checksum::Off),
        };
        let socket = Endpoint::open(&spec).with_context(|| format!("tunnel {}", names.join(", ")))?;
        Ok(EndpointControl { id, key, socket, spec, dropped: 0, problem: None })
    };
    keys(lines).into_iter().map(open).collect()
}

fn groups_of<'a>(lines: impl Iterator<Item = &'a Line>) -> Vec<IpAddr> {
    let mut groups: Vec<IpAddr> = lines.filter_map(|line| Some(line.group.as_ref()?.address)).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

pub(super) fn unspecified(is_ipv6: bool) -> IpAddr {
    if is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}
