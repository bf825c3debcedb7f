//! The daemon: opens the ports, starts the workers, keeps both in step until the end.

mod bridges;
pub(crate) mod captures;
mod changes;
mod events;
mod guests;
mod ports;
mod queries;
mod reconfigure;
mod stats;
mod traces;
mod tunnels;
mod uplink;
mod words;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use netio::{Poller, Waker};
use vswitch::{BridgeId, Counters, MacEntry, PortId, Rehearsal};

use crate::cli::Flags;
use crate::config::plan::Desired;
use crate::config::queues_of;
use crate::control_socket::{ControlSocket, Door, Scrape, ScrapeDoor};
use crate::edge::router::{PortNumbers, RouterControl};
use crate::edge::uplink::UplinkPort;
use crate::fabric::report::{Ledger, Report};
use crate::fabric::slots::{self, Slots};
use crate::ports::ManagedPort;
use crate::ports::device::Device;
use crate::service::Service;
use crate::signals::Signals;
use crate::tunnel::{self, TunnelControl, overlay_mtu};
use crate::worker::busy_poll::BusyPoll;
use crate::worker::{Clock, Command, Connections, Event, Worker, WorkerCounters};
use bridges::Bridges;
pub(crate) use traces::Following;
use traces::Traces;
use uplink::open_uplink;
pub(crate) use words::check;
use words::{check_way_out, place_of, summary_head, with_nearest};

/// How often every device is asked how it is, and old MAC entries are taken out.
const TICK: Duration = Duration::from_secs(1);

/// So much is heard of workers before signals and devices have their turn.
const EVENTS_AT_ONCE: usize = 1024;

/// So long workers are waited for before the next change.
const OBEDIENCE: Duration = Duration::from_millis(100);

const SIGNALS: u64 = 0;
const UPLINK: u64 = 1;

/// A running switch.
pub(crate) struct Daemon {
    config_summary: String,
    /// What the switch is to be now, and the flags that it was started with.
    desired: Desired,
    command_line: Flags,
    ports: Vec<ManagedPort>,
    /// Where guests connect to.
    entrances: Vec<guests::Entrance>,
    next_token: u64,
    /// Behind the other ports, and read as one of them.
    uplink: Option<UplinkPort>,
    router: Option<RouterControl>,
    /// Behind the uplink: what receives, and then the hosts at the other ends.
    tunnels: TunnelControl,
    /// How many things the workers read at the start.
    readers: usize,
    slots: Slots,
    ledger: Ledger,
    bridges: Bridges,
    clock: Clock,
    /// For people, who have calendars.
    started: SystemTime,
    busy_poll: Duration,
    poller: Poller,
    events: Receiver<Event>,
    workers: Vec<Handle>,
    panics: u64,
    /// Ports whose MAC entries are to be flushed at the next tick.
    stale: Vec<PortId>,
    captures: captures::Captures,
    /// Walks imaginary packets, and is told what workers are told.
    rehearsal: RefCell<Rehearsal>,
    /// Who waits for the stories of real ones.
    traces: Traces,
    /// Where others ask what we know.
    control: Option<ControlSocket>,
    edges: events::Edges,
    scrape: Option<Scrape>,
}

