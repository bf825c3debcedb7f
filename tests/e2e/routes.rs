//! Routes to networks behind guests: by verbs, a file and SIGHUP, with a guard, published ports, and without translation.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};

use libtest_mimic::Trial;

use crate::config::Written;
use crate::control::{json, run, text};
use crate::guest::Directory;
use crate::host::Host;
use crate::site::{
    FAR, GATEWAY, MACHINE, Mode, OWN, OWN_TOO, Plan, Site, add_route, assert_empty, default_route, error_of, give, hears_all,
    local, ping, recv_from, udp_on,
};
use crate::switch::{Reloaded, Switch};
use crate::{trial, wait};

/// A host behind a guest, in 10.9.0.0/16: an address of that guest's kernel.
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);
const ROUTE: &str = "10.9.0.0/16:via=10.71.0.9:bridge=blue";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("routes/behind_a_guest", behind_a_guest),
        trial("routes/come_and_go_with_a_file", come_and_go_with_a_file),
        trial("routes/without_translation", without_translation),
        trial("routes/a_whole_address_comes_and_goes", a_whole_address_comes_and_goes),
        trial("routes/verbs_that_are_refused", verbs_that_are_refused),
    ]
}

/// Two networks, each with a guest: 10.71.0.9, guarded, which forwards for others, and 10.72.0.2.
fn site_with(socket: &str, mode: Mode, more: &[&str]) -> Site {
    let mut site = Plan::new(mode, 2).bare();
    let machine = site.machine.netns().try_clone().expect("a clone");
    site.switch = Some(Switch::start_inside(machine, &[&["--uplink", "up0", "--control", socket][..], more].concat()));
    for (n, name, address) in [(1, "blue", [10, 71, 0, 9]), (2, "red", [10, 72, 0, 2])] {
        let address = Ipv4Addr::from(address);
        let [a, b, c, _] = address.octets();
        let gateway = Ipv4Addr::new(a, b, c, 1);
        text(socket, &["bridge", "add", &format!("{name}:gateway={gateway}/24")]);
        text(socket, &["port", "add", &site.guest(n).port(&format!(":bridge={name}:guard={address}"))]);
        give(site.guest(n), address, 24);
        default_route(site.guest(n), gateway);
    }
    give(site.guest(1), BEHIND, 32);
    site
}

fn drops(socket: &str, port: &str, reason: &str) -> u64 {
    json(socket, &["port", "stats", port])[0]["drops"][reason].as_u64().unwrap_or(0)
}

