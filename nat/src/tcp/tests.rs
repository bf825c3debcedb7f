use super::*;
use proptest::prelude::*;

use Peer::{Initiator as I, Responder as R};
use Phase::{Closing, Established, Opening, Reset};
use Verdict::{Doubtful, Invalid, Pass, Reopened};

const ACK: u8 = flag::ACK;
const FIN: u8 = flag::FIN | ACK;
const SYN_ACK: u8 = SYN | ACK;
const RST_ACK: u8 = RST | ACK;

fn segment(flags: u8, sequence: u32, acknowledgment: u32, window: u16, payload: u32) -> Segment {
    let controls = u32::from(flags & SYN != 0) + u32::from(flags & flag::FIN != 0);
    Segment { sequence, acknowledgment, window, flags, len: payload + controls, scale: None, sack: None }
}

fn scaled(segment: Segment, scale: u8) -> Segment {
    Segment { scale: Some(scale), ..segment }
}

/// Sender, flags, sequence, acknowledgment, window, payload; expected verdict and phase afterwards.
type Line = (Peer, u8, u32, u32, u16, u32, Verdict, Phase);

#[track_caller]
fn run_from(mut tracker: Tracker, lines: &[Line]) -> Tracker {
    for (at, &(from, flags, sequence, ack, window, payload, verdict, phase)) in lines.iter().enumerate() {
        let before = tracker;
        tracker = Tracker::from_words(tracker.to_words());
        assert_eq!(tracker, before, "there and back");
        let got = tracker.follow(from, &segment(flags, sequence, ack, window, payload));
        assert_eq!((got, tracker.phase()), (verdict, phase), "line {at}: {:?}\n{before:x?}", lines[at]);
        assert!(got != Invalid || tracker == before, "line {at} is invalid and changed something");
    }
    tracker
}

#[track_caller]
fn run(lines: &[Line]) -> Tracker {
    let (_, flags, sequence, ack, window, payload, _, phase) = lines[0];
    let tracker = Tracker::open(&segment(flags, sequence, ack, window, payload), Policy::default()).unwrap();
    assert_eq!(tracker.phase(), phase);
    run_from(tracker, &lines[1..])
}

/// A SYN of 1000, a SYN-ACK of 5000, both windows 10,000.
const OPEN: [Line; 3] = [
    (I, SYN, 1000, 0, 10_000, 0, Pass, Opening),
    (R, SYN_ACK, 5000, 1001, 10_000, 0, Pass, Opening),
    (I, ACK, 1001, 5001, 10_000, 0, Pass, Established),
];

#[track_caller]
fn run_open(lines: &[Line]) -> Tracker {
    run_from(run(&OPEN), lines)
}

#[test]
fn state_is_small() {
    assert_eq!(size_of::<Tracker>(), 28);
}

#[test]
fn data_both_ways_and_retransmissions() {
    run_open(&[
        (I, ACK, 1001, 5001, 10_000, 500, Pass, Established),
        (R, ACK, 5001, 1501, 10_000, 1000, Pass, Established),
        (I, ACK, 1001, 5001, 10_000, 500, Pass, Established),
        (I, ACK, 1501, 6001, 10_000, 0, Pass, Established),
        (I, ACK, 1500, 6001, 10_000, 0, Pass, Established),
        (I, ACK, 1500, 6001, 10_000, 1, Pass, Established),
        (R, ACK, 6001, 1501, 10_000, 0, Pass, Established),
        (R, SYN_ACK, 5000, 1001, 10_000, 0, Doubtful, Established),
        (I, SYN, 1000, 0, 10_000, 0, Doubtful, Established),
        (R, SYN_ACK, 5000, 1001, 10_000, 0, Doubtful, Established),
        (I, ACK, 1501, 6001, 10_000, 0, Pass, Established),
    ]);
}

