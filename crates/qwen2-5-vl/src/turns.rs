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
    /// The images that these are of: a turn, and which of its prompt's images.
    pub images: Vec<(usize, usize)>,
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
    parent: Option<usize>,
    children: Vec<usize>,
    part: Part,
}

/// What a segment is a part of.
enum Part {
    /// The end of the prompt of this turn, the first that has it.
    Prompt {
        turn: usize,
        /// What of the prompt stands before the segment.
        before: Extent,
    },
    /// What a policy wrote.
    Completion,
}

/// The beginning of a prompt.
#[derive(Clone, Copy, Default)]
struct Extent {
    tokens: usize,
    images: usize,
}

impl Node<'_> {
    /// Tokens that are computed: a prompt's or observation's last token predicts, a completion's only
    /// where something follows.
    fn length(&self) -> usize {
        match self.part {
            Part::Completion if self.children.is_empty() => self.tokens.len() - 1,
            _ => self.tokens.len(),
        }
    }
}

/// Segments of turns, with no model yet.
#[derive(Default)]
struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    /// The node that ends a prompt, by its address, and the node it was continued from.
    prompts: HashMap<(*const Prompt, Option<usize>), usize>,
    /// The completion of a prompt's node.
    completions: HashMap<(usize, &'a [u32]), usize>,
    /// Of each turn the nodes that end its prompt and its completion.
    places: Vec<(usize, usize)>,
    /// Turns whose prompt does not begin with the turn that they follow.
    not_continued: usize,
}

