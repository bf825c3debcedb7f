//! `--port stream:WHERE`, `stream = "WHERE"`: a socket to which guests connect, or that a guest listens on.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::socket_path::SocketPath;
use super::{CommonKeys, KindHelp, Port, PortKind};
use crate::keys::keys;
use crate::problem::{Origin, Problems};
#[cfg(test)]
use crate::value::string_schema;
use crate::value::{Number, Text, words};

pub(super) const HELP: KindHelp = KindHelp {
    place: "stream:PATH or stream:ADDR:PORT: a socket to which guests connect, each a port of its own (QEMU's -netdev stream, passt, \
            libkrun).",
    keys: "of stream: guests=16, mode=server|client",
};

/// Guests that one path or address is ready for by default.
const DEFAULT_GUESTS: u16 = 16;

/// The MTU of a guest on a socket if none is written, in bytes: that of Ethernet.
pub const DEFAULT_GUEST_MTU: u32 = 1500;

/// A guest that comes by a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Where one side listens.
    pub address: Address,
    /// One of the guests that connect to the switch; `None`: the switch connects.
    pub slot: Option<Slot>,
}

/// Where a stream is met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// An address and TCP port.
    Tcp(SocketAddr),
}

/// One of the guests that connect to one path or address, each of which has a port of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// From 1.
    pub number: u16,
    /// Guests there, 1 to 1,000.
    pub count: u16,
}

words! {
    /// Which side connects.
    pub(crate) enum Mode {
        Server = "server",
        Client = "client",
    }
}

keys! {
    /// A socket that guests connect to.
    struct StreamKeys {
        /// The path, or ADDR:PORT, of a socket that guests connect to.
        "stream" => stream: Address,
        /// Guests that a stream is ready for, 1 to 1,000. Default: 16.
        "guests" => guests: Number<1, 1000>,
        /// server, or client: a stream connects to the guest. Default: server.
        "mode" => mode: Mode,
        ..common: CommonKeys,
    }
}

impl StreamKeys {
    /// A port for each guest that it is ready for, or one where the guest is the one that listens.
    pub(super) fn ports(&self, table: &Origin, problems: &mut Problems) -> Option<Vec<Port>> {
        if self.is_faulty {
            return None;
        }
        let address = &self.stream.as_ref()?.value;
        let mut port = |name: &str, slot: Option<Slot>| {
            let kind = PortKind::Stream(Stream { address: address.clone(), slot });
            let port = self.common.port(table, name, kind, problems)?;
            Some(Port { mtu: port.mtu.or(Some(DEFAULT_GUEST_MTU)), ..port })
        };
        if self.mode.as_ref().is_some_and(|mode| mode.value == Mode::Client) {
            if let Some(guests) = &self.guests {
                let problem = "a client has the one guest that it connects to: leave guests out, or mode";
                problems.add(&guests.origin, problem);
                return None;
            }
            return port(&address.to_string(), None).map(|port| vec![port]);
        }
        let count = self.guests.as_ref().map_or(DEFAULT_GUESTS, |guests| guests.value.get());
        (1..=count).map(|number| port(&format!("{address}#{number}"), Some(Slot { number, count }))).collect()
    }
}

impl Stream {
    pub(super) fn keys_text(&self) -> String {
        if self.slot.is_some() { String::new() } else { ", client".to_owned() }
    }

    /// Reported once for all guests of an address.
    pub(super) fn warning(&self) -> Option<String> {
        match (&self.address, self.slot) {
            (Address::Tcp(address), Some(Slot { number: 1, .. })) if !address.ip().is_loopback() => Some(format!(
                "whatever reaches {address} is a host of the bridge, and frames pass unencrypted: keep others out with a firewall, or \
                 use a path"
            )),
            _ => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => path.display().fmt(out),
            Address::Tcp(address) => address.fmt(out),
        }
    }
}

/// `PATH` or `ADDR:PORT`.
impl Text for Address {
    fn parse(text: &str, key: &str, origin: &Origin) -> Result<Address, String> {
        // The colons of an IPv6 address are between brackets.
        let end = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, _)) => host.len() + 2,
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at(end);
        let port = port.strip_prefix(':').unwrap_or(port);
        if !host.starts_with('[') && host.parse::<Ipv4Addr>().is_err() {
            let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            if !host.contains('/') && is_port {
                let host = host.escape_debug();
                return Err(format!("'{host}' is not an address: write it in numbers, such as 127.0.0.1:5555 or [::1]:5555"));
            }
            return SocketPath::parse(text, key, origin).map(|path| Address::Unix(path.0));
        }
        let port: u16 = Number::<1, 65_535>::of_text(port, "a port")?.get();
        let address = format!("{host}:{port}").parse::<SocketAddr>();
        let address = address.map_err(|_| format!("'{}' is not an address, such as 127.0.0.1 or [::1]", host.escape_debug()))?;
        if address.ip().is_multicast() {
            return Err(format!("{} is a multicast address: use that of one host, such as 127.0.0.1", address.ip()));
        }
        Ok(Address::Tcp(address))
    }
}

#[cfg(test)]
string_schema!(Address);
