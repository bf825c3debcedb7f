//! Faults of files: each with its line and the fix, and all of them at once.

use super::*;

/// Ten faults of different kinds, in lines that the test counts.
const TEN_FAULTS: &str = "\
workers = 0
busy-pol = 50
[bridge.br0]
mac-table-size = \"many\"
gateway = \"10.77.0.1\"
[[bridge.br0.port]]
tap = \"tap0\"
vlan = 4095
[[bridge.br0.port]]
tap = \"tap1\"
[[bridge.br0.port]]
tap = \"tap1\"
[uplink]
interface = \"eth0\"
mode = \"brigde\"
[[publish]]
listen = \"80-90\"
to = \"10.77.0.2:80\"
[[tunnel]]
type = \"vxlan\"
vni = 42
remotes = [
    \"192.0.2.2\",
    \"192.0.2\",
]
[control]
path = /run/vswitchd.sock
";

#[test]
fn ten_faults_are_ten_problems_at_their_lines() {
    let said = file(TEN_FAULTS).unwrap_err();
    let expected = [
        (1, "workers is a number from 1 to 256, not 0"),
        (2, "unknown key 'busy-pol': did you mean 'busy-poll'?"),
        (4, "mac-table-size is a number, not the text \"many\""),
        (5, "10.77.0.1 has no prefix length: add one, such as 10.77.0.1/24"),
        (8, "vlan is a number from 1 to 4094, not 4095"),
        (11, "tap1 is named twice: leave one of both out"),
        (15, "unknown mode 'brigde': did you mean 'bridge'?"),
        (18, "11 ports cannot become 1: give both ranges the same length"),
        (24, "'192.0.2' is not an IP address such as 192.0.2.2 or 2001:db8::2"),
        (27, ""),
    ];
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, (number, text)) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("v.toml:{number}: {text}")), "{line}");
    }
}

#[test]
fn faults_of_file_and_flags_are_told_together() {
    let said = with("workers = 0\n", &["--tap b:vlan=0", "--mac-table-size 9"]).unwrap_err();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "v.toml:1: workers is a number from 1 to 256, not 0",
            "--tap b:vlan=0: vlan is a number from 1 to 4094, not '0'",
            "--mac-table-size: mac-table-size is a number from 10 to 1000000, not '9'",
        ]
    );
}

