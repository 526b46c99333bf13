//! Sampled turns of many episodes as one forward pass, each token once.
//!
//! An episode's second prompt is, where the chat template renders it so, its first prompt, what the
//! policy wrote, and what was said since. So the turns of a question are a tree: the prompt, from it
//! the distinct calls, from each call its observation, from that the answers. A segment sees its
//! ancestors and itself, so every hidden state is that of the turn's own sequence, and a prompt of P
//! tokens with G episodes of a call of C, an observation of O and an answer of A tokens costs
//! `P + G (C + O + A)` tokens, where a sequence for each distinct prompt costs
//! `P + G C + G (P + C + O + A)`.
//!
//! A prompt that does not begin with the turn that it follows (a template that drops or rewrites what
//! was said, text that is tokenised in another way than it was sampled) is a tree of its own, and
//! counted.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use candle_core::Tensor;
use fused_ops::{AttentionLayout, Segment, TokenLogProbs};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::positions::Positions;
use crate::prompt::Prompt;

/// One turn of an episode: what the policy saw, and what it wrote.
#[derive(Clone, Copy, Debug)]
pub struct SampledTurn<'a> {
    /// The whole conversation before the turn. Turns that share a prompt must lend the same one: it is
    /// known by its address, since equal tokens may stand for different images.
    pub prompt: &'a Prompt,
    /// The tokens that were sampled, the stop token included.
    pub token_ids: &'a [u32],
    /// The earlier turn, by its place in the list, that this one's conversation goes on with: its
    /// images are then the first of this one's.
    pub follows: Option<usize>,
}

/// Turns laid out for one forward pass.
#[derive(Clone, Debug)]
pub struct PackedTurns {
    /// Token ids of all segments.
    pub input_ids: Vec<u32>,
    /// Their rotary positions.
    pub positions: Positions,
    /// What sees what.
    pub layout: AttentionLayout,
    /// Merged image features in the order of the image tokens, `(merged, hidden)`.
    pub image_features: Option<Tensor>,
    /// For each turn, where its tokens stand in `targets`.
    pub turns: Vec<Range<usize>>,
    /// The sampled tokens of all turns.
    pub targets: Vec<u32>,
    /// The tokens whose hidden states predict them: ascending, each once.
    pub predictors: Vec<usize>,
    /// For each target its predictor, by its place in `predictors`.
    predictor_of: Vec<u32>,
    /// The tokens that the same turns would take with a sequence for each distinct prompt.
    pub separate_tokens: usize,
    /// Turns whose prompt does not begin with the turn that they follow.
    pub not_continued: usize,
}

/// A segment before it has a place.
struct Node<'a> {
    tokens: &'a [u32],
    positions: Positions,
    features: Option<Tensor>,
    parent: Option<usize>,
    children: Vec<usize>,
    /// A prompt's or observation's last token predicts; a completion's only where something follows.
    is_completion: bool,
}

impl Node<'_> {
    /// Tokens that are computed.
    fn length(&self) -> usize {
        match self.is_completion && self.children.is_empty() {
            true => self.tokens.len() - 1,
            false => self.tokens.len(),
        }
    }
}

#[derive(Default)]
struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    /// The node that ends a prompt, by its address, and the node it was continued from.
    prompts: HashMap<(*const Prompt, Option<usize>), usize>,
    /// The completion of a prompt's node.
    completions: HashMap<(usize, &'a [u32]), usize>,
}

impl<'a> Tree<'a> {
    fn add(&mut self, node: Node<'a>) -> usize {
        let index = self.nodes.len();
        if let Some(parent) = node.parent {
            self.nodes[parent].children.push(index);
        }
        self.nodes.push(node);
        index
    }

