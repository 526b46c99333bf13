//! What SIGINT and SIGTERM do to long commands: they say how to go on. SIGHUP keeps its meaning, so
//! that `nohup` works.

/// What follows on a signal.
pub enum OnSignal {
    /// The work looks for [`replicate::interrupt::requested`] and ends after its step; a second signal
    /// ends it at once.
    AfterStep,
    /// Every result is on the disk when it is made: the process ends at once.
    AtOnce,
}

/// The exit status of a process that SIGINT ended, as shells have it; a command that stopped on a
/// signal and saved its work ends with it too.
pub const STOPPED: u8 = 130;

/// From here on SIGINT and SIGTERM are answered with `how_to_go_on`.
///
/// # Errors
/// The system's, if it takes no handler.
#[cfg(unix)]
pub fn watch(on: OnSignal, how_to_go_on: String) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};

    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if matches!(on, OnSignal::AfterStep) && !replicate::interrupt::request() {
                    note("stopping after this step; a second signal stops at once");
                    continue;
                }
                note(&format!("stopped; {how_to_go_on}"));
                std::process::exit(128 + signal);
            }
        })?;
    Ok(())
}

/// Elsewhere the system's own way to end a process is kept.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn watch(_on: OnSignal, _how_to_go_on: String) -> std::io::Result<()> {
    Ok(())
}

/// A line on standard error, which may be closed.
#[cfg(unix)]
fn note(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
