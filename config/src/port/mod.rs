//! One port of a bridge: `--tap`, `--port` and `[[bridge.NAME.port]]`.
//!
//! This file holds the common part of all kinds; each kind is in a file of its own, with its keys, its model and its checks. A further
//! kind is such a file, a word in `Kind`, and the arms here that the compiler asks for. Other rooms ask [`PortKind`] for what they
//! need to know of a kind.

mod absence;
mod dgram;
mod packet;
mod places;
mod socket_path;
mod stream;
mod tap;
#[cfg(test)]
mod tests;
mod tun;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

pub use self::absence::Absence;
pub use self::dgram::Dgram;
pub use self::packet::Packet;
pub(crate) use self::places::PortPlaces;
pub use self::stream::{Address, DEFAULT_GUEST_MTU, Slot, Stream};
pub use self::tap::{Setup, Tap};
pub use self::tun::Tun;

use self::absence::AbsenceKeys;
use self::dgram::DgramKeys;
use self::packet::PacketKeys;
use self::stream::StreamKeys;
use self::tap::TapKeys;
use crate::gro::Gro;
use crate::identity::{Id, Identity, IdentityKeys};
use crate::keys::{Keys, keys, read_table};
use crate::limit::{LimitKeys, Limits};
use crate::name::Netns;
use crate::problem::{At, Origin, Problem, Problems, unknown};
use crate::raw::{Entry, Raw, RawValue};
use crate::station::{Station, StationKeys};
use crate::tunnel::IpTunnel;
use crate::value::{Mtu, Value, words};
use crate::vlan::{Trunks, VlanKeys, Vlans};

words! {
    /// The kinds as files and flags name them.
    pub(crate) enum Kind {
        Tap = "tap",
        Packet = "packet",
        Stream = "stream",
        Dgram = "dgram",
    }
}

/// What the help of `--port` says of one kind.
struct KindHelp {
    /// How it is written, and what it is; one sentence.
    place: &'static str,
    /// The keys that other kinds do not have.
    keys: &'static str,
}

/// One port, or one of several places for guests that connect to one socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Where it was written.
    pub origin: Origin,
    /// Its bridge, by its place among all; of no meaning for a TUN device.
    pub bridge: usize,
    /// The name that counters and messages use: `eth0`, or `eth0@blue` if an interface in another namespace has that name too.
    pub name: String,
    /// The device that its frames come from and go to.
    pub kind: PortKind,
    /// The VLANs of its frames.
    pub vlans: Vlans,
    /// The longest packet that is sent there, in bytes; `None` leaves it to the device.
    pub mtu: Option<u32>,
    /// Which frames are coalesced on their way there.
    pub gro: Gro,
    /// Storm control of its frames.
    pub limits: Limits,
    /// What its maker knows it by.
    pub identity: Identity,
    /// The station behind it.
    pub station: Station,
    /// What becomes of it without its device.
    pub absence: Absence,
}

/// The device that a port's frames come from and go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortKind {
    /// The user side of a TAP.
    Tap(Tap),
    /// The network side of an interface.
    Packet(Packet),
    /// A guest's connection.
    Stream(Stream),
    /// A socket with a frame in each datagram.
    Dgram(Dgram),
    /// The user side of a TUN; no port of a bridge.
    Tun(Tun),
}

/// A place that only one port can have.
#[derive(PartialEq, Eq, Hash)]
enum Location<'a> {
    Link(&'a str, Option<&'a Netns>),
    Path(&'a Path),
    Address(&'a SocketAddr),
}

/// The keys of a port, by its kind.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum PortKeys {
    Tap(TapKeys),
    Packet(PacketKeys),
    Stream(StreamKeys),
    Dgram(DgramKeys),
    /// A table with no kind, or with several.
    Unknown,
}

