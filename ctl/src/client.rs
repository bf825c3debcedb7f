//! Requests to the daemon: HTTP/1.1 over its Unix socket, one request per connection.
//!
//! *Limits.* The daemon has [`RESPONSE_TIMEOUT`] for its head and for each piece of the body; a head has at most 64 KiB, a body
//! that is read whole at most [`LONGEST_BODY`].

use std::fmt::{self, Display};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::table::plain;

/// Time limit for the head of a response, and for each piece of its body.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum length of a response's head, in bytes.
const LONGEST_HEAD: usize = 64 << 10;

/// Maximum length of a body that is read whole, in bytes: lists of 100,000 connections have some 30 MB.
const LONGEST_BODY: usize = 1 << 30;

/// A response whose status is not 200.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    /// Its reason, as the switch gives it.
    problem: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.problem.lines().map(plain);
        match lines.next() {
            Some(first) => write!(out, "{first}")?,
            None => write!(out, "the switch refuses with status {} and gives no reason", self.status)?,
        }
        lines.try_for_each(|line| write!(out, "\n  {line}"))
    }
}

impl std::error::Error for Refused {}

/// Sends a GET request and returns the body of the response.
pub(crate) fn get(socket: &Path, target: &str) -> anyhow::Result<String> {
    ask(socket, Method::GET, target, None)
}

/// The body of a request.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Json(String),
    Toml(String),
}

impl Body {
    /// Its media type and its text.
    fn into_parts(self) -> (&'static str, String) {
        match self {
            Body::Json(text) => ("application/json", text),
            Body::Toml(text) => ("application/toml", text),
        }
    }
}

/// Sends a request, with a body if there is one, and returns the body of the response.
pub(crate) fn ask(socket: &Path, method: Method, target: &str, body: Option<Body>) -> anyhow::Result<String> {
    runtime()?.block_on(whole(socket, method, target, body))
}

/// The same, with a limit for all of it.
pub(crate) fn ask_within(
    limit: Duration,
    socket: &Path,
    method: Method,
    target: &str,
    body: Option<Body>,
) -> anyhow::Result<String> {
    let asked = async { timeout(limit, whole(socket, method, target, body)).await };
    runtime()?.block_on(asked).with_context(|| format!("{}: the switch does not answer", socket.display()))?
}

/// The body of the response.
async fn whole(socket: &Path, method: Method, target: &str, body: Option<Body>) -> anyhow::Result<String> {
    let response = respond(socket, method, target, body).await?;
    let body = read_whole(response.into_body()).await.with_context(|| asking(socket))?;
    String::from_utf8(body).with_context(|| format!("{}: the response is not UTF-8", socket.display()))
}

/// The runtime of one request.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build().context("starting the HTTP client")
}

/// Sends a request and returns the response, whose body is still to be read. An error unless its status is 200.
///
/// The connection is a task of the runtime that this runs in, so the body can be read only there.
pub(crate) async fn respond(
    socket: &Path,
    method: Method,
    target: &str,
    body: Option<Body>,
) -> anyhow::Result<Response<Incoming>> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let mut request = Request::builder().method(method).uri(target).header(HOST, "vswitchd");
    let body = body.map(Body::into_parts);
    if let Some((media_type, _)) = &body {
        request = request.header(CONTENT_TYPE, *media_type);
    }
    let request =
        request.body(Full::new(Bytes::from(body.map(|(_, text)| text).unwrap_or_default()))).context("making the request")?;
    let sent = async {
        let io = TokioIo::new(stream);
        let (mut sender, connection) = http1::Builder::new().max_buf_size(LONGEST_HEAD).handshake(io).await?;
        // A failure of the connection shows in the response or its body.
        drop(tokio::spawn(connection));
        sender.send_request(request).await
    };
    let response = in_time(sent).await.with_context(|| asking(socket))?.map_err(|error| not_http(socket, error))?;
    if response.status() == StatusCode::OK { Ok(response) } else { Err(refused(socket, response).await) }
}

/// The future's output, or an error after [`RESPONSE_TIMEOUT`].
async fn in_time<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    timeout(RESPONSE_TIMEOUT, future).await.with_context(|| format!("no response for {} s", RESPONSE_TIMEOUT.as_secs()))
}

async fn read_whole(mut body: Incoming) -> anyhow::Result<Vec<u8>> {
    let mut whole = Vec::new();
    while let Some(frame) = in_time(body.frame()).await? {
        let data = frame.context("the response is incomplete")?.into_data().unwrap_or_default();
        ensure!(whole.len() + data.len() <= LONGEST_BODY, "the response has more than {LONGEST_BODY} bytes");
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

fn asking(socket: &Path) -> String {
    format!("{}: asking the switch", socket.display())
}

fn not_http(socket: &Path, error: hyper::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("{}: not the control socket of vswitchd", socket.display()))
}

/// The error that a response describes.
async fn refused(socket: &Path, response: Response<Incoming>) -> anyhow::Error {
    let status = response.status().as_u16();
    let body = match read_whole(response.into_body()).await {
        Ok(body) => body,
        Err(error) => return error.context(asking(socket)),
    };
    // Older daemons have no other member.
    let problem = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
    let problem = problem["error"].as_str().map_or_else(|| String::from_utf8_lossy(&body).into_owned(), str::to_owned);
    Refused { status, problem }.into()
}

/// The error for a socket that cannot be connected to.
pub(crate) fn unreachable(socket: &Path, error: &io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => "; is vswitchd running? --control names its control socket",
        ErrorKind::PermissionDenied => {
            "; the switch is another user's: run this as root; or start vswitchd with --control-group or --control-read-only-others"
        }
        _ => "",
    };
    anyhow::anyhow!("{}: {error}{hint}", socket.display())
}

/// A name as a segment of a path (RFC 3986 section 2.1).
pub(crate) fn segment(name: impl Display) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escaped = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.to_string().bytes().map(escaped).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    /// Runs a client against a server that writes these bytes to one connection and closes it.
    pub(crate) fn against<T>(response: &[u8], client: impl FnOnce(&Path) -> T) -> T {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vswitchctl-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let response = response.to_vec();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(&response).unwrap();
        });
        let result = client(&path);
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
        result
    }

    #[test]
    fn names_are_one_segment() {
        assert_eq!(segment("/run/a b&c\u{e9}"), "%2Frun%2Fa%20b%26c%C3%A9");
    }

    #[test]
    fn whole_responses_only() {
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(against(response, |socket| get(socket, "/")).unwrap(), "{}");
        for end in [0, 1, 20, response.len() - 3, response.len() - 1] {
            assert!(against(&response[..end], |socket| get(socket, "/")).is_err(), "cut at {end}");
        }
        for bad in [&b"HTTP/1.1 xyz\r\nContent-Length: 0\r\n\r\n"[..], b"SSH-2.0\r\n\r\n", &[b'x'; LONGEST_HEAD + 100]] {
            assert!(against(bad, |socket| get(socket, "/")).is_err());
        }
        assert!(against(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xff", |socket| get(socket, "/")).is_err());
    }

    #[test]
    fn refusals_are_told_with_their_status() {
        let response = b"HTTP/1.1 404 Not Found\r\nContent-Length: 21\r\n\r\n{\"error\":\"no \\u001b\"}";
        let error = against(response, |socket| get(socket, "/")).unwrap_err();
        assert_eq!(error.to_string(), "no \\u{1b}");
        let several = Refused { status: 400, problem: "v.toml:1: one\nv.toml:2: two".to_owned() };
        assert_eq!(several.to_string(), "v.toml:1: one\n  v.toml:2: two");
    }
}
