//! The file's tables in the words of flags.

use std::fmt::{Display, Write as _};
use std::ops::RangeInclusive;

use vswitch::mac_table::SIZE_RANGE;

use super::schema::{Bridge, Control, File, Metrics, Nat, Pairs, Port, Publish, Tunnel, Uplink};
use super::source::Source;
use crate::cli::{BridgeWords, Flags};
use crate::config::bridge::{BRIDGE, place_of, place_of_key, unknown_bridge};
use crate::config::words::unknown;
use crate::config::{AGING_RANGE, BUSY_POLL_RANGE, ConfigError, MAX_WORKERS};

/// Between the keys of one TAP, and between TAPs.
const TAP_SEPARATORS: [char; 2] = [':', ','];

const TUNNELS: [&str; 3] = ["vxlan", "udp", "udp-ip"];

/// Writes flags, and notes where each comes from.
#[derive(Debug)]
pub(super) struct Writer {
    flags: Flags,
    bridges: Vec<BridgeWords>,
    source: Source,
}

/// One table as it is written: `KEY=VALUE` for each key that is given.
#[derive(Debug)]
struct Table<'a> {
    source: &'a Source,
    /// Of the table in the file: `tunnel.0`.
    path: String,
    /// The first stands between two pairs of the flag, and none of them in a value.
    separators: &'static [char],
    text: String,
    values: Vec<(String, String, Vec<String>)>,
}

impl Writer {
    pub(super) fn new(source: Source) -> Writer {
        Writer { flags: Flags::default(), bridges: Vec::new(), source }
    }

    /// The flags with the words of `br0`, and the other bridges beside.
    pub(super) fn finish(mut self) -> (Flags, Source) {
        if let Some(bridge) = self.bridges.iter_mut().find(|bridge| bridge.name == BRIDGE) {
            let BridgeWords { name, tap, port, gateway, vxlan, udp, mac_table_size, mac_aging_time } = std::mem::take(bridge);
            bridge.name = name;
            self.flags = Flags { tap, port, gateway, vxlan, udp, mac_table_size, mac_aging_time, ..self.flags };
        }
        self.flags.bridges = self.bridges;
        (self.flags, self.source)
    }

    pub(super) fn file(&mut self, file: &File) -> Result<(), ConfigError> {
        self.flags.workers = self.number("--workers", "workers", file.workers, 1..=MAX_WORKERS)?;
        self.flags.busy_poll = self.number("--busy-poll", "busy-poll", file.busy_poll, BUSY_POLL_RANGE)?;
        if let Some(control) = &file.control {
            self.control(control);
        }
        if let Some(metrics) = &file.metrics {
            self.metrics(metrics)?;
        }
        for (name, bridge) in &file.bridge {
            let words = self.bridge(name, bridge)?;
            self.bridges.push(words);
        }
        if let Some(uplink) = &file.uplink {
            self.uplink(uplink)?;
        }
        if let Some(nat) = &file.nat {
            self.nat(nat)?;
        }
        for (at, publish) in file.publish.iter().enumerate() {
            self.publish(publish, &format!("publish.{at}"))?;
        }
        for (at, tunnel) in file.tunnel.iter().enumerate() {
            self.tunnel(tunnel, format!("tunnel.{at}"))?;
        }
        Ok(())
    }

    fn control(&mut self, control: &Control) {
        if let Some(path) = &control.path {
            self.source.note("--control", "", "control.path", Vec::new());
            self.flags.control = Some(path.clone());
        }
        if let Some(group) = &control.group {
            self.source.note("--control-group", "", "control.group", Vec::new());
            self.flags.control_group = Some(group.to_string());
        }
        self.flags.control_read_only_others = control.read_only_others;
    }

    fn metrics(&mut self, metrics: &Metrics) -> Result<(), ConfigError> {
        let Some(listen) = &metrics.listen else {
            return Err(self.source.error("metrics", "where? Add listen = \"127.0.0.1:9100\""));
        };
        plain(&self.source, "metrics.listen", listen, &[','])?;
        let mut table = Table::new(&self.source, "metrics".to_owned(), &[',', '+'], listen.clone());
        table.value("listen", "listen", listen.clone());
        table.list("host", "hosts", metrics.hosts.as_deref())?;
        let Table { text, path, values, .. } = table;
        self.source.note("--metrics", "", &path, values);
        self.flags.metrics = Some(text);
        Ok(())
    }

