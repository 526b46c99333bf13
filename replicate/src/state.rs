//! A training state on disk: weights and optimiser, whole or not at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{Device, Var};
use grpo::{AdamW, AdamWOptions, OptimizerPlace};

use crate::{Error, Result, error};

/// Named variables with the optimiser that trains them.
pub struct Trainer {
    /// What is trained, in the order of the names.
    pub parameters: Vec<(String, Var)>,
    /// Its optimiser.
    pub optimizer: AdamW,
}

/// The file of a state that holds the hashes of the others.
const CHECKSUMS: &str = "checksums.json";

/// States that are kept: when the newest is damaged, the one before it serves.
const KEPT: usize = 2;

impl Trainer {
    /// A fresh optimiser over parameters, whose state will be at `place`.
    pub fn new(
        parameters: Vec<(String, Var)>,
        options: AdamWOptions,
        place: OptimizerPlace,
    ) -> Result<Self> {
        Ok(Trainer {
            parameters,
            optimizer: AdamW::new(options)?.placed(place),
        })
    }

    /// Writes parameters and optimiser as the state after `step` steps, with their hashes and that of
    /// `rows`, a file that grows with the steps. The folder of the new state gets its name last, after
    /// everything in it is on the disk, and the oldest goes after that, so that a kill or a full disk
    /// leaves a whole state.
    pub fn save(&self, folder: &Path, step: usize, rows: Option<&Path>) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(error::at(folder))?;
        let unfinished = folder.join("unfinished");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished).map_err(error::at(&unfinished))?;
        }
        let written = self.write(&unfinished, rows);
        if written.is_err() {
            // A full disk must not stay full of what nobody can use.
            let _ = std::fs::remove_dir_all(&unfinished);
        }
        written?;
        let finished = folder.join(format!("step-{step}"));
        if finished.exists() {
            std::fs::remove_dir_all(&finished).map_err(error::at(&finished))?;
        }
        std::fs::rename(&unfinished, &finished).map_err(error::at(&finished))?;
        sync(folder)?;
        let mut states = saved_steps(folder)?;
        states.sort();
        let old = states.len().saturating_sub(KEPT);
        for (_, path) in &states[..old] {
            std::fs::remove_dir_all(path).map_err(error::at(path))?;
        }
        Ok(())
    }

    fn write(&self, folder: &Path, rows: Option<&Path>) -> Result<()> {
        std::fs::create_dir(folder).map_err(error::at(folder))?;
        let tensors = self
            .parameters
            .iter()
            .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
            .collect();
        let parameters = folder.join(PARAMETERS);
        candle_core::safetensors::save(&tensors, &parameters).map_err(named(&parameters))?;
        let optimizer = folder.join(OPTIMIZER);
        self.optimizer.save(&optimizer)?;
        let mut checksums = BTreeMap::new();
        for path in [parameters, optimizer] {
            sync(&path)?;
            checksums.insert(file_name(&path), hash(&path)?);
        }
        if let Some(rows) = rows {
            checksums.insert(file_name(rows), hash(rows)?);
        }
        results::write_json(&folder.join(CHECKSUMS), &checksums)?;
        sync(folder)
    }

    /// Takes up the newest whole state in a folder; the number of steps it has, 0 without a state.
    /// A damaged one is named on standard error, and the one before it serves.
    ///
    /// # Errors
    /// States of other parameters, or none that is whole.
    pub fn resume(&mut self, folder: &Path) -> Result<usize> {
        let mut states = saved_steps(folder)?;
        states.sort();
        let mut damaged = None;
        while let Some((step, path)) = states.pop() {
            match whole(&path)? {
                None => {
                    self.take_up(&path)?;
                    return Ok(step);
                }
                Some(problem) => {
                    eprintln!(
                        "{}: {problem}; the state before it is taken up",
                        path.display()
                    );
                    damaged = Some((path, problem));
                }
            }
        }
        match damaged {
            None => Ok(0),
            Some((path, problem)) => Err(Error::RunDirectory {
                problem: format!(
                    "{problem}, and no earlier state is whole; delete {} to make this stage again",
                    folder.display()
                ),
                path,
            }),
        }
    }

    fn take_up(&mut self, path: &Path) -> Result<()> {
        let file = path.join(PARAMETERS);
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu).map_err(named(&file))?;
        for (name, var) in &self.parameters {
            let tensor = tensors.get(name).ok_or_else(|| Error::RunDirectory {
                path: file.clone(),
                problem: format!(
                    "'{name}' is missing; delete {} to make this stage again",
                    path.display()
                ),
            })?;
            var.set(&tensor.to_device(var.device())?)?;
        }
        let optimizer = path.join(OPTIMIZER);
        self.optimizer = self.optimizer.load(&optimizer, &self.parameters)?;
        Ok(())
    }
}

const PARAMETERS: &str = "parameters.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";

