//! `--metrics`: where Prometheus may fetch the numbers over TCP.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::ConfigError;
use super::router::RouterConfig;
use super::words::{check_once, split_pair, unknown};

const PLACE: &str = "--metrics";

/// A name of DNS is no longer (RFC 1035 section 3.1).
const MAX_HOST: usize = 253;

/// Where, and by which names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MetricsConfig {
    pub(crate) listen: SocketAddr,
    /// In small letters; besides localhost and addresses.
    pub(crate) hosts: Vec<String>,
}

/// `127.0.0.1:9100 for vm1.example`.
impl fmt::Display for MetricsConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listen.fmt(out)?;
        if self.hosts.is_empty() { Ok(()) } else { write!(out, " for {}", self.hosts.join(", ")) }
    }
}

impl MetricsConfig {
    /// `ADDR:PORT[,host=NAME[+NAME...]]`.
    pub(super) fn parse(
        text: Option<&str>,
        router: Option<&RouterConfig>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<MetricsConfig>, ConfigError> {
        let Some(text) = text else { return Ok(None) };
        let (address, pairs) = text.split_once(',').map_or((text, None), |(address, pairs)| (address, Some(pairs)));
        let listen: SocketAddr = address.parse().map_err(|_| {
            let problem = format!("'{}' is not ADDR:PORT, such as 127.0.0.1:9100 or [::1]:9100", address.escape_debug());
            ConfigError::new(PLACE, problem)
        })?;
        if listen.ip().is_multicast() {
            return Err(ConfigError::new(PLACE, format!("{} is no single host's: use 127.0.0.1", listen.ip())));
        }
        let mut hosts = Vec::new();
        for pair in pairs.iter().flat_map(|pairs| pairs.split(',')) {
            match split_pair(PLACE, pair)? {
                ("host", names) => {
                    check_once(PLACE, "host", !hosts.is_empty())?;
                    hosts = names.split('+').map(parse_host).collect::<Result<_, _>>()?;
                }
                (key, _) => return Err(ConfigError::new(PLACE, unknown("key", key, &["host"]))),
            }
        }
        if let Some(router) = router {
            check_against(router, listen.ip())?;
        }
        if !listen.ip().is_loopback() {
            warnings.push(format!(
                "{PLACE}: whoever reaches {listen} reads the numbers and all names and addresses in them, without a password: \
                 use 127.0.0.1, or let a firewall decide"
            ));
        }
        Ok(Some(MetricsConfig { listen, hosts }))
    }
}

fn parse_host(name: &str) -> Result<String, ConfigError> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || name.len() > MAX_HOST || !name.chars().all(is_name) {
        return Err(ConfigError::new(PLACE, format!("'{}' is no host's name, such as vm1.example", name.escape_debug())));
    }
    Ok(name.to_ascii_lowercase())
}

/// The switch's own addresses are no addresses of the host, where we would listen.
fn check_against(router: &RouterConfig, address: IpAddr) -> Result<(), ConfigError> {
    let own = |what: &str| {
        let problem = format!("{address} is {what}, which the host does not have: use 127.0.0.1 or an address of the host's");
        Err(ConfigError::new(PLACE, problem))
    };
    if let Some(gateway) = router.gateways.iter().find(|gateway| gateway.address.address == address) {
        return own(&format!("the switch's own gateway {gateway}"));
    }
    if router.uplink.as_ref().is_some_and(|uplink| uplink.addresses.iter().any(|own| *own == address)) {
        return own("the switch's own address on the uplink");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Flags;
    use crate::config::Config;

    fn config(metrics: &str) -> Result<(MetricsConfig, Vec<String>), String> {
        let flags = Flags {
            tap: vec!["tap0".to_owned()],
            metrics: Some(metrics.to_owned()),
            uplink: Some("eth0".to_owned()),
            uplink_address: Some("198.51.100.3/24,198.51.100.4".to_owned()),
            ..Flags::default()
        };
        let config = Config::from_flags(&flags).map_err(|error| error.to_string())?;
        Ok((config.metrics.ok_or("none")?, config.warnings))
    }

    #[test]
    fn an_address_and_names() {
        let (metrics, warnings) = config("127.0.0.1:9100,host=VM1.example+prometheus").unwrap();
        assert_eq!((metrics.listen, warnings.len()), (SocketAddr::from(([127, 0, 0, 1], 9100)), 0));
        assert_eq!(metrics.hosts, ["vm1.example", "prometheus"]);
        assert_eq!(config("[::1]:0").unwrap().1.len(), 0);
        let (_, warnings) = config("0.0.0.0:9100").unwrap();
        assert!(warnings[0].contains("without a password"), "{warnings:?}");
    }

    #[test]
    fn what_cannot_be_says_why() {
        for (text, part) in [
            ("9100", "'9100' is not ADDR:PORT"),
            ("localhost:9100", "is not ADDR:PORT"),
            ("", "'' is not ADDR:PORT"),
            ("127.0.0.1:9100,hots=a", "unknown key 'hots': did you mean 'host'?"),
            ("127.0.0.1:9100,host=a,host=b", "'host' is given twice"),
            ("127.0.0.1:9100,host=a b", "'a b' is no host's name"),
            ("127.0.0.1:9100,host=", "'' is no host's name"),
            ("224.0.0.1:9100", "no single host's"),
            ("10.77.0.1:9100", "the switch's own gateway 10.77.0.1/24"),
            ("198.51.100.4:9100", "the switch's own address on the uplink"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.starts_with("--metrics: ") && error.contains(part), "{text}: {error}");
        }
    }
}
