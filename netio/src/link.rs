//! Links of the calling thread's namespace, through rtnetlink (rtnetlink(7)).
//!
//! Each request opens a socket and closes it again: an open socket would keep its namespace alive. Never used on the
//! packet path. The `rtnetlink` crate would bring an async runtime for these few requests, so they are made with the
//! message types of `netlink-packet-route` alone.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    Prop,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use packet::MacAddr;

/// A link as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its index, unique within its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Administratively up (`IFF_UP`), with or without a carrier.
    pub up: bool,
    /// Operationally up (`IFF_RUNNING`): up, with a carrier, ready to pass packets.
    pub carrier: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its MAC address.
    pub mac: MacAddr,
    /// True if its namespace uses ARP on it (`IFF_NOARP` is not set).
    pub arp: bool,
    /// Its group (`IFLA_GROUP`).
    pub group: u32,
    /// Its further names (`IFLA_ALT_IFNAME`).
    pub further_names: Vec<String>,
    /// True for a TAP or TUN device.
    pub is_tun: bool,
    /// What the tun driver says of it, since Linux 4.17.
    pub tun: Option<TunLink>,
    /// Packets that its stack sent and its queue had no room for, since the link was created. For a TAP these are the
    /// packets that the process holding it did not read in time.
    pub tx_dropped: u64,
}

/// A TAP or TUN device, as its driver describes it (`IFLA_INFO_DATA`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TunLink {
    /// True for a TAP, false for a TUN.
    pub is_tap: Option<bool>,
    /// Of a multi-queue device, the queues that processes hold.
    pub queues: Option<u32>,
}

/// Changes to a link; a field that is `None` is left as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Length of the transmit queue, in frames. For a TAP this is the queue that we read.
    pub tx_queue_len: Option<u32>,
    /// Maximum number of segments of a super-frame that its stack builds.
    pub gso_max_segs: Option<u32>,
    /// Administratively up or down.
    pub up: Option<bool>,
    /// Use ARP (`IFF_NOARP` not set).
    pub arp: Option<bool>,
    /// Move it to this namespace.
    pub netns: Option<BorrowedFd<'a>>,
    /// Rename it.
    pub name: Option<&'a str>,
    /// MAC address.
    pub mac: Option<MacAddr>,
    /// Its group, a number that links can be chosen by.
    pub group: Option<u32>,
    /// Whether its namespace makes a link-local IPv6 address for it from its MAC address when it is set up.
    pub link_local: Option<bool>,
}

/// The link with this index; `ErrorKind::NotFound` if there is none.
pub fn by_index(index: u32) -> io::Result<Link> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    link_of(request)
}

/// The link with this name; `ErrorKind::NotFound` if there is none.
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

