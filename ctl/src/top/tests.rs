//! Readings to views, keys, and the screen as it is drawn.

use std::collections::BTreeMap;

use api::{
    Bridge, Connection, Flow, FragmentStats, Latency, MacTableStats, NatStats, PortStats, Protocol, Show, Side, State, Stats,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::sampler::{Count, Flow as SampledFlow, Sampled};
use super::*;

fn port(name: &str, namespace: Option<&str>, bytes: u64) -> PortStats {
    PortStats {
        loop_blocked: false,
        name: name.to_owned(),
        bridge: None,
        namespace: namespace.map(str::to_owned),
        state: Some(State::Up),
        rx_frames: bytes / 100,
        rx_bytes: bytes,
        tx_frames: bytes / 200,
        tx_bytes: bytes / 2,
        tx_writes: 0,
        copies: 0,
        made: 0,
        taken: 0,
        offload_refused: 0,
        dropped: bytes / 1000,
        drops: BTreeMap::from([("no_destination".to_owned(), bytes / 1000)]),
        kernel_dropped: 0,
        rx_queue_bytes: None,
        tx_queue_bytes: None,
        tx_queue_limit_bytes: None,
    }
}

fn connection(port: u16, expires_in: u32) -> Connection {
    let (src, dst) = ("10.77.0.2".to_owned(), "198.51.100.7".to_owned());
    let original = Flow { src, src_port: port, dst, dst_port: 443 };
    Connection {
        protocol: Protocol::TCP,
        protocol_number: 6,
        opened_by: Side::Inside,
        phase: None,
        expires_in,
        reply: original.clone(),
        original,
    }
}

fn reading(secs: u64, ports: Vec<PortStats>) -> Reading {
    let latency = Latency { samples: 10, p50_ns: 1200, p99_ns: 34_000, p999_ns: 2_000_000, max_ns: 2_100_000 };
    let bridge = Bridge {
        ports: 2,
        name: "br0".to_owned(),
        workers: 2,
        mac_entries: 1,
        mac_table_size: 8192,
        mac_aging_time: 300,
        gateways: Vec::new(),
    };
    let show = Show {
        version: "0.1.0".to_owned(),
        pid: 7,
        uptime: secs,
        bridges: vec![bridge.clone()],
        bridge,
        ports: Vec::new(),
        gateways: Vec::new(),
        routes: Vec::new(),
        uplink: None,
        tunnels: Vec::new(),
        latency: latency.clone(),
        problems: Vec::new(),
    };
    let nat = NatStats {
        connections: 1,
        mappings: 1,
        opened: 1,
        expired: 0,
        flushed: 0,
        evicted: 0,
        max_connections: 1024,
        ports: Vec::new(),
        fragments: FragmentStats { datagrams: 0, max_datagrams: 1024, held_frames: 0 },
    };
    let stats = Stats {
        ports,
        mac_table: MacTableStats { entries: 1, statics: 0, size: 8192, learned: 1, moved: 0, evicted: 0, expired: 0 },
        bridges: Vec::new(),
        nat: Some(nat),
        datagrams_dropped: 0,
        worker_panics: 0,
        log_lines_lost: 0,
        start_time: 1.7e9,
        version: "0.1.0".to_owned(),
        neighbours: None,
        workers: Vec::new(),
        latency,
    };
    Reading { at: Duration::from_secs(secs), show, stats, connections: Vec::new(), sampled: Err(String::new()) }
}

fn after(readings: impl IntoIterator<Item = Reading>) -> Model {
    let mut model = Model::default();
    readings.into_iter().for_each(|reading| model.take(reading));
    model
}

#[test]
fn rates_are_differences() {
    let model = after([reading(10, vec![port("a", None, 1000)]), reading(12, vec![port("a", None, 5000)])]);
    let a = &model.view().ports[0];
    assert_eq!((a.rx_bits, a.rx_frames, a.tx_bits, a.drops), (16_000.0, 20.0, 8000.0, 2.0));
    assert_eq!(a.history, [24_000]);
    assert_eq!((model.view().drops[0].rate, model.view().drops[0].total), (2.0, 5));
}

#[test]
fn the_first_reading_has_no_rates_and_two_at_once_none_either() {
    let model = after([reading(10, vec![port("a", None, 1000)])]);
    assert_eq!((model.view().ports[0].rx_bits, model.view().drops[0].rate), (0.0, 0.0));
    assert!(model.view().ports[0].history.is_empty());
    let model = after([reading(10, vec![port("a", None, 1000)]), reading(10, vec![port("a", None, 2000)])]);
    assert_eq!(model.view().ports[0].rx_bits, 0.0);
}

#[test]
fn counters_begin_again() {
    // A port that came back counts from 0.
    let model = after([reading(1, vec![port("a", None, 9000)]), reading(2, vec![port("a", None, 1000)])]);
    assert_eq!(model.view().ports[0].rx_bits, 8000.0);
    // Another daemon is another one, though it may have counted more by now.
    let mut again = reading(3, vec![port("a", None, 50_000)]);
    again.stats.start_time += 1.0;
    let mut model = model;
    model.take(again);
    assert_eq!((model.view().ports[0].rx_bits, model.view().ports[0].history.len()), (0.0, 0));
}

#[test]
fn ports_of_one_name_are_two() {
    let ports = |one, other| vec![port("eth0@red", Some("red"), one), port("eth0@blue", Some("blue"), other)];
    let model = after([reading(1, ports(0, 0)), reading(2, ports(1000, 2000))]);
    let rates: Vec<f64> = model.view().ports.iter().map(|port| port.rx_bits).collect();
    assert_eq!(rates, [8000.0, 16_000.0]);
    let text = drawn(&model, &Screen::default(), 80, 24);
    assert!(text.contains("eth0@red") && text.contains("eth0@blue"), "{text}");
}

#[test]
fn history_is_bounded_and_goes_with_the_port() {
    let mut model = Model::default();
    for secs in 0..model::HISTORY as u64 + 50 {
        model.take(reading(secs, vec![port("a", None, 1000 * secs)]));
    }
    assert_eq!(model.view().ports[0].history, [12_000; model::HISTORY]);
    model.take(reading(1000, Vec::new()));
    model.take(reading(1001, vec![port("a", None, 0)]));
    assert_eq!(model.view().ports[0].history, [0]);
}

#[test]
fn a_flow_is_active_where_packets_came() {
    let with = |secs, connections| Reading { connections, ..reading(secs, Vec::new()) };
    let model = after([
        with(1, vec![connection(1, 300), connection(2, 300)]),
        with(2, vec![connection(1, 300), connection(2, 299), connection(3, 240)]),
    ]);
    let flow = &model.view().flows[0];
    assert_eq!((flow.to.as_str(), flow.active, flow.connections), ("198.51.100.7:443", 2, 3));
}

#[test]
fn sampled_flows_have_rates() {
    let end = |last, port| ([10, 0, 0, last].into(), port);
    let one = |frames, bytes, flow: SampledFlow| (flow, Count { frames, bytes });
    let flows = vec![
        one(10, 1000, SampledFlow::Rest),
        one(128, 64_000, SampledFlow::Ip { protocol: 6, from: end(2, 1000), to: end(3, 80) }),
        one(64, 96_000, SampledFlow::Ip { protocol: 1, from: end(2, 0), to: end(3, 0) }),
    ];
    let with = |secs, flows| Reading { sampled: Ok(Sampled { sample: 64, flows }), ..reading(secs, Vec::new()) };
    let model = after([with(1, Vec::new()), with(3, flows)]);
    let rows =
        model.view().flows.iter().map(|row| format!("{} {} > {} {} {}", row.protocol, row.from, row.to, row.bits, row.frames));
    let expected = ["icmp 10.0.0.2 > 10.0.0.3 384000 32", "tcp 10.0.0.2:1000 > 10.0.0.3:80 256000 64", " others >  4000 5"];
    assert_eq!(rows.collect::<Vec<String>>(), expected);
    let text = drawn(&model, &Screen::default(), 100, 24);
    assert!(text.contains("flows (3), by 1 frame of 64") && text.contains("10.0.0.2 > 10.0.0.3"), "{text}");
    // Where a capture is refused, it is said, and flows are connections.
    let refused = Reading { sampled: Err("you may read only".to_owned()), ..reading(4, Vec::new()) };
    let text = drawn(&after([refused]), &Screen::default(), 100, 24);
    assert!(text.contains("flows of NAT (0), no capture: you may read"), "{text}");
}

#[test]
fn orders() {
    let names = |sort, is_reversed| {
        let ports = |a, b| vec![port("b", None, a), port("a", None, b), port("c", None, a)];
        let model = after([reading(1, ports(0, 0)), reading(2, ports(1000, 9000))]);
        model.view().sorted(sort, is_reversed).iter().map(|port| port.name.clone()).collect::<String>()
    };
    assert_eq!([names(Sort::Port, false), names(Sort::Receive, false), names(Sort::Drops, false)], ["abc", "abc", "abc"]);
    assert_eq!([names(Sort::Port, true), names(Sort::Transmit, true)], ["cba", "cba"]);
}

fn press(screen: &mut Screen, code: KeyCode) -> Wish {
    screen.press(KeyEvent::from(code), &View::default())
}

#[test]
fn keys() {
    let mut screen = Screen::default();
    for (key, sort) in [('s', Sort::Receive), ('s', Sort::Transmit), ('s', Sort::Drops), ('s', Sort::Port)] {
        press(&mut screen, KeyCode::Char(key));
        assert_eq!(screen.sort, sort);
    }
    for panel in [Panel::Flows, Panel::Drops, Panel::Ports] {
        press(&mut screen, KeyCode::Tab);
        assert_eq!(screen.panel, panel);
    }
    press(&mut screen, KeyCode::Char('p'));
    assert!(screen.paused.is_some());
    press(&mut screen, KeyCode::Char('p'));
    assert!(screen.paused.is_none());
    assert_eq!(press(&mut screen, KeyCode::Char('x')), Wish::Stay);
    assert_eq!(press(&mut screen, KeyCode::Char('q')), Wish::Leave);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.press(interrupt, &View::default()), Wish::Leave);
    // There is nothing below the last row.
    press(&mut screen, KeyCode::Down);
    assert_eq!(screen.skipped, 0);
}

