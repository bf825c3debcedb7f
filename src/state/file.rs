//! `state.json`: what verbs made at run time and own, for the next start.
//!
//! ```text
//!   { "version": 2, "boot": "8ea7..", "bridges": ["blue"], "toml": "[bridge.blue]\n..", "processes": {"eth0@pid:7": 4711},
//!     "checksum": "3f.." }
//! ```
//!
//! A change of the configuration is written to a file beside it before it is made ([`StateFile::prepare`]), so that a change that
//! cannot be written is refused, and takes its place by a rename once it is made. So the file is always whole: as before the change,
//! or as after it, also after a power failure: its bytes are on the disk before it gets its name. That it has this name is written by
//! [another thread](DirectorySync), so that a change waits for the disk once.
//!
//! A file that cannot be read, because it is damaged or of a newer version, is moved aside, as `state.json.refused`, and told in the
//! log and by `show`. The switch starts without it. If a part clashes with the configuration, a copy is kept under that name, with the
//! reasons, and the switch starts with the rest.
//!
//! *Processes.* The namespace of a port may be named by the number of a process, which another process has later. The file says when
//! each of them [began](Began), and the port is that process's or nobody's. After a boot, such ports cannot come back, and are left
//! out.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use anyhow::Context;
use config::{Desired, LeftOut, Origin, Restored};
use netio::netns::Began;
use serde_json::Value;

use super::content::{Content, Unusable, Written};
use crate::model::netns_of_process;

const NAME: &str = "state.json";

/// Longest file that is read, in bytes.
const LONGEST: u64 = 64 << 20;

/// Number of files that are kept aside, at most.
const MOST_ASIDE: usize = 20;

/// Number of parts that are told one by one.
const MOST_TOLD: usize = 8;

/// The file in a state directory.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// What it says; `None` if that is not known.
    written: Option<Content>,
    /// When the processes began in whose namespaces ports are, by the ports' full names.
    processes: HashMap<String, Began>,
    /// Why what was there could not be used.
    problem: Option<String>,
    /// Syncs its directory; without it, each change does.
    sync: Option<DirectorySync>,
}

/// A thread that writes to the disk that the file has its name, after each change.
#[derive(Debug)]
struct DirectorySync {
    requests: SyncSender<()>,
}

impl DirectorySync {
    fn start(directory: &Path) -> io::Result<DirectorySync> {
        let directory = File::open(directory)?;
        // One that waits is for all changes so far.
        let (requests, changes) = sync_channel(1);
        let work = move || changes.iter().for_each(|()| sync(&directory));
        thread::Builder::new().name("state".into()).spawn(work)?;
        Ok(DirectorySync { requests })
    }

    /// The directory has changed.
    fn begin(&self) {
        let _ = self.requests.try_send(());
    }
}

fn sync(directory: &File) {
    if let Err(error) = directory.sync_all() {
        tracing::warn!(%error, "the state directory cannot be synced: a power failure may undo the last changes of its file");
    }
}

/// What has been written, and takes the place of the file with [`StateFile::commit`]. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Prepared {
    temporary: PathBuf,
    content: Content,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}

