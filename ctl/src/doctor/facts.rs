//! What the host is like: looked at, not judged, and nothing of it is changed.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use netio::reservation::{PortProtocol, Reservation, process_of_port};
use netio::route::Route;
use netio::{Layer, Netns, Tap, TapSpec, link, merging, netns, route};

use super::plan::{Plan, Tunnel};

/// So many of a host's interfaces, and of a plan's published ports and peers, are looked at.
const LOOKED_AT: usize = 256;

const TUN: &str = "/dev/net/tun";

/// All that is looked at.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) tun: Result<(), ErrorKind>,
    /// The effective rights, a bit each, of the switch that runs or else of this process.
    pub(crate) rights: u64,
    /// Descriptors that it may have, and how far root could raise them.
    pub(crate) open_files: Option<u64>,
    /// Offloads that the kernel refuses a TAP; `None` where no TAP could be made to ask.
    pub(crate) refused_offloads: Option<Vec<&'static str>>,
    pub(crate) interfaces: BTreeMap<String, Interface>,
    /// The ways to tunnels' hosts: which tunnel, which host, and the longest packet that the way takes.
    pub(crate) ways: Vec<(usize, IpAddr, Result<u32, String>)>,
    /// Published ports that a program has: whether they are TCP's, the number, and whose they are.
    pub(crate) taken: Vec<(bool, u16, String)>,
    /// Whether a port of the shared address can be taken so that the host stays silent about it; `None`: not tried.
    pub(crate) silence: Option<Result<(), ErrorKind>>,
    pub(crate) max_dgram_qlen: Option<u64>,
    /// Bytes that wait in a socket until they are read: of the uplink, packet ports, tunnels and guests.
    pub(crate) rmem_default: Option<u64>,
    /// Namespaces that cannot be opened, and why.
    pub(crate) lost_namespaces: Vec<(String, ErrorKind)>,
    pub(crate) control: Control,
}

/// One of the host's interfaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interface {
    pub(crate) up: bool,
    pub(crate) has_carrier: bool,
    pub(crate) mtu: u32,
    pub(crate) addresses: Vec<(Ipv4Addr, u8)>,
    pub(crate) routes: Vec<Route>,
    pub(crate) has_lro: bool,
    /// Does the host pass packets on that come in there?
    pub(crate) forwards: bool,
    /// Only those whose sender is reached by the same interface?
    pub(crate) is_strict: bool,
}

/// What is where a switch's control socket would be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Control {
    /// A switch that answers.
    Answers,
    /// Nothing.
    Absent,
    /// A socket that nobody listens on.
    Stale,
    /// A socket that we may not connect to.
    Denied,
    /// Something that is no socket.
    Other,
}

impl Facts {
    /// Looks, as the switch that runs would see it: in its namespace, at its rights. What needs rights that are missing
    /// is left out.
    pub(crate) fn gather(plan: &Plan, control: Control) -> Facts {
        let process = plan.running.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let namespace = plan.running.and_then(|pid| Netns::new(&format!("pid:{pid}")).open().ok());
        let seen = |look: &(dyn Fn() -> Facts + Sync)| match &namespace {
            Some(namespace) => netns::inside(namespace.as_fd(), || Ok(look())).unwrap_or_else(|_| look()),
            None => look(),
        };
        seen(&|| Facts {
            tun: OpenOptions::new().read(true).write(true).open(TUN).map(drop).map_err(|error| error.kind()),
            rights: rights_of(&process),
            open_files: open_files_of(&process, plan.running.is_some()),
            refused_offloads: refused_offloads(),
            interfaces: interfaces(),
            ways: plan.tunnels.iter().enumerate().flat_map(|(at, tunnel)| ways(at, tunnel)).collect(),
            taken: plan.published.iter().take(LOOKED_AT).filter_map(|(tcp, port)| taken(plan, *tcp, *port)).collect(),
            silence: silence(plan),
            max_dgram_qlen: number("/proc/sys/net/unix/max_dgram_qlen"),
            rmem_default: number("/proc/sys/net/core/rmem_default"),
            lost_namespaces: lost_namespaces(plan),
            control,
        })
    }

