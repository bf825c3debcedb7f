//! Bridges that come and go while the switch runs.

use super::*;
use crate::flags::Flag;
use crate::plan::{Change, Plan};

const FILE: &str = "[bridge.lab]\ngateway = '10.0.0.1/24'\n[[bridge.lab.port]]\ntap = 'a'\n[uplink]\ninterface = 'eth0'\n";

fn running() -> Desired {
    Desired::of_text("v.toml", FILE, &[]).unwrap()
}

/// The desired configuration as the running switch takes it over, and the lines of the change.
fn changed(from: &Desired, to: Result<Desired, EditError>) -> Result<(Desired, Vec<String>), String> {
    let mut to = to.map_err(|error| error.to_string())?;
    let plan = Plan::between(from, &mut to).map_err(|error| error.to_string())?;
    Ok((to, plan.changes.iter().map(Change::to_string).collect()))
}

fn done(from: &Desired, to: Result<Desired, EditError>) -> Desired {
    changed(from, to).unwrap().0
}

fn names(desired: &Desired) -> Vec<(usize, &str)> {
    desired.config.bridges.iter().map(|bridge| (bridge.number, bridge.name.as_str())).collect()
}

#[test]
fn a_bridge_comes_with_its_gateways_and_goes() {
    let now = running();
    let (with, lines) = changed(&now, now.with_bridge("blue:gateway=10.71.0.1/24:mac-aging-time=60")).unwrap();
    assert_eq!(lines, ["+ bridge blue", "+ gateway 10.71.0.1/24 on blue"]);
    assert_eq!(with.config.bridges[1].mac_aging_time, 60);
    let (tagged, lines) = changed(&with, with.with_bridge("red:gateways=10@10.1.0.1/24+20@10.2.0.1/24")).unwrap();
    assert_eq!(lines, ["+ bridge red", "+ gateway 10.1.0.1/24 on VLAN 10 of red", "+ gateway 10.2.0.1/24 on VLAN 20 of red"]);
    let (_, lines) = changed(&tagged, tagged.without_bridge("blue")).unwrap();
    assert_eq!(lines, ["- bridge blue", "- gateway 10.71.0.1/24 on blue"]);
    for (refused, say) in [
        (now.with_bridge("lab"), "bridge add lab: there is a bridge lab already: change it with 'bridge set lab:KEY=VALUE'"),
        (now.with_bridge("blue:gatewya=1"), "bridge add blue:gatewya=1: unknown key 'gatewya': did you mean 'gateway'?"),
        (
            now.with_bridge("blue:gateway=10.0.0.9/16"),
            "10.0.0.0/16 overlaps with 10.0.0.0/24 of gateway 10.0.0.1/24 of bridge lab",
        ),
        (now.with_bridge("blue:port=tap0"), "ports are added by themselves: port add NAME:bridge=blue"),
        (now.with_bridge(""), "bridge add : "),
        (now.with_bridge("a/b"), "bridge add a/b: "),
        (now.without_bridge("blue"), "blue: there is no bridge 'blue'; there are lab"),
        (now.without_bridge("lab"), "lab: bridge lab has port a: remove them first"),
        (done(&now, now.without_port("a")).without_bridge("lab"), "lab is the last bridge besides those that 'bridge add' made"),
    ] {
        let said = changed(&now, refused).map(|(_, lines)| lines).unwrap_err();
        assert!(said.contains(say), "{said}");
    }
}

#[test]
fn keys_are_set_and_taken_away() {
    let now = done(&running(), running().with_bridge("blue:gateway=10.71.0.1/24"));
    for (words, lines) in [
        ("blue:gateway=10.72.0.1/24", &["! gateway 10.72.0.1/24 on blue: in place of 10.71.0.1/24"][..]),
        ("blue:routing=outside", &["~ gateway 10.71.0.1/24 on blue: routing all -> outside"]),
        ("blue:routing=none", &["~ gateway 10.71.0.1/24 on blue: routing all -> none"]),
        ("blue:host=on", &["~ gateway 10.71.0.1/24 on blue: host off -> on"]),
        ("blue:host=on:routing=outside", &["~ gateway 10.71.0.1/24 on blue: routing all -> outside, host off -> on"]),
        ("blue:host=none", &[]),
        ("blue:routing=none:gateway=10.72.0.1/24", &["! gateway 10.72.0.1/24 on blue: in place of 10.71.0.1/24"]),
        ("blue:gateway=none", &["- gateway 10.71.0.1/24 on blue"]),
        (
            "blue:gateways=0@10.71.0.1/24+7@10.7.0.1/24:mac-table-size=99",
            &["~ bridge blue: mac-table-size 8192 -> 99", "+ gateway 10.7.0.1/24 on VLAN 7 of blue"],
        ),
        ("lab:mac-aging-time=7", &["~ bridge lab: mac-aging-time 300 -> 7"]),
        ("blue:mac-aging-time=none", &[]),
        ("lab:mac-aging-time=none", &[]),
    ] {
        assert_eq!(changed(&now, now.with_bridge_set(words)).unwrap().1, lines, "{words}");
    }
    for (words, say) in [
        ("blu:gateway=none", "blu: there is no bridge 'blu': did you mean 'blue'?"),
        ("blue:", "bridge set blue:: which keys?"),
        ("blue:gateway", "'gateway' is not KEY=VALUE"),
        ("blue", "bridge set blue: which keys? write bridge set blue:KEY=VALUE; keys are mac-table-size, "),
        ("blue:mac-table-size=5", "mac-table-size is a number from 10 to 1000000, not '5'"),
        ("blue:routing=some", "unknown routing 'some'"),
        ("blue:colour=none", "unknown key 'colour'"),
    ] {
        let said = changed(&now, now.with_bridge_set(words)).unwrap_err();
        assert!(said.contains(say), "{said}");
    }
}

