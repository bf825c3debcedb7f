//! What `--vxlan`, `--udp` and `--udp-ip` come to, and what is said of those that cannot be.

use std::net::IpAddr;

use ::tunnel::Vni;
use packet::MacAddr;

use super::*;
use crate::check::DEFAULT_MAX_PORTS;
use crate::flags::Flag;
use crate::model::Config;

/// A TAP, and each text with its flag before it: `--vxlan vni=42,remote=192.0.2.2`.
fn config(texts: &[&str]) -> Result<Config, String> {
    let flags = texts.iter().map(|text| crate::tests::flag(text));
    let flags: Vec<Flag> = [Flag::new("--tap", "tap0"), Flag::new("--workers", "1")].into_iter().chain(flags).collect();
    crate::tests::config(&flags)
}

#[test]
fn what_will_run_is_told_in_lines() {
    for (text, say) in [
        ("--vxlan vni=42,remote=192.0.2.2", "tunnel vxlan42: VNI 42, port 4789, remote 192.0.2.2, all VLANs\n"),
        (
            "--vxlan vni=0,local=192.0.2.1,remote=192.0.2.2+192.0.2.3,vlan=10,port=8472,mtu=1400,ttl=3,learning=off",
            "tunnel vxlan0: VNI 0, port 8472, local 192.0.2.1, 2 remotes: 192.0.2.2 192.0.2.3, access VLAN 10, ttl 3, mtu 1400, \
             no learning\n",
        ),
        (
            "--vxlan vni=16777215,remote=fe80::2,dev=eth0,trunks=10+20,tos=inherit,mac=52:54:00:00:00:02@fe80::2",
            "tunnel vxlan16777215: VNI 16777215, port 4789, device eth0, remote fe80::2, trunk VLANs 10+20, tos inherit, \
             1 static address\n",
        ),
        (
            "--vxlan vni=7,group=239.0.0.7,peers=192.0.2.0/24+198.51.100.7",
            "tunnel vxlan7: VNI 7, port 4789, group 239.0.0.7, peers 192.0.2.0/24 198.51.100.7/32, all VLANs\n",
        ),
        (
            "--udp remote=2001:db8::2,port=7000,csum=on",
            "tunnel udp7000: Ethernet in UDP, port 7000, remote 2001:db8::2, all VLANs, csum on\n",
        ),
        (
            "--udp-ip tun=flannel0@blue,address=10.244.1.1/16,route=10.244.2.0/24@192.0.2.2+10.244.3.0/24@192.0.2.3,local=192.0.2.1",
            "tunnel flannel0 in namespace blue: IP in UDP, port 8285, local 192.0.2.1, address 10.244.1.1/16, 2 routes: \
             10.244.2.0/24 to 192.0.2.2, 10.244.3.0/24 to 192.0.2.3\n",
        ),
    ] {
        assert_eq!(config(&[text]).expect(text).tunnel_summary(), say);
    }
}

#[test]
fn values_are_those_of_the_text() {
    let config = config(&["--vxlan vni=42,remote=192.0.2.2,mac=52:54:00:00:00:02@192.0.2.2,ttl=inherit,df=inherit"]).unwrap();
    let tunnel = &config.tunnels[0];
    let remote = IpAddr::from([192, 0, 2, 2]);
    assert_eq!((tunnel.framing.vni().map(Vni::number), tunnel.port, &tunnel.remotes[..]), (Some(42), 4789, &[remote][..]));
    assert_eq!(tunnel.statics, [(MacAddr([0x52, 0x54, 0, 0, 0, 2]), remote)]);
    assert_eq!((tunnel.outer.ttl, tunnel.outer.tos, tunnel.outer.dont_fragment), (None, Some(0), DontFragment::Inherit));
    assert!(tunnel.learning && tunnel.mtu.is_none() && !tunnel.is_ipv6());
}

