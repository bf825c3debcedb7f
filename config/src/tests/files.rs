//! Files, and flags that add to them.

use super::*;
use crate::bridge::Bridge;
use crate::port::Port;

const EXAMPLE: &str = include_str!("../../../docs/vswitchd.example.toml");

fn bridge(number: usize, name: &str, mac_table_size: usize, mac_aging_time: u32) -> Bridge {
    Bridge { number, name: name.to_owned(), mac_table_size, mac_aging_time }
}

#[test]
fn the_example_says_what_it_says() {
    let config = file(EXAMPLE).unwrap();
    assert_eq!(names(&config)[..4], ["tap0", "tap1", "db0", "veth0"]);
    assert_eq!(names(&config)[19..], ["/run/vswitchd/guests#16", "/run/vswitchd/vm2", "lab0", "flannel0"]);
    assert_eq!(config.ports[0].link().unwrap().1.unwrap().to_string(), "/proc/self/ns/net");
    assert_eq!(config.ports[1].vlan_text(), "native VLAN 10 untagged, trunk VLANs 10+20");
    assert_eq!((&config.bridges[0], config.busy_poll), (&bridge(0, "br0", 8192, 300), 200));
    assert_eq!(
        config.router_summary(),
        "gateway 10.77.0.1/24 on br0\ngateway 10.0.10.1/24 on VLAN 10 of br0\ngateway 10.78.0.1/24 on lab\n\
         route 10.9.0.0/16 via 10.0.10.5, not translated on br0\n\
         uplink eth0: nat by 198.51.100.3/24 and 1 more, gateway 198.51.100.1\n\
         nat 262144 connections, 131072 a port; ports 1024-65535, 32768 a guest; mapping endpoint-independent, \
         filtering address-and-port-dependent\n\
         publish tcp 8080 -> 10.77.0.2:80\npublish all 198.51.100.4 -> 10.0.10.2\n\
         publish tcp 5432 -> 10.77.0.2:5432\n"
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
    let port = |key: &str| file(&format!("[[bridge.br0.port]]\ntap = 'tap0'\n{key}\n")).unwrap().ports.remove(0);
    for (key, flag) in [
        ("vlan = 10", "tap0:vlan=10"),
        ("trunks = [10, 20]", "tap0:trunks=10+20"),
        ("vlan-mode = 'native-tagged'\nvlan = 7", "tap0:vlan-mode=native-tagged:vlan=7"),
        ("mtu = 9000\ngro = false", "tap0:mtu=9000:gro=off"),
        ("offload = false\nattach = 'auto'", "tap0:offload=off:attach=auto"),
        ("netns = 'pid:7'", "tap0@pid:7"),
        ("limit = { broadcast = 500, unknown = 'off' }", "tap0:limit-broadcast=500:limit-unknown=off"),
        ("limit = { multicast = 0 }", "tap0:limit-multicast=0"),
        ("limit = { broadcast = 1000, multicast = 10_000, unknown = 10_000 }", "tap0"),
    ] {
        let by_flag = config(&[Flag::new("--tap", flag)]).unwrap().ports.remove(0);
        assert_eq!(port(key), by_flag, "{key}");
    }
    let text = "workers = 3\nbusy-poll = 9\nmax-ports = 2000\n[bridge.br0]\nmac-table-size = 99\nmac-aging-time = 30\ngateway = '10.0.0.1/24'\n\
        [[bridge.br0.port]]\nstream = '[::1]:5555'\nmode = 'client'\nmtu = 9000\n[uplink]\ninterface = 'eth0'\n\
        [nat]\nports = '5000-6000'\nmax-connections = 2048\nmapping = 'address-and-port-dependent'\ntcp-loose = false\n\
        timeouts = { udp = 301, other = 7 }\n[[publish]]\nlisten = 53\nto = '10.0.0.2:53'\nprotocol = 'tcp+udp'\n\
        [[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['2001:db8::1']\nttl = 'inherit'\ntos = 3\nlearning = false\n";
    let nat = "ports=5000-6000,max-connections=2048,mapping=address-and-port-dependent,tcp-loose=off,udp=301,other=7";
    let flags = [
        "--workers 3",
        "--busy-poll 9",
        "--max-ports 2000",
        "--mac-table-size 99",
        "--mac-aging-time 30",
        "--gateway 10.0.0.1/24",
        "--port stream:[::1]:5555:mode=client:mtu=9000",
        "--uplink eth0",
        &format!("--nat {nat}"),
        "--publish 53:10.0.0.2:53/tcp+udp",
        "--vxlan vni=1,remote=2001:db8::1,ttl=inherit,tos=3,learning=off",
    ];
    let (by_file, by_flags) = (file(text).unwrap(), config(&flags.map(flag)).unwrap());
    assert_eq!((by_file.workers, by_file.busy_poll, by_file.max_ports), (3, 9, 2000));
    assert_eq!((by_flags.workers, by_flags.busy_poll, by_flags.max_ports), (3, 9, 2000));
    assert_eq!(by_file.bridges, by_flags.bridges);
    assert_eq!((by_file.ports, by_file.router, by_file.tunnels), (by_flags.ports, by_flags.router, by_flags.tunnels));
}

#[test]
fn flags_add_to_the_file() {
    let file = format!(
        "workers = 1\n[bridge.br0]\nmac-table-size = 100\n{PORT}[uplink]\ninterface = 'eth0'\nmode = 'bridge'\n\
         [[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['192.0.2.2']\n"
    );
    let flags = ["--tap b,c", "--vxlan vni=2,remote=192.0.2.2", "--uplink-mode nat", "--workers 2"];
    let config = with(&file, &flags).unwrap();
    assert_eq!(names(&config), ["a", "b", "c"]);
    assert_eq!((config.workers, &config.bridges[..]), (2, &[bridge(0, "br0", 100, 300)][..]));
    assert_eq!(config.tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect::<Vec<_>>(), ["vxlan1", "vxlan2"]);
    assert!(config.bridge_uplink.is_none() && config.uplink_interface() == Some("eth0"));
    // A problem with one document is reported there.
    for (flag, say) in [
        ("--tap b:vlan=0", "--tap b:vlan=0: vlan is a number"),
        ("--workers 0", "--workers: workers is a number from 1 to 256"),
        ("--mac-table-size 9", "--mac-table-size: mac-table-size is a number from 10"),
        ("--vxlan remote=192.0.2.2,vni=1", "--vxlan remote=192.0.2.2,vni=1: VNI 1"),
    ] {
        let said = with(&file, &[flag]).unwrap_err();
        assert!(said.starts_with(say), "{said}");
    }
}

#[test]
fn warnings_name_the_line() {
    let text = format!("{PORT}[uplink]\ninterface = 'eth0'\n[nat]\ntimeouts = {{ udp = 30 }}\n");
    let warnings = file(&text).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].starts_with("v.toml:6: "), "{warnings:?}");
}