#[test]
fn out_of_window() {
    run_open(&[
        (I, ACK, 11_001, 5001, 10_000, 100, Pass, Established),
        (I, ACK, 11_002, 5001, 10_000, 100, Invalid, Established),
        (I, ACK, 0x8000_0000, 5001, 10_000, 100, Invalid, Established),
        (I, ACK, 1001u32.wrapping_sub(66_000), 5001, 10_000, 0, Pass, Established),
        (I, ACK, 1000u32.wrapping_sub(66_000), 5001, 10_000, 0, Invalid, Established),
        (I, ACK, 1001, 5002, 10_000, 0, Invalid, Established),
        (I, ACK, 1001, 5000u32.wrapping_sub(66_000), 10_000, 0, Invalid, Established),
        (R, ACK, 5001, 11_102, 10_000, 0, Invalid, Established),
        (R, ACK, 5001, 11_101, 10_000, 0, Pass, Established),
        (I, FIN, 90_000, 5001, 10_000, 0, Invalid, Established),
    ]);
}

#[test]
fn zero_window_is_probed() {
    run_open(&[
        (I, ACK, 1001, 5001, 10_000, 10_000, Pass, Established),
        (R, ACK, 5001, 11_001, 0, 0, Pass, Established),
        (I, ACK, 11_000, 5001, 10_000, 0, Pass, Established),
        (I, ACK, 11_001, 5001, 10_000, 1, Pass, Established),
        (R, ACK, 5001, 11_001, 0, 0, Pass, Established),
        (R, ACK, 5001, 11_002, 10_000, 0, Pass, Established),
    ]);
}

#[test]
fn simultaneous_open() {
    run(&[
        (I, SYN, 1000, 0, 10_000, 0, Pass, Opening),
        (R, SYN, 5000, 0, 10_000, 0, Pass, Opening),
        (I, SYN_ACK, 1000, 5001, 10_000, 0, Pass, Opening),
        (R, SYN_ACK, 5000, 1001, 10_000, 0, Pass, Established),
        (I, ACK, 1001, 5001, 10_000, 10, Pass, Established),
    ]);
    // The replies as plain acknowledgments (RFC 9293 section 3.5, figure 8, has both forms).
    run(&[
        (I, SYN, 1000, 0, 10_000, 0, Pass, Opening),
        (R, SYN, 5000, 0, 10_000, 0, Pass, Opening),
        (R, ACK, 5001, 1001, 10_000, 0, Pass, Opening),
        (I, ACK, 1001, 5001, 10_000, 0, Pass, Established),
    ]);
}

#[test]
fn a_forged_syn_does_not_keep_the_true_answer_out() {
    run(&[
        (I, SYN, 1000, 0, 10_000, 0, Pass, Opening),
        (R, SYN, 0x7000_0000, 0, 10_000, 0, Pass, Opening),
        (R, SYN_ACK, 5000, 999, 10_000, 0, Invalid, Opening),
        (R, SYN_ACK, 5000, 1001, 10_000, 0, Pass, Opening),
        (I, ACK, 1001, 5001, 10_000, 0, Pass, Established),
    ]);
    run(&[
        (I, SYN, 1000, 0, 10_000, 0, Pass, Opening),
        (R, SYN, 0x7000_0000, 0, 10_000, 0, Pass, Opening),
        (I, SYN_ACK, 1000, 0x7000_0001, 10_000, 0, Pass, Opening),
        (R, SYN_ACK, 5000, 1001, 10_000, 0, Pass, Opening),
        (I, ACK, 1001, 5001, 10_000, 0, Pass, Established),
    ]);
}

