//! Files and flags, and what becomes of them.

mod faults;
mod files;
mod flags;
mod schema;

use crate::Config;
use crate::desired::Desired;
use crate::flags::Flag;

/// One port, for files about something else.
const PORT: &str = "[[bridge.br0.port]]\ntap = 'a'\n";

/// A flag with its value: `--tap tap0`.
pub(crate) fn flag(text: &str) -> Flag {
    const FLAGS: [&str; 24] = [
        "--tap",
        "--port",
        "--gateway",
        "--publish",
        "--nat",
        "--vxlan",
        "--udp",
        "--udp-ip",
        "--uplink",
        "--uplink-mode",
        "--uplink-address",
        "--uplink-gateway",
        "--uplink-gate",
        "--workers",
        "--busy-poll",
        "--max-ports",
        "--mac-table-size",
        "--mac-aging-time",
        "--control",
        "--control-group",
        "--control-read-only-others",
        "--metrics",
        "--state",
        "--docker",
    ];
    let (name, value) = text.split_once(' ').expect(text);
    Flag::new(FLAGS.into_iter().find(|flag| *flag == name).expect(name), value)
}

/// What flags mean, or the problems.
pub(crate) fn config(flags: &[Flag]) -> Result<Config, String> {
    Desired::of_flags(flags).map(|desired| desired.config).map_err(|problems| problems.to_string())
}

/// The problems of flags, one at least.
pub(crate) fn problem(flags: &[Flag]) -> String {
    config(flags).map(|config| config.ports.len()).unwrap_err()
}

fn with(text: &str, flags: &[&str]) -> Result<Config, String> {
    let flags: Vec<Flag> = flags.iter().map(|text| flag(text)).collect();
    Desired::of_text("v.toml", text, &flags).map(|desired| desired.config).map_err(|problems| problems.to_string())
}

fn file(text: &str) -> Result<Config, String> {
    with(text, &[])
}

fn names(config: &Config) -> Vec<&str> {
    config.ports.iter().map(|port| port.name.as_str()).collect()
}