    fn bridge(&mut self, name: &str, bridge: &Bridge) -> Result<BridgeWords, ConfigError> {
        let path = format!("bridge.{name}");
        self.source.note_place(place_of(name), &path);
        let mut words = BridgeWords { name: name.to_owned(), ..BridgeWords::default() };
        words.mac_table_size = self.number_of(name, "--mac-table-size", bridge.mac_table_size, SIZE_RANGE)?;
        words.mac_aging_time = self.number_of(name, "--mac-aging-time", bridge.mac_aging_time, AGING_RANGE)?;
        if bridge.gateway.is_some() && bridge.gateways.is_some() {
            let problem = "gateway and gateways are two ways to say one thing: leave gateway out, its VLAN in gateways is 0";
            return Err(self.source.error(&format!("{path}.gateway"), problem));
        }
        if let Some(gateway) = &bridge.gateway {
            words.gateway.push(self.gateway(gateway.clone(), gateway, &format!("{path}.gateway"))?);
        }
        for (vlan, gateway) in bridge.gateways.iter().flatten() {
            let path = format!("{path}.gateways.{vlan}");
            plain(&self.source, &path, vlan, &[',', '='])?;
            words.gateway.push(self.gateway(format!("{vlan}={gateway}"), gateway, &path)?);
        }
        for (at, port) in bridge.port.iter().enumerate() {
            self.port(&mut words, port, format!("{path}.port.{at}"))?;
        }
        Ok(words)
    }

    fn gateway(&mut self, text: String, gateway: &str, path: &str) -> Result<String, ConfigError> {
        plain(&self.source, path, gateway, &[',', '='])?;
        self.source.note("--gateway", &text, path, vec![(String::new(), String::new(), vec![gateway.to_owned()])]);
        Ok(text)
    }

    fn port(&mut self, bridge: &mut BridgeWords, port: &Port, path: String) -> Result<(), ConfigError> {
        let kinds = [("tap", &port.tap), ("packet", &port.packet), ("stream", &port.stream), ("dgram", &port.dgram)];
        let mut given = kinds.iter().filter_map(|(kind, name)| Some((*kind, name.as_deref()?)));
        let (kind, name) = match (given.next(), given.next()) {
            (Some(one), None) => one,
            (Some((one, _)), Some((other, _))) => {
                let problem = format!("a port is of one kind: leave out {one} or {other}");
                return Err(self.source.error(&format!("{path}.{other}"), problem));
            }
            (None, _) => {
                let problem = "what is this port? Add tap = \"tap0\", or packet, stream or dgram";
                return Err(self.source.error(&path, problem));
            }
        };
        self.check_port_name(kind, name, &format!("{path}.{kind}"))?;
        let mut text = name.to_owned();
        if let Some(netns) = &port.netns {
            let netns_path = format!("{path}.netns");
            if kind != "tap" {
                let problem = format!("only a TAP is made in another namespace, {kind} is in vswitchd's own: leave netns out");
                return Err(self.source.error(&netns_path, problem));
            }
            plain(&self.source, &netns_path, netns.strip_prefix("pid:").unwrap_or(netns), &TAP_SEPARATORS)?;
            let _ = write!(text, "@{netns}");
        }
        if kind != "tap" {
            text = format!("{kind}:{text}");
        }
        let separators: &[char] = if kind == "tap" { &TAP_SEPARATORS } else { &[':'] };
        let mut table = Table::new(&self.source, path, separators, text);
        table.value(kind, kind, name.to_owned());
        table.pair("vlan", port.vlan.as_ref())?;
        table.list("trunks", "trunks", port.trunks.as_deref())?;
        table.pair("vlan-mode", port.vlan_mode.as_ref())?;
        table.pair("mtu", port.mtu.as_ref())?;
        table.switch("offload", port.offload)?;
        table.switch("gro", port.gro)?;
        table.pair("attach", port.attach.as_ref())?;
        table.pair("guests", port.guests.as_ref())?;
        table.pair("mode", port.mode.as_ref())?;
        table.pair("remote", port.remote.as_ref())?;
        let Table { path, text, values, .. } = table;
        let (flag, list) = if kind == "tap" { ("--tap", &mut bridge.tap) } else { ("--port", &mut bridge.port) };
        list.push(text.clone());
        self.source.note(flag, &text, &path, values);
        Ok(())
    }

    /// What follows a name in the flag has keys of its own here.
    fn check_port_name(&self, kind: &str, name: &str, path: &str) -> Result<(), ConfigError> {
        match (kind, name.split_once('@')) {
            ("tap", Some((name, netns))) => {
                return Err(self.source.error(path, format!("write tap = \"{name}\" and netns = \"{netns}\"")));
            }
            // An address has colons; what would be keys of the flag has a '=' behind one.
            ("tap", None) => return plain(&self.source, path, name, &TAP_SEPARATORS),
            ("stream", _) if !name.split_once(':').is_some_and(|(_, rest)| rest.contains('=')) => return Ok(()),
            _ => {}
        }
        plain(&self.source, path, name, &[':'])
    }

