//! `vswitchd demo`: a switch and a router at work, in network namespaces of the demo's own.
//!
//! ```text
//!   namespace of the demo
//!   +----------------------------------------------------------------------+
//!   |                              vswitchd                                |
//!   |             br0 ---- gateway 10.77.0.1 ---- NAT ---- uplink eth0     |
//!   |   port tap1     port tap2                            198.51.100.1/24 |
//!   +------|--------------|----------------------------------|-------------+
//!          |              |                                  | veth
//!   +------|-------+  +---|----------+                +------|-----------+
//!   | h1  tap1     |  | h2  tap2     |                | outside  eth0    |
//!   |  10.77.0.11  |  |  10.77.0.12  |                |  198.51.100.80   |
//!   +--------------+  +--------------+                +------------------+
//! ```
//!
//! The outside host has no route to 10.77.0.0/24. All of it belongs to this process and is gone with it.

mod host;
mod page;
mod tables;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, ensure};
use config::{Desired, Flag};
use netio::link;

use crate::cli::Flags;
use crate::daemon::Daemon;
use crate::state::{Past, State};
use host::{Host, set_up, wait_for_carrier};
use page::{Fetched, fetch};
use tables::{ConnectionTable, StationTable};

/// The router's addresses, inside and outside.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const UPLINK: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const GUESTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12)];
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);
const PREFIX_LEN: u8 = 24;

const INTERFACE: &str = "eth0";
const HTTP: u16 = 80;
const PUBLISHED: u16 = 8080;
const PINGS: usize = 5;
const TRANSFER: Duration = Duration::from_secs(2);

const PICTURE: &str = "
    h1 10.77.0.11 --[tap1]--+
                            +-- br0 -- 10.77.0.1 router, NAT 198.51.100.1 --[eth0]-- 198.51.100.80 outside
    h2 10.77.0.12 --[tap2]--+

    vswitchd --tap tap1@h1,tap2@h2 --uplink eth0 --publish 8080:10.77.0.12:80
";

/// All hosts; their namespaces are removed when this is dropped.
struct World {
    h1: Host,
    h2: Host,
    outside: Host,
}

/// Makes two guests and an outside host, runs switch and router between them, sends real traffic and
/// prints what happened.
pub(crate) fn run() -> anyhow::Result<()> {
    leave_the_machine().context("making a network namespace for the demo")?;
    println!(
        "Two hosts on one switch, and an outside network behind NAT; all in network namespaces of this demo's own.\n{PICTURE}"
    );
    let world = World::new()?;
    let mut daemon = Daemon::start(world.desired()?, Flags::default(), State::default(), &mut Past::default())?;
    for (host, address) in [&world.h1, &world.h2].into_iter().zip(GUESTS) {
        let configured = host.configure(address, PREFIX_LEN, Some(GATEWAY));
        configured.with_context(|| format!("giving {address} to {}", host.interface()))?;
    }
    println!("the switch");
    ping(&world.h1, &world.h2, GUESTS[1])?;
    transfer(&world.h1, &world.h2, GUESTS[1])?;
    println!("\nout through NAT: the outside host sees {UPLINK}, whichever guest connects");
    ping(&world.h1, &world.outside, OUTSIDE)?;
    let page = world.fetch_from_outside()?;
    transfer(&world.h1, &world.outside, OUTSIDE)?;
    println!("\nin by the published port: the guest sees the client's own address");
    let visit = world.fetch_from_guest()?;
    println!("\nconnections of the router\n{}", ConnectionTable(daemon.connections()));
    drop((page, visit));
    let mut entries: Vec<_> = daemon.mac_entries().into_iter().flat_map(|(_, entries)| entries).collect();
    entries.sort_unstable_by_key(|entry| entry.port);
    let report = daemon.stop();
    println!("MAC table of br0\n{}", StationTable(&report, entries));
    println!("counters\n{report}");
    let [came, went] = report.balance();
    ensure!(
        came.iter().sum::<u64>() == went.iter().sum::<u64>(),
        "frames were lost without a drop reason; please report this as a bug"
    );
    println!("every frame that was received or made left again, was taken in by the router, or was dropped for a reason");
    Ok(())
}

/// Enters a new network namespace; without root, first a user namespace in which the process is root.
fn leave_the_machine() -> io::Result<()> {
    if !rustix::process::geteuid().is_root() || netio::netns::create().is_err() {
        netio::netns::become_root_of_own_users()?;
    }
    netio::netns::leave_network()
}

