//! The control socket and `vswitchctl`, with well-behaved and with hostile clients.

use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use netio::netns;
use packet::MacAddr;

use crate::exchange::Echo;
use crate::frames::{frame, station};
use crate::guest::Directory;
use crate::host::{Host, Ip};
use crate::named::in_own_mounts;
use crate::site::{FAR, GATEWAY, MACHINE, Mode, Plan, guest_address, local, recv_from, udp_on};
use crate::switch::{Switch, daemon, run_inside};
use crate::tunnel_site::Underlay;
use crate::{program, trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("control/ports_and_addresses", ports_and_addresses),
        trial("control/router", router),
        trial("control/tunnels", tunnels),
        trial("control/metrics", metrics),
        trial("control/exit_status", exit_status),
        trial("control/one_daemon_a_path", || in_own_mounts(one_daemon_a_path)),
        trial("control/problems", problems),
        trial("control/hostile_clients", hostile_clients),
        trial("control/clients_that_stay", clients_that_stay),
        trial("control/a_thousand_clients", a_thousand_clients),
        trial("control/slow_and_rude_clients", slow_and_rude_clients),
        trial("control/guests_do_not_notice", guests_do_not_notice),
    ]
}

/// Runs `vswitchctl` on this socket.
pub(crate) fn run(socket: &str, words: &[&str]) -> Output {
    let mut command = Command::new(program::vswitchctl());
    command.args(["--socket", socket]).args(words).stdin(Stdio::null()).output().expect("vswitchctl runs")
}

