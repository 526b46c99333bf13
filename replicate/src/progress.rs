//! Progress with an estimate of what remains: a bar on a terminal, a line now and then elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What a stage says while it runs: stage, step, steps, and a line of figures.
pub type Report<'a> = dyn FnMut(&str, usize, usize, &str) + 'a;

/// Shows how far a stage is.
pub struct Progress {
    bar: Option<ProgressBar>,
    stage: String,
    printed: Instant,
}

/// Whether this process shows none.
static SILENT: AtomicBool = AtomicBool::new(false);

/// Shows no progress from here on, in the whole process.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(20);

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Progress on standard error.
    pub fn new() -> Self {
        Progress {
            bar: None,
            stage: String::new(),
            printed: Instant::now(),
        }
    }

    /// Ends the bar that is shown.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }

    /// `done` of `total` steps of a stage are made; `figures` is what they gave.
    pub fn report(&mut self, stage: &str, done: usize, total: usize, figures: &str) {
        if SILENT.load(Ordering::Relaxed) {
            return;
        }
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        if self.stage != stage || self.bar.is_none() {
            if let Some(bar) = self.bar.take() {
                bar.finish();
            }
            self.stage = stage.to_owned();
            let bar = ProgressBar::with_draw_target(
                Some(total as u64),
                match terminal {
                    true => ProgressDrawTarget::stderr(),
                    false => ProgressDrawTarget::hidden(),
                },
            );
            let style = ProgressStyle::with_template(
                "{prefix:>24} {bar:24} {pos}/{len} {elapsed} (left {eta}) {wide_msg}",
            );
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.set_prefix(stage.to_owned());
            // A resumed stage starts where it was; what was done before must not count as speed.
            bar.set_position(done.saturating_sub(1) as u64);
            bar.reset_eta();
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(figures.to_owned());
            let last = done >= total;
            if !terminal && (last || self.printed.elapsed() >= LINE_EVERY) {
                self.printed = Instant::now();
                // Before the first step nothing is known about the rest.
                let left = match done {
                    0 => String::new(),
                    _ => format!(", about {} s left", bar.eta().as_secs()),
                };
                eprintln!("{stage} {done}/{total}{left}: {figures}");
            }
            if last {
                bar.finish();
            }
        }
    }
}
