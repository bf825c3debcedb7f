//! Files and what becomes of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::config::Config;
use crate::config::PortConfig;
use crate::config::bridge::BridgeConfig;

const EXAMPLE: &str = include_str!("../../../docs/vswitchd.example.toml");
const REFERENCE: &str = include_str!("../../../docs/config.md");
const SCHEMA: &str = include_str!("../../../docs/vswitchd.schema.json");

/// One port, for files about something else.
const PORT: &str = "[[bridge.br0.port]]\ntap = 'a'\n";

fn with(text: &str, flags: &Flags) -> Result<Config, String> {
    Desired::of_text(Path::new("v.toml"), text, flags).map(|desired| desired.config).map_err(|error| error.to_string())
}

fn config(text: &str) -> Result<Config, String> {
    with(text, &Flags::default())
}

fn bridge(name: &str, mac_table_size: usize, mac_aging_time: u32) -> BridgeConfig {
    BridgeConfig { name: name.to_owned(), mac_table_size, mac_aging_time }
}

fn names(config: &Config) -> Vec<&str> {
    config.ports.iter().map(|port| port.name.as_str()).collect()
}

#[test]
fn the_example_says_what_it_says() {
    let config = config(EXAMPLE).unwrap();
    assert_eq!(names(&config)[..4], ["tap0", "tap1", "veth0", "/run/vswitchd/guests#1"]);
    assert_eq!(names(&config)[18..], ["/run/vswitchd/guests#16", "/run/vswitchd/vm2", "lab0", "flannel0"]);
    assert_eq!(config.ports[0].link().unwrap().1.unwrap().to_string(), "/proc/self/ns/net");
    assert_eq!(config.ports[1].vlan_text, "native VLAN 10 untagged, trunk VLANs 10+20");
    assert_eq!((&config.bridges[0], config.busy_poll), (&bridge("br0", 8192, 300), 50));
    assert_eq!(
        config.router_summary(),
        "gateway 10.77.0.1/24 on br0\ngateway 10.0.10.1/24 on VLAN 10 of br0\ngateway 10.78.0.1/24 on lab\n\
         uplink eth0: nat by 198.51.100.3/24 and 1 more, gateway 198.51.100.1\n\
         nat 262144 connections, 131072 a port; ports 1024-65535, 32768 a guest; mapping endpoint-independent, \
         filtering address-and-port-dependent\n\
         publish tcp 8080 -> 10.77.0.2:80\npublish all 198.51.100.4 -> 10.0.10.2\n"
    );
    assert_eq!(
        config.tunnel_summary(),
        "tunnel vxlan42: VNI 42, port 4789, local 192.0.2.1, 2 remotes: 192.0.2.2 192.0.2.3, access VLAN 10, mtu 1450, \
         1 static address, on br0\n\
         tunnel vxlan43: VNI 43, port 8472, device eth0, group 239.1.1.1, peers 192.0.2.0/24, all VLANs, on br0\n\
         tunnel udp7000: Ethernet in UDP, port 7000, remote 192.0.2.4, all VLANs, on br0\n\
         tunnel flannel0 in namespace /proc/self/ns/net: IP in UDP, port 8285, address 10.244.1.0/16, \
         2 routes: 10.244.2.0/24 to 192.0.2.2, 10.244.3.0/24 to 192.0.2.3\n"
    );
    assert_eq!(config.warnings, [""; 0]);
}

