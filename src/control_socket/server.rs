//! Connections: how many there are, how long they stay, and who is at their other end.
//!
//! Those who may do everything have all places, others half of them, so that nobody who may only read keeps an
//! operator out. A connection carries one request; it ends when its time is over, but for a [lasting](super::lasting) answer, which
//! goes on for as long as its reader takes what comes.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use netio::peer::Credentials;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::CONNECTIONS;
use super::large::{LARGE, LARGE_OF_OTHERS};
use super::rights::{Guard, Rights};

/// Places that those have who may not do everything.
const PLACES_OF_OTHERS: usize = CONNECTIONS / 2;
/// Answers without an end, at a time; and those of others among them.
const LASTING: usize = 16;
const LASTING_OF_OTHERS: usize = LASTING / 2;

/// A request's head has to come within this time.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// And all of it, with its answer, within this; of an answer without an end, what is there.
pub(super) const REQUEST_TIME: Duration = Duration::from_secs(30);
/// What a client may make us keep of a head.
const HEAD_LIMIT: usize = 16 << 10;
/// After an error of accept(2), which mostly is a want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether a connection's time is over.
const LOOK: Duration = Duration::from_secs(5);

/// Serves until `stopped`, or who could stop it is gone.
pub(super) async fn serve(
    listener: UnixListener,
    guard: Guard,
    router: Router,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    tokio::select! {
        never = accept(listener, guard, router) => match never {},
        _ = stopped => Ok(()),
    }
}

async fn accept(listener: tokio::net::UnixListener, guard: Guard, router: Router) -> Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let of_others = Arc::new(Semaphore::new(PLACES_OF_OTHERS));
    let lasting = [LASTING, LASTING_OF_OTHERS].map(|places| Arc::new(Semaphore::new(places)));
    let large = [LARGE, LARGE_OF_OTHERS].map(|places| Arc::new(Semaphore::new(places)));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            // Nobody closes it.
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("the control socket accepts nobody: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let rights = Credentials::of_peer(&stream).map_or(Rights::Nothing, |peer| guard.rights_of(&peer));
        let is_other = rights < Rights::Everything;
        let others_place = is_other.then(|| Arc::clone(&of_others).try_acquire_owned());
        if let Some(Err(_)) = others_place {
            // Too many of them; who may more is not to wait for them.
            continue;
        }
        let [lasting, large] = [&lasting, &large].map(|places| Arc::clone(&places[usize::from(is_other)]));
        let stay = Stay::new(lasting, large);
        let router = router.clone().layer(Extension(rights)).layer(Extension(stay.clone()));
        tokio::spawn(async move {
            converse(stream, router, stay).await;
            drop((place, others_place));
        });
    }
}

/// One request and its answer. What a client did wrong is its own business.
async fn converse(stream: UnixStream, router: Router, stay: Stay) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).keep_alive(false).max_buf_size(HEAD_LIMIT);
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

/// How long a connection may stay.
#[derive(Clone, Debug)]
pub(super) struct Stay {
    until: Arc<Mutex<Instant>>,
    pub(super) lasting: Arc<Semaphore>,
    pub(super) large: Arc<Semaphore>,
    /// What is held until it ends.
    kept: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Stay {
    fn new(lasting: Arc<Semaphore>, large: Arc<Semaphore>) -> Stay {
        let until = Arc::new(Mutex::new(Instant::now() + REQUEST_TIME));
        Stay { until, lasting, large, kept: Arc::default() }
    }

    /// Holds a place until the connection ends.
    pub(super) fn keep(&self, place: OwnedSemaphorePermit) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn extend(&self, by: Duration) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + by;
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
                    let stay = Stay::new(Arc::clone(&places), Arc::clone(&places));
                    let router = Router::new().route("/", get(async |_: Large| "x".repeat(LENGTH)));
                    converse(UnixStream::from_std(server).unwrap(), router.layer(Extension(stay.clone())), stay)
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
}
