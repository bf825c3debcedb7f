//! Changes from one configuration to another.

use super::*;
use crate::desired::EditError;
use crate::flags::Flag;

fn flags_of(taps: &str, others: &[&str], rules: &[&str]) -> Vec<Flag> {
    let others = others.iter().map(|text| Flag::new("--port", *text));
    let rules = rules.iter().map(|text| Flag::new("--publish", *text));
    [Flag::new("--tap", taps), Flag::new("--uplink", "eth0")].into_iter().chain(others).chain(rules).collect()
}

fn desired(taps: &str, others: &[&str], rules: &[&str]) -> Desired {
    Desired::of_flags(&flags_of(taps, others, rules)).unwrap()
}

fn plan(from: &Desired, to: &Desired) -> Result<Vec<String>, String> {
    let plan = Plan::between(from, &mut to.clone()).map_err(|error| error.to_string())?;
    Ok(plan.changes.iter().map(Change::to_string).collect())
}

/// With these flags besides.
fn with(flags: &[(&'static str, &str)]) -> Desired {
    let flags = flags.iter().map(|(name, value)| Flag::new(name, *value));
    Desired::of_flags(&flags_of("a,b", &[], &[]).into_iter().chain(flags).collect::<Vec<_>>()).unwrap()
}

#[test]
fn nothing_is_the_plan_from_anything_to_itself() {
    for ports in [&[][..], &["packet:veth0"], &["stream:/run/x:guests=3", "dgram:/run/y"]] {
        let it = desired("a,b:vlan=10", ports, &["8080:10.77.0.2:80"]);
        assert_eq!(plan(&it, &it), Ok(Vec::new()));
        // Whatever their order, and however many threads there would be.
        let other = desired("b:vlan=10,a", ports, &["8080:10.77.0.2:80"]);
        assert_eq!(plan(&it, &other), Ok(Vec::new()));
    }
}

#[test]
fn each_difference_is_a_line() {
    let from = desired("a,b:vlan=10,c", &["stream:/run/x:guests=2"], &["80:10.77.0.2:80", "81:10.77.0.2:81"]);
    let to = desired(
        "a,b:vlan=20,d@blue",
        &["stream:/run/x:guests=3", "dgram:/run/y:mtu=1400"],
        &["81:10.77.0.2:81", "82:10.77.0.2:82/udp"],
    );
    assert_eq!(
        plan(&from, &to).unwrap(),
        [
            "- port c: all VLANs",
            "~ port b: access VLAN 10 -> access VLAN 20",
            "+ port d@blue: all VLANs",
            "~ port /run/x#1..3: all VLANs, mtu 1500, 2 guests -> all VLANs, mtu 1500, 3 guests",
            "+ port /run/y: all VLANs, mtu 1400",
            "- rule tcp 80 -> 10.77.0.2:80",
            "+ rule udp 82 -> 10.77.0.2:82",
        ]
    );
    let plan = Plan::between(&from, &mut to.clone()).unwrap();
    let names = |ports: &[Port]| ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>().join(" ");
    assert_eq!((names(&plan.added_ports), names(&plan.removed_ports)), ("d /run/x#3 /run/y".into(), "c".into()));
    assert_eq!(names(&plan.altered_ports), "b /run/x#1 /run/x#2");
}

#[test]
fn an_mtu_is_another_only_if_its_key_is() {
    let from = desired("a:mtu=1400,b:mtu=1400,c,d", &[], &[]);
    let to = desired("a:mtu=1400:vlan=10,b,c:vlan=10,d:mtu=1400", &[], &[]);
    let plan = Plan::between(&from, &mut to.clone()).unwrap();
    let new = plan.altered_ports.iter().map(|port| (port.name.as_str(), plan.has_new_mtu(port)));
    assert_eq!(new.collect::<Vec<_>>(), [("a", false), ("b", true), ("c", false), ("d", true)]);
}

#[test]
fn a_device_is_made_anew_only_where_it_has_to_be() {
    for (from, to, sign) in [
        ("a", "a:mtu=1400", '~'),
        ("a:gro=off", "a", '~'),
        ("a", "a:gro=neighbours", '~'),
        ("a:limit-unknown=off", "a", '~'),
        ("a:vlan=7", "a:trunks=7+8", '~'),
        ("a", "a:offload=off", '!'),
        ("a", "a:attach=auto", '!'),
        ("a", "a@blue", '-'),
    ] {
        let lines = plan(&desired(from, &[], &[]), &desired(to, &[], &[])).unwrap();
        assert_eq!(lines[0].chars().next(), Some(sign), "{from} to {to}: {lines:?}");
    }
    let [client, server] = ["client", "server"].map(|mode| desired("a", &[&format!("stream:/run/x:mode={mode}")], &[]));
    let plan = Plan::between(&client, &mut server.clone()).unwrap();
    assert_eq!((plan.removed_ports.len(), plan.added_ports.len()), (1, 16));
}

#[test]
fn what_is_fixed_is_named() {
    let now = with(&[("--workers", "2")]);
    let no_uplink = Desired::of_flags(&[Flag::new("--tap", "a,b")]).unwrap();
    for (to, say) in [
        (with(&[("--workers", "3")]), "this needs a restart: workers is 2, not 3"),
        (with(&[("--uplink", "eth1")]), "uplink is eth0: nat by the host's own address, not eth1: nat"),
        (no_uplink, "uplink is eth0: nat by the host's own address, not none"),
        (with(&[("--control", "/run/other")]), ", not /run/other"),
        (with(&[("--state", "/run/other")]), ", not /run/other"),
        (with(&[("--metrics", "127.0.0.1:9100,host=a+b")]), "metrics is none, not 127.0.0.1:9100 for a, b"),
    ] {
        let said = plan(&now, &to).unwrap_err();
        assert!(said.contains(say), "{said}");
    }
    // A configuration that does not mention it leaves it as it is.
    let mut silent = with(&[]);
    assert!(Plan::between(&now, &mut silent).unwrap().is_empty());
    assert_eq!(silent.config.workers, 2);
    // Each once.
    let to = with(&[("--metrics", "127.0.0.1:9100")]);
    assert_eq!(plan(&now, &to).unwrap_err(), "this needs a restart: metrics is none, not 127.0.0.1:9100");
}

#[test]
fn of_the_control_socket_counts_what_is_said() {
    let control = |path: Option<&'static str>, group: Option<&'static str>, others: Option<&'static str>| {
        let path = path.map(|path| ("--control", path));
        let group = group.map(|group| ("--control-group", group));
        let others = others.map(|others| ("--control-read-only-others", others));
        with(&path.into_iter().chain(group).chain(others).collect::<Vec<_>>())
    };
    let now = control(Some("/run/x"), Some("4711"), Some("true"));
    for to in [control(None, None, None), control(None, Some("4711"), None), control(None, None, Some("true"))] {
        let mut to = to;
        assert!(Plan::between(&now, &mut to).unwrap().is_empty());
        assert_eq!(to.config.control, now.config.control);
        // A verb then is the words that were applied, and one more.
        assert_eq!(plan(&to, &to.with_port("c").unwrap()).unwrap(), ["+ port c: all VLANs"]);
    }
    for (to, say) in [
        (
            control(None, Some("4712"), None),
            "control is /run/x, group 4711, others may read, not /run/x, group 4712, others may read",
        ),
        (control(None, None, Some("false")), "control is /run/x, group 4711, others may read, not /run/x, group 4711"),
    ] {
        assert_eq!(plan(&now, &to).unwrap_err(), format!("this needs a restart: {say}"));
    }
}

#[test]
fn verbs_are_configurations_of_one_word_more_or_less() {
    let now = desired("a,b@blue,b@red", &["stream:/run/x:guests=2", "packet:veth0"], &["80:10.77.0.2:80"]);
    let done = |to: Result<Desired, EditError>| plan(&now, &to.map_err(|error| error.to_string())?).map(|lines| lines.join("; "));
    for (to, say) in [
        (now.with_port("c:vlan=7"), "+ port c: access VLAN 7"),
        (now.with_port("packet:eth7"), "+ port eth7: all VLANs"),
        (now.without_port("a"), "- port a: all VLANs"),
        (now.without_port("b@red"), "- port b@red: all VLANs"),
        (now.without_port("veth0"), "- port veth0: all VLANs"),
        (now.without_port("/run/x"), "- port /run/x#1..2: all VLANs, mtu 1500, 2 guests"),
        (now.without_port("packet:veth0"), "- port veth0: all VLANs"),
        (now.without_port("stream:/run/x:guests=2"), "- port /run/x#1..2: all VLANs, mtu 1500, 2 guests"),
        (now.with_rule("81:10.77.0.2:81/udp"), "+ rule udp 81 -> 10.77.0.2:81"),
        (now.without_rule("80:10.77.0.2:80/tcp"), "- rule tcp 80 -> 10.77.0.2:80"),
        (now.without_rule("tcp 80 -> 10.77.0.2:80"), "- rule tcp 80 -> 10.77.0.2:80"),
    ] {
        assert_eq!(done(to).unwrap(), say);
    }
    for (to, say) in [
        (now.with_port("a"), "port add a: there is a port a already: remove it first with 'port del a'"),
        (now.with_port("packet:eth0"), "port add packet:eth0: eth0 is the uplink: name another interface"),
        (now.with_port("c:vlna=1"), "port add c:vlna=1: unknown key 'vlna': did you mean 'vlan'?"),
        (now.with_port("packet:veth0"), "there is a port veth0 already"),
        (now.without_port("c"), "c: there is no such port"),
        (now.without_port("veht0"), "did you mean 'veth0'?"),
        (now.without_port("b"), "b: several ports have this name: say which of b@blue, b@red"),
        (now.without_port("/run/x#2"), "one of several places for guests: all of them are /run/x"),
        (now.without_port("eth0"), "the uplink is there from start to end"),
        (now.with_rule("80:10.77.0.3:80"), "nat publish 80:10.77.0.3:80: in conflict with tcp 80 -> 10.77.0.2:80"),
        (now.without_rule("82:10.77.0.2:80"), "there is no such rule; there are: tcp 80 -> 10.77.0.2:80"),
    ] {
        let said = done(to).unwrap_err();
        assert!(said.contains(say), "{said}");
    }
    let own = desired("b,b@red", &[], &[]);
    let left = own.without_port("b").unwrap().config.ports.remove(0);
    assert_eq!((left.name.as_str(), left.full_name().as_str()), ("b", "b@red"), "the other one had no other name");
    let one = desired("a", &[], &[]);
    assert_eq!(one.without_port("a").unwrap().config.ports, [], "a switch may be without ports");
}

#[test]
fn of_several_bridges_the_one_that_is_meant_is_named() {
    let of = |text: &str| Desired::of_text("v.toml", text, &[]).unwrap();
    let two = "[[bridge.br0.port]]\ntap = 'a'\n[[bridge.lab.port]]\ntap = 'b'\n[[bridge.lab.port]]\ntap = 'c'\n";
    let moved = two.replace("[[bridge.lab.port]]\ntap = 'c'", "[[bridge.br0.port]]\ntap = 'c'");
    assert_eq!(plan(&of(two), &of(&moved)).unwrap(), ["~ port c: all VLANs, on lab -> all VLANs, on br0"]);
    let without = of(two).without_port("c").unwrap();
    assert_eq!(plan(&of(two), &without).unwrap(), ["- port c: all VLANs, on lab"]);
    for (other, lines) in [
        (format!("{two}[[bridge.dmz.port]]\ntap = 'd'\n"), &["+ bridge dmz", "+ port d: all VLANs, on dmz"][..]),
        (format!("{two}[bridge.lab]\nmac-table-size = 99\n"), &["~ bridge lab: mac-table-size 8192 -> 99"]),
        (format!("{two}[bridge.lab]\nmac-aging-time = 9\n"), &["~ bridge lab: mac-aging-time 300 -> 9"]),
        (format!("{two}[bridge.lab]\ngateway = '10.0.0.1/24'\n"), &["+ gateway 10.0.0.1/24 on lab"]),
        (
            "[[bridge.br0.port]]\ntap = 'a'\n".to_owned(),
            &["- bridge lab", "- port b: all VLANs, on lab", "- port c: all VLANs, on lab"],
        ),
    ] {
        assert_eq!(plan(&of(two), &of(&other)).unwrap(), lines, "{other}");
    }
    let other = format!("{two}[bridge.lab]\nmac-table-size = 99\nmac-aging-time = 9\n");
    assert_eq!(plan(&of(&other), &of(two)).unwrap(), Vec::<String>::new(), "keys that are left out");
}

/// Whichever bridge it is of, and however many tunnels are before it.
#[test]
fn a_tunnel_is_taken_from_its_bridge() {
    let tunnel = |bridge: &str, vni: u32| {
        format!("[[tunnel]]\ntype = 'vxlan'\nbridge = '{bridge}'\nvni = {vni}\nremotes = ['192.0.2.2']\n")
    };
    let text = "[[bridge.br0.port]]\ntap = 'a'\n[[bridge.lab.port]]\ntap = 'b'\n".to_owned()
        + &[tunnel("lab", 3), tunnel("br0", 1), tunnel("lab", 4)].concat();
    let now = Desired::of_text("v.toml", &text, &[]).unwrap();
    for (name, left) in [("vxlan1", "vxlan3 vxlan4"), ("vxlan3", "vxlan1 vxlan4"), ("vxlan4", "vxlan1 vxlan3")] {
        let without = now.without_tunnel(name).unwrap();
        let names: Vec<&str> = without.config.tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect();
        assert_eq!(names.join(" "), left);
    }
}

#[test]
fn tunnels_are_known_by_all_that_they_say_but_their_name() {
    let tunnels = |words: &[&str]| with(&words.iter().map(|word| ("--vxlan", *word)).collect::<Vec<_>>());
    let (one, other) = ("vni=42,remote=192.0.2.2", "vni=42,remote=192.0.2.3,port=4790");
    let now = tunnels(&[one, other]);
    assert_eq!(now.config.tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect::<Vec<_>>(), ["vxlan42", "vxlan42-2"]);
    let mut left = now.without_tunnel("vxlan42").unwrap();
    let gone = Plan::between(&now, &mut left).unwrap();
    assert_eq!(gone.removed_tunnels, ["vxlan42"]);
    assert_eq!(left.config.tunnels[0].name, "vxlan42-2", "the one that stays keeps its name");
    let by_words = now.without_tunnel(other).unwrap();
    assert_eq!(by_words.config.tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect::<Vec<_>>(), ["vxlan42"]);
    assert!(now.without_tunnel("vni=42,remote=192.0.2.77").is_err());
    let mut again = left.with_tunnel("vni=42,remote=192.0.2.9,port=4791").unwrap();
    let came = Plan::between(&left, &mut again).unwrap();
    assert_eq!(came.added_tunnels[0].name, "vxlan42");
    assert!(came.removed_tunnels.is_empty());
    let moved = plan(&now, &tunnels(&["vni=42,remote=192.0.2.2+192.0.2.7", other])).unwrap();
    assert_eq!(moved.iter().map(|line| &line[..18]).collect::<Vec<_>>(), ["- tunnel vxlan42: ", "+ tunnel vxlan42: "]);
    assert!(now.without_tunnel("vxlan43").unwrap_err().to_string().contains("did you mean 'vxlan42'?"));
    let with_ip = now.with_tunnel("tun=t,route=10.9.0.0/16@192.0.2.2").unwrap();
    assert!(plan(&now, &with_ip).unwrap_err().contains("needs a restart: udp-ip is none, not "));
}
