//! The command line: words only.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use api::Protocol;
use clap::{Args, Parser, Subcommand, ValueEnum};
use packet::MacAddr;

/// Shows what a running vswitchd does, and changes it.
#[derive(Debug, Parser)]
#[command(name = "vswitchctl", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Control socket of the switch [default: $VSWITCHD_SOCKET; or else /run/vswitchd.sock as root,
    /// $XDG_RUNTIME_DIR/vswitchd.sock otherwise; where that is missing, the service's /run/vswitchd/vswitchd.sock]
    #[arg(long, visible_alias = "control", global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// In which form
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// For whom the answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs
    Json,
    /// As conntrack(8) lists connections; of conntrack list only
    Conntrack,
}

/// What is to be shown.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The switch as a whole: ports, gateways, uplink, tunnels, and what is wrong
    Show,
    /// Ports and their counters
    #[command(subcommand)]
    Port(Port),
    /// The MAC table (forwarding database)
    #[command(subcommand)]
    Fdb(Fdb),
    /// The hosts that the router sends to
    #[command(subcommand)]
    Neigh(Neigh),
    /// The router's connections
    #[command(subcommand)]
    Conntrack(Conntrack),
    /// What is translated to what
    #[command(subcommand)]
    Nat(Nat),
    /// Tunnels and the hosts at their other ends
    #[command(subcommand)]
    Tunnel(Tunnel),
    /// Frames as they come and go, and why they are dropped, for Wireshark and tcpdump (pcapng)
    Capture(Capture),
    /// Make the running switch what a configuration file says, and print the difference
    Apply {
        /// The file, as of vswitchd --config; - is standard input
        file: PathBuf,
        /// Change nothing, and print what would be changed
        #[arg(long)]
        dry_run: bool,
    },
    /// What would happen to a packet, step by step, and nothing changes; or what happens to real ones
    Trace(Trace),
    /// All numbers in Prometheus' text form
    Metrics,
    /// What happens from now on, a line each: ports, guests, uplink, stations that move, tables that are full
    Events,
    /// A live screen: ports with their rates, flows, drops by reason
    Top {
        /// Seconds between two readings
        #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
        interval: u32,
    },
    /// How much the daemon logs
    #[command(subcommand)]
    Log(Log),
    /// Does this host fit the switch? What does not is told with the fix; it ends with 1 if there is a problem
    Doctor(Doctor),
    /// What a shell reads to complete command lines
    #[command(hide = true)]
    Completions {
        /// For which
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// Into this directory
        directory: PathBuf,
    },
}

/// Which frames are captured, and where they go.
#[derive(Debug, Args)]
pub(crate) struct Capture {
    /// Only frames of this port
    #[arg(default_value = "any")]
    pub(crate) port: String,
    /// Only frames that match, in the words of tcpdump: host, net, port, tcp, udp, icmp, arp, vlan, vni, mac .., and, or, not
    #[arg(trailing_var_arg = false)]
    pub(crate) filter: Vec<String>,
    /// Output file, in pcapng format; - is standard output
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only dropped frames, with the reason
    #[arg(long)]
    pub(crate) drops: bool,
    /// End after N frames
    #[arg(short = 'c', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Capture at most BYTES of each frame [default: all]
    #[arg(short = 's', long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=262_144))]
    pub(crate) snaplen: Option<u32>,
    /// Capture one frame of N on average, chosen at random
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) sample: Option<u32>,
}

