//! A capture by `vswitchctl`, read back by tshark.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::guest::Directory;
use crate::{program, wait};

/// Why captures cannot be read here.
pub(crate) fn without_tshark() -> Option<String> {
    let found = Command::new("tshark").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_err().then(|| "there is no tshark".to_owned())
}

/// A running capture.
pub(crate) struct Capture {
    child: Child,
    said: BufReader<ChildStderr>,
    file: PathBuf,
}

/// One packet as tshark prints it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Packet {
    pub(crate) interface: String,
    /// `in`, `out`, or empty.
    pub(crate) direction: String,
    /// `dropped: REASON`, or empty.
    pub(crate) comment: String,
    pub(crate) src: String,
    pub(crate) vlan: String,
    pub(crate) len: usize,
    pub(crate) protocols: String,
}

impl Capture {
    /// Starts `vswitchctl capture` with these arguments and a file; the capture has begun when this returns.
    pub(crate) fn start(directory: &Directory, socket: &str, words: &[&str]) -> Capture {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = directory.path(&format!("{number}.pcapng"));
        let mut command = Command::new(program::vswitchctl());
        command.args(["--socket", socket, "capture"]).args(words).arg("-w").arg(&file);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("vswitchctl runs");
        let mut said = BufReader::new(child.stderr.take().expect("its errors"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert!(line.contains("capturing into"), "{words:?}: {line}");
        Capture { child, said, file }
    }

    /// Waits until the file holds `count` packets, ends the capture and reads the file.
    pub(crate) fn finish_with(self, count: usize) -> Vec<Packet> {
        wait::until("the packets", || (packets_in(&self.file) >= count).then_some(()));
        let packets = self.finish().0;
        assert!(packets.len() >= count, "{packets:?}");
        packets
    }

    /// Ends the capture by SIGINT. Returns the packets and the final message.
    pub(crate) fn finish(self) -> (Vec<Packet>, String) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
        self.wait()
    }

    /// Waits until the capture ends by itself.
    pub(crate) fn wait(mut self) -> (Vec<Packet>, String) {
        let mut last = String::new();
        for line in self.said.by_ref().lines() {
            last = line.expect("text");
        }
        assert!(self.child.wait().expect("its end").success(), "{last}");
        (read(&self.file), last)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Number of complete packets in a file that is still being written.
fn packets_in(file: &std::path::Path) -> usize {
    let bytes = std::fs::read(file).unwrap_or_default();
    let (mut at, mut count) = (0, 0);
    while let Ok(Some(block)) = ::capture::pcapng::Block::first(&bytes[at..]) {
        count += usize::from(block.kind == ::capture::pcapng::PACKET);
        at += block.bytes.len();
    }
    count
}

/// The file holds complete blocks only; tshark parses the packets.
pub(crate) fn read(file: &std::path::Path) -> Vec<Packet> {
    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.comment",
        "eth.src",
        "vlan.id",
        "frame.len",
        "frame.protocols",
    ];
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file).args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=f"]);
    let output = command.args(fields.iter().flat_map(|field| ["-e", field])).output().expect("tshark runs");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !complaints.contains("cut short"), "{complaints}");
    let packet = |line: &str| {
        let words: Vec<&str> = line.split('|').collect();
        let [interface, direction, comment, src, vlan, len, protocols] = words[..] else { panic!("not of seven fields: {line}") };
        let direction = match direction {
            "0x00000001" | "1" => "in",
            "0x00000002" | "2" => "out",
            _ => "",
        };
        Packet {
            interface: interface.to_owned(),
            direction: direction.to_owned(),
            comment: comment.to_owned(),
            src: src.to_owned(),
            vlan: vlan.to_owned(),
            len: len.parse().expect("a length"),
            protocols: protocols.to_owned(),
        }
    };
    String::from_utf8(output.stdout).expect("text").lines().map(packet).collect()
}
