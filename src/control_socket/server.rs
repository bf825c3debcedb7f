//! A thread that serves HTTP, and the queries that it asks the control thread.

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::Context;
use netio::Waker;
use tokio::sync::oneshot;

use super::ask::Asker;
use super::query::Query;

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    queries: Receiver<Query>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a thread of this name with a runtime of its own, in which `serve` runs. At most `waiting` of its queries wait for the
    /// control thread, which `control` wakes.
    pub(crate) fn start<F: Future<Output = io::Result<Infallible>>>(
        name: &'static str,
        waiting: usize,
        control: Waker,
        serve: impl FnOnce(Asker) -> F + Send + 'static,
    ) -> anyhow::Result<Server> {
        let (queries, received) = sync_channel(waiting);
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.with_context(|| format!("making the runtime of thread {name}"))?;
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    ended = serve(Asker { queries, control }) => match ended {
                        Err(error) => tracing::error!(thread = name, %error, "cannot serve HTTP requests"),
                    },
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.with_context(|| format!("starting thread {name}"))?;
        Ok(Server { name, queries: received, stop: Some(stop), thread: Some(thread) })
    }

    /// The next query, if there is one.
    pub(crate) fn next_query(&self) -> Option<Query> {
        self.queries.try_recv().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(thread = self.name, "the thread ended with a panic");
        }
    }
}