    /// Asks a TAP of nobody, in namespaces of its own, where [`Facts::gather`] could not. From then on the process has
    /// no rights over the host any more: this comes last.
    pub(crate) fn ask_in_own_users(&mut self) {
        if self.refused_offloads.is_none() && self.tun.is_ok() && netns::become_root_of_own_users().is_ok() {
            self.refused_offloads = refused_offloads();
        }
    }
}

/// What is at this path, without saying a word.
pub(crate) fn control_at(path: &Path) -> Control {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Control::Denied,
        Err(_) => return Control::Absent,
        Ok(metadata) if !metadata.file_type().is_socket() => return Control::Other,
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Control::Answers,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Control::Denied,
        Err(_) => Control::Stale,
    }
}

fn rights_of(process: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
}

/// A switch raises its own limit as far as it may; one that is not there yet could have the hard one.
fn open_files_of(process: &str, is_running: bool) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(usize::from(!is_running))?.parse().ok()
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn refused_offloads() -> Option<Vec<&'static str>> {
    let namespace = netns::create().ok()?;
    let spec = TapSpec {
        name: "doctor0".to_owned(),
        netns: None,
        layer: Layer::Ethernet,
        queues: 1,
        mtu: None,
        tx_queue_len: 1000,
        offload: true,
    };
    let tap = netns::inside(namespace.as_fd(), || Ok(Tap::open(&spec))).ok()?.ok()?;
    Some(tap.refused().to_vec())
}

fn interfaces() -> BTreeMap<String, Interface> {
    let names = link::names().unwrap_or_default();
    names.into_iter().take(LOOKED_AT).filter_map(|name| Some((name.clone(), interface(&name).ok()?))).collect()
}

fn interface(name: &str) -> io::Result<Interface> {
    let link = link::get(name)?;
    let setting = |of: &str, what: &str| number(&format!("/proc/sys/net/ipv4/conf/{of}/{what}")).unwrap_or(0);
    Ok(Interface {
        up: link.up,
        has_carrier: link.carrier,
        mtu: link.mtu,
        addresses: route::addresses(link.index)?,
        routes: route::routes(link.index)?.0,
        has_lro: merging::has_lro(name).unwrap_or(false),
        forwards: setting(name, "forwarding") == 1,
        // The higher of both counts (Documentation/networking/ip-sysctl).
        is_strict: setting("all", "rp_filter").max(setting(name, "rp_filter")) == 1,
    })
}

fn ways(at: usize, tunnel: &Tunnel) -> impl Iterator<Item = (usize, IpAddr, Result<u32, String>)> {
    let way = move |remote: &IpAddr| {
        let path = netio::udp::path(tunnel.local, *remote, tunnel.device.as_deref());
        (at, *remote, path.map(|path| path.mtu).map_err(|error| error.to_string()))
    };
    tunnel.remotes.iter().take(LOOKED_AT).map(way)
}

/// Tried, and given back at once.
fn taken(plan: &Plan, tcp: bool, port: u16) -> Option<(bool, u16, String)> {
    let address = shared_address(plan)?;
    let (tried, protocol) = match tcp {
        true => (Reservation::tcp(address, port), PortProtocol::Tcp),
        false => (Reservation::udp(address, port), PortProtocol::Udp),
    };
    let error = tried.err().filter(|error| error.kind() == ErrorKind::AddrInUse)?;
    let process = process_of_port(protocol, port).map(|(pid, name)| format!("{name}, process {pid}"));
    Some((tcp, port, process.unwrap_or_else(|| error.to_string())))
}

fn shared_address(plan: &Plan) -> Option<Ipv4Addr> {
    let uplink = plan.uplink.as_ref().filter(|_| plan.shares_an_address())?;
    let index = link::get(&uplink.interface).ok()?.index;
    Some(route::addresses(index).ok()?.first()?.0)
}

fn silence(plan: &Plan) -> Option<Result<(), ErrorKind>> {
    Some(Reservation::tcp(shared_address(plan)?, 0).map(drop).map_err(|error| error.kind()))
}

fn lost_namespaces(plan: &Plan) -> Vec<(String, ErrorKind)> {
    let lost = |text: &String| Some((text.clone(), Netns::new(text).open().err()?.kind()));
    plan.namespaces.iter().take(LOOKED_AT).filter_map(lost).collect()
}
