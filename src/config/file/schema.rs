//! The keys of the file, as serde takes them and as the schema for editors has them.
//!
//! Nothing is needed here and numbers have no range: which keys belong together and what a value may be is checked once,
//! where the flags are. In the tests' build these types make `docs/vswitchd.schema.json`.

use std::collections::BTreeMap;
use std::fmt;

#[cfg(test)]
use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

/// Keys to texts, in the order of the keys.
pub(super) type Pairs = BTreeMap<String, String>;

/// The configuration of vswitchd.
#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    /// Threads that carry frames, 1 to 256. Default: one per core, at most one per port and uplink.
    pub(super) workers: Option<i64>,
    /// Microseconds that a busy worker looks for more frames before it sleeps, 0 to 1,000; 0 is never. Default: 50.
    pub(super) busy_poll: Option<i64>,
    pub(super) control: Option<Control>,
    pub(super) metrics: Option<Metrics>,
    /// Bridges by their names, at most 16. Flags add to br0.
    #[serde(default)]
    pub(super) bridge: BTreeMap<String, Bridge>,
    pub(super) uplink: Option<Uplink>,
    pub(super) nat: Option<Nat>,
    /// What can be reached from outside.
    #[serde(default)]
    pub(super) publish: Vec<Publish>,
    /// The ways to other hosts.
    #[serde(default)]
    pub(super) tunnel: Vec<Tunnel>,
}

/// The control socket.
#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Control {
    /// Its path, or none. Default: /run/vswitchd.sock as root, $XDG_RUNTIME_DIR/vswitchd.sock otherwise.
    pub(super) path: Option<String>,
    /// The group, by name or number, whose members may do everything. Default: only root and the daemon's own user.
    pub(super) group: Option<Word>,
    /// Other users may read. Default: false.
    pub(super) read_only_others: Option<bool>,
}

/// The numbers for Prometheus, over TCP.
#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Metrics {
    /// ADDR:PORT, such as 127.0.0.1:9100. Default: only over the control socket.
    pub(super) listen: Option<String>,
    /// Names by which it may be asked for, besides localhost and addresses.
    pub(super) hosts: Option<Vec<String>>,
}

/// A switch with its ports.
#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Bridge {
    /// Most addresses that the bridge learns, 10 to 1,000,000. Default: 8192.
    pub(super) mac_table_size: Option<i64>,
    /// Seconds until an address that was not seen again is forgotten, 1 to 86,400. Default: 300.
    pub(super) mac_aging_time: Option<i64>,
    /// The router's address for untagged frames, with its prefix length. Default with a NAT uplink and no gateway of any
    /// bridge: 10.77.0.1/24 on br0, or on the first bridge by name.
    pub(super) gateway: Option<String>,
    /// The same by VLAN; 0 is for untagged frames. Instead of gateway.
    pub(super) gateways: Option<Pairs>,
    /// Where frames enter and leave.
    #[serde(default)]
    pub(super) port: Vec<Port>,
}

/// A port of a bridge: one of tap, packet, stream and dgram, and its settings.
#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Port {
    /// The name of a TAP that the switch makes.
    pub(super) tap: Option<String>,
    /// The name of an interface whose network side is the port.
    pub(super) packet: Option<String>,
    /// The path, or ADDR:PORT, of a socket that guests connect to.
    pub(super) stream: Option<String>,
    /// The path of a socket with a frame a datagram.
    pub(super) dgram: Option<String>,
    /// Where a TAP is made: a name under /run/netns, a path, or pid:N. Default: where vswitchd runs.
    pub(super) netns: Option<String>,
    /// The VLAN of an access or native port, 1 to 4094.
    pub(super) vlan: Option<i64>,
    /// The VLANs that a trunk carries, 0 to 4094. Default: all.
    pub(super) trunks: Option<Vec<i64>>,
    /// access, trunk, native-tagged or native-untagged. Default: access with a vlan, else trunk.
    #[cfg_attr(test, schemars(extend("enum" = ["access", "trunk", "native-tagged", "native-untagged"])))]
    pub(super) vlan_mode: Option<String>,
    /// Of packets, in bytes, 68 to 65,521.
    pub(super) mtu: Option<i64>,
    /// Segmentation and checksum offload, of tap and packet. Default: true.
    pub(super) offload: Option<bool>,
    /// Segments are coalesced on their way to it, of tap and packet. Default: true.
    pub(super) gro: Option<bool>,
    /// own, or auto: a TAP that another process holds is joined from its network side. Default: own.
    #[cfg_attr(test, schemars(extend("enum" = ["own", "auto"])))]
    pub(super) attach: Option<String>,
    /// How many guests a stream is ready for, 1 to 1,000. Default: 16.
    pub(super) guests: Option<i64>,
    /// server, or client: a stream connects to the guest. Default: server.
    #[cfg_attr(test, schemars(extend("enum" = ["server", "client"])))]
    pub(super) mode: Option<String>,
    /// The guest's own socket, of dgram. Default: whichever sent last.
    pub(super) remote: Option<String>,
}

