use crate::{Action, Config, Desired, Flag, Plan};

const BLUE: &str = "[bridge.blue]\ngateway = '10.71.0.1/24'\n[[bridge.blue.port]]\ntap = 'b1'\nguard = ['10.71.0.9']\n\
    [[bridge.blue.port]]\ntap = 'b2'\nguard = ['10.71.0.8']\n[bridge.red]\ngateways = { 5 = '10.72.0.1/24', 6 = '10.73.0.1/24' }\n";

fn read(text: &str) -> Desired {
    Desired::of_text("v.toml", text, &[]).unwrap_or_else(|problems| panic!("{problems}"))
}

fn routes(config: &Config) -> Vec<String> {
    let routes = config.router.iter().flat_map(|router| &router.routes);
    routes.map(|route| format!("{route}{}", config.on(route.bridge))).collect()
}

fn with(words: &[&str]) -> Result<Desired, String> {
    let flags: Vec<Flag> = words.iter().map(|word| Flag::new("--route", *word)).collect();
    Desired::of_text("v.toml", BLUE, &flags).map_err(|problems| problems.to_string())
}

#[test]
fn a_file_and_flags_say_the_same() {
    let table = "[[route]]\nto = '10.9.0.0/16'\nvia = '10.71.0.9'\nbridge = 'blue'\nno-nat = true\n[[route]]\nto = '10.10.0.0/16'\n\
        via = '10.73.0.2'\nbridge = 'red'\n";
    let file = read(&format!("{BLUE}{table}"));
    let flags = with(&["10.9.0.0/16:via=10.71.0.9:bridge=blue:no-nat=on", "10.10.0.0/16:via=10.73.0.2:bridge=red"]).unwrap();
    let expected = ["10.9.0.0/16 via 10.71.0.9, not translated, on blue", "10.10.0.0/16 via 10.73.0.2, on red"];
    assert_eq!(routes(&file.config), expected);
    assert!(file.plan_to_itself(&flags) && file.plan_to_itself(&read(&flags.to_toml())), "{}", flags.to_toml());
    assert!(file.config.router_summary().contains("\nroute 10.9.0.0/16 via 10.71.0.9, not translated on blue\n"));
}

#[test]
fn what_is_in_the_way_is_named() {
    for (words, said) in [
        (&["10.9.0.0/16"][..], "a route is NETWORK:via=ADDRESS"),
        (&["10.9.0.1/16:via=10.71.0.9:bridge=blue"], "10.9.0.1/16 is an address, not a network: write 10.9.0.0/16"),
        (&["10.9.0.0/16:via=10.71.0.9:bridge=blu"], "there is no bridge 'blu': did you mean 'blue'?"),
        (&["10.9.0.0/16:via=10.72.0.9:bridge=blue"], "10.72.0.9 is in no gateway's network of bridge blue (10.71.0.0/24)"),
        (
            &["10.9.0.0/16:via=10.74.0.9:bridge=red"],
            "10.74.0.9 is in no gateway's network of bridge red (10.72.0.0/24, 10.73.0.0/24)",
        ),
        (&["10.9.0.0/16:via=10.71.0.1:bridge=blue"], "10.71.0.1 is the gateway itself of 10.71.0.0/24"),
        (&["10.9.0.0/16:via=10.71.0.255:bridge=blue"], "10.71.0.255 is the broadcast address of 10.71.0.0/24"),
        (
            &["10.72.0.0/30:via=10.71.0.9:bridge=blue"],
            "10.72.0.0/30 overlaps with 10.72.0.0/24 of gateway 10.72.0.1/24 on VLAN 5 on red",
        ),
        (&["10.64.0.0/10:via=10.71.0.9:bridge=blue"], "10.64.0.0/10 overlaps with 10.71.0.0/24 of gateway 10.71.0.1/24 on blue"),
        (
            &["10.9.0.0/16:via=10.71.0.9:bridge=blue", "10.9.0.0/16:via=10.72.0.9:bridge=red"],
            "there is a route 10.9.0.0/16 via 10.71.0.9 on blue already",
        ),
        (&["10.9.0.0/16:via=10.71.0.9:bridge=blue:metric=5"], "unknown key 'metric'"),
    ] {
        let problems = with(words).expect_err(said);
        assert!(problems.contains(said), "{words:?}: {problems}");
    }
    let uplink = |more: &str| {
        Desired::of_text("v.toml", &format!("{BLUE}[uplink]\ninterface = 'eth0'\n{more}"), &[])
            .map_err(|problems| problems.to_string())
    };
    let route = "[[route]]\nto = '10.9.0.0/16'\nvia = '10.71.0.9'\nbridge = 'blue'\n";
    assert!(uplink(route).is_ok());
    let said = uplink(&format!("{route}no-nat = true\n")).unwrap_err();
    assert!(said.starts_with("v.toml:17: no-nat needs an own address on eth0"), "{said}");
    let said = uplink(&format!("address = '10.9.3.2/24'\n{route}")).unwrap_err();
    assert!(said.contains("route 10.9.0.0/16 via 10.71.0.9 overlaps with 10.9.3.0/24, the uplink's"), "{said}");
    assert!(uplink(&format!("address = '192.0.2.2/24'\n{route}no-nat = true\n")).is_ok());
    // What is behind a guest can be published.
    assert!(uplink(&format!("{route}[[publish]]\nlisten = '80'\nto = '10.9.0.2:80'\n")).is_ok());
    assert!(uplink("[[publish]]\nlisten = '80'\nto = '10.9.0.2:80'\n").is_err());
}

