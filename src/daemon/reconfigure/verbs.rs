//! What the control socket wants changed, and what it is told.

use std::path::Path;

use crate::cli::Flags;
use crate::config::plan::{Change, Desired, NeedsRestart, NotTaken};
use crate::control_socket::{Refusal, Verb, views};
use crate::daemon::Daemon;

impl Daemon {
    /// Does it, or says what it would be.
    pub(in crate::daemon) fn reconfigure(&mut self, verb: &Verb, dry_run: bool) -> Result<Vec<views::Change>, Refusal> {
        let desired = self.desired_by(verb).map_err(|error| match error {
            NotTaken::Unknown(error) => Refusal::NotFound(error.to_string()),
            NotTaken::Refused(error) => Refusal::NotUnderstood(error.to_string()),
        })?;
        let changes = self.change_to(desired, dry_run).map_err(|error| match error.downcast_ref::<NeedsRestart>() {
            Some(_) => Refusal::Unfit(error.to_string()),
            None => Refusal::Conflict(format!("{error:#}")),
        })?;
        Ok(changes.iter().map(view).collect())
    }

    fn desired_by(&self, verb: &Verb) -> Result<Desired, NotTaken> {
        Ok(match verb {
            Verb::Apply { file, text } => Desired::of_text(Path::new(file), text, &Flags::default())?,
            Verb::AddPort(word) => self.desired.with_port(word)?,
            Verb::DeletePort(name) => self.desired.without_port(name)?,
            Verb::Publish(word) => self.desired.with_rule(word)?,
            Verb::Unpublish(text) => self.desired.without_rule(text)?,
            Verb::AddTunnel(word) => self.desired.with_tunnel(word)?,
            Verb::DeleteTunnel(name) => self.desired.without_tunnel(name)?,
        })
    }
}

fn view(change: &Change) -> views::Change {
    views::Change {
        action: change.action.name().to_owned(),
        kind: change.kind.to_owned(),
        name: change.name.clone(),
        text: change.text.clone(),
        line: change.to_string(),
    }
}
