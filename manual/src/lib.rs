//! Manual pages and shell completions, generated from a program's command line so that both always agree.
//!
//! Each program generates its own with a hidden verb. So they match the program that was built, need no further tools, and
//! a packager gets them from the shipped programs (`packaging/stage`).

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Date of the last review of the sections that are not generated.
const DATE: &str = "2026-11-21";

/// A heading of a page and the text below it, printed as it is.
pub type Section = (&'static str, &'static str);

/// Writes the page of a command and of each of its verbs into a directory, which is created.
pub fn write_pages(command: Command, section: &str, more: &[Section], directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, page) in pages(command, section, more)? {
        fs::write(directory.join(name), page)?;
    }
    Ok(())
}

/// File names and contents of the pages.
pub fn pages(mut command: Command, section: &str, more: &[Section]) -> io::Result<Vec<(String, Vec<u8>)>> {
    command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, section, more, &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, section: &str, more: &[Section], pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    pages.push((format!("{name}.{section}"), page(command, &name, section, more)?));
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        collect(verb, section, &[], pages)?;
    }
    Ok(())
}

fn page(command: &Command, name: &str, section: &str, more: &[Section]) -> io::Result<Vec<u8>> {
    let source = format!("vswitchd {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name.to_uppercase()).section(section).source(source);
    let man = man.date(DATE).manual("vswitchd");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().any(|verb| !verb.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    let mut page = without_empty_breaks(&page).into_bytes();
    let examples = command.get_after_help().map(ToString::to_string);
    if let Some(examples) = examples.as_deref().and_then(|text| text.strip_prefix(EXAMPLES)) {
        write!(page, ".SH EXAMPLES\n{}", literal(examples))?;
    }
    for (heading, text) in more {
        write!(page, ".SH \"{heading}\"\n{}", literal(text))?;
    }
    Ok(page)
}

/// Removes line breaks next to empty lines, about which readers of manual pages warn.
fn without_empty_breaks(page: &[u8]) -> String {
    String::from_utf8_lossy(page).replace(".br\n\n.br\n", ".sp\n")
}

/// Heading of the examples in a help text.
const EXAMPLES: &str = "Examples:\n";

/// The help text for examples, each a command line and its purpose.
pub fn examples(list: &[(&str, &str)]) -> String {
    let width = list.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
    let lines = list.iter().map(|(line, what)| format!("  {line:<width$}  # {what}"));
    EXAMPLES.to_owned() + &lines.collect::<Vec<String>>().join("\n")
}

/// Escapes text so that roff prints it as it is: no line is a request, and dashes are dashes (groff_char(7)).
fn literal(text: &str) -> String {
    let line = |line: &str| {
        let escaped = line.replace('\\', "\\e").replace('-', "\\-");
        // A line that begins like this would be a request.
        if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}\n") } else { escaped + "\n" }
    };
    format!(".nf\n{}.fi\n", text.trim_matches('\n').lines().map(line).collect::<String>())
}

/// The completions of the program's command line for a shell.
pub fn completions(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_literal() {
        assert_eq!(literal("\n.SH a-b\n'x\\n\n"), ".nf\n\\&.SH a\\-b\n\\&'x\\en\n.fi\n");
    }

    #[test]
    fn a_page_for_each_verb_that_is_shown() {
        let verb = Command::new("show").about("Shows").after_help(examples(&[("tool show", "all of it")]));
        let command = Command::new("tool").about("A tool").subcommand(verb).subcommand(Command::new("secret").hide(true));
        let pages = pages(command, "1", &[("FILES", "/run/tool")]).unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tool.1", "tool-show.1"]);
        let text = |at: usize| String::from_utf8(pages[at].1.clone()).unwrap();
        assert!(text(0).contains(".SH \"FILES\"\n.nf\n/run/tool\n.fi\n") && !text(0).contains("secret"), "{}", text(0));
        assert!(text(1).contains(".SH EXAMPLES\n.nf\n  tool show  # all of it\n.fi\n"), "{}", text(1));
    }
}
