//! Adapters in the layout of the PEFT library: `adapter_config.json` with `adapter_model.safetensors`.
//!
//! A tensor of the projection X is `base_model.model.X.lora_A.weight` `(rank, in)` or `….lora_B.weight`
//! `(out, rank)`, X in either naming scheme of the base; written is that of transformers 5
//! (`model.language_model.layers.…`). Source: PEFT's `LoraConfig` and `get_peft_model_state_dict`
//! (0.18). Only plain LoRA is read, with PEFT's scaling `alpha / rank` or, with `use_rslora`,
//! `alpha / sqrt(rank)`; whatever else a file asks for is refused by its key.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use fancy_regex::Regex;
use serde_json::{Value, json};

use crate::checkpoint::canonical;
use crate::error::{Error, Result};
use crate::files;
use crate::lora::Lora;
use crate::parameters::Parameters;
use crate::save::{Lazy, write_json, write_tensors};
use crate::weights::{ADAPTER, ADAPTER_CONFIG, WeightFile, adapter_base, weight_files};

const PREFIX: &str = "base_model.model.";

/// The folder of the base of the adapter in `dir`; none where `dir` is no adapter's.
///
/// # Errors
/// When the base is not on this machine, and when the folder holds a whole model too.
pub(crate) fn base_of(dir: &Path) -> Result<Option<PathBuf>> {
    if !dir.join(ADAPTER_CONFIG).is_file() {
        return Ok(None);
    }
    if weight_files(dir).is_ok() {
        return Err(Error::checkpoint(
            dir,
            format!(
                "holds a whole model and an adapter ({ADAPTER_CONFIG}): move one of them away, so that \
                 it is clear which is meant"
            ),
        ));
    }
    let (name, folder) = adapter_base(dir)?;
    match folder {
        Some(base) if base.join(ADAPTER_CONFIG).is_file() => Err(Error::checkpoint(
            dir,
            format!("is an adapter of {name}, which is itself an adapter: merge that one first"),
        )),
        Some(base) => Ok(Some(base)),
        None => Err(Error::checkpoint(
            dir,
            format!(
                "is an adapter of {name}, which is not on this machine: download it and write its \
                 folder as base_model_name_or_path into {ADAPTER_CONFIG}, or merge the adapter into it \
                 with PEFT's merge_and_unload()"
            ),
        )),
    }
}

/// What `adapter_config.json` says of the adapters.
struct Settings {
    rank: usize,
    alpha: f64,
    rank_stabilised: bool,
    targets: Targets,
}

/// Which projections have adapters.
enum Targets {
    /// Ends of names.
    Names(Vec<String>),
    /// A regular expression for whole names.
    Pattern(Regex),
    /// Every projection but the output's.
    AllLinear,
}

impl Targets {
    /// Whether the projection of this canonical path is meant.
    fn contain(&self, path: &str) -> bool {
        let nested = nested(path);
        match self {
            Targets::AllLinear => path != "lm_head",
            Targets::Names(names) => names.iter().any(|name| {
                [path, &nested].iter().any(|path| {
                    path.strip_suffix(name.as_str())
                        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
                })
            }),
            Targets::Pattern(pattern) => [path, &nested].iter().any(|path| {
                // One that gives up on a name does not name it.
                pattern.is_match(path).unwrap_or(false)
            }),
        }
    }
}

/// The path of a projection in transformers 5.
fn nested(path: &str) -> String {
    if let Some(rest) = path.strip_prefix("model.") {
        format!("model.language_model.{rest}")
    } else if path.starts_with("visual.") {
        format!("model.{path}")
    } else {
        path.to_string()
    }
}

