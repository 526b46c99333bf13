//! Requests in a row that found no server.

use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// Shared by the threads of one client.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: u32,
    /// What the last one met.
    last: String,
}

impl Outage {
    /// Counts a request that ended in `error`, or well. An answer of any kind shows that the
    /// server is there.
    pub(crate) fn note(&self, error: Option<&Error>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) if error.is_of_connection() => {
                state.requests += 1;
                state.last = error.to_string();
            }
            _ => *state = State::default(),
        }
    }

    /// What the last request met, where at least `requests` in a row found no server.
    pub(crate) fn longer_than(&self, requests: u32) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.requests >= requests).then(|| state.last.clone())
    }
}
