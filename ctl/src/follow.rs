//! An answer of the switch's without an end, as it comes.
//!
//! It is in chunks (RFC 9112 section 7.1): each a length in hexadecimal digits, as many bytes, and a line's end; the
//! last is empty.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::client::{PATIENCE, refused, unreachable};

/// How often a reader looks up, if nothing comes.
const LOOK_UP: Duration = Duration::from_millis(100);

/// A head, or the line before a chunk, is no longer.
const MAX_HEAD: usize = 64 << 10;
const MAX_LINE: usize = 64;

/// What a look brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Came {
    /// Something.
    Some,
    /// Nothing yet.
    Nothing,
    /// There will be no more: the switch has told all.
    End,
}

/// An answer that goes on.
#[derive(Debug)]
pub(crate) struct Follow {
    stream: UnixStream,
    raw: Vec<u8>,
    chunks: Chunks,
}

impl Follow {
    /// Asks for what a path leads to. An error if the switch refuses.
    pub(crate) fn get(socket: &Path, path: &str) -> anyhow::Result<Follow> {
        let mut stream = UnixStream::connect(socket).map_err(|error| unreachable(socket, &error))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let asking = || format!("{}: asking the switch", socket.display());
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: vswitchd\r\nConnection: close\r\n\r\n").as_bytes())
            .with_context(asking)?;
        let mut raw = Vec::new();
        let head = loop {
            if let Some(at) = raw.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(raw.len() < MAX_HEAD, "{}: what answers there is no vswitchd", socket.display());
            let mut piece = [0; 4096];
            let len = stream.read(&mut piece).with_context(asking)?;
            ensure!(len > 0, "{}: what answers there is no vswitchd", socket.display());
            raw.extend_from_slice(&piece[..len]);
        };
        let text = String::from_utf8_lossy(&raw[..head]).to_ascii_lowercase();
        if !text.starts_with("http/1.1 200") || !text.contains("\r\ntransfer-encoding: chunked\r\n") {
            stream.read_to_end(&mut raw).with_context(asking)?;
            return Err(refused(socket, &raw));
        }
        stream.set_read_timeout(Some(LOOK_UP))?;
        raw.drain(..head);
        Ok(Follow { stream, raw, chunks: Chunks::default() })
    }

    /// Adds what has come to `out`; waits a tenth of a second for it.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>) -> anyhow::Result<Came> {
        if self.chunks.is_over {
            return Ok(Came::End);
        }
        let before = out.len();
        if self.raw.is_empty() {
            let mut piece = vec![0; 64 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) => bail!("the switch ended it"),
                Ok(len) => self.raw.extend_from_slice(&piece[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("reading from the switch"),
            }
        }
        let is_end = self.chunks.take(&mut self.raw, out)?;
        Ok(match out.len() > before {
            true => Came::Some,
            false if is_end => Came::End,
            false => Came::Nothing,
        })
    }
}

/// Where in the chunks we are.
#[derive(Debug, Default)]
struct Chunks {
    /// Of the chunk at hand, with its line's end.
    left: usize,
    line: Vec<u8>,
    is_over: bool,
}

impl Chunks {
    /// Takes the chunks' bytes out of `raw`. True at the end of all.
    fn take(&mut self, raw: &mut Vec<u8>, out: &mut Vec<u8>) -> anyhow::Result<bool> {
        let mut rest = &raw[..];
        while !rest.is_empty() && !self.is_over {
            if self.left == 0 {
                self.line.push(rest[0]);
                rest = &rest[1..];
                if self.line.ends_with(b"\r\n") {
                    self.left = length(&self.line)? + 2;
                    self.is_over = self.left == 2;
                    self.line.clear();
                }
                ensure!(self.line.len() < MAX_LINE, "an answer in pieces that are none");
                continue;
            }
            let len = rest.len().min(self.left);
            let data = len.min(self.left.saturating_sub(2));
            out.extend_from_slice(&rest[..data]);
            self.left -= len;
            rest = &rest[len..];
        }
        raw.clear();
        Ok(self.is_over)
    }
}

fn length(line: &[u8]) -> anyhow::Result<usize> {
    let text = std::str::from_utf8(line).ok().and_then(|line| line.trim_end().split(';').next());
    let length = text.and_then(|text| usize::from_str_radix(text, 16).ok()).filter(|length| *length < 1 << 30);
    length.context("an answer in pieces of unknown length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_apart(text: &[u8], by: usize) -> anyhow::Result<(Vec<u8>, bool)> {
        let (mut chunks, mut out, mut is_end) = (Chunks::default(), Vec::new(), false);
        for piece in text.chunks(by) {
            let mut raw = piece.to_vec();
            is_end = chunks.take(&mut raw, &mut out)?;
            assert!(raw.is_empty());
        }
        Ok((out, is_end))
    }

    #[test]
    fn chunks_come_in_any_pieces() {
        let text = b"5\r\nhello\r\nC;x=1\r\n, \r\nworld..!\r\n0\r\n\r\n";
        for by in 1..=text.len() {
            assert_eq!(take_apart(text, by).unwrap(), (b"hello, \r\nworld..!".to_vec(), true), "by {by}");
            assert!(!take_apart(&text[..text.len() - 6], by).unwrap().1);
        }
        for bad in [&b"x\r\n"[..], b"\r\n", b"ffffffffff\r\n", b"-1\r\n", &[b'1'; 100]] {
            assert!(take_apart(bad, 1).is_err(), "{bad:?}");
        }
    }
}
