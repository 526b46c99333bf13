//! Templates, tokenizers and image settings as people have them, and as damage leaves them.

#[path = "common/micro.rs"]
mod micro;

use std::path::Path;

use image::RgbImage;
use micro::{copy, edit_json, processor, student};
use proptest::prelude::*;
use qwen2_5_vl::{ChatMessage, ChatPart, ChatTemplate, Processor, Tokenizer, read_image};
use serde_json::{Map, Value, json};

fn message(role: &str, content: Vec<ChatPart>) -> ChatMessage {
    ChatMessage {
        role: role.into(),
        content,
    }
}

fn conversation() -> Vec<ChatMessage> {
    let text = |text: &str| ChatPart::Text(text.to_string());
    vec![
        message("system", vec![text("how many bars")]),
        message("user", vec![ChatPart::Image, text(" which is red ?")]),
        message("assistant", vec![text("7")]),
        message("user", vec![text("why ?")]),
    ]
}

fn ids(processor: &Processor) -> Vec<u32> {
    let image = RgbImage::new(32, 32);
    processor
        .encode(&conversation(), &[&image], true)
        .unwrap()
        .input_ids
}

fn with_template(template: &str) -> Result<Processor, String> {
    let dir = copy();
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    processor(dir.path())
}

fn rendered(template: &str) -> Result<String, String> {
    let template = ChatTemplate::new(template.to_string(), Path::new("chat_template.jinja"));
    let messages = json!([{"role": "user", "content": [{"type": "text", "text": "hello"}]}]);
    template
        .and_then(|template| template.render(&messages, true, &Map::new()))
        .map_err(|error| error.to_string())
}

#[test]
fn generation_blocks_render_the_same_ids_as_without() {
    let plain = std::fs::read_to_string(student().join("chat_template.jinja")).unwrap();
    let expected = ids(&processor(&student()).unwrap());
    let content = "{{ content['text'] }}";
    assert!(plain.contains(content), "{plain}");
    for (open, close) in [
        ("{% generation %}", "{% endgeneration %}"),
        ("{%- generation -%}", "{%- endgeneration -%}"),
        ("{%+ generation %}", "{%endgeneration%}"),
        ("{%generation-%}", "{%-   endgeneration\t%}"),
    ] {
        let marked = plain.replace(content, &format!("{open}{content}{close}"));
        assert_eq!(ids(&with_template(&marked).unwrap()), expected, "{open}");
    }
    // The words elsewhere mean what they say.
    for (template, expected) in [
        ("{{ '{% generation %}' }}", "{% generation %}"),
        ("{# {% generation %} #}x", "x"),
        ("{% raw %}{% generation %}{% endraw %}", "{% generation %}"),
        (
            "{% set generation = 'g' %}{{ generation }}{% if generation %}y{% endif %}",
            "gy",
        ),
        (
            "{% for m in messages %}{% generation %}{{ m.role }}{{ loop.index }}{% endgeneration %}{% endfor %}",
            "user1",
        ),
        (
            "a\n  {% generation %}\n  b\n  {% endgeneration %}\nc",
            "a\n  b\nc",
        ),
        (
            "a\n  {%- generation -%}\n  b\n  {%- endgeneration -%}\nc",
            "abc",
        ),
    ] {
        assert_eq!(rendered(template).unwrap(), expected, "{template}");
    }
    let message = rendered("{% generation %}x").unwrap_err();
    assert!(message.contains("does not compile"), "{message}");
}

#[test]
fn templates_are_bounded_in_time() {
    let nested = "{% for i in range(10000) %}{% for j in range(10000) %}{% for k in range(10000) %}\
                  {% endfor %}{% endfor %}{% endfor %}x";
    for template in [
        nested,
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% for a in range(99999) %}{% for b in range(99999) if b > 99999 %}{% endfor %}{% endfor %}",
    ] {
        let message = rendered(template).unwrap_err();
        assert!(
            message.contains("chat_template.jinja does not render"),
            "{message}"
        );
    }
    let message = rendered(nested).unwrap_err();
    assert!(
        message.contains("more than") && message.contains("steps"),
        "{message}"
    );
}

