//! Traces: imaginary packets are walked here, by a pipeline that is told what workers are told; stories of real ones go
//! from the workers to whoever waits, and not through this thread.

use std::sync::Arc;

use capture::{Filter, Subject};
use packet::{Headers, VnetHeader};
use vswitch::trace::MAX_LIVE;
use vswitch::{Live, PortId, Watch};

use super::Daemon;
use crate::control_socket::Refusal;
use crate::control_socket::story::Story;
use crate::router::RouterControl;
use crate::trace::{Assumed, Names, Surroundings, Words, story};
use crate::worker::Command;

/// The longest look at what is over before a packet is imagined.
const EXPIRE_ROUNDS: usize = 64;
const EXPIRE_BUDGET: usize = 256;

/// Where stories will be, and whose names are in them.
pub(crate) type Following = (Arc<Live>, Names);

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
        let told = rehearsal.walk(id, VnetHeader::default(), &frame, now).ok_or_else(down)?;
        Ok(story(&told, &Names(names), notes))
    }

    /// Somebody wants so many stories of real packets.
    pub(super) fn follow(&mut self, count: u32, port: Option<&str>, filter: Option<Filter>) -> Result<Following, Refusal> {
        let names = self.port_names();
        let is_it = |wanted: &str| names.iter().position(|name| name == wanted && !name.is_empty());
        let wanted = |wanted| is_it(wanted).ok_or_else(|| no_such_port(wanted, &names));
        let id = port.map(wanted).transpose()?.map(|at| PortId(at as u16));
        self.traces.retain(|live| live.remaining() > 0);
        if self.traces.len() == MAX_LIVE {
            let full = format!("{MAX_LIVE} live traces run already; end one, or let it end");
            return Err(Refusal::Conflict(full));
        }
        let live = Arc::new(Live::new(count, move |ingress, frame| {
            id.is_none_or(|id| id == ingress) && filter.as_ref().is_none_or(|filter| takes(filter, frame))
        }));
        self.traces.push(Arc::clone(&live));
        self.tell_watchers();
        Ok((live, Names(names)))
    }

    /// Those that are over cost workers nothing more.
    pub(super) fn look_at_traces(&mut self) {
        let before = self.traces.len();
        self.traces.retain(|live| live.remaining() > 0);
        if self.traces.len() < before {
            self.tell_watchers();
        }
    }

    fn tell_watchers(&self) {
        let watch = || (!self.traces.is_empty()).then(|| Box::new(Watch::new(self.traces.iter().cloned())));
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
