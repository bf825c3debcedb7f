//! `vswitchd demo`: the switch at work, in namespaces of its own, with nothing but itself.
//!
//! ```text
//!   namespace of the demo
//!   +---------------------------------------+
//!   |            vswitchd, br0              |
//!   |      port tap1         port tap2      |
//!   +----------|-----------------|----------+
//!   +----------|-----+     +-----|----------+
//!   | h1  tap1       |     |     tap2   h2  |
//!   |  10.0.0.1/24   |     |  10.0.0.2/24   |
//!   +----------------+     +----------------+
//! ```
//!
//! All of it belongs to this process and is gone with it.

mod host;

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::cli::Flags;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::report::Report;
use host::Host;
use vswitch::MacEntry;

const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
const PREFIX_LEN: u8 = 24;
const PINGS: usize = 5;
const TRANSFER: Duration = Duration::from_secs(2);

/// Makes two hosts, runs the switch between them, sends real traffic and prints what happened.
pub(crate) fn run() -> anyhow::Result<()> {
    leave_the_machine().context("making a network namespace for the demo")?;
    println!("Two hosts on one switch, in network namespaces of this demo's own:\n");
    println!("    h1 {} --[tap1  br0  tap2]-- {} h2\n", ADDRESSES[0], ADDRESSES[1]);
    let hosts = [Host::new("tap1").context("making host h1")?, Host::new("tap2").context("making host h2")?];
    let mut daemon = Daemon::start(config(&hosts)?)?;
    for (host, address) in hosts.iter().zip(ADDRESSES) {
        host.configure(address, PREFIX_LEN).with_context(|| format!("giving {address} to {}", host.tap()))?;
    }
    let [h1, h2] = &hosts;
    ping(h1)?;
    transfer(h1, h2)?;
    let entries = daemon.mac_entries();
    let report = daemon.stop();
    show_table(&report, &entries);
    println!("\ncounters\n{report}");
    let [came, went] = report.balance();
    ensure!(came.iter().sum::<u64>() == went.iter().sum::<u64>(), "frames were lost without a name; please report this as a bug");
    println!("every frame that came in went out or was dropped for a reason; copies are floods to all");
    Ok(())
}

/// Into a network namespace of our own; without root, first into a user namespace where we are.
fn leave_the_machine() -> io::Result<()> {
    if !rustix::process::geteuid().is_root() || netio::netns::create().is_err() {
        netio::netns::become_root_of_own_users()?;
    }
    netio::netns::leave_network()
}

fn config(hosts: &[Host]) -> anyhow::Result<Config> {
    let tap = hosts.iter().map(|host| format!("{}@{}", host.tap(), host.namespace())).collect();
    Ok(Config::from_flags(&Flags { tap, mac_table_size: 8192, mac_aging_time: 300, ..Flags::default() })?)
}

fn ping(from: &Host) -> anyhow::Result<()> {
    let mut times = from.ping(ADDRESSES[1], PINGS).context("ping")?;
    times.sort_unstable();
    ensure!(!times.is_empty(), "no ping was answered");
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "ping   h1 -> h2   {} of {PINGS} answered, {:.3} ms at best, {:.3} ms in the median",
        times.len(),
        millis(times[0]),
        millis(times[times.len() / 2])
    );
    Ok(())
}

fn transfer(from: &Host, to: &Host) -> anyhow::Result<()> {
    let (bytes, time) = from.transfer(to, ADDRESSES[1], TRANSFER).context("TCP transfer")?;
    let seconds = time.as_secs_f64();
    println!("TCP    h1 -> h2   {:.2} GB in {seconds:.1} s: {:.1} Gb/s", bytes as f64 / 1e9, bytes as f64 * 8.0 / 1e9 / seconds);
    Ok(())
}

fn show_table(report: &Report, entries: &[MacEntry]) {
    println!("\nMAC table of br0\n{:<16} {:>4}  {:<17}  {:>5}", "port", "VLAN", "MAC", "age");
    for entry in entries {
        let age = entry.age.map_or_else(|| "static".to_owned(), |age| format!("{age} s"));
        println!("{:<16} {:>4}  {}  {age:>5}", report.port_name(entry.port), entry.vlan, entry.mac);
    }
}
