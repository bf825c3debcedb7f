//! What the loop guard's verdicts do to the table: ports are blocked, addresses return home, and others are forgotten.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use packet::Timestamp;
use packet::vlan::VlanId;

use super::loop_guard::{BLOCKS, Loop};
use super::slots::{Value, key_parts, zeroed};
use super::{Book, MacTable, NoMemory};
use crate::port::PortId;

/// Maximum number of addresses that are looked at at a port as soon as a loop is found; whoever takes the loops flushes the rest.
const FORGOTTEN_AT_ONCE: usize = 256;

/// Seconds in which a loop may have brought addresses behind its ports before it is found.
const LOOP_SECS: u32 = 5;

/// An address was just heard at its port if that was less than this number of seconds ago, in whole seconds. What comes back through a
/// loop follows its first copy sooner.
const HEARD_SECS: u32 = 2;

/// The VLANs of each port that are blocked, [`BLOCKS`] words a port.
#[derive(Debug)]
pub(super) struct Blocks(Box<[AtomicU64]>);

impl Blocks {
    pub(super) fn new(ports: usize) -> Result<Blocks, NoMemory> {
        Ok(Blocks(zeroed(ports * BLOCKS)?))
    }

    /// Those of a port; none of a number that no port has.
    fn of(&self, port: PortId) -> impl Iterator<Item = Block<'_>> {
        let first = port.index() * BLOCKS;
        self.0.get(first..first + BLOCKS).unwrap_or_default().iter().map(Block)
    }
}

/// A VLAN that is blocked at a port, and when it is released, in milliseconds: `until << 16 | vlan`.
#[derive(Clone, Copy, Debug)]
struct Block<'a>(&'a AtomicU64);

impl Block<'_> {
    /// Stands for all VLANs.
    const ALL: u64 = 0xffff;

    fn store(&self, last: Option<Loop>) {
        let value = last.map_or(0, |last| {
            let vlan = if last.in_all_vlans { Block::ALL } else { u64::from(last.vlan.get()) };
            last.until.as_millis() << 16 | vlan
        });
        self.0.store(value, Ordering::Relaxed);
    }

    /// The VLAN, while it is blocked.
    #[inline]
    fn blocked(&self, now: Timestamp) -> Option<u64> {
        let value = self.0.load(Ordering::Relaxed);
        (now.as_millis() < value >> 16).then_some(value & Block::ALL)
    }

    #[inline]
    fn blocks(&self, vlan: VlanId, now: Timestamp) -> bool {
        self.blocked(now).is_some_and(|blocked| blocked == u64::from(vlan.get()) || blocked == Block::ALL)
    }
}

impl MacTable {
    /// Whether the address in this slot was just heard at its port.
    pub(super) fn was_heard(&self, slot: usize, now: Timestamp) -> bool {
        now.secs().saturating_sub(self.slots.value(slot).secs) < HEARD_SECS
    }

    /// Whether a frame from the address in this slot, which comes in through another port, may have come back through a loop.
    pub(super) fn may_be_back(&self, slot: usize, (vlan, port): (VlanId, PortId), now: Timestamp) -> bool {
        self.is_blocked(port, vlan, now) && self.was_heard(slot, now)
    }

    /// Blocks a port, and returns the address that keeps moving, in slot `slot`, to its home. The last of those that the loop may
    /// have brought behind its two ports are forgotten: frames to them are flooded until they are heard again.
    pub(super) fn break_loop(&self, book: &mut Book, (slot, key): (usize, u64), found: &Loop, now: Timestamp) {
        self.take_out(book, slot);
        for port in [found.port, found.other] {
            let mut brought = [0; FORGOTTEN_AT_ONCE];
            let mut count = 0;
            let heard = |slot: &usize| self.is_brought(*slot, now);
            for slot in book.usage.newest_first(port).take(FORGOTTEN_AT_ONCE).take_while(heard) {
                if key_parts(self.slots.key(slot)).0 == found.vlan {
                    brought[count] = slot;
                    count += 1;
                }
            }
            brought[..count].iter().for_each(|slot| self.take_out(book, *slot));
        }
        self.slots.fill(slot, key, Value { secs: now.secs(), is_static: false, port: found.home });
        book.usage.push(found.home, slot);
        book.stats.entries += 1;
        self.block(book, found.port);
        self.guarded_until.fetch_max(found.until.as_millis(), Ordering::Relaxed);
    }

