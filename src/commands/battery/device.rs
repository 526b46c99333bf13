//! Check 1: the device opens, allocates and multiplies.

use candle_core::{DType, Device, Tensor};

use super::Compared;

/// A matrix product whose result is known, and a copy there and back.
pub fn check(device: &Device, short: bool) -> anyhow::Result<Vec<Compared>> {
    let side = if short { 256 } else { 8192 };
    let ones = Tensor::ones((side, side), DType::F32, device)?;
    let product = fused_ops::matmul(&ones, &ones)?;
    let found: f32 = (product / side as f64)?
        .affine(1.0, -1.0)?
        .abs()?
        .max_all()?
        .to_scalar()?;
    let values: Vec<f32> = (0..side as u32).map(|value| value as f32).collect();
    let there = Tensor::new(values.as_slice(), device)?.affine(2.0, 0.0)?;
    let back: Vec<f32> = there.to_vec1()?;
    let differing = values.iter().zip(&back).filter(|(a, b)| **a * 2.0 != **b);
    Ok(vec![
        Compared {
            name: format!("a product of {side} x {side} ones"),
            found: f64::from(found),
            allowed: 0.0,
        },
        Compared {
            name: "values there and back that differ".to_owned(),
            found: differing.count() as f64,
            allowed: 0.0,
        },
    ])
}
