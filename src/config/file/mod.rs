//! The configuration file: what the flags say, in TOML, and several ports, rules and tunnels in tables of their own.
//!
//! The file is written out in the words of the flags that its keys stand for, and read as they are. So there is one
//! grammar and one set of checks, and what a flag does is what its key does. Each word remembers the table that it comes
//! from ([`source`]), so that an error names the line of the file and not a flag that nobody gave.

mod message;
mod schema;
mod source;
#[cfg(test)]
mod tests;
mod words;

use std::path::Path;

use super::ConfigError;
use super::plan::Desired;
use crate::cli::Flags;
use schema::File;
use source::Source;
use words::Writer;

/// What a file says, in the words of flags.
#[derive(Debug)]
struct FromFile {
    flags: Flags,
    source: Source,
}

impl Desired {
    /// From the configuration file, if one is named, and the flags that add to it.
    pub(crate) fn read(flags: &Flags) -> Result<Desired, ConfigError> {
        let Some(path) = &flags.config else { return Desired::of_flags(flags.clone()) };
        let text = std::fs::read_to_string(path).map_err(|error| cannot_be_read(path, &error))?;
        Desired::of_text(path, &text, flags)
    }

    /// From a file's text, and the flags that add to it: those that can be given again come behind the file's, the others
    /// take the place of the file's.
    pub(crate) fn of_text(path: &Path, text: &str, flags: &Flags) -> Result<Desired, ConfigError> {
        let file = FromFile::parse(path, text)?;
        let mut desired = Desired::of_flags(flags.added_to(file.flags)).map_err(|error| file.source.locate(error, flags))?;
        for warning in &mut desired.config.warnings {
            file.source.locate_warning(warning);
        }
        Ok(desired)
    }
}

impl FromFile {
    fn parse(path: &Path, text: &str) -> Result<FromFile, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| message::of_toml(path, text, &error))?;
        let source = Source::new(path, text).map_err(|error| message::of_toml(path, text, &error))?;
        let mut writer = Writer::new(source);
        writer.file(&file)?;
        let (flags, source) = writer.finish();
        Ok(FromFile { flags, source })
    }
}

fn cannot_be_read(path: &Path, error: &std::io::Error) -> ConfigError {
    ConfigError::new(format!("--config {}", path.display()), format!("the file cannot be read: {error}"))
}
