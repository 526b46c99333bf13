//! What a checkpoint's `generation_config.json` asks for, beside the tokens that end a generation.

use serde_json::Value;

/// The file's name in the hub's layout.
pub(crate) const FILE: &str = "generation_config.json";

/// What a file asks of sampling that is not heeded, one sentence each, in the file's order.
///
/// A setting that changes nothing (a repetition penalty of 1) and the file's own bookkeeping are left
/// out.
pub(crate) fn ignored(config: &Value) -> Vec<String> {
    let Some(config) = config.as_object() else {
        return Vec::new();
    };
    config
        .iter()
        .filter(|(key, value)| !is_heeded(key) && !is_neutral(key, value))
        .map(|(key, value)| {
            let whose = match key.as_str() {
                "do_sample" | "temperature" | "top_p" | "top_k" | "repetition_penalty"
                | "max_new_tokens" | "max_length" => "the run's own settings decide",
                _ => "it is not supported",
            };
            format!("{FILE} asks for {key} = {value}, which is ignored: {whose}.")
        })
        .collect()
}

/// Keys that are read, and bookkeeping.
fn is_heeded(key: &str) -> bool {
    let read = [
        "eos_token_id",
        "bos_token_id",
        "pad_token_id",
        "transformers_version",
    ];
    key.starts_with('_') || read.contains(&key) || key == "use_cache"
}

/// Whether a setting asks for nothing. Numbers that do nothing are those of transformers'
/// `GenerationConfig`.
fn is_neutral(key: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Number(number) => {
            let neutral = match key {
                "temperature"
                | "top_p"
                | "typical_p"
                | "repetition_penalty"
                | "encoder_repetition_penalty"
                | "length_penalty"
                | "num_beams"
                | "num_beam_groups"
                | "num_return_sequences" => 1.0,
                _ => 0.0,
            };
            number.as_f64() == Some(neutral)
        }
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_ignored_is_said_and_what_changes_nothing_is_not() {
        let config = json!({
            "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 1, "do_sample": true,
            "repetition_penalty": 1.05, "temperature": 1.0, "top_k": 1, "top_p": 0.001,
            "num_beams": 1, "suppress_tokens": [], "no_repeat_ngram_size": 3,
            "transformers_version": "4.37.0", "_from_model_config": true
        });
        let said = ignored(&config);
        let keys: Vec<&str> = said.iter().filter_map(|s| s.split(' ').nth(3)).collect();
        assert_eq!(
            keys,
            [
                "do_sample",
                "repetition_penalty",
                "top_k",
                "top_p",
                "no_repeat_ngram_size"
            ]
        );
        assert_eq!(
            said[1],
            "generation_config.json asks for repetition_penalty = 1.05, which is ignored: the run's \
             own settings decide."
        );
        assert!(ignored(&json!([])).is_empty());
    }
}
