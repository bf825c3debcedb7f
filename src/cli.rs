//! The command line: words only. What they mean together is the configuration's business.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use config::{CONTROL_VARIABLE, Flag};

const TAP_HELP: &str = "TAP ports, NAME[@NETNS][:KEY=VALUE...], separated by commas. NETNS is a name under /run/netns, \
    a path, or pid:N. Keys: vlan=10, trunks=10+20, vlan-mode=access|trunk|native-tagged|native-untagged, mtu=1500, \
    offload=on|off, gro=on|off|neighbours, limit-broadcast=1000|off, limit-multicast=10000|off, limit-unknown=10000|off (frames per second), \
    attach=own|auto (auto: a TAP that another process holds is joined from its network side)";

const GATEWAY_HELP: &str = "The router's addresses on the bridge, [VLAN=]CIDR, separated by commas; without VLAN for untagged \
    frames [default with a NAT uplink: 10.77.0.1/24]";

const PUBLISH_HELP: &str = "Forward ports of the uplink's address to a guest, \
    [ADDR:]PORT[-PORT]:GUEST:PORT[-PORT][/tcp|udp|tcp+udp]; or ADDR:GUEST, all of an own address";

const ROUTE_HELP: &str = "A network behind a guest, NETWORK:via=GUEST[:bridge=NAME][:no-nat=on], such as 10.9.0.0/16:via=10.77.0.9; \
    with no-nat its packets keep their source addresses on their way outside";

const NAT_HELP: &str = "Settings of the translation, KEY=VALUE, separated by commas. Keys: ports=1024-65535, \
    max-connections=262144, max-connections-per-port=131072, max-ports-per-guest=32768, mapping=endpoint-independent, \
    filtering=address-and-port-dependent, tcp-established=7440, tcp-transitory=240, tcp-opening=240, udp=300, icmp=60, \
    other=600, tcp-loose=on, tcp-liberal=off, mss-clamp=on, forward-link-local=off";

const VXLAN_HELP: &str = "A VXLAN tunnel to other hosts, KEY=VALUE, separated by commas: vni=N,remote=ADDR[+ADDR...]. \
    Further keys: local=ADDR, port=4789, vlan=, trunks= and vlan-mode= as for a TAP, mtu=, mac=MAC@ADDR[+...] (stations that \
    are known to be behind a remote), learning=on|off, dev=IFACE, ttl=64|inherit, tos=0|inherit, df=set|unset|inherit, \
    csum=auto|on|off; and group=ADDR with peers=CIDR[+CIDR...] instead of remote=";

const UDP_HELP: &str = "A tunnel of plain Ethernet frames in UDP, remote=ADDR[+ADDR...],port=N. Further keys: those of --vxlan but \
    vni=, group= and peers=";

const UDP_IP_HELP: &str = "A TUN device whose IPv4 packets go to other hosts in UDP, as flannel's: \
    tun=NAME[@NETNS],route=CIDR@ADDR[+...]. Further keys: address=CIDR, local=ADDR, port=8285, mtu=, dev=IFACE, \
    ttl=64|inherit, tos=0|inherit, df=set|unset|inherit, csum=auto|on|off";

/// A learning Ethernet switch and NAT router in one userspace process, over TAP devices.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) flags: Flags,
    /// Log level: off, error, warn, info, debug or trace; PART=LEVEL for a part of the daemon, separated by commas. It can
    /// be changed later with 'vswitchctl log set', which also lists the parts [default: VSWITCHD_LOG's, or info]
    #[arg(long, value_name = "[PART=]LEVEL,...", global = true)]
    pub(crate) log: Option<String>,
    /// Return when the switch is ready, which continues in the background; errors at the start are printed, with the same exit
    /// status as without it. The log continues if standard error is a file
    #[arg(long, conflicts_with = "check")]
    pub(crate) detach: bool,
    /// In the background, where standard input is the pipe to the process that waits until the switch is ready.
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub(crate) detached: bool,
}

/// What to do instead of being a switch.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make two hosts and an outside network in namespaces of their own, run switch and router between
    /// them, send real traffic and print what happened. Touches nothing of this machine.
    Demo,
    /// Hold descriptors for switches to come.
    #[command(hide = true, name = crate::state::holder::VERB)]
    Hold {
        /// Path of the socket
        socket: PathBuf,
    },
    /// Print the completion script of a shell
    #[command(hide = true)]
    Completions {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// Output directory
        directory: PathBuf,
    },
}

