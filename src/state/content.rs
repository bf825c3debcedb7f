//! The text of `state.json`.

use std::fs;
use std::io;

use config::{Owned, Port};
use netio::netns::Began;
use serde_json::{Map, Value, json};

use crate::model::netns_of_process;

/// Begin the ids of guests of container engines, which make their guests anew after a boot.
const ENGINES: [&str; 2] = ["docker:", "cni:"];

/// Version of the file that this process writes. It reads version 1, too, which has no processes.
const VERSION: u64 = 2;

/// What a file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Content {
    pub(super) owned: Owned,
    /// Ordered by the ports' names.
    pub(super) processes: Vec<(String, Began)>,
}

/// When a file was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Written {
    BeforeTheBoot,
    Since,
    /// By a vswitchd that did not write processes.
    SinceWithoutProcesses,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error(
        "it is of version {0}, and this vswitchd reads up to version {VERSION}: start the newer vswitchd again, or add by hand what is missing"
    )]
    Newer(u64),
    #[error("it cannot be understood: {0}")]
    Unknown(String),
}

impl Content {
    /// What a text says, and when it was written.
    pub(super) fn parse(text: &[u8]) -> Result<(Content, Written), Unusable> {
        let damaged = |error: &dyn std::fmt::Display| Unusable::Damaged(error.to_string());
        let value: Value = serde_json::from_slice(text).map_err(|error| damaged(&error))?;
        let version = value["version"].as_u64().ok_or_else(|| damaged(&"it has no version"))?;
        if version > VERSION {
            return Err(Unusable::Newer(version));
        }
        let words = value["bridges"].as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        let (Some(bridges), Some(toml), Some(checksum)) = (words, value["toml"].as_str(), value["checksum"].as_str()) else {
            return Err(damaged(&"a part is missing"));
        };
        let owned = Owned { bridges: bridges.into_iter().map(str::to_owned).collect(), toml: toml.to_owned() };
        let began = |(name, began): (&String, &Value)| Some((name.clone(), Began(began.as_u64()?)));
        let (processes, has_processes) = match &value["processes"] {
            Value::Object(processes) => (processes.iter().map(began).collect(), true),
            Value::Null if version < 2 => (Some(Vec::new()), false),
            _ => (None, true),
        };
        let content = Content { owned, processes: processes.ok_or_else(|| damaged(&"its processes are no table of times"))? };
        let boot = value["boot"].as_str().unwrap_or_default();
        if checksum != content.checksum(boot, has_processes) {
            return Err(damaged(&"its checksum is another"));
        }
        Ok(match boot == this_boot() {
            false => (content, Written::BeforeTheBoot),
            true if has_processes => (content, Written::Since),
            true => (content, Written::SinceWithoutProcesses),
        })
    }

    /// Why a port cannot come back.
    pub(super) fn refuses(&self, port: &Port, written: Written) -> Option<String> {
        let is_before = written == Written::BeforeTheBoot;
        if is_before && port.identity.id.as_deref().is_some_and(|id| ENGINES.iter().any(|engine| id.starts_with(engine))) {
            return Some("its container ended with the boot before, and its engine makes another one".to_owned());
        }
        let netns = netns_of_process(port)?;
        let name = port.full_name();
        match written {
            Written::BeforeTheBoot => Some(format!("the process of {netns} ended with the boot before: add it again")),
            Written::Since if self.processes.iter().all(|(known, _)| *known != name) => {
                Some(format!("it is not known which process {netns} was: add it again"))
            }
            Written::Since | Written::SinceWithoutProcesses => None,
        }
    }

    /// The text, written in this boot.
    pub(super) fn text(&self) -> String {
        let boot = this_boot();
        let processes = self.processes.iter().map(|(name, Began(began))| (name.clone(), json!(began)));
        let value = json!({
            "version": VERSION,
            "boot": boot,
            "bridges": self.owned.bridges,
            "toml": self.owned.toml,
            "processes": processes.collect::<Map<String, Value>>(),
            "checksum": self.checksum(&boot, true),
        });
        format!("{value:#}\n")
    }

    /// The checksum; without processes, as by a vswitchd that did not write them, it is not of the boot either.
    pub(super) fn checksum(&self, boot: &str, has_processes: bool) -> String {
        let mut bytes = Vec::new();
        let mut add = |part: &[u8]| bytes.extend_from_slice(part);
        for name in &self.owned.bridges {
            add(name.as_bytes());
            add(b"\0");
        }
        add(self.owned.toml.as_bytes());
        if has_processes {
            add(b"\0");
            add(boot.as_bytes());
            for (name, Began(began)) in &self.processes {
                add(b"\0");
                add(name.as_bytes());
                add(b"\0");
                add(&began.to_be_bytes());
            }
        }
        format!("{:016x}", super::fnv(&bytes))
    }
}

/// The name that the kernel drew for this boot.
pub(super) fn this_boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
