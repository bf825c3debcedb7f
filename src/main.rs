//! `vswitchd`: a learning Ethernet switch, NAT router and VXLAN tunnels in one userspace process, over TAP devices, interfaces and sockets.

mod cli;
mod control_socket;
mod daemon;
mod demo;
mod detach;
mod docker;
mod edge;
mod events;
mod fabric;
mod hints;
mod log;
mod model;
mod ports;
mod seed;
mod service;
mod signals;
mod state;
mod trace;
mod tunnel;
mod watch;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches};
use config::Desired;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::{Cli, Command, Flags};
use crate::daemon::Daemon;
use crate::log::Levels;
use crate::service::Service;
use crate::state::{State, StateDirectory};

/// Exit status for an invalid configuration or command line; clap uses it too.
const BAD_CONFIGURATION: u8 = 2;

/// Bytes that can be written to a pipe that poll(2) says is writable, without waiting (pipe(7)).
const PIPE_BUF: usize = 4096;

/// Descriptors wanted: enough for every TCP and UDP port of an address.
const DESCRIPTORS: u64 = 1 << 18;

/// Time limit for each piece of output, in case its reader has stopped reading.
const OUTPUT_TIMEOUT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Further sections of the manual page.
const PAGE: &[manual::Section] = &[
    (
        "SIGNALS",
        "SIGTERM  ends within a second, and leaves the state directory what outlives it\n\
         SIGINT   ends within a second, for good\n\
         SIGHUP   reads the configuration again\n\
         SIGUSR1  prints the counters on standard output",
    ),
    ("EXIT STATUS", "0  ended by a signal\n1  it could not start, or could not go on\n2  invalid configuration"),
    (
        "FILES",
        "/etc/vswitchd/vswitchd.toml      the service's configuration\n\
         /run/vswitchd.sock               the control socket, of root\n\
         $XDG_RUNTIME_DIR/vswitchd.sock   that of other users\n\
         /run/vswitchd/vswitchd.sock      that of the service\n\
         /var/lib/vswitchd                the state directory of root's switch and of the service",
    ),
    (
        "ENVIRONMENT",
        "VSWITCHD_SOCKET   the control socket, used if --control is not given\n\
         VSWITCHD_LOG      used if --log is not given\n\
         STATE_DIRECTORY   the state directory, used if --state is not given\n\
         NOTIFY_SOCKET     socket of the service manager (sd_notify(3))\n\
         LISTEN_FDS        what the service manager kept over a restart (sd_listen_fds(3))",
    ),
    ("SEE ALSO", "vswitchctl(1)"),
];

