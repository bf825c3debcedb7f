//! `vswitchctl capture`: what it shows, and that a slow reader never delays frames.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use packet::MacAddr;

use crate::captured::{Capture, Packet, without_tshark};
use crate::control::{exchange, pair, run};
use crate::frames::{DOT1Q, frame, station, tagged};
use crate::guest::{Directory, StreamGuest};
use crate::host::{Host, Ip};
use crate::site::{FAR, Mode, Plan, guest_address, recv_from, udp_on};
use crate::switch::Switch;
use crate::transfer::transfer;
use crate::{program, trial, trial_with, wait};

pub(crate) fn trials() -> Vec<Trial> {
    let read = |name: &str, run: fn()| trial_with(name, without_tshark, run);
    vec![
        read("capture/names_directions_and_comments", names_directions_and_comments),
        read("capture/drops_only", drops_only),
        read("capture/filters", filters),
        read("capture/translated_packets_before_and_after", translated_packets_before_and_after),
        read("capture/a_port_that_comes_later", a_port_that_comes_later),
        read("capture/a_port_that_goes", a_port_that_goes),
        read("capture/tcp_stream_is_whole_and_so_is_the_capture", tcp_stream),
        read("capture/count_snaplen_and_pipe", count_snaplen_and_pipe),
        trial("capture/a_reader_that_does_not_read", a_reader_that_does_not_read),
        trial("capture/refused", refused),
    ]
}

/// Station, VLAN, and direction or verdict.
fn short(packets: &[Packet]) -> Vec<String> {
    packets.iter().map(|packet| format!("{} {} {} {}", packet.interface, packet.direction, packet.vlan, packet.comment)).collect()
}

fn names_directions_and_comments() {
    let directory = Directory::new();
    // The second port is an access port of VLAN 10.
    let (switch, [a, b], socket) = pair(&directory);
    let capture = Capture::start(&directory, &socket, &[]);
    let ten = tagged(&frame(MacAddr::BROADCAST, station(1), b"to VLAN 10"), DOT1Q, 10);
    a.raw().send(&ten).expect("sent");
    b.raw().send(&frame(MacAddr::BROADCAST, station(2), b"back")).expect("sent");
    a.raw().send(&frame(MacAddr([1, 0x80, 0xc2, 0, 0, 0]), station(1), b"to nobody")).expect("sent");
    let packets = capture.finish_with(5);
    let said = short(&packets);
    for line in ["a in 10 ", "b out  ", "b in  ", "a out 10 ", "a in  dropped: link_local"] {
        assert!(said.contains(&line.to_owned()), "no '{line}': {said:?}");
    }
    assert!(packets.iter().all(|packet| packet.src.starts_with("02:e2:00:00:00:0")), "{packets:?}");
    switch.finish();
}

fn drops_only() {
    let directory = Directory::new();
    let (switch, [a, b], socket) = pair(&directory);
    let capture = Capture::start(&directory, &socket, &["any", "--drops"]);
    let at_b = Capture::start(&directory, &socket, &["b", "--drops"]);
    let speaks = a.raw();
    speaks.send(&tagged(&frame(MacAddr::BROADCAST, station(1), b"goes"), DOT1Q, 10)).expect("sent");
    speaks.send(&frame(MacAddr::BROADCAST, station(1), b"stays")).expect("sent");
    b.raw().send(&tagged(&frame(MacAddr::BROADCAST, station(2), b"may not"), DOT1Q, 7)).expect("sent");
    let expected = ["a in  dropped: no_destination", "b in 7 dropped: vlan_not_allowed"];
    let mut packets = short(&capture.finish_with(2));
    packets.sort();
    assert_eq!(packets, expected);
    assert_eq!(short(&at_b.finish_with(1)), expected[1..]);
    switch.finish();
}

fn filters() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::new);
    let socket = directory.text("control");
    let ports = format!("{},{}", hosts[0].port(":vlan=10"), hosts[1].port(":trunks=10"));
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    let start =
        |filter: &str| Capture::start(&directory, &socket, &[&["any"][..], &filter.split(' ').collect::<Vec<_>>()].concat());
    let experimental = start("ether proto 0x88b5 and vlan 10");
    let of_two = start("mac 02:e2:00:00:00:02 or host 192.0.2.1");
    let speaks = hosts[0].raw();
    speaks.send(&frame(MacAddr::BROADCAST, station(1), b"one")).expect("sent");
    speaks.send(&frame(MacAddr::BROADCAST, station(2), b"two")).expect("sent");
    let mut packets = short(&experimental.finish_with(4));
    // The result is the same whether both frames came in one batch or in two.
    packets.sort_unstable();
    // An untagged frame on the access port belongs to VLAN 10 too.
    assert_eq!(packets, ["a in  ", "a in  ", "b out 10 ", "b out 10 "].map(str::to_owned), "{packets:?}");
    let packets = of_two.finish_with(2);
    assert!(packets.iter().all(|packet| packet.src == station(2).to_string()) && packets.len() == 2, "{packets:?}");
    switch.finish();
}

