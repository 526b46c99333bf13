//! Where a profile departs from the paper, as data for the report.
//!
//! Every key of a profile is taken apart here, so that a new key does not compile until it is said
//! to be the paper's, ours with a reason, or without influence on what is learnt.

use baselines::{Arm, Deviation, NOT_TOLD};
use benchmarks::data::{TrainingFigures, World};
use grpo::{LossAggregation, ScaleByStd, TrainedTurns};

use crate::profile::{
    Checkpoints, ComputeSettings, DataSettings, EvaluationSettings, Grpo, JudgeModel, LoraSettings,
    ModelServer, Profile, PromptWording, Schedule, TrainingRubric,
};

/// What is known of the models beyond the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// Parameters of the student.
    pub student_parameters: usize,
    /// Parameters of the teacher.
    pub teacher_parameters: usize,
}

/// The list while it grows.
struct List(Vec<Deviation>);

impl List {
    fn ours(&mut self, setting: &str, paper: &str, here: impl ToString, why: &str) {
        self.0.push(Deviation::new(setting, paper, here, why));
    }

    /// A key that is as the paper has it.
    fn papers<T>(&mut self, _key: &T) {}

    /// A key that changes nothing of what is learnt or scored.
    fn without_influence<T>(&mut self, _key: &T) {}
}

/// Every setting of `profile` and of its `arms` that differs from the paper's, or that the paper is
/// not known to tell.
pub fn deviations(profile: &Profile, arms: &[String], facts: ModelFacts) -> Vec<Deviation> {
    let Profile {
        name,
        trained,
        first_seed,
        seeds,
        world,
        data,
        judge,
        verifier,
        checkpoints: Checkpoints { student, teacher },
        schedule,
        grpo,
        compute,
        evaluation,
        episodes,
        gates,
        alarms,
        arms: tables,
    } = profile;
    let mut list = List(Vec::new());
    list.without_influence(&(name, trained, first_seed, episodes, gates, alarms));
    list.ours("seeds", NOT_TOLD, seeds, "intervals need several");
    list.ours(
        "student and teacher",
        "Qwen2.5-VL-3B-Instruct and -7B-Instruct",
        format!(
            "{student} ({}) and {teacher} ({})",
            count(facts.student_parameters),
            count(facts.teacher_parameters)
        ),
        "what the profile's machine can train",
    );
    questions(&mut list, world.as_ref(), data.as_ref());
    servers(&mut list, judge.as_ref(), verifier.as_ref());
    updates(&mut list, schedule);
    optimisation(&mut list, grpo);
    let ComputeSettings {
        weights,
        recompute,
        optimizer,
        teacher,
        update_tokens,
        scoring_tokens,
        attribution_tokens,
        attribution_gradient_tokens,
        rollout_tokens,
        vision_patches,
        image_features_mib,
    } = compute;
    list.without_influence(&(
        recompute,
        optimizer,
        teacher,
        update_tokens,
        scoring_tokens,
        attribution_tokens,
        attribution_gradient_tokens,
        rollout_tokens,
        vision_patches,
        image_features_mib,
    ));
    list.ours(
        "weights",
        NOT_TOLD,
        format!("{weights:?}").to_lowercase(),
        "what the device multiplies",
    );
    let EvaluationSettings {
        questions,
        validation,
        sampled,
        attributed,
        probe,
        attribution,
    } = evaluation;
    list.without_influence(&(validation, sampled, attributed, probe, attribution));
    if world.is_some() {
        list.ours(
            "test questions of a set",
            "250 to 1,000",
            questions,
            "generated, as many as wanted",
        );
    }
    for name in arms {
        if let Some(arm) = tables.get(name) {
            of_arm(&mut list, name, arm);
        }
    }
    list.0
}

