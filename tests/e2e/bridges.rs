//! Several bridges in one daemon: they are separate unless a router connects them.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use netio::netns;
use packet::MacAddr;

use crate::config::Written;
use crate::frames::{DOT1Q, frame, is_ours, station, tagged};
use crate::guest::Directory;
use crate::host::{Host, Ip};
use crate::raw::RawSocket;
use crate::site::{FAR, MACHINE, Mode, Plan, connect, default_route, give, listen_on, local, ping, recv_from, udp_on, v4};
use crate::switch::{Reloaded, Switch, daemon, run_inside};
use crate::tunnel_site::Underlay;
use crate::{program, trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("bridges/nothing_crosses_at_layer_2", nothing_crosses_at_layer_2),
        trial("bridges/one_uplink_and_routes_between", one_uplink_and_routes_between),
        trial("bridges/a_tunnel_on_the_second", a_tunnel_on_the_second),
        trial("bridges/a_port_moves_to_another", a_port_moves_to_another),
        trial("bridges/a_port_may_not_move_into_its_own_tunnel", a_port_may_not_move_into_its_own_tunnel),
        trial("bridges/shown_by_name", shown_by_name),
        trial("bridges/errors_name_the_line", errors_name_the_line),
    ]
}

/// The configuration of a port of this bridge.
fn port(bridge: &str, host: &Host, keys: &str) -> String {
    format!("[[bridge.{bridge}.port]]\ntap = \"{}\"\nnetns = \"{}\"\n{keys}\n", host.name(), netns::path_of(host.netns()))
}

/// The test's own frames that this socket has received.
fn ours(socket: &RawSocket) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| socket.recv()).filter(|frame| is_ours(frame)).collect()
}

/// Two hosts on each of two bridges, all on VLAN 10, and stations with the same addresses on both bridges.
fn nothing_crosses_at_layer_2() {
    let hosts = ["a", "b", "c", "d"].map(Host::quiet);
    let keys = ["vlan = 10", "trunks = [10]", "vlan = 10", "trunks = [10]"];
    let ports = ["br0", "br0", "br1", "br1"].iter().zip(&hosts).zip(keys).map(|((bridge, host), keys)| port(bridge, host, keys));
    let file = Written::new("apart", &ports.collect::<String>());
    // A worker that finds the table taken by another one learns an address later, which here would be never.
    let switch = Switch::start(&["--config", file.path(), "--workers", "1"]);
    let summary = switch.summary().join("\n");
    for text in
        ["bridge br0: 2 ports, MAC table", "bridge br1: 2 ports, MAC table", " for 2 bridges", "port c in ", " on br1: access"]
    {
        assert!(summary.contains(text), "not said: {text}\n{summary}");
    }
    let [a, b, c, d] = hosts.each_ref().map(Host::raw);
    // The same two stations on both bridges, in this order: an entry shared by the bridges would misdirect the third
    // frame.
    for (near, far, word) in [(&a, &b, &b"first"[..]), (&c, &d, b"second")] {
        let tag = |frame: &[u8]| tagged(frame, DOT1Q, 10);
        near.send(&frame(MacAddr::BROADCAST, station(1), word)).expect("sent");
        far.send(&tag(&frame(station(1), station(2), word))).expect("sent");
        near.send(&frame(station(2), station(1), word)).expect("sent");
        far.send(&tag(&frame(station(3), station(2), word))).expect("sent");
    }
    let mut seen = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    wait::until("all frames", || {
        for (seen, socket) in seen.iter_mut().zip([&a, &b, &c, &d]) {
            seen.extend(ours(socket));
        }
        (seen.iter().map(Vec::len).sum::<usize>() >= 8).then_some(())
    });
    // Gives frames that must not arrive the time to arrive.
    thread::sleep(Duration::from_millis(100));
    for ((seen, socket), word) in seen.iter_mut().zip([&a, &b, &c, &d]).zip([&b"first"[..], b"first", b"second", b"second"]) {
        seen.extend(ours(socket));
        assert_eq!(seen.len(), 2, "{seen:x?}");
        assert!(seen.iter().all(|frame| frame.windows(word.len()).any(|window| window == word)), "{seen:x?}");
    }
    let report = switch.finish();
    assert_eq!([report.table("br0 entries"), report.table("br1 entries")], [2, 2]);
    assert_eq!([report.table("br0 moved"), report.table("br1 moved")], [0, 0]);
}