impl Settings {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(ADAPTER_CONFIG);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        files::json(&bytes)
            .and_then(|config| Self::of(&config))
            .map_err(|reason| Error::checkpoint(&path, reason))
    }

    fn of(config: &Value) -> std::result::Result<Self, String> {
        if !config.is_object() {
            return Err("expected a JSON object".to_string());
        }
        if config["peft_type"] != "LORA" {
            return Err(format!(
                "peft_type is {}, only \"LORA\" is read: merge the adapter with PEFT's \
                 merge_and_unload()",
                config["peft_type"]
            ));
        }
        // Each changes what the adapted model computes.
        const REFUSED: [&str; 17] = [
            "modules_to_save",
            "use_dora",
            "use_qalora",
            "use_bdlora",
            "fan_in_fan_out",
            "lora_bias",
            "rank_pattern",
            "alpha_pattern",
            "layer_replication",
            "megatron_config",
            "trainable_token_indices",
            "target_parameters",
            "alora_invocation_tokens",
            "arrow_config",
            "layers_pattern",
            "exclude_modules",
            "loftq_config",
        ];
        for key in REFUSED {
            let asked = match &config[key] {
                Value::Null | Value::Bool(false) => false,
                Value::Array(list) => !list.is_empty(),
                Value::Object(map) => !map.is_empty(),
                Value::String(text) => !text.is_empty(),
                _ => true,
            };
            if asked {
                return Err(format!(
                    "{key} is {}, which is not supported: merge the adapter with PEFT's \
                     merge_and_unload()",
                    config[key]
                ));
            }
        }
        if !matches!(&config["bias"], Value::Null) && config["bias"] != "none" {
            return Err(format!(
                "bias is {}, only \"none\" is supported",
                config["bias"]
            ));
        }
        if let Some(way) = config["init_lora_weights"].as_str()
            && ["pissa", "olora", "corda", "loftq"]
                .iter()
                .any(|changed| way.starts_with(changed))
        {
            return Err(format!(
                "init_lora_weights is {way:?}, which changes the base's weights too: convert the \
                 adapter to plain LoRA when saving it (PEFT's path_initial_model_for_weight_conversion)"
            ));
        }
        let rank = config["r"]
            .as_u64()
            .filter(|rank| (1..=65_536).contains(rank))
            .ok_or_else(|| format!("r is {}, expected 1 to 65536", config["r"]))?;
        let alpha = config["lora_alpha"]
            .as_f64()
            .filter(|alpha| *alpha > 0.0 && *alpha <= 1e9)
            .ok_or_else(|| {
                format!(
                    "lora_alpha is {}, expected a positive number",
                    config["lora_alpha"]
                )
            })?;
        let rank_stabilised = match &config["use_rslora"] {
            Value::Null => false,
            value => value
                .as_bool()
                .ok_or_else(|| format!("use_rslora is {value}, expected true or false"))?,
        };
        Ok(Settings {
            rank: rank as usize,
            alpha,
            rank_stabilised,
            targets: targets(&config["target_modules"])?,
        })
    }
}

fn targets(value: &Value) -> std::result::Result<Targets, String> {
    let expected = "expected a list of names, a regular expression or \"all-linear\"";
    match value {
        Value::String(all) if all == "all-linear" => Ok(Targets::AllLinear),
        Value::String(pattern) => Regex::new(&format!("^(?:{pattern})$"))
            .map(Targets::Pattern)
            .map_err(|error| format!("target_modules is no regular expression: {error}")),
        Value::Array(list) if !list.is_empty() => list
            .iter()
            .map(|name| {
                name.as_str()
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
            })
            .collect::<Option<Vec<_>>>()
            .map(Targets::Names)
            .ok_or_else(|| format!("target_modules is {value}, {expected}")),
        _ => Err(format!("target_modules is {value}, {expected}")),
    }
}

