//! Docker with the network driver `vswitch`: a dockerd of the test's own, in the namespace of a site's machine.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use netio::{link, netns};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::containers::{image, path_of};
use crate::control::{json as json_of, text};
use crate::guest::Directory;
use crate::host::Host;
use crate::site::{FAR, MACHINE, Mode, Plan, Site};
use crate::switch::Switch;
use crate::{trial, trial_with, wait};

pub(crate) fn trials() -> Vec<Trial> {
    let with_engine = |name: &str, run: fn()| trial_with(format!("docker/{name}"), what_is_missing, run);
    vec![
        trial("docker/a_socket_of_the_service_manager", a_socket_of_the_service_manager),
        trial("docker/calls_of_a_stranger", calls_of_a_stranger),
        with_engine("networks_and_published_ports", networks_and_published_ports),
        with_engine("what_is_refused_leaves_nothing", what_is_refused_leaves_nothing),
        with_engine("containers_outlive_the_switch_and_the_engine", containers_outlive_the_switch_and_the_engine),
        with_engine("many_at_once", many_at_once),
    ]
}

fn what_is_missing() -> Option<String> {
    let programs = ["dockerd", "docker", "containerd", "runc", "nsenter", "unshare", "busybox", "tar"];
    programs.into_iter().find_map(|program| path_of(program).err())
}

/// A machine with an uplink, a switch that is Docker's network driver, and dockerd.
struct Docker {
    directory: Directory,
    site: Site,
    containerd: Option<Child>,
    engine: Option<Child>,
    names: Vec<String>,
}

const CLIENT: &str = "/usr/bin/docker";

const IMAGE: &str = "vswitchd-e2e";

/// What a container that only waits runs.
const SLEEP: [&str; 2] = ["/bin/sleep", "1000"];

/// As long as dockerd waits for a plugin.
const PATIENCE: Duration = Duration::from_secs(30);

impl Docker {
    fn start() -> Docker {
        let (directory, site) = (Directory::new(), Plan::new(Mode::Shared, 0).bare());
        let mut docker = Docker { directory, site, containerd: None, engine: None, names: Vec::new() };
        let archive = image(&docker.directory).expect("an image");
        docker.start_switch();
        docker.start_containerd();
        docker.start_engine();
        docker.tell(&["import", &archive, IMAGE]);
        docker
    }

    fn socket(&self) -> String {
        self.directory.text("control")
    }

    fn start_switch(&mut self) {
        let machine = self.site.machine.netns().try_clone().expect("a clone");
        let driver = format!("--docker={}", self.directory.text("run/plugins/vswitch.sock"));
        let (socket, state) = (self.socket(), self.directory.text("state"));
        let args = ["--uplink", "up0", &driver, "--control", &socket, "--state", &state];
        self.site.switch = Some(Switch::start_inside(machine, &args));
    }

    /// Starts containerd in a namespace of mounts, where dockerd finds the driver below /run/docker.
    fn start_containerd(&mut self) {
        let path = |name: &str| self.directory.text(name);
        std::fs::create_dir_all("/run/docker").expect("a directory");
        std::fs::write(path("containerd.toml"), "version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n")
            .expect("written");
        let script = format!(
            "mount --make-rprivate / && mount --bind {} /run/docker && exec containerd --config {} --root {} --state {} --address {}",
            path("run"),
            path("containerd.toml"),
            path("containerd"),
            path("containerd-state"),
            path("containerd.sock"),
        );
        let netns = format!("--net={}", netns::path_of(self.site.machine.netns()));
        let started = self.logged(Command::new("nsenter").args([&netns, "unshare", "--mount", "sh", "-c", &script]));
        self.containerd = Some(started);
        let is_there = || self.directory.path("containerd.sock").exists().then_some(());
        assert!(wait::for_at_most(PATIENCE, is_there).is_some(), "containerd does not start: {}", self.log());
    }

