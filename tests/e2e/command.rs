//! The daemon as a command: output, exit codes, and errors for bad input.

use std::fs::File;

use libtest_mimic::Trial;
use netio::{link, netns};
use rustix::process::Signal;

use crate::frames::{frame, station};
use crate::host::{Host, Ip};
use crate::named::{hide, in_own_mounts, name};
use crate::raw::without_net_admin;
use crate::switch::{Ended, Switch, daemon, run_inside};
use crate::transfer::transfer;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("command/check_starts_nothing", check_starts_nothing),
        trial("command/bad_configuration_exits_2", bad_configuration_exits_2),
        trial("command/held_tap_exits_1", held_tap_exits_1),
        trial("command/link_that_is_no_tap_exits_1", link_that_is_no_tap_exits_1),
        trial("command/unknown_namespace_exits_1", || in_own_mounts(unknown_namespace_exits_1)),
        trial("command/missing_right_exits_1", missing_right_exits_1),
        trial("command/missing_device_exits_1", || in_own_mounts(missing_device_exits_1)),
        trial("command/summary_and_signals", summary_and_signals),
        trial("command/more_workers_than_ports", more_workers_than_ports),
    ]
}

fn namespace() -> File {
    netns::create().expect("a namespace")
}

/// Runs the daemon in this namespace until it exits.
fn run(netns: &File, args: &[&str]) -> Ended {
    run_inside(netns, &mut daemon(args))
}

/// Asserts that it exited with 1, logged each of these texts, and left no link behind.
fn assert_refused(ended: &Ended, netns: &File, says: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for text in says {
        assert!(ended.log.contains(text), "not said: {text}\n{}", ended.log);
    }
    assert!(!ended.output.contains("ready"), "{ended:?}");
    assert!(!links(netns).contains(&"tap0".to_owned()), "tap0 is left behind");
}

fn links(netns: &File) -> Vec<String> {
    use std::os::fd::AsFd;
    netns::inside(netns.as_fd(), link::names).expect("its links")
}