/// Two bridges with a gateway each, behind one uplink.
fn one_uplink_and_routes_between() {
    let site = Plan::new(Mode::Shared, 2).bare();
    let (one, two) = (site.guest(1), site.guest(2));
    let gateway = |bridge: &str, address: &str| format!("[bridge.{bridge}]\ngateway = \"{address}\"\n");
    let text = [
        gateway("br0", "10.77.0.1/24"),
        port("br0", one, ""),
        gateway("lab", "10.78.0.1/24"),
        port("lab", two, ""),
        "[uplink]\ninterface = \"up0\"\n[[publish]]\nlisten = 8080\nto = \"10.78.0.2:80\"\n".to_owned(),
    ];
    let file = Written::new("routed", &text.concat());
    let machine = site.machine.netns().try_clone().expect("a clone");
    let switch = Switch::start_inside(machine, &["--config", file.path()]);
    let [a, b] = [[10, 77, 0, 2], [10, 78, 0, 2]].map(Ipv4Addr::from);
    for (host, address, via) in [(one, a, [10, 77, 0, 1]), (two, b, [10, 78, 0, 1])] {
        give(host, address, 24);
        default_route(host, via.into());
    }
    assert_eq!(ping(one, b, 1), (b, 63), "routed from br0");
    assert_eq!(ping(two, a, 2), (a, 63), "routed from lab");
    assert_eq!(ping(two, [10, 77, 0, 1].into(), 3).0, Ipv4Addr::from([10, 77, 0, 1]), "the router's other address");
    let server = udp_on(&site.outside, FAR, 0);
    for (guest, address) in [(one, a), (two, b)] {
        let socket = udp_on(guest, address, 5000);
        socket.send_to(b"out", local(&server)).expect("sent");
        let (said, from) = recv_from(&server);
        assert_eq!((&said[..], *from.ip()), (&b"out"[..], MACHINE));
        server.send_to(b"back", from).expect("sent");
        assert_eq!(recv_from(&socket), (b"back".to_vec(), local(&server)));
    }
    let listener = listen_on(two, b, 80);
    let (_near, far, from) = connect(&site.outside, &listener, v4((MACHINE, 8080).into()));
    assert_eq!(v4(far.peer_addr().expect("its peer")), from);
    let report = switch.finish();
    assert_eq!([report.table("br0 entries"), report.table("lab entries")], [1, 1]);
}

/// Two machines. On the first, the tunnel belongs to the second bridge, whose host shares a MAC address with a host on
/// the first.
fn a_tunnel_on_the_second() {
    let underlay = Underlay::pair(Ip::V4);
    let (other, near, far) = (Host::quiet("o1"), Host::quiet("h1"), Host::quiet("h2"));
    let [here, there] = [1, 2].map(|number| underlay.address(number));
    let tunnel = format!(
        "[[tunnel]]\ntype = \"vxlan\"\nbridge = \"br1\"\nvni = 42\nlocal = \"{here}\"\nremotes = [\"{there}\"]\nmac = {{ \
         \"{}\" = \"{there}\" }}\n",
        station(9)
    );
    let text = [port("br0", &other, ""), port("br1", &near, ""), tunnel];
    let file = Written::new("tunnel", &text.concat());
    let machine = underlay.machine(1).netns().try_clone().expect("a clone");
    let switch = Switch::start_inside(machine, &["--config", file.path()]);
    let summary = switch.summary().join("\n");
    assert!(summary.contains(", on br1"), "{summary}");
    let second = underlay.daemon_for(2, &[1], &far);
    for (host, last) in [(&other, 1), (&near, 1), (&far, 2)] {
        give(host, Ipv4Addr::new(10, 0, 0, last), 24);
    }
    assert_eq!((other.link().mtu, near.link().mtu), (1500, 1450), "only its own bridge's ports make room for a tunnel");
    let to = Ipv4Addr::new(10, 0, 0, 2);
    assert_eq!(ping(&near, to, 1), (to, 64));
    let peer = format!("vxlan42/{there}");
    let before = switch.settle("the ping to be counted", |report| report.sent_by(&peer) >= 2);
    // Broadcast, unknown unicast, and a static entry of the other bridge: all stay on their own bridge.
    let speaks = other.raw();
    for dst in [MacAddr::BROADCAST, station(8), station(9)] {
        speaks.send(&frame(dst, station(7), b"mine")).expect("sent");
    }
    let all =
        |report: &crate::switch::Report| report.dropped("o1", "no_destination") >= before.dropped("o1", "no_destination") + 3;
    let after = switch.settle("all to be dropped", all);
    assert_eq!(after.sent_by(&peer), before.sent_by(&peer));
    assert_eq!((after.table("br0 static"), after.table("br1 static")), (0, 1));
    switch.finish();
    second.finish();
}

