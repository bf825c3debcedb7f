//! `vswitchctl` shows and changes a running `vswitchd` over its control socket.

mod capture;
mod change;
mod cli;
mod client;
mod doctor;
mod events;
mod examples;
mod follow;
mod get;
mod guests;
mod paint;
mod place;
mod ports;
mod print;
mod routes;
mod table;
mod tip;
#[cfg(feature = "top")]
mod top;
mod trace;
mod upgrade;
mod wait;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use api::query::{
    ConnectionFilter, ConnectionList, InDomain, InVlan, MacFilter, MappingList, NeighbourFilter, NewBridge, NewPort, NewRoute,
    NewTunnel, OfBridge, Rule, Station, target,
};
use api::{Configuration, Flushed, LogChange, MacEntry, Stats};
use clap::{CommandFactory, FromArgMatches, error::ErrorKind};
use hyper::Method;

use crate::cli::{Bridge, Cli, Command, Conntrack, Fdb, Filter, List, Log, Nat, Neigh, Output, Port, Route, Tunnel, Wait};
use crate::client::segment;
use crate::get::Get;

/// Further sections of the manual page.
const PAGE: &[manual::Section] = &[
    (
        "EXIT STATUS",
        "0  success\n1  the switch cannot be reached or refuses; for doctor: a problem was found\n2  wrong command line",
    ),
    (
        "FILES",
        "$XDG_RUNTIME_DIR/vswitchd.sock   the control socket of a switch that this user started\n\
         /run/vswitchd.sock               that of root's switch\n\
         /run/vswitchd/vswitchd.sock      that of the service\n\
         They are looked at in this order.",
    ),
    ("ENVIRONMENT", "VSWITCHD_SOCKET   the control socket, used if --control is not given"),
    ("SEE ALSO", "vswitchd(8)"),
];

