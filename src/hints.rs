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
    if let TapError::Namespace { netns, .. } = &error
        && let Ok(entries) = std::fs::read_dir(netio::netns::NAMED)
    {
        let names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        if let Some(close) = nearest(&netns.to_string(), names.iter().map(String::as_str)) {
            let hint = format!("{error}; did you mean '{close}'?");
            return anyhow::anyhow!(hint);
        }
    }
    error.into()
}
