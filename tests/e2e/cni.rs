//! Containers of runtimes that speak CNI: the commands of `vswitch-plugin` one by one, and podman.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};

use libtest_mimic::Trial;
use netio::{link, netns, route};
use serde_json::{Value, json};

use crate::containers::{image, path_of};
use crate::control::{json as shown, text};
use crate::docker::{answers, echoed};
use crate::guest::Directory;
use crate::site::{FAR, MACHINE, Mode, Plan, Site};
use crate::switch::Switch;
use crate::{program, trial, trial_with};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("cni/commands", commands),
        trial("cni/what_is_refused", what_is_refused),
        trial_with("cni/addresses_of_a_delegate", || path_of_delegate().err(), addresses_of_a_delegate),
        trial_with("cni/podman", what_podman_needs, podman),
    ]
}

const DELEGATES: &str = "/usr/lib/cni";

fn path_of_delegate() -> Result<(), String> {
    let program = format!("{DELEGATES}/host-local");
    if fs::exists(&program).unwrap_or(false) { Ok(()) } else { Err(format!("there is no {program}")) }
}

fn what_podman_needs() -> Option<String> {
    let missing = ["podman", "runc", "nsenter", "busybox", "tar"].into_iter().find_map(|program| path_of(program).err());
    missing.or_else(|| {
        let info = Command::new("podman").args(["info", "--format={{.Host.NetworkBackend}}"]).output().expect("podman runs");
        let backend = String::from_utf8_lossy(&info.stdout).trim().to_owned();
        (backend != "cni").then(|| format!("podman's networks are those of {backend:?}, not of CNI"))
    })
}

/// A machine with an uplink and a switch, and a runtime's directory.
struct Node {
    directory: Directory,
    site: Site,
}

impl Node {
    fn new() -> Node {
        let (directory, mut site) = (Directory::new(), Plan::new(Mode::Shared, 0).bare());
        let machine = site.machine.netns().try_clone().expect("a clone");
        site.switch = Some(Switch::start_inside(machine, &["--uplink", "up0", "--control", &directory.text("control")]));
        Node { directory, site }
    }

    fn socket(&self) -> String {
        self.directory.text("control")
    }

    fn config(&self, version: &str, more: Value) -> Value {
        let mut config = json!({
            "cniVersion": version, "name": "vsw", "type": "vswitch", "socket": self.socket(),
            "ipam": { "type": "vswitch", "subnet": "10.88.1.0/24" },
        });
        config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        config
    }

    /// Runs a command for a container. Returns what is printed, as JSON, and whether it succeeded.
    fn run(&self, command: &str, container: &str, netns: Option<&File>, config: &Value) -> (bool, Value) {
        let mut plugin = Command::new(program::plugin());
        plugin.env_clear().env("CNI_COMMAND", command).env("CNI_CONTAINERID", container).env("CNI_IFNAME", "eth0");
        plugin.env("CNI_PATH", DELEGATES).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        plugin.env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAME={container}"));
        plugin.env("CNI_NETNS", netns.map_or_else(String::new, netns::path_of));
        let mut child = plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the plugin runs");
        // VERSION is answered without it.
        let _ = child.stdin.take().expect("its input").write_all(config.to_string().as_bytes());
        let output = child.wait_with_output().expect("it ends");
        let answer = String::from_utf8(output.stdout).expect("text");
        let answer = if answer.trim().is_empty() { Value::Null } else { serde_json::from_str(&answer).expect("JSON") };
        (output.status.success(), answer)
    }

    #[track_caller]
    fn good(&self, command: &str, container: &str, netns: Option<&File>, config: &Value) -> Value {
        let (is_good, answer) = self.run(command, container, netns, config);
        assert!(is_good, "{command} {container}: {answer}");
        answer
    }

    fn guests(&self) -> Vec<Value> {
        shown(&self.socket(), &["guest", "list"]).as_array().expect("a list").clone()
    }
}