fn drawn(model: &Model, screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, model.view(), screen)).unwrap();
    terminal.backend().to_string()
}

fn busy_switch() -> Model {
    let long = "/run/vswitchd/guests/one-with-a-long-name#3";
    let ports = |n: u64| {
        let mut ports = vec![port("tap0", None, 100_000 * n * n), port("eth\u{1b}[2J0", None, 7 * n), port(long, None, 1 << n)];
        ports[1].state = Some(State::Down);
        ports
    };
    let with = |n: u64| Reading { connections: vec![connection(1, 300), connection(2, 300)], ..reading(n, ports(n)) };
    after((1..20).map(with))
}

#[test]
fn the_screen_of_80_by_24() {
    insta::assert_snapshot!(drawn(&busy_switch(), &Screen::default(), 80, 24));
}

/// A switch whose flows have long endpoints.
fn busy_flows() -> Model {
    let v4 = |last, port| ([198, 51, 100, last].into(), port);
    let v6 = |last, port| (std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, last).into(), port);
    let flows = vec![
        (SampledFlow::Ip { protocol: 6, from: v4(107, 48_804), to: v4(200, 8081) }, Count { frames: 9, bytes: 9000 }),
        (SampledFlow::Ip { protocol: 17, from: v6(0xaaaa, 48_804), to: v6(0xbbbb, 8082) }, Count { frames: 5, bytes: 5000 }),
    ];
    let with = |n: u64| {
        let ports = vec![port("tap0", None, 1000 * n * n), port("tap1", None, 10 * n)];
        let mut reading = Reading { sampled: Ok(Sampled { sample: 1, flows: flows.clone() }), ..reading(n, ports) };
        let about = serde_json::json!({
            "name": "tap0", "labels": {}, "kind": "tap", "vlan_mode": "access", "vlan": 10, "state": "up", "loop_blocked": false, "mtu": 1500, "device": "",
        });
        reading.show.ports.push(serde_json::from_value(about).unwrap());
        reading
    };
    after((1..200).map(with))
}

