//! Image preprocessing: sizes, grids, resized pixels and patches, on both paths.

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use qwen2_5_vl::{
    Backend, ImageProcessor, ImageSettings, read_image, resize_bicubic, smart_resize,
};
use serde_json::{Value, json};

use super::checks::{Checks, to_i64};
use super::folder::{Folder, IMAGE_INDEX as INDEX, Tensors, count_of};

pub fn run(folder: &Folder, checks: &mut Checks<'_>) -> Result<()> {
    let Some(index) = folder.json_if_any(INDEX)? else {
        return Ok(());
    };
    checks.case(INDEX, |checks| sizes(&index, checks))?;
    for stem in folder.names("images", ".safetensors")? {
        let file = format!("images/{stem}.safetensors");
        checks.case(&file, |checks| {
            let tensors = folder.tensors(&file)?;
            if checks.wants_any(&file, tensors.keys()) {
                file_of(folder, &index, &stem, &tensors, checks)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The table of `smart_resize`: height, width, min_pixels, max_pixels, and the two results.
fn sizes(index: &Value, checks: &mut Checks<'_>) -> Result<()> {
    let Some(rows) = index["smart_resize"]["rows"].as_array() else {
        return Ok(());
    };
    let factor = settings(index, &json!({}), Backend::default())?.factor();
    let (mut reference, mut ours) = (Vec::new(), Vec::new());
    for row in rows {
        let row = serde_json::from_value::<[i64; 6]>(row.clone())?;
        let [height, width, min, max] = [row[0], row[1], row[2], row[3]].map(|v| v.max(0) as usize);
        let size = smart_resize(height, width, factor, min, max);
        let (h, w) = size.map_or((-1, -1), |(h, w)| (h as i64, w as i64));
        ours.push([row[0], row[1], row[2], row[3], h, w]);
        reference.push(row);
    }
    checks.exact_list(INDEX, "smart_resize", &reference, &ours)
}

fn file_of(
    folder: &Folder,
    index: &Value,
    stem: &str,
    tensors: &Tensors,
    checks: &mut Checks<'_>,
) -> Result<()> {
    let (setting, backend) = stem
        .rsplit_once('.')
        .with_context(|| format!("{} is not named SETTING.BACKEND", tensors.file))?;
    let backend = match backend {
        "torchvision" => Backend::Torchvision,
        "pil" => Backend::Pil,
        other => bail!("{} is of the unknown backend {other}", tensors.file),
    };
    let limits = &index["settings"][setting];
    let processor =
        ImageProcessor::new(settings(index, limits, backend)?).map_err(anyhow::Error::msg)?;
    for (key, reference) in tensors.under("") {
        if !checks.wants(&tensors.file, key) {
            continue;
        }
        let (image, output) = key
            .split_once(".out.")
            .with_context(|| format!("{key} is not named IMAGE.out.WHAT"))?;
        let path = index["images"][image]["file"]
            .as_str()
            .with_context(|| format!("{INDEX} names no file of the image {image}"))?;
        let pixels = read_image(&folder.path(&format!("images/{path}")))?;
        let (h, w) = (pixels.height() as usize, pixels.width() as usize);
        let resized = |backend| -> Result<Tensor> {
            let (out_h, out_w) = processor.target_size(h, w)?;
            let bytes = resize_bicubic(pixels.as_raw(), (h, w), (out_h, out_w), backend);
            Ok(Tensor::from_vec(
                bytes,
                (out_h, out_w, 3),
                reference.device(),
            )?)
        };
        match output {
            "image_grid_thw" => {
                let grid = processor.grid(h, w)?;
                let ours = [grid.t, grid.h, grid.w].map(|v| v as i64);
                checks.exact_list(&tensors.file, key, &to_i64(reference)?, &ours)?;
            }
            "resized_u8_hwc" => {
                checks.tensor(&tensors.file, key, reference, &resized(backend)?, None)?;
            }
            "resized_u8_hwc_pillow12" => {
                let ours = resized(Backend::Pillow12)?;
                checks.tensor(&tensors.file, key, reference, &ours, None)?;
            }
            "pixel_values" => {
                let (ours, _) = processor.process(&[&pixels])?;
                checks.tensor(&tensors.file, key, reference, &ours, None)?;
            }
            other => bail!("{} has the unknown output {other}", tensors.file),
        }
    }
    Ok(())
}

/// The folder's constants with one setting's pixel limits.
fn settings(index: &Value, limits: &Value, backend: Backend) -> Result<ImageSettings> {
    let mut merged = index["constants"].clone();
    let Some(object) = merged.as_object_mut() else {
        bail!("{INDEX} has no constants");
    };
    // Here `resample` is written in words; both paths are bicubic.
    object.remove("resample");
    for limit in ["min_pixels", "max_pixels"] {
        if !limits[limit].is_null() {
            object.insert(limit.to_owned(), count_of(&limits[limit])?.into());
        }
    }
    let settings = ImageSettings::from_json(&merged).map_err(anyhow::Error::msg)?;
    Ok(ImageSettings {
        backend,
        ..settings
    })
}
