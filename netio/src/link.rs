//! Links of the calling thread's namespace, by rtnetlink (rtnetlink(7)).
//!
//! One request, one answer, on a socket that is closed again: an open one would keep its namespace
//! alive. Never on the packet path.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use packet::MacAddr;

/// A link as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Set up by its owner, whatever its carrier.
    pub up: bool,
    /// Set up, with a carrier, and ready to pass packets.
    pub carrier: bool,
    /// The longest packet, in bytes.
    pub mtu: u32,
    /// Its address.
    pub mac: MacAddr,
    /// Does its namespace ask and answer who has an address there (`IFF_NOARP` not set)?
    pub arp: bool,
    /// Is it a TAP's or TUN's?
    pub is_tun: bool,
    /// Packets from its stack that it had no room for, since it was made. Of a TAP: that whoever has it did not read in time.
    pub tx_dropped: u64,
}

/// What to change of a link; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// Longest packet, in bytes.
    pub mtu: Option<u32>,
    /// Frames that the kernel keeps for us to read.
    pub tx_queue_len: Option<u32>,
    /// Segments of the largest super-frame that its stack may make.
    pub gso_max_segs: Option<u32>,
    /// Set up or down.
    pub up: Option<bool>,
    /// Ask and answer who has an address (`IFF_NOARP` not set).
    pub arp: Option<bool>,
    /// Move to this namespace.
    pub netns: Option<BorrowedFd<'a>>,
    /// Rename.
    pub name: Option<&'a str>,
    /// Its address.
    pub mac: Option<MacAddr>,
}

/// The link with this number; an error if there is none.
pub fn by_index(index: u32) -> io::Result<Link> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    link_of(request)
}

/// The link of this name; `ErrorKind::NotFound` if there is none.
pub fn get(name: &str) -> io::Result<Link> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link_of(request)
}

