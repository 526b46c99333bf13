//! Training on its way, as its files tell it at this moment.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::parse_lines;
use crate::integrity::{MANIFEST, METRICS, RECORDS};
use crate::metrics::UpdateMetrics;
use crate::record::ArmName;
use crate::stored::is_stored;

/// Where training leaves its weights when it is done.
const CHECKPOINT: &str = "checkpoint";

/// A folder `<arm>/seed-<n>` in which training has begun and is not done: at work, or stopped.
#[derive(Clone, Debug)]
pub struct UnfinishedRun {
    /// Its folder.
    pub folder: PathBuf,
    /// The arm, or the name of a stage that arms share.
    pub arm: ArmName,
    /// The seed.
    pub seed: u64,
    /// One line per update so far.
    pub metrics: Vec<UpdateMetrics>,
}

impl UnfinishedRun {
    /// All of them at most three folders below `root`, in the order of their paths.
    ///
    /// # Errors
    /// A folder or file that cannot be read; whole lines that are not what was written.
    pub fn find(root: &Path) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        look(root, 3, &mut found)?;
        Ok(found)
    }
}

fn look(folder: &Path, depth: usize, found: &mut Vec<UnfinishedRun>) -> Result<()> {
    let metrics = folder.join(METRICS);
    if metrics.is_file() {
        let done = is_stored(&folder.join(RECORDS))
            || is_stored(&folder.join(MANIFEST))
            || folder.join(CHECKPOINT).exists();
        let named = match done {
            true => None,
            false => name_of(folder),
        };
        if let Some((arm, seed)) = named {
            let bytes = std::fs::read(&metrics).map_err(Error::io("read", &metrics))?;
            // The last line may be on its way.
            let whole = bytes.iter().rposition(|&byte| byte == b'\n');
            let metrics = parse_lines(&metrics, &bytes[..whole.map_or(0, |end| end + 1)])?;
            found.push(UnfinishedRun {
                folder: folder.to_path_buf(),
                arm,
                seed,
                metrics,
            });
        }
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    let mut below = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let kind = entry.file_type().map_err(Error::io("list", folder))?;
        below.extend(kind.is_dir().then(|| entry.path()));
    }
    below.sort();
    below
        .into_iter()
        .try_for_each(|folder| look(&folder, depth - 1, found))
}

/// Arm and seed of `<arm>/seed-<n>`.
fn name_of(folder: &Path) -> Option<(ArmName, u64)> {
    let seed = folder.file_name()?.to_str()?.strip_prefix("seed-")?;
    let arm = folder.parent()?.file_name()?.to_str()?;
    Some((arm.parse().ok()?, seed.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::write_lines;
    use crate::fixture;

    #[test]
    fn only_what_is_on_its_way_is_found_without_the_line_that_is_being_written() {
        let root = tempfile::tempdir().unwrap();
        let run = fixture::runs(1)
            .into_iter()
            .find(|run| run.metrics.len() > 1)
            .unwrap();
        let begun = |name: &str| {
            let folder = root.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            let path = folder.join(METRICS);
            write_lines(&path, &run.metrics).unwrap();
            path
        };
        let path = begun("torl/seed-3");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"{\"update\": 9"].concat()).unwrap();
        for (name, done) in [
            ("vtool-r1/seed-0", MANIFEST),
            ("trm/seed-0", RECORDS),
            ("cold-start/seed-0", CHECKPOINT),
        ] {
            begun(name);
            std::fs::write(root.path().join(name).join(done), "").unwrap();
        }
        begun("not-a-run");
        let found = UnfinishedRun::find(root.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].arm.name(), found[0].seed), ("torl", 3));
        assert_eq!(found[0].metrics.len(), run.metrics.len());
        // A whole line that is none is a fault.
        std::fs::write(&path, "{\"update\": 9\n").unwrap();
        assert!(UnfinishedRun::find(root.path()).is_err());
    }
}