#[test]
fn opening_again_and_again() {
    run(&[
        (I, SYN, 1000, 0, 10_000, 0, Pass, Opening),
        (I, SYN, 1000, 0, 10_000, 0, Pass, Opening),
        (I, ACK, 1001, 5001, 10_000, 0, Invalid, Opening),
        (I, SYN_ACK, 1000, 5001, 10_000, 0, Invalid, Opening),
        (I, SYN, 90_000_000, 0, 10_000, 0, Pass, Opening),
        (R, SYN_ACK, 5000, 1001, 10_000, 0, Invalid, Opening),
        (R, SYN_ACK, 5000, 90_000_001, 10_000, 0, Pass, Opening),
        (I, SYN, 90_000_000, 0, 10_000, 0, Pass, Opening),
        (R, SYN_ACK, 5000, 90_000_001, 10_000, 0, Doubtful, Opening),
        (I, ACK, 90_000_001, 5001, 10_000, 0, Pass, Established),
    ]);
}

/// RFC 7413: the SYN carries data, and the reply acknowledges all of it or none; more data may come with the reply and
/// after it.
#[test]
fn data_in_syns() {
    for acked in [1001, 1401] {
        run(&[
            (I, SYN, 1000, 0, 10_000, 400, Pass, Opening),
            (R, SYN_ACK, 5000, 1402, 10_000, 0, Invalid, Opening),
            (R, SYN_ACK, 5000, acked, 10_000, 100, Pass, Opening),
            (R, ACK, 5101, acked, 10_000, 1000, Pass, Opening),
            (I, ACK, acked, 5101, 10_000, 400, Pass, Established),
        ]);
    }
}

/// RFC 9293 section 3.5.1, figure 10: one side crashed, and its SYN meets the old connection.
#[test]
fn half_open_connection_that_the_tracker_forgot() {
    run(&[
        (I, SYN, 1000, 0, 10_000, 0, Pass, Opening),
        (R, ACK, 777_000, 333_000, 10_000, 0, Doubtful, Opening),
        (I, RST, 333_000, 0, 0, 0, Doubtful, Opening),
        (I, SYN, 1000, 0, 10_000, 0, Pass, Opening),
        (R, SYN_ACK, 5000, 1001, 10_000, 0, Pass, Opening),
        (I, ACK, 1001, 5001, 10_000, 0, Pass, Established),
    ]);
}

#[test]
fn half_open_connection_that_the_tracker_knows() {
    run_open(&[
        (I, SYN, 70_000_000, 0, 10_000, 0, Doubtful, Established),
        (R, ACK, 5001, 1001, 10_000, 0, Pass, Established),
        (I, RST, 1001, 0, 0, 0, Pass, Reset),
        (I, SYN, 70_000_000, 0, 10_000, 0, Reopened, Opening),
        (R, SYN_ACK, 95_000_000, 70_000_001, 10_000, 0, Pass, Opening),
    ]);
}

#[test]
fn both_sides_forgot_the_connection() {
    let answered = run_open(&[
        (I, SYN, 70_000_000, 0, 10_000, 0, Doubtful, Established),
        (R, SYN_ACK, 95_000_000, 70_000_000, 10_000, 0, Invalid, Established),
        (R, SYN_ACK, 95_000_000, 70_000_001, 10_000, 0, Reopened, Opening),
        (I, ACK, 70_000_001, 95_000_001, 10_000, 0, Pass, Established),
    ]);
    assert!(answered.is_acceptable_quote(I, 70_000_001) && !answered.is_acceptable_quote(I, 1001));
    run_open(&[
        (I, SYN, 70_000_000, 0, 10_000, 0, Doubtful, Established),
        (R, RST_ACK, 0, 70_000_002, 0, 0, Invalid, Established),
        (R, RST_ACK, 0, 70_000_001, 0, 0, Pass, Reset),
    ]);
    // The reply to a client that retries while its first attempt is half-open.
    run(&[
        (I, SYN, 1000, 0, 10_000, 0, Pass, Opening),
        (R, SYN_ACK, 5000, 1001, 10_000, 0, Pass, Opening),
        (I, SYN, 70_000_000, 0, 10_000, 0, Doubtful, Opening),
        (R, SYN_ACK, 95_000_000, 70_000_001, 10_000, 0, Reopened, Opening),
        (I, ACK, 70_000_001, 95_000_001, 10_000, 0, Pass, Established),
    ]);
}

