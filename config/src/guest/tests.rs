//! Guests of files and of verbs.

use super::*;
use crate::desired::{Desired, EditError};
use crate::guest_verbs::GuestWords;
use crate::plan::Change;

const FILE: &str = "[bridge.br0]\n[bridge.blue]\ngateway = '10.71.0.1/24'\n[uplink]\ninterface = 'eth0'\n";

fn running() -> Desired {
    Desired::of_text("v.toml", FILE, &[]).unwrap()
}

fn words(network: &str, interface: &str, address: &str, publish: &[&str]) -> GuestWords {
    GuestWords {
        network: Some(network.to_owned()),
        interface: (!interface.is_empty()).then(|| interface.to_owned()),
        addresses: (!address.is_empty()).then(|| vec![address.to_owned()]),
        publish: (!publish.is_empty()).then(|| publish.iter().map(|text| (*text).to_owned()).collect()),
        ..GuestWords::default()
    }
}

/// The lines of the change, or the problems.
fn changes(from: &Desired, to: Result<Desired, EditError>) -> Result<Vec<String>, String> {
    let mut to = to.map_err(|error| error.to_string())?;
    let plan = to.plan_from(from).map_err(|error| error.to_string())?;
    Ok(plan.changes.iter().map(Change::to_string).collect())
}

fn web(desired: &Desired) -> Desired {
    let all = GuestWords {
        mac: Some("02:42:0a:47:00:02".to_owned()),
        names: Some(vec!["web".to_owned(), "www.example".to_owned()]),
        labels: Some(vec![("app".to_owned(), "shop".to_owned())]),
        ..words("blue", "eth0@box", "10.71.0.2/24", &["8080:80", "198.51.100.4:53/udp"])
    };
    desired.with_guest("web", &GuestWords { publish: Some(vec!["8080:80".to_owned(), "53/udp".to_owned()]), ..all }).unwrap()
}

