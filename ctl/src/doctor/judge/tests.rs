use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use netio::route::{Limits, Route};

use super::*;

/// A host as it should be: eth0 with an address and a default route.
fn healthy() -> Facts {
    let route = Route {
        prefix_len: 0,
        prefix: Ipv4Addr::UNSPECIFIED,
        metric: 0,
        gateway: Some(Ipv4Addr::new(192, 0, 2, 254)),
        limits: Limits::default(),
    };
    let eth0 = HostInterface {
        up: true,
        has_carrier: true,
        mtu: 1500,
        addresses: vec![(Ipv4Addr::new(192, 0, 2, 1), 24)],
        routes: vec![route],
        ..HostInterface::default()
    };
    Facts {
        tun: Ok(()),
        rights: u64::MAX,
        open_files: Some(262_144),
        refused_offloads: Some(Vec::new()),
        interfaces: BTreeMap::from([("eth0".to_owned(), eth0)]),
        ways: Vec::new(),
        taken: Vec::new(),
        silence: Some(Ok(Gate::Tcx)),
        max_dgram_qlen: Some(512),
        rmem_default: Some(212_992),
        lost_namespaces: Vec::new(),
        control: Control::Absent,
        place: "/run/vswitchd.sock".to_owned(),
    }
}

fn plan(text: &str) -> Plan {
    Plan::of_config(&config::Config::of_text("v.toml", text).0)
}

const NAT: &str = "bridge.br0.port = [{ tap = 'tap0' }, { dgram = '/run/d' }, { packet = 'eth0' }]\nuplink.interface = 'eth0'\n\
    tunnel = [{ type = 'vxlan', vni = 1, remotes = ['192.0.2.9'] }]";

/// The most severe finding about a subject, with its fix.
fn said(plan: &Plan, facts: &Facts, what: &str) -> (Status, String) {
    let checks = judge(plan, facts);
    let of = checks.iter().filter(|check| check.what.starts_with(what));
    let worst = of.max_by_key(|check| check.status as u8).unwrap_or_else(|| panic!("nothing of {what}: {checks:#?}"));
    (worst.status, format!("{}; {}", worst.why, worst.fix.as_deref().unwrap_or_default()))
}

#[track_caller]
fn assert_said(plan: &Plan, facts: &Facts, what: &str, status: Status, text: &str) {
    let (found, said) = said(plan, facts, what);
    assert_eq!(found, status, "{what}: {said}");
    assert!(said.contains(text), "{what}: {said}");
}

#[test]
fn a_healthy_host_has_nothing_to_fix() {
    let mut facts = healthy();
    facts.ways.push((0, "192.0.2.9".parse().unwrap(), Ok(1500)));
    for plan in [plan(NAT), Plan::default()] {
        let checks = judge(&plan, &facts);
        assert!(checks.iter().all(|check| check.status == Status::Ok && check.fix.is_none()), "{checks:#?}");
    }
}

#[test]
fn the_device() {
    let plan = Plan::default();
    for (kind, fix) in
        [(ErrorKind::NotFound, "mknod"), (ErrorKind::PermissionDenied, "chmod"), (ErrorKind::Other, "modprobe tun")]
    {
        assert_said(&plan, &Facts { tun: Err(kind), ..healthy() }, "/dev/net/tun", Status::Problem, fix);
    }
    let sockets = self::plan("bridge.br0.port = [{ stream = '/run/s' }]");
    let checks = judge(&sockets, &Facts { tun: Err(ErrorKind::NotFound), rights: 0, ..healthy() });
    assert!(checks.iter().all(|check| check.status == Status::Ok), "sockets need neither device nor rights: {checks:#?}");
}

#[test]
fn rights_by_what_is_planned() {
    let without = |bit: u32| Facts { rights: !(1 << bit), ..healthy() };
    assert_said(&plan(NAT), &without(NET_ADMIN), "rights", Status::Problem, "setcap cap_net_admin+ep");
    assert_said(&plan(NAT), &without(NET_RAW), "rights", Status::Problem, "lacks CAP_NET_RAW, for the uplink");
    assert_said(&plan(NAT), &without(SYS_ADMIN), "rights", Status::Ok, "CAP_NET_ADMIN, CAP_NET_RAW");
    let published = plan(&format!("{NAT}\npublish = [{{ listen = '80', to = '10.77.0.2:80' }}]"));
    assert_said(&published, &without(NET_BIND_SERVICE), "rights", Status::Problem, "CAP_NET_BIND_SERVICE");
    let elsewhere = plan("bridge.br0.port = [{ tap = 'tap0', netns = 'pid:7' }]");
    assert_said(&elsewhere, &without(SYS_ADMIN), "rights", Status::Problem, "CAP_SYS_ADMIN");
    assert_said(&elsewhere, &without(SYS_PTRACE), "rights", Status::Problem, "CAP_SYS_PTRACE");
}