#[test]
fn close_by_either_side_first() {
    for (first, second, a, b) in [(I, R, 1001, 5001), (R, I, 5001, 1001)] {
        run_open(&[
            (first, FIN, a, b, 10_000, 10, Pass, Established),
            (second, ACK, b, a + 11, 10_000, 0, Pass, Established),
            (second, ACK, b, a + 11, 10_000, 3000, Pass, Established),
            (first, ACK, a + 11, b + 3000, 10_000, 0, Pass, Established),
            (second, FIN, b + 3000, a + 11, 10_000, 0, Pass, Closing),
            (first, SYN, 1, 0, 10_000, 0, Doubtful, Closing),
            (second, FIN, b + 3000, a + 11, 10_000, 0, Pass, Closing),
            (first, ACK, a + 11, b + 3001, 10_000, 0, Pass, Closing),
            (second, FIN, b + 3000, a + 11, 10_000, 0, Pass, Closing),
            (first, ACK, 0x6000_0000, b, 10_000, 0, Invalid, Closing),
            (second, SYN, 80_000_000, 0, 10_000, 0, Reopened, Opening),
            (first, SYN_ACK, 40_000_000, 80_000_001, 10_000, 0, Pass, Opening),
            (second, ACK, 80_000_001, 40_000_001, 10_000, 0, Pass, Established),
        ]);
    }
}

#[test]
fn simultaneous_close() {
    run_open(&[
        (I, FIN, 1001, 5001, 10_000, 0, Pass, Established),
        (R, FIN, 5001, 1001, 10_000, 0, Pass, Closing),
        (I, ACK, 1002, 5002, 10_000, 0, Pass, Closing),
        (I, SYN, 5, 0, 10_000, 0, Doubtful, Closing),
        (R, ACK, 5002, 1002, 10_000, 0, Pass, Closing),
        (I, SYN, 5, 0, 10_000, 0, Doubtful, Closing),
        (R, SYN_ACK, 5000, 5, 10_000, 0, Doubtful, Closing),
        (R, SYN_ACK, 7_000_000, 6, 10_000, 0, Reopened, Opening),
        (I, ACK, 6, 7_000_001, 10_000, 0, Pass, Established),
    ]);
}

#[test]
fn a_forged_fin_does_not_close() {
    run_open(&[
        (I, FIN, 2000, 5001, 10_000, 0, Pass, Established),
        (R, FIN, 6000, 1001, 10_000, 0, Pass, Closing),
        (I, ACK, 1001, 5001, 10_000, 2000, Pass, Established),
        (R, ACK, 5001, 3001, 10_000, 2000, Pass, Established),
    ]);
}

#[test]
fn resets_must_be_exact() {
    run_open(&[
        (I, ACK, 1001, 5001, 10_000, 500, Pass, Established),
        (I, RST, 1000, 0, 0, 0, Invalid, Established),
        (I, RST, 11_002, 0, 0, 0, Invalid, Established),
        (I, RST, 1002, 0, 0, 0, Doubtful, Established),
        (I, RST, 11_001, 0, 0, 0, Doubtful, Established),
        (I, RST, 1001, 0, 0, 0, Pass, Reset),
        (I, ACK, 0x6000_0000, 5001, 10_000, 0, Invalid, Reset),
        (I, RST, 1502, 0, 0, 0, Doubtful, Reset),
        (I, ACK, 1001, 5001, 10_000, 500, Pass, Established),
        (I, RST_ACK, 1501, 5001, 0, 0, Pass, Reset),
        (R, ACK, 5001, 1001, 10_000, 0, Pass, Established),
        (R, RST, 5001, 0, 0, 0, Pass, Reset),
        (R, SYN, 9_000_000, 0, 10_000, 0, Reopened, Opening),
    ]);
}

