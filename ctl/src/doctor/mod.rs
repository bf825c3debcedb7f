//! `vswitchctl doctor`: checks whether the host fits the switch, and prints a fix for each problem.
//!
//! ```text
//!   configuration or running switch -> plan  --+
//!                                              +--> judge ---> findings: subject, reason, fix
//!   state of the host ---------------> facts --+
//! ```
//!
//! Without a configuration and a running switch, the requirements of any switch are checked. For a running switch, the facts
//! are read in its network namespace and with its capabilities. Nothing is changed, except that a port of the shared address
//! and a TAP device in new namespaces are taken for a moment.

mod facts;
mod judge;
mod plan;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use api::{Nat, UplinkMode};
use serde::Serialize;

use crate::cli::{Doctor, Output};
use crate::get::Get;
use crate::place::NoSocket;
use crate::table::plain;
use facts::{Control, Facts};
use judge::{Check, Status, judge};
use plan::Plan;

/// The findings, for programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    warnings: usize,
    problems: usize,
    checks: &'a [Check],
}

/// Returns the findings as text, and whether there are no problems.
pub(crate) fn examine(doctor: &Doctor, socket: Result<PathBuf, NoSocket>, output: Output) -> anyhow::Result<(String, bool)> {
    let control = socket.as_deref().map_or(Control::Absent, facts::control_at);
    let place = socket.as_ref().map_or_else(NoSocket::places, |path| path.display().to_string());
    let plan = match (&doctor.config, socket.as_deref().ok()) {
        (Some(path), _) => {
            let (config, problems) = config::Config::load(path).with_context(|| path.display().to_string())?;
            let complaints = problems.iter().map(ToString::to_string).collect();
            Plan { complaints, ..Plan::of_config(&config) }
        }
        (None, Some(socket)) if control == Control::Answers => plan_of_running(socket)?,
        (None, _) => Plan::default(),
    };
    let mut facts = Facts::gather(&plan, control, place);
    facts.ask_in_own_users();
    let checks = judge(&plan, &facts);
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let (warnings, problems) = (count(Status::Warning), count(Status::Problem));
    let text = match output {
        Output::Json => serde_json::to_string_pretty(&Report { warnings, problems, checks: &checks })? + "\n",
        _ => lines(&checks) + &format!("{} ok, warnings {warnings}, problems {problems}\n", count(Status::Ok)),
    };
    Ok((text, problems == 0))
}

fn plan_of_running(socket: &Path) -> anyhow::Result<Plan> {
    let get = Get { socket, output: Output::Json };
    let (show, stats): (api::Show, api::Stats) = (get.view("/v1/show")?, get.view("/v1/stats")?);
    let has_nat = show.uplink.as_ref().is_some_and(|uplink| uplink.mode == UplinkMode::Nat);
    let nat: Option<Nat> = has_nat.then(|| get.view("/v1/nat")).transpose()?;
    Ok(Plan::of_running(&show, &stats, nat.as_ref()))
}

/// A line for each finding, and one below for its fix.
fn lines(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Check { status, what, why, fix } in checks {
        let status = match status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "problem",
        };
        let _ = writeln!(text, "{status:<8} {:<width$}  {}", plain(what), plain(why));
        if let Some(fix) = fix {
            let _ = writeln!(text, "{:>width$}  fix: {}", "", plain(fix), width = width + 9);
        }
    }
    text
}
