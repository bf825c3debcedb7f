//! Connections and datagrams of the host to itself that are given to sockets of ours, although they are bound to other ports.
//!
//! ```text
//!   program of the host --> 127.0.0.1:8080 --> lo --> which socket? --+-- port is marked: ours, on a port of its own
//!                           ::1, own address                          +-- else, or from another interface: as without
//! ```
//!
//! A BPF program of type `SK_LOOKUP` (Linux 5.9, `ingress_ifindex` since 5.17), attached to the network namespace, is asked which
//! socket a SYN or a datagram is for, before the kernel looks at bound ports, but after connected sockets. So nothing is bound to a
//! marked port, and it works also where another program has bound it. The local address of a socket that TCP accepts is the one that the
//! client wanted; UDP says it with each datagram ([`LocalDatagrams`](crate::LocalDatagrams)).
//!
//! Only TCP and UDP are looked at, and there
//!
//! - what `lo` receives for 127.0.0.1 and ::1;
//! - what goes from the [own address](LocalLookup::set_address) to itself, as a program's packets do that has bound no other. They come
//!   by `lo` too, but the kernel names the interface of the address (`rt_iif`). From another host none can come with that source:
//!   the kernel drops it (`fib_validate_source` in net/ipv4/fib_frontend.c).
//!
//! The program is detached with its link, at the latest when the process ends.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::assembler::Operation::{Add, And, Move, ShiftRight};
use super::assembler::Register::{R0, R1, R2, R3, R6, R7, R8, R9, R10};
use super::assembler::Size::{Byte, Word};
use super::assembler::Test::{Equal, NotEqual};
use super::assembler::{Assembler, AssemblyError, Instruction};
use super::bpf::{self, MapShape};
use super::marks::{self, Marks, Owner};
use crate::reservation::PortProtocol;

/// Helper functions (`___BPF_FUNC_MAPPER`).
const MAP_LOOKUP: i32 = 1;
const RELEASE: i32 = 86;
const ASSIGN: i32 = 124;

/// Fields of `struct bpf_sk_lookup`.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const REMOTE_IP4: i16 = 16;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;
const LOCAL_PORT: i16 = 60;
const INGRESS: i16 = 64;

const PASS: i32 = 1;
const IP_TCP: i32 = 6;
const IP_UDP: i32 = 17;
const IPV4: i32 = libc::AF_INET;

/// The index of `lo`, the first interface of each namespace.
const LOOPBACK: i32 = 1;

/// Places of the sockets of each protocol.
const OF_IPV4: u32 = 0;
const OF_IPV6: u32 = 1;
const FAMILIES: u32 = 2;

/// What UDP has before its marks, and before its sockets.
const UDP_MARKS: i32 = (marks::UDP - marks::TCP) as i32;
const UDP_MARKS_PER_SOCKET: i32 = (UDP_MARKS / FAMILIES as i32).ilog2() as i32;
const _: () = assert!(UDP_MARKS >> UDP_MARKS_PER_SOCKET == FAMILIES as i32);

/// The program's stack: the place of the socket.
const KEY: i16 = -8;

