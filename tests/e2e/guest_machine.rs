//! A guest that QEMU emulates (no KVM), controlled over its serial line.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::guest::Directory;
use crate::guest_image::{COMMAND_LINE, image};
use crate::host::{Host, bound_in_time};
use crate::site::{GATEWAY, guest_address};
use crate::wait;

/// Time limit for the boot and for each command; an emulated machine on a busy host is slow.
const NEVER: Duration = Duration::from_secs(90);

/// Files of one test: boot images and sockets. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    directory: Directory,
}

impl Place {
    pub(crate) fn new() -> Place {
        let directory = Directory::new();
        fs::write(directory.path("initramfs"), &image().expect("an image").initramfs).expect("written");
        Place { directory }
    }

    /// The path of a file in the directory.
    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.text(name)
    }
}

/// A running guest, killed when dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    number: u8,
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
    transcript: String,
}

impl Guest {
    /// Starts guest `number` in this host's namespace, with a network card attached to `netdev`. Several guests can
    /// boot at once; call [`Guest::boot`] for each.
    pub(crate) fn start(host: &Host, place: &Place, number: u8, netdev: &str) -> Guest {
        let kernel = &image().expect("an image").kernel;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-machine", "pc", "-accel", "tcg", "-m", "192", "-no-reboot"]);
        command.args(["-display", "none", "-serial", "stdio", "-append", COMMAND_LINE]);
        command.args([Path::new("-kernel"), kernel, Path::new("-initrd"), Path::new(&place.path("initramfs"))]);
        command.args(["-netdev", &format!("{netdev},id=net0")]);
        command.args(["-device", &format!("virtio-net-pci,netdev=net0,mac=52:54:00:00:00:{number:02x},romfile=")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = host.inside(|| command.spawn());
        let input = child.stdin.take().expect("its input");
        let (sender, output) = channel();
        pass_on_lines(child.stdout.take().expect("its output"), sender.clone());
        pass_on_lines(child.stderr.take().expect("its log"), sender);
        Guest { number, child, input, output, transcript: String::new() }
    }

    /// Waits until the guest is up, and gives its network card its address.
    pub(crate) fn boot(mut self) -> Guest {
        self.end_of("the boot");
        let address = self.address();
        self.says(&format!("ip address add {address}/24 dev eth0 && ip link set eth0 up && ip route add default via {GATEWAY}"));
        self
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        guest_address(self.number)
    }

    /// The output of a command that must succeed.
    pub(crate) fn says(&mut self, command: &str) -> String {
        let (status, said) = self.run(command);
        assert_eq!(status, 0, "in guest {}: {command}: {said}", self.number);
        said
    }

    /// Runs a shell command. Returns its status and output.
    pub(crate) fn run(&mut self, command: &str) -> (i32, String) {
        self.input.write_all(format!("{command}\n").as_bytes()).expect("its console takes it");
        self.end_of(command)
    }

    /// Reads the output up to the end of the command.
    fn end_of(&mut self, what: &str) -> (i32, String) {
        let _ = writeln!(self.transcript, "# {what}");
        let mut said = String::new();
        loop {
            let Ok(line) = self.output.recv_timeout(NEVER) else { panic!("{what}: guest {} said no more", self.number) };
            let _ = writeln!(self.transcript, "{line}");
            if let Some(status) = line.strip_prefix("<end ").and_then(|line| line.strip_suffix('>')) {
                return (status.parse().expect("a status"), said.trim().to_owned());
            }
            let _ = writeln!(said, "{line}");
        }
    }

    /// An echo request and its reply; the first may take as long as it takes to relearn the path.
    pub(crate) fn pings(&mut self, address: Ipv4Addr) {
        self.says(&format!("for n in $(seq 20); do ping -c 1 -W 1 {address} && break; done"));
    }

    /// A connection to a port on which the guest is about to listen.
    pub(crate) fn connect(&self, from: &Host, port: u16) -> TcpStream {
        let to = SocketAddr::from((self.address(), port));
        let stream =
            wait::until("a connection to the guest", || from.try_inside(|| TcpStream::connect_timeout(&to, wait::NEVER)).ok());
        bound_in_time(&stream);
        stream
    }

    /// Stops the guest's monitor; frames for the guest stay in their queues.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Resumes the guest's monitor.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the guest is there");
    }
}

fn pass_on_lines(stream: impl Read + Send + 'static, sender: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("guest {}: {}", self.number, self.transcript);
        }
    }
}