fn link_of(request: LinkMessage) -> io::Result<Link> {
    match talk(RouteNetlinkMessage::GetLink(request), NLM_F_REQUEST)? {
        Some(RouteNetlinkMessage::NewLink(link)) => Ok(describe(&link)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel answered a link request with something else")),
    }
}

/// Changes a link, all or nothing as far as the kernel does so.
pub fn set(index: u32, change: Change<'_>) -> io::Result<()> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    let noarp = change.arp.map(|arp| !arp);
    for (flag, value) in [(LinkFlags::Up, change.up), (LinkFlags::Noarp, noarp)] {
        request.header.change_mask.set(flag, value.is_some());
        request.header.flags.set(flag, value == Some(true));
    }
    request.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
    request.attributes.extend(change.tx_queue_len.map(LinkAttribute::TxQueueLen));
    request.attributes.extend(change.gso_max_segs.map(LinkAttribute::GsoMaxSegs));
    request.attributes.extend(change.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
    request.attributes.extend(change.name.map(|name| LinkAttribute::IfName(name.to_owned())));
    request.attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    talk(RouteNetlinkMessage::SetLink(request), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

/// Gives a link an address.
pub fn add_address(index: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
    let mut request = AddressMessage::default();
    request.header.index = index;
    request.header.prefix_len = prefix_len;
    request.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // Usable at once, without duplicate address detection (RFC 4862 section 5.4).
    request.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    request.attributes.push(AddressAttribute::Address(address));
    request.attributes.push(AddressAttribute::Local(address));
    talk(RouteNetlinkMessage::NewAddress(request), NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// Takes an address from a link.
pub fn delete_address(index: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
    let mut request = AddressMessage::default();
    request.header.index = index;
    request.header.prefix_len = prefix_len;
    request.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    request.attributes.push(AddressAttribute::Address(address));
    request.attributes.push(AddressAttribute::Local(address));
    talk(RouteNetlinkMessage::DelAddress(request), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

/// Makes two links that are joined like the ends of a cable (veth(4)), the second in another
/// namespace if one is given. Both are down.
pub fn add_pair(name: &str, other: &str, other_netns: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(other.to_owned()));
    peer.attributes.extend(other_netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let kind = [LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
    request.attributes.push(LinkAttribute::LinkInfo(kind.into()));
    talk(RouteNetlinkMessage::NewLink(request), NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// Deletes a link.
pub fn delete(index: u32) -> io::Result<()> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    talk(RouteNetlinkMessage::DelLink(request), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

/// The names of all links of this namespace.
pub fn names() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_to_string("/proc/thread-self/net/dev")?.lines().skip(2) {
        names.extend(entry.split_once(':').map(|(name, _)| name.trim().to_owned()));
    }
    Ok(names)
}

fn describe(link: &LinkMessage) -> Link {
    let mut described = Link {
        index: link.header.index,
        name: String::new(),
        up: link.header.flags.contains(LinkFlags::Up),
        // RFC 2863 `ifOperStatus` up, or unknown where a driver does not say (`netif_oper_up`).
        carrier: link.header.flags.contains(LinkFlags::Running),
        mtu: 0,
        mac: MacAddr::default(),
        arp: !link.header.flags.contains(LinkFlags::Noarp),
        is_tun: false,
        tx_dropped: 0,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => described.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => described.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                if let Ok(bytes) = bytes.as_slice().try_into() {
                    described.mac = MacAddr(bytes);
                }
            }
            LinkAttribute::Stats64(stats) => described.tx_dropped = stats.tx_dropped,
            LinkAttribute::LinkInfo(info) => described.is_tun = info.contains(&LinkInfo::Kind(InfoKind::Tun)),
            _ => {}
        }
    }
    described
}

/// One request and its answer; `None` for a bare acknowledgment.
pub(crate) fn talk(request: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
    let socket = ask(request, flags)?;
    let (answer, _) = socket.recv_from_full()?;
    match parse(&answer)?.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => {
            let error = error.to_io();
            // ENODEV is how rtnetlink says that there is no such link.
            if error.raw_os_error() == Some(libc::ENODEV) {
                Err(io::Error::new(io::ErrorKind::NotFound, error))
            } else {
                Err(error)
            }
        }
        NetlinkPayload::InnerMessage(inner) => Ok(Some(inner)),
        _ => Ok(None),
    }
}

/// One request and all its answers. Those that cannot be read, with attributes newer than our
/// library, are passed over. A list that changed while it was read is `Interrupted`.
pub(crate) fn dump(request: RouteNetlinkMessage, mut answer: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
    let socket = ask(request, NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut interrupted = false;
    loop {
        let (answers, _) = socket.recv_from_full()?;
        let mut rest = answers.as_slice();
        while let Some(len) = rest.first_chunk().map(|len| u32::from_ne_bytes(*len) as usize) {
            // Lengths are rounded up to four bytes (`NLMSG_ALIGN`); the last one's padding may be missing.
            let Some(message) = rest.get(..len).filter(|message| message.len() >= NETLINK_HEADER_LEN) else {
                return Err(broken());
            };
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            let Ok(message) = parse(message) else { continue };
            interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => answer(inner),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::Done(_) if interrupted => return Err(io::ErrorKind::Interrupted.into()),
                NetlinkPayload::Done(done) if done.code < 0 => return Err(io::Error::from_raw_os_error(-done.code)),
                NetlinkPayload::Done(_) => return Ok(()),
                _ => {}
            }
        }
    }
}

/// Length of `struct nlmsghdr`.
const NETLINK_HEADER_LEN: usize = 16;

/// A socket on which the answer comes.
fn ask(request: RouteNetlinkMessage, flags: u16) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Lists only what was asked for. A kernel that does not know this lists more.
    let _ = socket.set_netlink_get_strict_chk(flags & NLM_F_DUMP == NLM_F_DUMP);
    let mut message = NetlinkMessage::from(request);
    message.header.flags = flags;
    message.header.sequence_number = 1;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(socket)
}

fn parse(bytes: &[u8]) -> io::Result<NetlinkMessage<RouteNetlinkMessage>> {
    NetlinkMessage::deserialize(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's list has no end")
}
