//! What is wrong with a profile, by key, before anything is trained.

use std::collections::BTreeSet;

use qwen2_5_vl::ModelPart;

use baselines::{Evidence, Reward};

use super::{DataSettings, ModelServer, Profile};

/// Lowest sampling temperature: below it every logit difference is infinite in f32.
const LEAST_TEMPERATURE: f64 = 1e-3;

/// Where a number must lie.
enum Range {
    /// Finite and above 0.
    Positive,
    /// Finite and at least 0.
    NotNegative,
    /// 0 to 1.
    Share,
    /// At least 0 and below 1.
    BelowOne,
}

impl Range {
    fn problem(&self, key: &str, value: f64) -> Option<String> {
        let (holds, expected) = match self {
            Range::Positive => (value > 0.0 && value.is_finite(), "a number above 0"),
            Range::NotNegative => (value >= 0.0 && value.is_finite(), "a number, at least 0"),
            Range::Share => ((0.0..=1.0).contains(&value), "0 to 1"),
            Range::BelowOne => ((0.0..1.0).contains(&value), "at least 0 and below 1"),
        };
        (!holds).then(|| format!("{key} is {value}: expected {expected}"))
    }
}

impl Profile {
    /// The first thing that is wrong, with its key.
    pub(super) fn problem(&self) -> Option<String> {
        self.names()
            .or_else(|| self.questions())
            .or_else(|| self.counts())
            .or_else(|| self.numbers())
            .or_else(|| self.parts())
            .or_else(|| self.servers())
            .or_else(|| self.forms())
    }

    fn names(&self) -> Option<String> {
        let plain = |name: &str| {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            !name.is_empty() && name.chars().all(allowed)
        };
        if self.name.trim().is_empty() || self.name.contains(['/', '\\', '\n']) {
            return Some(format!("name is {:?}: expected a plain word", self.name));
        }
        if let Some(name) = self.arms.keys().find(|name| !plain(name)) {
            return Some(format!(
                "arms.{name}: a name is made of a-z, 0-9 and hyphens: it names a folder"
            ));
        }
        for reserved in [results::ArmName::UNTRAINED, results::ArmName::TEACHER] {
            if self.arms.contains_key(reserved) {
                return Some(format!(
                    "arms.{reserved}: the name is taken by a row of every table"
                ));
            }
        }
        self.trained_problem(&self.trained)
            .map(|why| format!("trained: {why}"))
    }

    /// What is wrong with a list of arms to train, if anything is.
    pub fn trained_problem(&self, names: &[String]) -> Option<String> {
        if names.is_empty() {
            return Some("no arm is named: expected at least one".into());
        }
        let mut known = BTreeSet::new();
        for name in names {
            if !self.arms.contains_key(name) {
                let all: Vec<&str> = self.arms.keys().map(String::as_str).collect();
                return Some(format!(
                    "unknown arm '{name}': expected some of {}",
                    all.join(", ")
                ));
            }
            if !known.insert(name) {
                return Some(format!("arm '{name}' is named twice"));
            }
        }
        None
    }

    fn questions(&self) -> Option<String> {
        match (&self.world, &self.data) {
            (Some(_), Some(_)) => Some("both 'world' and 'data': expected one of them".into()),
            (None, None) => Some("neither 'world' nor 'data': expected one of them".into()),
            (Some(world), None) => {
                let problem = world.difficulty.problem()?;
                Some(format!("world.difficulty.{problem}"))
            }
            (None, Some(data)) => data_problem(data),
        }
    }

