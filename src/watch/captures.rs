//! Captures: begun at all workers, and ended there when their reader is gone.
//!
//! ```text
//!  control socket --Query--> here --Command--> each worker: a Probe
//!        ^                     |                    |
//!        +-- readers of rings -+                    +-- records --> ring --> control socket --> pcapng
//! ```
//!
//! *Limits.* [`MAX_CAPTURES`] at a time, each with a ring of 4 MiB a worker. The rings' memory is allocated and freed on the
//! control thread: what a worker had of a capture comes back as an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::Refusal;
use capture::probe::Lost;
use capture::ring::{Reader, ring};
use capture::{Probe, Want};
use netio::Waker;
use vswitch::MAX_CAPTURES;
use vswitch::PortId;

use crate::fabric::Fabric;
use crate::worker::Command;

/// Chunks of one worker's ring, and the bytes of each: room for records while their reader pauses.
const CHUNKS: usize = 16;
const CHUNK_BYTES: usize = 256 << 10;

/// A capture that runs.
#[derive(Debug)]
pub(crate) struct Begun {
    /// One for each worker.
    pub(crate) readers: Vec<Reader>,
    pub(crate) lost: Lost,
    /// The workers' clock, when this was made.
    pub(crate) now: u64,
    /// The only port that it is about; `None` for all.
    pub(crate) port: Option<u16>,
    pub(crate) ports: Vec<PortNow>,
    /// Ends it when dropped.
    pub(crate) life: Life,
}

/// A port that frames can be captured at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PortNow {
    pub(crate) id: u16,
    pub(crate) name: String,
    /// Its kind and VLANs.
    pub(crate) description: String,
    /// Its packets have no Ethernet header.
    pub(crate) is_raw: bool,
    /// It has had a device: it is not just a place for a guest that may connect.
    pub(crate) is_there: bool,
}

/// Held by the reader of a capture.
#[derive(Debug)]
pub(crate) struct Life {
    is_over: Arc<AtomicBool>,
    control: Waker,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.control.wake();
    }
}

/// All running captures.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    running: Vec<Running>,
    next_id: u64,
}

#[derive(Debug)]
struct Running {
    id: u64,
    /// The only port; `None` for all.
    port: Option<u16>,
    is_over: Arc<AtomicBool>,
}

impl Captures {
    /// Begins a capture at this port, or at all of `ports`.
    pub(crate) fn begin(
        &mut self,
        port: Option<PortId>,
        want: Want,
        ports: Vec<PortNow>,
        control: Waker,
        fabric: &Fabric,
    ) -> Result<Begun, Refusal> {
        self.end_unread(fabric);
        if self.running.len() == MAX_CAPTURES {
            return Err(Refusal::conflict(format!("{MAX_CAPTURES} captures run already; end one of them")));
        }
        let want = Arc::new(Want { port: port.map(|id| id.0), ..want });
        let (id, lost, is_over) = (self.next_id, Lost::new(fabric.slots.capacity()), Arc::new(AtomicBool::new(false)));
        let (mut probes, readers): (Vec<_>, Vec<_>) = (0..fabric.workers.len())
            .map(|_| {
                let (writer, reader) = ring(CHUNKS, CHUNK_BYTES);
                (Some(Box::new(Probe::new(id, Arc::clone(&want), writer, lost.clone()))), reader)
            })
            .unzip();
        fabric.tell(|worker| Command::BeginCapture(probes.get_mut(worker).and_then(Option::take)));
        self.next_id += 1;
        self.running.push(Running { id, port: want.port, is_over: Arc::clone(&is_over) });
        let life = Life { is_over, control };
        Ok(Begun { readers, lost, now: fabric.clock.nanoseconds(), port: want.port, ports, life })
    }

    /// Ends the captures whose readers are gone.
    pub(crate) fn end_unread(&mut self, fabric: &Fabric) {
        let is_over = |running: &mut Running| running.is_over.load(Ordering::Acquire);
        for over in self.running.extract_if(.., is_over) {
            fabric.tell(|_| Command::EndCapture(over.id));
        }
    }

    /// Ends the captures of these ports, whose numbers are soon those of others. Their readers are told.
    pub(crate) fn end_of(&mut self, ids: &[PortId], fabric: &Fabric) {
        let of_these = |running: &&Running| running.port.is_some_and(|port| ids.contains(&PortId(port)));
        self.running.iter().filter(of_these).for_each(|running| running.is_over.store(true, Ordering::Release));
        self.end_unread(fabric);
    }
}

#[cfg(test)]
mod tests {
    use netio::Poller;

    use super::*;
    use crate::fabric::tests::fabric;

    fn begin(captures: &mut Captures, port: Option<PortId>, fabric: &Fabric) -> Result<Begun, Refusal> {
        let want = Want { port: None, filter: None, drops_only: false, snaplen: 96, sample: 1 };
        let there = |id: u16, name: &str| PortNow {
            id,
            name: name.to_owned(),
            description: String::new(),
            is_raw: false,
            is_there: true,
        };
        let ports = vec![there(0, "tap0"), there(1, "tap1")];
        captures.begin(port, want, ports, Poller::new().unwrap().waker(), fabric)
    }

    #[test]
    fn a_capture_ends_with_its_reader_or_its_port() {
        let (fabric, mut captures) = (fabric(1, 4), Captures::default());
        let all: Vec<Begun> = (0..MAX_CAPTURES).map(|_| begin(&mut captures, Some(PortId(1)), &fabric).unwrap()).collect();
        assert_eq!(begin(&mut captures, None, &fabric).unwrap_err().status(), 409, "as many as there may be");
        drop(all);
        let everywhere = begin(&mut captures, None, &fabric).unwrap();
        let of_tap1 = begin(&mut captures, Some(PortId(1)), &fabric).unwrap();
        assert_eq!(captures.running.len(), 2, "those that nobody reads are over");
        captures.end_of(&[PortId(1)], &fabric);
        assert_eq!(captures.running.len(), 1);
        assert!(of_tap1.life.is_over.load(Ordering::Acquire) && !everywhere.life.is_over.load(Ordering::Acquire));
    }
}