    fn uplink(&mut self, uplink: &Uplink) -> Result<(), ConfigError> {
        let Some(interface) = &uplink.interface else {
            return Err(self.source.error("uplink", "which interface? Add interface = \"eth0\", the host's that leads outside"));
        };
        self.source.note("--uplink", "", "uplink.interface", Vec::new());
        self.flags.uplink = Some(interface.clone());
        if let Some(mode) = &uplink.mode {
            self.source.note("--uplink-mode", "", "uplink.mode", Vec::new());
            self.flags.uplink_mode = Some(mode.clone());
        }
        if let Some(bridge) = &uplink.bridge {
            self.source.note("--uplink-bridge", "", "uplink.bridge", Vec::new());
            self.flags.uplink_bridge = Some(bridge.clone());
        }
        if let Some(address) = &uplink.address {
            let list = address.texts().join(",");
            // Refused as a flag, and as words of it.
            self.source.note("--uplink-address", "", "uplink.address", Vec::new());
            self.source.note("--uplink-address", &list, "uplink.address", Vec::new());
            self.flags.uplink_address = Some(list);
        }
        if let Some(gateway) = &uplink.gateway {
            self.source.note("--uplink-gateway", "", "uplink.gateway", Vec::new());
            self.source.note("--uplink-gateway", gateway, "uplink.gateway", Vec::new());
            self.flags.uplink_gateway = Some(gateway.clone());
        }
        Ok(())
    }

    fn nat(&mut self, nat: &Nat) -> Result<(), ConfigError> {
        self.source.note("--nat", "", "nat", Vec::new());
        self.setting("ports", nat.ports.as_ref())?;
        self.setting("max-connections", nat.max_connections)?;
        self.setting("max-connections-per-port", nat.max_connections_per_port)?;
        self.setting("max-ports-per-guest", nat.max_ports_per_guest)?;
        self.setting("mapping", nat.mapping.as_ref())?;
        self.setting("filtering", nat.filtering.as_ref())?;
        self.setting("tcp-loose", nat.tcp_loose.map(on_off))?;
        self.setting("tcp-liberal", nat.tcp_liberal.map(on_off))?;
        self.setting("mss-clamp", nat.mss_clamp.map(on_off))?;
        let Some(timeouts) = &nat.timeouts else { return Ok(()) };
        self.setting("timeouts.tcp-established", timeouts.tcp_established)?;
        self.setting("timeouts.tcp-transitory", timeouts.tcp_transitory)?;
        self.setting("timeouts.tcp-opening", timeouts.tcp_opening)?;
        self.setting("timeouts.udp", timeouts.udp)?;
        self.setting("timeouts.icmp", timeouts.icmp)?;
        self.setting("timeouts.other", timeouts.other)
    }

    /// One of the translation, and so a flag of its own.
    fn setting(&mut self, path: &str, value: Option<impl Display>) -> Result<(), ConfigError> {
        let Some(value) = value.map(|value| value.to_string()) else { return Ok(()) };
        let key = path.rsplit('.').next().unwrap_or(path);
        let path = format!("nat.{path}");
        plain(&self.source, &path, &value, &[','])?;
        let text = format!("{key}={value}");
        self.source.note("--nat", &text, &path, Vec::new());
        self.flags.nat.push(text);
        Ok(())
    }

    fn publish(&mut self, publish: &Publish, path: &str) -> Result<(), ConfigError> {
        let (Some(listen), Some(to)) = (&publish.listen, &publish.to) else {
            let problem = "what is published? Add listen = \"8080\" and to = \"10.77.0.2:80\", or whichever they are";
            return Err(self.source.error(path, problem));
        };
        plain(&self.source, &format!("{path}.to"), to, &['/'])?;
        let protocol = publish.protocol.as_ref().map_or_else(String::new, |protocol| format!("/{protocol}"));
        let text = format!("{listen}:{to}{protocol}");
        let mut values = Vec::new();
        let listen = listen.to_string();
        // An address and ports are named apart.
        for (key, value) in
            [("listen", listen.as_str()), ("to", to), ("protocol", publish.protocol.as_deref().unwrap_or_default())]
        {
            let parts = value.split(':').chain([value]).map(str::to_owned).collect();
            values.push((key.to_owned(), key.to_owned(), parts));
        }
        self.source.note("--publish", &text, path, values);
        self.flags.publish.push(text);
        Ok(())
    }

