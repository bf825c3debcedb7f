//! One request over the control socket, and its answer.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::geteuid;

use crate::table::plain;
use crate::views::Problem;

/// A switch that does not answer within this time is not well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where a switch listens that its unit of systemd started.
const SERVICE: &str = "/run/vswitchd/vswitchd.sock";

/// Where the switch listens if nobody said otherwise: where one that was started by hand would, or else where the service does.
pub(crate) fn usual_path() -> anyhow::Result<PathBuf> {
    let by_hand = match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if geteuid().is_root() => Some(PathBuf::from("/run/vswitchd.sock")),
        directory => directory.map(|directory| PathBuf::from(directory).join("vswitchd.sock")),
    };
    match by_hand {
        Some(path) if path.exists() || !Path::new(SERVICE).exists() => Ok(path),
        None if !Path::new(SERVICE).exists() => bail!("XDG_RUNTIME_DIR is not set: say where with --socket"),
        _ => Ok(SERVICE.into()),
    }
}

/// Gets what a path of the switch's leads to.
pub(crate) fn get(socket: &Path, path: &str) -> anyhow::Result<String> {
    ask(socket, "GET", path, None)
}

/// A connection to the switch, which is given up if it does not answer.
pub(crate) fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    let stream = UnixStream::connect(socket).map_err(|error| unreachable(socket, &error))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks the switch by this method, with a body in JSON if there is one, and returns the answer's body.
pub(crate) fn ask(socket: &Path, method: &str, path: &str, body: Option<&str>) -> anyhow::Result<String> {
    let mut stream = connect(socket)?;
    let body = body.map_or_else(String::new, |body| {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let end = if body.is_empty() { "\r\n" } else { &body };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: vswitchd\r\nConnection: close\r\n{end}");
    let mut answer = Vec::new();
    let exchanged = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer));
    exchanged.with_context(|| format!("{}: asking the switch", socket.display()))?;
    match parse(&answer) {
        Ok((200, body)) => Ok(body.to_owned()),
        _ => Err(refused(socket, &answer)),
    }
}

/// What an answer says that is not what was asked for.
pub(crate) fn refused(socket: &Path, answer: &[u8]) -> anyhow::Error {
    match parse(answer) {
        Err(error) => error.context(format!("{}: what answers there is no vswitchd", socket.display())),
        Ok((status, body)) => {
            let problem = serde_json::from_str::<Problem>(body).map_or_else(|_| body.to_owned(), |problem| problem.error);
            anyhow::anyhow!("the switch says: {} ({status})", plain(&problem))
        }
    }
}

pub(crate) fn unreachable(socket: &Path, error: &std::io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => "; is vswitchd running? --socket says where it listens",
        ErrorKind::PermissionDenied => "; the socket is for its owner and group: try as root",
        _ => "",
    };
    anyhow::anyhow!("{}: {error}{hint}", socket.display())
}

/// What stands in a path or behind its `?`, so that it is taken as it is (RFC 3986 section 2.1).
pub(crate) fn escape(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escaped = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escaped).collect()
}

/// A path with those parameters that have a value.
pub(crate) fn with_parameters<const N: usize>(path: &str, parameters: [(&str, Option<String>); N]) -> String {
    let given = parameters.iter().filter_map(|(key, value)| Some(format!("{key}={}", escape(value.as_ref()?))));
    let given = given.collect::<Vec<String>>().join("&");
    if given.is_empty() { path.to_owned() } else { format!("{path}?{given}") }
}

/// Status and body of a whole HTTP/1.1 answer that says how long it is.
fn parse(answer: &[u8]) -> anyhow::Result<(u16, &str)> {
    let answer = std::str::from_utf8(answer).context("an answer that is no text")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end to its head")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).context("an answer that is not HTTP/1.1")?;
    let status = status.get(..3).and_then(|status| status.parse().ok()).context("an answer without a status")?;
    let length = lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.and_then(|(_, value)| value.trim().parse().ok()).context("an answer of unknown length")?;
    ensure!(body.len() == length, "an answer of {} bytes that should have {length}", body.len());
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_what_was_given() {
        assert_eq!(with_parameters("/v1/fdb", [("port", None), ("vlan", None)]), "/v1/fdb");
        let path = with_parameters("/v1/fdb", [("port", Some("/run/a b&c\u{e9}".to_owned())), ("vlan", Some("7".to_owned()))]);
        assert_eq!(path, "/v1/fdb?port=%2Frun%2Fa%20b%26c%C3%A9&vlan=7");
    }

    #[test]
    fn whole_answers_only() {
        let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(answer.as_bytes()).unwrap(), (404, "{}"));
        for end in 0..answer.len() {
            assert!(parse(&answer.as_bytes()[..end]).is_err(), "cut at {end}");
        }
        for bad in
            ["", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 xyz\r\nContent-Length: 0\r\n\r\n", "SSH-2.0\r\n\r\n"]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xff").is_err());
    }
}