    /// The node that ends `prompt`, of which `known` tokens with `images` image tokens end in `parent`.
    fn prompt(
        &mut self,
        model: &Model,
        prompt: &'a Prompt,
        parent: Option<usize>,
        known: usize,
        images: usize,
    ) -> Result<usize> {
        let key = (std::ptr::from_ref(prompt), parent);
        if let Some(&node) = self.prompts.get(&key) {
            return Ok(node);
        }
        let all = model.image_tokens(&prompt.input_ids, prompt.image_features.as_ref())?;
        let positions = model.positions(&prompt.input_ids, &prompt.grids)?;
        let features = match &prompt.image_features {
            Some(features) if all > images => Some(features.narrow(0, images, all - images)?),
            _ => None,
        };
        let node = self.add(Node {
            tokens: &prompt.input_ids[known..],
            positions: positions.narrow(known..prompt.input_ids.len())?,
            features,
            parent,
            children: Vec::new(),
            is_completion: false,
        });
        self.prompts.insert(key, node);
        Ok(node)
    }

    fn completion(&mut self, prompt: usize, token_ids: &'a [u32]) -> usize {
        if let Some(&node) = self.completions.get(&(prompt, token_ids)) {
            return node;
        }
        let next = self.nodes[prompt].positions.next();
        let node = self.add(Node {
            tokens: token_ids,
            positions: Positions::text(next, token_ids.len()),
            features: None,
            parent: Some(prompt),
            children: Vec::new(),
            is_completion: true,
        });
        self.completions.insert((prompt, token_ids), node);
        node
    }

    /// Parents before their children, a node's descendants right after it.
    fn order(&self) -> Vec<usize> {
        let roots = (0..self.nodes.len()).filter(|&node| self.nodes[node].parent.is_none());
        let mut open: Vec<usize> = roots.collect();
        open.reverse();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(node) = open.pop() {
            order.push(node);
            open.extend(self.nodes[node].children.iter().rev());
        }
        order
    }
}

/// The tokens of `prompt` that are the whole turn `before`, where it begins with it.
fn continued(before: &SampledTurn<'_>, prompt: &Prompt) -> Option<usize> {
    let rest = prompt
        .input_ids
        .strip_prefix(&before.prompt.input_ids[..])?;
    let rest = rest.strip_prefix(before.token_ids)?;
    let images_too = prompt.grids.starts_with(&before.prompt.grids);
    (images_too && !rest.is_empty()).then(|| prompt.input_ids.len() - rest.len())
}

