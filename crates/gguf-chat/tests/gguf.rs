//! A GGUF file of the parity student: its greedy replies are our own model's, its vocabulary is that of
//! its `tokenizer.json`, and it answers as any endpoint does.

#![cfg(feature = "gguf")]

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value as Metadata};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use gguf_chat::{ChatModel, answer};
use qwen2_5_vl::{GenerationOptions, Model, Prompt, Tokenizer};
use serde_json::{Value, json};

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn student() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/parity/checkpoints/student")
}

/// The student. Our generation never chooses vision tokens, and its vocabulary has more rows than
/// tokens: these rows are those of token 0, which comes before them.
fn model() -> Model {
    let model = Model::load(&student(), &Device::Cpu, DType::F32).unwrap();
    let head = model.parameters().get("lm_head.weight").unwrap();
    let first_vision = 283;
    let rest = head.dim(0).unwrap() - first_vision;
    let (kept, one) = (
        head.narrow(0, 0, first_vision).unwrap(),
        head.narrow(0, 0, 1).unwrap(),
    );
    let repeated = one.repeat((rest, 1)).unwrap();
    let changed = Tensor::cat(&[kept, repeated], 0).unwrap();
    head.set(&changed.detach()).unwrap();
    model
}

/// The student's language model as a GGUF file of f32, with changes of its metadata.
fn write(path: &Path, change: impl Fn(&mut Vec<(String, Metadata)>)) {
    let model = model();
    let text = &model.config().text;
    let names = [
        ("self_attn.q_proj.weight", "attn_q.weight"),
        ("self_attn.q_proj.bias", "attn_q.bias"),
        ("self_attn.k_proj.weight", "attn_k.weight"),
        ("self_attn.k_proj.bias", "attn_k.bias"),
        ("self_attn.v_proj.weight", "attn_v.weight"),
        ("self_attn.v_proj.bias", "attn_v.bias"),
        ("self_attn.o_proj.weight", "attn_output.weight"),
        ("mlp.gate_proj.weight", "ffn_gate.weight"),
        ("mlp.up_proj.weight", "ffn_up.weight"),
        ("mlp.down_proj.weight", "ffn_down.weight"),
        ("input_layernorm.weight", "attn_norm.weight"),
        ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ];
    let mut wanted = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            "token_embd.weight".to_owned(),
        ),
        (
            "model.norm.weight".to_owned(),
            "output_norm.weight".to_owned(),
        ),
        ("lm_head.weight".to_owned(), "output.weight".to_owned()),
    ];
    for layer in 0..text.num_hidden_layers {
        wanted.extend(names.map(|(ours, theirs)| {
            (
                format!("model.layers.{layer}.{ours}"),
                format!("blk.{layer}.{theirs}"),
            )
        }));
    }
    let tensors: Vec<(String, QTensor)> = wanted
        .into_iter()
        .map(|(ours, theirs)| {
            let tensor = model.parameters().get(&ours).unwrap();
            (theirs, QTensor::quantize(tensor, GgmlDType::F32).unwrap())
        })
        .collect();

    let file = std::fs::read(student().join("tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_slice(&file).unwrap();
    let mut tokens = vec![String::new(); text.vocab_size];
    for (token, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
        tokens[id.as_u64().unwrap() as usize] = token.clone();
    }
    let mut kinds = vec![Metadata::I32(1); tokens.len()];
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        let id = added["id"].as_u64().unwrap() as usize;
        tokens[id] = added["content"].as_str().unwrap().to_owned();
        kinds[id] = Metadata::I32(3);
    }
    for (id, token) in tokens.iter_mut().enumerate() {
        if token.is_empty() {
            *token = format!("[unused {id}]");
        }
    }
    let strings =
        |list: Vec<String>| Metadata::Array(list.into_iter().map(Metadata::String).collect());
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter();
    let merges = merges.map(|pair| {
        format!(
            "{} {}",
            pair[0].as_str().unwrap(),
            pair[1].as_str().unwrap()
        )
    });
    let word = |text: &str| Metadata::String(text.to_owned());
    let count = |value: usize| Metadata::U32(value as u32);
    let mut metadata: Vec<(String, Metadata)> = [
        ("general.architecture", word("qwen2")),
        (
            "qwen2.attention.head_count",
            count(text.num_attention_heads),
        ),
        (
            "qwen2.attention.head_count_kv",
            count(text.num_key_value_heads),
        ),
        ("qwen2.embedding_length", count(text.hidden_size)),
        ("qwen2.context_length", count(256)),
        ("qwen2.block_count", count(text.num_hidden_layers)),
        (
            "qwen2.attention.layer_norm_rms_epsilon",
            Metadata::F32(text.rms_norm_eps as f32),
        ),
        (
            "qwen2.rope.freq_base",
            Metadata::F32(text.rope_theta as f32),
        ),
        ("tokenizer.ggml.model", word("gpt2")),
        ("tokenizer.ggml.pre", word("qwen2")),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.token_type", Metadata::Array(kinds)),
        ("tokenizer.ggml.merges", strings(merges.collect())),
        ("tokenizer.ggml.eos_token_id", count(282)),
        ("tokenizer.chat_template", word(TEMPLATE)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    change(&mut metadata);
    let metadata: Vec<(&str, &Metadata)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let mut out = std::fs::File::create(path).unwrap();
    gguf_file::write(&mut out, &metadata, &tensors).unwrap();
}

fn messages(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[test]
fn replies_are_our_own_models_greedy_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("student.gguf");
    write(&path, |_| {});
    let mut chat = ChatModel::open(&path, None).unwrap();
    let hash = blake3_of(&path);
    assert_eq!(chat.name(), format!("student@{}", &hash[..12]));

    let tokenizer = std::fs::read(student().join("tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_bytes(&tokenizer).unwrap();
    let model = model();
    let options = GenerationOptions {
        max_new_tokens: 24,
        temperature: 0.0,
        top_p: None,
        repetition_penalty: None,
        stop_ids: vec![280, 282],
    };
    // The second is longer than a piece of the prompt.
    let long = "the bar of the year 2019 is higher, isn't it? ".repeat(3);
    for question in ["Which bar is the highest?\n\n 1,234 it's", long.as_str()] {
        let reply = chat.reply(&messages(question), 24).unwrap();
        let text = format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n");
        let prompt = Prompt {
            input_ids: tokenizer.encode(&text).unwrap(),
            image_features: None,
            grids: Vec::new(),
        };
        assert_eq!(reply.prompt_tokens, prompt.input_ids.len());
        let own = model.generate(&[prompt], &[vec![None]], &options).unwrap();
        let own = &own[0][0];
        let words = &own.token_ids[..own.token_ids.len() - usize::from(own.stopped)];
        assert_eq!(reply.text, tokenizer.decode(words, true).unwrap());
        assert_eq!(
            (reply.finished, reply.completion_tokens),
            (own.stopped, own.token_ids.len())
        );
        // Nothing of one question is left for the next.
        assert_eq!(chat.reply(&messages(question), 24).unwrap(), reply);
    }
    let too_long = chat.reply(&messages(&"word ".repeat(400)), 8).unwrap_err();
    assert!(
        too_long.to_string().contains("the model reads 1 to 255"),
        "{too_long}"
    );
}

fn blake3_of(path: &Path) -> String {
    blake3::hash(&std::fs::read(path).unwrap())
        .to_hex()
        .to_string()
}

#[test]
fn files_that_are_no_chat_model_are_refused_by_what_they_lack() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let open = |change: fn(&mut Vec<(String, Metadata)>)| {
        write(&path, change);
        ChatModel::open(&path, None).err().unwrap().to_string()
    };
    let without_template =
        open(|metadata| metadata.retain(|(key, _)| key != "tokenizer.chat_template"));
    assert!(without_template.ends_with("it holds no tokenizer.chat_template: it is no chat model"));
    let other = open(|metadata| metadata[0].1 = Metadata::String("mamba".to_owned()));
    assert!(
        other.contains("expected the architecture qwen2, qwen3 or llama, found 'mamba'"),
        "{other}"
    );
    let cut = open(|metadata| {
        let pre = metadata
            .iter_mut()
            .find(|(key, _)| key == "tokenizer.ggml.pre")
            .unwrap();
        pre.1 = Metadata::String("deepseek-llm".to_owned());
    });
    assert!(
        cut.contains("cut as 'deepseek-llm'; give --tokenizer"),
        "{cut}"
    );
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    let pointer = ChatModel::open(&path, None).err().unwrap().to_string();
    assert!(pointer.contains("expected a GGUF file"), "{pointer}");
}

#[test]
fn an_endpoint_answers_and_refuses_what_it_would_not_honour() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("student.gguf");
    write(&path, |_| {});
    let mut model = ChatModel::open(&path, None).unwrap();
    let name = model.name().to_owned();
    let direct = model.reply(&messages("Which?"), 5).unwrap();
    let mut ask = |method: &str, path: &str, body: &str| {
        let found = answer(method, path, body.as_bytes(), &mut model);
        (found.status, found.body)
    };
    let (status, listed) = ask("GET", "/v1/models", "");
    assert_eq!((status, &listed["data"][0]["id"]), (200, &json!(name)));
    let mut post = |more: Value| {
        let mut body = json!({"model": name, "messages": messages("Which?"), "max_tokens": 5, "temperature": 0.0});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        ask("POST", "/v1/chat/completions", &body.to_string())
    };
    let (status, replied) = post(json!({}));
    assert_eq!(status, 200, "{replied}");
    assert_eq!(replied["choices"][0]["message"]["content"], direct.text);
    let ended = if direct.finished { "stop" } else { "length" };
    assert_eq!(replied["choices"][0]["finish_reason"], ended);
    assert_eq!(
        replied["usage"]["completion_tokens"],
        direct.completion_tokens
    );
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "Whi"}, {"type": "text", "text": "ch?"}]}]);
    assert_eq!(
        post(json!({"messages": parts})).1["choices"],
        replied["choices"]
    );
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]);
    for (more, status, told) in [
        (
            json!({"model": "gpt-4o"}),
            404,
            "its name holds the hash of its file",
        ),
        (json!({"temperature": 0.7}), 400, "replies are greedy here"),
        (json!({"stream": true}), 400, "stream: not done here"),
        (json!({"n": 2}), 400, "n: one choice"),
        (json!({"messages": image}), 400, "reads text alone"),
        (
            json!({"messages": []}),
            400,
            "expected a list of at least one",
        ),
    ] {
        let (found, body) = post(more);
        assert_eq!(found, status, "{body}");
        assert!(
            body["error"]["message"].as_str().unwrap().contains(told),
            "{body}"
        );
    }
    assert_eq!(ask("POST", "/v1/chat/completions", "{").0, 400);
    assert_eq!(ask("GET", "/elsewhere", "").0, 404);
}