/// The problem of each file; the port is in the first two lines of those that say `PORT`.
#[test]
fn bad_files_are_answered_with_line_and_fix() {
    for (text, say) in [
        ("[bridge.br0]\nmac-table-sise = 9", "2: unknown key 'mac-table-sise': did you mean 'mac-table-size'?"),
        ("[brigde.br0]", "1: unknown key 'brigde': did you mean 'bridge'?"),
        ("[[bridge.br0.port]]\ntap = 'a'\nvlna = 1", "3: unknown key 'vlna': did you mean 'vlan'?"),
        ("[nat]\ntimeouts = { upd = 1 }", "2: unknown key 'upd': did you mean 'udp'?"),
        ("[uplink]\niface = 'eth0'", "2: unknown key 'iface' of uplink; there are interface, mode, bridge, address, gateway"),
        ("PORT\nvlan = '10'", "4: vlan is a number, not the text \"10\""),
        ("PORT\ntrunks = 10", "4: trunks is a list in square brackets, not the number 10"),
        ("PORT\ngro = 'on'", "4: gro is true, false or \"neighbours\", not the text \"on\""),
        ("workers = 1.5", "1: workers is a number, not a number with a fraction"),
        ("[[tunnel]]\ntype = 'udp'\nttl = true", "3: ttl is inherit, or a number from 1 to 255, not true"),
        ("[uplink]\naddress = 7", "2: address is text in quotes, or a list of them, not the number 7"),
        ("PORT\nvlan = [10, 20]", "4: vlan is one VLAN, that of an access port: for several write trunks = [10, 20]"),
        ("PORT\nvlan = 4095", "4: vlan is a number from 1 to 4094, not 4095"),
        ("PORT\nlimit = 10", "4: limit is a table, not the number 10"),
        ("PORT\nlimit = { broadcast = 'no' }", "4: broadcast is frames per second, 0 to 10000000, or \"off\" for no limit"),
        ("PORT\nlimit = { multicast = -1 }", "4: multicast is frames per second, 0 to 10000000, or \"off\" for no limit"),
        ("PORT\nlimit = { brodcast = 1 }", "4: unknown key 'brodcast': did you mean 'broadcast'?"),
        ("PORT\nmtu = 10", "4: mtu is a number from 68 to 65521, not 10"),
        ("PORT\nvlan = 10\ntrunks = [20]", "1: an access port has no trunks: leave trunks out"),
        ("PORT\nvlan-mode = 'axess'", "4: unknown vlan-mode 'axess': did you mean 'access'?"),
        ("PORT\nguests = 3", "4: unknown key 'guests' of port; there are tap"),
        ("PORT\nstream = '/run/a'", "4: a port is of one kind: leave out tap or stream"),
        ("[[bridge.br0.port]]\nvlan = 3", "1: what is this port? Add tap = \"tap0\""),
        ("[[bridge.br0.port]]\ntap = 'a:vlan=3'", "2: 'a:vlan=3' cannot be an interface's name: leave out '/', ':'"),
        ("[[bridge.br0.port]]\ntap = 'a,b'", "2: 'a,b' has a ',' in it"),
        ("[[bridge.br0.port]]\ntap = 'a@blue'", "2: write tap = \"a\" and netns = \"blue\""),
        ("[[bridge.br0.port]]\npacket = 'a'\nnetns = 'blue'", "3: only a TAP is made in another namespace"),
        (
            "[[bridge.br0.port]]\nstream = '/a:guests=3'",
            "2: '/a:guests=3' has a key of a flag in it: write 'guests=3' as a key of its own",
        ),
        ("PORT\n[[bridge.br0.port]]\ntap = 'a'", "4: a is named twice"),
        ("[bridge.br0]\nmac-table-size = 9\nPORT", "2: mac-table-size is a number from 10 to 1000000, not 9"),
        ("[bridge.br0]\nmac-aging-time = -1", "2: mac-aging-time is a number from 1 to 86400, not -1"),
        ("PORT\nattach = 'own,b'", "4: unknown attach 'own,b'; there are own, auto"),
        ("PORT\nnetns = ''", "4: no namespace: write a name under /run/netns, a path, or pid:N"),
        ("PORT\nnetns = 'blue'\nattach = 'auto'", "5: attach=auto joins a TAP from its network side"),
        ("[[bridge.br0.port]]\ndgram = '/a'\nremote = '/a'", "3: remote is the guest's own socket, and this one is the switch's"),
        ("[bridge.br0.gateways]\n'1,2' = '10.0.0.1/24'\nPORT", "2: VLAN is a number from 0 to 4094, not '1,2'"),
        ("workers = 0\nPORT", "1: workers is a number from 1 to 256, not 0"),
        ("PORT[[bridge.br1.port]]\ntap = 'b'\nvlan = 4095", "5: vlan is a number from 1 to 4094, not 4095"),
        (
            "PORT[bridge.br1]\nmac-aging-time = 0\n[[bridge.br1.port]]\ntap = 'b'",
            "4: mac-aging-time is a number from 1 to 86400, not 0",
        ),
        (
            "PORT[bridge.br1]\nmac-table-size = 9\n[[bridge.br1.port]]\ntap = 'b'",
            "4: mac-table-size is a number from 10 to 1000000, not 9",
        ),
        ("PORT[bridge.'a b']\n[[bridge.'a b'.port]]\ntap = 'b'", "3: 'a b' cannot be an interface's name"),
        ("PORT[[bridge.br1.port]]\ntap = 'a'", "3: a is named twice"),
        (
            "[bridge.br0]\ngateway = '10.0.0.1/16'\nPORT[bridge.br1]\ngateway = '10.0.9.1/24'\n[[bridge.br1.port]]\ntap = 'b'",
            "6: 10.0.9.0/24 overlaps with 10.0.0.0/16 of gateway 10.0.0.1/16 of bridge br0: give each network addresses",
        ),
        (
            "[bridge.br0]\ngateway = '10.0.0.1/24'\nPORT[bridge.br1]\ngateway = '10.0.0.1/24'\n[[bridge.br1.port]]\ntap = 'b'",
            "6: 10.0.0.0/24 overlaps with 10.0.0.0/24 of gateway",
        ),
        ("PORT[uplink]\ninterface = 'e'\nmode = 'bridge'\nbridge = 'br1'", "6: there is no bridge 'br1': did you mean 'br0'?"),
        ("PORT[uplink]\ninterface = 'e'\nbridge = 'br0'", "5: an uplink in nat mode is that of all bridges"),
        (
            "[[bridge.lan.port]]\ntap = 'a'\n[uplink]\ninterface = 'e'\nmode = 'bridge'",
            "5: which bridge is the uplink a port of? There is no br0: add bridge = \"lan\"",
        ),
        (
            "PORT[[bridge.lan.port]]\ntap = 'b'\n[[tunnel]]\ntype = 'udp'\nbridge = 'lna'\nport = 7\nremotes = ['192.0.2.2']",
            "7: there is no bridge 'lna': did you mean 'lan'?",
        ),
        (
            "[[bridge.lan.port]]\ntap = 'b'\n[[tunnel]]\ntype = 'udp'\nport = 7\nremotes = ['192.0.2.2']",
            "3: which bridge is it a port of? There is no br0: add bridge = \"lan\"",
        ),
        ("PORT[[tunnel]]\ntype = 'udp-ip'\nbridge = 'br0'", "5: a tunnel of IP packets is beside the bridges: leave bridge out"),
        (
            "PORT[[bridge.lan.port]]\ntap = 'b'\n[[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['192.0.2.2']\n\
             [[tunnel]]\ntype = 'vxlan'\nbridge = 'lan'\nvni = 1\nremotes = ['192.0.2.2', '192.0.2.3']",
            "9: VNI 1 to 192.0.2.2 is tunnel vxlan1 already",
        ),
        (
            "[bridge.br0]\ngateway = '10.0.0.1/24'\ngateways = { 0 = '10.0.1.1/24' }",
            "2: gateway and gateways are two ways to say one thing",
        ),
        ("[bridge.br0]\ngateway = '10.0.0.1'\nPORT", "2: 10.0.0.1 has no prefix length"),
        (
            "[bridge.br0.gateways]\n0 = '10.0.0.1/24'\n10 = '10.0.0.2/25'\nPORT",
            "3: 10.0.0.0/25 overlaps with 10.0.0.0/24 of gateway 10.0.0.1/24",
        ),
        ("[bridge.br0.gateways]\n4095 = '10.0.0.1/24'\nPORT", "2: VLAN is a number from 0 to 4094, not '4095'"),
        (
            "[bridge.br0]\ngateway = '10.0.0.1/24'\nPORT\n[uplink]\ninterface = 'e'\naddress = '10.0.0.9/24'",
            "2: 10.0.0.0/24 of gateway 10.0.0.1/24 overlaps with 10.0.0.0/24, the uplink's",
        ),
        ("PORT\n[uplink]\nmode = 'nat'", "4: which interface? Add interface = \"eth0\""),
        ("PORT\n[uplink]\ninterface = 'a'", "5: a is a TAP port of the bridge"),
        ("PORT\n[uplink]\ninterface = 'e'\nmode = 'brige'", "6: unknown mode 'brige': did you mean 'bridge'?"),
        (
            "PORT\n[uplink]\ninterface = 'e'\nmode = 'bridge'\naddress = '192.0.2.1/24'",
            "7: an uplink in bridge mode is a plain port",
        ),
        ("PORT\n[uplink]\ninterface = 'e'\naddress = '192.0.2.1'", "6: 192.0.2.1 has no prefix length"),
        ("PORT\n[nat]\nudp = 7", "5: 'udp' is a key of [nat.timeouts]: write it there"),
        ("tap = 'a'\nPORT", "1: 'tap' is a key of a port, [[bridge.br0.port]]: write it there"),
        ("PORT[gateway]\naddress = '10.0.0.1/24'", "3: 'gateway' is a key of a bridge, [bridge.br0]: write it there"),
        ("PORT\n[nat]\nports = '1-2'", "4: there is no uplink: name its interface, such as interface = \"eth0\" in [uplink]"),
        ("PORT\n[uplink]\ninterface = 'e'\n[nat]\ntimeouts.udp = 0", "7: udp is a number from 1 to 604800, not 0"),
        ("PORT\n[[publish]]\nlisten = 80", "4: what is published? Add listen = \"8080\" and to = \"10.77.0.2:80\""),
        (
            "PORT\n[uplink]\ninterface = 'e'\n[[publish]]\nlisten = 0\nto = '10.77.0.2:80'",
            "7: a port is a number from 1 to 65535, not '0'",
        ),
        ("PORT\n[uplink]\ninterface = 'e'\n[[publish]]\nlisten = 1\nto = '10.0.0.2:1'", "8: 10.0.0.2 is in no gateway's network"),
        ("PORT\n[[tunnel]]\nvni = 1", "4: which kind? Add type = \"vxlan\""),
        ("PORT\n[[tunnel]]\ntype = 'vlan'", "5: unknown type 'vlan': did you mean 'vxlan'?"),
        ("PORT\n[[tunnel]]\ntype = 'vxlan'\nvni = 1", "4: where to? Add remotes = "),
        ("PORT\n[[tunnel]]\ntype = 'vxlan'\nbridge = 'br1'", "6: there is no bridge 'br1'"),
        ("PORT\n[[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['192.0.2.2', 'x']", "7: 'x' is not an IP address"),
        (
            "PORT\n[[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['192.0.2.2,port=1']",
            "7: '192.0.2.2,port=1' is not an IP address",
        ),
        ("PORT\n[[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = []", "7: remotes is empty"),
        ("PORT\n[[tunnel]]\ntype = 'udp'\nremotes = ['192.0.2.2']", "4: on which port? Add port"),
        (
            "[bridge.br0]\ngateway = '10.0.0.1/24'\nPORT\n[[tunnel]]\ntype = 'vxlan'\nvni = 1\nremotes = ['10.0.0.9']",
            "6: 10.0.0.9 of tunnel vxlan1 is in 10.0.0.0/24 of gateway 10.0.0.1/24",
        ),
        (
            "[control]\npath = 'none'",
            ": a switch without a control socket needs a port from the start: name at least one, such as tap = \"tap0\" in \
             [[bridge.br0.port]]",
        ),
        ("workers = ", "1: "),
        ("a b", "1: "),
        ("[bridge.br0]\n[bridge.br0]", "2: 'br0' is written twice: leave one of both out"),
        ("PORT\nvlan = 10\nvlan = 20", "5: 'vlan' is written twice: leave one of both out"),
    ] {
        let text = text.replace("PORT", PORT);
        let said = file(&text).map(|config| names(&config).join(" ")).expect_err(&text);
        let at = if say.starts_with(':') { "v.toml" } else { "v.toml:" };
        assert!(said.lines().any(|line| line.starts_with(&format!("{at}{say}"))), "\n{text}\n{said}");
    }
}
