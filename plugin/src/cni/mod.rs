//! The commands of CNI (github.com/containernetworking/cni/blob/main/SPEC.md).
//!
//! ```text
//!   ADD     POST /v1/bridges (once), POST /v1/guests     the guest cni:NETWORK/CONTAINER/INTERFACE
//!   DEL     DELETE /v1/guests/{id}                       as often as the runtime likes, with or without a namespace
//!   CHECK   GET /v1/guests/{id}
//!   GC      POST /v1/guests-to-keep                      all guests of the network but those that are named
//!   STATUS  GET /v1/bridges                              whether there is a switch that answers
//!   VERSION                                              needs no switch
//! ```
//!
//! *Addresses* are the switch's to choose, or those of a delegated IPAM plugin ([`delegate`]), which runs before ADD and after DEL.

mod add;
mod config;
mod delegate;
mod result;

use std::io::Read;
use std::path::PathBuf;

use serde_json::json;

use self::config::{Environment, NetworkConfig};
use self::delegate::Delegate;
use crate::client::{RequestError, Switch};

/// Versions of the specification that this program speaks.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The version of answers to configurations that name none, or an unknown one.
const NEWEST: &str = VERSIONS[VERSIONS.len() - 1];

/// Longest configuration that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// Control sockets that are tried if the configuration names none: root's, and the service's.
const SOCKETS: [&str; 2] = ["/run/vswitchd.sock", "/run/vswitchd/vswitchd.sock"];

/// Codes of errors: those of the specification, and this plugin's from 100 on.
const INCOMPATIBLE_VERSION: u32 = 1;
const INVALID_ENVIRONMENT: u32 = 4;
const IO_FAILURE: u32 = 5;
const NOT_DECODED: u32 = 6;
const INVALID_CONFIG: u32 = 7;
const TRY_AGAIN: u32 = 11;
const NOT_AVAILABLE: u32 = 50;
const REFUSED: u32 = 100;

/// Why a command failed, as CNI prints it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of this plugin, in this version of the specification.
    Own { version: String, code: u32, text: String },
    /// The error that a delegated plugin printed.
    Delegate(String),
}

impl Failure {
    fn new(code: u32, text: impl Into<String>) -> Failure {
        Failure::Own { version: NEWEST.to_owned(), code, text: text.into() }
    }

    fn in_version(self, known: &str) -> Failure {
        match self {
            Failure::Own { code, text, .. } => Failure::Own { version: known.to_owned(), code, text },
            delegate => delegate,
        }
    }

    pub(crate) fn to_json(&self) -> String {
        match self {
            Failure::Own { version, code, text } => json!({ "cniVersion": version, "code": code, "msg": text }).to_string(),
            Failure::Delegate(text) => text.clone(),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Failure {
        match error {
            RequestError::Unreachable(text) => Failure::new(TRY_AGAIN, text),
            RequestError::Refused { text, .. } => Failure::new(REFUSED, text),
        }
    }
}

/// Carries out the command of the environment. Returns what is printed.
pub(crate) fn run() -> Result<String, Failure> {
    let command = std::env::var("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        return Ok(json!({ "cniVersion": NEWEST, "supportedVersions": VERSIONS }).to_string());
    }
    let mut text = String::new();
    let read = std::io::stdin().take(LONGEST).read_to_string(&mut text);
    read.map_err(|error| Failure::new(IO_FAILURE, format!("the network's configuration cannot be read: {error}")))?;
    let config = NetworkConfig::parse(&text)?;
    let version = config.version.clone();
    if !VERSIONS.contains(&version.as_str()) {
        let text = format!("version {version} of CNI is not known: {} are", VERSIONS.join(", "));
        return Err(Failure::new(INCOMPATIBLE_VERSION, text));
    }
    let since = match command.as_str() {
        "CHECK" => "0.4.0",
        "GC" | "STATUS" => "1.1.0",
        _ => VERSIONS[0],
    };
    if VERSIONS.iter().position(|known| *known == version) < VERSIONS.iter().position(|known| *known == since) {
        return Err(Failure::new(INCOMPATIBLE_VERSION, format!("version {version} of CNI has no {command}")).in_version(&version));
    }
    let names = config.check_names();
    let this = Command { switch: Switch::at(socket_of(&config)), config, text };
    names.and_then(|()| this.run_as(&command)).map_err(|failure| failure.in_version(&version))
}

/// The switch that the configuration names, or that of root or of the service.
fn socket_of(config: &NetworkConfig) -> PathBuf {
    let usual = || SOCKETS.iter().map(PathBuf::from).find(|path| path.exists()).unwrap_or_else(|| SOCKETS[0].into());
    config.socket.clone().unwrap_or_else(usual)
}

/// A command with the configuration of its network, also as it was read.
struct Command {
    switch: Switch,
    config: NetworkConfig,
    text: String,
}

impl Command {
    fn run_as(&self, command: &str) -> Result<String, Failure> {
        match command {
            "ADD" => self.add().map(|answer| answer.to_string()),
            "DEL" => self.delete().map(|()| String::new()),
            "CHECK" => self.check().map(|()| String::new()),
            "GC" => self.collect_garbage().map(|()| String::new()),
            "STATUS" => self.status().map(|()| String::new()),
            other => Err(Failure::new(INVALID_ENVIRONMENT, format!("CNI_COMMAND {other} is not known"))),
        }
    }

    fn delegate(&self) -> Option<Delegate<'_>> {
        let name = self.config.ipam.kind.as_deref().filter(|kind| *kind != config::OWN_IPAM)?;
        Some(Delegate { name, config: &self.text })
    }

    /// Also of a container that is gone, whose namespace the runtime does not know any more.
    fn delete(&self) -> Result<(), Failure> {
        let environment = Environment::of_attachment()?;
        self.switch.ask("DELETE", &self.path_of_guest(&environment), None)?;
        self.delegate().map_or(Ok(()), |delegate| delegate.run("DEL").map(drop))
    }

    fn check(&self) -> Result<(), Failure> {
        let environment = Environment::of_attachment()?;
        let id = environment.guest(&self.config.name);
        let guest = self.switch.ask("GET", &self.path_of_guest(&environment), None)?;
        let has = |address: &str| guest["addresses"].as_array().is_some_and(|all| all.iter().any(|own| own == address));
        if let Some(lost) = self.config.previous_addresses(&environment).find(|address| !has(address)) {
            return Err(Failure::new(REFUSED, format!("guest {id} has lost its address {lost}")));
        }
        self.delegate().map_or(Ok(()), |delegate| delegate.run("CHECK").map(drop))
    }

    fn collect_garbage(&self) -> Result<(), Failure> {
        let Some(valid) = self.config.valid_attachments() else {
            return Err(Failure::new(INVALID_CONFIG, "which attachments are valid? cni.dev/valid-attachments is missing"));
        };
        let keep: Vec<String> = valid.iter().map(|it| it.guest(&self.config.name)).collect();
        let prefix = config::guests_of(&self.config.name);
        self.switch.ask("POST", "/v1/guests-to-keep", Some(&json!({ "prefix": prefix, "keep": keep })))?;
        self.delegate().map_or(Ok(()), |delegate| delegate.run("GC").map(drop))
    }

    fn status(&self) -> Result<(), Failure> {
        match self.switch.ask("GET", "/v1/bridges", None) {
            Err(RequestError::Unreachable(text) | RequestError::Refused { text, .. }) => Err(Failure::new(NOT_AVAILABLE, text)),
            Ok(_) => self.delegate().map_or(Ok(()), |delegate| delegate.run("STATUS").map(drop)),
        }
    }
}
