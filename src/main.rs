//! `vswitchd`: a learning Ethernet switch in one userspace process, over TAP devices.

mod cli;
mod config;
mod control;
mod daemon;
mod demo;
mod report;
mod signals;
mod worker;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::daemon::Daemon;

/// Exit status for a configuration that cannot be (clap's own for its errors too).
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    if let Some(Command::Demo) = cli.command {
        return finish(demo::run());
    }
    let config = match Config::from_flags(&cli.flags) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("vswitchd: {error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    if cli.flags.check {
        return finish(daemon::check(&config));
    }
    finish(run(config))
}

fn run(config: Config) -> anyhow::Result<()> {
    let signals = signals::Signals::register()?;
    let daemon = Daemon::start(config)?;
    say(format_args!("{}ready\n", daemon.summary()));
    daemon.run(&signals)
}

/// Prints on standard output. That nobody reads it any more is no reason to stop carrying frames.
fn say(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let _ = out.write_fmt(text).and_then(|()| out.flush());
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

fn start_log() {
    let terminal = io::stderr().is_terminal();
    // A log that cannot be written is not worth a panic either.
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(terminal).with_target(false).log_internal_errors(false).init();
}