fn main() -> ExitCode {
    let cli = match command_line() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if cli.output == Output::Conntrack && !matches!(cli.command, Command::Conntrack(Conntrack::List(_))) {
        Cli::command().error(ErrorKind::ArgumentConflict, "-o conntrack is only for 'conntrack list'").exit();
    }
    if let Command::Doctor(doctor) = &cli.command {
        return match doctor::examine(doctor, place::socket(cli.control.as_deref()), cli.output) {
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

/// The command line, or an error with a tip.
fn command_line() -> Result<Cli, clap::Error> {
    let mut command = examples::with_examples(Cli::command());
    let matches = command.try_get_matches_from_mut(std::env::args_os()).map_err(|error| {
        let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        tip::with_tip(error, &command, &words)
    })?;
    Cli::from_arg_matches(&matches)
}

/// Prints a text; the exit status is `end` unless that fails.
fn say(text: &str, end: ExitCode) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error.into()),
        // A reader that closes its pipe has what it wants.
        _ => end,
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("vswitchctl: {error:#}");
    ExitCode::FAILURE
}

/// Does what the command line says, and returns the text to print.
fn run(cli: &Cli) -> anyhow::Result<String> {
    if let Command::Wait(Wait { timeout, gone }) = &cli.command {
        let patience = Duration::from_secs(u64::from(*timeout));
        return wait::wait(cli.control.as_deref(), patience, *gone).map(|()| String::new());
    }
    let socket = place::socket(cli.control.as_deref())?;
    if let Command::Stop { timeout } = &cli.command {
        client::ask(&socket, Method::POST, "/v1/stop", None)?;
        return wait::wait(Some(&socket), Duration::from_secs(u64::from(*timeout)), true).map(|()| String::new());
    }
    if let Command::Upgrade { path, timeout } = &cli.command {
        return upgrade::upgrade(&socket, path.as_deref(), Duration::from_secs(u64::from(*timeout)));
    }
    let get = Get { socket: &socket, output: cli.output };
    match &cli.command {
        Command::Show => get.shown("/v1/show", |show| print::show(show, &socket)),
        Command::Port(port) => run_port(&get, port),
        Command::Guest(guest) => guests::run(&get, guest),
        Command::Nat(nat) => run_nat(&get, nat),
        Command::Bridge(Bridge::List) => get.shown("/v1/bridges", |list: &Vec<_>| print::bridges(list)),
        Command::Bridge(Bridge::Add { bridge }) => change::add(&get, "/v1/bridges", &NewBridge { bridge: bridge.clone() }),
        Command::Bridge(Bridge::Set { bridge }) => change::set_bridge(&get, bridge),
        Command::Bridge(Bridge::Del { name }) => change::delete(&get, "/v1/bridges", name),
        Command::Route(Route::List) => get.shown("/v1/routes", |list: &Vec<_>| routes::list(list)),
        Command::Route(Route::Add { route }) => change::add(&get, "/v1/routes", &NewRoute { route: route.clone() }),
        Command::Route(Route::Del { to }) => change::delete_route(&get, to),
        Command::Tunnel(Tunnel::List) => get.shown("/v1/tunnels", |list: &Vec<_>| print::tunnels(list)),
        Command::Tunnel(Tunnel::Add { tunnel }) => change::add(&get, "/v1/tunnels", &NewTunnel { tunnel: tunnel.clone() }),
        Command::Tunnel(Tunnel::Del { name }) => change::delete(&get, "/v1/tunnels", name),
        Command::Config(cli::Config::Show) => get.shown("/v1/config", |config: &Configuration| config.toml.clone()),
        Command::Apply { file, dry_run, prune } => change::apply(&get, file, *dry_run, *prune),
        Command::Fdb(fdb) => run_fdb(&get, fdb),
        Command::Neigh(Neigh::Show) => get.shown("/v1/neighbours", |list: &Vec<_>| print::neighbours(list)),
        Command::Neigh(Neigh::Flush { address }) => {
            flush(&get, &target("/v1/neighbours", &NeighbourFilter { address: *address })?, "neighbour", "neighbours")
        }
        Command::Conntrack(conntrack) => run_conntrack(&get, conntrack),
        Command::Trace(trace) => trace::trace(&get, trace),
        Command::Metrics => client::get(&socket, "/metrics"),
        Command::Top { interval } => top(&socket, cli.output, *interval),
        Command::Log(Log::Show) => get.shown("/v1/log", print::log),
        Command::Log(Log::Set { level }) => {
            let (part, level) = level.split_once('=').map_or((None, level.as_str()), |(part, level)| (Some(part), level));
            let change = LogChange { part: part.map(str::to_owned), level: level.to_owned() };
            get.changed(Method::PUT, "/v1/log", Some(client::Body::Json(serde_json::to_string(&change)?)), print::log)
        }
        Command::Events => events::follow(&socket, cli.output).map(|()| String::new()),
        Command::Capture(wanted) => capture::run(&socket, wanted).map(|()| String::new()),
        // These do not ask the switch, or not only.
        Command::Doctor(_)
        | Command::Wait(_)
        | Command::Stop { .. }
        | Command::Upgrade { .. }
        | Command::Completions { .. }
        | Command::Man { .. } => Ok(String::new()),
    }
}

fn run_port(get: &Get<'_>, port: &Port) -> anyhow::Result<String> {
    match port {
        Port::List => get.shown("/v1/ports", |ports: &Vec<_>| print::ports(ports)),
        Port::Stats { name } => ports::stats(get, name.as_deref()),
        Port::Add { port } => change::add(get, "/v1/ports", &NewPort { port: port.clone() }),
        Port::Set { id: Some(id), words } => change::set_port(get, "/v1/ports/id", id, words),
        Port::Set { words, .. } => {
            let (name, keys) = words.split_first().context("which port?")?;
            change::set_port(get, "/v1/ports", name, keys)
        }
        Port::Del { id: Some(id), .. } => change::delete(get, "/v1/ports/id", id),
        Port::Del { name, .. } => change::delete(get, "/v1/ports", name.as_deref().unwrap_or_default()),
    }
}

fn run_nat(get: &Get<'_>, nat: &Nat) -> anyhow::Result<String> {
    match nat {
        Nat::List { limit } => get.shown(&target("/v1/nat", &MappingList { limit: *limit })?, print::nat),
        Nat::Publish { rule } => change::add(get, "/v1/nat/publish", &Rule { rule: rule.clone() }),
        Nat::Unpublish { rule } => change::unpublish(get, rule),
    }
}

fn run_conntrack(get: &Get<'_>, conntrack: &Conntrack) -> anyhow::Result<String> {
    match conntrack {
        Conntrack::List(List { filter: Filter { address, port, protocol }, limit }) => {
            let list = ConnectionList { address: *address, port: *port, protocol: *protocol, limit: *limit };
            get.shown(&target("/v1/conntrack", &list)?, |list| match get.output {
                Output::Conntrack => print::conntrack(list),
                Output::Table | Output::Json => print::connections(list),
            })
        }
        Conntrack::Flush(Filter { address, port, protocol }) => {
            let filter = ConnectionFilter { address: *address, port: *port, protocol: *protocol };
            flush(get, &target("/v1/conntrack", &filter)?, "connection", "connections")
        }
        Conntrack::Stats => {
            let stats: Stats = get.view("/v1/stats")?;
            let stats = stats.nat.context("there is no translation: the switch has no uplink in nat mode")?;
            get.form(&stats, print::nat_stats)
        }
    }
}

fn run_fdb(get: &Get<'_>, fdb: &Fdb) -> anyhow::Result<String> {
    let entry = |mac| format!("/v1/fdb/{}", segment(mac));
    match fdb {
        Fdb::Show { bridge } => {
            let target = target("/v1/fdb", &OfBridge { bridge: bridge.clone() })?;
            get.shown(&target, |entries: &Vec<_>| print::fdb(entries))
        }
        Fdb::Stats { bridge } => fdb_stats(get, bridge.as_deref()),
        Fdb::Add { mac, port, vlan } => {
            let target = target(&entry(mac), &InVlan { vlan: *vlan })?;
            let body = serde_json::to_string(&Station { port: port.clone() })?;
            get.changed(Method::PUT, &target, Some(client::Body::Json(body)), |entry: &MacEntry| {
                print::fdb(std::slice::from_ref(entry))
            })
        }
        Fdb::Del { mac, vlan, bridge } => {
            let domain = InDomain { vlan: *vlan, bridge: bridge.clone() };
            flush(get, &target(&entry(mac), &domain)?, "entry", "entries")
        }
        Fdb::Flush { port, vlan, bridge } => {
            let filter = MacFilter { port: port.clone(), vlan: *vlan, bridge: bridge.clone() };
            flush(get, &target("/v1/fdb", &filter)?, "entry", "entries")
        }
    }
}

/// Removes entries, and says how many they were.
fn flush(get: &Get<'_>, target: &str, one: &str, many: &str) -> anyhow::Result<String> {
    get.changed(Method::DELETE, target, None, |done: &Flushed| print::flushed(done, one, many))
}

fn fdb_stats(get: &Get<'_>, bridge: Option<&str>) -> anyhow::Result<String> {
    let stats: Stats = get.view("/v1/stats")?;
    let Some(name) = bridge else { return get.form(&stats.mac_table, print::fdb_stats) };
    let found = stats.bridges.iter().find(|bridge| bridge.name == name);
    let bridge = found.with_context(|| format!("there is no bridge '{}'; see show", table::plain(name)))?;
    get.form(&bridge.mac_table, print::fdb_stats)
}

/// The live screen, after which nothing is left to print.
#[cfg(feature = "top")]
fn top(socket: &Path, output: Output, interval: u32) -> anyhow::Result<String> {
    anyhow::ensure!(output == Output::Table, "top has no '-o'; programs use 'vswitchctl metrics' or '-o json' of other verbs");
    top::run(socket, interval).map(|()| String::new())
}

#[cfg(not(feature = "top"))]
fn top(_: &Path, _: Output, _: u32) -> anyhow::Result<String> {
    anyhow::bail!(
        "this vswitchctl was built without its live screen; build it with: cargo build --release -p vswitchctl --features top"
    )
}
