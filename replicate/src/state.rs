//! A training state on disk: weights and optimiser, whole or not at all.

use std::path::{Path, PathBuf};

use candle_core::{Device, Var};
use grpo::{AdamW, AdamWOptions};

use crate::{Error, Result, error};

/// Named variables with the optimiser that trains them.
pub struct Trainer {
    /// What is trained, in the order of the names.
    pub parameters: Vec<(String, Var)>,
    /// Its optimiser.
    pub optimizer: AdamW,
}

/// AdamW's usual settings with a given weight decay.
pub fn adamw(weight_decay: f64) -> AdamWOptions {
    AdamWOptions {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay,
    }
}

impl Trainer {
    /// A fresh optimiser over parameters.
    pub fn new(parameters: Vec<(String, Var)>, options: AdamWOptions) -> Result<Self> {
        Ok(Trainer {
            parameters,
            optimizer: AdamW::new(options)?,
        })
    }

    /// Writes parameters and optimiser as the state after `step` steps. The folder of the new state
    /// gets its name last and older ones go after that, so a kill leaves one whole state.
    pub fn save(&self, folder: &Path, step: usize) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(error::at(folder))?;
        let unfinished = folder.join("unfinished");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished).map_err(error::at(&unfinished))?;
        }
        std::fs::create_dir(&unfinished).map_err(error::at(&unfinished))?;
        let tensors = self
            .parameters
            .iter()
            .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
            .collect();
        candle_core::safetensors::save(&tensors, unfinished.join("parameters.safetensors"))?;
        self.optimizer
            .save(&unfinished.join("optimizer.safetensors"))?;
        let finished = folder.join(format!("step-{step}"));
        if finished.exists() {
            std::fs::remove_dir_all(&finished).map_err(error::at(&finished))?;
        }
        std::fs::rename(&unfinished, &finished).map_err(error::at(&finished))?;
        for (old, path) in saved_steps(folder)? {
            if old != step {
                std::fs::remove_dir_all(&path).map_err(error::at(&path))?;
            }
        }
        Ok(())
    }

    /// Takes up the newest state in a folder; the number of steps it has, 0 without a state.
    pub fn resume(&mut self, folder: &Path) -> Result<usize> {
        let Some((step, path)) = saved_steps(folder)?.into_iter().max() else {
            return Ok(0);
        };
        let file = path.join("parameters.safetensors");
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu)?;
        for (name, var) in &self.parameters {
            let tensor = tensors.get(name).ok_or_else(|| Error::RunDirectory {
                path: file.clone(),
                problem: format!(
                    "'{name}' is missing; delete {} to start anew",
                    path.display()
                ),
            })?;
            var.set(&tensor.to_device(var.device())?)?;
        }
        self.optimizer = AdamW::load(
            *self.optimizer.options(),
            &path.join("optimizer.safetensors"),
            &self.parameters,
        )?;
        Ok(step)
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
