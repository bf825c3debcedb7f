//! The control thread's view of the uplink: its interface appears, changes and disappears.
//!
//! ```text
//!            opened                        interface deleted or moved away
//!  (start) ---------> attached <--------+ ---------------------------> gone
//!                      |    ^           |                               |
//!        address, route,|   | told to   +-------------------------------+
//!        carrier, MTU   v   | workers        an interface of that name
//!                      changed
//! ```
//!
//! The interface is in the daemon's own namespace, so netlink reports its changes. They come in bursts (an address flap is
//! a dozen messages), so the state is read a tenth of a second after the first message.

use std::io;
use std::time::Duration;

use api::State;
use netio::packet_socket::{Filter, PacketError, PacketSocket, PacketSpec};
use netio::route::{UplinkState, Watch, uplink_state};
use packet::{Features, MacAddr, Timestamp};
use vswitch::{BridgeId, Coalesce, Port, PortId, PortKind, PortVlan, StormLimits};

/// Changes of the interface within this time count as one.
const SETTLE: Duration = Duration::from_millis(100);

/// The uplink's place among the ports and its interface, if that is there now.
#[derive(Debug)]
pub(crate) struct UplinkPort {
    pub(crate) id: PortId,
    pub(crate) interface: String,
    queues: usize,
    /// Its bridge, in bridge mode; `None` if the router sends through it.
    bridge: Option<BridgeId>,
    own_macs: Vec<MacAddr>,
    filter: Option<Filter>,
    device: Option<(PacketSocket, UplinkState)>,
    attachments: u64,
    watch: Watch,
    changed_at: Option<Timestamp>,
    /// Frames that earlier sockets dropped for want of room.
    dropped_before: u64,
}

/// The result of a check of the uplink.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UplinkFound {
    /// Nothing new.
    Same,
    /// The interface is gone.
    Gone,
    /// Its state is another.
    Changed,
    /// It is back.
    Back,
}

impl UplinkPort {
    /// Opens the interface, which must be there. `own_macs` are MAC addresses that it receives by besides the
    /// interface's. It is a port of `bridge`, or the router sends through it.
    pub(crate) fn open(
        id: PortId,
        interface: &str,
        queues: usize,
        bridge: Option<BridgeId>,
        own_macs: Vec<MacAddr>,
    ) -> Result<UplinkPort, PacketError> {
        let failed = |what, error| PacketError::Io { name: interface.to_owned(), what, error };
        // Before the first look, so that nothing happens between.
        let watch = Watch::new().map_err(|error| failed("listening for changes", error))?;
        let mut uplink = UplinkPort {
            id,
            interface: interface.to_owned(),
            queues,
            bridge,
            own_macs,
            filter: bridge.is_none().then(Filter::nothing),
            device: None,
            attachments: 0,
            watch,
            changed_at: None,
            dropped_before: 0,
        };
        let state = uplink_state(interface).map_err(|error| failed("reading its state", error))?;
        let state = state.ok_or_else(|| PacketError::NoInterface { name: interface.to_owned() })?;
        uplink.attach(state)?;
        Ok(uplink)
    }

    fn attach(&mut self, state: UplinkState) -> Result<(), PacketError> {
        let socket = PacketSocket::open(&PacketSpec {
            interface: self.interface.clone(),
            queues: self.queues,
            promiscuous: self.bridge.is_some(),
            own_macs: self.own_macs.clone(),
            filter: self.filter.clone(),
            old_kernel: false,
        })?;
        self.device = Some((socket, state));
        self.attachments += 1;
        Ok(())
    }

    /// The bridge that it is a port of; `None` if the router sends through it.
    pub(crate) fn bridge(&self) -> Option<BridgeId> {
        self.bridge
    }

    pub(crate) fn is_bridged(&self) -> bool {
        self.bridge.is_some()
    }

    /// The socket by which changes are heard.
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Its sockets, if the interface is there.
    pub(crate) fn socket(&self) -> Option<&PacketSocket> {
        self.device.as_ref().map(|(socket, _)| socket)
    }

    /// Number of the present attachment, counted from 1; late news of an earlier one is ignored.
    pub(crate) fn attachment(&self) -> Option<u64> {
        self.device.as_ref().map(|_| self.attachments)
    }

    /// Its interface as last seen.
    pub(crate) fn state(&self) -> Option<&UplinkState> {
        self.device.as_ref().map(|(_, state)| state)
    }

