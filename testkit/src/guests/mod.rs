//! Guests with a TCP/IP stack (smoltcp), joined to switches in simulated time.
//!
//! ```text
//!  guest --- wire --- switch 0 === tunnel === switch 1 --- wire --- guest
//! ```
//!
//! Nothing waits: the clock jumps to the next event. Events of the same millisecond happen in the order in which they
//! were scheduled, and a seed decides which frames are lost, duplicated or delayed, so that each run of a test is the
//! same. The frame counters of a switch must balance after every batch (see [`Bridge`]), and must agree with what the
//! wires carried.
//!
//! Limits: time has a resolution of one millisecond, wires have no bandwidth, and tunnels are those of
//! [`overlay`](crate::overlay).

mod stack;
mod traffic;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use packet::{Datagram, MacAddr, Timestamp};
use tunnel::FramingKind;
use vswitch::PortId;

use crate::bridge::{Bridge, Write};
use crate::overlay;
use crate::wire::on_the_wire;
use stack::Stack;
pub use traffic::{Received, Transfer};

/// Time that a frame takes from a guest to its switch or back, and a datagram from switch to switch, in milliseconds.
const DELAY: u64 = 1;

/// Further delay of a frame that others overtake, in milliseconds.
const REORDERED_BY: u64 = 5;

/// Interval between two calls of `Pipeline::poll`, in milliseconds.
const POLL_INTERVAL: u64 = 1000;

/// Length of the outer IPv4 and UDP headers of a tunnel.
const OUTER_LEN: usize = 28;

/// How often the wires misbehave, in frames per thousand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Frames that never arrive.
    pub lost: u64,
    /// Frames that arrive twice.
    pub duplicated: u64,
    /// Frames that arrive after later ones.
    pub reordered: u64,
}

/// A guest of a [`Network`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GuestId(usize);

/// Where a guest is plugged in, and its address.
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    /// Number of the switch.
    pub switch: usize,
    /// Port of the switch.
    pub port: u16,
    /// MAC address of the guest.
    pub mac: MacAddr,
    /// IP address of the guest, in a network of 24 bits.
    pub address: Ipv4Addr,
    /// The guest's default gateway.
    pub gateway: Option<Ipv4Addr>,
}

/// Something that arrives.
#[derive(Debug)]
enum Event {
    Frame { switch: usize, port: u16, frame: Vec<u8> },
    Delivery { guest: usize, frame: Vec<u8> },
    Datagram { switch: usize, from: IpAddr, tos: u8, payload: Vec<u8> },
}

/// Switches, their guests, and the wires between them.
pub struct Network {
    /// The switches. Those of an [`Overlay`](overlay::Overlay) are joined by its tunnels.
    pub switches: Vec<Bridge>,
    guests: Vec<(Attachment, Stack)>,
    faults: Faults,
    random: u64,
    /// Milliseconds since the start.
    now: u64,
    next_poll: u64,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    /// Frames carried into and out of each port, by switch and port.
    carried: BTreeMap<(usize, u16), (u64, u64)>,
    /// Frames that the wires lost.
    pub lost: u64,
}

impl Network {
    /// Switches without guests, on wires without faults.
    #[must_use]
    pub fn new(switches: Vec<Bridge>) -> Network {
        Network::with_faults(switches, Faults::default(), 1)
    }

    /// Switches without guests, on wires with faults.
    #[must_use]
    pub fn with_faults(switches: Vec<Bridge>, faults: Faults, seed: u64) -> Network {
        Network {
            switches,
            guests: Vec::new(),
            faults,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: 1000,
            next_poll: 1000 + POLL_INTERVAL,
            events: BTreeMap::new(),
            scheduled: 0,
            carried: BTreeMap::new(),
            lost: 0,
        }
    }

    /// Plugs in a guest.
    pub fn attach(&mut self, place: Attachment) -> GuestId {
        self.guests.push((place, Stack::new(place.mac, place.address, place.gateway)));
        GuestId(self.guests.len() - 1)
    }

    /// Simulated time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    /// Lets time pass until `is_done`, or panics after `limit`.
    #[track_caller]
    pub fn run_until(&mut self, limit: Duration, is_done: impl FnMut(&mut Network) -> bool) {
        assert!(self.run_for(limit, is_done), "not done after {limit:?} of simulated time");
    }

    /// Lets time pass until `is_done`. Returns `false` if that does not happen within `limit`.
    #[track_caller]
    pub fn run_for(&mut self, limit: Duration, mut is_done: impl FnMut(&mut Network) -> bool) -> bool {
        let end = self.now() + limit;
        let mut done = is_done(self);
        while !done && self.now() < end {
            self.step();
            done = is_done(self);
        }
        self.assert_carried();
        done
    }

