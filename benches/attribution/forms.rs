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
use attribution::{BlockMass, Divergence};
use baselines::attribution_settings::{AttributionSettings, Baseline, Method, Tokens};
use replicate::alignment::attribute;
use replicate::evaluation::validation_questions;
use replicate::gates::{Detection, SampledCalls, detection, sample_calls, teacher_surprise};
use seeded_random::Stream;

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
    let (profile, policy) = (subject.profile.clone(), &mut subject.student);
    let teacher = &subject.teacher;
    let questions = validation_questions(&profile.world, QUESTIONS);
    let stream = Stream::new(profile.world.seed).purpose("forms");
    let sampled = sample_calls(policy, &questions, SAMPLES, &stream)?;
    let few = SampledCalls {
        prompts: sampled
            .prompts
            .iter()
            .step_by(INTEGRATED_STRIDE)
            .cloned()
            .collect(),
    };
    let student = policy.model.detached()?;

    let control = teacher_surprise(policy, teacher, &sampled, &profile.attribution)?;
    let control = detection(&sampled, &control);
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
            Method::Occlusion | Method::PathDifferences => &sampled,
            Method::IntegratedGradients => &few,
        };
        let encoded = taken.encode(policy)?;
        let sites = taken.sites(policy, &encoded);
        let calls: usize = sites.iter().map(|site| site.calls.len()).sum();
        let clock = Instant::now();
        let of_student = attribute(&student, &sites, &settings)?;
        let of_teacher = attribute(teacher, &sites, &settings)?;
        let seconds = clock.elapsed().as_secs_f64() / calls as f64;
        page += &format!(
            "| {} | {} | {} | {} |",
            match settings.method {
                Method::Occlusion => "occlusion".to_owned(),
                Method::PathDifferences => format!("path differences, {} steps", settings.nodes),
                Method::IntegratedGradients =>
                    format!("integrated gradients, {} nodes", settings.nodes),
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
                Tokens::All => "all",
                Tokens::Content => "content",
            },
        );
        for divergence in DIVERGENCES {
            let mut scores = Vec::with_capacity(sites.len());
            for (student, teacher) in of_student.iter().zip(&of_teacher) {
                let pairs = student.iter().zip(teacher);
                let score = pairs.map(|(s, t)| divergence.between(&s.shares, &t.shares));
                scores.push(score.collect::<attribution::Result<Vec<f64>>>()?);
            }
            page += &format!(" {} |", cell(&detection(taken, &scores)));
        }
        page += &format!(" {seconds:.4} |\n");
    }
    subject.publish(&page)
}

/// Every form that differs from the others.
fn forms() -> Vec<Attribution> {
    let mut forms = Vec::new();
    for (method, nodes) in [
        (Method::Occlusion, 1),
        (Method::PathDifferences, 4),
        (Method::PathDifferences, 8),
        (Method::IntegratedGradients, 4),
        (Method::IntegratedGradients, 16),
    ] {
        for baseline in [Baseline::Zero, Baseline::BlockMean] {
            for masses in [
                BlockMass::Absolute,
                BlockMass::Signed,
                BlockMass::PositiveDrops,
            ] {
                // One number a block has no signed sum, and only drops are positive or not.
                let tokens_have_scores = method == Method::IntegratedGradients;
                let other = if tokens_have_scores {
                    BlockMass::PositiveDrops
                } else {
                    BlockMass::Signed
                };
                if masses == other {
                    continue;
                }
                for tokens in [Tokens::All, Tokens::Content] {
                    forms.push(Attribution {
                        method,
                        baseline,
                        nodes,
                        masses,
                        tokens,
                        divergence: Divergence::Kl,
                    });
                }
            }
        }
    }
    forms
}

fn cell(found: &Detection) -> String {
    format!("{:.2} ± {:.2}", found.auc, found.standard_error)
}
