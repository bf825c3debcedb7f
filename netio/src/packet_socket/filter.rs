//! Classic BPF programs that select which frames of an uplink are copied to us (Documentation/networking/filter.rst).
//!
//! A packet socket gets a copy of every frame that its interface receives, including the host's own traffic. The kernel
//! runs a short program on each frame before it makes the copy, and queues only what the program accepts. The frame
//! begins with its Ethernet header; the kernel has already removed the outer VLAN tag.
//!
//! ```text
//!  0           6           12    14    20    23       30    14 + 4 * IHL
//! +-----------+-----------+-----+-----+-----+--------+-----+-----------+----------
//! | dst       | src       | type| ihl | frag| proto  | dst | src port  | dst port
//! +-----------+-----------+-----+-----+-----+--------+-----+-----------+----------
//! ```
//!
//! A filter saves work and is no protection: what it accepts is checked like any frame.
//!
//! The programs are assembled here, because a filter for a NAT depends on its addresses and ports, and libpcap's compiler
//! would be a C library for three small programs.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use packet::{EtherType, Ipv4Prefix};

/// Maximum number of addresses of a filter: a jump reaches at most 255 instructions.
pub const MAX_ADDRESSES: usize = 64;

/// Maximum number of networks of a filter. Of more, those of a filter have shorter prefixes, and accept more.
const MAX_NETWORKS: usize = 32;

/// Maximum number of port ranges of a filter.
pub const MAX_PORT_RANGES: usize = 32;

const ETHER_TYPE: u32 = 12;
const FRAGMENT: u32 = 20;
const PROTOCOL: u32 = 23;
const DESTINATION: u32 = 30;
/// Start of the IPv4 header; its length is loaded into X.
const NETWORK: u32 = 14;
const DESTINATION_PORT: u32 = 16;

/// Mask of the fragment offset in the IPv4 header (RFC 791 section 3.1).
const FRAGMENT_OFFSET: u32 = 0x1fff;

const TCP: u32 = libc::IPPROTO_TCP as u32;
const UDP: u32 = libc::IPPROTO_UDP as u32;

/// A program that accepts or refuses frames.
#[derive(Clone, Debug)]
pub struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// The filter for a NAT. Accepts ARP, IPv4 to one of these networks, and IPv4 to one of these addresses; of TCP and UDP to an
    /// address only packets to one of these ports. Packets without a port (other protocols, later fragments) are accepted. A VLAN tag makes no difference: a
    /// frame may be tagged for its priority alone, and the router counts those of other VLANs. Frames with a second tag
    /// and outgoing frames are refused.
    ///
    /// `None` if there are more than [`MAX_ADDRESSES`] addresses or [`MAX_PORT_RANGES`] port ranges.
    #[must_use]
    pub fn nat(addresses: &[Ipv4Addr], networks: &[Ipv4Prefix], ports: &[RangeInclusive<u16>]) -> Option<Filter> {
        if addresses.len() > MAX_ADDRESSES || ports.len() > MAX_PORT_RANGES {
            return None;
        }
        let mut program = Program::default();
        program.refuse_outgoing();
        program.load(libc::BPF_H, ETHER_TYPE);
        program.jump(libc::BPF_JEQ, EtherType::ARP.0.into(), To::Keep, To::Next);
        program.jump(libc::BPF_JEQ, EtherType::IPV4.0.into(), To::Next, To::Refuse);
        program.load(libc::BPF_W, DESTINATION);
        for address in addresses {
            program.jump(libc::BPF_JEQ, u32::from(*address), To::Ports, To::Next);
        }
        for network in covering(networks) {
            // What the mask took away is loaded again.
            program.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, u32::MAX << (32 - u32::from(network.prefix_len().max(1))));
            program.jump(libc::BPF_JEQ, network.network().to_bits(), To::Keep, To::Next);
            program.load(libc::BPF_W, DESTINATION);
        }
        program.end(To::Refuse);
        program.here_are_the_ports();
        program.load(libc::BPF_H, FRAGMENT);
        program.jump(libc::BPF_JSET, FRAGMENT_OFFSET, To::Keep, To::Next);
        program.load(libc::BPF_B, PROTOCOL);
        program.jump(libc::BPF_JEQ, TCP, To::Skip(1), To::Next);
        program.jump(libc::BPF_JEQ, UDP, To::Next, To::Keep);
        program.push(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, NETWORK);
        program.push(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, DESTINATION_PORT);
        for range in ports {
            program.jump(libc::BPF_JGE, (*range.start()).into(), To::Next, To::Skip(1));
            program.jump(libc::BPF_JGT, (*range.end()).into(), To::Next, To::Keep);
        }
        program.end(To::Refuse);
        Some(program.finish())
    }

    /// Accepts received frames and refuses outgoing ones. Needed only on kernels without `PACKET_IGNORE_OUTGOING`.
    #[must_use]
    pub fn incoming() -> Filter {
        let mut program = Program::default();
        program.refuse_outgoing();
        program.end(To::Keep);
        program.finish()
    }

    /// Refuses every frame.
    #[must_use]
    pub fn nothing() -> Filter {
        let mut program = Program::default();
        program.end(To::Refuse);
        program.finish()
    }

    /// The instructions of the program.
    pub(crate) fn instructions(&self) -> &[libc::sock_filter] {
        &self.0
    }
}

