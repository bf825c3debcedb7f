//! Two hosts joined by a veth pair, with functions that send and receive.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use netio::link::{self, Change};
use netio::netns;
use netio::packet_socket::{self, PacketSocket, PacketSpec};
use netio::udp::{
    ChecksumPolicy, Outgoing, Queue, Receiver, ReceivingSocket, ReceivingSocketSpec, Sender, Sources, SourcesSpec, Writer,
};
use packet::{VNET_LEN, VnetHeader};
use rustix::io::Errno;

/// Time limit for everything that a test waits for.
const NEVER: Duration = Duration::from_secs(10);

pub(crate) const PORT: u16 = 4789;

/// A namespace with one end of the veth pair.
pub(crate) struct Host {
    pub(crate) name: &'static str,
    netns: File,
}

/// Two hosts, number 1 with `near0` and number 2 with `far0`.
pub(crate) fn pair() -> (Host, Host) {
    let near = Host { name: "near0", netns: netns::create().expect("a namespace") };
    let far = Host { name: "far0", netns: netns::create().expect("a namespace") };
    for host in [&near, &far] {
        // Addresses can be used at once.
        host.inside(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0"));
    }
    near.inside(|| link::add_pair("near0", "far0", Some(far.netns.as_fd())));
    for (host, number) in [(&near, 1), (&far, 2)] {
        host.change("lo", Change { up: Some(true), ..Change::default() });
        host.change(host.name, Change { up: Some(true), ..Change::default() });
        host.inside(|| link::add_address(link::get(host.name)?.index, v4(number), 24));
        host.inside(|| link::add_address(link::get(host.name)?.index, v6(number), 64));
    }
    until("a carrier", || near.inside(|| link::get("near0")).carrier.then_some(()));
    (near, far)
}

pub(crate) fn v4(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

pub(crate) fn v6(number: u8) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()])
}

impl Host {
    /// Runs `work` in the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> T {
        netns::inside(self.netns.as_fd(), work).unwrap_or_else(|error| panic!("in host {}: {error}", self.name))
    }

    pub(crate) fn change(&self, link: &str, change: Change<'_>) {
        self.inside(|| link::set(link::get(link)?.index, change));
    }

    pub(crate) fn endpoint(&self, spec: &ReceivingSocketSpec) -> ReceivingSocket {
        self.inside(|| Ok(ReceivingSocket::open(spec))).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn sources(&self, spec: &SourcesSpec) -> Sources {
        self.inside(|| Ok(Sources::open(spec))).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A packet socket on this end of the veth pair.
    pub(crate) fn wire(&self) -> PacketSocket {
        let spec = PacketSpec {
            interface: self.name.to_owned(),
            queues: 1,
            promiscuous: true,
            own_macs: Vec::new(),
            filter: None,
            old_kernel: false,
        };
        self.inside(|| Ok(PacketSocket::open(&spec))).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// One queue, no groups.
pub(crate) fn at(local: IpAddr) -> ReceivingSocketSpec {
    ReceivingSocketSpec { local, port: PORT, queues: 1, device: None, groups: Vec::new(), zero_checksum: false }
}

pub(crate) fn from(local: IpAddr) -> SourcesSpec {
    SourcesSpec { local, device: None, dont_fragment: true, checksum: ChecksumPolicy::Auto, count: 8 }
}

pub(crate) fn to(remote: IpAddr) -> Outgoing {
    Outgoing { to: SocketAddr::new(remote, PORT), source: 0, tos: 0, ttl: 64, segment_size: 0 }
}

/// Bytes that differ by position.
pub(crate) fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// Sends one burst. Payloads are in pieces whose length is not that of a datagram.
pub(crate) fn send(writer: &Writer, messages: &[(Outgoing, Vec<u8>)]) -> Vec<Result<(), Errno>> {
    let mut sender = Sender::new();
    let mut burst = sender.burst(writer);
    for (to, payload) in messages {
        assert!(burst.push(to, payload.chunks(4999)));
    }
    let mut results = Vec::new();
    burst.flush(|index, result| {
        assert_eq!(index, results.len());
        results.push(result);
    });
    results
}

/// One received message.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Got {
    pub(crate) from: IpAddr,
    pub(crate) tos: u8,
    pub(crate) segment_size: u16,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn drain(queue: &Queue) -> Vec<Got> {
    let mut receiver = Receiver::new();
    let mut got = Vec::new();
    loop {
        let end = receiver.recv(queue, usize::MAX);
        got.extend(receiver.datagrams().map(|datagram| Got {
            from: datagram.from,
            tos: datagram.tos,
            segment_size: datagram.segment_size,
            payload: datagram.payload.to_vec(),
        }));
        if end != netio::Received::More {
            return got;
        }
    }
}

/// Receives exactly this number of messages.
pub(crate) fn expect(queue: &Queue, count: usize) -> Vec<Got> {
    let mut got = Vec::new();
    until("datagrams", || {
        got.append(&mut drain(queue));
        (got.len() >= count).then_some(())
    });
    assert_eq!(got.len(), count, "{:?}", got.iter().map(|got| got.payload.len()).collect::<Vec<_>>());
    got
}

/// UDP packets on the wire: their virtio-net headers, and their bytes from the IP header on.
pub(crate) fn sniff(wire: &PacketSocket, count: usize) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut receiver = packet_socket::Receiver::new();
    let mut slots = vec![vec![0; 70_000]; 64];
    let mut packets = Vec::new();
    until("packets", || {
        receiver.recv(&wire.queues()[0], slots.iter_mut().map(Vec::as_mut_slice));
        for (slot, (filled, _)) in slots.iter().zip(receiver.frames()) {
            let filled = &slot[packet_socket::receive::SPARE..][..filled];
            let Some((vnet, frame)) = filled.split_first_chunk::<VNET_LEN>() else { continue };
            let ip = &frame[14..];
            if (ip[0] >> 4 == 4 && ip[9] == 17) || (ip[0] >> 4 == 6 && ip[6] == 17) {
                packets.push((VnetHeader::from_bytes(vnet), ip.to_vec()));
            }
        }
        (packets.len() >= count).then_some(())
    });
    assert_eq!(packets.len(), count);
    packets
}

/// Repeats an attempt until it returns a value.
pub(crate) fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + NEVER;
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {NEVER:?} for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
