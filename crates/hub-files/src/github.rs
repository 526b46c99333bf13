//! Files of a code repository on GitHub, at one commit.
//!
//! **It has not met the real GitHub**, which could not be reached where it was written, only a
//! server of our own. There is no listing: size and SHA-256 of every file stand beside its name.

use std::ops::Range;
use std::time::Duration;

use ureq::http::StatusCode;

use super::error::Failure;
use super::verify::{Listed, Name};

/// Where GitHub serves the files themselves.
pub const GITHUB: &str = "https://raw.githubusercontent.com";

/// Until one file counts as failed. The files are small.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Longer than any file that is read so.
const LONGEST_ANSWER: u64 = 64 << 20;

/// Some files of a code repository at one commit.
#[derive(Clone, Copy, Debug)]
pub struct GitHubFiles<'a> {
    /// `owner/name`.
    pub repository: &'a str,
    /// The commit, in full.
    pub commit: &'a str,
    /// Path, bytes and SHA-256 (hexadecimal) of every file wanted.
    pub files: &'a [(&'a str, u64, &'a str)],
}

/// A code repository at an address.
pub(crate) struct GitHubRepository<'a> {
    pub files: GitHubFiles<'a>,
    pub address: String,
}

impl GitHubRepository<'_> {
    /// How the lock names it.
    pub fn id(&self) -> String {
        format!("github/{}", self.files.repository)
    }

    /// The files that are wanted of it.
    pub fn list(&self) -> Vec<Listed> {
        self.files
            .files
            .iter()
            .map(|&(path, size, sha256)| Listed {
                path: path.to_owned(),
                size,
                name: Name::Sha256(sha256.to_owned()),
            })
            .collect()
    }

    /// Some bytes of a file at a commit; the whole file where the server does not give ranges.
    pub fn read(&self, commit: &str, path: &str, range: Range<u64>) -> Result<Vec<u8>, Failure> {
        let url = format!("{}/{}/{commit}/{path}", self.address, self.files.repository);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("hub-files/", env!("CARGO_PKG_VERSION")));
        let passing = |error: ureq::Error| Failure::passing(format!("{url}: {error}"));
        let mut response = config
            .build()
            .new_agent()
            .get(&url)
            // A range of a compressed answer would be one of the compressed bytes.
            .header("accept-encoding", "identity")
            .header(
                "range",
                format!("bytes={}-{}", range.start, range.end.saturating_sub(1)),
            )
            .call()
            .map_err(passing)?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => response
                .body_mut()
                .with_config()
                .limit(LONGEST_ANSWER)
                .read_to_vec()
                .map_err(passing),
            status => Err(Failure {
                reason: format!("{url}: {status}"),
                lasting: status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS,
            }),
        }
    }
}
