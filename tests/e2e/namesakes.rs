//! Ports whose interfaces have one name, in different namespaces, as those of containers have.

use libtest_mimic::Trial;

use crate::control::{json, run, text};
use crate::frames::{frame, station};
use crate::host::Host;
use crate::named::{in_own_mounts, name};
use crate::switch::Switch;
use crate::{trial, wait};
use packet::MacAddr;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("namesakes/one_name_for_one_port", || in_own_mounts(one_name_for_one_port))]
}

const SOCKET: &str = "/run/vswitchd.sock";

/// The names in an answer, in its order.
fn names(of: &[&str], key: &str) -> Vec<String> {
    let answer = json(SOCKET, of);
    let items = answer.as_array().expect("a list").iter();
    items.map(|item| item[key].as_str().expect("a name").to_owned()).collect()
}

fn refused(words: &[&str]) -> String {
    let output = run(SOCKET, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
    String::from_utf8(output.stderr).expect("text")
}

/// `/run` is private to this test.
fn one_name_for_one_port() {
    let hosts = ["eth0", "eth0", "tap2"].map(Host::quiet);
    for (host, netns) in hosts.iter().zip(["a", "b", "c"]) {
        name(netns, host.netns());
    }
    let switch = Switch::start(&["--tap", "eth0@a,eth0@b,tap2@c"]);
    assert_eq!(names(&["port", "list"], "name"), ["eth0@a", "eth0@b", "tap2"]);
    assert_eq!(names(&["port", "stats"], "name"), ["eth0@a", "eth0@b", "tap2"]);
    assert!(switch.summary().iter().any(|line| line.starts_with("port eth0@b: ")), "{:?}", switch.summary());

    // A station behind each of both.
    for (number, host) in [(1, &hosts[0]), (2, &hosts[1])] {
        wait::until("the station to be known", || {
            host.raw().send(&frame(MacAddr::BROADCAST, station(number), b"here")).expect("sent");
            (switch.report().table("entries") >= u64::from(number)).then_some(())
        });
    }
    assert_eq!(names(&["fdb", "show"], "port"), ["eth0@a", "eth0@b"]);
    let packet = |port: &str, to: u32| format!("port={port},src=10.0.0.9,dst=10.0.0.{to},dmac={}", station(to));
    for (port, to, end) in
        [("eth0@a", 2, "sent through eth0@b"), ("eth0@b", 1, "sent through eth0@a"), ("tap2@c", 1, "sent through eth0@a")]
    {
        let told = text(SOCKET, &["trace", &packet(port, to)]);
        assert!(told.ends_with(&format!("=> {end}\n")), "{told}");
    }

    let which = "several ports are named 'eth0': say which of eth0@a, eth0@b";
    let trace = packet("eth0", 1);
    for words in [
        &["trace", &trace][..],
        &["trace", "--live", "1", "--port", "eth0"],
        &["port", "stats", "eth0"],
        &["fdb", "add", "52:54:00:00:00:09", "eth0"],
        &["fdb", "flush", "--port", "eth0"],
        &["capture", "eth0", "-w", "/run/none"],
    ] {
        let said = refused(words);
        assert!(said.contains(which), "{words:?}: {said}");
    }
    assert!(refused(&["port", "del", "eth0"]).contains("say which of eth0@a, eth0@b"));

    assert_eq!(names(&["port", "stats", "eth0@b"], "namespace"), ["b"]);
    assert_eq!(names(&["port", "stats", "tap2@c"], "name"), ["tap2"]);
    assert_eq!(json(SOCKET, &["fdb", "add", "52:54:00:00:00:09", "tap2@c"])["port"], "tap2");
    assert_eq!(json(SOCKET, &["fdb", "flush", "--port", "eth0@b"])["flushed"], 1);
    let metrics = text(SOCKET, &["metrics"]);
    assert!(metrics.contains("vswitchd_port_up{port=\"eth0@b\",namespace=\"b\",bridge=\"br0\"} 1.0"), "{metrics}");

    // Without the other one, a port has its short name again.
    assert!(text(SOCKET, &["port", "del", "eth0@b"]).starts_with("- port eth0@b: "));
    assert_eq!(names(&["port", "list"], "name"), ["eth0", "tap2"]);
    assert_eq!(names(&["fdb", "show"], "port"), ["eth0", "tap2"]);
    assert!(text(SOCKET, &["port", "add", "eth0@b"]).starts_with("+ port eth0@b: "));
    assert_eq!(names(&["port", "list"], "name"), ["eth0@a", "tap2", "eth0@b"]);
    switch.finish();
}
