//! The MAC tables.

use api::query::{InDomain, InVlan, MacFilter, OfBridge, Station};
use api::{Flushed, MacEntry, Problem, Refusal};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use config::unknown_bridge;
use packet::MacAddr;
use packet::vlan::VlanId;
use serde::{Serialize, Serializer};

use super::answer::{Body, InPath, Parameters, busy, refused};
use super::ask::Asker;
use super::large::Large;
use super::query::{MacTableNow, Query};

/// 4095 is reserved (IEEE 802.1Q table 9-2).
const LAST_VLAN: u16 = 4094;

/// The MAC tables
#[utoipa::path(get, path = "/v1/fdb", params(OfBridge), responses(
    (status = 200, description = "The entries, by bridge, VLAN and address", body = [MacEntry]),
    (status = 404, description = "No such bridge", body = Problem),
))]
pub(super) async fn list(
    State(asker): State<Asker>,
    _: Large,
    Parameters(OfBridge { bridge }): Parameters<OfBridge>,
) -> Result<Json<MacTableNow>, Response> {
    let mut now = asker.ask(Query::MacTable).await.ok_or_else(busy)?;
    if let Some(name) = bridge {
        let known = now.bridges.iter().map(|(bridge, _)| bridge.as_str());
        if !known.clone().any(|bridge| bridge == name) {
            return Err(refused(Refusal::not_found(unknown_bridge(&name, known)).of_field("bridge")));
        }
        now.bridges.retain(|(bridge, _)| *bridge == name);
    }
    Ok(Json(now))
}

/// Writes one entry at a time, as there may be a million.
impl Serialize for MacTableNow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let view = |bridge: &str, entry: &vswitch::MacEntry| MacEntry {
            bridge: bridge.to_owned(),
            vlan: entry.vlan.get(),
            mac: entry.mac.to_string(),
            port: self.names.get(entry.port.index()).cloned().unwrap_or_default(),
            age: entry.age,
        };
        // Each table's entries come in the order of VLANs and addresses.
        let of_each = self.bridges.iter();
        serializer.collect_seq(of_each.flat_map(|(bridge, entries)| entries.iter().map(move |entry| view(bridge, entry))))
    }
}

/// Remove learned entries; static entries stay
#[utoipa::path(delete, path = "/v1/fdb", params(MacFilter), responses(
    (status = 200, description = "The number of entries removed", body = Flushed),
    (status = 404, description = "No such port or bridge", body = Problem),
))]
pub(super) async fn flush(
    State(asker): State<Asker>,
    Parameters(MacFilter { port, vlan, bridge }): Parameters<MacFilter>,
) -> Result<Json<Flushed>, Response> {
    let vlan = vlan.map(vlan_of).transpose().map_err(refused)?;
    let flushed = asker.change(|reply| Query::FlushMacs { bridge, port, vlan, reply }).await?;
    Ok(Json(Flushed { flushed }))
}

/// Add a static entry or change its port; idempotent
#[utoipa::path(put, path = "/v1/fdb/{mac}", request_body = Station, params(
    ("mac" = String, Path, description = "MAC address of the station", pattern = "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$"), InVlan
), responses(
    (status = 200, description = "The entry", body = MacEntry),
    (status = 404, description = "No such port", body = Problem),
    (status = 409, description = "The entry cannot lead there now", body = Problem),
    (status = 422, description = "Not the address of a station, or the port does not carry the VLAN", body = Problem),
))]
pub(super) async fn add(
    State(asker): State<Asker>,
    InPath(mac): InPath<String>,
    Parameters(InVlan { vlan }): Parameters<InVlan>,
    Body(Station { port }): Body<Station>,
) -> Result<Json<MacEntry>, Response> {
    let (mac, vlan) = (mac_of(&mac).map_err(refused)?, vlan_of(vlan).map_err(refused)?);
    let (bridge, port) = asker.change(|reply| Query::AddMac { vlan, mac, port, reply }).await?;
    Ok(Json(MacEntry { bridge, vlan: vlan.get(), mac: mac.to_string(), port, age: None }))
}

/// Remove an entry, static or learned; not an error if there is none
#[utoipa::path(delete, path = "/v1/fdb/{mac}", params(
    ("mac" = String, Path, description = "MAC address of the station", pattern = "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$"), InDomain
), responses(
    (status = 200, description = "The number of entries removed", body = Flushed),
    (status = 404, description = "No such bridge", body = Problem),
    (status = 422, description = "There are several bridges, and the request names none", body = Problem),
))]
pub(super) async fn remove(
    State(asker): State<Asker>,
    InPath(mac): InPath<String>,
    Parameters(InDomain { vlan, bridge }): Parameters<InDomain>,
) -> Result<Json<Flushed>, Response> {
    let (mac, vlan) = (mac_of(&mac).map_err(refused)?, vlan_of(vlan).map_err(refused)?);
    let removed = asker.change(|reply| Query::RemoveMac { bridge, vlan, mac, reply }).await?;
    Ok(Json(Flushed { flushed: removed.into() }))
}

fn mac_of(text: &str) -> Result<MacAddr, Refusal> {
    text.parse().map_err(|_| {
        let text = text.escape_debug();
        Refusal::bad_request(format!("'{text}' is not a MAC address such as 52:54:00:12:34:56")).of_field("mac")
    })
}

fn vlan_of(number: u16) -> Result<VlanId, Refusal> {
    let vlan = VlanId::new(number).filter(|vlan| vlan.get() <= LAST_VLAN);
    vlan.ok_or_else(|| {
        Refusal::bad_request(format!("VLAN {number} does not exist: use 1 to {LAST_VLAN}, or 0 for untagged frames"))
            .of_field("vlan")
    })
}