/// A file and the flags that it stands for make the same.
#[test]
fn a_key_is_its_flag() {
    let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let port = |key: &str| config(&format!("[[bridge.br0.port]]\ntap = 'tap0'\n{key}\n")).unwrap().ports.remove(0);
    for (key, flag) in [
        ("vlan = 10", "tap0:vlan=10"),
        ("trunks = [10, 20]", "tap0:trunks=10+20"),
        ("vlan-mode = 'native-tagged'\nvlan = 7", "tap0:vlan-mode=native-tagged:vlan=7"),
        ("mtu = 9000\ngro = false", "tap0:mtu=9000:gro=off"),
        ("offload = false\nattach = 'auto'", "tap0:offload=off:attach=auto"),
        ("netns = 'pid:7'", "tap0@pid:7"),
    ] {
        let by_flag = Config::from_flags(&Flags { tap: strings(&[flag]), ..Flags::default() }).unwrap().ports.remove(0);
        assert_eq!(format!("{:?}", port(key)), format!("{by_flag:?}"), "{key}");
    }
    let file = "workers = 3\nbusy-poll = 9\n[bridge.br0]\nmac-table-size = 99\nmac-aging-time = 30\ngateway = '10.0.0.1/24'\n\
        [[bridge.br0.port]]\nstream = '[::1]:5555'\nmode = 'client'\nmtu = 9000\n[uplink]\ninterface = 'eth0'\n\
        [nat]\nports = '5000-6000'\nmax-connections = 2048\nmapping = 'address-and-port-dependent'\ntcp-loose = false\n\
        timeouts = { udp = 301, other = 7 }\n[[publish]]\nlisten = 53\nto = '10.0.0.2:53'\nprotocol = 'tcp+udp'\n\
        [[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['2001:db8::1']\nttl = 'inherit'\ntos = 3\nlearning = false\n";
    let flags = Flags {
        workers: Some(3),
        busy_poll: Some(9),
        mac_table_size: Some(99),
        mac_aging_time: Some(30),
        gateway: strings(&["10.0.0.1/24"]),
        port: strings(&["stream:[::1]:5555:mode=client:mtu=9000"]),
        uplink: Some("eth0".to_owned()),
        nat: strings(&["ports=5000-6000,max-connections=2048,mapping=address-and-port-dependent,tcp-loose=off,udp=301,other=7"]),
        publish: strings(&["53:10.0.0.2:53/tcp+udp"]),
        vxlan: strings(&["vni=1,remote=2001:db8::1,ttl=inherit,tos=3,learning=off"]),
        ..Flags::default()
    };
    assert_eq!(format!("{:?}", config(file).unwrap()), format!("{:?}", Config::from_flags(&flags).unwrap()));
}

#[test]
fn flags_add_to_the_file() {
    let file = format!(
        "workers = 1\n[bridge.br0]\nmac-table-size = 100\n{PORT}[uplink]\ninterface = 'eth0'\nmode = 'bridge'\n\
         [[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['192.0.2.2']\n"
    );
    let flags = Flags {
        tap: vec!["b,c".to_owned()],
        vxlan: vec!["vni=2,remote=192.0.2.2".to_owned()],
        uplink_mode: Some("nat".to_owned()),
        workers: Some(2),
        ..Flags::default()
    };
    let config = with(&file, &flags).unwrap();
    assert_eq!(names(&config), ["a", "b", "c"]);
    assert_eq!((config.workers, &config.bridges[..]), (2, &[bridge("br0", 100, 300)][..]));
    assert_eq!(config.tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect::<Vec<_>>(), ["vxlan1", "vxlan2"]);
    assert!(config.bridge_uplink.is_none() && config.uplink_interface() == Some("eth0"));
    // An error of one is told there.
    for (flags, say) in [
        (Flags { tap: vec!["b:vlan=0".to_owned()], ..Flags::default() }, "--tap b:vlan=0: VLAN is a number"),
        (Flags { workers: Some(0), ..Flags::default() }, "--workers: 0 is out of range"),
        (Flags { mac_table_size: Some(9), ..Flags::default() }, "--mac-table-size: 9 is out of range"),
        (Flags { vxlan: vec!["remote=192.0.2.2,vni=1".to_owned()], ..Flags::default() }, "--vxlan remote=192.0.2.2,vni=1: VNI 1"),
    ] {
        let said = with(&file, &flags).unwrap_err();
        assert!(said.starts_with(say), "{said}");
    }
}

#[test]
fn warnings_name_the_line() {
    let text = format!("{PORT}[uplink]\ninterface = 'eth0'\n[nat]\ntimeouts = {{ udp = 30 }}\n");
    let warnings = config(&text).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].starts_with("v.toml:6: "), "{warnings:?}");
}

/// Bridges in the order of their numbers, each with what is its own.
#[test]
fn several_bridges() {
    let file = "[[bridge.lab.port]]\ntap = 'c'\n[bridge.dmz]\nmac-table-size = 99\ngateways = { 10 = '10.1.0.1/24' }\n\
        [bridge.br0]\ngateway = '10.0.0.1/24'\n[[bridge.br0.port]]\ntap = 'a'\n[uplink]\ninterface = 'eth0'\n\
        [[tunnel]]\ntype = 'vxlan'\nbridge = 'dmz'\nvni = 7\nremotes = ['192.0.2.2']\n";
    let flags = Flags { tap: vec!["b".to_owned()], workers: Some(2), ..Flags::default() };
    let config = with(file, &flags).unwrap();
    assert_eq!(config.bridges, [bridge("br0", 8192, 300), bridge("dmz", 99, 300), bridge("lab", 8192, 300)]);
    let ports: Vec<_> = config.ports.iter().map(|port| (port.name.as_str(), port.bridge.0)).collect();
    assert_eq!(ports, [("a", 0), ("b", 0), ("c", 2)], "flags add to br0, and a bridge's guests may all be behind a tunnel");
    assert_eq!(config.tunnels[0].bridge.0, 1);
    let told = config.router_summary();
    assert!(told.starts_with("gateway 10.0.0.1/24 on br0\ngateway 10.1.0.1/24 on VLAN 10 of dmz\nuplink eth0: nat"), "{told}");
    let told = config.tunnel_summary();
    assert_eq!(told, "tunnel vxlan7: VNI 7, port 4789, remote 192.0.2.2, all VLANs, on dmz\n");
}

