//! Docker's network driver `vswitch`: `docker network create -d vswitch`.
//!
//! ```text
//!   dockerd --HTTP--> docker thread --Query--> control thread
//!
//!   NetworkDriver.CreateNetwork   bridge add br-c1ff5e0d2a91:gateway=10.71.0.1/24:routing=outside:host=on
//!   .CreateEndpoint               guest add docker:78d5.. --network br-c1ff5e0d2a91 --mac .. --address 10.71.0.3/24
//!   .Join                         (answers with the guest's interface, which dockerd moves into the container as eth0)
//!   .ProgramExternalConnectivity  guest set docker:78d5.. --publish 8080:80
//!   .RevokeExternalConnectivity   guest set docker:78d5.. without rules
//!   .DeleteEndpoint               guest del docker:78d5..
//!   .DeleteNetwork                bridge del br-c1ff5e0d2a91
//! ```
//!
//! *State.* The driver has none of its own: a network of Docker is the bridge whose name follows from its id, and an endpoint the guest
//! whose id follows from its id. Both are verbs' objects, so they outlive the process and are no business of `apply`. dockerd needs
//! that, because it never repeats a `CreateNetwork`, not even after its own restart.
//!
//! *Calls come at once* for many containers. Each is one change, which the control thread makes completely or not at all, so that a call
//! that fails leaves nothing; and none waits for dockerd, which may wait for us while it starts.
//!
//! *Socket.* dockerd looks for the driver when it starts, and gives containers up that it cannot start then. So with a service manager the
//! socket is the manager's (`vswitchd-docker.socket`), which listens before either of them runs.
//!
//! *Protocol.* HTTP over a Unix socket, JSON in PascalCase (docs.docker.com/engine/extend/plugin_api, and
//! github.com/moby/moby/blob/master/daemon/libnetwork/docs/remote.md). A call that fails is answered with `{"Err": ".."}` and status 200; dockerd shows
//! the text to its user.
//!
//! *Files.* [`protocol`] has the messages, [`options`] reads what `docker network create -o` says, [`driver`] makes the changes,
//! [`left_over`] finds what dockerd has forgotten to remove.

mod driver;
mod left_over;
mod options;
mod protocol;

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use config::Docker;
use netio::Waker;
use netio::guest::{Access, Address, Listener};
use netio::peer::Credentials;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};

use crate::control_socket::Query;
use crate::control_socket::listener::{self, Limits};
use crate::control_socket::places::{Client, Peer, Quota};
use crate::control_socket::rights::Rights;
use crate::control_socket::server::Server;
use driver::Driver;
use protocol::{Activate, Capabilities, Failure, Nothing};

pub(crate) use driver::Network;

/// Media type of all messages.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Calls that are answered at a time; further ones wait.
const CALLS: usize = 64;

/// Maximum length of a call, in bytes. A container with all 65,535 ports published has one of 6 MiB.
const BODY_LIMIT: usize = 8 << 20;

const NONE: Quota = Quota { all: 0, but_root: 0, of_others: 0 };

/// What dockerd, the one client, may take up.
const LIMITS: Limits = Limits {
    connections: 128,
    answers: Quota { all: CALLS, but_root: CALLS, of_others: 0 },
    answers_each: CALLS,
    patience: None,
    lasting: NONE,
    large: NONE,
    head: 16 << 10,
    head_time: Duration::from_secs(5),
    request_time: Duration::from_secs(30),
};

/// The driver's socket, listening.
#[derive(Debug)]
pub(crate) struct DriverListener {
    socket: Socket,
    config: Docker,
}

#[derive(Debug)]
enum Socket {
    /// Its file is removed when this is dropped.
    Own(Listener),
    /// The service manager's, which listens for us while no process runs.
    Passed(OwnedFd),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Own(listener) => listener.as_fd(),
            Socket::Passed(socket) => socket.as_fd(),
        }
    }
}

/// The thread that serves dockerd, and what it asks; ended when dropped.
#[derive(Debug)]
pub(crate) struct DockerDriver {
    server: Server,
    socket: Socket,
    path: PathBuf,
}