    /// Polls the guests, moves the clock to the next event, and delivers what has arrived.
    fn step(&mut self) {
        for guest in 0..self.guests.len() {
            let (place, stack) = &mut self.guests[guest];
            let (switch, port) = (place.switch, place.port);
            for frame in stack.poll(self.now) {
                self.schedule(|| Event::Frame { switch, port, frame: frame.clone() });
            }
        }
        let deadline = self.guests.iter_mut().filter_map(|(_, stack)| stack.poll_at(self.now)).min();
        let arrival = self.events.first_key_value().map(|((time, _), _)| *time);
        let due = [deadline, arrival].into_iter().flatten().fold(self.next_poll, u64::min);
        self.now = self.now.max(due);
        self.arrive();
        if self.now >= self.next_poll {
            self.next_poll += POLL_INTERVAL;
            for switch in 0..self.switches.len() {
                self.switches[switch].now = Timestamp::from_millis(self.now);
                let writes = self.switches[switch].poll();
                self.leave(switch, writes);
            }
        }
    }

    /// Everything that has arrived by now. Frames that came by one port one behind the other are one batch.
    fn arrive(&mut self) {
        while let Some(event) = self.take_arrived(|_| true) {
            match event {
                Event::Delivery { guest, frame } => self.guests[guest].1.receive(frame),
                Event::Frame { switch, port, frame } => {
                    let mut frames = vec![frame];
                    while frames.len() < packet::batch::MAX_FRAMES
                        && let Some(Event::Frame { frame, .. }) = self.take_arrived(
                            |next| matches!(next, Event::Frame { switch: to, port: by, .. } if (*to, *by) == (switch, port)),
                        )
                    {
                        frames.push(frame);
                    }
                    self.carried.entry((switch, port)).or_default().0 += frames.len() as u64;
                    self.switches[switch].now = Timestamp::from_millis(self.now);
                    let writes = self.switches[switch].run(port, &frames);
                    self.leave(switch, writes);
                }
                Event::Datagram { switch, from, tos, payload } => {
                    self.switches[switch].now = Timestamp::from_millis(self.now);
                    let datagram = Datagram { from, tos, segment_size: 0, payload: &payload };
                    let writes = self.switches[switch].receive(overlay::ENDPOINT, FramingKind::Vxlan, overlay::MTU, &[datagram]);
                    self.leave(switch, writes);
                }
            }
        }
    }

    /// The next event, if it has arrived by now and `fits`.
    fn take_arrived(&mut self, fits: impl FnOnce(&Event) -> bool) -> Option<Event> {
        let next = self.events.first_entry()?;
        (next.key().0 <= self.now && fits(next.get())).then(|| next.remove())
    }

    /// Puts a switch's writes and datagrams on the wires.
    fn leave(&mut self, switch: usize, writes: Vec<Write>) {
        for (PortId(port), vnet, frame) in writes {
            let guest = self.guests.iter().position(|(place, _)| (place.switch, place.port) == (switch, port));
            for frame in on_the_wire(&[&vnet.to_bytes()[..], &frame].concat()) {
                self.carried.entry((switch, port)).or_default().1 += 1;
                if let Some(guest) = guest {
                    self.schedule(|| Event::Delivery { guest, frame: frame.clone() });
                }
            }
        }
        let others: Vec<usize> = (0..self.switches.len()).filter(|other| *other != switch).collect();
        for sent in std::mem::take(&mut self.switches[switch].sent) {
            let (from, to) = (overlay::address(switch), others[usize::from(sent.outer.port - overlay::PEER)]);
            for payload in sent.datagrams {
                assert!(payload.len() + OUTER_LEN <= overlay::PATH_MTU, "longer than the path MTU");
                let event = || Event::Datagram { switch: to, from, tos: sent.outer.tos, payload: payload.clone() };
                self.schedule(event);
            }
        }
    }

    /// Puts a frame on a wire, which may lose, duplicate or delay it.
    fn schedule(&mut self, event: impl Fn() -> Event) {
        if self.happens(self.faults.lost) {
            self.lost += 1;
            return;
        }
        let copies = if self.happens(self.faults.duplicated) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = if self.happens(self.faults.reordered) { DELAY + REORDERED_BY } else { DELAY };
            self.events.insert((self.now + delay, self.scheduled), event());
            self.scheduled += 1;
        }
    }

    fn happens(&mut self, per_thousand: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) % 1000 < per_thousand
    }

    /// Asserts that the ports of guests counted each frame on their wires. A packet that the switch fragments counts as
    /// one frame, although several leave.
    #[track_caller]
    fn assert_carried(&self) {
        for ((switch, port), (into, out)) in &self.carried {
            let counts = self.switches[*switch].counts(*port);
            assert_eq!(counts.rx_frames.load(), *into, "frames into port {port} of switch {switch}");
            assert!(counts.tx_frames.load() <= *out, "frames out of port {port} of switch {switch}: {out}");
        }
    }
}
