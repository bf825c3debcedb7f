//! The way from an HTTP thread to the control thread and back.

use std::sync::mpsc::SyncSender;

use api::{Change, Refusal, RefusalKind};
use axum::response::Response;
use netio::Waker;
use tokio::sync::oneshot;

use super::answer::{BUSY, busy, refused};
use super::query::{Query, Reply, Verb};

/// Asks the control thread.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(super) queries: SyncSender<Query>,
    pub(super) control: Waker,
}

impl Asker {
    /// Sends a query; `None` if too many wait, or the daemon ends.
    pub(crate) async fn ask<T>(&self, query: impl FnOnce(Reply<T>) -> Query) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.queries.try_send(query(reply)).ok()?;
        self.wake();
        answer.await.ok()
    }

    /// Asks for a change of the configuration.
    pub(crate) async fn ask_change(&self, verb: Verb) -> Result<Vec<Change>, Refusal> {
        let changed = self.ask(|reply| Query::Reconfigure { verb, dry_run: false, reply }).await;
        changed.unwrap_or_else(|| Err(Refusal::new(RefusalKind::Internal, BUSY)))
    }

    /// Sends a query that can be refused.
    pub(super) async fn change<T>(&self, query: impl FnOnce(Reply<Result<T, Refusal>>) -> Query) -> Result<T, Response> {
        self.ask(query).await.ok_or_else(busy)?.map_err(refused)
    }

    /// Lets the control thread look for what there is to do.
    pub(super) fn wake(&self) {
        self.control.wake();
    }
}