#[test]
fn there_need_be_no_br0() {
    let file = "[[bridge.lan.port]]\ntap = 'a'\n[[bridge.dmz.port]]\ntap = 'b'\n[uplink]\ninterface = 'e'\n";
    let config = config(file).unwrap();
    assert_eq!(config.bridges.iter().map(|bridge| bridge.name.as_str()).collect::<Vec<_>>(), ["dmz", "lan"]);
    assert!(config.router_summary().starts_with("gateway 10.77.0.1/24 on dmz\n"), "{}", config.router_summary());
    let bridged = with(&format!("{file}mode = 'bridge'\nbridge = 'lan'\n"), &Flags::default()).unwrap();
    assert_eq!(bridged.router_summary(), "uplink e: port of lan\n");
    assert_eq!(bridged.bridge_uplink.unwrap().bridge.0, 1);
    // Unless flags speak of it.
    let with_br0 = with(file, &Flags { tap: vec!["c".to_owned()], ..Flags::default() }).unwrap();
    assert_eq!(names(&with_br0), ["c", "b", "a"]);
    let many = |count: usize| (0..count).map(|n| format!("[[bridge.b{n}.port]]\ntap = 't{n}'\n")).collect::<String>();
    assert_eq!(with(&many(16), &Flags::default()).unwrap().bridges.len(), 16);
    let said = with(&many(17), &Flags::default()).unwrap_err();
    assert!(said.ends_with("17 bridges, but there are at most 16") && said.starts_with("v.toml:"), "{said}");
}