/// The control thread's end of a worker.
struct Handle {
    commands: Sender<Command>,
    waker: Waker,
    counters: Arc<Counters>,
    own: Arc<WorkerCounters>,
    /// `None` before it is started and once it is joined.
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Opens all ports and starts all workers; frames flow when it returns.
    pub(crate) fn start(desired: Desired, command_line: Flags) -> anyhow::Result<Daemon> {
        let clock = Clock::start();
        let config = desired.config.clone();
        let config_summary = summary_head(&config) + &config.router_summary() + &config.tunnel_summary();
        warn(&config.warnings);
        let (readers, workers) = (config.readers, config.workers);
        let at_start = readers + tunnel::peer_count(&config.tunnels, &config.ip_tunnels);
        let mut slots = Slots::new(slots::capacity(at_start));
        let capacity = slots.capacity();
        let mut ids = slots.take_many(config.ports.len()).context("too many ports")?;
        let uplink_id = slots.take_many(usize::from(config.uplink_interface().is_some())).context("too many ports")?;
        let bridges = Bridges::new(config.bridges.clone(), capacity)?;
        // First the tunnels' sockets, as the router takes whatever ports are free; then the uplink, so that
        // nothing is made where it cannot be.
        let queues = |id: PortId| queues_of(id.index(), readers, workers);
        let tunnels = TunnelControl::open(&config.tunnels, &config.ip_tunnels, &mut slots, queues)?;
        let numbers = PortNumbers { at_start, capacity };
        let (uplink, router) = open_uplink(&config, uplink_id.first().copied().unwrap_or(PortId(0)), numbers, clock)?;
        tunnels.add_statics(|bridge| bridges.table(bridge), |_| true)?;
        let shared = config.ports.iter().filter_map(|port| Some((port.bridge, port.shared_interface()?)));
        let uplinks = config.bridge_uplink.iter().map(|uplink| (uplink.bridge, uplink.interface.as_str()));
        for (bridge, name) in shared.chain(uplinks) {
            check_way_out(&tunnels, bridge, name)?;
        }
        warn(&tunnels.ways_missing());
        let mut mtus = Vec::with_capacity(config.bridges.len());
        for number in 0..config.bridges.len() {
            let (mtu, warnings) = overlay_mtu(&tunnels, &config.ports, BridgeId(number as u8));
            warn(&warnings);
            mtus.push(mtu);
        }
        let bridged = config.ports.iter().filter(|port| port.is_bridged()).count();
        let entrances = guests::open(&config.ports, guests::FIRST_TOKEN, clock.now())?;
        let mut ports = Vec::with_capacity(ids.len());
        for (index, (mut port, id)) in config.ports.into_iter().zip(ids.drain(..)).enumerate() {
            port.propose_mtu(if port.is_bridged() { mtus[port.bridge.index()] } else { tunnels.ip_mtu(index - bridged) });
            ports.push(ManagedPort::open(id, port, clock.now()).map_err(with_nearest)?);
        }
        let poller = Poller::new().context("making the control thread's epoll")?;
        let (events, received) = channel();
        let mut rehearsal = bridges.rehearsal(capacity).context("no bridge")?;
        if let Some(router) = &router {
            rehearsal.pipeline_mut().set_router(router.for_worker());
        }
        let mut daemon = Daemon {
            config_summary,
            desired,
            command_line,
            ports,
            next_token: guests::FIRST_TOKEN + entrances.len() as u64,
            entrances,
            uplink,
            router,
            tunnels,
            readers,
            slots,
            ledger: Ledger::new(capacity),
            bridges,
            clock,
            started: SystemTime::now(),
            busy_poll: Duration::from_micros(config.busy_poll.into()),
            poller,
            events: received,
            workers: Vec::new(),
            panics: 0,
            stale: Vec::new(),
            captures: captures::Captures::default(),
            rehearsal: RefCell::new(rehearsal),
            traces: Traces::default(),
            control: None,
            edges: events::Edges::default(),
            scrape: None,
        };
        let mut waiting = Vec::with_capacity(workers);
        for index in 0..workers {
            let (handle, worker) = daemon.make_worker(events.clone(), index).with_context(|| format!("making worker {index}"))?;
            daemon.workers.push(handle);
            waiting.push(worker);
        }
        // Before the first worker runs, so that none sees a bridge of half its ports.
        for at in 0..daemon.ports.len() {
            daemon.attach(at);
        }
        daemon.attach_uplink();
        daemon.attach_tunnels()?;
        for (index, (worker, handle)) in waiting.into_iter().zip(&mut daemon.workers).enumerate() {
            let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || worker.run());
            handle.thread = Some(thread.with_context(|| format!("starting worker {index}"))?);
        }
        Ok(daemon)
    }

    fn make_worker(&self, events: Sender<Event>, index: usize) -> anyhow::Result<(Handle, Worker)> {
        let count = self.slots.capacity();
        let counters = Arc::new(Counters::new(count));
        let mut pipeline = self.bridges.pipeline(count, Arc::clone(&counters)).context("no bridge")?;
        if let Some(router) = &self.router {
            pipeline.set_router(router.for_worker());
        }
        let own = Arc::new(WorkerCounters::new());
        let poller = Poller::new()?;
        let waker = poller.waker();
        let (commands, received) = channel();
        let connections = Connections {
            polls: index == 0 && self.router.is_some(),
            nat: self.router.as_ref().and_then(|router| router.nat().cloned()),
            busy_poll: BusyPoll::new(self.busy_poll),
            counters: Arc::clone(&own),
            seed: index as u32,
            commands: received,
            events,
            control: self.poller.waker(),
        };
        let worker = Worker::new(pipeline, poller, self.clock, connections, count);
        Ok((Handle { commands, waker, counters, own, thread: None }, worker))
    }

    /// Answers from now on who comes to this door.
    pub(crate) fn open_to(&mut self, door: Door) -> anyhow::Result<()> {
        self.control = Some(ControlSocket::start(door, self.poller.waker())?);
        Ok(())
    }

    /// The same for those who fetch metrics.
    pub(crate) fn open_to_scrapers(&mut self, door: ScrapeDoor) -> anyhow::Result<()> {
        self.scrape = Some(Scrape::start(door, self.poller.waker())?);
        Ok(())
    }

    /// Ports, workers and the bridge, for people.
    pub(crate) fn summary(&self) -> String {
        let mut text = self.config_summary.clone();
        for port in &self.ports {
            let Some(title) = port.config.title() else { continue };
            let (place, vlan) = (place_of(&port.config), &port.config.vlan_text);
            let bridge = self.bridges.name_among_several(port.config.bridge).filter(|_| port.config.is_bridged());
            let on = bridge.map_or_else(String::new, |name| format!(" on {name}"));
            let mtu = port.link().map(|link| link.mtu).or(port.config.mtu()).unwrap_or(0);
            let device = port.device().map_or_else(|| "waits for guests".to_owned(), Device::summary);
            let _ = writeln!(text, "port {title}{place}{on}: {vlan}, mtu {mtu}, {device}");
        }
        text.push_str(&self.tunnels.summary());
        if let Some(outside) = self.router.as_ref().and_then(RouterControl::outside) {
            let _ = writeln!(text, "guests go out as {outside}");
        }
        if let Some(control) = &self.control {
            let _ = writeln!(text, "control socket {}", control.summary());
        }
        if let Some(scrape) = &self.scrape {
            let _ = writeln!(text, "metrics http://{}/metrics", scrape.address());
        }
        text
    }

    /// Serves signals and devices until SIGTERM or SIGINT, and prints the counters at the end.
    pub(crate) fn run(mut self, signals: &Signals, mut service: Service) -> anyhow::Result<()> {
        self.poller.add(signals.pipe(), SIGNALS).context("waiting for signals")?;
        if let Some(uplink) = &self.uplink {
            self.poller.add(uplink.watch(), UPLINK).context("listening for changes of the uplink")?;
        }
        guests::watch(&self.entrances, &self.poller)?;
        let mut next_tick = self.clock.now().after(TICK);
        let mut waiting_guests = Vec::with_capacity(self.entrances.len());
        if service.is_there() {
            service.ready(&self.status());
        }
        loop {
            let now = self.clock.now();
            let uplink = self.uplink.as_ref().and_then(UplinkPort::look_at);
            let ports = self.router.as_ref().and_then(RouterControl::ports_due);
            let due = self.ports.iter().filter_map(ManagedPort::retry_at).chain(uplink).chain(ports).chain([next_tick]).min();
            let due = due.unwrap_or(next_tick);
            let note = |token: u64| waiting_guests.extend((token >= guests::FIRST_TOKEN).then_some(token));
            self.poller.wait(Some(due.since(now)), note).context("waiting for signals")?;
            let arrived = signals.take();
            if arrived.report {
                crate::say(&self.report().to_string());
            }
            if arrived.reload {
                service.reloading();
                self.read_again();
                // Whatever came of it: a manager waits for this word.
                service.ready(&self.status());
            }
            if arrived.end {
                service.stopping();
                crate::say(&self.stop().to_string());
                return Ok(());
            }
            self.hear_workers();
            self.answer_queries();
            self.end_captures();
            for token in waiting_guests.drain(..) {
                self.let_in(token);
            }
            let now = self.clock.now();
            self.look_at_uplink(now, now >= next_tick);
            if let Some(router) = &mut self.router {
                router.serve_ports(now);
            }
            if now >= next_tick {
                if let Some(router) = &mut self.router {
                    router.tick(now);
                }
                self.bridges.expire(now);
                for id in std::mem::take(&mut self.stale) {
                    self.bridges.flush(id);
                }
                self.look_at_ports();
                self.look_at_tunnels();
                self.open_shut_entrances();
                self.tell_of_tables();
                self.look_at_traces();
                self.tell_service(&mut service);
                next_tick = now.after(TICK);
            } else {
                self.look_for_gone_ports();
            }
        }
    }

    /// What the bridges know now, by their names.
    pub(crate) fn mac_entries(&self) -> Vec<(String, Vec<MacEntry>)> {
        self.bridges.entries(self.clock.now())
    }

    /// The router's connections now, for people.
    pub(crate) fn connections(&self) -> Vec<nat::Connection> {
        let nat = self.router.as_ref().and_then(RouterControl::nat);
        nat.map_or_else(Vec::new, |nat| nat.connections(self.clock.now()))
    }

    /// The counters now.
    pub(crate) fn report(&mut self) -> Report {
        let names = self.port_names();
        let counters = self.workers.iter().map(|worker| &*worker.counters);
        let mut report = Report::new(names, counters, &self.ledger, self.bridges.stats(), self.panics);
        report.hide(self.ports.iter().filter(|port| port.is_unused()).map(|port| port.id));
        report.nat = self.router.as_ref().and_then(RouterControl::nat).map(|nat| nat.stats());
        report.uplink = self.uplink.as_ref().map(|uplink| uplink.id);
        report.kernel_dropped = self.uplink.as_mut().map_or(0, UplinkPort::dropped);
        report.dropped_at_ports = self.ports.iter_mut().map(|port| (port.id, port.name().to_owned(), port.dropped())).collect();
        report.datagrams_dropped = self.tunnels.dropped();
        report
    }

    /// By their numbers; empty where no port has one.
    fn port_names(&self) -> Vec<String> {
        let uplink = self.uplink.as_ref().map(|uplink| (uplink.id, uplink.interface.clone()));
        let ports = self.ports.iter().map(|port| (port.id, port.name().to_owned()));
        let mut names = vec![String::new(); self.slots.capacity()];
        for (id, name) in ports.chain(uplink).chain(self.tunnels.names()) {
            names[id.index()] = name;
        }
        names
    }

    /// A number has a new port.
    fn begin_to_count(&mut self, id: PortId) {
        self.ledger.begin(id, self.workers.iter().map(|worker| &*worker.counters));
        self.name_in_traces();
    }

    /// These are no ports any more. Their numbers are free once all workers have heard of it.
    fn remove(&mut self, ids: Vec<PortId>) {
        self.end_traces_of(&ids);
        self.end_captures_of(&ids);
        for id in &ids {
            self.tell_workers(|_| Command::Remove(*id));
            self.bridges.forget(*id);
        }
        let rest = self.slots.give_back(ids, self.workers.len());
        self.tell_workers(|_| Command::Barrier(rest));
    }

    /// No worker can learn or count anything more by these numbers.
    fn free(&mut self, ids: &[PortId]) {
        for id in ids {
            self.bridges.forget(*id);
            if let Some(nat) = self.router.as_ref().and_then(RouterControl::nat) {
                nat.disown(id.0);
            }
            if let Some(router) = &self.router {
                router.neighbours().disown(id.0);
            }
        }
        self.stale.retain(|id| !ids.contains(id));
        self.slots.put_back(ids);
    }

    /// How it is now, for the service manager, and that the workers answer.
    fn tell_service(&mut self, service: &mut Service) {
        if !service.is_there() {
            return;
        }
        service.status(&self.status());
        if let Some(answers) = service.next_round(self.workers.len()) {
            self.tell_workers(|_| Command::Answer(Arc::clone(&answers)));
        }
    }

    /// Ends all workers and returns what was counted to the last frame.
    pub(crate) fn stop(&mut self) -> Report {
        self.tell_workers(|_| Command::Stop);
        for thread in self.workers.iter_mut().filter_map(|worker| worker.thread.take()) {
            if thread.join().is_err() {
                tracing::error!("a worker ended with a panic");
            }
        }
        self.report()
    }

    fn hear_workers(&mut self) {
        // Those that come meanwhile are heard in the next turn.
        for event in self.events.try_iter().take(EVENTS_AT_ONCE).collect::<Vec<Event>>() {
            self.hear_of(event);
        }
    }

    fn hear_of(&mut self, event: Event) {
        match event {
            Event::Gone { id, attachment } => self.hear_of_gone(id, attachment),
            Event::Obeyed(rest) => {
                let ids = self.slots.answered(rest);
                self.free(&ids);
            }
            Event::Released(released) => drop(released),
            Event::NewSource(source) => self.add_source(source),
            Event::Panicked => {
                self.panics += 1;
                tracing::error!("a worker panicked; it lost the frames at hand and goes on");
            }
        }
    }

    /// Waits until workers have let go of what was taken away before, so that its name and port can be had again. They take
    /// a few microseconds; one that takes longer than [`OBEDIENCE`] is not waited for.
    fn let_workers_obey(&mut self) {
        let end = self.clock.now().after(OBEDIENCE);
        while self.slots.is_resting() {
            let left = end.since(self.clock.now());
            let Ok(event) = self.events.recv_timeout(left) else { return };
            self.hear_of(event);
        }
    }

    /// A device, or a socket, is gone: perhaps one that the port has no more, or one of a port that is no more.
    fn hear_of_gone(&mut self, id: PortId, attachment: u64) {
        if let Some(port) = self.ports.iter_mut().find(|port| port.id == id) {
            if port.attachment() == Some(attachment) {
                port.lose(self.clock.now());
                self.detach(id);
            }
        } else if let Some(uplink) = self.uplink.as_ref().filter(|uplink| uplink.id == id) {
            if uplink.attachment() == Some(attachment) {
                self.lose_uplink();
            }
        } else if self.tunnels.endpoints().iter().any(|endpoint| endpoint.id == id) {
            tracing::error!("a tunnel's socket cannot be read any more");
        }
    }

    /// Flushes a port's MAC entries, and once more at the next tick: a worker may just be learning from
    /// its last frames.
    fn forget(&mut self, id: PortId) {
        self.bridges.flush(id);
        // A guest may come and go a thousand times a second.
        if !self.stale.contains(&id) {
            self.stale.push(id);
        }
    }

    fn tell_workers(&self, mut command: impl FnMut(usize) -> Command) {
        for (index, worker) in self.workers.iter().enumerate() {
            let command = command(index);
            if index == 0 {
                command.tell(self.rehearsal.borrow_mut().pipeline_mut());
            }
            // A worker that is not there any more has said why.
            let _ = worker.commands.send(command);
            worker.waker.wake();
        }
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

/// The MAC table's hash key: new with each start.
fn random_seed() -> anyhow::Result<[u64; 2]> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("drawing random numbers")?;
    let (first, second) = bytes.split_at(8);
    let number = |half: &[u8]| half.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Ok([number(first), number(second)])
}
