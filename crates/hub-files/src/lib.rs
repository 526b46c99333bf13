//! Files of published repositories, brought into a local folder: pinned, checked, resumable.
//!
//! A file arrives in ranges behind a `.part` file, so a broken download goes on where it stopped;
//! it is checked against its host's listing before it gets its name. What was downloaded is written
//! to `hub.lock.json` (commit, size and SHA-256 of every file): later runs check files against it
//! and ask nobody, which is the offline mode.
//!
//! Downloads need the feature `hub`. Without it, [`checkpoint_folder`] still tells a folder from
//! the name of a model and says what to type.

mod checkpoint;
#[cfg(feature = "hub")]
mod download;
mod error;
#[cfg(feature = "hub")]
mod github;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod lock;
#[cfg(feature = "hub")]
mod repository;
#[cfg(all(test, feature = "hub"))]
mod tests;
#[cfg(feature = "hub")]
mod verify;

pub use checkpoint::{PinnedModel, checkpoint_folder};
#[cfg(feature = "hub")]
pub use download::download;
pub use error::DownloadError;
#[cfg(feature = "hub")]
pub use github::{GITHUB, GitHubFiles};
#[cfg(feature = "hub")]
pub use repository::Repository;

/// The examples of the README, compiled.
#[cfg(all(doctest, feature = "hub"))]
#[doc = include_str!("../README.md")]
struct Readme;
