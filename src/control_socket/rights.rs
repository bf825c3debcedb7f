//! Access control by the user and groups of the connected process, as reported by the kernel (unix(7), `SO_PEERCRED`).
//!
//! | user | rights |
//! |---|---|
//! | root, and the user that the daemon runs as | everything |
//! | members of the configured group | everything |
//! | other users of the machine | nothing, or read if configured |
//!
//! *Read* is every GET except captures and live traces: they show the payload of guests' packets, so they need full rights. The
//! mode of the socket's file keeps out most users without rights. Those who can connect all the same, such as members of
//! root's group, get an error with the reason.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::MethodRouter;
use config::{Control, UserGroup};
use netio::guest::Access;
use netio::peer::Credentials;
use rustix::process::geteuid;

use super::answer::problem;

/// Rights of a client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Rights {
    Nothing,
    Read,
    Everything,
}

/// The access rules.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    /// User ID that the daemon runs as.
    owner: u32,
    group: Option<UserGroup>,
    others: Rights,
}

const ROOT: u32 = 0;

impl Guard {
    pub(crate) fn new(config: &Control) -> Guard {
        let others = if config.read_only_others { Rights::Read } else { Rights::Nothing };
        Guard { owner: geteuid().as_raw(), group: config.group.clone(), others }
    }

    /// Mode and group of the socket's file.
    pub(crate) fn access(&self) -> Access {
        let mode = if self.others == Rights::Nothing { 0o660 } else { 0o666 };
        Access { mode, group: self.group.as_ref().map(|group| group.number) }
    }

    pub(crate) fn rights_of(&self, peer: &Credentials) -> Rights {
        let is_member = self.group.as_ref().is_some_and(|group| peer.is_in(group.number));
        if self.is_owner(peer) || is_member { Rights::Everything } else { self.others }
    }

    /// Whether it is root, or the user that the daemon runs as.
    pub(crate) fn is_owner(&self, peer: &Credentials) -> bool {
        peer.user == ROOT || peer.user == self.owner
    }

    /// The reason for a refusal.
    fn reason(&self, rights: Rights) -> String {
        let group = self.group.as_ref().map_or_else(String::new, |group| format!(" and members of group {group}"));
        let what = if rights == Rights::Read { "you may read only: changes, captures and live traces are" } else { "this is" };
        format!("{what} for root, user {}{group}; see --control-group of vswitchd", self.owner)
    }
}

/// Refuses requests that the client has no rights for.
pub(crate) async fn check(guard: Arc<Guard>, mut request: Request, next: Next) -> Response {
    let rights = request.extensions().get::<Rights>().copied().unwrap_or(Rights::Nothing);
    let needed = match *request.method() {
        Method::GET | Method::HEAD | Method::OPTIONS => Rights::Read,
        _ => Rights::Everything,
    };
    if rights < needed {
        return problem(StatusCode::FORBIDDEN, &guard.reason(rights));
    }
    request.extensions_mut().insert(guard);
    next.run(request).await
}

/// Restricts a path that shows guests' payload to clients with full rights.
pub(crate) fn shows_payload<S: Clone + Send + Sync + 'static>(route: MethodRouter<S>) -> MethodRouter<S> {
    route.route_layer(from_fn(async |request: Request, next: Next| {
        let extensions = request.extensions();
        match (extensions.get::<Rights>(), extensions.get::<Arc<Guard>>()) {
            (Some(Rights::Everything), _) => next.run(request).await,
            (rights, Some(guard)) => problem(StatusCode::FORBIDDEN, &guard.reason(rights.copied().unwrap_or(Rights::Nothing))),
            (_, None) => problem(StatusCode::FORBIDDEN, "nobody knows who you are"),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(user: u32, group: u32, groups: &[u32]) -> Credentials {
        Credentials { user, group, groups: groups.to_vec() }
    }

    #[test]
    fn owner_group_and_others() {
        let group = Some(UserGroup { name: "netdev".to_owned(), number: 109 });
        let guard = |group: Option<UserGroup>, others| Guard { owner: 42, group, others };
        let closed = guard(group.clone(), Rights::Nothing);
        assert_eq!(closed.rights_of(&peer(0, 0, &[])), Rights::Everything);
        assert_eq!(closed.rights_of(&peer(42, 1000, &[])), Rights::Everything);
        assert_eq!(closed.rights_of(&peer(1000, 109, &[])), Rights::Everything);
        assert_eq!(closed.rights_of(&peer(1000, 1000, &[4, 109])), Rights::Everything, "a further group");
        assert_eq!(closed.rights_of(&peer(1000, 0, &[4])), Rights::Nothing, "root's group is not root");
        assert_eq!(guard(None, Rights::Nothing).rights_of(&peer(1000, 109, &[])), Rights::Nothing);
        assert_eq!(guard(group, Rights::Read).rights_of(&peer(1000, 1000, &[])), Rights::Read);
    }

    #[test]
    fn the_files_rights_follow() {
        let config = |read_only_others| Control {
            path: config::ControlPath::None,
            group: Some(UserGroup { name: "netdev".to_owned(), number: 109 }),
            read_only_others,
        };
        assert_eq!(Guard::new(&config(false)).access(), Access { mode: 0o660, group: Some(109) });
        assert_eq!(Guard::new(&config(true)).access(), Access { mode: 0o666, group: Some(109) });
    }

    #[test]
    fn who_is_refused_is_told_why() {
        let group = Some(UserGroup { name: "netdev".to_owned(), number: 109 });
        let guard = Guard { owner: 0, group, others: Rights::Read };
        assert!(guard.reason(Rights::Nothing).starts_with("this is for root, user 0 and members of group netdev"));
        assert!(guard.reason(Rights::Read).starts_with("you may read only"));
    }
}
