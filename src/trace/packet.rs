//! An imaginary packet: `port=tap0,src=10.0.0.2,dst=198.51.100.7,tcp,dport=80`.
//!
//! | word | meaning | default |
//! |---|---|---|
//! | `port=` | ingress port | required |
//! | `src=`, `dst=` | IPv4 addresses | required |
//! | `smac=`, `dmac=` | MAC addresses | from the neighbour table; the gateway's for destinations behind it |
//! | `vlan=` | VLAN tag | none |
//! | `tcp`, `udp`, `icmp`, `arp` | protocol | `icmp`, an echo request |
//! | `sport=`, `dport=` | TCP or UDP ports | 40000, and 80 or 53 |
//! | `id=` | identifier of an echo request | 1 |
//! | `flags=` | TCP flags, joined by plus | `syn` |
//! | `ttl=` | time to live | 64 |
//! | `len=` | length of the IP packet, in bytes | no payload |
//! | `df` | sets "don't fragment" | not set |

use std::net::Ipv4Addr;

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpHeaders, Ipv4Extensions, Ipv4Header, PacketBuilder, PacketBuilderStep,
    TcpHeader,
};
use packet::tcp::flag;
use packet::vlan::VlanId;
use packet::{Headers, MacAddr, Tag};
use vswitch::UPLINK;
use vswitch::{Interface, Neighbours, Port, PortKind, Routing};

const IP_LEN: usize = 20;
const ALL_WORDS: &str = "port= src= dst= smac= dmac= vlan= tcp udp icmp arp sport= dport= id= flags= ttl= len= df";
/// Unused source MAC address of a sender whose own is unknown. Locally administered (IEEE 802 section 8.3).
const SOMEBODY: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0xfe]);
/// Unused destination MAC address of a receiver whose own is unknown. Locally administered.
const SOMEBODY_ELSE: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0xff]);
const FLAGS: [(&str, u8); 8] = [
    ("fin", flag::FIN),
    ("syn", flag::SYN),
    ("rst", flag::RST),
    ("psh", flag::PSH),
    ("ack", flag::ACK),
    ("urg", flag::URG),
    ("ece", flag::ECE),
    ("cwr", flag::CWR),
];

/// Protocol of an imaginary packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Tcp,
    Udp,
    Icmp,
    Arp,
}

/// The words that describe an imaginary packet; `None` and empty where a word is missing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Words {
    /// Name of the ingress port.
    pub(crate) port: String,
    kind: Option<Kind>,
    src: Option<Ipv4Addr>,
    dst: Option<Ipv4Addr>,
    smac: Option<MacAddr>,
    dmac: Option<MacAddr>,
    vlan: Option<VlanId>,
    sport: Option<u16>,
    dport: Option<u16>,
    id: Option<u16>,
    flags: Option<u8>,
    ttl: Option<u8>,
    len: Option<u16>,
    dont_fragment: bool,
}

impl std::str::FromStr for Words {
    type Err = String;

    fn from_str(text: &str) -> Result<Words, String> {
        let mut words = Words::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            words.take(word)?;
        }
        if words.port.is_empty() {
            return Err("port= is missing: name the port that the packet comes in through".to_owned());
        }
        words.check()?;
        Ok(words)
    }
}

