//! `vswitchctl`: shows what a running `vswitchd` does, and changes it, by its control socket.

mod capture;
mod change;
mod cli;
mod client;
mod doctor;
/// The same as the daemon's.
#[path = "../../src/control_socket/event.rs"]
mod event;
mod events;
mod examples;
mod follow;
mod paint;
mod print;
#[path = "../../src/control_socket/story.rs"]
mod story;
mod table;
#[cfg(feature = "top")]
mod top;
mod trace;
/// The same as the daemon's.
#[path = "../../src/control_socket/views.rs"]
mod views;

use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, error::ErrorKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::{Cli, Command, Conntrack, Fdb, Filter, List, Log, Nat, Neigh, Output, Port, Tunnel};
use crate::client::with_parameters;

/// What the manual page has besides.
const PAGE: &[manual::Section] = &[
    (
        "EXIT STATUS",
        "0  it is done\n1  the switch cannot be asked, or says no; of doctor: there is a problem\n2  a command line that cannot be",
    ),
    (
        "FILES",
        "/run/vswitchd.sock               the control socket of a switch that root started\n\
         $XDG_RUNTIME_DIR/vswitchd.sock   that of another user's\n\
         /run/vswitchd/vswitchd.sock      that of the service",
    ),
    ("SEE ALSO", "vswitchd(8)"),
];

fn main() -> ExitCode {
    let cli = match Cli::from_arg_matches(&examples::with_examples(Cli::command()).get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if cli.output == Output::Conntrack && !matches!(cli.command, Command::Conntrack(Conntrack::List(_))) {
        Cli::command().error(ErrorKind::ArgumentConflict, "-o conntrack is of 'conntrack list' only").exit();
    }
    if let Command::Doctor(doctor) = &cli.command {
        let socket = cli.socket.clone().or_else(|| client::usual_path().ok());
        return match doctor::examine(doctor, socket.as_deref(), cli.output) {
            Ok((text, is_well)) => say(&text, if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
            Err(error) => fail(&error),
        };
    }
    if let Command::Completions { shell } = &cli.command {
        return say(
            &String::from_utf8_lossy(&manual::completions(examples::with_examples(Cli::command()), *shell)),
            ExitCode::SUCCESS,
        );
    }
    if let Command::Man { directory } = &cli.command {
        let written = manual::write_pages(examples::with_examples(Cli::command()), "1", PAGE, directory);
        return written.map_or_else(|error| fail(&error.into()), |()| ExitCode::SUCCESS);
    }
    match run(&cli) {
        Ok(text) => say(&text, ExitCode::SUCCESS),
        Err(error) => fail(&error),
    }
}

/// Prints it and ends so, unless it cannot be printed.
fn say(text: &str, end: ExitCode) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error.into()),
        // Who reads has enough, or all.
        _ => end,
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("vswitchctl: {error:#}");
    ExitCode::FAILURE
}

