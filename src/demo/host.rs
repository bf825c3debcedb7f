//! A host of the demo: a network namespace, and what is done inside it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use netio::link::{self, Change};
use netio::netns;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt};

const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
const PORT: u16 = 5001;
const BLOCK: usize = 128 * 1024;

/// A namespace, and the name that its port's interface will have there.
pub(super) struct Host {
    namespace: File,
    tap: &'static str,
}

impl Host {
    pub(super) fn new(tap: &'static str) -> io::Result<Host> {
        Ok(Host { namespace: netns::create()?, tap })
    }

    pub(super) fn tap(&self) -> &str {
        self.tap
    }

    /// The namespace, as a port's configuration names it.
    pub(super) fn namespace(&self) -> String {
        netns::path_of(&self.namespace)
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        netns::inside(self.namespace.as_fd(), work)
    }

    /// Gives the interface, which must be there, an address.
    pub(super) fn configure(&self, address: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
        self.inside(|| {
            link::set(link::get("lo")?.index, Change { up: Some(true), ..Change::default() })?;
            link::add_address(link::get(self.tap)?.index, IpAddr::V4(address), prefix_len)
        })
    }

    /// Sends so many ICMP echo requests and tells how long each answer took.
    pub(super) fn ping(&self, to: Ipv4Addr, count: usize) -> io::Result<Vec<Duration>> {
        let socket = self.inside(|| {
            let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
            Ok(socket)
        })?;
        let mut times = Vec::new();
        for sequence in 0..count {
            let started = Instant::now();
            sendto(&socket, &echo_request(sequence as u8), SendFlags::empty(), &SocketAddrV4::new(to, 0))?;
            while started.elapsed() < PATIENCE {
                let mut packet = [MaybeUninit::uninit(); 256];
                let Ok(((packet, _), _)) = recv(&socket, &mut packet, RecvFlags::empty()) else { break };
                if is_answer(packet, sequence as u8) {
                    times.push(started.elapsed());
                    break;
                }
            }
            thread::sleep(PAUSE);
        }
        Ok(times)
    }

    /// Sends as much as goes in the given time over one TCP connection. Returns what arrived, and
    /// how long it took until the last byte.
    pub(super) fn transfer(&self, to: &Host, address: Ipv4Addr, time: Duration) -> io::Result<(u64, Duration)> {
        let listener = to.inside(|| TcpListener::bind((address, PORT)))?;
        let mut sender = self.inside(|| TcpStream::connect((address, PORT)))?;
        let (mut receiver, _) = listener.accept()?;
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
