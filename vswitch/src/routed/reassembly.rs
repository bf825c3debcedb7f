//! Pings to the gateway that come in fragments, put together again (RFC 791 section 3.2).
//!
//! A router forwards fragments as they are. Only what is addressed to itself needs its whole datagram, and of that it answers
//! nothing but ping. Each worker has a few places:
//!
//! ```text
//!  place  | unused | Ethernet and IPv4 header | ICMP message ...                   |
//!                   of the first fragment      ^ PAYLOAD, and each fragment at its offset behind it
//! ```
//!
//! *Limits.* A datagram has [`LIFETIME`] to become complete. A port has at most [`PER_PORT`] of the [`PLACES`]; beyond that a new
//! datagram takes the place of the port's own oldest one. If no place is free, it takes the oldest of those
//! ports that have most, so that one guest's fragments do not keep out another's pings. Fragments that overlap end their datagram, as
//! in the translation; one that is there already, with the same bytes, is ignored (RFC 5722 section 4).
//!
//! *Workers.* A port has one worker, so all fragments of a datagram meet here. Only with more workers than ports, where the
//! kernel distributes the frames of one port, may those of a datagram be apart; the ping is then lost.

use std::net::Ipv4Addr;
use std::time::Duration;

use packet::Timestamp;
use packet::checksum;
use packet::ethernet::ETHERNET_LEN;
use packet::ipv4::{self, IPV4_LEN, Ipv4View};

use super::neighbour::InterfaceId;
use crate::port::PortId;

/// Datagrams of one worker.
const PLACES: usize = 8;

/// Of these, those of one port.
const PER_PORT: usize = 4;

/// Time for all fragments to come, that of Linux (`net.ipv4.ipfrag_time`).
const LIFETIME: Duration = Duration::from_secs(30);

/// Unit of fragment offsets, in bytes.
const UNIT: usize = 8;

/// Maximum length of a payload, in bytes: the total length has 16 bits.
const MAX_PAYLOAD: usize = 65_535 - IPV4_LEN;

/// Start of the payload in a place: the longest headers precede it.
const PAYLOAD: usize = ETHERNET_LEN + 60;

/// Length of a place, in bytes.
const PLACE_LEN: usize = (PAYLOAD + MAX_PAYLOAD).next_multiple_of(64);

/// A fragment that belongs to no datagram that can become whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refused;

/// The datagrams of one worker.
#[derive(Debug)]
pub(crate) struct Reassembly {
    places: Box<[Place]>,
    /// [`PLACE_LEN`] bytes for each place.
    bytes: Box<[u8]>,
}

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    /// The port that they came in through.
    pub(crate) port: PortId,
    /// Their network.
    pub(crate) from: InterfaceId,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    id: u16,
}

impl Key {
    pub(crate) fn new(port: PortId, from: InterfaceId, ip: Ipv4View<'_>) -> Key {
        Key { port, from, src: ip.src(), dst: ip.dst(), id: ip.id() }
    }
}

#[derive(Clone, Debug)]
struct Place {
    /// `None` if the place is free.
    key: Option<Key>,
    since: Timestamp,
    /// Length of Ethernet and IPv4 header; 0 until the first fragment is there.
    header_len: usize,
    /// Bytes of payload that are there.
    received: usize,
    /// End of the last of these.
    end: usize,
    /// Length of the whole payload, once the last fragment is there.
    total: Option<usize>,
    /// Complete, and not yet taken.
    is_whole: bool,
    /// One bit for each unit that is there.
    units: [u64; MAX_PAYLOAD.div_ceil(UNIT * 64)],
}

impl Place {
    const FREE: Place = Place {
        key: None,
        since: Timestamp::from_millis(0),
        header_len: 0,
        received: 0,
        end: 0,
        total: None,
        is_whole: false,
        units: [0; MAX_PAYLOAD.div_ceil(UNIT * 64)],
    };

    fn is_of(&self, port: PortId) -> bool {
        self.key.is_some_and(|key| key.port == port)
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        now.since(self.since) >= LIFETIME
    }

    /// Whether all units of a part are there.
    fn has(&self, offset: usize, len: usize) -> bool {
        (offset / UNIT..(offset + len).div_ceil(UNIT)).all(|unit| self.units[unit / 64] & 1 << (unit % 64) != 0)
    }

