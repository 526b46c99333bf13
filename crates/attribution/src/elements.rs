//! Tensors as plain numbers.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// A tensor's elements in row-major order, widened.
pub(crate) fn host(tensor: &Tensor) -> Result<Vec<f64>> {
    let flat = tensor.flatten_all()?.to_device(&Device::Cpu)?;
    Ok(flat.to_dtype(DType::F64)?.to_vec1::<f64>()?)
}

/// The values of a function at several points, `(points)`.
pub(crate) fn vector(values: &Tensor, points: usize) -> Result<Vec<f64>> {
    if values.dims() != [points] {
        return Err(Error::Shape {
            what: "the function's result",
            expected: format!("({points}), one value per matrix"),
            found: values.dims().to_vec(),
        });
    }
    host(values)
}