    fn start_engine(&mut self) {
        let beside = self.containerd.as_ref().expect("it runs").id().to_string();
        let path = |name: &str| self.directory.text(name);
        let mut command = Command::new("nsenter");
        command.args(["-t", &beside, "--mount", "--net", "dockerd", "--containerd", &path("containerd.sock")]);
        command.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("dockerd.pid")]);
        command.args(["--host", &self.host(), "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]);
        command.args(["--storage-driver=vfs", "--live-restore"]);
        self.engine = Some(self.logged(&mut command));
        let is_ready = || self.ask(&["version"]).status.success().then_some(());
        assert!(wait::for_at_most(PATIENCE, is_ready).is_some(), "dockerd does not start: {}", self.log());
    }

    fn logged(&self, command: &mut Command) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.directory.path("engine.log")).expect("a file");
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().expect("a clone")).stderr(log);
        command.spawn().expect("nsenter runs")
    }

    fn stop_engine(&mut self, signal: Signal) {
        if let Some(engine) = self.engine.take() {
            end(engine, signal);
        }
    }

    fn stop_engines(&mut self) {
        self.stop_engine(Signal::TERM);
        if let Some(containerd) = self.containerd.take() {
            end(containerd, Signal::TERM);
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path("engine.log")).unwrap_or_default()
    }

    fn host(&self) -> String {
        format!("unix://{}", self.directory.text("docker.sock"))
    }

    fn ask(&self, words: &[&str]) -> Output {
        docker_at(&self.host(), words)
    }

    #[track_caller]
    fn tell(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Why a command fails.
    #[track_caller]
    fn refused(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert!(!output.status.success(), "{words:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts a container that sleeps.
    fn run(&mut self, name: &str, network: &str, more: &[&str]) {
        self.run_with(name, network, more, &SLEEP);
    }

    fn run_with(&mut self, name: &str, network: &str, more: &[&str], words: &[&str]) {
        self.names.push(name.to_owned());
        self.tell(&[&RUN, &["--name", name, "--network", network][..], more, &[IMAGE], words].concat());
    }

    fn pings(&self, from: &str, to: &str) -> bool {
        self.ask(&["exec", from, "/bin/ping", "-c", "1", "-W", "1", to]).status.success()
    }

    fn guests(&self) -> usize {
        json_of(&self.socket(), &["guest", "list"]).as_array().expect("a list").len()
    }

    /// The names of interfaces that the switch has made in its own namespace.
    fn interfaces(&self) -> Vec<String> {
        let names = self.site.machine.inside(link::names);
        names.into_iter().filter(|name| name.starts_with("vsw") && !name.starts_with("vswitch")).collect()
    }

    /// Nothing is left of any container.
    fn expect_nothing(&self) {
        assert_eq!(self.guests(), 0);
        assert_eq!(
            json_of(&self.socket(), &["port", "list"])
                .as_array()
                .expect("a list")
                .iter()
                .filter(|port| port["kind"] == "tap")
                .count(),
            0
        );
        wait::until("the interfaces to go", || self.interfaces().is_empty().then_some(()));
    }

    fn finish(mut self) {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        if !names.is_empty() {
            self.ask(&[&["rm", "--force"][..], &names].concat());
        }
        self.expect_nothing();
        self.stop_engines();
        self.site.switch.take().expect("it runs").finish();
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if self.engine.is_some() {
            let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
            self.ask(&[&["rm", "--force"][..], &names].concat());
        }
        self.stop_engines();
    }
}

/// Ends a process that may take its time.
fn end(mut process: Child, signal: Signal) {
    let _ = Pid::from_raw(process.id() as i32).map(|pid| kill_process(pid, signal));
    let ended = wait::for_at_most(PATIENCE, || process.try_wait().expect("looked at"));
    if ended.is_none() {
        let _ = process.kill();
        let _ = process.wait();
    }
}

fn docker_at(host: &str, words: &[&str]) -> Output {
    // Debian's own client suits its dockerd.
    let client = if Path::new(CLIENT).exists() { CLIENT } else { "docker" };
    Command::new(client).args(["-H", host]).args(words).stdin(Stdio::null()).output().expect("docker runs")
}

const RUN: [&str; 3] = ["run", "--detach", "--cap-add=NET_ADMIN"];

/// What a server at this address answers to a line.
pub(crate) fn echoed(from: &Host, to: Ipv4Addr, port: u16) -> Option<Vec<u8>> {
    let mut stream =
        from.try_inside(|| TcpStream::connect_timeout(&SocketAddrV4::new(to, port).into(), Duration::from_secs(1))).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"hello\n").ok()?;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).ok()?;
    Some(answer.to_vec())
}

pub(crate) fn answers(from: &Host, to: Ipv4Addr, port: u16) -> bool {
    let answer = wait::for_at_most(Duration::from_secs(10), || echoed(from, to, port));
    answer.is_some_and(|answer| answer == b"hello\n")
}

/// A server in a container that sends back what it receives.
const ECHO: [&str; 6] = ["/bin/nc", "-ll", "-p", "80", "-e", "/bin/cat"];

