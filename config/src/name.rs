//! Names of interfaces and of network namespaces.

use std::fmt;

use crate::problem::Origin;
use crate::value::Text;
#[cfg(test)]
use crate::value::string_schema;

/// Maximum length of an interface name, in bytes (`IFNAMSIZ` without its zero byte).
const MAX_INTERFACE_LEN: usize = 15;

/// The name of a host interface or of a bridge, valid for the kernel (`dev_valid_name`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct InterfaceName(pub(crate) String);

/// A network namespace as it was written: a name under `/run/netns`, a path, or `pid:N`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Netns(String);

impl Netns {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Text for InterfaceName {
    fn parse(text: &str, key: &str, _: &Origin) -> Result<InterfaceName, String> {
        let is_out_of_place = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
        if text.is_empty() {
            return Err(format!("{key} needs a name, such as eth0"));
        }
        if text.len() > MAX_INTERFACE_LEN {
            let (text, len) = (text.escape_debug(), text.len());
            return Err(format!(
                "'{text}' is {len} bytes long; the kernel takes at most {MAX_INTERFACE_LEN}: choose a shorter name"
            ));
        }
        if text == "." || text == ".." || text.contains(is_out_of_place) {
            let problem = "cannot be an interface's name: leave out '/', ':', '%' and spaces";
            return Err(format!("'{}' {problem}", text.escape_debug()));
        }
        Ok(InterfaceName(text.to_owned()))
    }
}

impl Text for Netns {
    fn parse(text: &str, _: &str, origin: &Origin) -> Result<Netns, String> {
        if text.is_empty() {
            let what = origin.say("no namespace", "no namespace after '@'");
            return Err(format!("{what}: write a name under /run/netns, a path, or pid:N"));
        }
        Ok(Netns(text.to_owned()))
    }
}

#[cfg(test)]
string_schema!(InterfaceName, Netns);
