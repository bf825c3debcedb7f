//! The command line and its help.

mod guest;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use api::Protocol;
use clap::{Args, Parser, Subcommand, ValueEnum};
pub(crate) use guest::{Guest, GuestKeys, Switch};
use packet::MacAddr;

/// Shows what a running vswitchd does, and changes it.
#[derive(Debug, Parser)]
#[command(name = "vswitchctl", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Control socket of the switch [default: $VSWITCHD_SOCKET; or else the first of $XDG_RUNTIME_DIR/vswitchd.sock (but for
    /// root), /run/vswitchd.sock, and the service's /run/vswitchd/vswitchd.sock at which a switch listens]
    #[arg(long, alias = "socket", global = true, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// Output format
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Output format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Output {
    /// A table
    Table,
    /// JSON, for programs
    Json,
    /// The format of conntrack(8); for conntrack list only
    Conntrack,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the switch as a whole: ports, gateways, uplink, tunnels, and problems
    Show,
    /// Wait until a switch is ready: it answers, its devices are open, and frames flow
    Wait(Wait),
    /// Show, add, change and remove bridges with their gateways
    #[command(subcommand)]
    Bridge(Bridge),
    /// End the switch, as SIGTERM does, and wait until its devices are closed
    Stop {
        /// Give up waiting after this time, with exit status 1
        #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
        timeout: u32,
    },
    /// Let another program, or a newer file of the running one, go on in place of the switch. Guests keep interfaces and connections
    Upgrade {
        /// Path of a vswitchd [default: that of the running one]
        path: Option<PathBuf>,
        /// Give up waiting for it after this time, with exit status 1
        #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
        timeout: u32,
    },
    /// Show, add, change and remove guests: ports with their addresses, names and published ports
    #[command(subcommand)]
    Guest(Guest),
    /// Show, add and remove ports
    #[command(subcommand)]
    Port(Port),
    /// Show and change the MAC table (forwarding database)
    #[command(subcommand)]
    Fdb(Fdb),
    /// Show and flush the router's neighbours
    #[command(subcommand)]
    Neigh(Neigh),
    /// Show and end the router's connections
    #[command(subcommand)]
    Conntrack(Conntrack),
    /// Show NAT mappings, and publish ports
    #[command(subcommand)]
    Nat(Nat),
    /// Show, add and remove routes to networks behind guests
    #[command(subcommand)]
    Route(Route),
    /// Show, add and remove tunnels
    #[command(subcommand)]
    Tunnel(Tunnel),
    /// Capture received, sent and dropped frames for Wireshark and tcpdump (pcapng)
    Capture(Capture),
    /// Show the running configuration
    #[command(subcommand)]
    Config(Config),
    /// Change the running configuration to that of a file, and print the difference
    Apply {
        /// Configuration file, as for vswitchd --config; - is standard input
        file: PathBuf,
        /// Change nothing; only print the difference
        #[arg(long)]
        dry_run: bool,
        /// Also remove what verbs own: bridges of bridge add, guests of guest add, and ports of port add with an id
        #[arg(long)]
        prune: bool,
    },
    /// Show what would happen to a packet, step by step, without changing anything; or what happens to real packets
    Trace(Trace),
    /// Print all metrics for Prometheus
    Metrics,
    /// Follow events, one line each: ports, guests, uplink, moving stations, full tables
    Events,
    /// Show a live screen: ports with their rates, flows, drops by reason
    Top {
        /// Seconds between two refreshes
        #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
        interval: u32,
    },
    /// Show and change the daemon's log levels
    #[command(subcommand)]
    Log(Log),
    /// Check whether this host fits the switch, with a fix for each problem; exit status 1 if there is a problem
    Doctor(Doctor),
    /// Print shell completions
    #[command(hide = true)]
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// Directory
        directory: PathBuf,
    },
}

/// What is waited for, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Give up after this time, with exit status 1
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) timeout: u32,
    /// Wait until no switch listens at the socket any more
    #[arg(long)]
    pub(crate) gone: bool,
}

