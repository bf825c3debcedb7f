//! A page, fetched over HTTP/1.0 (RFC 1945) from one host by another.
//!
//! Both ends are sockets of ours, so both can be asked for the addresses that they see, which is what a translation changes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpStream};

use super::host::{Host, bound_in_time};

/// The end of a request's or an answer's head.
const BLANK_LINE: &[u8] = b"\r\n\r\n";

/// Longest head that is read, in bytes; ours are shorter.
const MAX_HEAD: usize = 4096;

/// A page that was fetched. The connection is closed on the server's side only, and whole when this
/// is dropped.
pub(super) struct Fetched {
    /// The first line of the answer, `HTTP/1.0 200 OK`.
    pub(super) status: String,
    /// Bytes of the page.
    pub(super) bytes: usize,
    /// The client's own address, as it knows it.
    pub(super) client: SocketAddr,
    /// The client's address, as the server sees it.
    pub(super) seen: SocketAddr,
    _connection: (TcpStream, TcpStream),
}

/// Fetches a page from `to`, where the server is found that listens at `listen`.
pub(super) fn fetch(client: &Host, to: SocketAddrV4, server: &Host, listen: SocketAddrV4) -> io::Result<Fetched> {
    let listener = server.listen(listen)?;
    let mut near = client.connect(to)?;
    let (mut far, seen) = listener.accept()?;
    bound_in_time(&far)?;
    // All of it fits into the sockets' buffers, so one thread can play both parts in turn.
    write!(near, "GET / HTTP/1.0\r\nHost: {to}\r\n\r\n")?;
    serve(&mut far, seen, server.name())?;
    let mut answer = Vec::new();
    near.read_to_end(&mut answer)?;
    let (head, page) = split_head(&answer).ok_or(io::ErrorKind::InvalidData)?;
    let status = String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned();
    Ok(Fetched { status, bytes: page.len(), client: near.local_addr()?, seen, _connection: (near, far) })
}

fn serve(stream: &mut TcpStream, client: SocketAddr, name: &str) -> io::Result<()> {
    let mut request = Vec::new();
    while split_head(&request).is_none() {
        let mut piece = [0; 512];
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if request.len() > MAX_HEAD => return Err(io::ErrorKind::InvalidData.into()),
            len => request.extend_from_slice(&piece[..len]),
        }
    }
    let page = format!("<!doctype html><title>{name}</title><p>Hello, {client}.</p>\n");
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{page}", page.len())?;
    stream.shutdown(Shutdown::Write)
}

/// The head before the blank line, and the body after it.
fn split_head(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = message.windows(BLANK_LINE.len()).position(|bytes| bytes == BLANK_LINE)?;
    Some((&message[..at], &message[at + BLANK_LINE.len()..]))
}
