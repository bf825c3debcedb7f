//! What is exported is what docs/metrics.md lists, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use api::{FragmentStats, Latency, NatPorts, TunnelKind};

use super::*;

/// A switch of which everything can be said.
fn everything() -> (Stats, Vec<Tunnel>) {
    let port = |name: &str, namespace: Option<&str>| PortStats {
        loop_blocked: false,
        name: name.to_owned(),
        bridge: Some("br0".to_owned()),
        namespace: namespace.map(str::to_owned),
        state: Some(State::Up),
        rx_frames: 1,
        rx_bytes: 60,
        tx_frames: 2,
        tx_bytes: 120,
        tx_writes: 1,
        copies: 0,
        made: 0,
        taken: 0,
        offload_refused: 0,
        dropped: 3,
        drops: BTreeMap::from([("nat_port_share".to_owned(), 3)]),
        kernel_dropped: 4,
        rx_queue_bytes: Some(5),
        tx_queue_bytes: Some(6),
        tx_queue_limit_bytes: Some(7),
    };
    let mac_table = MacTableStats { entries: 1, statics: 0, size: 8192, learned: 1, moved: 0, evicted: 0, expired: 0 };
    let usage =
        |protocol: &str| NatPorts { address: "198.51.100.3".into(), protocol: protocol.parse().unwrap(), used: 8, free: 504 };
    let nat = NatStats {
        connections: 1,
        mappings: 1,
        opened: 1,
        expired: 0,
        flushed: 0,
        evicted: 0,
        max_connections: 262_144,
        ports: vec![usage("tcp"), usage("udp")],
        fragments: FragmentStats { datagrams: 0, max_datagrams: 1024, held_frames: 0 },
    };
    let mut latency = vec![0; LATENCY_STEPS.len() + 1];
    (latency[3], latency[4]) = (2, 1);
    let worker = WorkerStats { batches: 9, frames: 90, panics: 0, latency, latency_sum_ns: 40_000 };
    let peer = Peer {
        address: "192.0.2.2".to_owned(),
        mtu: 1450,
        source: None,
        problem: None,
        last_heard: None,
        rx_frames: 0,
        rx_bytes: 0,
        tx_frames: 1,
        tx_bytes: 60,
        dropped: 0,
    };
    let tunnel = Tunnel {
        name: "vxlan42".to_owned(),
        bridge: Some("br0".to_owned()),
        kind: TunnelKind::Vxlan,
        vni: Some(42),
        local: None,
        port: 4789,
        device: None,
        peers: vec![peer],
    };
    let stats = Stats {
        ports: vec![port("eth0", Some("blue")), port("eth0", Some("red"))],
        bridges: ["br0", "br1"].map(|name| BridgeStats { name: name.to_owned(), mac_table: mac_table.clone() }).to_vec(),
        mac_table,
        nat: Some(nat),
        datagrams_dropped: 0,
        worker_panics: 0,
        log_lines_lost: 3,
        start_time: 1.7e9,
        version: "0.1.0".to_owned(),
        neighbours: Some(NeighbourStats { known: 1, max: 1024, incomplete: 0, held_packets: 0 }),
        workers: vec![worker],
        latency: Latency::default(),
    };
    (stats, vec![tunnel])
}

fn page() -> String {
    let (stats, tunnels) = everything();
    text(&stats, &tunnels).unwrap()
}

/// Each name under which a number is exported, as people write it in a query.
fn names(page: &str) -> BTreeSet<&str> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).collect()
}

#[test]
fn ports_of_one_name_are_told_apart() {
    let page = page();
    for line in [
        r#"vswitchd_port_receive_frames_total{port="eth0",namespace="blue",bridge="br0"} 1"#,
        r#"vswitchd_port_receive_frames_total{port="eth0",namespace="red",bridge="br0"} 1"#,
        r#"vswitchd_port_drops_total{port="eth0",namespace="red",bridge="br0",reason="nat_port_share"} 3"#,
        r#"vswitchd_mac_table_learned_total{bridge="br1"} 1"#,
        r#"vswitchd_nat_connections_refused_total{reason="nat_port_share"} 6"#,
        r#"vswitchd_nat_ports_used{address="198.51.100.3",protocol="udp"} 8.0"#,
    ] {
        assert!(page.lines().any(|other| other == line), "no {line}:\n{page}");
    }
}

