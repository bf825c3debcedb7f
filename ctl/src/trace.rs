//! Stories of packets, imagined and real.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::cli::{Output, Trace};
use crate::story::{End, Story};
use crate::table::plain;
use crate::views::Problem;
use crate::{Get, client};

/// A head or a story is never so long.
const LONGEST_LINE: u64 = 1 << 20;

/// What is to be printed; of real packets, all is printed as it comes.
pub(crate) fn trace(get: &Get<'_>, trace: &Trace) -> anyhow::Result<String> {
    match trace.live {
        None => {
            let path = format!("/v1/trace?packet={}", client::escape(&trace.words.join(",")));
            get.shown(&path, |story: &Story| told(story))
        }
        Some(count) => {
            let mut path = format!("/v1/trace/live?count={count}");
            if let Some(port) = &trace.port {
                let _ = write!(path, "&port={}", client::escape(port));
            }
            if !trace.words.is_empty() {
                let _ = write!(path, "&filter={}", client::escape(&trace.words.join(" ")));
            }
            follow(get.socket, &path, get.output)?;
            Ok(String::new())
        }
    }
}

/// Prints stories as they come, until they end or nobody reads them.
fn follow(socket: &Path, path: &str, output: Output) -> anyhow::Result<()> {
    let mut lines = open(socket, path)?;
    loop {
        let line = read_line(&mut lines)?;
        if line.is_empty() {
            bail!("the switch ended the trace");
        }
        let text = match (serde_json::from_str::<End>(&line), output) {
            (Ok(end), _) => {
                if end.lost > 0 {
                    eprintln!("vswitchctl: {} more came too fast to be told", end.lost);
                }
                ensure!(!end.port_is_gone, "the trace ended: its port is no port any more, or was made anew");
                return Ok(());
            }
            (Err(_), Output::Json) => line,
            (Err(_), Output::Table | Output::Conntrack) => {
                let story: Story =
                    serde_json::from_str(&line).context("the switch's answer is not understood: is it of another version?")?;
                told(&story) + "\n"
            }
        };
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
}

/// Asks in HTTP/1.0, so that the answer is what comes until the end.
fn open(socket: &Path, path: &str) -> anyhow::Result<BufReader<UnixStream>> {
    let mut stream = client::connect(socket)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: vswitchd\r\n\r\n").as_bytes())?;
    let mut lines = BufReader::new(stream);
    let status = read_line(&mut lines)?;
    let status: u16 =
        status.split(' ').nth(1).and_then(|status| status.parse().ok()).context("what answers there is no vswitchd")?;
    while !read_line(&mut lines)?.trim().is_empty() {}
    if status == 200 {
        // From now on there may be nothing to tell for long.
        lines.get_ref().set_read_timeout(None)?;
        return Ok(lines);
    }
    let mut body = String::new();
    lines.take(LONGEST_LINE).read_to_string(&mut body)?;
    let problem = serde_json::from_str::<Problem>(&body).map_or(body, |problem| problem.error);
    bail!("the switch says: {} ({status})", plain(&problem));
}

fn read_line(lines: &mut BufReader<UnixStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    lines.take(LONGEST_LINE).read_line(&mut line)?;
    Ok(line)
}

/// A story, a step a line and the verdict at the end.
fn told(story: &Story) -> String {
    let mut out = format!("{}, {} bytes\n", plain(&story.packet), story.len);
    for note in &story.assumed {
        let _ = writeln!(out, "    assumed {}", plain(note));
    }
    for (at, step) in story.steps.iter().enumerate() {
        let _ = writeln!(out, "{:>3} {}", at + 1, plain(&step.text));
    }
    if story.left_out > 0 {
        let _ = writeln!(out, "    and {} more", story.left_out);
    }
    let _ = writeln!(out, "=> {}", plain(&story.verdict.text));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::{Step, Verdict};

    #[test]
    fn steps_are_numbered_and_the_verdict_is_last() {
        let step = |text: &str| Step { text: text.to_owned(), ..Step::default() };
        let verdict = Verdict { verdict: "dropped".to_owned(), reason: None, text: "dropped: same_port".to_owned() };
        let story = Story {
            port: None,
            at: 7,
            packet: "a > b".to_owned(),
            len: 60,
            assumed: vec!["ttl=64".to_owned()],
            steps: vec![step("one"), step("two\u{1b}[2J")],
            left_out: 3,
            verdict,
        };
        let text = "a > b, 60 bytes\n    assumed ttl=64\n  1 one\n  2 two\\u{1b}[2J\n    and 3 more\n=> dropped: same_port\n";
        assert_eq!(told(&story), text);
    }
}