/// What is wrong with a state's files, if anything is.
fn whole(state: &Path) -> Result<Option<String>> {
    let list = state.join(CHECKSUMS);
    if !list.exists() {
        return Ok(Some(format!("{CHECKSUMS} is missing")));
    }
    let checksums: BTreeMap<String, String> = match results::read_json(&list) {
        Ok(checksums) => checksums,
        Err(error) => return Ok(Some(error.to_string())),
    };
    for name in [PARAMETERS, OPTIMIZER] {
        let path = state.join(name);
        if !path.exists() {
            return Ok(Some(format!("{name} is missing")));
        }
        let found = hash(&path)?;
        if checksums.get(name) != Some(&found) {
            return Ok(Some(format!(
                "{name} is damaged: its hash is not the one that was written"
            )));
        }
    }
    Ok(None)
}

/// Refuses rows, the first `keep` lines of a file, that are not those which were there when the state
/// after `step` steps was saved. States of earlier versions do not tell.
///
/// # Errors
/// Rows with another hash, and files that cannot be read.
pub(crate) fn check_rows(folder: &Path, step: usize, rows: &Path, keep: usize) -> Result<()> {
    let list = folder.join(format!("step-{step}")).join(CHECKSUMS);
    let checksums: BTreeMap<String, String> = results::read_json(&list)?;
    let Some(expected) = checksums.get(&file_name(rows)) else {
        return Ok(());
    };
    let bytes = std::fs::read(rows).map_err(error::at(rows))?;
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').take(keep);
    let mut hasher = blake3::Hasher::new();
    for line in lines {
        hasher.update(line);
    }
    match hasher.finalize().to_hex().as_str() == expected {
        true => Ok(()),
        false => Err(Error::RunDirectory {
            path: rows.to_owned(),
            problem: format!(
                "is damaged: its first {keep} lines are not those that were written; delete {} to make \
                 this stage again",
                folder.display()
            ),
        }),
    }
}

fn hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(error::at(path))?;
    hasher.update_reader(file).map_err(error::at(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// On the disk, so that what is deleted afterwards is not the last copy.
pub(crate) fn sync(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(error::at(path))?;
    file.sync_all().map_err(error::at(path))
}

fn named(path: &Path) -> impl FnOnce(candle_core::Error) -> Error + '_ {
    move |source| Error::RunDirectory {
        path: path.to_owned(),
        problem: source.to_string(),
    }
}

/// Saved states by step.
fn saved_steps(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(error::at(folder))? {
        let entry = entry.map_err(error::at(folder))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-"));
        if let Some(step) = step.and_then(|step| step.parse().ok()) {
            found.push((step, entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Var};

    fn trainer(value: f32) -> Trainer {
        let var = Var::ones(4, DType::F32, &Device::Cpu).unwrap();
        var.set(&(var.as_tensor() * f64::from(value)).unwrap())
            .unwrap();
        let options = AdamWOptions {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
        };
        Trainer::new(vec![("w".into(), var)], options, OptimizerPlace::Device).unwrap()
    }

    fn value(trainer: &Trainer) -> f32 {
        trainer.parameters[0].1.to_vec1::<f32>().unwrap()[0]
    }

    #[test]
    fn a_damaged_state_is_not_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        for (step, value) in [(1, 1.0), (2, 2.0), (3, 3.0)] {
            trainer(value).save(folder.path(), step, None).unwrap();
        }
        let mut resumed = trainer(0.0);
        assert_eq!(resumed.resume(folder.path()).unwrap(), 3);
        assert_eq!(value(&resumed), 3.0);
        // One bit of an exponent.
        let spoil = |step: usize, name: &str| {
            let file = folder.path().join(format!("step-{step}")).join(name);
            let mut bytes = std::fs::read(&file).unwrap();
            *bytes.last_mut().unwrap() ^= 0x40;
            std::fs::write(file, bytes).unwrap();
        };
        spoil(3, PARAMETERS);
        assert_eq!(resumed.resume(folder.path()).unwrap(), 2);
        assert_eq!(value(&resumed), 2.0);
        spoil(2, CHECKSUMS);
        let error = resumed.resume(folder.path()).unwrap_err().to_string();
        assert!(error.contains("delete"), "{error}");
    }
    #[test]
    fn rows_that_changed_since_a_state_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (states, rows) = (folder.path().join("state"), folder.path().join("rows"));
        std::fs::write(&rows, "1\n2\n").unwrap();
        trainer(1.0).save(&states, 2, Some(&rows)).unwrap();
        // What came after the state is cut.
        for (text, named) in [("1\n2\n3\n", false), ("1\n3\n", true), ("1\n", true)] {
            std::fs::write(&rows, text).unwrap();
            let checked = check_rows(&states, 2, &rows, 2);
            assert_eq!(checked.is_err(), named, "{text}");
        }
        trainer(1.0).save(&states, 3, None).unwrap();
        check_rows(&states, 3, &rows, 3).unwrap();
    }
}
