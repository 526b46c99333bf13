//! AdamW with a state that can be saved.
//!
//! `θ ← (1 − η λ) θ`, `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`,
//! `θ ← θ − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`. Source: Loshchilov and Hutter 2019
//! (arXiv 1711.05101); operations in the order of `torch.optim.AdamW`, each parameter with a step
//! count t of its own. On f32 CPU parameters one multi-threaded pass updates parameter and moments in
//! place; elsewhere composed tensor operations do. Deviation: half-precision parameters keep an f32
//! master copy, because updates at small rates would be lost in their rounding. With
//! [`OptimizerPlace::Host`] moments and masters of a device's parameters are in the host's memory, where
//! the same pass updates them: 12 bytes a parameter less on the device, for two copies of the
//! parameters an update.

mod fused;
mod state;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gradients::Gradients;
use state::State;

/// The settings of [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWOptions {
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay of the weights by update, times the learning rate.
    pub weight_decay: f64,
}

/// Where moments and master copies are kept, and updates are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerPlace {
    /// On the parameters' own device.
    #[default]
    Device,
    /// In the host's memory, as f32; f64 parameters stay where they are.
    Host,
}

/// AdamW over named parameters, its state ordered by name.
#[derive(Clone, Debug)]
pub struct AdamW {
    options: AdamWOptions,
    place: OptimizerPlace,
    states: BTreeMap<String, State>,
}

/// The scalars of one update of one parameter.
#[derive(Clone, Copy)]
struct Coefficients {
    beta1: f64,
    beta2: f64,
    eps: f64,
    /// `1 − η λ`.
    shrink: f64,
    /// `η / (1 − β₁ᵗ)`.
    rate: f64,
    /// `√(1 − β₂ᵗ)`.
    correction: f64,
}

impl AdamW {
    /// An optimiser without state, which will be on the parameters' device.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(options: AdamWOptions) -> Result<Self> {
        let AdamWOptions {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = options;
        for (what, value) in [("beta1", beta1), ("beta2", beta2)] {
            if !(0.0..1.0).contains(&value) {
                let why = format!("{value} is not in [0, 1)");
                return Err(Error::Setting { what, why });
            }
        }
        for (what, value) in [("eps", eps), ("weight_decay", weight_decay)] {
            if !(value >= 0.0 && value.is_finite()) {
                let why = format!("{value} is not a finite non-negative number");
                return Err(Error::Setting { what, why });
            }
        }
        Ok(AdamW {
            options,
            place: OptimizerPlace::Device,
            states: BTreeMap::new(),
        })
    }

    /// The same without state, which will be at this place.
    pub fn placed(self, place: OptimizerPlace) -> Self {
        AdamW {
            place,
            states: BTreeMap::new(),
            ..self
        }
    }

    /// The settings.
    pub fn options(&self) -> &AdamWOptions {
        &self.options
    }

    /// One update in place. A parameter without a gradient is left alone, decay included, as in
    /// torch.
    ///
    /// # Errors
    /// A learning rate that is negative or not finite, or a gradient for a parameter that is not
    /// given or of another shape; nothing is changed then. Check gradients with
    /// [`crate::clip_grad_norm`] before: a non-finite gradient would spoil the state.
    pub fn step(
        &mut self,
        parameters: &[(String, Var)],
        gradients: &Gradients,
        learning_rate: f64,
    ) -> Result<()> {
        if !(learning_rate >= 0.0 && learning_rate.is_finite()) {
            return Err(Error::Setting {
                what: "learning_rate",
                why: format!("{learning_rate} is not a finite non-negative number"),
            });
        }
        let by_name: BTreeMap<&str, &Var> = parameters
            .iter()
            .map(|(name, var)| (name.as_str(), var))
            .collect();
        let mut updates = Vec::new();
        for (name, gradient) in gradients.iter() {
            let Some(&parameter) = by_name.get(name) else {
                let name = name.to_owned();
                return Err(Error::UnknownParameter { name });
            };
            if gradient.dims() != parameter.dims() {
                return Err(Error::Shape {
                    what: "the gradient",
                    name: name.to_owned(),
                    expected: parameter.dims().to_vec(),
                    found: gradient.dims().to_vec(),
                });
            }
            if let Some(state) = self.states.get(name) {
                state.check(name, parameter, self.place)?;
            }
            updates.push((name, parameter, gradient));
        }
        for (name, parameter, gradient) in updates {
            let state = match self.states.entry(name.to_owned()) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(State::new(parameter, self.place)?)
                }
            };
            state.step += 1;
            let coefficients = self.options.at(state.step, learning_rate);
            match &mut state.moments {
                state::Moments::Host {
                    first,
                    second,
                    copy: None,
                } => fused::update(parameter, gradient, first, second, coefficients)?,
                state::Moments::Host {
                    first,
                    second,
                    copy: Some(copy),
                } => {
                    let gradient = gradient.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                    let gradient = gradient.contiguous()?;
                    fused::update(&copy.values, &gradient, first, second, coefficients)?;
                    // Narrowed before it travels.
                    let value = copy.values.as_tensor().to_dtype(parameter.dtype())?;
                    parameter.set(&value.to_device(parameter.device())?)?;
                }
                state::Moments::Device {
                    first,
                    second,
                    master,
                } => composed(parameter, gradient, first, second, master, coefficients)?,
            }
        }
        Ok(())
    }
}

impl AdamWOptions {
    fn at(&self, step: u64, learning_rate: f64) -> Coefficients {
        let power = |beta: f64| libm::pow(beta, step as f64);
        Coefficients {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            shrink: 1.0 - learning_rate * self.weight_decay,
            rate: learning_rate / (1.0 - power(self.beta1)),
            correction: (1.0 - power(self.beta2)).sqrt(),
        }
    }
}

/// The update by tensor operations, on any device and dtype.
fn composed(
    parameter: &Var,
    gradient: &Tensor,
    first: &mut Tensor,
    second: &mut Tensor,
    master: &mut Option<Tensor>,
    c: Coefficients,
) -> Result<()> {
    let gradient = gradient.to_dtype(first.dtype())?;
    let gradient = gradient.to_device(first.device())?;
    let value = match master {
        Some(master) => master.clone(),
        None => parameter.as_tensor().detach(),
    };
    *first = (first.affine(c.beta1, 0.0)? + gradient.affine(1.0 - c.beta1, 0.0)?)?;
    *second = (second.affine(c.beta2, 0.0)? + gradient.sqr()?.affine(1.0 - c.beta2, 0.0)?)?;
    let root = second.sqrt()?.affine(1.0 / c.correction, c.eps)?;
    let change = first.div(&root)?.affine(c.rate, 0.0)?;
    let value = (value.affine(c.shrink, 0.0)? - change)?;
    parameter.set(&value.to_dtype(parameter.dtype())?)?;
    if master.is_some() {
        *master = Some(value);
    }
    Ok(())
}

/// Whether a parameter is updated through an f32 copy of itself.
fn needs_master(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}
