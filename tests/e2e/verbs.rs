//! Every verb of `vswitchctl` against a running daemon, in both output formats, compared with reviewed snapshots.
//!
//! A verb is a line in [`VERBS`]; its snapshot is made by `INSTA_UPDATE=always cargo test --test e2e -- verbs/`.
//! Values that differ between runs are replaced by `N` (numbers), `MAC`, `PORT` and the like.

use libtest_mimic::Trial;
use packet::MacAddr;
use serde_json::Value;

use crate::control::{json, run};
use crate::guest::Directory;
use crate::site::{FAR, Mode, Plan, Site, guest_address, recv_from, udp_on};
use crate::trial;

/// In this order on the same daemon: each verb shows the changes of those before it.
const VERBS: &[&[&str]] = &[
    &["show"],
    &["port", "list"],
    &["port", "stats"],
    &["port", "stats", "g1"],
    &["fdb", "show"],
    &["fdb", "add", "52:54:00:00:00:01", "g2", "--vlan", "10"],
    &["fdb", "stats"],
    &["fdb", "del", "52:54:00:00:00:01", "--vlan", "10"],
    &["neigh", "show"],
    &["conntrack", "list"],
    &["conntrack", "stats"],
    &["nat", "list"],
    &["tunnel", "list"],
    &["log", "show"],
    &["log", "set", "tunnel=debug"],
    &["neigh", "flush", "192.0.2.1"],
    &["conntrack", "flush", "--protocol", "tcp"],
    &["fdb", "flush", "--vlan", "10"],
    // Verbs that are refused.
    &["port", "stats", "nothing"],
    &["fdb", "add", "52:54:00:00:00:01", "nothing"],
    &["fdb", "add", "52:54:00:00:00:01", "g2"],
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("verbs/snapshots", snapshots)]
}

/// Keys whose numbers are the same each time.
const STEADY: [&str; 8] = ["vlan", "trunks", "prefix_len", "mtu", "protocol_number", "src_port", "vni", "flushed"];

fn snapshots() {
    let directory = Directory::new();
    let socket = directory.text("control");
    let plan = Plan::new(Mode::Shared, 2).keys(":trunks=0+10");
    let site = plan.args(&["--publish", "8080:10.77.0.11:80", "--control", &socket]).start();
    let outside = speak(&site);
    let known = Known::new(&socket, outside);
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let _bound = settings.bind_to_scope();
    for words in VERBS {
        let mut text = String::new();
        for form in ["table", "json"] {
            let output = run(&socket, &[words, &["-o", form][..]].concat());
            let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
            let said = said.each_ref().map(|said| known.without_what_differs(said));
            let code = output.status.code().expect("an exit status");
            text += &format!("$ vswitchctl {} -o {form}\n{}{}exit status {code}\n\n", words.join(" "), said[0], said[1]);
        }
        insta::assert_snapshot!(words.join("_").replace([':', '=', '-', '.'], "_"), text);
    }
    drop(_bound);
    site.finish();
}

/// A guest exchanges a datagram with the outside. Returns its outside port.
fn speak(site: &Site) -> u16 {
    let far = udp_on(&site.outside, FAR, 5000);
    let near = udp_on(site.guest(1), guest_address(1), 4000);
    near.connect((FAR, 5000)).expect("connected");
    near.send(b"out").expect("sent");
    let (_, outside) = recv_from(&far);
    far.send_to(b"back", outside).expect("sent");
    let mut buffer = [0; 16];
    assert_eq!(near.recv(&mut buffer).expect("received"), 4);
    outside.port()
}

/// Replacements for values that differ between runs and have a form of their own.
struct Known {
    outside: String,
    /// Offloads of the kernel's devices.
    devices: Vec<String>,
}

impl Known {
    fn new(socket: &str, outside: u16) -> Known {
        let ports = json(socket, &["port", "list"]);
        let devices = ports.as_array().expect("ports").iter().map(|port| port["device"].as_str().expect("a device").to_owned());
        Known { outside: format!(":{outside}"), devices: devices.collect() }
    }

    fn without_what_differs(&self, text: &str) -> String {
        if let Ok(mut value) = serde_json::from_str::<Value>(text) {
            self.blank(&mut value, "");
            return serde_json::to_string_pretty(&value).expect("JSON") + "\n";
        }
        let text = self.devices.iter().fold(text.to_owned(), |text, device| text.replace(device, "DEVICE"));
        let lines = text.lines().map(|line| line.split_whitespace().map(|word| self.word(word)).collect::<Vec<_>>().join(" "));
        lines.map(|line| line + "\n").collect()
    }

    fn blank(&self, value: &mut Value, key: &str) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| self.blank(value, key)),
            Value::Array(items) => items.iter_mut().for_each(|item| self.blank(item, key)),
            Value::Number(_) if !STEADY.contains(&key) => *value = "N".into(),
            Value::String(text) if key == "device" && !text.is_empty() => *value = "DEVICE".into(),
            Value::String(text) => *text = self.word(text),
            _ => {}
        }
    }

    fn word(&self, word: &str) -> String {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let bare = word.trim_start_matches('(').trim_end_matches(',').trim_end_matches(['s', 'm', 'u', 'n']);
        match word {
            _ if word.parse::<MacAddr>().is_ok_and(|mac| mac.0[..2] != [0x02, 0x76]) => "MAC".to_owned(),
            _ if word.trim_end_matches(',') == env!("CARGO_PKG_VERSION") => "VERSION".to_owned(),
            _ if is_number(bare) && bare.matches('.').count() < 2 => "N".to_owned(),
            _ if word.starts_with("/proc/") => "NETNS".to_owned(),
            _ if word.ends_with("/control") => "SOCKET".to_owned(),
            _ => word.replace(&self.outside, ":PORT"),
        }
    }
}