    /// Its state as `show` and events have it.
    pub(crate) fn shown_state(&self) -> State {
        match self.state() {
            Some(state) if state.up => State::Up,
            Some(_) => State::Down,
            None => State::Gone,
        }
    }

    /// Sets the filter of received packets.
    pub(crate) fn set_filter(&mut self, filter: Filter) {
        if let Some((socket, _)) = &self.device
            && let Err(error) = socket.set_filter(Some(&filter))
        {
            tracing::warn!(uplink = self.interface, %error, "cannot set the uplink's packet filter");
        }
        self.filter = Some(filter);
    }

    /// Reads the kernel's messages about the interface. Returns whether there were any.
    pub(crate) fn hear(&mut self, now: Timestamp) -> bool {
        match self.watch.drain() {
            Ok(false) => return false,
            Ok(true) => self.changed_at = self.changed_at.or(Some(now)),
            Err(error) => {
                tracing::warn!(uplink = self.interface, %error, "cannot hear of the uplink's changes; it is looked at once a second");
            }
        }
        true
    }

    /// When the next look is due, if something changed.
    pub(crate) fn look_at(&self) -> Option<Timestamp> {
        self.changed_at.map(|changed| changed.after(SETTLE))
    }

    /// Looks how the interface is, if it is time or `in_any_case`.
    pub(crate) fn look(&mut self, now: Timestamp, in_any_case: bool) -> UplinkFound {
        if !in_any_case && self.look_at().is_none_or(|due| now < due) {
            return UplinkFound::Same;
        }
        self.changed_at = None;
        let state = match uplink_state(&self.interface) {
            Ok(state) => state,
            Err(error) => {
                tracing::debug!(uplink = self.interface, %error, "cannot read the uplink's state");
                return UplinkFound::Same;
            }
        };
        match (&mut self.device, state) {
            (Some((socket, _)), _) if socket.is_gone() => self.lose(),
            (Some((socket, old)), Some(state)) if state.index == socket.index() => {
                if *old == state {
                    return UplinkFound::Same;
                }
                *old = state;
                UplinkFound::Changed
            }
            (Some(_), _) => self.lose(),
            (None, Some(state)) => match self.attach(state) {
                Ok(()) => UplinkFound::Back,
                Err(error) => {
                    tracing::debug!(uplink = self.interface, %error, "cannot use the uplink yet");
                    UplinkFound::Same
                }
            },
            (None, None) => UplinkFound::Same,
        }
    }

    /// The interface is gone; a new one of its name may be there already, and is found by the next look.
    pub(crate) fn lose(&mut self) -> UplinkFound {
        self.dropped_before = self.dropped();
        self.device = None;
        UplinkFound::Gone
    }

    /// Frames that the kernel dropped because they were not read soon enough.
    pub(crate) fn dropped(&mut self) -> u64 {
        self.dropped_before + self.device.as_mut().map_or(0, |(socket, _)| socket.statistics().dropped)
    }

    /// The uplink's port as workers know it.
    pub(crate) fn to_pipeline(&self) -> Option<Port> {
        let (_, state) = self.device.as_ref()?;
        Some(Port {
            bridge: self.bridge.unwrap_or_default(),
            vlan: PortVlan::default(),
            mtu: state.mtu,
            // The kernel does whatever the interface cannot.
            features: Features::ALL,
            coalesce: Coalesce::Flows,
            bursts: true,
            kind: if self.bridge.is_some() { PortKind::Link } else { PortKind::Uplink },
            limits: StormLimits::NONE,
            guard: None,
            isolated: false,
        })
    }

    /// Tells the neighbours where an address is (RFC 5227 section 3).
    pub(crate) fn announce(&self, mac: MacAddr, address: std::net::Ipv4Addr) -> io::Result<()> {
        let Some((socket, _)) = &self.device else { return Ok(()) };
        let mut frame = [0; packet::VNET_LEN + packet::ethernet::ETHERNET_LEN];
        let ethernet = &mut frame[packet::VNET_LEN..];
        ethernet[..6].copy_from_slice(&MacAddr::BROADCAST.0);
        ethernet[6..12].copy_from_slice(&mac.0);
        ethernet[12..].copy_from_slice(&packet::EtherType::ARP.0.to_be_bytes());
        let arp = packet::arp::Arp::announcement(mac, address).to_bytes();
        Ok(socket.writer().send(&[io::IoSlice::new(&frame), io::IoSlice::new(&arp)])?)
    }
}
