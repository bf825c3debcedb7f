//! Aligned columns of text.

use std::fmt;

use crate::paint::Colour;

/// Rows under a heading.
#[derive(Debug)]
pub(crate) struct Table {
    /// Headings, each with whether its column is aligned to the right.
    columns: Vec<(&'static str, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a `>` before a heading aligns to the right.
    pub(crate) fn new<const N: usize>(columns: [&'static str; N]) -> Table {
        let column = |heading: &'static str| heading.strip_prefix('>').map_or((heading, false), |heading| (heading, true));
        Table { columns: columns.into_iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row. Line ends and terminal control characters are escaped, because guests choose some of the texts.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { plain(&cell) }).collect());
    }

    /// Removes a column whose cells are all empty.
    pub(crate) fn without_empty(self, heading: &str) -> Table {
        let at = self.columns.iter().position(|(other, _)| *other == heading);
        let is_empty = at.is_some_and(|at| self.rows.iter().all(|row| row[at] == "-"));
        if is_empty { self.without_same(heading) } else { self }
    }

    /// Removes a column whose cells are equal or empty in all rows.
    pub(crate) fn without_same(mut self, heading: &str) -> Table {
        let Some(at) = self.columns.iter().position(|(other, _)| *other == heading) else { return self };
        let mut cells = self.rows.iter().map(|row| &row[at]).filter(|cell| *cell != "-");
        let first = cells.next();
        if cells.all(|cell| Some(cell) == first) {
            self.columns.remove(at);
            self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
        }
        self
    }
}

/// The text with control characters escaped.
pub(crate) fn plain(text: &str) -> String {
    let is_plain = |c: char| c == ' ' || c.is_alphanumeric() || c.is_ascii_punctuation();
    text.chars().map(|c| if is_plain(c) { c.to_string() } else { c.escape_unicode().to_string() }).collect()
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |text: &str| text.chars().count();
        let longest = |at: usize| self.rows.iter().filter_map(|row| row.get(at)).map(|cell| count(cell)).max().unwrap_or(0);
        let widths: Vec<usize> =
            self.columns.iter().enumerate().map(|(at, (heading, _))| longest(at).max(count(heading))).collect();
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (heading, is_number)) in row.iter().zip(&widths).zip(&self.columns) {
                let padding = " ".repeat(width - count(cell));
                let colour = if *heading == "state" { Colour::of_state(cell) } else { None };
                let cell = colour.map_or_else(|| cell.clone(), |colour| colour.paint(cell));
                line += &if *is_number { padding + &cell } else { cell + &padding };
                line += "  ";
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_steers_the_terminal() {
        let mut table = Table::new(["port", ">frames", "note"]);
        table.row(["tap0".into(), "7".into(), String::new()]);
        table.row(["a\u{1b}[2J\n\u{202e}".into(), "1234567".into(), "é ok".into()]);
        let text = table.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2].split_whitespace().next(), Some("a\\u{1b}[2J\\u{a}\\u{202e}"));
        assert!(
            lines[0].ends_with("  note") && lines[1].ends_with("      7  -") && lines[2].ends_with("1234567  é ok"),
            "{text}"
        );
        assert_eq!(table.without_same("port").to_string(), text, "it tells them apart");
        let ends = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
        assert_eq!(ends(lines[0], "frames"), ends(lines[1], "7"));
    }

    #[test]
    fn what_is_the_same_in_all_rows_is_left_out() {
        let table = |bridges: &[&str]| {
            let mut table = Table::new(["bridge", "port"]);
            bridges.iter().for_each(|bridge| table.row([(*bridge).to_owned(), "p".to_owned()]));
            table.without_same("bridge").to_string().lines().next().map(str::to_owned)
        };
        for same in [&[][..], &["br0"], &["br0", "", "br0"]] {
            assert_eq!(table(same).unwrap(), "port");
        }
        assert_eq!(table(&["br0", "", "br1"]).unwrap(), "bridge  port");
    }
}
