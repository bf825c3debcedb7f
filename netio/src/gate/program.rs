//! The gate's program: whose packet is this?
//!
//! ```text
//!  IPv4, untagged, to the shared address?  -- no --------------------------------------------> next
//!  a later fragment?  -- yes --> of a datagram whose first fragment was dropped?  -- no -----> next
//!                                                                                 -- yes ----> drop
//!  TCP or UDP, and is its port marked?  -- no --------------------------------+
//!  does a socket of the host expect it?                                       |
//!     TCP   any socket but a listener  ---------------------------------------+
//!     UDP   any socket; of a published port a connected one  -----------------+
//!  drop; note a first fragment's datagram                                     +-- forget it -> next
//! ```
//!
//! *Next* is the next program of the interface, and then the host's stack. Packet sockets have had their copy before.
//!
//! A fragment behind the first has no port (RFC 791), so the datagrams whose first fragment was dropped are noted, by
//! source, protocol and identification, as many as [`FRAGMENTED`]. Without this the host would collect fragments that
//! never become whole, and guests could fill the memory that it has for its own. A later fragment that overtakes the first
//! goes to the host, which forgets it after 30 seconds without a word (`ip_expire` in net/ipv4/ip_fragment.c answers only
//! for datagrams whose first fragment has come).

use std::io;
use std::os::fd::BorrowedFd;

use super::assembler::Operation::{Add, And, Move, ShiftLeft, ShiftRight};
use super::assembler::Register::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use super::assembler::Size::{Byte, Half, Word};
use super::assembler::Test::{AnyBit, Equal, NotEqual};
use super::assembler::{Assembler, AssemblyError, Instruction};
use super::bpf::{LRU_HASH, MapShape};
use super::marks;

/// Datagrams whose later fragments are dropped like their first.
const FRAGMENTED: u32 = 4096;

/// The map of those datagrams: the key is [`KEY`].
pub(super) const FRAGMENTED_SHAPE: MapShape =
    MapShape { map_type: LRU_HASH, key_size: 8, value_size: 4, max_entries: FRAGMENTED, flags: 0 };

/// Results of a program at TCX (`enum tcx_action_base`).
const NEXT: i32 = -1;
const DROP: i32 = 2;

/// Helper functions (`___BPF_FUNC_MAPPER`).
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const LOAD_BYTES_RELATIVE: i32 = 68;
const LOOKUP_UDP: i32 = 85;
const RELEASE: i32 = 86;
const LOOKUP_TCP: i32 = 99;

/// Fields of `struct __sk_buff`.
const PROTOCOL: i16 = 16;
const VLAN_PRESENT: i16 = 20;
const VLAN_TCI: i16 = 24;

/// The state of a socket, in `struct bpf_sock`, and its values.
const STATE: i16 = 72;
const ESTABLISHED: i32 = 1;
const LISTEN: i32 = 10;

const ETHERTYPE_IPV4: u16 = 0x0800;
const IP_TCP: i32 = 6;
const IP_UDP: i32 = 17;
/// Of the third word of the IPv4 header's second half (RFC 791 section 3.1).
const MORE_FRAGMENTS: i32 = 0x2000;
const FRAGMENT_OFFSET: i32 = 0x1fff;

/// The program's stack: the IPv4 header without options, both ports behind it.
const HEADER: i16 = -24;
const LENGTHS: i16 = HEADER;
const IDENTIFICATION: i16 = HEADER + 4;
const FRAGMENT: i16 = HEADER + 6;
const IP_PROTOCOL: i16 = HEADER + 9;
const SOURCE: i16 = HEADER + 12;
const DESTINATION: i16 = HEADER + 16;
const PORTS: i16 = HEADER + 20;
const DESTINATION_PORT: i16 = PORTS + 2;
/// `struct bpf_sock_tuple` of IPv4: both addresses, both ports.
const TUPLE: i16 = -40;
const TUPLE_LEN: i32 = 12;
/// A datagram: source, identification, protocol.
const KEY: i16 = -48;
const VALUE: i16 = -56;

/// The program for these maps.
pub(super) fn assemble(marks: BorrowedFd<'_>, fragmented: BorrowedFd<'_>) -> io::Result<Vec<Instruction>> {
    let broken = |error: AssemblyError| io::Error::other(format!("the gate's program: {error:?}"));
    program(marks, fragmented).map_err(broken)
}

fn program(marks: BorrowedFd<'_>, fragmented: BorrowedFd<'_>) -> Result<Vec<Instruction>, AssemblyError> {
    let mut code = Assembler::default();
    let [next, host, ours, drop, later] = [(); 5].map(|()| code.label());
    code.combine(Move, R6, R1);
    untagged_ipv4(&mut code, next);
    code.load_map_value(R7, marks);
    code.load(Word, R2, R10, DESTINATION);
    code.load(Word, R3, R7, marks::ADDRESS as i16);
    code.jump_if_both(R2, NotEqual, R3, next);
    code.load(Half, R2, R10, FRAGMENT);
    code.swap_16(R2);
    code.jump_if(R2, AnyBit, FRAGMENT_OFFSET, later);
    expected_by_the_host(&mut code, host, ours);

    code.here(ours);
    key(&mut code, drop);
    code.store_immediate(Word, R10, VALUE, 0);
    key_of(&mut code, fragmented);
    code.combine(Move, R3, R10);
    code.compute(Add, R3, VALUE.into());
    code.compute(Move, R4, 0);
    code.call(MAP_UPDATE);
    code.here(drop);
    code.exit(DROP);

    // Another datagram may have had the identification before.
    code.here(host);
    key(&mut code, next);
    key_of(&mut code, fragmented);
    code.call(MAP_DELETE);
    code.here(next);
    code.exit(NEXT);

    code.here(later);
    key(&mut code, next);
    key_of(&mut code, fragmented);
    code.call(MAP_LOOKUP);
    code.jump_if(R0, Equal, 0, next);
    code.exit(DROP);
    code.finish()
}

