//! The whole switch between real kernels: hosts are network namespaces, ports are TAPs, and the daemon is the shipped
//! binary.
//!
//! All namespaces are made here and end with the process that made them; nothing need be installed. Without the right
//! to make namespaces and TAPs a test is ignored, with the reason. Each test ends with [`switch::Switch::finish`],
//! which asserts that frames in equal frames out and named drops.

mod absence;
mod bridges;
mod capture;
mod captured;
mod changes;
mod cni;
mod command;
mod config;
mod conformance;
mod containers;
mod control;
mod datagrams;
mod detached;
mod docker;
mod doctor;
mod engine;
mod events;
mod exchange;
mod fairness;
mod frames;
mod gate;
mod gateway;
mod guarding;
mod guest;
mod guest_image;
mod guest_machine;
mod guest_qemu;
mod host;
mod hostile;
mod kernel;
mod learning;
mod lifecycle;
mod limits;
mod metrics;
mod monitor;
mod named;
mod namesakes;
mod nat;
mod nat_fragments;
mod nat_icmp;
mod nat_tcp;
mod neighbour;
mod networks;
mod outlives;
mod packaging;
mod pasted;
mod path;
mod ports;
mod ports_matrix;
mod ports_socket;
mod processes;
mod program;
mod publish;
mod random;
mod raw;
mod reconfigure;
mod rights;
mod routes;
mod service;
mod site;
mod station;
mod switch;
mod top;
mod tour;
mod trace;
mod transfer;
mod tunnel;
mod tunnel_ecn;
mod tunnel_faults;
mod tunnel_group;
mod tunnel_hostile;
mod tunnel_kernel;
mod tunnel_mesh;
mod tunnel_mtu;
mod tunnel_ovs;
mod tunnel_router;
mod tunnel_site;
mod tunnel_udp;
mod uplink;
mod verbs;
mod vlan;
mod wait;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Completion, Trial};
use netio::{Layer, Tap, TapSpec, netns};

/// Set to nothing for all daemons: what they make ends with them, unless a test gives them a state directory.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

fn main() -> ExitCode {
    if std::env::var_os(STATE_DIRECTORY).is_none_or(|value| !value.is_empty()) {
        let program = std::env::current_exe().expect("this program");
        let error = Command::new(program).args(std::env::args_os().skip(1)).env(STATE_DIRECTORY, "").exec();
        panic!("starting again with an environment for daemons: {error}");
    }
    let trials = [
        vlan::trials(),
        learning::trials(),
        lifecycle::trials(),
        fairness::trials(),
        transfer::trials(),
        command::trials(),
        reconfigure::trials(),
        config::trials(),
        absence::trials(),
        bridges::trials(),
        control::trials(),
        cni::trials(),
        containers::trials(),
        capture::trials(),
        changes::trials(),
        rights::trials(),
        events::trials(),
        verbs::trials(),
        trace::trials(),
        metrics::trials(),
        top::trials(),
        kernel::trials(),
        nat::trials(),
        nat_tcp::trials(),
        engine::trials(),
        networks::trials(),
        routes::trials(),
        nat_icmp::trials(),
        nat_fragments::trials(),
        gateway::trials(),
        publish::trials(),
        path::trials(),
        uplink::trials(),
        gate::trials(),
        neighbour::trials(),
        limits::trials(),
        guarding::trials(),
        hostile::trials(),
        ports::trials(),
        ports_socket::trials(),
        ports_matrix::trials(),
        tunnel::trials(),
        tunnel_kernel::trials(),
        tunnel_mesh::trials(),
        tunnel_ecn::trials(),
        tunnel_mtu::trials(),
        tunnel_faults::trials(),
        tunnel_group::trials(),
        tunnel_hostile::trials(),
        tunnel_router::trials(),
        tunnel_udp::trials(),
        tunnel_ovs::trials(),
        guest_qemu::trials(),
        service::trials(),
        outlives::trials(),
        processes::trials(),
        packaging::trials(),
        pasted::trials(),
        docker::trials(),
        doctor::trials(),
        tour::trials(),
        detached::trials(),
        namesakes::trials(),
    ];
    let mut trials: Vec<Trial> = trials.into_iter().flatten().collect();
    trials.extend(conformance::trials(&trials));
    program::build();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test that needs the right to make namespaces and TAPs.
pub(crate) fn trial(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::ignorable_test(name, || {
        if let Some(reason) = what_is_missing() {
            return Ok(Completion::ignored_with(reason));
        }
        run();
        Ok(Completion::Completed)
    })
}

/// The same for a test that needs something else as well.
pub(crate) fn trial_with(
    name: impl Into<String>,
    what_is_missing_too: fn() -> Option<String>,
    run: impl FnOnce() + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Some(reason) = what_is_missing().map(str::to_owned).or_else(what_is_missing_too) {
            return Ok(Completion::ignored_with(reason));
        }
        run();
        Ok(Completion::Completed)
    })
}

/// Why namespaces and TAPs cannot be made here.
fn what_is_missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING.get_or_init(|| try_means().err()).as_deref()
}

fn try_means() -> Result<(), String> {
    use std::os::fd::AsFd;
    let namespace = netns::create().map_err(|error| format!("no network namespace can be made: {error}; needs CAP_SYS_ADMIN"))?;
    let spec = TapSpec {
        name: "try0".to_owned(),
        netns: None,
        layer: Layer::Ethernet,
        queues: 1,
        mtu: None,
        tx_queue_len: 1000,
        offload: true,
        mac: None,
    };
    let tap = netns::inside(namespace.as_fd(), || Ok(Tap::open(&spec)));
    tap.map_err(|error| error.to_string())?.map_err(|error| error.to_string()).map(drop)
}