#[test]
fn resets_while_opening() {
    run(&[
        (I, SYN, 1000, 0, 10_000, 0, Pass, Opening),
        (R, RST_ACK, 0, 1000, 0, 0, Invalid, Opening),
        (R, RST_ACK, 0, 1002, 0, 0, Invalid, Opening),
        (R, RST, 5000, 0, 0, 0, Invalid, Opening),
        (R, RST_ACK, 0, 1001, 0, 0, Pass, Reset),
        (I, SYN, 2000, 0, 10_000, 0, Reopened, Opening),
        (I, RST, 2001, 0, 0, 0, Pass, Reset),
        (R, SYN_ACK, 5000, 2001, 10_000, 0, Pass, Opening),
        (R, RST_ACK, 0, 2001, 0, 0, Invalid, Opening),
        (I, RST, 2001, 0, 0, 0, Pass, Reset),
    ]);
}

#[test]
fn picked_up_in_the_middle() {
    let pick_up = Policy { pick_up: true, liberal: false };
    let middle = segment(ACK, 1000, 5000, 10, 100);
    assert_eq!(Tracker::open(&middle, Policy::default()), None);
    for flags in [FIN, SYN_ACK, RST, RST_ACK] {
        assert_eq!(Tracker::open(&segment(flags, 1000, 5000, 10, 100), pick_up), None);
    }
    let tracker = Tracker::open(&middle, pick_up).unwrap();
    assert_eq!(tracker.phase(), Opening);
    run_from(
        tracker,
        &[
            (I, ACK, 1100, 5000, 10, 100, Pass, Opening),
            // Segments sent before the pick-up are acknowledged, and later ones follow.
            (I, ACK, 1200, 4_000_000, 10, 100, Pass, Opening),
            (R, ACK, 2_000_000, 900_000, 10, 100, Pass, Established),
            (I, ACK, 800_000, 4_100_000, 10, 100, Pass, Established),
            (I, ACK, 0x8000_0000, 5000, 10, 100, Invalid, Established),
            (R, RST, 4_000_000, 0, 0, 0, Invalid, Established),
            (R, RST, 4_100_000, 0, 0, 0, Pass, Reset),
        ],
    );
}

#[test]
fn liberal_drops_only_resets() {
    let syn = segment(SYN, 1000, 0, 10_000, 0);
    let tracker = run_from(Tracker::open(&syn, Policy { pick_up: false, liberal: true }).unwrap(), &OPEN[1..]);
    let after = run_from(
        tracker,
        &[
            (I, ACK, 0x6000_0000, 0x6000_0000, 10_000, 500, Pass, Established),
            (R, FIN, 0x6000_0000, 0x6000_0000, 10_000, 500, Pass, Established),
            (I, RST, 0x6000_01f4, 0, 0, 0, Invalid, Established),
        ],
    );
    assert_eq!(after, tracker, "what is out of the window teaches nothing");
}

#[test]
fn window_scale_counts_if_both_offer_it() {
    let open = |offered: Option<u8>| {
        let mut tracker = Tracker::open(&scaled(segment(SYN, 0, 0, 65_535, 0), 7), Policy::default()).unwrap();
        let syn_ack = Segment { scale: offered, ..segment(SYN_ACK, 0, 1, 65_535, 0) };
        assert_eq!(tracker.follow(R, &syn_ack), Pass);
        assert_eq!(tracker.follow(I, &segment(ACK, 1, 1, 512, 0)), Pass);
        tracker
    };
    // The SYN-ACK's own window is not scaled: 65,535 bytes, rounded up to its unit.
    assert_eq!(open(Some(10)).follow(I, &segment(ACK, 1 + 65_536 + 1, 1, 512, 100)), Invalid);
    assert_eq!(open(Some(10)).follow(I, &segment(ACK, 1 + 65_536, 1, 512, 100)), Pass);
    // The ACK's is: 1024 << 7.
    let mut wide = open(Some(10));
    assert_eq!(wide.follow(I, &segment(ACK, 1, 1, 1024, 0)), Pass);
    assert_eq!(wide.follow(R, &segment(ACK, 1 + 131_072 + 1, 1, 512, 100)), Invalid);
    assert_eq!(wide.follow(R, &segment(ACK, 1 + 131_072, 1, 512, 100)), Pass);
    let mut wide = open(Some(10));
    assert_eq!(wide.follow(R, &segment(ACK, 1, 1, 2000, 0)), Pass);
    assert_eq!(wide.follow(I, &segment(ACK, 1 + 2_048_000, 1, 512, 100)), Pass);
    assert_eq!(open(None).follow(I, &segment(ACK, 1 + 65_536, 1, 512, 100)), Invalid);
}

