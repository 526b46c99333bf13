//! Standard output for what a command was asked for.

use std::io::{ErrorKind, Write};

use anyhow::Context;

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