/// Names and frames stay in a network; published ports lead to it from everywhere but an internal one.
fn networks_and_published_ports() {
    let mut docker = Docker::start();
    docker.tell(&["network", "create", "-d", "vswitch", "--subnet", "10.71.0.0/24", "-o", "mtu=1400", "one"]);
    docker.tell(&["network", "create", "-d", "vswitch", "--subnet", "10.72.0.0/24", "two"]);
    docker.tell(&["network", "create", "-d", "vswitch", "--subnet", "10.73.0.0/24", "--internal", "inner"]);
    docker.tell(&["network", "create", "-d", "vswitch", "--subnet", "10.74.0.0/24", "-o", "icc=false", "apart"]);
    docker.run_with("web", "one", &["-p", "8080:80"], &ECHO);
    docker.run("client", "one", &["--mac-address", "02:42:11:22:33:44", "--ip", "10.71.0.77"]);
    docker.run("other", "two", &[]);
    docker.run("hidden", "inner", &["-p", "8099:80"]);
    assert!(docker.pings("client", "web") && docker.pings("web", "10.71.0.77"), "inside, by name and address");
    assert!(!docker.pings("client", "10.72.0.2"), "across");
    assert!(docker.pings("other", &FAR.to_string()), "outside");
    let link = docker.tell(&["exec", "client", "/bin/ip", "link", "show", "eth0"]);
    assert!(link.contains("mtu 1400") && link.contains("02:42:11:22:33:44"), "{link}");
    // Published: from outside, of the host on its own address and on 127.0.0.1, from another network, and to itself.
    for (from, to) in
        [(&docker.site.outside, MACHINE), (&docker.site.machine, MACHINE), (&docker.site.machine, Ipv4Addr::LOCALHOST)]
    {
        assert!(answers(from, to, 8080), "{to}");
    }
    let machine = MACHINE.to_string();
    for from in ["other", "client", "web"] {
        let said = docker.tell(&["exec", from, "/bin/sh", "-c", &format!("echo hello | /bin/nc -w 2 {machine} 8080")]);
        assert_eq!(said, "hello", "{from}");
    }
    assert!(answers(&docker.site.machine, Ipv4Addr::new(10, 71, 0, 2), 80), "the host reaches the container");
    // The client's address is seen.
    let to = SocketAddrV4::new(MACHINE, 8080);
    let open = docker.site.outside.inside(|| TcpStream::connect_timeout(&to.into(), Duration::from_secs(5)));
    let from = open.local_addr().expect("an address");
    wait::until("the connection", || {
        docker.tell(&["exec", "web", "/bin/netstat", "-tn"]).contains(&from.to_string()).then_some(())
    });
    drop(open);
    // An internal network, also with a route that a container has added itself.
    docker.tell(&["exec", "hidden", "/bin/ip", "route", "add", "default", "via", "10.73.0.1"]);
    assert!(!docker.pings("hidden", &FAR.to_string()) && !docker.pings("hidden", "10.71.0.2"));
    assert!(echoed(&docker.site.outside, MACHINE, 8099).is_none());
    docker.run("left", "apart", &[]);
    docker.run("right", "apart", &[]);
    assert!(!docker.pings("left", "right") && docker.pings("left", &FAR.to_string()));
    // A container of two networks.
    docker.tell(&["network", "connect", "two", "client"]);
    assert!(docker.pings("client", "other") && docker.pings("client", "web"));
    docker.tell(&["network", "disconnect", "two", "client"]);
    assert!(!docker.pings("client", "10.72.0.2") && docker.pings("client", "web"));
    docker.finish();
}

/// The message names what is in the way, and nothing is left of the container.
fn what_is_refused_leaves_nothing() {
    let mut docker = Docker::start();
    let said = docker.refused(&["network", "create", "-d", "vswitch", "-o", "mut=1400", "x"]);
    assert!(said.contains("unknown option 'mut': did you mean 'mtu'?"), "{said}");
    docker.tell(&["network", "create", "-d", "vswitch", "--subnet", "10.71.0.0/24", "one"]);
    let said = docker.refused(&["network", "create", "-d", "vswitch", "--subnet", "10.71.0.0/25", "two"]);
    assert!(!said.is_empty());
    docker.run("web", "one", &["-p", "8080:80"]);
    let before = json_of(&docker.socket(), &["guest", "list"]);
    docker.names.push("second".to_owned());
    let run = |rules: &[&str]| {
        let said = docker.refused(&[&RUN, &["--name", "second", "--network", "one"][..], rules, &[IMAGE], &SLEEP].concat());
        docker.tell(&["rm", "--force", "second"]);
        said
    };
    let said = run(&["-p", "8081:80", "-p", "8080:81"]);
    assert!(said.contains("tcp 8080 -> 10.71.0.2:80"), "{said}");
    let said = run(&["-p", "8081:80/sctp"]);
    assert!(said.contains("TCP and UDP can be"), "{said}");
    assert_eq!(json_of(&docker.socket(), &["guest", "list"]), before);
    // Without a port outside, the switch takes free ones.
    docker.run("third", "one", &["-p", "80", "-p", "8080-8082:81"]);
    let guests = json_of(&docker.socket(), &["guest", "list"]);
    let rules = guests.as_array().expect("a list").iter().find(|guest| guest["addresses"][0] == "10.71.0.3/24");
    let rules: Vec<&str> =
        rules.expect("a guest")["publish"].as_array().expect("rules").iter().filter_map(|rule| rule.as_str()).collect();
    assert!(rules.contains(&"tcp 49153 -> 10.71.0.3:80") && rules.contains(&"tcp 8081 -> 10.71.0.3:81"), "{rules:?}");
    docker.finish();
}

