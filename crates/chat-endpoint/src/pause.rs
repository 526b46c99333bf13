//! A pause for all threads of a client, while a server asks to be left alone.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by the threads of one client.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    ends_at: Mutex<Option<Instant>>,
}

impl Pause {
    /// Nobody asks for `wait` from now, or for longer where a longer pause was on already.
    pub(crate) fn extend_to(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut ends_at = self.ends_at.lock().unwrap_or_else(PoisonError::into_inner);
        *ends_at = Some(ends_at.map_or(until, |known| known.max(until)));
    }

    /// Returns once no pause is on.
    pub(crate) fn wait(&self) {
        loop {
            let ends_at = *self.ends_at.lock().unwrap_or_else(PoisonError::into_inner);
            match ends_at.and_then(|at| at.checked_duration_since(Instant::now())) {
                Some(rest) if !rest.is_zero() => std::thread::sleep(rest),
                _ => return,
            }
        }
    }
}
