//! A gate that all threads pass before they ask, closed while a server wants to be left alone.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by the threads of one client.
#[derive(Debug, Default)]
pub(super) struct Gate {
    opens_at: Mutex<Option<Instant>>,
}

impl Gate {
    /// Nobody passes for `wait` from now, or for longer where the gate was already closed longer.
    pub(super) fn close_for(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut opens_at = self.opens_at.lock().unwrap_or_else(PoisonError::into_inner);
        *opens_at = Some(opens_at.map_or(until, |known| known.max(until)));
    }

    /// Returns once the gate is open.
    pub(super) fn pass(&self) {
        loop {
            let opens_at = *self.opens_at.lock().unwrap_or_else(PoisonError::into_inner);
            match opens_at.and_then(|at| at.checked_duration_since(Instant::now())) {
                Some(rest) if !rest.is_zero() => std::thread::sleep(rest),
                _ => return,
            }
        }
    }
}