impl DriverListener {
    /// Listens where the configuration says, if it does, or at the socket that was passed. Only root, as which dockerd runs, may connect.
    pub(crate) fn open(config: Option<&Docker>, passed: Option<OwnedFd>) -> anyhow::Result<Option<DriverListener>> {
        if let Some(socket) = passed {
            rustix::io::ioctl_fionbio(&socket, true).context("the socket that was passed for Docker")?;
            return Ok(Some(DriverListener { socket: Socket::Passed(socket), config: config.cloned().unwrap_or_default() }));
        }
        let Some(config) = config else { return Ok(None) };
        let what = || format!("--docker={}", config.socket.display());
        let parent = config.socket.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).with_context(what)?;
        let listener = Listener::open_to(&Address::Unix(config.socket.clone()), Access { mode: 0o600, group: None });
        Ok(Some(DriverListener { socket: Socket::Own(listener.with_context(what)?), config: config.clone() }))
    }
}

impl DockerDriver {
    /// Serves dockerd; `control` wakes the control thread when there is something to answer.
    pub(crate) fn start(listener: DriverListener, control: Waker) -> anyhow::Result<DockerDriver> {
        let DriverListener { socket: own, config } = listener;
        let socket = own.as_fd().try_clone_to_owned().context("handing the socket of the Docker driver over")?;
        let path = config.socket.clone();
        let server = Server::start("docker", CALLS, control, move |asker| async move {
            let socket = UnixListener::from_std(socket.into())?;
            let engine = config.engine.clone();
            let driver = Driver::new(asker, config);
            if let Some(engine) = engine {
                drop(tokio::spawn(left_over::look(driver.clone(), engine)));
            }
            Ok(listener::serve(socket, LIMITS, |stream, _| client(stream), router(driver)).await)
        })?;
        Ok(DockerDriver { server, socket: own, path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The socket that was passed, for the program after this one.
    pub(crate) fn passed(&self) -> Option<BorrowedFd<'_>> {
        matches!(self.socket, Socket::Passed(_)).then(|| self.socket.as_fd())
    }

    /// The next query, if there is one.
    pub(crate) fn next_query(&self) -> Option<Query> {
        self.server.next_query()
    }
}

/// The file's mode lets nobody in who may not do everything.
fn client(stream: &UnixStream) -> Client {
    let user = Credentials::of_peer(stream).map_or(u32::MAX, |peer| peer.user);
    Client { peer: Peer::User(user), rights: Rights::Everything, is_root: true }
}

fn router(driver: Driver) -> Router {
    Router::new()
        .route("/Plugin.Activate", post(async || respond(&Activate::default())))
        .route("/NetworkDriver.GetCapabilities", post(async || respond(&Capabilities::default())))
        .route("/NetworkDriver.CreateNetwork", post(async |driver, body| call(driver, body, Driver::create_network).await))
        .route("/NetworkDriver.DeleteNetwork", post(async |driver, body| call(driver, body, Driver::delete_network).await))
        .route("/NetworkDriver.CreateEndpoint", post(async |driver, body| call(driver, body, Driver::create_endpoint).await))
        .route("/NetworkDriver.DeleteEndpoint", post(async |driver, body| call(driver, body, Driver::delete_endpoint).await))
        .route("/NetworkDriver.EndpointOperInfo", post(async |driver, body| call(driver, body, Driver::endpoint_info).await))
        .route("/NetworkDriver.Join", post(async |driver, body| call(driver, body, Driver::join).await))
        .route("/NetworkDriver.Leave", post(nothing))
        .route("/NetworkDriver.ProgramExternalConnectivity", post(async |driver, body| call(driver, body, Driver::publish).await))
        .route(
            "/NetworkDriver.RevokeExternalConnectivity",
            post(async |driver, body| call(driver, body, Driver::unpublish).await),
        )
        .route("/NetworkDriver.DiscoverNew", post(nothing))
        .route("/NetworkDriver.DiscoverDelete", post(nothing))
        // dockerd takes this answer for "not implemented".
        .fallback(async || (StatusCode::NOT_FOUND, "the driver has no such call\n"))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(driver)
}

/// One call: the message is read, and the driver's answer, or why there is none, is written.
async fn call<M: DeserializeOwned, A: Serialize>(
    State(driver): State<Driver>,
    body: Bytes,
    method: impl AsyncFnOnce(&Driver, M) -> Result<A, String>,
) -> Response {
    let message = match serde_json::from_slice(&body) {
        Ok(message) => message,
        Err(error) => return respond(&Failure::new(format!("the message cannot be read: {error}"))),
    };
    match method(&driver, message).await {
        Ok(answer) => respond(&answer),
        Err(text) => respond(&Failure::new(text)),
    }
}

async fn nothing() -> Response {
    respond(&Nothing {})
}

fn respond(answer: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, MEDIA_TYPE)], serde_json::to_vec(answer).unwrap_or_default()).into_response()
}