/// The target of a jump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    Next,
    Skip(u8),
    Ports,
    Keep,
    Refuse,
}

/// A program under construction. The distances of forward jumps are computed at its end.
#[derive(Debug, Default)]
struct Program {
    lines: Vec<(u32, u32, To, To)>,
    ports: usize,
}

impl Program {
    fn push(&mut self, code: u32, operand: u32) {
        self.lines.push((code, operand, To::Next, To::Next));
    }

    fn load(&mut self, size: u32, from: u32) {
        self.push(libc::BPF_LD | size | libc::BPF_ABS, from);
    }

    fn jump(&mut self, test: u32, operand: u32, yes: To, no: To) {
        self.lines.push((libc::BPF_JMP | test | libc::BPF_K, operand, yes, no));
    }

    fn end(&mut self, with: To) {
        self.push(libc::BPF_RET | libc::BPF_K, if with == To::Keep { u32::MAX } else { 0 });
    }

    fn refuse_outgoing(&mut self) {
        self.load(libc::BPF_B, ancillary(libc::SKF_AD_PKTTYPE));
        self.jump(libc::BPF_JEQ, libc::PACKET_OUTGOING.into(), To::Refuse, To::Next);
    }

    fn here_are_the_ports(&mut self) {
        self.ports = self.lines.len();
    }

    /// Adds the two ends that jumps go to, and resolves the jumps.
    fn finish(mut self) -> Filter {
        let keep = self.lines.len();
        self.end(To::Keep);
        self.end(To::Refuse);
        let distance = |at: usize, to: To| match to {
            To::Next => 0,
            To::Skip(lines) => lines,
            // The limits on addresses and ranges keep all distances below 256.
            To::Ports => (self.ports - at - 1) as u8,
            To::Keep => (keep - at - 1) as u8,
            To::Refuse => (keep - at) as u8,
        };
        let lines = self.lines.iter().enumerate();
        Filter(
            lines
                .map(|(at, (code, operand, yes, no))| libc::sock_filter {
                    code: *code as u16,
                    jt: distance(at, *yes),
                    jf: distance(at, *no),
                    k: *operand,
                })
                .collect(),
        )
    }
}

/// At most [`MAX_NETWORKS`] networks in which all of these are.
fn covering(networks: &[Ipv4Prefix]) -> Vec<Ipv4Prefix> {
    let mut covering = networks.to_vec();
    for longest in (1..=Ipv4Prefix::MAX_LEN).rev() {
        covering.sort_by_key(|network| (network.network(), network.prefix_len()));
        covering.dedup_by(|next, before| before.contains(next.network()) && before.prefix_len() <= next.prefix_len());
        if covering.len() <= MAX_NETWORKS {
            break;
        }
        for network in &mut covering {
            *network = Ipv4Prefix::new(network.network(), network.prefix_len().min(longest - 1));
        }
    }
    covering
}