keys! {
    /// The keys of devices of the kernel.
    struct DeviceKeys {
        /// Segmentation and checksum offload, of tap and packet. Default: true.
        "offload" => offload: bool,
        /// Segments of one flow are coalesced on their way to it, of tap and packet; with "neighbours" only those that arrived one
        /// behind the other. Default: true.
        "gro" => gro: Gro,
        ..absence: AbsenceKeys,
    }
}

keys! {
    /// The keys that all kinds have.
    struct CommonKeys {
        /// The longest packet, in bytes, 68 to 65,521.
        "mtu" => mtu: Mtu,
        ..vlan: VlanKeys,
        ..limit: LimitKeys,
        ..identity: IdentityKeys,
        ..station: StationKeys,
    }
}

/// The help of `--port`.
#[must_use]
pub fn flag_help() -> String {
    let kinds = [packet::HELP, stream::HELP, dgram::HELP];
    let [places, keys] = [kinds.each_ref().map(|kind| kind.place).join(" "), kinds.map(|kind| kind.keys).join("; ")];
    format!(
        "A port of another kind, KIND:WHERE[:KEY=VALUE...]; repeatable. {places} Keys: vlan=, trunks=, vlan-mode=, mtu= and limit-...= as for a \
         TAP; {keys}"
    )
}

impl PortKeys {
    /// The ports that these keys make; empty if the keys are wrong by themselves.
    pub(crate) fn ports(&self, table: &Origin, problems: &mut Problems) -> Vec<Port> {
        let ports = match self {
            PortKeys::Tap(keys) => keys.ports(table, problems),
            PortKeys::Packet(keys) => keys.ports(table, problems),
            PortKeys::Stream(keys) => keys.ports(table, problems),
            PortKeys::Dgram(keys) => keys.ports(table, problems),
            PortKeys::Unknown => None,
        };
        ports.unwrap_or_default()
    }

    /// The keys that all kinds have.
    pub(crate) fn common(&self) -> Option<&CommonKeys> {
        match self {
            PortKeys::Tap(keys) => Some(&keys.common),
            PortKeys::Packet(keys) => Some(&keys.common),
            PortKeys::Stream(keys) => Some(&keys.common),
            PortKeys::Dgram(keys) => Some(&keys.common),
            PortKeys::Unknown => None,
        }
    }

    fn common_mut(&mut self) -> Option<&mut CommonKeys> {
        match self {
            PortKeys::Tap(keys) => Some(&mut keys.common),
            PortKeys::Packet(keys) => Some(&mut keys.common),
            PortKeys::Stream(keys) => Some(&mut keys.common),
            PortKeys::Dgram(keys) => Some(&mut keys.common),
            PortKeys::Unknown => None,
        }
    }

    /// Sets a key of a flag in place of its former value, or with the value `none` takes it away.
    pub(crate) fn set_again(&mut self, entry: &Entry, problems: &mut Problems) {
        match self {
            PortKeys::Tap(keys) => set_again(keys, entry, problems),
            PortKeys::Packet(keys) => set_again(keys, entry, problems),
            PortKeys::Stream(keys) => set_again(keys, entry, problems),
            PortKeys::Dgram(keys) => set_again(keys, entry, problems),
            PortKeys::Unknown => {}
        }
        if let Some(common) = self.common_mut() {
            common.station.keep_last(&entry.key);
        }
    }

    /// The id of the ports that these keys make, with its origin.
    pub(crate) fn id(&self) -> Option<&At<Id>> {
        self.common()?.identity.id.as_ref()
    }
}