#[test]
fn verbs_add_and_remove_them() {
    let start = read(BLUE);
    let now = start.with_route("10.9.0.0/16:via=10.71.0.9:bridge=blue").unwrap();
    let now = now.with_route("10.10.0.0/16:via=10.72.0.9:bridge=red").unwrap();
    assert_eq!(routes(&now.config), ["10.9.0.0/16 via 10.71.0.9, on blue", "10.10.0.0/16 via 10.72.0.9, on red"]);
    let said = now.with_route("10.9.0.0/16:via=10.71.0.8:bridge=blue").unwrap_err().to_string();
    assert!(said.starts_with("route add 10.9.0.0/16:via=10.71.0.8:bridge=blue: there is a route"), "{said}");
    assert!(now.without_route("10.9.0.0/17").is_err() && now.without_route("10.9.0.0/16:via=10.71.0.8:bridge=blue").is_err());
    let rest = now.without_route("10.9.0.0/16").unwrap().without_route("10.10.0.0/16:via=10.72.0.9:bridge=red").unwrap();
    assert!(start.plan_to_itself(&rest));
    // They are the configuration's.
    assert!(routes(&now.beside("v.toml", BLUE, &[]).unwrap().config).is_empty());
    assert!(now.owned().is_empty());
    let said = now.without_bridge("red").unwrap_err().to_string();
    assert!(said.contains("bridge red has route 10.10.0.0/16: remove them first"), "{said}");
    let said = now.with_bridge_set("blue:gateway=10.74.0.1/24").unwrap_err().to_string();
    assert!(said.contains("10.71.0.9 is in no gateway's network of bridge blue (10.74.0.0/24)"), "{said}");
}

#[test]
fn those_of_a_verbs_bridge_are_its_owners() {
    let start = read(BLUE);
    let now = start.with_bridge("green:gateway=10.75.0.1/24").unwrap();
    let now = now.with_route("10.9.0.0/16:via=10.75.0.9:bridge=green").unwrap();
    assert_eq!(routes(&now.beside("v.toml", BLUE, &[]).unwrap().config).len(), 1);
    let next = start.with_owned("state.json", &now.owned(), &|_| None).unwrap();
    assert_eq!(next.left_out, []);
    let next = next.desired;
    assert_eq!((routes(&next.config), next.owned()), (routes(&now.config), now.owned()));
    assert!(routes(&next.without_route("10.9.0.0/16").unwrap().without_bridge("green").unwrap().config).is_empty());
    let file = format!("{BLUE}[[route]]\nto = '10.10.0.0/16'\nvia = '10.75.0.9'\nbridge = 'green'\n");
    let said = now.beside("v.toml", &file, &[]).unwrap_err().to_string();
    assert!(said.contains("bridge green is not the file's, but made by 'bridge add green"), "{said}");
}

#[test]
fn a_plan_has_a_line_for_each() {
    let route = |to: &str, via: &str| format!("[[route]]\nto = '{to}'\nvia = '{via}'\nbridge = 'blue'\n");
    let before = read(&[BLUE, &route("10.9.0.0/16", "10.71.0.9"), &route("10.10.0.0/16", "10.71.0.9")].concat());
    let mut after = read(&[BLUE, &route("10.9.0.0/16", "10.71.0.8"), &route("10.11.0.0/16", "10.71.0.7")].concat());
    let plan = Plan::between(&before, &mut after).unwrap();
    let lines: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    assert!(plan.reroutes);
    assert_eq!(
        lines,
        [
            "- route 10.10.0.0/16: via 10.71.0.9, on blue",
            "~ route 10.9.0.0/16: via 10.71.0.9, on blue -> via 10.71.0.8, on blue",
            "+ route 10.11.0.0/16: via 10.71.0.7, on blue",
            "~ port b1: all VLANs, addresses 10.71.0.9, behind it 10.9.0.0/16+10.10.0.0/16, guarded, on blue -> all VLANs, addresses \
         10.71.0.9, guarded, on blue",
            "~ port b2: all VLANs, addresses 10.71.0.8, guarded, on blue -> all VLANs, addresses 10.71.0.8, behind it 10.9.0.0/16, guarded, \
         on blue",
        ]
    );
    let mut same = before.clone();
    let plan = Plan::between(&before, &mut same).unwrap();
    assert!(!plan.reroutes && plan.is_empty() && !plan.changes.iter().any(|change| change.action == Action::Alter));
}

#[test]
fn a_guard_opens_for_what_is_behind_its_guest_alone() {
    let words = [
        "10.9.0.0/16:via=10.71.0.9:bridge=blue",
        "10.9.64.0/18:via=10.71.0.8:bridge=blue",
        "10.9.64.0/20:via=10.71.0.9:bridge=blue",
    ];
    let config = with(&words).unwrap().config;
    let behind = |name: &str| {
        let port = config.ports.iter().find(|port| port.name == name).unwrap();
        port.station.behind.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(behind("b1"), ["10.9.0.0/18", "10.9.64.0/20", "10.9.128.0/17"]);
    assert_eq!(behind("b2"), ["10.9.80.0/20", "10.9.96.0/19"]);
    // A port that has the guest among its networks, and one of another bridge.
    let text = "[bridge.blue]\ngateway = '10.71.0.1/24'\n[[bridge.blue.port]]\ntap = 'wide'\nguard = ['10.71.0.0/28']\n\
        [bridge.red]\ngateway = '10.72.0.1/24'\n[[bridge.red.port]]\ntap = 'other'\nguard = ['10.71.0.9']\n\
        [[route]]\nto = '10.9.0.0/16'\nvia = '10.71.0.9'\nbridge = 'blue'\n";
    let of = |name: &str| read(text).config.ports.iter().find(|port| port.name == name).unwrap().station.behind.len();
    assert_eq!((of("wide"), of("other")), (1, 0));
}