fn questions(list: &mut List, world: Option<&World>, data: Option<&DataSettings>) {
    if let Some(World { seed, difficulty }) = world {
        list.ours(
            "data",
            "ReFocus training data and six test sets",
            format!("generated figures, six families that stand for the sets (seed {seed}, {difficulty:?})"),
            "runs anywhere in minutes; train and test are disjoint by construction",
        );
        list.ours(
            "second turn",
            "the edited image beside the original",
            "the edited image in place of the original, none after a failed call",
            "makes calls consequential for small models",
        );
    }
    let Some(DataSettings {
        folder,
        training,
        held_out,
        prompt,
        min_pixels,
        max_pixels,
    }) = data
    else {
        return;
    };
    list.without_influence(&(folder, held_out));
    if *training == TrainingFigures::Charts {
        list.ours(
            "training data",
            "charts and tables of ReFocus",
            "its charts",
            "VTool-R1's training tables are 70 % of the questions that the table sets ask",
        );
    } else {
        list.ours(
            "training data",
            "charts and tables of ReFocus",
            format!("{training:?}, without what a test set asks"),
            "what is tested is not trained on",
        );
    }
    if *prompt == PromptWording::Ours {
        list.ours(
            "description of the tools",
            "VTool-R1's, after the question, some 3,800 tokens",
            "ours, before the image, some 400 tokens",
            "a third of the tokens; block T of the prompt, which is measured, is another",
        );
    }
    if (*min_pixels, *max_pixels) != (Some(262_144), Some(4_194_304)) {
        let limit = |pixels: &Option<usize>| {
            pixels.map_or("the checkpoint's".to_owned(), |pixels| pixels.to_string())
        };
        list.ours(
            "pixels of a figure",
            "262,144 to 4,194,304 (VTool-R1)",
            format!("{} to {}", limit(min_pixels), limit(max_pixels)),
            "tokens that fit the machine",
        );
    }
}

fn servers(list: &mut List, judge: Option<&JudgeModel>, verifier: Option<&ModelServer>) {
    // TRM's own list says who verifies.
    list.without_influence(&verifier);
    let Some(JudgeModel {
        training,
        most_unjudged,
        server,
    }) = judge
    else {
        return;
    };
    list.without_influence(&(most_unjudged, &server.url));
    let vtool = "a judge, Qwen2.5-7B-Instruct (VTool-R1)";
    match training {
        Some(TrainingRubric::VtoolV1) => list.papers(training),
        Some(TrainingRubric::VtoolV2) => list.ours(
            "outcome in training",
            vtool,
            "a judge by the rubric of VTool-R1's second version",
            "the profile's choice",
        ),
        None => list.ours(
            "outcome in training",
            vtool,
            "the official rule of each set",
            "no judge errs in the reward",
        ),
    }
    list.ours("judge", vtool, &server.model, "the profile's choice");
}

fn updates(list: &mut List, schedule: &Schedule) {
    let Schedule {
        teacher,
        teacher_per_seed,
        cold_start,
        arm,
        save_every,
        validate_every,
    } = schedule;
    list.without_influence(&(save_every, validate_every));
    list.ours(
        "updates: teacher, cold start, arm",
        NOT_TOLD,
        format!("{teacher}, {cold_start}, {arm}"),
        "what the machine does in the time",
    );
    let (teachers, why) = match teacher_per_seed {
        true => ("one a seed", "intervals are not conditional on one teacher"),
        false => (
            "one, shared by all seeds",
            "time; seeds vary prompts and samples of the student",
        ),
    };
    list.ours("teachers", NOT_TOLD, teachers, why);
}

