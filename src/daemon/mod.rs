//! The daemon: opens the ports, starts the workers, keeps both in step until the end.

mod guests;
mod queries;
mod tunnels;

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use netio::{LinkState, PacketError, Poller, TapError, Waker};
use packet::Timestamp;
use vswitch::{Counters, MacEntry, MacTable, MacTableConfig, Pipeline, PortId};

use crate::busy_poll::BusyPoll;
use crate::config::{Config, PortConfig, nearest, queues_of};
use crate::control::{Found, ManagedPort};
use crate::control_socket::{ControlSocket, Door};
use crate::device::{Device, DeviceError, Ends};
use crate::report::Report;
use crate::router::RouterControl;
use crate::signals::Signals;
use crate::tunnel::{self, TunnelControl, overlay_mtu};
use crate::uplink::{UplinkFound, UplinkPort};
use crate::worker::{Clock, Command, Connections, Event, Sink, Source, Worker};

/// How often every device is asked how it is, and old MAC entries are taken out.
const TICK: Duration = Duration::from_secs(1);

/// So many old MAC entries are taken out at once; between, others may take the table's lock.
const EXPIRE_BUDGET: usize = 256;

/// So much is heard of workers before signals and devices have their turn.
const EVENTS_AT_ONCE: usize = 1024;

const SIGNALS: u64 = 0;
const UPLINK: u64 = 1;

/// A running switch.
pub(crate) struct Daemon {
    config_summary: String,
    ports: Vec<ManagedPort>,
    /// Where guests connect to.
    entrances: Vec<guests::Entrance>,
    /// Behind the other ports, and read as one of them.
    uplink: Option<UplinkPort>,
    router: Option<RouterControl>,
    /// Behind the uplink: what receives, and then the hosts at the other ends.
    tunnels: TunnelControl,
    /// How many things the workers read, and how many ports there can be at most.
    readers: usize,
    port_count: usize,
    table: Arc<MacTable>,
    clock: Clock,
    busy_poll: Duration,
    poller: Poller,
    events: Receiver<Event>,
    workers: Vec<Handle>,
    panics: u64,
    /// Ports whose MAC entries are to be flushed at the next tick.
    stale: Vec<PortId>,
    /// Where others ask what we know.
    control: Option<ControlSocket>,
}

/// The control thread's end of a worker.
struct Handle {
    commands: Sender<Command>,
    waker: Waker,
    counters: Arc<Counters>,
    /// `None` before it is started and once it is joined.
    thread: Option<JoinHandle<()>>,
}

/// Says what would run and whether it could, without starting or making anything.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    print!("{}{}{}", summary_head(config), config.router_summary(), config.tunnel_summary());
    warn(&config.warnings);
    let uplink = config.uplink_interface();
    if let Some(name) = uplink {
        check_interface(name)?;
    }
    for port in &config.ports {
        if let Some(title) = port.title() {
            println!("port {title}{}: {}", place_of(port), port.vlan_text);
        }
        if let Some((_, Some(netns))) = port.link() {
            let error = |error| DeviceError::from(TapError::Namespace { netns: netns.clone(), error });
            netns.id().map_err(error).map_err(with_nearest)?;
        }
        if let Some(name) = port.shared_interface() {
            check_interface(name)?;
        }
    }
    println!("the configuration is good; nothing was started");
    Ok(())
}

fn check_interface(name: &str) -> anyhow::Result<()> {
    let checked = netio::link::get(name).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => PacketError::NoInterface { name: name.to_owned() },
        _ => PacketError::Io { name: name.to_owned(), what: "finding its link", error },
    });
    checked.map(drop).map_err(without_interface)
}

