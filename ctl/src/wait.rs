//! `wait`: until a switch answers, or until none does.
//!
//! A switch answers once its devices are open and frames flow. A connection that is refused, a missing socket and an answer that
//! says "busy" are tried again; a switch that this user may not ask is an error at once.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use hyper::Method;

use crate::client::{self, Refused};
use crate::place;

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// The status of an answer to be asked for again.
const BUSY: u16 = 503;

/// What an attempt found.
enum Found {
    Switch,
    /// No process listens there, for the reason.
    Nobody(anyhow::Error),
    /// A process listens there, and does not answer yet.
    Silence(anyhow::Error),
}

/// Waits until a switch answers at the socket, or with `until_gone` until no process listens there.
pub(crate) fn wait(named: Option<&Path>, patience: Duration, until_gone: bool) -> anyhow::Result<()> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let reason = match look(named, left)? {
            Found::Switch if until_gone => anyhow::anyhow!("a switch still answers"),
            Found::Switch => return Ok(()),
            Found::Nobody(_) if until_gone => return Ok(()),
            Found::Nobody(reason) | Found::Silence(reason) => reason,
        };
        if Instant::now() + PAUSE >= end {
            bail!("waited {} s: {reason:#}", patience.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

/// One attempt, whose answer is waited for until the time is over.
fn look(named: Option<&Path>, left: Duration) -> anyhow::Result<Found> {
    let socket = match place::socket(named) {
        Ok(socket) => socket,
        Err(none) => return Ok(Found::Nobody(none.into())),
    };
    if let Err(error) = UnixStream::connect(&socket) {
        let reason = client::unreachable(&socket, &error);
        return match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(Found::Nobody(reason)),
            _ => Err(reason),
        };
    }
    match client::ask_within(left, &socket, Method::GET, "/v1/show", None) {
        Ok(_) => Ok(Found::Switch),
        Err(error) => match error.downcast_ref::<Refused>() {
            Some(refused) if refused.status != BUSY => Err(error),
            _ => Ok(Found::Silence(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A server that refuses the first request as busy and answers the second one.
    #[test]
    fn it_asks_again_until_there_is_an_answer() {
        let path = std::env::temp_dir().join(format!("vswitchctl-wait-{}", std::process::id()));
        let started = thread::spawn({
            let path = path.clone();
            move || {
                thread::sleep(2 * PAUSE);
                let listener = UnixListener::bind(&path).unwrap();
                let mut answers = ["503 Busy", "200 OK"].into_iter();
                for stream in listener.incoming() {
                    let (mut stream, mut request) = (stream.unwrap(), [0; 4096]);
                    // The first connection of each attempt carries no request.
                    if stream.read(&mut request).unwrap() == 0 {
                        continue;
                    }
                    let Some(status) = answers.next() else { return };
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}");
                    stream.write_all(answer.as_bytes()).unwrap();
                    if status == "200 OK" {
                        return;
                    }
                }
            }
        });
        wait(Some(&path), Duration::from_secs(20), false).unwrap();
        started.join().unwrap();
        fs::remove_file(&path).unwrap();
        wait(Some(&path), Duration::from_secs(20), true).unwrap();
        let error = wait(Some(&path), PAUSE, false).unwrap_err().to_string();
        assert!(error.starts_with("waited 0 s: ") && error.contains("is vswitchd running?"), "{error}");
    }
}
