//! Comparison with tcpdump: random frames and expressions, generated from a fixed seed, must match in both.
//!
//! Cases in which the language differs by design (see the crate's documentation) are not generated: tagged frames unless
//! the expression begins with `vlan`, IPv6 extension headers, and truncated headers.

use std::process::{Command, ExitCode, Stdio};

use filter::Filter;
use filter::Subject;
use libtest_mimic::{Arguments, Completion, Trial};
use packet::Headers;

fn main() -> ExitCode {
    let trial = Trial::ignorable_test("the_same_frames_as_tcpdump", || {
        if Command::new("tcpdump").arg("--version").output().is_err() {
            return Ok(Completion::ignored_with("there is no tcpdump"));
        }
        compare();
        Ok(Completion::Completed)
    });
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

/// xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

const V4: [[u8; 4]; 4] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 1, 0, 1], [192, 0, 2, 1]];
const PORTS: [u16; 4] = [53, 80, 443, 50_000];
const VLAN: [u16; 2] = [10, 20];

fn v6(last: u8) -> [u8; 16] {
    [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, last % 2, 0, 0, 0, 0, 0, 0, 0, last]
}

fn mac(random: &mut Random) -> [u8; 6] {
    random.one(&[[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]])
}

fn transport(random: &mut Random) -> (u8, Vec<u8>) {
    let ports: Vec<u8> = [random.one(&PORTS), random.one(&PORTS)].iter().flat_map(|port| port.to_be_bytes()).collect();
    match random.below(5) {
        0 => (6, [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]].concat()),
        1 => (17, [&ports[..], &[0, 12, 0, 0, 1, 2, 3, 4]].concat()),
        2 => (132, [&ports[..], &[0; 8]].concat()),
        3 => (random.one(&[1, 58]), vec![8, 0, 0, 0, 0, 1, 0, 1]),
        _ => (random.one(&[2, 50, 89]), vec![0; 16]),
    }
}

fn network(random: &mut Random) -> Vec<u8> {
    let (protocol, body) = transport(random);
    match random.below(6) {
        0 => {
            let (sender, target) = (random.one(&V4), random.one(&V4));
            let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
            [&head[..], &[2, 0, 0, 0, 0, 1], &sender, &[0; 6], &target].concat()
        }
        1 | 2 => {
            let [src, dst] = [0; 2].map(|_| v6(1 + random.below(3) as u8));
            let head = [0x86, 0xdd, 0x60, 0, 0, 0, 0, body.len() as u8, protocol, 64];
            [&head[..], &src, &dst, &body].concat()
        }
        _ => {
            let flags = random.one(&[[0x40, 0], [0x40, 0], [0x20, 0], [0, 5]]);
            let options: &[u8] = random.one(&[&[][..], &[1, 1, 1, 0]]);
            let header_len = 20 + options.len();
            let head = [8, 0, 0x40 | (header_len / 4) as u8, 0, 0, (header_len + body.len()) as u8, 0, 1, flags[0], flags[1], 64];
            [&head[..], &[protocol, 0, 0], &random.one(&V4), &random.one(&V4), options, &body].concat()
        }
    }
}

/// A frame, and whether it has a tag.
fn frame(random: &mut Random) -> (Vec<u8>, bool) {
    let is_tagged = random.below(3) == 0;
    let tag = [&[0x81, 0][..], &random.one(&VLAN).to_be_bytes()].concat();
    let mut frame = [&mac(random)[..], &mac(random), if is_tagged { &tag } else { &[] }, &network(random)].concat();
    frame.resize(frame.len().max(60), 0);
    (frame, is_tagged)
}

fn dotted([a, b, c, d]: [u8; 4]) -> String {
    format!("{a}.{b}.{c}.{d}")
}

