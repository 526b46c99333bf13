//! Loading checkpoints in the hub's layout: `config.json` with `model.safetensors`, or with its shards
//! and `model.safetensors.index.json`.
//!
//! Two name schemes are read: that of the released files (`model.layers.…`, `visual.…`) and that of
//! transformers' modules (`model.language_model.layers.…`, `model.visual.…`). The first is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::parameters::{Parameters, shapes};
use crate::weights::{WeightFile, weight_files};

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// The name on disk of a tensor of either scheme.
pub(crate) fn canonical(name: &str) -> String {
    for (theirs, ours) in [
        ("model.language_model.", "model."),
        ("model.visual.", "visual."),
    ] {
        if let Some(rest) = name.strip_prefix(theirs) {
            return format!("{ours}{rest}");
        }
    }
    name.to_string()
}

/// Reads every parameter of `config` from the folder's weight files, as `dtype` on `device`, one tensor
/// at a time.
///
/// Fails with the names of all tensors that are missing, unexpected, of another shape or not finite, or
/// with one cause where all faults have the same.
pub(crate) fn load(
    dir: &Path,
    config: &Config,
    device: &Device,
    dtype: DType,
) -> Result<Parameters> {
    let mut files = weight_files(dir)?
        .iter()
        .map(|path| WeightFile::open(path))
        .collect::<Result<Vec<_>>>()?;
    let names: Vec<&str> = files
        .iter()
        .flat_map(|file| &file.tensors)
        .map(|(name, _)| name.as_str())
        .collect();
    // Before anything is made that grows with the configuration.
    check_layers(dir, config, &names)?;
    let expected = shapes(config);
    if let Some(cause) = one_cause(&names, &expected) {
        return Err(Error::checkpoint(dir, cause));
    }
    let mut loading = Loading {
        tied: config.tie_word_embeddings,
        expected: &expected,
        device,
        dtype,
        tied_head: None,
        parameters: Parameters::default(),
        faults: Vec::new(),
    };
    for file in &mut files {
        loading.read(file)?;
    }
    loading.finish(dir)
}

