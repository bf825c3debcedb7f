//! `events`: what happens, as it happens.

use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::bail;
use api::Event;

use crate::cli::Output;
use crate::follow::Follow;
use crate::get::understood;
use crate::table::plain;

/// Number of looks whether the switch has ended, and the pause before each but the first.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Message for a stream that ends, with its last chunk or without.
const ENDED: &str = "the switch closed the stream of events";

/// Prints each event as it comes, until standard output is closed.
pub(crate) fn follow(socket: &Path, output: Output) -> anyhow::Result<()> {
    let mut events = Follow::get(socket, "/v1/events")?;
    let mut out = io::stdout().lock();
    let mut rest = Vec::new();
    loop {
        let lines = match events.lines(&mut rest) {
            Ok(Some(lines)) => lines,
            Ok(None) | Err(_) if has_ended(socket) => bail!("the switch has ended"),
            Ok(None) => bail!(ENDED),
            Err(error) => return Err(error.context(ENDED)),
        };
        for line in lines.lines() {
            // The other fields of server-sent events repeat what is in the data.
            let Some(json) = line.strip_prefix("data: ") else { continue };
            let line = if output == Output::Json { json.to_owned() } else { text(&understood(json)?) };
            match writeln!(out, "{line}").and_then(|()| out.flush()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                printed => printed?,
            }
        }
    }
}

/// Returns whether nobody listens at the socket any more. A switch that ends closes its connections a moment before.
fn has_ended(socket: &Path) -> bool {
    (0..LOOKS).any(|look| {
        thread::sleep(if look == 0 { Duration::ZERO } else { PAUSE });
        UnixStream::connect(socket).is_err()
    })
}

fn text(event: &Event) -> String {
    format!("{} {}", plain(&event.time), plain(&event.what.to_string()))
}

#[cfg(test)]
mod tests {
    use api::What;

    use super::*;

    #[test]
    fn guests_cannot_forge_lines() {
        let what = What::GuestCame { port: "vm#1".to_owned(), guest: "qemu\n2026-01-01 port a is gone".to_owned() };
        let event = Event { sequence: 7, time: "2026-11-21T14:05:06.789Z".to_owned(), what };
        assert_eq!(text(&event), "2026-11-21T14:05:06.789Z qemu\\u{a}2026-01-01 port a is gone connected to port vm#1");
    }
}
