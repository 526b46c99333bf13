//! A checkpoint by name: a folder on this machine, or a model of the hub.
//!
//! **The download has not met the real hub**, only a server of our own.

use std::path::{Path, PathBuf};

use super::error::DownloadError;

/// A model of the hub whose files are wanted as they are at one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedModel<'a> {
    /// `ORG/NAME`.
    pub id: &'a str,
    /// The commit, in full.
    pub commit: &'a str,
}

/// The folder of the checkpoint `name`: the folder of that path where there is one, else the model
/// `ORG/NAME` or `ORG/NAME@REVISION` of the hub, downloaded into `cache` if it is not there yet.
/// Without a revision it is the one in `pinned`, else the newest at the first download.
///
/// # Errors
/// [`DownloadError::NoCheckpoint`] when it is neither, or this build does not download;
/// [`DownloadError::Download`] and [`DownloadError::Io`] as for [`super::Repository`]'s files.
pub fn checkpoint_folder(
    name: &str,
    pinned: &[PinnedModel<'_>],
    cache: &Path,
) -> Result<PathBuf, DownloadError> {
    let folder = Path::new(name);
    if folder.is_dir() {
        return Ok(folder.to_owned());
    }
    let model = HubModel::parse(name).ok_or_else(|| DownloadError::NoCheckpoint {
        name: name.to_owned(),
        problem: "no such folder, and no name of a model on the hub; expected a checkpoint's \
                  folder, ORG/NAME or ORG/NAME@REVISION"
            .to_owned(),
    })?;
    #[cfg(feature = "hub")]
    return model.obtain(pinned, cache);
    #[cfg(not(feature = "hub"))]
    {
        let _ = (pinned, cache);
        Err(model.needs_the_feature(name))
    }
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
    fn needs_the_feature(&self, name: &str) -> DownloadError {
        let HubModel {
            owner,
            name: model,
            revision,
        } = self;
        let revision =
            revision.map_or_else(String::new, |revision| format!(" --revision {revision}"));
        DownloadError::NoCheckpoint {
            name: name.to_owned(),
            problem: format!(
                "no such folder, and this build does not download: build with `--features hub`, \
                 or run `hf download {owner}/{model}{revision} \
                 --local-dir DIR` and name DIR"
            ),
        }
    }
}

/// What a checkpoint in the hub's layout is loaded from.
#[cfg(feature = "hub")]
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

#[cfg(feature = "hub")]
impl HubModel<'_> {
    /// The model's folder below `cache`, complete.
    fn obtain(&self, pinned: &[PinnedModel<'_>], cache: &Path) -> Result<PathBuf, DownloadError> {
        let &HubModel {
            owner,
            name,
            revision,
        } = self;
        let id = format!("{owner}/{name}");
        let commit = pinned
            .iter()
            .find(|model| model.id == id)
            .map(|model| model.commit);
        let revision = revision.or(commit);
        let last = match revision {
            Some(revision) => format!("{name}@{}", revision.replace('/', "--")),
            None => name.to_owned(),
        };
        let folder = cache.join(owner).join(last);
        let repository = super::repository::Repository::model(owner, name, None)?;
        super::download::download(&repository, revision, &FILES, &folder)?;
        if !folder.join("config.json").is_file() {
            return Err(DownloadError::NoCheckpoint {
                name: id,
                problem: "it has no config.json on the hub; expected a checkpoint in the hub's \
                          layout"
                    .to_owned(),
            });
        }
        Ok(folder)
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
        assert_eq!(
            checkpoint_folder(name, &[], Path::new("cache")).unwrap(),
            folder.path()
        );
        let error = checkpoint_folder("no/such/folder", &[], Path::new("cache")).unwrap_err();
        insta::assert_snapshot!(error, @"no checkpoint 'no/such/folder': no such folder, and no name of a model on the hub; expected a checkpoint's folder, ORG/NAME or ORG/NAME@REVISION");
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_it_says_what_to_type() {
        let error = checkpoint_folder("Qwen/Qwen2.5-VL-3B-Instruct@main", &[], Path::new("cache"))
            .unwrap_err();
        insta::assert_snapshot!(error, @"no checkpoint 'Qwen/Qwen2.5-VL-3B-Instruct@main': no such folder, and this build does not download: build with `--features hub`, or run `hf download Qwen/Qwen2.5-VL-3B-Instruct --revision main --local-dir DIR` and name DIR");
    }
}
