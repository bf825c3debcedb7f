//! Errors about interfaces and namespaces, with the name that was probably meant.

use config::nearest;
use netio::{PacketError, TapError};

/// The error, with the name of the interface that was probably meant.
pub(crate) fn without_interface(error: PacketError) -> anyhow::Error {
    if let PacketError::NoInterface { name } = &error
        && let Ok(names) = netio::link::names()
        && let Some(close) = nearest(name, names.iter().map(String::as_str))
    {
        return anyhow::anyhow!("{error}; did you mean '{close}'?");
    }
    error.into()
}

/// The error, with the name of the namespace that was probably meant, or the right that is missing.
pub(crate) fn without_namespace(error: TapError) -> anyhow::Error {
    if let TapError::Namespace { error: cause, .. } = &error
        && cause.kind() == std::io::ErrorKind::PermissionDenied
    {
        return anyhow::anyhow!(
            "{error}: CAP_SYS_ADMIN is missing, or CAP_SYS_PTRACE for pid:N of another user's process; run as root, or give the \
             rights to the binary with `setcap cap_net_admin,cap_sys_admin,cap_sys_ptrace+ep $(command -v vswitchd)`"
        );
    }
    let TapError::Namespace { netns, error: cause } = &error else { return error.into() };
    if cause.kind() != std::io::ErrorKind::NotFound {
        return error.into();
    }
    let netns = netns.to_string();
    let why = match netns.strip_prefix("pid:") {
        Some(_) => "there is no such process: has it ended?".to_owned(),
        None if netns.contains('/') => "there is no such file: has its container or process ended?".to_owned(),
        None => {
            let named = netio::netns::NAMED;
            let names = std::fs::read_dir(named).into_iter().flatten().flatten();
            let names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            match nearest(&netns, names.iter().map(String::as_str)) {
                Some(close) => format!("there is none of this name in {named}; did you mean '{close}'?"),
                None => format!("there is none of this name in {named}: make it with 'ip netns add {netns}'"),
            }
        }
    };
    anyhow::anyhow!("network namespace {netns}: {why}")
}
