//! `trace`: stories of packets, imaginary and real.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use anyhow::{bail, ensure};
use api::query::{Followed, Imagined, target};
use api::{End, Story};

use crate::cli::{Output, Trace};
use crate::follow::Follow;
use crate::get::{Get, understood};
use crate::table::plain;

/// The text to print; stories of real packets are printed as they come.
pub(crate) fn trace(get: &Get<'_>, trace: &Trace) -> anyhow::Result<String> {
    let Trace { words, live, port } = trace;
    match live {
        None => {
            let target = target("/v1/trace", &Imagined { packet: words.join(",") })?;
            get.shown(&target, |story: &Story| told(story))
        }
        Some(count) => {
            let filter = Some(words.join(" ")).filter(|filter| !filter.is_empty());
            let target = target("/v1/trace/live", &Followed { count: *count, port: port.clone(), filter })?;
            follow(get, &target)?;
            Ok(String::new())
        }
    }
}

/// Prints stories as they come, until they end or standard output is closed.
fn follow(get: &Get<'_>, target: &str) -> anyhow::Result<()> {
    let mut stories = Follow::get(get.socket, target)?;
    if io::stderr().is_terminal() {
        eprintln!("vswitchctl: waiting for packets that match; Ctrl-C ends it");
    }
    let mut rest = Vec::new();
    loop {
        let Some(lines) = stories.lines(&mut rest)? else { bail!("the switch ended the trace") };
        for line in lines.lines() {
            if let Ok(end) = serde_json::from_str::<End>(line) {
                if end.lost > 0 {
                    eprintln!("vswitchctl: {} packets came too fast and are not shown", end.lost);
                }
                ensure!(!end.port_is_gone, "the trace ended: its port was removed or replaced");
                return Ok(());
            }
            let text = match get.output {
                Output::Json => line.to_owned(),
                Output::Table | Output::Conntrack => told(&understood(line)?),
            };
            let mut out = io::stdout().lock();
            match writeln!(out, "{text}").and_then(|()| out.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
    }
}

/// A story: a line per step, and the verdict at the end.
fn told(story: &Story) -> String {
    let time = story.time.as_ref().map_or_else(String::new, |time| format!("{} ", plain(time)));
    let mut out = format!("{time}{}, {} bytes\n", plain(&story.packet), story.len);
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
    for note in &story.notes {
        let _ = writeln!(out, "   but {}", plain(note));
    }
    out
}

#[cfg(test)]
mod tests {
    use api::{Step, StepKind, Verdict, VerdictKind};

    use super::*;

    #[test]
    fn steps_are_numbered_and_the_verdict_is_last() {
        let step = |text: &str| Step::new(StepKind::Classified, text);
        let verdict = Verdict { verdict: VerdictKind::Dropped, reason: None, text: "dropped: same_port".to_owned() };
        let story = Story {
            port: None,
            at: 7,
            time: None,
            packet: "a > b".to_owned(),
            len: 60,
            assumed: vec!["ttl=64".to_owned()],
            steps: vec![step("one"), step("two\u{1b}[2J")],
            left_out: 3,
            verdict,
            notes: vec!["b is elsewhere".to_owned()],
        };
        let text = "a > b, 60 bytes\n    assumed ttl=64\n  1 one\n  2 two\\u{1b}[2J\n    and 3 more\n=> dropped: same_port\n   but b is elsewhere\n";
        assert_eq!(told(&story), text);
        let real = Story { time: Some("2026-11-21T14:05:06.789012Z".to_owned()), ..story };
        assert_eq!(told(&real), format!("2026-11-21T14:05:06.789012Z {text}"));
    }
}
