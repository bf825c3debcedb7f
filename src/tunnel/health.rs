//! What is wrong at the far end of tunnels, as far as it shows here: other identifiers, other addresses, silence.
//!
//! Counters say that datagrams are dropped, and not why. Once a second each receiving socket is asked for
//! [senders that are no peers](tunnel::Strangers), and each peer for the time when it was last heard: no packet costs more.

use std::time::Duration;

use packet::Timestamp;
use tunnel::Stranger;
use vswitch::PortId;

use super::PeerControl;
use super::TunnelControl;
use super::socket::SocketControl;
use crate::fabric::Fabric;

/// Frames sent to a peer, and the time, after which its silence is a problem if nothing was ever heard from it.
const UNHEARD_FRAMES: u64 = 10;
const UNHEARD: Duration = Duration::from_secs(60);

/// When a peer was heard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hearing {
    /// The first look, and the frames that were counted under its number until then.
    first: Option<(Timestamp, u64)>,
    /// Frames counted at the last look.
    count: u64,
    /// The last look at which there were more.
    last: Option<Timestamp>,
}

impl Hearing {
    fn look(&mut self, count: u64, now: Timestamp) {
        match self.first {
            None => self.first = Some((now, count)),
            Some(_) if count > self.count => self.last = Some(now),
            Some(_) => {}
        }
        self.count = count;
    }

    /// Seconds since it was heard, if it was; `received` frames have come from it.
    pub(super) fn last(&self, received: u64, now: Timestamp) -> Option<u64> {
        let before_first = self.first.filter(|_| received > 0).map(|(first, _)| first);
        // A frame of the last second may not have been looked at yet.
        let last = self.last.or(before_first).or((received > 0).then_some(now))?;
        Some(now.since(last).as_secs())
    }

    fn since_first(&self, now: Timestamp) -> Duration {
        self.first.map_or(Duration::ZERO, |(first, _)| now.since(first))
    }
}

impl TunnelControl {
    /// Once a second: looks for strangers, and for peers that were heard.
    pub(super) fn look_at_far_ends(&mut self, fabric: &Fabric) {
        let now = fabric.now();
        self.sockets.iter_mut().for_each(|socket| socket.look_for_strangers(now));
        for peer in &mut self.peers {
            peer.hearing.look(received(peer.id, fabric), now);
        }
    }

    /// A line for each fault at a far end. `counted` are the frames received from a peer and sent to it.
    pub(crate) fn far_ends(&self, now: Timestamp, counted: impl Fn(PortId) -> (u64, u64)) -> Vec<String> {
        let strangers = self.sockets.iter().flat_map(|socket| {
            let [vni, peer] = socket.strangers_now(now);
            [vni.map(|stranger| self.unknown_vni(socket, stranger)), peer.map(|stranger| self.unknown_peer(socket, stranger))]
        });
        let silent = self.peers.iter().filter_map(|peer| {
            let (received, sent) = counted(peer.id);
            let is_silent = received == 0 && sent >= UNHEARD_FRAMES && peer.hearing.since_first(now) >= UNHEARD;
            let spec = self.spec_of(peer);
            let source = peer.source().map_or_else(|| "this host".to_owned(), |source| source.to_string());
            is_silent.then(|| {
                format!(
                    "tunnel {}: nothing was ever heard from {}, and {sent} frames were sent to it: is {source} a remote there, and does \
                     a firewall let UDP port {} pass?",
                    spec.name, peer.address, spec.port
                )
            })
        });
        strangers.flatten().chain(silent).collect()
    }

    /// Why no frame of a peer arrives although it sends.
    pub(crate) fn far_end_of(&self, peer: &PeerControl, now: Timestamp) -> Option<String> {
        let socket = &self.sockets[self.tunnels[peer.tunnel].socket];
        let stranger = socket.strangers_now(now)[0].filter(|stranger| stranger.from == peer.address)?;
        Some(format!("it sends with {}", vni_text(stranger.vni)))
    }

    fn unknown_vni(&self, socket: &SocketControl, Stranger { vni, from }: Stranger) -> String {
        let vni = vni_text(vni);
        match self.peers.iter().find(|peer| peer.address == from) {
            Some(peer) => {
                let spec = self.spec_of(peer);
                let own = spec.framing.vni().map_or_else(String::new, |vni| format!(", and VNI {vni} is expected"));
                format!("tunnel {}: {from} sends with {vni}{own}: is the far end's vni right?", spec.name)
            }
            None => {
                let name = socket.name();
                format!("socket {name}: {from} sends with {vni}, which no tunnel here has: is the far end's vni right?")
            }
        }
    }

    fn unknown_peer(&self, socket: &SocketControl, Stranger { vni, from }: Stranger) -> String {
        let tunnel =
            self.tunnels.iter().find(|tunnel| tunnel.spec.framing.vni() == vni && self.sockets[tunnel.socket].id == socket.id);
        let name = tunnel.map_or_else(|| format!("socket {}", socket.name()), |tunnel| format!("tunnel {}", tunnel.spec.name));
        format!("{name}: {from} sends, and is no remote of it: add it to remote=, or correct the far end's local= or remote=")
    }
}

fn vni_text(vni: Option<::tunnel::Vni>) -> String {
    vni.map_or_else(|| "no VNI".to_owned(), |vni| format!("VNI {vni}"))
}

/// Frames counted as received under a port's number.
fn received(id: PortId, fabric: &Fabric) -> u64 {
    fabric.workers.counters().filter_map(|counters| counters.port(id)).map(|port| port.rx_frames.load()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_was_last_heard_when_its_counter_last_grew() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let mut hearing = Hearing::default();
        assert_eq!((hearing.last(0, at(0)), hearing.last(1, at(0))), (None, Some(0)));
        // Another port had the number before.
        hearing.look(500, at(1));
        assert_eq!((hearing.last(0, at(2)), hearing.since_first(at(61))), (None, Duration::from_secs(60)));
        assert_eq!(hearing.last(3, at(5)), Some(4), "before the first look");
        hearing.look(501, at(9));
        hearing.look(501, at(10));
        assert_eq!(hearing.last(1, at(12)), Some(3));
    }
}
