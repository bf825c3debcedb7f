//! The switch's edge: the uplink, and the control side of the router that translates behind it.
//!
//! The uplink is a port with a number like others. In bridge mode that is all; in NAT mode the router sends through it, and
//! every change of its interface, addresses and routes becomes a new way out for the workers
//! ([`router::RouterControl::follow`]).
//!
//! *Changes* of the interface are notified by netlink and read when they have settled, and in any case once per second.
//!
//! *Threads.* Owned by the control thread. Workers share the translation and the neighbours, and get a new routing snapshot
//! with each change.

mod door;
mod gate;
mod host;
mod local;
mod reserve;
pub(crate) mod router;
mod uplink;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use api::What;
use config::Config;
use netio::{Poller, PortReader, PortWriter, packet_socket};
use packet::Timestamp;
use vswitch::{Interface, PortId};

use crate::fabric::Fabric;
use crate::hints::without_interface;
use crate::model::bridge_id;
use crate::seed::random_seed;
use crate::worker::{Clock, Command, Sink, Source};
use gate::Lost;
pub(crate) use host::{HostDevice, HostNeighbour};
use local::LocalClients;
use router::{CutOff, PortNumbers, RouterControl};
pub(crate) use router::{KeptTable, places_of};
use uplink::UplinkFound;
pub(crate) use uplink::UplinkPort;

/// Maximum number of ports that the host's programs took, told at a time.
const TOLD_AT_ONCE: usize = 16;

/// Room for neighbours, however small the MAC tables are.
const FEWEST_NEIGHBOURS: usize = 1024;

/// The uplink and the router, as far as the configuration has them.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) uplink: Option<UplinkPort>,
    pub(crate) router: Option<RouterControl>,
    pub(crate) host: HostNeighbour,
    local: LocalClients,
}

impl Edge {
    /// Opens the uplink, which gets the number `id` and this many queues, and makes the router, with this connection table.
    pub(crate) fn open(
        config: &Config,
        (id, queues): (PortId, usize),
        numbers: PortNumbers,
        kept: KeptTable,
        clock: Clock,
    ) -> anyhow::Result<Edge> {
        let bridge = config.bridge_uplink.as_ref().map(|uplink| bridge_id(uplink.bridge));
        let nat = config.router.as_ref().and_then(|router| router.uplink.as_ref());
        let macs = nat.map_or_else(Vec::new, RouterControl::own_macs);
        let open = |name| UplinkPort::open(id, name, queues, bridge, macs).map_err(without_interface);
        let mut uplink = config.uplink_interface().map(open).transpose()?;
        let Some(router) = &config.router else {
            return Ok(Edge { uplink, router: None, host: HostNeighbour::default(), local: LocalClients::default() });
        };
        let mut router =
            RouterControl::new(router.clone(), numbers, neighbours(config), config.tunnel_ports(), (kept, random_seed()?))?;
        if let Some(uplink) = uplink.as_mut().filter(|_| config.bridge_uplink.is_none()) {
            router.start(uplink, clock.now())?;
        }
        Ok(Edge { uplink, router: Some(router), host: HostNeighbour::default(), local: LocalClients::default() })
    }

    /// The translation, if guests are translated.
    pub(crate) fn nat(&self) -> Option<&Arc<nat::Nat>> {
        self.router.as_ref().and_then(RouterControl::nat)
    }

    /// What holds the gate on the uplink, with a number that changes with it.
    pub(crate) fn gate_link(&self) -> Option<(u64, BorrowedFd<'_>)> {
        self.router.as_ref().and_then(RouterControl::gate_link)
    }

    /// What holds the connection table, with its generation.
    pub(crate) fn kept_table(&self) -> Option<(u64, BorrowedFd<'_>)> {
        self.router.as_ref().and_then(RouterControl::kept_table)
    }

