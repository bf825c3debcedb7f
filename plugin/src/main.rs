//! `vswitch-plugin`: connects containers to vswitchd for runtimes that speak CNI: podman, containerd, CRI-O, Kubernetes.
//!
//! A runtime starts it for each container that comes or goes, as `vswitch` in its directory of plugins, with the command in the
//! environment and the network's configuration on standard input (the CNI specification, 1.1.0). What it does is a request or two to the
//! control socket of vswitchd: a container in a network is a guest there.
//!
//! It is small and has no runtime of its own, because a node with many containers starts it often. Everything it reads is a
//! stranger's and bounded; it writes one JSON document to standard output.

mod client;
mod cni;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_none() {
        eprintln!(
            "vswitch-plugin {}: container runtimes start this program with CNI_COMMAND in the environment; see docs/containers.md",
            env!("CARGO_PKG_VERSION")
        );
        return ExitCode::from(2);
    }
    match cni::run() {
        Ok(answer) => {
            if !answer.is_empty() {
                println!("{answer}");
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{}", failure.to_json());
            ExitCode::FAILURE
        }
    }
}