impl Words {
    fn take(&mut self, word: &str) -> Result<(), String> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "port" => self.port = value.to_owned(),
            "src" => self.src = Some(number(key, value, "an IPv4 address such as 10.0.0.2")?),
            "dst" => self.dst = Some(number(key, value, "an IPv4 address such as 198.51.100.7")?),
            "smac" => self.smac = Some(number(key, value, "a MAC address such as 02:00:00:00:00:01")?),
            "dmac" => self.dmac = Some(number(key, value, "a MAC address such as 02:00:00:00:00:01")?),
            "vlan" => {
                let vlan = value.parse().ok().and_then(VlanId::new);
                self.vlan = Some(vlan.ok_or_else(|| wrong(key, value, "a VLAN from 0 to 4094"))?);
            }
            "sport" => self.sport = Some(number(key, value, "a port from 0 to 65535")?),
            "dport" => self.dport = Some(number(key, value, "a port from 0 to 65535")?),
            "id" => self.id = Some(number(key, value, "a number from 0 to 65535")?),
            "ttl" => self.ttl = Some(number(key, value, "a number from 0 to 255")?),
            "len" => self.len = Some(number(key, value, "a length from 28 to 65535")?),
            "flags" => self.flags = Some(flags(value)?),
            "tcp" | "udp" | "icmp" | "arp" | "df" if word.contains('=') => return Err(format!("'{key}' takes no value")),
            "df" => self.dont_fragment = true,
            "tcp" => self.set_kind(Kind::Tcp)?,
            "udp" => self.set_kind(Kind::Udp)?,
            "icmp" => self.set_kind(Kind::Icmp)?,
            "arp" => self.set_kind(Kind::Arp)?,
            _ => {
                let known = ALL_WORDS.split(' ').map(|known| known.trim_end_matches('='));
                let meant = config::nearest(key, known).map_or_else(String::new, |close| format!(" (did you mean '{close}'?)"));
                return Err(format!("'{}' is not a word of a packet{meant}; the words are {ALL_WORDS}", key.escape_debug()));
            }
        }
        Ok(())
    }

    fn set_kind(&mut self, kind: Kind) -> Result<(), String> {
        if self.kind.is_some_and(|other| other != kind) {
            return Err("a packet is only one of tcp, udp, icmp and arp".to_owned());
        }
        self.kind = Some(kind);
        Ok(())
    }

    fn kind(&self) -> Kind {
        self.kind.unwrap_or(Kind::Icmp)
    }

    /// Checks that the words are consistent.
    fn check(&self) -> Result<(), String> {
        let kind = self.kind();
        let has_ports = matches!(kind, Kind::Tcp | Kind::Udp);
        if (self.sport.is_some() || self.dport.is_some()) && !has_ports {
            return Err("sport= and dport= need a protocol: add tcp or udp".to_owned());
        }
        if self.flags.is_some() && kind != Kind::Tcp {
            return Err("flags= needs a protocol: add tcp".to_owned());
        }
        if self.id.is_some() && kind != Kind::Icmp {
            return Err("id= applies to icmp only".to_owned());
        }
        if kind == Kind::Arp && (self.ttl.is_some() || self.len.is_some() || self.dont_fragment) {
            return Err("ttl=, len= and df apply to IP packets, not to arp".to_owned());
        }
        if self.src.is_none() || self.dst.is_none() {
            return Err("src= and dst= are missing: name the packet's addresses".to_owned());
        }
        let least = IP_LEN + transport_len(kind);
        match self.len {
            Some(len) if usize::from(len) < least => {
                Err(format!("len={len}: with its headers the packet has at least {least} bytes"))
            }
            _ => Ok(()),
        }
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str, what: &str) -> Result<T, String> {
    value.parse().map_err(|_| wrong(key, value, what))
}

fn wrong(key: &str, value: &str, what: &str) -> String {
    format!("{key}={}: not {what}", value.escape_debug())
}

fn flags(value: &str) -> Result<u8, String> {
    if value == "none" {
        return Ok(0);
    }
    value.split('+').try_fold(0, |flags, name| {
        let flag = FLAGS.iter().find(|(known, _)| *known == name);
        let (_, flag) = flag.ok_or_else(|| wrong("flags", value, "none, or some of fin+syn+rst+psh+ack+urg+ece+cwr"))?;
        Ok(flags | flag)
    })
}

fn transport_len(kind: Kind) -> usize {
    match kind {
        Kind::Tcp => 20,
        Kind::Udp | Kind::Icmp => 8,
        Kind::Arp => 0,
    }
}

/// The ingress port, with the routing and neighbour tables that defaults are taken from.
pub(crate) struct Surroundings<'a> {
    pub(crate) port: &'a Port,
    pub(crate) routing: Option<&'a Routing>,
    pub(crate) neighbours: Option<&'a Neighbours>,
}

/// A frame, and the values that were assumed for it.
#[derive(Debug)]
pub(crate) struct Assumed {
    /// The frame as received; from a TUN device without an Ethernet header.
    pub(crate) frame: Vec<u8>,
    /// The assumed values as text, such as `sport=40000`.
    pub(crate) notes: Vec<String>,
}

impl Words {
    /// The destination address.
    pub(crate) fn dst(&self) -> Option<Ipv4Addr> {
        self.dst
    }

    /// Builds the frame.
    ///
    /// # Errors
    ///
    /// The port cannot receive such a frame: a tunnel without Ethernet, or ARP on a TUN device.
    pub(crate) fn frame(&self, around: &Surroundings<'_>) -> Result<Assumed, String> {
        if matches!(around.port.kind, PortKind::IpPeer(_)) {
            return Err(format!(
                "{}: packets of this tunnel have no Ethernet header; use port= with the tunnel's TUN device",
                self.port
            ));
        }
        let mut notes = Vec::new();
        if matches!(around.port.kind, PortKind::Tun | PortKind::Host) {
            if self.kind() == Kind::Arp {
                return Err("a TUN device has no ARP".to_owned());
            }
            let frame = self.packet(&mut notes)?;
            return Ok(Assumed { frame, notes });
        }
        let ports = self.ports(&mut notes);
        let src = self.smac.unwrap_or_else(|| self.assume_source(around, &mut notes));
        let dst = self.dmac.unwrap_or_else(|| self.assume_destination(around, &mut notes));
        let ethernet = PacketBuilder::ethernet2(src.0, dst.0);
        let vlan = self.vlan.map(|vlan| etherparse::VlanId::try_new(vlan.get())).transpose().map_err(text)?;
        let frame = match (self.kind(), vlan) {
            (Kind::Arp, None) => arp_frame(ethernet.arp(self.arp(src)?))?,
            (Kind::Arp, Some(vlan)) => arp_frame(ethernet.single_vlan(vlan).arp(self.arp(src)?))?,
            (_, None) => self.finish(ethernet.ip(self.ip()), ports)?,
            (_, Some(vlan)) => self.finish(ethernet.single_vlan(vlan).ip(self.ip()), ports)?,
        };
        Ok(Assumed { frame, notes })
    }

