//! A pause for all threads of a client, while a server asks to be left alone.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a sleeper looks whether it sleeps in vain.
const LOOKS_EVERY: Duration = Duration::from_millis(200);

/// A year: a clock cannot be set to any time whatever.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Shared by the threads of one client.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    ends_at: Mutex<Option<Instant>>,
}

impl Pause {
    /// Nobody asks for `wait` from now, or for longer where a longer pause was on already.
    pub(crate) fn extend_to(&self, wait: Duration) {
        let until = Instant::now() + wait.min(LONGEST);
        let mut ends_at = self.ends_at.lock().unwrap_or_else(PoisonError::into_inner);
        *ends_at = Some(ends_at.map_or(until, |known| known.max(until)));
    }

    /// Returns once no pause is on, or `is_vain`.
    pub(crate) fn wait(&self, is_vain: impl Fn() -> bool) {
        loop {
            let ends_at = *self.ends_at.lock().unwrap_or_else(PoisonError::into_inner);
            match ends_at.and_then(|at| at.checked_duration_since(Instant::now())) {
                Some(rest) if !rest.is_zero() && !is_vain() => {
                    std::thread::sleep(rest.min(LOOKS_EVERY));
                }
                _ => return,
            }
        }
    }
}

/// Sleeps for `wait`, or until `is_vain`.
pub(crate) fn sleep(wait: Duration, is_vain: impl Fn() -> bool) {
    let until = Instant::now() + wait.min(LONGEST);
    loop {
        match until.checked_duration_since(Instant::now()) {
            Some(rest) if !rest.is_zero() && !is_vain() => {
                std::thread::sleep(rest.min(LOOKS_EVERY));
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_is_too_long_for_the_clock_and_a_vain_one_ends() {
        let pause = Pause::default();
        pause.extend_to(Duration::MAX);
        pause.extend_to(Duration::ZERO);
        pause.wait(|| true);
        sleep(Duration::MAX, || true);
        sleep(Duration::ZERO, || false);
        Pause::default().wait(|| false);
    }
}
