//! Between candle's tensors and plain memory.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, StorageRef, Tensor};

/// Whether the fused kernels take these tensors: f32 on the CPU, none empty.
pub(crate) fn fusible(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|tensor| {
        tensor.dtype() == DType::F32 && tensor.device().is_cpu() && tensor.elem_count() > 0
    })
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
