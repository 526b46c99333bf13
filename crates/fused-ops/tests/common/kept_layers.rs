//! Two layers on two packed prefixes, and two continuations of each prefix after them.

use candle_core::{Device, Result, Tensor, Var};
use fused_ops::{
    AttentionLayout, FeedForwardWeights, KeptLayer, Projection, QueryBlock, SelfAttentionOptions,
    SelfAttentionWeights, attention, feed_forward, linear, rms_norm, rotary,
};

use super::normal;

const HIDDEN: usize = 24;
const INNER: usize = 40;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 8;
const EPS: f64 = 1e-6;
const SCALE: f64 = 0.3;
/// Tokens of the prefixes: more than a block of rows, and few.
const PREFIXES: [usize; 2] = [130, 7];
/// Tokens of the continuations.
const LENGTHS: [usize; 2] = [2, 40];

/// The weights of a layer: norm, q, k, v with biases, o, norm, gate, up, down.
type Layer = Vec<Tensor>;

fn layer(seed: u64) -> Layer {
    let (of_heads, of_keys) = (HEADS * DIM, KV_HEADS * DIM);
    let shapes: [&[usize]; 12] = [
        &[HIDDEN],
        &[of_heads, HIDDEN],
        &[of_heads],
        &[of_keys, HIDDEN],
        &[of_keys],
        &[of_keys, HIDDEN],
        &[of_keys],
        &[HIDDEN, of_heads],
        &[HIDDEN],
        &[INNER, HIDDEN],
        &[INNER, HIDDEN],
        &[HIDDEN, INNER],
    ];
    let shapes = shapes.iter().enumerate();
    shapes
        .map(|(index, shape)| normal(shape, 100 * seed + index as u64))
        .collect()
}

fn feed_forward_weights(layer: &Layer) -> FeedForwardWeights<'_> {
    FeedForwardWeights {
        norm: &layer[8],
        eps: EPS,
        gate: &layer[9],
        up: &layer[10],
        down: &layer[11],
    }
}

fn tables(tokens: usize, seed: u64) -> [Tensor; 2] {
    let angles = normal(&[tokens, DIM], seed);
    [angles.cos().unwrap(), angles.sin().unwrap()]
}

/// Everything that goes in.
pub struct Case {
    layers: Vec<Layer>,
    prefix: Tensor,
    prefix_tables: [Tensor; 2],
    /// Of all continuations, prefix by prefix in each length.
    words: Tensor,
    word_tables: [Tensor; 2],
}

/// What comes out: the continuations' hidden states, the gradients of their own input and those of the
/// prefixes' input, for each length.
pub type Found = [Tensor; 3];

impl Case {
    pub fn new() -> Self {
        let (tokens, words) = (PREFIXES.iter().sum(), 2 * LENGTHS.iter().sum::<usize>());
        Case {
            layers: vec![layer(1), layer(2)],
            prefix: normal(&[tokens, HIDDEN], 3),
            prefix_tables: tables(tokens, 4),
            words: normal(&[words, HIDDEN], 5),
            word_tables: tables(words, 6),
        }
    }

    /// The gradient of what the last layer gives.
    fn grad(&self) -> Tensor {
        normal(self.words.dims(), 7)
    }

    fn kept(
        &self,
        index: usize,
        x: &Tensor,
        before: Option<(&KeptLayer, usize)>,
        tables: &[Tensor; 2],
        layout: &AttentionLayout,
    ) -> KeptLayer {
        let layer = &self.layers[index];
        let [q, k, v] = [1, 3, 5].map(|at| Projection {
            weight: &layer[at],
            bias: &layer[at + 1],
        });
        let weights = SelfAttentionWeights {
            norm: &layer[0],
            eps: EPS,
            q,
            k,
            v,
            o: &layer[7],
            heads: HEADS,
            kv_heads: KV_HEADS,
        };
        let options = SelfAttentionOptions {
            rotary: tables.each_ref(),
            layout,
            scale: SCALE,
            queries: None,
        };
        let of_layer = feed_forward_weights(layer);
        let whole = before.is_some() || index == 0;
        let kept = KeptLayer::new(x, before, &weights, whole.then_some(&of_layer), &options);
        kept.unwrap().unwrap()
    }

    /// By kept layers, all continuations at once.
    pub fn by_kept_layers(&self) -> Found {
        let layout = AttentionLayout::causal(&PREFIXES);
        let first = self.kept(0, &self.prefix, None, &self.prefix_tables, &layout);
        let x = first.out().unwrap();
        let second = self.kept(1, x, None, &self.prefix_tables, &layout);
        assert!(second.out().is_none());
        let prefix = [first, second];

        let before: usize = PREFIXES.iter().sum();
        let (mut blocks, mut row) = (Vec::new(), 0);
        for (index, length) in LENGTHS.into_iter().enumerate() {
            let mut key = index * before;
            for tokens in PREFIXES {
                blocks.push(QueryBlock {
                    queries: row..row + length,
                    visible: vec![key..key + tokens],
                    causal: Some(2 * before + row),
                });
                (row, key) = (row + length, key + tokens);
            }
        }
        let layout = AttentionLayout::new(blocks, row, 2 * before + row).unwrap();
        let mut x = self.words.clone();
        let mut after = Vec::new();
        for (index, layer) in prefix.iter().enumerate() {
            let kept = self.kept(index, &x, Some((layer, 2)), &self.word_tables, &layout);
            x = kept.out().unwrap().clone();
            after.push(kept);
        }
        let (own, of) = KeptLayer::backward(&after, &self.grad()).unwrap();
        let of_prefix = KeptLayer::backward_of_keys(&prefix, &of).unwrap();
        [x, own, of_prefix]
    }

