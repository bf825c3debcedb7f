//! What happens, as it happens.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, bail};

use crate::cli::Output;
use crate::event::Event;
use crate::follow::{Came, Follow};
use crate::table::plain;

/// Prints each event as it comes, until whoever reads has enough.
pub(crate) fn follow(socket: &Path, output: Output) -> anyhow::Result<()> {
    let mut events = Follow::get(socket, "/v1/events")?;
    let mut out = io::stdout().lock();
    let mut come = Vec::new();
    loop {
        if events.read(&mut come).context("following the switch; did it end?")? == Came::End {
            bail!("the switch tells no more; did it end?");
        }
        for line in whole_lines(&mut come)?.lines() {
            // What else there is says the same in other words.
            let Some(json) = line.strip_prefix("data: ") else { continue };
            let event: Event =
                serde_json::from_str(json).context("the switch's answer is not understood: is it of another version?")?;
            let line = if output == Output::Json { json.to_owned() } else { text(&event) };
            match writeln!(out, "{line}").and_then(|()| out.flush()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                printed => printed?,
            }
        }
    }
}

/// Takes the lines that are whole out of what has come.
fn whole_lines(come: &mut Vec<u8>) -> anyhow::Result<String> {
    let end = come.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let rest = come.split_off(end);
    String::from_utf8(std::mem::replace(come, rest)).context("an answer that is no text")
}

fn text(event: &Event) -> String {
    format!("{} {}", plain(&event.time), plain(&event.what.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::What;

    #[test]
    fn lines_come_in_any_pieces() {
        let mut come = b"id: 1\ndata: {}\nda".to_vec();
        assert_eq!(whole_lines(&mut come).unwrap(), "id: 1\ndata: {}\n");
        assert_eq!(whole_lines(&mut come).unwrap(), "");
        come.extend_from_slice(b"ta: {}\n");
        assert_eq!(whole_lines(&mut come).unwrap(), "data: {}\n");
    }

    #[test]
    fn guests_choose_no_lines() {
        let what = What::GuestCame { port: "vm#1".to_owned(), guest: "qemu\n2026-01-01 port a is gone".to_owned() };
        let event = Event { sequence: 7, time: "2026-11-21T14:05:06.789Z".to_owned(), what };
        assert_eq!(text(&event), "2026-11-21T14:05:06.789Z qemu\\u{a}2026-01-01 port a is gone came to port vm#1");
    }
}
