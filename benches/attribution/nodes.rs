//! How many nodes integrated gradients need on the trained micro models, and what path differences,
//! which need no gradient, give for the blocks instead.
//!
//! `cargo run --release --example nodes -- [STUDENT] [TEACHER] [--out results/attribution/nodes.md]`
//!
//! On sampled tool calls of validation questions, for each baseline and rule: the median completeness
//! gap of the student, the distance of its block distribution from a converged one (total variation,
//! mean), how well the penalty KL(student ‖ teacher) ranks the calls of a prompt as the converged
//! penalty does (share of pairs in the same order, and the correlation of what a call's penalty is above the
//! mean of its prompt's), and seconds a call for both models.

use std::time::Instant;

use anyhow::Result;
use attribution::{Baseline, BlockMass, Divergence, Method, Quadrature, Rule};
use baselines::attribution_settings::AttributionSettings;
use benchmarks::evaluation::Scoring;
use qwen2_5_vl::Model;
use replicate::alignment::{CallAttribution, CalledPrompt, attribute};
use replicate::gates::{SampledCalls, sample_calls};
use replicate::policy::Budgets;

mod subject;
use subject::Subject;

#[global_allocator]
static ALLOCATOR: fused_ops::allocator::CachingAllocator = fused_ops::allocator::CachingAllocator;

/// Prompts that are looked at, and distinct calls of each.
const PROMPTS: usize = 24;
const CALLS: usize = 4;

/// The attributions of both models, and what they took.
struct Measured {
    student: Vec<Vec<CallAttribution>>,
    /// KL(student ‖ teacher) of every call.
    penalties: Vec<Vec<f64>>,
    seconds: f64,
}

fn main() -> Result<()> {
    let mut subject = Subject::from_arguments("results/attribution/nodes.md")?;
    let (items, stream) = subject.validation(16, "nodes")?;
    let policy = &mut subject.student;
    let mut sampled = sample_calls(policy, &subject.data, &items, 8, &stream, Scoring::Exact)?;
    // Every family has its turn.
    let step = (sampled.prompts.len() / PROMPTS).max(1);
    sampled.prompts = sampled
        .prompts
        .into_iter()
        .step_by(step)
        .take(PROMPTS)
        .collect();
    for prompt in &mut sampled.prompts {
        prompt.calls.truncate(CALLS);
    }
    let student = policy.model.detached()?;
    let encoded = sampled.encode(policy)?;
    let sites = sampled.sites(policy, &encoded)?;
    let page = page(&student, &subject.teacher, &sites, &sampled, policy.budgets)?;
    subject.publish(&page)
}

fn page(
    student: &Model,
    teacher: &Model,
    sites: &[CalledPrompt<'_>],
    sampled: &SampledCalls,
    budgets: Budgets,
) -> Result<String> {
    let calls: usize = sites.iter().map(|site| site.calls.len()).sum();
    let mut page = format!(
        "# Nodes of integrated gradients\n\n{calls} distinct calls of {} validation prompts, sampled \
         from the student at temperature 1; all tokens of a call. Absolute sums need the score of \
         every token; signed sums of a block are also given by path differences, whose gap is 0 by \
         construction and whose error is in the distance. Correlated are the penalties of calls, less \
         the mean of their prompt. Knee of the student's first norm {:.4}, of the teacher's {:.4}. Made \
         by `cargo run --release --example nodes`.\n",
        sampled.prompts.len(),
        student.norm_knee()?,
        teacher.norm_knee()?
    );
    for (baseline, masses) in [
        (Baseline::Zero, BlockMass::Absolute),
        (Baseline::Zero, BlockMass::Signed),
        (Baseline::BlockMean, BlockMass::Absolute),
        (Baseline::BlockMean, BlockMass::Signed),
    ] {
        let by_method = |method: Method| {
            let settings = AttributionSettings {
                method,
                baseline,
                masses,
                ..AttributionSettings::paper()
            };
            measure(student, teacher, |model| {
                attribute(model, sites, &settings, budgets)
            })
        };
        let converged = match baseline {
            Baseline::Zero => AttributionSettings::quadrature(baseline, 256),
            Baseline::BlockMean => Quadrature::GaussLegendre { nodes: 256 },
        };
        let by_rule = |rule: &Quadrature| {
            by_method(Method::IntegratedGradients {
                quadrature: rule.clone(),
            })
        };
        let reference = by_rule(&converged)?;
        page += &format!(
            "\n## Baseline {}, {} sums\n\nConverged: {}, median gap {:.1} %.\n\n\
             | rule | nodes | median gap | distance of blocks | pairs ranked alike | correlation | seconds a call |\n\
             |---|---:|---:|---:|---:|---:|---:|\n",
            match baseline {
                Baseline::Zero => "zero",
                Baseline::BlockMean => "block mean",
            },
            match masses {
                BlockMass::Signed => "signed",
                _ => "absolute",
            },
            name(&converged),
            100.0 * median_gap(&reference.student),
        );
        let line = |name: &str, nodes: usize, found: &Measured| -> Result<String> {
            Ok(format!(
                "| {name} | {nodes} | {:.1} % | {:.3} | {:.2} | {:.2} | {:.4} |\n",
                100.0 * median_gap(&found.student),
                distance(&found.student, &reference.student)?,
                agreement(&found.penalties, &reference.penalties),
                correlation(&found.penalties, &reference.penalties),
                found.seconds / calls as f64,
            ))
        };
        for nodes in [4, 8, 12, 16, 24, 32, 64] {
            let mut rules = vec![
                Quadrature::Riemann {
                    rule: Rule::Middle,
                    nodes,
                },
                Quadrature::GaussLegendre { nodes },
            ];
            if baseline == Baseline::Zero && nodes >= 8 {
                rules.push(AttributionSettings::quadrature(baseline, nodes));
                rules.push(AttributionSettings::norm_midpoint(
                    student.norm_knee()?,
                    nodes,
                ));
            }
            for rule in rules {
                page += &line(name(&rule), nodes, &by_rule(&rule)?)?;
            }
        }
        if masses == BlockMass::Signed {
            for steps in [1, 2, 4, 8, 16] {
                let levels = AttributionSettings::levels(baseline, steps);
                let found = by_method(Method::PathDifferences(levels))?;
                page += &line("path differences", steps, &found)?;
            }
        }
    }
    Ok(page)
}

fn name(rule: &Quadrature) -> &'static str {
    match rule {
        Quadrature::Riemann { .. } => "Riemann, middle",
        Quadrature::GaussLegendre { .. } => "Gauss-Legendre",
        Quadrature::LogGaussLegendre { .. } => "Gauss-Legendre in log α",
        Quadrature::NormMidpoint { .. } => "norm midpoints",
    }
}