/// Which configuration is examined.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Examine this configuration [default: the switch that runs, if one does]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Which packet.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// Such as port=tap0,src=10.0.0.2,dst=198.51.100.7,tcp,dport=80; further words are smac=, dmac=, vlan=, udp, icmp,
    /// arp, sport=, id=, flags=syn+ack, ttl=, len=, df. With --live, a filter as capture has it
    #[arg(required_unless_present = "live", value_name = "PACKET|FILTER")]
    pub(crate) words: Vec<String>,
    /// Not an imaginary one: the next N real ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) live: Option<u32>,
    /// Of these, those that come in through this port
    #[arg(long, value_name = "NAME", requires = "live")]
    pub(crate) port: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Port {
    /// The ports and how they are
    List,
    /// Frames, bytes, and drops by their reason
    Stats {
        /// Of this port only
        name: Option<String>,
    },
    /// Add a port, in the words of vswitchd's --tap or --port: tap3:vlan=10, packet:veth0, stream:/run/guests
    Add {
        /// What it is to be.
        #[arg(help = "NAME[@NETNS][:KEY=VALUE...] or KIND:WHERE[:KEY=VALUE...]")]
        port: String,
    },
    /// Take a port away
    Del {
        /// Its name, or NAME@NETNS where there are several of that name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Fdb {
    /// All addresses and the ports behind which they are
    Show {
        /// Of this bridge only
        #[arg(long, value_name = "NAME")]
        bridge: Option<String>,
    },
    /// Add a static entry, or change where it leads
    Add {
        /// The station's address
        mac: MacAddr,
        /// The port behind which it is
        port: String,
        /// In this VLAN [default: 0, untagged frames]
        #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=4094))]
        vlan: u16,
    },
    /// Remove an entry, static or learned
    Del {
        /// The station's address
        mac: MacAddr,
        /// In this VLAN [default: 0, untagged frames]
        #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=4094))]
        vlan: u16,
        /// Of this bridge; needed where there are several
        #[arg(long, value_name = "NAME")]
        bridge: Option<String>,
    },
    /// Forget what was learned; static entries stay
    Flush {
        /// Behind this port only
        #[arg(long)]
        port: Option<String>,
        /// Of this VLAN only; 0 is for untagged frames
        #[arg(long, value_parser = clap::value_parser!(u16).range(..=4094))]
        vlan: Option<u16>,
        /// Of this bridge only
        #[arg(long, value_name = "NAME")]
        bridge: Option<String>,
    },
    /// What happened to the table
    Stats {
        /// Of this bridge only [default: all together]
        #[arg(long, value_name = "NAME")]
        bridge: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Neigh {
    /// All neighbours
    Show,
    /// Forget them; they are asked for again when there is something for them
    Flush {
        /// With this address only
        address: Option<Ipv4Addr>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Conntrack {
    /// The connections that match all of what is given
    List(List),
    /// End the connections that match all of what is given
    Flush(Filter),
    /// How many there are and were
    Stats,
}

/// Which connections.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// With this address at either end, inside or outside
    #[arg(long)]
    pub(crate) address: Option<Ipv4Addr>,
    /// With this port at either end
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// tcp, udp, icmp, or IP's number
    #[arg(long, value_parser = protocol)]
    pub(crate) protocol: Option<Protocol>,
}

/// Which connections, and how many.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// At most so many, of which 100,000 are given [default: 10,000]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Nat {
    /// Outside addresses, published ports, and guests' endpoints outside
    List {
        /// At most so many endpoints, of which 100,000 are given [default: 10,000]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Publish ports of the uplink's address, in the words of vswitchd's --publish: 8080:10.77.0.2:80/tcp
    Publish {
        /// What leads where.
        #[arg(help = "[ADDR:]PORT[-PORT]:GUEST:PORT[-PORT][/tcp|udp|tcp+udp]")]
        rule: String,
    },
    /// Take a rule back; connections by it end
    Unpublish {
        /// The rule, as it was given or as it is listed
        rule: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tunnel {
    /// All tunnels, with frames to and from each host
    List,
    /// Add a tunnel, in the words of vswitchd's --vxlan or --udp: vni=42,remote=192.0.2.2
    Add {
        /// KEY=VALUE,...
        tunnel: String,
    },
    /// Take a tunnel away
    Del {
        /// Its name, as it is listed
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// The levels, and the parts that can have their own
    Show,
    /// Set a level, until the daemon ends
    Set {
        /// off, error, warn, info, debug or trace: of all parts, or of one, such as tunnel=debug
        #[arg(value_name = "[PART=]LEVEL")]
        level: String,
    },
}

/// A protocol by its name in any case, or its number.
fn protocol(text: &str) -> Result<Protocol, api::NotAProtocol> {
    match text.parse::<u8>() {
        Ok(number) => Ok(Protocol(number)),
        Err(_) => text.to_ascii_lowercase().parse(),
    }
}
