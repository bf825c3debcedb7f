//! Filter expressions in the language of tcpdump, compiled to checks on a parsed frame.
//!
//! ```text
//!  expression = term { ("and" | "&&" | "or" | "||") term }     equal precedence, from the left, as in tcpdump
//!  term       = ("not" | "!") term | "(" expression ")" | primitive
//!  primitive  = [SCOPE] [END] host ADDRESS | [SCOPE] [END] net CIDR | [END] ADDRESS | SCOPE
//!             | [tcp | udp] [END] port N | [tcp | udp] [END] portrange N-M
//!             | [ip | ip6] proto PROTOCOL | ether [END] MAC | ether host MAC | [END] mac MAC | ether proto N
//!             | tcp | udp | sctp | icmp | icmp6 | vlan [N] | vni [N] | [ether] broadcast | [ether] multicast
//!  PROTOCOL   = N | tcp | udp | sctp | icmp | icmp6
//!  SCOPE      = ip | ip6 | arp
//!  END        = src | dst | src or dst | src and dst
//! ```
//!
//! A value without a qualifier after `and` or `or` has the qualifiers of the previous one: `port 53 or 80`.
//!
//! *Meaning.* The primitives mean the same as in tcpdump (pcap-filter(7)), with these differences:
//!
//! - VLAN tags are skipped: `host A` matches frames with up to two tags. In tcpdump it matches only untagged frames, and
//!   `vlan` changes the offsets of all primitives that follow it.
//! - `vlan N` is the VLAN of the frame at its port: that of the outermost tag, or of an untagged frame the port's own.
//!   `vlan` alone matches any tag.
//! - `vni N`, which tcpdump does not have, matches frames from and to a tunnel with this network identifier, and VXLAN
//!   datagrams with it.
//! - IPv6 extension headers are skipped to find protocol and ports; tcpdump looks only at the first header.
//! - Names of hosts, ports and protocols are not resolved, as that might wait for the network.
//!
//! As in tcpdump, a first fragment has protocol and ports, a later one only the protocol, and `host` and `net` with IPv4
//! addresses match sender and target of ARP too. Addresses are read even from invalid headers if there are enough bytes,
//! since such frames are of particular interest.
//!
//! *Evaluation.* An expression becomes a program of checks, and a table of what is known for all frames of a kind.
//!
//! *Limits.* 4,096 bytes of text, 32 levels of parentheses and `not`, 128 checks. Matching a frame takes at most one
//! evaluation of each check, and allocates nothing.
//!
//! *Why not libpcap.* Its programs match raw bytes: they would parse each frame once more, and know neither the port's VLAN
//! nor the tunnel.

mod check;
mod expression;
mod kind;
mod parse;

use std::fmt;
use std::str::FromStr;

pub use check::Subject;
use check::{ACCEPT, Check, Step};
use expression::Expression;
use kind::{KINDS, Kind};
pub use parse::{FilterError, MAX_CHECKS, MAX_DEPTH, MAX_LEN};

/// A compiled filter. Displayed, it is an equivalent expression with explicit parentheses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    expression: Expression,
    /// The program, last step first: each step continues with an earlier element, so it ends.
    steps: Box<[Step]>,
    /// The results that are known for all frames of a kind.
    of_kinds: [Option<bool>; KINDS],
    /// Some check depends on the port or on the tag.
    looks_at_port: bool,
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        let expression = parse::parse(text)?;
        let steps: Box<[Step]> = expression.compile().into();
        let looks_at_port = steps.iter().any(|step| matches!(step.check, Check::Vlan(_) | Check::Vni(_)));
        let of_kinds = Kind::ALL.map(|kind| expression.of_kind(kind));
        Ok(Filter { expression, steps, of_kinds, looks_at_port })
    }
}

impl Filter {
    /// Whether a frame may match at one port and not at another one: there is a `vlan` or `vni` in the expression.
    #[inline]
    #[must_use]
    pub fn looks_at_port(&self) -> bool {
        self.looks_at_port
    }

    /// True if the frame matches.
    #[inline]
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let known = subject.headers.and_then(|headers| self.of_kinds[Kind::of(headers).index()]);
        known.unwrap_or_else(|| self.evaluate(subject))
    }

    /// The same by the program.
    #[inline(never)]
    fn evaluate(&self, subject: &Subject<'_>) -> bool {
        let mut at = self.steps.len() as u16 - 1;
        // Accept and reject are behind the last step.
        while let Some(step) = self.steps.get(usize::from(at)) {
            at = if step.check.holds(subject) { step.then } else { step.otherwise };
        }
        at == ACCEPT
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt(out)
    }
}