/// SIGHUP moves a port to another bridge; its MAC entries on the old bridge go, static ones too.
fn a_port_moves_to_another() {
    let [a, b, c] = ["a", "b", "c"].map(Host::quiet);
    let text = |second: &str| [port("br0", &a, ""), port(second, &b, ""), port("lab", &c, "")].concat();
    let file = Written::new("moves", &text("br0"));
    let directory = Directory::new();
    let socket = directory.text("control");
    let switch = Switch::start(&["--config", file.path(), "--control", &socket]);
    json(&socket, &["fdb", "add", &station(9).to_string(), "b"]);
    let [from, mover, to] = [&a, &b, &c].map(Host::raw);
    let next = |socket: &RawSocket| wait::until("a frame", || socket.recv().filter(|frame| is_ours(frame)));
    mover.send(&frame(MacAddr::BROADCAST, station(2), b"here")).expect("sent");
    assert_eq!(next(&from), frame(MacAddr::BROADCAST, station(2), b"here"));
    std::fs::write(file.path(), text("lab")).expect("written");
    assert_eq!(switch.reload(), Reloaded::Changed);
    from.send(&frame(station(2), station(1), b"to nobody")).expect("sent");
    from.send(&frame(station(9), station(1), b"to nobody")).expect("sent");
    switch.settle("both to be dropped", |report| report.dropped("a", "no_destination") == 2);
    mover.send(&frame(MacAddr::BROADCAST, station(2), b"there")).expect("sent");
    assert_eq!(next(&to), frame(MacAddr::BROADCAST, station(2), b"there"));
    to.send(&frame(station(2), station(3), b"welcome")).expect("sent");
    assert_eq!(next(&mover), frame(station(2), station(3), b"welcome"));
    assert!(ours(&from).is_empty());
    let report = switch.finish();
    assert_eq!([report.table("br0 entries"), report.table("br0 static"), report.table("lab entries")], [1, 0, 2]);
}

/// The interface under a tunnel may be a port of another bridge, but not of the tunnel's own.
fn a_port_may_not_move_into_its_own_tunnel() {
    let underlay = Underlay::pair(Ip::V4);
    let [here, there] = [1, 2].map(|number| underlay.address(number));
    let (other, host, under) = (Host::quiet("o1"), Host::quiet("h1"), underlay.machine(1).name());
    let tunnel =
        format!("[[tunnel]]\ntype = \"vxlan\"\nbridge = \"br1\"\nvni = 42\nlocal = \"{here}\"\nremotes = [\"{there}\"]\n");
    let taps = port("br0", &other, "") + &port("br1", &host, "");
    let first = format!("{tunnel}{taps}[[bridge.br0.port]]\npacket = \"{under}\"\n");
    let file = Written::new("own-tunnel", &first);
    let machine = underlay.machine(1).netns().try_clone().expect("a clone");
    let switch = Switch::start_inside(machine, &["--config", file.path()]);
    std::fs::write(file.path(), first.replace("[[bridge.br0.port]]\npacket", "[[bridge.br1.port]]\npacket")).expect("written");
    assert_eq!(switch.reload(), Reloaded::Refused);
    assert!(switch.has_logged("bridged into it again"));
    switch.finish();
    underlay.finish();
}

/// The output of `vswitchctl` on this socket.
fn ctl(socket: &str, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(program::vswitchctl());
    let output = command.args(["--socket", socket]).args(words).stdin(Stdio::null()).output().expect("vswitchctl runs");
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(said).expect("text"))
}