fn main() -> ExitCode {
    // Executed by a descriptor, a program has the descriptor's number for a name.
    let _ = rustix::thread::set_name(c"vswitchd");
    netio::memory::map_large_blocks();
    let mut cli = match command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
            cli::with_tip(error, &words).exit()
        }
    };
    cli.flags.complete();
    if cli.detach {
        return detach::start().unwrap_or_else(|error| finish(Err(error)));
    }
    if cli.detached {
        detach::leave_session();
    }
    // What waits to be written is written when it goes.
    let _log = match Levels::at_start(cli.log.as_deref()) {
        Ok(levels) => log::start(levels),
        Err(problem) => {
            eprintln!("vswitchd: {problem}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    raise_descriptor_limit();
    match &cli.command {
        Some(Command::Demo) => return finish(demo::run()),
        Some(Command::Hold { socket }) => return finish(state::holder::run(socket)),
        Some(Command::Completions { shell }) => {
            say(&String::from_utf8_lossy(&manual::completions(command(), *shell)));
            return ExitCode::SUCCESS;
        }
        Some(Command::Man { directory }) => {
            return finish(manual::write_pages(command(), "8", PAGE, directory).context("writing manual pages"));
        }
        None => {}
    }
    let desired = match Desired::read(cli.flags.config.as_deref(), &cli.flags.words()) {
        Ok(desired) => desired,
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("vswitchd: {problem}"));
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    if cli.flags.check {
        return finish(daemon::check(&desired.config));
    }
    finish(run(desired, cli.flags, cli.detached))
}

/// The command line, with examples at the end of its help.
fn command() -> clap::Command {
    Cli::command().after_help(manual::examples(&[
        ("vswitchd demo", "see it work; this machine is left as it is"),
        ("vswitchd --tap tap0,tap1 --uplink eth0", "two guests, with Internet access through NAT"),
        ("vswitchd --tap tap0@blue:vlan=10,tap1:vlan=10", "two guests in VLAN 10, one in a namespace"),
        ("vswitchd --tap tap0 --vxlan vni=42,remote=192.0.2.2", "a tunnel to the bridge of another host"),
        ("vswitchd --detach --tap tap0,tap1", "goes on in the background, and returns when it is ready"),
        ("vswitchd --config vswitchd.toml --check", "checks the file and starts nothing"),
    ]))
}

/// Runs the switch until it is ended. `command_line` holds the flags that apply each time the configuration file is read;
/// `is_detached` says that another process waits until the switch is ready.
fn run(desired: Desired, command_line: Flags, is_detached: bool) -> anyhow::Result<()> {
    log::detach();
    let signals = signals::Signals::register()?;
    // First, because two switches must not open the same devices: if another daemon has the control socket, this one ends.
    let control = control_socket::ControlListener::open(&desired.config.control, is_detached)?;
    let (mut state, mut past) = State::open(StateDirectory::open(&desired.config.state, control.is_some())?);
    let desired = state.restore(desired, &mut past);
    // Before the router takes whatever ports are free.
    let scrape = control_socket::ScrapeListener::open(desired.config.metrics.as_ref())?;
    let docker = docker::DriverListener::open(desired.config.docker.as_ref(), past.docker())?;
    let mut daemon = Daemon::start(desired, command_line, state, &mut past)?;
    if let Some(control) = control {
        daemon.open_to(control)?;
    }
    if let Some(scrape) = scrape {
        daemon.open_to_scrapers(scrape)?;
    }
    if let Some(docker) = docker {
        daemon.open_to_docker(docker)?;
    }
    daemon.outlive(past);
    // Warnings come before the line that says ready.
    log::flush();
    say(&format!("{}ready\n", daemon.summary()));
    if is_detached {
        detach::ready()?;
    }
    match daemon.run(&signals, Service::from_environment())? {
        Some(next) if !signals.take().is_end() => match next.begin()? {},
        _ => Ok(()),
    }
}

/// Prints on standard output. Text that cannot be written soon is discarded, because a reader that is gone or does not read
/// must not stop the switch.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    for piece in text.as_bytes().chunks(PIPE_BUF) {
        let ready = poll(&mut [PollFd::new(&io::stdout(), PollFlags::OUT)], Some(&OUTPUT_TIMEOUT));
        if !matches!(ready, Ok(1..)) || out.write_all(piece).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

/// Raises the limit of file descriptors. Many ports, and NAT that reserves the host's ports, need more than the usual limit
/// of a shell. Root sets the limit that is needed, other users raise it to the hard limit.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map(|maximum| maximum.max(DESCRIPTORS));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: wanted })
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }));
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::say(format_args!("vswitchd: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_a_command_line() {
        let help = command().get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines: Vec<&str> = help.lines().filter_map(|line| Some(line.split_once('#')?.0.trim())).collect();
        assert!(lines.len() > 3, "{help}");
        for line in lines {
            let matches =
                command().try_get_matches_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"));
            let cli = Cli::from_arg_matches(&matches).unwrap();
            assert!(
                cli.command.is_some() || cli.flags.config.is_some() || Desired::of_flags(&cli.flags.words()).is_ok(),
                "{line}"
            );
        }
    }
}
