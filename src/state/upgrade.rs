//! `vswitchctl upgrade`: another program goes on in place of this one, in the same process.
//!
//! ```text
//!   check: the program answers --version, and accepts this command line (--check)
//!   end:   what outlives the process is kept
//!   exec:  the program, with the same arguments, and the descriptors that are kept
//! ```
//!
//! What can fail is tried before anything ends. Descriptors are inherited ([`netio::inherited`]), so no manager or holder is asked. A
//! service manager sees one process all the time, which reloads: RELOADING=1, and READY=1 from the next program.
//!
//! *Rights.* Members of the control group must not run programs of their own as the daemon's user, so the program's file must belong
//! to root or that user, and be writable by nobody else. What was checked is what runs: the path is followed once, to open the
//! [`Program`], and all three steps take it by that descriptor. A script does not run that way.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use api::Refusal;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Pid, Signal, geteuid, kill_process_group};

/// What the kernel appends to the path of a program that was replaced.
const REPLACED: &str = " (deleted)";

/// Time limit for each of both questions.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Longest answer that is kept, in bytes.
const LONGEST: usize = 4096;

/// Variables that the questions' answers may depend on, and the beginning of further ones.
const VARIABLES: [&str; 3] = ["PATH", "STATE_DIRECTORY", "XDG_RUNTIME_DIR"];
const OWN_VARIABLES: &str = "VSWITCHD_";

/// An open program, whatever its path leads to by now.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    file: OwnedFd,
}

/// A program that is to go on, as soon as the request for it has been answered.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) program: Program,
    pub(crate) begin: Begin,
}

/// Set when an upgrade is to begin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begin(Arc<AtomicBool>);

/// What goes on after this program.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) program: Program,
    /// Descriptors that it inherits, with their names.
    pub(crate) descriptors: Vec<(String, OwnedFd)>,
}

impl Begin {
    /// Lets it begin.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is to begin.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The program at this path, or the one that runs as it is now on the disk, if it can go on.
pub(crate) fn check(path: Option<&str>) -> Result<Program, Refusal> {
    let path = match path {
        Some(path) => PathBuf::from(path),
        None => running().map_err(|error| Refusal::conflict(format!("the path of the running program is not known: {error}")))?,
    };
    let name = path.display().to_string();
    let refuse = |error: anyhow::Error| Refusal::conflict(format!("{name}: {error:#}; nothing was changed")).of_field("path");
    let program = Program::open(path).map_err(refuse)?;
    let version = program.version().map_err(refuse)?;
    tracing::info!(program = name, version, "another program is to go on");
    Ok(program)
}

fn running() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(REPLACED).map_or_else(|| path.clone(), PathBuf::from))
}

impl Program {
    /// Opens the file that the path leads to, if nobody but root and this user can have chosen what is in it.
    fn open(path: PathBuf) -> anyhow::Result<Program> {
        anyhow::ensure!(path.is_absolute(), "it is no absolute path");
        // Neither read nor written by this, so that devices and pipes do not notice.
        let file = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let found = rustix::fs::fstat(&file)?;
        let is_trusted = found.st_uid == 0 || found.st_uid == geteuid().as_raw();
        anyhow::ensure!(
            FileType::from_raw_mode(found.st_mode).is_file() && is_trusted && found.st_mode & 0o022 == 0,
            "it must be a file of root's or the daemon's user that nobody else may write"
        );
        Ok(Program { path, file })
    }

    /// Its version, if it is a vswitchd that accepts this command line.
    fn version(&self) -> anyhow::Result<String> {
        let version = answer(self.question().arg("--version"), PATIENCE)?;
        anyhow::ensure!(version.starts_with("vswitchd "), "it is no vswitchd");
        let words = std::env::args_os().skip(1).filter(|word| word != "--detached");
        answer(self.question().args(words).arg("--check"), PATIENCE)?;
        Ok(version.trim().to_owned())
    }

    fn command(&self) -> Command {
        // The process that executes it has the descriptor, too.
        Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// It, as a process that can neither talk to the service manager nor learn what the environment holds for others.
    fn question(&self) -> Command {
        let mut command = self.command();
        let is_kept = |name: &OsString| {
            let name = name.to_string_lossy();
            VARIABLES.contains(&&*name) || name.starts_with(OWN_VARIABLES) && name != netio::inherited::LIST
        };
        command.arg0("vswitchd").env_clear().envs(std::env::vars_os().filter(|(name, _)| is_kept(name)));
        command
    }
}

/// What a program prints; an error if it fails, or takes too long. Whoever else has its output is not waited for.
fn answer(command: &mut Command, patience: Duration) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let (mut out, mut err) = (Text::of(child.stdout.take())?, Text::of(child.stderr.take())?);
    let end = Instant::now() + patience;
    let status = loop {
        // What it printed before its end is read after it.
        let status = child.try_wait()?;
        out.read();
        err.read();
        if let Some(status) = status {
            break status;
        }
        if Instant::now() > end {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
            anyhow::bail!("it takes too long");
        }
        thread::sleep(PAUSE);
    };
    anyhow::ensure!(status.success(), "it refuses: {}", err.text().trim());
    Ok(out.text())
}

