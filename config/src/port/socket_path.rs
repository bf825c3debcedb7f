//! The path of a socket file, which both kinds of socket port have.

use std::path::PathBuf;

use crate::problem::Origin;
use crate::value::Text;
#[cfg(test)]
use crate::value::string_schema;

/// The longest path of a socket, in bytes (`sockaddr_un` without its zero byte).
const MAX_PATH_LEN: usize = 107;

/// The path of a socket, which is its port's name too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SocketPath(pub(super) PathBuf);

impl Text for SocketPath {
    fn parse(text: &str, key: &str, origin: &Origin) -> Result<SocketPath, String> {
        let said = text.escape_debug();
        // In a flag what follows the path's colon is meant as a key; in a file it may be one that was copied from there.
        let after = text.split_once(':').map(|(_, after)| after).filter(|_| key != "remote");
        match after {
            Some(after) if !origin.is_file() => return Err(format!("'{}' is not KEY=VALUE", after.escape_debug())),
            Some(after) if after.contains('=') => {
                return Err(format!("'{said}' has a key of a flag in it: write '{}' as a key of its own", after.escape_debug()));
            }
            _ => {}
        }
        if text.is_empty() {
            return Err("there is no path: name the socket, such as /run/vswitchd/guests".to_owned());
        }
        if text.len() > MAX_PATH_LEN {
            let len = text.len();
            return Err(format!(
                "'{said}' is {len} bytes long; a socket's path has at most {MAX_PATH_LEN}: choose a shorter one"
            ));
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("'{said}' is a port's name too, which has no spaces: choose another path"));
        }
        Ok(SocketPath(text.into()))
    }
}

#[cfg(test)]
string_schema!(SocketPath);
