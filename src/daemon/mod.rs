//! The daemon: opens the ports, starts the workers, keeps both in step until the end.
//!
//! ```text
//!   Daemon --+-- fabric     workers, port numbers, MAC tables, counters
//!            +-- ports      devices of guests         } each attaches to the
//!            +-- edge       the uplink and the router } fabric, and follows what
//!            +-- tunnels    sockets and peers         } becomes of its devices
//!            +-- captures, traces, alarms             observers
//!            +-- control, scrape, docker              HTTP, and the queries that come by it
//! ```
//!
//! Each of these is an object of its own, in a room of its own; this one opens them in their order, and gives each its turn when
//! something has happened. Queries are answered from a read-only [`View`] of them; a new configuration is a
//! [change](reconfigure) that is prepared and committed.
//!
//! *Threads.* All of it is the control thread's. It waits in one poller for signals, the uplink's netlink socket, guests that
//! connect, workers and queries, and has every device looked at once a second, by a [thread](crate::ports::device::thread) that may
//! wait for the kernel.

mod check;
mod names;
mod queries;
mod reconfigure;
mod stats;
mod tables;
mod view;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use config::Desired;
use netio::Poller;
use packet::Timestamp;
use vswitch::{MacEntry, PortId};

use crate::cli::Flags;
use crate::control_socket::{ControlListener, ControlSocket, Scrape, ScrapeListener};
use crate::docker::{DockerDriver, DriverListener};
use crate::edge::router::{PortNumbers, RouterControl};
use crate::edge::{Edge, KeptTable, UplinkPort, places_of};
use crate::fabric::bridges::Bridges;
use crate::fabric::report::Report;
use crate::fabric::slots::{self, Slots};
use crate::fabric::{Fabric, Setup, Workers, queues_of};
use crate::model::bridge_id;
use crate::ports::{self, Ports};
use crate::service::Service;
use crate::signals::Signals;
use crate::state::upgrade::{Next, Upgrade};
use crate::state::{self, Past, State};
use crate::tunnel::{self, TunnelControl, overlay_mtu};
use crate::watch::{Alarms, Captures, Loops, Traces};
use crate::worker::{Clock, Command, Event};
pub(crate) use check::check;
use check::{check_way_out, place_of, summary_head};
use view::View;

/// How often every device is looked at, and old MAC entries and connections are taken out.
const TICK: Duration = Duration::from_secs(1);

/// Time that is spent on events of workers before others have their turn.
const TURN: Duration = Duration::from_millis(10);

/// Time limit for workers to obey a change before the next one is made.
const BARRIER_TIMEOUT: Duration = Duration::from_millis(100);

/// The poller's tokens; those of guests that connect begin at [`ports::FIRST_TOKEN`].
const SIGNALS: u64 = 0;
const UPLINK: u64 = 1;
pub(crate) const HOST: u64 = 2;

/// A running switch.
pub(crate) struct Daemon {
    config_summary: String,
    /// The configuration in force, and the flags that the daemon was started with.
    desired: Desired,
    command_line: Flags,
    started: SystemTime,
    fabric: Fabric,
    ports: Ports,
    edge: Edge,
    tunnels: TunnelControl,
    captures: Captures,
    traces: Traces,
    alarms: Alarms,
    loops: Loops,
    poller: Poller,
    control: Option<ControlSocket>,
    scrape: Option<Scrape>,
    docker: Option<DockerDriver>,
    state: State,
}

