//! The weight files of a checkpoint's folder: `model.safetensors`, or shards with their index. Their
//! headers are read first, then one tensor at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{Error, Result};
use crate::files::{self, stand_in};

/// The one weight file of a model that is not sharded.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Says which tensor is in which shard.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// The weights of an adapter in PEFT's layout.
pub(crate) const ADAPTER: &str = "adapter_model.safetensors";
/// The settings of an adapter in PEFT's layout.
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";

/// No header of a real model comes near.
const LARGEST_HEADER: u64 = 100_000_000;

/// Whether a folder holds weights: `model.safetensors`, an index with all of its shards, or an adapter.
/// They are not opened.
pub fn has_weights(dir: &Path) -> bool {
    dir.join(ADAPTER).is_file() || weight_files(dir).is_ok()
}

/// The BLAKE3 hash, in hexadecimal, of a folder's weights.
///
/// For a single `model.safetensors` it is the hash of the file's bytes. For shards it is the hash of the
/// lines `NAME HASH` of all shards that the index names, in the order of their names. For an adapter in
/// PEFT's layout it is the hash of such lines for its two files, and of one for its base where that is a
/// folder, since an adapter without its base is no model. Files are streamed.
///
/// # Errors
/// When the folder has no weights or a file of them cannot be read.
pub fn weights_hash(dir: &Path) -> Result<String> {
    let single = dir.join(SINGLE);
    if single.is_file() {
        return file_hash(&single);
    }
    let mut lines = String::new();
    if dir.join(ADAPTER).is_file() {
        for name in [ADAPTER_CONFIG, ADAPTER] {
            lines += &format!("{name} {}\n", file_hash(&dir.join(name))?);
        }
        if let Some(base) = adapter_base(dir).ok().and_then(|(_, folder)| folder)
            && weight_files(&base).is_ok()
        {
            lines += &format!("base {}\n", weights_hash(&base)?);
        }
    } else {
        for path in weight_files(dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            lines += &format!("{name} {}\n", file_hash(&path)?);
        }
    }
    Ok(blake3::hash(lines.as_bytes()).to_hex().to_string())
}

