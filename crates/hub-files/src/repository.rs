//! Where files come from: one shape for the hosts.

use std::ops::Range;

use super::error::{DownloadError, Failure, problem};
use super::github::{GitHubFiles, GitHubRepository};
use super::hub::HubRepository;
use super::verify::Listed;

/// A published repository.
pub struct Repository<'a>(Host<'a>);

enum Host<'a> {
    Hub(HubRepository),
    GitHub(GitHubRepository<'a>),
}

impl<'a> Repository<'a> {
    /// The data set `owner/name` of the hub, which may be at another address.
    ///
    /// # Errors
    /// [`DownloadError::Download`] when no client can be made for the address.
    pub fn dataset(owner: &str, name: &str, address: Option<&str>) -> Result<Self, DownloadError> {
        HubRepository::dataset(owner, name, address)
            .map(|repository| Repository(Host::Hub(repository)))
            .map_err(|failure| problem(format!("{owner}/{name}: {}", failure.reason)))
    }

    /// The model `owner/name` of the hub.
    ///
    /// # Errors
    /// As [`Repository::dataset`].
    pub fn model(owner: &str, name: &str, address: Option<&str>) -> Result<Self, DownloadError> {
        HubRepository::model(owner, name, address)
            .map(|repository| Repository(Host::Hub(repository)))
            .map_err(|failure| problem(format!("{owner}/{name}: {}", failure.reason)))
    }

    /// Files of a code repository; `address` is [`super::GITHUB`] or where another server stands.
    pub fn github(files: GitHubFiles<'a>, address: &str) -> Self {
        Repository(Host::GitHub(GitHubRepository {
            files,
            address: address.to_owned(),
        }))
    }

    /// How the lock names it: its kind, its owner and its name.
    pub fn id(&self) -> String {
        match &self.0 {
            Host::Hub(repository) => repository.id(),
            Host::GitHub(repository) => repository.id(),
        }
    }

    pub(crate) fn commit(&self, revision: Option<&str>) -> Result<String, Failure> {
        match (&self.0, revision) {
            (Host::GitHub(repository), _) => Ok(repository.files.commit.to_owned()),
            (Host::Hub(_), Some(commit)) if is_commit(commit) => Ok(commit.to_owned()),
            (Host::Hub(repository), revision) => repository.commit(revision),
        }
    }

    pub(crate) fn list(&self, commit: &str) -> Result<Vec<Listed>, Failure> {
        match &self.0 {
            Host::Hub(repository) => repository.list(commit),
            Host::GitHub(repository) => Ok(repository.list()),
        }
    }

    pub(crate) fn read(
        &self,
        commit: &str,
        path: &str,
        range: Range<u64>,
    ) -> Result<Vec<u8>, Failure> {
        match &self.0 {
            Host::Hub(repository) => repository.read(commit, path, range),
            Host::GitHub(repository) => repository.read(commit, path, range),
        }
    }
}

/// Whether a revision is a commit in full, which names its content for good.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}
