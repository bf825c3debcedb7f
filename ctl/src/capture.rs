//! `capture`: frames of the switch, into a file or a pipe.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::capture::pcapng::{Block, PACKET};
use anyhow::Context;
use api::query::{Captured, target};
use filter::Filter;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::Capture;
use crate::follow::{Came, Follow};

/// Captures until a signal, the count, the reader or the switch ends it.
pub(crate) fn run(socket: &Path, wanted: &Capture) -> anyhow::Result<()> {
    let is_pipe = wanted.file.as_os_str() == "-";
    anyhow::ensure!(
        !is_pipe || !io::stdout().is_terminal(),
        "standard output is a terminal: name a file with -w, or pipe the output, for example into 'tcpdump -n -r -' or 'wireshark -k -i -'"
    );
    let (port, filter) = port_and_filter(&wanted.port, &wanted.filter);
    if !filter.is_empty()
        && let Err(error) = filter.parse::<Filter>()
    {
        anyhow::bail!("{error}\n{}", error.drawing());
    }
    let captured = Captured {
        port: Some(port),
        filter: Some(filter).filter(|filter| !filter.is_empty()),
        drops: wanted.drops,
        snaplen: wanted.snaplen,
        sample: wanted.sample,
        count: wanted.count,
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let follow = Follow::get(socket, &target("/v1/capture", &captured)?)?;
    // Only now, so that a capture that is refused does not overwrite a file.
    let out: Box<dyn Write> = if is_pipe {
        Box::new(io::stdout())
    } else {
        let file = File::create(&wanted.file);
        Box::new(file.with_context(|| wanted.file.display().to_string())?)
    };
    let name = if is_pipe { "standard output".to_owned() } else { wanted.file.display().to_string() };
    eprintln!("vswitchctl: capturing into {name}; Ctrl-C ends it");
    let mut totals = Totals::default();
    let result = copy(follow, out, &mut totals, &stop).with_context(|| name);
    eprintln!("vswitchctl: {} packets captured, {} lost", totals.packets, totals.lost.values().sum::<u64>());
    result
}

/// The port and the filter of a command line. A first word that can only begin a filter is no port: `capture tcp port 80` is
/// `capture any tcp port 80`.
fn port_and_filter(first: &str, rest: &[String]) -> (String, String) {
    let rest = rest.join(" ");
    let all = format!("{first} {rest}");
    let is_filter = |text: &str| text.trim().parse::<Filter>().is_ok();
    let is_rest_filter = rest.is_empty() || is_filter(&rest);
    match is_filter(&all) && (KEYWORDS.contains(&first) || !is_rest_filter) {
        true => ("any".to_owned(), all.trim().to_owned()),
        false => (first.to_owned(), rest),
    }
}

/// Words that begin a filter.
const KEYWORDS: &[&str] = &[
    "arp",
    "broadcast",
    "dst",
    "ether",
    "greater",
    "host",
    "icmp",
    "icmp6",
    "ip",
    "ip6",
    "less",
    "mac",
    "multicast",
    "net",
    "not",
    "port",
    "portrange",
    "proto",
    "sctp",
    "src",
    "tcp",
    "udp",
    "vlan",
    "vni",
];

/// Numbers of packets captured and lost.
#[derive(Debug, Default)]
struct Totals {
    packets: u64,
    /// By interface number.
    lost: BTreeMap<u32, u64>,
}

/// Copies whole blocks only, whatever ends the capture.
fn copy(mut follow: Follow, mut out: impl Write, totals: &mut Totals, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match follow.read(&mut bytes)? {
            Came::End => return Ok(()),
            Came::Nothing => continue,
            Came::Some => {}
        }
        let whole = whole_blocks(&bytes, totals)?;
        match out.write_all(&bytes[..whole]).and_then(|()| out.flush()) {
            // The reader has enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result.context("writing")?,
        }
        bytes.drain(..whole);
    }
    Ok(())
}

/// Length of the whole blocks at the start of `bytes`, which are counted.
fn whole_blocks(bytes: &[u8], totals: &mut Totals) -> anyhow::Result<usize> {
    let mut at = 0;
    loop {
        let block = Block::first(&bytes[at..]).map_err(|_| anyhow::anyhow!("the switch sent something other than pcapng"))?;
        let Some(block) = block else { return Ok(at) };
        at += block.bytes.len();
        totals.packets += u64::from(block.kind == PACKET);
        totals.lost.extend(block.lost());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_be_left_out() {
        let split = |words: &str| {
            let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
            port_and_filter(&words[0], &words[1..])
        };
        for (words, port, filter) in [
            ("tap0 tcp port 80", "tap0", "tcp port 80"),
            ("any", "any", ""),
            ("tcp port 80", "any", "tcp port 80"),
            ("arp", "any", "arp"),
            ("not arp and host 10.0.0.2", "any", "not arp and host 10.0.0.2"),
            ("tap0 not arp", "tap0", "not arp"),
            ("hots 10.0.0.1", "hots", "10.0.0.1"),
        ] {
            assert_eq!(split(words), (port.to_owned(), filter.to_owned()), "{words}");
        }
    }
}
