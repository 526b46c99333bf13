//! The one file that knows hf-hub: the commit behind a name, the files at a commit, ranges of their
//! bytes.
//!
//! Written against the source of hf-hub 1.0 and tried with a server of our own that speaks the same
//! endpoints; **it has not met the real hub**, which could not be reached where it was written.
//! hf-hub itself reads `HF_ENDPOINT` (the hub at another address) and `HF_TOKEN` (repositories that
//! ask for a token).
//!
//! The hub's listing names the SHA-256 of a large file `lfs.oid`, where hf-hub 1.0 looks for
//! `lfs.sha256` and finds nothing. What the listing always has is git's name of the file, or of the
//! LFS pointer to it, and the pointer holds the SHA-256: that is what files are checked against.

use std::error::Error;
use std::ops::Range;

use hf_hub::repository::RepoTreeEntry;
use hf_hub::{
    HFClientBuilder, HFClientSync, HFError, HFRepositorySync, RepoType, RepoTypeDataset,
    RepoTypeModel,
};

use super::error::Failure;
use super::verify::{Listed, Name};

/// A repository of the hub.
pub(crate) enum HubRepository {
    Dataset(HFRepositorySync<RepoTypeDataset>),
    Model(HFRepositorySync<RepoTypeModel>),
}

impl HubRepository {
    /// The data set `owner/name`, at another address than the hub's where one is given.
    pub fn dataset(owner: &str, name: &str, address: Option<&str>) -> Result<Self, Failure> {
        Ok(HubRepository::Dataset(
            client(address)?.dataset(owner, name),
        ))
    }

    /// The model `owner/name`.
    pub fn model(owner: &str, name: &str, address: Option<&str>) -> Result<Self, Failure> {
        Ok(HubRepository::Model(client(address)?.model(owner, name)))
    }

    /// Its kind and name, as in the hub's API.
    pub fn id(&self) -> String {
        match self {
            HubRepository::Dataset(repository) => {
                format!("datasets/{}/{}", repository.owner(), repository.name())
            }
            HubRepository::Model(repository) => {
                format!("models/{}/{}", repository.owner(), repository.name())
            }
        }
    }

    /// The commit of a branch or tag, or the newest.
    pub fn commit(&self, revision: Option<&str>) -> Result<String, Failure> {
        let revision = revision.map(str::to_owned);
        let sha = match self {
            HubRepository::Dataset(repository) => {
                let info = repository.info().maybe_revision(revision).send();
                info.map_err(failure)?.sha
            }
            HubRepository::Model(repository) => {
                let info = repository.info().maybe_revision(revision).send();
                info.map_err(failure)?.sha
            }
        };
        sha.ok_or_else(|| Failure::lasting("the hub names no commit of it"))
    }

    /// All its files at a commit.
    pub fn list(&self, commit: &str) -> Result<Vec<Listed>, Failure> {
        match self {
            HubRepository::Dataset(repository) => list(repository, commit),
            HubRepository::Model(repository) => list(repository, commit),
        }
    }

    /// Some bytes of a file at a commit.
    pub fn read(&self, commit: &str, path: &str, range: Range<u64>) -> Result<Vec<u8>, Failure> {
        match self {
            HubRepository::Dataset(repository) => read(repository, commit, path, range),
            HubRepository::Model(repository) => read(repository, commit, path, range),
        }
    }
}

fn client(address: Option<&str>) -> Result<HFClientSync, Failure> {
    // Files go where they are wanted, and one place decides how often to try again.
    let mut builder = HFClientBuilder::new()
        .cache_enabled(false)
        .retry_max_attempts(0);
    if let Some(address) = address {
        builder = builder.endpoint(address);
    }
    builder.build_sync().map_err(failure)
}

fn list<T: RepoType>(
    repository: &HFRepositorySync<T>,
    commit: &str,
) -> Result<Vec<Listed>, Failure> {
    let entries = repository
        .list_tree()
        .revision(commit)
        .recursive(true)
        .send()
        .map_err(failure)?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| match entry {
            RepoTreeEntry::File {
                oid,
                size,
                path,
                lfs,
                ..
            } => Some(Listed {
                name: match lfs {
                    None => Name::Blob(oid),
                    Some(lfs) => lfs.sha256.map_or(Name::Pointer(oid), Name::Sha256),
                },
                size,
                path,
            }),
            RepoTreeEntry::Directory { .. } => None,
        })
        .collect())
}

fn read<T: RepoType>(
    repository: &HFRepositorySync<T>,
    commit: &str,
    path: &str,
    range: Range<u64>,
) -> Result<Vec<u8>, Failure> {
    repository
        .download_file_to_bytes()
        .filename(path)
        .revision(commit)
        .range(range)
        .send()
        .map(|bytes| bytes.to_vec())
        .map_err(failure)
}

fn failure(error: HFError) -> Failure {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = cause.source();
    }
    let lasting = match &error {
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
            reason += "; set HF_TOKEN to a token that may read it";
            true
        }
        HFError::RepoNotFound { .. }
        | HFError::RevisionNotFound { .. }
        | HFError::EntryNotFound { .. }
        | HFError::InvalidParameter(_) => true,
        HFError::Http { context } => {
            context.status.is_client_error() && !matches!(context.status.as_u16(), 408 | 429)
        }
        _ => false,
    };
    Failure { reason, lasting }
}