    fn counts(&self) -> Option<String> {
        let compute = &self.compute;
        let positive = [
            ("seeds", self.seeds as usize),
            ("grpo.prompts", self.grpo.prompts),
            ("grpo.max_new_tokens", self.grpo.max_new_tokens),
            ("schedule.save_every", self.schedule.save_every),
            ("schedule.validate_every", self.schedule.validate_every),
            ("evaluation.questions", self.evaluation.questions),
            ("evaluation.validation", self.evaluation.validation),
            ("compute.update_tokens", compute.update_tokens),
            ("compute.scoring_tokens", compute.scoring_tokens),
            ("compute.attribution_tokens", compute.attribution_tokens),
            (
                "compute.attribution_gradient_tokens",
                compute.attribution_gradient_tokens,
            ),
            ("compute.rollout_tokens", compute.rollout_tokens),
            ("compute.vision_patches", compute.vision_patches),
            ("gates.replicates", self.gates.replicates),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Some(format!("{key} is 0: expected at least 1"));
            }
        }
        let (samples, most) = (self.grpo.samples, 1 << 20);
        if samples < 2 {
            return Some(format!(
                "grpo.samples is {samples}: a group needs at least 2 episodes"
            ));
        }
        let episodes = self.grpo.prompts.saturating_mul(samples);
        if episodes > most {
            return Some(format!(
                "grpo.prompts x grpo.samples is {episodes}: more than {most} episodes in an update"
            ));
        }
        if self.first_seed.checked_add(self.seeds).is_none() {
            return Some("first_seed + seeds is beyond the largest seed".into());
        }
        None
    }

    fn numbers(&self) -> Option<String> {
        let (grpo, gates, alarms) = (&self.grpo, &self.gates, &self.alarms);
        let temperature = grpo.temperature;
        if !(temperature >= LEAST_TEMPERATURE && temperature.is_finite()) {
            return Some(format!(
                "grpo.temperature is {temperature}: expected at least {LEAST_TEMPERATURE}; greedy \
                 groups have no variance"
            ));
        }
        if !(grpo.clip_low > 0.0 && grpo.clip_low <= 1.0) {
            let low = grpo.clip_low;
            return Some(format!(
                "grpo.clip_low is {low}: expected above 0, at most 1"
            ));
        }
        [
            ("grpo.learning_rate", grpo.learning_rate, Range::Positive),
            (
                "grpo.teacher_learning_rate",
                grpo.teacher_learning_rate,
                Range::Positive,
            ),
            ("grpo.clip_high", grpo.clip_high, Range::Positive),
            ("grpo.max_grad_norm", grpo.max_grad_norm, Range::Positive),
            ("grpo.adam_eps", grpo.adam_eps, Range::Positive),
            ("grpo.beta1", grpo.beta1, Range::BelowOne),
            ("grpo.beta2", grpo.beta2, Range::BelowOne),
            ("grpo.weight_decay", grpo.weight_decay, Range::NotNegative),
            (
                "grpo.kl_coefficient",
                grpo.kl_coefficient,
                Range::NotNegative,
            ),
            ("gates.right_gain", gates.right_gain, Range::Share),
            ("gates.wrong_loss", gates.wrong_loss, Range::Share),
            ("gates.call_rate", gates.call_rate, Range::Share),
            ("alarms.kl", alarms.kl, Range::Positive),
            ("alarms.grad_norm", alarms.grad_norm, Range::Positive),
            ("alarms.ratio", alarms.ratio, Range::Positive),
            ("alarms.call_rate", alarms.call_rate, Range::Share),
            ("alarms.zero_variance", alarms.zero_variance, Range::Share),
            (
                "alarms.validation_fall",
                alarms.validation_fall,
                Range::Share,
            ),
        ]
        .iter()
        .find_map(|(key, value, range)| range.problem(key, *value))
    }

    fn parts(&self) -> Option<String> {
        for part in &self.grpo.frozen {
            if let Err(error) = part.parse::<ModelPart>() {
                return Some(format!("grpo.frozen: {error}"));
            }
        }
        if let Some(p) = self.grpo.top_p
            && !(p > 0.0 && p <= 1.0)
        {
            return Some(format!("grpo.top_p is {p}: expected above 0, at most 1"));
        }
        let lora = self.grpo.lora.as_ref()?;
        if lora.rank == 0 {
            return Some("grpo.lora.rank is 0: expected at least 1".into());
        }
        if lora.targets.is_empty() {
            return Some(
                "grpo.lora.targets is empty: expected projections, for example [\"q_proj\", \"v_proj\"]"
                    .into(),
            );
        }
        Range::Positive.problem("grpo.lora.alpha", lora.alpha)
    }

    /// What is wrong with the servers, if anything is.
    fn servers(&self) -> Option<String> {
        if let Some(judge) = &self.judge {
            let share = Range::Share.problem("judge.most_unjudged", judge.most_unjudged);
            let server = || server_problem("judge.server", &judge.server);
            if let Some(problem) = share.or_else(server) {
                return Some(problem);
            }
            if self.world.is_some() {
                return Some("judge: the generated world needs none; leave the table out".into());
            }
        }
        if let Some(problem) = self
            .verifier
            .as_ref()
            .and_then(|server| server_problem("verifier", server))
        {
            return Some(problem);
        }
        self.trained
            .iter()
            .find(|name| {
                let arm = self.arms.get(*name);
                arm.is_some_and(|arm| arm.reward.method().evidence() == Evidence::Verifier)
            })
            .filter(|_| self.verifier.is_none())
            .map(|name| {
                format!("arms.{name} asks a verifier at an endpoint: expected a table [verifier]")
            })
    }

    fn forms(&self) -> Option<String> {
        if let Some(problem) = self.evaluation.attribution.problem() {
            return Some(format!("evaluation.attribution.{problem}"));
        }
        for (name, arm) in &self.arms {
            if let Some(problem) = arm.reward.method().problem() {
                return Some(format!("arms.{name}.{problem}"));
            }
            if let (results::ArmName::IAPO, Reward::Iapo(settings)) = (name.as_str(), &arm.reward)
                && !settings.attribution.is_papers_form()
            {
                return Some(
                    "arms.iapo.attribution is not the paper's form: an arm with another carries it in \
                     its name, for example arms.iapo-occlusion"
                        .into(),
                );
            }
            if arm.reward.method().evidence() == Evidence::Truth
                && self.world.is_none()
                && self.trained.contains(name)
            {
                return Some(format!(
                    "arms.{name} needs to know whether a call is right, which loaded questions do not \
                     say; leave it out of 'trained'"
                ));
            }
        }
        None
    }
}