/// Neither the end of the switch nor that of dockerd takes a container its interface, its connections or its published port.
fn containers_outlive_the_switch_and_the_engine() {
    let mut docker = Docker::start();
    docker.tell(&["network", "create", "-d", "vswitch", "--subnet", "10.71.0.0/24", "one"]);
    docker.run_with("web", "one", &["-p", "8080:80"], &ECHO);
    docker.run("client", "one", &[]);
    let seen = |docker: &Docker| docker.tell(&["exec", "client", "/bin/ip", "address", "show", "eth0"]);
    let before = seen(&docker);
    let to = SocketAddrV4::new(MACHINE, 8080);
    let mut open = docker.site.outside.inside(|| TcpStream::connect_timeout(&to.into(), Duration::from_secs(10)));
    open.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let mut goes_on = |docker: &Docker| {
        open.write_all(b"still here").expect("sent");
        let mut answer = [0; 10];
        open.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"still here");
        assert_eq!(seen(docker), before);
        assert!(docker.pings("client", "web"));
    };
    goes_on(&docker);
    docker.site.switch.take().expect("it runs").kill();
    docker.start_switch();
    goes_on(&docker);
    docker.stop_engine(Signal::KILL);
    docker.start_engine();
    goes_on(&docker);
    assert!(answers(&docker.site.outside, MACHINE, 8080), "a new connection");
    docker.run("third", "one", &[]);
    assert!(docker.pings("third", "web"));
    docker.finish();
}

/// What the driver answers to a call.
fn call(socket: &Path, method: &str, body: &str) -> Value {
    let mut stream = UnixStream::connect(socket).expect("connected");
    stream.set_read_timeout(Some(wait::NEVER)).expect("set");
    let head = format!("POST /{method} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or(Value::Null)
}

/// The manager listens before the switch runs; who calls then is answered when it does, and again after a restart and an upgrade.
fn a_socket_of_the_service_manager() {
    let directory = Directory::new();
    let path = directory.path("vswitch.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let start = || {
        let take = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=docker; exec \"$0\" \"$@\" 3<&0 </dev/null";
        let by = |program: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", take, program]);
            command
        };
        let passed = std::os::fd::OwnedFd::from(listener.try_clone().expect("a clone"));
        let (control, state) = (directory.text("control"), directory.text("state"));
        let args = ["--control", &control, "--state", &state];
        Switch::start_with(netns::create().expect("a namespace"), by, &args, passed.into())
    };
    let activated = |answer: &Value| assert_eq!(answer["Implements"], json!(["NetworkDriver"]), "{answer}");
    let early = thread::spawn({
        let path = path.clone();
        move || call(&path, "Plugin.Activate", "{}")
    });
    let switch = start();
    activated(&early.join().expect("no panic"));
    switch.finish();
    let switch = start();
    activated(&call(&path, "Plugin.Activate", "{}"));
    text(&directory.text("control"), &["upgrade"]);
    activated(&call(&path, "Plugin.Activate", "{}"));
    switch.finish();
    assert!(path.exists(), "the manager's socket stays");
}