    /// Notes a part of the payload. False if it cannot belong to the datagram.
    fn note(&mut self, offset: usize, len: usize, is_last: bool) -> bool {
        let end = offset + len;
        let is_beyond = self.total.is_some_and(|total| is_last || end > total) || is_last && self.end > end;
        if is_beyond {
            return false;
        }
        for unit in offset / UNIT..end.div_ceil(UNIT) {
            let (word, bit) = (&mut self.units[unit / 64], 1 << (unit % 64));
            if *word & bit != 0 {
                return false;
            }
            *word |= bit;
        }
        self.received += len;
        self.end = self.end.max(end);
        if is_last {
            self.total = Some(end);
        }
        true
    }
}

impl Reassembly {
    /// Allocates all memory that it will ever use.
    pub(crate) fn new() -> Reassembly {
        Reassembly { places: vec![Place::FREE; PLACES].into(), bytes: vec![0; PLACES * PLACE_LEN].into() }
    }

    /// Forgets all datagrams.
    pub(crate) fn clear(&mut self) {
        self.places.fill(Place::FREE);
    }

    /// Adds a fragment. `headers` are its Ethernet and IPv4 headers. Returns the number of its datagram's place if that is
    /// whole now.
    pub(crate) fn add(&mut self, key: Key, headers: &[u8], ip: Ipv4View<'_>, now: Timestamp) -> Result<Option<u8>, Refused> {
        let (offset, payload, is_last) = (ip.fragment_offset(), ip.payload(), !ip.more_fragments());
        let end = offset + payload.len();
        if payload.is_empty() || !is_last && !payload.len().is_multiple_of(UNIT) || end > MAX_PAYLOAD || headers.len() > PAYLOAD {
            return Err(Refused);
        }
        let number = self.find(key, now).or_else(|| self.take_place(key, now)).ok_or(Refused)?;
        let place = &mut self.places[number];
        let there = &self.bytes[number * PLACE_LEN..][PAYLOAD + offset..][..payload.len()];
        let is_within = end <= place.end && (place.total == Some(end)) == is_last;
        if is_within && place.has(offset, payload.len()) && there == payload {
            // The network has doubled it.
            return Ok(None);
        }
        if !place.note(offset, payload.len(), is_last) {
            place.key = None;
            return Err(Refused);
        }
        let bytes = &mut self.bytes[number * PLACE_LEN..][..PLACE_LEN];
        bytes[PAYLOAD + offset..][..payload.len()].copy_from_slice(payload);
        if offset == 0 {
            bytes[PAYLOAD - headers.len()..PAYLOAD].copy_from_slice(headers);
            place.header_len = headers.len();
        }
        if place.header_len == 0 || place.total != Some(place.received) {
            return Ok(None);
        }
        let header = &mut bytes[PAYLOAD - place.header_len + ETHERNET_LEN..PAYLOAD];
        let Ok(total) = u16::try_from(header.len() + place.received) else {
            place.key = None;
            return Err(Refused);
        };
        complete(header, total);
        place.is_whole = true;
        Ok(Some(number as u8))
    }

    /// Takes a whole datagram out of its place, as the frame that it would have come in.
    pub(crate) fn take(&mut self, number: u8) -> Option<(Key, &[u8])> {
        let place = self.places.get_mut(usize::from(number)).filter(|place| place.is_whole)?;
        let bytes = &self.bytes[usize::from(number) * PLACE_LEN..][..PAYLOAD + place.received];
        place.is_whole = false;
        Some((place.key.take()?, &bytes[PAYLOAD - place.header_len..]))
    }

    fn find(&self, key: Key, now: Timestamp) -> Option<usize> {
        self.places.iter().position(|place| place.key == Some(key) && !place.is_whole && !place.is_expired(now))
    }

    /// An empty place for a new datagram.
    fn take_place(&mut self, key: Key, now: Timestamp) -> Option<usize> {
        let of = |port: PortId| self.places.iter().filter(|place| place.is_of(port) && !place.is_expired(now)).count();
        let usable = |place: &Place| place.key.is_none() || place.is_expired(now);
        let oldest_of = |port: PortId| {
            let unfinished = self.places.iter().enumerate().filter(|(_, place)| !place.is_whole && place.is_of(port));
            unfinished.min_by_key(|(_, place)| place.since).map(|(number, _)| number)
        };
        let number = if of(key.port) >= PER_PORT {
            oldest_of(key.port)
        } else {
            // Of several ports with the most places, the oldest datagram.
            let most = self.places.iter().filter_map(|place| Some(of(place.key?.port))).max();
            let is_busy = |place: &Place| place.key.is_some_and(|key| Some(of(key.port)) == most);
            let places = self.places.iter().enumerate();
            let oldest = || places.filter(|(_, place)| !place.is_whole && is_busy(place)).min_by_key(|(_, place)| place.since);
            self.places.iter().position(usable).or_else(|| Some(oldest()?.0))
        }?;
        self.places[number] = Place { key: Some(key), since: now, ..Place::FREE };
        Some(number)
    }
}

