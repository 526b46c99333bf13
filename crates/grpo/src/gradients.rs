//! Gradients by name: collected over micro-batches, measured and bounded.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Storage, Tensor, Var};
use rayon::prelude::*;

use crate::error::{Error, Result, finite};

/// Elements whose squares are summed at a time; fixed, so that the sum does not depend on threads.
const CHUNK: usize = 16 * 1024;

/// Gradients of named parameters, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    tensors: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// No gradients yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the gradients of one backward pass. Half-precision gradients are summed in f32.
    ///
    /// A parameter that the loss does not depend on gets none; see [`Gradients::missing`].
    ///
    /// # Errors
    /// A gradient whose shape is not its parameter's.
    pub fn accumulate(&mut self, parameters: &[(String, Var)], store: &GradStore) -> Result<()> {
        for (name, parameter) in parameters {
            if let Some(gradient) = store.get(parameter) {
                self.add(name, parameter, gradient)?;
            }
        }
        Ok(())
    }

    /// Adds the gradient of one parameter.
    ///
    /// # Errors
    /// A gradient whose shape is not its parameter's.
    pub fn add(&mut self, name: &str, parameter: &Var, gradient: &Tensor) -> Result<()> {
        if gradient.dims() != parameter.dims() {
            return Err(Error::Shape {
                what: "the gradient",
                name: name.to_owned(),
                expected: parameter.dims().to_vec(),
                found: gradient.dims().to_vec(),
            });
        }
        let gradient = match gradient.dtype() {
            DType::F16 | DType::BF16 => gradient.to_dtype(DType::F32)?,
            _ => gradient.clone(),
        };
        let gradient = gradient.detach().contiguous()?;
        let sum = match self.tensors.get(name) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        self.tensors.insert(name.to_owned(), sum);
        Ok(())
    }

    /// Adds the gradients of another part of the batch.
    ///
    /// # Errors
    /// Gradients of one name with different shapes.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        for (name, gradient) in other.tensors {
            let sum = match self.tensors.get(&name) {
                Some(sum) => (sum + &gradient)?,
                None => gradient,
            };
            self.tensors.insert(name, sum);
        }
        Ok(())
    }

    /// The gradient of a parameter, contiguous.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All gradients in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Names of the parameters that have no gradient: frozen by design, or cut off by mistake.
    pub fn missing<'a>(&self, parameters: &'a [(String, Var)]) -> Vec<&'a str> {
        let names = parameters.iter().map(|(name, _)| name.as_str());
        names
            .filter(|name| !self.tensors.contains_key(*name))
            .collect()
    }

    /// The Euclidean norm over all gradients, in f64, the same for any number of threads.
    ///
    /// # Errors
    /// A gradient that is not finite, named.
    pub fn norm(&self) -> Result<f64> {
        let mut sum = 0f64;
        for (name, tensor) in &self.tensors {
            sum += finite(
                || format!("the squared norm of the gradient of `{name}`"),
                squared_norm(tensor)?,
            )?;
        }
        Ok(sum.sqrt())
    }
}

/// Scales all gradients so that their norm is at most `max_norm`; returns the norm before.
///
/// The factor is `max_norm / (norm + 1e-6)`, as `torch.nn.utils.clip_grad_norm_`. With `None` the
/// norm is measured only.
///
/// # Errors
/// A `max_norm` that is not positive, or a gradient that is not finite: such a step must not be
/// taken.
pub fn clip_grad_norm(gradients: &mut Gradients, max_norm: Option<f64>) -> Result<f64> {
    let norm = gradients.norm()?;
    let Some(max_norm) = max_norm else {
        return Ok(norm);
    };
    if max_norm.is_nan() || max_norm <= 0.0 {
        return Err(Error::Setting {
            what: "max_norm",
            why: format!("{max_norm} is not positive; 1.0 is usual"),
        });
    }
    let factor = max_norm / (norm + 1e-6);
    if factor < 1.0 {
        for tensor in gradients.tensors.values_mut() {
            *tensor = tensor.affine(factor, 0.0)?;
        }
    }
    Ok(norm)
}

fn squared_norm(tensor: &Tensor) -> Result<f64> {
    {
        let (storage, layout) = tensor.storage_and_layout();
        if let (Storage::Cpu(storage), DType::F32, Some((start, end))) =
            (&*storage, tensor.dtype(), layout.contiguous_offsets())
        {
            let values = &storage.as_slice::<f32>()?[start..end];
            let square =
                |chunk: &[f32]| -> f64 { chunk.iter().map(|&g| f64::from(g) * f64::from(g)).sum() };
            let parts: Vec<f64> = values.par_chunks(CHUNK).map(square).collect();
            return Ok(parts.into_iter().sum());
        }
    }
    let sum = tensor.sqr()?.sum_all()?.to_dtype(DType::F64)?;
    Ok(sum.to_scalar::<f64>()?)
}
