//! The loop guard: finds ports through which the switch's own frames come back, and stops flooding there.
//!
//! If a guest bridges two of its ports, a broadcast that leaves through one comes back through the other, and is flooded again: it
//! circulates as fast as the switch can carry it. Bridges run a spanning tree against that, which needs all of them to take part. This
//! guard needs nobody: a frame that comes back has the source of a station that is elsewhere, so that the station's entry moves to
//! the port of the loop, and with the station's next frame, or the loop's other end, it moves away again.
//!
//! *What counts* is one address that moves again and again between the same two ports: [`MOVES`] times within [`WINDOW`]. A
//! failover, where each of a thousand addresses moves once, is no loop, and neither is a station that moves to another port and
//! stays. Addresses are followed in a table of [`SLOTS`] slots, where an address has the slot of its hash. A slot is taken from an
//! address that has not moved for a second, or that moves less often than the others of its slot together: addresses that are
//! invented do not hide one that circulates.
//!
//! *Which port.* Of the two, the one to which the address moved when it was first seen to move: the other one is its home. A home is
//! remembered for a minute, so that the station itself is not blamed for coming back to it.
//!
//! *Ports to networks*, which are uplinks and peers of tunnels, are never blocked: many stations are behind them, and one address
//! that a guest takes from them, or that exists twice, is no reason to part all guests from all of these. The other port is blocked, and
//! the address is at home behind the network. Between two networks there is only a move.
//!
//! The address itself returns to its home, and stays there while it is heard there.
//!
//! *Blocked* means that frames of one VLAN which would be flooded are neither taken from the port nor sent to it, and that no address
//! moves to it that was just heard elsewhere: such a frame may have come back through the loop, whereas a station that really moves
//! is silent at its former port. Frames to and from known stations pass. The first time lasts [`FIRST_BLOCK`]; each time that the
//! loop is still there when it ends lasts twice as long, up to [`LAST_BLOCK`]. A VLAN that was good for a minute, or for twice as
//! long as it was last blocked, begins anew. A port that loops in more than [`BLOCKS`] VLANs within this time is blocked in all.
//!
//! *Threads.* All of this happens under the lock of the table, when an entry moves. Whether a port is blocked is a few atomic
//! numbers, the VLANs and their times of release, which only floods read, and only while any port is blocked.

use std::time::Duration;

use packet::vlan::VlanId;
use packet::{MacAddr, Timestamp};

use super::{NoMemory, room_for};
use crate::port::PortId;

/// Moves of one address between two ports within [`WINDOW`] that are a loop: ten rounds.
const MOVES: u32 = 20;

const WINDOW: Duration = Duration::from_secs(1);

/// Addresses that are followed at a time; a power of two.
const SLOTS: usize = 256;

/// Pairs of ports that an address is followed between.
const PAIRS: usize = 4;

/// Time without a move after which an address has lost its home.
const MEMORY: Duration = Duration::from_secs(60);

/// How long a port is blocked at first.
pub const FIRST_BLOCK: Duration = Duration::from_secs(2);

/// How long a port is blocked at most.
pub const LAST_BLOCK: Duration = Duration::from_secs(256);

/// VLANs of one port that are blocked each by itself.
pub(super) const BLOCKS: usize = 4;

/// Maximum number of loops kept until they are taken; further ones are only acted on.
const MAX_LOOPS: usize = 16;

/// A VLAN in which a port is blocked because of a loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loop {
    /// The VLAN; 0 for untagged.
    pub vlan: VlanId,
    /// The port is blocked in all VLANs, because it loops in many.
    pub in_all_vlans: bool,
    /// The address that kept moving.
    pub mac: MacAddr,
    /// The port that is blocked.
    pub port: PortId,
    /// The port that the address also was behind.
    pub other: PortId,
    /// The port that the address was behind at first, and is behind again.
    pub home: PortId,
    /// When the port is released.
    pub until: Timestamp,
    /// Seconds from when it was blocked until then.
    pub seconds: u64,
}

/// What a move reveals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Noted {
    /// A move like others.
    Move,
    /// A frame that still comes back through a loop: its station stays where it is.
    Pinned,
    /// A loop.
    Loop(Loop),
}

/// The state of the guard of one table.
#[derive(Debug)]
pub(super) struct LoopGuard {
    /// Up to the highest one in use; the memory of all is reserved.
    slots: Vec<Slot>,
    /// Up to the highest port that the guard knows something of; the memory of all is reserved.
    ports: Vec<PortState>,
    /// Ports have numbers below this.
    most_ports: usize,
    found: Vec<Loop>,
}

/// Moves that a slot remembers of its address, at most.
const MAX_WEIGHT: u32 = 64;