impl Daemon {
    /// Opens all ports and starts all workers; frames flow when it returns.
    ///
    /// `state` is where the state is kept while no process runs, `past` what an earlier one left.
    pub(crate) fn start(desired: Desired, command_line: Flags, mut state: State, past: &mut Past) -> anyhow::Result<Daemon> {
        let clock = Clock::start();
        let config = desired.config.clone();
        let config_summary = summary_head(&config) + &config.router_summary() + &config.tunnel_summary();
        warn(&config.warnings);
        // Without any at the start, each port that comes later has one queue.
        let readers = (config.device_count() + tunnel::socket_count(&config.tunnels, &config.ip_tunnels)).max(1);
        let workers = config.workers;
        let at_start = readers + tunnel::peer_count(&config.tunnels, &config.ip_tunnels);
        let mut slots = Slots::new(slots::capacity(config.max_ports));
        let capacity = slots.capacity();
        let ids = slots.take_many(config.ports.len()).context("too many ports")?;
        let uplink_id = slots.take_many(usize::from(config.uplink_interface().is_some())).context("too many ports")?;
        let bridges = Bridges::new(config.bridges.clone(), &config.occupied_bridges(), capacity)?;
        // First the tunnels' sockets, because the router reserves any free ports; then the uplink, so that nothing is
        // created if it cannot be opened.
        let queues = |id: PortId| queues_of(id.index(), readers, workers);
        let tunnels = TunnelControl::open(&config.tunnels, &config.ip_tunnels, &mut slots, queues)?;
        let numbers = PortNumbers { at_start, capacity };
        let kept = if state.outlives() { KeptTable::after(past.connections(), places_of(&config)) } else { KeptTable::default() };
        let uplink_id = uplink_id.first().copied().unwrap_or(PortId(0));
        let edge = Edge::open(&config, (uplink_id, queues(uplink_id)), numbers, kept, clock)?;
        tunnels.add_statics(|bridge| bridges.table(bridge), |_| true)?;
        let shared = config.ports.iter().filter_map(|port| Some((bridge_id(port.bridge), port.shared_interface()?)));
        let uplinks = config.bridge_uplink.iter().map(|uplink| (bridge_id(uplink.bridge), uplink.interface.as_str()));
        for (bridge, name) in shared.chain(uplinks) {
            check_way_out(bridge, name, |bridge, from| tunnels.leaves_from(bridge, from))?;
        }
        warn(&tunnels.ways_missing());
        let mut mtus = HashMap::with_capacity(config.bridges.len());
        for bridge in &config.bridges {
            let (mtu, warnings) = overlay_mtu(&tunnels, &config.ports, bridge_id(bridge.number));
            warn(&warnings);
            mtus.insert(bridge.number, mtu);
        }
        let bridged = config.ports.iter().filter(|port| port.is_bridged()).count();
        let configs = config.ports.into_iter().enumerate().map(|(index, mut port)| {
            port.propose_mtu(if port.is_bridged() {
                mtus.get(&port.bridge).copied().flatten()
            } else {
                tunnels.ip_mtu(index - bridged)
            });
            port
        });
        let ports = Ports::open(ids.into_iter().zip(configs), queues, (past, &mut state.keeper), clock.now())?;
        repair_interfaces();
        let poller = Poller::new().context("making the control thread's epoll")?;
        let setup = Setup {
            workers,
            readers,
            capacity,
            bridges: &bridges,
            router: &|| edge.router.as_ref().map(RouterControl::for_worker),
            nat: edge.nat().cloned(),
            clock,
            busy_poll: Duration::from_micros(config.busy_poll.into()),
            control: poller.waker(),
        };
        let workers = Workers::new(&setup)?;
        let mut daemon = Daemon {
            config_summary,
            desired,
            command_line,
            started: SystemTime::now(),
            fabric: Fabric::new(workers, slots, bridges, clock),
            ports,
            edge,
            tunnels,
            captures: Captures::default(),
            traces: Traces::default(),
            alarms: Alarms::default(),
            loops: Loops::default(),
            poller,
            control: None,
            scrape: None,
            docker: None,
            state,
        };
        daemon.ports.start_thread(daemon.poller.waker())?;
        daemon.attach_all()?;
        daemon.set_host();
        daemon.fabric.workers.start()?;
        // After all devices, which must not lack descriptors.
        daemon.edge.take_ports();
        Ok(daemon)
    }

    /// Attaches all ports before the first worker runs, so that none sees a bridge with half of its ports.
    fn attach_all(&mut self) -> anyhow::Result<()> {
        self.ports.attach_all(&self.fabric);
        self.edge.attach(&self.fabric);
        let tun_ports = self.ports.iter().filter(|port| !port.config.is_bridged()).map(|port| port.id);
        self.tunnels.attach_all(tun_ports, &self.fabric)
    }

    /// The host becomes a neighbour of the guests whose networks say so, and of no others.
    fn set_host(&mut self) {
        if let Some(closed) = self.edge.set_host(&mut self.fabric, &self.poller) {
            self.ports.discard(closed);
        }
        self.edge.serve_local_clients();
    }

    /// Serves the control socket from now on.
    pub(crate) fn open_to(&mut self, listener: ControlListener) -> anyhow::Result<()> {
        self.control = Some(ControlSocket::start(listener, self.fabric.events.sender(), self.poller.waker())?);
        Ok(())
    }

