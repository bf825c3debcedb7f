//! Metrics over TCP, if the configuration asks for them: `/metrics`, and `/healthz` for whoever only wants to know that the daemon
//! answers.
//!
//! Nothing else is served here: whoever reaches an address is a stranger, and a stranger may read numbers. A thread of
//! its own serves it, with its own channel to the control thread, so that no stranger takes a place at the control socket.
//!
//! *A page in a browser* may send requests to 127.0.0.1, and read the answers once its own name leads there (DNS rebinding).
//! It cannot choose the `Host` header: that is its name. So only addresses, `localhost` and names of the configuration are
//! answered.
//!
//! *Cost.* A page takes the control thread a look at each device. So a page is served to everybody for a second,
//! whoever asks meanwhile waits for the same one, and `/healthz` is answered without a look at anything.
//!
//! *Limits* are those of [`LIMITS`], and no body is read. A scraper that sends its request at once is served at once, whatever
//! others do: silent connections make room ([`places`](super::places)), and so do answers that are not read.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use config::Metrics;
use netio::Waker;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::ask::Asker;
use super::listener::{self, Limits};
use super::metrics;
use super::places::{Client, Peer, Quota};
use super::query::Query;
use super::rights::Rights;
use super::server::Server;

/// Connections at a time.
const CONNECTIONS: usize = 128;

const NONE: Quota = Quota { all: 0, but_root: 0, of_others: 0 };

/// What strangers may take up. None of the responses is lasting or large.
const LIMITS: Limits = Limits {
    connections: CONNECTIONS,
    // A page is shared by all who read it, so a request costs no more than its connection.
    answers: Quota { all: CONNECTIONS, but_root: CONNECTIONS, of_others: CONNECTIONS },
    answers_each: CONNECTIONS,
    patience: Some(Duration::from_millis(250)),
    lasting: NONE,
    large: NONE,
    head: 8 << 10,
    head_time: Duration::from_secs(5),
    request_time: Duration::from_secs(10),
};

/// How long a page is served to everybody.
const PAGE_TIME: Duration = Duration::from_secs(1);

/// Asks the control thread, once for all who want a page.
#[derive(Clone, Debug)]
struct Pages {
    asker: Asker,
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

/// A socket that listens, before there is a switch to ask.
#[derive(Debug)]
pub(crate) struct ScrapeListener {
    listener: TcpListener,
    address: SocketAddr,
    hosts: Arc<[String]>,
}

/// The thread that serves it, and what it asks; ended when dropped.
#[derive(Debug)]
pub(crate) struct Scrape {
    server: Server,
    address: SocketAddr,
}

impl ScrapeListener {
    /// Listens where the configuration says, if it does.
    pub(crate) fn open(config: Option<&Metrics>) -> anyhow::Result<Option<ScrapeListener>> {
        let Some(Metrics { listen, hosts }) = config else { return Ok(None) };
        let listener = TcpListener::bind(listen).map_err(|error| refused(*listen, &error))?;
        listener.set_nonblocking(true).context("--metrics")?;
        let address = listener.local_addr().context("--metrics")?;
        Ok(Some(ScrapeListener { listener, address, hosts: hosts.as_slice().into() }))
    }
}

/// Why the kernel does not let us listen there, and what to do.
fn refused(listen: SocketAddr, error: &io::Error) -> anyhow::Error {
    let cure = match error.kind() {
        io::ErrorKind::AddrNotAvailable => "the host has no such address: use 127.0.0.1, or one that `ip -br address` lists",
        io::ErrorKind::AddrInUse => "another program listens there: stop it, or use another port",
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE: use another port, or run as root",
        _ => return anyhow::anyhow!("--metrics {listen}: {error}"),
    };
    anyhow::anyhow!("--metrics {listen}: {cure}")
}

impl Scrape {
    /// Serves all clients; `control` wakes the control thread when there is something to answer.
    pub(crate) fn start(listener: ScrapeListener, control: Waker) -> anyhow::Result<Scrape> {
        let ScrapeListener { listener, address, hosts } = listener;
        let server = Server::start("metrics", CONNECTIONS, control, move |asker| async move {
            let socket = tokio::net::TcpListener::from_std(listener)?;
            let router = router(Pages::new(asker), hosts);
            let client =
                |address: &SocketAddr| Client { peer: Peer::of_address(address.ip()), rights: Rights::Read, is_root: false };
            Ok(listener::serve(socket, LIMITS, |_, address| client(address), router).await)
        })?;
        Ok(Scrape { server, address })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next query, if there is one.
    pub(crate) fn next_query(&self) -> Option<Query> {
        self.server.next_query()
    }
}

fn router(pages: Pages, hosts: Arc<[String]>) -> Router {
    Router::new()
        .route("/metrics", get(page))
        .route("/healthz", get(health))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics and /healthz\n") })
        .layer(from_fn_with_state(hosts, admit))
        .with_state(pages)
}

/// Who asks for a host that we are not is somebody else's page.
async fn admit(State(hosts): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    if request.method() != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")], "this can only be read\n").into_response();
    }
    let mut named = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or(""));
    let (Some(host), None) = (named.next(), named.next()) else {
        return (StatusCode::BAD_REQUEST, "one Host header is needed\n").into_response();
    };
    let asked_in_full = request.uri().authority().map(axum::http::uri::Authority::as_str);
    if !is_ours(host, &hosts) || !asked_in_full.is_none_or(|host| is_ours(host, &hosts)) {
        let refused = "this host's name is not known here: ask by address, or name it in the configuration ([metrics] hosts)\n";
        return (StatusCode::MISDIRECTED_REQUEST, refused).into_response();
    }
    next.run(request).await
}