#[test]
fn addresses_are_lost_with_their_guest_or_network() {
    let with = |desired: &Desired, id: &str, network: &str, address: &str| {
        desired.with_guest(id, &words(network, &format!("eth0@{id}"), address, &[])).unwrap()
    };
    let lost = |from: &Desired, mut to: Desired| {
        let mut lost = to.plan_from(from).unwrap().lost_addresses;
        lost.sort();
        lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let file = format!("{FILE}[bridge.red]\ngateway = '10.72.0.1/24'\n");
    let empty = Desired::of_text("v.toml", &file, &[]).unwrap();
    let now = with(&with(&empty, "a", "blue", "10.71.0.2/24"), "b", "br0", "10.71.0.9/24");
    assert_eq!(lost(&empty, now.clone()), "");
    assert_eq!(lost(&now, now.without_guest("a").unwrap()), "10.71.0.2");
    assert_eq!(lost(&now, now.without_guest("b").unwrap()), "", "its network is not routed, and another's may have the address");
    assert_eq!(lost(&now, with(&now.without_guest("a").unwrap(), "c", "blue", "10.71.0.2/24")), "10.71.0.2", "it is another's");
    let set = |words: GuestWords| lost(&now, now.with_guest_set("a", &words).unwrap());
    assert_eq!(
        set(GuestWords { addresses: Some(vec!["10.71.0.2/24".to_owned(), "10.71.0.3/24".to_owned()]), ..Default::default() }),
        ""
    );
    assert_eq!(set(GuestWords { addresses: Some(vec!["10.71.0.3/24".to_owned()]), ..Default::default() }), "10.71.0.2");
    assert_eq!(
        set(GuestWords {
            addresses: Some(vec!["10.72.0.2/24".to_owned()]),
            network: Some("red".to_owned()),
            ..Default::default()
        }),
        "10.71.0.2"
    );
    assert_eq!(set(GuestWords { names: Some(vec!["web".to_owned()]), ..Default::default() }), "");
}

#[test]
fn a_guest_is_isolated_as_it_or_its_bridge_says() {
    let isolated = |desired: &Desired| {
        let guest = desired.config.guests.iter().find(|guest| guest.id == "web").unwrap();
        let port = desired.config.ports.iter().find(|port| port.identity.id.as_deref() == Some("web")).unwrap();
        (guest.isolated, port.station.isolated)
    };
    let now = web(&running());
    assert_eq!(isolated(&now), (None, false));
    let set = |desired: &Desired, is_it| {
        desired.with_guest_set("web", &GuestWords { isolated: Some(is_it), ..GuestWords::default() }).unwrap()
    };
    let on = set(&now, true);
    assert_eq!(isolated(&on), (Some(true), true));
    let mut planned = on.clone();
    let plan = planned.plan_from(&now).unwrap();
    assert!(plan.altered_ports.len() == 1 && plan.removed_ports.is_empty(), "the device stays");
    assert_eq!(isolated(&set(&on, false)), (Some(false), false));
    let file = format!("{FILE}[[guest]]\nid = 'web'\nnetwork = 'blue'\n");
    let file = |of_bridge: &str, of_guest: &str| {
        let text = file.replace("[bridge.blue]\n", &format!("[bridge.blue]\n{of_bridge}")) + of_guest;
        isolated(&Desired::of_text("v.toml", &text, &[]).unwrap())
    };
    assert_eq!(file("isolated = true\n", ""), (None, true));
    assert_eq!(file("isolated = true\n", "isolated = false\n"), (Some(false), false));
    assert_eq!(file("", "isolated = true\n"), (Some(true), true));
}

#[test]
fn a_guest_is_a_port_and_rules() {
    let now = web(&running());
    let guest = "guest web: eth0@box on blue, 02:42:0a:47:00:02, 10.71.0.2/24, name web, name www.example, tcp 8080 -> 10.71.0.2:80, \
                 udp 53 -> 10.71.0.2:53, label app=shop";
    let port =
        "port eth0@box: trunk VLANs 0, mac 02:42:0a:47:00:02, addresses 10.71.0.2, guarded, id web, label app=shop, on blue";
    let rules = ["rule tcp 8080 -> 10.71.0.2:80", "rule udp 53 -> 10.71.0.2:53"];
    let lines =
        |sign: &str| [&[guest, port][..], &rules].concat().iter().map(|line| format!("{sign} {line}")).collect::<Vec<_>>();
    assert_eq!(changes(&running(), Ok(now.clone())).unwrap(), lines("+"));
    assert_eq!(changes(&now, now.without_guest("web")).unwrap(), lines("-"));
    let PortKind::Tap(tap) = &now.config.ports[0].kind else { panic!() };
    assert_eq!(tap.setup.gateway, Some(Ipv4Addr::new(10, 71, 0, 1)));
    assert_eq!(changes(&now, now.without_guest("none")).unwrap(), [""; 0], "deleting twice is fine");
    // What is written is read again as the same.
    let text = now.to_toml();
    let again = Desired::of_text("again.toml", &text, &[]).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    assert!(now.plan_to_itself(&again), "{text}");
}

#[test]
fn a_guest_changes_by_parts() {
    let now = web(&running());
    let set = |words: GuestWords| changes(&now, now.with_guest_set("web", &words)).unwrap();
    let lines = set(GuestWords { publish: Some(vec!["8081:80".to_owned()]), ..GuestWords::default() });
    assert_eq!(
        lines[1..],
        ["- rule tcp 8080 -> 10.71.0.2:80", "- rule udp 53 -> 10.71.0.2:53", "+ rule tcp 8081 -> 10.71.0.2:80"],
        "{lines:?}"
    );
    let lines = set(GuestWords { names: Some(Vec::new()), ..GuestWords::default() });
    assert!(lines.len() == 1 && lines[0].starts_with("~ guest web: ") && !lines[0].ends_with("name web"), "{lines:?}");
    let lines = set(GuestWords { addresses: Some(vec!["10.71.0.3/24".to_owned()]), ..GuestWords::default() });
    assert!(lines.iter().any(|line| line.starts_with("! port eth0@box")), "another address needs the device anew: {lines:?}");
    let said = now.with_guest_set("wep", &GuestWords::default()).unwrap_err().to_string();
    assert_eq!(said, "wep: there is no such guest; did you mean 'web'?");
}

#[test]
fn what_is_refused() {
    let now = web(&running()).with_port("tap9:id=p9").unwrap();
    for (id, words, say) in [
        ("web", words("blue", "", "", &[]), "guest add web: there is a guest web already: change it with 'guest set'"),
        ("p9", words("blue", "", "", &[]), "guest add p9: id p9 is that of a port, 'port add tap9:id=p9': use another id"),
        ("", words("blue", "", "", &[]), "guest add : id is empty"),
        ("x", words("red", "", "", &[]), "guest add x: there is no bridge 'red'; there are br0, blue"),
        ("x", words("blue", "eth0@box", "", &[]), "guest add x: eth0@box is the interface of another port: use another one"),
        ("x", words("blue", "", "10.71.0.2/24", &[]), "guest add x: 10.71.0.2 is the address of guest web: use another one"),
        ("x", words("blue", "", "10.71.0.1/24", &[]), "guest add x: 10.71.0.1 is the gateway's: give the guest another address"),
        ("x", words("blue", "", "10.9.0.2/24", &[]), "10.9.0.2 is not in 10.71.0.0/24, which is the network blue"),
        ("x", words("blue", "", "10.71.0.255/16", &[]), "10.71.0.255 is the broadcast address of 10.71.0.0/24: give the guest"),
        ("x", words("blue", "", "10.71.0.255/24", &[]), "10.71.0.255 is the broadcast address of 10.71.0.0/24: use another"),
        ("x", words("blue", "", "10.71.0.3", &[]), "10.71.0.3 has no prefix length: add one, such as 10.71.0.3/24"),
        ("x", words("blue", "", "255.255.255.255/32", &[]), "255.255.255.255 is a reserved address"),
        ("x", words("blue", "", "224.0.0.1/4", &[]), "224.0.0.1 is a multicast address"),
        ("x", words("blue", "", "ff02::1/64", &[]), "ff02::1 is not the address of a host"),
        ("x", words("blue", "", "fd00::5/129", &[]), "'fd00::5/129' is not an address with the length of its prefix"),
        ("x", words("blue", "", "10.71.0.3/24", &["8080:80"]), "in conflict with tcp 8080 -> 10.71.0.2:80"),
        ("x", words("blue", "", "", &["8080:80"]), "a published port needs the guest's IPv4 address"),
        ("x", words("blue", "", "10.71.0.3/24", &["1:2:3:4"]), "'1:2:3:4' is not [ADDR:]PORT"),
        (
            "x",
            GuestWords { names: Some(vec!["-x".to_owned()]), ..words("blue", "", "", &[]) },
            "name is a host's name such as web",
        ),
        (
            "x",
            GuestWords { mac: Some("ff:ff:ff:ff:ff:ff".to_owned()), ..words("blue", "", "", &[]) },
            "mac is the MAC address of one station",
        ),
    ] {
        let said = now.with_guest(id, &words).unwrap_err().to_string();
        assert!(said.contains(say), "{said}");
    }
    for (said, what) in [
        (now.without_port("eth0@box").unwrap_err(), "eth0@box"),
        (now.without_port_of_id("web").unwrap_err(), "web"),
        (now.without_rule("8080:10.71.0.2:80").unwrap_err(), "8080:10.71.0.2:80"),
    ] {
        assert!(said.to_string().starts_with(&format!("{what}: it is a part of guest web: change it with")), "{said}");
    }
    assert!(now.without_bridge("blue").unwrap_err().to_string().contains("bridge blue has port eth0"));
    let plain = Desired::of_text("v.toml", "[bridge.br0]\n", &[]).unwrap();
    let said = plain.with_guest("x", &words("br0", "", "10.0.0.2/24", &["80"])).unwrap_err().to_string();
    assert!(said.contains("published ports need an uplink in nat mode"), "{said}");
}

#[test]
fn a_port_outside_may_be_left_to_the_switch() {
    let rules = |desired: &Desired, id: &str| {
        let guest = desired.config.guests.iter().find(|guest| guest.id == id).unwrap();
        guest.publish.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let now = web(&running());
    let words = |publish: &[&str], address| words("blue", "", address, publish);
    let choice = ["0:80", "0:53/udp", "8080-8082:81", "8080-8082:82/tcp"];
    let now = now.with_guest("one", &words(&choice, "10.71.0.3/24")).unwrap();
    let expected =
        ["tcp 49153 -> 10.71.0.3:80", "udp 49153 -> 10.71.0.3:53", "tcp 8081 -> 10.71.0.3:81", "tcp 8082 -> 10.71.0.3:82"];
    assert_eq!(rules(&now, "one"), expected, "8080 is web's");
    let now = now.with_guest("two", &words(&["0:80"], "10.71.0.4/24")).unwrap();
    assert_eq!(rules(&now, "two"), ["tcp 49154 -> 10.71.0.4:80"]);
    // What was chosen stays chosen, and may be chosen again by the guest that has it.
    assert_eq!(rules(&now.without_guest("web").unwrap(), "two"), ["tcp 49154 -> 10.71.0.4:80"]);
    let again = now.with_guest_set("one", &words(&["8081-8082:81"], "10.71.0.3/24")).unwrap();
    assert_eq!(rules(&again, "one"), ["tcp 8081 -> 10.71.0.3:81"]);
    let said = now.with_guest("x", &words(&["8080-8082:80"], "10.71.0.5/24")).unwrap_err().to_string();
    assert!(said.contains("none of the ports of 8080-8082:80 is free: name another one"), "{said}");
    // What is named in the same words is taken, too, each protocol and address by itself.
    let mixed = ["0:80", "49155:81", "0:80/udp", "0:82/tcp+udp", "203.0.113.1:0:83"];
    let now = now.with_guest("mixed", &words(&mixed, "10.71.0.6/24")).unwrap();
    let expected =
        ["tcp 49156 -> 10.71.0.6:80", "tcp 49155 -> 10.71.0.6:81", "udp 49154 -> 10.71.0.6:80", "tcp+udp 49157 -> 10.71.0.6:82"];
    assert_eq!(rules(&now, "mixed")[..4], expected);
    let many: Vec<String> = (0..1025).map(|port| format!("0:{}", port + 1)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let said = now.with_guest("x", &words(&many, "10.71.0.5/24")).unwrap_err().to_string();
    assert!(said.contains("1025 published ports, and there is room for 1024 of a guest"), "{said}");
    now.with_guest("x", &words(&many[..1024], "10.71.0.5/24")).unwrap();
    let said = now.with_guest("x", &words(&["0-1:80"], "10.71.0.5/24")).unwrap_err().to_string();
    assert!(said.contains("port"), "{said}");
}

#[test]
fn an_address_may_be_left_to_the_switch() {
    let now = web(&running());
    let add = |now: &Desired, id: &str| now.with_guest(id, &words("blue", "", "auto", &[]));
    let address = |now: &Desired, id: &str| {
        let guest = now.config.guests.iter().find(|guest| guest.id == id).unwrap();
        guest.addresses.iter().map(|(address, len)| format!("{address}/{len}")).collect::<Vec<_>>().join(" ")
    };
    let now = add(&add(&now, "one").unwrap(), "two").unwrap();
    assert_eq!(
        [address(&now, "one"), address(&now, "two")],
        ["10.71.0.3/24", "10.71.0.4/24"],
        "the gateway's and web's are taken"
    );
    let now = add(&now.without_guest("one").unwrap(), "three").unwrap();
    assert_eq!([address(&now, "two"), address(&now, "three")], ["10.71.0.4/24", "10.71.0.3/24"]);
    let again = now.with_guest_set("two", &words("blue", "", "auto", &[])).unwrap();
    assert_eq!(address(&again, "two"), "10.71.0.4/24");
    let both = GuestWords { addresses: Some(vec!["auto".into(), "fd00::5/64".into()]), ..words("blue", "", "", &[]) };
    assert_eq!(address(&now.with_guest("both", &both).unwrap(), "both"), "10.71.0.5/24 fd00::5/64");
    // A network of two hosts is full with its gateway and one guest.
    let small = running().with_bridge("small:gateway=10.72.0.1/30").unwrap();
    let small = small.with_guest("last", &words("small", "", "auto", &[])).unwrap();
    let said = small.with_guest("x", &words("small", "", "auto", &[])).unwrap_err().to_string();
    assert!(said.contains("no address of 10.72.0.0/30 is free"), "{said}");
    let said = now.with_guest("x", &words("br0", "", "auto", &[])).unwrap_err().to_string();
    assert!(said.contains("br0 has no gateway, so no address can be chosen"), "{said}");
}

#[test]
fn an_engines_choice_of_addresses_is_final() {
    let mac = |mac: &str, address: &str| GuestWords { mac: Some(mac.to_owned()), ..words("blue", "", address, &[]) };
    let now = web(&running());
    let mut now = now.with_bridge("red:gateway=10.72.0.1/24").unwrap();
    for (id, words) in [
        ("e:1", mac("02:00:00:00:00:11", "10.71.0.11/24")),
        ("e:2", mac("02:00:00:00:00:12", "10.71.0.12/24")),
        ("e:3", mac("02:00:00:00:00:13", "10.71.0.13/24")),
        ("e:4", GuestWords { network: Some("red".to_owned()), ..mac("02:00:00:00:00:11", "10.72.0.11/24") }),
    ] {
        now = now.with_guest_instead("e:", id, &words).unwrap();
    }
    let next = now.with_guest_instead("e:", "e:3", &mac("02:00:00:00:00:12", "10.71.0.11/24")).unwrap();
    let ids: Vec<&str> = next.config.guests.iter().map(|guest| guest.id.as_str()).collect();
    assert_eq!(ids, ["web", "e:4", "e:3"], "by its id, an address or a MAC address, in its network");
    let said = now.with_guest_instead("e:", "e:5", &mac("02:00:00:00:00:15", "10.71.0.2/24")).unwrap_err().to_string();
    assert!(said.contains("10.71.0.2 is the address of guest web"), "not the engine's: {said}");
}

#[test]
fn an_interface_in_the_switchs_own_namespace_is_not_set_up() {
    let now = running().with_guest("here", &words("blue", "tap0", "10.71.0.2/24", &[])).unwrap();
    let now = now.with_guest("there", &words("blue", "eth0@box", "10.71.0.3/24", &[])).unwrap();
    let setup = |id: &str| {
        let port = now.config.ports.iter().find(|port| port.identity.id.as_deref() == Some(id)).unwrap();
        let PortKind::Tap(tap) = &port.kind else { panic!("a TAP") };
        tap.setup.clone()
    };
    assert_eq!(setup("here"), Setup { stays_down: true, ..Setup::default() });
    assert_eq!(setup("there").gateway, Some(Ipv4Addr::new(10, 71, 0, 1)));
    assert_eq!(setup("there").addresses.len(), 1);
}

#[test]
fn a_guest_sends_untagged_frames() {
    let tagged = "[bridge.br0]\ngateways = { 10 = '10.0.10.1/24' }\n";
    let plain = Desired::of_text("v.toml", tagged, &[]).unwrap();
    let said = plain.with_guest("x", &words("br0", "", "10.0.10.2/24", &[])).unwrap_err().to_string();
    assert!(said.contains("10.0.10.2 is in 10.0.10.0/24 of VLAN 10, and a guest sends untagged frames"), "{said}");
    plain.with_guest("x", &words("br0", "", "10.9.0.2/24", &[])).unwrap();
}

#[test]
fn a_guest_of_a_verb_is_its_makers() {
    let now = web(&running());
    let applied = |file: &str| changes(&now, Ok(now.beside("v.toml", file, &[]).map_err(|problems| problems.to_string())?));
    assert_eq!(applied(FILE).unwrap(), [""; 0]);
    let said = applied(&FILE.replace("blue", "red")).unwrap_err();
    assert!(said.starts_with(
        "v.toml: bridge blue is not there, but has guest web, which is not the file's, but made by 'guest add web'"
    ));
    let own = format!("{FILE}[[guest]]\nid = 'web'\n");
    assert!(applied(&own).unwrap_err().starts_with("v.toml:6: there is a guest web already, which is not the file's"));
    assert_eq!(changes(&now, Ok(running())).unwrap().len(), 4, "apply --prune");
    // Those of the file are not left over.
    let file = format!("{FILE}[[guest]]\nid = 'e-1'\n[[guest]]\nid = 'mine'\n");
    let mut now = Desired::of_text("v.toml", &file, &[]).unwrap();
    for id in ["e-2", "e-3", "e-4", "f-1"] {
        now = now.with_guest(id, &words("blue", "", "", &[])).unwrap();
    }
    let left = now.without_left_over_guests("e-", &["e-3".to_owned()]).unwrap();
    let ids: Vec<&str> = left.config.guests.iter().map(|guest| guest.id.as_str()).collect();
    assert_eq!(ids, ["e-1", "mine", "e-3", "f-1"]);
    let interface = &left.config.guests[0].interface;
    assert!(interface.len() == 15 && interface.starts_with("vsw"), "{interface}");
}
