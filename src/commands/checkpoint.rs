//! Checkpoints by the names that a command is given.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use benchmarks::sources::checkpoint;

/// How deep below a folder of runs a checkpoint lies: `<arm>/seed-<n>/checkpoint`.
const DEPTH: usize = 3;

/// How many of the checkpoints that were found an error names.
const NAMED: usize = 6;

/// The folder of a checkpoint, as [`checkpoint::resolve`] finds it.
///
/// # Errors
/// As there; a folder that is no checkpoint and holds some, such as that of a run: they are named.
pub fn resolve(name: &str) -> anyhow::Result<PathBuf> {
    let folder = checkpoint::resolve(name)?;
    if folder.join("config.json").exists() {
        return Ok(folder);
    }
    let mut inside = Vec::new();
    collect(&folder, DEPTH, &mut inside);
    let named: Vec<String> = inside
        .iter()
        .take(NAMED)
        .map(|path| path.display().to_string())
        .collect();
    let more = match inside.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    ensure!(
        inside.is_empty(),
        "{name}: expected a checkpoint, and this folder has no config.json; name one of the \
         checkpoints in it: {}{more}",
        named.join(", ")
    );
    // No checkpoint at all: whoever loads it says which files are missing.
    Ok(folder)
}

/// The checkpoints below a folder, in the order of their paths. Links are not followed, and a folder
/// that cannot be read holds none.
fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut folders: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    folders.sort();
    for folder in folders {
        if folder.join("config.json").is_file() {
            found.push(folder);
        } else if depth > 1 {
            collect(&folder, depth - 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_names_the_checkpoints_in_it() {
        let run = tempfile::tempdir().unwrap();
        let name = run.path().to_str().unwrap();
        assert_eq!(resolve(name).unwrap(), run.path());
        for seed in 0..8 {
            let checkpoint = run.path().join(format!("iapo/seed-{seed}/checkpoint"));
            std::fs::create_dir_all(&checkpoint).unwrap();
            std::fs::write(checkpoint.join("config.json"), "{}").unwrap();
        }
        let told = resolve(name).unwrap_err().to_string().replace(name, "RUN");
        insta::assert_snapshot!(told);
        let one = run.path().join("iapo/seed-3");
        let told = resolve(one.to_str().unwrap()).unwrap_err().to_string();
        let told = told.replace(name, "RUN");
        assert!(
            told.ends_with("in it: RUN/iapo/seed-3/checkpoint"),
            "{told}"
        );
        let checkpoint = one.join("checkpoint");
        assert_eq!(resolve(checkpoint.to_str().unwrap()).unwrap(), checkpoint);
    }
}