/// What is wrong with the source of loaded questions, if anything is.
fn data_problem(data: &DataSettings) -> Option<String> {
    if data.folder.is_empty() {
        return Some("data.folder is empty: expected the folder with the sets".into());
    }
    if let Some(share) = data.held_out
        && !(share > 0.0 && share < 1.0)
    {
        return Some(format!(
            "data.held_out is {share}: expected above 0 and below 1"
        ));
    }
    let (least, most) = (data.min_pixels.unwrap_or(0), data.max_pixels);
    match most {
        Some(most) if most < least.max(1) => Some(format!(
            "data.max_pixels is {most}: expected at least data.min_pixels, {least}, and at least 1"
        )),
        _ => None,
    }
}

/// What is wrong with a server, if anything is; whether it answers is found out when it is asked.
fn server_problem(key: &str, server: &ModelServer) -> Option<String> {
    if !server.url.starts_with("http://") && !server.url.starts_with("https://") {
        return Some(format!(
            "{key}.url is {:?}: expected an address like http://localhost:8000/v1",
            server.url
        ));
    }
    if server.model.is_empty() {
        return Some(format!("{key}.model is empty: expected a model's name"));
    }
    [
        ("concurrency", server.concurrency as u64),
        ("timeout", server.timeout),
        ("max_wait", server.max_wait),
    ]
    .into_iter()
    .find(|(_, value)| *value == 0)
    .map(|(name, _)| format!("{key}.{name} is 0: expected at least 1"))
}