/// What the switch is to be.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Flags {
    /// Configuration file in TOML; flags add to it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The TAP ports; [`TAP_HELP`] for people.
    #[arg(long, value_name = "TAP,...", help = TAP_HELP)]
    pub(crate) tap: Vec<String>,
    /// Other ports; [`config::port::flag_help`] for people.
    #[arg(long, value_name = "KIND:WHERE", help = config::port::flag_help())]
    pub(crate) port: Vec<String>,
    /// The host's interface that leads outside
    #[arg(long, value_name = "IFACE")]
    pub(crate) uplink: Option<String>,
    /// nat: route and translate; bridge: a plain port of the bridge [default: nat]
    #[arg(long, value_name = "nat|bridge")]
    pub(crate) uplink_mode: Option<String>,
    /// Own addresses on the uplink, the first with its prefix length [default: share the host's]
    #[arg(long, value_name = "CIDR[,ADDR...]")]
    pub(crate) uplink_address: Option<String>,
    /// Next hop outside the uplink's network [default: from the host's routes]
    #[arg(long, value_name = "ADDR")]
    pub(crate) uplink_gateway: Option<String>,
    /// How the host's network stack is kept from answering guests' packets to its own address [default: auto]
    #[arg(long, value_name = "auto|tcx|filter|sockets")]
    pub(crate) uplink_gate: Option<String>,
    /// The gateways; [`GATEWAY_HELP`] for people.
    #[arg(long, value_name = "[VLAN=]CIDR,...", help = GATEWAY_HELP)]
    pub(crate) gateway: Vec<String>,
    /// What can be reached from outside; [`PUBLISH_HELP`] for people.
    #[arg(long, value_name = "RULE", help = PUBLISH_HELP)]
    pub(crate) publish: Vec<String>,
    /// Routes to networks behind guests; [`ROUTE_HELP`] for people.
    #[arg(long, value_name = "ROUTE", help = ROUTE_HELP)]
    pub(crate) route: Vec<String>,
    /// Settings of the translation; [`NAT_HELP`] for people.
    #[arg(long, value_name = "KEY=VALUE,...", help = NAT_HELP)]
    pub(crate) nat: Vec<String>,
    /// Tunnels; [`VXLAN_HELP`] for people.
    #[arg(long, value_name = "KEY=VALUE,...", help = VXLAN_HELP)]
    pub(crate) vxlan: Vec<String>,
    /// Tunnels without a header of their own; [`UDP_HELP`] for people.
    #[arg(long, value_name = "KEY=VALUE,...", help = UDP_HELP)]
    pub(crate) udp: Vec<String>,
    /// Tunnels beside the bridge; [`UDP_IP_HELP`] for people.
    #[arg(long, value_name = "KEY=VALUE,...", help = UDP_IP_HELP)]
    pub(crate) udp_ip: Vec<String>,
    /// Threads that carry frames [default: one per core, at most one per port and uplink]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<String>,
    /// Microseconds that a busy worker looks for more frames before it sleeps, 0 to 1,000; 0 is never [default: 200]
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) busy_poll: Option<String>,
    /// Maximum number of ports, 1 to 16,384: those of all bridges, the uplink, and the hosts of tunnels [default: 1024]
    #[arg(long, value_name = "N")]
    pub(crate) max_ports: Option<String>,
    /// Maximum number of addresses that the bridge learns, 10 to 1,000,000 [default: 8192]
    #[arg(long, value_name = "ENTRIES")]
    pub(crate) mac_table_size: Option<String>,
    /// Seconds until an address that is not seen again is removed, 1 to 86,400 [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) mac_aging_time: Option<String>,
    /// Path of the control socket, or none [default: $VSWITCHD_SOCKET; or else the file's; or else /run/vswitchd.sock for root
    /// and $XDG_RUNTIME_DIR/vswitchd.sock for other users, and none if that cannot be created]
    #[arg(long, alias = "socket", value_name = "PATH")]
    pub(crate) control: Option<String>,
    /// Group whose members have all rights on the control socket, like root and the daemon's own user
    #[arg(long, value_name = "NAME|GID")]
    pub(crate) control_group: Option<String>,
    /// Let other users read over the control socket
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) control_read_only_others: Option<bool>,
    /// Directory of what outlives the process, or none: then devices and connections end with it [default: $STATE_DIRECTORY; or
    /// else /var/lib/vswitchd for root on the default control socket; or else none]. With a directory, a large connection table has
    /// huge pages only where /sys/kernel/mm/transparent_hugepage/shmem_enabled allows them
    #[arg(long, value_name = "DIR|none")]
    pub(crate) state: Option<String>,
    /// Serve /metrics for Prometheus over HTTP at this address; host= adds the host names that requests may use
    #[arg(long, value_name = "ADDR:PORT[,host=NAME+...]")]
    pub(crate) metrics: Option<String>,
    /// Be Docker's network driver vswitch, on this socket or none [without a value: /run/docker/plugins/vswitch.sock]
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true, default_missing_value = config::DOCKER_SOCKET)]
    pub(crate) docker: Option<String>,
    /// Read and check the configuration, print what would run, and start nothing
    #[arg(long)]
    pub(crate) check: bool,
}

/// Flags whose values are lists with commas between, and flags that are given once for each value.
const LISTS: [&str; 4] = ["--tap", "--gateway", "--nat", "--uplink-address"];
const REPEATED: [&str; 6] = ["--port", "--publish", "--route", "--vxlan", "--udp", "--udp-ip"];

