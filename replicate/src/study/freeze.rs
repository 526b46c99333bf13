//! The commit that froze a study, and the world that follows from it.
//!
//! A counted run's world is derived from that commit's hash: nobody could know its questions before
//! the settings were fixed, and nobody can choose them afterwards without a commit that shows it. Comments
//! decide nothing: a commit that changes them alone freezes nothing anew.

use std::path::Path;
use std::process::Command;

use crate::Result;

use super::files::problem;

/// A study whose files are committed as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// The commit that last changed what one of the files says.
    pub commit: String,
}

impl Freeze {
    /// Asks git for the last change of `files` in `folder`.
    ///
    /// # Errors
    /// No git or no checkout, a checkout without the whole history, files that are not committed as
    /// they are.
    pub fn of(folder: &Path, files: &[&str]) -> Result<Self> {
        let git = |arguments: &[&str]| -> Result<String> {
            let output = Command::new("git")
                .arg("-C")
                .arg(folder)
                .args(arguments)
                .output()
                .map_err(|error| {
                    problem(
                        folder,
                        format!("git is needed to name the commit that froze it: {error}"),
                    )
                })?;
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr);
                return Err(problem(
                    folder,
                    format!(
                        "counted parts need a checkout with git: {}",
                        why.lines().next().unwrap_or("git failed")
                    ),
                ));
            }
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let with_files = |arguments: &[&str]| -> Result<String> {
            let mut all = arguments.to_vec();
            all.push("--");
            all.extend(files);
            git(&all)
        };
        let changed = with_files(&["status", "--porcelain", "--untracked-files=all"])?;
        if !changed.is_empty() {
            return Err(problem(
                folder,
                format!(
                    "counted parts need it committed as it is; git status says: {}. Commit it before \
                     the first counted run, and not again afterwards",
                    changed.replace('\n', ", ")
                ),
            ));
        }
        if git(&["rev-parse", "--is-shallow-repository"])? == "true" {
            return Err(problem(
                folder,
                "the checkout has not the whole history, so the commit that froze it is not known: \
                 `git fetch --unshallow`",
            ));
        }
        let commits = with_files(&["log", "--format=%H"])?;
        let said_at = |commit: &str| -> Option<Vec<Said>> {
            let texts = files
                .iter()
                .map(|file| git(&["show", &format!("{commit}:./{file}")]));
            texts.map(|text| text.ok().map(Said::by)).collect()
        };
        let mut commits = commits.lines();
        let Some(mut frozen) = commits.next() else {
            return Err(problem(
                folder,
                "counted parts need it committed; git knows no commit of it",
            ));
        };
        let said = said_at(frozen);
        for earlier in commits {
            if said_at(earlier) != said {
                break;
            }
            frozen = earlier;
        }
        Ok(Freeze {
            commit: frozen.to_owned(),
        })
    }

    /// `world.seed` of the counted parts: the first 53 bits, which every JSON reader keeps, of BLAKE3
    /// over a fixed text and the commit's hash.
    pub fn world_seed(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"iapo study world\n");
        hasher.update(self.commit.as_bytes());
        let digest = hasher.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest.as_bytes()[..8]);
        u64::from_be_bytes(first) >> 11
    }
}

/// What a file says: its values, or its text where it is no TOML.
#[derive(PartialEq)]
enum Said {
    Values(toml::Table),
    Text(String),
}

impl Said {
    fn by(text: String) -> Self {
        match text.parse() {
            Ok(values) => Said::Values(values),
            Err(_) => Said::Text(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(commit: &str) -> u64 {
        Freeze {
            commit: commit.to_owned(),
        }
        .world_seed()
    }

    /// A change here changes the world of every frozen study.
    #[test]
    fn a_worlds_seed_follows_from_the_commit_alone() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        insta::assert_snapshot!(seed(commit).to_string());
        assert_eq!(seed(commit), seed(commit));
        assert_ne!(
            seed(commit),
            seed("0123456789abcdef0123456789abcdef01234568")
        );
        assert!(seed(commit) < 1 << 53);
    }

    fn git(folder: &Path, arguments: &[&str]) {
        let output = Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(["-c", "user.name=a", "-c", "user.email=a@b"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    #[test]
    fn only_what_is_committed_as_it_is_is_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let error = |folder: &Path| Freeze::of(folder, &["a", "b"]).unwrap_err().to_string();
        assert!(
            error(folder).contains("a checkout with git"),
            "{}",
            error(folder)
        );
        git(folder, &["init", "-q"]);
        for name in ["a", "b", "other"] {
            std::fs::write(folder.join(name), "1").unwrap();
        }
        assert!(error(folder).contains("?? a"), "{}", error(folder));
        git(folder, &["add", "a", "b", "other"]);
        git(folder, &["commit", "-q", "-m", "1"]);
        let first = Freeze::of(folder, &["a", "b"]).unwrap();
        // Another file is no part of it.
        std::fs::write(folder.join("other"), "2").unwrap();
        git(folder, &["commit", "-q", "-a", "-m", "2"]);
        assert_eq!(Freeze::of(folder, &["a", "b"]).unwrap(), first);
        std::fs::write(folder.join("b"), "3").unwrap();
        assert!(error(folder).contains("M b"), "{}", error(folder));
        git(folder, &["commit", "-q", "-a", "-m", "3"]);
        assert_ne!(Freeze::of(folder, &["a", "b"]).unwrap(), first);

        // Comments are mended without another world, values are not changed without one.
        let commit = |text: &str| {
            std::fs::write(folder.join("a"), text).unwrap();
            git(folder, &["commit", "-q", "-a", "-m", text]);
            Freeze::of(folder, &["a", "b"]).unwrap()
        };
        let values = commit("# A word.\nkey = [1, 2]\n");
        assert_eq!(commit("# Another word.\nkey = [1,2]\n"), values);
        let changed = commit("# Another word.\nkey = [1, 3]\n");
        assert_ne!(changed, values);
        // Set back is changed twice.
        assert_ne!(commit("# A word.\nkey = [1, 2]\n"), values);
    }
}