fn file_hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(Error::io(path))?;
    hasher.update_reader(file).map_err(Error::io(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The name that an adapter's folder gives its base, and the base's folder where it is on this machine:
/// the name as a path, or as one beside the adapter's folder.
pub(crate) fn adapter_base(dir: &Path) -> Result<(String, Option<PathBuf>)> {
    let path = dir.join(ADAPTER_CONFIG);
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    let config = files::json(&bytes).map_err(|reason| Error::checkpoint(&path, reason))?;
    let name = config["base_model_name_or_path"].as_str().unwrap_or("");
    let name = name.trim().to_owned();
    if name.is_empty() {
        return Ok(("an unnamed model".to_string(), None));
    }
    let given = Path::new(&name);
    let beside = dir.parent().map(|parent| parent.join(given));
    let folder = [Some(given.to_owned()), Some(dir.join(given)), beside]
        .into_iter()
        .flatten()
        .find(|folder| folder.join("config.json").is_file());
    Ok((name, folder))
}

/// The weight files of a folder, in the order of their names, checked for presence.
pub(crate) fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join(SINGLE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = dir.join(INDEX);
    if !index.is_file() {
        let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
        let hint = if pickled.iter().any(|name| dir.join(name).is_file()) {
            "; its weights are a pickle (pytorch_model.bin), which is not read: save them with \
             transformers' save_pretrained(safe_serialization=True)"
        } else {
            "; is this a checkpoint folder?"
        };
        let message = format!("holds neither {SINGLE} nor {INDEX}{hint}");
        return Err(Error::checkpoint(dir, message));
    }
    let mut shards: BTreeMap<String, usize> = BTreeMap::new();
    for shard in weight_map(&index)?.into_values() {
        *shards.entry(shard).or_default() += 1;
    }
    let mut found = Vec::new();
    for (shard, tensors) in shards {
        let plain = Path::new(&shard).file_name();
        if plain.is_none_or(|name| name != shard.as_str()) {
            let message = format!("names {shard:?}, which is not a plain file name");
            return Err(Error::checkpoint(&index, message));
        }
        let file = dir.join(&shard);
        if !file.is_file() {
            return Err(Error::checkpoint(
                dir,
                format!(
                    "shard {shard} is missing: {INDEX} puts {tensors} tensors there; fetch it again"
                ),
            ));
        }
        found.push(file);
    }
    Ok(found)
}

/// Which tensor an index puts into which shard.
pub(crate) fn weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = std::fs::read(index).map_err(Error::io(index))?;
    let at_fault = |reason: String| Error::checkpoint(index, reason);
    let value = files::json(&bytes).map_err(at_fault)?;
    let parsed: Index = serde_json::from_value(value)
        .map_err(|error| at_fault(format!("not a weight index: {error}")))?;
    if parsed.weight_map.is_empty() {
        return Err(at_fault(
            "not a weight index: it names no tensor; fetch it again".to_string(),
        ));
    }
    Ok(parsed.weight_map)
}

/// An open weight file whose header was read and fits its length.
pub(crate) struct WeightFile {
    pub path: PathBuf,
    file: File,
    /// Where the tensors' bytes begin.
    data: u64,
    /// Names, types, shapes and places, in the order of the places.
    pub tensors: Vec<(String, TensorInfo)>,
}

impl WeightFile {
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let damaged = |reason: &dyn std::fmt::Display| {
            Error::checkpoint(
                path,
                format!(
                    "not a whole safetensors file ({reason}); it has {length} bytes: damaged or cut \
                     short, fetch it again"
                ),
            )
        };
        let mut start = Vec::new();
        (&mut file)
            .take(1024)
            .read_to_end(&mut start)
            .map_err(Error::io(path))?;
        if let Some(reason) = stand_in(&start) {
            return Err(Error::checkpoint(path, reason));
        }
        let Some(&size) = start.first_chunk::<8>() else {
            return Err(damaged(&"no header"));
        };
        let size = u64::from_le_bytes(size);
        if size > LARGEST_HEADER || size > length - 8 {
            return Err(damaged(&format!("its header would have {size} bytes")));
        }
        let mut header = vec![0; size as usize];
        file.seek(SeekFrom::Start(8))
            .and_then(|_| file.read_exact(&mut header))
            .map_err(Error::io(path))?;
        // Reading checks that the tensors' places follow on each other and fit shape and type.
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| damaged(&error))?;
        let expected = (metadata.data_len() as u64).checked_add(8 + size);
        if expected != Some(length) {
            let whole = expected.map_or("overflow".to_string(), |bytes| bytes.to_string());
            return Err(damaged(&format!(
                "its header describes {whole} bytes in all"
            )));
        }
        let tensors = metadata
            .offset_keys()
            .into_iter()
            .filter_map(|name| metadata.info(&name).cloned().map(|info| (name, info)))
            .collect();
        Ok(WeightFile {
            path: path.to_owned(),
            file,
            data: 8 + size,
            tensors,
        })
    }

    /// A tensor as `dtype` on `device`; a sentence where it cannot be used.
    pub fn read(
        &mut self,
        index: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<std::result::Result<Tensor, String>> {
        let (name, info) = &self.tensors[index];
        let Some(stored) = float_type(info.dtype) else {
            return Ok(Err(format!(
                "{name} is stored as {:?}, expected F32, F16, BF16 or F64: quantised weights are not \
                 read, use the checkpoint they were made from",
                info.dtype
            )));
        };
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(Error::io(&self.path))?;
        if let Some(element) = first_not_finite(stored, &bytes) {
            return Ok(Err(format!(
                "{name} holds a value that is no finite number (element {element} of shape {:?}): \
                 damaged, or saved after training diverged",
                info.shape
            )));
        }
        let tensor = Tensor::from_raw_buffer(&bytes, stored, &info.shape, &Device::Cpu)?;
        drop(bytes);
        Ok(Ok(tensor.to_dtype(dtype)?.to_device(device)?))
    }
}

/// The types that weights may be stored in.
fn float_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F64 => Some(DType::F64),
        _ => None,
    }
}

/// The first of little-endian floating-point numbers whose exponent has all bits set.
fn first_not_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    match dtype {
        DType::F64 => first(bytes, |x: [u8; 8]| {
            u64::from_le_bytes(x) & 0x7ff0_0000_0000_0000 == 0x7ff0_0000_0000_0000
        }),
        DType::F32 => first(bytes, |x: [u8; 4]| {
            u32::from_le_bytes(x) & 0x7f80_0000 == 0x7f80_0000
        }),
        DType::BF16 => first(bytes, |x: [u8; 2]| u16::from_le_bytes(x) & 0x7f80 == 0x7f80),
        _ => first(bytes, |x: [u8; 2]| u16::from_le_bytes(x) & 0x7c00 == 0x7c00),
    }
}

fn first<const N: usize>(bytes: &[u8], is: impl Fn([u8; N]) -> bool + Sync) -> Option<usize> {
    const BLOCK: usize = 1 << 16;
    let (values, _) = bytes.as_chunks::<N>();
    // Without a branch in the inner loop, so that it runs as fast as memory does.
    let block = values
        .par_chunks(BLOCK)
        .position_first(|block| block.iter().fold(false, |found, &value| found | is(value)))?;
    let start = block * BLOCK;
    let within = values[start..].iter().position(|&value| is(value))?;
    Some(start + within)
}
