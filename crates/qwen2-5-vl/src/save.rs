//! Saving weights in the hub's layout, streamed: one tensor in memory at a time.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::{Unplaced, sync_folder, write_whole};
use crate::weights::{INDEX, SINGLE, weight_map};

/// A tensor that is made when it is written.
pub(crate) struct Lazy<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: DType,
    pub make: Box<dyn Fn() -> Result<Tensor> + 'a>,
}

impl Lazy<'_> {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size_in_bytes()
    }
}

/// Writes `config.json` and the weights into `dir`, which is made if need be: `model.safetensors`, or,
/// where they have more than `shard_bytes`, shards of at most that (a larger tensor has one of its own)
/// with `model.safetensors.index.json`. `tensors` ascend by name.
///
/// Every file is written beside its place, synced and renamed, `config.json` last. While shards replace
/// shards the folder has no index for a moment: a reader finds the old weights, none or the new ones,
/// never some of each.
pub(crate) fn save(
    dir: &Path,
    config: &Config,
    dtype: DType,
    tensors: &[Lazy<'_>],
    shard_bytes: usize,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let shards = shards(tensors, shard_bytes);
    let index = dir.join(INDEX);
    // A damaged index names nothing to remove.
    let old: Vec<String> = match index.is_file() {
        true => weight_map(&index).map_or_else(|_| Vec::new(), |map| map.into_values().collect()),
        false => Vec::new(),
    };
    let mut names = Vec::new();
    if let [tensors] = shards.as_slice() {
        write_tensors(dir, SINGLE, tensors)?
            .place()
            .map_err(Error::io(dir.join(SINGLE)))?;
        remove(dir, INDEX)?;
    } else {
        let count = shards.len();
        let name = |at: usize| format!("model-{:05}-of-{count:05}.safetensors", at + 1);
        let written = shards
            .iter()
            .enumerate()
            .map(|(at, tensors)| write_tensors(dir, &name(at), tensors))
            .collect::<Result<Vec<_>>>()?;
        remove(dir, INDEX)?;
        for (at, shard) in written.into_iter().enumerate() {
            shard.place().map_err(Error::io(dir.join(name(at))))?;
            names.push(name(at));
        }
        let map: BTreeMap<&str, String> = shards
            .iter()
            .enumerate()
            .flat_map(|(at, tensors)| tensors.iter().map(move |t| (t.name.as_str(), name(at))))
            .collect();
        let total: usize = tensors.iter().map(Lazy::bytes).sum();
        let text = json!({ "metadata": { "total_size": total }, "weight_map": map });
        write_json(dir, INDEX, &text)?;
        remove(dir, SINGLE)?;
    }
    for shard in old {
        let plain = Path::new(&shard)
            .file_name()
            .is_some_and(|name| name == shard.as_str());
        if plain && !names.contains(&shard) && shard != SINGLE {
            remove(dir, &shard)?;
        }
    }
    let name = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        DType::F64 => "float64",
        _ => "float32",
    };
    write_json(dir, "config.json", &config.to_json(name))
}

/// Writes a JSON file whole.
pub(crate) fn write_json(dir: &Path, name: &str, value: &serde_json::Value) -> Result<()> {
    let text = format!("{value:#}\n");
    write_whole(dir, name, |file| file.write_all(text.as_bytes()))
        .map_err(Error::io(dir.join(name)))
}

fn remove(dir: &Path, name: &str) -> Result<()> {
    let path = dir.join(name);
    match std::fs::remove_file(&path) {
        Ok(()) => sync_folder(dir).map_err(Error::io(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// Tensors in order, cut where the next one would exceed the size.
fn shards<'a, 'b>(tensors: &'b [Lazy<'a>], shard_bytes: usize) -> Vec<&'b [Lazy<'a>]> {
    let (mut shards, mut start, mut size) = (Vec::new(), 0, 0usize);
    for (at, tensor) in tensors.iter().enumerate() {
        if at > start && size.saturating_add(tensor.bytes()) > shard_bytes {
            shards.push(&tensors[start..at]);
            (start, size) = (at, 0);
        }
        size = size.saturating_add(tensor.bytes());
    }
    shards.push(&tensors[start..]);
    shards
}

/// Writes tensors of one type, ascending by name, as a safetensors file that is not in its place yet.
pub(crate) fn write_tensors(dir: &Path, name: &str, tensors: &[Lazy<'_>]) -> Result<Unplaced> {
    let path = dir.join(name);
    let header = header(tensors)
        .map_err(|reason| Error::checkpoint(&path, format!("cannot be written: {reason}")))?;
    // A tensor that cannot be made is an error of its own, not one of the file.
    let mut not_made = None;
    let written = Unplaced::write(dir, name, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for tensor in tensors {
            match (tensor.make)().and_then(|made| Ok(little_endian(&made)?)) {
                Ok(bytes) => file.write_all(&bytes)?,
                Err(error) => {
                    not_made = Some(error);
                    return Err(io::Error::other("a tensor could not be made"));
                }
            }
        }
        Ok(())
    });
    match not_made {
        Some(error) => Err(error),
        None => written.map_err(Error::io(&path)),
    }
}

/// The header of a safetensors file, padded to eight bytes.
fn header(tensors: &[Lazy<'_>]) -> std::result::Result<Vec<u8>, String> {
    let mut offset = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let dtype = match tensor.dtype {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::F64 => Dtype::F64,
            other => return Err(format!("{} has type {other:?}", tensor.name)),
        };
        let end = offset + tensor.bytes();
        infos.push((
            tensor.name.clone(),
            TensorInfo {
                dtype,
                shape: tensor.shape.clone(),
                data_offsets: (offset, end),
            },
        ));
        offset = end;
    }
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|error| error.to_string())?;
    let mut text = serde_json::to_vec(&metadata).map_err(|error| error.to_string())?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}

/// A tensor's values, little-endian.
fn little_endian(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
    let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    Ok(match flat.dtype() {
        DType::F32 => bytes_of(flat.to_vec1::<f32>()?, f32::to_le_bytes),
        DType::F64 => bytes_of(flat.to_vec1::<f64>()?, f64::to_le_bytes),
        DType::F16 => bytes_of(flat.to_vec1::<half::f16>()?, half::f16::to_le_bytes),
        _ => bytes_of(flat.to_vec1::<half::bf16>()?, half::bf16::to_le_bytes),
    })
}

fn bytes_of<T, const N: usize>(values: Vec<T>, bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.into_iter().flat_map(bytes).collect()
}