fn behind_a_guest() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with(&socket, Mode::Shared, &[]);
    let server = udp_on(&site.outside, FAR, 0);
    // Its kernel would ask for the gateway by the address behind.
    assert_eq!(ping(site.guest(1), Ipv4Addr::new(10, 71, 0, 1), 1).0, Ipv4Addr::new(10, 71, 0, 1));
    let behind = udp_on(site.guest(1), BEHIND, 80);
    behind.send_to(b"guarded", local(&server)).expect("sent");
    wait::until("the guard to drop it", || (drops(&socket, "g1", "guard_ip") == 1).then_some(()));
    let added = text(&socket, &["route", "add", ROUTE]);
    assert!(added.starts_with("+ route 10.9.0.0/16: via 10.71.0.9, on blue\n~ port g1@"), "{added}");
    assert!(added.ends_with("-> all VLANs, addresses 10.71.0.9, behind it 10.9.0.0/16, guarded, on blue\n"), "{added}");
    assert_eq!(ping(site.guest(2), BEHIND, 1), (BEHIND, 63), "from another network");
    behind.send_to(b"out", local(&server)).expect("sent");
    let (said, from) = recv_from(&server);
    assert_eq!((&said[..], *from.ip()), (&b"out"[..], MACHINE), "translated");
    server.send_to(b"back", from).expect("sent");
    assert_eq!(recv_from(&behind).0, b"back");
    // From its network, and from no other.
    give(site.guest(1), Ipv4Addr::new(10, 10, 0, 5), 32);
    let other = udp_on(site.guest(1), Ipv4Addr::new(10, 10, 0, 5), 0);
    other.send_to(b"guarded", local(&server)).expect("sent");
    wait::until("the guard to drop it", || (drops(&socket, "g1", "guard_ip") == 2).then_some(()));
    text(&socket, &["nat", "publish", "8080:10.9.0.5:81/udp"]);
    let published = udp_on(site.guest(1), BEHIND, 81);
    server.send_to(b"in", (MACHINE, 8080)).expect("sent");
    assert_eq!(recv_from(&published).0, b"in");
    let list = json(&socket, &["route", "list"]);
    assert_eq!(
        list,
        serde_json::json!([{ "to": "10.9.0.0/16", "via": "10.71.0.9", "bridge": "blue", "vlan": 0, "no_nat": false }])
    );
    assert_eq!(json(&socket, &["show"])["routes"], list);
    assert!(text(&socket, &["show"]).contains("10.9.0.0/16  10.71.0.9"));
    let story = text(&socket, &["trace", "port=g2,src=10.72.0.2,dst=10.9.0.5,udp,dport=80"]);
    assert!(story.contains("the route to 10.9.0.5 is through guest 10.71.0.9"), "{story}");
    let story = text(&socket, &["trace", "port=g1,src=10.9.0.5,dst=198.51.100.7,udp,sport=80,dport=9"]);
    assert!(story.contains("its source is now 203.0.113.1"), "{story}");
    // What its network reaches.
    text(&socket, &["bridge", "set", "blue:routing=outside"]);
    let knocks = hears_all(udp_on(site.guest(2), Ipv4Addr::new(10, 72, 0, 2), 0));
    knocks.connect((BEHIND, 80)).expect("connected");
    knocks.send(b"let me in").expect("sent");
    assert_eq!(error_of(&knocks).raw_os_error(), Some(libc::EHOSTUNREACH));
    // The route goes, and with it the connections.
    let count = || json(&socket, &["conntrack", "list"])["connections"].as_array().map_or(0, Vec::len);
    assert!(count() > 0);
    text(&socket, &["nat", "unpublish", "8080:10.9.0.5:81/udp"]);
    let gone = text(&socket, &["route", "del", "10.9.0.0/16"]);
    assert!(gone.starts_with("- route 10.9.0.0/16: via 10.71.0.9, on blue\n"), "{gone}");
    assert_eq!(count(), 0);
    server.send_to(b"late", from).expect("sent");
    assert_eq!(json(&socket, &["route", "list"]), serde_json::json!([]));
    assert_empty(&behind);
    site.finish();
}

/// A route of a verb is the configuration's: a file that lacks it takes it away; and one of a file follows the file.
fn come_and_go_with_a_file() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let lan = "[bridge.lan]\ngateway = \"10.77.0.1/24\"\n[[bridge.lan.port]]\ntap = \"TAP\"\nnetns = \"NETNS\"\n";
    let host = Host::quiet("g1");
    let port = host.port("");
    let (tap, netns) = port.split_once('@').expect("a namespace");
    let lan = lan.replace("TAP", tap).replace("NETNS", netns);
    let route = |via: &str| format!("{lan}[[route]]\nto = \"10.9.0.0/16\"\nvia = \"{via}\"\nbridge = \"lan\"\n");
    let file = Written::new("routes", &lan);
    let switch = Switch::start(&["--config", file.path(), "--control", &socket]);
    text(&socket, &["route", "add", "10.10.0.0/16:via=10.77.0.8:bridge=lan"]);
    let routes = || {
        json(&socket, &["route", "list"]).as_array().map_or(Vec::new(), |all| {
            all.iter().map(|route| format!("{} {}", route["to"], route["via"]).replace('"', "")).collect::<Vec<_>>()
        })
    };
    assert_eq!(routes(), ["10.10.0.0/16 10.77.0.8"]);
    assert!(
        text(&socket, &["config", "show"]).contains("[[route]]\nto = \"10.10.0.0/16\"\nvia = \"10.77.0.8\"\nbridge = \"lan\"\n")
    );
    fs::write(file.path(), route("10.77.0.9")).expect("written");
    assert_eq!(switch.reload(), Reloaded::Changed);
    assert_eq!(routes(), ["10.9.0.0/16 10.77.0.9"]);
    fs::write(file.path(), route("10.77.0.8")).expect("written");
    let changed = "~ route 10.9.0.0/16: via 10.77.0.9 -> via 10.77.0.8\n";
    assert_eq!(text(&socket, &["apply", "--dry-run", file.path()]), changed);
    assert_eq!(routes(), ["10.9.0.0/16 10.77.0.9"]);
    assert_eq!(text(&socket, &["apply", file.path()]), changed);
    // A thousand, in one change.
    let many: String = (0..1000)
        .map(|n| format!("[[route]]\nto = \"10.{}.{}.0/24\"\nvia = \"10.77.0.9\"\nbridge = \"lan\"\n", 100 + n / 250, n % 250))
        .collect();
    fs::write(file.path(), lan.clone() + &many).expect("written");
    assert_eq!(text(&socket, &["apply", file.path()]).lines().count(), 1001);
    give(&host, Ipv4Addr::new(10, 77, 0, 9), 24);
    give(&host, Ipv4Addr::new(10, 103, 249, 5), 32);
    default_route(&host, GATEWAY);
    assert_eq!(ping(&host, GATEWAY, 1).0, GATEWAY);
    switch.finish();
}

