//! The way from an HTTP thread to the control thread and back.

use std::sync::mpsc::SyncSender;

use api::Refusal;
use axum::response::Response;
use netio::Waker;
use tokio::sync::oneshot;

use super::answer::{busy, refused};
use super::query::{Query, Reply};

/// Asks the control thread.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) queries: SyncSender<Query>,
    pub(super) control: Waker,
}

impl Asker {
    /// Sends a query; `None` if too many wait, or the daemon ends.
    pub(super) async fn ask<T>(&self, query: impl FnOnce(Reply<T>) -> Query) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.queries.try_send(query(reply)).ok()?;
        self.wake();
        answer.await.ok()
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