#[test]
fn the_way_out() {
    let with = |change: fn(&mut HostInterface)| {
        let mut facts = healthy();
        change(facts.interfaces.get_mut("eth0").unwrap());
        facts
    };
    let nat = plan(NAT);
    assert_said(&nat, &with(|eth0| eth0.up = false), "uplink eth0", Status::Problem, "ip link set eth0 up");
    assert_said(&nat, &with(|eth0| eth0.has_carrier = false), "uplink eth0", Status::Problem, "no carrier");
    assert_said(&nat, &with(|eth0| eth0.addresses.clear()), "uplink eth0", Status::Problem, "ip addr add");
    assert_said(&nat, &with(|eth0| eth0.routes.clear()), "uplink eth0", Status::Warning, "ip route add default");
    assert_said(&nat, &with(|eth0| eth0.has_lro = true), "interface eth0", Status::Warning, "ethtool -K eth0 lro off");
    assert_said(&nat, &Facts { interfaces: BTreeMap::new(), ..healthy() }, "uplink eth0", Status::Problem, "no such interface");
    let refused = Facts { silence: Some(Err(ErrorKind::PermissionDenied)), ..healthy() };
    assert_said(&nat, &refused, "uplink eth0", Status::Problem, "would reset guests' connections");
    assert_said(&nat, &healthy(), "uplink eth0", Status::Ok, "its firewall do not matter");
    let sockets = Facts { silence: Some(Ok(Gate::Sockets)), ..healthy() };
    assert_said(&nat, &sockets, "uplink eth0", Status::Warning, "a firewall that rejects ends them");
    let own = plan("uplink = { interface = 'eth0', address = '192.0.2.1/24' }");
    assert_said(&own, &healthy(), "uplink eth0", Status::Problem, "ip addr del 192.0.2.1 dev eth0");
}

#[test]
fn guests_networks_are_nowhere_else() {
    let mut facts = healthy();
    let with = |gateway: &str| plan(&format!("bridge.br0.gateway = '{gateway}'\nuplink.interface = 'eth0'"));
    assert_said(&with("10.0.0.1/24"), &facts, "guests' network", Status::Ok, "overlaps with no network");
    assert_said(
        &with("192.0.2.129/25"),
        &facts,
        "guests' network",
        Status::Problem,
        "overlaps with 192.0.2.1/24 behind the uplink",
    );
    let docker = HostInterface { addresses: vec![(Ipv4Addr::new(10, 0, 0, 1), 16)], ..HostInterface::default() };
    facts.interfaces.insert("docker0".to_owned(), docker);
    assert_said(&with("10.0.0.1/24"), &facts, "guests' network", Status::Warning, "behind the host's docker0");
}

/// The host's address on a port's interface is how the host is a guest.
#[test]
fn the_host_is_a_guest_by_its_own_tap() {
    let mut facts = healthy();
    let tap0 = HostInterface { addresses: vec![(Ipv4Addr::new(10, 0, 0, 7), 24)], ..HostInterface::default() };
    facts.interfaces.insert("tap0".to_owned(), tap0);
    let with = |port: &str| plan(&format!("bridge.br0.gateway = '10.0.0.1/24'\nbridge.br0.port = [{{ {port} }}]"));
    assert_said(&with("tap = 'tap0'"), &facts, "guests' network", Status::Ok, "overlaps with no network");
    assert_said(&with("packet = 'tap0'"), &facts, "guests' network", Status::Ok, "overlaps with no network");
    assert_said(&with("tap = 'tap0', netns = 'a'"), &facts, "guests' network", Status::Warning, "behind the host's tap0");
}

#[test]
fn ports_that_carry_nothing() {
    let port = |name: &str, kind, is_gone, namespace: Option<&str>| IdlePort {
        name: name.to_owned(),
        kind,
        is_gone,
        namespace: namespace.map(str::to_owned),
    };
    let said = |port: IdlePort| {
        let plan = Plan { running: Some(7), idle_ports: vec![port], ..Plan::default() };
        said(&plan, &healthy(), "port ")
    };
    for (port, text) in [
        (port("tap0", PortKind::Tap, false, None), "its link is down; ip link set tap0 up"),
        (port("eth0@blue", PortKind::Tap, false, Some("blue")), "its link is down; ip -n blue link set eth0 up"),
        (port("eth0", PortKind::Tap, false, Some("pid:7")), "nsenter --net=/proc/7/ns/net ip link set eth0 up"),
        (
            port("eth0", PortKind::Tap, true, Some("/run/x")),
            "is gone, and could not be made again yet; nsenter --net=/run/x ip link show eth0",
        ),
        (port("/run/a", PortKind::Dgram, true, None), "start the guest"),
    ] {
        let (status, said) = said(port);
        assert!(status == Status::Problem && said.contains(text), "{said}");
    }
    let lost = Facts { lost_namespaces: vec![("blue".to_owned(), ErrorKind::NotFound)], ..healthy() };
    let plan = Plan { idle_ports: vec![port("tap0", PortKind::Tap, true, Some("blue"))], ..Plan::default() };
    assert!(judge(&plan, &lost).iter().all(|check| check.what != "port tap0"), "the namespace is the cause");
}

