//! The filter language: accepted expressions, error messages, and matching.

use filter::Filter;
use filter::{MAX_CHECKS, MAX_DEPTH, MAX_LEN, Subject};
use packet::Headers;
use proptest::prelude::*;

fn filter(text: &str) -> Filter {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> String {
    text.parse::<Filter>().expect_err(text).to_string()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

/// UDP from 10.0.0.1:5000 to 10.0.0.2:9.
fn udp() -> Vec<u8> {
    hex("020000000002 020000000001 0800 4500001e0001400040110000 0a0000010a000002 13880009000a0000 aabb")
}

fn tagged(frame: &[u8], tags: &str) -> Vec<u8> {
    [&frame[..12], &hex(tags), &frame[12..]].concat()
}

fn finds(text: &str, frame: &[u8]) -> bool {
    filter(text).matches(&Subject::plain(Headers::parse(frame).ok().as_ref(), frame))
}

#[test]
fn expressions_of_tcpdump_match() {
    let frame = udp();
    for text in [
        "host 10.0.0.1",
        "10.0.0.1",
        "src 10.0.0.1",
        "dst host 10.0.0.2",
        "net 10.0.0.0/24",
        "ip",
        "udp",
        "udp port 9",
        "src port 5000",
        "portrange 1-10",
        "proto 17",
        "ip proto udp",
        "ether host 02:00:00:00:00:01",
        "ether dst 02:00:00:00:00:02",
        "mac 02:00:00:00:00:01",
        "src mac 02:00:00:00:00:01",
        "not tcp",
        "! arp",
        "host 10.0.0.9 or 10.0.0.2",
        "port 80 or 9",
        "src or dst port 9",
        "(host 10.0.0.1) && (udp || tcp)",
        "ether proto 0x0800",
        "src and dst net 10.0.0.0/8",
        "not (vlan or vni)",
        "src 10.0.0.1 and dst 10.0.0.2",
    ] {
        assert!(finds(text, &frame), "{text}");
    }
    for text in [
        "src 10.0.0.2",
        "tcp port 9",
        "dst port 5000",
        "ip6",
        "src and dst host 10.0.0.1",
        "arp host 10.0.0.1",
        "vlan",
        "multicast",
        "broadcast",
        "icmp",
        "net 10.0.1.0/24",
        "host 10.0.0.9 and 10.0.0.2",
    ] {
        assert!(!finds(text, &frame), "{text}");
    }
}

#[test]
fn and_binds_no_closer_than_or() {
    assert_eq!(filter("udp or tcp and arp").to_string(), "(proto 17 or proto 6) and arp");
    assert!(!finds("udp or tcp and arp", &udp()));
    assert!(finds("udp or (tcp and arp)", &udp()));
}

#[test]
fn tags_do_not_hide_what_is_behind_them() {
    for frame in [tagged(&udp(), "8100 200a"), tagged(&udp(), "88a8 000a 8100 0064")] {
        assert!(finds("vlan 10 and host 10.0.0.1 and udp port 9", &frame));
        assert!(finds("host 10.0.0.1", &frame) && finds("vlan", &frame));
        assert!(!finds("vlan 100", &frame) && !finds("not vlan", &frame));
    }
}

#[test]
fn vlans_and_networks_of_the_port_count() {
    let (frame, of_ten) = (udp(), filter("vlan 10"));
    let headers = Headers::parse(&frame).unwrap();
    let at = |vlan, vni| Subject { vlan, vni, ..Subject::plain(Some(&headers), &frame) };
    assert!(of_ten.matches(&at(Some(10), None)) && !of_ten.matches(&at(Some(11), None)));
    assert!(!filter("vlan").matches(&at(Some(10), None)), "it has no tag");
    assert!(filter("vni 42").matches(&at(None, Some(42))) && filter("vni").matches(&at(None, Some(42))));
    assert!(!filter("vni 42").matches(&at(None, None)));
}

#[test]
fn networks_in_vxlan_datagrams() {
    let header = "020000000002 020000000001 0800 450000240001400040110000 0a0000010a000002 138812b500100000";
    let with = |vxlan: &str| hex(&format!("{header} {vxlan}"));
    assert!(finds("vni 42", &with("08000000 00002a00")) && finds("vni", &with("08000000 00002a00")));
    assert!(!finds("vni 42", &with("08000000 00002b00")) && !finds("vni 42", &with("00000000 00002a00")));
}

#[test]
fn fragments() {
    let mut first = udp();
    first[20..22].copy_from_slice(&[0x20, 0]);
    let mut later = udp();
    later[20..22].copy_from_slice(&[0, 1]);
    assert!(finds("udp port 9", &first) && finds("udp", &later) && !finds("port 9", &later));
}

#[test]
fn invalid_frames_are_matched() {
    let mut frame = udp();
    frame[17] = 200;
    assert_eq!(Headers::parse(&frame).unwrap().network, packet::Network::Other, "longer than the frame");
    assert!(finds("host 10.0.0.1 and udp port 9", &frame));
    for len in 0..frame.len() {
        let _ = finds("host 10.0.0.1 or port 9 or vni 1 or icmp6", &frame[..len]);
    }
    assert!(finds("not host 10.0.0.1", &[1; 5]), "nothing is known of a runt");
}

#[test]
fn packets_without_ethernet() {
    let packet = &udp()[14..];
    let headers = Headers::of_packet(packet);
    let finds = |text: &str| filter(text).matches(&Subject::plain(Some(&headers), packet));
    assert!(finds("host 10.0.0.1 and udp port 9") && !finds("ether host 00:00:00:00:00:00"));
}

#[test]
fn errors_point_at_the_word_and_suggest_a_fix() {
    for (text, part) in [
        ("hots 10.0.0.1", "at \"hots\": unknown word; did you mean 'host'?"),
        ("host", "the filter is incomplete: an address is expected"),
        ("host example.org", "names are not resolved"),
        ("host 10.0.0.0/8", "write 'net 10.0.0.0/8'"),
        ("net 10.0.0.1/8", "write 10.0.0.0/8"),
        ("net 10.0.0.1", "write 'host 10.0.0.1'"),
        ("10.0.0.0/8", "write 'net 10.0.0.0/8'"),
        ("80", "write 'port 80'"),
        ("02:00:00:00:00:01", "write 'ether host 02:00:00:00:00:01'"),
        ("port 65536", "from 0 to 65535"),
        ("portrange 9-1", "write 1-9"),
        ("vlan 4095", "from 0 to 4094"),
        ("vni 16777216", "from 0 to 16777215"),
        ("tcp host 10.0.0.1", "write 'tcp and host ..'"),
        ("ip port 80", "write 'ip and port N'"),
        ("ip host 2001:db8::1", "an IPv6 address"),
        ("ip6 host 10.0.0.1", "an IPv4 address"),
        ("(tcp", "a ')' is missing"),
        ("tcp)", "there is no '('"),
        ("tcp udp", "'and' or 'or' is missing"),
        ("tcp adn udp", "did you mean 'and'"),
        ("not", "incomplete"),
        ("", "incomplete"),
        ("src", "incomplete"),
        ("src tcp", "unknown word"),
        ("ether host x", "not an Ethernet address"),
    ] {
        assert!(error(text).contains(part), "{text}: {}", error(text));
    }
    let error = "tcp and hots 1".parse::<Filter>().unwrap_err();
    assert_eq!((error.at(), error.drawing().as_str()), (8..12, "tcp and hots 1\n        ^^^^"));
}

#[test]
fn limits_of_length_depth_and_checks() {
    let deep = |levels: usize| format!("{}tcp{}", "(".repeat(levels), ")".repeat(levels));
    filter(&deep(MAX_DEPTH - 1));
    assert!(error(&deep(MAX_DEPTH)).contains("levels"));
    assert!(error(&"not ".repeat(1000)).contains("levels"));
    let wide = |checks: usize| vec!["tcp"; checks].join(" and ");
    filter(&wide(MAX_CHECKS));
    assert!(error(&wide(MAX_CHECKS + 1)).contains("checks"));
    assert!(error(&"x".repeat(MAX_LEN + 1)).contains("at most"));
    // The deepest tree without parentheses.
    let turns = (0..MAX_CHECKS).map(|n| if n % 2 == 0 { "tcp and" } else { "udp or" }).collect::<Vec<_>>().join(" ");
    filter(&turns[..turns.len() - 3]);
}

const WORDS: [&str; 40] = [
    "and",
    "or",
    "not",
    "!",
    "(",
    ")",
    "&&",
    "||",
    "src",
    "dst",
    "host",
    "net",
    "port",
    "portrange",
    "proto",
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "ether",
    "mac",
    "vlan",
    "vni",
    "broadcast",
    "multicast",
    "10.0.0.1",
    "10.0.0.0/8",
    "2001:db8::1",
    "2001:db8::/32",
    "80",
    "8000-8080",
    "02:00:00:00:00:01",
    "0x800",
    "hots",
    "ü",
    "&",
    "",
];

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        if let Err(error) = text.parse::<Filter>() {
            prop_assert!(text.get(error.at()).is_some());
            let _ = error.drawing();
        }
        let text = String::from_utf8_lossy(&bytes);
        let _ = text.parse::<Filter>();
    }

    /// A displayed filter can be parsed, and is equal to the original.
    #[test]
    fn a_displayed_filter_is_equivalent(
        words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 1..14),
        frame in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        match words.join(" ").parse::<Filter>() {
            Err(error) => prop_assert!(!error.to_string().is_empty()),
            Ok(one) => {
                let again: Filter = one.to_string().parse().map_err(|error| TestCaseError::fail(format!("{one}: {error}")))?;
                prop_assert_eq!(&again, &one);
                let headers = Headers::parse(&frame).ok();
                let subject = Subject::plain(headers.as_ref(), &frame);
                prop_assert_eq!(again.matches(&subject), one.matches(&subject));
            }
        }
    }
}