/// One address that moves.
#[derive(Clone, Copy, Debug)]
struct Slot {
    key: u64,
    home: PortId,
    moved: Timestamp,
    /// Moves of the address, less those of others that have the same slot (Misra and Gries, 1982).
    weight: u32,
    /// When the address may move away from home again, after a loop.
    pinned_until: Timestamp,
    pairs: [Pair; PAIRS],
}

/// Its moves between two ports.
#[derive(Clone, Copy, Debug)]
struct Pair {
    ports: (PortId, PortId),
    since: Timestamp,
    moves: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct PortState {
    /// The last loop of each of some VLANs, or in all of them.
    blocks: [Option<Loop>; BLOCKS],
    leads_to_network: bool,
}

impl Slot {
    const EMPTY: Slot = Slot {
        key: 0,
        home: PortId::NOWHERE,
        moved: Timestamp::from_millis(0),
        weight: 0,
        pinned_until: Timestamp::from_millis(0),
        pairs: [Pair::EMPTY; PAIRS],
    };
}

impl Pair {
    const EMPTY: Pair = Pair { ports: (PortId::NOWHERE, PortId::NOWHERE), since: Timestamp::from_millis(0), moves: 0 };
}

impl LoopGuard {
    /// A guard of this number of ports.
    pub(super) fn new(ports: usize) -> Result<LoopGuard, NoMemory> {
        Ok(LoopGuard { slots: room_for(SLOTS)?, ports: room_for(ports)?, most_ports: ports, found: room_for(MAX_LOOPS)? })
    }

    /// Notes that an address, whose hash is `hash`, is about to move. `was_heard`: it was just heard at the port `from`.
    pub(super) fn note(
        &mut self,
        (key, hash): (u64, usize),
        (vlan, mac): (VlanId, MacAddr),
        [from, to]: [PortId; 2],
        was_heard: bool,
        now: Timestamp,
    ) -> Noted {
        let at = hash % SLOTS;
        if at >= self.slots.len() {
            self.slots.resize(at + 1, Slot::EMPTY);
        }
        let slot = &mut self.slots[at];
        if slot.key != key || now.since(slot.moved) > MEMORY {
            if slot.key != key && slot.weight > 0 && now.since(slot.moved) <= WINDOW {
                slot.weight -= 1;
                return Noted::Move;
            }
            *slot = Slot { key, home: from, ..Slot::EMPTY };
        }
        slot.moved = now;
        slot.weight = (slot.weight + 1).min(MAX_WEIGHT);
        if was_heard && now < slot.pinned_until && from == slot.home {
            return Noted::Pinned;
        }
        let moves = slot.count((from.min(to), from.max(to)), now);
        if moves < MOVES {
            return Noted::Move;
        }
        let blamed = if to == slot.home { from } else { to };
        let leads_to_network = |port: PortId| self.ports.get(port.index()).is_some_and(|state| state.leads_to_network);
        let port = match (leads_to_network(from), leads_to_network(to)) {
            (false, false) => blamed,
            (true, false) => to,
            (false, true) => from,
            (true, true) => return Noted::Move,
        };
        if port == slot.home {
            slot.home = if port == to { from } else { to };
        }
        slot.pairs = [Pair::EMPTY; PAIRS];
        if port.index() >= self.most_ports {
            return Noted::Move;
        }
        let state = state_of(&mut self.ports, port);
        let other = if port == to { from } else { to };
        let unblocked = Loop { vlan, in_all_vlans: false, mac, port, other, home: slot.home, until: now, seconds: 0 };
        let found = state.block(unblocked, now);
        slot.pinned_until = found.until;
        if self.found.len() < MAX_LOOPS {
            self.found.push(found);
        }
        Noted::Loop(found)
    }

    /// The ports that anything is known of have numbers below this.
    pub(super) fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Whether many stations are behind a port, which is never blocked then.
    pub(super) fn set_leads_to_network(&mut self, port: PortId, leads_to_network: bool) {
        let is_known = port.index() < self.ports.len();
        if port.index() < self.most_ports && (is_known || leads_to_network) {
            state_of(&mut self.ports, port).leads_to_network = leads_to_network;
        }
    }

    /// Takes over what the guard of a table of another size knows. `hash` gives the hash of a key in the new table.
    pub(super) fn follow(&mut self, before: &LoopGuard, hash: impl Fn(u64) -> usize) {
        self.ports.clear();
        self.ports.extend(before.ports.iter().take(self.most_ports));
        self.found.clone_from(&before.found);
        for slot in before.slots.iter().filter(|slot| slot.key != 0) {
            let at = hash(slot.key) % SLOTS;
            if at >= self.slots.len() {
                self.slots.resize(at + 1, Slot::EMPTY);
            }
            self.slots[at] = *slot;
        }
    }

