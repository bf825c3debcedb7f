//! Flags and what they mean: the way out, the router, the translation, published ports, metrics.

use std::net::{Ipv4Addr, SocketAddr};

use packet::Ipv4Prefix;

use super::*;
use crate::address::Cidr;
use crate::check::DEFAULT_MAX_PORTS;
use crate::metrics::Metrics;
use crate::nat::{Dependence, MssClamp, Nat, Timeouts};
use crate::publish::Publish;
use crate::router::Router;
use crate::uplink::NatUplink;

/// With a TAP.
fn of(flags: &[&str]) -> Result<Config, String> {
    let flags: Vec<Flag> =
        [Flag::new("--tap", "tap0,eth7@blue")].into_iter().chain(flags.iter().map(|text| flag(text))).collect();
    config(&flags)
}

fn router(flags: &[&str]) -> Result<Router, String> {
    of(flags).map(|config| config.router.expect("a router"))
}

/// Interface, address and gateway; what is empty is not given.
fn uplink(interface: &str, address: &str, gateway: &str) -> Result<NatUplink, String> {
    let given = [("--uplink-address ", address), ("--uplink-gateway ", gateway)];
    let given = given.iter().filter(|(_, text)| !text.is_empty()).map(|(flag, text)| format!("{flag}{text}"));
    let flags: Vec<String> = [format!("--uplink {interface}")].into_iter().chain(given).collect();
    router(&flags.iter().map(String::as_str).collect::<Vec<_>>()).map(|router| router.uplink.expect("an uplink"))
}

#[test]
fn the_way_out_is_a_port_or_routed_to() {
    let bridge = of(&["--uplink eth0", "--uplink-mode bridge"]).unwrap();
    assert!(bridge.router.is_none() && bridge.warnings.is_empty());
    assert_eq!(bridge.router_summary(), "uplink eth0: port of the bridge\n");
    let nat = of(&["--uplink eth0", "--uplink-mode nat"]).unwrap();
    assert_eq!(nat.bridge_uplink, None);
    assert!(nat.router_summary().starts_with("gateway 10.77.0.1/24\nuplink eth0: nat by the host's own address\n"));
    assert_eq!(of(&[]).unwrap().router_summary(), "");
}

#[test]
fn an_uplink_of_either_kind_is_a_device() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    for mode in ["nat", "bridge"] {
        let config = of(&["--uplink eth0", &format!("--uplink-mode {mode}")]).unwrap();
        assert_eq!((config.device_count(), config.workers), (3, cores.min(3)));
    }
    assert_eq!(of(&["--gateway 10.0.0.1/24", "--workers 7"]).map(|config| (config.device_count(), config.workers)), Ok((2, 7)));
}

#[test]
fn the_uplink_counts_among_the_ports_of_the_bridge() {
    let taps: Vec<String> = (0..DEFAULT_MAX_PORTS - 2).map(|n| format!("t{n}")).collect();
    let taps = format!("--tap {}", taps.join(","));
    let full = |more: &[&str]| of(&[&[taps.as_str()], more].concat()).map(|config| config.ports.len());
    assert_eq!((full(&[]), full(&["--uplink eth0"])), (Ok(DEFAULT_MAX_PORTS), Ok(DEFAULT_MAX_PORTS)));
    let said = full(&["--uplink eth0", "--uplink-mode bridge"]).unwrap_err();
    assert_eq!(said, "--tap: 1025 ports, but there are at most 1024; --max-ports sets another limit");
    assert!(full(&["--uplink eth0", "--uplink-mode bridge", "--max-ports 1025"]).is_ok());
    let said = full(&["--max-ports 1023"]).unwrap_err();
    assert_eq!(said, "--tap: 1024 ports, but there are at most 1023; --max-ports sets another limit");
    assert!(full(&["--max-ports 16385"]).unwrap_err().contains("max-ports is a number from 1 to 16384, not '16385'"));
}

