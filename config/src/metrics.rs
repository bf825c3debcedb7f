//! Counters for Prometheus over TCP: `--metrics`, `[metrics]`.

use std::fmt;
use std::net::SocketAddr;

use crate::keys::keys;
use crate::problem::{At, Origin, Problem, Problems};
use crate::router::Router;
#[cfg(test)]
use crate::value::string_schema;
use crate::value::{List, Text};

/// Maximum length of a host name, in bytes (RFC 1035 section 3.1).
const MAX_HOST_LEN: usize = 253;

/// Address and host names of the metrics server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metrics {
    /// The address and TCP port.
    pub listen: SocketAddr,
    /// Host names in lower case that requests may use, besides localhost and addresses.
    pub hosts: Vec<String>,
}

/// `ADDR:PORT` of one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ListenAddress(SocketAddr);

/// A host name in lower case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HostName(String);

keys! {
    /// The counters for Prometheus, over TCP.
    struct MetricsKeys {
        /// ADDR:PORT, such as 127.0.0.1:9100. Default: only over the control socket.
        "listen" => listen: ListenAddress,
        /// Names by which clients may ask for it, besides localhost and addresses.
        "hosts" / "host" => hosts: List<HostName>,
    }
}

/// Writes address and names: `127.0.0.1:9100 for vm1.example`.
impl fmt::Display for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listen.fmt(out)?;
        if self.hosts.is_empty() { Ok(()) } else { write!(out, " for {}", self.hosts.join(", ")) }
    }
}

impl MetricsKeys {
    pub(crate) fn metrics(&self, table: &Origin, router: Option<&Router>, problems: &mut Problems) -> Option<Metrics> {
        if self.is_faulty {
            return None;
        }
        let Some(listen) = &self.listen else {
            problems.add(table, "where? Add listen = \"127.0.0.1:9100\"");
            return None;
        };
        if let Some(problem) = router.and_then(|router| own_address(router, listen.value.0)) {
            problems.add(&listen.origin, problem);
            return None;
        }
        let hosts = self.hosts.iter().flat_map(|hosts| &hosts.value.0).map(|host| host.value.0.clone()).collect();
        Some(Metrics { listen: listen.value.0, hosts })
    }

    /// A warning if other machines can read the metrics.
    pub(crate) fn warning(&self) -> Option<Problem> {
        let At { value: ListenAddress(listen), origin, .. } = self.listen.as_ref()?;
        let text = format!(
            "whatever reaches {listen} can read the counters and all names and addresses in them, without a password: use 127.0.0.1, \
             or keep others out with a firewall"
        );
        (!listen.ip().is_loopback()).then(|| Problem::new(origin, text))
    }
}

/// Why the host cannot listen there: the switch's own addresses are no addresses of the host.
fn own_address(router: &Router, listen: SocketAddr) -> Option<String> {
    let address = listen.ip();
    let gateway = router.gateways.iter().find(|gateway| gateway.address.address == address);
    let is_uplinks = router.uplink.as_ref().is_some_and(|uplink| uplink.addresses.iter().any(|own| *own == address));
    let what = match gateway {
        Some(gateway) => format!("the switch's own gateway {gateway}"),
        None if is_uplinks => "the switch's own address on the uplink".to_owned(),
        None => return None,
    };
    Some(format!("{address} is {what}, which the host does not have: use 127.0.0.1 or an address of the host"))
}

impl Text for ListenAddress {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<ListenAddress, String> {
        let Ok(listen) = text.parse::<SocketAddr>() else {
            return Err(format!("'{}' is not ADDR:PORT, such as 127.0.0.1:9100 or [::1]:9100", text.escape_debug()));
        };
        if listen.ip().is_multicast() {
            return Err(format!("{} is a multicast address: use that of one host, such as 127.0.0.1", listen.ip()));
        }
        Ok(ListenAddress(listen))
    }
}

impl Text for HostName {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<HostName, String> {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if text.is_empty() || text.len() > MAX_HOST_LEN || !text.chars().all(is_of_name) {
            return Err(format!("'{}' is not the name of a host, such as vm1.example", text.escape_debug()));
        }
        Ok(HostName(text.to_ascii_lowercase()))
    }
}

#[cfg(test)]
string_schema!(ListenAddress, HostName);
