//! `vswitchctl upgrade`: another program goes on in place of this one, in the same process.
//!
//! ```text
//!   check: the program answers --version, and accepts this command line (--check)
//!   end:   as by SIGTERM; what outlives the process is kept
//!   exec:  the program, with the same arguments, and the descriptors that are kept
//! ```
//!
//! What can fail is tried before anything ends. Descriptors are inherited ([`netio::inherited`]), so no manager or holder is asked. A
//! service manager sees one process all the time, which says READY=1 again.
//!
//! *Rights.* Members of the control group must not run programs of their own as the daemon's user, so the program's file must belong
//! to root or that user, and be writable by nobody else.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use api::Refusal;
use rustix::process::geteuid;

/// What the kernel appends to the path of a program that was replaced.
const REPLACED: &str = " (deleted)";

/// Time limit for each of both questions.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Longest answer that is read, in bytes.
const LONGEST: u64 = 4096;

/// What goes on after this program.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) program: PathBuf,
    /// Descriptors that it inherits, with their names.
    pub(crate) descriptors: Vec<(String, OwnedFd)>,
}

/// The program at this path, or the one that runs as it is now on the disk, if it can go on.
pub(crate) fn check(path: Option<&str>) -> Result<PathBuf, Refusal> {
    let program = match path {
        Some(path) => PathBuf::from(path),
        None => running().map_err(|error| Refusal::conflict(format!("the path of the running program is not known: {error}")))?,
    };
    let name = program.display().to_string();
    let refuse = |text: String| Refusal::conflict(format!("{name}: {text}; nothing was changed")).of_field("path");
    if !program.is_absolute() {
        return Err(refuse("it is no absolute path".to_owned()));
    }
    let file = program.metadata().map_err(|error| refuse(error.to_string()))?;
    if !file.is_file() || file.uid() != 0 && file.uid() != geteuid().as_raw() || file.mode() & 0o022 != 0 {
        return Err(refuse("it must be a file of root's or the daemon's user that nobody else may write".to_owned()));
    }
    let version = answer(Command::new(&program).arg("--version")).map_err(|error| refuse(error.to_string()))?;
    if !version.starts_with("vswitchd ") {
        return Err(refuse("it is no vswitchd".to_owned()));
    }
    let words = std::env::args_os().skip(1).filter(|word| word != "--detached");
    answer(Command::new(&program).args(words).arg("--check")).map_err(|error| refuse(error.to_string()))?;
    tracing::info!(program = name, version = version.trim(), "another program is to go on");
    Ok(program)
}

fn running() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(REPLACED).map_or_else(|| path.clone(), PathBuf::from))
}

/// What a program prints; an error if it fails, or takes too long.
fn answer(command: &mut Command) -> anyhow::Result<String> {
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let read = |from: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = from.map(|from| from.take(LONGEST).read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = read(out.map(|out| Box::new(out) as Box<dyn Read + Send>));
    let err = read(err.map(|err| Box::new(err) as Box<dyn Read + Send>));
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            anyhow::bail!("it takes too long");
        }
        thread::sleep(PAUSE);
    };
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    let (out, err) = (text(out), text(err));
    anyhow::ensure!(status.success(), "it refuses: {}", err.trim());
    Ok(out)
}

impl Next {
    /// Goes on as the other program. Returns only if that fails.
    pub(crate) fn begin(self) -> anyhow::Result<Infallible> {
        let Next { program, descriptors } = self;
        let mut words = std::env::args_os();
        let name = words.next().unwrap_or_else(|| OsString::from("vswitchd"));
        let mut command = Command::new(&program);
        command.arg0(name).args(words);
        // Open until it has begun.
        let _descriptors = netio::inherited::hand_over(descriptors, &mut command).context("handing descriptors over")?;
        crate::log::flush();
        Err(command.exec()).with_context(|| format!("{}: going on as this program", program.display()))
    }
}