/// A network that keeps its addresses on its way outside, where a router has a route to it.
fn without_translation() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with(&socket, Mode::Own, &["--uplink-address", &format!("{OWN}/24"), "--uplink-gateway", "203.0.113.254"]);
    add_route(&site.outside, Ipv4Addr::new(10, 9, 0, 0), 16, OWN);
    text(&socket, &["route", "add", &format!("{ROUTE}:no-nat=on")]);
    let behind = udp_on(site.guest(1), BEHIND, 80);
    let server = udp_on(&site.outside, FAR, 0);
    behind.send_to(b"out", local(&server)).expect("sent");
    let (said, from) = recv_from(&server);
    assert_eq!((&said[..], from), (&b"out"[..], local(&behind)));
    server.send_to(b"back", from).expect("sent");
    assert_eq!(recv_from(&behind).0, b"back");
    // Whoever knows the address may begin; datagrams in fragments are no exception.
    server.send_to(&[7; 4000], (BEHIND, 80)).expect("sent");
    assert_eq!(recv_from(&behind).0, [7; 4000]);
    assert_eq!(ping(&site.outside, BEHIND, 1).0, BEHIND);
    assert_eq!(json(&socket, &["conntrack", "list"])["connections"], serde_json::json!([]));
    let story = text(&socket, &["trace", "port=g1,src=10.9.0.5,dst=198.51.100.7,udp,dport=9"]);
    assert!(story.contains("keeps its source 10.9.0.5: its route is not translated"), "{story}");
    // The guest itself is translated.
    let own = udp_on(site.guest(1), Ipv4Addr::new(10, 71, 0, 9), 0);
    own.send_to(b"own", local(&server)).expect("sent");
    assert_eq!(*recv_from(&server).1.ip(), OWN);
    let line = text(&socket, &["route", "list"]);
    assert!(line.contains("not translated"), "{line}");
    text(&socket, &["route", "del", &format!("{ROUTE}:no-nat=on")]);
    server.send_to(b"late", (BEHIND, 80)).expect("sent");
    own.send_to(b"after it", local(&server)).expect("sent");
    recv_from(&server);
    assert_empty(&behind);
    site.finish();
}

