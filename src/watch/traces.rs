//! Traces: what would happen to an imaginary packet, and what happens to the next real ones.
//!
//! An imaginary packet walks here, on the control thread, through a pipeline that is told what workers are told. Stories of
//! real packets go from the workers straight to whoever follows them.
//!
//! *Limits.* [`MAX_LIVE`] live traces at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use api::Refusal;
use api::Story;
use filter::Filter;
use packet::VnetHeader;
use vswitch::MAX_LIVE;
use vswitch::{Live, PortId, PortKind, Watch};

use crate::edge::Edge;
use crate::edge::router::RouterControl;
use crate::fabric::Fabric;
use crate::trace::{Assumed, Elsewhere, Names, Surroundings, Words, story};
use crate::worker::{Clock, Command};

/// Connections whose time is over that are ended before an imaginary packet walks: rounds, and connections a round.
const EXPIRE_ROUNDS: usize = 64;
const EXPIRE_BUDGET: usize = 256;

/// The stories of a live trace; ends it when dropped.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) live: Arc<Live>,
    /// The workers' clock.
    pub(crate) clock: Clock,
    /// Names of the ports in stories.
    names: Arc<RwLock<Names>>,
    port_is_gone: Arc<AtomicBool>,
}

impl Following {
    /// The ports' names now.
    pub(crate) fn names(&self) -> RwLockReadGuard<'_, Names> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is the port whose packets were asked for no port any more?
    pub(crate) fn port_is_gone(&self) -> bool {
        self.port_is_gone.load(Ordering::Relaxed)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.live.end();
    }
}

/// All live traces.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    running: Vec<Running>,
    names: Arc<RwLock<Names>>,
}

#[derive(Debug)]
struct Running {
    live: Arc<Live>,
    /// It is about this port.
    port: Option<PortId>,
    port_is_gone: Arc<AtomicBool>,
}

impl Traces {
    /// Begins a live trace: the stories of the next `count` packets that arrive at this port, or at any, and that the filter takes. `names` are those of all ports, by their numbers.
    pub(crate) fn follow(
        &mut self,
        count: u32,
        port: Option<PortId>,
        filter: Option<Filter>,
        names: Vec<String>,
        fabric: &Fabric,
    ) -> Result<Following, Refusal> {
        self.running.retain(|trace| trace.live.remaining() > 0);
        if self.running.len() == MAX_LIVE {
            let full = format!("{MAX_LIVE} live traces run already; end one, or let it end");
            return Err(Refusal::conflict(full));
        }
        let live = Arc::new(Live::new(count, port, filter));
        let port_is_gone = Arc::new(AtomicBool::new(false));
        self.take_in(names);
        self.running.push(Running { live: Arc::clone(&live), port, port_is_gone: Arc::clone(&port_is_gone) });
        self.tell_watchers(fabric);
        Ok(Following { live, clock: fabric.clock, names: Arc::clone(&self.names), port_is_gone })
    }

    /// Once a second: traces that are over cost workers nothing more.
    pub(crate) fn tick(&mut self, fabric: &Fabric) {
        let before = self.running.len();
        self.running.retain(|trace| trace.live.remaining() > 0);
        if self.running.len() < before {
            self.tell_watchers(fabric);
        }
    }

    /// Is there a trace that names of ports are needed for?
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The ports' names are these from now on, by their numbers.
    pub(crate) fn take_in(&self, names: Vec<String>) {
        self.names.write().unwrap_or_else(PoisonError::into_inner).take_in(names);
    }

    /// Ends the traces of these ports, whose numbers are soon those of others.
    pub(crate) fn end_of(&self, ids: &[PortId]) {
        for trace in self.running.iter().filter(|trace| trace.port.is_some_and(|port| ids.contains(&port))) {
            trace.port_is_gone.store(true, Ordering::Relaxed);
            trace.live.end();
        }
    }

    fn tell_watchers(&self, fabric: &Fabric) {
        let running = &self.running;
        let watch = || (!running.is_empty()).then(|| Box::new(Watch::new(running.iter().map(|trace| Arc::clone(&trace.live)))));
        fabric.tell(|_| Command::Watch(watch()));
    }
}

/// What would happen to an imaginary packet that comes in through this port; an error says what is wrong with its words. `names` are
/// those of all ports, by their numbers.
pub(crate) fn imagine(id: PortId, words: &Words, names: Vec<String>, edge: &Edge, fabric: &Fabric) -> Result<Story, Refusal> {
    let now = fabric.now();
    if let Some(nat) = edge.nat() {
        // A first packet would end some whose time is over; this thread does so each second anyway.
        for _ in 0..EXPIRE_ROUNDS {
            if !nat.expire(now, EXPIRE_BUDGET) {
                break;
            }
        }
    }
    let mut rehearsal = fabric.workers.rehearsal();
    let down = || {
        let text = format!("port={}: its device is not there now, so nothing can come in by it", words.port);
        Refusal::conflict(text).of_field("packet")
    };
    let port = rehearsal.pipeline_mut().port(id).ok_or_else(down)?.clone();
    let routing = edge.router.as_ref().map(RouterControl::routing);
    let neighbours = edge.router.as_ref().map(RouterControl::neighbours);
    let around = Surroundings { port: &port, routing: routing.as_deref(), neighbours };
    let Assumed { frame, notes } = words.frame(&around).map_err(|error| Refusal::bad_request(error).of_field("packet"))?;
    // A panic, which would be a bug, costs a worker only the batch at hand; it must not end this thread either.
    let walk = AssertUnwindSafe(|| rehearsal.walk(id, VnetHeader::default(), &frame, now));
    let fault = |_| Refusal::internal("the imaginary packet ran into a fault of the switch; its log says where");
    let told = catch_unwind(walk).map_err(fault)?.ok_or_else(down)?;
    let names = Names(names);
    let elsewhere = Elsewhere { fabric, interfaces: edge.interfaces().copied().collect(), names: &names };
    // A TUN device is in no VLAN.
    let is_bridged = !matches!(port.kind, PortKind::Tun | PortKind::Host);
    let known = if is_bridged { elsewhere.notes(&told, &frame, port.bridge, words.dst()) } else { Vec::new() };
    Ok(Story { notes: known, ..story(&told, &names, notes, None) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::tests::fabric;

    #[test]
    fn a_trace_ends_with_its_count_or_its_port() {
        let (fabric, mut traces) = (fabric(1, 4), Traces::default());
        let names = || vec!["tap0".to_owned(), String::new(), "tap2".to_owned()];
        let of_tap2 = traces.follow(5, Some(PortId(2)), None, names(), &fabric).unwrap();
        let of_any = traces.follow(5, None, None, names(), &fabric).unwrap();
        traces.end_of(&[PortId(2)]);
        assert!(of_tap2.port_is_gone() && !of_any.port_is_gone());
        traces.tick(&fabric);
        assert_eq!(traces.running.len(), 1);
        drop(of_any);
        traces.tick(&fabric);
        assert!(traces.is_empty(), "a follower that is gone ends its trace");
    }
}