#[test]
fn templates_are_bounded_in_output_and_memory() {
    for template in [
        "{% for i in range(50000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = [n.x, n.x] | join %}{% set n.x = n.x ~ '' %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
        "{% macro f(x, n) %}{% if n %}{{ f(x ~ x, n - 1) }}{% endif %}{% endmacro %}{{ f('ab', 60) }}",
        "{{ 'x' * 90000000 }}",
        "{% set x = 'x' * 900000 %}{{ x | replace('x', x) }}",
        "{% set x = 'x' * 900000 %}{{ x.replace('x', x) }}",
        "{{ range(90000) | join('x' * 900000) }}",
        "{{ ('x' * 900000).join(range(90000)) }}",
        "{{ 'a\nb' | indent(9000000000) }}",
    ] {
        let message = rendered(template).unwrap_err();
        assert!(
            message.contains("chat_template.jinja does not render") && message.contains("limit"),
            "{template}: {message}"
        );
    }
    // What real templates do.
    for (template, expected) in [
        (
            "{% set n = namespace(x='') %}{% for i in range(9) %}{% set n.x = n.x ~ i %}{% endfor %}{{ n.x }}",
            "012345678",
        ),
        (
            "{{ 'a-b' | replace('-', '+') }}{{ 'a-b'.replace('-', '+') }}",
            "a+ba+b",
        ),
        (
            "{{ [1, 2] | join(', ') }}{{ ', '.join(['a', 'b']) }}",
            "1, 2a, b",
        ),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        (
            "{{ 1 + 2 * 3 }}{{ (1 + 2) * 3 }}{{ 'a' ~ 1 ~ 1 }}{{ -1 + 2 }}",
            "79a111",
        ),
        (
            "{{ messages[0].content[0].text.strip() + '!' if messages else 'x' + 'y' }}",
            "hello!",
        ),
        (
            "{{ messages[0]['content'] | map(attribute='text') | join }}",
            "hello",
        ),
    ] {
        assert_eq!(rendered(template).unwrap(), expected, "{template}");
    }
    // Long conversations are no loops.
    let messages: Vec<Value> = (0..2000)
        .map(|i| json!({"role": "user", "content": [{"type": "text", "text": format!("{i} {}", "x".repeat(500))}]}))
        .collect();
    let source = std::fs::read_to_string(student().join("chat_template.jinja")).unwrap();
    let template = ChatTemplate::new(source, Path::new("t")).unwrap();
    template
        .render(&messages.into(), true, &Map::new())
        .unwrap();
}

#[test]
fn a_tokenizers_truncation_and_padding_are_reset() {
    let dir = copy();
    edit_json(dir.path(), "tokenizer.json", |tokenizer| {
        tokenizer["truncation"] =
            json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
        tokenizer["padding"] = json!({
            "strategy": {"Fixed": 4_000_000_000u64}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
        });
    });
    let (plain, edited) = (
        processor(&student()).unwrap(),
        processor(dir.path()).unwrap(),
    );
    assert_eq!(ids(&edited), ids(&plain));
    let encode = |p: &Processor| p.tokenizer().encode("how many red bars").unwrap();
    assert_eq!(encode(&edited), encode(&plain));
}

