//! Which form of IAPO's penalty sees wrong tool calls: gate 3 for every form that a profile can name.
//!
//! `cargo run --release --example forms -- [STUDENT] [TEACHER] [--out results/attribution/forms.md]`
//!
//! On sampled tool calls of validation questions: the area under the ROC curve of the divergence
//! between student and teacher as a detector of wrong calls, over pairs of calls of one prompt (0.5
//! sees nothing), and the seconds that one call costs for both models. The profile's form was chosen
//! by this table.

use std::time::Instant;

use anyhow::Result;
use attribution::{Baseline, BlockMass, Divergence, Method};
use baselines::attribution_settings::{AttributedTokens, AttributionSettings};
use benchmarks::evaluation::Scoring;
use replicate::alignment::attribute;
use replicate::gates::{Detection, SampledCalls, detection, sample_calls, teacher_surprise};

mod subject;
use subject::Subject;

#[global_allocator]
static ALLOCATOR: fused_ops::allocator::CachingAllocator = fused_ops::allocator::CachingAllocator;

/// Validation questions of each family, and samples of each.
const QUESTIONS: usize = 16;
const SAMPLES: usize = 8;
/// Every so-manieth prompt is taken for integrated gradients, which cost the most.
const INTEGRATED_STRIDE: usize = 3;

const DIVERGENCES: [Divergence; 3] = [
    Divergence::Kl,
    Divergence::JensenShannon,
    Divergence::TotalVariation,
];

fn main() -> Result<()> {
    let mut subject = Subject::from_arguments("results/attribution/forms.md")?;
    let (items, stream) = subject.validation(QUESTIONS, "forms")?;
    let profile = subject.profile.clone();
    let (policy, teacher) = (&mut subject.student, &subject.teacher);
    let sampled = sample_calls(
        policy,
        &subject.data,
        &items,
        SAMPLES,
        &stream,
        Scoring::Exact,
    )?;
    let replicates = profile.gates.replicates;
    let few = SampledCalls {
        prompts: sampled
            .prompts
            .iter()
            .step_by(INTEGRATED_STRIDE)
            .cloned()
            .collect(),
    };
    let student = policy.model.detached()?;

    let form = &profile.evaluation.attribution;
    let control = teacher_surprise(policy, teacher, &sampled, form)?;
    let control = detection(&sampled, &control, replicates);
    let mut page = format!(
        "# Which form of the penalty sees wrong calls\n\n{} validation prompts whose calls were right \
         and wrong ({} pairs), sampled from the student at temperature 1; for integrated gradients \
         every third of them. Area under the ROC curve within prompts ± its standard error. Made by `cargo run --release \
         --example forms`.\n\nThe control, minus the teacher's log-probability of the call: {}.\n\n\
         | method | baseline | sums | tokens | KL | Jensen-Shannon | total variation | seconds a call |\n\
         |---|---|---|---|---:|---:|---:|---:|\n",
        control.prompts,
        control.pairs,
        cell(&control),
    );
    for settings in forms() {
        let taken = match settings.method {
            Method::IntegratedGradients { .. } => &few,
            _ => &sampled,
        };
        let encoded = taken.encode(policy)?;
        let sites = taken.sites(policy, &encoded)?;
        let calls: usize = sites.iter().map(|site| site.calls.len()).sum();
        let clock = Instant::now();
        let of_student = attribute(&student, &sites, &settings, policy.budgets)?;
        let of_teacher = attribute(teacher, &sites, &settings, policy.budgets)?;
        let seconds = clock.elapsed().as_secs_f64() / calls as f64;
        page += &format!(
            "| {} | {} | {} | {} |",
            match &settings.method {
                Method::PathDifferences(levels) =>
                    format!("path differences, {} steps", levels.steps),
                Method::IntegratedGradients { quadrature } =>
                    format!("integrated gradients, {} nodes", quadrature.len()),
                _ => "occlusion".to_owned(),
            },
            match settings.baseline {
                Baseline::Zero => "zero",
                Baseline::BlockMean => "block mean",
            },
            match settings.masses {
                BlockMass::Absolute => "absolute",
                BlockMass::Signed => "signed",
                BlockMass::PositiveDrops => "positive drops",
            },
            match settings.tokens {
                AttributedTokens::All => "all",
                AttributedTokens::Content => "content",
            },
        );
        for divergence in DIVERGENCES {
            let mut scores = Vec::with_capacity(sites.len());
            for (student, teacher) in of_student.iter().zip(&of_teacher) {
                let pairs = student.iter().zip(teacher);
                let score = pairs.map(|(s, t)| divergence.between(&s.shares, &t.shares));
                scores.push(score.collect::<attribution::Result<Vec<f64>>>()?);
            }
            page += &format!(" {} |", cell(&detection(taken, &scores, replicates)));
        }
        page += &format!(" {seconds:.4} |\n");
    }
    subject.publish(&page)
}

/// Every form that differs from the others.
fn forms() -> Vec<AttributionSettings> {
    let mut forms = Vec::new();
    for baseline in [Baseline::Zero, Baseline::BlockMean] {
        let integrated = |nodes| Method::IntegratedGradients {
            quadrature: AttributionSettings::quadrature(baseline, nodes),
        };
        let differences =
            |steps| Method::PathDifferences(AttributionSettings::levels(baseline, steps));
        for method in [
            Method::Occlusion {},
            differences(4),
            differences(8),
            integrated(4),
            integrated(16),
        ] {
            // One number a block has no signed sum, and only drops are positive or not.
            let second = match method.scores_tokens() {
                true => BlockMass::Signed,
                false => BlockMass::PositiveDrops,
            };
            for masses in [BlockMass::Absolute, second] {
                for tokens in [AttributedTokens::All, AttributedTokens::Content] {
                    forms.push(AttributionSettings {
                        method: method.clone(),
                        baseline,
                        masses,
                        tokens,
                        ..AttributionSettings::paper()
                    });
                }
            }
        }
    }
    forms
}

fn cell(found: &Detection) -> String {
    match found.auc {
        Some([auc, error]) => format!("{auc:.2} ± {error:.2}"),
        None => "–".to_owned(),
    }
}
