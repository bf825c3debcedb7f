//! Colours: on a terminal only, and not if `NO_COLOR` is set (no-color.org) or the terminal has no colours.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

/// Colours for good, bad and in-between states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Colour {
    Green,
    Red,
    Yellow,
}

impl Colour {
    /// The colour of a state, by its name.
    pub(crate) fn of_state(word: &str) -> Option<Colour> {
        match word {
            "up" | "established" => Some(Colour::Green),
            "down" | "gone" => Some(Colour::Red),
            "waiting" | "incomplete" => Some(Colour::Yellow),
            _ => None,
        }
    }

    /// The text in this colour (ECMA-48 section 8.3.117), or unchanged if colours are off.
    pub(crate) fn paint(self, text: &str) -> String {
        if is_wanted() { self.sequence(text) } else { text.to_owned() }
    }

    fn sequence(self, text: &str) -> String {
        let number = match self {
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
        };
        format!("\u{1b}[{number}m{text}\u{1b}[0m")
    }
}

/// Whether colours are wanted.
pub(crate) fn is_wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| {
        let said = |name| std::env::var_os(name);
        wants(
            io::stdout().is_terminal(),
            said("NO_COLOR").is_some_and(|value| !value.is_empty()),
            said("TERM").is_some_and(|term| term == "dumb"),
        )
    })
}

fn wants(is_terminal: bool, no_color: bool, is_dumb: bool) -> bool {
    is_terminal && !no_color && !is_dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_person_looks() {
        assert!(wants(true, false, false));
        assert!(!wants(false, false, false) && !wants(true, true, false) && !wants(true, false, true));
    }

    #[test]
    fn words() {
        assert_eq!(Colour::of_state("gone"), Some(Colour::Red));
        assert_eq!(Colour::of_state("nat"), None);
        assert_eq!(Colour::Green.sequence("up"), "\u{1b}[32mup\u{1b}[0m");
    }
}