/// Which frames are captured, and where they go.
#[derive(Debug, Args)]
pub(crate) struct Capture {
    /// Only frames of this port
    #[arg(default_value = "any")]
    pub(crate) port: String,
    /// Only frames that match this filter in tcpdump's language: host, net, port, tcp, udp, icmp, arp, vlan, vni, mac, and, or,
    /// not
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

/// The packets to trace.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The packet, such as port=tap0,src=10.0.0.2,dst=198.51.100.7,tcp,dport=80; further words are smac=, dmac=, vlan=,
    /// udp, icmp, arp, sport=, id=, flags=syn+ack, ttl=, len=, df. With --live, a filter as for capture
    #[arg(required_unless_present = "live", value_name = "PACKET|FILTER")]
    pub(crate) words: Vec<String>,
    /// Trace the next N real packets instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) live: Option<u32>,
    /// Only real packets that come in through this port
    #[arg(long, value_name = "NAME", requires = "live")]
    pub(crate) port: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bridge {
    /// List bridges with their gateways
    #[command(visible_alias = "show")]
    List,
    /// Add a bridge: blue:gateway=10.71.0.1/24
    Add {
        /// The bridge.
        #[arg(
            help = "NAME[:KEY=VALUE...]; keys are gateway=CIDR, gateways=VLAN@CIDR[+VLAN@CIDR...], routing=all|outside|none, host=on|off, isolated=on|off, mac-table-size=, mac-aging-time="
        )]
        bridge: String,
    },
    /// Change keys of a bridge: blue:gateway=10.72.0.1/24
    Set {
        /// The bridge and its new keys.
        #[arg(
            help = "NAME:KEY=VALUE[:KEY=VALUE...], with the keys of bridge add; the value none takes a key other than routing away"
        )]
        bridge: String,
    },
    /// Remove a bridge that has no ports
    Del {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Port {
    /// List ports with their states
    #[command(visible_alias = "show")]
    List,
    /// Show frames, bytes, and drops by reason
    Stats {
        /// Only this port
        name: Option<String>,
    },
    /// Add a port, in the syntax of vswitchd's --tap or --port: tap3:vlan=10, tap4:bridge=blue, packet:veth0, stream:/run/guests
    Add {
        /// The port.
        #[arg(help = "NAME[@NETNS][:KEY=VALUE...] or KIND:WHERE[:KEY=VALUE...]")]
        port: String,
    },
    /// Change keys of a port: tap3 vlan=20 mtu=1400
    Set {
        /// The port and its new keys.
        #[arg(
            required = true,
            value_name = "NAME|KEY=VALUE",
            help = "NAME KEY=VALUE..., or with --id only KEY=VALUE..., with the keys of port add; the value none takes a key away"
        )]
        words: Vec<String>,
        /// The port with this id
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
    /// Remove a port
    Del {
        /// Its name, or NAME@NETNS if several ports have that name
        #[arg(required_unless_present = "id")]
        name: Option<String>,
        /// The port with this id instead
        #[arg(long, value_name = "ID", conflicts_with = "name")]
        id: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Fdb {
    /// List all MAC addresses and their ports
    #[command(visible_alias = "list")]
    Show {
        /// Of this bridge only
        #[arg(long, value_name = "NAME")]
        bridge: Option<String>,
    },
    /// Add a static entry, or change its port
    Add {
        /// The station's address
        mac: MacAddr,
        /// The station's port
        port: String,
        /// VLAN [default: 0, untagged frames]
        #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=4094))]
        vlan: u16,
    },
    /// Remove an entry, static or learned
    Del {
        /// The station's address
        mac: MacAddr,
        /// VLAN [default: 0, untagged frames]
        #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=4094))]
        vlan: u16,
        /// Bridge; required if there are several
        #[arg(long, value_name = "NAME")]
        bridge: Option<String>,
    },
    /// Remove learned entries; static entries stay
    Flush {
        /// Only entries of this port
        #[arg(long)]
        port: Option<String>,
        /// Only entries of this VLAN; 0 is for untagged frames
        #[arg(long, value_parser = clap::value_parser!(u16).range(..=4094))]
        vlan: Option<u16>,
        /// Of this bridge only
        #[arg(long, value_name = "NAME")]
        bridge: Option<String>,
    },
    /// Show statistics of the table
    Stats {
        /// Only this bridge [default: all together]
        #[arg(long, value_name = "NAME")]
        bridge: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Neigh {
    /// List all neighbours
    #[command(visible_alias = "list")]
    Show,
    /// Remove neighbours; the router resolves them again when it has packets for them
    Flush {
        /// Only the neighbour with this address
        address: Option<Ipv4Addr>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Conntrack {
    /// List the connections that match all of the given filters
    #[command(visible_alias = "show")]
    List(List),
    /// End the connections that match all of the given filters
    Flush(Filter),
    /// Show the numbers of connections and used ports
    Stats,
}

/// A filter for connections.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only connections with this address at either end, inside or outside
    #[arg(long)]
    pub(crate) address: Option<Ipv4Addr>,
    /// Only connections with this port at either end
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Only this protocol: tcp, udp, icmp, or an IP protocol number
    #[arg(long, value_parser = protocol)]
    pub(crate) protocol: Option<Protocol>,
}

/// A filter for connections, and their maximum number.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Maximum number of connections, up to 100,000 [default: 10,000]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Nat {
    /// List outside addresses, published ports, and the outside endpoints of guests
    #[command(visible_alias = "show")]
    List {
        /// Maximum number of endpoints, up to 100,000 [default: 10,000]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Publish ports of the uplink's address, in the syntax of vswitchd's --publish: 8080:10.77.0.2:80/tcp
    Publish {
        /// The rule.
        #[arg(help = "[ADDR:]PORT[-PORT]:GUEST:PORT[-PORT][/tcp|udp|tcp+udp]")]
        rule: String,
    },
    /// Remove a published port and end its connections
    Unpublish {
        /// The rule, as it was given or as nat list shows it
        rule: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Route {
    /// List all routes to networks behind guests
    #[command(visible_alias = "show")]
    List,
    /// Add a route, in the syntax of vswitchd's --route: 10.9.0.0/16:via=10.71.0.9:bridge=blue
    Add {
        /// The route.
        #[arg(help = "NETWORK:via=GUEST[:bridge=NAME][:no-nat=on]")]
        route: String,
    },
    /// Remove a route, and end the connections of what was behind its guest
    Del {
        /// Its network, or the route as it was given
        to: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tunnel {
    /// List all tunnels, with frames to and from each host
    #[command(visible_alias = "show")]
    List,
    /// Add a tunnel, in the syntax of vswitchd's --vxlan or --udp: vni=42,remote=192.0.2.2
    Add {
        /// KEY=VALUE,...
        tunnel: String,
    },
    /// Remove a tunnel
    Del {
        /// Its name, as tunnel list shows it
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print the running configuration as a file for vswitchd --config, with what flags and verbs added
    #[command(visible_alias = "list")]
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Show the levels, and the parts that can have their own
    #[command(visible_alias = "list")]
    Show,
    /// Set a level, until the daemon ends
    Set {
        /// off, error, warn, info, debug or trace: for all parts, or for one, as in tunnel=debug
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