#[test]
fn selective_acknowledgments() {
    let ack = |sack| Segment { sack: Some(sack), ..segment(ACK, 5001, 1001, 10_000, 0) };
    let mut tracker = run_open(&[(I, ACK, 2001, 5001, 10_000, 1000, Pass, Established)]);
    assert_eq!(tracker.follow(R, &ack(3001)), Pass);
    assert_eq!(tracker.follow(R, &ack(900)), Pass, "a duplicate is reported below the acknowledgment (RFC 2883)");
    assert_eq!(tracker.follow(R, &ack(3002)), Invalid);
}

#[test]
fn quotes_in_icmp_errors() {
    let opening = run(&OPEN[..1]);
    assert!(opening.is_acceptable_quote(I, 1000) && !opening.is_acceptable_quote(I, 1002));
    assert!(!opening.is_acceptable_quote(R, 0) && !opening.is_acceptable_quote(R, 5000), "it said nothing yet");
    let tracker = run_open(&[(I, ACK, 1001, 5001, 10_000, 5000, Pass, Established)]);
    for (sequence, expected) in [(1001, true), (6000, true), (6002, false), (0x8000_0000, false)] {
        assert_eq!(tracker.is_acceptable_quote(I, sequence), expected, "{sequence}");
    }
    assert!(!tracker.is_acceptable_quote(I, 1001u32.wrapping_sub(66_001)));
}

/// One header, 32 bytes with timestamps, and two bytes of payload.
const BYTES: [u8; 34] = [
    0, 80, 0xc0, 0, 0, 0, 0, 9, 0, 0, 0, 7, 0x80, 0x18, 1, 0xf6, 0xab, 0xcd, 0, 0, 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 0x55,
    0x55,
];

#[test]
fn literal_bytes_and_their_prefixes() {
    let expected = segment(ACK | flag::PSH, 9, 7, 502, 2);
    assert_eq!(Segment::parse(&BYTES), Some(expected));
    for len in 0..32 {
        assert_eq!(Segment::parse(&BYTES[..len]), None, "{len} bytes");
    }
}

#[test]
fn options() {
    let parse = |flags: u8, options: &[u8]| {
        let mut bytes = BYTES[..20].to_vec();
        bytes[12] = (5 + options.len() as u8 / 4) << 4;
        bytes[13] = flags;
        bytes.extend_from_slice(options);
        Segment::parse(&bytes).map(|segment| (segment.scale, segment.sack, segment.len)).unwrap()
    };
    let syn = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7];
    assert_eq!(parse(SYN, &syn), (Some(7), None, 1));
    assert_eq!(parse(SYN, &[1, 3, 3, 200]), (Some(14), None, 1));
    assert_eq!(parse(ACK, &syn), (None, None, 0), "a scale counts in SYNs only");
    let mut sack = vec![1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5, 18];
    for edge in [10u32, 20, 40, 50] {
        sack.extend_from_slice(&edge.to_be_bytes());
    }
    assert_eq!(parse(ACK, &sack), (None, Some(50), 0));
    assert_eq!(parse(ACK, &sack[12..]), (None, Some(50), 0));
    for broken in
        [[3, 3, 7, 0], [1, 1, 3, 3], [5, 10, 0, 0], [3, 0, 0, 0], [3, 1, 0, 0], [0, 3, 3, 7], [1, 1, 1, 5], [1, 1, 8, 10]]
    {
        let scale = (broken == [3, 3, 7, 0]).then_some(7);
        assert_eq!(parse(SYN, &broken), (scale, None, 1), "{broken:?}");
    }
}