/// Sockets that get what is for marked ports, of IPv4 and of IPv6.
#[derive(Clone, Copy, Debug)]
pub struct LocalSockets<'f> {
    /// Listeners of TCP.
    pub streams: [Option<BorrowedFd<'f>>; 2],
    /// Sockets of UDP, which are not connected.
    pub datagrams: [Option<BorrowedFd<'f>>; 2],
}

/// The program on the namespace of the calling thread; detached when it is dropped.
#[derive(Debug)]
pub struct LocalLookup {
    marks: Marks,
    _link: OwnedFd,
}

impl LocalLookup {
    /// Gives connections and datagrams to marked ports, of which there is none yet, to these sockets.
    pub fn open(sockets: LocalSockets<'_>) -> io::Result<LocalLookup> {
        let map = bpf::create_map(marks::SHAPE)?;
        let (map_type, max_entries) = (bpf::SOCKET_MAP, 2 * FAMILIES);
        let of_ports = bpf::create_map(MapShape { map_type, key_size: 4, value_size: 4, max_entries, flags: 0 })?;
        for (place, socket) in (OF_IPV4..).zip(sockets.streams.into_iter().chain(sockets.datagrams)) {
            if let Some(socket) = socket {
                bpf::put_socket(of_ports.as_fd(), place, socket)?;
            }
        }
        let broken = |error: AssemblyError| io::Error::other(format!("the program of local clients: {error:?}"));
        let code = program(map.as_fd(), of_ports.as_fd()).map_err(broken)?;
        let program = bpf::load_program_for(bpf::SK_LOOKUP, bpf::SK_LOOKUP_ATTACH, &code, "vswitchd_local")?;
        let namespace = File::open("/proc/thread-self/ns/net")?;
        let link = bpf::link_to(program.as_fd(), namespace.as_raw_fd() as u32, bpf::SK_LOOKUP_ATTACH, 0)?;
        Ok(LocalLookup { marks: Marks::new(map.as_fd())?, _link: link })
    }

    /// Sets the host's own address whose ports are meant, besides the loopback ones.
    pub fn set_address(&self, address: Option<Ipv4Addr>) {
        self.marks.set_address(address);
    }

    /// Marks a port, or takes the mark away.
    pub fn set(&self, protocol: PortProtocol, port: u16, is_ours: bool) {
        self.marks.set(protocol, port, if is_ours { Owner::Published } else { Owner::Host });
    }
}

fn program(marks: BorrowedFd<'_>, sockets: BorrowedFd<'_>) -> Result<Vec<Instruction>, AssemblyError> {
    let mut code = Assembler::default();
    let [pass, known, ipv6, loopback, ours] = [(); 5].map(|()| code.label());
    code.combine(Move, R6, R1);
    // R8: where the protocol's marks begin, after those of TCP.
    code.load(Word, R2, R6, PROTOCOL);
    code.compute(Move, R8, 0);
    code.jump_if(R2, Equal, IP_TCP, known);
    code.jump_if(R2, NotEqual, IP_UDP, pass);
    code.compute(Move, R8, UDP_MARKS);
    code.here(known);
    code.load_map_value(R7, marks);
    code.load(Word, R2, R6, FAMILY);
    code.jump_if(R2, NotEqual, IPV4, ipv6);
    code.store_immediate(Word, R10, KEY, OF_IPV4 as i32);
    code.load(Word, R2, R6, LOCAL_IP4);
    code.jump_if(R2, Equal, i32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()), loopback);
    code.load(Word, R3, R7, marks::ADDRESS as i16);
    code.jump_if_both(R2, NotEqual, R3, pass);
    code.load(Word, R3, R6, REMOTE_IP4);
    code.jump_if_both(R2, NotEqual, R3, pass);
    code.jump(ours);

    code.here(ipv6);
    code.store_immediate(Word, R10, KEY, OF_IPV6 as i32);
    for word in 0..3 {
        code.load(Word, R2, R6, LOCAL_IP6 + 4 * word);
        code.jump_if(R2, NotEqual, 0, pass);
    }
    code.load(Word, R2, R6, LOCAL_IP6 + 12);
    code.jump_if(R2, NotEqual, 1_i32.to_be(), pass);

    code.here(loopback);
    code.load(Word, R2, R6, INGRESS);
    code.jump_if(R2, NotEqual, LOOPBACK, pass);

    // R7: the address of the marks plus the number of the port's byte. R9: its bit.
    code.here(ours);
    code.load(Word, R9, R6, LOCAL_PORT);
    code.combine(Move, R2, R9);
    code.compute(ShiftRight, R2, 3);
    code.compute(And, R2, 0x1fff);
    code.combine(Add, R7, R2);
    code.combine(Add, R7, R8);
    code.compute(And, R9, 7);
    code.load(Byte, R3, R7, marks::TCP as i16);
    code.combine(ShiftRight, R3, R9);
    code.compute(And, R3, 1);
    code.jump_if(R3, Equal, 0, pass);
    code.load(Word, R2, R10, KEY);
    code.compute(ShiftRight, R8, UDP_MARKS_PER_SOCKET);
    code.combine(Add, R2, R8);
    code.store(Word, R10, KEY, R2);
    code.load_map(R1, sockets);
    code.combine(Move, R2, R10);
    code.compute(Add, R2, KEY.into());
    code.call(MAP_LOOKUP);
    code.jump_if(R0, Equal, 0, pass);
    code.combine(Move, R8, R0);
    code.combine(Move, R1, R6);
    code.combine(Move, R2, R0);
    code.compute(Move, R3, 0);
    code.call(ASSIGN);
    code.combine(Move, R1, R8);
    code.call(RELEASE);
    code.here(pass);
    code.exit(PASS);
    code.finish()
}
