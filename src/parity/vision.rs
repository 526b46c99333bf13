//! The vision tower: window order, segments, rotary positions, every block, merged features.

use anyhow::{Result, bail};
use candle_core::Tensor;
use qwen2_5_vl::VisionTrace;

use super::checks::{Checks, to_i64};
use super::folder::{Folder, Loaded, Tensors};

pub fn run(folder: &Folder, loaded: &mut Loaded, checks: &mut Checks<'_>) -> Result<()> {
    let sub = format!("vision/{}", loaded.name);
    for name in folder.names(&sub, ".safetensors")? {
        let file = format!("{sub}/{name}.safetensors");
        checks.case(&file, |checks| {
            let tensors = folder.tensors(&file)?;
            if !checks.wants_any(&file, tensors.keys().filter(|key| key.starts_with("out."))) {
                return Ok(());
            }
            let images: Vec<String> = name.split('+').map(str::to_owned).collect();
            let grids = tensors.grids()?;
            let pixels = folder.pixel_values(&images, &grids)?;
            let trace = loaded.model()?.trace_images(&pixels, &grids)?;
            for (output, reference) in tensors.under("out.") {
                compare(&tensors, output, reference, &trace, checks)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn compare(
    tensors: &Tensors,
    output: &str,
    reference: &Tensor,
    trace: &VisionTrace,
    checks: &mut Checks<'_>,
) -> Result<()> {
    let key = format!("out.{output}");
    let layout = &trace.layout;
    let integers: Vec<i64> = match output {
        "window_index" => layout.window_index.iter().map(|&i| i64::from(i)).collect(),
        "cu_window_seqlens" => cumulated(&layout.window_lengths),
        "cu_seqlens" => cumulated(&layout.frame_lengths),
        "pos_ids_hw" => layout
            .positions
            .iter()
            .flatten()
            .map(|&i| i64::from(i))
            .collect(),
        "merged" => return checks.tensor(&tensors.file, &key, reference, &trace.merged, None),
        other => {
            let block = other
                .strip_prefix("block.")
                .and_then(|block| block.parse::<usize>().ok());
            let Some(ours) = block.and_then(|block| trace.blocks.get(block)) else {
                bail!("there is nothing to compare {key} with");
            };
            return checks.tensor(&tensors.file, &key, reference, ours, None);
        }
    };
    checks.exact_list(&tensors.file, &key, &to_i64(reference)?, &integers)
}

/// 0, then the sum of the first 1, 2, ... lengths.
fn cumulated(lengths: &[usize]) -> Vec<i64> {
    let mut sums = vec![0];
    let mut sum = 0;
    sums.extend(lengths.iter().map(|&length| {
        sum += length as i64;
        sum
    }));
    sums
}
