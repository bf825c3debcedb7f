//! Log levels: one for the whole daemon, and separate ones for parts of it. They can be changed at run time.
//!
//! A part is one or more modules of this crate. Messages are about devices, guests and peers; nothing is logged per
//! packet, whatever the level. So a level costs one comparison per event, or nothing if it is off.
//!
//! No thread of the daemon waits for a reader of the log ([`writer`]), and the same line is logged only so often ([`limit`]).
//!
//! *Limits.* Each of [`PARTS`] has one level; there is nothing else to be named, so nothing grows.

mod limit;
mod writer;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};
use std::str::FromStr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use config::nearest;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use limit::{Limit, Recent};
use writer::StandardError;

/// Environment variable with the levels at the start, used without `--log`.
pub(crate) const VARIABLE: &str = "VSWITCHD_LOG";

/// The names of the parts, as `--log` and `log set` take them.
pub(crate) const PARTS: [&str; 12] = [
    "config",
    "control",
    "control_socket",
    "daemon",
    "device",
    "docker",
    "reserve",
    "router",
    "service",
    "tunnel",
    "uplink",
    "worker",
];

/// Modules and the parts that they belong to. The longest module that matches a message counts.
const MODULES: [(&str, &str); 16] = [
    ("config", "config"),
    ("control_socket", "control_socket"),
    ("daemon", "daemon"),
    ("docker", "docker"),
    ("edge", "uplink"),
    ("edge::reserve", "reserve"),
    ("edge::router", "router"),
    ("fabric", "daemon"),
    ("ports", "daemon"),
    ("ports::device", "device"),
    ("ports::managed", "control"),
    ("service", "service"),
    ("state", "service"),
    ("tunnel", "tunnel"),
    ("watch", "daemon"),
    ("worker", "worker"),
];

const CRATE: &str = "vswitchd";
const LONGEST_NAME: usize = 32;
const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;

/// One per process, like the subscriber.
static LOG: OnceLock<Log> = OnceLock::new();

/// The lines logged lately.
static RECENT: OnceLock<Recent> = OnceLock::new();

struct Log {
    levels: Mutex<Levels>,
    handle: reload::Handle<Targets, Registry>,
}

/// The log levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Levels {
    general: LevelFilter,
    /// Of single parts, in the order of [`PARTS`].
    parts: [Option<LevelFilter>; PARTS.len()],
}

/// A change of one part's level, or of all levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// Its place in [`PARTS`].
    part: Option<usize>,
    level: LevelFilter,
}

/// The log of this process. What waits to be written is written when it is dropped.
#[derive(Debug)]
pub(crate) struct Started(());

impl Drop for Started {
    fn drop(&mut self) {
        limit::tell(recent(), true);
        writer::finish();
    }
}

/// Starts the log, with these levels.
pub(crate) fn start(levels: Levels) -> Started {
    let terminal = io::stderr().is_terminal();
    let (filter, handle) = reload::Layer::new(levels.targets());
    // A log that cannot be written must not cause a panic.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(StandardError)
        .with_ansi(terminal)
        .with_target(false)
        .log_internal_errors(false);
    tracing_subscriber::registry().with(filter).with(Limit(recent())).with(lines).init();
    let _ = LOG.set(Log { levels: Mutex::new(levels), handle });
    panic::set_hook(Box::new(tell_of_panic));
    Started(())
}

/// From now on no thread waits until a line is written.
pub(crate) fn detach() {
    if let Err(error) = writer::detach() {
        tracing::warn!(%error, "cannot start the log's thread; a reader of the log that does not read stops the switch");
    }
}

/// Waits for a limited time until all lines so far are written.
pub(crate) fn flush() {
    writer::finish();
}

/// Writes a line that is no event, such as the reason why the daemon ends.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    writer::write(format!("{line}\n").as_bytes());
}

/// Once a second: tells which lines were left out.
pub(crate) fn tick() {
    limit::tell(recent(), false);
}