#[test]
fn no_port_of_a_flow_is_cut() {
    for (width, height) in [(80, 24), (100, 30), (200, 50)] {
        let text = drawn(&busy_flows(), &Screen::default(), width, height);
        assert!(text.contains("198.51.100.107:48804 > 198.51.100.200:8081 "), "{text}");
        assert!(text.contains("]:8082 ") && text.contains("]:48804 > "), "{text}");
    }
}

#[test]
fn a_wide_screen_is_used() {
    let text = drawn(&busy_flows(), &Screen::default(), 200, 50);
    let row = text.lines().find(|line| line.contains("tap0")).unwrap();
    let blanks = row.split(|c| c != ' ').map(str::len).max().unwrap();
    assert!(blanks < 20, "{blanks} blanks: {row}");
    assert!(row.contains("tap, access VLAN 10, MTU 1500"), "{row}");
}

#[test]
fn rows_that_are_not_shown_are_said() {
    let ports = |n: u64| (0..30).map(|at| port(&format!("tap{at}"), None, 100 * n * at)).collect();
    let model = after([reading(1, ports(1)), reading(2, ports(2))]);
    let text = drawn(&model, &Screen::default(), 80, 24);
    assert!(text.contains(" of 30)"), "{text}");
    let screen = Screen { skipped: 29, ..Screen::default() };
    assert!(drawn(&model, &screen, 80, 24).contains("30-30 of 30"));
}

