//! What a run was made with: the commit of the checkout and the versions that shape its numbers.

use std::collections::BTreeMap;
use std::process::Command;

/// The commit of the checkout that this was built in, `-dirty` appended when it has uncommitted
/// changes; `None` outside of a git checkout or without git.
pub fn commit() -> Option<String> {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git")
            .args(["-C", env!("CARGO_MANIFEST_DIR")])
            .args(arguments)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let head = git(&["rev-parse", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(match changes.is_empty() {
        true => head,
        false => format!("{head}-dirty"),
    })
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