#[test]
fn addresses_and_summaries() {
    for (interface, address, gateway, say) in [
        ("eth0", "", "", "eth0: nat by the host's own address"),
        ("eth0", "", "192.0.2.1", "eth0: nat by the host's own address, gateway 192.0.2.1"),
        ("eth7", "198.51.100.3/24", "", "eth7: nat by 198.51.100.3/24"),
        ("eth0", "198.51.100.3/24,198.51.100.4", "", "eth0: nat by 198.51.100.3/24 and 1 more"),
        ("eth0", "198.51.100.2/31", "198.51.100.3", "eth0: nat by 198.51.100.2/31, gateway 198.51.100.3"),
        ("eth0", "198.51.100.2/32", "192.0.2.1", "eth0: nat by 198.51.100.2/32, gateway 192.0.2.1"),
    ] {
        assert_eq!(uplink(interface, address, gateway).unwrap().to_string(), say);
    }
    let pool = uplink("eth0", "198.51.100.3/24,198.51.100.9", "").unwrap();
    assert_eq!(pool.addresses, [[198, 51, 100, 3], [198, 51, 100, 9]].map(Ipv4Addr::from));
    assert_eq!((pool.prefix_len, pool.network()), (24, Some(Cidr::new([198, 51, 100, 3].into(), 24))));
}

#[test]
fn bad_uplinks_are_answered_with_the_fix() {
    for (interface, address, gateway, say) in [
        ("", "", "", "--uplink: the uplink needs a name"),
        ("a b", "", "", "--uplink: 'a b' cannot be an interface's name"),
        ("tap0", "", "", "--uplink: tap0 is a TAP port of the bridge"),
        ("eth0", "198.51.100.3", "", "198.51.100.3 has no prefix length: add one"),
        ("eth0", "198.51.100.3/33", "", "a number from 1 to 32, not '33'"),
        ("eth0", "198.51.100.3/24,198.51.101.3", "", "198.51.101.3 is not in 198.51.100.0/24, the uplink's network"),
        ("eth0", "198.51.100.3/24,198.51.100.255", "", "198.51.100.255 is the broadcast address of 198.51.100.0/24"),
        ("eth0", "198.51.100.3/24,198.51.100.3", "", "198.51.100.3 is named twice"),
        ("eth0", "198.51.100.3/24,198.51.100.4/24", "", "it holds for all: write 198.51.100.4"),
        ("eth0", "198.51.100.3/24,", "", "'' is not an IPv4 address"),
        ("eth0", "198.51.100.3/24", "192.0.2.1", "--uplink-gateway 192.0.2.1: 192.0.2.1 is not in 198.51.100.0/24"),
        ("eth0", "198.51.100.3/24", "198.51.100.3", "198.51.100.3 is an own address: use that of the next router"),
        ("eth0", "198.51.100.3/24", "198.51.100.0", "the network address of 198.51.100.0/24"),
        ("eth0", "", "0.0.0.0", "0.0.0.0 is not the address of a host"),
    ] {
        let said = uplink(interface, address, gateway).expect_err(interface);
        assert!(said.contains(say), "{interface} {address} {gateway}: {said}");
    }
}

#[test]
fn flags_that_need_a_nat_uplink() {
    for text in ["--uplink-address 192.0.2.1/24", "--uplink-gateway 192.0.2.1", "--publish 80:10.77.0.2:80", "--nat udp=300"] {
        let (name, value) = text.split_once(' ').unwrap();
        let said = of(&[text]).unwrap_err();
        assert!(said.starts_with(name) && said.contains("there is no uplink") && said.contains("--uplink eth0"), "{said}");
        let said = of(&["--uplink eth0", "--uplink-mode bridge", text]).unwrap_err();
        assert!(said.starts_with(name) && said.contains("an uplink in bridge mode is a plain port"), "{value}: {said}");
    }
    let said = of(&["--uplink-mode bridge"]).unwrap_err();
    assert!(said.starts_with("--uplink-mode: there is no uplink"), "{said}");
    let said = of(&["--uplink-mode brigde"]).unwrap_err();
    assert_eq!(said, "--uplink-mode: unknown mode 'brigde': did you mean 'bridge'?");
    let port = of(&["--uplink eth0", "--uplink-mode bridge"]).unwrap();
    assert_eq!(port.bridge_uplink.map(|uplink| uplink.interface).as_deref(), Some("eth0"));
}