    /// Whether the address in this slot was heard so recently that a loop that was just found may have brought it.
    fn is_brought(&self, slot: usize, now: Timestamp) -> bool {
        now.secs().saturating_sub(self.slots.value(slot).secs) < LOOP_SECS
    }

    /// Blocks at a port what the loop guard says.
    pub(super) fn block(&self, book: &Book, port: PortId) {
        self.blocks.of(port).zip(book.guard.blocks(port)).for_each(|(block, last)| block.store(last));
    }

    /// Blocks what is blocked in a table of another size, and remembers what was.
    pub(super) fn follow(&self, before: &Book, now: Timestamp) {
        let mut book = self.lock();
        book.guard.follow(&before.guard, |key| {
            let [first, second] = self.slots.places(key);
            first ^ second
        });
        for port in 0..book.guard.ports() {
            self.block(&book, PortId(port as u16));
        }
        let last = book.guard.blocked(now).iter().map(|found| found.until.as_millis()).max();
        self.guarded_until.store(last.unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether the loop guard has blocked any port.
    #[inline]
    #[must_use]
    pub fn has_blocked(&self, now: Timestamp) -> bool {
        now.as_millis() < self.guarded_until.load(Ordering::Relaxed)
    }

    /// Whether the loop guard has blocked this VLAN at this port: nothing is flooded to it or from it.
    #[inline]
    #[must_use]
    pub fn is_blocked(&self, port: PortId, vlan: VlanId, now: Timestamp) -> bool {
        self.has_blocked(now) && self.blocks.of(port).any(|block| block.blocks(vlan, now))
    }

    /// Whether the loop guard has blocked any VLAN at this port.
    #[must_use]
    pub fn is_blocked_anywhere(&self, port: PortId, now: Timestamp) -> bool {
        self.blocks.of(port).any(|block| block.blocked(now).is_some())
    }

    /// The ports, and the VLANs there, that the loop guard has blocked.
    #[must_use]
    pub fn blocked(&self, now: Timestamp) -> Vec<Loop> {
        if self.has_blocked(now) { self.lock().guard.blocked(now) } else { Vec::new() }
    }

    /// The ports, and the VLANs there, that the loop guard has blocked, or had blocked until at most this long ago.
    #[must_use]
    pub fn blocked_within(&self, now: Timestamp, age: Duration) -> Vec<Loop> {
        self.lock().guard.blocked_within(now, age)
    }

    /// Says whether many stations are behind a port. The loop guard never blocks such a port. Waits for the table's lock: for the
    /// control thread.
    pub fn set_leads_to_network(&self, port: PortId, leads_to_network: bool) {
        self.lock().guard.set_leads_to_network(port, leads_to_network);
    }

    /// The loops that were found since the last call.
    pub fn take_loops(&self) -> Vec<Loop> {
        self.lock().guard.take()
    }

    /// Removes what a loop that was just found may have brought behind its two ports.
    pub fn flush_loop(&self, found: &Loop, now: Timestamp) {
        let mut book = self.lock();
        for slot in 0..self.slots.len() {
            let (key, value) = (self.slots.key(slot), self.slots.value(slot));
            if key != 0
                && !value.is_static
                && [found.port, found.other].contains(&value.port)
                && key_parts(key) != (found.vlan, found.mac)
                && key_parts(key).0 == found.vlan
                && self.is_brought(slot, now)
            {
                self.take_out(&mut book, slot);
            }
        }
    }
}