    /// The gateway of the frame's VLAN on the ingress port.
    fn gateway<'a>(&self, around: &Surroundings<'a>) -> Option<(vswitch::InterfaceId, &'a Interface)> {
        let routing = around.routing?;
        let tag = self.vlan.map(|vlan| Tag::of(vlan).to_bytes());
        let blank = [&[0; 12][..], tag.as_ref().map_or(&[][..], |tag| tag), &[8, 0], &[0; 20]].concat();
        let vlan = around.port.vlan.classify(&Headers::parse(&blank).ok()?)?;
        let id = routing.of_domain(vswitch::Domain { bridge: around.port.bridge, vlan })?;
        Some((id, routing.interface(id)?))
    }

    fn assume_source(&self, around: &Surroundings<'_>, notes: &mut Vec<String>) -> MacAddr {
        let is_outside = around.port.kind == PortKind::Uplink;
        let hop = || around.routing?.next_hop(self.src?);
        let known = match is_outside {
            true => hop().and_then(|hop| around.neighbours?.peek(UPLINK, hop)),
            false => self.gateway(around).and_then(|(id, _)| {
                let src = self.src?;
                let guest = around.routing?.behind(src).filter(|route| route.interface == id).map_or(src, |route| route.via);
                around.neighbours?.peek(id, guest)
            }),
        };
        let mac = known.unwrap_or(SOMEBODY);
        let who = match (known, is_outside) {
            (Some(_), false) => "from the neighbour table",
            (Some(_), true) => "the next hop towards it",
            (None, _) => "an unused address, as its own is unknown",
        };
        notes.push(format!("smac={mac}: {who}"));
        mac
    }

    fn assume_destination(&self, around: &Surroundings<'_>, notes: &mut Vec<String>) -> MacAddr {
        let (mac, who) = self.destination(around);
        notes.push(format!("dmac={mac}: {who}"));
        mac
    }

    fn destination(&self, around: &Surroundings<'_>) -> (MacAddr, &'static str) {
        let Some(dst) = self.dst else { return (MacAddr::BROADCAST, "broadcast") };
        if self.kind() == Kind::Arp {
            return (MacAddr::BROADCAST, "broadcast, as for any ARP request");
        }
        if around.port.kind == PortKind::Uplink {
            let uplink = around.routing.and_then(Routing::uplink);
            return uplink
                .map_or((SOMEBODY_ELSE, "an unused address, as the uplink is down"), |uplink| (uplink.mac, "the uplink's own"));
        }
        if dst.is_broadcast() {
            return (MacAddr::BROADCAST, "broadcast");
        }
        match self.gateway(around) {
            Some((_, gateway)) if dst == gateway.address => (gateway.mac, "the gateway's"),
            Some((id, gateway)) if gateway.network.contains(dst) => match around.neighbours.and_then(|known| known.peek(id, dst))
            {
                Some(mac) => (mac, "from the neighbour table"),
                None => (SOMEBODY_ELSE, "an unused address, as the destination's is unknown: set it with dmac="),
            },
            Some((_, gateway)) => (gateway.mac, "the gateway's, as the destination is behind it"),
            None => (SOMEBODY_ELSE, "an unused address, as there is no gateway: set it with dmac="),
        }
    }

    /// The IPv4 packet without an Ethernet header.
    fn packet(&self, notes: &mut Vec<String>) -> Result<Vec<u8>, String> {
        let ports = self.ports(notes);
        self.finish(PacketBuilder::ip(self.ip()), ports)
    }

    /// Source and destination port of TCP and UDP.
    fn ports(&self, notes: &mut Vec<String>) -> [u16; 2] {
        let usual = match self.kind() {
            Kind::Tcp => [40_000, 80],
            Kind::Udp => [40_000, 53],
            Kind::Icmp | Kind::Arp => return [0, 0],
        };
        let mut assume = |word: &str, given: Option<u16>, usual: u16| {
            given.unwrap_or_else(|| {
                notes.push(format!("{word}={usual}"));
                usual
            })
        };
        [assume("sport", self.sport, usual[0]), assume("dport", self.dport, usual[1])]
    }

    /// The IPv4 header; its length, protocol and checksum are filled in when the packet is written.
    fn ip(&self) -> IpHeaders {
        let header = Ipv4Header {
            dont_fragment: self.dont_fragment,
            time_to_live: self.ttl.unwrap_or(64),
            source: self.src.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
            destination: self.dst.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
            ..Ipv4Header::default()
        };
        IpHeaders::Ipv4(header, Ipv4Extensions::default())
    }

    /// Appends the transport header and a payload of zeros.
    fn finish(&self, ip: PacketBuilderStep<IpHeaders>, [sport, dport]: [u16; 2]) -> Result<Vec<u8>, String> {
        let least = IP_LEN + transport_len(self.kind());
        let payload = vec![0; self.len.map_or(0, |len| usize::from(len).saturating_sub(least))];
        let mut frame = Vec::new();
        match self.kind() {
            Kind::Tcp => ip.tcp_header(self.tcp(sport, dport)).write(&mut frame, &payload),
            Kind::Udp => ip.udp(sport, dport).write(&mut frame, &payload),
            Kind::Icmp | Kind::Arp => ip.icmpv4_echo_request(self.id.unwrap_or(1), 0).write(&mut frame, &payload),
        }
        .map_err(text)?;
        Ok(frame)
    }

    fn tcp(&self, sport: u16, dport: u16) -> TcpHeader {
        let flags = self.flags.unwrap_or(flag::SYN);
        let has = |name: &str| FLAGS.iter().any(|(known, flag)| *known == name && flags & flag != 0);
        TcpHeader {
            fin: has("fin"),
            syn: has("syn"),
            rst: has("rst"),
            psh: has("psh"),
            ack: has("ack"),
            urg: has("urg"),
            ece: has("ece"),
            cwr: has("cwr"),
            ..TcpHeader::new(sport, dport, 1, u16::MAX)
        }
    }

    fn arp(&self, src: MacAddr) -> Result<ArpPacket, String> {
        let [sender, target] = [self.src, self.dst].map(|address| address.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        let (hardware, protocol) = (ArpHardwareId::ETHERNET, EtherType::IPV4);
        ArpPacket::new(hardware, protocol, ArpOperation::REQUEST, &src.0, &sender, &[0; 6], &target).map_err(text)
    }
}

