//! Where a profile departs from the paper, as data for the report.

use attribution::{Baseline, BlockMass, Divergence, Method};
use results::Deviation;

use crate::attribution_settings::AttributedTokens;
use crate::profile::Profile;

const NOT_TOLD: &str = "not told";

/// Every setting that differs from the paper's, or that the paper is not known to tell.
pub fn deviations(profile: &Profile) -> Vec<Deviation> {
    let mut list = Vec::new();
    let mut say = |setting: &str, paper: &str, here: String, why: &str| {
        list.push(Deviation {
            setting: setting.to_owned(),
            paper: paper.to_owned(),
            here,
            why: why.to_owned(),
        });
    };
    let grpo = &profile.grpo;
    say(
        "student and teacher",
        "Qwen2.5-VL-3B and -7B",
        "models of the same architecture, about 0.7 M parameters each, one lineage".into(),
        "two CPU cores; a teacher of another lineage gave useless attributions",
    );
    say(
        "data",
        "ReFocus training data and six test sets",
        "generated figures, six families that stand for the sets".into(),
        "runs anywhere in minutes; train and test are disjoint by construction",
    );
    say(
        "second turn",
        "the edited image beside the original",
        "the edited image in place of the original, none after a failed call".into(),
        "makes calls consequential for small models",
    );
    say(
        "prompts x samples",
        NOT_TOLD,
        format!("{} x {}", grpo.prompts, grpo.samples),
        "VTool-R1 has 5 or 8 samples",
    );
    say(
        "learning rate",
        NOT_TOLD,
        format!("{:e}", grpo.learning_rate),
        "VTool-R1's 1e-6 is for 3 B parameters",
    );
    say(
        "vision tower",
        NOT_TOLD,
        "frozen".into(),
        "its features are computed once for each image",
    );
    say(
        "updates: teacher, cold start, arm",
        NOT_TOLD,
        format!(
            "{}, {}, {}",
            profile.schedule.teacher, profile.schedule.cold_start, profile.schedule.arm
        ),
        "what two cores do in the time",
    );
    say(
        "teachers",
        NOT_TOLD,
        "one, shared by all seeds".into(),
        "time; seeds vary prompts and samples of the student",
    );
    say(
        "TRM's verifier",
        "GPT-4o",
        format!(
            "the generator's knowledge, flipped with probability {}",
            profile.rewards.trm_error_rate
        ),
        "no endpoint is needed",
    );
    say(
        "weight of the divergence",
        NOT_TOLD,
        profile.rewards.iapo_weight.to_string(),
        "scaled to the rewards of the micro world",
    );
    let attribution = &profile.attribution;
    match &attribution.method {
        Method::Occlusion {} => say(
            "attribution",
            "integrated gradients",
            "occlusion: drop of the call's log-probability without a block".into(),
            "integrated gradients did not tell wrong calls from right ones at this scale",
        ),
        Method::PathDifferences(levels) => say(
            "integration",
            NOT_TOLD,
            format!("differences along {} steps of the path", levels.steps),
            "the integral for whole blocks, complete and without a backward pass",
        ),
        Method::IntegratedGradients { quadrature } => say(
            "integration",
            NOT_TOLD,
            format!("{} Gauss-Legendre nodes", quadrature.len()),
            "log-spaced where the baseline is zero",
        ),
        Method::GradientXInput {} | Method::AttentionRollout {} => say(
            "attribution",
            "integrated gradients",
            format!("{:?}", attribution.method),
            "this profile's choice",
        ),
    }
    if attribution.baseline == Baseline::BlockMean {
        say(
            "baseline",
            "zero, as far as known",
            "the block's mean embedding".into(),
            "RMS norms are steepest at zero",
        );
    }
    if attribution.masses != BlockMass::Absolute {
        say(
            "block masses",
            "sums of absolute scores",
            format!("{:?}", attribution.masses),
            "absolute sums hide what speaks against a call",
        );
    }
    if attribution.tokens == AttributedTokens::Content {
        say(
            "attributed tokens",
            "the tool call",
            "its tool and names".into(),
            "the other tokens are the same in every call",
        );
    }
    if attribution.divergence != Divergence::Kl {
        say(
            "divergence",
            "KL(student, teacher)",
            format!("{:?}", attribution.divergence),
            "bounded: an empty block cannot dominate a group",
        );
    }
    list
}
