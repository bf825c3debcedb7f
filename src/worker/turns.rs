//! Turns of the ports that a worker reads: how much work each may cause before the others have theirs.
//!
//! A batch is of up to 256 frames, but what a frame costs differs by orders of magnitude: one system call for a frame to a known
//! station, hundreds for a super-frame that leaves in segments, thousands for one that is flooded to ports without offload. So a
//! turn is measured by what it makes the worker write. A port may spend [`TURN`] per turn, and that is deficit round robin (Shreedhar
//! and Varghese, 1996) with two rules:
//!
//! - *Frames that are known to be costly are read one by one*: the next batch of a port holds as many frames as a turn has room
//!   for, at the cost of its last ones. What is left waits in the port's own queue in the kernel.
//! - *What a turn costs beyond is a debt.* The port is not read until another port has had as much work done for it, or no other
//!   port has anything to read.
//!
//! ```text
//!  round     1                  2          3          4          5
//!  tap0      64 cheap frames    64         64         64         64
//!  tap1      1 frame: 1000      owes 744   owes 680   owes 616   ...       reads again when tap0 has had 744
//! ```
//!
//! *Ports to networks.* Behind an uplink, a port without storm control and the socket of a tunnel are many stations, and what comes for
//! all guests comes through it. Such a port is served after the others of a round, and has as many batches as it takes to read as many
//! frames, or to do as much work, as for all of them together. The work done for all of them pays its debt, not that for one. So if
//! three guests send at full rate, the uplink has as much as the three, and its queue does not fill with the answers to theirs.
//!
//! A debt stays with the port's number: a guest that reconnects still owes it. Another guest that gets the number waits no longer than
//! for one batch, some milliseconds of work for others.
//!
//! Ports whose frames are cheap are never in debt, and pay one comparison per batch for all of this.

use packet::batch::USUAL_FRAMES;
use vswitch::{PortId, Work};

/// Work of one turn that is free, in writes. A batch of 64 frames, or of four super-frames in segments of 1460 bytes, is within.
const TURN: u32 = 256;

/// Bytes that cost as much as a write. A TAP copies 64 KiB in about 16 times the time of a small frame.
const BYTES_PER_WRITE: u64 = 4096;

/// The ports' turns.
#[derive(Debug)]
pub(super) struct Turns {
    ports: Vec<Pace>,
    /// The number of the round.
    round: u32,
    /// Largest cost of a turn in this round, as far as it was free.
    largest: u32,
    /// The cost of all turns of stations in this round, as far as they were free.
    total: u32,
    /// Frames that were read from stations in this round.
    frames: usize,
    /// Some port has not been served in this round because of its debt.
    is_waiting: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    debt: u32,
    /// The last round in which a costly batch was charged.
    charged_in: u32,
    /// Recent cost of a frame; 0 is cheap enough for full batches.
    per_frame: u32,
    /// Many stations are behind the port.
    is_network: bool,
    /// What a port to a network has cost in its last round, and which that was.
    spent: (u32, u32),
}

impl Turns {
    /// For port numbers below `ports`.
    pub(super) fn new(ports: usize) -> Turns {
        Turns { ports: vec![Pace::default(); ports], round: 0, largest: 0, total: 0, frames: 0, is_waiting: false }
    }

    /// Makes room for port numbers below `ports`, if there is less.
    pub(super) fn make_room(&mut self, ports: usize) {
        if ports > self.ports.len() {
            self.ports.resize(ports, Pace::default());
        }
    }

    /// Says whether many stations are behind a port.
    pub(super) fn set_network(&mut self, port: PortId, is_network: bool) {
        self.ports[port.index()].is_network = is_network;
    }

    /// Whether many stations are behind a port, so that it is served after the others.
    #[inline]
    pub(super) fn is_network(&self, port: PortId) -> bool {
        self.ports[port.index()].is_network
    }

    /// Whether a port to a network, from which this number of frames was read in this round, has a further batch in it.
    #[inline]
    pub(super) fn goes_on(&self, port: PortId, frames: usize) -> bool {
        let Pace { debt, spent: (round, cost), .. } = self.ports[port.index()];
        frames < self.frames && debt == 0 && (round != self.round || cost < self.total)
    }