    /// Serves metrics over TCP from now on.
    pub(crate) fn open_to_scrapers(&mut self, listener: ScrapeListener) -> anyhow::Result<()> {
        self.scrape = Some(Scrape::start(listener, self.poller.waker())?);
        Ok(())
    }

    /// Serves dockerd from now on.
    pub(crate) fn open_to_docker(&mut self, listener: DriverListener) -> anyhow::Result<()> {
        self.docker = Some(DockerDriver::start(listener, self.poller.waker())?);
        Ok(())
    }

    /// The start's summary: bridges, ports, tunnels, the router, and where to ask.
    pub(crate) fn summary(&self) -> String {
        let mut text = self.config_summary.clone();
        for port in self.ports.iter() {
            let Some(title) = port.config.title() else { continue };
            let (place, vlan) = (place_of(&port.config), port.config.vlan_text());
            let bridge =
                self.fabric.bridges.name_among_several(bridge_id(port.config.bridge)).filter(|_| port.config.is_bridged());
            let on = bridge.map_or_else(String::new, |name| format!(" on {name}"));
            let mtu = port.link().map(|link| link.mtu).or(port.config.mtu).unwrap_or(0);
            let device = match port.device() {
                Some(device) => device.summary(),
                None if port.is_awaited() => "waits for its device".to_owned(),
                None => "waits for guests".to_owned(),
            };
            let _ = writeln!(text, "port {title}{place}{on}: {vlan}, mtu {mtu}, {device}");
        }
        text.push_str(&self.tunnels.summary());
        if let Some(outside) = self.edge.router.as_ref().and_then(RouterControl::outside) {
            let _ = writeln!(text, "guests go out as {outside}");
        }
        if let Some(control) = &self.control {
            let _ = writeln!(text, "control socket {}", control.summary());
        }
        if let Some(state) = &self.state.directory {
            let _ = writeln!(text, "state in {}", state.path().display());
        }
        if let Some(scrape) = &self.scrape {
            let _ = writeln!(text, "metrics http://{}/metrics", scrape.address());
        }
        if let Some(docker) = &self.docker {
            let _ = writeln!(text, "docker driver {}", docker.path().display());
        }
        text
    }

    /// Serves signals and devices until SIGTERM, SIGINT or an upgrade, and prints the counters at the end.
    ///
    /// Returns what goes on after this program.
    pub(crate) fn run(mut self, signals: &Signals, mut service: Service) -> anyhow::Result<Option<Next>> {
        self.poller.add(signals.pipe(), SIGNALS).context("waiting for signals")?;
        self.edge.watch(&self.poller, UPLINK).context("listening for changes of the uplink")?;
        self.ports.watch(&self.poller)?;
        let mut next_tick = self.fabric.now().after(TICK);
        let mut waiting_guests = Vec::new();
        // What failed is tried again once a second.
        let mut has_failed = false;
        if service.is_there() {
            service.ready(&self.view().status());
        }
        loop {
            self.wait(next_tick, &mut waiting_guests)?;
            if self.serve(signals, &mut service) {
                return self.next(signals, &service);
            }
            for token in waiting_guests.drain(..) {
                self.ports.let_in(token, &self.poller, &mut self.fabric);
            }
            let mut has_more = self.ports.hear_of_devices(&mut self.fabric);
            has_more |= self.hear_of_workers();
            self.ports.close_lost();
            if has_more {
                self.poller.waker().wake();
            }
            let now = self.fabric.now();
            let is_tick = now >= next_tick;
            if !has_failed || is_tick {
                has_failed = !self.remove_ports_that_are_over();
            }
            let table = self.edge.kept_table().map(|(generation, _)| generation);
            self.edge.look(now, is_tick, &mut self.fabric);
            if self.edge.kept_table().map(|(generation, _)| generation) != table {
                // That of this process, as soon as it has the connections.
                self.keep();
            }
            if let Some(closed) = self.edge.look_at_host(now, is_tick, &mut self.fabric, &self.poller) {
                self.ports.discard(closed);
            }
            if is_tick {
                self.tick(now, &mut service);
                next_tick = now.after(TICK);
            } else {
                self.ports.look_for_gone(&mut self.fabric);
            }
        }
    }

