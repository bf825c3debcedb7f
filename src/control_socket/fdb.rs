//! The MAC tables.

use api::Refusal;
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use config::unknown_bridge;
use packet::MacAddr;
use packet::vlan::VlanId;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Body, InPath, Parameters, busy, refused};
use super::ask::Asker;
use super::large::Large;
use super::query::{MacTableNow, Query};
use super::views;

/// 4095 is reserved (IEEE 802.1Q table 9-2).
const LAST_VLAN: u16 = 4094;

/// Whose MAC table
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OfBridge {
    /// Of this bridge only
    bridge: Option<String>,
}

/// The MAC tables
#[utoipa::path(get, path = "/v1/fdb", params(OfBridge), responses(
    (status = 200, body = [views::MacEntry]),
    (status = 404, description = "there is no such bridge", body = views::Problem),
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
            return Err(refused(Refusal::NotFound(unknown_bridge(&name, known))));
        }
        now.bridges.retain(|(bridge, _)| *bridge == name);
    }
    Ok(Json(now))
}

/// An entry at a time: there may be a million.
impl Serialize for MacTableNow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let view = |bridge: &str, entry: &vswitch::MacEntry| views::MacEntry {
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

/// Which entries; all of what is given has to match.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Behind this port
    port: Option<String>,
    /// Of this VLAN; 0 is for untagged frames
    #[param(maximum = 4094)]
    vlan: Option<u16>,
    /// Of this bridge
    bridge: Option<String>,
}

/// Forget what was learned; static entries stay
#[utoipa::path(delete, path = "/v1/fdb", params(Which), responses(
    (status = 200, body = views::Flushed),
    (status = 404, description = "there is no such port or bridge", body = views::Problem),
))]
pub(super) async fn flush(
    State(asker): State<Asker>,
    Parameters(which): Parameters<Which>,
) -> Result<Json<views::Flushed>, Response> {
    let vlan = which.vlan.map(vlan_of).transpose().map_err(refused)?;
    let Which { bridge, port, .. } = which;
    let flushed = asker.change(|reply| Query::FlushMacs { bridge, port, vlan, reply }).await?;
    Ok(Json(views::Flushed { flushed }))
}

/// A station that does not move.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Station {
    /// The port behind which it is.
    port: String,
}

/// In which VLAN
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InVlan {
    /// 0, or left out: untagged frames
    #[serde(default)]
    #[param(maximum = 4094)]
    vlan: u16,
}

/// In which VLAN of which bridge
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InDomain {
    /// 0, or left out: untagged frames
    #[serde(default)]
    #[param(maximum = 4094)]
    vlan: u16,
    /// Needed where there are several
    bridge: Option<String>,
}

/// Add a static entry, or change where it leads; doing it again changes nothing
#[utoipa::path(put, path = "/v1/fdb/{mac}", request_body = Station, params(
    ("mac" = String, Path, description = "the station's address", pattern = "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$"), InVlan
), responses(
    (status = 200, body = views::MacEntry),
    (status = 404, description = "there is no such port", body = views::Problem),
    (status = 409, description = "it cannot lead there now", body = views::Problem),
    (status = 422, description = "no address of a station, or the port does not carry the VLAN", body = views::Problem),
))]
pub(super) async fn add(
    State(asker): State<Asker>,
    InPath(mac): InPath<String>,
    Parameters(InVlan { vlan }): Parameters<InVlan>,
    Body(Station { port }): Body<Station>,
) -> Result<Json<views::MacEntry>, Response> {
    let (mac, vlan) = (mac_of(&mac).map_err(refused)?, vlan_of(vlan).map_err(refused)?);
    let name = port.clone();
    let bridge = asker.change(|reply| Query::AddMac { vlan, mac, port, reply }).await?;
    Ok(Json(views::MacEntry { bridge, vlan: vlan.get(), mac: mac.to_string(), port: name, age: None }))
}

/// Remove an entry, static or learned; that there is none is no error
#[utoipa::path(delete, path = "/v1/fdb/{mac}", params(
    ("mac" = String, Path, description = "the station's address", pattern = "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$"), InDomain
), responses(
    (status = 200, body = views::Flushed),
    (status = 404, description = "there is no such bridge", body = views::Problem),
    (status = 422, description = "there are several bridges, and none is named", body = views::Problem),
))]
pub(super) async fn remove(
    State(asker): State<Asker>,
    InPath(mac): InPath<String>,
    Parameters(InDomain { vlan, bridge }): Parameters<InDomain>,
) -> Result<Json<views::Flushed>, Response> {
    let (mac, vlan) = (mac_of(&mac).map_err(refused)?, vlan_of(vlan).map_err(refused)?);
    let removed = asker.change(|reply| Query::RemoveMac { bridge, vlan, mac, reply }).await?;
    Ok(Json(views::Flushed { flushed: removed.into() }))
}

fn mac_of(text: &str) -> Result<MacAddr, Refusal> {
    text.parse().map_err(|_| Refusal::BadRequest(format!("'{text}' is no MAC address: write 52:54:00:12:34:56")))
}

fn vlan_of(number: u16) -> Result<VlanId, Refusal> {
    let vlan = VlanId::new(number).filter(|vlan| vlan.get() <= LAST_VLAN);
    vlan.ok_or_else(|| Refusal::BadRequest(format!("there is no VLAN {number}: 1 to {LAST_VLAN}, or 0 for untagged frames")))
}
