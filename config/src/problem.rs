//! Origins of values, and problems with them.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::raw::{Raw, RawValue};

/// Where a value was written.
///
/// All origins compare equal: two configurations are the same if their values are, whatever their origins.
#[derive(Clone, Debug, Default)]
pub enum Origin {
    /// Nowhere: a default.
    #[default]
    Default,
    /// A configuration file.
    File {
        /// The file's path, as it was given.
        path: Arc<str>,
        /// From 1; 0 stands for the file as a whole.
        line: usize,
    },
    /// A flag with its value, such as `--tap tap0:vlan=10`.
    Flag(Arc<str>),
    /// A verb that has changed the running switch, such as `bridge add blue`: what it made has an owner besides the configuration file.
    Verb(Arc<str>),
}

impl Origin {
    /// A flag, with its value if the flag can be repeated.
    #[must_use]
    pub fn flag(flag: &str, value: &str) -> Origin {
        Origin::Flag(if value.is_empty() { flag.into() } else { format!("{flag} {value}").into() })
    }

    /// Returns `in_file` or `as_flag`, depending on where the value was written.
    pub(crate) fn say<'a>(&self, in_file: &'a str, as_flag: &'a str) -> &'a str {
        match self {
            Origin::File { .. } => in_file,
            Origin::Default | Origin::Flag(_) | Origin::Verb(_) => as_flag,
        }
    }

    pub(crate) fn is_file(&self) -> bool {
        matches!(self, Origin::File { .. })
    }

    pub(crate) fn is_verb(&self) -> bool {
        matches!(self, Origin::Verb(_))
    }
}

impl PartialEq for Origin {
    fn eq(&self, _: &Origin) -> bool {
        true
    }
}

impl Eq for Origin {}

/// Writes the origin: `vswitchd.toml:7`, or `--tap tap0:vlan=10`.
impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => out.write_str("the configuration"),
            Origin::File { path, line: 0 } => out.write_str(path),
            Origin::File { path, line } => write!(out, "{path}:{line}"),
            Origin::Flag(words) | Origin::Verb(words) => out.write_str(words),
        }
    }
}

/// A value with its origin.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its origin.
    pub origin: Origin,
    pub(crate) written: Written,
}

/// A value as it was written, if it was by itself. All compare equal, as all origins do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written(pub(crate) Option<Arc<RawValue>>);

impl PartialEq for Written {
    fn eq(&self, _: &Written) -> bool {
        true
    }
}

impl Eq for Written {}

impl<T> At<T> {
    /// A value that stands for several, or whose parts say how they were written.
    pub(crate) fn new(value: T, origin: &Origin) -> At<T> {
        At { value, origin: origin.clone(), written: Written::default() }
    }

    /// A value that was read from this.
    pub(crate) fn of(value: T, raw: &Raw) -> At<T> {
        At { value, origin: raw.origin.clone(), written: Written(Some(Arc::new(raw.value.clone()))) }
    }
}

/// A problem of a configuration, with its fix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// The problem and its fix, as a sentence.
    pub text: String,
    /// Name of the other object that has what this one is to have.
    pub in_the_way: Option<String>,
}

impl Problem {
    /// A problem with a value of this origin.
    pub fn new(origin: &Origin, text: impl Into<String>) -> Problem {
        Problem { origin: origin.clone(), text: text.into(), in_the_way: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.origin, self.text)
    }
}

impl Error for Problem {}

/// All problems of a configuration: of a file in the order of its lines, then of the flags.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Whether there is no problem.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of problems.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// The problems in the words of a verb of the control socket, which stands for this flag.
    pub(crate) fn of_verb(mut self, flag: &str, verb: &str) -> Problems {
        for problem in &mut self.0 {
            if let Origin::Flag(text) = &mut problem.origin
                && let Some(rest) = text.strip_prefix(flag)
            {
                *text = format!("{verb}{rest}").into();
            }
        }
        self
    }

    pub(crate) fn add(&mut self, origin: &Origin, text: impl Into<String>) {
        self.0.push(Problem::new(origin, text));
    }

    /// Adds a problem with a value that another object has.
    pub(crate) fn add_clash(&mut self, origin: &Origin, text: impl Into<String>, in_the_way: impl Into<String>) {
        self.0.push(Problem { in_the_way: Some(in_the_way.into()), ..Problem::new(origin, text) });
    }

    /// The value, or the problems if there are any.
    pub(crate) fn none_or<T>(self, value: T) -> Result<T, Problems> {
        if self.is_empty() { Ok(value) } else { Err(self.sorted()) }
    }

    /// Sorts the problems: those of the file by line, then those of flags.
    pub(crate) fn sorted(mut self) -> Problems {
        self.0.sort_by_key(|problem| match problem.origin {
            Origin::File { line, .. } => (0, line),
            Origin::Flag(_) | Origin::Verb(_) | Origin::Default => (1, 0),
        });
        self
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Problems {
        Problems(vec![problem])
    }
}

/// Writes one line per problem.
impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        out.write_str(&lines.join("\n"))
    }
}

impl Error for Problems {}

/// The problem with an unknown word, and the word that was probably meant: "unknown key 'vlna': did you mean 'vlan'?"
#[must_use]
pub fn unknown(what: &str, text: &str, known: &[&str]) -> String {
    let text = text.escape_debug().to_string();
    match nearest(&text, known.iter().copied()) {
        Some(close) => format!("unknown {what} '{text}': did you mean '{close}'?"),
        None => format!("unknown {what} '{text}'; there are {}", known.join(", ")),
    }
}

/// The known word that was probably meant: at most two typing errors away.
#[must_use]
pub fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|word| (strsim::damerau_levenshtein(text, word), word))
        .min()
        .filter(|(distance, word)| *distance <= 2 && *distance <= word.len() / 2)
        .map(|(_, word)| word)
}
