//! A host at the other end of a tunnel, and the way to it.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use netio::udp::{Path, path};
use packet::Features;
use tunnel::Underlay;
use tunnel::mtu::{MIN_MTU, overlay_mtu};
use vswitch::{Encapsulation, Port, PortId, PortKind};

use super::line::Line;
use crate::config::tunnel::DontFragment;

/// Of a path that nobody knows: Ethernet's.
const USUAL_MTU: u32 = 1500;

/// One host.
#[derive(Debug)]
pub(crate) struct PeerControl {
    pub(crate) id: PortId,
    /// Its tunnel's place among all.
    pub(super) tunnel: usize,
    pub(crate) address: IpAddr,
    is_flooded: bool,
    /// The way, when it was last there.
    path: Option<Path>,
    /// Why there is none now.
    problem: Option<String>,
}

impl PeerControl {
    pub(super) fn new(id: PortId, tunnel: usize, address: IpAddr, is_flooded: bool) -> PeerControl {
        PeerControl { id, tunnel, address, is_flooded, path: None, problem: None }
    }

    /// Looks at the way to it.
    pub(super) fn look(&mut self, line: &Line) {
        match path(line.local, self.address, line.device.as_deref()) {
            Ok(path) => {
                let is_ours = path.source == self.address;
                (self.path, self.problem) = (Some(path), is_ours.then(|| "it is an address of this host".to_owned()));
            }
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    /// Why there is no way to it now.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Our address on the way to it.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.path.map(|path| path.source)
    }

    /// The longest packet that a frame to it may hold, in bytes.
    pub(crate) fn mtu(&self, line: &Line) -> u32 {
        let path = self.path.map_or(USUAL_MTU, |path| path.mtu);
        // What is too little to be one is taken for the least, and sending says that it does not fit.
        let most = overlay_mtu(path, line.framing, Underlay::of(self.address)).unwrap_or(MIN_MTU);
        match line.mtu {
            // The kernel cuts the datagram, and so may routers.
            Some(mtu) if line.outer.dont_fragment == DontFragment::Unset => mtu,
            Some(mtu) => mtu.min(most),
            None => most,
        }
    }

    /// What workers are to know of it.
    pub(crate) fn to_pipeline(&self, line: &Line) -> Port {
        let encapsulation = Encapsulation {
            framing: line.framing,
            tos: line.outer.tos,
            ttl: line.outer.ttl,
            dont_fragment: match line.outer.dont_fragment {
                DontFragment::Set => Some(true),
                DontFragment::Unset => Some(false),
                DontFragment::Inherit => None,
            },
            is_flooded: self.is_flooded,
            learns: line.learning,
        };
        Port {
            bridge: line.bridge,
            vlan: line.vlan.clone(),
            mtu: self.mtu(line),
            features: Features::NONE,
            coalesce: false,
            bursts: false,
            kind: if line.framing.kind().carries_ethernet() {
                PortKind::Peer(encapsulation)
            } else {
                PortKind::IpPeer(encapsulation)
            },
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