/// What a file says that is allowed and mostly wrong.
#[test]
fn settings_that_may_be_mistakes() {
    let lonely = plan("bridge.br0.port = [{ tap = 'tap0', vlan = 10 }]\nuplink.interface = 'eth0'");
    assert_said(
        &lonely,
        &healthy(),
        "configuration",
        Status::Warning,
        "so no guest reaches it: give the guests one in their VLAN",
    );
}

#[test]
fn packets_fit_through_tunnels() {
    let way = |mtu| Facts { ways: vec![(0, "192.0.2.9".parse().unwrap(), Ok(mtu))], ..healthy() };
    let with = |keys: &str| {
        plan(&format!(
            "bridge.br0.port = [{{ tap = 'tap0', mtu = 1450 }}]\n[[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['192.0.2.9']\n{keys}"
        ))
    };
    assert_said(&with(""), &way(1500), "tunnel vxlan", Status::Ok, "packets of 1450 bytes");
    assert_said(&with(""), &way(1400), "tunnel vxlan", Status::Warning, "mtu = 1350 of the port");
    assert_said(&with("mtu = 1500"), &way(1500), "tunnel vxlan", Status::Problem, "datagrams of 1550, and the path MTU is 1500");
    let lost = Facts { ways: vec![(0, "192.0.2.9".parse().unwrap(), Err("unreachable".to_owned()))], ..healthy() };
    assert_said(&with(""), &lost, "tunnel vxlan", Status::Problem, "ip route get 192.0.2.9");
    assert_said(&with("dev = 'eth7'"), &way(1500), "tunnel vxlan", Status::Problem, "no interface eth7");
}

#[test]
fn limits_of_the_kernel() {
    let nat = plan(NAT);
    for (open_files, say) in [(20_000, "use 7952 of 64512"), (1024, "use 384 of 64512")] {
        let facts = Facts { open_files: Some(open_files), silence: Some(Ok(Gate::Sockets)), ..healthy() };
        assert_said(&nat, &facts, "open files", Status::Warning, say);
    }
    assert_said(&nat, &Facts { max_dgram_qlen: Some(10), ..healthy() }, "datagrams", Status::Warning, "max_dgram_qlen=512");
    assert_said(
        &nat,
        &Facts { rmem_default: Some(4096), ..healthy() },
        "receive buffers",
        Status::Warning,
        "rmem_default=212992",
    );
    let taken = Facts { taken: vec![(true, 8080, "nginx, process 7".to_owned())], ..healthy() };
    assert_said(&nat, &taken, "published tcp 8080", Status::Problem, "nginx, process 7");
    let running = Plan { running: Some(1), ..nat.clone() };
    assert_said(&running, &taken, "published tcp 8080", Status::Warning, "the guest gets all packets");
    assert_said(&nat, &Facts { refused_offloads: Some(vec!["tso4"]), ..healthy() }, "TAP offloads", Status::Warning, "tso4");
    let lost = Facts { lost_namespaces: vec![("blue".to_owned(), ErrorKind::NotFound)], ..healthy() };
    assert_said(&nat, &lost, "namespace blue", Status::Problem, "ip netns add blue");
}

#[test]
fn the_host_is_no_way_past_the_switch() {
    let mut facts = healthy();
    let eth0 = facts.interfaces.get_mut("eth0").unwrap();
    eth0.forwards = true;
    assert_said(&plan(NAT), &facts, "port eth0", Status::Warning, "net.ipv4.conf.eth0.forwarding=0");
    facts.interfaces.get_mut("eth0").unwrap().is_strict = true;
    assert_said(&plan(NAT), &facts, "port eth0", Status::Ok, "forwards nothing");
}

#[test]
fn what_the_switch_says_itself() {
    let plan = Plan {
        running: Some(7),
        complaints: vec!["workers panicked 2 times".to_owned(), "thread devices panicked 1 times".to_owned()],
        unread: vec![("tap1".to_owned(), 9)],
        ..Plan::default()
    };
    assert_said(&plan, &healthy(), "the switch", Status::Problem, "thread devices panicked 1 times; this is a bug");
    assert_said(&plan, &healthy(), "port tap1", Status::Warning, "dropped 9 frames");
    for (control, status) in [(Control::Stale, Status::Warning), (Control::Other, Status::Problem)] {
        assert_eq!(said(&plan, &Facts { control, ..healthy() }, "control socket").0, status);
    }
}