/// The way out.
#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Uplink {
    /// The host's interface that leads outside.
    pub(super) interface: Option<String>,
    /// nat: route and translate; bridge: a plain port of a bridge. Default: nat.
    #[cfg_attr(test, schemars(extend("enum" = ["nat", "bridge"])))]
    pub(super) mode: Option<String>,
    /// Which bridge it is a port of in bridge mode. Default: br0.
    pub(super) bridge: Option<String>,
    /// An own address with its prefix length, or a list with more behind it. Default: share the host's.
    pub(super) address: Option<Words>,
    /// The next hop beyond the uplink's network. Default: as the host's routes say.
    pub(super) gateway: Option<String>,
}

/// How guests' packets are translated.
#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Nat {
    /// Outside ports to choose from. Default: 1024-65535.
    pub(super) ports: Option<String>,
    /// Most connections at once, 1,024 to 4,000,000. Default: 262144.
    pub(super) max_connections: Option<i64>,
    /// Most of them that one port of the bridge may have. Default: half of max-connections.
    pub(super) max_connections_per_port: Option<i64>,
    /// Most outside ports that one guest may have, for each protocol. Default: 32768.
    pub(super) max_ports_per_guest: Option<i64>,
    /// endpoint-independent or address-and-port-dependent. Default: endpoint-independent.
    #[cfg_attr(test, schemars(extend("enum" = ["endpoint-independent", "address-and-port-dependent"])))]
    pub(super) mapping: Option<String>,
    /// endpoint-independent or address-and-port-dependent. Default: address-and-port-dependent.
    #[cfg_attr(test, schemars(extend("enum" = ["endpoint-independent", "address-and-port-dependent"])))]
    pub(super) filtering: Option<String>,
    pub(super) timeouts: Option<Timeouts>,
    /// TCP connections whose opening was not seen are taken up. Default: true.
    pub(super) tcp_loose: Option<bool>,
    /// TCP segments outside of the window pass. Default: false.
    pub(super) tcp_liberal: Option<bool>,
    /// The MSS that TCP announces is lowered to what the uplink carries. Default: true.
    pub(super) mss_clamp: Option<bool>,
}

/// Seconds without traffic until a connection ends, 1 to 604,800.
#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Timeouts {
    /// An open TCP connection. Default: 7440.
    pub(super) tcp_established: Option<i64>,
    /// One that is closing or was reset. Default: 240.
    pub(super) tcp_transitory: Option<i64>,
    /// One that is being opened. Default: 240.
    pub(super) tcp_opening: Option<i64>,
    /// Default: 300.
    pub(super) udp: Option<i64>,
    /// Queries such as ping. Default: 60.
    pub(super) icmp: Option<i64>,
    /// All other protocols. Default: 600.
    pub(super) other: Option<i64>,
}

/// A port of the uplink's address that is a guest's, or a whole address.
#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Publish {
    /// PORT, PORT-PORT, ADDR:PORT, ADDR:PORT-PORT; or ADDR, all of an own address.
    pub(super) listen: Option<Word>,
    /// GUEST:PORT or GUEST:PORT-PORT; or GUEST behind a whole address.
    pub(super) to: Option<String>,
    /// tcp, udp or tcp+udp. Default: tcp.
    #[cfg_attr(test, schemars(extend("enum" = ["tcp", "udp", "tcp+udp"])))]
    pub(super) protocol: Option<String>,
}