impl PackedTurns {
    /// Lays out turns; a turn that another follows comes before it.
    ///
    /// # Errors
    /// A turn without tokens or that follows none before it, a prompt without tokens, and image
    /// features that do not fit (naming the turn).
    pub fn new(model: &Model, turns: &[SampledTurn<'_>]) -> Result<Self> {
        let mut tree = Tree::default();
        // Of each turn the nodes that end its prompt and its completion.
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(turns.len());
        let mut not_continued = 0;
        for (index, turn) in turns.iter().enumerate() {
            let fault = |what: &str| Error::Argument(format!("turn {index} {what}"));
            if turn.token_ids.is_empty() || turn.prompt.input_ids.is_empty() {
                return Err(fault("has no tokens, or its prompt has none"));
            }
            let known = match turn.follows {
                None => None,
                Some(before) if before < index => {
                    let known = continued(&turns[before], turn.prompt);
                    not_continued += usize::from(known.is_none());
                    known.map(|known| (before, known))
                }
                Some(_) => return Err(fault("follows one that does not come before it")),
            };
            let (parent, known, images) = match known {
                None => (None, 0, 0),
                Some((before, known)) => {
                    let image = model.config().image_token_id;
                    let ids = &turn.prompt.input_ids[..known];
                    let images = ids.iter().filter(|&&id| id == image).count();
                    (Some(places[before].1), known, images)
                }
            };
            let prompt = tree
                .prompt(model, turn.prompt, parent, known, images)
                .map_err(|error| Error::Images(format!("turn {index}: {error}")))?;
            places.push((prompt, tree.completion(prompt, turn.token_ids)));
        }
        let mut packed = PackedTurns {
            not_continued,
            separate_tokens: separate_tokens(turns),
            ..Self::laid_out(&tree)?
        };
        packed.predict(&tree, turns, &places);
        Ok(packed)
    }

    /// The segments of a tree, without targets.
    fn laid_out(tree: &Tree<'_>) -> Result<Self> {
        let order = tree.order();
        let mut segment_of = vec![0; tree.nodes.len()];
        let mut segments = Vec::with_capacity(order.len());
        let (mut input_ids, mut positions) = (Vec::new(), Positions::default());
        let mut features = Vec::new();
        for (place, &index) in order.iter().enumerate() {
            let node = &tree.nodes[index];
            let length = node.length();
            segment_of[index] = place;
            segments.push(Segment {
                length,
                parent: node.parent.map(|parent| segment_of[parent]),
            });
            input_ids.extend_from_slice(&node.tokens[..length]);
            positions.extend(&node.positions.narrow(0..length)?);
            features.extend(node.features.clone());
        }
        Ok(PackedTurns {
            layout: AttentionLayout::tree(&segments)?,
            input_ids,
            positions,
            image_features: match features.is_empty() {
                true => None,
                false => Some(Tensor::cat(&features, 0)?),
            },
            turns: Vec::new(),
            targets: Vec::new(),
            predictors: Vec::new(),
            predictor_of: Vec::new(),
            separate_tokens: 0,
            not_continued: 0,
        })
    }

    fn predict(&mut self, tree: &Tree<'_>, turns: &[SampledTurn<'_>], places: &[(usize, usize)]) {
        let mut start_of = vec![0; tree.nodes.len()];
        let mut start = 0;
        for index in tree.order() {
            start_of[index] = start;
            start += tree.nodes[index].length();
        }
        let mut predictor_of_target = Vec::new();
        for (turn, &(prompt, completion)) in turns.iter().zip(places) {
            let from = self.targets.len();
            self.targets.extend_from_slice(turn.token_ids);
            self.turns.push(from..self.targets.len());
            // A prompt's node is never empty.
            predictor_of_target.push(start_of[prompt] + tree.nodes[prompt].length() - 1);
            let first = start_of[completion];
            predictor_of_target.extend(first..first + turn.token_ids.len() - 1);
        }
        self.predictors = predictor_of_target.clone();
        self.predictors.sort_unstable();
        self.predictors.dedup();
        self.predictor_of = predictor_of_target
            .iter()
            .map(|&token| self.predictors.partition_point(|&other| other < token) as u32)
            .collect();
    }

    /// Input embeddings, `(tokens, hidden)`.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn embed(&self, model: &Model) -> Result<Tensor> {
        model.embed(&self.input_ids, self.image_features.as_ref())
    }

    /// Log-probability and entropy of every target at a temperature, from input embeddings.
    ///
    /// # Errors
    /// As [`Model::hidden_of`] and [`Model::token_log_probs`].
    pub fn log_probs(
        &self,
        model: &Model,
        embeddings: &Tensor,
        temperature: f64,
    ) -> Result<TokenLogProbs> {
        let hidden =
            model.hidden_of(&self.predictors, embeddings, &self.positions, &self.layout)?;
        self.score(model, &hidden, temperature)
    }

    /// As [`PackedTurns::log_probs`], from the hidden states of [`PackedTurns::predictors`] alone,
    /// `(predictors, hidden)`: what [`Model::backward_with_recompute_of`] hands to its loss.
    ///
    /// # Errors
    /// As [`Model::token_log_probs`].
    pub fn score(&self, model: &Model, hidden: &Tensor, temperature: f64) -> Result<TokenLogProbs> {
        let index = Tensor::new(&self.predictor_of[..], hidden.device())?;
        let hidden = hidden.index_select(&index, 0)?;
        model.token_log_probs(&hidden, &self.targets, temperature)
    }
}

/// Tokens of a sequence for each distinct prompt, with its completions as branches.
fn separate_tokens(turns: &[SampledTurn<'_>]) -> usize {
    let mut met: HashSet<*const Prompt> = HashSet::new();
    let own = turns.iter().map(|turn| {
        let prompt = match met.insert(std::ptr::from_ref(turn.prompt)) {
            true => turn.prompt.input_ids.len(),
            false => 0,
        };
        prompt + turn.token_ids.len() - 1
    });
    own.sum()
}
