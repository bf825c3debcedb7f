//! Notifications to the service manager, as in sd_notify(3).
//!
//! ```text
//!   frames flow          READY=1, STATUS=carrying frames of 2 ports
//!   what is shown changes           STATUS=tap1 is gone
//!   every second         WATCHDOG=1, if it is wanted and every worker has answered
//!   SIGHUP               RELOADING=1, MONOTONIC_USEC=..    and when it is done    READY=1
//!   an upgrade           RELOADING=1, MONOTONIC_USEC=..    and of the next program    READY=1
//!   SIGTERM              STOPPING=1
//! ```
//!
//! What the manager keeps over a restart is the [`Keeper`](crate::state::Keeper)'s business.
//!
//! *The watchdog* is fed by the control thread on behalf of the workers, which carry the frames. Once a second each worker gets
//! a command that it answers between two batches: a worker that waits is woken and answers, one that is busy answers after the
//! batch at hand, and one that hangs or has ended does not. So nothing is counted in the packet path. The watchdog is fed when all
//! workers have answered the last round; a control thread that hangs feeds nothing either.
//!
//! `NOTIFY_SOCKET` names the manager's socket; it is read once, and without it nothing is sent. Each notification has a time
//! limit, because a manager that does not read must not stop the switch. No child process gets the variable, which it could misuse:
//! neither the [holder](crate::state::holder) nor a program that is asked before an [upgrade](crate::state::upgrade). With `--detach`
//! the process that is started is the switch.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

const SOCKET: &str = "NOTIFY_SOCKET";

/// Time limit for one notification.
const NOTIFY_TIMEOUT: Duration = Duration::from_millis(100);

/// Longest status text, in characters.
const LONGEST_STATUS: usize = 256;

/// Shortest watchdog period that works: it is fed once a second, and a second later if a worker was slow to answer.
const SHORTEST_WATCHDOG: Duration = Duration::from_secs(3);

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Service {
    socket: Option<UnixDatagram>,
    status: String,
    watchdog: Option<Watchdog>,
}

/// Feeds the manager's watchdog while all workers answer.
#[derive(Debug, Default)]
struct Watchdog {
    /// Answers of the last round that are still to come.
    missing: Answers,
}

/// The number of workers that are still to answer in a round.
pub(crate) type Answers = Arc<AtomicUsize>;

/// A socket to the service manager of this process, if it has one that can be reached.
pub(crate) fn manager() -> Option<UnixDatagram> {
    connect(&std::env::var_os(SOCKET)?).ok()
}

impl Service {
    /// The service manager of this process, if it has one.
    pub(crate) fn from_environment() -> Service {
        let Some(path) = std::env::var_os(SOCKET) else { return Service::default() };
        let socket = match connect(&path) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(socket = %path.display(), %error, "cannot reach the service manager of {SOCKET}; it gets no notifications");
                return Service::default();
            }
        };
        let watchdog = sd_notify::watchdog_enabled();
        if watchdog.is_some_and(|period| period < SHORTEST_WATCHDOG) {
            tracing::warn!(
                "WatchdogSec= is too short: the watchdog is fed once a second, so use {} s or more",
                SHORTEST_WATCHDOG.as_secs()
            );
        }
        let watchdog = watchdog.map(|_| Watchdog::default());
        Service { socket: Some(socket), watchdog, ..Service::default() }
    }

    /// Whether there is a service manager.
    pub(crate) fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Frames flow.
    pub(crate) fn ready(&mut self, status: &str) {
        let status = one_line(status);
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.status = status;
    }

    /// Sends the status if it is another than before.
    pub(crate) fn status(&mut self, status: &str) {
        let status = one_line(status);
        if status != self.status {
            self.tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// The configuration is being read again, and [`Service::ready`] follows, whether or not that works; or another program goes on,
    /// which says the same.
    pub(crate) fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.tell(&[NotifyState::Reloading, now]);
        }
    }

    /// The end has begun.
    pub(crate) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("ending")]);
    }

    /// Once a second: feeds the watchdog if all workers have answered, and returns the counter of the next round.
    pub(crate) fn next_round(&mut self, workers: usize) -> Option<Answers> {
        let watchdog = self.watchdog.as_mut()?;
        if watchdog.missing.load(Ordering::Relaxed) > 0 {
            return None;
        }
        watchdog.missing = Arc::new(AtomicUsize::new(workers));
        let answers = Arc::clone(&watchdog.missing);
        self.tell(&[NotifyState::Watchdog]);
        Some(answers)
    }

    fn tell(&self, words: &[NotifyState<'_>]) {
        let Some(socket) = &self.socket else { return };
        let text: String = words.iter().map(|word| format!("{word}\n")).collect();
        if let Err(error) = socket.send(text.as_bytes()) {
            tracing::debug!(%error, "cannot notify the service manager");
        }
    }
}

/// A path, or a name that is in no file system, behind an `@`.
fn connect(path: &OsStr) -> std::io::Result<UnixDatagram> {
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(NOTIFY_TIMEOUT))?;
    Ok(socket)
}

/// A status may hold names that strangers chose, and each line is a notification of its own to the manager.
fn one_line(status: &str) -> String {
    status.chars().filter(|c| !c.is_control()).take(LONGEST_STATUS).collect()
}

/// Counts a worker's answer.
pub(crate) fn answer(answers: &Answers) {
    answers.fetch_sub(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 256];
        socket.set_nonblocking(true).unwrap();
        socket.recv(&mut bytes).ok().map(|len| String::from_utf8_lossy(&bytes[..len]).into_owned())
    }

    fn service() -> (Service, UnixDatagram) {
        let (ours, managers) = UnixDatagram::pair().unwrap();
        (Service { socket: Some(ours), watchdog: Some(Watchdog::default()), ..Service::default() }, managers)
    }

    #[test]
    fn a_status_is_told_once() {
        let (mut service, manager) = service();
        service.ready("2 ports");
        assert_eq!(heard(&manager).unwrap(), "READY=1\nSTATUS=2 ports\n");
        service.status("2 ports");
        assert_eq!(heard(&manager), None);
        service.status("tap0\nSTOPPING=1 is gone");
        assert_eq!(heard(&manager).unwrap(), "STATUS=tap0STOPPING=1 is gone\n");
        service.reloading();
        let reloading = heard(&manager).unwrap();
        let since: u64 = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end().parse().unwrap();
        assert!(since > 0);
    }

    /// The first round vouches for nobody but the control thread: a start is allowed to take its time.
    #[test]
    fn the_watchdog_is_fed_when_all_workers_have_answered() {
        let (mut service, manager) = service();
        let first = service.next_round(2).unwrap();
        assert_eq!(heard(&manager).unwrap(), "WATCHDOG=1\n");
        answer(&first);
        assert!(service.next_round(2).is_none() && heard(&manager).is_none(), "one worker hangs");
        answer(&first);
        assert!(service.next_round(2).is_some());
        assert_eq!(heard(&manager).unwrap(), "WATCHDOG=1\n");
    }

    #[test]
    fn without_a_manager_nothing_is_asked() {
        let mut service = Service::default();
        assert!(service.next_round(2).is_none() && !service.is_there());
        service.ready("unheard");
    }

    #[test]
    fn names_that_are_in_no_file_system() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("vswitchd-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let socket = connect(OsStr::new(&format!("@{name}"))).unwrap();
        socket.send(b"READY=1\n").unwrap();
        assert_eq!(heard(&manager).unwrap(), "READY=1\n");
        assert!(connect(OsStr::new("/nonexistent/notify")).is_err());
    }
}
