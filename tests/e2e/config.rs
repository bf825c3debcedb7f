//! The daemon with a configuration file.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use libtest_mimic::Trial;
use netio::netns;

use crate::control::{json, run, text};
use crate::guest::Directory;
use crate::host::Host;
use crate::site::{default_route, give, ping};
use crate::switch::{Switch, daemon, run_inside};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("config/a_file_is_enough", a_file_is_enough),
        trial("config/check_says_what_would_run", check_says_what_would_run),
        trial("config/errors_name_file_and_line", errors_name_file_and_line),
        trial("config/a_gateway_that_no_guest_reaches", a_gateway_that_no_guest_reaches),
    ]
}

/// It is told before the start, while it runs, and no more when a guest reaches it.
fn a_gateway_that_no_guest_reaches() {
    let directory = Directory::new();
    let (ten, socket) = (Host::quiet("ten"), directory.text("control"));
    let port = ten.port(":vlan=10");
    let args = ["--tap", port.as_str(), "--gateway", "10.0.0.1/24", "--control", socket.as_str()];
    let say = "gateway 10.0.0.1/24 is for untagged frames, which no port of br0 carries, so no guest reaches it: give the guests one in \
        their VLAN, such as --gateway 10=10.0.0.1/24";
    let checked = run_inside(&netns::create().expect("a namespace"), &mut daemon(&[&args[..], &["--check"]].concat()));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.log.contains(&format!("--gateway 10.0.0.1/24: {say}")), "{checked:?}");
    assert!(checked.output.contains("the configuration is good, with 1 warning above; nothing was started"), "{checked:?}");
    let switch = Switch::start(&args);
    assert!(switch.has_logged(say));
    assert_eq!(json(&socket, &["show"])["problems"], serde_json::json!([say]));
    let doctor = run(&socket, &["doctor"]);
    assert!(doctor.status.code() == Some(1) && String::from_utf8_lossy(&doctor.stdout).contains(say), "{doctor:?}");
    text(&socket, &["port", "add", "untagged"]);
    assert_eq!(json(&socket, &["show"])["problems"], serde_json::json!([]));
    switch.finish();
}

/// A configuration file in a directory of the test.
pub(crate) struct Written(PathBuf);

impl Written {
    pub(crate) fn new(name: &str, text: &str) -> Written {
        let path = std::env::temp_dir().join(format!("vswitchd-{}-{name}.toml", std::process::id()));
        fs::write(&path, text).expect("written");
        Written(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("plain letters")
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn port(host: &Host, keys: &str) -> String {
    format!("[[bridge.br0.port]]\ntap = \"{}\"\nnetns = \"{}\"\n{keys}\n", host.name(), netns::path_of(host.netns()))
}

/// Two hosts from the file on two VLANs, and one more from a flag.
fn a_file_is_enough() {
    let (ten, twenty, more) = (Host::quiet("ten"), Host::quiet("twenty"), Host::quiet("more"));
    let gateways = "[bridge.br0]\nmac-table-size = 100\ngateways = { 10 = \"10.0.10.1/24\", 20 = \"10.0.20.1/24\" }\n";
    let file = Written::new("pings", &[gateways, &port(&ten, "vlan = 10"), &port(&twenty, "vlan = 20")].concat());
    let switch = Switch::start(&["--config", file.path(), "--tap", &more.port(":vlan=10")]);
    let summary = switch.summary().join("\n");
    for text in ["3 ports", "MAC table of 100 entries", "gateway 10.0.10.1/24 on VLAN 10", "access VLAN 20"] {
        assert!(summary.contains(text), "not said: {text}\n{summary}");
    }
    let [a, b, c] = [[10, 0, 10, 2], [10, 0, 20, 2], [10, 0, 10, 3]].map(Ipv4Addr::from);
    for (host, address, via) in [(&ten, a, [10, 0, 10, 1]), (&twenty, b, [10, 0, 20, 1]), (&more, c, [10, 0, 10, 1])] {
        give(host, address, 24);
        default_route(host, via.into());
    }
    assert_eq!(ping(&ten, c, 1), (c, 64), "switched");
    assert_eq!(ping(&more, b, 2), (b, 63), "routed");
    switch.finish();
}

fn check_says_what_would_run() {
    let netns = netns::create().expect("a namespace");
    let file = Written::new(
        "check",
        "[[bridge.br0.port]]\ntap = \"a\"\ntrunks = [10, 20]\n[[tunnel]]\ntype = \"vxlan\"\nvni = 42\nremotes = [\"192.0.2.2\"]\n",
    );
    let ended = run_inside(&netns, &mut daemon(&["--check", "--config", file.path(), "--tap", "b"]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for text in ["port a: trunk VLANs 10+20", "port b: ", "tunnel vxlan42: VNI 42, port 4789", "nothing was started"] {
        assert!(ended.output.contains(text), "not said: {text}\n{}", ended.output);
    }
}

fn errors_name_file_and_line() {
    let netns = netns::create().expect("a namespace");
    let file = Written::new("wrong", "[[bridge.br0.port]]\ntap = \"a\"\nvlna = 10\n");
    let says = format!("vswitchd: {}:3: unknown key 'vlna': did you mean 'vlan'?", file.path());
    for args in [vec!["--config", file.path()], vec!["--config", file.path(), "--check"]] {
        let ended = run_inside(&netns, &mut daemon(&args));
        assert_eq!((ended.code, ended.log.trim_end()), (Some(2), says.as_str()), "{ended:?}");
    }
    let ended = run_inside(&netns, &mut daemon(&["--config", "/no/such/file.toml"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.log.contains("--config /no/such/file.toml: the file cannot be read: No such file"), "{ended:?}");
}