/// An address, localhost, or a name of the configuration; with a port or without.
fn is_ours(host: &str, hosts: &[String]) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let is_end = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return is_end && matches!(address.parse(), Ok(IpAddr::V6(_)));
    }
    let name = match host.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    matches!(name.parse(), Ok(IpAddr::V4(_))) || name == "localhost" || hosts.contains(&name)
}

async fn page(State(pages): State<Pages>) -> Response {
    match pages.page().await {
        Some(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        None => busy(),
    }
}

impl Pages {
    fn new(asker: Asker) -> Pages {
        Pages { asker, last: Arc::default() }
    }

    /// The last one if it is still good, or a new one.
    async fn page(&self) -> Option<Bytes> {
        let mut last = self.last.lock().await;
        if let Some((since, page)) = last.as_ref()
            && since.elapsed() < PAGE_TIME
        {
            return Some(page.clone());
        }
        let page = Bytes::from(metrics::answer(&self.asker).await?);
        *last = Some((Instant::now(), page.clone()));
        Some(page)
    }
}

/// Does the control thread answer?
async fn health(State(pages): State<Pages>) -> Response {
    match pages.asker.ask(Query::Health).await {
        Some(()) => "ok\n".into_response(),
        None => busy(),
    }
}

fn busy() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the switch is busy or about to end; try again\n").into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::thread;

    use futures_util::future::join_all;
    use netio::Poller;

    use super::*;

    /// However many ask, the control thread is asked once; and for health nothing but an answer.
    #[test]
    fn a_page_is_everybodys() {
        let (queries, asked) = sync_channel(CONNECTIONS);
        let pages = Pages::new(Asker { queries, control: Poller::new().unwrap().waker() });
        // Nobody answers, so all are told so, and nothing is kept.
        let control = thread::spawn(move || {
            let mut asked_for = Vec::new();
            while let Ok(query) = asked.recv() {
                asked_for.push(match query {
                    Query::Metrics(_) => 'm',
                    Query::Health(reply) => {
                        reply.send(()).unwrap();
                        'h'
                    }
                    _ => '?',
                });
            }
            asked_for
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            assert_eq!(page(State(pages.clone())).await.status(), StatusCode::SERVICE_UNAVAILABLE);
            *pages.last.lock().await = Some((Instant::now(), Bytes::from_static(b"a page")));
            for answer in join_all((0..8).map(|_| page(State(pages.clone())))).await {
                assert_eq!(answer.status(), StatusCode::OK);
            }
            let now = Instant::now();
            *pages.last.lock().await = now.checked_sub(PAGE_TIME).map(|then| (then, Bytes::from_static(b"an old page")));
            assert_eq!(page(State(pages.clone())).await.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(health(State(pages.clone())).await.status(), StatusCode::OK);
        });
        drop((runtime, pages));
        assert_eq!(control.join().unwrap(), ['m', 'm', 'h']);
    }

    #[test]
    fn hosts_that_are_ours() {
        let hosts = ["vm1.example".to_owned()];
        for ours in [
            "127.0.0.1",
            "127.0.0.1:9100",
            "192.0.2.7:80",
            "[::1]",
            "[::1]:9100",
            "localhost",
            "LocalHost:9100",
            "localhost.",
            "vm1.example:1",
            "VM1.EXAMPLE.",
        ] {
            assert!(is_ours(ours, &hosts), "{ours}");
        }
        for not in [
            "",
            "evil.example",
            "localhost.evil.example",
            "vm1.example.evil",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "127.0.0.1:",
            "127.0.0.1:80:80",
            "127.0.0.1:http",
            "[127.0.0.1]",
            "[::1",
            "[::1]x",
            "::1",
            "2130706433",
            "127.1",
            "0x7f000001",
        ] {
            assert!(!is_ours(not, &hosts), "{not}");
        }
    }
}