#[test]
fn bad_tunnels_are_answered_with_the_fix() {
    for (text, say) in [
        ("vni=42", "--vxlan vni=42: where to? Add remote=, the address of the other host, or group="),
        ("remote=192.0.2.2", "which network? Add vni, a number from 0 to 16777215"),
        ("vni=16777216,remote=192.0.2.2", "vni is a number from 0 to 16777215, not '16777216'"),
        ("vni=42,rmote=192.0.2.2", "unknown key 'rmote': did you mean 'remote'?"),
        ("vni=42,remote", "'remote' is not KEY=VALUE"),
        ("vni=42,vni=43,remote=192.0.2.2", "'vni' is given twice"),
        ("vni=42,remote=192.0.2", "'192.0.2' is not an IP address such as 192.0.2.2 or 2001:db8::2"),
        ("vni=42,remote=fe80::1%eth0", "the device has a key of its own: write fe80::1 and dev=eth0"),
        ("vni=42,remote=::ffff:192.0.2.2", "write 192.0.2.2"),
        ("vni=42,remote=0.0.0.0", "0.0.0.0 is not the address of a host: name the other host's"),
        ("vni=42,remote=192.0.2.2,local=::", ":: is not the address of a host: leave local out for any of this host's"),
        ("vni=42,remote=255.255.255.255", "255.255.255.255 is a reserved address"),
        ("vni=42,remote=239.0.0.1", "239.0.0.1 is a multicast address: use group=239.0.0.1 with peers instead"),
        ("vni=42,remote=192.0.2.2,local=239.0.0.1", "239.0.0.1 is a multicast address: local is the address of one host"),
        ("vni=42,remote=192.0.2.2+192.0.2.2", "remote 192.0.2.2 is named twice"),
        ("vni=42,remote=192.0.2.2,local=192.0.2.2", "192.0.2.2 is both this host and the other one"),
        ("vni=42,remote=192.0.2.2+2001:db8::2", "192.0.2.2 and 2001:db8::2 are of two families: give each a tunnel of its own"),
        ("vni=42,remote=192.0.2.2,local=2001:db8::1", "192.0.2.2 and 2001:db8::1 are of two families"),
        ("vni=42,remote=fe80::2", "fe80::2 is of one link: say which, such as dev=eth0"),
        ("vni=42,group=ff02::42,peers=fe80::/10", "ff02::42 is of one link"),
        ("vni=42,group=192.0.2.2,peers=192.0.2.0/24", "192.0.2.2 is not in 224.0.0.0/4 or ff00::/8"),
        ("vni=42,group=239.0.0.1", "such as peers=192.0.2.0/24"),
        ("vni=42,group=239.0.0.1,peers=2001:db8::/32", "239.0.0.1 and 2001:db8:: are of two families"),
        ("vni=42,group=239.0.0.1,peers=192.0.2.0/24,remote=192.0.2.2", "leave out remote or group"),
        ("vni=42,group=239.0.0.1,peers=192.0.2.0/24,mac=52:54:00:00:00:02@192.0.2.2", "a static entry is for a named host"),
        ("vni=42,remote=192.0.2.2,peers=192.0.2.0/24", "only the named hosts are accepted: leave peers out"),
        ("vni=42,remote=192.0.2.2,mac=52:54:00:00:00:02@192.0.2.3", "192.0.2.3, which is no remote of this tunnel"),
        ("vni=42,remote=192.0.2.2,mac=01:00:5e:00:00:01@192.0.2.2", "01:00:5e:00:00:01 is a group address"),
        ("vni=42,remote=192.0.2.2,mac=00:00:00:00:00:00@192.0.2.2", "00:00:00:00:00:00 is not the address of a station"),
        ("vni=42,remote=192.0.2.2,mac=52:54:00:00:00:02", "'52:54:00:00:00:02' is not MAC@ADDR"),
        ("vni=42,remote=192.0.2.2,mac=52:54@192.0.2.2", "'52:54' is not an Ethernet address such as"),
        ("vni=42,remote=192.0.2.2,mac=52:54:0:0:0:2@192.0.2.2+52:54:0:0:0:2@192.0.2.2", "52:54:00:00:00:02 is named twice"),
        ("vni=42,remote=192.0.2.2,port=0", "port is a number from 1 to 65535, not '0'"),
        ("vni=42,remote=192.0.2.2,ttl=0", "ttl is inherit, or a number from 1 to 255, not '0'"),
        ("vni=42,remote=192.0.2.2,tos=256", "tos is inherit, or a number from 0 to 255, not '256'"),
        ("vni=42,remote=192.0.2.2,df=inhreit", "unknown df 'inhreit': did you mean 'inherit'?"),
        ("vni=42,remote=192.0.2.2,csum=maybe", "unknown csum 'maybe'; there are auto, on, off"),
        ("vni=42,remote=192.0.2.2,dev=a/b", "'a/b' cannot be an interface's name"),
        ("vni=42,remote=192.0.2.2,vlan=10,trunks=20", "an access port has no trunks"),
        ("vni=42,remote=192.0.2.2,learning=yes", "learning is on or off, not 'yes'"),
        ("vni=42,remote=192.0.2.2,mtu=67", "mtu is a number from 68 to 65521, not '67'"),
    ] {
        let said = config(&[&format!("--vxlan {text}")]).map(|_| ()).expect_err(text);
        assert!(said.starts_with("--vxlan ") && said.contains(say), "{text}: {said}");
    }
    for (text, say) in [
        ("remote=192.0.2.2", "--udp remote=192.0.2.2: on which port? Add port="),
        ("port=7000", "where to? Add remote=, the address of the other host"),
        ("remote=192.0.2.2,port=7000,vni=42", "unknown key 'vni'"),
        ("remote=192.0.2.2,port=7000,group=239.0.0.1", "unknown key 'group'"),
    ] {
        let said = config(&[&format!("--udp {text}")]).map(|_| ()).expect_err(text);
        assert!(said.contains(say), "{text}: {said}");
    }
}

