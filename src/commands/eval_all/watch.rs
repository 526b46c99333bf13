//! What the servers of a run do, shown while the run waits for them.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use chat_endpoint::{Client, Usage};

/// How often progress is shown while a batch is being answered.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// A server and what its client had done when the run began.
pub(super) struct Watched<'a> {
    /// What it is asked for: `policy` or `judge`.
    pub role: &'static str,
    client: &'a Client,
    before: Usage,
}

impl<'a> Watched<'a> {
    /// Watches a client from now on.
    pub fn new(role: &'static str, client: &'a Client) -> Self {
        Watched {
            role,
            client,
            before: client.usage(),
        }
    }

    /// What it did for this run.
    pub fn usage(&self) -> Usage {
        self.client.usage().since(&self.before)
    }

    /// Why its server was given up, if it was.
    pub fn given_up(&self) -> Option<String> {
        self.client.given_up()
    }
}

/// What progress tells of a set.
pub(super) fn figures(right: usize, open: usize, watched: &[Watched<'_>]) -> String {
    let mut text = format!("{right} right, {open} not judged");
    for watched in watched {
        let retries = watched.usage().retries;
        if retries > 0 {
            text += &format!(", {retries} retries at the server of the {}", watched.role);
        }
    }
    text
}

/// Does `work` and shows progress meanwhile: a server that has to be asked again and again leaves
/// a batch where it is for minutes.
pub(super) fn while_showing<T>(mut show: impl FnMut() + Send, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        // Dropped when the work ends, or panics.
        let (_working, ended) = channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(SHOWN_EVERY) == Err(RecvTimeoutError::Timeout) {
                show();
            }
        });
        work()
    })
}
