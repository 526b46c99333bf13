//! Stage 1: the vision tower learns to read, with dense labels.
//!
//! Every merged token (one cell of the canvas) is classified against the table of word embeddings:
//! its own word directly, which also puts the tower's output on the scale of the embeddings; the
//! labels of its row and column and the value of its bar through linear heads that are dropped
//! afterwards. Loss = the sum of the mean cross-entropies of the four targets.

use benchmarks::curriculum::{CellTruth, label_text, token_id};
use candle_core::{Tensor, Var};
use fused_ops::{linear, token_log_probs};
use qwen2_5_vl::Model;

use crate::Result;

/// Logits are this many times the inner product of feature and word embedding, so that confident
/// features need no larger norm than a word embedding has.
const SHARPNESS: f64 = 8.0;

/// The heads of the dense labels, `(hidden, hidden)` each.
pub struct Heads {
    /// For the row's label.
    pub row: Var,
    /// For the column's label.
    pub column: Var,
    /// For the bar's value.
    pub bar: Var,
}

/// Loss and the share of right classifications of one target.
pub struct Dense {
    /// The loss to differentiate.
    pub loss: Tensor,
    /// Accuracy-like figure: mean probability of the right word, by target.
    pub mean_probability: [f32; 4],
}

/// The dense loss of merged features `(cells, hidden)` against the truth of every cell.
pub fn dense_loss(
    model: &Model,
    heads: &Heads,
    features: &Tensor,
    truth: &[CellTruth],
) -> Result<Dense> {
    let words = word_embeddings(model);
    let id = |text: &str| token_id(text).expect("labels and numbers are in the vocabulary");
    let blank = id("<|vision_pad|>");
    let own = |cell: &CellTruth| {
        Some(match (cell.label, cell.number) {
            (Some(label), _) => id(&label_text(label)),
            (None, Some(number)) => id(&number.to_string()),
            (None, None) => blank,
        })
    };
    let row = |cell: &CellTruth| cell.row.map(|label| id(&label_text(label)));
    let column = |cell: &CellTruth| cell.column.map(|label| id(&label_text(label)));
    let bar = |cell: &CellTruth| cell.bar.map(|value| id(&value.to_string()));
    type Target<'a> = (&'a dyn Fn(&CellTruth) -> Option<u32>, Option<&'a Var>);
    let targets: [Target; 4] = [
        (&own, None),
        (&row, Some(&heads.row)),
        (&column, Some(&heads.column)),
        (&bar, Some(&heads.bar)),
    ];
    let mut total = Tensor::zeros((), features.dtype(), features.device())?;
    let mut mean_probability = [0.0; 4];
    for (slot, (target, head)) in targets.into_iter().enumerate() {
        let (places, ids): (Vec<u32>, Vec<u32>) = truth
            .iter()
            .enumerate()
            .filter_map(|(place, cell)| target(cell).map(|id| (place as u32, id)))
            .unzip();
        if ids.is_empty() {
            continue;
        }
        let places = Tensor::new(places, features.device())?;
        let mut chosen = features.index_select(&places, 0)?;
        if let Some(head) = head {
            chosen = linear(&chosen, head.as_tensor(), None)?;
        }
        let scored = token_log_probs(&chosen, words, &ids, 1.0 / SHARPNESS, &[])?;
        mean_probability[slot] = fused_ops::exp(&scored.log_probs.detach())?
            .mean_all()?
            .to_scalar::<f32>()?;
        total = (total - scored.log_probs.mean_all()?)?;
    }
    Ok(Dense {
        loss: total,
        mean_probability,
    })
}

/// The table of word embeddings, `(vocab, hidden)`, as it trains.
fn word_embeddings(model: &Model) -> &Tensor {
    model
        .parameters()
        .get("model.embed_tokens.weight")
        .expect("every model has token embeddings")
        .as_tensor()
}
