//! `vswitchctl`: shows what a running `vswitchd` does, by its control socket.

mod cli;
mod client;
mod doctor;
mod print;
mod table;
/// The same as the daemon's.
#[path = "../../control_socket/views.rs"]
mod views;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, error::ErrorKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::{Cli, Command, Conntrack, Fdb, Filter, Log, Nat, Neigh, Output, Port, Tunnel};

fn main() -> ExitCode {
    let cli = Cli::parse();
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
        Command::Fdb(Fdb::Show { bridge }) => get.shown(&fdb_path(bridge.as_deref()), |entries: &Vec<_>| print::fdb(entries)),
        Command::Fdb(Fdb::Stats { bridge }) => fdb_stats(&get, bridge.as_deref()),
        Command::Neigh(Neigh::Show) => get.shown("/v1/neighbours", |list: &Vec<_>| print::neighbours(list)),
        Command::Conntrack(Conntrack::List(filter)) => get.shown(&conntrack_path(filter), |list| match cli.output {
            Output::Conntrack => print::conntrack(list),
            Output::Table | Output::Json => print::connections(list),
        }),
        Command::Conntrack(Conntrack::Stats) => {
            let stats: views::Stats = get.view("/v1/stats")?;
            let stats = stats.nat.context("there is no translation: the switch has no uplink in nat mode")?;
            get.form(&stats, print::nat_stats)
        }
        Command::Nat(Nat::List) => get.shown("/v1/nat", print::nat),
        Command::Tunnel(Tunnel::List) => get.shown("/v1/tunnels", |list: &Vec<_>| print::tunnels(list)),
        Command::Metrics => client::get(&socket, "/metrics"),
        Command::Log(Log::Show) => get.shown("/v1/log", print::log),
        Command::Log(Log::Set { level }) => {
            let (part, level) = level.split_once('=').map_or((None, level.as_str()), |(part, level)| (Some(part), level));
            let change = views::LogChange { part: part.map(str::to_owned), level: level.to_owned() };
            let levels: views::Log = serde_json::from_str(&client::put(&socket, "/v1/log", &serde_json::to_string(&change)?)?)?;
            get.form(&levels, print::log)
        }
        // Asks the host, and the switch only if there is one.
        Command::Doctor(_) => Ok(String::new()),
    }
}

fn fdb_path(bridge: Option<&str>) -> String {
    bridge.map_or_else(|| "/v1/fdb".to_owned(), |name| format!("/v1/fdb?bridge={}", in_query(name)))
}

/// A text as it stands in a query (RFC 3986 section 2.1).
fn in_query(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
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

fn conntrack_path(filter: &Filter) -> String {
    let Filter { address, port, protocol, limit } = filter;
    let mut path = "/v1/conntrack?".to_owned();
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(path, "{key}={value}&");
        }
    };
    add("address", address.map(|address| address.to_string()));
    add("port", port.map(|port| port.to_string()));
    add("protocol", protocol.clone());
    add("limit", limit.map(|limit| limit.to_string()));
    path.truncate(path.len() - 1);
    path
}

/// Where to ask, and how to show what is answered.
struct Get<'a> {
    socket: &'a Path,
    output: Output,
}

impl Get<'_> {
    fn view<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let text = client::get(self.socket, path)?;
        serde_json::from_str(&text).context("the switch's answer is not understood: is it of another version?")
    }

    fn shown<T: DeserializeOwned + Serialize>(&self, path: &str, table: impl FnOnce(&T) -> String) -> anyhow::Result<String> {
        self.form(&self.view(path)?, table)
    }

    fn form<T: Serialize>(&self, view: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<String> {
        match self.output {
            Output::Json => Ok(serde_json::to_string_pretty(view)? + "\n"),
            Output::Table | Output::Conntrack => Ok(table(view)),
        }
    }
}