/// The text from a pipe, as far as it has come.
#[derive(Debug)]
struct Text<P> {
    pipe: Option<P>,
    bytes: Vec<u8>,
}

impl<P: Read + AsFd> Text<P> {
    fn of(pipe: Option<P>) -> io::Result<Text<P>> {
        pipe.as_ref().map(|pipe| rustix::io::ioctl_fionbio(pipe, true)).transpose()?;
        Ok(Text { pipe, bytes: Vec::new() })
    }

    /// Reads at most what a pipe holds; what is too long is discarded.
    fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut bytes = [0; 65_536];
        if let Ok(len) = pipe.read(&mut bytes) {
            let room = LONGEST - self.bytes.len();
            self.bytes.extend_from_slice(&bytes[..len.min(room)]);
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Next {
    /// Goes on as the other program. Returns only if that fails.
    pub(crate) fn begin(self) -> anyhow::Result<Infallible> {
        let Next { program, descriptors } = self;
        let mut words = std::env::args_os();
        let name = words.next().unwrap_or_else(|| OsString::from("vswitchd"));
        let mut command = program.command();
        command.arg0(name).args(words);
        // Open until it has begun.
        let _descriptors = netio::inherited::hand_over(descriptors, &mut command).context("handing descriptors over")?;
        crate::log::flush();
        Err(command.exec()).with_context(|| format!("{}: going on as this program", program.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn open(path: impl AsRef<Path>) -> anyhow::Result<Program> {
        Program::open(path.as_ref().to_owned())
    }

    /// The place of a program of the host's, without links.
    fn of_host(name: &str) -> PathBuf {
        let places = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(name));
        places.iter().find_map(|path| path.canonicalize().ok()).unwrap()
    }

    #[test]
    fn what_was_checked_is_what_runs() {
        let link = std::env::temp_dir().join(format!("vswitchd-program-{}", std::process::id()));
        let point_to = |target: &Path| {
            let _ = fs::remove_file(&link);
            symlink(target, &link).unwrap();
        };
        point_to(&of_host("echo"));
        let program = open(&link).unwrap();
        point_to(Path::new("/nowhere"));
        assert_eq!(answer(program.question().arg("as it was"), PATIENCE).unwrap(), "as it was\n");
        // Another file that is put into its place.
        fs::remove_file(&link).unwrap();
        fs::copy(of_host("echo"), &link).unwrap();
        let program = open(&link).unwrap();
        fs::rename(&link, link.with_extension("before")).unwrap();
        fs::copy(of_host("false"), &link).unwrap();
        assert_eq!(answer(program.question().arg("as it was"), PATIENCE).unwrap(), "as it was\n");
        fs::remove_file(&link).unwrap();
        fs::remove_file(link.with_extension("before")).unwrap();
    }

    #[test]
    fn what_others_can_write_does_not_run() {
        let path = std::env::temp_dir().join(format!("vswitchd-writable-{}", std::process::id()));
        fs::copy(of_host("echo"), &path).unwrap();
        let refused = |path: &Path| open(path).unwrap_err().to_string();
        for mode in [0o775, 0o757, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(refused(&path).contains("nobody else may write"), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        open(&path).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
            assert!(refused(&path).contains("nobody else may write"));
        }
        fs::remove_file(&path).unwrap();
        assert!(refused(&std::env::temp_dir()).contains("it must be a file"));
        assert!(refused(Path::new("/dev/null")).contains("it must be a file"));
        assert_eq!(refused(Path::new("bin/true")), "it is no absolute path");
        assert!(!refused(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn a_question_learns_nothing_of_the_environment() {
        let program = open(of_host("env")).unwrap();
        let text = answer(&mut program.question(), PATIENCE).unwrap();
        let names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert!(names.contains(&"PATH") && std::env::vars().count() > names.len(), "{text}");
        assert!(names.iter().all(|name| VARIABLES.contains(name) || name.starts_with(OWN_VARIABLES)), "{text}");
    }

    #[test]
    fn whoever_else_has_the_output_is_not_waited_for() {
        let program = open(of_host("sh")).unwrap();
        let text = answer(program.question().args(["-c", "sleep 1000 & echo $!"]), PATIENCE).unwrap();
        let sleeper = Pid::from_raw(text.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(sleeper, Signal::KILL).expect("it still sleeps");
        let late = answer(program.question().args(["-c", "sleep 1000"]), Duration::from_millis(10)).unwrap_err();
        assert_eq!(late.to_string(), "it takes too long");
        let failed = answer(program.question().args(["-c", "echo why >&2; exit 3"]), PATIENCE).unwrap_err();
        assert_eq!(failed.to_string(), "it refuses: why");
        let long = answer(program.question().args(["-c", "yes | head -c 300000"]), PATIENCE).unwrap();
        assert_eq!(long.len(), LONGEST);
    }
}