/// Every way to replace one value in a JSON document.
fn damaged(value: &Value, damages: &mut Vec<Value>, path: &mut Vec<String>, whole: &Value) {
    let pointer = path.iter().map(|key| format!("/{key}")).collect::<String>();
    for with in [
        json!(null),
        json!(-1),
        json!(4_000_000_000u64),
        json!("x"),
        json!([]),
        json!({}),
        json!(true),
    ] {
        let mut other = whole.clone();
        if let Some(place) = other.pointer_mut(&pointer) {
            *place = with;
            damages.push(other);
        }
    }
    match value {
        Value::Object(map) => {
            for (index, (key, inner)) in map.iter().enumerate() {
                // A vocabulary's words are alike.
                if index > 20 && !key.contains("[") && map.len() > 60 {
                    break;
                }
                let mut other = whole.clone();
                let parent = other.pointer_mut(&pointer).and_then(Value::as_object_mut);
                if let Some(parent) = parent {
                    parent.remove(key);
                    damages.push(other);
                }
                path.push(key.replace('~', "~0").replace('/', "~1"));
                damaged(inner, damages, path, whole);
                path.pop();
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate().take(3) {
                path.push(index.to_string());
                damaged(inner, damages, path, whole);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Loads and uses a tokenizer and a processor; they may fail, they may not panic.
fn use_it(dir: &Path) -> bool {
    if let Ok(tokenizer) =
        Tokenizer::from_bytes(&std::fs::read(dir.join("tokenizer.json")).unwrap())
    {
        for text in [
            "how many <|im_end|> bars é\u{0}",
            "",
            "   ",
            "ﬁ ｆ 👩‍👩‍👧 \u{1F3F3}\n\t1234567",
        ] {
            let _ = tokenizer.encode(text);
            let _ = tokenizer.encode_plain(text);
        }
        let _ = tokenizer.decode(&[0, 1, 50, 185, 4_000_000_000], false);
    }
    let Ok(processor) = Processor::load(dir) else {
        return false;
    };
    let image = RgbImage::new(32, 32);
    let _ = processor.encode(&conversation(), &[&image], true);
    let _ = processor
        .tokenizer()
        .encode("how many <|im_end|> bars é\u{0}");
    let _ = processor.decode(&[0, 1, 50, 185, 4_000_000_000], false);
    true
}

#[test]
fn foreign_parts_in_a_tokenizer_never_panic() {
    let replace =
        |pattern: Value| json!({"type": "Replace", "pattern": pattern, "content": "\u{e9}"});
    let parts = [
        ("normalizer", replace(json!({"Regex": "("}))),
        ("normalizer", replace(json!({"Regex": ""}))),
        ("normalizer", replace(json!({"String": ""}))),
        ("normalizer", replace(json!({"Regex": "(?=(a+)+$)|x*"}))),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": ""}),
        ),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        ),
        ("normalizer", json!({"type": "Prepend", "prepend": ""})),
        ("normalizer", json!({"type": "Sequence", "normalizers": []})),
        ("normalizer", json!({"type": "ByteLevel"})),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "["}, "behavior": "Isolated", "invert": false}),
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": ""}, "behavior": "MergedWithNext", "invert": true}),
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Contiguous", "invert": false}),
        ),
        (
            "pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "xx", "prepend_scheme": "first", "split": true}),
        ),
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        (
            "pre_tokenizer",
            json!({"type": "CharDelimiterSplit", "delimiter": ""}),
        ),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {}}),
        ),
        (
            "post_processor",
            json!({"type": "BertProcessing", "sep": ["x", 4_000_000_000u64], "cls": ["y", 1]}),
        ),
        (
            "decoder",
            json!({"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
        ),
        (
            "decoder",
            json!({"type": "Strip", "content": "x", "start": 4_000_000_000u64, "stop": 4_000_000_000u64}),
        ),
        (
            "decoder",
            json!({"type": "Strip", "content": "h", "start": 1, "stop": 1}),
        ),
        (
            "decoder",
            json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        ),
        (
            "decoder",
            json!({"type": "WordPiece", "prefix": "how", "cleanup": true}),
        ),
        ("decoder", json!({"type": "BPEDecoder", "suffix": ""})),
        ("decoder", json!({"type": "ByteFallback"})),
        ("decoder", json!({"type": "Fuse"})),
        (
            "model",
            json!({"type": "BPE", "vocab": {"h": 0, "é": 1, "hé": 2}, "merges": [["h", "é"]], "continuing_subword_prefix": "é"}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"h": 0, "é": 1, "hé": 2}, "merges": [["h", "é"]], "continuing_subword_prefix": "x"}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"h": 0, "o": 1, "ho": 2}, "merges": [["h", "o"]], "continuing_subword_prefix": "####", "end_of_word_suffix": "é"}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {}, "merges": [], "dropout": 2.0, "byte_fallback": true, "unk_token": "x", "fuse_unk": true}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"h": 0, "o": 1, "ho": 4_294_967_295u64}, "merges": ["h o"], "dropout": null}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"h": 0}, "merges": ["h", "", "a b c"]}),
        ),
        (
            "model",
            json!({"type": "Unigram", "vocab": [], "unk_id": 0}),
        ),
        (
            "model",
            json!({"type": "Unigram", "vocab": [["h", -1.0]], "unk_id": null}),
        ),
        (
            "model",
            json!({"type": "Unigram", "vocab": [["", -1.0], ["h", 1e308]], "unk_id": 1, "byte_fallback": true}),
        ),
        (
            "model",
            json!({"type": "WordPiece", "vocab": {"h": 0}, "unk_token": "x", "continuing_subword_prefix": "", "max_input_chars_per_word": 0}),
        ),
        (
            "model",
            json!({"type": "WordPiece", "vocab": {}, "unk_token": "x", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}),
        ),
        (
            "model",
            json!({"type": "WordLevel", "vocab": {}, "unk_token": "x"}),
        ),
        (
            "added_tokens",
            json!([{"id": 4_294_967_295u64, "content": "", "single_word": true, "lstrip": true, "rstrip": true, "normalized": true, "special": true}]),
        ),
        (
            "added_tokens",
            json!([{"id": 0, "content": "how", "single_word": true, "lstrip": true, "rstrip": true, "normalized": true, "special": false}]),
        ),
    ];
    for (part, value) in parts {
        let dir = copy();
        let shown = format!("{part} {value}");
        edit_json(dir.path(), "tokenizer.json", |tokenizer| {
            tokenizer[part] = value
        });
        println!("{}: {shown}", use_it(dir.path()));
    }
}

