//! `capture`: what the switch sees, into a file or a pipe.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::capture::pcapng::{Block, PACKET};
use anyhow::Context;
use clap::Args;
use filter::Filter;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::client::with_parameters;
use crate::follow::{Came, Follow};

/// Which frames, and where they go.
#[derive(Debug, Args)]
pub(crate) struct Capture {
    /// At this port, or any
    #[arg(default_value = "any")]
    port: String,
    /// Only these, in tcpdump's words: host, net, port, tcp, udp, icmp, arp, vlan, vni, mac .., and, or, not
    #[arg(trailing_var_arg = false)]
    filter: Vec<String>,
    /// Where they go, in pcapng; - is standard output
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    file: PathBuf,
    /// Only what is dropped, with the reason
    #[arg(long)]
    drops: bool,
    /// End after so many
    #[arg(short = 'c', long, value_name = "N")]
    count: Option<u64>,
    /// At most so many bytes of each [default: all]
    #[arg(short = 's', long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=262_144))]
    snaplen: Option<u32>,
    /// One of so many, in the mean
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sample: Option<u32>,
}

/// Captures until it is ended by a signal, the count, the reader, or the switch.
pub(crate) fn run(socket: &Path, wanted: &Capture) -> anyhow::Result<()> {
    let is_pipe = wanted.file.as_os_str() == "-";
    anyhow::ensure!(
        !is_pipe || !io::stdout().is_terminal(),
        "standard output is a terminal: name a file by -w, or pipe it on, such as to '| tcpdump -n -r -' or '| wireshark -k -i -'"
    );
    let filter = wanted.filter.join(" ");
    if !filter.is_empty()
        && let Err(error) = filter.parse::<Filter>()
    {
        anyhow::bail!("{error}\n{}", error.drawing());
    }
    let parameters = [
        ("port", Some(wanted.port.clone())),
        ("filter", Some(filter).filter(|filter| !filter.is_empty())),
        ("drops", wanted.drops.then(|| "true".to_owned())),
        ("count", wanted.count.map(|count| count.to_string())),
        ("snaplen", wanted.snaplen.map(|snaplen| snaplen.to_string())),
        ("sample", wanted.sample.map(|sample| sample.to_string())),
    ];
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let follow = Follow::get(socket, &with_parameters("/v1/capture", parameters))?;
    // Only now: a capture that the switch refuses costs nobody an earlier file.
    let out: Box<dyn Write> = if is_pipe {
        Box::new(io::stdout())
    } else {
        let file = File::create(&wanted.file);
        Box::new(file.with_context(|| wanted.file.display().to_string())?)
    };
    let name = if is_pipe { "standard output".to_owned() } else { wanted.file.display().to_string() };
    eprintln!("vswitchctl: capturing into {name}; Ctrl-C ends it");
    let mut told = Told::default();
    let result = copy(follow, out, &mut told, &stop).with_context(|| name);
    eprintln!("vswitchctl: {} packets captured, {} lost", told.packets, told.lost.values().sum::<u64>());
    result
}

/// What went by.
#[derive(Debug, Default)]
struct Told {
    packets: u64,
    /// By interface.
    lost: BTreeMap<u32, u64>,
}

/// Whole blocks only, whatever ends it.
fn copy(mut follow: Follow, mut out: impl Write, told: &mut Told, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match follow.read(&mut bytes)? {
            Came::End => return Ok(()),
            Came::Nothing => continue,
            Came::Some => {}
        }
        let whole = whole_blocks(&bytes, told)?;
        match out.write_all(&bytes[..whole]).and_then(|()| out.flush()) {
            // Who reads has enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result.context("writing")?,
        }
        bytes.drain(..whole);
    }
    Ok(())
}

/// How many bytes are whole blocks, which are counted.
fn whole_blocks(bytes: &[u8], told: &mut Told) -> anyhow::Result<usize> {
    let mut at = 0;
    loop {
        let block = Block::first(&bytes[at..]).map_err(|_| anyhow::anyhow!("what comes is no pcapng"))?;
        let Some(block) = block else { return Ok(at) };
        at += block.bytes.len();
        told.packets += u64::from(block.kind == PACKET);
        told.lost.extend(block.lost());
    }
}