/// Changes a link in one request. The kernel may apply a part of it before it fails.
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
    request.attributes.extend(change.group.map(LinkAttribute::Group));
    request.attributes.extend(change.link_local.map(|is_made| {
        let mode = if is_made { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])])
    }));
    talk(RouteNetlinkMessage::SetLink(request), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

/// Adds an IP address to a link. It can be used at once.
pub fn add_address(index: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
    let mut request = AddressMessage::default();
    request.header.index = index;
    request.header.prefix_len = prefix_len;
    request.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // No duplicate address detection (RFC 4862 section 5.4).
    request.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    request.attributes.push(AddressAttribute::Address(address));
    request.attributes.push(AddressAttribute::Local(address));
    talk(RouteNetlinkMessage::NewAddress(request), NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// Removes an IP address from a link.
pub fn delete_address(index: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
    let mut request = AddressMessage::default();
    request.header.index = index;
    request.header.prefix_len = prefix_len;
    request.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    request.attributes.push(AddressAttribute::Address(address));
    request.attributes.push(AddressAttribute::Local(address));
    talk(RouteNetlinkMessage::DelAddress(request), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

/// Creates a veth pair (veth(4)); the second end in another namespace if one is given. Both ends are down.
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

/// Deletes all links of a group, in one step. `ErrorKind::NotFound` if it is empty.
pub fn delete_group(group: u32) -> io::Result<()> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::Group(group));
    talk(RouteNetlinkMessage::DelLink(request), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

/// All links of the calling thread's namespace.
pub fn list() -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |answer| {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            links.push(describe(&link));
        }
    })?;
    Ok(links)
}

/// Gives a link a further name, since Linux 5.5.
pub fn add_name(index: u32, name: &str) -> io::Result<()> {
    talk(RouteNetlinkMessage::NewLinkProp(named(index, name)), NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// Takes a further name from a link.
pub fn remove_name(index: u32, name: &str) -> io::Result<()> {
    talk(RouteNetlinkMessage::DelLinkProp(named(index, name)), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

fn named(index: u32, name: &str) -> LinkMessage {
    let mut request = LinkMessage::default();
    request.header.index = index;
    request.attributes.push(LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]));
    request
}

/// The names of all links of the calling thread's namespace.
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
        // RFC 2863 `ifOperStatus` is up, or unknown because the driver does not report it (`netif_oper_up`).
        carrier: link.header.flags.contains(LinkFlags::Running),
        mtu: 0,
        mac: MacAddr::default(),
        arp: !link.header.flags.contains(LinkFlags::Noarp),
        group: 0,
        further_names: Vec::new(),
        is_tun: false,
        tun: None,
        tx_dropped: 0,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => described.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => described.mtu = *mtu,
            LinkAttribute::Group(group) => described.group = *group,
            LinkAttribute::Address(bytes) => {
                if let Ok(bytes) = bytes.as_slice().try_into() {
                    described.mac = MacAddr(bytes);
                }
            }
            LinkAttribute::PropList(properties) => {
                let names = properties.iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name.clone()),
                    _ => None,
                });
                described.further_names.extend(names);
            }
            LinkAttribute::Stats64(stats) => described.tx_dropped = stats.tx_dropped,
            LinkAttribute::LinkInfo(info) => {
                described.is_tun = info.contains(&LinkInfo::Kind(InfoKind::Tun));
                described.tun = described.is_tun.then(|| tun_of(info));
            }
            _ => {}
        }
    }
    described
}

/// `IFLA_TUN_TYPE` and `IFLA_TUN_NUM_QUEUES` (`include/uapi/linux/if_link.h`).
const TUN_TYPE: u16 = 3;
const TUN_NUM_QUEUES: u16 = 8;

fn tun_of(info: &[LinkInfo]) -> TunLink {
    let data = info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(data)) => Some(data),
        _ => None,
    });
    let mut described = TunLink::default();
    for attribute in data.into_iter().flatten() {
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        match (attribute.kind(), value.as_slice()) {
            (TUN_TYPE, [kind]) => described.is_tap = Some(libc::c_int::from(*kind) == libc::IFF_TAP),
            (TUN_NUM_QUEUES, bytes) => described.queues = bytes.try_into().ok().map(u32::from_ne_bytes),
            _ => {}
        }
    }
    described
}

/// Sends one request and returns its reply; `None` for an acknowledgment without content.
pub(crate) fn talk(request: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
    let socket = ask(request, flags)?;
    let (answer, _) = socket.recv_from_full()?;
    match parse(&answer)?.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => {
            let error = error.to_io();
            // rtnetlink reports a missing link as ENODEV.
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

/// Sends one request and calls `answer` with each reply. Replies that cannot be parsed, because their attributes are
/// newer than the message library, are skipped. `ErrorKind::Interrupted` if the list changed while it was read.
pub(crate) fn dump(request: RouteNetlinkMessage, mut answer: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
    let socket = ask(request, NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut interrupted = false;
    loop {
        let (answers, _) = socket.recv_from_full()?;
        let mut rest = answers.as_slice();
        while let Some(len) = rest.first_chunk().map(|len| u32::from_ne_bytes(*len) as usize) {
            // Messages are padded to four bytes (`NLMSG_ALIGN`), except perhaps the last one.
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

/// Length of `struct nlmsghdr` in bytes.
const NETLINK_HEADER_LEN: usize = 16;

/// Sends a request. Returns the socket that receives the reply.
fn ask(request: RouteNetlinkMessage, flags: u16) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // The kernel lists only what matches the request. Kernels before 4.20 do not know this and list more.
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
    io::Error::new(io::ErrorKind::InvalidData, "malformed netlink message")
}