    /// Waits until something happens, or is due; collects the entrances at which guests wait.
    fn wait(&self, next_tick: Timestamp, waiting_guests: &mut Vec<u64>) -> anyhow::Result<()> {
        let due = self.ports.due().into_iter().chain(self.edge.due()).fold(next_tick, Timestamp::min);
        let note = |token: u64| waiting_guests.extend((token >= ports::FIRST_TOKEN).then_some(token));
        self.poller.wait(Some(due.since(self.fabric.now())), note).context("waiting for signals")?;
        Ok(())
    }

    /// Serves signals, workers and queries. Returns whether the end has come.
    fn serve(&mut self, signals: &Signals, service: &mut Service) -> bool {
        let arrived = signals.take();
        if arrived.report {
            crate::say(&self.report().to_string());
        }
        if arrived.reload {
            service.reloading();
            self.read_again();
            // Also after a failed reload: the service manager waits for this message.
            service.ready(&self.view().status());
        }
        if arrived.is_end() {
            self.state.next = None;
            service.stopping();
            self.end(arrived.end_for_good);
            return true;
        }
        self.answer_queries();
        self.captures.end_unread(&self.fabric);
        if self.state.next.as_ref().is_some_and(|upgrade| upgrade.begin.is_set()) {
            // Not the end: the next program says READY=1.
            service.reloading();
            self.end(false);
            return true;
        }
        false
    }

    /// Ends the work. `for_good`, nothing outlives the process.
    fn end(&mut self, for_good: bool) {
        if for_good {
            self.let_go();
        } else {
            self.keep();
        }
        crate::say(&self.stop().to_string());
    }

    /// Nothing outlives the process.
    fn let_go(&mut self) {
        self.ports.let_all_go();
        self.state.keeper.end();
    }

    /// Hears events of workers for a short time. Returns whether there are more.
    fn hear_of_workers(&mut self) -> bool {
        let end = self.fabric.now().after(TURN);
        while self.fabric.now() < end {
            let Some(event) = self.fabric.workers.next_event() else { return false };
            self.hear(event);
        }
        true
    }

    /// From now on devices outlive the process. What the earlier one left and nobody has taken up ends.
    pub(crate) fn outlive(&mut self, past: Past) {
        self.keep();
        self.state.keeper.forget_left();
        past.end();
    }