/// Verbs of vswitchctl.
const VERBS: [&str; 17] = [
    "apply",
    "capture",
    "conntrack",
    "doctor",
    "events",
    "fdb",
    "log",
    "metrics",
    "nat",
    "neigh",
    "port",
    "route",
    "show",
    "top",
    "trace",
    "tunnel",
    "wait",
];

/// The error, with a tip if it is about a word that belongs to no flag. `words` are those of the command line.
pub(crate) fn with_tip(mut error: clap::Error, words: &[String]) -> clap::Error {
    let stray = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand].into_iter().find_map(|kind| error.get(kind));
    let Some(ContextValue::String(stray)) = stray.filter(|_| is_of_words(error.kind())) else { return error };
    if let Some(tip) = tip(stray, words) {
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

fn is_of_words(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand | ErrorKind::ArgumentConflict)
}

/// What was probably meant by a stray word.
fn tip(stray: &str, words: &[String]) -> Option<String> {
    let at = words.iter().position(|word| word == stray).filter(|_| !stray.starts_with('-'))?;
    let flag = words[..at].iter().rposition(|word| word.starts_with("--"));
    let values = flag.map(|flag| &words[flag + 1..=at]).filter(|values| values.len() > 1);
    match (flag.map(|flag| words[flag].as_str()), values) {
        (Some(flag), Some(values)) if LISTS.contains(&flag) => {
            let values: Vec<&str> = values.iter().map(|word| word.trim_matches(',')).filter(|word| !word.is_empty()).collect();
            Some(format!("several values of {flag} are separated by commas, without spaces: {flag} {}", values.join(",")))
        }
        (Some(flag), Some(values)) if REPEATED.contains(&flag) => {
            let each: Vec<String> = values.iter().map(|value| format!("{flag} {value}")).collect();
            Some(format!("give {flag} once for each value: {}", each.join(" ")))
        }
        (None, _) if stray.ends_with(".toml") => Some(format!("a configuration file is named with --config {stray}")),
        _ if VERBS.contains(&stray) => Some(format!("a running switch is asked with vswitchctl: vswitchctl {stray}")),
        _ => None,
    }
}

impl Flags {
    /// Takes the control socket from the environment, unless a flag names it.
    pub(crate) fn complete(&mut self) {
        if self.control.is_none() {
            self.control = std::env::var(CONTROL_VARIABLE).ok().filter(|path| !path.is_empty());
        }
    }

    /// The flags that say something of the configuration.
    pub(crate) fn words(&self) -> Vec<Flag> {
        let lists = [
            ("--tap", &self.tap),
            ("--port", &self.port),
            ("--gateway", &self.gateway),
            ("--publish", &self.publish),
            ("--route", &self.route),
            ("--nat", &self.nat),
            ("--vxlan", &self.vxlan),
            ("--udp", &self.udp),
            ("--udp-ip", &self.udp_ip),
        ];
        let once = [
            ("--uplink", self.uplink.clone()),
            ("--uplink-mode", self.uplink_mode.clone()),
            ("--uplink-address", self.uplink_address.clone()),
            ("--uplink-gateway", self.uplink_gateway.clone()),
            ("--uplink-gate", self.uplink_gate.clone()),
            ("--workers", self.workers.clone()),
            ("--busy-poll", self.busy_poll.clone()),
            ("--max-ports", self.max_ports.clone()),
            ("--mac-table-size", self.mac_table_size.clone()),
            ("--mac-aging-time", self.mac_aging_time.clone()),
            ("--control", self.control.clone()),
            ("--control-group", self.control_group.clone()),
            ("--control-read-only-others", self.control_read_only_others.map(|is_on| is_on.to_string())),
            ("--metrics", self.metrics.clone()),
            ("--state", self.state.clone()),
            ("--docker", self.docker.clone()),
        ];
        let lists = lists.into_iter().flat_map(|(name, list)| list.iter().map(move |value| Flag::new(name, value.as_str())));
        lists.chain(once.into_iter().filter_map(|(name, value)| Some(Flag::new(name, value?)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_stray_word_is_answered_with_what_was_meant() {
        for (line, tip) in [
            ("vswitchd --tap tap0 tap1", "without spaces: --tap tap0,tap1"),
            ("vswitchd --tap tap0, tap1", "without spaces: --tap tap0,tap1"),
            (
                "vswitchd --uplink eth0 --publish 80:10.77.0.2:80 81:10.77.0.2:81",
                "--publish 80:10.77.0.2:80 --publish 81:10.77.0.2:81",
            ),
            ("vswitchd vswitchd.toml", "--config vswitchd.toml"),
            ("vswitchd show", "vswitchctl show"),
            ("vswitchd --tap tap0 --workers 2 show", "vswitchctl show"),
            ("vswitchd --taps tap0", "'--tap'"),
        ] {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let error = Cli::command().try_get_matches_from(&words).expect_err(line);
            let said = with_tip(error, &words).to_string();
            assert!(said.contains(tip), "{line}: {said}");
        }
    }
}
