//! Packet sockets in two network namespaces joined by a veth pair.
//!
//! Each test creates its own network namespaces. Without the permission to do so it is reported as ignored, with the reason.

mod frames;
mod gate;
mod host;
mod packets;
mod reserved;
mod state;

use std::process::ExitCode;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Completion, Trial};
use netio::netns;

fn main() -> ExitCode {
    let trials = [gate::trials(), packets::trials(), reserved::trials(), state::trials()];
    libtest_mimic::run(&Arguments::from_args(), trials.into_iter().flatten().collect()).exit_code()
}

/// A test that needs the permission to create namespaces.
pub(crate) fn trial(name: &'static str, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::ignorable_test(name, || {
        if let Some(reason) = what_is_missing() {
            return Ok(Completion::ignored_with(reason));
        }
        run();
        Ok(Completion::Completed)
    })
}

/// The reason why this machine cannot create a veth pair in a namespace, if it cannot.
fn what_is_missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING.get_or_init(|| try_means().err().map(|error| format!("{error}; needs CAP_SYS_ADMIN and CAP_NET_ADMIN"))).as_deref()
}

fn try_means() -> std::io::Result<()> {
    use std::os::fd::AsFd;
    netns::inside(netns::create()?.as_fd(), || netio::link::add_pair("try0", "try1", None))
}
