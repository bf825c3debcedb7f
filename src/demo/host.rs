//! A host of the demo: a network namespace, and the traffic that is sent from it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use netio::link::{self, Change};
use netio::netns;
use netio::route::{self, Limits, Route};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt};

/// How long anything may take to be answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
const PORT: u16 = 5001;
const BLOCK: usize = 128 * 1024;

/// A namespace with its displayed name, and the name of its interface.
pub(super) struct Host {
    namespace: File,
    name: &'static str,
    interface: &'static str,
}

impl Host {
    pub(super) fn new(name: &'static str, interface: &'static str) -> io::Result<Host> {
        Ok(Host { namespace: netns::create()?, name, interface })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn interface(&self) -> &'static str {
        self.interface
    }

    pub(super) fn netns(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// The namespace, as a port's configuration names it.
    pub(super) fn path(&self) -> String {
        netns::path_of(&self.namespace)
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        netns::inside(self.netns(), work)
    }

    /// Sets the interface up, which must be there, and gives it an address; with a gateway also a
    /// default route.
    pub(super) fn configure(&self, address: Ipv4Addr, prefix_len: u8, gateway: Option<Ipv4Addr>) -> io::Result<()> {
        self.inside(|| {
            set_up("lo")?;
            let index = set_up(self.interface)?;
            link::add_address(index, IpAddr::V4(address), prefix_len)?;
            let route = |gateway| Route {
                prefix_len: 0,
                prefix: Ipv4Addr::UNSPECIFIED,
                metric: 0,
                gateway: Some(gateway),
                limits: Limits::default(),
            };
            gateway.map_or(Ok(()), |gateway| route::add(index, route(gateway)))
        })
    }

    pub(super) fn listen(&self, at: SocketAddrV4) -> io::Result<TcpListener> {
        self.inside(|| TcpListener::bind(at))
    }

    pub(super) fn connect(&self, to: SocketAddrV4) -> io::Result<TcpStream> {
        let stream = self.inside(|| TcpStream::connect_timeout(&to.into(), ANSWER_TIMEOUT))?;
        bound_in_time(&stream)?;
        Ok(stream)
    }

    /// Sends `count` ICMP echo requests and returns the time that each answer took.
    pub(super) fn ping(&self, to: Ipv4Addr, count: usize) -> io::Result<Vec<Duration>> {
        let socket = self.inside(|| {
            let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
            Ok(socket)
        })?;
        let mut times = Vec::new();
        for sequence in 0..count {
            let started = Instant::now();
            sendto(&socket, &echo_request(sequence as u8), SendFlags::empty(), &SocketAddrV4::new(to, 0))?;
            while started.elapsed() < ANSWER_TIMEOUT {
                let mut packet = [MaybeUninit::uninit(); 256];
                let Ok(((packet, _), _)) = recv(&socket, &mut packet, RecvFlags::empty()) else { break };
                if is_answer(packet, sequence as u8) {
                    times.push(started.elapsed());
                    break;
                }
            }
            thread::sleep(RETRY_INTERVAL);
        }
        Ok(times)
    }

    /// Sends as much as possible in the given time over one TCP connection. Returns the number of received bytes, and the
    /// time until the last one.
    pub(super) fn transfer(&self, to: &Host, address: Ipv4Addr, time: Duration) -> io::Result<(u64, Duration)> {
        let at = SocketAddrV4::new(address, PORT);
        let listener = to.listen(at)?;
        let mut sender = self.connect(at)?;
        let (mut receiver, _) = listener.accept()?;
        bound_in_time(&receiver)?;
        let started = Instant::now();
        let received = thread::scope(|scope| {
            let sending = scope.spawn(move || {
                let block = vec![0x5a; BLOCK];
                while started.elapsed() < time {
                    sender.write_all(&block)?;
                }
                Ok::<(), io::Error>(())
            });
            let mut block = vec![0; BLOCK];
            let mut received = 0;
            loop {
                match receiver.read(&mut block)? {
                    0 => break,
                    n => received += n as u64,
                }
            }
            sending.join().unwrap_or_else(|_| Err(io::Error::other("the sender panicked")))?;
            Ok::<u64, io::Error>(received)
        })?;
        Ok((received, started.elapsed()))
    }
}

/// Sets a link of the calling thread's namespace up. Returns its number.
pub(super) fn set_up(interface: &str) -> io::Result<u32> {
    let index = link::get(interface)?.index;
    link::set(index, Change { up: Some(true), ..Change::default() })?;
    Ok(index)
}

/// Waits until a link of the calling thread's namespace has a carrier.
pub(super) fn wait_for_carrier(interface: &str) -> io::Result<()> {
    let started = Instant::now();
    while !link::get(interface)?.carrier {
        if started.elapsed() > ANSWER_TIMEOUT {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// No read or write of this connection waits for ever.
pub(super) fn bound_in_time(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))
}

/// An ICMP echo request (RFC 792), its identifier and data fixed.
fn echo_request(sequence: u8) -> [u8; 16] {
    let mut message = *b"\x08\x00\x00\x00vs\x00\x00vswitchd";
    message[7] = sequence;
    let check = !packet::checksum::sum(&message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    message
}

/// The answer to it, behind an IPv4 header without options.
fn is_answer(packet: &[u8], sequence: u8) -> bool {
    packet
        .get(20..)
        .is_some_and(|message| message.len() >= 8 && message[..2] == [0, 0] && message[4..8] == [b'v', b's', 0, sequence])
}