impl Daemon {
    /// Opens all ports and starts all workers; frames flow when it returns.
    pub(crate) fn start(config: Config) -> anyhow::Result<Daemon> {
        let clock = Clock::start();
        let config_summary = summary_head(&config) + &config.router_summary() + &config.tunnel_summary();
        warn(&config.warnings);
        let (readers, workers) = (config.readers, config.workers);
        let count = readers + tunnel::peer_count(&config.tunnels, &config.ip_tunnels);
        let table = Arc::new(MacTable::new(MacTableConfig {
            size: config.mac_table_size,
            aging_secs: config.mac_aging_time,
            ports: count,
            seed: random_seed()?,
        }));
        // First the tunnels' sockets, as the router takes whatever ports are free; then the uplink, so that
        // nothing is made where it cannot be.
        let first_endpoint = config.ports.len() + usize::from(config.uplink_interface().is_some());
        let queues = |at| queues_of(at, readers, workers);
        let tunnels = TunnelControl::open(&config.tunnels, &config.ip_tunnels, first_endpoint as u16, readers as u16, queues)?;
        let (uplink, router) = open_uplink(&config, count, clock)?;
        tunnels.add_statics(&table)?;
        for name in config.ports.iter().filter_map(PortConfig::shared_interface).chain(config.bridge_uplink.as_deref()) {
            check_way_out(&tunnels, name)?;
        }
        let (mtu, warnings) = overlay_mtu(&tunnels, &config.ports);
        warn(&warnings);
        let bridged = config.ports.iter().filter(|port| port.is_bridged()).count();
        let entrances = guests::open(&config.ports, clock.now())?;
        let mut ports = Vec::with_capacity(count);
        for (index, mut port) in config.ports.into_iter().enumerate() {
            port.propose_mtu(if port.is_bridged() { mtu } else { tunnels.ip_mtu(index - bridged) });
            ports.push(ManagedPort::open(PortId(index as u16), port, clock.now()).map_err(with_nearest)?);
        }
        let poller = Poller::new().context("making the control thread's epoll")?;
        let (events, received) = channel();
        let mut daemon = Daemon {
            config_summary,
            ports,
            entrances,
            uplink,
            router,
            tunnels,
            readers,
            port_count: count,
            table,
            clock,
            busy_poll: Duration::from_micros(config.busy_poll.into()),
            poller,
            events: received,
            workers: Vec::new(),
            panics: 0,
            stale: Vec::new(),
            control: None,
        };
        let mut waiting = Vec::with_capacity(workers);
        for index in 0..workers {
            let (handle, worker) =
                daemon.make_worker(events.clone(), index == 0).with_context(|| format!("making worker {index}"))?;
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

    fn make_worker(&self, events: Sender<Event>, is_first: bool) -> anyhow::Result<(Handle, Worker)> {
        let count = self.port_count;
        let counters = Arc::new(Counters::new(count));
        let mut pipeline = Pipeline::new(Arc::clone(&self.table), count, Arc::clone(&counters));
        if let Some(router) = &self.router {
            pipeline.set_router(router.for_worker());
        }
        let poller = Poller::new()?;
        let waker = poller.waker();
        let (commands, received) = channel();
        let connections = Connections {
            polls: is_first && self.router.is_some(),
            nat: self.router.as_ref().and_then(|router| router.nat().cloned()),
            busy_poll: BusyPoll::new(self.busy_poll),
            commands: received,
            events,
            control: self.poller.waker(),
        };
        let worker = Worker::new(pipeline, poller, self.clock, connections, count);
        Ok((Handle { commands, waker, counters, thread: None }, worker))
    }

    /// Answers from now on who comes to this door.
    pub(crate) fn open_to(&mut self, door: Door) -> anyhow::Result<()> {
        self.control = Some(ControlSocket::start(door, self.poller.waker())?);
        Ok(())
    }

    /// Ports, workers and the bridge, for people.
    pub(crate) fn summary(&self) -> String {
        let mut text = self.config_summary.clone();
        for port in &self.ports {
            let Some(title) = port.config.title() else { continue };
            let (place, vlan) = (place_of(&port.config), &port.config.vlan_text);
            let mtu = port.link().map(|link| link.mtu).or(port.config.mtu()).unwrap_or(0);
            let device = port.device().map_or_else(|| "waits for guests".to_owned(), Device::summary);
            let _ = writeln!(text, "port {title}{place}: {vlan}, mtu {mtu}, {device}");
        }
        text.push_str(&self.tunnels.summary());
        if let Some(outside) = self.router.as_ref().and_then(RouterControl::outside) {
            let _ = writeln!(text, "guests go out as {outside}");
        }
        if let Some(control) = &self.control {
            let _ = writeln!(text, "control socket {}", control.path().display());
        }
        text
    }

    /// Serves signals and devices until SIGTERM or SIGINT, and prints the counters at the end.
    pub(crate) fn run(mut self, signals: &Signals) -> anyhow::Result<()> {
        self.poller.add(signals.pipe(), SIGNALS).context("waiting for signals")?;
        if let Some(uplink) = &self.uplink {
            self.poller.add(uplink.watch(), UPLINK).context("listening for changes of the uplink")?;
        }
        guests::watch(&self.entrances, &self.poller)?;
        let mut next_tick = self.clock.now().after(TICK);
        let mut waiting_guests = Vec::with_capacity(self.entrances.len());
        loop {
            let now = self.clock.now();
            let uplink = self.uplink.as_ref().and_then(UplinkPort::look_at);
            let ports = self.router.as_ref().and_then(RouterControl::ports_due);
            let due = self.ports.iter().filter_map(ManagedPort::retry_at).chain(uplink).chain(ports).chain([next_tick]).min();
            let due = due.unwrap_or(next_tick);
            let note = |token: u64| waiting_guests.extend(token.checked_sub(guests::FIRST_TOKEN));
            self.poller.wait(Some(due.since(now)), note).context("waiting for signals")?;
            let arrived = signals.take();
            if arrived.report {
                crate::say(&self.report().to_string());
            }
            if arrived.reload {
                tracing::info!("nothing to read again: the configuration is the command line");
            }
            if arrived.end {
                crate::say(&self.stop().to_string());
                return Ok(());
            }
            self.hear_workers();
            self.answer_queries();
            for at in waiting_guests.drain(..) {
                self.let_in(at as usize);
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
                while self.table.expire(now, EXPIRE_BUDGET) == EXPIRE_BUDGET {
                    thread::yield_now();
                }
                for id in std::mem::take(&mut self.stale) {
                    self.table.flush(Some(id), None);
                }
                self.look_at_ports();
                self.look_at_tunnels();
                self.open_shut_entrances();
                next_tick = now.after(TICK);
            } else {
                self.look_for_gone_ports();
            }
        }
    }

    /// The MAC table's entries now. While they are collected, workers learn nothing.
    pub(crate) fn mac_entries(&self) -> Vec<MacEntry> {
        self.table.entries(self.clock.now())
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
        let mut report = Report::new(names, counters, self.table.stats(), self.panics);
        report.hide(self.ports.iter().filter(|port| port.is_unused()).map(|port| port.id));
        report.nat = self.router.as_ref().and_then(RouterControl::nat).map(|nat| nat.stats());
        report.kernel_dropped = self.uplink.as_mut().map_or(0, UplinkPort::dropped);
        report.dropped_at_ports = self.ports.iter_mut().map(|port| (port.name().to_owned(), port.dropped())).collect();
        report.datagrams_dropped = self.tunnels.dropped();
        report
    }

    /// By their numbers.
    fn port_names(&self) -> Vec<String> {
        let uplink = self.uplink.as_ref().map(|uplink| uplink.interface.clone());
        self.ports.iter().map(|port| port.name().to_owned()).chain(uplink).chain(self.tunnels.names()).collect()
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
            match event {
                Event::Gone { id, .. }
                    if id.index() > self.ports.len() || self.uplink.is_none() && id.index() == self.ports.len() =>
                {
                    tracing::error!("a tunnel's socket cannot be read any more");
                }
                Event::Gone { id, attachment } if id.index() == self.ports.len() => {
                    if self.uplink.as_ref().and_then(UplinkPort::attachment) == Some(attachment) {
                        self.lose_uplink();
                    }
                }
                Event::Gone { id, attachment } => {
                    let port = &mut self.ports[id.index()];
                    if port.attachment() == Some(attachment) {
                        port.lose(self.clock.now());
                        self.detach(id);
                    }
                }
                Event::Released(released) => drop(released),
                Event::NewSource(source) => self.add_source(source),
                Event::Panicked => {
                    self.panics += 1;
                    tracing::error!("a worker panicked; it lost the frames at hand and goes on");
                }
            }
        }
    }

    fn look_at_ports(&mut self) {
        for at in 0..self.ports.len() {
            self.look_at(at);
        }
    }

    fn look_for_gone_ports(&mut self) {
        for at in 0..self.ports.len() {
            if self.ports[at].retry_at().is_some() {
                self.look_at(at);
            }
        }
    }

    fn look_at(&mut self, at: usize) {
        let id = self.ports[at].id;
        match self.ports[at].look(self.clock.now()) {
            Found::Same => {}
            Found::Gone => self.detach(id),
            Found::Link(link) => self.change_link(id, &link),
            Found::Back => {
                tracing::info!("{} is back", self.ports[at].name());
                self.attach(at);
            }
        }
    }

    /// Gives a port's device to the workers: one reads each queue, all may write.
    fn attach(&mut self, at: usize) {
        let port = &mut self.ports[at];
        let (Some(mut ends), Some(view), Some(attachment)) = (port.ends(), port.to_pipeline(), port.attachment()) else { return };
        let (id, count, workers) = (port.id, self.readers, self.workers.len());
        self.tell_workers(|worker| {
            let (rx, tx) = match &mut ends {
                Ends::Tap(queues) => {
                    let rx = queue_to_read(queues, at, worker, count, workers).map(Source::Tap);
                    (rx, Sink::Tap(queues[(worker / count) % queues.len()].clone()))
                }
                Ends::Packet(queues, writer) => {
                    let rx = queue_to_read(queues, at, worker, count, workers);
                    (rx.map(Source::Packet), Sink::Packet(writer.clone()))
                }
                Ends::Stream(reader, writer) => {
                    let rx = reader.take_if(|_| is_read_by(at, worker, workers));
                    (rx.map(Source::Stream), Sink::Stream(writer.clone()))
                }
                Ends::Dgram(queue) => {
                    let rx = is_read_by(at, worker, workers).then(|| queue.clone());
                    (rx.map(Source::Dgram), Sink::Dgram(queue.clone()))
                }
            };
            Command::Attach { id, attachment, port: Box::new(view.clone()), rx, tx }
        });
    }

    /// Gives the uplink's sockets to the workers, and the router's way out.
    fn attach_uplink(&mut self) {
        let Some(uplink) = &self.uplink else { return };
        let (Some(socket), Some(view), Some(attachment)) = (uplink.socket(), uplink.to_pipeline(), uplink.attachment()) else {
            return;
        };
        let (queues, writer, id) = (socket.queues().to_vec(), socket.writer().clone(), uplink.id);
        let (at, count) = (self.ports.len(), self.readers);
        self.tell_workers(|worker| Command::Attach {
            id,
            attachment,
            port: Box::new(view.clone()),
            rx: queue_to_read(&queues, at, worker, count, self.workers.len()).map(Source::Packet),
            tx: Sink::Packet(writer.clone()),
        });
        self.route();
    }

    fn route(&self) {
        if let Some(router) = &self.router {
            self.tell_workers(|_| Command::Route(router.routing()));
        }
    }

    fn look_at_uplink(&mut self, now: Timestamp, in_any_case: bool) {
        let Some(uplink) = &mut self.uplink else { return };
        uplink.hear(now);
        match uplink.look(now, in_any_case) {
            UplinkFound::Same => {}
            UplinkFound::Gone => self.lose_uplink(),
            UplinkFound::Changed => {
                let (id, mtu) = (uplink.id, uplink.state().map_or(0, |state| state.mtu));
                tracing::info!("{} changed", uplink.interface);
                self.follow_uplink(now);
                self.tell_workers(|_| Command::Mtu { id, mtu });
                self.route();
            }
            UplinkFound::Back => {
                tracing::info!("{} is back", uplink.interface);
                self.follow_uplink(now);
                self.attach_uplink();
            }
        }
    }

    fn follow_uplink(&mut self, now: Timestamp) {
        if let (Some(router), Some(uplink)) = (&mut self.router, &mut self.uplink)
            && let Err(error) = router.follow(uplink, now)
        {
            tracing::warn!("{error:#}");
        }
    }

    /// The uplink's interface is gone: no way out until it is back.
    fn lose_uplink(&mut self) {
        let Some(uplink) = &mut self.uplink else { return };
        uplink.lose();
        let id = uplink.id;
        tracing::warn!("{} is gone", uplink.interface);
        self.tell_workers(|_| Command::Detach(id));
        self.forget(id);
        self.follow_uplink(self.clock.now());
        self.route();
    }

    /// A port's device is gone: its entries too, and all else goes on.
    fn detach(&mut self, id: PortId) {
        let port = &self.ports[id.index()];
        match port.config.slot() {
            Some(_) => tracing::info!("{}: the guest is gone", port.name()),
            None => tracing::warn!("{} is gone", port.name()),
        }
        self.tell_workers(|_| Command::Detach(id));
        self.forget(id);
    }

    /// Flushes a port's MAC entries, and once more at the next tick: a worker may just be learning from
    /// its last frames.
    fn forget(&mut self, id: PortId) {
        self.table.flush(Some(id), None);
        self.stale.push(id);
    }

    fn change_link(&mut self, id: PortId, link: &LinkState) {
        tracing::info!("{}: link {}, mtu {}", self.ports[id.index()].name(), if link.up { "up" } else { "down" }, link.mtu);
        self.tell_workers(|_| Command::Mtu { id, mtu: link.mtu });
        if !link.up {
            self.forget(id);
        }
    }

    fn tell_workers(&self, mut command: impl FnMut(usize) -> Command) {
        for (index, worker) in self.workers.iter().enumerate() {
            // A worker that is not there any more has said why.
            let _ = worker.commands.send(command(index));
            worker.waker.wake();
        }
    }
}

/// The uplink and the router, as far as they are asked for; there are so many ports at most.
fn open_uplink(config: &Config, ports: usize, clock: Clock) -> anyhow::Result<(Option<UplinkPort>, Option<RouterControl>)> {
    let id = PortId(config.ports.len() as u16);
    let queues = queues_of(config.ports.len(), config.readers, config.workers);
    let mut uplink = match config.uplink_interface() {
        Some(name) => {
            let nat = config.router.as_ref().and_then(|router| router.uplink.as_ref());
            let macs = nat.map_or_else(Vec::new, RouterControl::own_macs);
            Some(UplinkPort::open(id, name, queues, config.bridge_uplink.is_some(), macs).map_err(without_interface)?)
        }
        None => None,
    };
    let Some(router) = &config.router else { return Ok((uplink, None)) };
    let mut router = RouterControl::new(router.clone(), ports, config.tunnel_ports(), random_seed()?)?;
    if let Some(uplink) = uplink.as_mut().filter(|_| config.bridge_uplink.is_none()) {
        router.start(uplink, clock.now())?;
    }
    Ok((uplink, Some(router)))
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

/// What leaves by a port of the bridge would come in there and be sent into the tunnel once more.
fn check_way_out(tunnels: &TunnelControl, name: &str) -> anyhow::Result<()> {
    let addresses = netio::link::get(name).and_then(|link| netio::route::addresses(link.index));
    let addresses: Vec<Ipv4Addr> = addresses.unwrap_or_default().into_iter().map(|(address, _)| address).collect();
    match tunnels.leaves_from(&addresses) {
        Some(tunnel) => anyhow::bail!(
            "tunnel {tunnel} goes out by {name}, which is a port of the bridge: its datagrams would be bridged into it again; \
             give the tunnel another interface, or route into it (--uplink {name})"
        ),
        None => Ok(()),
    }
}

/// The error, with the name of the interface that was probably meant.
fn without_interface(error: PacketError) -> anyhow::Error {
    if let PacketError::NoInterface { name } = &error
        && let Ok(names) = netio::link::names()
        && let Some(close) = nearest(name, names.iter().map(String::as_str))
    {
        return anyhow::anyhow!("{error}; did you mean '{close}'?");
    }
    error.into()
}

/// Is this the worker that reads a port of one queue?
fn is_read_by(port: usize, worker: usize, workers: usize) -> bool {
    port % workers == worker
}

/// Which of a port's queues this worker reads: workers take ports in turn, and where there are more
/// workers than ports, the port's next queue.
fn queue_to_read<Q: Clone>(queues: &[Q], port: usize, worker: usize, ports: usize, workers: usize) -> Option<Q> {
    if workers <= ports {
        return (port % workers == worker).then(|| queues[0].clone());
    }
    (worker % ports == port).then(|| queues[worker / ports].clone())
}

fn summary_head(config: &Config) -> String {
    format!(
        "bridge br0: {}, {}, MAC table of {} entries, ageing {} s\n",
        count_of(config.ports.iter().filter(|port| port.is_bridged()).count(), "port"),
        count_of(config.workers, "worker"),
        config.mac_table_size,
        config.mac_aging_time
    )
}

/// "1 port", "2 ports".
fn count_of(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// " in namespace blue"; empty for our own.
fn place_of(port: &PortConfig) -> String {
    let netns = port.link().and_then(|(_, netns)| netns);
    netns.map_or_else(String::new, |netns| format!(" in namespace {netns}"))
}

/// The error, with the name of the namespace or interface that was probably meant.
fn with_nearest(error: DeviceError) -> anyhow::Error {
    let error = match error {
        DeviceError::Packet(error) => return without_interface(error),
        DeviceError::Tap(error) => error,
        error => return error.into(),
    };
    if let TapError::Namespace { netns, .. } = &error
        && let Ok(entries) = std::fs::read_dir(netio::netns::NAMED)
    {
        let names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        if let Some(close) = nearest(&netns.to_string(), names.iter().map(String::as_str)) {
            let hint = format!("{error}; did you mean '{close}'?");
            return anyhow::anyhow!(hint);
        }
    }
    error.into()
}

/// The MAC table's hash key: new with each start.
fn random_seed() -> anyhow::Result<[u64; 2]> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("drawing random numbers")?;
    let (first, second) = bytes.split_at(8);
    let number = |half: &[u8]| half.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Ok([number(first), number(second)])
}