    /// Whether a port may be served in this round.
    #[inline]
    pub(super) fn is_due(&mut self, port: PortId) -> bool {
        let is_due = self.ports[port.index()].debt == 0;
        self.is_waiting |= !is_due;
        is_due
    }

    /// Maximum number of frames of a port's next batch.
    #[inline]
    pub(super) fn frames(&self, port: PortId) -> usize {
        match self.ports[port.index()].per_frame {
            0 => USUAL_FRAMES,
            per_frame => ((TURN / per_frame) as usize).clamp(1, USUAL_FRAMES),
        }
    }

    /// A port's batch of `frames` frames has caused this work.
    #[inline]
    pub(super) fn charge(&mut self, port: PortId, frames: usize, work: Work) {
        let cost = cost(work);
        // A port that is in debt itself pays for others no more than a turn.
        let free = cost.min(TURN);
        self.largest = self.largest.max(free);
        let pace = &mut self.ports[port.index()];
        if pace.is_network {
            let before = if pace.spent.0 == self.round { pace.spent.1 } else { 0 };
            pace.spent = (self.round, before.saturating_add(cost));
        } else {
            self.total = self.total.saturating_add(free);
            self.frames += frames;
        }
        if cost > TURN || pace.per_frame > 0 {
            pace.charge(frames, cost);
            pace.charged_in = self.round;
        }
    }

    /// A round is over, in which the `ready` ports had something to read.
    #[inline]
    pub(super) fn end_round(&mut self, ready: &[PortId]) {
        if self.is_waiting {
            self.pay(ready);
        }
        (self.largest, self.total, self.frames) = (0, 0, 0);
        self.round = self.round.wrapping_add(1);
    }

    /// Ports in debt pay what another port's turn has cost, and those to networks what the turns of all stations have cost. If no other port was served, the lowest debt is forgiven to all: the
    /// work is done, and nobody waits for it.
    #[cold]
    fn pay(&mut self, ready: &[PortId]) {
        self.is_waiting = false;
        let debts = || ready.iter().map(|port| self.ports[port.index()].debt).filter(|debt| *debt > 0);
        let paid = if self.largest > 0 { self.largest } else { debts().min().unwrap_or(0) };
        for port in ready {
            let pace = &mut self.ports[port.index()];
            // What a port was served itself is no payment.
            if pace.charged_in != self.round {
                let paid = if pace.is_network { paid.max(self.total) } else { paid };
                pace.debt = pace.debt.saturating_sub(paid);
            }
        }
    }
}

impl Pace {
    #[cold]
    fn charge(&mut self, frames: usize, cost: u32) {
        self.debt = self.debt.saturating_add(cost.saturating_sub(TURN));
        let now = cost.div_ceil(u32::try_from(frames.max(1)).unwrap_or(u32::MAX));
        // It rises at once and falls slowly: a costly frame among cheap ones is likely not to be the last.
        self.per_frame = now.max(self.per_frame - self.per_frame.div_ceil(8));
        if self.per_frame.saturating_mul(USUAL_FRAMES as u32) <= TURN {
            self.per_frame = 0;
        }
    }
}