#[test]
fn damaged_json_files_never_panic() {
    // The student's tokenizer knows words; the other one is byte-level, as that of the released models.
    let parity =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/parity/checkpoints/student");
    for (name, from) in [
        ("tokenizer.json", student()),
        ("tokenizer.json", parity),
        ("tokenizer_config.json", student()),
        ("preprocessor_config.json", student()),
        ("generation_config.json", student()),
    ] {
        let dir = copy();
        std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
        let path = dir.path().join(name);
        let whole: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut damages = Vec::new();
        damaged(&whole, &mut damages, &mut Vec::new(), &whole);
        let refused = damages
            .iter()
            .filter(|damage| {
                std::fs::write(&path, damage.to_string()).unwrap();

                !use_it(dir.path())
            })
            .count();
        println!("{name}: {} damages, {refused} refused", damages.len());
        // The template of this checkpoint is a file of its own, so tokenizer_config.json is not needed.
        assert!(refused > 0 || name == "tokenizer_config.json", "{name}");
        assert!(damages.len() > 20, "{name}");
        let text = whole.to_string();
        for cut in [0, 1, text.len() / 3, text.len() - 1] {
            std::fs::write(&path, &text[..cut]).unwrap();
            let used = use_it(dir.path());
            assert!(
                !used || name == "tokenizer_config.json",
                "{name} cut at {cut}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_tokenizer_with_a_flipped_byte_never_panics(at in 0usize..7000, byte in any::<u8>()) {
        let dir = copy();
        let path = dir.path().join("tokenizer.json");
        let mut bytes = std::fs::read(&path).unwrap();
        let place = at % bytes.len();
        bytes[place] = byte;
        std::fs::write(&path, bytes).unwrap();
        use_it(dir.path());
    }
}

#[test]
fn image_settings_that_demand_gigabytes_are_refused() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let dir = copy();
        edit_json(dir.path(), "preprocessor_config.json", |c| change(c));
        let image = RgbImage::new(400, 400);
        let content = vec![ChatPart::Image];
        processor(dir.path())
            .and_then(|p| {
                p.encode(&[message("user", content)], &[&image], true)
                    .map(|_| ())
                    .map_err(|e| e.to_string())
            })
            .unwrap_err()
    };
    let message = refused(&|c| {
        c["min_pixels"] = json!(1 << 27);
        c["max_pixels"] = json!(1 << 28);
    });
    assert!(message.contains("min_pixels"), "{message}");
    let message = refused(&|c| {
        c["temporal_patch_size"] = json!(1024);
        c["max_pixels"] = json!(1 << 28);
    });
    assert!(message.contains("temporal_patch_size"), "{message}");
    let message = refused(&|c| {
        c["patch_size"] = json!(1024);
        c["merge_size"] = json!(1024);
    });
    assert!(message.contains("size"), "{message}");
    for value in [json!([0.5, 0.5]), json!([0.5, 0.5, null]), json!("x")] {
        let message = refused(&|c| c["image_mean"] = value.clone());
        assert!(message.contains("preprocessor_config.json"), "{message}");
    }
}

#[test]
fn a_small_file_of_a_huge_picture_is_refused_by_its_sides() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.png");
    image::GrayImage::new(12_000, 12_000).save(&path).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 1_000_000);
    let message = read_image(&path).unwrap_err().to_string();
    assert!(message.contains("12000 x 12000"), "{message}");
}

#[test]
fn settings_of_generation_that_are_ignored_are_sentences() {
    let dir = copy();
    edit_json(dir.path(), "generation_config.json", |c| {
        c["repetition_penalty"] = json!(1.05);
        c["top_k"] = json!(1);
    });
    let processor = processor(dir.path()).unwrap();
    let said = processor.ignored_generation_settings().join(" ");
    for part in ["do_sample = true", "repetition_penalty = 1.05", "top_k = 1"] {
        assert!(said.contains(part), "{said}");
    }
}
