//! The holder: a small process that holds descriptors while the switch does not run, where no service manager does.
//!
//! ```text
//!   vswitchd ---FDSTORE=1, a descriptor---> DIR/holder: vswitchd hold DIR
//!            ---FDSTOREREMOVE=1----------->
//!   the next ---HOLD-GIVE=1, a socket----->            ---FDNAME=, a descriptor---> by that socket
//!            ---HOLD-END=1---------------->            ends
//! ```
//!
//! It is this program again, with the socket `DIR/holder` as its standard input. It outlives the process that started it, and the next
//! one finds it by the socket, which takes messages of this user alone. It ends when it is told so, when the socket is removed or
//! replaced, when it holds nothing and no switch runs, and when somebody kills it, which costs guests their carrier while no switch
//! runs, and nothing else.
//!
//! *A service manager* gets what a holder has. The switch ends the holder when the manager has all of that, so that a start that fails
//! before leaves it as it was.
//!
//! *A switch that does not come back.* Devices and connections stay, as they are nobody else's. The gate does not: after
//! [`GATE_TIME`] without a switch, the host is silent about no port any more.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::fs::{Mode, fchmod};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg,
};

use super::directory::is_locked;
use super::keeper::{GATES, Left, remove, send_descriptor};

/// Name of the socket in the state directory.
const SOCKET: &str = "holder";

/// The hidden subcommand.
pub(crate) const VERB: &str = "hold";

/// Asks for all descriptors, by the socket that goes with it.
const GIVE: &str = "HOLD-GIVE=1\n";
/// Says that there are no more.
const NO_MORE: &str = "HOLD-NO-MORE=1\n";
/// Tells the holder to end.
const END: &[u8] = b"HOLD-END=1\n";

/// Time limit for a message, to and from the holder.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often the holder looks whether its socket is still there, and whether a switch runs.
const LOOK: Duration = Duration::from_secs(5);

/// How long the gate is held while no switch runs: a host's own program may want a port by then.
const GATE_TIME: Duration = Duration::from_secs(60);

/// Longest message, in bytes.
const LONGEST: usize = 4096;

/// Number of descriptors in a message that are taken; further ones are closed.
const PER_MESSAGE: usize = 4;

/// A holder, as the switch sees it.
#[derive(Debug)]
pub(super) struct Holder {
    socket: UnixDatagram,
    /// Where its socket is.
    path: PathBuf,
    /// The names of what it held when it was found.
    names: Vec<String>,
}

impl Holder {
    /// The holder of this state directory, and what it holds; a new one if there is none.
    pub(super) fn find_or_start(directory: &Path) -> anyhow::Result<(Holder, Left)> {
        match Holder::find(directory) {
            Some(found) => Ok(found),
            None => {
                let path = directory.join(SOCKET);
                Ok((Holder { socket: start(&path)?, path, names: Vec::new() }, Vec::new()))
            }
        }
    }

    /// The holder of this state directory, if there is one, and what it holds.
    pub(super) fn find(directory: &Path) -> Option<(Holder, Left)> {
        let path = directory.join(SOCKET);
        let socket = connect(&path).ok()?;
        let held = fetch(&socket).ok()?;
        let names = held.iter().map(|(name, _)| name.clone()).collect();
        Some((Holder { socket, path, names }, held))
    }

    /// Takes messages.
    pub(super) fn socket(&self) -> &UnixDatagram {
        &self.socket
    }

    /// Waits until it has obeyed, as far as it does.
    pub(super) fn wait(&self) {
        drop(fetch(&self.socket));
    }

    /// Lets it close what it held under such names when it was found, and waits for that.
    pub(super) fn forget(&self, is_it: impl Fn(&str) -> bool) {
        let names: Vec<&String> = self.names.iter().filter(|name| is_it(name)).collect();
        if !names.is_empty() && names.iter().all(|name| self.socket.send(remove(name).as_bytes()).is_ok()) {
            self.wait();
        }
    }

    /// Starts it again if somebody has ended it. Returns whether that was so.
    pub(super) fn look(&mut self) -> anyhow::Result<bool> {
        if self.socket.send(b"\n").is_ok() {
            return Ok(false);
        }
        self.socket = start(&self.path)?;
        Ok(true)
    }