#[test]
fn what_will_run_is_told_in_lines() {
    assert!(of(&[]).unwrap().router.is_none());
    assert_eq!(
        of(&["--gateway 10.0.0.1/24,10=10.0.10.1/24", "--gateway 0020=10.0.20.1/30"]).unwrap().router_summary(),
        "gateway 10.0.0.1/24\ngateway 10.0.10.1/24 on VLAN 10\ngateway 10.0.20.1/30 on VLAN 20\n"
    );
    let nat = Nat::default();
    assert_eq!(
        of(&["--uplink eth0", "--publish 8080:10.77.0.2:80"]).unwrap().router_summary(),
        format!(
            "gateway 10.77.0.1/24\nuplink eth0: nat by the host's own address\nnat {nat}\npublish tcp 8080 -> 10.77.0.2:80\n"
        )
    );
}

#[test]
fn last_own_address_given_away_is_a_warning() {
    let warnings = |rule: &str| {
        let rule = format!("--publish {rule}");
        of(&["--uplink eth0", "--uplink-address 198.51.100.3/24", &rule]).unwrap().warnings
    };
    let said = warnings("198.51.100.3:10.77.0.2");
    assert!(said[0].ends_with(": all own addresses are published 1:1; other guests have no way out"), "{said:?}");
    assert!(warnings("198.51.100.3:80:10.77.0.2:80").is_empty());
}

#[test]
fn networks_that_overlap_are_refused() {
    for (flags, say) in [
        (
            &["--gateway 10.0.0.1/24", "--gateway 10.0.1.1/24"][..],
            "--gateway 10.0.1.1/24: untagged frames have the gateway 10.0.0.1/24 already",
        ),
        (
            &["--gateway 10=10.0.0.1/24,10=10.0.1.1/24"],
            "VLAN 10 has the gateway 10.0.0.1/24 already: put this one on another VLAN, such as 20=",
        ),
        (
            &["--gateway 10=10.0.0.1/24,20=10.0.0.129/25"],
            "--gateway 20=10.0.0.129/25: 10.0.0.128/25 overlaps with 10.0.0.0/24 of gateway 10.0.0.1/24 on VLAN 10",
        ),
        (&["--uplink-address 10.77.0.9/24"], "10.77.0.0/24 of gateway 10.77.0.1/24 overlaps with 10.77.0.0/24, the uplink's"),
        (&["--uplink-address 10.0.0.9/24", "--gateway 10.1.0.1/16", "--gateway 10=10.0.200.1/8"], "overlaps with"),
        (&["--uplink-gateway 10.77.0.9"], "10.77.0.0/24 of gateway 10.77.0.1/24 overlaps with 10.77.0.9/32"),
    ] {
        let said = of(&[&["--uplink eth0"], flags].concat()).map(|_| ()).expect_err(say);
        assert!(said.contains(say), "{said}");
    }
    let router = router(&["--uplink eth0", "--gateway 10.0.0.1/24"]).unwrap();
    assert!(router.check_uplink_network(Ipv4Prefix::new([192, 0, 2, 7].into(), 24)).is_ok());
    let said = router.check_uplink_network(Ipv4Prefix::new([10, 0, 0, 7].into(), 8)).unwrap_err().to_string();
    assert!(said.contains("10.0.0.0/24 of gateway 10.0.0.1/24 overlaps with 10.0.0.0/8, the uplink's"), "{said}");
}

