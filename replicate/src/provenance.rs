//! What a run was made with: the commit and the hash of the command, and the versions that shape its
//! numbers.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use results::Manifest;

/// What is known of the running command.
#[derive(Clone, Debug, Default)]
struct Build {
    commit: Option<String>,
    binary: Option<String>,
}

static BUILD: OnceLock<Build> = OnceLock::new();

/// Tells which commit the running command was built from, and takes its hash before anybody replaces
/// it; to be called once, at the start. An empty commit is an unknown one.
pub fn declare(commit: &str) {
    let binary = std::env::current_exe()
        .and_then(std::fs::File::open)
        .and_then(|file| {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file)?;
            Ok(hasher.finalize().to_hex().to_string())
        });
    // Told twice, the first stays.
    let _ = BUILD.set(Build {
        commit: (!commit.is_empty()).then(|| commit.to_owned()),
        binary: binary.ok(),
    });
}

/// The commit that the running command was built from, `-dirty` appended when its sources had
/// uncommitted changes; `None` where [`declare`] did not tell.
pub fn commit() -> Option<String> {
    BUILD.get().and_then(|build| build.commit.clone())
}

/// Writes commit, hash of the command and versions into a manifest.
pub fn describe(manifest: &mut Manifest) {
    let build = BUILD.get().cloned().unwrap_or_default();
    manifest.commit = build.commit;
    manifest.binary = build.binary;
    manifest.versions = versions();
}

/// Versions of this project and of the tensor library.
pub fn versions() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("iapo".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("candle".to_owned(), CANDLE.to_owned()),
    ])
}

/// As pinned in `Cargo.lock`; a test compares them.
const CANDLE: &str = "0.11.1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_candle_is_the_one_that_manifests_name() {
        let lock = include_str!("../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"candle-core\"\nversion = \"{CANDLE}\"")));
    }
}
