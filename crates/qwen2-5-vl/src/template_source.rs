//! A chat template's source as it is compiled: what transformers knows and minijinja does not is
//! replaced, and what makes texts grow is put under a watch.
//!
//! * `{% generation %} … {% endgeneration %}`, transformers' mark of what the assistant says, becomes
//!   `{% with %} … {% endwith %}`: the same whitespace and the same scope, nothing else. The words are
//!   found by the template's own lexer, so that texts, comments and raw blocks stay as they are.
//! * `a ~ b`, `a + b` and `a * b` become `__grown(a ~ b)`, so that a loop that doubles a text ends
//!   ([`GROWN`]); the spans are those of the parser.

use minijinja::machinery::{Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use serde_json::Value;

/// The function that sees the result of every operation that can make a text longer.
pub(crate) const GROWN: &str = "__grown";

/// The filter that sees what is put into a namespace: one that held itself could be neither printed nor
/// compared in finite time.
pub(crate) const HELD: &str = "__held";

/// The source to compile. One that does not parse is returned as it is: compiling it says why.
///
/// # Errors
/// A number that cannot be told in JSON, so that nothing could be put under a watch.
pub(crate) fn prepare(source: &str, syntax: &SyntaxConfig) -> Result<String, String> {
    let source = without_generation(source, syntax);
    let Ok(tree) = parse(&source, "template", syntax.clone()) else {
        return Ok(source);
    };
    let tree = serde_json::to_value(tree)
        .map_err(|error| format!("a value in it cannot be read: {error}"))?;
    let mut insertions = Vec::new();
    operations(&tree, &mut insertions);
    Ok(with_held(&watch(&source, insertions), syntax))
}

/// Puts what is assigned to an attribute through [`HELD`]: `{% set a.b = x %}` is
/// `{% set a.b =( x )|__held %}`.
fn with_held(source: &str, syntax: &SyntaxConfig) -> String {
    let mut held = String::with_capacity(source.len());
    let mut copied = 0;
    // In a tag `set`: whether its target has a dot, and whether its value has begun.
    let (mut in_set, mut dotted, mut in_value) = (false, false, false);
    let mut starts = false;
    for token in tokenize(source, false, syntax.clone()) {
        let Ok((token, span)) = token else { break };
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        let mut insert = |at: usize, text: &str| {
            held.push_str(source.get(copied..at).unwrap_or_default());
            held.push_str(text);
            copied = at;
        };
        match token {
            Token::Ident("set") if starts => (in_set, dotted, in_value) = (true, false, false),
            Token::Dot if in_set && !in_value => dotted = true,
            Token::Assign if in_set && !in_value => {
                in_value = true;
                if dotted {
                    insert(end, "(");
                }
            }
            Token::BlockEnd => {
                if in_set && dotted && in_value {
                    insert(start, &format!(")|{HELD} "));
                }
                in_set = false;
            }
            _ => {}
        }
        starts = matches!(token, Token::BlockStart);
    }
    held.push_str(source.get(copied..).unwrap_or_default());
    held
}

/// Replaces the tags of transformers' generation blocks.
fn without_generation(source: &str, syntax: &SyntaxConfig) -> String {
    let mut prepared = String::with_capacity(source.len());
    let mut copied = 0;
    let mut in_tag = false;
    for token in tokenize(source, false, syntax.clone()) {
        let Ok((token, span)) = token else { break };
        if let (true, Token::Ident(word)) = (in_tag, &token) {
            let replacement = match *word {
                "generation" => "with",
                "endgeneration" => "endwith",
                other => other,
            };
            let (start, end) = (span.start_offset as usize, span.end_offset as usize);
            if let Some(before) = source.get(copied..start) {
                prepared.push_str(before);
                prepared.push_str(replacement);
                copied = end;
            }
        }
        in_tag = matches!(token, Token::BlockStart);
    }
    prepared.push_str(source.get(copied..).unwrap_or_default());
    prepared
}

/// Where operations of a syntax tree start and end: nodes `{"expr": "BinOp", "inner": [node, span]}`.
fn operations(tree: &Value, insertions: &mut Vec<(usize, bool)>) {
    match tree {
        Value::Object(map) => {
            let node = &tree["inner"][0];
            let grows = ["Concat", "Add", "Mul"].iter().any(|op| node["op"] == *op);
            if tree["expr"] == "BinOp" && grows {
                let at = |key: &str| tree["inner"][1][key].as_u64().map(|at| at as usize);
                if let (Some(start), Some(end)) = (at("start_offset"), at("end_offset")) {
                    insertions.push((start, true));
                    insertions.push((end, false));
                }
            }
            map.values().for_each(|value| operations(value, insertions));
        }
        Value::Array(list) => list.iter().for_each(|value| operations(value, insertions)),
        _ => {}
    }
}

/// Puts the calls around the operations.
fn watch(source: &str, mut insertions: Vec<(usize, bool)>) -> String {
    insertions.sort_unstable();
    let mut watched = String::with_capacity(source.len() + 12 * insertions.len());
    let mut copied = 0;
    for (at, opens) in insertions {
        watched.push_str(source.get(copied..at).unwrap_or_default());
        copied = at;
        if opens {
            watched.push_str(GROWN);
        }
        watched.push(if opens { '(' } else { ')' });
    }
    watched.push_str(source.get(copied..).unwrap_or_default());
    watched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_replaced_and_texts_are_not() {
        let prepared = |source| prepare(source, &SyntaxConfig::default()).unwrap();
        assert_eq!(
            prepared("{%- generation -%}{{ x }}{% endgeneration+%}"),
            "{%- with -%}{{ x }}{% endwith+%}"
        );
        for same in [
            "{# {% generation %} #}{% raw %}{% generation %}{% endraw %}{{ '{% generation %}' }}",
            "{% if generation %}{{ generation.endgeneration }}{% endif %}",
            "{{ 'unfinished",
            "äöü {{ x }} — {% if x %}…{% endif %}",
        ] {
            assert_eq!(prepared(same), same);
        }
    }

    #[test]
    fn what_grows_is_watched() {
        let prepared = |source| prepare(source, &SyntaxConfig::default()).unwrap();
        assert_eq!(
            prepared("ä{% set x = (x ~ x) ~ 'a' %}"),
            "ä{% set x = __grown((__grown(x ~ x)) ~ 'a') %}"
        );
        assert_eq!(
            prepared("{{ a - 1 if a + 1 else 2 }}"),
            "{{ a - 1 if __grown(a + 1) else 2 }}"
        );
        assert_eq!(
            prepared("{%- set ns.x = a + 1 -%}{% set y = a.b %}{% set ns.z %}{% endset %}"),
            "{%- set ns.x =( __grown(a + 1) )|__held -%}{% set y = a.b %}{% set ns.z %}{% endset %}"
        );
    }
}