/// Bridges in the order of their numbers, each with what is its own.
#[test]
fn several_bridges() {
    let file = "[[bridge.lab.port]]\ntap = 'c'\n[bridge.dmz]\nmac-table-size = 99\ngateways = { 10 = '10.1.0.1/24' }\n\
        [bridge.br0]\ngateway = '10.0.0.1/24'\n[[bridge.br0.port]]\ntap = 'a'\n[uplink]\ninterface = 'eth0'\n\
        [[tunnel]]\ntype = 'vxlan'\nbridge = 'dmz'\nvni = 7\nremotes = ['192.0.2.2']\n";
    let config = with(file, &["--tap b", "--workers 2"]).unwrap();
    assert_eq!(config.bridges, [bridge(0, "br0", 8192, 300), bridge(1, "dmz", 99, 300), bridge(2, "lab", 8192, 300)]);
    let ports: Vec<_> = config.ports.iter().map(|port| (port.name.as_str(), port.bridge)).collect();
    assert_eq!(ports, [("a", 0), ("b", 0), ("c", 2)], "flags add to br0, and a bridge's guests may all be behind a tunnel");
    assert_eq!(config.tunnels[0].bridge, 1);
    let told = config.router_summary();
    assert!(told.starts_with("gateway 10.0.0.1/24 on br0\ngateway 10.1.0.1/24 on VLAN 10 of dmz\nuplink eth0: nat"), "{told}");
    let told = config.tunnel_summary();
    assert_eq!(told, "tunnel vxlan7: VNI 7, port 4789, remote 192.0.2.2, all VLANs, on dmz\n");
}

#[test]
fn there_need_be_no_br0() {
    let text = "[[bridge.lan.port]]\ntap = 'a'\n[[bridge.dmz.port]]\ntap = 'b'\n[uplink]\ninterface = 'e'\n";
    let config = file(text).unwrap();
    assert_eq!(config.bridges.iter().map(|bridge| bridge.name.as_str()).collect::<Vec<_>>(), ["dmz", "lan"]);
    assert!(config.router_summary().starts_with("gateway 10.77.0.1/24 on dmz\n"), "{}", config.router_summary());
    let bridged = with(&format!("{text}mode = 'bridge'\nbridge = 'lan'\n"), &[]).unwrap();
    assert_eq!(bridged.router_summary(), "uplink e: port of lan\n");
    assert_eq!(bridged.bridge_uplink.unwrap().bridge, 1);
    // Unless flags speak of it.
    let with_br0 = with(text, &["--tap c"]).unwrap();
    assert_eq!(names(&with_br0), ["c", "b", "a"]);
    let many = |count: usize| (0..count).map(|n| format!("[[bridge.b{n}.port]]\ntap = 't{n}'\n")).collect::<String>();
    assert_eq!(with(&many(1023), &[]).unwrap().bridges.len(), 1023);
    let empty = |count: usize| (0..count).map(|n| format!("[bridge.b{n}]\n")).collect::<String>();
    assert_eq!(with(&empty(1024), &[]).unwrap().bridges.len(), 1024);
    let said = with(&empty(1025), &[]).unwrap_err();
    assert!(said.ends_with("1025 bridges, but there are at most 1024: leave some out") && said.starts_with("v.toml:"), "{said}");
}

/// Files that end early are refused or taken, and no worse.
#[test]
fn no_file_is_the_end() {
    for end in 0..EXAMPLE.len() {
        let _ = file(&EXAMPLE[..end]);
    }
    for nested in ["a = ".to_owned() + &"[".repeat(100_000), "a.".repeat(100_000), "\0\u{feff}".to_owned()] {
        assert!(file(&nested).is_err());
    }
}

#[test]
fn a_port_that_warns_is_kept() {
    let config = file("[[bridge.br0.port]]\nstream = '192.0.2.1:5555'\nguests = 1\n").unwrap();
    assert_eq!(config.ports.iter().filter_map(Port::title).collect::<Vec<_>>(), ["192.0.2.1:5555#1"]);
    assert_eq!(config.warnings.len(), 1);
}
