//! Occlusion of whole blocks: leave one block out.
//!
//! `drop_b = F(e) − F(e with block b's embeddings replaced by the baseline's)`. Source: Zeiler and
//! Fergus 2014 (arXiv 1311.2901), with a block of a prompt in place of an image patch. There is no
//! completeness gap: the drops of blocks that need each other overlap, and what they lack to
//! `F(e) − F(e')` is that interaction and no error.

use crate::error::Result;
use crate::functions::{AttributedFunctions, checked_values};
use crate::path::{Path, Point};
use crate::result::{Attribution, Scores, narrowed};

/// The drop of `F` when one block at a time is replaced by the baseline, for every call of every
/// path. One value for each block that has tokens, and one at the input.
pub(crate) fn occlusion<F: AttributedFunctions>(
    paths: &[Path],
    functions: &mut F,
) -> std::result::Result<Vec<Vec<Attribution>>, F::Error> {
    // For every path the blocks that are left out, then the input.
    let occupied: Vec<Vec<usize>> = paths.iter().map(|path| path.blocks().occupied()).collect();
    let mut points = Vec::new();
    for (path, occupied) in occupied.iter().enumerate() {
        let whole = vec![1.0; paths[path].blocks().count()];
        points.extend(occupied.iter().map(|&gone| {
            let mut shares = whole.clone();
            shares[gone] = 0.0;
            Point { path, shares }
        }));
        points.push(Point {
            path,
            shares: whole,
        });
    }
    let mut values = checked_values(functions, paths, &points)?.into_iter();
    let mut found = Vec::with_capacity(paths.len());
    for (path, occupied) in paths.iter().zip(&occupied) {
        let without: Vec<Vec<f64>> = values.by_ref().take(occupied.len()).collect();
        let at_input = values.next().unwrap_or_default();
        let own = at_input.iter().enumerate().map(|(call, &f_input)| {
            let mut drops = vec![0.0; path.blocks().count()];
            for (&block, values) in occupied.iter().zip(&without) {
                drops[block] = f_input - values[call];
            }
            attribution(&drops, f_input, occupied.len() + 1).map_err(F::Error::from)
        });
        found.push(own.collect::<std::result::Result<Vec<_>, _>>()?);
    }
    Ok(found)
}

fn attribution(drops: &[f64], f_input: f64, points: usize) -> Result<Attribution> {
    Ok(Attribution {
        scores: Scores::Blocks(narrowed(drops, "block")?),
        elements: None,
        f_input,
        completeness: None,
        forward_points: points,
        gradient_points: 0,
    })
}