    fn tunnel(&mut self, tunnel: &Tunnel, path: String) -> Result<(), ConfigError> {
        let kind = tunnel.kind.as_deref();
        let flag = match kind {
            Some("vxlan") => "--vxlan",
            Some("udp") => "--udp",
            Some("udp-ip") => "--udp-ip",
            Some(other) => return Err(self.source.error(&format!("{path}.type"), unknown("type", other, &TUNNELS))),
            None => return Err(self.source.error(&path, "which kind? Add type = \"vxlan\", or \"udp\" or \"udp-ip\"")),
        };
        let bridge = self.bridge_of(tunnel, &path)?;
        let table = self.table_of_tunnel(tunnel, path)?;
        let Table { path, text, values, .. } = table;
        if text.is_empty() {
            return Err(self.source.error(&path, "where to? Add remotes, or routes of type = \"udp-ip\""));
        }
        self.source.note(flag, &text, &path, values);
        match (flag, bridge) {
            ("--udp-ip", _) => self.flags.udp_ip.push(text),
            ("--vxlan", bridge) => self.words_of(bridge).vxlan.push(text),
            (_, bridge) => self.words_of(bridge).udp.push(text),
        }
        Ok(())
    }

    /// The name of the bridge that a tunnel is a port of.
    fn bridge_of<'t>(&self, tunnel: &'t Tunnel, path: &str) -> Result<&'t str, ConfigError> {
        let path = format!("{path}.bridge");
        let known = self.bridges.iter().map(|bridge| bridge.name.as_str());
        // The one that flags speak of need not be in the file, unless others are.
        let is_known = |name: &str| known.clone().any(|other| other == name) || name == BRIDGE && self.bridges.is_empty();
        match tunnel.bridge.as_deref() {
            Some(_) if tunnel.kind.as_deref() == Some("udp-ip") => {
                Err(self.source.error(&path, "a tunnel of IP packets is beside the bridges: leave bridge out"))
            }
            Some(name) if is_known(name) => Ok(name),
            Some(name) if self.bridges.is_empty() => Err(self.source.error(&path, unknown_bridge(name, [BRIDGE].into_iter()))),
            Some(name) => Err(self.source.error(&path, unknown_bridge(name, known))),
            None if is_known(BRIDGE) || tunnel.kind.as_deref() == Some("udp-ip") => Ok(BRIDGE),
            None => {
                let first = known.clone().next().unwrap_or(BRIDGE);
                let problem = format!("which bridge is it a port of? There is no {BRIDGE}: add bridge = \"{first}\"");
                Err(self.source.error(&path, problem))
            }
        }
    }

    /// The words of a bridge that is there, or of the one that flags speak of.
    fn words_of(&mut self, name: &str) -> &mut BridgeWords {
        let at = self.bridges.iter().position(|bridge| bridge.name == name).unwrap_or_else(|| {
            self.bridges.push(BridgeWords { name: name.to_owned(), ..BridgeWords::default() });
            self.bridges.len() - 1
        });
        &mut self.bridges[at]
    }

    fn table_of_tunnel(&self, tunnel: &Tunnel, path: String) -> Result<Table<'_>, ConfigError> {
        let mut table = Table::new(&self.source, path, &[','], String::new());
        table.device(tunnel)?;
        table.pair("vni", tunnel.vni.as_ref())?;
        table.pair("local", tunnel.local.as_ref())?;
        table.pair("port", tunnel.port.as_ref())?;
        table.list("remote", "remotes", tunnel.remotes.as_deref())?;
        table.pair("group", tunnel.group.as_ref())?;
        table.list("peers", "peers", tunnel.peers.as_deref())?;
        table.pair("dev", tunnel.dev.as_ref())?;
        table.pair("vlan", tunnel.vlan.as_ref())?;
        table.list("trunks", "trunks", tunnel.trunks.as_deref())?;
        table.pair("vlan-mode", tunnel.vlan_mode.as_ref())?;
        table.pair("mtu", tunnel.mtu.as_ref())?;
        table.pairs("mac", "mac", tunnel.mac.as_ref())?;
        table.switch("learning", tunnel.learning)?;
        table.pair("ttl", tunnel.ttl.as_ref())?;
        table.pair("tos", tunnel.tos.as_ref())?;
        table.pair("df", tunnel.df.as_ref())?;
        table.pair("csum", tunnel.csum.as_ref())?;
        table.pairs("route", "routes", tunnel.routes.as_ref())?;
        table.pair("address", tunnel.address.as_ref())?;
        Ok(table)
    }

    /// A number of a bridge.
    fn number_of<T: TryFrom<i64> + Display>(
        &mut self,
        bridge: &str,
        flag: &'static str,
        value: Option<i64>,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, ConfigError> {
        let key = flag.trim_start_matches('-');
        let path = format!("bridge.{bridge}.{key}");
        if bridge == BRIDGE {
            return self.number(flag, &path, value, range);
        }
        self.source.note_place(place_of_key(bridge, key), &path);
        value.map(|value| self.in_range(&path, value, &range)).transpose()
    }

    /// A flag that is a number. What the flag's type cannot hold is out of its range, too.
    fn number<T: TryFrom<i64> + Display>(
        &mut self,
        flag: &'static str,
        path: &str,
        value: Option<i64>,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        self.source.note(flag, "", path, Vec::new());
        self.in_range(path, value, &range).map(Some)
    }

    fn in_range<T: TryFrom<i64> + Display>(&self, path: &str, value: i64, range: &RangeInclusive<T>) -> Result<T, ConfigError> {
        let problem = || format!("{value} is out of range: {} to {}", range.start(), range.end());
        T::try_from(value).map_err(|_| self.source.error(path, problem()))
    }
}

