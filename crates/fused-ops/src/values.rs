//! Between candle's tensors and plain memory.

use std::sync::OnceLock;

use candle_core::{CpuStorage, DType, Layout, Storage, StorageRef, Tensor};

use crate::error;
use crate::kernels::instruction_set::{InstructionSet, choice};

/// The environment variable that keeps the fused kernels from being used.
const COMPOSED_ONLY: &str = "FUSED_OPS_COMPOSED";

/// The environment variable that has attention run by the kernels of [`crate::cuda`] on a card.
#[cfg(feature = "cuda")]
const CUDA_KERNELS: &str = "FUSED_OPS_CUDA_KERNELS";

/// Whether the fused kernels take these tensors: f32 on the CPU, none empty, and not forbidden by
/// `FUSED_OPS_COMPOSED`.
///
/// # Errors
/// When they would, and an environment variable was refused.
pub(crate) fn fusible(tensors: &[&Tensor]) -> error::Result<bool> {
    let fusible = tensors.iter().all(|tensor| {
        tensor.dtype() == DType::F32 && tensor.device().is_cpu() && tensor.elem_count() > 0
    });
    if fusible {
        instruction_set()?;
    }
    Ok(fusible && !composed_only()?)
}

/// Whether every operator is composed of candle's own even where a fused kernel exists: with the
/// environment variable `FUSED_OPS_COMPOSED` at `1`. That is how other devices run; their results
/// are checked so on the CPU. They agree with the fused kernels up to rounding.
///
/// # Errors
/// When the variable is neither `1` nor `0` nor empty. Every operator then refuses its input with
/// the same message.
pub fn composed_only() -> error::Result<bool> {
    static CHOICE: OnceLock<Result<bool, String>> = OnceLock::new();
    let meaning = "1 composes every operator of candle's own, 0 or nothing takes the fused kernels";
    switch(&CHOICE, COMPOSED_ONLY, meaning)
}

/// Whether attention on a card runs by the kernels of [`crate::cuda`] where they take its input: with
/// the environment variable `FUSED_OPS_CUDA_KERNELS` at `1`. They agree with the blockwise operator,
/// which runs otherwise, up to rounding.
///
/// # Errors
/// When the variable is neither `1` nor `0` nor empty. Every attention on a card then refuses its
/// input with the same message.
#[cfg(feature = "cuda")]
pub fn cuda_kernels() -> error::Result<bool> {
    static CHOICE: OnceLock<Result<bool, String>> = OnceLock::new();
    let meaning = "1 takes this crate's kernels for attention, 0 or nothing candle's operators";
    switch(&CHOICE, CUDA_KERNELS, meaning)
}

/// An environment variable that is on or off, read once.
fn switch(
    choice: &OnceLock<Result<bool, String>>,
    variable: &str,
    meaning: &str,
) -> error::Result<bool> {
    let choice = choice.get_or_init(|| {
        let wanted = std::env::var_os(variable).unwrap_or_default();
        parse_switch(variable, &wanted.to_string_lossy(), meaning)
    });
    choice
        .as_ref()
        .copied()
        .map_err(|reason| error::Error::Environment(reason.clone()))
}

fn parse_switch(variable: &str, wanted: &str, meaning: &str) -> Result<bool, String> {
    match wanted {
        "" | "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(format!(
            "the environment variable {variable} is `{wanted}`; {meaning}"
        )),
    }
}

/// The instruction set that the fused kernels use here: the widest that the processor has, or the
/// one that the environment variable `FUSED_OPS_SIMD` names (`avx512`, `avx2` or `portable`).
/// Results are the same bits on all of them.
///
/// # Errors
/// When the variable is none of these names, or names a set that the processor lacks. Every
/// operator then refuses its input with the same message.
pub fn instruction_set() -> error::Result<InstructionSet> {
    choice().map_err(|reason| error::Error::Environment(reason.to_owned()))
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
    pub(crate) fn slice(&self) -> candle_core::Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout),
            _ => candle_core::bail!("a fused operator's tensor left the CPU"),
        }
    }
}

/// The values of a contiguous f32 storage.
pub(crate) fn slice<'a>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a fused operator needs contiguous values"),
    }
}

/// Several tensors as one of one dimension: an operator has three arguments at most.
pub(crate) fn flat(tensors: &[&Tensor]) -> candle_core::Result<Tensor> {
    let flat = tensors
        .iter()
        .map(|tensor| tensor.flatten_all())
        .collect::<candle_core::Result<Vec<_>>>()?;
    Tensor::cat(&flat, 0)
}

/// A tensor of `values` with the shape of `like`.
pub(crate) fn tensor(values: Vec<f32>, like: &Tensor) -> candle_core::Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_on_off_or_refused_with_what_is_accepted() {
        let parse = |wanted| parse_switch(COMPOSED_ONLY, wanted, "1 composes, 0 does not");
        assert_eq!(parse(""), Ok(false));
        assert_eq!(parse("0"), Ok(false));
        assert_eq!(parse("1"), Ok(true));
        let refused = parse("yes").unwrap_err();
        assert!(refused.contains("1 composes, 0 does not"), "{refused}");
        assert!(refused.contains("FUSED_OPS_COMPOSED is `yes`"), "{refused}");
    }
}