impl Value for PortKeys {
    /// The key of the kind, such as `tap`, determines the kind.
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<PortKeys> {
        let RawValue::Table(entries) = &raw.value else {
            problems.add(&raw.origin, raw.is_not(key, "a table"));
            return None;
        };
        let mut given = entries.iter().filter_map(|entry| Some((Kind::named(&entry.key)?, entry)));
        let Some((kind, first)) = given.next() else {
            problems.add(&raw.origin, "what is this port? Add tap = \"tap0\", or packet, stream or dgram");
            return Some(PortKeys::Unknown);
        };
        if let Some((_, other)) = given.next() {
            let (first, second) = in_order(first, other);
            let problem = format!("a port is of one kind: leave out {} or {}", first.key, second.key);
            problems.add(&second.raw.origin, problem);
            return Some(PortKeys::Unknown);
        }
        let table = if kind == Kind::Tap { raw.clone() } else { without_netns(raw, entries, problems) };
        Some(match kind {
            Kind::Tap => PortKeys::Tap(read_table(&table, key, problems)?),
            Kind::Packet => PortKeys::Packet(read_table(&table, key, problems)?),
            Kind::Stream => PortKeys::Stream(read_table(&table, key, problems)?),
            Kind::Dgram => PortKeys::Dgram(read_table(&table, key, problems)?),
        })
    }

    fn in_file(&self, _: Option<&RawValue>) -> Option<RawValue> {
        match self {
            PortKeys::Tap(keys) => keys.in_file(None),
            PortKeys::Packet(keys) => keys.in_file(None),
            PortKeys::Stream(keys) => keys.in_file(None),
            PortKeys::Dgram(keys) => keys.in_file(None),
            PortKeys::Unknown => None,
        }
    }
}

/// The value of a key that takes the key away.
const NOTHING: &str = "none";

/// Keys that say which device or socket a port is.
const PLACES: [&str; 5] = ["tap", "netns", "packet", "stream", "dgram"];

fn set_again<T: Keys>(keys: &mut T, entry: &Entry, problems: &mut Problems) {
    let origin = &entry.raw.origin;
    if PLACES.contains(&entry.key.as_str()) {
        let problem = format!("{} says which port it is, and cannot change: add another port, and remove this one", entry.key);
        return problems.add(origin, problem);
    }
    if !keys.clear(&entry.key) {
        let known: Vec<&str> = T::names(false).into_iter().filter(|key| !PLACES.contains(key)).chain(["bridge"]).collect();
        return problems.add(origin, unknown("key", &entry.key, &known));
    }
    if entry.raw.text() != Some(NOTHING) {
        keys.set(entry, problems);
    }
}

/// Two keys in the order of their lines.
fn in_order<'a>(one: &'a Entry, other: &'a Entry) -> (&'a Entry, &'a Entry) {
    let line = |entry: &Entry| match entry.raw.origin {
        Origin::File { line, .. } => line,
        Origin::Flag(_) | Origin::Verb(_) | Origin::Default => 0,
    };
    if line(one) > line(other) { (other, one) } else { (one, other) }
}

/// The table without a namespace, which only a TAP has.
fn without_netns(raw: &Raw, entries: &[Entry], problems: &mut Problems) -> Raw {
    if let Some(netns) = entries.iter().find(|entry| entry.key == "netns") {
        let problem = "only a TAP is made in another namespace; this port is in vswitchd's own: leave netns out";
        problems.add(&netns.raw.origin, problem);
    }
    let others = entries.iter().filter(|entry| entry.key != "netns").cloned().collect();
    Raw { origin: raw.origin.clone(), value: RawValue::Table(others) }
}

impl CommonKeys {
    /// A port of this name and kind.
    fn port(&self, table: &Origin, name: &str, kind: PortKind, problems: &mut Problems) -> Option<Port> {
        let (identity, has_mac) = (self.identity.identity(), matches!(&kind, PortKind::Tap(tap) if !tap.attach));
        let station = self.station.station(identity.id.is_some(), has_mac, problems)?;
        Some(Port {
            origin: table.clone(),
            bridge: 0,
            name: name.to_owned(),
            kind,
            vlans: self.vlan.vlans(table, problems)?,
            mtu: self.mtu.as_ref().map(|mtu| mtu.value.get()),
            gro: Gro::default(),
            limits: self.limit.limits(),
            identity,
            station,
            absence: Absence::default(),
        })
    }
}