impl<'a> Table<'a> {
    fn new(source: &'a Source, path: String, separators: &'static [char], text: String) -> Table<'a> {
        Table { source, path, separators, text, values: Vec::new() }
    }

    /// Of this key, in the flag and in the file.
    fn value(&mut self, flag_key: &str, key: &str, value: String) {
        self.values.push((flag_key.to_owned(), key.to_owned(), vec![value]));
    }

    fn pair(&mut self, key: &str, value: Option<&impl Display>) -> Result<(), ConfigError> {
        self.texts(key, key, value.map(|value| vec![value.to_string()]))
    }

    fn switch(&mut self, key: &str, value: Option<bool>) -> Result<(), ConfigError> {
        self.pair(key, value.map(on_off).as_ref())
    }

    fn list(&mut self, flag_key: &str, key: &str, list: Option<&[impl Display]>) -> Result<(), ConfigError> {
        self.texts(flag_key, key, list.map(|list| list.iter().map(ToString::to_string).collect()))
    }

    fn pairs(&mut self, flag_key: &str, key: &str, pairs: Option<&Pairs>) -> Result<(), ConfigError> {
        let texts = pairs.map(|pairs| pairs.iter().map(|(one, other)| format!("{one}@{other}")).collect());
        self.texts(flag_key, key, texts)?;
        if let (Some(pairs), Some((.., values))) = (pairs, self.values.last_mut()) {
            // Errors name one or the other.
            values.extend(pairs.iter().flat_map(|(one, other)| [one.clone(), other.clone()]));
        }
        Ok(())
    }

    /// The TUN device and its namespace, which are one word of the flag.
    fn device(&mut self, tunnel: &Tunnel) -> Result<(), ConfigError> {
        match (&tunnel.tun, &tunnel.netns) {
            (Some(tun), netns) => {
                plain(self.source, &format!("{}.tun", self.path), tun, &[',', '@'])?;
                let text = netns.as_ref().map_or_else(|| tun.clone(), |netns| format!("{tun}@{netns}"));
                self.pair("tun", Some(&text))?;
                self.value("tun", "tun", tun.clone());
                Ok(())
            }
            (None, Some(_)) => {
                Err(self.source.error(&format!("{}.netns", self.path), "only a TUN device is in a namespace: leave netns out"))
            }
            (None, None) => Ok(()),
        }
    }

    fn texts(&mut self, flag_key: &str, key: &str, texts: Option<Vec<String>>) -> Result<(), ConfigError> {
        let Some(texts) = texts else { return Ok(()) };
        let path = format!("{}.{key}", self.path);
        if texts.is_empty() {
            return Err(self.source.error(&path, format!("{key} is empty: name at least one, or leave it out")));
        }
        for text in &texts {
            plain(self.source, &path, text, self.separators)?;
        }
        if !self.text.is_empty() {
            self.text.extend(self.separators.first());
        }
        let _ = write!(self.text, "{flag_key}={}", texts.join("+"));
        self.values.push((flag_key.to_owned(), key.to_owned(), texts));
        Ok(())
    }
}

/// What parts the words of a flag is in none of them, or a value would be something else there.
fn plain(source: &Source, path: &str, text: &str, separators: &[char]) -> Result<(), ConfigError> {
    match text.chars().find(|c| separators.contains(c)) {
        Some(found) => Err(source.error(path, format!("'{}' has a '{found}' in it: leave it out", text.escape_debug()))),
        None => Ok(()),
    }
}

fn on_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}