    /// The router's networks inside.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &Interface> + Clone {
        self.router.iter().flat_map(RouterControl::interfaces)
    }

    /// A router for the first gateways, if there is none yet and gateways are to be added. It has no way out.
    pub(crate) fn prepare_router(&self, config: &Config, numbers: PortNumbers) -> anyhow::Result<Option<RouterControl>> {
        let Some(router) = config.router.as_ref().filter(|_| self.router.is_none()) else { return Ok(None) };
        let empty = config::Router { gateways: Vec::new(), routes: Vec::new(), ..router.clone() };
        RouterControl::new(empty, numbers, neighbours(config), config.tunnel_ports(), (KeptTable::default(), random_seed()?))
            .map(Some)
    }

    /// Gives workers their side of the first router.
    pub(crate) fn begin_to_route(&mut self, router: RouterControl, fabric: &Fabric) {
        let (routing, neighbours) = (router.routing(), router.shared_neighbours());
        fabric.tell(|worker| Command::Router {
            routing: Arc::clone(&routing),
            neighbours: Arc::clone(&neighbours),
            polls: worker == 0,
        });
        self.router = Some(router);
    }

    /// Waits with this poller for changes of the uplink.
    pub(crate) fn watch(&self, poller: &Poller, token: u64) -> std::io::Result<()> {
        self.uplink.as_ref().map_or(Ok(()), |uplink| poller.add(uplink.watch(), token))
    }

    /// When there is something to do next.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let uplink = self.uplink.as_ref().and_then(UplinkPort::look_at);
        let ports = self.router.as_ref().and_then(RouterControl::ports_due);
        uplink.into_iter().chain(ports).chain(self.host.due()).min()
    }

    /// Gives the uplink's sockets to the workers, and the router's way out.
    pub(crate) fn attach(&self, fabric: &Fabric) {
        let Some(uplink) = &self.uplink else { return };
        let (Some(socket), Some(view), Some(attachment)) = (uplink.socket(), uplink.to_pipeline(), uplink.attachment()) else {
            return;
        };
        let (queues, writer, id): (_, &packet_socket::Writer, _) = (socket.queues(), socket.writer(), uplink.id);
        fabric.tell(|worker| Command::Attach {
            id,
            attachment,
            port: Box::new(view.clone()),
            rx: fabric.workers.queue_to_read(queues, id, worker).map(|queue| Source::Port(PortReader::Packet(queue))),
            tx: Sink::Port(PortWriter::Packet(writer.clone())),
        });
        self.route(fabric);
    }

    /// Gives the router's networks and its way out to the workers.
    pub(crate) fn route(&self, fabric: &Fabric) {
        if let Some(router) = &self.router {
            fabric.tell(|_| Command::Route(router.routing()));
        }
    }

    /// Looks how the uplink is, if a change of it has settled, or `in_any_case`; and takes ports of the host that workers want
    /// for the translation.
    pub(crate) fn look(&mut self, now: Timestamp, in_any_case: bool, fabric: &mut Fabric) {
        self.look_at_uplink(now, in_any_case, fabric);
        if let Some(router) = &mut self.router {
            router.serve_ports(now);
        }
    }

    fn look_at_uplink(&mut self, now: Timestamp, in_any_case: bool, fabric: &mut Fabric) {
        let Some(uplink) = &mut self.uplink else { return };
        if uplink.hear(now)
            && let Some(router) = &mut self.router
        {
            router.guard_interface(&uplink.interface);
        }
        match uplink.look(now, in_any_case) {
            UplinkFound::Same => {}
            UplinkFound::Gone => self.lose_uplink(fabric),
            UplinkFound::Changed => {
                let (id, mtu) = (uplink.id, uplink.state().map_or(0, |state| state.mtu));
                tracing::info!(uplink = uplink.interface, "the uplink's addresses, routes or link changed");
                self.follow_uplink(now);
                fabric.tell(|_| Command::Mtu { id, mtu });
                self.route(fabric);
                self.announce(fabric);
            }
            UplinkFound::Back => {
                tracing::info!(uplink = uplink.interface, "the uplink is back");
                self.follow_uplink(now);
                self.attach(fabric);
                self.announce(fabric);
            }
        }
    }

    /// A worker could not read the socket of this number and attachment. Returns whether the number is the uplink's.
    pub(crate) fn hear_of_gone(&mut self, id: PortId, attachment: u64, fabric: &mut Fabric) -> bool {
        if self.hear_of_gone_host(id, attachment) {
            return true;
        }
        let Some(uplink) = self.uplink.as_ref().filter(|uplink| uplink.id == id) else { return false };
        // Late news of an earlier attachment is ignored.
        if uplink.attachment() == Some(attachment) {
            self.lose_uplink(fabric);
        }
        true
    }

    /// The uplink's interface is gone: no way out until it is back.
    fn lose_uplink(&mut self, fabric: &mut Fabric) {
        let Some(uplink) = &mut self.uplink else { return };
        uplink.lose();
        let id = uplink.id;
        tracing::warn!(uplink = uplink.interface, "the uplink is gone; waiting for an interface of this name");
        fabric.tell(|_| Command::Detach(id));
        fabric.flush(id);
        self.follow_uplink(fabric.now());
        self.route(fabric);
        self.announce(fabric);
    }

    /// Puts rules for whole own addresses in force, and gives workers what changes by that.
    pub(crate) fn follow_rules(&mut self, fabric: &Fabric) {
        self.follow_uplink(fabric.now());
        self.route(fabric);
    }

    fn follow_uplink(&mut self, now: Timestamp) {
        if let (Some(router), Some(uplink)) = (&mut self.router, &mut self.uplink)
            && let Err(error) = router.follow(uplink, now)
        {
            tracing::warn!(
                uplink = uplink.interface,
                error = format!("{error:#}"),
                "not all of the uplink's addresses are in use"
            );
        }
    }

    /// Sends an event about the uplink's state.
    fn announce(&self, fabric: &mut Fabric) {
        let Some(uplink) = &self.uplink else { return };
        let outside = self.router.as_ref().and_then(RouterControl::outside).map(|address| address.to_string());
        let (interface, state) = (uplink.interface.clone(), uplink.shown_state());
        fabric.events.tell(What::UplinkChanged { interface, state, outside });
    }

    /// Once a second: expired connections end, unused ports go back to the host, and the host's programs get theirs.
    pub(crate) fn tick(&mut self, now: Timestamp, fabric: &mut Fabric) {
        let Some(router) = &mut self.router else { return };
        router.tick(now);
        for (at, Lost { protocol, port }) in router.look_at_host(now).into_iter().enumerate().take(TOLD_AT_ONCE) {
            let protocol = protocol.to_string();
            // Finding the process takes a search of all.
            let process = if at == 0 { reserve::program_of(&protocol, port) } else { None };
            tracing::info!(
                protocol,
                port,
                program = process.as_deref().unwrap_or("-"),
                "a program of the host took a guest's port"
            );
            fabric.events.tell(What::HostTookPort { protocol, port, program: process });
        }
    }

    /// Takes the first ports of the host, where they are taken in advance; after all devices are open.
    pub(crate) fn take_ports(&mut self) {
        if let Some(router) = &mut self.router {
            router.take_ports();
        }
    }

    /// Serves published ports to programs of the host, by the rules that there are now.
    pub(crate) fn serve_local_clients(&mut self) {
        let rules = match (&self.router, self.host.device()) {
            (Some(router), Some(_)) => router.rules_for_host(),
            _ => Default::default(),
        };
        let address = self.router.as_ref().and_then(RouterControl::shared_address);
        self.local.serve(rules, address);
    }

    /// Programs of the host reach nothing of these guests any more, unless they begin anew.
    pub(crate) fn end_local_clients(&self, gone: &CutOff) {
        self.local.end(gone.networks());
    }

    /// These numbers are no ports any more: shared tables hold nothing of them from now on.
    pub(crate) fn disown(&self, ids: &[PortId]) {
        if let Some(nat) = self.nat() {
            ids.iter().for_each(|id| nat.disown(id.0));
        }
        if let Some(router) = &self.router {
            router.neighbours().disown(ids);
        }
    }
}

/// Maximum number of neighbours of a router that begins with this configuration: as many as its bridges know MAC addresses.
fn neighbours(config: &Config) -> usize {
    config.bridges.iter().map(|bridge| bridge.mac_table_size).sum::<usize>().max(FEWEST_NEIGHBOURS)
}
