//! Whether a folder holds what it should: every file of its manifest, unaltered, and to each index its
//! tensor files and the reverse.
//!
//! The other checks find their cases in the folder itself, so that a missing file would take its
//! checks with it and nobody would see them missing.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::checks::Checks;
use super::folder::{Folder, IMAGE_INDEX};
use super::{grads, grpo, ig, model};

const MANIFEST: &str = "manifest.json";

pub fn run(folder: &Folder, checks: &mut Checks<'_>) -> Result<()> {
    let listed = listed(folder)?.unwrap_or_default();
    for (file, entry) in &listed {
        if checks.wants(file, "manifest") {
            match difference(folder, file, entry) {
                None => checks.line(true, file, "manifest", "as listed")?,
                Some(found) => checks.line(false, file, "manifest", &found)?,
            }
        }
    }
    for (file, by) in companions(folder)? {
        // What the manifest lists has been reported above.
        let missing = !folder.exists(&file) && !listed.contains_key(&file);
        if missing && checks.wants(&file, "missing") {
            checks.line(false, &file, "missing", &format!("{by} needs it"))?;
        }
    }
    Ok(())
}

/// The groups of the layout of which the folder has nothing, and the manifest's list if there is none.
pub fn absent(folder: &Folder) -> Result<Vec<&'static str>> {
    let some =
        |sub: &str, suffix: &str| Ok::<_, anyhow::Error>(!folder.names(sub, suffix)?.is_empty());
    let cases = folder.names("", "_cases.json")?;
    let tokenizers = cases.iter().any(|name| name.starts_with("tokenizer_"));
    let groups = [
        ("checkpoints", !folder.checkpoints()?.is_empty()),
        ("images", some("images", ".safetensors")?),
        ("tokenizer cases", tokenizers),
        (
            "chat template cases",
            folder.exists("chat_template_cases.json"),
        ),
        ("vision", some("vision", "")?),
        ("model", some("model", "")?),
        ("grads", some("grads", "")?),
        ("ig", some("ig", ".safetensors")?),
        (
            "ig/blocks_synthetic.json",
            folder.exists("ig/blocks_synthetic.json"),
        ),
        ("grpo", some("grpo", "")?),
        (
            "a manifest.json that lists the files",
            matches!(listed(folder), Ok(Some(_))),
        ),
    ];
    let absent = groups.into_iter().filter(|(_, there)| !there);
    Ok(absent.map(|(name, _)| name).collect())
}

/// The manifest's files: an object of path to `{"bytes": …, "sha256": …}`, or to the hash. `None` without a manifest,
/// or with one that lists no files.
fn listed(folder: &Folder) -> Result<Option<Map<String, Value>>> {
    let Some(mut manifest) = folder.json_if_any(MANIFEST)? else {
        return Ok(None);
    };
    match manifest.get_mut("files").map(Value::take) {
        None => Ok(None),
        Some(Value::Object(files)) => Ok(Some(files)),
        Some(other) => bail!("{MANIFEST}: expected `files` to be an object, found {other}"),
    }
}

/// How a file differs from its entry in the manifest.
fn difference(folder: &Folder, file: &str, entry: &Value) -> Option<String> {
    if !folder.exists(file) {
        return Some(format!("{MANIFEST} lists it, but it is not in the folder"));
    }
    let bytes = match std::fs::read(folder.path(file)) {
        Ok(bytes) => bytes,
        Err(error) => return Some(format!("cannot be read: {error}")),
    };
    let size = bytes.len() as u64;
    if let Some(expected) = entry["bytes"].as_u64().filter(|&expected| expected != size) {
        return Some(format!("{MANIFEST} lists {expected} bytes, it has {size}"));
    }
    let expected = entry["sha256"].as_str().or(entry.as_str())?;
    let sha256 = Sha256::digest(&bytes);
    let sha256: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    (sha256 != expected).then(|| format!("{MANIFEST} lists sha256 {expected}, it has {sha256}"))
}

/// Files that other files of the folder need, and one that does.
fn companions(folder: &Folder) -> Result<BTreeMap<String, String>> {
    let mut needed = BTreeMap::new();
    let mut need = |file: String, by: &str| {
        needed.entry(file).or_insert_with(|| by.to_owned());
    };
    for (sub, index) in [
        ("images", IMAGE_INDEX),
        ("grads", grads::INDEX),
        ("ig", ig::INDEX),
        ("grpo", grpo::INDEX),
    ] {
        if let Some(stem) = folder.names(sub, ".safetensors")?.first() {
            need(index.to_owned(), &format!("{sub}/{stem}.safetensors"));
        }
    }
    // A case belongs to the checkpoint that its folder or its file is named after.
    for sub in ["vision", "model"] {
        for name in folder.names(sub, "")? {
            let cases = format!("{sub}/{name}");
            if let Some(stem) = folder.names(&cases, ".safetensors")?.first() {
                let by = format!("{cases}/{stem}.safetensors");
                need(config_of(&name), &by);
                if sub == "model" {
                    need(model::INDEX.to_owned(), &by);
                }
            }
        }
    }
    for sub in ["grads", "ig"] {
        for name in folder.names(sub, ".safetensors")? {
            need(config_of(&name), &format!("{sub}/{name}.safetensors"));
        }
    }
    let checkpoints = folder.checkpoints()?;
    for index in [
        IMAGE_INDEX,
        model::INDEX,
        grads::INDEX,
        ig::INDEX,
        grpo::INDEX,
    ] {
        // One that cannot be read fails in its own group's checks.
        let Ok(Some(listing)) = folder.json_if_any(index) else {
            continue;
        };
        for file in listed_by(index, &listing, &checkpoints) {
            need(file, index);
        }
    }
    Ok(needed)
}

/// The files that an index speaks of.
fn listed_by(index: &str, listing: &Value, checkpoints: &[String]) -> Vec<String> {
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let mut files = Vec::new();
    match index {
        IMAGE_INDEX => {
            for (setting, _) in fields(&listing["settings"]) {
                files.push(format!("images/{setting}.torchvision.safetensors"));
            }
            for (_, image) in fields(&listing["images"]) {
                files.extend(image["file"].as_str().map(|file| format!("images/{file}")));
            }
        }
        model::INDEX => {
            for (case, _) in fields(listing) {
                for checkpoint in checkpoints {
                    files.push(format!("model/{checkpoint}/{case}.safetensors"));
                }
            }
        }
        grads::INDEX => {
            for (checkpoint, _) in fields(listing) {
                files.push(format!("grads/{checkpoint}.safetensors"));
            }
        }
        ig::INDEX => {
            // Beside the checkpoints stand the settings that they share, and divergences.
            for (name, value) in fields(listing) {
                if value["results"].is_object() {
                    files.push(format!("ig/{name}.safetensors"));
                }
            }
        }
        _ => {
            if listing["advantages"].is_array() {
                files.push("grpo/advantages.safetensors".to_owned());
            }
            for case in listing["losses"].as_array().into_iter().flatten() {
                let data = case["data"].as_str();
                files.extend(data.map(|data| format!("grpo/{data}.safetensors")));
            }
        }
    }
    files
}

fn config_of(checkpoint: &str) -> String {
    format!("checkpoints/{checkpoint}/config.json")
}