    /// Ends it.
    pub(super) fn end(self) {
        let _ = self.socket.send(END);
        let _ = fs::remove_file(&self.path);
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Everything that the holder holds.
fn fetch(socket: &UnixDatagram) -> io::Result<Left> {
    let (ours, theirs) = UnixDatagram::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    send_descriptor(socket, GIVE, theirs.as_fd())?;
    drop(theirs);
    let mut held = Vec::new();
    loop {
        let (text, descriptors) = receive(&ours)?;
        if text == NO_MORE {
            return Ok(held);
        }
        let name = value(&text, "FDNAME").unwrap_or_default().to_owned();
        held.extend(descriptors.into_iter().map(|descriptor| (name.clone(), descriptor)));
    }
}

/// Starts a holder with its socket at this path. Returns a socket to talk to it.
fn start(path: &Path) -> anyhow::Result<UnixDatagram> {
    let theirs = bind(path).with_context(|| path.display().to_string())?;
    // By this path, whatever has become of the file that was started.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("vswitchd").arg(VERB).arg(path).env_clear().current_dir("/");
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    // Not waited for: it outlives this process.
    drop(command.spawn().context("starting a process that holds descriptors")?);
    Ok(connect(path)?)
}

/// A socket at this path, to which nobody but this user can send at any time: its file takes the rights that the socket has before.
fn bind(path: &Path) -> io::Result<UnixDatagram> {
    let _ = fs::remove_file(path);
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixDatagram::from(socket))
}

/// Is the holder with this socket path, until the end.
pub(crate) fn run(path: &Path) -> anyhow::Result<()> {
    crate::detach::leave_session();
    let socket = UnixDatagram::from(rustix::stdio::stdin().try_clone_to_owned().context("its socket")?);
    socket.set_read_timeout(Some(LOOK)).context("its socket")?;
    let mut held: Left = Vec::new();
    let mut watch = Watch::new(path);
    loop {
        match receive(&socket) {
            Ok((text, _)) if text.as_bytes() == END => return Ok(()),
            Ok((text, descriptors)) => obey(&mut held, &text, descriptors),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("its socket"),
        }
        // By the clock, as a switch sends something each second.
        if watch.looked_at.elapsed() >= LOOK && !watch.goes_on(&mut held) {
            return Ok(());
        }
    }
}

/// What the holder looks at now and then.
struct Watch<'p> {
    path: &'p Path,
    /// Device and number of its socket's file.
    identity: Option<(u64, u64)>,
    looked_at: Instant,
    /// Since when no switch has been seen.
    alone_since: Option<Instant>,
}

impl<'p> Watch<'p> {
    fn new(path: &'p Path) -> Watch<'p> {
        Watch { path, identity: identity(path), looked_at: Instant::now(), alone_since: None }
    }

    /// Lets go of what is not to be held for ever. False if the holder is of no use any more.
    fn goes_on(&mut self, held: &mut Left) -> bool {
        self.looked_at = Instant::now();
        if self.identity.is_none() || identity(self.path) != self.identity {
            return false;
        }
        if self.path.parent().is_some_and(is_locked) {
            self.alone_since = None;
            return true;
        }
        if self.alone_since.get_or_insert(self.looked_at).elapsed() >= GATE_TIME {
            held.retain(|(name, _)| !GATES.contains(&name.as_str()));
        }
        !held.is_empty()
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino())).ok()
}

fn obey(held: &mut Left, text: &str, descriptors: Vec<OwnedFd>) {
    if text == GIVE {
        for receiver in descriptors {
            // Whoever does not take them has ended.
            let _ = give(held, &UnixDatagram::from(receiver));
        }
        return;
    }
    let Some(name) = value(text, "FDNAME") else { return };
    if value(text, "FDSTORE") == Some("1") {
        held.extend(descriptors.into_iter().map(|descriptor| (name.to_owned(), descriptor)));
    } else if value(text, "FDSTOREREMOVE") == Some("1") {
        held.retain(|(held, _)| held != name);
    }
}

fn give(held: &Left, to: &UnixDatagram) -> io::Result<()> {
    to.set_write_timeout(Some(PATIENCE))?;
    for (name, descriptor) in held {
        send_descriptor(to, &format!("FDNAME={name}\n"), descriptor.as_fd())?;
    }
    to.send(NO_MORE.as_bytes()).map(drop)
}

/// The value of a line `KEY=value`.
fn value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.split_once('=').filter(|(name, _)| *name == key).map(|(_, value)| value))
}

/// One message, with its descriptors.
fn receive(socket: &UnixDatagram) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((String::from_utf8_lossy(&bytes[..received.bytes]).into_owned(), descriptors))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Whatever the umask.
    #[test]
    fn nobody_else_can_send() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("vswitchd-holder-bind-{}", std::process::id()));
        for _ in 0..2 {
            let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
            fchmod(&socket, Mode::from_raw_mode(0o777)).unwrap();
            drop(socket);
            let _socket = bind(&path).unwrap();
            assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        }
        fs::remove_file(&path).unwrap();
    }

    /// What is held comes back as it was, and what was removed does not.
    #[test]
    fn what_is_held_comes_back() {
        let path = std::env::temp_dir().join(format!("vswitchd-holder-{}", std::process::id()));
        let theirs = UnixDatagram::bind(&path).unwrap();
        let holder = std::thread::spawn(move || {
            let mut held = Vec::new();
            loop {
                let (text, descriptors) = receive(&theirs).unwrap();
                if text.as_bytes() == END {
                    return held.len();
                }
                obey(&mut held, &text, descriptors);
            }
        });
        let socket = connect(&path).unwrap();
        for (name, file) in [("a", "/dev/null"), ("b", "/dev/zero"), ("a", "/dev/full")] {
            let file = File::open(file).unwrap();
            send_descriptor(&socket, &format!("FDSTORE=1\nFDNAME={name}\n"), file.as_fd()).unwrap();
        }
        let names = |held: &Left| held.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let held = fetch(&socket).unwrap();
        assert_eq!(names(&held), ["a", "b", "a"]);
        let device = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_rdev;
        assert_eq!(device(&held[1].1), rustix::fs::stat("/dev/zero").unwrap().st_rdev);
        socket.send(b"FDSTOREREMOVE=1\nFDNAME=a\n").unwrap();
        for nonsense in [&b"\n"[..], b"FDSTORE=1\nFDNAME=c\n", b"FDNAME=b\n", b"\xff\xfe=\n", &[b'x'; 5000]] {
            socket.send(nonsense).unwrap();
        }
        assert_eq!(names(&fetch(&socket).unwrap()), ["b"]);
        socket.send(END).unwrap();
        assert_eq!(holder.join().unwrap(), 1);
        let _ = fs::remove_file(&path);
    }
}
