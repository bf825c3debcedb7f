//! One accept loop for the control socket and for metrics: how many connections there are, how long they stay, and what they may
//! take up.
//!
//! A connection carries one request. It is closed when its [time](Limits::request_time) is over, whatever its client does; a
//! [lasting](super::lasting) response goes on for as long as its reader takes each chunk in that time.
//!
//! *Places.* Whoever connects gets a place; [`places`](super::places) says whose it was, and whose request is answered.
//! Lasting and [large](super::large) responses have places of their own.
//!
//! *Bytes.* hyper refuses a head that is longer than [`Limits::head`]. Bodies are limited by the router that reads them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::places::{Client, Connections, Quota, Share, Shares};

/// How often it is looked whether a connection's time is over.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// What the clients of one listener may take up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at a time; for further ones others make room.
    pub(crate) connections: usize,
    /// Requests that are answered at a time; further ones wait.
    pub(crate) answers: Quota,
    /// Of these, for each peer but root.
    pub(crate) answers_each: usize,
    /// How long an answer may take while others wait to connect; `None`: as long as it may take otherwise.
    pub(crate) patience: Option<Duration>,
    /// Responses without an end, at a time; further ones are refused.
    pub(crate) lasting: Quota,
    /// Responses that may be megabytes, at a time; further ones wait.
    pub(crate) large: Quota,
    /// Longest head of a request, in bytes. hyper takes no less than 8 KiB.
    pub(crate) head: usize,
    /// Time limit for the head of a request.
    pub(crate) head_time: Duration,
    /// Time limit for a request and its response; for a lasting response, for each chunk.
    pub(crate) request_time: Duration,
}

/// Serves all clients that connect. `client_of` says who a client is, by its connection.
pub(crate) async fn serve<L: axum::serve::Listener>(
    mut listener: L,
    limits: Limits,
    client_of: impl Fn(&L::Io, &L::Addr) -> Client,
    router: Router,
) -> Infallible {
    let connections = Connections::new(limits);
    let (lasting, large) = (Shares::new(limits.lasting), Shares::new(limits.large));
    for number in 0.. {
        let (stream, address) = listener.accept().await;
        let client = client_of(&stream, &address);
        let Some(place) = connections.admit(number, client).await.map(Arc::new) else { continue };
        let stay = Stay::new(limits.request_time, lasting.of(&client), large.of(&client));
        let turn = Arc::clone(&place);
        let wait = move |request: Request, next: Next| {
            let turn = Arc::clone(&turn);
            async move {
                turn.turn().await;
                next.run(request).await
            }
        };
        let router = router.clone().layer(Extension(client.rights)).layer(Extension(stay.clone())).layer(from_fn(wait));
        let task = tokio::spawn(converse(stream, router, stay, limits));
        place.served_by(task.abort_handle());
    }
    std::future::pending().await
}

/// One request and its response. What a client did wrong is its own business.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, stay: Stay, limits: Limits) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_time).keep_alive(false).max_buf_size(limits.head);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    loop {
        // It may be shortened meanwhile.
        let look = stay.until().min(Instant::now() + CHECK_INTERVAL);
        tokio::select! {
            _ = &mut connection => return,
            () = sleep_until(look) => if stay.until() <= Instant::now() { return },
        }
    }
}

/// How long a connection may stay, and the places that it holds.
#[derive(Clone, Debug)]
pub(crate) struct Stay {
    until: Arc<Mutex<Instant>>,
    request_time: Duration,
    pub(crate) lasting: Share,
    pub(crate) large: Share,
    /// Held until the connection ends.
    kept: Arc<Mutex<Vec<OwnedSemaphorePermit>>>,
}

impl Stay {
    fn new(request_time: Duration, lasting: Share, large: Share) -> Stay {
        let until = Arc::new(Mutex::new(Instant::now() + request_time));
        Stay { until, request_time, lasting, large, kept: Arc::default() }
    }

    /// Holds a place until the connection ends.
    pub(crate) fn keep(&self, place: Vec<OwnedSemaphorePermit>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// The connection's time begins anew.
    pub(crate) fn renew(&self) {
        self.extend(self.request_time);
    }

    /// The connection may stay for this long from now on.
    pub(crate) fn extend(&self, by: Duration) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + by;
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream as Stream;

    use axum::routing::get;
    use futures_util::future::join;

    use super::super::large::Large;
    use super::super::places::Peer;
    use super::super::rights::Rights;
    use super::*;
    use tokio::net::UnixStream;

    /// More than a socket holds.
    const LENGTH: usize = 8 << 20;

    fn ask(client: &mut Stream) {
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }

    #[test]
    fn a_large_answer_has_its_place_until_it_is_read() {
        let (mut first, one) = Stream::pair().unwrap();
        let (mut second, other) = Stream::pair().unwrap();
        let serve = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
            runtime.block_on(async {
                let shares = Shares::new(Quota { all: 1, but_root: 1, of_others: 1 });
                let places = shares.of(&peer(Rights::Everything));
                let serve = |server: Stream| {
                    server.set_nonblocking(true).unwrap();
                    let stay = Stay::new(Duration::from_secs(30), places.clone(), places.clone());
                    let router = Router::new().route("/", get(async |_: Large| "x".repeat(LENGTH)));
                    converse(
                        UnixStream::from_std(server).unwrap(),
                        router.layer(Extension(stay.clone())),
                        stay,
                        super::super::LIMITS,
                    )
                };
                join(serve(one), serve(other)).await;
            });
        });
        let mut start = [0; 15];
        ask(&mut first);
        first.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
        ask(&mut second);
        second.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert_eq!(second.read(&mut start).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "both at a time");
        second.set_read_timeout(None).unwrap();
        for mut client in [first, second] {
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).unwrap();
            assert!(rest.len() >= LENGTH);
        }
        serve.join().unwrap();
    }

    fn peer(rights: Rights) -> Client {
        Client { peer: Peer::User(7), rights, is_root: false }
    }

    /// Many more clients than there are places stay silent, and another one is answered all the same.
    #[test]
    fn silent_clients_keep_nobody_out() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            let address = listener.local_addr().unwrap();
            let limits = Limits { connections: 3, head_time: Duration::from_secs(1000), ..super::super::LIMITS };
            let router = Router::new().route("/", get(async || "here"));
            let (done, answers) = tokio::sync::oneshot::channel();
            let clients = std::thread::spawn(move || {
                let idle: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
                let _ = done.send([answer_of(address), answer_of(address)]);
                drop(idle);
            });
            tokio::select! {
                never = serve(listener, limits, |_, _| peer(Rights::Read), router) => match never {},
                answers = answers => assert!(answers.unwrap().iter().all(|answer| answer.ends_with("here"))),
            }
            clients.join().unwrap();
        });
    }

    /// What a client reads; nothing if it is turned away.
    fn answer_of(address: std::net::SocketAddr) -> String {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let _ = client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}
