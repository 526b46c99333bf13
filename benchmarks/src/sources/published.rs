//! Where the test sets and the training questions are published (feature `hub`).
//!
//! The names are those of the data sets' authors' public code. A revision is pinned where public
//! code or notes of others name one; which files it holds is asked of the host.

use std::path::Path;

use hub_files::{DownloadError, GITHUB, GitHubFiles, Repository};

use crate::TestSet;

/// A data set on the hub.
struct Dataset {
    owner: &'static str,
    name: &'static str,
    /// The commit. `None`: not known to us; the first download takes the newest and the lock keeps
    /// it.
    revision: Option<&'static str>,
    /// The files wanted.
    files: &'static [&'static str],
}

/// ReFocus: charts and tables with boxes, and the training questions. Licence on its card:
/// Apache-2.0 (note of others). Revision: public notes of others, read in 2026.
const REFOCUS: Dataset = Dataset {
    owner: "ReFocus",
    name: "ReFocus_Data",
    revision: Some("6af42739216fd58047121bb51dba683277cfdfe3"),
    files: &[],
};

const REFOCUS_CHARTS: Dataset = Dataset {
    files: &[
        "chartQA_*_wbb.json",
        "data/chartQA_*_wbb.json",
        "chartqa_vcot/test.jsonl",
        "train_raw_data/chartqa_vcot/test.jsonl",
        "data/test-*.parquet",
        "images/*",
        "images.zip",
    ],
    ..REFOCUS
};

const REFOCUS_TABLES: Dataset = Dataset {
    files: &[
        "tablevqa*_wbb.json",
        "data/tablevqa*_wbb.json",
        "table-vwtq_syn_wbb.json",
        "data/table-vwtq_syn_wbb.json",
        "images/*",
        "images.zip",
    ],
    ..REFOCUS
};

/// Images lie inside the shards.
const REFOCUS_TRAINING: Dataset = Dataset {
    files: &["data/train-*.parquet"],
    ..REFOCUS
};

/// CharXiv's images.
const CHARXIV_IMAGES: Dataset = Dataset {
    owner: "princeton-nlp",
    name: "CharXiv",
    revision: None,
    files: &["images.zip"],
};

/// CharXiv's questions are in the repository of its code. Size and SHA-256: of the file at this
/// commit.
const CHARXIV_QUESTIONS: GitHubFiles<'static> = GitHubFiles {
    repository: "princeton-nlp/CharXiv",
    commit: "7ebe88f78dee387691551f071abcb2b9e1a8025b",
    files: &[(
        "data/reasoning_val.json",
        245_069,
        "8bf9b9c466baed7510104c65dcbcb6b3ca36080123a609f8af3e32d573c85d19",
    )],
};

/// VTool-R1's prompt. Size and SHA-256: of the file at this commit.
const VTOOL_R1_PROMPT: GitHubFiles<'static> = GitHubFiles {
    repository: "VTool-R1/VTool-R1",
    commit: "5318fb291f93d627448725fdbbf7132a455d7663",
    files: &[(
        super::prompt::VTOOL_R1_TEMPLATE,
        15_108,
        "1dd8ce84c809cd76363334b67b8a3488bcd6a86a986a23496f05f0465d70906d",
    )],
};

/// TableVQA-Bench: questions and images, without boxes.
const TABLEVQA_BENCH: Dataset = Dataset {
    owner: "terryoo",
    name: "TableVQA-Bench",
    revision: None,
    files: &[
        "data/vwtq-*.parquet",
        "data/vwtq_syn-*.parquet",
        "data/vtabfact-*.parquet",
    ],
};

/// Where hosts are.
pub(super) struct Addresses<'a> {
    /// The hub; `None` is hf-hub's own choice.
    pub hub: Option<&'a str>,
    pub github: &'a str,
}

/// The hosts themselves.
pub(super) const HOSTS: Addresses<'static> = Addresses {
    hub: None,
    github: GITHUB,
};

/// Brings what `set` is read from into `folder`, or checks what is there.
pub(super) fn download(
    set: TestSet,
    folder: &Path,
    addresses: &Addresses<'_>,
) -> Result<(), DownloadError> {
    let (datasets, code): (&[Dataset], _) = match set {
        TestSet::CharXiv => (&[CHARXIV_IMAGES], Some(CHARXIV_QUESTIONS)),
        TestSet::ChartQaHorizontal | TestSet::ChartQaVertical => (&[REFOCUS_CHARTS], None),
        TestSet::Vwtq | TestSet::VwtqSyn | TestSet::VTabFact => {
            (&[REFOCUS_TABLES, TABLEVQA_BENCH], None)
        }
    };
    for dataset in datasets {
        bring_dataset(dataset, folder, addresses)?;
    }
    let Some(code) = code else { return Ok(()) };
    bring_code(code, folder, addresses)
}

/// Brings the training questions into `folder`, or checks what is there.
pub(super) fn download_training(
    folder: &Path,
    addresses: &Addresses<'_>,
) -> Result<(), DownloadError> {
    bring_dataset(&REFOCUS_TRAINING, folder, addresses)
}

/// Brings VTool-R1's template into `folder`, or checks what is there.
pub(super) fn download_prompt(
    folder: &Path,
    addresses: &Addresses<'_>,
) -> Result<(), DownloadError> {
    bring_code(VTOOL_R1_PROMPT, folder, addresses)
}

fn bring_dataset(
    dataset: &Dataset,
    folder: &Path,
    addresses: &Addresses<'_>,
) -> Result<(), DownloadError> {
    let repository = Repository::dataset(dataset.owner, dataset.name, addresses.hub)?;
    hub_files::download(&repository, dataset.revision, dataset.files, folder)
}

fn bring_code(
    code: GitHubFiles<'_>,
    folder: &Path,
    addresses: &Addresses<'_>,
) -> Result<(), DownloadError> {
    let files: Vec<&str> = code.files.iter().map(|&(path, ..)| path).collect();
    let repository = Repository::github(code, addresses.github);
    hub_files::download(&repository, Some(code.commit), &files, folder)
}

#[cfg(test)]
#[path = "../../../crates/hub-files/tests/support/hub.rs"]
mod server;

#[cfg(test)]
mod tests {
    use super::server::Hub;
    use super::*;

    /// CharXiv's images are on the hub, its questions on GitHub. The real questions are not here, so
    /// all that can be had is that others are refused.
    #[test]
    fn charxiv_comes_from_both_hosts() {
        let hub = Hub::start();
        let questions = vec![b' '; 245_069];
        hub.put("datasets/princeton-nlp/CharXiv", "images.zip", "zip", true);
        hub.put(
            "github/princeton-nlp/CharXiv",
            "data/reasoning_val.json",
            questions,
            false,
        );
        let folder = tempfile::tempdir().unwrap();
        let address = hub.address();
        let addresses = Addresses {
            hub: Some(&address),
            github: &address,
        };
        let told = download(TestSet::CharXiv, folder.path(), &addresses)
            .unwrap_err()
            .to_string();
        assert!(
            told.contains("github/princeton-nlp/CharXiv: data/reasoning_val.json arrived damaged")
                && told.contains("instead of 8bf9b9c466baed75"),
            "{told}"
        );
        assert!(folder.path().join("images.zip").is_file());
    }
}
