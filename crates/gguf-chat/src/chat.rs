//! The model: its weights, its tokenizer and its chat template.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value as Metadata};
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::{quantized_llama, quantized_qwen2, quantized_qwen3};
use qwen2_5_vl::{ChatTemplate, Tokenizer};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::vocabulary;

/// Tokens that end a turn in the chats that are known, beside the file's own end of a sequence.
const TURN_ENDS: [&str; 4] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
];

/// Digits of the file's hash in the model's name: 48 bits.
const HASH_DIGITS: usize = 12;

/// Tokens of a prompt that are run at a time. The models keep a mask for every length that they were
/// given: of whole prompts that would be as many as there are questions.
const PIECE: usize = 64;

/// Weights of the architectures that are known.
enum Weights {
    Qwen2(quantized_qwen2::ModelWeights),
    Qwen3(quantized_qwen3::ModelWeights),
    Llama(quantized_llama::ModelWeights),
}

impl Weights {
    /// Scores `(1, vocab)` of the token after `ids` `(1, tokens)`, which begin at `position`.
    fn forward(&mut self, ids: &Tensor, position: usize) -> candle_core::Result<Tensor> {
        match self {
            Weights::Qwen2(model) => model.forward(ids, position),
            Weights::Qwen3(model) => model.forward(ids, position),
            Weights::Llama(model) => model.forward(ids, position),
        }
    }

    /// Forgets the keys and values of the last reply.
    fn forget(&mut self) {
        match self {
            Weights::Qwen2(model) => model.clear_kv_cache(),
            Weights::Qwen3(model) => model.clear_kv_cache(),
            Weights::Llama(model) => model.clear_kv_cache(),
        }
    }
}

/// A chat model from a GGUF file, on the CPU.
pub struct ChatModel {
    name: String,
    weights: Weights,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    /// Texts that templates ask for.
    special: Map<String, Value>,
    ends: Vec<u32>,
    context: usize,
}

/// What the model replied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// The text, without the token that ended it.
    pub text: String,
    /// Whether it ended by itself, and not by the limit.
    pub finished: bool,
    /// Tokens of the rendered question.
    pub prompt_tokens: usize,
    /// Tokens of the reply, the one that ended it among them.
    pub completion_tokens: usize,
}

/// The weights that a GGUF file lists, without reading them.
///
/// # Errors
/// A file that cannot be read or is none.
pub fn parameters(path: &Path) -> Result<usize> {
    let file = File::open(path).map_err(|reason| Error::Read {
        path: path.to_owned(),
        reason: reason.to_string(),
    })?;
    let content = Content::read(&mut BufReader::new(file)).map_err(|error| Error::File {
        path: path.to_owned(),
        reason: format!("expected a GGUF file: {error}"),
    })?;
    let tensors = content.tensor_infos.values();
    Ok(tensors.map(|tensor| tensor.shape.elem_count()).sum())
}

impl ChatModel {
    /// Opens a GGUF file of the architecture `qwen2`, `qwen3` or `llama`. `tokenizer` is a
    /// `tokenizer.json`; without it the file's own vocabulary is read.
    ///
    /// # Errors
    /// A file that cannot be read or is none; another architecture; a vocabulary of a kind that is not
    /// known here; no chat template.
    pub fn open(path: &Path, tokenizer: Option<&Path>) -> Result<Self> {
        let unreadable = |reason: std::io::Error| Error::Read {
            path: path.to_owned(),
            reason: reason.to_string(),
        };
        let fault = |reason: String| Error::File {
            path: path.to_owned(),
            reason,
        };
        let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
        let name = format!(
            "{}@{}",
            path.file_stem().unwrap_or_default().to_string_lossy(),
            hash(&mut reader).map_err(unreadable)?
        );
        reader.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let content = Content::read(&mut reader)
            .map_err(|error| fault(format!("expected a GGUF file: {error}")))?;
        let text = |key: &str| text_of(&content.metadata, key);
        let number = |key: &str| content.metadata.get(key).and_then(|v| v.to_u32().ok());
        let architecture = text("general.architecture").unwrap_or_default();
        let context = number(&format!("{architecture}.context_length")).unwrap_or(0) as usize;

        let tokenizer = match tokenizer {
            Some(file) => {
                let bytes = std::fs::read(file).map_err(|reason| Error::Read {
                    path: file.to_owned(),
                    reason: reason.to_string(),
                })?;
                Tokenizer::from_bytes(&bytes).map_err(|reason| Error::File {
                    path: file.to_owned(),
                    reason,
                })?
            }
            None => {
                let json = vocabulary::tokenizer_json(&content.metadata).map_err(|reason| {
                    fault(format!(
                        "{reason}; give --tokenizer tokenizer.json of the model"
                    ))
                })?;
                Tokenizer::from_bytes(json.to_string().as_bytes()).map_err(fault)?
            }
        };
        let template = text("tokenizer.chat_template").ok_or_else(|| {
            fault("it holds no tokenizer.chat_template: it is no chat model".into())
        })?;
        let template =
            ChatTemplate::new(template, path).map_err(|error| fault(error.to_string()))?;

        let token = |key: &str| {
            let id = number(key)?;
            Some((id, tokenizer.decode(&[id], false).ok()?))
        };
        let mut special = Map::from_iter([("enable_thinking".to_owned(), json!(false))]);
        let mut ends: Vec<u32> = TURN_ENDS
            .iter()
            .filter_map(|end| tokenizer.token_to_id(end))
            .collect();
        for (argument, key) in [
            ("bos_token", "tokenizer.ggml.bos_token_id"),
            ("eos_token", "tokenizer.ggml.eos_token_id"),
        ] {
            let found = token(key);
            let shown = found.as_ref().map_or("", |(_, text)| text.as_str());
            special.insert(argument.to_owned(), json!(shown));
            ends.extend(found.filter(|_| argument == "eos_token").map(|(id, _)| id));
        }
        ends.extend(number("tokenizer.ggml.eot_token_id"));
        if ends.is_empty() {
            return Err(fault(
                "it names no token that ends a turn (tokenizer.ggml.eos_token_id)".into(),
            ));
        }

        let device = Device::Cpu;
        let loaded = match architecture.as_str() {
            "qwen2" => quantized_qwen2::ModelWeights::from_gguf(content, &mut reader, &device)
                .map(Weights::Qwen2),
            "qwen3" => quantized_qwen3::ModelWeights::from_gguf(content, &mut reader, &device)
                .map(Weights::Qwen3),
            "llama" => quantized_llama::ModelWeights::from_gguf(content, &mut reader, &device)
                .map(Weights::Llama),
            other => {
                return Err(fault(format!(
                    "expected the architecture qwen2, qwen3 or llama, found '{other}'"
                )));
            }
        };
        let weights = loaded.map_err(|error| fault(format!("its weights: {error}")))?;
        Ok(ChatModel {
            name,
            weights,
            tokenizer,
            template,
            special,
            ends,
            context,
        })
    }

