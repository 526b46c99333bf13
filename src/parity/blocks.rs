//! Block masses and divergences of given scores, with awkward blocks: empty, all zero, tiny.

use anyhow::{Context, Result};
use attribution::{BlockMass, Blocks, Distribution, jensen_shannon, kl, reverse_kl};
use serde_json::Value;

use super::checks::Checks;
use super::folder::{Folder, number_of, numbers_of};

const FILE: &str = "ig/blocks_synthetic.json";

pub fn run(folder: &Folder, checks: &mut Checks<'_>) -> Result<()> {
    let Some(cases) = folder.json_if_any(FILE)? else {
        return Ok(());
    };
    for (index, case) in cases.as_array().into_iter().flatten().enumerate() {
        checks.case(FILE, |checks| compare(index, case, checks))?;
    }
    Ok(())
}

fn compare(index: usize, case: &Value, checks: &mut Checks<'_>) -> Result<()> {
    let note = case["note"].as_str().unwrap_or("unnamed");
    let labels: Vec<usize> = serde_json::from_value(case["labels"].clone())?;
    let mut sides = Vec::new();
    for side in ["student", "teacher"] {
        let expected = numbers_of(&case[format!("{side}_mass")])?;
        let scores = numbers_of(&case[format!("{side}_scores")])?;
        let masses = masses(&labels, expected.len(), &scores)?;
        let shares = Distribution::new(&masses, 0.0)?.shares().to_vec();
        let key = format!("[{index}] {note} {side}_mass");
        checks.values(FILE, &key, &expected, &shares, None)?;
        sides.push(masses);
    }
    for (name, expected) in case.as_object().into_iter().flatten() {
        // `eps_1e_8` stands for 1e-8.
        let Some(eps) = name
            .strip_prefix("eps_")
            .and_then(|eps| eps.replace('_', "-").parse().ok())
        else {
            continue;
        };
        let key = format!("[{index}] {note} {name}");
        divergences(
            FILE,
            &key,
            expected,
            ["student", "teacher"],
            &sides,
            eps,
            checks,
        )?;
    }
    Ok(())
}

/// Block masses of scores that a file gives in full; they are f32 in the reference.
pub fn masses(labels: &[usize], blocks: usize, scores: &[f64]) -> Result<Vec<f64>> {
    let scores: Vec<f32> = scores.iter().map(|&score| score as f32).collect();
    let blocks = Blocks::new(labels.to_vec(), blocks)?;
    Ok(blocks.masses(&scores, BlockMass::Absolute, None)?)
}

/// Both directions of KL, and JS, of the masses of two named sides.
pub fn divergences(
    file: &str,
    key: &str,
    expected: &Value,
    [first, second]: [&str; 2],
    masses: &[Vec<f64>],
    eps: f64,
    checks: &mut Checks<'_>,
) -> Result<()> {
    let [p, q] = masses else {
        anyhow::bail!("divergences are between two sides, not {}", masses.len());
    };
    let (p, q) = (Distribution::new(p, eps)?, Distribution::new(q, eps)?);
    for (name, ours) in [
        (format!("kl_{first}_{second}"), kl(&p, &q)?),
        (format!("kl_{second}_{first}"), reverse_kl(&p, &q)?),
        ("js".to_owned(), jensen_shannon(&p, &q)?),
    ] {
        let reference =
            number_of(&expected[&name]).with_context(|| format!("{file} {key} {name}"))?;
        checks.values(file, &format!("{key} {name}"), &[reference], &[ours], None)?;
    }
    Ok(())
}
