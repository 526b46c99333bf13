//! Where models live and how wide their weights are.

use std::str::FromStr;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The type of weights and activations. Log-probabilities, losses, advantages and the optimiser's
/// state are f32 or wider in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// 32 bits: what the fused CPU operators take, and what golden results are made with.
    #[default]
    F32,
    /// 16 bits with the exponent of f32, for CUDA; candle multiplies no such matrices on the CPU.
    Bf16,
    /// 16 bits with more mantissa and less range, as VTool-R1's second version trains.
    F16,
}

impl WeightType {
    /// candle's name for it.
    pub fn dtype(self) -> DType {
        match self {
            WeightType::F32 => DType::F32,
            WeightType::Bf16 => DType::BF16,
            WeightType::F16 => DType::F16,
        }
    }
}

impl FromStr for WeightType {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "f32" => Ok(WeightType::F32),
            "bf16" => Ok(WeightType::Bf16),
            "f16" => Ok(WeightType::F16),
            _ => Err(format!("'{name}': expected f32, bf16 or f16")),
        }
    }
}

/// A device by name: `cpu`, `cuda` (the first card), `cuda:1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    #[default]
    Cpu,
    /// A CUDA card by its number.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "cpu" => Ok(DeviceName::Cpu),
            "cuda" => Ok(DeviceName::Cuda(0)),
            _ => name
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(DeviceName::Cuda)
                .ok_or_else(|| format!("'{name}': expected cpu, cuda or cuda:N")),
        }
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// A device that is open, and the type of the weights on it.
#[derive(Clone, Debug)]
pub struct Compute {
    /// Where tensors live.
    pub device: Device,
    /// The type of weights and activations.
    pub dtype: DType,
}

impl Compute {
    /// f32 on the CPU.
    pub fn cpu() -> Self {
        Compute {
            device: Device::Cpu,
            dtype: DType::F32,
        }
    }

    /// Opens a device.
    ///
    /// # Errors
    /// A card that this build or machine does not have, and bf16 on the CPU.
    pub fn open(name: DeviceName, weights: WeightType) -> Result<Self> {
        let problem = |problem: String| Error::Device {
            device: name.to_string(),
            problem,
        };
        let device = match name {
            DeviceName::Cpu if weights == WeightType::Bf16 => {
                return Err(problem(
                    "candle multiplies no bf16 matrices there; take f32, or --device cuda".into(),
                ));
            }
            DeviceName::Cpu => Device::Cpu,
            DeviceName::Cuda(_) if !cfg!(feature = "cuda") => {
                return Err(problem(
                    "this build has no CUDA; build it with `cargo build --release --features cuda` \
                     (`iapo doctor` says what that needs)"
                        .into(),
                ));
            }
            DeviceName::Cuda(number) => {
                Device::new_cuda(number).map_err(|error| problem(error.to_string()))?
            }
        };
        Ok(Compute {
            device,
            dtype: weights.dtype(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["cpu", "cuda:0", "cuda:3"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1"] {
            assert!(name.parse::<DeviceName>().is_err(), "{name}");
        }
    }

    #[test]
    fn devices_that_are_not_there_say_what_to_do() {
        let bf16 = Compute::open(DeviceName::Cpu, WeightType::Bf16).unwrap_err();
        insta::assert_snapshot!(bf16);
        // With the feature, the driver's own words follow.
        if !cfg!(feature = "cuda") {
            let card = Compute::open(DeviceName::Cuda(1), WeightType::F32).unwrap_err();
            insta::assert_snapshot!(card);
        }
    }
}
