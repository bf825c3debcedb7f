//! Where the switch is asked, and in which form its answer is printed.

use std::path::Path;

use anyhow::Context;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::Output;
use crate::client;

/// Where the switch is asked, and in which form its answer is printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Get<'a> {
    pub(crate) socket: &'a Path,
    pub(crate) output: Output,
}

impl Get<'_> {
    /// The answer to a GET request.
    pub(crate) fn view<T: DeserializeOwned>(&self, target: &str) -> anyhow::Result<T> {
        understood(&client::get(self.socket, target)?)
    }

    /// The text of the answer to a GET request.
    pub(crate) fn shown<T: DeserializeOwned + Serialize>(
        &self,
        target: &str,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<String> {
        self.form(&self.view(target)?, table)
    }

    /// The text of the answer to a request that changes something.
    pub(crate) fn changed<T: DeserializeOwned + Serialize>(
        &self,
        method: Method,
        target: &str,
        body: Option<client::Body>,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<String> {
        self.form(&understood(&client::ask(self.socket, method, target, body)?)?, table)
    }

    /// The text of a view, in the form that is wanted.
    pub(crate) fn form<T: Serialize>(&self, view: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<String> {
        match self.output {
            Output::Json => Ok(serde_json::to_string_pretty(view)? + "\n"),
            Output::Table | Output::Conntrack => Ok(table(view)),
        }
    }
}

/// Reads an answer.
pub(crate) fn understood<T: DeserializeOwned>(answer: &str) -> anyhow::Result<T> {
    serde_json::from_str(answer)
        .context("the switch's answer is not understood: are vswitchctl and vswitchd of the same version?")
}