    /// The program that goes on, with the descriptors of what outlives this one; none if a signal has come meanwhile.
    fn next(&mut self, signals: &Signals, service: &Service) -> anyhow::Result<Option<Next>> {
        let Some(Upgrade { program, .. }) = self.state.next.take() else { return Ok(None) };
        let arrived = signals.take();
        if arrived.end_for_good {
            self.let_go();
        }
        if arrived.is_end() {
            service.stopping();
            return Ok(None);
        }
        let kept = self.ports.kept().chain(state::others(self.edge.gate_link(), self.edge.kept_table()));
        let docker = self.docker.as_ref().and_then(DockerDriver::passed).map(|socket| (state::DOCKER.to_owned(), socket));
        let kept = kept.chain(docker);
        let own = |(name, descriptor): (String, BorrowedFd<'_>)| Ok((name, descriptor.try_clone_to_owned()?));
        let descriptors = kept.map(own).collect::<std::io::Result<_>>().context("handing descriptors over")?;
        Ok(Some(Next { program, descriptors }))
    }

    /// Lets what is to outlive the process do so, as far as it is new.
    fn keep(&mut self) {
        let Daemon { state, ports, edge, .. } = self;
        if state.outlives() {
            ports.keep(&mut state.keeper);
        }
        state.keeper.keep_gate(edge.gate_link());
        state.keeper.keep_connections(edge.kept_table());
    }

    /// Once a second.
    fn tick(&mut self, now: Timestamp, service: &mut Service) {
        self.edge.tick(now, &mut self.fabric);
        self.edge.serve_local_clients();
        self.fabric.tick(now);
        self.ports.look(&mut self.fabric);
        self.tunnels.tick(&mut self.fabric);
        self.ports.open_shut_entrances(&self.poller);
        let names = if self.fabric.events.has_readers() { self.view().port_names() } else { Vec::new() };
        self.watch_loops();
        self.alarms.tick(&names, &self.edge, &mut self.fabric);
        self.traces.tick(&self.fabric);
        crate::log::tick();
        self.state.keeper.look();
        self.keep();
        if service.is_there() {
            service.status(&self.view().status());
            if let Some(answers) = service.next_round(self.fabric.workers.len()) {
                self.fabric.tell(|_| Command::Answer(answers.clone()));
            }
        }
    }

    /// Reports what the loop guards did.
    fn watch_loops(&mut self) {
        let mut loops = std::mem::take(&mut self.loops);
        let news = loops.look(&self.fabric);
        if !news.is_empty() {
            let names = self.view().port_names();
            news.tell(&names, &mut self.fabric);
        }
        self.loops = loops;
    }

    /// The MAC entries of each bridge now.
    pub(crate) fn mac_entries(&self) -> Vec<(String, Vec<MacEntry>)> {
        self.fabric.bridges.entries(self.fabric.now())
    }

    /// The router's connections now.
    pub(crate) fn connections(&self) -> Vec<nat::Connection> {
        self.edge.nat().map_or_else(Vec::new, |nat| nat.connections(self.fabric.now()))
    }

    /// The counters now.
    pub(crate) fn report(&mut self) -> Report {
        let mut report = self.fabric.report(self.view().port_names());
        report.hide(self.ports.iter().filter(|port| port.is_unused()).map(|port| port.id));
        report.nat = self.edge.nat().map(|nat| nat.stats());
        report.uplink = self.edge.uplink.as_ref().map(|uplink| uplink.id);
        report.kernel_dropped = self.edge.uplink.as_mut().map_or(0, UplinkPort::dropped);
        report.note_dropped(self.ports.dropped());
        report.datagrams_dropped = self.tunnels.dropped();
        report
    }

    /// Ends all workers and returns the counters, up to the last frame.
    pub(crate) fn stop(&mut self) -> Report {
        self.fabric.workers.stop();
        self.ports.look_finally(&mut self.fabric);
        self.report()
    }

    fn view(&self) -> View<'_> {
        let Daemon { fabric, ports, edge, tunnels, desired, started, state, .. } = self;
        View { fabric, ports, edge, tunnels, config: &desired.config, state_problem: state.problem(), started: *started }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Gone { id, attachment } => {
                let is_known = self.ports.hear_of_gone(id, attachment, &mut self.fabric)
                    || self.edge.hear_of_gone(id, attachment, &mut self.fabric);
                if !is_known && let Some(socket) = self.tunnels.sockets().iter().find(|socket| socket.id == id) {
                    tracing::error!(socket = socket.name(), "a tunnel's socket cannot be read any more");
                }
            }
            Event::Obeyed(rest) => {
                let ids = self.fabric.obeyed(rest);
                self.edge.disown(&ids);
                self.fabric.free(&ids);
                self.settle();
            }
            Event::Released(released) if released.is_of_device() => self.ports.discard(released),
            Event::Released(released) => drop(released),
            Event::NewSource(source) => {
                if let Some(added) = self.tunnels.add_source(source, &mut self.fabric) {
                    self.name_in_traces();
                    self.tunnels.attach_source(added, &mut self.fabric);
                }
            }
            Event::Panicked => {
                self.fabric.panics += 1;
                tracing::error!("a worker panicked; it lost the frames at hand and goes on");
            }
        }
    }

    /// Nothing is left of networks and guests that went, once no worker has anything of before at hand.
    fn settle(&mut self) {
        let now = self.fabric.now();
        if let Some(router) = self.edge.router.as_mut().filter(|_| !self.fabric.slots.is_resting()) {
            router.cut_off_again(now);
        }
    }

    /// Waits until workers have let go of what was taken away before, so that its name and port can be had again. They take
    /// a few microseconds; one that takes longer than [`BARRIER_TIMEOUT`] is not waited for.
    fn let_workers_obey(&mut self) {
        let end = self.fabric.now().after(BARRIER_TIMEOUT);
        while self.fabric.slots.is_resting() {
            let left = end.since(self.fabric.now());
            let Some(event) = self.fabric.workers.wait_for_event(left) else { return };
            self.hear(event);
        }
        self.ports.wait_until_closed(end, &mut self.fabric);
    }

    /// Gives the names of new ports to live traces, if there are any.
    fn name_in_traces(&self) {
        if !self.traces.is_empty() {
            self.traces.take_in(self.view().port_names());
        }
    }
}

/// Restores what daemons that were killed had changed of interfaces that are not ports of this one.
fn repair_interfaces() {
    match netio::silence::repair() {
        Ok(names) => {
            for interface in names {
                tracing::info!(interface, "ARP and IPv6 of the host are on again, which a daemon that was killed had turned off");
            }
        }
        Err(error) => tracing::debug!(%error, "cannot look for interfaces that a daemon that was killed has changed"),
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
