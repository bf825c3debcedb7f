//! Ports in words, and what is said of those that cannot be.

use std::path::Path;

use super::*;
use crate::flags::Flag;
use crate::tests::{config, problem};

/// What one flag makes: `--port` for the kinds of other flags, `--tap` else.
fn flag(text: &str) -> Flag {
    let is_other = ["packet", "stream", "dgram", "tap:"].iter().any(|kind| text.starts_with(kind)) || text == "eth0";
    Flag::new(if is_other || text.starts_with("straem") { "--port" } else { "--tap" }, text)
}

fn ports(text: &str) -> Vec<Port> {
    config(&[flag(text)]).expect(text).ports
}

fn port(text: &str) -> Port {
    let mut ports = ports(text);
    assert_eq!(ports.len(), 1, "{text}");
    ports.remove(0)
}

fn stream(port: &Port) -> &Stream {
    match &port.kind {
        PortKind::Stream(stream) => stream,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ports_namespaces_and_keys() {
    let list = ["tap0,tap1@blue:vlan=10", "t@pid:7:trunks=10+20:mtu=9000:gro=off", "u@/proc/1/ns/net:offload=off"];
    let ports = config(&list.map(|tap| Flag::new("--tap", tap))).unwrap().ports;
    let netns = |at: usize| ports[at].link().and_then(|(_, netns)| netns.map(ToString::to_string));
    assert_eq!(ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["tap0", "tap1", "t", "u"]);
    assert_eq!((netns(0), netns(1), netns(2)), (None, Some("blue".into()), Some("pid:7".into())));
    assert_eq!(netns(3), Some("/proc/1/ns/net".into()));
    assert_eq!(ports[1].vlan_text(), "access VLAN 10");
    assert_eq!((ports[2].vlan_text().as_str(), ports[2].mtu), ("trunk VLANs 10+20", Some(9000)));
    assert_eq!((ports[0].gro, ports[2].gro), (Gro::Flows, Gro::Off));
    assert!(matches!(&ports[3].kind, PortKind::Tap(Tap { offload: false, attach: false, .. })));
}

/// A name is that of one port, and most names are short.
#[test]
fn ports_of_one_name_are_told_apart() {
    let names = |flags: &[(&'static str, &str)]| {
        let flags: Vec<Flag> = flags.iter().map(|(name, value)| Flag::new(name, *value)).collect();
        config(&flags).unwrap().ports.into_iter().map(|port| port.name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&[("--tap", "eth0@a,tap1@a")]), "eth0 tap1");
    assert_eq!(names(&[("--tap", "eth0@a,eth0@pid:7,tap1@a,eth0")]), "eth0@a eth0@pid:7 tap1 eth0");
    assert_eq!(names(&[("--tap", "eth0@a"), ("--uplink", "eth0")]), "eth0@a", "the uplink is a port too");
    assert_eq!(names(&[("--tap", "eth0@a"), ("--port", "packet:eth0")]), "eth0@a eth0");
    let tunnel = ("--udp-ip", "tun=t@b,route=10.0.0.0/8@192.0.2.2");
    assert_eq!(names(&[("--tap", "t@a"), tunnel]), "t@a t", "a tunnel has the name of its device");
    let port = config(&[Flag::new("--tap", "eth0@a,eth0@b")]).unwrap().ports.remove(0);
    assert_eq!((port.link().unwrap().0, port.full_name().as_str(), port.title().as_deref()), ("eth0", "eth0@a", Some("eth0@a")));
}

#[test]
fn network_sides_of_interfaces() {
    let veth = port("packet:veth0:vlan=10:mtu=1400:offload=off:gro=off");
    assert_eq!((veth.name.as_str(), veth.vlan_text().as_str(), veth.mtu), ("veth0", "access VLAN 10", Some(1400)));
    assert!(veth.gro == Gro::Off && matches!(&veth.kind, PortKind::Packet(packet) if !packet.offload));
    assert_eq!(port("packet:veth0:gro=neighbours").gro, Gro::Neighbours);
    let plain = port("packet:veth0");
    assert_eq!((plain.mtu, plain.gro, plain.link()), (None, Gro::Flows, Some(("veth0", None))));
    assert!(plain.is_bridged() && plain.clashes_with(&port("veth0")));
    assert!(!plain.clashes_with(&port("veth0@blue")));
}

#[test]
fn places_for_guests() {
    let slots = ports("stream:/run/guests:guests=3:trunks=10+20:mtu=9000");
    let names: Vec<&str> = slots.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["/run/guests#1", "/run/guests#2", "/run/guests#3"]);
    let titles: Vec<Option<String>> = slots.iter().map(Port::title).collect();
    assert_eq!(titles, [Some("/run/guests#1..3".to_owned()), None, None]);
    assert!(slots.iter().all(|port| port.mtu == Some(9000) && port.vlan_text() == "trunk VLANs 10+20" && port.is_bridged()));
    assert_eq!(ports("stream:guests").len(), 16);
    assert_eq!(ports("stream:guests:guests=1")[0].title().as_deref(), Some("guests#1"));
}

#[test]
fn addresses_of_streams() {
    for (text, address) in [
        ("stream:127.0.0.1:5555:guests=1", "127.0.0.1:5555"),
        ("stream:[::1]:5555:guests=1:vlan=10", "[::1]:5555"),
        ("stream:0.0.0.0:1:guests=1", "0.0.0.0:1"),
        ("stream:./a.b:guests=1", "./a.b"),
        ("stream:127.0.0.x:guests=1", "127.0.0.x"),
        ("stream:/run/a=b:guests=1", "/run/a=b"),
    ] {
        let port = port(text);
        assert_eq!(stream(&port).address.to_string(), address, "{text}");
        assert_eq!(port.name, format!("{address}#1"));
    }
    let client = port("stream:/run/passt.sock:mode=client");
    assert!(stream(&client).slot.is_none());
    assert_eq!((client.name.as_str(), client.mtu), ("/run/passt.sock", Some(1500)));
    assert!(client.clashes_with(&port("stream:/run/passt.sock:guests=1")), "it would talk to itself");
    assert!(client.clashes_with(&port("dgram:/run/passt.sock")));
}

#[test]
fn tcp_ports_that_others_reach() {
    let warnings = |text: &str| config(&[flag(text)]).unwrap().warnings;
    assert!(warnings("stream:192.0.2.1:5555")[0].starts_with("--port stream:192.0.2.1:5555: whatever reaches 192.0.2.1:5555"));
    assert_eq!(warnings("stream:0.0.0.0:5555").len(), 1, "once for all places");
    for quiet in ["stream:127.0.0.1:5555", "stream:[::1]:5555", "stream:/run/a", "stream:192.0.2.1:5555:mode=client"] {
        assert_eq!(warnings(quiet), [""; 0], "{quiet}");
    }
}

#[test]
fn sockets_of_datagrams() {
    let one = port("dgram:/run/a:remote=/run/b:vlan=10");
    let PortKind::Dgram(dgram) = &one.kind else { panic!("{one:?}") };
    assert_eq!((dgram.path.as_path(), dgram.remote.as_deref()), (Path::new("/run/a"), Some(Path::new("/run/b"))));
    assert_eq!((one.name.as_str(), one.mtu), ("/run/a", Some(1500)));
    assert!(matches!(port("dgram:/run/a").kind, PortKind::Dgram(Dgram { remote: None, .. })));
}

#[test]
fn values_may_have_separators() {
    let remote = |text: &str| match port(text).kind {
        PortKind::Dgram(dgram) => dgram.remote.unwrap().display().to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(remote("dgram:/run/a:remote=/run/b:c:mtu=1400"), "/run/b:c", "a piece without '=' continues the value");
    assert_eq!(remote("dgram:/run/a:remote=\"/run/b:c=d\":mtu=1400"), "/run/b:c=d", "a separator in quotes is part of the value");
    let open = problem(&[flag("dgram:/run/a:remote=\"/run/b")]);
    assert!(open.contains("has no end"), "{open}");
}

/// A number behind VLANs is a VLAN, and no TAP of that name that would carry all VLANs.
#[test]
fn vlans_with_commas_between() {
    let listed = |text: &str| {
        let ports = config(&[flag(text)]).expect(text).ports;
        ports.iter().map(|port| format!("{}: {}", port.name, port.vlan_text())).collect::<Vec<_>>()
    };
    assert_eq!(listed("tap0:trunks=10,20,tap1"), ["tap0: trunk VLANs 10+20", "tap1: all VLANs"]);
    assert_eq!(
        listed("tap0:vlan=7:vlan-mode=native-tagged:trunks=10,20,30"),
        ["tap0: native VLAN 7 tagged, trunk VLANs 10+20+30"]
    );
    assert_eq!(listed("20,tap0@blue:trunks=10+30,40:mtu=1400"), ["20: all VLANs", "tap0: trunk VLANs 10+30+40"]);
    assert_eq!(listed("tap0:vlan=10:mtu=1400,20"), ["tap0: access VLAN 10", "20: all VLANs"], "not behind VLANs");
    assert_eq!(port("packet:veth0:trunks=10,20").vlan_text(), "trunk VLANs 10+20");
    for (text, say) in [
        ("tap0:vlan=10,20", "--tap tap0:vlan=10,20: vlan is one VLAN, that of an access port: for several write trunks=10+20"),
        ("tap0:vlan=10+20", "for several write trunks=10+20"),
        ("tap0:trunks=10,4095", "trunks is a number from 0 to 4094, not '4095'"),
    ] {
        let said = problem(&[flag(text)]);
        assert!(said.contains(say), "{text}: {said}");
    }
    let said = problem(&[Flag::new("--tap", "tap0"), Flag::new("--vxlan", "vni=1,remote=192.0.2.2,192.0.2.3")]);
    assert!(said.contains("several values have '+' between, remote=192.0.2.2+192.0.2.3"), "{said}");
}

#[test]
fn taps_that_another_process_may_hold() {
    let attach = |text: &str| match port(text).kind {
        PortKind::Tap(tap) => tap.attach,
        other => panic!("{other:?}"),
    };
    assert_eq!([attach("tap0"), attach("tap0:attach=own"), attach("tap0:attach=auto:vlan=10")], [false, false, true]);
    let refused = |text: &str| problem(&[flag(text)]);
    assert!(refused("tap0:attach=yes").contains("unknown attach 'yes'; there are own, auto"));
    assert!(refused("tap0:attach=auto:attach=own").contains("'attach' is given twice"));
    assert!(refused("tap0@blue:attach=auto").contains("leave out @NETNS"));
}

#[test]
fn bad_input_is_answered_with_the_fix() {
    let long = format!("dgram:/{}", "a".repeat(107));
    for (text, say) in [
        ("tap0:vlna=10", "--tap tap0:vlna=10: unknown key 'vlna': did you mean 'vlan'?"),
        ("tap0:vlan=4095", "vlan is a number from 1 to 4094, not '4095'"),
        ("tap0:vlan=10:trunks=20", "an access port has no trunks"),
        ("tap0:vlan-mode=native", "unknown vlan-mode 'native'; there are access, trunk"),
        ("tap0:vlan-mode=native-tagged", "needs a VLAN"),
        ("tap0:vlan-mode=trunk:vlan=10", "a trunk has no VLAN of its own"),
        ("tap0:vlan=10:vlan=11", "'vlan' is given twice"),
        ("tap0:mtu=67", "mtu is a number from 68 to 65521, not '67'"),
        ("tap0:gro=yes", "gro is on, off or neighbours, not 'yes'"),
        ("tap0:vlan", "'vlan' is not KEY=VALUE"),
        ("tap0,tap0", "tap0 is named twice"),
        ("tap0,,tap1", "tap needs a name"),
        ("tap0@", "no namespace after '@'"),
        ("averyveryverylongname", "'averyveryverylongname' is 21 bytes long; the kernel takes at most 15"),
        ("a b", "'a b' cannot be an interface's name"),
        ("packet", "--port packet: packet of what? write packet:WHERE"),
        ("eth0", "a port is KIND:WHERE, such as packet:veth0; kinds are packet, stream, dgram"),
        ("tap:tap0", "a TAP that the switch makes is --tap tap0"),
        ("straem:/run/a", "unknown kind of port 'straem': did you mean 'stream'?"),
        ("packet:", "packet needs a name"),
        ("packet:averyveryverylongname", "the kernel takes at most 15"),
        ("packet:eth0@blue", "vswitchd's own namespace: write packet:eth0"),
        ("packet:eth0:guests=3", "unknown key 'guests'; there are packet, mtu, vlan"),
        ("packet:eth0:vlan=10:vlan=10", "'vlan' is given twice"),
        ("stream:", "there is no path: name the socket"),
        ("stream:/run/a:gro=on", "unknown key 'gro'; there are stream"),
        ("stream:/run/a:guest=3", "unknown key 'guest': did you mean 'guests'?"),
        ("stream:/run/a:guests", "'guests' is not KEY=VALUE"),
        ("stream:/run/a:guests=0", "guests is a number from 1 to 1000, not '0'"),
        ("stream:/run/a:guests=2:guests=2", "'guests' is given twice"),
        ("stream:/run/a:mode=clinet", "unknown mode 'clinet': did you mean 'client'?"),
        ("stream:/run/a:mode=client:guests=2", "leave guests out, or mode"),
        ("stream:/run/a:offload=on", "unknown key 'offload'; there are stream"),
        ("stream:localhost:5555", "'localhost' is not an address: write it in numbers, such as 127.0.0.1:5555"),
        ("stream:127.0.0.1", "a port is a number from 1 to 65535, not ''"),
        ("stream:127.0.0.1:0", "a port is a number from 1 to 65535, not '0'"),
        ("stream:[::g]:5555", "'[::g]' is not an address"),
        ("stream:224.0.0.1:5555", "224.0.0.1 is a multicast address"),
        ("dgram:/run/a:remote=/run/a", "give it another path"),
        ("dgram:/run/a:remote=", "there is no path"),
        ("dgram:/run/a b", "which has no spaces: choose another path"),
        (&long, "is 108 bytes long; a socket's path has at most 107"),
    ] {
        let said = problem(&[flag(text)]);
        assert!(said.contains(say), "{text}: {said}");
    }
    let said = problem(&[Flag::new("--control", "none")]);
    assert!(said.ends_with("needs a port from the start: name at least one, such as --tap tap0,tap1"), "{said}");
}

#[test]
fn devices_that_come_and_go() {
    let absence = |text: &str| port(text).absence;
    assert_eq!(absence("tap0"), Absence::default());
    assert_eq!(absence("tap0@blue:wait=on:transient=off"), Absence { waits: true, is_transient: false });
    assert_eq!(absence("packet:veth0:transient=on"), Absence { waits: false, is_transient: true });
    assert_eq!(port("packet:veth0:wait=on:transient=on").keys_text(), "all VLANs, waits for its device, transient");
    assert!(problem(&[flag("dgram:/run/x:wait=on")]).contains("unknown key 'wait'"));
}