#[test]
fn the_histogram_adds_up() {
    let page = page();
    let buckets = page.lines().filter(|line| line.starts_with("vswitchd_pipeline_latency_seconds_bucket"));
    let counts: Vec<&str> = buckets.filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(counts.len(), LATENCY_STEPS.len() + 1);
    assert_eq!((counts[2], counts[3], counts[4], counts[counts.len() - 1]), ("0", "2", "3", "3"));
    assert!(page.contains(r#"vswitchd_pipeline_latency_seconds_count{worker="0"} 3"#), "{page}");
    assert!(page.contains(r#"vswitchd_pipeline_latency_seconds_sum{worker="0"} 0.00004"#), "{page}");
    assert!(page.contains(r#"le="+Inf""#));
}

/// Nobody can call a port so today, as the configuration takes no such names. Were one to come from elsewhere, a page would
/// still be one: says Prometheus' own parser.
#[test]
fn a_foreign_parser_reads_hostile_names() {
    const PYTHON: &str = "/usr/bin/python3";
    const PARSE: &str = "import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
        samples = [sample for family in parse(sys.stdin.buffer.read().decode()) for sample in family.samples]\n\
        sys.stdout.buffer.write('\\0'.join(sample.labels['port'] for sample in samples if sample.name == 'vswitchd_port_up').encode())";
    let there = Command::new(PYTHON).args(["-c", "import prometheus_client.openmetrics.parser"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        eprintln!("not tested: no OpenMetrics parser (Debian: python3-prometheus-client)");
        return;
    }
    let (mut stats, tunnels) = everything();
    let hostile = ["a\"} 1\n# EOF\n", "a\nb", "a\\nb", "a\\u{a}b", "\u{1b}[2J\u{7}", "\u{202e}\u{0}", "}{,=\"", "", "\\", "\\\""];
    let port = stats.ports[0].clone();
    stats.ports = hostile.iter().map(|name| PortStats { name: (*name).to_owned(), ..port.clone() }).collect();
    let page = text(&stats, &tunnels).unwrap();
    let mut python = Command::new(PYTHON);
    let python = python.args(["-c", PARSE]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{page}", String::from_utf8_lossy(&output.stderr));
    let read = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<&str> = read.split('\0').collect();
    assert_eq!(names.len(), hostile.len(), "two became one: {names:?}");
    assert!(!read.contains(|c: char| c.is_control() && c != '\0') && !read.contains('\u{202e}'), "{read:?}");
    assert!(names.contains("\\u{1b}[2J\\u{7}") && names.contains("a\\u{a}b") && names.contains("a\\\\u{a}b"), "{names:?}");
}

/// The names of the page's tables: a row begins with one in backquotes.
#[test]
fn the_page_lists_what_is_exported_and_nothing_else() {
    let listed = include_str!("../../../docs/metrics.md");
    let rows = listed.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next());
    let listed: BTreeSet<&str> = rows.collect();
    let page = page();
    let histogram = |name: &str| name.starts_with("vswitchd_pipeline_latency_seconds_");
    let exported = names(&page).into_iter().map(|name| if histogram(name) { "vswitchd_pipeline_latency_seconds" } else { name });
    assert_eq!(listed, exported.collect());
}

/// Each word of a dashboard's queries that looks like a name of ours is one.
#[test]
fn the_dashboard_asks_for_what_is_exported() {
    let dashboard: serde_json::Value = serde_json::from_str(include_str!("../../../docs/grafana.json")).unwrap();
    let mut queries = Vec::new();
    collect(&dashboard, &mut queries);
    assert!(queries.len() > 30, "{queries:?}");
    let page = page();
    let exported = names(&page);
    for query in queries {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: Vec<&str> = words.filter(|word| word.starts_with("vswitchd_") || word.starts_with("process_")).collect();
        assert!(!asked.is_empty(), "{query} asks for nothing of ours");
        for name in asked {
            assert!(exported.contains(name), "{name} is not exported, in {query}");
        }
    }
}

/// The texts of all `expr` and `query` under it that are queries.
fn collect<'a>(value: &'a serde_json::Value, queries: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::Array(list) => list.iter().for_each(|value| collect(value, queries)),
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value.as_str()) {
                    ("expr" | "query", Some(text)) if text != "prometheus" => queries.push(text),
                    _ => collect(value, queries),
                }
            }
        }
        _ => {}
    }
}
