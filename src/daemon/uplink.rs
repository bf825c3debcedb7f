//! The uplink's part of the daemon: its sockets go to the workers, and its state to the router.

use packet::Timestamp;
use vswitch::PortId;

use super::ports::queue_to_read;
use super::words::without_interface;
use super::{Daemon, random_seed};
use crate::config::{Config, queues_of};
use crate::edge::router::{PortNumbers, RouterControl};
use crate::edge::uplink::{UplinkFound, UplinkPort};
use crate::worker::{Clock, Command, Sink, Source};

impl Daemon {
    /// Gives the uplink's sockets to the workers, and the router's way out.
    pub(super) fn attach_uplink(&mut self) {
        let Some(uplink) = &self.uplink else { return };
        let (Some(socket), Some(view), Some(attachment)) = (uplink.socket(), uplink.to_pipeline(), uplink.attachment()) else {
            return;
        };
        let (queues, writer, id) = (socket.queues().to_vec(), socket.writer().clone(), uplink.id);
        let (at, count) = (id.index(), self.readers);
        self.tell_workers(|worker| Command::Attach {
            id,
            attachment,
            port: Box::new(view.clone()),
            rx: queue_to_read(&queues, at, worker, count, self.workers.len()).map(Source::Packet),
            tx: Sink::Packet(writer.clone()),
        });
        self.route();
    }

    pub(super) fn route(&self) {
        if let Some(router) = &self.router {
            self.tell_workers(|_| Command::Route(router.routing()));
        }
    }

    pub(super) fn look_at_uplink(&mut self, now: Timestamp, in_any_case: bool) {
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
                self.tell_of_uplink();
            }
            UplinkFound::Back => {
                tracing::info!("{} is back", uplink.interface);
                self.follow_uplink(now);
                self.attach_uplink();
                self.tell_of_uplink();
            }
        }
    }

    pub(super) fn follow_uplink(&mut self, now: Timestamp) {
        if let (Some(router), Some(uplink)) = (&mut self.router, &mut self.uplink)
            && let Err(error) = router.follow(uplink, now)
        {
            tracing::warn!("{error:#}");
        }
    }

    /// The uplink's interface is gone: no way out until it is back.
    pub(super) fn lose_uplink(&mut self) {
        let Some(uplink) = &mut self.uplink else { return };
        uplink.lose();
        let id = uplink.id;
        tracing::warn!("{} is gone", uplink.interface);
        self.tell_workers(|_| Command::Detach(id));
        self.forget(id);
        self.follow_uplink(self.clock.now());
        self.route();
        self.tell_of_uplink();
    }
}

/// The uplink, which is a port of this number, and the router, as far as they are asked for.
pub(super) fn open_uplink(
    config: &Config,
    id: PortId,
    numbers: PortNumbers,
    clock: Clock,
) -> anyhow::Result<(Option<UplinkPort>, Option<RouterControl>)> {
    let queues = queues_of(id.index(), config.readers, config.workers);
    let mut uplink = match config.uplink_interface() {
        Some(name) => {
            let nat = config.router.as_ref().and_then(|router| router.uplink.as_ref());
            let macs = nat.map_or_else(Vec::new, RouterControl::own_macs);
            Some(
                UplinkPort::open(id, name, queues, config.bridge_uplink.as_ref().map(|uplink| uplink.bridge), macs)
                    .map_err(without_interface)?,
            )
        }
        None => None,
    };
    let Some(router) = &config.router else { return Ok((uplink, None)) };
    let mut router = RouterControl::new(router.clone(), numbers, config.tunnel_ports(), random_seed()?)?;
    if let Some(uplink) = uplink.as_mut().filter(|_| config.bridge_uplink.is_none()) {
        router.start(uplink, clock.now())?;
    }
    Ok((uplink, Some(router)))
}