    /// The file's name without its extension, and the beginning of its BLAKE3 hash.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The greedy reply to messages in the form of transformers, a list of `{"role", "content"}`, of at
    /// most `most` tokens.
    ///
    /// # Errors
    /// Messages that the template does not take, or that are longer than the model reads.
    pub fn reply(&mut self, messages: &Value, most: usize) -> Result<LocalReply> {
        let refused = |error: qwen2_5_vl::ProcessorError| Error::Question(error.to_string());
        let text = self
            .template
            .render(messages, true, &self.special)
            .map_err(refused)?;
        let prompt = self.tokenizer.encode(&text).map_err(refused)?;
        if prompt.is_empty() || prompt.len() >= self.context {
            return Err(Error::Question(format!(
                "the question has {} tokens; the model reads 1 to {}",
                prompt.len(),
                self.context.saturating_sub(1)
            )));
        }
        let most = most.min(self.context - prompt.len());
        self.weights.forget();
        let mut run = |ids: &[u32], position: usize| -> Result<Vec<f32>> {
            let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
            let scores = self.weights.forward(&ids, position)?;
            Ok(scores.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
        };
        let mut scores = Vec::new();
        for (index, piece) in prompt.chunks(PIECE).enumerate() {
            scores = run(piece, index * PIECE)?;
        }
        let mut said = Vec::new();
        let mut finished = false;
        while said.len() < most {
            let best =
                scores
                    .iter()
                    .enumerate()
                    .fold(
                        None,
                        |best: Option<(usize, f32)>, (id, &score)| match best {
                            Some((_, most)) if most >= score || score.is_nan() => best,
                            _ => Some((id, score)),
                        },
                    );
            let Some((token, score)) = best else { break };
            if !score.is_finite() {
                return Err(Error::Question(
                    "the model's scores are not finite: its file is damaged, or of another \
                     architecture than it says"
                        .into(),
                ));
            }
            said.push(token as u32);
            finished = self.ends.contains(&(token as u32));
            if finished || said.len() == most {
                break;
            }
            scores = run(&[token as u32], prompt.len() + said.len() - 1)?;
        }
        let words = &said[..said.len() - usize::from(finished)];
        Ok(LocalReply {
            text: self.tokenizer.decode(words, true).map_err(refused)?,
            finished,
            prompt_tokens: prompt.len(),
            completion_tokens: said.len(),
        })
    }
}

/// The text of a key.
pub(crate) fn text_of(metadata: &HashMap<String, Metadata>, key: &str) -> Option<String> {
    metadata.get(key)?.to_string().ok().cloned()
}

/// The beginning of a file's BLAKE3 hash.
fn hash(reader: &mut impl Read) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut part = vec![0; 1 << 20];
    loop {
        match reader.read(&mut part)? {
            0 => break,
            read => hasher.update(&part[..read]),
        };
    }
    let mut digits = hasher.finalize().to_hex().to_string();
    digits.truncate(HASH_DIGITS);
    Ok(digits)
}
