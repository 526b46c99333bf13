//! A checkpoint by name: a folder on this machine, or a model of the hub.
//!
//! A model is downloaded once into `$IAPO_CACHE` (else `~/.cache/iapo`), resumable and checked by
//! the same code and lock as the data sets; **that has not met the real hub**, only a server of our
//! own. Without the feature `hub` nothing is downloaded.

use std::path::{Path, PathBuf};

use super::SourceError;

/// The folder of the checkpoint `name`: the folder of that path where there is one, else the model
/// `ORG/NAME` or `ORG/NAME@REVISION` of the hub, downloaded if it is not here yet. Without a
/// revision it is the one pinned here, else the newest at the first download.
///
/// # Errors
/// [`SourceError::NoCheckpoint`] when it is neither, or this build does not download;
/// [`SourceError::Download`] and [`SourceError::Io`] as for the data sets.
pub fn resolve(name: &str) -> Result<PathBuf, SourceError> {
    let folder = Path::new(name);
    if folder.is_dir() {
        return Ok(folder.to_owned());
    }
    let model = HubModel::parse(name).ok_or_else(|| SourceError::NoCheckpoint {
        name: name.to_owned(),
        problem: "no such folder, and no name of a model on the hub; expected a checkpoint's \
                  folder, ORG/NAME or ORG/NAME@REVISION"
            .to_owned(),
    })?;
    #[cfg(feature = "hub")]
    return model.obtain(&download::cache()?, None);
    #[cfg(not(feature = "hub"))]
    Err(model.needs_the_feature(name))
}

/// `ORG/NAME` or `ORG/NAME@REVISION`.
#[derive(Debug, PartialEq, Eq)]
struct HubModel<'a> {
    owner: &'a str,
    name: &'a str,
    revision: Option<&'a str>,
}

impl<'a> HubModel<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let (owner, name) = id.split_once('/')?;
        let plain = |part: &str, more: &str| {
            part.starts_with(|first: char| first.is_ascii_alphanumeric())
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || more.contains(c))
        };
        let fits = plain(owner, "")
            && plain(name, "")
            && revision.is_none_or(|revision| plain(revision, "/"));
        fits.then_some(HubModel {
            owner,
            name,
            revision,
        })
    }

    #[cfg(not(feature = "hub"))]
    fn needs_the_feature(&self, name: &str) -> SourceError {
        let HubModel {
            owner,
            name: model,
            revision,
        } = self;
        let revision =
            revision.map_or_else(String::new, |revision| format!(" --revision {revision}"));
        SourceError::NoCheckpoint {
            name: name.to_owned(),
            problem: format!(
                "no such folder, and this build does not download; run `cargo run --release \
                 --features hub --bin iapo -- …`, or `hf download {owner}/{model}{revision} \
                 --local-dir DIR` and name DIR"
            ),
        }
    }
}

#[cfg(feature = "hub")]
mod download {
    use std::path::{Path, PathBuf};

    use super::super::SourceError;
    use super::super::fetch::{Origin, bring};
    use super::HubModel;

    /// What a checkpoint in the hub's layout is loaded from.
    const FILES: [&str; 12] = [
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "model.safetensors*",
        "model-*.safetensors",
    ];

    /// The paper's models at commits that public code of others pins, read in 2026.
    const PINNED: [(&str, &str, &str); 2] = [
        (
            "Qwen",
            "Qwen2.5-VL-3B-Instruct",
            "66285546d2b821cf421d4f5eb2576359d3770cd3",
        ),
        (
            "Qwen",
            "Qwen2.5-VL-7B-Instruct",
            "cc594898137f460bfe9f0759e9844b3ce807cfb5",
        ),
    ];

    impl HubModel<'_> {
        /// The model's folder below `cache`, complete; `address` is another one than the hub's.
        pub(in crate::sources) fn obtain(
            &self,
            cache: &Path,
            address: Option<&str>,
        ) -> Result<PathBuf, SourceError> {
            let &HubModel {
                owner,
                name,
                revision,
            } = self;
            let pinned = PINNED
                .iter()
                .find(|(own, model, _)| (*own, *model) == (owner, name))
                .map(|&(.., commit)| commit);
            let revision = revision.or(pinned);
            let last = match revision {
                Some(revision) => format!("{name}@{}", revision.replace('/', "--")),
                None => name.to_owned(),
            };
            let folder = cache.join("models").join(owner).join(last);
            let origin = Origin::model(owner, name, address)?;
            bring(&origin, revision, &FILES, &folder)?;
            if !folder.join("config.json").is_file() {
                return Err(SourceError::NoCheckpoint {
                    name: format!("{owner}/{name}"),
                    problem:
                        "it has no config.json on the hub; expected a checkpoint in the hub's \
                              layout"
                            .to_owned(),
                });
            }
            Ok(folder)
        }
    }

    /// Where downloads of models are kept.
    pub(super) fn cache() -> Result<PathBuf, SourceError> {
        if let Some(folder) = std::env::var_os("IAPO_CACHE").filter(|folder| !folder.is_empty()) {
            return Ok(PathBuf::from(folder));
        }
        std::env::home_dir()
            .map(|home| home.join(".cache").join("iapo"))
            .ok_or_else(|| {
                SourceError::Download(
                    "there is no home folder to keep models in; set IAPO_CACHE to a folder"
                        .to_owned(),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_other_text() {
        let model = |owner, name, revision| {
            Some(HubModel {
                owner,
                name,
                revision,
            })
        };
        for (text, expected) in [
            ("Qwen/Qwen2.5-VL-3B", model("Qwen", "Qwen2.5-VL-3B", None)),
            ("a/b@main", model("a", "b", Some("main"))),
            ("a/b@refs/pr/1", model("a", "b", Some("refs/pr/1"))),
            ("student", None),
            ("../a/b", None),
            ("../b", None),
            ("/a/b", None),
            ("a/b/c", None),
            ("a/", None),
            ("a/b@", None),
            ("a/b@../c", None),
            ("a/b c", None),
        ] {
            assert_eq!(HubModel::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_folder_wins_and_what_is_neither_says_what_was_expected() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().to_str().unwrap();
        assert_eq!(resolve(name).unwrap(), folder.path());
        let error = resolve("no/such/folder").unwrap_err();
        insta::assert_snapshot!(error, @"no checkpoint 'no/such/folder': no such folder, and no name of a model on the hub; expected a checkpoint's folder, ORG/NAME or ORG/NAME@REVISION");
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_it_says_what_to_type() {
        let error = resolve("Qwen/Qwen2.5-VL-3B-Instruct@main").unwrap_err();
        insta::assert_snapshot!(error, @"no checkpoint 'Qwen/Qwen2.5-VL-3B-Instruct@main': no such folder, and this build does not download; run `cargo run --release --features hub --bin iapo -- …`, or `hf download Qwen/Qwen2.5-VL-3B-Instruct --revision main --local-dir DIR` and name DIR");
    }
}
