//! The command line: words only. What they mean together is the configuration's business.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const TAP_HELP: &str = "TAP ports, NAME[@NETNS][:KEY=VALUE...] with commas between. NETNS is a name under /run/netns, \
    a path, or pid:N. Keys: vlan=10, trunks=10+20, vlan-mode=access|trunk|native-tagged|native-untagged, mtu=1500, \
    offload=on|off, gro=on|off, attach=own|auto (auto: a TAP that another process holds is joined from its network side)";

const PORT_HELP: &str = "A port of another kind, KIND:WHERE[:KEY=VALUE...], once for each. packet:IFNAME: the network side of a \
    device, such as a TAP that a virtual machine's monitor holds, a veth or a NIC. stream:PATH or stream:ADDR:PORT: a socket \
    to which guests connect, each a port of its own (QEMU's -netdev stream, passt, libkrun). dgram:PATH: a socket with a frame \
    a datagram (QEMU's -netdev dgram, vfkit). Keys: vlan=, trunks=, vlan-mode= and mtu= as of a TAP; of packet: offload= and \
    gro= too; of stream: guests=16, mode=server|client; of dgram: remote=PATH, the guest's socket [default: who sent last]";

const GATEWAY_HELP: &str = "The router's addresses on the bridge, [VLAN=]CIDR with commas between; without VLAN for untagged \
    frames [default with a NAT uplink: 10.77.0.1/24]";

const PUBLISH_HELP: &str = "Forward ports of the uplink's address to a guest, \
    [ADDR:]PORT[-PORT]:GUEST:PORT[-PORT][/tcp|udp|tcp+udp]; or ADDR:GUEST, all of an own address";

const NAT_HELP: &str = "Settings of the translation, KEY=VALUE with commas between. Keys: ports=1024-65535, \
    max-connections=262144, max-connections-per-port=131072, max-ports-per-guest=32768, mapping=endpoint-independent, \
    filtering=address-and-port-dependent, tcp-established=7440, tcp-transitory=240, tcp-opening=240, udp=300, icmp=60, \
    other=600, tcp-loose=on, tcp-liberal=off, mss-clamp=on";

const VXLAN_HELP: &str = "A VXLAN tunnel to other hosts, KEY=VALUE with commas between: vni=N,remote=ADDR[+ADDR...]. \
    Further keys: local=ADDR, port=4789, vlan=, trunks= and vlan-mode= as of a TAP, mtu=, mac=MAC@ADDR[+...] (stations that \
    are known to be behind a remote), learning=on|off, dev=IFACE, ttl=64|inherit, tos=0|inherit, df=set|unset|inherit, \
    csum=auto|on|off; and group=ADDR with peers=CIDR[+CIDR...] instead of remote=";

const UDP_HELP: &str = "A tunnel of bare Ethernet in UDP, remote=ADDR[+ADDR...],port=N. Further keys: those of --vxlan but \
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
    /// How much is logged: off, error, warn, info, debug or trace; of single parts with PART=LEVEL, and commas between. It can
    /// be changed later with 'vswitchctl log set', which also lists the parts [default: VSWITCHD_LOG's, or info]
    #[arg(long, value_name = "[PART=]LEVEL,...", global = true)]
    pub(crate) log: Option<String>,
}

/// What to do instead of being a switch.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make two hosts and an outside network in namespaces of their own, run switch and router between
    /// them, send real traffic and print what happened. Touches nothing of this machine.
    Demo,
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

/// What the switch is to be.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Flags {
    /// TOML with all that the flags say; flags add to it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The TAP ports; [`TAP_HELP`] for people.
    #[arg(long, value_name = "TAP,...", help = TAP_HELP)]
    pub(crate) tap: Vec<String>,
    /// Other ports; [`PORT_HELP`] for people.
    #[arg(long, value_name = "KIND:WHERE", help = PORT_HELP)]
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
    /// The next hop beyond the uplink's network [default: as the host's routes say]
    #[arg(long, value_name = "ADDR")]
    pub(crate) uplink_gateway: Option<String>,
    /// The gateways; [`GATEWAY_HELP`] for people.
    #[arg(long, value_name = "[VLAN=]CIDR,...", help = GATEWAY_HELP)]
    pub(crate) gateway: Vec<String>,
    /// What can be reached from outside; [`PUBLISH_HELP`] for people.
    #[arg(long, value_name = "RULE", help = PUBLISH_HELP)]
    pub(crate) publish: Vec<String>,
    /// How is translated; [`NAT_HELP`] for people.
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
    pub(crate) workers: Option<usize>,
    /// Microseconds that a busy worker looks for more frames before it sleeps, 0 to 1,000; 0 is never [default: 50]
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) busy_poll: Option<u32>,
    /// Most addresses that the bridge learns, 10 to 1,000,000 [default: 8192]
    #[arg(long, value_name = "ENTRIES")]
    pub(crate) mac_table_size: Option<usize>,
    /// Seconds until an address that was not seen again is forgotten, 1 to 86,400 [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) mac_aging_time: Option<u32>,
    /// Where vswitchctl finds the switch; none for nowhere [default: /run/vswitchd.sock as root,
    /// $XDG_RUNTIME_DIR/vswitchd.sock otherwise; without it where it cannot be]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<String>,
    /// The bridges of a file; of `br0` the name alone, as its words are the flags.
    #[arg(skip)]
    pub(crate) bridges: Vec<BridgeWords>,
    /// The bridge of a file's uplink in bridge mode.
    #[arg(skip)]
    pub(crate) uplink_bridge: Option<String>,
    /// Its members may do everything over the control socket, as root and the daemon's own user may
    #[arg(long, value_name = "NAME|GID")]
    pub(crate) control_group: Option<String>,
    /// Other users may read over the control socket
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) control_read_only_others: Option<bool>,
    /// Let Prometheus fetch /metrics by HTTP there, at whatever host names are given besides localhost and addresses
    #[arg(long, value_name = "ADDR:PORT[,host=NAME+...]")]
    pub(crate) metrics: Option<String>,
    /// Read and check the configuration, say what would run, start nothing
    #[arg(long)]
    pub(crate) check: bool,
}

