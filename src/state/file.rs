//! `state.json`: what verbs made at run time and own, for the next start.
//!
//! ```text
//!   { "version": 1, "boot": "8ea7..", "bridges": ["blue"], "toml": "[bridge.blue]\n..", "checksum": "3f.." }
//! ```
//!
//! A change of the configuration is written to a file beside it before it is made ([`StateFile::prepare`]), so that a change that
//! cannot be written is refused, and takes its place by a rename once it is made. So the file is always whole: as before the change,
//! or as after it.
//!
//! A file that cannot be read, because it is damaged or of a newer version, is moved aside, as `state.json.refused`, and told in the
//! log and by `show`. The switch starts without it. If a part clashes with the configuration, a copy is kept under that name, with the
//! reasons, and the switch starts with the rest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use config::{Desired, LeftOut, Owned, Restored};
use serde_json::{Value, json};

/// Version of the file that this process writes and reads.
const VERSION: u64 = 1;

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
    written: Option<Owned>,
    /// Why what was there could not be used.
    problem: Option<String>,
}

/// What has been written, and takes the place of the file with [`StateFile::commit`]. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Prepared {
    temporary: PathBuf,
    owned: Owned,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error(
        "it is of version {0}, and this vswitchd reads version {VERSION}: start the newer vswitchd again, or add by hand what is missing"
    )]
    Newer(u64),
    #[error("it cannot be understood: {0}")]
    Unknown(String),
}

impl StateFile {
    /// The file in this directory, and the configuration with what it says.
    pub(crate) fn open(directory: &Path, desired: Desired) -> (StateFile, Desired) {
        let path = directory.join(NAME);
        let mut file = StateFile { path, written: None, problem: None };
        let restored = file.read().and_then(|owned| match desired.with_owned(NAME, &owned, &|_| None) {
            Ok(restored) => Ok((owned, restored)),
            Err(problems) => Err(Unusable::Unknown(problems.to_string())),
        });
        match restored {
            Ok((owned, restored)) => {
                let ports = restored.desired.config.ports.len().saturating_sub(desired.config.ports.len());
                let desired = file.take_in(owned, restored);
                let bridges = desired.owned().bridges.len();
                if bridges + ports > 0 {
                    tracing::info!(bridges, ports, "bridges and ports of verbs before the start are there again");
                }
                (file, desired)
            }
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                file.written = Some(Owned::default());
                (file, desired)
            }
            Err(error) => {
                file.refuse(&error);
                (file, desired)
            }
        }
    }

    /// What the file says is in force, except for what is left out.
    fn take_in(&mut self, owned: Owned, restored: Restored) -> Desired {
        let Restored { desired, left_out } = restored;
        self.written = Some(owned);
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

    fn read(&self) -> Result<Owned, Unusable> {
        let mut text = Vec::new();
        File::open(&self.path)?.take(LONGEST).read_to_end(&mut text)?;
        let damaged = |error: &dyn std::fmt::Display| Unusable::Damaged(error.to_string());
        let value: Value = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
        let version = value["version"].as_u64().ok_or_else(|| damaged(&"it has no version"))?;
        if version > VERSION {
            return Err(Unusable::Newer(version));
        }
        let words = value["bridges"].as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        let (Some(bridges), Some(toml), Some(checksum)) = (words, value["toml"].as_str(), value["checksum"].as_str()) else {
            return Err(damaged(&"a part is missing"));
        };
        let owned = Owned { bridges: bridges.into_iter().map(str::to_owned).collect(), toml: toml.to_owned() };
        if checksum != checksum_of(&owned) {
            return Err(damaged(&"its checksum is another"));
        }
        Ok(owned)
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

    /// Writes what a configuration says, beside the file. `None` if the file says so already.
    pub(crate) fn prepare(&self, desired: &Desired) -> anyhow::Result<Option<Prepared>> {
        let owned = desired.owned();
        if self.written.as_ref() == Some(&owned) {
            return Ok(None);
        }
        let prepared = Prepared { temporary: self.path.with_extension("json.new"), owned };
        let context = || format!("{}: the state cannot be written, so nothing was changed", prepared.temporary.display());
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&prepared.temporary);
        let write = |mut file: File| file.write_all(text_of(&prepared.owned).as_bytes()).and_then(|()| file.sync_data());
        file.and_then(write).with_context(context)?;
        Ok(Some(prepared))
    }

    /// The change is made.
    pub(crate) fn commit(&mut self, prepared: Prepared) {
        match fs::rename(&prepared.temporary, &self.path) {
            Ok(()) => self.written = Some(prepared.owned.clone()),
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "the state cannot be written; the next start does not know of this change");
                self.written = None;
            }
        }
    }
}

fn text_of(owned: &Owned) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let value = json!({
        "version": VERSION,
        "boot": boot.trim(),
        "bridges": owned.bridges,
        "toml": owned.toml,
        "checksum": checksum_of(owned),
    });
    format!("{value:#}\n")
}

fn checksum_of(owned: &Owned) -> String {
    let bytes: Vec<u8> = owned
        .bridges
        .iter()
        .flat_map(|name| [name.as_bytes(), b"\0"])
        .chain([owned.toml.as_bytes()])
        .flatten()
        .copied()
        .collect();
    format!("{:016x}", super::fnv(&bytes))
}

#[cfg(test)]
mod tests {
    use config::Flag;

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
        for (number, (text, say)) in [
            ("", "it is damaged: EOF"),
            ("{}", "it has no version"),
            ("{\"version\": 7, \"more\": []}", "it is of version 7, and this vswitchd reads version 1"),
            ("{\"version\": 1, \"bridges\": [], \"toml\": \"\"}", "a part is missing"),
            ("{\"version\": 1, \"bridges\": [], \"toml\": \"\", \"checksum\": \"0\"}", "its checksum is another"),
            (&text_of(&Owned { bridges: vec!["blue".into()], toml: "[bridge.blue]\nx = 1\n".into() }), "it cannot be understood"),
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

    #[test]
    fn a_change_that_cannot_be_written_is_refused() {
        let directory = Directory::new("full");
        let (file, _) = StateFile::open(&directory.0, start());
        // Where the file is to be written, there is a directory.
        fs::create_dir(directory.0.join("state.json.new")).unwrap();
        let refused = file.prepare(&changed()).unwrap_err().to_string();
        assert!(refused.contains("so nothing was changed"), "{refused}");
        let full = StateFile { path: "/dev/full/state.json".into(), written: None, problem: None };
        assert!(full.prepare(&changed()).is_err());
    }

    /// Whatever is damaged, the start goes on: with what the file said, or without it, and then it says so.
    #[test]
    fn damage_is_told() {
        let directory = Directory::new("damage");
        write(&directory, &changed());
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
                assert_eq!(desired.owned(), changed().owned(), "{}", String::from_utf8_lossy(&bytes));
            }
        }
    }
}
