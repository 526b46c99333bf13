//! Tokenisers and chat templates: everything exact.

use anyhow::{Context, Result, ensure};
use qwen2_5_vl::{ChatTemplate, Processor, Tokenizer};
use serde_json::{Map, Value};

use super::checks::Checks;
use super::folder::{Folder, count_of};

pub fn run(folder: &Folder, checks: &mut Checks<'_>) -> Result<()> {
    for name in folder.names("", "_cases.json")? {
        let file = format!("{name}_cases.json");
        checks.case(&file, |checks| match name.strip_prefix("tokenizer_") {
            Some(tokenizer) => tokenizers(folder, &file, tokenizer, checks),
            None if name == "chat_template" => templates(folder, &file, checks),
            None => Ok(()),
        })?;
    }
    Ok(())
}

/// `tokenizer_NAME_cases.json` is of `tokenizer_NAME/tokenizer.json`, or else of every checkpoint's
/// tokenizer of that size.
fn tokenizers(folder: &Folder, file: &str, name: &str, checks: &mut Checks<'_>) -> Result<()> {
    if !checks.wants_any(file, KEYS) {
        return Ok(());
    }
    let cases = folder.json(file)?;
    let own = format!("tokenizer_{name}/tokenizer.json");
    let paths = if folder.exists(&own) {
        vec![own]
    } else {
        let checkpoints = folder.checkpoints()?;
        checkpoints
            .iter()
            .map(|checkpoint| format!("checkpoints/{checkpoint}/tokenizer.json"))
            .collect()
    };
    let size = count_of(&cases["total_size"])?;
    let mut found = false;
    for path in paths {
        let bytes =
            std::fs::read(folder.path(&path)).with_context(|| format!("cannot read {path}"))?;
        let tokenizer = Tokenizer::from_bytes(&bytes)
            .map_err(anyhow::Error::msg)
            .with_context(|| path.clone())?;
        if tokenizer.vocab_size() == size {
            found = true;
            tokenizer_cases(&cases, file, &tokenizer, checks)?;
        }
    }
    ensure!(found, "no tokenizer of {size} tokens stands in the folder");
    Ok(())
}

const KEYS: [&str; 4] = ["special_ids", "ids", "decoded", "decoded_skip_special"];

fn tokenizer_cases(
    cases: &Value,
    file: &str,
    tokenizer: &Tokenizer,
    checks: &mut Checks<'_>,
) -> Result<()> {
    if let Some(special) = cases["special_ids"].as_object() {
        let ours = |token: &String| {
            tokenizer
                .token_to_id(token)
                .map_or(Value::Null, Value::from)
        };
        let ours: Map<String, Value> = special
            .keys()
            .map(|token| (token.clone(), ours(token)))
            .collect();
        checks.exact(file, KEYS[0], special, &ours)?;
    }
    let [mut ids, mut decoded, mut skipped] = [const { Vec::new() }; 3];
    let list = cases["cases"].as_array().context("cases is not a list")?;
    for case in list {
        let text = case["text"].as_str().context("a case has no text")?;
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone())?;
        decoded.push(Value::from(tokenizer.decode(&expected, false)?));
        skipped.push(Value::from(tokenizer.decode(&expected, true)?));
        ids.push(Value::from(tokenizer.encode(text)?));
    }
    for (key, ours) in KEYS[1..].iter().zip([ids, decoded, skipped]) {
        let reference: Vec<Value> = list.iter().map(|case| case[*key].clone()).collect();
        checks.exact_list(file, key, &reference, &ours)?;
    }
    Ok(())
}

/// Every case on every checkpoint's own template.
fn templates(folder: &Folder, file: &str, checks: &mut Checks<'_>) -> Result<()> {
    let cases = folder.json(file)?;
    for checkpoint in folder.checkpoints()? {
        let processor = Processor::load(&folder.path(&format!("checkpoints/{checkpoint}")))?;
        for case in cases.as_array().context("the cases are not a list")? {
            let name = case["name"].as_str().context("a case has no name")?;
            let key = format!("{checkpoint} {name}");
            if checks.wants(file, &key) {
                let ours = render(processor.chat_template(), case)?;
                let reference = case["rendered"]
                    .as_str()
                    .context("a case has no rendering")?;
                checks.exact(file, &key, &reference, &ours.as_str())?;
            }
        }
    }
    Ok(())
}

/// `add_generation_prompt` is on unless the case says otherwise.
fn render(template: &ChatTemplate, case: &Value) -> Result<String> {
    let mut arguments = case["kwargs"].as_object().cloned().unwrap_or_default();
    let prompt = arguments.remove("add_generation_prompt");
    let prompt = prompt.and_then(|value| value.as_bool()).unwrap_or(true);
    Ok(template.render(&case["messages"], prompt, &arguments)?)
}
