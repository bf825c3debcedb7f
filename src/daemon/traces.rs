//! Traces: imaginary packets are walked here, by a pipeline that is told what workers are told; stories of real ones go
//! from the workers to whoever waits, and not through this thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use filter::{Filter, Subject};
use packet::{Headers, VnetHeader};
use vswitch::MAX_LIVE;
use vswitch::{Live, PortId, Watch};

use super::Daemon;
use crate::control_socket::Refusal;
use crate::control_socket::story::Story;
use crate::edge::router::RouterControl;
use crate::trace::{Assumed, Names, Surroundings, Words, story};
use crate::worker::Command;

/// The longest look at what is over before a packet is imagined.
const EXPIRE_ROUNDS: usize = 64;
const EXPIRE_BUDGET: usize = 256;

/// Where stories will be; ends the trace when it is dropped.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) live: Arc<Live>,
    /// Of those whose names are in them.
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
pub(super) struct Traces {
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
    fn take_in(&self, names: Vec<String>) {
        self.names.write().unwrap_or_else(PoisonError::into_inner).take_in(names);
    }
}

impl Daemon {
    /// What would become of an imaginary packet; an error in words that say what is wrong with its own.
    pub(super) fn imagine(&mut self, words: &Words) -> Result<Story, Refusal> {
        let names = self.port_names();
        let at = names.iter().position(|name| *name == words.port && !name.is_empty());
        let id = PortId(at.ok_or_else(|| no_such_port(&words.port, &names))? as u16);
        let now = self.clock.now();
        if let Some(nat) = self.router.as_ref().and_then(RouterControl::nat) {
            // A first packet would end some whose time is over; this thread does so each second anyway.
            for _ in 0..EXPIRE_ROUNDS {
                if !nat.expire(now, EXPIRE_BUDGET) {
                    break;
                }
            }
        }
        let mut rehearsal = self.rehearsal.borrow_mut();
        let down =
            || Refusal::Conflict(format!("port={}: its device is not there now, so nothing can come in by it", words.port));
        let port = rehearsal.pipeline_mut().port(id).ok_or_else(down)?.clone();
        let routing = self.router.as_ref().map(RouterControl::routing);
        let neighbours = self.router.as_ref().map(RouterControl::neighbours);
        let around = Surroundings { port: &port, routing: routing.as_deref(), neighbours };
        let Assumed { frame, notes } = words.frame(&around).map_err(Refusal::NotUnderstood)?;
        // A panic, which would be a fault of ours, costs a worker a batch; it is to cost this thread no more.
        let walk = AssertUnwindSafe(|| rehearsal.walk(id, VnetHeader::default(), &frame, now));
        let fault = |_| Refusal::Fault("the imaginary packet ran into a fault of the switch; its log says where".to_owned());
        let told = catch_unwind(walk).map_err(fault)?.ok_or_else(down)?;
        Ok(story(&told, &Names(names), notes))
    }

    /// Somebody wants so many stories of real packets.
    pub(super) fn follow(&mut self, count: u32, port: Option<&str>, filter: Option<Filter>) -> Result<Following, Refusal> {
        let names = self.port_names();
        let is_it = |wanted: &str| names.iter().position(|name| name == wanted && !name.is_empty());
        let wanted = |wanted| is_it(wanted).ok_or_else(|| no_such_port(wanted, &names));
        let id = port.map(wanted).transpose()?.map(|at| PortId(at as u16));
        self.traces.running.retain(|trace| trace.live.remaining() > 0);
        if self.traces.running.len() == MAX_LIVE {
            let full = format!("{MAX_LIVE} live traces run already; end one, or let it end");
            return Err(Refusal::Conflict(full));
        }
        let live = Arc::new(Live::new(count, move |ingress, frame| {
            id.is_none_or(|id| id == ingress) && filter.as_ref().is_none_or(|filter| takes(filter, frame))
        }));
        let port_is_gone = Arc::new(AtomicBool::new(false));
        self.traces.take_in(names);
        self.traces.running.push(Running { live: Arc::clone(&live), port: id, port_is_gone: Arc::clone(&port_is_gone) });
        self.tell_watchers();
        Ok(Following { live, names: Arc::clone(&self.traces.names), port_is_gone })
    }

    /// Those that are over cost workers nothing more.
    pub(super) fn look_at_traces(&mut self) {
        let before = self.traces.running.len();
        self.traces.running.retain(|trace| trace.live.remaining() > 0);
        if self.traces.running.len() < before {
            self.tell_watchers();
        }
    }

    /// A number has a new port, of which stories may be told from now on.
    pub(super) fn name_in_traces(&self) {
        if !self.traces.running.is_empty() {
            self.traces.take_in(self.port_names());
        }
    }

    /// The numbers of these are soon those of others.
    pub(super) fn end_traces_of(&self, ids: &[PortId]) {
        for trace in self.traces.running.iter().filter(|trace| trace.port.is_some_and(|port| ids.contains(&port))) {
            trace.port_is_gone.store(true, Ordering::Relaxed);
            trace.live.end();
        }
    }

    fn tell_watchers(&self) {
        let running = &self.traces.running;
        let watch = || (!running.is_empty()).then(|| Box::new(Watch::new(running.iter().map(|trace| Arc::clone(&trace.live)))));
        self.tell_workers(|_| Command::Watch(watch()));
    }
}

/// Does a filter take a frame that came in? Its VLAN is that of its tag.
fn takes(filter: &Filter, frame: &[u8]) -> bool {
    let headers = Headers::parse(frame).ok();
    let vlan = headers.and_then(|headers| headers.tag).map(|tag| tag.vlan().get());
    filter.matches(&Subject { headers: headers.as_ref(), bytes: frame, vlan, vni: None })
}

fn no_such_port(name: &str, names: &[String]) -> Refusal {
    let there: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    let meant = crate::config::nearest(name, there.iter().copied());
    Refusal::NotFound(match meant {
        Some(close) => format!("port={}: there is no such port; did you mean '{close}'?", name.escape_debug()),
        None => format!("port={}: there is no such port; there are {}", name.escape_debug(), there.join(", ")),
    })
}