/// A way to other hosts.
#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Tunnel {
    /// vxlan; udp: bare Ethernet in UDP; udp-ip: the IPv4 packets of a TUN device in UDP, as flannel's.
    #[serde(rename = "type")]
    #[cfg_attr(test, schemars(extend("enum" = ["vxlan", "udp", "udp-ip"])))]
    pub(super) kind: Option<String>,
    /// Which bridge it is a port of; not of udp-ip. Default: br0.
    pub(super) bridge: Option<String>,
    /// The network, 0 to 16,777,215; of vxlan.
    pub(super) vni: Option<i64>,
    /// This host's address. Default: any.
    pub(super) local: Option<String>,
    /// The UDP port here and there. Default: 4789 of vxlan, 8285 of udp-ip.
    pub(super) port: Option<i64>,
    /// The other hosts' addresses.
    pub(super) remotes: Option<Vec<String>>,
    /// A multicast group in which other hosts are found; of vxlan, instead of remotes.
    pub(super) group: Option<String>,
    /// Which hosts in the group are believed: address blocks.
    pub(super) peers: Option<Vec<String>>,
    /// The host's interface that datagrams go through. Default: as the host's routes say.
    pub(super) dev: Option<String>,
    /// As of a port.
    pub(super) vlan: Option<i64>,
    /// As of a port.
    pub(super) trunks: Option<Vec<i64>>,
    /// As of a port.
    #[cfg_attr(test, schemars(extend("enum" = ["access", "trunk", "native-tagged", "native-untagged"])))]
    pub(super) vlan_mode: Option<String>,
    /// Of the packets inside, in bytes, 68 to 65,521. Default: what the way to the other hosts leaves.
    pub(super) mtu: Option<i64>,
    /// Stations that are known to be behind a remote: MAC address to remote.
    pub(super) mac: Option<Pairs>,
    /// Other stations are learned. Default: true.
    pub(super) learning: Option<bool>,
    /// Hops of the outer header, 1 to 255, or inherit. Default: 64.
    pub(super) ttl: Option<Word>,
    /// Type of service of the outer header, 0 to 255, or inherit. Default: 0.
    pub(super) tos: Option<Word>,
    /// May routers not cut the datagrams? set, unset or inherit. Default: set.
    #[cfg_attr(test, schemars(extend("enum" = ["set", "unset", "inherit"])))]
    pub(super) df: Option<String>,
    /// The outer UDP checksum: auto, on or off. Default: auto.
    #[cfg_attr(test, schemars(extend("enum" = ["auto", "on", "off"])))]
    pub(super) csum: Option<String>,
    /// The name of the TUN device, of udp-ip.
    pub(super) tun: Option<String>,
    /// Where the TUN device is made, as of a port.
    pub(super) netns: Option<String>,
    /// Networks that are behind other hosts, of udp-ip: network to host.
    pub(super) routes: Option<Pairs>,
    /// The TUN device's address with the network of all of the tunnel's hosts. Default: left to others.
    pub(super) address: Option<String>,
}

/// A text, or a number that is taken as one.
#[derive(Debug)]
#[cfg_attr(test, derive(JsonSchema), schemars(untagged))]
pub(super) enum Word {
    Number(i64),
    Text(String),
}

impl fmt::Display for Word {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Number(number) => number.fmt(out),
            Word::Text(text) => text.fmt(out),
        }
    }
}

/// A text, or a list of them.
#[derive(Debug)]
#[cfg_attr(test, derive(JsonSchema), schemars(untagged))]
pub(super) enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    pub(super) fn texts(&self) -> &[String] {
        match self {
            Words::One(text) => std::slice::from_ref(text),
            Words::Many(texts) => texts,
        }
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Word, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Word;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a number or a string")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Word, E> {
                Ok(Word::Number(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Word, E> {
                Ok(Word::Text(text.to_owned()))
            }
        }
        from.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Words, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Words;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Words, E> {
                Ok(Words::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Words::Many(texts))
            }
        }
        from.deserialize_any(Either)
    }
}