/// What each file is answered; the port is in the first two lines of those that say `PORT`.
#[test]
fn bad_files_are_answered_with_line_and_fix() {
    for (text, say) in [
        ("[bridge.br0]\nmac-table-sise = 9", "2: unknown key 'mac-table-sise': did you mean 'mac-table-size'?"),
        ("[brigde.br0]", "1: unknown key 'brigde': did you mean 'bridge'?"),
        ("[[bridge.br0.port]]\ntap = 'a'\nvlna = 1", "3: unknown key 'vlna': did you mean 'vlan'?"),
        ("[nat]\ntimeouts = { upd = 1 }", "2: unknown key 'upd': did you mean 'udp'?"),
        ("[uplink]\niface = 'eth0'", "2: unknown key 'iface'; there are interface, mode, bridge, address, gateway"),
        ("PORT\nvlan = '10'", "4: this is string \"10\", expected a number"),
        ("PORT\ntrunks = 10", "4: this is integer `10`, expected a list"),
        ("PORT\ngro = 'on'", "4: this is string \"on\", expected true or false"),
        ("workers = 1.5", "1: this is floating point `1.5`, expected a number"),
        ("[[tunnel]]\nttl = true", "2: this is boolean `true`, expected a number or a string"),
        ("[uplink]\naddress = 7", "2: this is integer `7`, expected a string or a list of strings"),
        ("PORT\nvlan = 4095", "4: VLAN is a number from 1 to 4094, not '4095'"),
        ("PORT\nmtu = 10", "4: mtu is a number from 68 to 65521, not '10'"),
        ("PORT\nvlan = 10\ntrunks = [20]", "1: an access port has no trunks: leave out trunks="),
        ("PORT\nvlan-mode = 'axess'", "4: unknown vlan-mode 'axess': did you mean 'access'?"),
        ("PORT\nguests = 3", "4: unknown key 'guests'; there are vlan"),
        ("PORT\nstream = '/run/a'", "4: a port is of one kind: leave out tap or stream"),
        ("[[bridge.br0.port]]\nvlan = 3", "1: what is this port? Add tap = \"tap0\""),
        ("[[bridge.br0.port]]\ntap = 'a:vlan=3'", "2: 'a:vlan=3' has a ':' in it: leave it out"),
        ("[[bridge.br0.port]]\ntap = 'a,b'", "2: 'a,b' has a ',' in it"),
        ("[[bridge.br0.port]]\ntap = 'a@blue'", "2: write tap = \"a\" and netns = \"blue\""),
        ("[[bridge.br0.port]]\npacket = 'a'\nnetns = 'blue'", "3: only a TAP is made in another namespace"),
        ("[[bridge.br0.port]]\nstream = '/a:guests=3'", "2: '/a:guests=3' has a ':' in it"),
        ("PORT\n[[bridge.br0.port]]\ntap = 'a'", "2: a is named twice"),
        ("[bridge.br0]\nmac-table-size = 9\nPORT", "2: 9 is out of range: 10 to 1000000"),
        ("[bridge.br0]\nmac-aging-time = -1", "2: -1 is out of range: 1 to 86400"),
        ("PORT\nattach = 'own,b'", "4: 'own,b' has a ',' in it: leave it out"),
        ("PORT\nnetns = ''", "1: no namespace: a name under /run/netns, a path, or pid:N"),
        ("PORT\nnetns = 'blue'\nattach = 'auto'", "5: attach=auto joins a TAP from its network side"),
        ("[[bridge.br0.port]]\ndgram = '/a'\nremote = '/a'", "3: remote= is the guest's own socket, and this is ours"),
        ("[bridge.br0.gateways]\n'1,2' = '10.0.0.1/24'\nPORT", "2: '1,2' has a ',' in it"),
        ("workers = 0\nPORT", "1: 0 is out of range: 1 to 256"),
        ("PORT[bridge.br1]", "3: bridge br1 has no port: name at least one, such as tap = \"tap0\" in [[bridge.br1.port]]"),
        ("[[bridge.br1.port]]\ntap = 'b'\n[bridge.br0]", "3: bridge br0 has no port"),
        ("PORT[[bridge.br1.port]]\ntap = 'b'\nvlan = 4095", "5: VLAN is a number from 1 to 4094, not '4095'"),
        ("PORT[bridge.br1]\nmac-aging-time = 0\n[[bridge.br1.port]]\ntap = 'b'", "4: 0 is out of range: 1 to 86400"),
        ("PORT[bridge.br1]\nmac-table-size = 9\n[[bridge.br1.port]]\ntap = 'b'", "4: 9 is out of range: 10 to 1000000"),
        ("PORT[bridge.'a b']\n[[bridge.'a b'.port]]\ntap = 'b'", "3: 'a b' cannot be an interface's name"),
        ("PORT[[bridge.br1.port]]\ntap = 'a'", "2: a is named twice"),
        (
            "[bridge.br0]\ngateway = '10.0.0.1/16'\nPORT[bridge.br1]\ngateway = '10.0.9.1/24'\n[[bridge.br1.port]]\ntap = 'b'",
            "6: 10.0.9.0/24 overlaps with 10.0.0.0/16 of gateway 10.0.0.1/16 of bridge br0: give each network addresses",
        ),
        (
            "[bridge.br0]\ngateway = '10.0.0.1/24'\nPORT[bridge.br1]\ngateway = '10.0.0.1/24'\n[[bridge.br1.port]]\ntap = 'b'",
            "6: 10.0.0.0/24 overlaps with 10.0.0.0/24 of gateway",
        ),
        ("PORT[uplink]\ninterface = 'e'\nmode = 'bridge'\nbridge = 'br1'", "6: there is no bridge 'br1': did you mean 'br0'?"),
        ("PORT[uplink]\ninterface = 'e'\nbridge = 'br0'", "5: an uplink in nat mode is that of all bridges"),
        (
            "[[bridge.lan.port]]\ntap = 'a'\n[uplink]\ninterface = 'e'\nmode = 'bridge'",
            "5: which bridge is the uplink a port of? There is no br0: add bridge = \"lan\"",
        ),
        (
            "PORT[[bridge.lan.port]]\ntap = 'b'\n[[tunnel]]\ntype = 'udp'\nbridge = 'lna'\nport = 7\nremotes = ['192.0.2.2']",
            "7: there is no bridge 'lna': did you mean 'lan'?",
        ),
        (
            "[[bridge.lan.port]]\ntap = 'b'\n[[tunnel]]\ntype = 'udp'\nport = 7\nremotes = ['192.0.2.2']",
            "3: which bridge is it a port of? There is no br0: add bridge = \"lan\"",
        ),
        ("PORT[[tunnel]]\ntype = 'udp-ip'\nbridge = 'br0'", "5: a tunnel of IP packets is beside the bridges: leave bridge out"),
        (
            "PORT[[bridge.lan.port]]\ntap = 'b'\n[[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['192.0.2.2']\n\
             [[tunnel]]\ntype = 'vxlan'\nbridge = 'lan'\nvni = 1\nremotes = ['192.0.2.2', '192.0.2.3']",
            "12: VNI 1 to 192.0.2.2 is tunnel vxlan1 already",
        ),
        ("[bridge.br0]\ngateway = 'x'\ngateways = { 0 = 'x' }", "2: gateway and gateways are two ways to say one thing"),
        ("[bridge.br0]\ngateway = '10.0.0.1'\nPORT", "2: 10.0.0.1 has no prefix length"),
        (
            "[bridge.br0.gateways]\n0 = '10.0.0.1/24'\n10 = '10.0.0.2/25'\nPORT",
            "3: 10.0.0.0/25 overlaps with 10.0.0.0/24 of gateway 10.0.0.1/24",
        ),
        ("[bridge.br0.gateways]\n4095 = '10.0.0.1/24'\nPORT", "2: VLAN is a number from 0 to 4094, not '4095'"),
        (
            "[bridge.br0]\ngateway = '10.0.0.1/24'\nPORT\n[uplink]\ninterface = 'e'\naddress = '10.0.0.9/24'",
            "2: 10.0.0.0/24 of gateway 10.0.0.1/24 overlaps with 10.0.0.0/24, the uplink's",
        ),
        ("PORT\n[uplink]\nmode = 'nat'", "4: which interface? Add interface = \"eth0\""),
        ("PORT\n[uplink]\ninterface = 'a'", "5: a is a TAP port of the bridge"),
        ("PORT\n[uplink]\ninterface = 'e'\nmode = 'brige'", "6: unknown mode 'brige': did you mean 'bridge'?"),
        (
            "PORT\n[uplink]\ninterface = 'e'\nmode = 'bridge'\naddress = '192.0.2.1/24'",
            "7: an uplink in bridge mode is a plain port",
        ),
        ("PORT\n[uplink]\ninterface = 'e'\naddress = '192.0.2.1'", "6: 192.0.2.1 has no prefix length"),
        ("PORT\n[nat]\nudp = 7", "5: unknown key 'udp'; there are ports"),
        ("PORT\n[nat]\nports = '1-2'", "4: there is no uplink: name its interface, such as interface = \"eth0\" in [uplink]"),
        ("PORT\n[uplink]\ninterface = 'e'\n[nat]\ntimeouts.udp = 0", "7: udp in seconds is a number from 1 to 604800, not '0'"),
        ("PORT\n[[publish]]\nlisten = 80", "4: what is published? Add listen = \"8080\" and to = \"10.77.0.2:80\""),
        (
            "PORT\n[uplink]\ninterface = 'e'\n[[publish]]\nlisten = 0\nto = '10.77.0.2:80'",
            "7: a port is a number from 1 to 65535, not '0'",
        ),
        ("PORT\n[uplink]\ninterface = 'e'\n[[publish]]\nlisten = 1\nto = '10.0.0.2:1'", "8: 10.0.0.2 is in no gateway's network"),
        ("PORT\n[[tunnel]]\nvni = 1", "4: which kind? Add type = \"vxlan\""),
        ("PORT\n[[tunnel]]\ntype = 'vlan'", "5: unknown type 'vlan': did you mean 'vxlan'?"),
        ("PORT\n[[tunnel]]\ntype = 'vxlan'\nvni = 1", "4: where to? Add remotes="),
        ("PORT\n[[tunnel]]\ntype = 'vxlan'\nbridge = 'br1'", "6: there is no bridge 'br1'"),
        ("PORT\n[[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['192.0.2.2', 'x']", "7: 'x' is not an IP address"),
        ("PORT\n[[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['192.0.2.2,port=1']", "7: '192.0.2.2,port=1' has a ',' in it"),
        ("PORT\n[[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = []", "7: remotes is empty"),
        ("PORT\n[[tunnel]]\ntype = 'udp'\nremotes = ['192.0.2.2']", "4: on which port? Add port="),
        (
            "[bridge.br0]\ngateway = '10.0.0.1/24'\nPORT\n[[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['10.0.0.9']",
            "9: 10.0.0.9 of tunnel vxlan1 is in 10.0.0.0/24 of gateway 10.0.0.1/24",
        ),
        ("[bridge.br0]", ": a switch needs a port: name at least one, such as tap = \"tap0\" in [[bridge.br0.port]]"),
        ("workers = ", "1: "),
        ("a b", "1: "),
        ("[bridge.br0]\n[bridge.br0]", "2: "),
    ] {
        let text = text.replace("PORT", PORT);
        let said = config(&text).map(|config| names(&config).join(" ")).expect_err(&text);
        let at = if say.starts_with(':') { "v.toml" } else { "v.toml:" };
        assert!(said.starts_with(&format!("{at}{say}")), "\n{text}\n{said}");
    }
}

