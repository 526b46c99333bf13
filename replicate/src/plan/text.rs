//! A plan in words.

use std::fmt::Write;

use super::{Plan, memory};

impl Plan {
    /// The plan for a terminal.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            let _ = writeln!(text, "{line}");
        };
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let (work, card) = (&self.workload, &self.card);
        line(format!("plan of profile {}\n", self.profile));
        for model in &self.models {
            line(format!(
                "{:<8} {:.3} B parameters of language, {:.3} B of vision",
                model.role,
                model.language as f64 / 1e9,
                model.tower as f64 / 1e9
            ));
        }
        line(format!(
            "assumed  a prompt of {} tokens with an image of {} patches, a call of {}, an observation of {} \
             with an image, an answer of {}; {:.0} % of a prompt's calls distinct; {} test questions",
            work.first_prompt(),
            work.image_patches,
            work.call_tokens,
            work.observation_tokens,
            work.answer_tokens,
            100.0 * work.distinct_calls,
            work.test_questions
        ));
        line(format!(
            "assumed  {} card(s) of {:.0} GB, {:.0} TFLOP/s sustained, {:.0} tokens generated a second, {} an \
             hour",
            card.count,
            gb(card.memory),
            card.flops / 1e12,
            card.decoded,
            card.price
        ));
        line("\nmemory at the worst moment, GB (of the last parts only the largest counts)".into());
        for stage in &self.memory {
            let fits = match stage.peak() <= memory::usable(card.memory) {
                true => "fits",
                false => "DOES NOT FIT",
            };
            line(format!(
                "{:<16} {:>7.1}  {fits}",
                stage.stage,
                gb(stage.peak())
            ));
            for part in &stage.parts {
                let mark = if part.always { "" } else { " (passing)" };
                line(format!("  {:<38} {:>7.2}{mark}", part.name, gb(part.bytes)));
            }
        }
        line("\ntime of one update: tokens, operations, seconds".into());
        for stage in &self.time {
            let Some(update) = &stage.update else {
                continue;
            };
            line(format!("{:<16} {:>46.0} s", stage.stage, update.total()));
            let parts = update
                .tokens
                .iter()
                .zip(&update.operations)
                .zip(&update.seconds);
            for (((name, tokens), (_, operations)), (_, seconds)) in parts {
                line(format!(
                    "  {name:<18} {:>10.0} k {:>12.3} PFLOP {:>12.1} s",
                    tokens / 1e3,
                    operations / 1e15,
                    seconds
                ));
            }
        }
        line("\nhours of one card".into());
        for stage in &self.time {
            line(format!(
                "{:<16} {:>6} updates {:>10.1} h{}",
                stage.stage,
                stage.updates,
                stage.hours,
                if stage.shared {
                    ", before the arms"
                } else {
                    ""
                }
            ));
        }
        line(format!(
            "{:<16} {:>25.1} h, {:.0} in money; {:.1} h with {} card(s) side by side, an arm or a seed each",
            "all", self.hours[0], self.cost, self.hours[1], card.count
        ));
        if !self.changes.is_empty() {
            line(format!(
                "\nit does not fit {:.0} GB; each of these alone makes it fit (--set KEY=VALUE)",
                gb(card.memory)
            ));
            for change in &self.changes {
                line(format!("  {change}"));
            }
        }
        text
    }
}