/// Lines lost because standard error was not read.
pub(crate) fn lost() -> u64 {
    writer::lost()
}

fn recent() -> &'static Recent {
    RECENT.get_or_init(Recent::new)
}

/// Writes what the standard library would, by way of the log.
fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => say(format_args!("thread '{name}' {panic}\n{backtrace}")),
        _ => say(format_args!("thread '{name}' {panic}")),
    }
}

/// The levels now.
pub(crate) fn levels() -> Levels {
    LOG.get().map_or(Levels::default(), |log| *log.levels.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Changes a level, for all threads. Returns the levels now.
pub(crate) fn change(change: Change) -> Levels {
    let Some(log) = LOG.get() else { return Levels::default() };
    let mut levels = log.levels.lock().unwrap_or_else(PoisonError::into_inner);
    levels.change(change);
    // It fails only where the subscriber is gone.
    let _ = log.handle.reload(levels.targets());
    *levels
}

impl Default for Levels {
    fn default() -> Levels {
        Levels { general: DEFAULT_LEVEL, parts: [None; PARTS.len()] }
    }
}

impl Levels {
    /// The levels of the command line; without it, of the environment; without both, the default.
    pub(crate) fn at_start(flag: Option<&str>) -> Result<Levels, String> {
        if let Some(text) = flag {
            return text.parse().map_err(|problem| format!("--log {text}: {problem}"));
        }
        match std::env::var(VARIABLE) {
            Ok(text) if !text.is_empty() => text.parse().map_err(|problem| format!("{VARIABLE}={text}: {problem}")),
            _ => Ok(Levels::default()),
        }
    }

    /// The level of all, and the levels of parts that have their own.
    pub(crate) fn each(&self) -> (LevelFilter, impl Iterator<Item = (&'static str, LevelFilter)>) {
        let own = PARTS.iter().zip(self.parts).filter_map(|(part, level)| Some((*part, level?)));
        (self.general, own)
    }

    fn change(&mut self, change: Change) {
        match change.part {
            Some(part) => self.parts[part] = Some(change.level),
            None => *self = Levels { general: change.level, ..Levels::default() },
        }
    }

    /// A rule for each module, since a rule for `vswitchd::ports` alone would apply to `vswitchd::ports::device` too.
    fn targets(&self) -> Targets {
        let level = |part: &str| PARTS.iter().zip(self.parts).find(|(name, _)| **name == part).and_then(|(_, level)| level);
        let rules = MODULES.map(|(module, part)| (format!("{CRATE}::{module}"), level(part).unwrap_or(self.general)));
        Targets::new().with_default(self.general).with_targets(rules)
    }
}

/// `LEVEL`, `PART=LEVEL`, and several with commas between.
impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Levels, String> {
        let mut levels = Levels::default();
        let mut changes = text.split(',').map(Change::from_str).collect::<Result<Vec<Change>, String>>()?;
        // The level of all must not reset those of parts, wherever it stands.
        changes.sort_by_key(|change| change.part.is_some());
        changes.into_iter().for_each(|change| levels.change(change));
        Ok(levels)
    }
}

impl Change {
    /// A part's level, or that of all.
    pub(crate) fn new(part: Option<&str>, level: &str) -> Result<Change, String> {
        let level = match level {
            "off" => LevelFilter::OFF,
            "error" => LevelFilter::ERROR,
            "warn" => LevelFilter::WARN,
            "info" => LevelFilter::INFO,
            "debug" => LevelFilter::DEBUG,
            "trace" => LevelFilter::TRACE,
            _ => {
                return Err(format!("'{}' is no level; there are off, error, warn, info, debug and trace", level.escape_debug()));
            }
        };
        let part = part.map(|name| PARTS.iter().position(|part| *part == name).ok_or_else(|| unknown(name))).transpose()?;
        Ok(Change { part, level })
    }
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Change, String> {
        match text.split_once('=') {
            Some((part, level)) => Change::new(Some(part), level),
            None => Change::new(None, text),
        }
    }
}

/// `tunnel=debug`, as it is set.
impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(part) = self.part {
            write!(out, "{}=", PARTS[part])?;
        }
        out.write_str(word(self.level))
    }
}

