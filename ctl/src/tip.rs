//! Tips for wrong verbs: the verb of this tool for a word of another tool.
//!
//! For other words the argument parser suggests verbs that are spelled like them.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Words of other tools, and the verbs for them.
const VERBS: &[(&str, &str)] = &[
    ("arp", "neigh show"),
    ("bridge", "show"),
    ("connections", "conntrack list"),
    ("drops", "port stats"),
    ("dump", "capture"),
    ("flows", "top"),
    ("get", "show"),
    ("health", "doctor"),
    ("info", "show"),
    ("interfaces", "port list"),
    ("ip", "neigh show"),
    ("links", "port list"),
    ("list", "show"),
    ("ls", "show"),
    ("mac", "fdb show"),
    ("mappings", "nat list"),
    ("monitor", "events"),
    ("publish", "nat publish"),
    ("reload", "apply"),
    ("routes", "route list"),
    ("set", "apply"),
    ("stations", "fdb show"),
    ("status", "show"),
    ("tcpdump", "capture"),
    ("unpublish", "nat unpublish"),
    ("vxlan", "tunnel list"),
    ("watch", "top"),
];

/// Second words of other tools, and those here: the first that the verb has.
const SECOND: &[(&str, &[&str])] = &[
    ("clear", &["flush"]),
    ("create", &["add", "publish"]),
    ("add", &["add", "publish"]),
    ("counters", &["stats"]),
    ("del", &["del", "unpublish", "flush"]),
    ("destroy", &["del", "unpublish", "flush"]),
    ("drop", &["del", "unpublish", "flush"]),
    ("get", &["show"]),
    ("ls", &["list"]),
    ("new", &["add", "publish"]),
    ("remove", &["del", "unpublish", "flush"]),
    ("rm", &["del", "unpublish", "flush"]),
    ("statistics", &["stats"]),
];

/// The error, with a tip if it is about a wrong verb that has a meaning elsewhere. `args` are the words of the command line.
pub(crate) fn with_tip(mut error: clap::Error, command: &clap::Command, args: &[String]) -> clap::Error {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    if let Some(verb) = meant(wrong, command, args) {
        let tip = format!("did you mean '{verb}'?");
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The verb that was probably meant.
fn meant(wrong: &str, command: &clap::Command, args: &[String]) -> Option<String> {
    let before = args.iter().take_while(|word| *word != wrong);
    let group = before.filter_map(|word| command.find_subcommand(word)).last();
    match group {
        None => VERBS.iter().find(|(word, _)| *word == wrong).map(|(_, verb)| (*verb).to_owned()),
        Some(group) => {
            let (_, verbs) = SECOND.iter().find(|(word, _)| *word == wrong)?;
            let verb = verbs.iter().find(|verb| group.find_subcommand(verb).is_some())?;
            Some(format!("{} {verb}", group.get_name()))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Cli;

    fn said(line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let error = Cli::try_parse_from(&words).map(|_| ()).expect_err(line);
        with_tip(error, &Cli::command(), &words).to_string()
    }

    #[test]
    fn a_wrong_verb_is_answered_with_the_right_one() {
        for (line, tip) in [
            ("vswitchctl status", "did you mean 'show'?"),
            ("vswitchctl arp", "did you mean 'neigh show'?"),
            ("vswitchctl -o json interfaces", "did you mean 'port list'?"),
            ("vswitchctl port rm tap0", "did you mean 'port del'?"),
            ("vswitchctl nat remove 80:10.0.0.2:80", "did you mean 'nat unpublish'?"),
            ("vswitchctl conntrack rm", "did you mean 'conntrack flush'?"),
            ("vswitchctl sho", "'show'"),
            ("vswitchctl fdb lst", "'list'"),
            ("vswitchctl port lits", "'list'"),
        ] {
            let said = said(line);
            assert!(said.contains(tip), "{line}: {said}");
        }
        assert!(!said("vswitchctl abracadabra").contains("mean"));
    }

    #[test]
    fn every_tip_is_a_verb() {
        let command = Cli::command();
        for (_, verb) in VERBS {
            let words = verb.split(' ').try_fold(&command, |command, word| command.find_subcommand(word));
            assert!(words.is_some(), "{verb}");
        }
    }

    /// Scripts may use either word, whichever verb it is.
    #[test]
    fn every_list_answers_to_list_and_show() {
        for verb in ["port", "fdb", "neigh", "conntrack", "nat", "tunnel", "log"] {
            for word in ["list", "show"] {
                assert!(Cli::try_parse_from(["vswitchctl", verb, word]).is_ok(), "{verb} {word}");
            }
        }
        for option in ["--control", "--socket"] {
            let cli = Cli::try_parse_from(["vswitchctl", option, "/run/x", "show"]).unwrap();
            assert_eq!(cli.control.as_deref(), Some(std::path::Path::new("/run/x")));
        }
    }
}