/// Makes the header of a first fragment that of the whole datagram.
fn complete(header: &mut [u8], total: u16) {
    header[ipv4::field::TOTAL_LEN..][..2].copy_from_slice(&total.to_be_bytes());
    header[ipv4::field::FRAGMENT..][..2].fill(0);
    header[ipv4::field::CHECKSUM..][..2].fill(0);
    let check = !checksum::sum(header);
    header[ipv4::field::CHECKSUM..][..2].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    use packet::ipv4::Ipv4Header;

    /// A fragment: Ethernet header, IPv4 header, payload.
    fn fragment(id: u16, offset: usize, payload: &[u8], more: bool) -> Vec<u8> {
        let header = Ipv4Header {
            tos: 0,
            total_len: (IPV4_LEN + payload.len()) as u16,
            id,
            dont_fragment: false,
            ttl: 64,
            protocol: 1,
            src: Ipv4Addr::new(10, 0, 0, 2),
            dst: Ipv4Addr::new(10, 0, 0, 1),
        };
        let mut frame = [&[2; 12][..], &[8, 0], &header.to_bytes(), payload].concat();
        let field = (offset / UNIT) as u16 | if more { ipv4::MORE_FRAGMENTS } else { 0 };
        frame[ETHERNET_LEN + ipv4::field::FRAGMENT..][..2].copy_from_slice(&field.to_be_bytes());
        frame
    }

    fn add(reassembly: &mut Reassembly, port: u16, frame: &[u8], now: Timestamp) -> Result<Option<u8>, Refused> {
        let ip = Ipv4View::new(&frame[ETHERNET_LEN..]).unwrap();
        let key = Key::new(PortId(port), InterfaceId(0), ip);
        reassembly.add(key, &frame[..ETHERNET_LEN + IPV4_LEN], ip, now)
    }

    const NOW: Timestamp = Timestamp::from_millis(100_000);

    #[test]
    fn fragments_in_any_order_are_one_datagram() {
        let message: Vec<u8> = (0..100).collect();
        let pieces = [
            fragment(7, 0, &message[..48], true),
            fragment(7, 48, &message[48..96], true),
            fragment(7, 96, &message[96..], false),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut reassembly = Reassembly::new();
            let added = order.map(|piece| add(&mut reassembly, 3, &pieces[piece], NOW));
            assert_eq!(added, [Ok(None), Ok(None), Ok(Some(0))], "{order:?}");
            let (key, frame) = reassembly.take(0).unwrap();
            let ip = Ipv4View::new(&frame[ETHERNET_LEN..]).unwrap();
            assert!(ip.has_valid_checksum() && !ip.is_fragment() && key.port == PortId(3));
            assert_eq!((ip.payload(), &frame[..14]), (&message[..], &pieces[0][..14]));
            assert_eq!(reassembly.take(0), None, "it is taken once");
        }
    }

    #[test]
    fn the_longest_datagram() {
        let mut reassembly = Reassembly::new();
        let message = vec![9; MAX_PAYLOAD];
        let mut last = Ok(None);
        for (number, piece) in message.chunks(1480).enumerate() {
            let offset = number * 1480;
            last = add(&mut reassembly, 0, &fragment(1, offset, piece, offset + piece.len() < MAX_PAYLOAD), NOW);
        }
        assert_eq!(last, Ok(Some(0)));
        assert_eq!(reassembly.take(0).unwrap().1.len(), ETHERNET_LEN + 65_535);
        assert_eq!(
            add(&mut reassembly, 0, &fragment(2, 65_512, &[0; 8], false), NOW),
            Err(Refused),
            "one byte more than there can be"
        );
    }

    #[test]
    fn impossible_fragments_end_their_datagram() {
        let mut reassembly = Reassembly::new();
        let mut all = |fragments: &[(usize, usize, bool)]| {
            let added = fragments
                .iter()
                .map(|(offset, len, more)| add(&mut reassembly, 0, &fragment(5, *offset, &vec![1; *len], *more), NOW));
            added.last().unwrap()
        };
        assert_eq!(all(&[(0, 16, true), (8, 16, true)]), Err(Refused), "an overlap");
        assert_eq!(all(&[(16, 8, false), (24, 8, true)]), Err(Refused), "beyond the end");
        assert_eq!(all(&[(24, 8, true), (8, 8, false)]), Err(Refused), "an end before what is there");
        assert_eq!(all(&[(16, 8, false), (32, 8, false)]), Err(Refused), "two ends");
        assert_eq!(all(&[(0, 12, true)]), Err(Refused), "not a multiple of 8 bytes");
        assert_eq!(all(&[(16, 0, false)]), Err(Refused), "nothing in it");
        assert!(reassembly.places.iter().all(|place| place.key.is_none()));
    }

    #[test]
    fn a_repetition_changes_nothing() {
        let mut reassembly = Reassembly::new();
        let [first, last] = [fragment(5, 0, &[1; 16], true), fragment(5, 16, &[2; 9], false)];
        for fragment in [&last, &last, &first[..]] {
            let whole = add(&mut reassembly, 0, fragment, NOW);
            assert_eq!(whole, if fragment.len() == first.len() { Ok(Some(0)) } else { Ok(None) });
        }
        assert_eq!(reassembly.take(0).unwrap().1[ETHERNET_LEN + IPV4_LEN..], [[1; 16].as_slice(), &[2; 9]].concat());
        // Other bytes in the same place are no repetition.
        for (other, offset, more) in [([3; 16], 0, true), ([1; 16], 0, false)] {
            add(&mut reassembly, 0, &first, NOW).unwrap();
            assert_eq!(add(&mut reassembly, 0, &fragment(5, offset, &other, more), NOW), Err(Refused));
        }
    }

    /// Eight ports that start a datagram each now and then do not keep out a ninth, whose own is newer.
    #[test]
    fn of_ports_with_as_many_places_the_oldest_gives_way() {
        let mut reassembly = Reassembly::new();
        let millis = |n: u16| NOW.after(Duration::from_millis(n.into()));
        for port in 1..=8 {
            add(&mut reassembly, port, &fragment(1, 0, &[1; 8], true), millis(port)).unwrap();
        }
        for port in 9..=15 {
            add(&mut reassembly, port, &fragment(1, 0, &[1; 8], true), millis(port)).unwrap();
        }
        assert!(add(&mut reassembly, 15, &fragment(1, 8, &[1; 8], false), millis(20)).unwrap().is_some());
        assert!(add(&mut reassembly, 9, &fragment(1, 8, &[1; 8], false), millis(20)).unwrap().is_some());
        assert_eq!(add(&mut reassembly, 7, &fragment(1, 8, &[1; 8], false), millis(20)), Ok(None), "it gave way");
    }

    #[test]
    fn a_port_takes_its_own_places() {
        let mut reassembly = Reassembly::new();
        let start = |reassembly: &mut Reassembly, port, id, now| add(reassembly, port, &fragment(id, 0, &[1; 8], true), now);
        let end = |reassembly: &mut Reassembly, port, id, now| add(reassembly, port, &fragment(id, 8, &[1; 8], false), now);
        start(&mut reassembly, 1, 1, NOW).unwrap();
        // Two other ports that start many datagrams and finish none.
        for id in 100..200 {
            for port in [2, 3] {
                start(&mut reassembly, port, id, NOW.after(Duration::from_secs(1))).unwrap();
            }
        }
        assert!(end(&mut reassembly, 1, 1, NOW.after(LIFETIME / 2)).unwrap().is_some());
        // And of one's own, the oldest go.
        let mut alone = Reassembly::new();
        for id in 0..5 {
            start(&mut alone, 1, id, NOW.after(Duration::from_millis(id.into()))).unwrap();
        }
        assert_eq!(end(&mut alone, 1, 0, NOW.after(LIFETIME / 2)), Ok(None));
        assert!(end(&mut alone, 1, 4, NOW.after(LIFETIME / 2)).unwrap().is_some());
        assert_eq!(end(&mut alone, 1, 3, NOW.after(LIFETIME * 2)), Ok(None), "its time is over");
    }
}