fn check_starts_nothing() {
    let netns = namespace();
    let before = links(&netns);
    let host = Host::new("b");
    let ended = run(
        &netns,
        &[
            "--check",
            "--tap",
            &format!("a:trunks=10+20,{}", host.port(":vlan=10")),
            "--mac-table-size",
            "100",
            "--vxlan",
            "vni=42,local=192.0.2.1,remote=192.0.2.2+192.0.2.3",
            "--udp-ip",
            "tun=tun0,route=10.1.0.0/16@192.0.2.2",
        ],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for text in [
        "MAC table of 100 entries",
        "port a: trunk VLANs 10+20",
        "port b in namespace /proc/",
        "access VLAN 10",
        "tunnel vxlan42: VNI 42, port 4789, local 192.0.2.1, 2 remotes: 192.0.2.2 192.0.2.3",
        "tunnel tun0: IP in UDP, port 8285, 1 route: 10.1.0.0/16 to 192.0.2.2",
        "nothing was started",
    ] {
        assert!(ended.output.contains(text), "not said: {text}\n{}", ended.output);
    }
    assert!(!ended.output.contains("ready"));
    assert_eq!(links(&netns), before);
    assert!(!links(host.netns()).contains(&"b".to_owned()));
    // `--check` finds the same fault without starting.
    let ended = run(&netns, &["--check", "--tap", "a@/no/such/namespace"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.log.contains("/no/such/namespace"), "{ended:?}");
}

/// Each error names the flag and a valid value.
fn bad_configuration_exits_2() {
    let netns = namespace();
    for (args, says) in [
        (vec!["--tap", "tap0:vlna=10"], vec!["--tap tap0:vlna=10", "did you mean 'vlan'?"]),
        (vec!["--tap", "tap0:vlan=0"], vec!["--tap tap0:vlan=0", "from 1 to 4094"]),
        (vec!["--tap", "tap0:vlan=10:trunks=20"], vec!["--tap", "leave trunks out"]),
        (vec!["--tap", "tap0:vlan-mode=native-tagged"], vec!["--tap", "add vlan=10"]),
        (vec!["--tap", "tap0:mtu=10"], vec!["--tap tap0:mtu=10", "from 68 to 65521"]),
        (vec!["--tap", "tap0,tap0"], vec!["--tap", "tap0 is named twice"]),
        (vec!["--tap", "tap0@"], vec!["--tap", "a name under /run/netns, a path, or pid:N"]),
        (vec!["--tap", "a/b"], vec!["--tap", "'a/b' cannot be an interface's name"]),
        (vec!["--tap", "sixteen_bytes_is"], vec!["--tap", "at most 15"]),
        (vec!["--tap", "tap0", "--workers", "0"], vec!["--workers", "1 to 256"]),
        (vec!["--tap", "tap0", "--workers", "many"], vec!["--workers", "many"]),
        (vec!["--tap", "tap0", "--mac-table-size", "9"], vec!["--mac-table-size", "10 to 1000000"]),
        (vec!["--tap", "tap0", "--mac-aging-time", "0"], vec!["--mac-aging-time", "1 to 86400"]),
        (vec!["--taps", "tap0"], vec!["--taps", "--tap"]),
        (vec!["--workers", "1", "--control", "none"], vec!["--tap", "name at least one"]),
        (vec!["--check", "--tap", "tap0:gro=maybe"], vec!["--tap", "on, off or neighbours"]),
        (vec!["--tap", "tap0", "--vxlan", "vni=42"], vec!["--vxlan vni=42", "Add remote="]),
        (vec!["--tap", "tap0", "--vxlan", "vni=42,rmote=192.0.2.2"], vec!["--vxlan", "did you mean 'remote'?"]),
        (vec!["--tap", "tap0", "--udp", "remote=192.0.2.2"], vec!["--udp", "Add port="]),
        (vec!["--tap", "tap0", "--udp-ip", "tun=tun0"], vec!["--udp-ip", "Add route="]),
        (
            vec!["--tap", "tap0", "--gateway", "10.0.0.1/24", "--vxlan", "vni=42,remote=10.0.0.2"],
            vec!["--vxlan", "the guests need another network"],
        ),
    ] {
        let ended = run(&netns, &args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        for text in says {
            assert!(ended.log.contains(text), "{args:?}: not said: {text}\n{}", ended.log);
        }
        assert_eq!(links(&netns), ["lo"], "{args:?}");
    }
}

fn held_tap_exits_1() {
    let netns = namespace();
    let first = Switch::start_inside(netns.try_clone().expect("a clone"), &["--tap", "held"]);
    let second = run(&netns, &["--tap", "tap0,held"]);
    assert_refused(&second, &netns, &["held is held by another process", "give this switch a TAP of its own"]);
    // The first daemon is unharmed.
    assert!(links(&netns).contains(&"held".to_owned()));
    first.finish();
}

fn link_that_is_no_tap_exits_1() {
    let netns = namespace();
    assert_refused(&run(&netns, &["--tap", "tap0,lo"]), &netns, &["lo exists already and is not a TAP", "choose another name"]);
    // The same for a device in another namespace.
    let host = Host::new("lo");
    assert_refused(&run(&netns, &["--tap", &host.port("")]), &netns, &["lo exists already and is not a TAP"]);
}

fn unknown_namespace_exits_1() {
    let (netns, blue) = (namespace(), namespace());
    name("blue", &blue);
    assert_refused(&run(&netns, &["--tap", "tap0,t@bleu"]), &netns, &["network namespace bleu", "did you mean 'blue'?"]);
    let ended = run(&netns, &["--tap", "t@nothing-like-it"]);
    assert_refused(&ended, &netns, &["network namespace nothing-like-it"]);
    assert!(!ended.log.contains("did you mean"), "{ended:?}");
    assert_refused(&run(&netns, &["--tap", "t@/etc/passwd"]), &netns, &["network namespace /etc/passwd"]);
    assert_refused(&run(&netns, &["--tap", "t@pid:0"]), &netns, &["network namespace pid:0"]);
}

/// The error names the missing capability and a command that grants it.
fn missing_right_exits_1() {
    let netns = namespace();
    let ended = run_inside(&netns, without_net_admin(&mut daemon(&["--tap", "tap0"])));
    assert_refused(&ended, &netns, &["CAP_NET_ADMIN is missing", "setcap cap_net_admin", "unshare"]);
    let host = Host::new("tap1");
    let ended = run_inside(&netns, without_net_admin(&mut daemon(&["--tap", &host.port("")])));
    assert_refused(&ended, &netns, &["CAP_NET_ADMIN is missing"]);
}

fn missing_device_exits_1() {
    let netns = namespace();
    hide("/dev").expect("an empty /dev");
    File::create("/dev/null").expect("a place for what is not said");
    assert_refused(&run(&netns, &["--tap", "tap0"]), &netns, &["/dev/net/tun is missing", "modprobe tun", "mknod"]);
}

fn summary_and_signals() {
    let hosts = ["a", "b"].map(Host::quiet);
    for end in [Signal::TERM, Signal::INT] {
        let ports = [hosts[0].port(":vlan=10:mtu=1400"), hosts[1].port(":vlan=10:offload=off")];
        let switch = Switch::between(&ports);
        let summary = switch.summary();
        assert!(summary[0].starts_with("bridge br0: 2 ports, "), "{summary:?}");
        assert!(
            summary[1].starts_with("port a in namespace /proc/")
                && summary[1].contains("access VLAN 10, mtu 1400, offload checksum tso4 tso6")
        );
        assert!(
            summary[2].starts_with("port b in namespace /proc/") && summary[2].contains("mtu 1500, offload none"),
            "{summary:?}"
        );
        assert_eq!(summary.last().map(String::as_str), Some("ready"));

        assert_eq!(switch.report().received(), 0);
        hosts[0].raw().send(&frame(station(2), station(1), b"one")).expect("sent");
        let report = switch.settle("one frame", |report| report.received() == 1);
        assert_eq!((report.received_by("a"), report.sent_by("b")), (1, 1));
        let report = switch.finish_by(end);
        assert_eq!((report.received_by("a"), report.sent_by("b"), report.all_dropped()), (1, 1, 0));
    }
    for host in &hosts {
        assert!(!links(host.netns()).contains(&host.name().to_owned()), "the daemon's TAPs go with it");
    }
}

/// Each port has two queues then, and each queue a worker of its own.
fn more_workers_than_ports() {
    let hosts = ["a", "b"].map(Host::new);
    let ports = hosts.iter().map(|host| host.port("")).collect::<Vec<_>>().join(",");
    let switch = Switch::start(&["--workers", "4", "--tap", &ports]);
    assert!(switch.summary()[0].contains("4 workers"), "{:?}", switch.summary());
    hosts[0].configure(1);
    hosts[1].configure(2);
    for ip in [Ip::V4, Ip::V6, Ip::V4] {
        transfer(&hosts[0], (&hosts[1], 2), ip, true);
    }
    switch.finish();
}