#[test]
fn bad_ip_tunnels_are_answered_with_the_fix() {
    for (text, say) in [
        ("tun=t", "--udp-ip tun=t: where to? Add route="),
        ("route=10.1.0.0/16@192.0.2.2", "which device? Add tun="),
        ("tun=,route=10.1.0.0/16@192.0.2.2", "tun needs a name"),
        ("tun=t@,route=10.1.0.0/16@192.0.2.2", "no namespace after '@'"),
        ("tun=tap0,route=10.1.0.0/16@192.0.2.2", "tap0 is a port of the bridge: use another name"),
        ("tun=t,route=10.1.0.0/16", "'10.1.0.0/16' is not CIDR@ADDR"),
        ("tun=t,route=10.1.0.1/16@192.0.2.2", "10.1.0.1/16 is an address, not a network: write 10.1.0.0/16"),
        ("tun=t,route=10.1.0.0@192.0.2.2", "10.1.0.0 has no prefix length"),
        ("tun=t,route=64.0.0.0/1@192.0.2.2", "64.0.0.0/1 is an address, not a network: write 0.0.0.0/1"),
        ("tun=t,route=10.1.0.0/16@192.0.2.2+10.1.0.0/16@192.0.2.3", "10.1.0.0/16 is named twice"),
        ("tun=t,route=10.1.0.0/16@2001:db8::2", "'2001:db8::2' is an IPv6 address"),
        ("tun=t,route=10.1.0.0/16@192.0.2.2,local=192.0.2.2", "192.0.2.2 is both this host and the other one"),
        ("tun=t,route=10.1.0.0/16@192.0.2.2,local=2001:db8::1", "carried over IPv4 only"),
        ("tun=t,route=192.0.2.0/24@192.0.2.2", "the way to 192.0.2.2 would lead into the tunnel, to 192.0.2.0/24"),
        ("tun=t,route=10.1.0.0/16@192.0.2.2,address=192.0.2.1/24", "would lead into the tunnel"),
        ("tun=t,route=10.1.0.0/16@192.0.2.2,vlan=10", "unknown key 'vlan'"),
        ("tun=t,tun=u,route=10.1.0.0/16@192.0.2.2", "'tun' is given twice"),
    ] {
        let said = config(&[&format!("--udp-ip {text}")]).map(|_| ()).expect_err(text);
        assert!(said.starts_with("--udp-ip") && said.contains(say), "{text}: {said}");
    }
}