/// What is said of one bridge, in the words of the flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct BridgeWords {
    pub(crate) name: String,
    pub(crate) tap: Vec<String>,
    pub(crate) port: Vec<String>,
    pub(crate) gateway: Vec<String>,
    pub(crate) vxlan: Vec<String>,
    pub(crate) udp: Vec<String>,
    pub(crate) mac_table_size: Option<usize>,
    pub(crate) mac_aging_time: Option<u32>,
}

impl BridgeWords {
    /// Is nothing said but a name?
    pub(crate) fn is_empty(&self) -> bool {
        let lists = [&self.tap, &self.port, &self.gateway, &self.vxlan, &self.udp];
        lists.iter().all(|list| list.is_empty()) && self.mac_table_size.is_none() && self.mac_aging_time.is_none()
    }
}

impl Flags {
    /// These and those of a file: what can be given again is added behind the file's, what is given once counts.
    pub(crate) fn added_to(&self, file: Flags) -> Flags {
        let behind = |file: Vec<String>, flags: &[String]| [file.as_slice(), flags].concat();
        let mine = self.clone();
        Flags {
            config: mine.config,
            tap: behind(file.tap, &self.tap),
            port: behind(file.port, &self.port),
            uplink: mine.uplink.or(file.uplink),
            uplink_mode: mine.uplink_mode.or(file.uplink_mode),
            uplink_address: mine.uplink_address.or(file.uplink_address),
            uplink_gateway: mine.uplink_gateway.or(file.uplink_gateway),
            gateway: behind(file.gateway, &self.gateway),
            publish: behind(file.publish, &self.publish),
            nat: behind(file.nat, &self.nat),
            vxlan: behind(file.vxlan, &self.vxlan),
            udp: behind(file.udp, &self.udp),
            udp_ip: behind(file.udp_ip, &self.udp_ip),
            workers: mine.workers.or(file.workers),
            busy_poll: mine.busy_poll.or(file.busy_poll),
            mac_table_size: mine.mac_table_size.or(file.mac_table_size),
            mac_aging_time: mine.mac_aging_time.or(file.mac_aging_time),
            control: mine.control.or(file.control),
            control_group: mine.control_group.or(file.control_group),
            control_read_only_others: mine.control_read_only_others.or(file.control_read_only_others),
            metrics: mine.metrics.or(file.metrics),
            check: self.check,
            bridges: file.bridges,
            uplink_bridge: file.uplink_bridge,
        }
    }

    /// The words of bridges' tunnels, in the order of the tunnels.
    pub(crate) fn tunnels_mut(&mut self) -> impl Iterator<Item = &mut Vec<String>> {
        let of_others = self.bridges.iter_mut().flat_map(|bridge| [&mut bridge.vxlan, &mut bridge.udp]);
        [&mut self.vxlan, &mut self.udp].into_iter().chain(of_others)
    }

    /// Is this flag given, such as `--tap`?
    pub(crate) fn has(&self, flag: &str) -> bool {
        match flag {
            "--tap" => !self.tap.is_empty(),
            "--port" => !self.port.is_empty(),
            "--uplink" => self.uplink.is_some(),
            "--uplink-mode" => self.uplink_mode.is_some(),
            "--uplink-address" => self.uplink_address.is_some(),
            "--uplink-gateway" => self.uplink_gateway.is_some(),
            "--gateway" => !self.gateway.is_empty(),
            "--publish" => !self.publish.is_empty(),
            "--nat" => !self.nat.is_empty(),
            "--vxlan" => !self.vxlan.is_empty(),
            "--udp" => !self.udp.is_empty(),
            "--udp-ip" => !self.udp_ip.is_empty(),
            "--workers" => self.workers.is_some(),
            "--busy-poll" => self.busy_poll.is_some(),
            "--mac-table-size" => self.mac_table_size.is_some(),
            "--mac-aging-time" => self.mac_aging_time.is_some(),
            "--control" => self.control.is_some(),
            "--control-group" => self.control_group.is_some(),
            "--metrics" => self.metrics.is_some(),
            _ => false,
        }
    }
}