fn json(socket: &str, words: &[&str]) -> serde_json::Value {
    let (is_good, text) = ctl(socket, &[words, &["-o", "json"]].concat());
    assert!(is_good, "{words:?}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
}

fn shown_by_name() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let (one, two) = (Host::quiet("a"), Host::quiet("b"));
    let second = "[bridge.br1]\nmac-table-size = 99\ngateways = { 10 = \"10.1.0.1/24\" }\n";
    let file = Written::new("shown", &[port("br0", &one, ""), second.to_owned(), port("br1", &two, "vlan = 10")].concat());
    let switch = Switch::start(&["--config", file.path(), "--control", &socket]);
    for host in [&one, &two] {
        host.raw().send(&frame(MacAddr::BROADCAST, station(1), b"here")).expect("sent");
    }
    give(&two, Ipv4Addr::new(10, 1, 0, 2), 24);
    ping(&two, Ipv4Addr::new(10, 1, 0, 1), 1);
    wait::until("both to be learned", || {
        let report = switch.report();
        (report.table("br0 entries") == 1 && report.table("br1 entries") == 2).then_some(())
    });

    let show = json(&socket, &["show"]);
    let names: Vec<&str> = show["bridges"].as_array().unwrap().iter().map(|bridge| bridge["name"].as_str().unwrap()).collect();
    assert_eq!((names, &show["bridge"]["name"]), (vec!["br0", "br1"], &"br0".into()));
    assert_eq!((&show["bridges"][1]["mac_table_size"], &show["bridges"][1]["mac_entries"]), (&99.into(), &2.into()));
    let gateway = &show["bridges"][1]["gateways"][0];
    assert_eq!((&gateway["address"], &gateway["vlan"], &gateway["bridge"]), (&"10.1.0.1".into(), &10.into(), &"br1".into()));
    assert_eq!(show["bridges"][0]["gateways"], serde_json::json!([]));
    assert_eq!([&show["ports"][0]["bridge"], &show["ports"][1]["bridge"]], ["br0", "br1"]);

    // The same address on both bridges, in two VLANs.
    let mine = |entry: &&serde_json::Value| entry["mac"] == station(1).to_string();
    let all = json(&socket, &["fdb", "show"]);
    let places: Vec<_> = all.as_array().unwrap().iter().filter(mine).map(|entry| (&entry["bridge"], &entry["port"])).collect();
    assert_eq!(places, [(&"br0".into(), &"a".into()), (&"br1".into(), &"b".into())]);
    assert_eq!(json(&socket, &["fdb", "show", "--bridge", "br1"]).as_array().unwrap().len(), 2);
    assert!(ctl(&socket, &["fdb", "show"]).1.starts_with("bridge"));
    assert!(!ctl(&socket, &["fdb", "show", "--bridge", "br1"]).1.contains("bridge"), "one bridge needs no column");
    assert_eq!(json(&socket, &["fdb", "stats", "--bridge", "br1"])["learned"], 2);
    assert_eq!(json(&socket, &["fdb", "stats"])["learned"], 3);
    for (words, say) in [
        (["fdb", "show", "--bridge", "br2"], "there is no bridge 'br2': did you mean 'br"),
        (["fdb", "show", "--bridge", "a b&c=%"], "there is no bridge 'a b&c=%'; there are br0, br1"),
        (["fdb", "stats", "--bridge", "br2"], "there is no bridge 'br2'"),
    ] {
        let (is_good, said) = ctl(&socket, &words);
        assert!(!is_good && said.contains(say), "{said}");
    }
    let neighbour = &json(&socket, &["neigh", "show"])[0];
    assert_eq!((&neighbour["bridge"], &neighbour["vlan"]), (&"br1".into(), &10.into()));

    let (_, metrics) = ctl(&socket, &["metrics"]);
    for line in ["vswitchd_mac_table_entries{bridge=\"br0\"} 1.0", "vswitchd_mac_table_entries{bridge=\"br1\"} 2.0"] {
        assert!(metrics.lines().any(|other| other == line), "no line {line}\n{metrics}");
    }
    let is_a = |line: &str| line.starts_with("vswitchd_port_receive_frames_total{port=\"a\",") && line.contains("bridge=\"br0\"");
    assert!(metrics.lines().any(is_a), "{metrics}");

    // A change affects one bridge only.
    let mac = station(1).to_string();
    let (is_good, said) = ctl(&socket, &["fdb", "del", &mac, "--vlan", "10"]);
    assert!(!is_good && said.contains("on which bridge? There are br0, br1"), "{said}");
    assert_eq!(json(&socket, &["fdb", "del", &mac, "--vlan", "10", "--bridge", "br0"])["flushed"], 0);
    assert_eq!(json(&socket, &["fdb", "add", &mac, "b", "--vlan", "10"])["bridge"], "br1");
    assert_eq!(json(&socket, &["fdb", "del", &mac, "--vlan", "10", "--bridge", "br1"])["flushed"], 1);
    assert_eq!(json(&socket, &["fdb", "flush", "--bridge", "br0"])["flushed"], 1);
    switch.finish();
}

fn errors_name_the_line() {
    let netns = netns::create().expect("a namespace");
    for (text, say) in [
        (
            "[[bridge.br0.port]]\ntap = \"a\"\n[[bridge.br1.port]]\ntap = \"b\"\n[[tunnel]]\ntype = \"vxlan\"\nbridge = \"br2\"\n",
            "7: there is no bridge 'br2': did you mean 'br",
        ),
        (
            "[bridge.br0]\ngateway = \"10.0.0.1/24\"\n[[bridge.br0.port]]\ntap = \"a\"\n[bridge.br1]\ngateway = \"10.0.0.9/24\"\n\
             [[bridge.br1.port]]\ntap = \"b\"\n",
            "6: 10.0.0.0/24 overlaps with 10.0.0.0/24 of gateway 10.0.0.1/24 of bridge br0",
        ),
    ] {
        let file = Written::new("bridges", text);
        let ended = run_inside(&netns, &mut daemon(&["--check", "--config", file.path()]));
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.log.contains(&format!("vswitchd: {}:{say}", file.path())), "{}", ended.log);
    }
}
