//! Standard output for what a command was asked for.

use std::io::{ErrorKind, Write};

use anyhow::Context;

/// The form of what a command says, for people or for programs.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines.
    Text,
    /// One object.
    Json,
}

/// The columns of the terminal that standard output is, else those that `COLUMNS` says; `None` where
/// nobody reads lines by their width.
pub fn width() -> Option<usize> {
    let terminal = console::Term::stdout().size_checked();
    let said = || std::env::var("COLUMNS").ok()?.parse().ok();
    let columns = terminal
        .map(|(_, columns)| usize::from(columns))
        .or_else(said);
    // Narrower than a word helps nobody.
    columns.filter(|columns| *columns >= 40)
}

/// `text` with its long lines broken where the terminal ends.
pub fn within(text: &str) -> String {
    match width() {
        Some(width) => results::wrapped(text, width),
        None => text.to_owned(),
    }
}

/// Writes `text` to standard output and waits until it is through. A reader that has gone away, as
/// `head` does, has what it wanted: that is no error.
///
/// # Errors
/// Anything else that keeps the text from being written, such as a full disk.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}
