//! UDP between real kernels: two namespaces joined by a pair of links.
//!
//! Everything lives in namespaces made here. Without the right to make them a test counts as
//! ignored, and says what is missing.

mod endpoints;
mod host;
mod sending;

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Completion, Trial};
use netio::netns;

fn main() -> ExitCode {
    let trials = [sending::trials(), endpoints::trials()];
    libtest_mimic::run(&Arguments::from_args(), trials.into_iter().flatten().collect()).exit_code()
}

/// A test that needs the right to make namespaces.
pub(crate) fn trial(name: &'static str, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::ignorable_test(name, || {
        if let Some(reason) = what_is_missing() {
            return Ok(Completion::ignored_with(reason));
        }
        run();
        Ok(Completion::Completed)
    })
}

/// Why there can be no pair of links in a namespace here.
fn what_is_missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING.get_or_init(|| try_means().err().map(|error| format!("{error}; needs CAP_SYS_ADMIN and CAP_NET_ADMIN"))).as_deref()
}

fn try_means() -> std::io::Result<()> {
    netns::inside(netns::create()?.as_fd(), || netio::link::add_pair("try0", "try1", None))
}