#[test]
fn colours_mark_states_and_may_be_off() {
    let colours = |has_colours: bool| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let screen = Screen { has_colours, ..Screen::default() };
        terminal.draw(|frame| draw::draw(frame, busy_switch().view(), &screen)).unwrap();
        let cells = terminal.backend().buffer().content().iter();
        cells.map(|cell| cell.fg).filter(|colour| *colour != Color::Reset).collect::<Vec<Color>>()
    };
    for colour in [Color::Green, Color::Red, Color::Cyan] {
        assert!(colours(true).contains(&colour), "{colour}");
    }
    assert!(colours(false).is_empty());
}

#[test]
fn the_screen_of_40_by_10() {
    let mut screen = Screen::default();
    insta::assert_snapshot!("ports", drawn(&busy_switch(), &screen, 40, 10));
    screen.turn_to(Panel::Drops);
    insta::assert_snapshot!("drops", drawn(&busy_switch(), &screen, 40, 10));
}

/// However small, and whatever is shown.
#[test]
fn any_size_is_drawn() {
    for (width, height) in [(1, 1), (5, 2), (20, 3), (40, 10), (59, 30), (60, 16), (80, 5), (300, 100)] {
        for panel in [Panel::Ports, Panel::Flows, Panel::Drops] {
            let screen = Screen { panel, has_help: true, skipped: 1, ..Screen::default() };
            drawn(&busy_switch(), &screen, width, height);
            drawn(&Model::default(), &Screen { panel, ..Screen::default() }, width, height);
        }
    }
}

#[test]
fn trouble_is_said_and_nothing_steers_the_terminal() {
    let screen = Screen { trouble: Some("no\u{1b}[2Jbody answers".to_owned()), ..Screen::default() };
    let text = drawn(&busy_switch(), &screen, 80, 24);
    assert!(text.contains("no\\u{1b}[2Jbody answers"), "{text}");
    assert!(!text.contains('\u{1b}'));
}