/// Compares the numbers of layers with what the weights hold.
fn check_layers(dir: &Path, config: &Config, names: &[&str]) -> Result<()> {
    let (text, vision) = (config.text.num_hidden_layers, config.vision.depth);
    for (key, expected, prefix) in [
        ("num_hidden_layers", text, "model.layers."),
        ("vision_config.depth", vision, "visual.blocks."),
    ] {
        let held: BTreeSet<usize> = names
            .iter()
            .filter_map(|name| {
                canonical(name)
                    .strip_prefix(prefix)?
                    .split('.')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        let whole = held.iter().copied().eq(0..held.len());
        // Weights without any are of another model or wrapped, which is said below.
        let differ = expected > held.len() || whole && expected < held.len();
        if differ && (!held.is_empty() || expected > names.len()) {
            return Err(Error::checkpoint(
                dir,
                format!(
                    "config.json has {key} = {expected}, but the weights hold {} such layers: is \
                     config.json of this checkpoint, and are all its shards here?",
                    held.len()
                ),
            ));
        }
    }
    Ok(())
}

/// The one thing that is wrong with all names: they are wrapped, or those of quantised weights.
fn one_cause(names: &[&str], expected: &BTreeMap<String, Vec<usize>>) -> Option<String> {
    let known = |name: &str| expected.contains_key(&canonical(name)) || name == HEAD;
    let is_buffer = |name: &&&str| name.ends_with(".inv_freq");
    let strange: Vec<&str> = names
        .iter()
        .filter(|name| !known(name) && !is_buffer(name))
        .copied()
        .collect();
    let first = *strange.first()?;
    const QUANTISED: [&str; 9] = [
        ".qweight",
        ".qzeros",
        ".scales",
        ".weight_scale",
        ".weight_packed",
        ".weight_scale_inv",
        ".absmax",
        ".quant_map",
        ".SCB",
    ];
    if let Some(name) = strange
        .iter()
        .find(|name| QUANTISED.iter().any(|end| name.ends_with(end)))
    {
        return Some(format!(
            "the weights are quantised ({name}), which is not read: use the checkpoint they were made \
             from"
        ));
    }
    if let Some(name) = strange.iter().find(|name| name.contains(".lora_")) {
        return Some(format!(
            "the weights hold adapters beside the model ({name}): save the model after PEFT's \
             merge_and_unload(), or the adapter alone with its save_pretrained()"
        ));
    }
    // What DataParallel, torch.compile, FSDP, checkpointing and PEFT put into names.
    const WRAPPERS: [&str; 6] = [
        "module",
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "base_layer",
        "base_model",
    ];
    let unwrapped = |name: &str| {
        let parts: Vec<&str> = name
            .split('.')
            .filter(|part| !WRAPPERS.contains(part))
            .collect();
        let joined = parts.join(".");
        // base_model.model.X is PEFT's name of X.
        let inner = joined.strip_prefix("model.").map(str::to_owned);
        known(&joined) || inner.is_some_and(|inner| known(&inner))
    };
    // Or any other prefix that all have.
    let prefix = first
        .match_indices('.')
        .map(|(dot, _)| first.split_at(dot + 1))
        .find(|(_, rest)| known(rest))
        .map(|(prefix, _)| prefix);
    let wrapped = |name: &&str| {
        unwrapped(name) || prefix.is_some_and(|p| name.strip_prefix(p).is_some_and(&known))
    };
    // Some names may be as they should be: a wrapper may stand around a part alone.
    if !strange.iter().all(wrapped) {
        return None;
    }
    let clean = names
        .iter()
        .filter(|name| expected.contains_key(&canonical(name)))
        .count();
    if clean + strange.len() < expected.len() {
        return None;
    }
    Some(format!(
        "{} of {} names are wrapped, as in {first}: the weights were saved through a wrapper \
         (DataParallel `module.`, torch.compile `_orig_mod.`, PEFT `base_model.model.`); save the model \
         inside it with save_pretrained, or take the wrapper out of the names",
        strange.len(),
        names.len()
    ))
}

struct Loading<'a> {
    tied: bool,
    expected: &'a BTreeMap<String, Vec<usize>>,
    device: &'a Device,
    dtype: DType,
    tied_head: Option<Tensor>,
    parameters: Parameters,
    faults: Vec<String>,
}

impl Loading<'_> {
    fn read(&mut self, file: &mut WeightFile) -> Result<()> {
        for index in 0..file.tensors.len() {
            let (found, info) = &file.tensors[index];
            // Buffers that old versions of transformers saved; they follow from the configuration.
            if found.ends_with("rotary_emb.inv_freq") || found.ends_with("rotary_pos_emb.inv_freq")
            {
                continue;
            }
            let name = canonical(found);
            let tied_head = self.tied && name == HEAD;
            match self.expected.get(&name) {
                None if tied_head => {}
                None => {
                    self.faults.push(format!("unexpected {found}"));
                    continue;
                }
                Some(shape) if *shape != info.shape => {
                    self.faults.push(format!(
                        "{found} has shape {:?}, expected {shape:?}",
                        info.shape
                    ));
                    continue;
                }
                Some(_) if self.parameters.get(&name).is_some() => {
                    self.faults.push(format!("{found} is there twice"));
                    continue;
                }
                Some(_) => {}
            }
            match file.read(index, self.dtype, self.device)? {
                Err(fault) => self.faults.push(fault),
                Ok(value) if tied_head => self.tied_head = Some(value),
                Ok(value) => self.parameters.insert(name, &value)?,
            }
        }
        Ok(())
    }

    fn finish(mut self, dir: &Path) -> Result<Parameters> {
        let faulty: BTreeSet<String> = self
            .faults
            .iter()
            .filter_map(|fault| fault.split(' ').next().map(canonical))
            .collect();
        for name in self.expected.keys() {
            if self.parameters.get(name).is_none() && !faulty.contains(name) {
                self.faults.push(if name == HEAD {
                    format!(
                        "config.json does not tie the output projection to the embedding \
                         (tie_word_embeddings), yet the weights have no {HEAD}: set \
                         tie_word_embeddings to true if the model shares them, else fetch the \
                         weights again"
                    )
                } else {
                    format!("missing {name}")
                });
            }
        }
        if let (Some(head), Some(embedding)) = (&self.tied_head, self.parameters.get(EMBEDDING))
            && !equal(head, &embedding.as_detached_tensor())?
        {
            self.faults.push(format!(
                "{HEAD} differs from {EMBEDDING} although config.json ties them \
                 (tie_word_embeddings): set it to false if the head was trained on its own, else \
                 remove {HEAD} from the weights"
            ));
        }
        let message = match self.faults.as_slice() {
            [] => return Ok(self.parameters),
            [fault] => fault.clone(),
            _ => {
                self.faults.sort();
                let shown = self.faults.len().min(LISTED);
                let more = match self.faults.len() - shown {
                    0 => String::new(),
                    more => format!("; and {more} more"),
                };
                format!(
                    "the weights do not fit config.json, {} faults: {}{more}",
                    self.faults.len(),
                    self.faults[..shown].join("; ")
                )
            }
        };
        Err(Error::checkpoint(dir, message))
    }
}

/// Faults that are told one by one.
const LISTED: usize = 12;

fn equal(a: &Tensor, b: &Tensor) -> Result<bool> {
    if a.dims() != b.dims() {
        return Ok(false);
    }
    let different = a.ne(b)?.to_dtype(DType::F32)?.sum_all()?;
    Ok(different.to_scalar::<f32>()? == 0.0)
}
