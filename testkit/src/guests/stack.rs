//! The TCP/IP stack of a guest, over a device that is two queues.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use packet::MacAddr;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{AnySocket, Socket};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

/// Largest frame of a guest: an MTU of 1500 and an Ethernet header.
const MAX_FRAME_LEN: usize = 1514;

/// Network prefix length of every guest.
const PREFIX_LEN: u8 = 24;

pub(super) struct Stack {
    interface: Interface,
    queues: Queues,
    sockets: SocketSet<'static>,
}

impl Stack {
    pub(super) fn new(mac: MacAddr, address: Ipv4Addr, gateway: Option<Ipv4Addr>) -> Stack {
        let mut queues = Queues::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        // Initial sequence numbers differ between guests.
        config.random_seed = u64::from(u32::from(address));
        let mut interface = Interface::new(config, &mut queues, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(address), PREFIX_LEN)).expect("room for one address");
        });
        if let Some(gateway) = gateway {
            interface.routes_mut().add_default_ipv4_route(gateway).expect("room for one route");
        }
        Stack { interface, queues, sockets: SocketSet::new(Vec::new()) }
    }

    /// Queues a frame that arrived.
    pub(super) fn receive(&mut self, frame: Vec<u8>) {
        self.queues.received.push_back(frame);
    }

    /// Processes received frames and runs timers. Returns the frames that the guest sends.
    pub(super) fn poll(&mut self, now: u64) -> Vec<Vec<u8>> {
        self.interface.poll(instant(now), &mut self.queues, &mut self.sockets);
        self.queues.sent.drain(..).collect()
    }

    /// When [`Stack::poll`] is due, if nothing arrives before.
    pub(super) fn poll_at(&mut self, now: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(u64::try_from(at.total_millis()).unwrap_or(0).max(now + 1))
    }

    pub(super) fn open(&mut self, socket: impl AnySocket<'static>) -> SocketHandle {
        self.sockets.add(socket)
    }

    pub(super) fn close(&mut self, handle: SocketHandle) -> Socket<'static> {
        self.sockets.remove(handle)
    }

    pub(super) fn socket<S: AnySocket<'static>>(&mut self, handle: SocketHandle) -> &mut S {
        self.sockets.get_mut(handle)
    }

    /// Opens a connection from local port `port` on a TCP socket.
    pub(super) fn connect(&mut self, handle: SocketHandle, to: std::net::SocketAddrV4, port: u16) {
        let socket = self.sockets.get_mut::<smoltcp::socket::tcp::Socket<'_>>(handle);
        let to = (IpAddress::Ipv4(*to.ip()), to.port());
        socket.connect(self.interface.context(), to, port).expect("a socket that is closed");
    }
}

fn instant(millis: u64) -> Instant {
    Instant::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}

/// Frames received and not yet read, and frames sent and not yet taken.
#[derive(Default)]
struct Queues {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

impl Device for Queues {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Sending<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.max_transmission_unit = MAX_FRAME_LEN;
        capabilities.medium = Medium::Ethernet;
        capabilities
    }

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Sending<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Arrived(frame), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }
}

struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let written = write(&mut frame);
        self.0.push(frame);
        written
    }
}