#[test]
fn each_datagram_belongs_to_one_tunnel() {
    let ok: &[&[&str]] = &[
        &["--vxlan vni=1,remote=192.0.2.2", "--vxlan vni=2,remote=192.0.2.2"],
        &["--vxlan vni=1,remote=192.0.2.2", "--vxlan vni=1,remote=192.0.2.2,port=8472"],
        &["--vxlan vni=1,remote=192.0.2.2", "--vxlan vni=1,remote=2001:db8::2"],
        &["--vxlan vni=1,remote=192.0.2.9,local=192.0.2.1", "--vxlan vni=1,remote=192.0.2.9,local=192.0.2.2"],
        &["--vxlan vni=1,remote=fe80::2,dev=eth0", "--vxlan vni=1,remote=fe80::2,dev=eth1"],
        &["--udp remote=192.0.2.2,port=7000", "--udp remote=192.0.2.3,port=7000"],
        &["--udp remote=192.0.2.3,port=4789,local=192.0.2.1", "--vxlan vni=1,remote=192.0.2.2,local=192.0.2.9"],
        &["--vxlan vni=1,remote=192.0.2.2,dev=eth0", "--vxlan vni=2,remote=192.0.2.2,dev=eth0"],
        &["--udp remote=192.0.2.2,port=7000", "--udp-ip tun=t,route=10.1.0.0/16@192.0.2.2"],
    ];
    for texts in ok {
        assert!(config(texts).is_ok(), "{texts:?}: {:?}", config(texts).map(|_| ()));
    }
    let refused: &[(&[&str], &str)] = &[
        (
            &["--vxlan vni=1,remote=192.0.2.2", "--vxlan vni=1,remote=192.0.2.3+192.0.2.2"],
            "VNI 1 to 192.0.2.2 is tunnel vxlan1 already",
        ),
        (&["--vxlan vni=1,remote=192.0.2.2", "--vxlan vni=1,remote=192.0.2.2,local=192.0.2.1"], "is tunnel vxlan1 already"),
        (
            &["--vxlan vni=1,remote=192.0.2.2", "--vxlan vni=1,remote=192.0.2.3"],
            "VNI 1 on port 4789 is tunnel vxlan1 already: name all its hosts there, as remote=A+B",
        ),
        (
            &["--udp remote=192.0.2.2,port=7000", "--udp remote=192.0.2.2,port=7000"],
            "port 7000 to 192.0.2.2 is tunnel udp7000 already",
        ),
        (
            &["--udp remote=192.0.2.2,port=4789", "--vxlan vni=1,remote=192.0.2.2"],
            "port 4789 is that of vxlan1, whose datagrams have another header: use another port",
        ),
        (
            &["--vxlan vni=1,remote=192.0.2.2", "--vxlan vni=2,remote=192.0.2.2,dev=eth0"],
            "tunnel vxlan1 on port 4789 has another dev=: give both the same, or each a local address of its own",
        ),
        (
            &["--udp remote=192.0.2.9,port=8285", "--udp-ip tun=t,route=10.1.0.0/16@192.0.2.2"],
            "port 8285 of t is taken by tunnel udp8285: use another port",
        ),
        (
            &["--udp-ip tun=t,route=10.1.0.0/16@192.0.2.2", "--udp-ip tun=u,route=10.2.0.0/16@192.0.2.3"],
            "port 8285 of u is taken by tunnel t",
        ),
        (
            &["--udp-ip tun=t,route=10.1.0.0/16@192.0.2.2", "--udp-ip tun=t,port=8286,route=10.2.0.0/16@192.0.2.3"],
            "t is named twice",
        ),
    ];
    for (texts, say) in refused {
        let said = config(texts).map(|_| ()).expect_err(say);
        assert!(said.contains(say), "{said}");
    }
}