/// The cost of this work, in writes.
fn cost(work: Work) -> u32 {
    u32::try_from(work.writes + work.bytes / BYTES_PER_WRITE).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(0);
    const B: PortId = PortId(1);
    const C: PortId = PortId(2);

    fn writes(writes: u64) -> Work {
        Work { writes, bytes: 0 }
    }

    /// Rounds in which all of these ports have more to read than they may, each frame at its cost. Returns the work done for each.
    fn run(ports: &[(PortId, u64)], rounds: usize) -> Vec<u64> {
        let mut turns = Turns::new(3);
        let mut done = vec![0; ports.len()];
        let ready: Vec<PortId> = ports.iter().map(|(port, _)| *port).collect();
        for _ in 0..rounds {
            for (at, (port, per_frame)) in ports.iter().enumerate() {
                if turns.is_due(*port) {
                    let frames = turns.frames(*port);
                    turns.charge(*port, frames, writes(frames as u64 * per_frame));
                    done[at] += frames as u64 * per_frame;
                }
            }
            turns.end_round(&ready);
        }
        done
    }

    #[test]
    fn costly_frames_take_no_more_than_their_share() {
        let done = run(&[(A, 1), (B, 1900)], 10_000);
        assert!(done[0] == 64 * 10_000, "a cheap port has each of its turns");
        assert!((done[0] / 2..done[0] * 2).contains(&done[1]), "{done:?}");
        // Of ports that are costly alike, each has the same.
        let done = run(&[(A, 4), (B, 1900), (C, 500)], 100_000);
        assert!(done.iter().all(|work| (done[0] / 3..done[0] * 3).contains(work)), "{done:?}");
    }

    /// Two costly ports of which one begins later do not pay each other's debts.
    #[test]
    fn ports_that_take_turns_starve_nobody() {
        let mut turns = Turns::new(3);
        let mut done = [0u64; 3];
        let ports = [(A, 1), (B, 1900), (C, 1900)];
        for round in 0..20_000 {
            let ready = &ports[..if round < 40 { 2 } else { 3 }];
            for (at, (port, per_frame)) in ready.iter().enumerate() {
                if turns.is_due(*port) {
                    let frames = turns.frames(*port);
                    turns.charge(*port, frames, writes(frames as u64 * per_frame));
                    done[at] += frames as u64 * per_frame;
                }
            }
            turns.end_round(&[A, B, C][..ready.len()]);
        }
        assert!(done.iter().all(|work| (done[0] / 3..done[0] * 3).contains(work)), "{done:?}");
    }

    /// Cheap ports A and B send at full rate, and C is a port to a network whose frames each cost this much. Returns the work done.
    fn beside_a_network(per_frame: u64) -> [u64; 3] {
        let mut turns = Turns::new(3);
        turns.set_network(C, true);
        let mut done = [0; 3];
        for _ in 0..10_000 {
            for port in [A, B] {
                turns.charge(port, 64, writes(64));
                done[port.index()] += 64;
            }
            let mut read = 0;
            while turns.is_due(C) && (read == 0 || turns.goes_on(C, read)) {
                let frames = turns.frames(C).min(32);
                turns.charge(C, frames, writes(frames as u64 * per_frame));
                read += frames;
                done[2] += frames as u64 * per_frame;
            }
            turns.end_round(&[A, B, C]);
        }
        done
    }

    #[test]
    fn a_port_to_a_network_has_as_much_as_all_stations() {
        let [a, b, network] = beside_a_network(1);
        assert_eq!(network, a + b);
        let [a, b, network] = beside_a_network(61);
        assert!((a + b..4 * (a + b)).contains(&network), "{a} {b} {network}");
    }

    #[test]
    fn a_port_alone_waits_for_nobody() {
        let mut turns = Turns::new(3);
        let mut served = 0;
        for _ in 0..1000 {
            if turns.is_due(B) {
                turns.charge(B, 1, writes(10_000));
                served += 1;
            }
            turns.end_round(&[B]);
        }
        assert_eq!(served, 500, "every other look, which takes no time");
    }

    #[test]
    fn batches_are_as_long_as_a_turn_has_room() {
        let mut turns = Turns::new(3);
        turns.charge(A, 64, writes(64));
        assert_eq!(turns.frames(A), 64);
        turns.charge(A, 64, writes(64 * 32));
        assert_eq!((turns.frames(A), turns.frames(B)), (8, 64));
        turns.charge(A, 8, Work { writes: 8 * 32, bytes: 8 * 4096 * 300 });
        assert_eq!(turns.frames(A), 1);
        for _ in 0..100 {
            let frames = turns.frames(A);
            turns.charge(A, frames, writes(frames as u64));
        }
        assert_eq!(turns.frames(A), 64, "cheap again");
        turns.charge(A, 1, writes(100_000));
        assert!(!turns.is_due(A));
    }

    #[test]
    fn what_others_were_given_is_paid() {
        let mut turns = Turns::new(3);
        turns.charge(A, 1, writes(1256));
        turns.end_round(&[A]);
        let mut rounds = 0;
        while !turns.is_due(A) {
            turns.charge(B, 64, writes(100));
            turns.end_round(&[A, B]);
            rounds += 1;
        }
        assert_eq!(rounds, 10);
    }
}