/// A guest gets an own address for itself while others keep theirs with their connections, and loses it again.
fn a_whole_address_comes_and_goes() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let addresses = format!("{OWN}/24,{OWN_TOO}");
    let site = site_with(&socket, Mode::Own, &["--uplink-address", &addresses, "--uplink-gateway", "203.0.113.254"]);
    text(&socket, &["nat", "publish", "8080:10.71.0.9:80/udp"]);
    let [calm, own] = [(1, [10, 71, 0, 9]), (2, [10, 72, 0, 2])].map(|(n, address)| udp_on(site.guest(n), address.into(), 0));
    let published = udp_on(site.guest(1), Ipv4Addr::new(10, 71, 0, 9), 80);
    let server = udp_on(&site.outside, FAR, 0);
    let seen_from = |socket: &UdpSocket| {
        socket.send_to(b"out", local(&server)).expect("sent");
        recv_from(&server).1
    };
    let pooled = [OWN, OWN_TOO];
    assert!(pooled.contains(seen_from(&own).ip()));
    let before = seen_from(&calm);
    // The address that the other guest does not use.
    let whole = if *before.ip() == OWN { OWN_TOO } else { OWN };
    let rule = format!("{whole}:10.72.0.2");
    assert_eq!(text(&socket, &["nat", "publish", &rule]), format!("+ rule all {whole} -> 10.72.0.2\n"));
    let (address, port) = (local(&own).port(), seen_from(&own));
    assert_eq!((*port.ip(), port.port()), (whole, address), "its own address, and its own port");
    server.send_to(b"in", (whole, 9)).expect("sent");
    let inside = udp_on(site.guest(2), Ipv4Addr::new(10, 72, 0, 2), 10);
    server.send_to(b"in", (whole, 10)).expect("sent");
    assert_eq!(recv_from(&inside).0, b"in", "from outside, by any port");
    server.send_to(b"still", before).expect("sent");
    assert_eq!((recv_from(&calm).0, seen_from(&calm)), (b"still".to_vec(), before), "the other guest has lost nothing");
    let other = *before.ip();
    server.send_to(b"published", (other, 8080)).expect("sent");
    assert_eq!(recv_from(&published).0, b"published");
    text(&socket, &["nat", "unpublish", &rule]);
    assert_eq!(seen_from(&calm), before);
    assert!(pooled.contains(seen_from(&own).ip()));
    udp_on(&site.outside, FAR, 0).send_to(b"published", (whole, 8080)).expect("sent");
    assert_eq!(recv_from(&published).0, b"published", "rules hold for the address again");
    assert!(site.switch.as_ref().is_some_and(|switch| !switch.has_logged("not all of the uplink's addresses")));
    site.finish();
}

fn verbs_that_are_refused() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = site_with(&socket, Mode::Shared, &[]);
    text(&socket, &["route", "add", ROUTE]);
    for (words, say) in [
        (&["route", "add", ROUTE][..], "there is a route 10.9.0.0/16 via 10.71.0.9 on blue already"),
        (&["route", "add", "10.10.0.0/16:via=10.72.0.9:bridge=blue"], "10.72.0.9 is in no gateway's network of bridge blue"),
        (&["route", "add", "10.10.0.0/16:via=10.72.0.9"], "10.72.0.9 is in no gateway's network of bridge br0 (10.77.0.0/24)"),
        (
            &["route", "add", "10.72.0.0/16:via=10.71.0.9:bridge=blue"],
            "overlaps with 10.72.0.0/24 of gateway 10.72.0.1/24 on red",
        ),
        (&["route", "add", "203.0.113.128/25:via=10.71.0.9:bridge=blue"], "overlaps with 203.0.113.0/24, the uplink's"),
        (&["route", "add", "10.10.0.0/16:via=10.71.0.9:bridge=blue:no-nat=on"], "no-nat needs an own address on up0"),
        (&["route", "del", "10.9.0.0/17"], "there is no such route; did you mean '10.9.0.0/16'?"),
        (&["bridge", "set", "blue:gateway=10.73.0.1/24"], "10.71.0.9 is in no gateway's network of bridge blue (10.73.0.0/24)"),
    ] {
        let output = run(&socket, words);
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.code() == Some(1) && said.contains(say), "{words:?}: {said}");
    }
    assert_eq!(json(&socket, &["route", "list"]).as_array().map(Vec::len), Some(1));
    // It is of the verb's bridge, and stays as that does.
    let file = Written::new("own", "[uplink]\ninterface = \"up0\"\n");
    assert_eq!(text(&socket, &["apply", file.path()]), "configuration unchanged\n");
    assert_eq!(ping(site.guest(2), BEHIND, 1), (BEHIND, 63));
    site.finish();
}