#[test]
fn flags_that_nobody_sends() {
    let sane = [SYN, SYN | URG, SYN_ACK, RST, RST_ACK, FIN, FIN | URG, ACK, ACK | URG];
    for flags in 0..=255u8 {
        let mut bytes = BYTES;
        bytes[13] = flags;
        let expected = sane.contains(&(flags & (flag::FIN | SYN | RST | ACK | URG)));
        assert_eq!(Segment::parse(&bytes).is_some(), expected, "flags {flags:#x}");
    }
}

mod endpoints;

proptest! {
    /// A blind attacker does not know the sequence numbers: no RST of theirs changes anything.
    #[test]
    fn blind_resets_change_nothing(sequence: u32, ack: u32, flags in prop::sample::select(vec![RST, RST_ACK]), by_responder: bool) {
        let from = if by_responder { R } else { I };
        prop_assume!(sequence != if by_responder { 5001 } else { 1001 });
        let mut tracker = run(&OPEN);
        let before = tracker;
        let verdict = tracker.follow(from, &segment(flags, sequence, ack, 0, 0));
        prop_assert!(matches!(verdict, Invalid | Doubtful));
        prop_assert_eq!(tracker, before);
    }

    /// The result does not depend on where the sequence numbers start.
    #[test]
    fn numbers_wrap_around(
        shift_i: u32, shift_r: u32,
        rest in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 0u32..90_000, 0u32..90_000, 0u32..3000), 0..40),
    ) {
        let flags = [ACK, ACK, ACK, FIN, RST, SYN, SYN_ACK];
        let mut lines: Vec<(Peer, Segment)> = OPEN.iter().map(|l| (l.0, segment(l.1, l.2, l.3, l.4, l.5))).collect();
        lines.extend(rest.into_iter().map(|(by_responder, index, sequence, ack, payload)| {
            (if by_responder { R } else { I }, segment(*index.get(&flags), sequence, ack, 10_000, payload))
        }));
        let judge = |shift_i: u32, shift_r: u32| {
            let mut tracker = None::<Tracker>;
            lines.iter().map(|(from, segment)| {
                let (own, other) = if *from == I { (shift_i, shift_r) } else { (shift_r, shift_i) };
                let moved = Segment {
                    sequence: segment.sequence.wrapping_add(own),
                    acknowledgment: segment.acknowledgment.wrapping_add(other),
                    ..*segment
                };
                let Some(tracker) = &mut tracker else {
                    tracker = Tracker::open(&moved, Policy::default());
                    return (Pass, Opening);
                };
                (tracker.follow(*from, &moved), tracker.phase())
            }).collect::<Vec<_>>()
        };
        prop_assert_eq!(judge(0, 0), judge(shift_i, shift_r));
    }

    /// Neither arbitrary words nor arbitrary segments panic.
    #[test]
    fn any_state_survives_any_segment(words: [u32; 7], bytes in prop::collection::vec(any::<u8>(), 0..80), by_responder: bool) {
        let mut tracker = Tracker::from_words(words);
        prop_assert_eq!(tracker.to_words(), words);
        if let Some(segment) = Segment::parse(&bytes) {
            tracker.follow(if by_responder { R } else { I }, &segment);
            let _ = tracker.is_acceptable_quote(I, segment.sequence);
        }
    }
}
