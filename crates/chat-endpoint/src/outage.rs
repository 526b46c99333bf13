//! How long a server has given no completion, and when that is too long.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;

/// Requests in a row, at a server that never gave a completion, after whose refusal in the same
/// words it is given up (where servers are given up at all).
const REFUSALS: u32 = 10;

/// Shared by the threads of one client.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests that are being asked.
    asking: u32,
    /// Since when there have been none.
    idle_since: Option<Instant>,
    /// The first failed attempt with no completion since; idle time is not counted.
    failing_since: Option<Instant>,
    /// What the last failed attempt met.
    last_failure: Option<String>,
    /// Requests in a row that found no server.
    unreachable: u32,
    /// Requests in a row that were refused in the same words, and the words.
    refused: (u32, String),
    /// Whether there ever was a completion.
    is_proven: bool,
    /// Why no further request is sent.
    given_up: Option<String>,
}

impl Outage {
    /// A request begins.
    pub(crate) fn begin(&self) {
        let mut state = self.lock();
        state.asking += 1;
        if let (Some(idle), Some(failing)) = (state.idle_since.take(), &mut state.failing_since) {
            *failing += idle.elapsed();
        }
    }

    /// An attempt failed; how long there has been no completion.
    pub(crate) fn attempt_failed(&self, error: &Error) -> Duration {
        let mut state = self.lock();
        state.last_failure = Some(error.to_string());
        state
            .failing_since
            .get_or_insert_with(Instant::now)
            .elapsed()
    }

    /// A request ended in `error`, or well. Where servers are given up after `requests` in a row,
    /// this may have been the last.
    pub(crate) fn end(&self, error: Option<&Error>, requests: Option<u32>) {
        let mut state = self.lock();
        state.asking = state.asking.saturating_sub(1);
        if state.asking == 0 {
            state.idle_since = Some(Instant::now());
        }
        let unreachable = match error {
            Some(error) if error.is_of_connection() => state.unreachable + 1,
            _ => 0,
        };
        let refused = match error {
            Some(error @ Error::Rejected { .. }) if !state.is_proven => {
                let words = error.to_string();
                let before = if words == state.refused.1 {
                    state.refused.0
                } else {
                    0
                };
                (before + 1, words)
            }
            _ => (0, String::new()),
        };
        state.unreachable = unreachable;
        state.refused = refused;
        match error {
            None => {
                state.is_proven = true;
                state.failing_since = None;
            }
            Some(error) => {
                let is_enough = requests.is_some_and(|requests| {
                    state.unreachable >= requests || state.refused.0 >= REFUSALS.max(requests)
                });
                if is_enough || error.ends_run() {
                    state.given_up.get_or_insert_with(|| error.to_string());
                }
            }
        }
    }

    /// No further request is to be sent.
    pub(crate) fn give_up(&self, reason: String) {
        self.lock().given_up.get_or_insert(reason);
    }

    /// Why no further request is sent.
    pub(crate) fn given_up(&self) -> Option<String> {
        self.lock().given_up.clone()
    }

    /// Whether there ever was a completion.
    pub(crate) fn is_proven(&self) -> bool {
        self.lock().is_proven
    }

    /// What the last failed attempt met.
    pub(crate) fn last_failure(&self) -> Option<String> {
        self.lock().last_failure.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