/// Each version, both spellings of what capabilities bring, unknown keys, and removals in every way that runtimes have.
fn commands() {
    let node = Node::new();
    let (is_good, answer) = node.run("VERSION", "", None, &json!({ "cniVersion": "1.0.0" }));
    assert!(is_good && answer["supportedVersions"] == json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]), "{answer}");
    for (number, version) in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].into_iter().enumerate() {
        let netns = netns::create().expect("a namespace");
        let port = 8000 + number;
        let mapping = match number % 2 {
            0 => json!({ "hostPort": port, "containerPort": 80, "protocol": "tcp" }),
            _ => json!({ "HostPort": port, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }),
        };
        let aliases = if number % 2 == 0 { json!({ "vsw": ["web"] }) } else { json!(["web"]) };
        let config = node.config(
            version,
            json!({
                "unknown": { "key": 1 }, "mtu": 1400, "dns": { "nameservers": ["10.88.1.1"] },
                "runtimeConfig": { "portMappings": [mapping], "aliases": aliases, "bandwidth": null },
            }),
        );
        let result = node.good("ADD", "c1", Some(&netns), &config);
        assert_eq!((&result["cniVersion"], &result["ips"][0]["address"]), (&json!(version), &json!("10.88.1.2/24")));
        assert_eq!((&result["ips"][0]["gateway"], &result["ips"][0]["interface"]), (&json!("10.88.1.1"), &json!(0)));
        assert_eq!(result["ips"][0].get("version").is_some(), version.starts_with("0."), "{result}");
        assert_eq!(result["interfaces"][0].get("mtu").is_some(), version == "1.1.0", "{result}");
        assert_eq!(result["dns"], json!({ "nameservers": ["10.88.1.1"] }));
        let (link, routes) = netns::inside(netns.as_fd(), || {
            let link = link::get("eth0")?;
            Ok((link.clone(), route::routes(link.index)?.0))
        })
        .expect("its interface");
        assert_eq!((link.mtu, json!(link.mac.to_string())), (1400, result["interfaces"][0]["mac"].clone()));
        assert!(routes.iter().any(|route| route.prefix_len == 0), "{routes:?}");
        let guest = &node.guests()[0];
        assert_eq!((&guest["id"], &guest["names"]), (&json!("cni:vsw/c1/eth0"), &json!(["c1", "web"])));
        assert_eq!(guest["publish"], json!([format!("tcp {port} -> 10.88.1.2:80")]));
        let mut later = config.clone();
        later["prevResult"] = result;
        // Commands have come with versions.
        let (has_check, has_status) = (version >= "0.4.0", version >= "1.1.0");
        assert_eq!(node.run("CHECK", "c1", Some(&netns), &later).0, has_check, "{version}");
        assert_eq!(node.run("STATUS", "c1", None, &config).0, has_status, "{version}");
        // The runtime deletes twice, the second time without the namespace, and may have forgotten what was.
        node.good("DEL", "c1", Some(&netns), &later);
        assert!(!node.run("CHECK", "c1", Some(&netns), &later).0);
        node.good("DEL", "c1", None, &config);
        assert_eq!((node.guests(), link_names(&netns)), (vec![], vec!["lo".to_owned()]));
    }
    // What is left over of containers that are gone; nothing, if the runtime does not say which are there.
    let namespaces = [(); 3].map(|()| netns::create().expect("a namespace"));
    let config = node.config("1.1.0", json!({}));
    for (container, netns) in ["a", "b", "c"].into_iter().zip(&namespaces) {
        node.good("ADD", container, Some(netns), &config);
    }
    assert!(!node.run("GC", "", None, &config).0);
    assert_eq!(node.guests().len(), 3);
    let valid = json!({ "cni.dev/valid-attachments": [{ "containerID": "b", "ifname": "eth0" }] });
    node.good("GC", "", None, &node.config("1.1.0", valid));
    let left = node.guests();
    assert_eq!((left.len(), &left[0]["id"]), (1, &json!("cni:vsw/b/eth0")));
    node.site.finish();
}

fn link_names(netns: &File) -> Vec<String> {
    netns::inside(netns.as_fd(), link::names).expect("names")
}