impl DeviceKeys {
    /// A port of this device.
    fn port(&self, port: Port) -> Port {
        Port { gro: self.gro(), absence: self.absence.absence(), ..port }
    }

    fn offload(&self) -> bool {
        self.offload.as_ref().is_none_or(|offload| offload.value)
    }

    fn gro(&self) -> Gro {
        self.gro.as_ref().map_or_else(Gro::default, |gro| gro.value)
    }
}

impl Port {
    /// The TUN device of a tunnel of IP packets.
    pub(crate) fn tun(tunnel: &IpTunnel) -> Port {
        let kind = PortKind::Tun(Tun { name: tunnel.name.clone(), netns: tunnel.netns.clone(), address: tunnel.address });
        Port {
            origin: tunnel.origin.clone(),
            bridge: 0,
            name: tunnel.name.clone(),
            kind,
            vlans: Vlans::Trunk(Trunks::All),
            mtu: tunnel.mtu,
            gro: Gro::default(),
            limits: Limits::NONE,
            identity: Identity::default(),
            station: Station::default(),
            absence: Absence::default(),
        }
    }

    /// Whether it is a port of a bridge.
    #[must_use]
    pub fn is_bridged(&self) -> bool {
        !matches!(self.kind, PortKind::Tun(_))
    }

    /// The VLAN setting in words; `IP in UDP` for a TUN device.
    #[must_use]
    pub fn vlan_text(&self) -> String {
        if self.is_bridged() { self.vlans.to_string() } else { "IP in UDP".to_owned() }
    }

    /// The name with the namespace, if its interface has one: `eth0@blue`.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.link() {
            Some((link, Some(netns))) => format!("{link}@{netns}"),
            _ => self.name.clone(),
        }
    }

    /// The link that it is, and the namespace of that link.
    #[must_use]
    pub fn link(&self) -> Option<(&str, Option<&Netns>)> {
        match self.place() {
            Location::Link(name, netns) => Some((name, netns)),
            Location::Path(_) | Location::Address(_) => None,
        }
    }

    /// The host's interface that it shares with the host.
    #[must_use]
    pub fn shared_interface(&self) -> Option<&str> {
        match &self.kind {
            PortKind::Packet(packet) => Some(&packet.interface),
            _ => None,
        }
    }

    /// Gives a device that the switch makes this MTU, if none was written.
    pub fn propose_mtu(&mut self, mtu: Option<u32>) {
        if self.kind.is_tuntap() {
            self.mtu = self.mtu.or(mtu);
        }
    }

    /// The guest's place, where several guests connect to one path or address.
    #[must_use]
    pub fn slot(&self) -> Option<(&Address, Slot)> {
        match &self.kind {
            PortKind::Stream(Stream { address, slot: Some(slot) }) => Some((address, *slot)),
            _ => None,
        }
    }

    /// Its name in a list of ports. Of the places for guests of one path or address, the first has the names of all, the others `None`.
    #[must_use]
    pub fn title(&self) -> Option<String> {
        match self.slot() {
            None | Some((_, Slot { count: 1, .. })) => Some(self.name.clone()),
            Some((_, Slot { number: 1, count })) => Some(format!("{}..{count}", self.name)),
            Some(_) => None,
        }
    }

    /// Whether it is the same port, perhaps with other keys.
    #[must_use]
    pub fn is_same_port(&self, other: &Port) -> bool {
        let number = |port: &Port| port.slot().map(|(_, slot)| slot.number);
        self.place() == other.place() && number(self) == number(other)
    }

    /// Whether the port can become the other one with the device that it has.
    #[must_use]
    pub fn keeps_device(&self, other: &Port) -> bool {
        self.is_same_port(other) && self.kind.device() == other.kind.device()
    }

    /// Takes over those keys of the other one for which no other device is needed.
    pub fn adopt(&mut self, other: &Port) {
        self.name.clone_from(&other.name);
        self.bridge = other.bridge;
        self.vlans.clone_from(&other.vlans);
        self.gro = other.gro;
        self.limits = other.limits;
        self.mtu = other.mtu;
        self.identity.clone_from(&other.identity);
        self.station.clone_from(&other.station);
        self.absence = other.absence;
        if let (PortKind::Stream(mine), PortKind::Stream(other)) = (&mut self.kind, &other.kind) {
            mine.slot = other.slot;
        }
    }

    /// Its keys: `access VLAN 10, mtu 1400`.
    #[must_use]
    pub fn keys_text(&self) -> String {
        let mut text = self.vlan_text();
        if let Some(mtu) = self.mtu {
            let _ = write!(text, ", mtu {mtu}");
        }
        if let Some((_, slot)) = self.slot() {
            let _ = write!(text, ", {} guests", slot.count);
        }
        text += self.gro.keys_text();
        text += &self.kind.keys_text();
        if self.is_bridged() {
            let station = self.station.keys_text() + &self.identity.keys_text();
            text + &self.limits.keys_text() + &station + self.absence.keys_text()
        } else {
            text
        }
    }

    /// The interface, path or address that no other port can have.
    #[must_use]
    pub fn where_it_is(&self) -> String {
        self.slot().map_or_else(|| self.name.clone(), |(address, _)| address.to_string())
    }

    /// Whether both are for the same interface, path or address.
    #[must_use]
    pub fn clashes_with(&self, other: &Port) -> bool {
        self.place() == other.place()
    }

    fn place(&self) -> Location<'_> {
        match &self.kind {
            PortKind::Tap(tap) => Location::Link(&tap.name, tap.netns.as_ref()),
            PortKind::Tun(tun) => Location::Link(&tun.name, tun.netns.as_ref()),
            PortKind::Packet(packet) => Location::Link(&packet.interface, None),
            PortKind::Stream(Stream { address: Address::Unix(path), .. }) => Location::Path(path),
            PortKind::Stream(Stream { address: Address::Tcp(address), .. }) => Location::Address(address),
            PortKind::Dgram(dgram) => Location::Path(&dgram.path),
        }
    }

    /// A warning about a setting that may be a mistake.
    pub(crate) fn warning(&self) -> Option<Problem> {
        match &self.kind {
            PortKind::Stream(stream) => stream.warning().map(|text| Problem::new(&self.origin, text)),
            _ => None,
        }
    }
}

