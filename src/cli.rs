//! The command line: words only. What they mean together is the configuration's business.

use clap::{Args, Parser, Subcommand};

const TAP_HELP: &str = "TAP ports, NAME[@NETNS][:KEY=VALUE...] with commas between. NETNS is a name under /run/netns, \
    a path, or pid:N. Keys: vlan=10, trunks=10+20, vlan-mode=access|trunk|native-tagged|native-untagged, mtu=1500, \
    offload=on|off, gro=on|off";

/// A learning Ethernet switch in one userspace process, over TAP devices.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// What to do instead of being a switch.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make two hosts in namespaces of their own, run the switch between them, send real traffic
    /// and print what happened. Touches nothing of this machine.
    Demo,
}

/// What the switch is to be.
#[derive(Debug, Default, Args)]
pub(crate) struct Flags {
    /// The TAP ports; [`TAP_HELP`] for people.
    #[arg(long, value_name = "TAP,...", help = TAP_HELP)]
    pub(crate) tap: Vec<String>,
    /// Threads that carry frames [default: one per core, at most one per port]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Most addresses that the bridge learns, 10 to 1,000,000
    #[arg(long, value_name = "ENTRIES", default_value_t = 8192)]
    pub(crate) mac_table_size: usize,
    /// Seconds until an address that was not seen again is forgotten, 1 to 86,400
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) mac_aging_time: u32,
    /// Read and check the configuration, say what would run, start nothing
    #[arg(long)]
    pub(crate) check: bool,
}
