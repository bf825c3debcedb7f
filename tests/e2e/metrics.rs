//! Metrics as read by Prometheus' own parser for Python, and by hostile clients over TCP.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use netio::link::{self, Change};
use netio::netns;
use packet::MacAddr;
use serde_json::Value;

use crate::frames::{frame, station};
use crate::guest::{Directory, StreamGuest};
use crate::host::Host;
use crate::switch::{Switch, daemon, run_inside};
use crate::{program, trial, trial_with, wait};

/// Debian's package belongs to Debian's Python.
const PYTHON: &str = "/usr/bin/python3";

/// Prints each sample as a line of JSON; raises an error if the page is not valid.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        print(json.dumps([family.type, sample.name, sample.labels, sample.value]))
";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial_with("metrics/a_foreign_parser", without_parser, a_foreign_parser),
        trial("metrics/over_tcp", over_tcp),
        trial("metrics/strangers_over_tcp", strangers_over_tcp),
    ]
}

fn without_parser() -> Option<String> {
    let there = Command::new(PYTHON).args(["-c", "import prometheus_client.openmetrics.parser"]).output();
    let is_there = there.is_ok_and(|output| output.status.success());
    (!is_there).then(|| "no OpenMetrics parser (Debian: python3-prometheus-client)".to_owned())
}