/// Nothing that is not a message makes a bridge or a guest, and the driver answers afterwards.
fn calls_of_a_stranger() {
    let directory = Directory::new();
    let (path, control) = (directory.path("vswitch.sock"), directory.text("control"));
    let switch = Switch::start(&[&format!("--docker={}", path.display()), "--control", &control]);
    let id = "c1ff5e0d2a91aabbccddeeff00112233c1ff5e0d2a91aabbccddeeff00112233";
    let network = |gateway: &str, options: &str| {
        let body = format!("{{\"NetworkID\":\"{id}\",\"Options\":{options},\"IPv4Data\":[{{\"Gateway\":\"{gateway}\"}}]}}");
        call(&path, "NetworkDriver.CreateNetwork", &body)
    };
    for answer in [
        call(&path, "NetworkDriver.CreateNetwork", ""),
        call(&path, "NetworkDriver.CreateNetwork", "[]"),
        call(&path, "NetworkDriver.CreateNetwork", "{\"NetworkID\":\"x:gateway=10.0.0.1/24\"}"),
        network("10.71.0.1/24:host=on:mac-table-size=1000000", "{}"),
        network("10.71.0.1/24", "{\"com.docker.network.generic\":{\"mtu\":\"1400:host=on\"}}"),
        network("10.71.0.1/24", "{\"com.docker.network.generic\":{\"x\\u0000\":\"1\"}}"),
        call(&path, "NetworkDriver.Join", &format!("{{\"NetworkID\":\"{id}\",\"EndpointID\":\"none\"}}")),
        call(&path, "NetworkDriver.CreateEndpoint", &format!("{{\"NetworkID\":\"{id}\",\"EndpointID\":\"e1\"}}")),
    ] {
        assert!(answer["Err"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    }
    assert_eq!(json_of(&control, &["bridge", "list"]).as_array().expect("a list").len(), 1);
    assert_eq!(network("10.71.0.1/24", "null"), json!({}));
    assert_eq!(network("10.72.0.1/24", "null"), json!({}), "again, by a Docker that has heard nothing");
    assert_eq!(network("10.71.0.1/24", "null"), json!({}));
    let endpoint = |endpoint: &str, address: &str| {
        let interface = format!("{{\"Address\":\"{address}\",\"AddressIPv6\":\"\",\"MacAddress\":\"\"}}");
        let body = format!("{{\"NetworkID\":\"{id}\",\"EndpointID\":\"{endpoint}\",\"Interface\":{interface},\"Options\":null}}");
        call(&path, "NetworkDriver.CreateEndpoint", &body)
    };
    assert_eq!(endpoint("e1", "10.71.0.2/24"), json!({ "Interface": { "MacAddress": "02:42:0a:47:00:02" } }));
    for (id, address) in [("e3", "10.99.0.2/24"), ("e 4", "10.71.0.4/24"), ("e5", "x")] {
        assert!(endpoint(id, address)["Err"].is_string(), "{id} {address}");
    }
    // A call whose answer was lost is repeated; and an address that Docker gives away again was its guest's before.
    assert!(endpoint("e1", "10.71.0.3/24")["Err"].is_null() && endpoint("e2", "10.71.0.3/24")["Err"].is_null());
    let guests = json_of(&control, &["guest", "list"]);
    assert!(guests[0]["id"] == "docker:e2", "{guests}");
    assert!(network("10.71.0.1/24", "null")["Err"].is_string(), "it has a container");
    assert_eq!(json_of(&control, &["guest", "list"]).as_array().expect("a list").len(), 1);
    // A network goes with what was left over in it.
    assert_eq!(call(&path, "NetworkDriver.DeleteNetwork", &format!("{{\"NetworkID\":\"{id}\"}}")), json!({}));
    assert_eq!(call(&path, "NetworkDriver.DeleteNetwork", &format!("{{\"NetworkID\":\"{id}\"}}")), json!({}), "again");
    assert_eq!(json_of(&control, &["guest", "list"]), json!([]));
    switch.finish();
}

/// As many as a compose file starts, all at the same time, and nothing is left of them.
fn many_at_once() {
    const MANY: usize = 12;
    let mut docker = Docker::start();
    docker.tell(&["network", "create", "-d", "vswitch", "--subnet", "10.71.0.0/24", "one"]);
    let names: Vec<String> = (0..MANY).map(|number| format!("c{number}")).collect();
    docker.names.extend(names.iter().cloned());
    let host = docker.host();
    for _ in 0..2 {
        thread::scope(|scope| {
            for name in &names {
                scope.spawn(|| {
                    let output = docker_at(&host, &[&RUN, &["--name", name, "--network", "one", IMAGE][..], &SLEEP].concat());
                    assert!(output.status.success(), "{output:?}");
                });
            }
        });
        assert_eq!(docker.guests(), MANY);
        assert!(docker.pings("c0", "c11"));
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        docker.tell(&[&["rm", "--force"][..], &all].concat());
        docker.expect_nothing();
    }
    docker.tell(&["network", "rm", "one"]);
    assert_eq!(json_of(&docker.socket(), &["bridge", "list"]).as_array().expect("a list").len(), 1);
    docker.finish();
}
