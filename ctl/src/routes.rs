//! Routes to networks behind guests.

use crate::table::Table;

/// The routes.
#[expect(clippy::ptr_arg, reason = "it is the type that the answer is read as")]
pub(crate) fn list(routes: &Vec<api::Route>) -> String {
    table(routes).to_string()
}

/// A row for each route.
pub(crate) fn table(routes: &[api::Route]) -> Table {
    let mut table = Table::new(["route", "via", "bridge", ">vlan", "outside"]);
    for route in routes {
        let vlan = if route.vlan == 0 { "-".to_owned() } else { route.vlan.to_string() };
        let outside = if route.no_nat { "not translated" } else { "translated" }.to_owned();
        table.row([route.to.clone(), route.via.clone(), route.bridge.clone(), vlan, outside]);
    }
    table
}
