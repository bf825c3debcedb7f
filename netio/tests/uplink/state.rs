//! Link, addresses and routes of an uplink, and notifications of changes.

use std::net::Ipv4Addr;

use libtest_mimic::Trial;
use netio::link::{self, Change};
use netio::route::{self, Limits, MAX_ROUTES, Route, UplinkState, Watch, uplink_state};

use crate::host::{Host, address, bare_pair, pair, until};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("link_addresses_and_routes", link_addresses_and_routes),
        trial("carrier_is_part_of_up", carrier_is_part_of_up),
        trial("routes_beyond_the_limit_are_left_out", routes_beyond_the_limit_are_left_out),
        trial("changes_are_reported", changes_are_reported),
    ]
}

fn state(host: &Host) -> UplinkState {
    host.inside(|| uplink_state(host.name)).expect("an interface")
}

fn route(prefix: [u8; 4], prefix_len: u8, gateway: Option<Ipv4Addr>, metric: u32) -> Route {
    Route { prefix: prefix.into(), prefix_len, gateway, metric, limits: Limits::default() }
}

fn link_addresses_and_routes() {
    let (near, _far) = bare_pair();
    assert_eq!(near.inside(|| uplink_state("none")), None);
    let empty = state(&near);
    assert_eq!((empty.up, &empty.addresses[..], &empty.routes[..], empty.mtu), (false, &[][..], &[][..], 1500));

    near.configure(1);
    near.change(Change { mtu: Some(1400), ..Change::default() });
    let index = near.link().index;
    near.inside(|| {
        link::add_address(index, address(7).into(), 24)?;
        link::add_address(index, Ipv4Addr::new(203, 0, 113, 9).into(), 32)?;
        route::add(index, route([0, 0, 0, 0], 0, Some(address(254)), 100))?;
        route::add(index, route([10, 0, 0, 0], 8, Some(address(253)), 0))?;
        route::add(index, route([10, 0, 0, 0], 8, Some(address(252)), 5))?;
        route::add(index, route([172, 16, 0, 0], 12, None, 0))?;
        // Another interface's are not ours.
        link::add_pair("other0", "other1", None)?;
        let other = link::get("other0")?.index;
        link::set(other, Change { up: Some(true), ..Change::default() })?;
        link::set(link::get("other1")?.index, Change { up: Some(true), ..Change::default() })?;
        link::add_address(other, Ipv4Addr::new(198, 51, 100, 1).into(), 24)?;
        route::add(other, route([192, 168, 0, 0], 16, None, 0))
    });
    let full = state(&near);
    assert_eq!((full.index, full.name.as_str(), full.mtu, full.mac), (index, "up0", 1400, near.link().mac));
    assert_eq!(full.addresses, [(address(1), 24), (Ipv4Addr::new(203, 0, 113, 9), 32), (address(7), 24)], "primary first");
    let routes = [
        route([0, 0, 0, 0], 0, Some(address(254)), 100),
        route([10, 0, 0, 0], 8, Some(address(253)), 0),
        route([10, 0, 0, 0], 8, Some(address(252)), 5),
        route([172, 16, 0, 0], 12, None, 0),
        route([192, 0, 2, 0], 24, None, 0),
    ];
    assert_eq!((&full.routes[..], full.routes_left_out), (&routes[..], 0));
}

fn carrier_is_part_of_up() {
    let (near, far) = pair();
    until("up", || state(&near).up.then_some(()));
    far.change(Change { up: Some(false), ..Change::default() });
    until("no carrier", || (!state(&near).up).then_some(()));
    assert!(near.link().up, "set up all the same");
    assert_eq!(state(&near).routes.len(), 1, "carrier may come back");
    near.change(Change { up: Some(false), ..Change::default() });
    assert_eq!((state(&near).routes.len(), state(&near).addresses.len()), (0, 1));
}

fn routes_beyond_the_limit_are_left_out() {
    let (near, _far) = pair();
    let index = near.link().index;
    let prefix = |number: usize| [10, (number >> 8) as u8, number as u8, 0];
    near.inside(|| {
        (0..MAX_ROUTES + 50).try_for_each(|number| route::add(index, route(prefix(number), 24, Some(address(2)), 0)))?;
        route::add(index, route([0, 0, 0, 0], 0, Some(address(254)), 0))?;
        route::add(index, route([224, 0, 0, 0], 4, None, 0))
    });
    let state = state(&near);
    assert_eq!((state.routes.len(), state.routes_left_out), (MAX_ROUTES, 50 + 3));
    assert_eq!(state.routes[0].prefix_len, 0, "the shortest are kept");
    assert_eq!(state.routes[1].prefix_len, 4);
}

fn changes_are_reported() {
    let (near, _far) = pair();
    let index = near.link().index;
    let watch = near.inside(Watch::new);
    let quiet = || until("an end of news", || (!watch.drain().expect("a look")).then_some(()));
    let news = |what: &str| until(what, || watch.drain().expect("a look").then_some(()));
    quiet();
    near.inside(|| link::add_address(index, address(9).into(), 24));
    news("an address");
    quiet();
    near.inside(|| link::delete_address(index, address(9).into(), 24));
    news("an address less");
    quiet();
    near.inside(|| route::add(index, route([10, 0, 0, 0], 8, Some(address(254)), 0)));
    news("a route");
    quiet();
    near.change(Change { mtu: Some(1300), ..Change::default() });
    news("an MTU");
    quiet();
    near.inside(|| link::delete(index));
    news("a link less");
    quiet();
}