    /// Loops that were found since the last call.
    pub(super) fn take(&mut self) -> Vec<Loop> {
        std::mem::replace(&mut self.found, Vec::with_capacity(MAX_LOOPS))
    }

    /// VLANs of ports that are blocked now.
    pub(super) fn blocked(&self, now: Timestamp) -> Vec<Loop> {
        self.blocked_within(now, Duration::ZERO)
    }

    /// VLANs of ports that are blocked now, or were blocked until at most this long ago.
    pub(super) fn blocked_within(&self, now: Timestamp, age: Duration) -> Vec<Loop> {
        self.ports.iter().flat_map(|port| port.blocks).flatten().filter(|last| now < last.until.after(age)).collect()
    }

    /// The last loops of a port.
    pub(super) fn blocks(&self, port: PortId) -> [Option<Loop>; BLOCKS] {
        self.ports.get(port.index()).map_or([None; BLOCKS], |state| state.blocks)
    }

    /// A port is removed, and its number may become another one's.
    pub(super) fn forget(&mut self, port: PortId) {
        if let Some(state) = self.ports.get_mut(port.index()) {
            *state = PortState { leads_to_network: state.leads_to_network, ..PortState::default() };
        }
        self.slots.fill(Slot::EMPTY);
    }
}

impl Slot {
    /// Counts a move between two ports. Returns the number of moves within the window.
    fn count(&mut self, ports: (PortId, PortId), now: Timestamp) -> u32 {
        let known = self.pairs.iter().position(|pair| pair.moves > 0 && pair.ports == ports);
        let at = known.unwrap_or_else(|| {
            // The pair that is not in use, or was seen the longest time ago.
            let oldest = (0..PAIRS).min_by_key(|at| (self.pairs[*at].moves > 0, self.pairs[*at].since));
            oldest.unwrap_or_default()
        });
        let pair = &mut self.pairs[at];
        if known.is_none() || now.since(pair.since) > WINDOW {
            *pair = Pair { ports, since: now, moves: 0 };
        }
        pair.moves += 1;
        pair.moves
    }
}

/// The state of a port, which is known from now on.
fn state_of(ports: &mut Vec<PortState>, port: PortId) -> &mut PortState {
    if port.index() >= ports.len() {
        ports.resize(port.index() + 1, PortState::default());
    }
    &mut ports[port.index()]
}

impl PortState {
    /// Blocks the VLAN of a loop, or all VLANs if there is no place for another one. Returns the loop with what is blocked until when.
    fn block(&mut self, mut found: Loop, now: Timestamp) -> Loop {
        let is_remembered = |last: &Loop| now.since(last.until) < MEMORY.max(2 * Duration::from_secs(last.seconds));
        let is_same = |last: &Loop| !last.in_all_vlans && last.vlan == found.vlan;
        let free = || self.blocks.iter().position(|last| !last.is_some_and(|last| is_remembered(&last)));
        let place = self.blocks.iter().position(|last| last.as_ref().is_some_and(is_same)).or_else(free);
        let place = place.unwrap_or_else(|| {
            found.in_all_vlans = true;
            let all = self.blocks.iter().position(|last| last.is_some_and(|last| last.in_all_vlans));
            all.or_else(|| (0..BLOCKS).min_by_key(|at| self.blocks[*at].map(|last| last.until))).unwrap_or_default()
        });
        let before = self.blocks[place].filter(is_remembered).map(|last| Duration::from_secs(last.seconds));
        let blocked_for = before.map_or(FIRST_BLOCK, |before| (2 * before).min(LAST_BLOCK));
        (found.until, found.seconds) = (now.after(blocked_for), blocked_for.as_secs());
        self.blocks[place] = Some(found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(0);
    const B: PortId = PortId(1);
    const C: PortId = PortId(2);

    fn address(n: u64) -> (VlanId, MacAddr) {
        (VlanId::NONE, MacAddr::from_u64(0x0200_0000_0000 + n))
    }

    fn millis(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn note(guard: &mut LoopGuard, n: u64, from: PortId, to: PortId, at: u64) -> Option<Loop> {
        match guard.note((n, n as usize), address(n), [from, to], true, millis(at)) {
            Noted::Loop(found) => Some(found),
            Noted::Move | Noted::Pinned => None,
        }
    }

    /// Moves there and back, a round in this many milliseconds, until a port is blocked.
    fn circulate(guard: &mut LoopGuard, home: PortId, away: PortId, from: u64, every: u64) -> Option<Loop> {
        (0..1000).find_map(|round| {
            let at = from + round * every;
            note(guard, 1, home, away, at).or_else(|| note(guard, 1, away, home, at))
        })
    }

    #[test]
    fn the_port_that_is_not_home_is_blocked() {
        for (home, away) in [(A, B), (B, A)] {
            let mut guard = LoopGuard::new(3).unwrap();
            let found = circulate(&mut guard, home, away, 1000, 10).expect("a loop");
            assert_eq!((found.port, found.other, found.until), (away, home, millis(1000 + 90 + 2000)));
            assert_eq!(guard.take(), [found]);
            assert_eq!((guard.blocked(millis(3089)), guard.blocked(millis(3090))), (vec![found], vec![]));
            assert!(guard.take().is_empty());
        }
    }

    /// A station at C, whose frames circulate between A and B: it is never blamed, though it comes back to C all the time.
    #[test]
    fn a_station_is_not_blamed_for_the_loop_of_others() {
        let mut guard = LoopGuard::new(3).unwrap();
        let mut found = Vec::new();
        for round in 0..2000 {
            let at = 1000 + round * 20;
            let moves = [(C, A), (A, B), (B, A), (A, C)];
            found.extend(moves.into_iter().filter_map(|(from, to)| note(&mut guard, 1, from, to, at)));
        }
        assert!(!found.is_empty() && found.iter().all(|found| found.port != C), "{found:?}");
    }

    #[test]
    fn failovers_and_slow_moves_are_no_loops() {
        let mut guard = LoopGuard::new(3).unwrap();
        for n in 0..1000 {
            assert_eq!(note(&mut guard, n, A, B, 1000 + n / 100), None);
        }
        assert_eq!(circulate(&mut guard, A, B, 10_000, 120), None, "18 moves in a second");
        // A station that wanders over many ports.
        let mut guard = LoopGuard::new(40).unwrap();
        for n in 0..38 {
            assert_eq!(note(&mut guard, 1, PortId(n), PortId(n + 1), 1000), None);
        }
    }

    /// A guest at A claims the address of a station behind the network at B, and was first.
    #[test]
    fn a_port_to_a_network_is_never_blocked() {
        let mut guard = LoopGuard::new(3).unwrap();
        guard.set_leads_to_network(B, true);
        for (home, away) in [(A, B), (B, A)] {
            let found = circulate(&mut guard, home, away, 1000, 10).expect("a loop");
            assert_eq!((found.port, found.other, found.home), (A, B, B));
            guard.forget(A);
        }
        guard.set_leads_to_network(A, true);
        assert_eq!(circulate(&mut guard, A, B, 1000, 1), None, "the same address in two networks");
    }

    #[test]
    fn invented_addresses_do_not_hide_a_loop() {
        let mut guard = LoopGuard::new(3).unwrap();
        let found = (0..1000u64).find_map(|round| {
            let at = 1000 + round * 10;
            if round % 50 == 0 {
                // Addresses of the same slot, two moves a second each.
                (2..10).for_each(|n| assert_eq!(note(&mut guard, n * SLOTS as u64 + 1, A, B, at), None));
            }
            note(&mut guard, 1, B, C, at).or_else(|| note(&mut guard, 1, C, B, at))
        });
        assert!(found.is_some_and(|found| found.port == C), "{found:?}");
    }

    #[test]
    fn each_time_is_twice_as_long_until_it_is_good() {
        let mut guard = LoopGuard::new(3).unwrap();
        let (mut now, mut times) = (1000, Vec::new());
        for _ in 0..9 {
            let found = circulate(&mut guard, A, B, now, 10).expect("a loop");
            times.push(found.until.since(millis(now + 90)).as_secs());
            now = found.until.as_millis();
        }
        assert_eq!(times, [2, 4, 8, 16, 32, 64, 128, 256, 256]);
        let found = circulate(&mut guard, A, B, now + 511_000, 10).expect("a loop");
        assert_eq!(found.until.since(millis(now + 511_090)).as_secs(), 256);
        let now = found.until.as_millis() + 513_000;
        let found = circulate(&mut guard, A, B, now, 10).expect("a loop");
        assert_eq!(found.until.since(millis(now + 90)).as_secs(), 2);
    }

    #[test]
    fn a_removed_port_is_forgotten() {
        let mut guard = LoopGuard::new(3).unwrap();
        let found = circulate(&mut guard, A, B, 1000, 10).expect("a loop");
        guard.forget(B);
        assert!(guard.blocked(millis(1100)).is_empty());
        let again = circulate(&mut guard, A, B, 1200, 10).expect("a loop");
        assert_eq!(again.until.since(millis(1290)), found.until.since(millis(1090)), "as if for the first time");
    }
}