/// Files that end early are refused or taken, and no worse.
#[test]
fn no_file_is_the_end() {
    for end in 0..EXAMPLE.len() {
        let _ = config(&EXAMPLE[..end]);
    }
    for nested in ["a = ".to_owned() + &"[".repeat(100_000), "a.".repeat(100_000), "\0\u{feff}".to_owned()] {
        assert!(config(&nested).is_err());
    }
}

#[test]
fn a_port_that_warns_is_kept() {
    let config = config("[[bridge.br0.port]]\nstream = '192.0.2.1:5555'\nguests = 1\n").unwrap();
    assert_eq!(config.ports.iter().filter_map(PortConfig::title).collect::<Vec<_>>(), ["192.0.2.1:5555#1"]);
    assert_eq!(config.warnings.len(), 1);
}

/// The schema for editors is what the types say; `VSWITCHD_WRITE_SCHEMA=1` writes it.
#[test]
fn the_schema_is_that_of_the_types() {
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(File)).unwrap() + "\n";
    if std::env::var_os("VSWITCHD_WRITE_SCHEMA").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/vswitchd.schema.json"), &schema).unwrap();
    } else {
        assert_eq!(schema, SCHEMA, "run this test with VSWITCHD_WRITE_SCHEMA=1");
    }
}

/// The words that editors offer are taken, and what is not among them is not.
#[test]
fn the_schema_knows_the_words() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let uplink = format!("{PORT}[uplink]\ninterface = 'e'\n");
    for (table, key, file) in [
        ("Port", "vlan-mode", PORT.to_owned()),
        ("Port", "attach", PORT.to_owned()),
        ("Port", "mode", "[[bridge.br0.port]]\nstream = '/a'\n".to_owned()),
        ("Uplink", "mode", uplink.clone()),
        ("Nat", "mapping", format!("{uplink}[nat]\n")),
        ("Nat", "filtering", format!("{uplink}[nat]\n")),
        ("Publish", "protocol", format!("{uplink}[[publish]]\nlisten = 1\nto = '10.77.0.2:1'\n")),
        ("Tunnel", "type", format!("{PORT}[[tunnel]]\n")),
        ("Tunnel", "vlan-mode", format!("{PORT}[[tunnel]]\ntype = 'udp'\n")),
        ("Tunnel", "df", format!("{PORT}[[tunnel]]\ntype = 'udp'\n")),
        ("Tunnel", "csum", format!("{PORT}[[tunnel]]\ntype = 'udp'\n")),
    ] {
        let says_unknown = |word: &str| {
            let said = config(&format!("{file}{key} = '{word}'\n")).err().unwrap_or_default();
            said.contains("unknown")
        };
        let words = schema["$defs"][table]["properties"][key]["enum"].as_array().expect(key);
        assert!(words.len() > 1 && says_unknown("else"), "{table} {key}");
        assert!(!words.iter().any(|word| says_unknown(word.as_str().unwrap())), "{table} {key} {words:?}");
    }
}

#[test]
fn every_key_is_explained_and_shown() {
    let mut keys = BTreeSet::new();
    collect(&serde_json::from_str(SCHEMA).unwrap(), &mut keys);
    assert!(keys.len() > 50 && keys.contains("vlan-mode") && keys.contains("tcp-opening"), "{keys:?}");
    for key in keys {
        let shown = EXAMPLE.contains(&format!("{key} = "))
            || EXAMPLE.contains(&format!("[{key}"))
            || EXAMPLE.contains(&format!(".{key}]"));
        assert!(shown, "{key} is not in the example");
        let explained = REFERENCE.contains(&format!("`{key}`"))
            || REFERENCE.contains(&format!("[{key}"))
            || REFERENCE.contains(&format!(".{key}]"));
        assert!(explained, "{key} is not in docs/config.md");
    }
}

/// The names of all properties.
fn collect(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| collect(value, keys));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}
