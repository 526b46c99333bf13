//! Which of the files that would do are there.

use std::path::{Path, PathBuf};

use super::error::SourceError;

/// The files of the first of `patterns` that is there.
pub(super) fn first_present(
    data: &Path,
    what: &str,
    patterns: &[&str],
) -> Result<Vec<PathBuf>, SourceError> {
    patterns
        .iter()
        .map(|pattern| present(data, pattern))
        .find(|files| !files.is_empty())
        .ok_or_else(|| SourceError::NoData {
            what: what.to_owned(),
            folder: data.to_owned(),
            looked_for: patterns.iter().map(|&name| name.to_owned()).collect(),
        })
}

/// The names of files relative to the data folder.
pub(super) fn below(data: &Path, files: &[PathBuf]) -> Vec<String> {
    files
        .iter()
        .map(|file| {
            file.strip_prefix(data)
                .unwrap_or(file)
                .display()
                .to_string()
        })
        .collect()
}

/// The files under `data` that `pattern` stands for, in order of their names.
fn present(data: &Path, pattern: &str) -> Vec<PathBuf> {
    let whole = data.join(pattern);
    let Some((folder, prefix)) = pattern
        .strip_suffix("*.parquet")
        .and_then(|stem| stem.rsplit_once('/'))
    else {
        return if whole.is_file() {
            vec![whole]
        } else {
            Vec::new()
        };
    };
    let Ok(listing) = std::fs::read_dir(data.join(folder)) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = listing
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(|file| {
            file.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(prefix) && name.ends_with(".parquet"))
        })
        .collect();
    files.sort();
    files
}
