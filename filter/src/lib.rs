//! Which frames: an expression in tcpdump's words, compiled to checks on a frame that is parsed already.
//!
//! ```text
//!  expression = term { ("and" | "&&" | "or" | "||") term }     equal in rank, from the left, as in tcpdump
//!  term       = ("not" | "!") term | "(" expression ")" | primitive
//!  primitive  = [SCOPE] [END] host ADDRESS | [SCOPE] [END] net CIDR | [END] ADDRESS | SCOPE
//!             | [tcp | udp] [END] port N | [tcp | udp] [END] portrange N-M
//!             | [ip | ip6] proto N | ether [END] MAC | ether host MAC | [END] mac MAC | ether proto N
//!             | tcp | udp | icmp | icmp6 | vlan [N] | vni [N] | broadcast | multicast
//!  SCOPE      = ip | ip6 | arp
//!  END        = src | dst | src or dst | src and dst
//! ```
//!
//! A value alone behind `and` or `or` has the words of the one before: `port 53 or 80`.
//!
//! *What a word means* is what it means in tcpdump (pcap-filter(7)), but for this:
//!
//! - Tags do not hide what is behind them: `host A` finds A in frames with up to two VLAN tags. In tcpdump it finds
//!   untagged ones, and `vlan` changes where all words behind it look.
//! - `vlan N` is the frame's VLAN at the port: that of its outermost tag, or without one the port's own. `vlan` alone
//!   is any tag.
//! - `vni N` is not in tcpdump: frames out of and into a tunnel of this network, and VXLAN datagrams that carry it.
//! - IPv6 extension headers are walked to find protocol and ports; tcpdump looks at the first header only.
//! - Names of hosts, ports and protocols are not looked up: that could wait for the network.
//!
//! As there, a later fragment has a protocol and no ports, a first one has both, and `host` and `net` of IPv4 find
//! ARP of that sender or target too. Addresses are read wherever there are enough bytes, also from a header that is
//! not sound: those frames are looked for most of all.
//!
//! *Limits.* 4096 bytes of text, 32 levels of parentheses and `not`, 128 checks. A frame costs at most that many
//! checks, and no memory.

mod check;
mod parse;

use std::fmt;
use std::str::FromStr;

use packet::Headers;

pub use check::Subject;
use check::{ACCEPT, Check, REJECT, Step};
pub use parse::FilterError;

/// A filter's text may be so long.
pub const MAX_LEN: usize = 4096;
/// So many levels of parentheses and `not`.
pub const MAX_DEPTH: usize = 32;
/// So many checks.
pub const MAX_CHECKS: usize = 128;

/// Which frames. Shown, it is an expression that means the same, with all parentheses that could be needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    expression: Expression,
    /// Each goes on with one before it, so that a frame is through in as many steps as there are.
    steps: Box<[Step]>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Expression {
    Check(Check),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        let expression = parse::parse(text)?;
        let mut steps = Vec::new();
        emit(&expression, ACCEPT, REJECT, &mut steps);
        Ok(Filter { expression, steps: steps.into() })
    }
}

impl Filter {
    /// Is it one of these?
    #[inline]
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let mut at = self.steps.len() as u16 - 1;
        loop {
            let step = &self.steps[usize::from(at)];
            at = if step.check.holds(subject) { step.then } else { step.otherwise };
            match at {
                ACCEPT => return true,
                REJECT => return false,
                _ => {}
            }
        }
    }
}

/// Adds the steps that go on with `then` if this holds and `otherwise` if not, the first to be asked last.
fn emit(expression: &Expression, then: u16, otherwise: u16, steps: &mut Vec<Step>) -> u16 {
    match expression {
        Expression::Check(check) => {
            steps.push(Step { check: *check, then, otherwise });
            steps.len() as u16 - 1
        }
        Expression::Not(inner) => emit(inner, otherwise, then, steps),
        Expression::And(all) => all.iter().rev().fold(then, |next, one| emit(one, next, otherwise, steps)),
        Expression::Or(any) => any.iter().rev().fold(otherwise, |next, one| emit(one, then, next, steps)),
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt(out)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (list, word) = match self {
            Expression::Check(check) => return check.fmt(out),
            Expression::Not(inner) => return write!(out, "not {}", Part(inner)),
            Expression::And(list) => (list, "and"),
            Expression::Or(list) => (list, "or"),
        };
        for (at, part) in list.iter().enumerate() {
            if at > 0 {
                write!(out, " {word} ")?;
            }
            Part(part).fmt(out)?;
        }
        Ok(())
    }
}

/// An expression within another.
struct Part<'a>(&'a Expression);

impl fmt::Display for Part<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expression::And(_) | Expression::Or(_) => write!(out, "({})", self.0),
            inner => inner.fmt(out),
        }
    }
}

/// What is looked at, for a frame with an Ethernet header that belongs to no VLAN and no tunnel.
#[must_use]
pub fn plain<'a>(headers: Option<&'a Headers>, bytes: &'a [u8]) -> Subject<'a> {
    Subject { headers, bytes, vlan: None, vni: None }
}
