//! Ports that verbs add, and find by their ids.

use super::*;
use crate::flags::Flag;
use crate::plan::Change;

const FILE: &str = "[[bridge.br0.port]]\ntap = 'a'\nid = 'first'\n[[bridge.lab.port]]\ntap = 'b'\n";

fn running() -> Desired {
    Desired::of_text("v.toml", FILE, &[]).unwrap()
}

/// The lines of the change, or the problems.
fn changes(from: &Desired, to: Result<Desired, EditError>) -> Result<Vec<String>, String> {
    let mut to = to.map_err(|error| error.to_string())?;
    let plan = to.plan_from(from).map_err(|error| error.to_string())?;
    Ok(plan.changes.iter().map(Change::to_string).collect())
}

fn applied(now: &Desired, file: &str) -> Result<Vec<String>, String> {
    changes(now, Ok(now.beside("v.toml", file, &[]).map_err(|problems| problems.to_string())?))
}

#[test]
fn a_port_is_found_by_its_id() {
    let id = "docker:78d5 / a+b=c,d";
    let now = running().with_port(&format!("c:bridge=lab:id=\"{id}\":labels=app@web+tier@:vlan=7")).unwrap();
    let port = now.config.ports.iter().find(|port| port.name == "c").unwrap();
    assert_eq!(port.identity.id.as_deref(), Some(id));
    assert_eq!(port.identity.labels, [("app".to_owned(), "web".to_owned()), ("tier".to_owned(), String::new())]);
    let line = format!("port c: access VLAN 7, guarded, id {id}, label app=web, label tier=, on lab");
    assert_eq!(changes(&running(), Ok(now.clone())).unwrap(), [format!("+ {line}")]);
    assert_eq!(changes(&now, now.without_port_of_id(id)).unwrap(), [format!("- {line}")]);
    assert_eq!(changes(&now, now.without_port_of_id("first")).unwrap(), ["- port a: all VLANs, guarded, id first, on br0"]);
    let said = now.without_port_of_id("frist").unwrap_err().to_string();
    assert_eq!(said, "frist: there is no such port with this id; did you mean 'first'?");
    // All places for the guests of one socket are one port.
    let guests = running().with_port("stream:/run/x:guests=3:id=vms").unwrap();
    assert_eq!(guests.config.ports.len(), 5);
    assert_eq!(guests.without_port_of_id("vms").unwrap().config.ports.len(), 2);
}

#[test]
fn an_id_is_one_ports() {
    let now = running().with_port("c:id=web").unwrap();
    for (words, say) in [
        ("d:id=web", "port add d:id=web: id web is that of port c: use another id, or remove it first with 'port del --id'"),
        ("d:id=first", "port add d:id=first: id first is that of port a: use another id"),
        ("d:id=", "port add d:id=: id is empty: write 1 to 255 characters, or leave it out"),
        ("d:id=\u{7}", "has a character that is not printable ASCII"),
        ("d:id=\u{e9}", "has a character that is not printable ASCII"),
        ("d:labels=app", "'app' is not NAME@VALUE, such as app@web"),
    ] {
        let said = now.with_port(words).unwrap_err().to_string();
        assert!(said.contains(say), "{said}");
    }
    let said = Desired::of_text("v.toml", &FILE.replace("'b'", "'b'\nid = 'first'"), &[]).unwrap_err().to_string();
    assert_eq!(said, "v.toml:6: id first is that of another port, 'v.toml:1': use another id");
    let (fits, long) = ("x".repeat(255), "x".repeat(256));
    assert!(now.with_port(&format!("d:id={fits}")).is_ok());
    let said = now.with_port(&format!("d:id={long}")).unwrap_err().to_string();
    assert!(said.ends_with("id has 256 bytes, and there is room for 255: use a shorter one"), "{said}");
}

