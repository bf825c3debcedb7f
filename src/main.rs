//! `vswitchd`: a learning Ethernet switch, NAT router and VXLAN tunnels in one userspace process, over TAP devices, interfaces and sockets.

mod busy_poll;
mod cli;
mod config;
mod control;
mod control_socket;
mod daemon;
mod demo;
mod device;
mod log;
mod report;
mod reserve;
mod router;
mod service;
mod signals;
mod slots;
mod tunnel;
mod uplink;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::{Cli, Command, Flags};
use crate::config::plan::Desired;
use crate::daemon::Daemon;
use crate::log::Levels;
use crate::service::Service;

/// Exit status for a configuration that cannot be (clap's own for its errors too).
const BAD_CONFIGURATION: u8 = 2;

/// So much fits into a pipe that is ready to be written (pipe(7)).
const PIPE_BUF: usize = 4096;

/// Enough for every TCP and UDP port of an address.
const DESCRIPTORS: u64 = 1 << 18;

/// How long a reader of our output may keep us waiting.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

fn main() -> ExitCode {
    let cli = Cli::parse();
    match Levels::at_start(cli.log.as_deref()) {
        Ok(levels) => log::start(levels),
        Err(problem) => {
            eprintln!("vswitchd: {problem}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    }
    raise_descriptor_limit();
    if let Some(Command::Demo) = cli.command {
        return finish(demo::run());
    }
    let desired = match Desired::read(&cli.flags) {
        Ok(desired) => desired,
        Err(error) => {
            eprintln!("vswitchd: {error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    if cli.flags.check {
        return finish(daemon::check(&desired.config));
    }
    finish(run(desired, cli.flags))
}

/// `command_line` is what a configuration that is read again is added to.
fn run(desired: Desired, command_line: Flags) -> anyhow::Result<()> {
    let signals = signals::Signals::register()?;
    // First: whoever named a path that another daemon has is not to find two switches on the same devices.
    let door = control_socket::Door::open(&desired.config.control)?;
    // And before the router takes whatever ports are free.
    let scrape = control_socket::ScrapeDoor::open(desired.config.metrics.as_ref())?;
    let mut daemon = Daemon::start(desired, command_line)?;
    if let Some(door) = door {
        daemon.open_to(door)?;
    }
    if let Some(scrape) = scrape {
        daemon.open_to_scrapers(scrape)?;
    }
    say(&format!("{}ready\n", daemon.summary()));
    daemon.run(&signals, Service::from_environment())
}

/// Prints on standard output. That nobody reads it any more, or that who does has fallen asleep, is no
/// reason to stop serving devices: what cannot be written soon is left out.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    for piece in text.as_bytes().chunks(PIPE_BUF) {
        let ready = poll(&mut [PollFd::new(&io::stdout(), PollFlags::OUT)], Some(&PATIENCE));
        if !matches!(ready, Ok(1..)) || out.write_all(piece).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

/// As many ports as the configuration allows need more descriptors than a shell usually lets a process
/// have, and so does a NAT that reserves the host's ports. Root may have what it needs; for others the
/// hard limit is there to be used.
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
            eprintln!("vswitchd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