/// The offset by which a program reads metadata of a frame.
fn ancillary(what: libc::c_int) -> u32 {
    (libc::SKF_AD_OFF + what) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use crate::option::attach_filter;

    const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    /// The verdict of the kernel. A frame through a local socket pair needs no capabilities.
    struct Judge(UnixDatagram, UnixDatagram);

    impl Judge {
        fn new(filter: &Filter) -> Judge {
            let (to, from) = UnixDatagram::pair().unwrap();
            from.set_nonblocking(true).unwrap();
            attach_filter(from.as_fd(), filter.instructions()).unwrap();
            Judge(to, from)
        }

        fn keeps(&self, frame: &[u8]) -> bool {
            // A datagram that the receiver's filter refuses is taken all the same.
            let _ = self.0.send(frame);
            match self.1.recv(&mut [0; 256]) {
                Ok(len) => {
                    assert_eq!(len, frame.len(), "kept whole");
                    true
                }
                Err(_) => false,
            }
        }
    }

    fn ipv4(protocol: u8, to: Ipv4Addr, fragment: u16, option_words: u8, port: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
        frame.extend([0x45 + option_words, 0, 0, 48]);
        frame.extend([0, 1, (fragment >> 8) as u8, fragment as u8, 64, protocol, 0, 0]);
        frame.extend([198, 51, 100, 7]);
        frame.extend(to.octets());
        frame.extend(vec![1; usize::from(option_words) * 4]);
        frame.extend([0, 80]);
        frame.extend(port.to_be_bytes());
        frame.extend([0; 16]);
        frame
    }

    #[test]
    fn only_arp_and_ipv4_are_accepted() {
        let judge = Judge::new(&Filter::nat(&[OURS], &[], &[]).unwrap());
        let mut frame = vec![0xff; 60];
        for (ether_type, kept) in
            [([8, 6], true), ([0x86, 0xdd], false), ([0x81, 0], false), ([0x88, 0xcc], false), ([0, 46], false)]
        {
            frame[12..14].copy_from_slice(&ether_type);
            assert_eq!(judge.keeps(&frame), kept, "{ether_type:x?}");
        }
        assert!(!judge.keeps(&frame[..13]), "a runt");
    }

    #[test]
    fn the_hosts_own_ports_are_not_copied() {
        let judge = Judge::new(&Filter::nat(&[OURS], &[], &[80..=80, 1024..=65535]).unwrap());
        for protocol in [6, 17] {
            for (port, kept) in [(79, false), (80, true), (81, false), (1023, false), (1024, true), (65535, true), (0, false)] {
                assert_eq!(judge.keeps(&ipv4(protocol, OURS, 0, 0, port)), kept, "{protocol} {port}");
                assert_eq!(judge.keeps(&ipv4(protocol, OURS, 0x4000, 10, port)), kept, "{protocol} {port}, with options");
                assert_eq!(judge.keeps(&ipv4(protocol, OURS, 0x2000, 0, port)), kept, "{protocol} {port}, first fragment");
                assert!(judge.keeps(&ipv4(protocol, OURS, 0x2001, 0, port)), "a later fragment has no port");
                assert!(!judge.keeps(&ipv4(protocol, Ipv4Addr::new(192, 0, 2, 2), 0, 0, port)), "another's");
            }
        }
        assert!(judge.keeps(&ipv4(1, OURS, 0, 0, 0)), "ICMP");
        assert!(judge.keeps(&ipv4(47, OURS, 0, 0, 0)), "GRE");
    }

    #[test]
    fn as_many_addresses_and_ports_as_there_can_be() {
        let addresses: Vec<Ipv4Addr> = (0..MAX_ADDRESSES as u8).map(|last| Ipv4Addr::new(203, 0, 113, last)).collect();
        let ports: Vec<_> = (0..MAX_PORT_RANGES as u16).map(|n| 1000 + 10 * n..=1004 + 10 * n).collect();
        let judge = Judge::new(&Filter::nat(&addresses, &[], &ports).unwrap());
        for address in &addresses {
            for port in 990..1330 {
                let kept = ports.iter().any(|range| range.contains(&port));
                assert_eq!(judge.keeps(&ipv4(6, *address, 0, 0, port)), kept, "{address} {port}");
            }
        }
        assert!(!judge.keeps(&ipv4(1, Ipv4Addr::new(203, 0, 113, MAX_ADDRESSES as u8), 0, 0, 0)));
        assert!(Filter::nat(&[OURS; MAX_ADDRESSES + 1], &[], &[]).is_none());
        assert!(Filter::nat(&[], &[], &vec![0..=1; MAX_PORT_RANGES + 1]).is_none());
    }

    #[test]
    fn networks_are_accepted_whole() {
        let network = |third, len| Ipv4Prefix::new(Ipv4Addr::new(10, 9, third, 0), len);
        let judge = Judge::new(&Filter::nat(&[OURS], &[network(0, 24), network(128, 17)], &[80..=80]).unwrap());
        for (address, kept) in [([10, 9, 0, 7], true), ([10, 9, 1, 7], false), ([10, 9, 128, 0], true), ([10, 9, 255, 255], true)]
        {
            assert_eq!(judge.keeps(&ipv4(6, address.into(), 0, 0, 7)), kept, "{address:?}");
        }
        assert!(judge.keeps(&ipv4(6, OURS, 0, 0, 80)) && !judge.keeps(&ipv4(6, OURS, 0, 0, 81)));
        let addresses: Vec<Ipv4Addr> = (0..MAX_ADDRESSES as u8).map(|last| Ipv4Addr::new(203, 0, 113, last)).collect();
        let ports: Vec<_> = (0..MAX_PORT_RANGES as u16).map(|n| 1000 + 10 * n..=1004 + 10 * n).collect();
        let many: Vec<Ipv4Prefix> = (0..=255).map(|third| network(third, 25)).collect();
        let judge = Judge::new(&Filter::nat(&addresses, &many, &ports).unwrap());
        for third in [0, 100, 255] {
            assert!(judge.keeps(&ipv4(17, Ipv4Addr::new(10, 9, third, 1), 0, 0, 7)), "{third}");
        }
        assert!(!judge.keeps(&ipv4(17, Ipv4Addr::new(10, 10, 0, 1), 0, 0, 7)));
        assert!(!judge.keeps(&ipv4(17, addresses[0], 0, 0, 999)) && judge.keeps(&ipv4(17, addresses[63], 0, 0, 1314)));
        assert_eq!((covering(&many).len(), covering(&many[..32]).len()), (32, 32));
    }

    #[test]
    fn without_an_address_only_arp() {
        let judge = Judge::new(&Filter::nat(&[], &[], &[0..=65535]).unwrap());
        assert!(!judge.keeps(&ipv4(17, OURS, 0, 0, 53)));
        let incoming = Judge::new(&Filter::incoming());
        assert!(incoming.keeps(&ipv4(17, OURS, 0, 0, 53)));
        assert!(!Judge::new(&Filter::nothing()).keeps(&ipv4(17, OURS, 0, 0, 53)));
    }
}