#[test]
fn a_port_with_an_id_is_its_makers() {
    let now = running().with_port("c:id=web:vlan=7").unwrap().with_port("d:bridge=lab:id=db").unwrap().with_port("e").unwrap();
    assert_eq!(applied(&now, FILE).unwrap(), ["- port e: all VLANs, on br0"], "without an id it is the file's");
    for (file, say) in [
        (
            FILE.replace("'a'", "'c'"),
            "v.toml:1: c is there already, and is not the file's, but made by 'port add c:id=web:vlan=7': use another one, or remove \
             the port first with 'port del --id web', or use apply --prune",
        ),
        (FILE.replace("'first'", "'web'"), "v.toml:3: id web is there already, and is not the file's, but made by 'port add c:"),
        (FILE.replace("'first'", "'db'"), "v.toml:3: id db is there already, and is not the file's, but made by 'port add d:"),
        (FILE.replace("bridge.lab", "bridge.new"), "v.toml: bridge lab is not there, but has the port with the id db"),
    ] {
        let said = applied(&now, &file).unwrap_err();
        assert!(said.starts_with(say), "{said}");
    }
    let pruned = changes(&now, Ok(running())).unwrap();
    assert_eq!(
        pruned,
        [
            "- port c: access VLAN 7, guarded, id web, on br0",
            "- port e: all VLANs, on br0",
            "- port d: all VLANs, guarded, id db, on lab"
        ]
    );
    // Flags are read again beside the file, and br0 may be theirs alone.
    let flags = [Flag::new("--tap", "a")];
    let now = Desired::of_text("v.toml", "", &flags).unwrap().with_port("c:id=web").unwrap();
    let mut again = now.beside("v.toml", "[bridge.lab]\n", &flags).unwrap();
    assert_eq!(again.plan_from(&now).unwrap().changes.len(), 1, "a bridge, and no port");
    assert_eq!(now.beside("v.toml", "", &[]).unwrap().config.ports.len(), 1);
    // A bridge that the port itself brings.
    let lab = Desired::of_text("v.toml", "[bridge.lab]\n[[bridge.lab.port]]\ntap = 'a'\n[[bridge.lab.port]]\ntap = 'b'\n", &[]);
    let with = lab.unwrap().with_port("c:id=web").unwrap();
    assert!(with.document.bridges().all(|(name, keys)| made_by_verbs(keys).count() == usize::from(name.value == "br0")));
}

#[test]
fn keys_of_a_port_are_set_and_taken_away() {
    let file = format!("{FILE}[[bridge.lab.port]]\nstream = '/run/x'\nguests = 3\n");
    let now = Desired::of_text("v.toml", &file, &[]).unwrap().with_port("c:id=web:vlan=7:guard=10.0.0.5").unwrap();
    let c = "port c: access VLAN 7, addresses 10.0.0.5, guarded, id web";
    let c_on = |keys: &str| format!("~ {c}, on br0 -> {keys}, id web, on br0");
    for (name, keys, lines) in [
        ("c", "vlan=8", c_on("access VLAN 8, addresses 10.0.0.5, guarded")),
        ("c", "vlan=none:trunks=1+2", c_on("trunk VLANs 1+2, addresses 10.0.0.5, guarded")),
        ("c", "guard=off", c_on("access VLAN 7")),
        ("c", "guard=none:addresses=10.0.0.6", c_on("access VLAN 7, addresses 10.0.0.6, guarded")),
        ("c", "addresses=10.0.0.6", c_on("access VLAN 7, addresses 10.0.0.6, guarded")),
        ("c", "guard=fd00::5:isolated=on", c_on("access VLAN 7, addresses fd00::5, guarded, isolated")),
        (
            "c",
            "mac=52:54:00:00:00:01:mtu=1400",
            c_on("access VLAN 7, mtu 1400, mac 52:54:00:00:00:01, addresses 10.0.0.5, guarded"),
        ),
        ("c", "limit-broadcast=5", c_on("access VLAN 7, broadcast 5/s, addresses 10.0.0.5, guarded")),
        ("a", "id=none", "~ port a: all VLANs, guarded, id first, on br0 -> all VLANs, on br0".to_owned()),
        ("b", "offload=off", "! port b: all VLANs, on lab -> all VLANs, no offload, on lab".to_owned()),
        ("b", "bridge=br0", "~ port b: all VLANs, on lab -> all VLANs, on br0".to_owned()),
        (
            "/run/x",
            "vlan=4",
            "~ port /run/x#1..3: all VLANs, mtu 1500, 3 guests, on lab -> access VLAN 4, mtu 1500, 3 guests, on lab".to_owned(),
        ),
    ] {
        let lines_now = changes(&now, now.with_port_set(name, keys)).unwrap();
        assert_eq!(lines_now.first(), Some(&lines), "{name} {keys}");
    }
    assert_eq!(
        changes(&now, now.with_port_of_id_set("web", "vlan=8")).unwrap(),
        [c_on("access VLAN 8, addresses 10.0.0.5, guarded")]
    );
    // It stays its maker's.
    let set = now.with_port_of_id_set("web", "vlan=8").unwrap();
    assert_eq!(applied(&set, &file).unwrap(), [""; 0]);
    let limits = now.with_port_set("c", "limit-broadcast=5").unwrap().with_port_set("c", "limit-broadcast=none").unwrap();
    assert_eq!(changes(&now, Ok(limits)).unwrap(), [""; 0]);
    for (name, keys, say) in [
        ("d", "vlan=1", "d: there is no such port"),
        ("c", "", "port set c : which keys? Write KEY=VALUE"),
        ("c", "vlan", "port set c vlan: 'vlan' is not KEY=VALUE"),
        ("c", "tap=d", "tap says which port it is, and cannot change: add another port, and remove this one"),
        ("c", "vlna=1", "unknown key 'vlna': did you mean 'vlan'?"),
        ("c", "guests=1", "unknown key 'guests'"),
        ("c", "vlan=5000", "vlan is a number from 1 to 4094, not '5000'"),
        ("c", "trunks=1", "an access port has no trunks"),
        ("c", "bridge=lub", "there is no bridge 'lub': did you mean 'lab'?"),
        ("c", "id=first", "id first is"),
        ("/run/x#2", "vlan=4", "it is one of several places for guests: all of them are /run/x, and guests= is their number"),
    ] {
        let said = changes(&now, now.with_port_set(name, keys)).unwrap_err();
        assert!(said.contains(say), "{said}");
    }
    let said = changes(&now, now.with_port_of_id_set("wbe", "vlan=4")).unwrap_err();
    assert_eq!(said, "wbe: there is no such port with this id; did you mean 'web'?");
}