fn parsed(page: &str) -> Vec<(String, String, Value, f64)> {
    let mut python = Command::new(PYTHON);
    let python = python.args(["-c", PARSE]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().expect("python runs");
    python.stdin.take().expect("its input").write_all(page.as_bytes()).expect("written");
    let output = python.wait_with_output().expect("its end");
    assert!(output.status.success(), "{}\n{page}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Difficult names, duplicate names, and every kind of counter.
fn a_foreign_parser() {
    let directory = Directory::new();
    let (socket, path) = (directory.text("control"), directory.text("gu\"est}\\n{[2J"));
    let [one, other] = ["q\"\\uote", "q\"\\uote"].map(Host::quiet);
    let switch = Switch::start(&[
        "--tap",
        &format!("{},{}", one.port(""), other.port("")),
        "--port",
        &format!("stream:{path}"),
        "--gateway",
        "10.0.0.1/24",
        "--vxlan",
        "vni=42,remote=192.0.2.2",
        "--control",
        &socket,
    ]);
    let _guest = StreamGuest::at(path.as_ref());
    one.raw().send(&frame(MacAddr::BROADCAST, station(1), b"to all")).expect("sent");
    wait::until("the frame and the guest to be counted", || {
        let page = vswitchctl(&socket, &["metrics"]);
        let samples = parsed(&page);
        let of = |name: &str| samples.iter().filter(move |(_, sample, ..)| sample == name).collect::<Vec<_>>();
        let received: f64 = of("vswitchd_port_receive_frames_total").iter().map(|(.., value)| value).sum();
        if received < 1.0 || of("vswitchd_port_transmit_queue_bytes").is_empty() {
            return None;
        }
        let ups = of("vswitchd_port_up");
        let ports: Vec<&str> = ups.iter().filter_map(|(_, _, labels, _)| labels["port"].as_str()).collect();
        assert_eq!(ports.iter().filter(|port| port.starts_with("q\"\\\\uote@")).count(), 2, "in two namespaces: {ports:?}");
        let guest = ports.iter().find(|port| port.contains("gu\"est")).expect("the guest's port");
        assert!(guest.contains("gu\"est}\\\\n{[2J"), "{guest:?}");
        let kinds: Vec<&str> = of("vswitchd_pipeline_latency_seconds_count").iter().map(|(kind, ..)| kind.as_str()).collect();
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == "histogram"), "{kinds:?}");
        assert_eq!(of("vswitchd_tunnel_peers")[0].3, 1.0);
        assert_eq!(of("vswitchd_neighbours").len(), 2);
        Some(())
    });
    let show = vswitchctl(&socket, &["show"]);
    assert!(show.contains("pipeline: p50 "), "{show}");
    assert!(!show.contains('\u{1b}'), "{show:?}");
    switch.finish();
}

fn vswitchctl(socket: &str, words: &[&str]) -> String {
    let output = Command::new(program::vswitchctl()).args(["--socket", socket]).args(words).output();
    let output = output.expect("vswitchctl runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A daemon in a namespace whose loopback is up, and the address of its metrics.
struct Asked {
    netns: File,
    address: SocketAddr,
    switch: Switch,
    _host: Host,
}

impl Asked {
    fn start(metrics: &str) -> Asked {
        let (netns, host) = (netns::create().expect("a namespace"), Host::quiet("a"));
        let up = Change { up: Some(true), ..Change::default() };
        netns::inside(netns.as_fd(), || link::set(link::get("lo")?.index, up)).expect("loopback is up");
        let args = ["--tap", &host.port(""), "--control", "none", "--metrics", metrics];
        let switch = Switch::start_inside(netns.try_clone().expect("another"), &args);
        let said = switch.summary().iter().find_map(|line| line.strip_prefix("metrics http://")?.strip_suffix("/metrics"));
        let address = said.expect("where it is").parse().expect("an address");
        Asked { netns, address, switch, _host: host }
    }

    fn connect(&self) -> TcpStream {
        let to = self.address;
        let stream = netns::inside(self.netns.as_fd(), || TcpStream::connect_timeout(&to, wait::NEVER));
        let stream = stream.expect("connected");
        stream.set_read_timeout(Some(wait::NEVER)).expect("set");
        stream
    }

    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        // A refused connection may be reset.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn status(&self, request: &str) -> String {
        self.exchange(request.as_bytes()).get(9..12).unwrap_or("none").to_owned()
    }
}

fn over_tcp() {
    let asked = Asked::start("127.0.0.1:0,host=vm1.example");
    let answer = asked.exchange(b"GET /metrics HTTP/1.1\r\nHost: vm1.example:9100\r\n\r\n");
    assert!(answer.contains("application/openmetrics-text; version=1.0.0"), "{answer}");
    assert!(answer.contains("vswitchd_port_up{port=\"a\",") && answer.ends_with("# EOF\n"), "{answer}");
    assert!(asked.exchange(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").ends_with("\r\n\r\nok\n"));
    assert!(!asked.switch.has_logged("without a password"));
    // The address is in use; the daemon notices before it creates a device.
    let late = Host::quiet("late");
    let args = ["--tap", &late.port(""), "--control", "none", "--metrics", "192.0.2.99:9100"];
    let refused = run_inside(&asked.netns, &mut daemon(&args));
    assert!(refused.log.contains("--metrics 192.0.2.99:9100: the host has no such address"), "{refused:?}");
    let args = ["--tap", &late.port(""), "--control", "none", "--metrics", &asked.address.to_string()];
    let refused = run_inside(&asked.netns, &mut daemon(&args));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.log.contains(&format!("--metrics {}: another program listens there", asked.address)), "{refused:?}");
    assert!(late.try_inside(|| link::get("late")).is_err(), "a device was made");
    asked.switch.finish();
}

fn strangers_over_tcp() {
    let asked = Asked::start("0.0.0.0:0");
    assert!(asked.switch.has_logged("without a password"));
    let asked = Asked { address: SocketAddr::from(([127, 0, 0, 1], asked.address.port())), ..asked };
    for (request, status) in [
        ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9100\r\n\r\n", "200"),
        ("GET /metrics HTTP/1.1\r\nHost: [::1]\r\n\r\n", "200"),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
        ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n", "421"),
        ("GET http://evil.example/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "421"),
        ("GET /metrics HTTP/1.1\r\n\r\n", "400"),
        ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n", "400"),
        ("GET /v1/show HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "404"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n", "405"),
        ("DELETE /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "405"),
        ("HEAD /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "405"),
        ("\0\u{16}\u{3}\u{1}garbage\r\n\r\n", "400"),
    ] {
        assert_eq!(asked.status(request), status, "{request}");
    }
    let long = [b"GET /".to_vec(), vec![b'a'; 1 << 20]].concat();
    assert!(asked.exchange(&long).get(9..10).is_none_or(|status| status == "4"));
    // More silent clients than there are connection slots: a scraper is answered while the latest are still there.
    let silent: Vec<TcpStream> = (0..200).map(|_| asked.connect()).collect();
    assert_eq!(asked.status("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"), "200");
    let mut latest = silent.last().expect("one");
    latest.set_nonblocking(true).expect("set");
    let kind = latest.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(kind, Err(ErrorKind::WouldBlock), "the scraper has waited until its time was over");
    asked.switch.finish();
    drop(silent);
}