/// Its output, as words by line.
pub(crate) fn table(socket: &str, words: &[&str]) -> Vec<Vec<String>> {
    let text = text(socket, words);
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

pub(crate) fn text(socket: &str, words: &[&str]) -> String {
    let output = run(socket, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

pub(crate) fn json(socket: &str, words: &[&str]) -> serde_json::Value {
    let text = text(socket, &[words, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
}

/// The row that begins with this word.
pub(crate) fn row<'a>(table: &'a [Vec<String>], first: &str) -> &'a [String] {
    let found = table.iter().find(|row| row.first().is_some_and(|word| word == first));
    found.unwrap_or_else(|| panic!("no row of {first}: {table:?}"))
}

/// Two hosts, a daemon with a control socket in this directory, and the path of that socket.
pub(crate) fn pair(directory: &Directory) -> (Switch, [Host; 2], String) {
    let hosts = ["a", "b"].map(Host::quiet);
    let socket = directory.text("control");
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(":vlan=10"));
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    assert!(switch.summary().contains(&format!("control socket {socket}")), "{:?}", switch.summary());
    (switch, hosts, socket)
}

fn ports_and_addresses() {
    let directory = Directory::new();
    let (switch, [a, _b], socket) = pair(&directory);
    let speaks = a.raw();
    let mut sent = 0;
    wait::until("the address to be learned", || {
        sent += 1;
        speaks.send(&frame(MacAddr::BROADCAST, station(1), b"here")).expect("sent");
        (switch.report().table("entries") == 1).then_some(())
    });
    let report = switch.settle("all to be counted", |report| report.dropped("a", "no_destination") >= sent);

    let show = json(&socket, &["show"]);
    assert_eq!((&show["bridge"]["mac_entries"], &show["problems"]), (&1.into(), &serde_json::json!([])));
    let names: Vec<&str> = show["ports"].as_array().unwrap().iter().map(|port| port["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(text(&socket, &["show"]).contains("health: good"));

    let port = &json(&socket, &["port", "list"])[1];
    assert_eq!((&port["vlan_mode"], &port["vlan"], &port["trunks"]), (&"access".into(), &10.into(), &serde_json::Value::Null));
    assert!(text(&socket, &["port", "list"]).contains("access VLAN 10"));
    assert_eq!(row(&table(&socket, &["port", "list"]), "a")[1..4], ["tap", "up", "1500"]);

    let stats = &json(&socket, &["port", "stats", "a"])[0];
    assert_eq!(stats["rx_frames"], report.received_by("a"));
    assert_eq!(stats["drops"]["no_destination"], report.dropped("a", "no_destination"));
    let rows = table(&socket, &["port", "stats"]);
    assert_eq!(row(&rows, "a")[1], report.received_by("a").to_string());
    let drops = ["a", "no_destination", &report.dropped("a", "no_destination").to_string()];
    assert!(rows.iter().any(|row| *row == drops), "{rows:?}");

    let entry = &json(&socket, &["fdb", "show"])[0];
    assert_eq!((&entry["mac"], &entry["port"]), (&station(1).to_string().into(), &"a".into()));
    assert_eq!(row(&table(&socket, &["fdb", "show"])[1..], "-")[1..3], [station(1).to_string(), "a".to_owned()]);
    assert_eq!(json(&socket, &["fdb", "stats"])["learned"], 1);
    assert_eq!(row(&table(&socket, &["fdb", "stats"]), "entries")[1], "1");

    a.set_link(netio::link::Change { up: Some(false), ..Default::default() });
    wait::until("the link to be down", || {
        let show = json(&socket, &["show"]);
        (show["problems"] == serde_json::json!(["port a is down"])).then_some(())
    });
    switch.finish();
    assert!(!directory.path("control").exists());
}

fn router() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 1).args(&["--publish", "8080:10.77.0.11:80", "--control", &socket]).start();
    let far = udp_on(&site.outside, FAR, 5000);
    let near = udp_on(site.guest(1), guest_address(1), 4000);
    near.connect((FAR, 5000)).expect("connected");
    near.send(b"out").expect("sent");
    let (_, outside) = recv_from(&far);

    let list = json(&socket, &["conntrack", "list", "--protocol", "17", "--address", &FAR.to_string()]);
    assert_eq!(list["total"], 1);
    let connection = &list["connections"][0];
    assert_eq!((&connection["original"]["src_port"], &connection["opened_by"]), (&4000.into(), &"inside".into()));
    assert_eq!(connection["reply"]["dst_port"], outside.port());
    let line = text(&socket, &["conntrack", "list", "-o", "conntrack"]);
    let (guest, port) = (guest_address(1), outside.port());
    let flow = format!("src={guest} dst={FAR} sport=4000 dport=5000 src={FAR} dst={MACHINE} sport=5000 dport={port}");
    assert!(line.starts_with("udp      17 ") && line.contains(&flow), "{line}");
    let ends = [format!("{guest}:4000"), format!("{FAR}:5000"), outside.to_string()];
    assert_eq!(row(&table(&socket, &["conntrack", "list"]), "udp")[3..], ends);
    assert_eq!(json(&socket, &["conntrack", "list", "--port", "1"])["total"], 0);
    assert_eq!(json(&socket, &["conntrack", "list", "--limit", "0"])["connections"], serde_json::json!([]));
    assert_eq!(json(&socket, &["conntrack", "stats"])["connections"], 1);
    assert_eq!(row(&table(&socket, &["conntrack", "stats"]), "opened")[1], "1");

    let nat = json(&socket, &["nat", "list"]);
    assert_eq!((&nat["addresses"][0]["kind"], &nat["published"].as_array().unwrap().len()), (&"shared".into(), &1));
    assert_eq!((&nat["mappings"][0]["published"], &nat["mappings"][0]["inside"]), (&true.into(), &"10.77.0.11:80".into()));
    assert_eq!(nat["mappings"][1]["outside"], outside.to_string());
    assert_eq!(row(&table(&socket, &["nat", "list"]), "udp")[1], format!("{guest}:4000"));

    let neighbours = json(&socket, &["neigh", "show"]);
    let is_guest =
        |entry: &serde_json::Value| entry["address"] == guest.to_string() && entry["bridge"] == "br0" && entry["vlan"] == 0;
    assert!(neighbours.as_array().unwrap().iter().any(is_guest), "{neighbours}");
    assert!(table(&socket, &["neigh", "show"]).iter().any(|row| row[0] == "uplink" && row.len() == 4));

    let show = json(&socket, &["show"]);
    assert_eq!(
        (&show["gateways"][0]["address"], &show["uplink"]["outside"]),
        (&GATEWAY.to_string().into(), &MACHINE.to_string().into())
    );
    assert!(text(&socket, &["show"]).contains("outside address"));
    assert_eq!(local(&near).ip(), &guest);
    site.finish();
}

fn tunnels() {
    let directory = Directory::new();
    let (underlay, host, socket) = (Underlay::pair(Ip::V4), Host::quiet("h"), directory.text("control"));
    let [flag, value] = underlay.vxlan(42, 1, &[2], "");
    let switch = underlay.daemon(1, &[host.port("")], &[flag, value, "--control".to_owned(), socket.clone()]);
    host.raw().send(&frame(MacAddr::BROADCAST, station(1), b"anybody?")).expect("sent");
    switch.settle("the frame to leave", |report| report.received() == 1);
    let tunnel = &json(&socket, &["tunnel", "list"])[0];
    assert_eq!((&tunnel["kind"], &tunnel["vni"]), (&"vxlan".into(), &42.into()));
    let peer = &tunnel["peers"][0];
    assert_eq!((&peer["address"], &peer["mtu"], &peer["tx_frames"]), (&"192.0.2.2".into(), &1450.into(), &1.into()));
    let row = row(&table(&socket, &["tunnel", "list"]), "vxlan42").to_vec();
    assert_eq!(row[1..10], ["vxlan", "42", "4789", "192.0.2.1", "192.0.2.2", "1450", "never", "0", "1"]);
    assert!(text(&socket, &["metrics"]).contains("vswitchd_tunnel_peer_reachable{tunnel=\"vxlan42\",peer=\"192.0.2.2\"} 1.0"));
    switch.finish();
}

fn metrics() {
    let directory = Directory::new();
    let (switch, [a, _b], socket) = pair(&directory);
    a.raw().send(&frame(MacAddr::BROADCAST, station(1), b"to nobody")).expect("sent");
    switch.settle("the frame", |report| report.dropped("a", "no_destination") == 1);
    let text = text(&socket, &["metrics"]);
    let place_of = |name: &str| {
        json(&socket, &["port", "list"]).as_array().unwrap().iter().find(|port| port["name"] == name).unwrap()["namespace"]
            .clone()
    };
    let of = |name: &str, what: &str, more: &str, value: &dyn std::fmt::Display| {
        let place = place_of(name);
        format!("vswitchd_port_{what}{{port=\"{name}\",namespace={place},bridge=\"br0\"{more}}} {value}")
    };
    for line in [
        &of("a", "receive_frames_total", "", &1),
        &of("b", "receive_frames_total", "", &0),
        &of("a", "drops_total", ",reason=\"no_destination\"", &1),
        &of("a", "up", "", &"1.0"),
        "vswitchd_pipeline_latency_seconds_count{worker=\"0\"} ",
        "vswitchd_mac_table_learned_total{bridge=\"br0\"} ",
        "# EOF",
    ] {
        assert!(text.contains(line), "no {line}:\n{text}");
    }
    switch.finish();
}

fn exit_status() {
    let directory = Directory::new();
    let (switch, _hosts, socket) = pair(&directory);
    let said = |words: &[&str], code| {
        let output = run(&socket, words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    assert!(said(&["nat", "list"], 1).contains("there is no translation"));
    assert!(said(&["port", "stats", "c"], 1).contains("there is no port 'c'"));
    for words in
        [&["port"][..], &["sho"], &["show", "-o", "yaml"], &["show", "-o", "conntrack"], &["conntrack", "list", "--port", "x"]]
    {
        said(words, 2);
    }
    switch.finish();
    assert!(said(&["show"], 1).contains("is vswitchd running?"));
    // The socket belongs to another daemon.
    let other = UnixListener::bind(&socket).expect("a socket");
    let answers = std::thread::spawn(move || other.accept().map(|(mut stream, _)| stream.write_all(b"220 hello\r\n")));
    assert!(said(&["show"], 1).contains("vswitchctl: "));
    answers.join().expect("no panic").expect("accepted").ok();
}

/// `/run` is private to this test.
fn one_daemon_a_path() {
    let usual = "/run/vswitchd.sock";
    let [one, two, three] = ["one", "two", "three"].map(Host::quiet);
    // Left behind by a daemon that was killed.
    drop(UnixListener::bind(usual).expect("a socket"));
    let first = Switch::of(&[&one]);
    assert!(first.summary().contains(&format!("control socket {usual}")));
    let refused = run_inside(&netns::create().expect("a namespace"), &mut daemon(&["--tap", &two.port(""), "--control", usual]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.log.contains("is a vswitchd running?") && !refused.output.contains("ready"), "{refused:?}");
    assert!(two.try_inside(|| netio::link::get("two")).is_err(), "a device was made");
    // The path was not given explicitly, so the daemon starts without a control socket.
    let second = Switch::of(&[&two]);
    assert!(second.has_logged("no control socket at /run/vswitchd.sock"));
    let none = Switch::start(&["--tap", &three.port(""), "--control", "none"]);
    assert!(!none.summary().iter().any(|line| line.starts_with("control socket")));
    none.finish();
    second.finish();
    assert_eq!(json(usual, &["port", "list"])[0]["name"], "one", "the first's socket is there still");
    first.finish();
    assert!(!Path::new(usual).exists());
}

/// Sends these bytes and no more. Returns everything received until the server closes.
pub(crate) fn exchange(socket: &str, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).expect("connected");
    stream.set_read_timeout(Some(wait::NEVER)).expect("set");
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no end: {}", String::from_utf8_lossy(&answer)),
        _ => String::from_utf8_lossy(&answer).into_owned(),
    }
}

/// Errors are problems of RFC 9457, which name the part of the request and the thing in the way.
fn problems() {
    let directory = Directory::new();
    let (switch, hosts, socket) = pair(&directory);
    let problem = |method: &str, target: &str, body: &str| {
        let media_type = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{media_type}Content-Length: {length}\r\n\r\n{body}");
        let answer = exchange(&socket, request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!(head[9..12], problem["status"].to_string(), "{problem}");
        assert_eq!((&problem["type"], &problem["error"]), (&"about:blank".into(), &problem["detail"]));
        assert!(problem["title"].as_str().is_some_and(|title| head.lines().next().is_some_and(|line| line.ends_with(title))));
        let text = |name: &str| problem[name].as_str().map(str::to_owned);
        (problem["status"].as_u64().unwrap_or_default(), text("field"), text("in_the_way"), text("detail").unwrap_or_default())
    };
    let taken = serde_json::json!({ "port": hosts[0].port("") }).to_string();
    for (method, target, body, status, field, says) in [
        ("GET", "/v1/nothing", "", 404, None, "no such path"),
        ("DELETE", "/v1/show", "", 405, None, "does not take this method"),
        ("GET", "/v1/fdb?brigde=br0", "", 400, Some("brigde"), "did you mean 'bridge'?"),
        ("GET", "/v1/fdb?bridge=br1", "", 404, Some("bridge"), "br1"),
        ("DELETE", "/v1/fdb?vlan=ten", "", 400, Some("vlan"), "vlan is a number from 0 to 65535, not 'ten'"),
        ("DELETE", "/v1/fdb?vlan=4095", "", 400, Some("vlan"), "use 1 to 4094"),
        ("GET", "/v1/trace/live", "", 400, Some("count"), "'count' is missing"),
        ("GET", "/v1/trace?packet=port%3Dc,src%3D10.0.0.1,dst%3D10.0.0.2,icmp", "", 404, Some("packet"), "there is no port 'c'"),
        ("GET", "/v1/capture?filter=tpc", "", 400, Some("filter"), "tpc"),
        ("POST", "/v1/ports", "{\"prot\":\"c\"}", 422, Some("prot"), "did you mean 'port'?"),
        ("POST", "/v1/ports", "{\"port\"", 400, None, "ends too early: line 1, column 7"),
        ("POST", "/v1/ports", "{\"port\":\"c:vlna=1\"}", 400, Some("port"), "did you mean 'vlan'?"),
        ("DELETE", "/v1/ports/c", "", 404, Some("name"), "there is no such port"),
        ("PUT", "/v1/fdb/x", "{\"port\":\"a\"}", 400, Some("mac"), "'x' is not a MAC address"),
    ] {
        let (got, of, _, detail) = problem(method, target, body);
        assert_eq!((got, of.as_deref()), (status, field), "{method} {target}: {detail}");
        assert!(detail.contains(says), "{method} {target}: {detail}");
    }
    let (status, field, in_the_way, detail) = problem("POST", "/v1/ports", &taken);
    assert_eq!((status, field.as_deref()), (409, Some("port")), "{detail}");
    assert!(in_the_way.is_some_and(|thing| thing.starts_with("a@")), "{detail}");
    switch.finish();
}

fn hostile_clients() {
    let directory = Directory::new();
    let (switch, _hosts, socket) = pair(&directory);
    let status = |bytes: &[u8]| exchange(&socket, bytes).get(9..12).unwrap_or("none").to_owned();
    assert_eq!(status(b"GET /v1/show HTTP/1.1\r\nHost: x\r\n\r\n"), "200");
    assert_eq!(status(b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n"), "404");
    assert_eq!(status(b"GET /../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n"), "404");
    assert_eq!(status(b"DELETE /v1/show HTTP/1.1\r\nHost: x\r\n\r\n"), "405");
    assert_eq!(status(b"GET /v1/conntrack?port=70000 HTTP/1.1\r\nHost: x\r\n\r\n"), "400");
    assert_eq!(status(b"DELETE /v1/fdb?vlan=4095 HTTP/1.1\r\nHost: x\r\n\r\n"), "400");
    assert_eq!(status(b"GET /v1/conntrack?what=1 HTTP/1.1\r\nHost: x\r\n\r\n"), "400");
    assert_eq!(status(b"POST /v1/show HTTP/1.1\r\nHost: x\r\nContent-Length: 262145\r\n\r\n"), "413");
    assert_eq!(status(b"POST /v1/show HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n"), "400");
    assert_eq!(status(b"\x00\xff\x16\x03\x01garbage\r\n\r\n"), "400");
    assert_eq!(status(&[b"GET /".to_vec(), vec![b'a'; 1 << 20]].concat()).chars().next(), Some('4'));
    let many: Vec<u8> = (0..1000).flat_map(|n| format!("X-{n}: y\r\n").into_bytes()).collect();
    assert_eq!(status(&[b"GET /v1/show HTTP/1.1\r\n".to_vec(), many, b"\r\n".to_vec()].concat()), "431");
    // An endless body for a path that takes none.
    let mut stream = UnixStream::connect(&socket).expect("connected");
    stream.write_all(b"POST /v1/show HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").expect("sent");
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    let refused = (0..1000).find_map(|_| stream.write_all(&chunk).err());
    assert!(refused.is_some(), "64 MB were taken");
    assert_eq!(json(&socket, &["port", "list"])[0]["name"], "a");
    switch.finish();
}

/// More silent clients than there are connection slots: root is answered while all of the latest are still there, and the
/// daemon still ends in time.
fn clients_that_stay() {
    let directory = Directory::new();
    let (switch, _hosts, socket) = pair(&directory);
    let stay = |n: usize| {
        let mut stream = UnixStream::connect(&socket).expect("connected");
        stream.write_all(if n.is_multiple_of(2) { b"" } else { b"GET /v1/show HT" }).expect("sent");
        stream
    };
    let all: Vec<UnixStream> = (0..200).map(stay).collect();
    assert_eq!(json(&socket, &["port", "list"])[0]["name"], "a");
    let mut latest = all.last().expect("one");
    latest.set_nonblocking(true).expect("set");
    let kind = latest.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(kind, Err(ErrorKind::WouldBlock), "root has waited until its time was over");
    switch.finish();
    drop(all);
}

/// A thousand concurrent requests: each is answered, and no descriptor is leaked.
fn a_thousand_clients() {
    let directory = Directory::new();
    let (switch, _hosts, socket) = pair(&directory);
    let before = switch.descriptors();
    let come = |_| {
        let socket = socket.clone();
        std::thread::spawn(move || {
            (0..20)
                .filter(|_| exchange(&socket, b"GET /v1/ports HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200"))
                .count()
        })
    };
    let clients: Vec<_> = (0..50).map(come).collect();
    let answered: usize = clients.into_iter().map(|client| client.join().expect("no panic")).sum();
    // There are as many queue places as connections, so no request is refused as busy.
    assert_eq!(answered, 1000);
    wait::until("all to be gone", || (switch.descriptors() <= before).then_some(()));
    switch.finish();
}

/// A request byte by byte, half-closed connections, and bytes after a request.
fn slow_and_rude_clients() {
    let directory = Directory::new();
    let (switch, _hosts, socket) = pair(&directory);
    // One request per connection; further bytes are ignored.
    let many = b"GET /v1/show HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let answer = exchange(&socket, &many);
    assert_eq!((answer.get(9..12), answer.matches("HTTP/1.1 ").count()), (Some("200"), 1));
    let rubbish = [&b"GET /v1/ports HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 100_000]].concat();
    assert_eq!(exchange(&socket, &rubbish).get(9..12), Some("200"));
    // The client's half is closed at once.
    let stream = UnixStream::connect(&socket).expect("connected");
    stream.shutdown(std::net::Shutdown::Write).expect("closed");
    // Bodies whose length is wrong, and bodies that are not JSON.
    let put = |length: &str, body: &str| {
        let head = "PUT /v1/fdb/52:54:00:00:00:01 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
        let mut stream = UnixStream::connect(&socket).expect("connected");
        stream.set_read_timeout(Some(wait::NEVER)).expect("set");
        stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).expect("sent");
        if length == "1000" {
            stream.shutdown(std::net::Shutdown::Write).expect("closed");
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).get(9..12).unwrap_or("none").to_owned()
    };
    assert_eq!(put("5", "{\"port\":\"a\"}"), "400", "shorter than it is");
    assert!(["400", "none"].contains(&put("1000", "{\"port\":\"a\"}").as_str()), "it never comes");
    let deep = "[".repeat(200_000);
    assert!(["400", "422"].contains(&put("200000", &deep).as_str()), "no stack is deep enough");
    assert_eq!(put("26", "{\"port\":\"a\",\"more\":\"than\"}"), "422", "an unknown key");
    // The head of a request has a time limit of five seconds, even if bytes keep arriving.
    let mut slow = UnixStream::connect(&socket).expect("connected");
    let ended = wait::until("the slow one's end", || {
        std::thread::sleep(Duration::from_millis(100));
        slow.write_all(b"G").err()
    });
    assert!(matches!(ended.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{ended}");
    assert_eq!(json(&socket, &["fdb", "show"]), serde_json::json!([]), "nothing was added");
    switch.finish();
}

/// Frames pass while a client sends requests without pause.
fn guests_do_not_notice() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::new);
    let socket = directory.text("control");
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(""));
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    hosts[0].configure(1);
    hosts[1].configure(2);
    let echo = Echo::on(&hosts[1], Ip::V4, 2);
    let mut asker = echo.asked_from(&hosts[0], Ip::V4, 1);
    let asks = socket.clone();
    let background = crate::exchange::Background::run(move || {
        for path in ["/v1/show", "/v1/fdb", "/v1/stats", "/metrics"] {
            let answer = exchange(&asks, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    });
    wait::until("many answers", || {
        asker.ask();
        (background.rounds() > 50).then_some(())
    });
    background.end();
    assert_eq!(Host::address(Ip::V4, 1), std::net::IpAddr::from(Ipv4Addr::new(198, 18, 0, 1)));
    drop((asker, echo));
    assert_eq!(switch.finish().lost(), 0);
}
