//! The configuration: what the words mean, checked before anything starts.

pub(crate) mod address;
pub(crate) mod bridge;
pub(crate) mod control;
mod file;
mod metrics;
pub(crate) mod nat;
pub(crate) mod plan;
mod port;
pub(crate) mod publish;
pub(crate) mod router;
pub(crate) mod tunnel;
pub(crate) mod uplink;
mod vlan;
mod words;

use std::fmt::{self, Write as _};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

use thiserror::Error;
use vswitch::BridgeId;

use crate::cli::{BridgeWords, Flags};
use bridge::{BridgeConfig, parse_bridges, place_of, words_of};
use control::ControlConfig;
pub(crate) use metrics::MetricsConfig;
pub(crate) use port::{DeviceConfig, DgramConfig, PacketConfig, PortConfig, StreamConfig};
use port::{parse_port, parse_tap};
pub(crate) use publish::Publish;
use router::{Gateway, RouterConfig};
use tunnel::ip::{IpTunnelConfig, parse_ip_tunnels};
use tunnel::{TunnelConfig, check_against_gateways, check_ip_against_others, parse_tunnels};
use uplink::{Uplink, parse_uplink};
use words::check_range;
pub(crate) use words::nearest;

/// How many ports all bridges can have.
pub(crate) const MAX_PORTS: usize = 1024;

const MAX_WORKERS: usize = 256;
/// What holds if it is not said, as `--help` has it.
const BUSY_POLL: u32 = 50;

const BUSY_POLL_RANGE: RangeInclusive<u32> = 0..=1000;
const AGING_RANGE: RangeInclusive<u32> = 1..=86_400;

/// The bridges, their router, and how many threads carry their frames.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// One at least; a port's bridge is its place here.
    pub(crate) bridges: Vec<BridgeConfig>,
    /// Of each bridge the TAP ports, behind them those of other kinds; and behind all the TUN devices of `ip_tunnels`.
    pub(crate) ports: Vec<PortConfig>,
    /// The host's interface that is one more port, behind those of `ports`: an uplink in bridge mode.
    pub(crate) bridge_uplink: Option<BridgedUplink>,
    /// Each of their hosts is one more port.
    pub(crate) tunnels: Vec<TunnelConfig>,
    /// Beside the bridges.
    pub(crate) ip_tunnels: Vec<IpTunnelConfig>,
    /// `None` where the switch is all.
    pub(crate) router: Option<RouterConfig>,
    /// How many things there are to read: the TAPs in their order, and behind them the uplink and what
    /// receives for tunnels.
    pub(crate) readers: usize,
    pub(crate) workers: usize,
    /// How long a busy worker looks for more frames before it sleeps, in microseconds.
    pub(crate) busy_poll: u32,
    pub(crate) control: ControlConfig,
    pub(crate) metrics: Option<MetricsConfig>,
    /// What is allowed but should be thought over, for people.
    pub(crate) warnings: Vec<String>,
}

/// A host's interface that is a port of a bridge: an uplink in bridge mode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BridgedUplink {
    pub(crate) interface: String,
    pub(crate) bridge: BridgeId,
}

/// A configuration that cannot be, and the fix.
#[derive(Debug, Error)]
#[error("{place}: {problem}")]
pub(crate) struct ConfigError {
    place: String,
    problem: String,
}

impl ConfigError {
    fn new(place: impl fmt::Display, problem: impl Into<String>) -> ConfigError {
        ConfigError { place: place.to_string(), problem: problem.into() }
    }
}