/// The code says whether to try again, and nothing is left.
fn what_is_refused() {
    let node = Node::new();
    let netns = netns::create().expect("a namespace");
    let refused = |command: &str, config: &Value, netns: Option<&File>| {
        let (is_good, answer) = node.run(command, "c1", netns, config);
        assert!(!is_good, "{command}: {answer}");
        (answer["code"].as_u64().expect("a code"), answer["msg"].as_str().expect("a message").to_owned())
    };
    let config = |more: Value| node.config("1.0.0", more);
    assert_eq!(refused("ADD", &config(json!({ "cniVersion": "0.2.0" })), Some(&netns)).0, 1);
    assert_eq!(refused("ADD", &config(json!({})), None).0, 4);
    assert_eq!(refused("ADD", &json!("text"), Some(&netns)).0, 6);
    assert_eq!(refused("ADD", &config(json!({ "name": "a-name-too-long-for-a-bridge" })), Some(&netns)).0, 7);
    let (code, said) = refused("ADD", &config(json!({ "socket": "/nonexistent/s" })), Some(&netns));
    assert!(code == 11 && said.contains("is vswitchd running?"), "{said}");
    let gone = json!({ "cniVersion": "1.1.0", "socket": "/nonexistent/s" });
    assert_eq!(refused("STATUS", &config(gone), None).0, 50);
    let bandwidth = config(json!({ "runtimeConfig": { "bandwidth": { "ingressRate": 1000, "ingressBurst": 1000 } } }));
    assert_eq!(refused("ADD", &bandwidth, Some(&netns)).0, 100);
    let taken = config(json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] } }));
    let first = netns::create().expect("a namespace");
    node.good("ADD", "c0", Some(&first), &taken);
    let (code, said) = refused("ADD", &taken, Some(&netns));
    assert!(code == 100 && said.contains("tcp 8080 -> 10.88.1.2:80"), "{said}");
    assert_eq!((node.guests().len(), link_names(&netns)), (1, vec!["lo".to_owned()]));
    // A network whose bridge is there with another gateway; and one whose first container is refused leaves no bridge.
    let other = config(json!({ "ipam": { "type": "vswitch", "subnet": "10.88.9.0/24" } }));
    let (code, said) = refused("ADD", &other, Some(&netns));
    assert!(code == 7 && said.contains("gateway 10.88.1.1/24, and the network's is 10.88.9.1/24"), "{said}");
    let new = json!({ "name": "new", "ipam": { "type": "vswitch", "subnet": "10.88.9.0/24" } });
    let mut bad = taken.clone();
    bad.as_object_mut().expect("an object").extend(new.as_object().expect("an object").clone());
    refused("ADD", &bad, Some(&netns));
    assert!(!shown(&node.socket(), &["bridge", "list"]).to_string().contains("\"new\""));
    // A second network of the same container brings the same ports again.
    let second = json!({ "name": "two", "ipam": { "type": "vswitch", "subnet": "10.88.2.0/24" } });
    let mut again = taken.clone();
    again.as_object_mut().expect("an object").extend(second.as_object().expect("an object").clone());
    let other = netns::create().expect("a namespace");
    node.good("ADD", "c0", Some(&other), &again);
    node.site.finish();
}

fn addresses_of_a_delegate() {
    let node = Node::new();
    let data = node.directory.text("host-local");
    let subnet = json!([[{ "subnet": "10.88.3.0/24", "gateway": "10.88.3.1" }]]);
    let ipam = json!({ "type": "host-local", "dataDir": data, "ranges": subnet, "routes": [{ "dst": "0.0.0.0/0" }] });
    let config = node.config("1.0.0", json!({ "ipam": ipam, "dns": { "nameservers": ["192.0.2.53"] } }));
    let netns = netns::create().expect("a namespace");
    let result = node.good("ADD", "c1", Some(&netns), &config);
    assert_eq!((&result["ips"][0]["address"], &result["ips"][0]["gateway"]), (&json!("10.88.3.2/24"), &json!("10.88.3.1")));
    let bridges = shown(&node.socket(), &["bridge", "list"]);
    assert!(bridges.to_string().contains("10.88.3.1"), "{bridges}");
    assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "10.88.3.1" }]));
    assert_eq!(result["dns"], json!({ "nameservers": ["192.0.2.53"] }), "host-local's is empty");
    // The same container twice: the first one keeps what it has.
    let reserved = |address: &str| fs::exists(format!("{data}/vsw/{address}")).expect("looked at");
    let (is_good, answer) = node.run("ADD", "c1", Some(&netns), &config);
    assert!(!is_good && answer["msg"].as_str().is_some_and(|text| text.contains("already")), "{answer}");
    assert!(reserved("10.88.3.2") && node.guests().len() == 1);
    // A guest that cannot be made gives its address back, and one with a route that cannot be made.
    let mut bad = config.clone();
    bad["runtimeConfig"] = json!({ "mac": "ff:ff:ff:ff:ff:ff" });
    assert!(!node.run("ADD", "c2", Some(&netns), &bad).0);
    let mut bad = config.clone();
    bad["ipam"]["routes"] = json!([{ "dst": "10.96.0.0/12" }]);
    let (is_good, answer) = node.run("ADD", "c3", Some(&netns), &bad);
    assert!(!is_good && answer["code"] == 7, "{answer}");
    assert!(!reserved("10.88.3.3") && !reserved("10.88.3.4"));
    node.good("DEL", "c1", Some(&netns), &config);
    assert!(!reserved("10.88.3.2"));
    node.site.finish();
}

/// Podman with a network of the plugin, in the namespace of the machine.
struct Podman {
    node: Node,
}

const IMAGE: &str = "localhost/vswitchd-cni";