#[test]
fn a_bridge_keeps_its_number() {
    let now = done(&running(), running().with_bridge("zeta"));
    assert_eq!(names(&now), [(0, "lab"), (1, "zeta")]);
    let with_port = done(&now, now.with_port("b:bridge=zeta"));
    assert_eq!(with_port.config.ports[1].bridge, 1);
    // The file gets a bridge whose name is before the others.
    let file = format!("{FILE}[[bridge.br0.port]]\ntap = 'c'\n");
    let (applied, lines) = changed(&with_port, Ok(with_port.beside("v.toml", &file, &[]).unwrap())).unwrap();
    assert_eq!(lines, ["+ bridge br0", "+ port c: all VLANs, on br0"]);
    assert_eq!(names(&applied), [(2, "br0"), (0, "lab"), (1, "zeta")]);
    let without = done(&applied, applied.without_port("b"));
    let without = done(&without, without.without_bridge("zeta"));
    assert_eq!(names(&done(&without, without.with_bridge("new"))), [(2, "br0"), (0, "lab"), (1, "new")]);
}

#[test]
fn what_a_verb_made_is_not_the_files() {
    let now = done(&running(), running().with_bridge("blue:gateway=10.71.0.1/24"));
    let now = done(&now, now.with_port("b:bridge=blue:vlan=7"));
    let now = done(&now, now.with_tunnel("vni=7,remote=192.0.2.2,bridge=blue"));
    let (_, lines) = changed(&now, Ok(now.beside("v.toml", FILE, &[]).unwrap())).unwrap();
    assert_eq!(lines, [""; 0], "a file that is applied leaves it alone");
    let said = now.beside("v.toml", &format!("{FILE}[bridge.blue]\n"), &[]).unwrap_err().to_string();
    assert!(
        said.starts_with("v.toml:7: bridge blue is there already, and is not the file's, but made by 'bridge add blue:"),
        "{said}"
    );
    // All that is not the file's goes if the file is all there is to be.
    let (_, lines) = changed(&now, Ok(running())).unwrap();
    let kinds: Vec<&str> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(kinds, ["- bridge blue", "- gateway 10.71.0.1/24 on blue", "- port b", "- tunnel vxlan7"]);
}

#[test]
fn an_uplink_of_a_bridge_stays_on_it() {
    let flags = [Flag::new("--tap", "a"), Flag::new("--uplink", "eth0"), Flag::new("--uplink-mode", "bridge")];
    let now = Desired::of_flags(&flags).unwrap();
    let (with, lines) = changed(&now, now.with_bridge("blue")).unwrap();
    assert_eq!(lines, ["+ bridge blue"]);
    assert_eq!(changed(&with, with.without_bridge("blue")).unwrap().1, ["- bridge blue"]);
    let of = |bridge: &str| {
        let text =
            format!("[[bridge.{bridge}.port]]\ntap = 'a'\n[uplink]\ninterface = 'eth0'\nmode = 'bridge'\nbridge = '{bridge}'\n");
        Desired::of_text("v.toml", &text, &[]).unwrap()
    };
    assert!(changed(&of("br0"), Ok(of("lan"))).unwrap_err().contains("this needs a restart: uplink is "));
}

#[test]
fn a_files_tunnel_is_on_a_bridge_of_the_file() {
    let now = done(&running(), running().with_bridge("blue"));
    let tunnel = "[[tunnel]]\ntype = 'vxlan'\nvni = 7\nbridge = 'blue'\nremotes = ['192.0.2.2']\n";
    let said = now.beside("v.toml", &format!("{FILE}{tunnel}"), &[]).unwrap_err().to_string();
    assert!(said.starts_with("v.toml:7: bridge blue is not the file's, but made by 'bridge add blue'"), "{said}");
}

#[test]
fn the_gateway_by_default_reaches_what_its_bridge_says() {
    let now = Desired::of_flags(&[Flag::new("--uplink", "eth0")]).unwrap();
    let (_, lines) = changed(&now, now.with_bridge_set("br0:routing=none")).unwrap();
    assert_eq!(lines, ["~ gateway 10.77.0.1/24: routing all -> none"]);
}

#[test]
fn the_gateway_that_an_uplink_has_by_default_stays_beside_others() {
    let now = Desired::of_flags(&[Flag::new("--uplink", "eth0")]).unwrap();
    assert_eq!(names(&now), [(0, "br0")]);
    let (with, lines) = changed(&now, now.with_bridge("blue:gateway=10.71.0.1/24")).unwrap();
    assert_eq!(lines, ["+ bridge blue", "+ gateway 10.71.0.1/24 on blue"]);
    let gateways = with.config.router.unwrap().gateways;
    assert_eq!(gateways.iter().map(|gateway| gateway.address.to_string()).collect::<Vec<_>>(), ["10.71.0.1/24", "10.77.0.1/24"]);
    let said = now.with_bridge("blue:gateway=10.77.1.1/16").unwrap_err().to_string();
    assert!(said.contains("10.77.0.0/16 overlaps with 10.77.0.0/24 of gateway 10.77.0.1/24"), "{said}");
    let own = done(&now, now.with_bridge_set("br0:gateway=10.5.0.1/24"));
    assert_eq!(own.config.router.unwrap().gateways.len(), 1);
}
