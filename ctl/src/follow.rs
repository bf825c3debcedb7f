//! Responses that go on for as long as they are read: events, captures, live traces.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::client::{respond, runtime};

/// How long a read waits, so that its caller can look at signals meanwhile.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Maximum length of a line, in bytes.
const LONGEST_LINE: usize = 1 << 20;

/// What a read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Came {
    /// Data.
    Some,
    /// Nothing yet.
    Nothing,
    /// The regular end of the response.
    End,
}

/// A response that goes on.
#[derive(Debug)]
pub(crate) struct Follow {
    runtime: Runtime,
    body: Incoming,
}

impl Follow {
    /// Sends a GET request. An error if the switch refuses it.
    pub(crate) fn get(socket: &Path, target: &str) -> anyhow::Result<Follow> {
        let runtime = runtime()?;
        let response = runtime.block_on(respond(socket, Method::GET, target, None))?;
        Ok(Follow { runtime, body: response.into_body() })
    }

    /// Appends the data that came to `out`, after waiting for it for at most a tenth of a second.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>) -> anyhow::Result<Came> {
        let Follow { runtime, body } = self;
        match runtime.block_on(async { timeout(LOOK_UP, body.frame()).await }) {
            Err(_) => Ok(Came::Nothing),
            Ok(None) => Ok(Came::End),
            Ok(Some(frame)) => {
                let data = frame.context("the connection to the switch broke")?.into_data().unwrap_or_default();
                out.extend_from_slice(&data);
                Ok(if data.is_empty() { Came::Nothing } else { Came::Some })
            }
        }
    }

    /// Waits for the next lines: one or more whole ones, or `None` at the end of the response. `rest` is the start of
    /// a line between two calls.
    pub(crate) fn lines(&mut self, rest: &mut Vec<u8>) -> anyhow::Result<Option<String>> {
        loop {
            let came = self.read(rest)?;
            let lines = whole_lines(rest)?;
            ensure!(rest.len() <= LONGEST_LINE, "the switch sent a line of more than {LONGEST_LINE} bytes");
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
            if came == Came::End {
                return Ok(None);
            }
        }
    }
}

/// Takes the whole lines out of `bytes` and leaves the rest.
fn whole_lines(bytes: &mut Vec<u8>) -> anyhow::Result<String> {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let rest = bytes.split_off(end);
    String::from_utf8(std::mem::replace(bytes, rest)).context("the response is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::against;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    fn read_all(chunks: &str) -> anyhow::Result<Vec<u8>> {
        against(format!("{HEAD}{chunks}").as_bytes(), |socket| {
            let mut follow = Follow::get(socket, "/")?;
            let mut out = Vec::new();
            while follow.read(&mut out)? != Came::End {}
            Ok(out)
        })
    }

    #[test]
    fn an_end_is_told_from_a_break() {
        let chunks = "5\r\nhello\r\nC;x=1\r\n, \r\nworld..!\r\n0\r\n\r\n";
        assert_eq!(read_all(chunks).unwrap(), b"hello, \r\nworld..!");
        for cut in [0, 3, 9, chunks.len() - 5] {
            assert!(read_all(&chunks[..cut]).is_err(), "cut at {cut}");
        }
        for bad in ["x\r\n", "\r\n", "ffffffffffffffffff\r\n", "-1\r\n"] {
            assert!(read_all(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lines_come_in_any_pieces() {
        let mut bytes = b"id: 1\ndata: {}\nda".to_vec();
        assert_eq!(whole_lines(&mut bytes).unwrap(), "id: 1\ndata: {}\n");
        assert_eq!(whole_lines(&mut bytes).unwrap(), "");
        bytes.extend_from_slice(b"ta: {}\n");
        assert_eq!(whole_lines(&mut bytes).unwrap(), "data: {}\n");
    }

    #[test]
    fn lines_have_an_end() {
        let length = LONGEST_LINE + 1;
        let chunks = format!("{length:x}\r\n{}\r\n", "x".repeat(length));
        let result = against(format!("{HEAD}{chunks}").as_bytes(), |socket| Follow::get(socket, "/")?.lines(&mut Vec::new()));
        assert!(result.is_err());
    }
}
