//! Between candle's tensors and plain memory.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, StorageRef, Tensor};

use crate::error;
use crate::kernels::instruction_set::{InstructionSet, choice};

/// Whether the fused kernels take these tensors: f32 on the CPU, none empty.
///
/// # Errors
/// When they would, and the instruction set was refused.
pub(crate) fn fusible(tensors: &[&Tensor]) -> error::Result<bool> {
    let fusible = tensors.iter().all(|tensor| {
        tensor.dtype() == DType::F32 && tensor.device().is_cpu() && tensor.elem_count() > 0
    });
    if fusible {
        instruction_set()?;
    }
    Ok(fusible)
}

/// The instruction set that the fused kernels use here: the widest that the processor has, or the
/// one that the environment variable `FUSED_OPS_SIMD` names (`avx512`, `avx2` or `portable`).
/// Results are the same bits on all of them.
///
/// # Errors
/// When the variable is none of these names, or names a set that the processor lacks. Every
/// operator then refuses its input with the same message.
pub fn instruction_set() -> error::Result<InstructionSet> {
    choice().map_err(|reason| error::Error::InstructionSet(reason.to_owned()))
}

/// The values of a contiguous f32 tensor on the CPU, locked for reading.
pub(crate) struct Values<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Values<'a> {
    /// Locks the tensor's storage.
    pub(crate) fn of(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Values { storage, layout }
    }

    /// The values, in the order of the dimensions.
    pub(crate) fn slice(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout),
            _ => candle_core::bail!("a fused operator's tensor left the CPU"),
        }
    }
}

/// The values of a contiguous f32 storage.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a fused operator needs contiguous values"),
    }
}

/// A tensor of `values` with the shape of `like`.
pub(crate) fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}