fn translated_packets_before_and_after() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let site = Plan::new(Mode::Shared, 1).args(&["--control", &socket]).start();
    let capture = Capture::start(&directory, &socket, &["any", "udp", "port", "5000"]);
    let far = udp_on(&site.outside, FAR, 5000);
    let near = udp_on(site.guest(1), guest_address(1), 4000);
    near.connect((FAR, 5000)).expect("connected");
    near.send(b"out").expect("sent");
    recv_from(&far);
    let packets = capture.finish_with(2);
    let ways: Vec<String> = packets.iter().map(|packet| format!("{} {}", packet.interface, packet.direction)).collect();
    assert!(ways.contains(&"g1 in".to_owned()) && ways.contains(&"up0 out".to_owned()), "{ways:?}");
    let macs: Vec<&str> = packets.iter().map(|packet| packet.src.as_str()).collect();
    assert_ne!(macs[0], macs[1], "as it came, and as it left");
    site.finish();
}

fn a_port_that_comes_later() {
    let directory = Directory::new();
    let (host, socket) = (Host::quiet("a"), directory.text("control"));
    let (path, port) = (directory.path("s"), format!("stream:{}", directory.text("s")));
    let switch = Switch::start(&["--tap", &host.port(""), "--port", &port, "--control", &socket]);
    let capture = Capture::start(&directory, &socket, &["any"]);
    host.raw().send(&frame(MacAddr::BROADCAST, station(1), b"nobody there yet")).expect("sent");
    let mut guest = StreamGuest::at(&path);
    wait::until("a place", || switch.has_logged("#1\" guest=").then_some(()));
    guest.send(&frame(MacAddr::BROADCAST, station(2), b"here"));
    let packets = short(&capture.finish_with(3));
    assert!(packets.contains(&"a in  dropped: no_destination".to_owned()), "{packets:?}");
    assert!(packets.iter().any(|line| line.starts_with(&format!("{}#1 in", path.display()))), "{packets:?}");
    switch.finish();
}

/// The port's number is soon reused by another port, which must not be captured.
fn a_port_that_goes() {
    let directory = Directory::new();
    let (hosts, socket) = (["a", "b"].map(Host::quiet), directory.text("control"));
    let switch = Switch::start(&["--tap", &format!("{},{}", hosts[0].port(""), hosts[1].port("")), "--control", &socket]);
    let (all, one) = (Capture::start(&directory, &socket, &["any"]), Capture::start(&directory, &socket, &["b"]));
    hosts[0].raw().send(&frame(MacAddr::BROADCAST, station(1), b"to all")).expect("sent");
    switch.settle("one frame", |report| report.received_by("a") == 1);
    assert!(crate::control::run(&socket, &["port", "del", "b"]).status.success());
    assert_eq!(short(&one.wait().0), ["b out  "], "it ends by itself");
    assert!(all.finish_with(2).len() >= 2);
    switch.finish();
}

fn tcp_stream() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::new);
    let socket = directory.text("control");
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(""));
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    hosts[0].configure(1);
    hosts[1].configure(2);
    let capture = Capture::start(&directory, &socket, &["any", "tcp"]);
    transfer(&hosts[0], (&hosts[1], 2), Ip::V4, true);
    let report = switch.settle("all to be counted", |report| report.received() > 0);
    let (packets, said) = capture.finish();
    assert!(said.contains("packets captured"), "{said}");
    // How many segments a sender puts into one depends on its pace, which a busy machine slows.
    assert!(packets.iter().any(|packet| packet.len > 1514), "super-frames are whole");
    assert!(packets.iter().all(|packet| packet.comment.is_empty()));
    assert_eq!(report.lost(), 0);
    assert_eq!(switch.finish().lost(), 0, "{report:?}");
}

