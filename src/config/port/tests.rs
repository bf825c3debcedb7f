//! Ports in words, and what is said to those that cannot be.

use super::*;

fn ports(text: &str) -> Result<Vec<PortConfig>, String> {
    parse_port(text).map_err(|error| error.to_string())
}

fn port(text: &str) -> PortConfig {
    let mut ports = ports(text).unwrap();
    assert_eq!(ports.len(), 1, "{text}");
    ports.remove(0)
}

fn stream(port: &PortConfig) -> &StreamConfig {
    match &port.device {
        DeviceConfig::Stream(stream) => stream,
        other => panic!("{other:?}"),
    }
}

#[test]
fn network_sides_of_interfaces() {
    let veth = port("packet:veth0:vlan=10:mtu=1400:offload=off:gro=off");
    assert_eq!((veth.name.as_str(), veth.vlan_text.as_str(), veth.mtu()), ("veth0", "access VLAN 10", Some(1400)));
    assert!(!veth.coalesce && matches!(&veth.device, DeviceConfig::Packet(packet) if !packet.offload));
    let plain = port("packet:veth0");
    assert_eq!((plain.mtu(), plain.coalesce, plain.link()), (None, true, Some(("veth0", None))));
    assert!(plain.is_bridged() && plain.clashes_with(&parse_tap("veth0").unwrap()));
    assert!(!plain.clashes_with(&parse_tap("veth0@blue").unwrap()));
}

#[test]
fn places_for_guests() {
    let slots = ports("stream:/run/guests:guests=3:trunks=10+20:mtu=9000").unwrap();
    let names: Vec<&str> = slots.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["/run/guests#1", "/run/guests#2", "/run/guests#3"]);
    let titles: Vec<Option<String>> = slots.iter().map(PortConfig::title).collect();
    assert_eq!(titles, [Some("/run/guests#1..3".to_owned()), None, None]);
    assert!(slots.iter().all(|port| port.mtu() == Some(9000) && port.vlan_text == "trunk VLANs 10+20" && port.is_bridged()));
    assert_eq!(ports("stream:guests").unwrap().len(), 16);
    assert_eq!(ports("stream:guests:guests=1").unwrap()[0].title().as_deref(), Some("guests#1"));
}

#[test]
fn addresses_of_streams() {
    for (text, address) in [
        ("stream:127.0.0.1:5555:guests=1", "127.0.0.1:5555"),
        ("stream:[::1]:5555:guests=1:vlan=10", "[::1]:5555"),
        ("stream:0.0.0.0:1:guests=1", "0.0.0.0:1"),
        ("stream:./a.b:guests=1", "./a.b"),
        ("stream:127.0.0.x:guests=1", "127.0.0.x"),
    ] {
        let port = port(text);
        assert_eq!(stream(&port).address.to_string(), address, "{text}");
        assert_eq!(port.name, format!("{address}#1"));
    }
    let client = port("stream:/run/passt.sock:mode=client");
    assert!(stream(&client).slot.is_none());
    assert_eq!((client.name.as_str(), client.mtu()), ("/run/passt.sock", Some(1500)));
    assert!(client.clashes_with(&port("stream:/run/passt.sock:guests=1")), "it would talk to itself");
    assert!(client.clashes_with(&port("dgram:/run/passt.sock")));
}

#[test]
fn whoever_reaches_a_tcp_port() {
    let warning = |text: &str| ports(text).unwrap().iter().filter_map(PortConfig::warning).collect::<Vec<_>>();
    assert!(warning("stream:192.0.2.1:5555")[0].starts_with("--port stream:192.0.2.1:5555: whoever reaches this address"));
    assert_eq!(warning("stream:0.0.0.0:5555").len(), 1, "once for all places");
    for quiet in ["stream:127.0.0.1:5555", "stream:[::1]:5555", "stream:/run/a", "stream:192.0.2.1:5555:mode=client"] {
        assert_eq!(warning(quiet), [""; 0], "{quiet}");
    }
}

