//! IPAM plugins of others, which choose addresses: `host-local`, `dhcp`, `static` (SPEC.md section 4).

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Failure, INVALID_CONFIG, INVALID_ENVIRONMENT, IO_FAILURE, NOT_DECODED};

/// A plugin that gets the same configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delegate<'c> {
    /// Its type: the name of its program in CNI_PATH.
    pub(super) name: &'c str,
    /// The configuration as it was read.
    pub(super) config: &'c str,
}

/// Whether a text is an error as plugins print it.
fn is_failure(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| value["code"].is_u64())
}

impl Delegate<'_> {
    /// Runs one of its commands; returns what it prints.
    pub(super) fn run(&self, command: &str) -> Result<Value, Failure> {
        let failed = |error: std::io::Error| Failure::new(IO_FAILURE, format!("IPAM plugin {}: {error}", self.name));
        let mut child = Command::new(self.program()?)
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            // One that does not read is known by its answer.
            let _ = input.write_all(self.config.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match (output.status.success(), text.as_str()) {
            (true, "") => Ok(Value::Null),
            (true, text) => serde_json::from_str(text).map_err(|error| {
                Failure::new(NOT_DECODED, format!("the answer of IPAM plugin {} cannot be read: {error}", self.name))
            }),
            (false, "") => Err(Failure::new(IO_FAILURE, format!("IPAM plugin {} failed: {}", self.name, output.status))),
            (false, text) if is_failure(text) => Err(Failure::Delegate(text.to_owned())),
            (false, text) => Err(Failure::new(IO_FAILURE, format!("IPAM plugin {} failed: {}", self.name, text.escape_debug()))),
        }
    }

    /// Its program in CNI_PATH.
    fn program(&self) -> Result<PathBuf, Failure> {
        if self.name.contains('/') {
            return Err(Failure::new(INVALID_CONFIG, format!("ipam.type '{}' is no name of a plugin", self.name.escape_debug())));
        }
        let path = std::env::var_os("CNI_PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|directory| directory.join(self.name)).find(|program| program.is_file());
        found.ok_or_else(|| Failure::new(INVALID_ENVIRONMENT, format!("there is no IPAM plugin {} in CNI_PATH", self.name)))
    }
}
