//! `--detach`: the switch goes on in the background once it is ready.
//!
//! ```text
//!   vswitchd --detach              vswitchd --detached
//!      | starts itself again ------> | leaves the terminal's session
//!      |                             | starts: prints, warns and fails as in the foreground
//!      | waits    <---- one byte --- | is ready: lets go of terminal and pipes
//!      | exits with 0                | carries frames
//!      |
//!      | or the pipe's end: exits with the status of the other process
//! ```
//!
//! The second process is started anew rather than forked, so that no thread is lost on the way. The pipe is its standard input.
//! If whoever started it is gone before it is ready, for example by Ctrl-C, the start is undone.
//!
//! *Output.* Until it is ready, standard output and error are those of the command. Then each of them stays if it is a file, which
//! is how a log is kept, and is replaced by `/dev/null` if it is a terminal, a pipe or a socket: otherwise a reader of the
//! command's output would wait for the end of the switch.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Context;
use rustix::fs::{FileType, fstat};
use rustix::process::setsid;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr, stdin, stdout};

/// The flag of the command, and that of the process in the background.
const FLAG: &str = "--detach";
const IN_BACKGROUND: &str = "--detached";

/// What is written when the switch is ready.
const READY: &[u8] = b"\n";

/// Starts the switch in the background and waits until it is ready, or has failed. Returns the exit status.
pub(crate) fn start() -> anyhow::Result<ExitCode> {
    let (mut ready, writer) = io::pipe().context("making the pipe to the process in the background")?;
    let program = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| "vswitchd".into());
    let words = words.map(|word| if word == FLAG { OsString::from(IN_BACKGROUND) } else { word });
    // Dropped with the command is the writer that this process holds.
    let mut child = Command::new(&program).arg0(name).args(words).stdin(writer).spawn();
    let child =
        child.as_mut().map_err(|error| anyhow::anyhow!("{}: starting it in the background: {error}", program.display()))?;
    let mut byte = [0];
    if matches!(ready.read(&mut byte), Ok(1)) {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().context("waiting for the process in the background")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// In the background: leaves the session of the terminal, whose end would be a signal.
pub(crate) fn leave_session() {
    // It fails only for the leader of a session, which this process then is already.
    let _ = setsid();
}

/// In the background: the switch is ready.
///
/// # Errors
///
/// Nobody waits for it any more.
pub(crate) fn ready() -> anyhow::Result<()> {
    crate::log::flush();
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").context("/dev/null")?;
    if !is_file(stdout()) {
        dup2_stdout(&null).context("leaving standard output")?;
    }
    let told = rustix::io::write(stdin(), READY).map(drop);
    dup2_stdin(&null).context("leaving standard input")?;
    told.context("the start was interrupted")?;
    if !is_file(stderr()) {
        dup2_stderr(null.as_fd()).context("leaving standard error")?;
    }
    Ok(())
}

fn is_file(output: BorrowedFd<'_>) -> bool {
    fstat(output).is_ok_and(|state| FileType::from_raw_mode(state.st_mode) == FileType::RegularFile)
}
