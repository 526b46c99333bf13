//! Checkpoints in the hub's layout: `config.json` with `model.safetensors`, or with its shards and
//! `model.safetensors.index.json`.
//!
//! Two name schemes are read: that of the released files (`model.layers.…`, `visual.…`) and that of
//! transformers' modules (`model.language_model.layers.…`, `model.visual.…`). The first is written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;

use crate::parameters::{Parameters, shapes};
use crate::{Config, Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The name on disk of a tensor of either scheme.
fn canonical(name: &str) -> String {
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

/// Reads every parameter of `config` from the folder's weight files, as `dtype` on `device`.
///
/// Fails with the names of all tensors that are missing, unexpected or of another shape.
pub(crate) fn load(
    dir: &Path,
    config: &Config,
    device: &Device,
    dtype: DType,
) -> Result<Parameters> {
    let expected = shapes(config);
    let mut loading = Loading {
        tied: config.tie_word_embeddings,
        expected: &expected,
        device,
        dtype,
        tied_head: None,
        parameters: Parameters::default(),
        faults: Vec::new(),
    };
    for file in weight_files(dir)? {
        loading.read(&file)?;
    }
    loading.finish(dir)
}

/// The weight files of a folder, checked for presence.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join(SINGLE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = dir.join(INDEX);
    if !index.is_file() {
        return Err(Error::checkpoint(
            dir,
            format!("holds neither {SINGLE} nor {INDEX}; is this a checkpoint folder?"),
        ));
    }
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(&index).map_err(Error::io(&index))?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|error| Error::checkpoint(&index, format!("not a weight index: {error}")))?;
    let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
    for shard in parsed.weight_map.values() {
        *shards.entry(shard).or_default() += 1;
    }
    let mut files = Vec::new();
    for (shard, tensors) in shards {
        if Path::new(shard)
            .file_name()
            .is_none_or(|name| name != shard)
        {
            return Err(Error::checkpoint(
                &index,
                format!("names {shard:?}, which is not a plain file name"),
            ));
        }
        let file = dir.join(shard);
        if !file.is_file() {
            return Err(Error::checkpoint(
                dir,
                format!(
                    "shard {shard} is missing: {INDEX} puts {tensors} tensors there; fetch it again"
                ),
            ));
        }
        files.push(file);
    }
    Ok(files)
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
    fn read(&mut self, file: &Path) -> Result<()> {
        let bytes = std::fs::read(file).map_err(Error::io(file))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| {
            Error::checkpoint(
                file,
                format!(
                    "not a whole safetensors file ({error}); it has {} bytes: damaged or cut short, \
                     fetch it again",
                    bytes.len()
                ),
            )
        })?;
        for (found, view) in tensors.iter() {
            // Buffers that old versions of transformers saved; they follow from the configuration.
            if found.ends_with("rotary_emb.inv_freq") || found.ends_with("rotary_pos_emb.inv_freq")
            {
                continue;
            }
            let name = canonical(found);
            let load = || -> Result<Tensor> { Ok(view.load(self.device)?.to_dtype(self.dtype)?) };
            let Some(shape) = self.expected.get(&name) else {
                if self.tied && name == "lm_head.weight" {
                    self.tied_head = Some(load()?);
                } else {
                    self.faults.push(format!("unexpected {found}"));
                }
                continue;
            };
            if shape != view.shape() {
                self.faults.push(format!(
                    "{found} has shape {:?}, expected {shape:?}",
                    view.shape()
                ));
            } else if self.parameters.get(&name).is_some() {
                self.faults.push(format!("{found} is there twice"));
            } else {
                let value = load()?;
                self.parameters.insert(name, &value)?;
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
                self.faults.push(format!("missing {name}"));
            }
        }
        if let (Some(head), Some(embedding)) = (
            &self.tied_head,
            self.parameters.get("model.embed_tokens.weight"),
        ) {
            let same = head.dims() == embedding.dims() && {
                let (a, b) = (
                    head.to_dtype(DType::F32)?,
                    embedding.as_detached_tensor().to_dtype(DType::F32)?,
                );
                a.ne(&b)?
                    .to_dtype(DType::F32)?
                    .sum_all()?
                    .to_scalar::<f32>()?
                    == 0.0
            };
            if !same {
                self.faults.push(
                    "lm_head.weight differs from model.embed_tokens.weight although config.json ties \
                     them (tie_word_embeddings)"
                        .to_string(),
                );
            }
        }
        if self.faults.is_empty() {
            return Ok(self.parameters);
        }
        self.faults.sort();
        Err(Error::checkpoint(
            dir,
            format!(
                "the weights do not fit config.json, {} faults: {}",
                self.faults.len(),
                self.faults.join("; ")
            ),
        ))
    }
}

/// Writes `config.json` and `model.safetensors` into `dir`, which is made if need be.
///
/// Each file is written beside its place and renamed, weights first: a reader finds the old file or
/// the whole new one.
pub(crate) fn save(
    dir: &Path,
    config: &Config,
    dtype: DType,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(|error| {
        Error::checkpoint(dir, format!("could not serialise the weights: {error}"))
    })?;
    write_atomically(dir, SINGLE, &bytes)?;
    let name = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        DType::F64 => "float64",
        _ => "float32",
    };
    let json = format!("{:#}\n", config.to_json(name));
    write_atomically(dir, "config.json", json.as_bytes())
}

fn write_atomically(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(|error| {
        // The failed write is what to report; what is left of it only takes room.
        let _ = std::fs::remove_file(&temporary);
        Error::io(&path)(error)
    })
}
