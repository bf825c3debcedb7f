//! Examples by verb, for the end of each verb's help and for its manual page.

use clap::Command;

/// A verb, with command lines and the purpose of each.
type Examples = (&'static str, &'static [(&'static str, &'static str)]);

const EXAMPLES: &[Examples] = &[
    (
        "",
        &[
            ("vswitchctl show", "ports, gateways, uplink, tunnels, and problems"),
            ("vswitchctl port stats tap0", "frames received, sent and dropped, with reasons"),
            ("vswitchctl doctor", "check this host"),
        ],
    ),
    (
        "wait",
        &[
            ("vswitchctl wait", "until the switch is ready, for at most 10 seconds"),
            ("vswitchctl wait --gone", "until the switch has ended"),
        ],
    ),
    ("upgrade", &[("vswitchctl upgrade", "after an installation"), ("vswitchctl upgrade /opt/vswitchd", "another file")]),
    ("stop", &[("vswitchctl stop", "ends a switch that was started with --detach")]),
    ("config show", &[("vswitchctl config show > vswitchd.toml", "keep what was changed at run time")]),
    ("port stats", &[("vswitchctl port stats tap0", "one port"), ("vswitchctl -o json port stats", "for programs")]),
    (
        "trace",
        &[
            ("vswitchctl trace port=tap0,src=10.77.0.11,dst=198.51.100.7,tcp,dport=443", "what would happen to this packet"),
            ("vswitchctl trace --live 3 host 10.77.0.11", "what happens to the next three packets"),
        ],
    ),
    ("fdb flush", &[("vswitchctl fdb flush --port tap0", "remove the entries that were learned there")]),
    (
        "conntrack list",
        &[
            ("vswitchctl conntrack list --address 10.77.0.11", "a guest's connections"),
            ("vswitchctl conntrack list --protocol tcp --port 443", "connections that match both"),
            ("vswitchctl conntrack list -o conntrack", "in the format of conntrack(8)"),
        ],
    ),
    (
        "conntrack flush",
        &[
            ("vswitchctl conntrack flush --address 10.77.0.11 --protocol udp", "connections that match both"),
            ("vswitchctl conntrack flush", "all connections"),
        ],
    ),
    (
        "fdb add",
        &[
            ("vswitchctl fdb add 52:54:00:12:34:56 tap0", "a static entry: the address stays on tap0"),
            ("vswitchctl fdb add 52:54:00:12:34:56 tap0 --vlan 10", "in a VLAN"),
        ],
    ),
    ("events", &[("vswitchctl events", "one line per event"), ("vswitchctl events -o json", "one JSON object per line")]),
    (
        "capture",
        &[
            ("vswitchctl capture any --drops -w - | tshark -r -", "dropped frames, with reasons"),
            ("vswitchctl capture tap0 tcp port 80 -w - | wireshark -k -i -", "live"),
            ("vswitchctl capture any vlan 10 and not arp -c 100 -w out.pcapng", "a hundred frames into a file"),
        ],
    ),
    (
        "log set",
        &[
            ("vswitchctl log set tunnel=debug", "a level for one part; log show lists the parts"),
            ("vswitchctl log set info", "the same level for all parts again"),
        ],
    ),
    (
        "doctor",
        &[
            ("vswitchctl doctor", "for the running switch, or for any switch"),
            ("vswitchctl doctor --config /etc/vswitchd/vswitchd.toml", "for a configuration, before the start"),
            ("vswitchctl doctor -o json", "for programs"),
        ],
    ),
];

/// Adds the examples to the help of each verb.
pub(crate) fn with_examples(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (verb, list)| add(command, verb, list))
}

fn add(command: Command, verb: &str, list: &[(&str, &str)]) -> Command {
    match verb.split_once(' ').unwrap_or((verb, "")) {
        ("", _) => command.after_help(manual::examples(list)),
        (first, rest) => command.mut_subcommand(first, |command| add(command, rest, list)),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_example_is_a_command_line() {
        for (verb, list) in EXAMPLES {
            for (line, _) in *list {
                // What a shell would make of it is another matter.
                let words = line.split_whitespace().take_while(|word| !["|", ">"].contains(word));
                let words = words.map(|word| word.trim_matches('\''));
                assert!(Cli::try_parse_from(words).is_ok(), "{verb}: {line}");
                assert!(line.contains(verb), "{line} is no example of {verb}");
            }
        }
    }

    fn verbs(command: &Command, words: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            words.push(verb.get_name().to_owned());
            found.push(words.clone());
            verbs(verb, words, found);
            words.pop();
        }
    }

    #[test]
    fn completions_know_every_verb_and_every_verb_has_its_page() {
        let mut found = Vec::new();
        verbs(&Cli::command(), &mut Vec::new(), &mut found);
        assert!(found.len() > 10);
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let script = String::from_utf8(manual::completions(with_examples(Cli::command()), shell)).unwrap();
            for word in found.iter().flatten() {
                assert!(script.contains(word.as_str()), "{shell}: no {word}");
            }
        }
        let pages = manual::pages(with_examples(Cli::command()), "1", &[]).unwrap();
        for words in &found {
            let name = format!("vswitchctl-{}.1", words.join("-"));
            assert!(pages.iter().any(|(page, _)| *page == name), "no {name}");
        }
    }
}
