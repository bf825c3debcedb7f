//! The router's connections.

use api::query::{ConnectionFilter, ConnectionList};
use api::{Connection, Connections, Flow, Flushed, Phase, Problem, Protocol, Side};
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};

use super::answer::{Parameters, busy, without_nat};
use super::ask::Asker;
use super::large::Large;
use super::query::Query;
use super::rights::Rights;

/// Default length of a list of connections or mappings, and its maximum with read-only access.
const USUAL_LIST: usize = 10_000;
/// Maximum length of a list of connections or mappings: about 30 MB of JSON.
const LONGEST_LIST: usize = 100_000;

/// The length of a list for a request with this limit.
pub(super) fn listed(limit: Option<u32>, rights: Rights) -> usize {
    let longest = if rights < Rights::Everything { USUAL_LIST } else { LONGEST_LIST };
    limit.map_or(USUAL_LIST, |limit| limit as usize).min(longest)
}

/// Translated connections
#[utoipa::path(get, path = "/v1/conntrack", params(ConnectionList), responses(
    (status = 200, description = "The connections", body = Connections),
    (status = 404, description = "No uplink in NAT mode", body = Problem),
))]
pub(super) async fn list(
    State(asker): State<Asker>,
    Extension(rights): Extension<Rights>,
    Parameters(ConnectionList { address, port, protocol, limit }): Parameters<ConnectionList>,
    _: Large,
) -> Result<Json<Connections>, Response> {
    let (filter, most) = (ConnectionFilter { address, port, protocol }, listed(limit, rights));
    let found = asker.ask(|reply| Query::Connections { filter, most, reply }).await.ok_or_else(busy)?;
    let (total, connections) = found.ok_or_else(without_nat)?;
    Ok(Json(Connections { total, connections: connections.iter().map(connection_view).collect() }))
}

/// End connections; the next packet of one opens a new connection, which may have another outside port
#[utoipa::path(delete, path = "/v1/conntrack", params(ConnectionFilter), responses(
    (status = 200, description = "The number of connections ended", body = Flushed),
    (status = 404, description = "No uplink in NAT mode", body = Problem),
))]
pub(super) async fn flush(
    State(asker): State<Asker>,
    Parameters(filter): Parameters<ConnectionFilter>,
) -> Result<Json<Flushed>, Response> {
    let flushed = asker.ask(|reply| Query::FlushConnections { filter, reply }).await.ok_or_else(busy)?;
    Ok(Json(Flushed { flushed: flushed.ok_or_else(without_nat)? }))
}

fn connection_view(connection: &::nat::Connection) -> Connection {
    let flow = |tuple: &::nat::Tuple| Flow {
        src: tuple.src.address.to_string(),
        src_port: tuple.src.port,
        dst: tuple.dst.address.to_string(),
        dst_port: tuple.dst.port,
    };
    Connection {
        protocol: Protocol(connection.original.protocol.0),
        protocol_number: connection.original.protocol.0,
        opened_by: match connection.original.side {
            ::nat::Side::Inside => Side::Inside,
            ::nat::Side::Outside => Side::Outside,
        },
        phase: connection.phase.map(|phase| match phase {
            ::nat::tcp::Phase::Opening => Phase::Opening,
            ::nat::tcp::Phase::Established => Phase::Established,
            ::nat::tcp::Phase::Closing => Phase::Closing,
            ::nat::tcp::Phase::Reset => Phase::Reset,
        }),
        expires_in: connection.expires_in,
        original: flow(&connection.original),
        reply: flow(&connection.reply),
    }
}

/// Whether a connection matches all of a filter.
pub(crate) fn matches(filter: &ConnectionFilter, connection: &::nat::Connection) -> bool {
    let ::nat::Connection { original, reply, .. } = connection;
    let ends = [original.src, original.dst, reply.src, reply.dst];
    filter.address.is_none_or(|address| ends.iter().any(|end| end.address == address))
        && filter.port.is_none_or(|port| ends.iter().any(|end| end.port == port))
        && filter.protocol.is_none_or(|protocol| original.protocol.0 == protocol.0)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

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
        let matches = |address: Option<[u8; 4]>, port, protocol, connection: &::nat::Connection| {
            super::matches(&ConnectionFilter { address: address.map(Ipv4Addr::from), port, protocol }, connection)
        };
        let one = connection(11, 4000, 53);
        assert!(matches(None, None, None, &one));
        assert!(matches(Some([203, 0, 113, 1]), Some(53), Some(Protocol::UDP), &one), "an address of the reply's");
        assert!(matches(None, None, Some(Protocol(17)), &one));
        assert!(!matches(Some([10, 77, 0, 12]), Some(53), Some(Protocol::UDP), &one));
        assert!(!matches(None, Some(54), None, &one));
        assert!(!matches(None, None, Some(Protocol::TCP), &one));
    }
}