impl PortKind {
    /// Whether it is a device that the switch makes with `/dev/net/tun`.
    #[must_use]
    pub fn is_tuntap(&self) -> bool {
        matches!(self, PortKind::Tap(_) | PortKind::Tun(_))
    }

    /// Whether it is a socket that a guest's network card is at, which has no MTU but the one that is written here and there.
    #[must_use]
    pub fn is_guest_socket(&self) -> bool {
        matches!(self, PortKind::Stream(_) | PortKind::Dgram(_))
    }

    /// The same without the keys that can change while the device stays.
    fn device(&self) -> PortKind {
        let mut device = self.clone();
        if let PortKind::Stream(Stream { slot: Some(slot), .. }) = &mut device {
            slot.count = 0;
        }
        device
    }

    fn keys_text(&self) -> String {
        match self {
            PortKind::Tap(tap) => tap.keys_text(),
            PortKind::Packet(packet) => packet.keys_text(),
            PortKind::Stream(stream) => stream.keys_text(),
            PortKind::Dgram(dgram) => dgram.keys_text(),
            PortKind::Tun(_) => String::new(),
        }
    }
}

/// The keys of all kinds, since editors are to offer each of them until the kind is known.
#[cfg(test)]
impl schemars::JsonSchema for PortKeys {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let kinds = [
            TapKeys::json_schema(generator),
            PacketKeys::json_schema(generator),
            StreamKeys::json_schema(generator),
            DgramKeys::json_schema(generator),
        ];
        crate::document::merged("A port of a bridge: one of tap, packet, stream and dgram, and its settings.", &kinds)
    }
}