fn primitive(random: &mut Random) -> String {
    let end = random.one(&["", "src ", "dst ", "src or dst ", "src and dst "]);
    let v6 = std::net::Ipv6Addr::from(v6(1 + random.below(3) as u8));
    match random.below(11) {
        0 => format!("{}{end}host {}", random.one(&["", "", "ip ", "arp "]), dotted(random.one(&V4))),
        1 => format!("{end}host {v6}"),
        2 => format!("{end}net {}", random.one(&["10.0.0.0/8", "10.0.0.0/24", "0.0.0.0/0", "192.0.2.1/32", "10.0.0.0/31"])),
        3 => format!("{end}net {}", random.one(&["2001:db8::/32", "2001:db8:0:1::/64", "2001:db8::/63", "::/0"])),
        4 => format!("{}{end}port {}", random.one(&["", "tcp ", "udp "]), random.one(&PORTS)),
        5 => format!("{}{end}portrange {}", random.one(&["", "tcp ", "udp "]), random.one(&["53-80", "80-50000", "1-52"])),
        6 => random.one(&["ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "sctp", "broadcast", "multicast"]).to_owned(),
        7 => format!("{}proto {}", random.one(&["", "ip ", "ip6 "]), random.one(&["6", "17", "1", "58", "89", "132"])),
        8 => format!("ether {} {}", random.one(&["host", "src", "dst"]), random.one(&["02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff"])),
        9 => format!("ether proto {}", random.one(&["0x0800", "0x86dd", "0x0806"])),
        _ => format!("port {} {} {}", random.one(&PORTS), random.one(&["or", "and"]), random.one(&PORTS)),
    }
}

fn expression(random: &mut Random, depth: usize) -> String {
    let mut text = String::new();
    for n in 0..=random.below(3) {
        if n > 0 {
            text += random.one(&[" and ", " or ", " && ", " || "]);
        }
        text += random.one(&["", "", "not ", "! "]);
        text += &match random.below(3) {
            0 if depth > 0 => format!("({})", expression(random, depth - 1)),
            _ => primitive(random),
        };
    }
    text
}

/// A file in the old pcap format: the time of each frame, in seconds, is its number.
fn pcap<'a>(frames: impl Iterator<Item = (usize, &'a [u8])>) -> Vec<u8> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    const VERSION: u32 = 2 | 4 << 16;
    const SNAPLEN: u32 = 65_535;
    const LINKTYPE_ETHERNET: u32 = 1;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let mut file = words(&[MAGIC, VERSION, 0, 0, SNAPLEN, LINKTYPE_ETHERNET]);
    for (number, frame) in frames {
        let len = frame.len() as u32;
        file.extend(words(&[number as u32, 0, len, len]));
        file.extend(frame);
    }
    file
}

/// The numbers of the frames that tcpdump finds.
fn ask_tcpdump(file: &std::path::Path, text: &str) -> Vec<usize> {
    let output =
        Command::new("tcpdump").arg("-r").arg(file).args(["-w", "-", text]).stdin(Stdio::null()).output().expect("it runs");
    if String::from_utf8_lossy(&output.stderr).contains("expression rejects all packets") {
        return Vec::new();
    }
    assert!(output.status.success(), "{text}: {output:?}");
    let (mut numbers, mut rest) = (Vec::new(), &output.stdout[24..]);
    while let Some((head, behind)) = rest.split_first_chunk::<16>() {
        let word = |at: usize| u32::from_ne_bytes(*head[at..].first_chunk().expect("four bytes")) as usize;
        numbers.push(word(0));
        rest = &behind[word(8)..];
    }
    numbers
}

fn compare() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let frames: Vec<(Vec<u8>, bool)> = (0..600).map(|_| frame(&mut random)).collect();
    let directory = std::env::temp_dir().join(format!("filter-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    // Nothing but tagged frames, for expressions that begin with vlan, and nothing but others.
    let files = [false, true].map(|is_tagged| {
        let numbered = frames.iter().enumerate().filter(|(_, frame)| frame.1 == is_tagged);
        let bytes = pcap(numbered.map(|(number, (frame, _))| (number, &frame[..])));
        let path = directory.join(format!("{is_tagged}.pcapng"));
        std::fs::write(&path, bytes).expect("written");
        path
    });
    let mut found_some = 0;
    for _ in 0..300 {
        let is_tagged = random.below(4) == 0;
        let mut text = expression(&mut random, 2);
        if is_tagged {
            text = match random.below(4) {
                0 => "vlan".to_owned(),
                1 => format!("vlan {}", random.one(&VLAN)),
                _ => format!("vlan {} and ({text})", random.one(&VLAN)),
            };
        }
        let filter: Filter = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let finds = |frame: &[u8]| filter.matches(&Subject::plain(Headers::parse(frame).ok().as_ref(), frame));
        let ours: Vec<usize> = (0..frames.len()).filter(|at| frames[*at].1 == is_tagged && finds(&frames[*at].0)).collect();
        let theirs = ask_tcpdump(&files[usize::from(is_tagged)], &text);
        if let Some(at) = (0..frames.len()).find(|at| ours.contains(at) != theirs.contains(at)) {
            panic!("{text}: tcpdump says {} of {:02x?}", theirs.contains(&at), frames[at].0);
        }
        found_some += usize::from(!ours.is_empty() && ours.len() < 200);
    }
    assert!(found_some > 100, "{found_some} expressions told frames apart");
    std::fs::remove_dir_all(directory).expect("removed");
}
