//! ADD: a container gets an interface in a network.
//!
//! What can be refused without the switch is refused first. After that each step has its way back: a bridge that this call made, the guest,
//! and the addresses of a delegated plugin. A guest of the same id that was there before is another call's and stays.

use serde_json::{Value, json};

use super::config::{self, Environment, Rule};
use super::result::{self, Requested};
use super::{Command, Failure, INVALID_CONFIG, IO_FAILURE, REFUSED};
use crate::client::{RequestError, segment};

/// Why an attachment was not made.
enum AddError {
    /// It is there already, by another call.
    Exists(String),
    /// The guest was not made.
    NotMade(Failure),
    /// It may have been made, and nobody knows.
    Unknown(Failure),
}

impl From<Failure> for AddError {
    fn from(failure: Failure) -> AddError {
        AddError::NotMade(failure)
    }
}

impl Command {
    pub(super) fn add(&self) -> Result<Value, Failure> {
        let environment = Environment::of_attachment()?;
        let namespace = environment.namespace()?.to_owned();
        let rules = self.config.rules()?;
        match self.switch.ask("GET", &self.path_of_guest(&environment), None) {
            Ok(_) => {
                return Err(Failure::new(REFUSED, format!("there is a guest {} already", environment.guest(&self.config.name))));
            }
            Err(RequestError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let Some(delegate) = self.delegate() else {
            let requested = Requested::of(&self.config, &environment);
            return self.attach(&environment, &namespace, rules, requested).map_err(|error| self.take_back(&environment, error));
        };
        let result = delegate.run("ADD")?;
        let attached = Requested::given(&result, &self.config).map_err(AddError::from);
        let attached = attached.and_then(|requested| self.attach(&environment, &namespace, rules, requested));
        attached.map_err(|error| {
            let is_ours = !matches!(error, AddError::Exists(_));
            let failure = self.take_back(&environment, error);
            if is_ours {
                // Its addresses are free again, whatever it says.
                let _ = delegate.run("DEL");
            }
            failure
        })
    }

    /// What is told of an attachment that was not made. Nothing is left of it.
    fn take_back(&self, environment: &Environment, error: AddError) -> Failure {
        match error {
            AddError::Exists(text) => Failure::new(REFUSED, text),
            AddError::NotMade(failure) => failure,
            AddError::Unknown(failure) => {
                let _ = self.switch.ask("DELETE", &self.path_of_guest(environment), None);
                failure
            }
        }
    }

    /// Makes the guest, and its network if it is the first one.
    fn attach(
        &self,
        environment: &Environment,
        namespace: &str,
        mut rules: Vec<Rule>,
        mut requested: Requested,
    ) -> Result<Value, AddError> {
        let network = self.config.bridge()?;
        let mac = match self.config.mac(environment) {
            Some(mac) => mac,
            None => requested.mac().map_err(|error| Failure::new(IO_FAILURE, format!("no random MAC address: {error}")))?,
        };
        self.leave_out_published(environment, &mut rules)?;
        let is_new = self.make_bridge(&network, &mut requested)?;
        let id = environment.guest(&self.config.name);
        let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
        let body = json!({
            "id": id, "network": network, "interface": format!("{}@{namespace}", environment.interface),
            "mac": mac, "addresses": requested.addresses, "names": self.config.names(environment), "publish": rules,
            "labels": { "cni.network": self.config.name, "cni.container": environment.container },
        });
        match self.switch.ask("POST", "/v1/guests", Some(&body)) {
            Err(RequestError::Refused { text, in_the_way: Some(other) }) if other == id => return Err(AddError::Exists(text)),
            Err(error) => {
                if is_new {
                    // It stays if another container has come.
                    let _ = self.switch.ask("DELETE", &format!("/v1/bridges/{}", segment(&network)), None);
                }
                return Err(match error {
                    RequestError::Refused { .. } => AddError::NotMade(error.into()),
                    RequestError::Unreachable(_) => AddError::Unknown(error.into()),
                });
            }
            Ok(_) => {}
        }
        let guest = self.switch.ask("GET", &self.path_of_guest(environment), None);
        let guest = guest.map_err(|error| AddError::Unknown(error.into()))?;
        Ok(result::of_guest(&guest, &self.config, environment, &requested))
    }

    /// Leaves the ports out that another interface of the same container publishes: the runtime names them for each network, and the
    /// container needs them once.
    fn leave_out_published(&self, environment: &Environment, rules: &mut Vec<Rule>) -> Result<(), Failure> {
        if rules.is_empty() {
            return Ok(());
        }
        let guests = self.switch.ask("GET", "/v1/guests", None)?;
        let is_same = |guest: &&Value| {
            guest["labels"]["cni.container"] == environment.container.as_str()
                && guest["id"].as_str().is_some_and(|id| id.starts_with(config::GUEST))
        };
        let same = guests.as_array().into_iter().flatten().filter(is_same);
        let published = same.flat_map(|guest| guest["publish"].as_array().into_iter().flatten()).filter_map(Value::as_str);
        let published: Vec<&str> = published.collect();
        rules.retain(|rule| !published.iter().any(|text| rule.is_shown_as(text)));
        Ok(())
    }

    /// Makes the bridge of the network unless it is there. Returns whether it did.
    fn make_bridge(&self, name: &str, requested: &mut Requested) -> Result<bool, Failure> {
        if let Some(bridge) = self.bridge(name)? {
            return self.use_bridge(name, &bridge, requested).map(|()| false);
        }
        let words = format!("{name}{}", self.config.bridge_keys(requested)?);
        match self.switch.ask("POST", "/v1/bridges", Some(&json!({ "bridge": words }))) {
            Ok(_) => Ok(true),
            // Another container of the network may have been faster.
            Err(error) => match self.bridge(name)? {
                Some(bridge) => self.use_bridge(name, &bridge, requested).map(|()| false),
                None => Err(error.into()),
            },
        }
    }

    fn bridge(&self, name: &str) -> Result<Option<Value>, Failure> {
        let bridges = self.switch.ask("GET", "/v1/bridges", None)?;
        Ok(bridges.as_array().into_iter().flatten().find(|bridge| bridge["name"] == name).cloned())
    }

    /// Takes the length of the prefix from a bridge that is there, whose gateway must be that of the configuration.
    fn use_bridge(&self, name: &str, bridge: &Value, requested: &mut Requested) -> Result<(), Failure> {
        let untagged = bridge["gateways"].as_array().into_iter().flatten().find(|gateway| gateway["vlan"] == 0);
        let own = untagged.map(|gateway| {
            let address = gateway["address"].as_str().unwrap_or_default().to_owned();
            (address, gateway["prefix_len"].as_u64().unwrap_or_default())
        });
        let wanted = self.config.gateway()?.or(requested.gateway());
        let wanted = wanted.map(|(address, len)| (address.to_string(), u64::from(len)));
        if wanted.is_some() && wanted != own {
            let shown = |gateway: &Option<(String, u64)>| {
                gateway.as_ref().map_or_else(|| "none".to_owned(), |(address, len)| format!("{address}/{len}"))
            };
            let text = format!(
                "bridge {name} is there with the gateway {}, and the network's is {}: use another name, or 'vswitchctl bridge del {name}'",
                shown(&own),
                shown(&wanted)
            );
            return Err(Failure::new(INVALID_CONFIG, text));
        }
        requested.complete(own.and_then(|(_, len)| u8::try_from(len).ok()));
        Ok(())
    }

    pub(super) fn path_of_guest(&self, environment: &Environment) -> String {
        format!("/v1/guests/{}", segment(&environment.guest(&self.config.name)))
    }
}