fn arp_frame(builder: PacketBuilderStep<ArpPacket>) -> Result<Vec<u8>, String> {
    let mut frame = Vec::new();
    builder.write(&mut frame).map_err(text)?;
    Ok(frame)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use packet::checksum;

    use super::*;

    #[test]
    fn words_that_are_none_or_do_not_go_together() {
        let error = |text: &str| text.parse::<Words>().unwrap_err();
        let ends = "port=a,src=10.0.0.2,dst=10.0.0.3";
        assert!(error("src=10.0.0.2").starts_with("port= is missing"));
        assert!(error("port=a,src=10.0.0.2").starts_with("src= and dst= are missing"));
        assert!(error(&format!("{ends},dprt=80")).contains("did you mean 'dport'?"));
        assert!(error(&format!("{ends},tcp,udp")).contains("one of tcp, udp"));
        assert!(error(&format!("{ends},dport=80")).contains("add tcp or udp"));
        assert!(error(&format!("{ends},udp,flags=syn")).contains("flags= needs a protocol"));
        assert!(error(&format!("{ends},tcp,flags=sync")).contains("flags=sync: not "));
        assert!(error(&format!("{ends},tcp,len=39")).contains("at least 40 bytes"));
        assert!(error(&format!("{ends},vlan=4096")).contains("a VLAN"));
        assert!(error(&format!("{ends},df=1")).contains("takes no value"));
        assert!(error(&format!("{ends},arp,ttl=3")).contains("not to arp"));
    }

    #[test]
    fn checksums_are_right() {
        let whole = |words: &str| {
            let words: Words = format!("port=a,src=10.0.0.2,dst=10.0.0.3,len=77,{words}").parse().unwrap();
            words.packet(&mut Vec::new()).unwrap()
        };
        for (words, protocol) in [("tcp,flags=syn+ack", 6), ("udp,sport=1,dport=2", 17)] {
            let packet = whole(words);
            assert_eq!((packet.len(), packet[9], checksum::sum(&packet[..20])), (77, protocol, 0xffff), "{words}");
            let pseudo = checksum::pseudo_header(&packet[12..20], protocol, 57);
            assert_eq!(checksum::add(checksum::sum(&packet[20..]), pseudo), 0xffff, "{words}");
        }
        assert_eq!(checksum::sum(&whole("icmp,id=7")[20..]), 0xffff);
    }
}
