//! The state of the host, read without changing it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use api::Gate;
use netio::gate::TrafficFilter;
use netio::reservation::{PortProtocol, Reservation, process_of_port};
use netio::route::Route;
use netio::{Layer, Netns, Tap, TapSpec, link, merging, netns, route};

use super::plan::{Plan, Tunnel};

/// Maximum number of interfaces, published ports and peers that are checked, each.
const LOOKED_AT: usize = 256;

const TUN: &str = "/dev/net/tun";

/// The state of the host.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) tun: Result<(), ErrorKind>,
    /// Effective capabilities as a bit mask, of the running switch or else of this process.
    pub(crate) rights: u64,
    /// Limit of open files: of the running switch, or else the hard limit of this process.
    pub(crate) open_files: Option<u64>,
    /// TAP offloads that the kernel refuses; `None` if no TAP device could be created for the test.
    pub(crate) refused_offloads: Option<Vec<&'static str>>,
    pub(crate) interfaces: BTreeMap<String, HostInterface>,
    /// Paths to tunnel peers: index of the tunnel, address of the peer, path MTU.
    pub(crate) ways: Vec<(usize, IpAddr, Result<u32, String>)>,
    /// Published ports in use by another program: true for TCP, the port number, the program.
    pub(crate) taken: Vec<(bool, u16, String)>,
    /// What keeps the host silent about guests' packets to its own address, or would: that of the running switch, or the first
    /// that this process is granted; `None` if the address is not shared.
    pub(crate) silence: Option<Result<Gate, ErrorKind>>,
    pub(crate) max_dgram_qlen: Option<u64>,
    /// Default receive buffer of sockets, in bytes.
    pub(crate) rmem_default: Option<u64>,
    /// Namespaces that cannot be opened, with the error.
    pub(crate) lost_namespaces: Vec<(String, ErrorKind)>,
    pub(crate) control: Control,
    /// Path of the control socket, or the paths that were tried if there is no socket.
    pub(crate) place: String,
}

/// One of the host's interfaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostInterface {
    pub(crate) up: bool,
    pub(crate) has_carrier: bool,
    pub(crate) mtu: u32,
    pub(crate) addresses: Vec<(Ipv4Addr, u8)>,
    pub(crate) routes: Vec<Route>,
    pub(crate) has_lro: bool,
    /// Whether the host forwards packets that it receives on this interface.
    pub(crate) forwards: bool,
    /// Whether reverse path filtering is strict (RFC 3704 section 2.2).
    pub(crate) is_strict: bool,
}

/// State of the control socket's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Control {
    /// A switch that answers.
    Answers,
    /// Nothing.
    Absent,
    /// A socket without a listening process.
    Stale,
    /// A socket that this process may not connect to.
    Denied,
    /// A file that is not a socket.
    Other,
}

impl Facts {
    /// Reads the state as the running switch sees it: in its network namespace and with its capabilities. Facts that need
    /// missing capabilities are left out.
    pub(crate) fn gather(plan: &Plan, control: Control, place: String) -> Facts {
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
            place: place.clone(),
        })
    }

    /// Tests the TAP offloads in new user and network namespaces if [`Facts::gather`] could not. The process loses its
    /// capabilities on the host by this, so it comes last.
    pub(crate) fn ask_in_own_users(&mut self) {
        if self.refused_offloads.is_none() && self.tun.is_ok() && netns::become_root_of_own_users().is_ok() {
            self.refused_offloads = refused_offloads();
        }
    }
}

/// The state of this path. Connects, but sends nothing.
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

/// A switch raises its soft limit at the start, so without a running switch the hard limit counts.
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
        mac: None,
    };
    let tap = netns::inside(namespace.as_fd(), || Ok(Tap::open(&spec))).ok()?.ok()?;
    Some(tap.refused().to_vec())
}

fn interfaces() -> BTreeMap<String, HostInterface> {
    let names = link::names().unwrap_or_default();
    names.into_iter().take(LOOKED_AT).filter_map(|name| Some((name.clone(), interface(&name).ok()?))).collect()
}

fn interface(name: &str) -> io::Result<HostInterface> {
    let link = link::get(name)?;
    let setting = |of: &str, what: &str| number(&format!("/proc/sys/net/ipv4/conf/{of}/{what}")).unwrap_or(0);
    Ok(HostInterface {
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

/// Reserves the port for a moment to see whether another program uses it.
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

fn silence(plan: &Plan) -> Option<Result<Gate, ErrorKind>> {
    let address = shared_address(plan)?;
    let named = plan.uplink.as_ref().and_then(|uplink| uplink.gate);
    if let Some(gate) = named.filter(|_| plan.running.is_some()) {
        return Some(Ok(gate));
    }
    let gates: [(Gate, fn() -> bool); 2] = [(Gate::Tcx, grants_program), (Gate::Filter, grants_filter)];
    for (gate, is_granted) in gates.into_iter().filter(|(gate, _)| named.is_none_or(|named| named == *gate)) {
        if is_granted() {
            return Some(Ok(gate));
        }
    }
    Some(Reservation::tcp(address, 0).map(|_| Gate::Sockets).map_err(|error| error.kind()))
}

/// Index of the loopback interface, the only one of a new namespace, on which gates are tried.
const LOOPBACK: u32 = 1;

/// Whether this process may put a gate on an interface.
fn grants_program() -> bool {
    match netns::create() {
        Ok(namespace) => netns::inside(namespace.as_fd(), || netio::Gate::load()?.attach(LOOPBACK)).is_ok(),
        // Without the right to make a namespace, whether it may load the program.
        Err(_) => netio::Gate::load().is_ok(),
    }
}

/// Whether this process may put a filter of traffic control on an interface.
fn grants_filter() -> bool {
    let Ok(namespace) = netns::create() else { return false };
    netns::inside(namespace.as_fd(), || TrafficFilter::attach(LOOPBACK).map(drop)).is_ok()
}

fn lost_namespaces(plan: &Plan) -> Vec<(String, ErrorKind)> {
    let lost = |text: &String| Some((text.clone(), Netns::new(text).open().err()?.kind()));
    plan.namespaces.iter().take(LOOKED_AT).filter_map(lost).collect()
}