#[test]
fn ports_whose_devices_are_gone_are_taken_out() {
    let desired = Desired::of_text("v.toml", "[[bridge.br0.port]]\ntap = 'a'\n[[bridge.br0.port]]\ntap = 'b'\n", &[]).unwrap();
    let desired = desired.with_port("a@blue:transient=on:id=x").unwrap().with_port("stream:/run/g").unwrap();
    let ports = &desired.config.ports;
    let gone: Vec<&Port> = ports.iter().filter(|port| ["a", "a@blue"].contains(&port.full_name().as_str())).collect();
    assert_eq!(gone.len(), 2);
    let left = desired.without_ports(&gone).unwrap();
    assert_eq!(left.config.ports.iter().filter_map(Port::title).collect::<Vec<_>>(), ["b", "/run/g#1..16"]);
    let set = desired.with_port_set("b", "wait=on:transient=on").unwrap();
    let b = set.config.ports.iter().find(|port| port.name == "b").map(|port| port.absence);
    assert_eq!(b, Some(crate::port::Absence { waits: true, is_transient: true }));
}

/// Each key of a port in docs/config.md, with a value, and the kinds that have it: `port set` takes it, unless it says which port it is.
#[test]
fn every_key_is_set() {
    const PORTS: [&str; 4] = ["t", "packet:lo", "stream:/run/s", "dgram:/run/d"];
    let page = include_str!("../../../docs/config.md");
    let tables = page.split("## `[[bridge.NAME.port]]`").nth(1).and_then(|rest| rest.split("## `[uplink]`").next()).unwrap();
    let cells = |line: &'static str| line.split('|').map(str::trim).collect::<Vec<_>>();
    let rows = tables.lines().filter(|line| line.starts_with("| `")).map(cells);
    let mut now = Desired::of_text("v.toml", "[bridge.br0]\n[bridge.lab]\n", &[]).unwrap();
    for port in PORTS {
        now = now.with_port(port).unwrap();
    }
    let mut count = 0;
    for row in rows {
        let (key, flag) = (row[1].trim_matches('`'), row[row.len() - 2]);
        let value = match key {
            "tap" | "packet" | "stream" | "dgram" | "netns" => {
                let said = now.with_port_set("t", &format!("{key}=x")).unwrap_err().to_string();
                assert!(said.contains("says which port it is, and cannot change"), "{said}");
                continue;
            }
            "limit" => continue,
            "id" => "id=web",
            "labels" => "labels=app@shop",
            "mac" => "mac=52:54:00:00:00:01",
            "addresses" => "addresses=10.0.0.5",
            "guard" => "guard=10.0.0.5",
            "vlan" => "vlan=7",
            "trunks" => "trunks=7+8",
            "vlan-mode" => "vlan-mode=trunk",
            "mtu" => "mtu=1400",
            "gro" => "gro=neighbours",
            "attach" => "attach=auto",
            "guests" => "guests=2",
            "mode" => "mode=client",
            "remote" => "remote=/run/r",
            "broadcast" | "multicast" | "unknown" => "limit-{key}=5",
            "isolated" | "wait" | "transient" | "offload" => "{key}=on",
            other => panic!("a value for the key {other}"),
        };
        let word = value.replace("{key}", key);
        let (name, _) = word.split_once('=').unwrap();
        assert!(flag.contains(&format!("{name}=")), "{row:?}");
        let set = PORTS
            .iter()
            .filter_map(|port| now.with_port_set(port, &word).ok()?.with_port_set(port, &format!("{name}=none")).ok());
        count += 1;
        let of_kinds = set.count();
        assert!(of_kinds > 0 && (of_kinds < PORTS.len()) == row[2].starts_with("for `"), "{word} for {of_kinds} kinds, {row:?}");
    }
    assert!(count > 20, "{count}");
    assert!(now.with_port_set("t", "bridge=lab").is_ok());
}