#[test]
fn names_are_told_apart() {
    let config = config(&[
        "--tap vxlan1",
        "--vxlan vni=1,remote=192.0.2.2",
        "--vxlan vni=1,remote=2001:db8::2",
        "--udp remote=192.0.2.2,port=7000",
        "--udp remote=192.0.2.3,port=7000",
    ]);
    let names: Vec<String> = config.unwrap().tunnels.into_iter().map(|tunnel| tunnel.name).collect();
    assert_eq!(names, ["vxlan1-2", "vxlan1-3", "udp7000", "udp7000-2"]);
}

#[test]
fn the_guests_are_not_where_the_tunnels_are() {
    for (text, say) in [
        (
            "--vxlan vni=1,remote=10.0.0.2",
            "--vxlan vni=1,remote=10.0.0.2: 10.0.0.2 of tunnel vxlan1 is in 10.0.0.0/24 of gateway 10.0.0.1/24: the guests need another network",
        ),
        ("--udp port=7000,remote=192.0.2.2,local=10.0.0.7", "10.0.0.7 of tunnel udp7000 is in 10.0.0.0/24"),
        (
            "--udp-ip tun=t,route=10.0.0.128/25@192.0.2.2",
            "10.0.0.128/25 of tunnel t overlaps with 10.0.0.0/24 of gateway 10.0.0.1/24",
        ),
        ("--udp-ip tun=t,route=10.1.0.0/16@10.0.0.9", "10.0.0.9 of tunnel t is in 10.0.0.0/24"),
        ("--udp-ip tun=t,route=10.1.0.0/16@192.0.2.2,address=10.0.0.9/16", "10.0.0.0/16 of tunnel t overlaps with 10.0.0.0/24"),
    ] {
        let said = config(&["--gateway 10.0.0.1/24", text]).map(|_| ()).expect_err(text);
        assert!(said.contains(say), "{said}");
        assert!(config(&["--gateway 10.3.0.1/24", text]).is_ok());
    }
}

#[test]
fn every_host_is_a_port() {
    let remotes = |count: u16| {
        let list: Vec<String> = (1..=count).map(|n| format!("192.0.{}.{}", n >> 8, n & 0xff)).collect();
        format!("--vxlan vni=1,remote={}", list.join("+"))
    };
    let fits = DEFAULT_MAX_PORTS as u16 - 1;
    assert!(config(&[&remotes(fits)]).is_ok());
    assert!(config(&[&remotes(fits - 65), "--vxlan vni=2,group=239.0.0.1,peers=192.0.0.0/16"]).is_ok());
    for texts in [&[&remotes(fits + 1)[..]][..], &[&remotes(fits - 64), "--vxlan vni=2,group=239.0.0.1,peers=192.0.0.0/16"]] {
        let said = config(texts).unwrap_err();
        assert!(said.starts_with("--tap: 1025 ports, but there are at most 1024; each remote of a tunnel is one"), "{said}");
    }
}

#[test]
fn no_checksum_over_ipv6_is_a_warning() {
    let warnings = |text: &str| config(&[text]).unwrap().warnings;
    let warned = warnings("--vxlan vni=1,remote=2001:db8::2,csum=off");
    assert!(warned.len() == 1 && warned[0].contains("udp6zerocsumrx"), "{warned:?}");
    assert!(warnings("--vxlan vni=1,remote=192.0.2.2,csum=off").is_empty());
}

#[test]
fn without_a_bridge_only_ip_is_carried() {
    let of = |texts: &[&str]| crate::tests::config(&texts.iter().map(|text| crate::tests::flag(text)).collect::<Vec<_>>());
    let alone = of(&["--udp-ip tun=t,route=10.1.0.0/16@192.0.2.2"]).unwrap();
    assert_eq!((alone.ports.len(), alone.ip_tunnels.len(), alone.device_count()), (1, 1, 1));
    assert!(!alone.ports[0].is_bridged());
    let routed = of(&["--vxlan vni=1,remote=192.0.2.2", "--gateway 10.0.0.1/24"]).unwrap();
    assert_eq!((routed.ports.len(), routed.device_count()), (0, 0), "the guests of the gateway are behind it");
}