    /// Queries, keys and values by their operators.
    fn project(&self, index: usize, x: &Tensor, [cos, sin]: &[Tensor; 2]) -> Result<[Tensor; 3]> {
        let layer = &self.layers[index];
        let n = rms_norm(x, &layer[0], EPS)?;
        let project = |at: usize, heads: usize| {
            linear(&n, &layer[at], Some(&layer[at + 1]))?.reshape(((), heads, DIM))
        };
        let (k, v) = (project(3, KV_HEADS)?, project(5, KV_HEADS)?);
        let k = rotary(&k, cos, sin)?;
        Ok([rotary(&project(1, HEADS)?, cos, sin)?, k, v])
    }

    /// What follows the projections.
    fn finish(
        &self,
        index: usize,
        x: &Tensor,
        [q, k, v]: [&Tensor; 3],
        layout: &AttentionLayout,
    ) -> Result<Tensor> {
        let layer = &self.layers[index];
        let attended = attention(q, k, v, layout, SCALE)?.reshape(((), HEADS * DIM))?;
        let x = (x + linear(&attended, &layer[7], None)?)?;
        Ok(feed_forward(&x, &feed_forward_weights(layer))?)
    }

    /// By operators in a graph, the continuations of one length after the other.
    pub fn by_operators(&self) -> Result<Found> {
        let prefix = Var::from_tensor(&self.prefix)?;
        let layout = AttentionLayout::causal(&PREFIXES);
        let [q, k, v] = self.project(0, &prefix, &self.prefix_tables)?;
        let x = self.finish(0, &prefix, [&q, &k, &v], &layout)?;
        let [_, next_k, next_v] = self.project(1, &x, &self.prefix_tables)?;
        let keys = [[k, v], [next_k, next_v]];

        let before: usize = PREFIXES.iter().sum();
        let (mut outs, mut of_words, mut of_prefix) = (Vec::new(), Vec::new(), Vec::new());
        let mut row = 0;
        for length in LENGTHS {
            let rows = 2 * length;
            let blocks = [0..PREFIXES[0], PREFIXES[0]..before];
            let blocks = blocks.into_iter().enumerate();
            let blocks = blocks.map(|(index, visible)| QueryBlock {
                queries: index * length..(index + 1) * length,
                visible: vec![visible],
                causal: Some(before + index * length),
            });
            let layout = AttentionLayout::new(blocks.collect(), rows, before + rows)?;
            let words = Var::from_tensor(&self.words.narrow(0, row, rows)?)?;
            let [cos, sin] = &self.word_tables;
            let tables = [cos.narrow(0, row, rows)?, sin.narrow(0, row, rows)?];
            let mut x = words.as_tensor().clone();
            for (index, [keys, values]) in keys.iter().enumerate() {
                let [q, k, v] = self.project(index, &x, &tables)?;
                let keys = Tensor::cat(&[keys, &k], 0)?;
                let values = Tensor::cat(&[values, &v], 0)?;
                x = self.finish(index, &x, [&q, &keys, &values], &layout)?;
            }
            let grad = self.grad().narrow(0, row, rows)?;
            let gradients = (&x * grad)?.sum_all()?.backward()?;
            outs.push(x.detach());
            of_words.push(gradients.get(&words).unwrap().clone());
            of_prefix.push(gradients.get(&prefix).unwrap().clone());
            row += rows;
        }
        Ok([
            Tensor::cat(&outs, 0)?,
            Tensor::cat(&of_words, 0)?,
            Tensor::stack(&of_prefix, 0)?,
        ])
    }
}

/// A layer that fits no prefix, layout or gradient of the case; each is refused.
pub fn assert_refusals() {
    let case = Case::new();
    let tokens: usize = PREFIXES.iter().sum();
    let layout = AttentionLayout::causal(&PREFIXES);
    let first = case.kept(0, &case.prefix, None, &case.prefix_tables, &layout);
    let gradient = |tokens: usize| {
        Tensor::zeros(
            (tokens, KV_HEADS, DIM),
            first.out().unwrap().dtype(),
            &Device::Cpu,
        )
        .unwrap()
    };
    let of = [gradient(2 * tokens), gradient(2 * tokens)];
    let layers = std::slice::from_ref(&first);
    assert!(KeptLayer::backward_of_keys(layers, std::slice::from_ref(&of)).is_ok());
    let uneven = [gradient(2 * tokens), gradient(tokens)];
    for wrong in [&[uneven][..], &[], &[of.clone(), of]] {
        assert!(KeptLayer::backward_of_keys(layers, wrong).is_err());
    }
    assert!(KeptLayer::backward_of_keys(&[], &[]).is_err());
    // Nothing stands before it.
    assert!(KeptLayer::backward(layers, first.out().unwrap()).is_err());
    assert!(KeptLayer::backward(layers, &case.words).is_err());
}