/// The rings fill up; then the capture loses frames and the stream does not.
fn a_reader_that_does_not_read() {
    let directory = Directory::new();
    let hosts = ["a", "b"].map(Host::new);
    let socket = directory.text("control");
    let ports = format!("{},{}", hosts[0].port(""), hosts[1].port(""));
    let switch = Switch::start(&["--tap", &ports, "--control", &socket]);
    hosts[0].configure(1);
    hosts[1].configure(2);
    let mut readers: Vec<UnixStream> = (0..4).map(|_| asking(&socket, "/v1/capture")).collect();
    for reader in &mut readers {
        let mut head = [0; 12];
        reader.read_exact(&mut head).expect("a head");
        assert_eq!(&head[9..], b"200");
    }
    for _ in 0..4 {
        transfer(&hosts[0], (&hosts[1], 2), Ip::V4, true);
    }
    // The next read reports the loss.
    let reader = &mut readers[0];
    reader.set_read_timeout(Some(wait::NEVER)).expect("set");
    let mut bytes = Vec::new();
    wait::until("the loss", || {
        let mut piece = vec![0; 1 << 20];
        let len = reader.read(&mut piece).expect("more");
        bytes.extend_from_slice(&piece[..len]);
        // The `epb_dropcount` option, eight bytes long, with a value other than zero.
        bytes.windows(12).any(|bytes| bytes[..4] == [5, 0, 8, 0] && bytes[4..] != [0; 8]).then_some(())
    });
    assert_eq!(run(&socket, &["port", "list"]).status.code(), Some(0), "others are served");
    drop(readers);
    assert_eq!(switch.finish().lost(), 0);
}

/// A request whose response is not read.
fn asking(socket: &str, path: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    stream
}

fn count_snaplen_and_pipe() {
    let directory = Directory::new();
    let (switch, [a, _b], socket) = pair(&directory);
    let speaks = a.raw();
    let background = crate::exchange::Background::run(move || {
        speaks.send(&frame(MacAddr::BROADCAST, station(1), &[7; 500])).expect("sent");
        std::thread::sleep(std::time::Duration::from_millis(1));
    });
    let capture = Capture::start(&directory, &socket, &["a", "-c", "5", "-s", "100"]);
    let (packets, said) = capture.wait();
    assert!(said.contains("5 packets captured, 0 lost"), "{said}");
    assert!(packets.len() == 5 && packets.iter().all(|packet| packet.len == 514), "{packets:?}");
    let mut command = Command::new(program::vswitchctl());
    command.args(["--socket", &socket, "capture", "a", "-c", "3", "-w", "-"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("vswitchctl runs");
    let pipe = child.stdout.take().expect("its output");
    let reader = Command::new("tcpdump").args(["-n", "-e", "-r", "-"]).stdin(pipe).output();
    assert!(child.wait().expect("its end").success());
    if let Ok(output) = reader {
        assert_eq!(String::from_utf8_lossy(&output.stdout).matches("length 514").count(), 3, "{output:?}");
    }
    background.end();
    switch.finish();
}

fn refused() {
    let directory = Directory::new();
    let (switch, _hosts, socket) = pair(&directory);
    let ask = |path: &str| exchange(&socket, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    for (path, status, part) in [
        ("/v1/capture?filter=hots%2010.0.0.1", "400", "did you mean 'host'?"),
        ("/v1/capture?filter=%ff", "400", ""),
        ("/v1/capture?port=c", "404", "there is no port 'c'"),
        ("/v1/capture?snaplen=0", "400", "snaplen"),
        ("/v1/capture?sample=0", "400", "sample"),
        ("/v1/capture?count=-1", "400", ""),
        ("/v1/capture?what=1", "400", ""),
    ] {
        let answer = ask(path);
        assert_eq!(answer.get(9..12), Some(status), "{path}: {answer}");
        assert!(answer.contains(part), "{path}: {answer}");
    }
    let said = |words: &[&str]| String::from_utf8(run(&socket, words).stderr).expect("text");
    let file = directory.text("never");
    assert!(said(&["capture", "any", "tcp", "adn", "udp", "-w", &file]).contains("tcp adn udp\n    ^^^"));
    assert!(said(&["capture", "nosuch", "-w", &file]).contains("there is no port 'nosuch'"));
    assert!(!std::path::Path::new(&file).exists());
    // At most four captures at a time; a place is free again when one ends.
    let four: Vec<UnixStream> = (0..4).map(|_| asking(&socket, "/v1/capture")).collect();
    wait::until("four to run", || (ask("/v1/capture?count=0").get(9..12) == Some("409")).then_some(()));
    for _ in 0..1000 {
        let answer = ask("/v1/capture");
        assert!(["409", "503"].contains(&&answer[9..12]), "{answer}");
    }
    drop(four);
    wait::until("room", || (ask("/v1/capture?count=0").get(9..12) == Some("200")).then_some(()));
    switch.finish();
}