/// Reads the adapters in `dir` for a model of these parameters, as `dtype` on `device`.
///
/// # Errors
/// Names every tensor that is missing, unexpected, of another shape or not finite.
pub(crate) fn load(dir: &Path, base: &Parameters, device: &Device, dtype: DType) -> Result<Lora> {
    let settings = Settings::read(dir)?;
    let weights = dir.join(ADAPTER);
    if !weights.is_file() {
        let hint = match dir.join("adapter_model.bin").is_file() {
            true => {
                "; adapter_model.bin is a pickle, which is not read: save it again with PEFT's \
                     save_pretrained()"
            }
            false => "; fetch it again",
        };
        return Err(Error::checkpoint(dir, format!("has no {ADAPTER}{hint}")));
    }
    let mut file = WeightFile::open(&weights)?;
    let mut expected = BTreeSet::new();
    for (name, weight) in base.iter() {
        if let Some(path) = name.strip_suffix(".weight")
            && weight.rank() == 2
            && name != "model.embed_tokens.weight"
            && settings.targets.contain(path)
        {
            expected.insert(path.to_string());
        }
    }
    let mut faults = Vec::new();
    let mut parameters = Parameters::default();
    for index in 0..file.tensors.len() {
        let (found, info) = &file.tensors[index];
        // A state that was saved around PEFT's own function has the adapter's name in its names.
        let name = canonical(found.strip_prefix(PREFIX).unwrap_or(found))
            .replace(".lora_A.default.", ".lora_A.")
            .replace(".lora_B.default.", ".lora_B.");
        let down = name.strip_suffix(".lora_A.weight").map(|path| (path, true));
        let up = name
            .strip_suffix(".lora_B.weight")
            .map(|path| (path, false));
        let weight = down.or(up).and_then(|(path, down)| {
            let weight = base.get(&format!("{path}.weight"))?;
            let (output, input) = weight.dims2().ok()?;
            let rank = settings.rank;
            Some(if down { [rank, input] } else { [output, rank] })
        });
        let Some(shape) = weight else {
            faults.push(format!("unexpected {found}"));
            continue;
        };
        if info.shape != shape {
            faults.push(format!(
                "{found} has shape {:?}, expected {shape:?}",
                info.shape
            ));
        } else if parameters.get(&name).is_some() {
            faults.push(format!("{found} is there twice"));
        } else {
            match file.read(index, dtype, device)? {
                Ok(value) => parameters.insert(name, &value)?,
                Err(fault) => faults.push(fault),
            }
        }
    }
    let held = parameters
        .iter()
        .filter_map(|(name, _)| name.rsplit_once(".lora_").map(|(path, _)| path.to_string()));
    for path in expected
        .iter()
        .cloned()
        .chain(held)
        .collect::<BTreeSet<_>>()
    {
        if !expected.contains(&path) {
            faults.push(format!(
                "{path} has an adapter, but target_modules do not name it"
            ));
            continue;
        }
        for part in ["lora_A", "lora_B"] {
            let name = format!("{path}.{part}.weight");
            if parameters.get(&name).is_none() && faults.is_empty() {
                faults.push(format!("missing {PREFIX}{name}"));
            }
        }
    }
    if expected.is_empty() {
        faults.push("target_modules name no projection of the base".to_string());
    }
    if faults.is_empty() {
        return Ok(Lora {
            rank: settings.rank,
            alpha: settings.alpha,
            rank_stabilised: settings.rank_stabilised,
            parameters,
        });
    }
    let more = match faults.len() {
        1..=5 => String::new(),
        all => format!("; and {} more", all - 5),
    };
    faults.truncate(5);
    Err(Error::checkpoint(
        dir,
        format!(
            "the adapter does not fit its base or {ADAPTER_CONFIG}: {}{more}",
            faults.join("; ")
        ),
    ))
}

/// Writes adapters into `dir`, which is made if need be, the settings last.
pub(crate) fn save(dir: &Path, lora: &Lora, base: &str) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let mut tensors: Vec<Lazy> = lora
        .parameters
        .iter()
        .map(|(name, variable)| Lazy {
            name: format!("{PREFIX}{}", nested(name)),
            shape: variable.dims().to_vec(),
            dtype: variable.dtype(),
            make: Box::new(|| Ok(variable.as_detached_tensor())),
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    // The ends of names that both schemes of the base have in common.
    let targets: BTreeSet<&str> = lora
        .parameters
        .iter()
        .filter_map(|(name, _)| name.rsplit_once(".lora_"))
        .map(|(path, _)| {
            path.trim_start_matches("model.")
                .trim_start_matches("visual.")
        })
        .collect();
    write_tensors(dir, ADAPTER, &tensors)?
        .place()
        .map_err(Error::io(dir.join(ADAPTER)))?;
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rank_stabilised,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": targets,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
    });
    write_json(dir, ADAPTER_CONFIG, &config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_patterns_and_all_linear_name_projections() {
        let of = |value: Value| targets(&value).unwrap();
        let names = of(json!(["q_proj", "language_model.layers.0.mlp.up_proj"]));
        assert!(names.contain("model.layers.3.self_attn.q_proj"));
        assert!(names.contain("model.layers.0.mlp.up_proj"));
        assert!(!names.contain("model.layers.1.mlp.up_proj"));
        let pattern = of(json!(r"^(?!.*visual).*\.(?:q_proj|mlp\.up_proj)$"));
        assert!(pattern.contain("model.layers.3.self_attn.q_proj"));
        assert!(!pattern.contain("visual.blocks.0.mlp.up_proj"));
        assert!(of(json!("all-linear")).contain("visual.blocks.0.attn.qkv"));
        assert!(!of(json!("all-linear")).contain("lm_head"));
        for wrong in [json!(null), json!([]), json!([1]), json!("(")] {
            assert!(targets(&wrong).is_err());
        }
    }
}