/// What is to be printed.
fn run(cli: &Cli) -> anyhow::Result<String> {
    let socket = cli.socket.clone().map_or_else(client::usual_path, Ok)?;
    let get = Get { socket: &socket, output: cli.output };
    match &cli.command {
        Command::Show => get.shown("/v1/show", print::show),
        Command::Port(Port::List) => get.shown("/v1/ports", |ports: &Vec<_>| print::ports(ports)),
        Command::Port(Port::Stats { name }) => port_stats(&get, name.as_deref()),
        Command::Port(Port::Add { port }) => change::add(&get, "/v1/ports", "port", port),
        Command::Port(Port::Del { name }) => change::delete(&get, "/v1/ports", name),
        Command::Nat(Nat::Publish { rule }) => change::add(&get, "/v1/nat/publish", "rule", rule),
        Command::Nat(Nat::Unpublish { rule }) => change::unpublish(&get, rule),
        Command::Tunnel(Tunnel::Add { tunnel }) => change::add(&get, "/v1/tunnels", "tunnel", tunnel),
        Command::Tunnel(Tunnel::Del { name }) => change::delete(&get, "/v1/tunnels", name),
        Command::Apply { file, dry_run } => change::apply(&get, file, *dry_run),
        Command::Fdb(Fdb::Show { bridge }) => {
            let path = with_parameters("/v1/fdb", [("bridge", bridge.clone())]);
            get.shown(&path, |entries: &Vec<_>| print::fdb(entries))
        }
        Command::Fdb(Fdb::Stats { bridge }) => fdb_stats(&get, bridge.as_deref()),
        Command::Fdb(fdb) => change_fdb(&get, fdb),
        Command::Neigh(Neigh::Flush { address }) => flush_neighbours(&get, *address),
        Command::Neigh(Neigh::Show) => get.shown("/v1/neighbours", |list: &Vec<_>| print::neighbours(list)),
        Command::Conntrack(Conntrack::Flush(filter)) => flush_connections(&get, filter),
        Command::Conntrack(Conntrack::List(List { filter, limit })) => {
            get.shown(&conntrack_path(filter, *limit), |list| match cli.output {
                Output::Conntrack => print::conntrack(list),
                Output::Table | Output::Json => print::connections(list),
            })
        }
        Command::Conntrack(Conntrack::Stats) => {
            let stats: views::Stats = get.view("/v1/stats")?;
            let stats = stats.nat.context("there is no translation: the switch has no uplink in nat mode")?;
            get.form(&stats, print::nat_stats)
        }
        Command::Nat(Nat::List { limit }) => {
            get.shown(&with_parameters("/v1/nat", [("limit", limit.map(|limit| limit.to_string()))]), print::nat)
        }
        Command::Tunnel(Tunnel::List) => get.shown("/v1/tunnels", |list: &Vec<_>| print::tunnels(list)),
        Command::Trace(trace) => trace::trace(&get, trace),
        Command::Metrics => client::get(&socket, "/metrics"),
        Command::Top { interval } => top(&socket, cli.output, *interval),
        Command::Log(Log::Show) => get.shown("/v1/log", print::log),
        Command::Log(Log::Set { level }) => {
            let (part, level) = level.split_once('=').map_or((None, level.as_str()), |(part, level)| (Some(part), level));
            let change = views::LogChange { part: part.map(str::to_owned), level: level.to_owned() };
            get.changed("PUT", "/v1/log", Some(&serde_json::to_string(&change)?), print::log)
        }
        Command::Events => events::follow(&socket, cli.output).map(|()| String::new()),
        Command::Capture(wanted) => capture::run(&socket, wanted).map(|()| String::new()),
        // These do not ask the switch, or not only.
        Command::Doctor(_) | Command::Completions { .. } | Command::Man { .. } => Ok(String::new()),
    }
}

fn fdb_stats(get: &Get<'_>, bridge: Option<&str>) -> anyhow::Result<String> {
    let stats: views::Stats = get.view("/v1/stats")?;
    let Some(name) = bridge else { return get.form(&stats.mac_table, print::fdb_stats) };
    let found = stats.bridges.iter().find(|bridge| bridge.name == name);
    let bridge = found.with_context(|| format!("there is no bridge '{}'; see show", table::plain(name)))?;
    get.form(&bridge.mac_table, print::fdb_stats)
}

fn port_stats(get: &Get<'_>, name: Option<&str>) -> anyhow::Result<String> {
    let mut stats: views::Stats = get.view("/v1/stats")?;
    if let Some(name) = name {
        stats.ports.retain(|port| port.name == name);
        anyhow::ensure!(!stats.ports.is_empty(), "there is no port '{}'; see port list", table::plain(name));
    }
    match get.output {
        Output::Json => get.form(&stats.ports, |_| String::new()),
        Output::Table | Output::Conntrack => Ok(print::port_stats(&stats)),
    }
}

