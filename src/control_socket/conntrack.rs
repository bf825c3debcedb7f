//! The router's connections.

use std::net::Ipv4Addr;

use api::Refusal;
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{Parameters, busy, refused, without_nat};
use super::ask::Asker;
use super::large::Large;
use super::query::{Query, WhichConnections};
use super::rights::Rights;
use super::views;

/// So many connections, or mappings, are listed unless asked otherwise; to those who may only read never more.
const USUAL_LIST: usize = 10_000;
/// Whatever is asked: some 30 MB of JSON.
const LONGEST_LIST: usize = 100_000;

/// How many connections, or mappings, are listed to somebody who asks for so many.
pub(super) fn listed(limit: Option<u32>, rights: Rights) -> usize {
    let longest = if rights < Rights::Everything { USUAL_LIST } else { LONGEST_LIST };
    limit.map_or(USUAL_LIST, |limit| limit as usize).min(longest)
}

/// Which connections: everything that is given has to match.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// An address of either end, inside or outside
    #[param(value_type = Option<String>, format = "ipv4")]
    address: Option<Ipv4Addr>,
    /// A port of either end
    #[param(maximum = 65535)]
    port: Option<u16>,
    /// tcp, udp, icmp, or IP's number
    #[param(pattern = "^(tcp|udp|icmp|[0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])$")]
    protocol: Option<String>,
}

/// The same, and how many.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    /// An address of either end, inside or outside
    #[param(value_type = Option<String>, format = "ipv4")]
    address: Option<Ipv4Addr>,
    /// A port of either end
    #[param(maximum = 65535)]
    port: Option<u16>,
    /// tcp, udp, icmp, or IP's number
    #[param(pattern = "^(tcp|udp|icmp|[0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])$")]
    protocol: Option<String>,
    /// At most so many [default: 10,000], of which 100,000 are given, and 10,000 to those who may only read
    #[param(value_type = Option<u64>, maximum = 4294967295u32)]
    limit: Option<u32>,
}

impl Filter {
    fn which(self) -> Result<WhichConnections, Refusal> {
        let protocol = self.protocol.as_deref().map(protocol_of).transpose()?;
        Ok(WhichConnections { address: self.address, port: self.port, protocol })
    }
}

fn protocol_of(text: &str) -> Result<::nat::Protocol, Refusal> {
    match text {
        "tcp" => Ok(::nat::Protocol::TCP),
        "udp" => Ok(::nat::Protocol::UDP),
        "icmp" => Ok(::nat::Protocol::ICMP),
        _ => {
            // No signs or zeros before it: as it is listed.
            let number = text.parse::<u8>().ok().filter(|number| number.to_string() == text);
            let problem = || format!("'{text}' is no protocol: tcp, udp, icmp, or a number from 0 to 255");
            number.map(::nat::Protocol).ok_or_else(|| Refusal::BadRequest(problem()))
        }
    }
}

/// The router's connections
#[utoipa::path(get, path = "/v1/conntrack", params(List), responses(
    (status = 200, body = views::Connections),
    (status = 404, description = "there is no translation", body = views::Problem),
))]
pub(super) async fn list(
    State(asker): State<Asker>,
    Extension(rights): Extension<Rights>,
    Parameters(List { address, port, protocol, limit }): Parameters<List>,
    _: Large,
) -> Result<Json<views::Connections>, Response> {
    let (which, most) = (Filter { address, port, protocol }.which().map_err(refused)?, listed(limit, rights));
    let found = asker.ask(|reply| Query::Connections { which, most, reply }).await.ok_or_else(busy)?;
    let (total, connections) = found.ok_or_else(without_nat)?;
    Ok(Json(views::Connections { total, connections: connections.iter().map(connection_view).collect() }))
}

/// End connections; who goes on with one opens a new one, which may have another outside port
#[utoipa::path(delete, path = "/v1/conntrack", params(Filter), responses(
    (status = 200, body = views::Flushed),
    (status = 404, description = "there is no translation", body = views::Problem),
))]
pub(super) async fn flush(
    State(asker): State<Asker>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Json<views::Flushed>, Response> {
    let which = filter.which().map_err(refused)?;
    let flushed = asker.ask(|reply| Query::FlushConnections { which, reply }).await.ok_or_else(busy)?;
    Ok(Json(views::Flushed { flushed: flushed.ok_or_else(without_nat)? }))
}

fn connection_view(connection: &::nat::Connection) -> views::Connection {
    let flow = |tuple: &::nat::Tuple| views::Flow {
        src: tuple.src.address.to_string(),
        src_port: tuple.src.port,
        dst: tuple.dst.address.to_string(),
        dst_port: tuple.dst.port,
    };
    let phase = connection.phase.map(|phase| match phase {
        ::nat::tcp::Phase::Opening => "opening",
        ::nat::tcp::Phase::Established => "established",
        ::nat::tcp::Phase::Closing => "closing",
        ::nat::tcp::Phase::Reset => "reset",
    });
    views::Connection {
        protocol: connection.original.protocol.to_string(),
        protocol_number: connection.original.protocol.0,
        opened_by: match connection.original.side {
            ::nat::Side::Inside => "inside".to_owned(),
            ::nat::Side::Outside => "outside".to_owned(),
        },
        phase: phase.map(str::to_owned),
        expires_in: connection.expires_in,
        original: flow(&connection.original),
        reply: flow(&connection.reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(guest: u8, port: u16, to: u16) -> ::nat::Connection {
        let inside = ::nat::Endpoint::new(Ipv4Addr::new(10, 77, 0, guest), port);
        let outside = ::nat::Endpoint::new(Ipv4Addr::new(203, 0, 113, 1), port + 1);
        let server = ::nat::Endpoint::new(Ipv4Addr::new(198, 51, 100, 7), to);
        let protocol = ::nat::Protocol::UDP;
        ::nat::Connection {
            original: ::nat::Tuple { side: ::nat::Side::Inside, protocol, src: inside, dst: server },
            reply: ::nat::Tuple { side: ::nat::Side::Outside, protocol, src: server, dst: outside },
            phase: None,
            expires_in: 300,
        }
    }

    #[test]
    fn lists_end() {
        for (rights, longest) in [(Rights::Read, 10_000), (Rights::Everything, 100_000)] {
            assert_eq!([None, Some(0), Some(7)].map(|limit| listed(limit, rights)), [10_000, 0, 7]);
            assert_eq!(listed(Some(u32::MAX), rights), longest);
        }
    }

    #[test]
    fn all_of_a_filter_has_to_match() {
        let which = |address: Option<[u8; 4]>, port, protocol: Option<&str>| {
            let filter = Filter { address: address.map(Ipv4Addr::from), port, protocol: protocol.map(str::to_owned) };
            filter.which().unwrap()
        };
        let one = connection(11, 4000, 53);
        assert!(which(None, None, None).matches(&one));
        assert!(which(Some([203, 0, 113, 1]), Some(53), Some("udp")).matches(&one), "an address of the reply's");
        assert!(which(None, None, Some("17")).matches(&one));
        assert!(!which(Some([10, 77, 0, 12]), Some(53), Some("udp")).matches(&one));
        assert!(!which(None, Some(54), None).matches(&one));
        assert!(!which(None, None, Some("tcp")).matches(&one));
    }

    #[test]
    fn protocols() {
        assert!(protocol_of("icmp") == Ok(::nat::Protocol::ICMP) && protocol_of("132") == Ok(::nat::Protocol(132)));
        for bad in ["", "TCP", "256", "-1", "+1", "007", "sctp"] {
            assert!(protocol_of(bad).is_err(), "{bad}");
        }
    }
}