impl<'a> Tree<'a> {
    fn of(turns: &[SampledTurn<'a>]) -> Result<Self> {
        let mut tree = Tree::default();
        for (index, turn) in turns.iter().enumerate() {
            let fault = |what: &str| Error::Argument(format!("turn {index} {what}"));
            if turn.token_ids.is_empty() || turn.prompt.input_ids.is_empty() {
                return Err(fault("has no tokens, or its prompt has none"));
            }
            let known = match turn.follows {
                None => None,
                Some(before) if before < index => {
                    let known = continued(&turns[before], turn.prompt);
                    tree.not_continued += usize::from(known.is_none());
                    known.map(|known| (tree.places[before].1, known))
                }
                Some(_) => return Err(fault("follows one that does not come before it")),
            };
            let (parent, before) = match known {
                None => (None, Extent::default()),
                Some((parent, before)) => (Some(parent), before),
            };
            let prompt = tree.prompt(index, turn.prompt, parent, before);
            let completion = tree.completion(prompt, turn.token_ids);
            tree.places.push((prompt, completion));
        }
        Ok(tree)
    }

    fn add(&mut self, tokens: &'a [u32], parent: Option<usize>, part: Part) -> usize {
        let index = self.nodes.len();
        if let Some(parent) = parent {
            self.nodes[parent].children.push(index);
        }
        self.nodes.push(Node {
            tokens,
            parent,
            children: Vec::new(),
            part,
        });
        index
    }

    /// The node that ends `prompt`, which is that of `turn` and of which `before` ends in `parent`.
    fn prompt(
        &mut self,
        turn: usize,
        prompt: &'a Prompt,
        parent: Option<usize>,
        before: Extent,
    ) -> usize {
        let key = (std::ptr::from_ref(prompt), parent);
        if let Some(&node) = self.prompts.get(&key) {
            return node;
        }
        let tokens = &prompt.input_ids[before.tokens..];
        let node = self.add(tokens, parent, Part::Prompt { turn, before });
        self.prompts.insert(key, node);
        node
    }

    fn completion(&mut self, prompt: usize, token_ids: &'a [u32]) -> usize {
        if let Some(&node) = self.completions.get(&(prompt, token_ids)) {
            return node;
        }
        let node = self.add(token_ids, Some(prompt), Part::Completion);
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

/// What of `prompt` is the whole turn `before`, where it begins with it.
fn continued(before: &SampledTurn<'_>, prompt: &Prompt) -> Option<Extent> {
    let rest = prompt
        .input_ids
        .strip_prefix(&before.prompt.input_ids[..])?;
    let rest = rest.strip_prefix(before.token_ids)?;
    let images_too = prompt.grids.starts_with(&before.prompt.grids);
    (images_too && !rest.is_empty()).then(|| Extent {
        tokens: prompt.input_ids.len() - rest.len(),
        images: before.prompt.grids.len(),
    })
}

impl PackedTurns {
    /// Lays out turns; a turn that another follows comes before it.
    ///
    /// # Errors
    /// A turn without tokens or that follows none before it, a prompt without tokens, and image
    /// features that do not fit (naming the turn).
    pub fn new(model: &Model, turns: &[SampledTurn<'_>]) -> Result<Self> {
        let tree = Tree::of(turns)?;
        let mut packed = PackedTurns {
            not_continued: tree.not_continued,
            separate_tokens: separate_tokens(turns),
            ..Self::laid_out(model, &tree, turns)?
        };
        packed.predict(&tree, turns);
        Ok(packed)
    }

    /// The tokens that [`PackedTurns::new`] would lay out.
    ///
    /// # Errors
    /// A turn without tokens or that follows none before it.
    pub fn count(turns: &[SampledTurn<'_>]) -> Result<usize> {
        Ok(Tree::of(turns)?.nodes.iter().map(Node::length).sum())
    }

    /// The segments of a tree, without targets.
    fn laid_out(model: &Model, tree: &Tree<'_>, turns: &[SampledTurn<'_>]) -> Result<Self> {
        let order = tree.order();
        let mut segment_of = vec![0; tree.nodes.len()];
        // Where a text that goes on with a node begins.
        let mut next_of = vec![0; tree.nodes.len()];
        let mut segments = Vec::with_capacity(order.len());
        let (mut input_ids, mut positions) = (Vec::new(), Positions::default());
        let (mut features, mut images) = (Vec::new(), Vec::new());
        for (place, &index) in order.iter().enumerate() {
            let node = &tree.nodes[index];
            let length = node.length();
            segment_of[index] = place;
            segments.push(Segment {
                length,
                parent: node.parent.map(|parent| segment_of[parent]),
            });
            input_ids.extend_from_slice(&node.tokens[..length]);
            match node.part {
                Part::Prompt { turn, before } => {
                    let prompt = turns[turn].prompt;
                    let fault = |error| Error::Images(format!("turn {turn}: {error}"));
                    let (own, new) = of_prompt(model, prompt, before).map_err(fault)?;
                    next_of[index] = own.next();
                    positions.extend(&own.narrow(before.tokens..prompt.input_ids.len())?);
                    features.extend(new);
                    images.extend((before.images..prompt.grids.len()).map(|image| (turn, image)));
                }
                Part::Completion => {
                    // A completion always has the prompt that it answers.
                    let first = node.parent.map_or(0, |prompt| next_of[prompt]);
                    positions.extend(&Positions::text(first, length));
                }
            }
        }
        Ok(PackedTurns {
            layout: AttentionLayout::tree(&segments)?,
            input_ids,
            positions,
            image_features: match features.is_empty() {
                true => None,
                false => Some(Tensor::cat(&features, 0)?),
            },
            images,
            turns: Vec::new(),
            targets: Vec::new(),
            predictors: Vec::new(),
            predictor_of: Vec::new(),
            separate_tokens: 0,
            not_continued: 0,
        })
    }

    fn predict(&mut self, tree: &Tree<'_>, turns: &[SampledTurn<'_>]) {
        let mut start_of = vec![0; tree.nodes.len()];
        let mut start = 0;
        for index in tree.order() {
            start_of[index] = start;
            start += tree.nodes[index].length();
        }
        let mut predictor_of_target = Vec::new();
        for (turn, &(prompt, completion)) in turns.iter().zip(&tree.places) {
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

/// Positions of a prompt, and the features of the images that do not stand in its beginning.
fn of_prompt(
    model: &Model,
    prompt: &Prompt,
    before: Extent,
) -> Result<(Positions, Option<Tensor>)> {
    let all = model.image_tokens(&prompt.input_ids, prompt.image_features.as_ref())?;
    let positions = model.positions(&prompt.input_ids, &prompt.grids)?;
    let image = model.config().image_token_id;
    let beginning = &prompt.input_ids[..before.tokens];
    let known = beginning.iter().filter(|&&id| id == image).count();
    let features = match &prompt.image_features {
        Some(features) if all > known => Some(features.narrow(0, known, all - known)?),
        _ => None,
    };
    Ok((positions, features))
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