fn measure(
    student: &Model,
    teacher: &Model,
    of: impl Fn(&Model) -> replicate::Result<Vec<Vec<CallAttribution>>>,
) -> Result<Measured> {
    let clock = Instant::now();
    let (student, teacher) = (of(student)?, of(teacher)?);
    let seconds = clock.elapsed().as_secs_f64();
    let penalties = student
        .iter()
        .zip(&teacher)
        .map(|(student, teacher)| {
            student
                .iter()
                .zip(teacher)
                .map(|(s, t)| Ok(Divergence::Kl.between(&s.shares, &t.shares)?))
                .collect()
        })
        .collect::<Result<_>>()?;
    Ok(Measured {
        student,
        penalties,
        seconds,
    })
}

fn median_gap(found: &[Vec<CallAttribution>]) -> f64 {
    let mut gaps: Vec<f64> = found
        .iter()
        .flatten()
        .filter_map(|call| call.relative_gap)
        .collect();
    gaps.sort_by(f64::total_cmp);
    gaps.get(gaps.len() / 2).copied().unwrap_or(f64::NAN)
}

fn distance(found: &[Vec<CallAttribution>], reference: &[Vec<CallAttribution>]) -> Result<f64> {
    let pairs = found.iter().flatten().zip(reference.iter().flatten());
    let distances = pairs
        .map(|(a, b)| Ok(Divergence::TotalVariation.between(&a.shares, &b.shares)?))
        .collect::<Result<Vec<f64>>>()?;
    Ok(distances.iter().sum::<f64>() / distances.len().max(1) as f64)
}

/// The share of pairs of calls of one prompt that two penalties put in the same order.
fn agreement(found: &[Vec<f64>], reference: &[Vec<f64>]) -> f64 {
    let (mut alike, mut pairs) = (0, 0);
    for (found, reference) in found.iter().zip(reference) {
        for i in 0..found.len() {
            for j in 0..i {
                pairs += 1;
                let order = |values: &[f64]| values[i].total_cmp(&values[j]);
                alike += usize::from(order(found) == order(reference));
            }
        }
    }
    f64::from(alike as u32) / f64::from(pairs.max(1) as u32)
}

/// The correlation of two penalties over all calls, each less the mean of its prompt's calls.
fn correlation(found: &[Vec<f64>], reference: &[Vec<f64>]) -> f64 {
    let (mut both, mut own, mut other) = (0.0, 0.0, 0.0);
    for (found, reference) in found.iter().zip(reference) {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let (mean_found, mean_reference) = (mean(found), mean(reference));
        for (a, b) in found.iter().zip(reference) {
            let (a, b) = (a - mean_found, b - mean_reference);
            both += a * b;
            own += a * a;
            other += b * b;
        }
    }
    both / (own * other).sqrt()
}