impl Config {
    /// From the command line alone.
    pub(crate) fn from_flags(flags: &Flags) -> Result<Config, ConfigError> {
        let words = words_of(flags);
        let bridges = parse_bridges(&words)?;
        let mut ports = parse_ports(&words)?;
        let (bridge_uplink, nat_uplink) = match parse_uplink(flags, &words, &ports)? {
            Uplink::None => (None, None),
            Uplink::Bridge(uplink) => (Some(uplink), None),
            Uplink::Nat(uplink) => (None, Some(uplink)),
        };
        let mut warnings: Vec<String> = ports.iter().filter_map(PortConfig::warning).collect();
        let (tunnels, ip_tunnels) = parse_all_tunnels(flags, &words, &ports, &mut warnings)?;
        let on_the_bridge = ports.len() + usize::from(bridge_uplink.is_some());
        check_count(on_the_bridge, ports.iter().any(|port| port.slot().is_some()), &tunnels, &ip_tunnels)?;
        // What comes by a tunnel's socket is for one of the others, and what they send goes into it: it is read by one of
        // their workers, and none is started for it.
        let ends = on_the_bridge + usize::from(nat_uplink.is_some()) + ip_tunnels.len();
        let readers = ends + crate::tunnel::endpoint_count(&tunnels, &ip_tunnels);
        let router = RouterConfig::from_flags(flags, nat_uplink, &mut warnings)?;
        let gateways = router.as_ref().map_or(&[][..], |router| &router.gateways);
        check_populated(&bridges, &ports, &tunnels, gateways, !ip_tunnels.is_empty())?;
        check_against_gateways(&tunnels, &ip_tunnels, gateways)?;
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = flags.workers.unwrap_or(cores.min(ends.max(1)));
        check_range("--workers", workers, 1..=MAX_WORKERS)?;
        let busy_poll = flags.busy_poll.unwrap_or(BUSY_POLL);
        check_range("--busy-poll", busy_poll, BUSY_POLL_RANGE)?;
        let metrics = MetricsConfig::parse(flags.metrics.as_deref(), router.as_ref(), &mut warnings)?;
        ports.extend(ip_tunnels.iter().map(PortConfig::tun));
        for (index, port) in ports.iter_mut().enumerate() {
            port.set_queues(queues_of(index, readers, workers));
        }
        Ok(Config {
            bridges,
            ports,
            bridge_uplink,
            tunnels,
            ip_tunnels,
            router,
            readers,
            workers,
            busy_poll,
            control: ControlConfig::from_flags(flags)?,
            metrics,
            warnings,
        })
    }

    /// The host's interface that is the uplink, whatever its mode.
    pub(crate) fn uplink_interface(&self) -> Option<&str> {
        let nat = self.router.as_ref().and_then(|router| router.uplink.as_ref());
        let bridged = self.bridge_uplink.as_ref().map(|uplink| uplink.interface.as_str());
        bridged.or(nat.map(|uplink| uplink.interface.as_str()))
    }

    /// The way out and the router in lines, for people.
    pub(crate) fn router_summary(&self) -> String {
        let port_of = |uplink: &BridgedUplink| {
            let bridge = self.name_among_several(uplink.bridge).unwrap_or("the bridge");
            format!("uplink {}: port of {bridge}\n", uplink.interface)
        };
        let uplink = self.bridge_uplink.as_ref().map_or_else(String::new, port_of);
        uplink + &self.router.as_ref().map_or_else(String::new, |router| router.summary(|bridge| self.name_among_several(bridge)))
    }

    /// A bridge's name, where people need it to tell one from another.
    pub(crate) fn name_among_several(&self, bridge: BridgeId) -> Option<&str> {
        self.bridges.get(bridge.index()).filter(|_| self.bridges.len() > 1).map(|bridge| bridge.name.as_str())
    }

    /// `, on br1`, where people need it.
    fn on(&self, bridge: BridgeId) -> String {
        self.name_among_several(bridge).map_or_else(String::new, |name| format!(", on {name}"))
    }