impl World {
    /// The hosts, and a veth pair from our namespace to the outside host. The switch makes the guests' interfaces.
    fn new() -> anyhow::Result<World> {
        let host = |name, interface| Host::new(name, interface).with_context(|| format!("making host {name}"));
        let world = World { h1: host("h1", "tap1")?, h2: host("h2", "tap2")?, outside: host("outside", INTERFACE)? };
        world.lay_cable().with_context(|| format!("making the uplink {INTERFACE}"))?;
        Ok(world)
    }

    fn lay_cable(&self) -> io::Result<()> {
        set_up("lo")?;
        link::add_pair(INTERFACE, self.outside.interface(), Some(self.outside.netns()))?;
        link::add_address(set_up(INTERFACE)?, IpAddr::V4(UPLINK), PREFIX_LEN)?;
        self.outside.configure(OUTSIDE, PREFIX_LEN, None)?;
        wait_for_carrier(INTERFACE)
    }

    /// The configuration of the picture's command line.
    fn desired(&self) -> anyhow::Result<Desired> {
        let taps = [&self.h1, &self.h2].map(|host| format!("{}@{}", host.interface(), host.path()));
        let [one, other] = taps.map(|tap| Flag::new("--tap", tap));
        let publish = Flag::new("--publish", format!("{PUBLISHED}:{}:{HTTP}", GUESTS[1]));
        Ok(Desired::of_flags(&[one, other, Flag::new("--uplink", INTERFACE), publish])?)
    }

    /// From a guest to the outside host: the server sees the router's address.
    fn fetch_from_outside(&self) -> anyhow::Result<Fetched> {
        let server = SocketAddrV4::new(OUTSIDE, HTTP);
        let page = fetch(&self.h1, server, &self.outside, server).context("fetching a page through NAT")?;
        show_page(&self.h1, &self.outside, server, &page);
        ensure!(page.seen.ip() == IpAddr::V4(UPLINK), "the server saw {}, not {UPLINK}", page.seen.ip());
        Ok(page)
    }

    /// From the outside host to a guest: only the destination is translated.
    fn fetch_from_guest(&self) -> anyhow::Result<Fetched> {
        let (to, server) = (SocketAddrV4::new(UPLINK, PUBLISHED), SocketAddrV4::new(GUESTS[1], HTTP));
        let page = fetch(&self.outside, to, &self.h2, server).context("fetching a page from the published port")?;
        show_page(&self.outside, &self.h2, to, &page);
        ensure!(page.seen == page.client, "the guest saw {}, not the client {}", page.seen, page.client);
        Ok(page)
    }
}

/// The start of a line: what was done, between which hosts.
fn route(what: &str, from: &Host, to: &Host) -> String {
    format!("  {what:<5} {:>7} -> {:<8}", from.name(), to.name())
}

fn ping(from: &Host, to: &Host, address: Ipv4Addr) -> anyhow::Result<()> {
    let mut times = from.ping(address, PINGS).context("ping")?;
    times.sort_unstable();
    ensure!(!times.is_empty(), "no ping of {address} was answered");
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{} {} of {PINGS} answered, {:.3} ms at best, {:.3} ms in the median",
        route("ping", from, to),
        times.len(),
        millis(times[0]),
        millis(times[times.len() / 2])
    );
    Ok(())
}

fn transfer(from: &Host, to: &Host, address: Ipv4Addr) -> anyhow::Result<()> {
    let (bytes, time) = from.transfer(to, address, TRANSFER).context("TCP transfer")?;
    let (seconds, bytes) = (time.as_secs_f64(), bytes as f64);
    println!("{} {:.2} GB in {seconds:.1} s: {:.1} Gb/s", route("TCP", from, to), bytes / 1e9, bytes * 8.0 / 1e9 / seconds);
    Ok(())
}

fn show_page(from: &Host, to: &Host, url: SocketAddrV4, Fetched { status, bytes, client, seen, .. }: &Fetched) {
    println!("{} GET http://{url}/: {status}, {bytes} bytes", route("HTTP", from, to));
    println!("{:27} {} is {client}; {} saw {}", "", from.name(), to.name(), seen_as(*client, *seen));
}

fn seen_as(client: SocketAddr, seen: SocketAddr) -> String {
    if client == seen { format!("{seen}, the same") } else { seen.to_string() }
}
