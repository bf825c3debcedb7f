//! One accept loop for the control socket and for metrics: how many connections there are, how long they stay, and what they may
//! take up.
//!
//! A connection carries one request. It is closed when its [time](Limits::request_time) is over, whatever its client does; a
//! [lasting](super::lasting) response goes on for as long as its reader takes each chunk in that time.
//!
//! *Places.* Clients with full rights have all places, others a part of them ([`Places`]), so that nobody who may only read keeps
//! an operator out. The same holds for lasting and for [large](super::large) responses.
//!
//! *Bytes.* hyper refuses a head that is longer than [`Limits::head`]. Bodies are limited by the router that reads them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::rights::Rights;

/// How often it is looked whether a connection's time is over.
const LOOK: Duration = Duration::from_secs(5);

/// What the clients of one listener may take up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at a time; further clients wait to be accepted, others are closed if theirs are used up.
    pub(super) connections: Places,
    /// Responses without an end, at a time; further ones are refused.
    pub(super) lasting: Places,
    /// Responses that may be megabytes, at a time; further ones wait.
    pub(super) large: Places,
    /// Longest head of a request, in bytes. hyper takes no less than 8 KiB.
    pub(super) head: usize,
    /// Time limit for the head of a request.
    pub(super) head_time: Duration,
    /// Time limit for a request and its response; for a lasting response, for each chunk.
    pub(super) request_time: Duration,
}

/// How many there may be of something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) all: usize,
    /// Of these, for clients with less than full rights.
    pub(super) of_others: usize,
}

/// Serves all clients that connect. `rights_of` says what a client may do, by its connection.
pub(super) async fn serve<L: axum::serve::Listener>(
    mut listener: L,
    limits: Limits,
    rights_of: impl Fn(&L::Io) -> Rights,
    router: Router,
) -> Infallible {
    let [connections, of_others] = semaphores(limits.connections);
    let (lasting, large) = (semaphores(limits.lasting), semaphores(limits.large));
    loop {
        // Never closed, so there is always a permit to come.
        let place = Arc::clone(&connections).acquire_owned().await.ok();
        let (stream, _) = listener.accept().await;
        let rights = rights_of(&stream);
        let is_other = rights < Rights::Everything;
        let others_place = is_other.then(|| Arc::clone(&of_others).try_acquire_owned());
        if let Some(Err(_)) = others_place {
            // Clients with full rights do not wait for them.
            continue;
        }
        let [lasting, large] = [&lasting, &large].map(|places| Arc::clone(&places[usize::from(is_other)]));
        let stay = Stay::new(limits.request_time, lasting, large);
        let router = router.clone().layer(Extension(rights)).layer(Extension(stay.clone()));
        tokio::spawn(async move {
            converse(stream, router, stay, limits).await;
            drop((place, others_place));
        });
    }
}

/// For all, and for clients with less than full rights.
fn semaphores(places: Places) -> [Arc<Semaphore>; 2] {
    [places.all, places.of_others].map(|places| Arc::new(Semaphore::new(places)))
}

/// One request and its response. What a client did wrong is its own business.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, stay: Stay, limits: Limits) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_time).keep_alive(false).max_buf_size(limits.head);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    loop {
        // It may be shortened meanwhile.
        let look = stay.until().min(Instant::now() + LOOK);
        tokio::select! {
            _ = &mut connection => return,
            () = sleep_until(look) => if stay.until() <= Instant::now() { return },
        }
    }
}

/// How long a connection may stay, and the places that it holds.
#[derive(Clone, Debug)]
pub(super) struct Stay {
    until: Arc<Mutex<Instant>>,
    request_time: Duration,
    pub(super) lasting: Arc<Semaphore>,
    pub(super) large: Arc<Semaphore>,
    /// Held until the connection ends.
    kept: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Stay {
    fn new(request_time: Duration, lasting: Arc<Semaphore>, large: Arc<Semaphore>) -> Stay {
        let until = Arc::new(Mutex::new(Instant::now() + request_time));
        Stay { until, request_time, lasting, large, kept: Arc::default() }
    }

    /// Holds a place until the connection ends.
    pub(super) fn keep(&self, place: OwnedSemaphorePermit) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }

    /// The connection's time begins anew.
    pub(super) fn renew(&self) {
        self.extend(self.request_time);
    }

    /// The connection may stay for this long from now on.
    pub(super) fn extend(&self, by: Duration) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + by;
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream as Client;

    use axum::routing::get;
    use futures_util::future::join;

    use super::super::large::Large;
    use super::*;
    use tokio::net::UnixStream;

    /// More than a socket holds.
    const LENGTH: usize = 8 << 20;

    fn ask(client: &mut Client) {
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }

    #[test]
    fn a_large_answer_has_its_place_until_it_is_read() {
        let (mut first, one) = Client::pair().unwrap();
        let (mut second, other) = Client::pair().unwrap();
        let serve = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
            runtime.block_on(async {
                let places = Arc::new(Semaphore::new(1));
                let serve = |server: Client| {
                    server.set_nonblocking(true).unwrap();
                    let stay = Stay::new(Duration::from_secs(30), Arc::clone(&places), Arc::clone(&places));
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

    /// Clients that may only read use up their own connections, and those with full rights still get in.
    #[test]
    fn readers_do_not_keep_operators_out() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            let address = listener.local_addr().unwrap();
            let accepted = std::cell::Cell::new(0);
            // The first two may only read.
            let rights_of = |_: &tokio::net::TcpStream| {
                accepted.set(accepted.get() + 1);
                if accepted.get() <= 2 { Rights::Read } else { Rights::Everything }
            };
            let places = Places { all: 3, of_others: 1 };
            let limits = Limits { connections: places, ..super::super::LIMITS };
            let router = Router::new().route("/", get(async || "here"));
            let (done, answers) = tokio::sync::oneshot::channel();
            let clients = std::thread::spawn(move || {
                let idle = std::net::TcpStream::connect(address).unwrap();
                let _ = done.send((answer_of(address), answer_of(address)));
                drop(idle);
            });
            tokio::select! {
                never = serve(listener, limits, rights_of, router) => match never {},
                answers = answers => {
                    let (turned_away, served) = answers.unwrap();
                    assert_eq!(turned_away, "");
                    assert!(served.ends_with("here"), "{served}");
                }
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