fn optimisation(list: &mut List, grpo: &Grpo) {
    let Grpo {
        prompts,
        samples,
        temperature,
        top_p,
        max_new_tokens,
        lora,
        frozen,
        trained_turns,
        learning_rate,
        teacher_learning_rate,
        warmup,
        decay,
        beta1,
        beta2,
        adam_eps,
        weight_decay,
        max_grad_norm,
        clip_low,
        clip_high,
        kl_estimator,
        kl_coefficient,
        loss_aggregation,
        advantage_scale,
    } = grpo;
    let vtool = |value: &str| format!("{NOT_TOLD} (VTool-R1: {value})");
    let mut ours = |setting: &str, known: &str, here: String, why: &str| {
        list.ours(setting, &vtool(known), here, why);
    };
    ours(
        "prompts x samples",
        "512 x 5, or 32 x 8",
        format!("{prompts} x {samples}"),
        "episodes that fit the machine",
    );
    if *temperature != 1.0 {
        ours(
            "temperature",
            "1.0",
            temperature.to_string(),
            "the profile's choice",
        );
    }
    match top_p {
        None => ours(
            "top-p",
            "0.99",
            "1.0: no token is cut off".into(),
            "log-probabilities stay those of the policy",
        ),
        Some(p) if *p != 0.99 => ours("top-p", "0.99", p.to_string(), "the profile's choice"),
        Some(_) => {}
    }
    ours(
        "longest turn",
        "8,192 tokens",
        format!("{max_new_tokens} tokens"),
        "a call or an answer of this data",
    );
    match lora {
        Some(LoraSettings {
            rank,
            alpha,
            targets,
        }) => ours(
            "trained weights",
            "all",
            format!(
                "low-rank adapters, rank {rank}, alpha {alpha}, on {}",
                targets.join(", ")
            ),
            "masters and moments of all weights do not fit one card of 80 GB",
        ),
        None if !frozen.is_empty() => ours(
            "frozen parts",
            "none",
            frozen.join(", "),
            "image features are computed once per image",
        ),
        None => {}
    }
    if *trained_turns == TrainedTurns::All {
        ours(
            "trained turns",
            "the last alone, in its second version",
            "all: a call gets a gradient".into(),
            "calls are what IAPO's reward is about",
        );
    }
    ours(
        "learning rate",
        "1e-6",
        format!(
            "{learning_rate:e} (teacher {teacher_learning_rate:e}), warm-up {warmup}, {decay:?}"
        ),
        "chosen on validation with plain GRPO",
    );
    if (*beta1, *beta2, *adam_eps) != (0.9, 0.999, 1e-8) {
        ours(
            "AdamW",
            "PyTorch's defaults",
            format!("{beta1}, {beta2}, {adam_eps:e}"),
            "the profile's choice",
        );
    }
    if *weight_decay != 1e-2 {
        ours(
            "weight decay",
            "1e-2",
            format!("{weight_decay:e}"),
            "the profile's choice",
        );
    }
    if *max_grad_norm != 1.0 {
        ours(
            "largest gradient norm",
            "1.0",
            max_grad_norm.to_string(),
            "the profile's choice",
        );
    }
    if (*clip_low, *clip_high) != (0.2, 0.3) {
        ours(
            "clip",
            "0.2 below, 0.3 above",
            format!("{clip_low} below, {clip_high} above"),
            "PPO's symmetric clip",
        );
    }
    if *kl_coefficient != 1e-2 || *kl_estimator != grpo::KlEstimator::K3 {
        ours(
            "KL",
            "1e-2, k3",
            format!("{kl_coefficient:e}, {kl_estimator:?}").to_lowercase(),
            "a weaker one let the tools go unused in a trial",
        );
    }
    if *loss_aggregation == LossAggregation::TokenMean {
        list.without_influence(loss_aggregation);
    } else {
        list.ours(
            "loss",
            &vtool("token mean"),
            format!("{loss_aggregation:?}"),
            "the profile's choice",
        );
    }
    let (scale, why) = match advantage_scale {
        ScaleByStd::Group { .. } => (
            "by the group's standard deviation",
            "an auxiliary term alone fills a group whose outcomes tie: see penalty_alone in the metrics",
        ),
        ScaleByStd::Batch { .. } => ("by the batch's standard deviation", "the profile's choice"),
        ScaleByStd::Outcome { .. } => (
            "by the standard deviation of the outcomes alone",
            "no auxiliary term is blown up where outcomes tie",
        ),
        ScaleByStd::None => (
            "not divided",
            "no auxiliary term is blown up where outcomes tie",
        ),
    };
    list.ours(
        "advantages",
        NOT_TOLD,
        format!("{scale} ({advantage_scale:?})"),
        why,
    );
}

fn of_arm(list: &mut List, name: &str, arm: &Arm) {
    let Arm { updates, reward } = arm;
    if let Some(updates) = updates {
        let setting = format!("{name}: updates");
        list.ours(
            &setting,
            "as every arm",
            updates,
            "equal time instead of equal updates",
        );
    }
    for deviation in reward.method().deviations() {
        list.0.push(Deviation {
            setting: format!("{name}: {}", deviation.setting),
            ..deviation
        });
    }
}

/// A number of parameters for people.
fn count(parameters: usize) -> String {
    match parameters {
        0..1_000_000 => format!("{:.2} M parameters", parameters as f64 / 1e6),
        1_000_000..1_000_000_000 => format!("{:.0} M parameters", parameters as f64 / 1e6),
        _ => format!("{:.1} B parameters", parameters as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_micro_profiles_deviations() {
        let profile = Profile::load("micro", &[]).unwrap();
        let facts = ModelFacts {
            student_parameters: 700_000,
            teacher_parameters: 7_600_000_000,
        };
        let arms: Vec<String> = profile.arms.keys().cloned().collect();
        let lines: Vec<String> = deviations(&profile, &arms, facts)
            .iter()
            .map(|d| format!("{} | {} | {} | {}", d.setting, d.paper, d.here, d.why))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }
}