#[test]
fn bad_gateways_are_answered_with_the_fix() {
    for (text, say) in [
        ("10.0.0.1", "--gateway 10.0.0.1: 10.0.0.1 has no prefix length: add one, such as 10.0.0.1/24"),
        ("4095=10.0.0.1/24", "VLAN is a number from 0 to 4094, not '4095'"),
        ("10.0.0.1/31", "the prefix length is a number from 1 to 30, not '31'"),
        ("10.0.0.255/24", "10.0.0.255 is the broadcast address of 10.0.0.0/24: use another, such as 10.0.0.1/24"),
        ("127.0.0.1/8", "127.0.0.1 is a loopback address"),
        ("10.0.0.1/24,", "--gateway: '' is not an IPv4 address"),
    ] {
        let said = of(&[&format!("--gateway {text}")]).map(|_| ()).expect_err(text);
        assert!(said.contains(say), "{text}: {said}");
    }
}

fn nat(lists: &[&str]) -> Result<(Nat, Vec<String>), String> {
    let flags: Vec<String> = lists.iter().map(|list| format!("--nat {list}")).chain(["--uplink eth0".to_owned()]).collect();
    let config = of(&flags.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok((config.router.unwrap().nat, config.warnings))
}

#[test]
fn nothing_said_keeps_the_rfcs() {
    let (settings, warnings) = nat(&[]).unwrap();
    assert_eq!((settings.clone(), warnings.as_slice()), (Nat::default(), &[][..]));
    assert_eq!(
        settings.to_string(),
        "262144 connections, 131072 a port; ports 1024-65535, 32768 a guest; \
         mapping endpoint-independent, filtering address-and-port-dependent"
    );
}

#[test]
fn every_key_sets_its_own() {
    let (settings, warnings) = nat(&[
        "ports=40000-49999,max-connections=4096,max-connections-per-port=4096,max-ports-per-guest=100",
        "mapping=address-and-port-dependent,filtering=endpoint-independent",
        "tcp-established=86400,tcp-transitory=241,tcp-opening=30,udp=120,icmp=61,other=1",
        "tcp-loose=off,tcp-liberal=on,mss-clamp=off,forward-link-local=on",
    ])
    .unwrap();
    let expected = Nat {
        ports: 40_000..=49_999,
        max_connections: 4096,
        max_connections_per_port: 4096,
        max_ports_per_guest: 100,
        mapping: Dependence::AddressAndPortDependent,
        filtering: Dependence::EndpointIndependent,
        timeouts: Timeouts { tcp_established: 86_400, tcp_transitory: 241, tcp_opening: 30, udp: 120, icmp: 61, other: 1 },
        tcp_loose: false,
        tcp_liberal: true,
        mss_clamp: MssClamp::Off,
        forward_link_local: true,
    };
    assert_eq!((settings, warnings.as_slice()), (expected, &[][..]));
}

#[test]
fn a_segment_size_is_a_switch_or_a_number() {
    let of = |text: &str| nat(&[text]).unwrap().0.mss_clamp;
    assert_eq!(["mss-clamp=on", "mss-clamp=off", "mss-clamp=1400"].map(of), [MssClamp::Fit, MssClamp::Off, MssClamp::To(1400)]);
}

#[test]
fn a_port_has_half_of_the_connections() {
    assert_eq!(nat(&["max-connections=5000"]).unwrap().0.max_connections_per_port, 2500);
    assert_eq!(nat(&["max-connections-per-port=9,max-connections=5000"]).unwrap().0.max_connections_per_port, 9);
    let said = nat(&["max-connections-per-port=5001,max-connections=5000"]).unwrap_err();
    assert!(said.contains("max-connections-per-port=5001: 5001 are more than max-connections, 5000"), "{said}");
}

#[test]
fn short_timeouts_are_taken_with_a_warning() {
    for (key, floor, source) in
        [("tcp-established", 7440, "RFC 5382 REQ-5"), ("udp", 120, "RFC 4787 REQ-5"), ("icmp", 60, "RFC 5508 REQ-2")]
    {
        let (short, at) = (format!("{key}={}", floor - 1), format!("{key}={floor}"));
        let (_, warnings) = nat(&[&short]).unwrap();
        let [said] = warnings.as_slice() else { panic!("{warnings:?}") };
        assert!(said.starts_with(&format!("--nat {short}: {source} asks for at least {floor} s")), "{said}");
        assert_eq!(nat(&[&at]).unwrap().1, [""; 0]);
    }
}

#[test]
fn bad_settings_are_answered_with_the_fix() {
    for (text, say) in [
        ("prots=1-2", "--nat prots=1-2: unknown key 'prots': did you mean 'ports'?"),
        ("udp", "'udp' is not KEY=VALUE"),
        ("", "'' is not KEY=VALUE"),
        ("udp=300,icmp=60,udp=301", "--nat udp=301: 'udp' is given twice"),
        ("udp=0", "udp is a number from 1 to 604800, not '0'"),
        ("other=5m", "other is a number from 1 to 604800, not '5m'"),
        ("tcp-established=604801", "a number from 1 to 604800"),
        ("max-connections=1023", "max-connections is a number from 1024 to 4000000, not '1023'"),
        ("max-ports-per-guest=0", "a number from 1 to 65535, not '0'"),
        ("ports=2000-1000", "2000-1000 ends before it begins: write 1000-2000"),
        ("ports=0-10", "a port is a number from 1 to 65535, not '0'"),
        ("mapping=symmetric", "unknown mapping 'symmetric'; there are endpoint-independent, address-and-port-dependent"),
        ("filtering=endpoint-independant", "did you mean 'endpoint-independent'?"),
        ("mss-clamp=yes", "mss-clamp is on or off, or a number from 48 to 65495, not 'yes'"),
        ("mss-clamp=47", "mss-clamp is on or off, or a number from 48 to 65495, not '47'"),
    ] {
        let said = nat(&[text]).expect_err(text);
        assert!(said.contains(say), "{text}: {said}");
    }
}

const HOST: &[&str] = &[];
const POOL: &[&str] = &["198.51.100.3", "198.51.100.4"];

/// With guests in 10.0.0.0/24 and 10.0.10.0/24, and these own addresses.
fn rules(own: &[&str], texts: &[&str]) -> Result<Vec<Publish>, String> {
    let mut flags = vec!["--uplink eth0".to_owned(), "--gateway 10.0.0.1/24,10=10.0.10.1/24".to_owned()];
    if let Some((first, others)) = own.split_first() {
        let others: String = others.iter().map(|other| format!(",{other}")).collect();
        flags.push(format!("--uplink-address {first}/24{others}"));
    }
    flags.extend(texts.iter().map(|text| format!("--publish {text}")));
    router(&flags.iter().map(String::as_str).collect::<Vec<_>>()).map(|router| router.publish)
}

#[test]
fn a_rule_of_each_kind() {
    for (own, text, say) in [
        (HOST, "8080:10.0.0.2:80", "tcp 8080 -> 10.0.0.2:80"),
        (HOST, "53:10.0.10.2:53/tcp+udp", "tcp+udp 53 -> 10.0.10.2:53"),
        (HOST, "192.0.2.9:1-65535:10.0.0.2:1-65535/udp", "udp 192.0.2.9:1-65535 -> 10.0.0.2:1-65535"),
        (POOL, "198.51.100.4:8000-8010:10.0.0.2:9000-9010/tcp", "tcp 198.51.100.4:8000-8010 -> 10.0.0.2:9000-9010"),
        (POOL, "198.51.100.4:10.0.0.2", "all 198.51.100.4 -> 10.0.0.2"),
    ] {
        assert_eq!(rules(own, &[text]).unwrap()[0].to_string(), say);
    }
    let expected = Publish::Ports {
        listen: None,
        ports: 8000..=8001,
        guest: [10, 0, 0, 2].into(),
        guest_ports: 80..=81,
        tcp: false,
        udp: true,
    };
    assert_eq!(rules(HOST, &["8000-8001:10.0.0.2:80-81/udp"]).unwrap(), [expected]);
}

#[test]
fn rules_that_do_not_meet_stand_together() {
    for texts in [
        ["53:10.0.0.2:53/tcp", "53:10.0.0.3:53/udp"],
        ["80-89:10.0.0.2:80-89", "90-99:10.0.0.2:80-89"],
        ["198.51.100.3:80:10.0.0.2:80", "198.51.100.4:80:10.0.0.3:80"],
        ["198.51.100.3:80:10.0.0.2:80", "198.51.100.4:10.0.0.2"],
        ["80:10.0.0.2:80", "198.51.100.4:10.0.0.3"],
        ["198.51.100.3:10.0.0.2", "198.51.100.4:10.0.0.3"],
    ] {
        assert_eq!(rules(POOL, &texts).expect("both").len(), 2, "{texts:?}");
    }
}

#[test]
fn rules_that_meet_are_in_conflict() {
    for (texts, say) in [
        (["80:10.0.0.2:80", "80:10.0.0.2:80"], "in conflict with tcp 80 -> 10.0.0.2:80: publish a port to one guest only"),
        (["80-89:10.0.0.2:80-89", "89:10.0.0.3:80"], "in conflict with tcp 80-89 -> 10.0.0.2:80-89"),
        (["80:10.0.0.2:80/tcp+udp", "70-90:10.0.0.2:70-90/udp"], "in conflict with tcp+udp 80"),
        (["198.51.100.3:80:10.0.0.2:80", "80:10.0.0.3:80"], "in conflict with tcp 198.51.100.3:80"),
        (["198.51.100.3:10.0.0.2", "198.51.100.3:10.0.0.3"], "a 1:1 rule takes the whole address"),
        (["198.51.100.3:10.0.0.2", "198.51.100.3:80:10.0.0.3:80"], "a 1:1 rule takes the whole address"),
        (["198.51.100.3:80:10.0.0.3:80", "198.51.100.3:10.0.0.2"], "a 1:1 rule takes the whole address"),
        (["198.51.100.3:10.0.0.2", "198.51.100.4:10.0.0.2"], "a guest has one address 1:1"),
    ] {
        let said = rules(POOL, &texts).expect_err(texts[1]);
        assert!(said.starts_with(&format!("--publish {}: ", texts[1])) && said.contains(say), "{said}");
    }
    let said = rules(&POOL[..1], &["80:10.0.0.2:80", "198.51.100.3:10.0.0.2"]).unwrap_err();
    assert!(said.contains("tcp 80 -> 10.0.0.2:80 is left without an address"), "{said}");
}

#[test]
fn bad_rules_are_answered_with_the_fix() {
    for (own, text, say) in [
        (HOST, "8080", "--publish 8080: this is no rule: write [ADDR:]PORT:GUEST:PORT[/tcp|udp|tcp+udp]"),
        (HOST, "8080:10.0.0.2", "this is no rule: write"),
        (HOST, "[::1]:80:10.0.0.2:80", "this is no rule: write"),
        (HOST, "8080:10.0.0.2:80/tpc", "unknown protocol 'tpc': did you mean 'tcp'?"),
        (HOST, "8080:10.0.0.2:80/icmp", "unknown protocol 'icmp'; there are tcp, udp, tcp+udp"),
        (HOST, "0:10.0.0.2:80", "a port is a number from 1 to 65535, not '0'"),
        (HOST, "8080:10.0.0.2:65536", "a port is a number from 1 to 65535, not '65536'"),
        (HOST, "http:10.0.0.2:80", "a port is a number from 1 to 65535, not 'http'"),
        (HOST, "80-70:10.0.0.2:70-80", "80-70 ends before it begins: write 70-80"),
        (HOST, "80-90:10.0.0.2:80-89", "11 ports cannot become 10: give both ranges the same length"),
        (HOST, "8080:guest:80", "'guest' is not an IPv4 address"),
        (HOST, "8080:10.0.1.2:80", "10.0.1.2 is in no gateway's network (10.0.0.0/24, 10.0.10.0/24)"),
        (HOST, "8080:10.0.10.1:80", "10.0.10.1 is the gateway itself of 10.0.10.0/24: name a guest's address"),
        (HOST, "8080:10.0.0.0:80", "10.0.0.0 is the network address"),
        (HOST, "8080:10.0.0.255:80", "10.0.0.255 is the broadcast address"),
        (HOST, "0.0.0.0:8080:10.0.0.2:80", "0.0.0.0 is not the address of a host"),
        (HOST, "10.0.0.1:8080:10.0.0.2:80", "10.0.0.1 is in 10.0.0.0/24, the guests' side"),
        (HOST, "198.51.100.3:10.0.0.2", "the host's address cannot be given away whole"),
        (POOL, "198.51.100.5:80:10.0.0.2:80", "198.51.100.5 is not an own address of the uplink (198.51.100.3,198.51.100.4)"),
        (POOL, "198.51.100.5:10.0.0.2", "198.51.100.5 is not an own address of the uplink"),
        (POOL, "198.51.100.3:10.0.0.2/tcp", "a 1:1 rule is for all protocols: write 198.51.100.3:10.0.0.2"),
    ] {
        let said = rules(own, &[text]).expect_err(text);
        assert!(said.contains(say), "{text}: {said}");
    }
}

fn metrics(text: &str) -> Result<(Metrics, Vec<String>), String> {
    let text = format!("--metrics {text}");
    let config = of(&[&text, "--uplink eth0", "--uplink-address 198.51.100.3/24,198.51.100.4"])?;
    Ok((config.metrics.expect("metrics"), config.warnings))
}

#[test]
fn an_address_and_names() {
    let (listed, warnings) = metrics("127.0.0.1:9100,host=VM1.example+prometheus").unwrap();
    assert_eq!((listed.listen, warnings.len()), (SocketAddr::from(([127, 0, 0, 1], 9100)), 0));
    assert_eq!(listed.hosts, ["vm1.example", "prometheus"]);
    assert_eq!(metrics("[::1]:0").unwrap().1.len(), 0);
    let (_, warnings) = metrics("0.0.0.0:9100").unwrap();
    assert!(warnings[0].contains("without a password"), "{warnings:?}");
}

#[test]
fn what_cannot_be_says_why() {
    for (text, part) in [
        ("9100", "'9100' is not ADDR:PORT"),
        ("localhost:9100", "is not ADDR:PORT"),
        ("", "'' is not ADDR:PORT"),
        ("127.0.0.1:9100,hots=a", "unknown key 'hots': did you mean 'host'?"),
        ("127.0.0.1:9100,host=a,host=b", "'host' is given twice"),
        ("127.0.0.1:9100,host=a b", "'a b' is not the name of a host"),
        ("127.0.0.1:9100,host=", "'' is not the name of a host"),
        ("224.0.0.1:9100", "is a multicast address"),
        ("10.77.0.1:9100", "the switch's own gateway 10.77.0.1/24"),
        ("198.51.100.4:9100", "the switch's own address on the uplink"),
    ] {
        let error = metrics(text).unwrap_err();
        assert!(error.starts_with("--metrics: ") && error.contains(part), "{text}: {error}");
    }
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
                    for name in ["--uplink", "--uplink-address", "--uplink-gateway", "--gateway", "--publish", "--nat", "--vxlan"]
                    {
                        let _ = config(&[flag("--tap tap0"), flag("--uplink eth0"), Flag::new(name, text.clone())]);
                    }
                    for name in ["--udp", "--udp-ip", "--tap", "--port", "--metrics"] {
                        let _ = config(&[flag("--tap tap0"), Flag::new(name, text.clone())]);
                    }
                }
            }
        }
    }
}