fn unknown(name: &str) -> String {
    let shown = name.escape_debug();
    // A client's text may be of any length, and comparing long names takes time.
    let close = (name.len() <= LONGEST_NAME).then(|| nearest(name, PARTS.into_iter())).flatten();
    match close {
        Some(close) => format!("nothing is called '{shown}': did you mean '{close}'?"),
        None => format!("nothing is called '{shown}'; there are {}", PARTS.join(", ")),
    }
}

fn word(level: LevelFilter) -> &'static str {
    match level.into_level() {
        None => "off",
        Some(tracing::Level::ERROR) => "error",
        Some(tracing::Level::WARN) => "warn",
        Some(tracing::Level::INFO) => "info",
        Some(tracing::Level::DEBUG) => "debug",
        Some(_) => "trace",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tracing::Level;

    use super::*;

    fn parts_that_log(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                parts_that_log(&entry, found);
            } else if ["error!", "warn!", "info!", "debug!", "trace!"]
                .iter()
                .any(|name| fs::read_to_string(&entry).unwrap().contains(&format!("tracing::{name}")))
            {
                let inside = entry.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
                found.push(inside.to_str().unwrap().trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::"));
            }
        }
    }

    #[test]
    fn every_part_that_logs_has_its_level() {
        let mut found = Vec::new();
        parts_that_log(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
        for module in found.iter().filter(|module| *module != "main" && !module.starts_with("log")) {
            let is_within = |(of, _): &(&str, &str)| module == of || module.starts_with(&format!("{of}::"));
            assert!(MODULES.iter().any(is_within), "{module} logs, and belongs to no part");
        }
        assert!(MODULES.iter().all(|(_, part)| PARTS.contains(part)));
    }

    #[test]
    fn a_part_is_itself_and_what_is_in_it() {
        let levels: Levels = "warn,control=debug,tunnel=off".parse().unwrap();
        let targets = levels.targets();
        let is_on = |target, level| targets.would_enable(target, &level);
        assert!(is_on("vswitchd::ports::managed", Level::DEBUG) && !is_on("vswitchd::control_socket::socket", Level::INFO));
        assert!(is_on("vswitchd::control_socket::socket", Level::WARN) && is_on("vswitchd", Level::WARN));
        assert!(!is_on("vswitchd::tunnel::endpoint", Level::ERROR) && !is_on("vswitchd::ports::device", Level::INFO));
    }

    #[test]
    fn the_level_of_all_is_that_of_all() {
        let mut levels: Levels = "tunnel=debug,error".parse().unwrap();
        let (general, own) = levels.each();
        assert_eq!((general, own.collect::<Vec<_>>()), (LevelFilter::ERROR, vec![("tunnel", LevelFilter::DEBUG)]));
        levels.change(Change::new(None, "info").unwrap());
        assert_eq!(levels, Levels::default());
        assert_eq!(Change::new(Some("tunnel"), "trace").unwrap().to_string(), "tunnel=trace");
    }

    #[test]
    fn bad_words_are_answered_with_the_good_ones() {
        for (text, say) in [
            ("loud", "'loud' is no level; there are off, error,"),
            ("", "'' is no level"),
            ("tunel=debug", "did you mean 'tunnel'?"),
            ("nonsense\u{1b}=debug", "nothing is called 'nonsense\\u{1b}'; there are config, control,"),
            ("info,", "'' is no level"),
            ("tunnel=", "'' is no level"),
        ] {
            let said = text.parse::<Levels>().unwrap_err();
            assert!(said.contains(say), "{text}: {said}");
        }
    }
}