    /// The UDP ports that tunnels receive by, each once and in their order.
    pub(crate) fn tunnel_ports(&self) -> Vec<u16> {
        let bridged = self.tunnels.iter().map(|tunnel| tunnel.port);
        let mut ports: Vec<u16> = bridged.chain(self.ip_tunnels.iter().map(|tunnel| tunnel.port)).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// A line for each tunnel, for people.
    pub(crate) fn tunnel_summary(&self) -> String {
        let mut text = String::new();
        for tunnel in &self.tunnels {
            let _ = writeln!(text, "{tunnel}{}", self.on(tunnel.bridge));
        }
        for tunnel in &self.ip_tunnels {
            let _ = writeln!(text, "{tunnel}");
        }
        text
    }
}

/// `--vxlan`, `--udp` and `--udp-ip`, as often as they are given.
fn parse_all_tunnels(
    flags: &Flags,
    words: &[BridgeWords],
    ports: &[PortConfig],
    warnings: &mut Vec<String>,
) -> Result<(Vec<TunnelConfig>, Vec<IpTunnelConfig>), ConfigError> {
    let mut names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    let ip_tunnels = parse_ip_tunnels(&flags.udp_ip, warnings)?;
    for tunnel in &ip_tunnels {
        if ports.iter().any(|port| port.link() == Some((&tunnel.name, tunnel.netns.as_ref()))) {
            return Err(ConfigError::new("--udp-ip", format!("{} is a port of the bridge: use another name", tunnel.name)));
        }
        names.push(&tunnel.name);
    }
    let tunnels = parse_tunnels(words, &names, warnings)?;
    check_ip_against_others(&ip_tunnels, &tunnels)?;
    if let Some((one, other)) = crate::tunnel::clash(&tunnels) {
        let problem =
            format!("{one} and {other} share a socket, and nothing tells their datagrams apart: give them different ports");
        return Err(ConfigError::new("--vxlan", problem));
    }
    Ok((tunnels, ip_tunnels))
}

/// Bridges with so many ports and uplinks, and tunnels.
fn check_count(
    on_the_bridge: usize,
    has_slots: bool,
    tunnels: &[TunnelConfig],
    ip_tunnels: &[IpTunnelConfig],
) -> Result<(), ConfigError> {
    let count = on_the_bridge + crate::tunnel::peer_count(tunnels, ip_tunnels);
    if count <= MAX_PORTS {
        return Ok(());
    }
    let hosts =
        if tunnels.is_empty() && ip_tunnels.is_empty() { "" } else { "; each remote of a tunnel is one, and a group is 65" };
    let guests = if has_slots { "; a guest's place is one, of which a stream: has 16 unless guests= says so" } else { "" };
    Err(ConfigError::new("--tap", format!("{count} ports, but a bridge has at most {MAX_PORTS}{hosts}{guests}")))
}

/// `--tap` and `--port` of all bridges, as often as they are given.
fn parse_ports(words: &[BridgeWords]) -> Result<Vec<PortConfig>, ConfigError> {
    let mut ports: Vec<PortConfig> = Vec::new();
    for (number, bridge) in words.iter().enumerate() {
        let taps = bridge.tap.iter().flat_map(|list| list.split(',')).map(|text| Ok(("--tap", vec![parse_tap(text)?])));
        let others = bridge.port.iter().map(|text| Ok(("--port", parse_port(text)?)));
        for parsed in taps.chain(others) {
            let (flag, mut parsed): (&str, Vec<PortConfig>) = parsed?;
            if let Some(port) = parsed.iter().find(|port| ports.iter().any(|other| other.clashes_with(port))) {
                return Err(ConfigError::new(flag, format!("{} is named twice", port.where_it_is())));
            }
            parsed.iter_mut().for_each(|port| port.bridge = BridgeId(number as u8));
            ports.append(&mut parsed);
        }
    }
    Ok(ports)
}

/// A bridge with nobody on it is a mistake. One without ports may have a gateway for the guests behind its tunnels, which
/// carry nothing to each other.
fn check_populated(
    bridges: &[BridgeConfig],
    ports: &[PortConfig],
    tunnels: &[TunnelConfig],
    gateways: &[Gateway],
    has_ip_tunnels: bool,
) -> Result<(), ConfigError> {
    let is_empty = |number: usize| {
        let id = BridgeId(number as u8);
        let is_routed = tunnels.iter().any(|tunnel| tunnel.bridge == id) && gateways.iter().any(|gateway| gateway.bridge == id);
        ports.iter().all(|port| port.bridge != id) && !is_routed
    };
    let Some((_, bridge)) = bridges.iter().enumerate().find(|(number, _)| is_empty(*number)) else { return Ok(()) };
    match bridges {
        // A tunnel without Ethernet needs no bridge.
        [_] if has_ip_tunnels => Ok(()),
        [_] => Err(ConfigError::new("--tap", "a switch needs a port: name at least one, such as --tap tap0,tap1")),
        _ => {
            let name = &bridge.name;
            let problem = format!(
                "bridge {name} has no port: name at least one, such as tap = \"tap0\" in [[bridge.{name}.port]], or leave {name} out"
            );
            Err(ConfigError::new(place_of(name), problem))
        }
    }
}

/// Each worker reads one queue of one reader in turn; only where there are more workers than readers is
/// one read by several workers, each from a queue of its own.
pub(crate) fn queues_of(reader: usize, readers: usize, workers: usize) -> usize {
    workers.saturating_sub(reader).div_ceil(readers).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(taps: &[&str]) -> Flags {
        let tap = taps.iter().map(ToString::to_string).collect();
        Flags { tap, workers: Some(2), ..Flags::default() }
    }

    fn config(taps: &[&str]) -> Result<Config, String> {
        Config::from_flags(&flags(taps)).map_err(|error| error.to_string())
    }

    #[test]
    fn ports_namespaces_and_keys() {
        let config =
            config(&["tap0,tap1@blue:vlan=10", "t@pid:7:trunks=10+20:mtu=9000:gro=off", "u@/proc/1/ns/net:offload=off"]).unwrap();
        let netns = |at: usize| config.ports[at].link().and_then(|(_, netns)| netns.map(ToString::to_string));
        assert_eq!(config.ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["tap0", "tap1", "t", "u"]);
        assert_eq!((netns(0), netns(1), netns(2)), (None, Some("blue".into()), Some("pid:7".into())));
        assert_eq!(netns(3), Some("/proc/1/ns/net".into()));
        assert_eq!(config.ports[1].vlan_text, "access VLAN 10");
        assert_eq!((config.ports[2].vlan_text.as_str(), config.ports[2].mtu()), ("trunk VLANs 10+20", Some(9000)));
        assert!(!config.ports[2].coalesce);
        assert!(matches!(&config.ports[3].device, DeviceConfig::Tap { spec, attach: false } if !spec.offload));
    }

    #[test]
    fn queues_follow_workers() {
        let queues = |readers: usize, workers| (0..readers).map(|n| queues_of(n, readers, workers)).collect::<Vec<_>>();
        assert_eq!(queues(3, 2), [1, 1, 1]);
        assert_eq!(queues(2, 2), [1, 1]);
        assert_eq!(queues(2, 5), [3, 2]);
        assert_eq!(queues(1, 4), [4]);
    }

    #[test]
    fn an_uplink_of_either_kind_is_read_too() {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        for (mode, readers) in [(None, 3), (Some("nat"), 3), (Some("bridge"), 3)] {
            let mode = mode.map(str::to_owned);
            let flags = Flags { uplink: Some("eth0".to_owned()), uplink_mode: mode, workers: None, ..flags(&["tap0,tap1"]) };
            let config = Config::from_flags(&flags).unwrap();
            assert_eq!((config.readers, config.workers), (readers, cores.min(readers)));
            let config = Config::from_flags(&Flags { workers: Some(3), ..flags }).unwrap();
            let queues = |port: &PortConfig| matches!(&port.device, DeviceConfig::Tap { spec, .. } if spec.queues == 1);
            assert!(config.ports.iter().all(queues), "the third worker reads the uplink");
        }
        assert_eq!(config(&["tap0,tap1"]).unwrap().readers, 2);
        let gateway = Config::from_flags(&Flags { gateway: vec!["10.0.0.1/24".to_owned()], ..flags(&["tap0,tap1"]) }).unwrap();
        assert_eq!(gateway.readers, 2);
    }

    #[test]
    fn the_way_out_is_a_port_or_routed_to() {
        let uplink = |mode: &str| {
            let mode = Some(mode.to_owned());
            Config::from_flags(&Flags { uplink: Some("eth0".to_owned()), uplink_mode: mode, ..flags(&["tap0"]) }).unwrap()
        };
        let bridge = uplink("bridge");
        assert!(bridge.router.is_none() && bridge.warnings.is_empty());
        assert_eq!(bridge.router_summary(), "uplink eth0: port of the bridge\n");
        let nat = uplink("nat");
        assert_eq!(nat.bridge_uplink, None);
        assert!(nat.router_summary().starts_with("gateway 10.77.0.1/24\nuplink eth0: nat by the host's own address\n"));
        assert_eq!(config(&["tap0"]).unwrap().router_summary(), "");
    }

    #[test]
    fn the_uplink_counts_among_the_ports_of_the_bridge() {
        let taps: Vec<String> = (0..MAX_PORTS).map(|n| format!("tap{n}")).collect();
        let full = |mode: Option<&str>| {
            let uplink = mode.map(|_| "eth0".to_owned());
            let mode = mode.map(str::to_owned);
            Config::from_flags(&Flags { uplink, uplink_mode: mode, ..flags(&[&taps.join(",")]) })
                .map_err(|error| error.to_string())
        };
        assert!(full(None).is_ok() && full(Some("nat")).is_ok());
        assert_eq!(full(Some("bridge")).unwrap_err(), "--tap: 1025 ports, but a bridge has at most 1024");
    }

    /// Texts that end early, or have a byte too many, are refused or taken, and no worse.
    #[test]
    fn no_text_is_the_end() {
        let texts = [
            "198.51.100.3/24,198.51.100.4",
            "10=10.0.0.1/24",
            "198.51.100.4:80-81:10.0.0.2:80-81/tcp",
            "ports=1-2,udp=9",
            "vni=1,remote=192.0.2.2+192.0.2.3,ttl=9,mac=2:0:0:0:0:1@192.0.2.2",
            "vni=1,group=ff02::1,peers=fe80::/10,dev=a",
            "port=7,remote=fe80::1,dev=a",
            "tun=t@pid:1,route=10.0.0.0/8@192.0.2.2,address=10.0.0.1/8",
            "tap0@pid:1:vlan=10:mtu=1500",
            "packet:eth1:vlan=10:offload=off",
            "stream:/run/a:guests=3:vlan=10",
            "stream:[::1%1]:5555:mode=client",
            "stream:127.0.0.1:5555:mtu=9000",
            "dgram:/run/a:remote=/run/b",
        ];
        for text in texts {
            for at in 0..=text.len() {
                for extra in ["", "/", ":", "-", ",", "=", "0", "\u{e9}"] {
                    for text in [format!("{}{extra}", &text[..at]), format!("{}{extra}{}", &text[..at], &text[at..])] {
                        let (one, many) = (|| Some(text.clone()), || vec![text.clone()]);
                        let uplink = || Flags { uplink: Some("eth0".to_owned()), ..flags(&["tap0"]) };
                        let _ = Config::from_flags(&Flags { uplink: one(), ..uplink() });
                        let _ = Config::from_flags(&Flags { uplink_address: one(), ..uplink() });
                        let _ = Config::from_flags(&Flags { uplink_gateway: one(), ..uplink() });
                        let _ = Config::from_flags(&Flags { gateway: many(), ..uplink() });
                        let _ = Config::from_flags(&Flags { publish: many(), ..uplink() });
                        let _ = Config::from_flags(&Flags { nat: many(), ..uplink() });
                        let _ = Config::from_flags(&Flags { vxlan: many(), ..uplink() });
                        let _ = Config::from_flags(&Flags { udp: many(), ..uplink() });
                        let _ = Config::from_flags(&Flags { udp_ip: many(), ..uplink() });
                        let _ = Config::from_flags(&Flags { tap: many(), ..uplink() });
                        let _ = Config::from_flags(&Flags { port: many(), ..uplink() });
                    }
                }
            }
        }
    }

    #[test]
    fn bad_input_is_answered_with_the_fix() {
        for (tap, say) in [
            ("tap0:vlna=10", "--tap tap0:vlna=10: unknown key 'vlna': did you mean 'vlan'?"),
            ("tap0:vlan=4095", "VLAN is a number from 1 to 4094, not '4095'"),
            ("tap0:vlan=10:trunks=20", "an access port has no trunks"),
            ("tap0:vlan-mode=native", "unknown vlan-mode 'native'; there are access, trunk"),
            ("tap0:vlan-mode=native-tagged", "needs a VLAN"),
            ("tap0:vlan-mode=trunk:vlan=10", "a trunk has no VLAN of its own"),
            ("tap0:vlan=10:vlan=11", "'vlan' is given twice"),
            ("tap0:mtu=67", "mtu is a number from 68 to 65521, not '67'"),
            ("tap0:gro=yes", "gro is on or off, not 'yes'"),
            ("tap0:vlan", "'vlan' is not KEY=VALUE"),
            ("tap0,tap0", "tap0 is named twice"),
            ("tap0,,tap1", "a TAP needs a name"),
            ("tap0@", "no namespace after '@'"),
            ("averyveryverylongname", "'averyveryverylongname' is 21 bytes long; the kernel takes at most 15"),
            ("a b", "'a b' cannot be an interface's name"),
        ] {
            let said = config(&[tap]).expect_err(tap);
            assert!(said.contains(say), "{tap}: {said}");
        }
        assert!(config(&[]).unwrap_err().contains("name at least one"));
    }
}