impl Podman {
    fn new() -> Podman {
        let node = Node::new();
        let [plugins, networks] = ["plugins", "networks"].map(|name| node.directory.text(name));
        fs::create_dir_all(&plugins).expect("a directory");
        fs::create_dir_all(&networks).expect("a directory");
        symlink(program::plugin(), format!("{plugins}/vswitch")).expect("a link");
        let all = ["portMappings", "ips", "mac", "aliases", "dns"].map(|name| (name.to_owned(), json!(true)));
        for (name, subnet) in [("vsw", "10.88.1.0/24"), ("two", "10.88.2.0/24")] {
            let mut plugin = node.config("0.4.0", json!({ "capabilities": serde_json::Map::from_iter(all.clone()) }));
            plugin["ipam"]["subnet"] = json!(subnet);
            let list = json!({ "cniVersion": "0.4.0", "name": name, "plugins": [plugin] });
            fs::write(format!("{networks}/{name}.conflist"), list.to_string()).expect("written");
        }
        let conf = format!("[network]\ncni_plugin_dirs = [\"{plugins}\"]\nnetwork_config_dir = \"{networks}\"\n");
        fs::write(node.directory.path("containers.conf"), conf).expect("written");
        let archive = image(&node.directory).expect("an image");
        let podman = Podman { node };
        podman.tell(&["import", &archive, IMAGE]);
        podman
    }

    fn ask(&self, words: &[&str]) -> Output {
        let directory = &self.node.directory;
        let places = ["root", "runroot", "tmpdir"].map(|what| format!("--{what}={}", directory.text(what)));
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns::path_of(self.node.site.machine.netns()))).arg("podman").args(places);
        command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--log-level=error", "--runtime=runc"]);
        command.env("CONTAINERS_CONF", directory.text("containers.conf")).args(words);
        command.stdin(Stdio::null()).output().expect("nsenter runs")
    }

    #[track_caller]
    fn tell(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    fn run(&self, name: &str, more: &[&str], words: &[&str]) {
        let run =
            ["run", "--detach", "--cap-add=NET_RAW", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--pids-limit=0"];
        self.tell(&[&run[..], &["--name", name], more, &[IMAGE], words].concat());
    }

    fn pings(&self, from: &str, to: &str) -> bool {
        self.ask(&["exec", from, "/bin/ping", "-c", "1", "-W", "1", to]).status.success()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.ask(&["rm", "--all", "--force", "--time=0"]);
    }
}

/// Addresses and published ports, also of a container whose process is killed; podman itself holds the published port.
fn podman() {
    let mut podman = Podman::new();
    let sleep = ["/bin/sleep", "1000"];
    let echo = ["/bin/nc", "-ll", "-p", "80", "-e", "/bin/cat"];
    podman.run("web", &["--network=vsw", "-p", "8080:80"], &echo);
    podman.run("client", &["--network=vsw:ip=10.88.1.77,mac=02:42:11:22:33:44"], &sleep);
    podman.run("other", &["--network=two"], &sleep);
    assert!(podman.pings("client", "10.88.1.2") && podman.pings("web", "10.88.1.77"));
    assert!(
        podman.pings("client", &FAR.to_string()) && podman.pings("other", "10.88.1.2"),
        "outside, and as CNI's networks do, across"
    );
    let link = podman.tell(&["exec", "client", "/bin/ip", "link", "show", "eth0"]);
    assert!(link.contains("02:42:11:22:33:44"), "{link}");
    let site = &podman.node.site;
    for (from, to) in [(&site.outside, MACHINE), (&site.machine, MACHINE), (&site.machine, Ipv4Addr::LOCALHOST)] {
        assert!(answers(from, to, 8080), "{to}");
    }
    let said = String::from_utf8(podman.ask(&["run", "--rm", "--network=vsw", "-p", "8080:81", IMAGE, "/bin/true"]).stderr);
    let said = said.expect("text");
    assert!(said.contains("tcp 8080 -> 10.88.1.2:80"), "{said}");
    let names: Vec<String> = podman.node.guests().iter().map(|guest| guest["names"][0].to_string()).collect();
    assert_eq!(names, ["\"web\"", "\"client\"", "\"other\""]);
    // The end of the process takes the interface; the runtime removes the rest.
    let pid = podman.tell(&["inspect", "--format={{.State.Pid}}", "web"]);
    Command::new("kill").args(["-9", &pid]).status().expect("kill runs");
    podman.tell(&["wait", "web"]);
    podman.tell(&["rm", "--force", "--time=0", "web"]);
    assert!(echoed(&podman.node.site.outside, MACHINE, 8080).is_none());
    podman.tell(&["rm", "--all", "--force", "--time=0"]);
    assert_eq!(podman.node.guests(), Vec::<Value>::new());
    text(&podman.node.socket(), &["bridge", "del", "vsw"]);
    podman.node.site.switch.take().expect("it runs").finish();
}
