//! Requests to vswitchd: HTTP/1.1 over its control socket, one request a connection.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// Time limit for each piece of an answer. A container runtime waits meanwhile.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum length of an answer, in bytes: a list of thousands of guests.
const LONGEST: u64 = 64 << 20;

/// Headers of an answer, at most.
const HEADERS: usize = 64;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The switch is not there, or does not answer.
    Unreachable(String),
    /// The switch refuses: with the reason and remedy as text, and the name of what is in the way.
    Refused { text: String, in_the_way: Option<String> },
}

/// The control socket of a switch.
#[derive(Debug)]
pub(crate) struct Switch {
    socket: PathBuf,
}

impl Switch {
    pub(crate) fn at(socket: PathBuf) -> Switch {
        Switch { socket }
    }

    /// Sends a request, with a body if there is one; returns the body of the answer.
    pub(crate) fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> Result<Value, RequestError> {
        let answer = exchange(&self.socket, method, target, body)
            .map_err(|error| RequestError::Unreachable(format!("{}: {error}; is vswitchd running?", self.socket.display())))?;
        let (status, body) = parse(&answer)
            .ok_or_else(|| RequestError::Unreachable(format!("{}: not the control socket of vswitchd", self.socket.display())))?;
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        match status {
            200 => Ok(body),
            // It is busy, or ends.
            500..600 => Err(RequestError::Unreachable(reason(&body, status))),
            _ => {
                let in_the_way = body["in_the_way"].as_str().map(str::to_owned);
                Err(RequestError::Refused { text: reason(&body, status), in_the_way })
            }
        }
    }
}

fn reason(body: &Value, status: u16) -> String {
    body["error"].as_str().map_or_else(|| format!("the switch refuses with status {status}"), str::to_owned)
}

fn exchange(socket: &Path, method: &str, target: &str, body: Option<&Value>) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let body = body.map_or_else(String::new, Value::to_string);
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: vswitchd\r\nConnection: close\r\n");
    // Writing to a string cannot fail.
    let _ = write!(request, "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The status and the body of an answer. The connection ends with it.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(answer).ok()? else { return None };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = std::str::from_utf8(length.value).ok()?.parse().ok()?;
    Some((response.code?, answer.get(head..)?.get(..length)?))
}

/// A name as a segment of a path (RFC 3986 section 2.1).
pub(crate) fn segment(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let answer = b"HTTP/1.1 409 Conflict\r\nContent-Type: application/problem+json\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(answer), Some((409, &b"{}"[..])));
        for end in 0..answer.len() {
            assert_eq!(parse(&answer[..end]), None, "cut at {end}");
        }
        assert_eq!(parse(b"SSH-2.0-OpenSSH\r\n"), None);
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"), None);
    }

    #[test]
    fn names_are_one_segment() {
        assert_eq!(segment("cni:net/0a1b/eth0"), "cni%3Anet%2F0a1b%2Feth0");
    }
}