#[test]
fn sockets_of_datagrams() {
    let one = port("dgram:/run/a:remote=/run/b:vlan=10");
    let DeviceConfig::Dgram(dgram) = &one.device else { panic!("{one:?}") };
    assert_eq!((dgram.path.as_path(), dgram.remote.as_deref()), (Path::new("/run/a"), Some(Path::new("/run/b"))));
    assert_eq!((one.name.as_str(), one.mtu()), ("/run/a", Some(1500)));
    assert!(matches!(port("dgram:/run/a").device, DeviceConfig::Dgram(DgramConfig { remote: None, .. })));
}

#[test]
fn taps_that_others_may_hold() {
    let attach = |text: &str| match parse_tap(text).unwrap().device {
        DeviceConfig::Tap { attach, .. } => attach,
        other => panic!("{other:?}"),
    };
    assert_eq!([attach("tap0"), attach("tap0:attach=own"), attach("tap0:attach=auto:vlan=10")], [false, false, true]);
    let refused = |text: &str| parse_tap(text).unwrap_err().to_string();
    assert!(refused("tap0:attach=yes").contains("unknown attach 'yes'; there are own, auto"));
    assert!(refused("tap0:attach=auto:attach=own").contains("'attach' is given twice"));
    assert!(refused("tap0@blue:attach=auto").contains("leave out @NETNS"));
}

#[test]
fn bad_input_is_answered_with_the_fix() {
    let long = format!("dgram:/{}", "a".repeat(107));
    for (text, say) in [
        ("packet", "--port packet: packet of what? write packet:WHERE"),
        ("eth0", "a port is KIND:WHERE; kinds are packet, stream, dgram"),
        ("tap:tap0", "a TAP of the switch's own is --tap tap0"),
        ("straem:/run/a", "unknown kind of port 'straem': did you mean 'stream'?"),
        ("packet:", "an interface needs a name"),
        ("packet:averyveryverylongname", "the kernel takes at most 15"),
        ("packet:eth0@blue", "vswitchd's own namespace: write packet:eth0"),
        ("packet:eth0:guests=3", "unknown key 'guests'; there are vlan, trunks"),
        ("packet:eth0:vlan=10:vlan=10", "'vlan' is given twice"),
        ("packet:eth0:mtu=67", "mtu is a number from 68 to 65521, not '67'"),
        ("stream:", "there is no path: name the socket"),
        ("stream:/run/a:gro=on", "unknown key 'gro'; there are vlan"),
        ("stream:/run/a:guest=3", "unknown key 'guest': did you mean 'guests'?"),
        ("stream:/run/a:guests=0", "guests is a number from 1 to 1000, not '0'"),
        ("stream:/run/a:guests=2:guests=2", "'guests' is given twice"),
        ("stream:/run/a:mode=clinet", "unknown mode 'clinet': did you mean 'client'?"),
        ("stream:/run/a:mode=client:guests=2", "leave out guests=, or mode=client"),
        ("stream:/run/a:offload=on", "unknown key 'offload'; there are vlan"),
        ("stream:localhost:5555", "'localhost' is not an address: write it in numbers, such as 127.0.0.1:5555"),
        ("stream:127.0.0.1", "a port is a number from 1 to 65535, not ''"),
        ("stream:127.0.0.1:0", "a port is a number from 1 to 65535, not '0'"),
        ("stream:[::g]:5555", "'[::g]' is not an address"),
        ("stream:224.0.0.1:5555", "224.0.0.1 is no single host's address"),
        ("dgram:/run/a:remote=/run/a", "give it another path"),
        ("dgram:/run/a:remote=", "there is no path"),
        ("dgram:/run/a b", "has no spaces: choose another path"),
        (&long, "is 108 bytes long; a socket's path has at most 107"),
    ] {
        let said = ports(text).expect_err(text);
        assert!(said.contains(say), "{text}: {said}");
    }
}