fn change_fdb(get: &Get<'_>, fdb: &Fdb) -> anyhow::Result<String> {
    let entry = |mac, vlan: &u16, bridge: Option<&String>| {
        with_parameters(&format!("/v1/fdb/{mac}"), [("vlan", Some(vlan.to_string())), ("bridge", bridge.cloned())])
    };
    match fdb {
        Fdb::Show { .. } | Fdb::Stats { .. } => anyhow::bail!("nothing to change"),
        Fdb::Add { mac, port, vlan } => {
            let body = serde_json::json!({ "port": port }).to_string();
            get.changed("PUT", &entry(mac, vlan, None), Some(&body), |entry: &views::MacEntry| {
                print::fdb(std::slice::from_ref(entry))
            })
        }
        Fdb::Del { mac, vlan, bridge } => {
            let path = entry(mac, vlan, bridge.as_ref());
            get.changed("DELETE", &path, None, |done| print::flushed(done, "entry", "entries"))
        }
        Fdb::Flush { port, vlan, bridge } => {
            let vlan = vlan.map(|vlan| vlan.to_string());
            let path = with_parameters("/v1/fdb", [("port", port.clone()), ("vlan", vlan), ("bridge", bridge.clone())]);
            get.changed("DELETE", &path, None, |done| print::flushed(done, "entry", "entries"))
        }
    }
}

fn flush_neighbours(get: &Get<'_>, address: Option<Ipv4Addr>) -> anyhow::Result<String> {
    let path = with_parameters("/v1/neighbours", [("address", address.map(|address| address.to_string()))]);
    get.changed("DELETE", &path, None, |done| print::flushed(done, "neighbour", "neighbours"))
}

fn flush_connections(get: &Get<'_>, filter: &Filter) -> anyhow::Result<String> {
    get.changed("DELETE", &conntrack_path(filter, None), None, |done| print::flushed(done, "connection", "connections"))
}

fn conntrack_path(filter: &Filter, limit: Option<u32>) -> String {
    let Filter { address, port, protocol } = filter;
    let parameters = [
        ("address", address.map(|address| address.to_string())),
        ("port", port.map(|port| port.to_string())),
        ("protocol", protocol.clone()),
        ("limit", limit.map(|limit| limit.to_string())),
    ];
    with_parameters("/v1/conntrack", parameters)
}

fn understood<T: DeserializeOwned>(answer: &str) -> anyhow::Result<T> {
    serde_json::from_str(answer).context("the switch's answer is not understood: is it of another version?")
}

/// Nothing is left to be printed behind it.
#[cfg(feature = "top")]
fn top(socket: &Path, output: Output, interval: u32) -> anyhow::Result<String> {
    anyhow::ensure!(
        output == Output::Table,
        "top is for people; 'vswitchctl metrics' and '-o json' of other verbs are for programs"
    );
    top::run(socket, interval).map(|()| String::new())
}

#[cfg(not(feature = "top"))]
fn top(_: &Path, _: Output, _: u32) -> anyhow::Result<String> {
    anyhow::bail!(
        "this vswitchctl was built without its live screen; build it with: cargo build --release -p vswitchctl --features top"
    )
}

/// Where to ask, and how to show what is answered.
struct Get<'a> {
    socket: &'a Path,
    output: Output,
}

impl Get<'_> {
    fn view<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        understood(&client::get(self.socket, path)?)
    }

    fn shown<T: DeserializeOwned + Serialize>(&self, path: &str, table: impl FnOnce(&T) -> String) -> anyhow::Result<String> {
        self.form(&self.view(path)?, table)
    }

    /// What a change is answered with.
    fn changed<T: DeserializeOwned + Serialize>(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<String> {
        self.form(&understood(&client::ask(self.socket, method, path, body)?)?, table)
    }

    fn form<T: Serialize>(&self, view: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<String> {
        match self.output {
            Output::Json => Ok(serde_json::to_string_pretty(view)? + "\n"),
            Output::Table | Output::Conntrack => Ok(table(view)),
        }
    }
}