/// Copies the IPv4 header to the stack. Frames of a VLAN belong to another interface of the host; VLAN 0 is none (IEEE
/// 802.1Q section 9.6).
fn untagged_ipv4(code: &mut Assembler, next: super::assembler::Label) {
    code.load(Word, R2, R6, PROTOCOL);
    code.jump_if(R2, NotEqual, ETHERTYPE_IPV4.to_be().into(), next);
    let untagged = code.label();
    code.load(Word, R2, R6, VLAN_PRESENT);
    code.jump_if(R2, Equal, 0, untagged);
    code.load(Word, R2, R6, VLAN_TCI);
    code.jump_if(R2, AnyBit, 0xfff, next);
    code.here(untagged);
    code.compute(Move, R2, 0);
    copy(code, HEADER, 20, next);
}

/// Copies bytes of the packet, which start R2 bytes into the IPv4 header, to the stack.
fn copy(code: &mut Assembler, to: i16, len: i32, too_short: super::assembler::Label) {
    const FROM_NETWORK_HEADER: i32 = 1;
    code.combine(Move, R1, R6);
    code.combine(Move, R3, R10);
    code.compute(Add, R3, to.into());
    code.compute(Move, R4, len);
    code.compute(Move, R5, FROM_NETWORK_HEADER);
    code.call(LOAD_BYTES_RELATIVE);
    code.jump_if(R0, NotEqual, 0, too_short);
}

/// Whose the packet is: by the mark of its port, and by the host's sockets. R7 is the address of the marks.
fn expected_by_the_host(code: &mut Assembler, host: super::assembler::Label, ours: super::assembler::Label) {
    let [ports, udp] = [(); 2].map(|()| code.label());
    code.load(Byte, R8, R10, IP_PROTOCOL);
    code.jump_if(R8, Equal, IP_TCP, ports);
    code.jump_if(R8, NotEqual, IP_UDP, host);
    code.here(ports);
    code.load(Byte, R2, R10, LENGTHS);
    code.compute(And, R2, 15);
    code.compute(ShiftLeft, R2, 2);
    copy(code, PORTS, 4, host);
    // R7: the address of the marks plus the number of the port's byte. R9: its bit.
    code.load(Half, R9, R10, DESTINATION_PORT);
    code.swap_16(R9);
    code.combine(Move, R2, R9);
    code.compute(ShiftRight, R2, 3);
    code.compute(And, R2, 0x1fff);
    code.combine(Add, R7, R2);
    code.compute(And, R9, 7);
    code.jump_if(R8, Equal, IP_UDP, udp);

    mark(code, R3, marks::TCP);
    code.jump_if(R3, Equal, 0, host);
    look_up(code, LOOKUP_TCP, ours);
    code.jump_if(R8, NotEqual, LISTEN, host);
    code.jump(ours);

    code.here(udp);
    mark(code, R3, marks::UDP);
    code.jump_if(R3, Equal, 0, host);
    mark(code, R9, marks::UDP_PUBLISHED);
    look_up(code, LOOKUP_UDP, ours);
    code.jump_if(R9, Equal, 0, host);
    code.jump_if(R8, Equal, ESTABLISHED, host);
    code.jump(ours);
}

/// Loads the port's bit of a table of marks.
fn mark(code: &mut Assembler, to: super::assembler::Register, table: usize) {
    code.combine(Move, R2, R9);
    code.load(Byte, to, R7, table as i16);
    code.combine(ShiftRight, to, R2);
    code.compute(And, to, 1);
}

/// Asks for a socket of the host that expects the packet. R8 becomes its state.
fn look_up(code: &mut Assembler, function: i32, nobody: super::assembler::Label) {
    const OWN_NAMESPACE: i32 = -1;
    for (from, to) in [(SOURCE, TUPLE), (DESTINATION, TUPLE + 4), (PORTS, TUPLE + 8)] {
        code.load(Word, R2, R10, from);
        code.store(Word, R10, to, R2);
    }
    code.combine(Move, R1, R6);
    code.combine(Move, R2, R10);
    code.compute(Add, R2, TUPLE.into());
    code.compute(Move, R3, TUPLE_LEN);
    code.compute(Move, R4, OWN_NAMESPACE);
    code.compute(Move, R5, 0);
    code.call(function);
    code.jump_if(R0, Equal, 0, nobody);
    code.load(Word, R8, R0, STATE);
    code.combine(Move, R1, R0);
    code.call(RELEASE);
}

/// Puts the key of the packet's datagram on the stack, if it is a fragment.
fn key(code: &mut Assembler, whole: super::assembler::Label) {
    code.load(Half, R2, R10, FRAGMENT);
    code.swap_16(R2);
    code.jump_if(R2, Equal, 0, whole);
    let fragment = code.label();
    code.jump_if(R2, AnyBit, MORE_FRAGMENTS | FRAGMENT_OFFSET, fragment);
    code.jump(whole);
    code.here(fragment);
    code.load(Word, R2, R10, SOURCE);
    code.store(Word, R10, KEY, R2);
    code.load(Half, R2, R10, IDENTIFICATION);
    code.store(Half, R10, KEY + 4, R2);
    code.load(Byte, R2, R10, IP_PROTOCOL);
    code.store(Half, R10, KEY + 6, R2);
}

/// The first two arguments of a map's helper functions: the map, and the key.
fn key_of(code: &mut Assembler, map: BorrowedFd<'_>) {
    code.load_map(R1, map);
    code.combine(Move, R2, R10);
    code.compute(Add, R2, KEY.into());
}
