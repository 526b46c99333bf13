//! Training that goes wrong says so.
//!
//! A line of metrics is held against the profile's thresholds. Numbers that are not finite always
//! end the run; other alarms are warnings or end it, as the profile says, and stand in the metrics
//! either way.

use results::UpdateMetrics;

use crate::profile::{AlarmAction, Alarms};
use crate::{Error, Result};

/// What is wrong with the updates of one stage so far.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    best_validation: Option<f64>,
    /// Kinds of alarms that were raised, each said once.
    said: Vec<&'static str>,
}

impl Watch {
    /// Holds a line against the thresholds and writes its alarms into it; the sentences that were
    /// not said before.
    ///
    /// # Errors
    /// A number that is not finite, or any alarm where the profile says that alarms stop.
    pub fn look(&mut self, alarms: &Alarms, line: &mut UpdateMetrics) -> Result<Vec<String>> {
        let stop = |line: &UpdateMetrics, problem: String| Error::Training {
            stage: line.stage.clone(),
            update: line.update,
            problem,
        };
        for (name, value) in [
            ("the loss", line.loss),
            ("the KL divergence", line.kl),
            ("the gradient's norm", line.grad_norm),
            ("the importance ratio", line.ratio),
        ] {
            if !value.is_finite() {
                let problem = format!(
                    "{name} is {value}: lower grpo.learning_rate; the state before this update is kept"
                );
                return Err(stop(line, problem));
            }
        }
        let found = self.alarms(alarms, line);
        line.alarms = found.iter().map(|(kind, _)| (*kind).to_owned()).collect();
        if alarms.action == AlarmAction::Stop
            && let Some((_, sentence)) = found.first()
        {
            return Err(stop(line, sentence.clone()));
        }
        let mut fresh = Vec::new();
        for (kind, sentence) in found {
            if !self.said.contains(&kind) {
                self.said.push(kind);
                fresh.push(format!(
                    "{}, update {}: {sentence}",
                    line.stage, line.update
                ));
            }
        }
        Ok(fresh)
    }

    fn alarms(&mut self, alarms: &Alarms, line: &UpdateMetrics) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut above = |kind, what: &str, value: f64, limit: f64, advice: &str| {
            if value > limit {
                let sentence =
                    format!("{what} is {value:.3}, above alarms.{kind} = {limit}: {advice}");
                found.push((kind, sentence));
            }
        };
        above(
            "kl",
            "the KL divergence from the reference policy",
            line.kl,
            alarms.kl,
            "lower grpo.learning_rate or raise grpo.kl_coefficient",
        );
        above(
            "grad_norm",
            "the gradient's norm",
            line.grad_norm,
            alarms.grad_norm,
            "lower grpo.learning_rate",
        );
        above(
            "ratio",
            "the first importance ratio's distance from 1",
            (line.ratio - 1.0).abs(),
            alarms.ratio,
            "sampler and trainer disagree",
        );
        above(
            "zero_variance",
            "the share of groups that teach nothing",
            line.zero_variance_groups,
            alarms.zero_variance,
            "the questions are too easy or too hard, or the policy has collapsed",
        );
        if line.tool_call_rate < alarms.call_rate {
            found.push((
                "call_rate",
                format!(
                    "the share of episodes that call a tool is {:.3}, below alarms.call_rate = {}: the \
                     policy stops using its tools",
                    line.tool_call_rate, alarms.call_rate
                ),
            ));
        }
        if let Some(validation) = &line.validation {
            let best = self.best_validation.unwrap_or(validation.accuracy);
            let fall = best - validation.accuracy;
            if fall > alarms.validation_fall {
                found.push((
                    "validation_fall",
                    format!(
                        "greedy validation fell from {best:.3} to {:.3}, by more than \
                         alarms.validation_fall = {}, at a mean reward of {:.3}",
                        validation.accuracy, alarms.validation_fall, line.reward
                    ),
                ));
            }
            self.best_validation = Some(best.max(validation.accuracy));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use results::Validation;

    fn good() -> UpdateMetrics {
        UpdateMetrics {
            stage: "iapo".into(),
            update: 7,
            ratio: 1.0,
            tool_call_rate: 0.9,
            validation: Some(Validation {
                accuracy: 0.6,
                ..Validation::default()
            }),
            ..UpdateMetrics::default()
        }
    }

    #[test]
    fn each_alarm_is_raised_by_its_cause_and_said_once() {
        let alarms = Profile::load("micro", &[]).unwrap().alarms;
        type Cause<'a> = &'a dyn Fn(&mut UpdateMetrics);
        let provoked: [(&str, Cause); 6] = [
            ("kl", &|line| line.kl = 12.0),
            ("grad_norm", &|line| line.grad_norm = 2e28),
            ("ratio", &|line| line.ratio = 0.5),
            ("zero_variance", &|line| line.zero_variance_groups = 1.0),
            ("call_rate", &|line| line.tool_call_rate = 0.0),
            ("validation_fall", &|line| {
                line.validation.as_mut().unwrap().accuracy = 0.0;
            }),
        ];
        for (kind, cause) in provoked {
            let mut watch = Watch::default();
            let mut line = good();
            assert!(watch.look(&alarms, &mut line).unwrap().is_empty(), "{kind}");
            assert!(line.alarms.is_empty());
            cause(&mut line);
            let said = watch.look(&alarms, &mut line).unwrap();
            assert_eq!(line.alarms, [kind]);
            assert!(said[0].contains(&format!("alarms.{kind}")), "{said:?}");
            assert!(watch.look(&alarms, &mut line).unwrap().is_empty());
            let mut strict = alarms.clone();
            strict.action = AlarmAction::Stop;
            if kind != "validation_fall" {
                let error = Watch::default().look(&strict, &mut line).unwrap_err();
                assert!(error.to_string().contains("iapo, update 7"), "{error}");
            }
        }
    }

    #[test]
    fn numbers_that_are_none_always_stop() {
        let alarms = Profile::load("micro", &[]).unwrap().alarms;
        for spoil in [
            (|line: &mut UpdateMetrics| line.loss = f64::NAN) as fn(&mut UpdateMetrics),
            |line| line.grad_norm = f64::INFINITY,
        ] {
            let mut line = good();
            spoil(&mut line);
            assert!(Watch::default().look(&alarms, &mut line).is_err());
        }
    }
}