impl StateFile {
    /// The file in this directory, and the configuration with what it says.
    pub(crate) fn open(directory: &Path, desired: Desired) -> (StateFile, Desired) {
        let path = directory.join(NAME);
        let mut file = StateFile { path, written: None, processes: HashMap::new(), problem: None, sync: None };
        file.sync = DirectorySync::start(directory).ok();
        let restored = file.read().and_then(|(content, written)| {
            match desired.with_owned(NAME, &content.owned, &|port| content.refuses(port, written)) {
                Ok(restored) => Ok((content, restored)),
                Err(problems) => Err(Unusable::Unknown(problems.to_string())),
            }
        });
        match restored {
            Ok((content, restored)) => {
                let ports = restored.desired.config.ports.len().saturating_sub(desired.config.ports.len());
                let desired = file.take_in(content, restored);
                let bridges = desired.owned().bridges.len();
                if bridges + ports > 0 {
                    tracing::info!(bridges, ports, "bridges and ports of verbs before the start are there again");
                }
                (file, desired)
            }
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                file.written = Some(Content::default());
                (file, desired)
            }
            Err(error) => {
                file.refuse(&error);
                (file, desired)
            }
        }
    }

    /// What the file says is in force, except for what is left out.
    fn take_in(&mut self, content: Content, restored: Restored) -> Desired {
        let Restored { desired, left_out } = restored;
        self.processes = content.processes.iter().cloned().collect();
        self.written = Some(content);
        if left_out.is_empty() {
            return desired;
        }
        let mut parts: Vec<String> = left_out.iter().take(MOST_TOLD).map(LeftOut::to_string).collect();
        if left_out.len() > MOST_TOLD {
            parts.push(format!("and {} more", left_out.len() - MOST_TOLD));
        }
        let mut problem = format!("{}: a part of what verbs made is missing: {}", self.path.display(), parts.join("; "));
        if left_out.iter().any(|left| left.is_clash) {
            match self.copy_aside(&left_out) {
                Ok(to) => problem += &format!("; the whole file is kept as {}", to.display()),
                Err(error) => {
                    // Then it stays, until the next change.
                    self.tell(format!("{problem}; a copy of it cannot be kept: {error}"));
                    return desired;
                }
            }
        }
        self.tell(problem);
        match self.prepare(&desired) {
            Ok(prepared) => prepared.into_iter().for_each(|prepared| self.commit(prepared)),
            Err(error) => tracing::error!("{error:#}; the next start leaves the same out"),
        }
        desired
    }

    fn tell(&mut self, problem: String) {
        tracing::error!("{problem}");
        self.problem = Some(problem);
    }

    fn read(&self) -> Result<(Content, Written), Unusable> {
        let mut text = Vec::new();
        File::open(&self.path)?.take(LONGEST).read_to_end(&mut text)?;
        Content::parse(&text)
    }

    /// A name that is free, to keep the file under.
    fn aside(&self) -> Option<PathBuf> {
        let aside = (0..MOST_ASIDE).map(|number| {
            let end = if number == 0 { String::new() } else { format!("-{number}") };
            self.path.with_extension(format!("json.refused{end}"))
        });
        aside.into_iter().find(|path| !path.exists())
    }

    /// Moves the file aside, and tells.
    fn refuse(&mut self, error: &Unusable) {
        let kept = match self.aside().map(|to| fs::rename(&self.path, &to).map(|()| to)) {
            Some(Ok(to)) => format!("it is kept as {}", to.display()),
            Some(Err(error)) => format!("it cannot be moved aside: {error}"),
            None => format!("{MOST_ASIDE} such files are there, so it is replaced with the next change"),
        };
        self.tell(format!("{}: {error}; {kept}; bridges and ports that verbs made are missing", self.path.display()));
    }

    /// Keeps a copy of the file, with the reasons why not all of it is in force.
    fn copy_aside(&self, left_out: &[LeftOut]) -> io::Result<PathBuf> {
        let to = self.aside().ok_or_else(|| io::Error::other(format!("{MOST_ASIDE} such files are there")))?;
        let mut value: Value = serde_json::from_slice(&fs::read(&self.path)?)?;
        value["refused"] = left_out.iter().map(LeftOut::to_string).collect();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to)?;
        file.write_all(format!("{value:#}\n").as_bytes())?;
        file.sync_data()?;
        Ok(to)
    }

    /// Why what was there at the start could not be used.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// When the processes began in whose namespaces ports are, by the ports' full names.
    pub(crate) fn processes(&self) -> &HashMap<String, Began> {
        &self.processes
    }

    /// The processes of a configuration: those that are known, and those that its new ports name now.
    fn processes_of(&self, desired: &Desired) -> Vec<(String, Began)> {
        let of_verbs = desired.config.ports.iter().filter(|port| matches!(port.origin, Origin::Verb(_)));
        let began = of_verbs.filter_map(|port| {
            let (netns, name) = (netns_of_process(port)?, port.full_name());
            let began = self.processes.get(&name).copied().or_else(|| netns.process_now().ok()?)?;
            Some((name, began))
        });
        let mut processes: Vec<_> = began.collect();
        processes.sort();
        processes
    }

    /// Writes what a configuration says, beside the file. `None` if the file says so already.
    pub(crate) fn prepare(&self, desired: &Desired) -> anyhow::Result<Option<Prepared>> {
        let content = Content { owned: desired.owned(), processes: self.processes_of(desired) };
        if self.written.as_ref() == Some(&content) {
            return Ok(None);
        }
        let prepared = Prepared { temporary: self.path.with_extension("json.new"), content };
        let context = || format!("{}: the state cannot be written, so nothing was changed", prepared.temporary.display());
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&prepared.temporary);
        let write = |mut file: File| file.write_all(prepared.content.text().as_bytes()).and_then(|()| file.sync_data());
        file.and_then(write).with_context(context)?;
        Ok(Some(prepared))
    }

    /// The change is made.
    pub(crate) fn commit(&mut self, prepared: Prepared) {
        self.processes = prepared.content.processes.iter().cloned().collect();
        match fs::rename(&prepared.temporary, &self.path) {
            Ok(()) => {
                self.written = Some(prepared.content.clone());
                match &self.sync {
                    Some(thread) => thread.begin(),
                    None => self.path.parent().into_iter().filter_map(|path| File::open(path).ok()).for_each(|file| sync(&file)),
                }
            }
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "the state cannot be written; the next start does not know of this change");
                self.written = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use config::{Flag, Owned};
    use serde_json::json;

    use super::super::content::this_boot;
    use super::*;

    /// A directory that goes with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("vswitchd-file-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn start() -> Desired {
        Desired::of_flags(&[Flag::new("--tap", "a")]).unwrap()
    }

    fn changed() -> Desired {
        start().with_bridge("blue").unwrap().with_port("b1:bridge=blue:id=one").unwrap().with_port("web0:id=web").unwrap()
    }

    fn write(directory: &Directory, desired: &Desired) {
        let (mut file, _) = StateFile::open(&directory.0, start());
        let prepared = file.prepare(desired).unwrap().unwrap();
        file.commit(prepared);
        assert!(file.prepare(desired).unwrap().is_none(), "written once");
    }

    #[test]
    fn it_comes_back() {
        let directory = Directory::new("back");
        write(&directory, &changed());
        let (file, restored) = StateFile::open(&directory.0, start());
        assert_eq!((restored.owned(), file.problem()), (changed().owned(), None));
        // What is prepared and not committed leaves nothing.
        drop(file.prepare(&start()).unwrap().unwrap());
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 1);
        let (_, restored) = StateFile::open(&directory.0, start());
        assert_eq!(restored.owned(), changed().owned());
    }

    #[test]
    fn what_cannot_be_used_is_kept_aside() {
        let directory = Directory::new("aside");
        let path = directory.0.join(NAME);
        let owned = Owned { bridges: vec!["blue".into()], toml: "[bridge.blue]\nx = 1\n".into() };
        let unknown = Content { owned, processes: Vec::new() };
        for (number, (text, say)) in [
            ("", "it is damaged: EOF"),
            ("{}", "it has no version"),
            ("{\"version\": 7, \"more\": []}", "it is of version 7, and this vswitchd reads up to version 2"),
            ("{\"version\": 1, \"bridges\": [], \"toml\": \"\"}", "a part is missing"),
            ("{\"version\": 1, \"bridges\": [], \"toml\": \"\", \"checksum\": \"0\"}", "its checksum is another"),
            ("{\"version\": 2, \"bridges\": [], \"toml\": \"\", \"checksum\": \"0\"}", "its processes are no table of times"),
            (&unknown.text(), "it cannot be understood"),
        ]
        .into_iter()
        .enumerate()
        {
            fs::write(&path, text).unwrap();
            let (file, desired) = StateFile::open(&directory.0, start());
            let problem = file.problem().unwrap();
            assert!(problem.contains(say) && problem.contains("it is kept as "), "{problem}");
            assert!(desired.owned().is_empty() && !path.exists(), "{text}");
            assert_eq!(fs::read_dir(&directory.0).unwrap().count(), number + 1, "{text}");
        }
    }

    /// Only what clashes, and once: the file says from then on what is there.
    #[test]
    fn what_clashes_is_kept_aside() {
        let directory = Directory::new("clash");
        write(&directory, &changed());
        let taken = || Desired::of_flags(&[Flag::new("--tap", "a,web0")]).unwrap();
        let (file, desired) = StateFile::open(&directory.0, taken());
        let problem = file.problem().unwrap();
        let aside = directory.0.join("state.json.refused");
        assert!(problem.contains("port web: ") && problem.contains(&format!("is kept as {}", aside.display())), "{problem}");
        assert_eq!(desired.owned().bridges, ["blue"]);
        let kept: Value = serde_json::from_slice(&fs::read(&aside).unwrap()).unwrap();
        assert!(kept["refused"][0].as_str().unwrap().starts_with("port web: "), "{kept}");
        let (file, again) = StateFile::open(&directory.0, taken());
        assert_eq!((again.owned(), file.problem()), (desired.owned(), None));
        // The way back.
        fs::rename(&aside, directory.0.join(NAME)).unwrap();
        let (file, restored) = StateFile::open(&directory.0, start());
        assert_eq!((restored.owned(), file.problem()), (changed().owned(), None));
    }

    /// A port of this process and one of another, whose name is of an earlier process.
    fn of_processes() -> Desired {
        let own = std::process::id();
        start().with_port(&format!("a@pid:{own}:id=a")).unwrap().with_port("b@/proc/1/ns/net:id=b").unwrap()
    }

    #[test]
    fn a_port_is_of_the_process_that_it_was_of() {
        let directory = Directory::new("processes");
        let path = directory.0.join(NAME);
        write(&directory, &of_processes());
        let own = format!("a@pid:{}", std::process::id());
        let (mut file, restored) = StateFile::open(&directory.0, start());
        assert_eq!((restored.owned(), file.problem()), (of_processes().owned(), None));
        let began = file.processes()[&own];
        assert!(file.processes().contains_key("b@/proc/1/ns/net") && file.processes().len() == 2);
        // It stays the same, whoever has the number by now, as long as the port is there.
        file.processes.insert(own.clone(), Began(began.0 - 1));
        let prepared = file.prepare(&restored.with_port("c:id=c").unwrap()).unwrap().unwrap();
        file.commit(prepared);
        let (mut file, _) = StateFile::open(&directory.0, start());
        assert_eq!(file.processes()[&own], Began(began.0 - 1));
        for (desired, expected) in [(start(), None), (of_processes(), Some(&began))] {
            let prepared = file.prepare(&desired).unwrap().unwrap();
            file.commit(prepared);
            assert_eq!(file.processes().get(&own), expected);
        }
        // One that was not there when it was written.
        let mut content = file.written.clone().unwrap();
        content.processes.retain(|(name, _)| *name == own);
        fs::write(&path, content.text()).unwrap();
        let (file, restored) = StateFile::open(&directory.0, start());
        assert!(file.problem().unwrap().contains("port b: it is not known which process /proc/1/ns/net was"), "{file:?}");
        assert_eq!(restored.config.ports.len(), 2);
    }

    #[test]
    fn no_process_outlives_a_boot() {
        let directory = Directory::new("boot");
        let path = directory.0.join(NAME);
        write(&directory, &of_processes().with_port("c:id=c").unwrap());
        let (file, _) = StateFile::open(&directory.0, start());
        let content = file.written.unwrap();
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for (has_processes, boot) in [(true, "another"), (true, ""), (false, "another"), (false, "")] {
            value["boot"] = json!(boot);
            value["checksum"] = json!(content.checksum(boot, has_processes));
            if !has_processes {
                value["version"] = json!(1);
                value["processes"] = Value::Null;
            }
            fs::write(&path, value.to_string()).unwrap();
            let (file, restored) = StateFile::open(&directory.0, start());
            let problem = file.problem().unwrap();
            assert!(
                problem.contains("port a: the process of pid:") && problem.contains("ended with the boot before"),
                "{problem}"
            );
            assert!(file.processes().is_empty() && restored.config.ports.len() == 2, "{restored:?}");
            let (file, _) = StateFile::open(&directory.0, start());
            assert_eq!(file.problem(), None, "told once");
        }
        // An earlier vswitchd wrote it since.
        value["boot"] = json!(this_boot());
        value["checksum"] = json!(content.checksum("", false));
        fs::write(&path, value.to_string()).unwrap();
        let (file, restored) = StateFile::open(&directory.0, start());
        assert_eq!((restored.config.ports.len(), file.problem()), (4, None));
    }

    #[test]
    fn a_change_that_cannot_be_written_is_refused() {
        let directory = Directory::new("full");
        let (file, _) = StateFile::open(&directory.0, start());
        // Where the file is to be written, there is a directory.
        fs::create_dir(directory.0.join("state.json.new")).unwrap();
        let refused = file.prepare(&changed()).unwrap_err().to_string();
        assert!(refused.contains("so nothing was changed"), "{refused}");
        let full = StateFile {
            path: "/dev/full/state.json".into(),
            written: None,
            processes: HashMap::new(),
            problem: None,
            sync: None,
        };
        assert!(full.prepare(&changed()).is_err());
    }

    /// Whatever is damaged, the start goes on: with what the file said, or without it, and then it says so.
    #[test]
    fn damage_is_told() {
        let directory = Directory::new("damage");
        let own = std::process::id();
        let changed = changed().with_port(&format!("c@pid:{own}:id=c")).unwrap();
        write(&directory, &changed);
        let (file, _) = StateFile::open(&directory.0, start());
        let processes = file.processes().clone();
        let path = directory.0.join(NAME);
        let whole = fs::read(&path).unwrap();
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize % below
        };
        for round in 0..500 {
            let mut bytes = whole.clone();
            for _ in 0..next(4) {
                let at = next(bytes.len());
                bytes[at] = next(256) as u8;
            }
            if round % 3 == 0 {
                bytes.truncate(next(whole.len()));
            }
            fs::write(&path, &bytes).unwrap();
            let (file, desired) = StateFile::open(&directory.0, start());
            if file.problem().is_some() {
                assert!(desired.owned().is_empty() && bytes != whole, "{}", String::from_utf8_lossy(&bytes));
                let _ = fs::remove_file(directory.0.join("state.json.refused"));
            } else {
                let found = (desired.owned(), file.processes());
                assert_eq!(found, (changed.owned(), &processes), "{}", String::from_utf8_lossy(&bytes));
            }
        }
    }
}
