//! The servers that an experiment asks: judge and verifier, each behind a client that keeps every
//! reply in the experiment's folder, so that what was judged once is not asked again.

use std::path::Path;
use std::time::Duration;

use benchmarks::TestSet;
use benchmarks::data::AnswerRule;
use benchmarks::evaluation::Scoring;
use benchmarks::judge::{EndpointJudge, Judge};
use chat_endpoint::{ApiKey, Cache, Client, Settings};
use results::Manifest;

use super::Replication;
use crate::profile::{ModelServer, Profile, TrainingRubric};
use crate::{Error, Result};

/// Requests in a row without a connection after which a server is given up.
const GIVE_UP_AFTER: u32 = 5;

/// The clients of a profile's servers.
pub(super) struct Servers {
    judge: Option<Client>,
    verifier: Option<Client>,
}

impl Servers {
    /// Clients whose replies are kept in `folder`. No server is asked yet.
    ///
    /// # Errors
    /// A setting that cannot work; a cache that cannot be opened or is in use.
    pub fn open(profile: &Profile, folder: &Path) -> Result<Self> {
        let client = |name: &'static str, key: &str, server: &ModelServer| -> Result<Client> {
            let failed = |problem: String| Error::Server { name, problem };
            let cache = Cache::open(folder.join(format!("{name}.jsonl")))
                .map_err(|error| failed(error.to_string()))?;
            let settings = Settings {
                concurrency: server.concurrency,
                timeout: Duration::from_secs(server.timeout),
                max_wait: Duration::from_secs(server.max_wait),
                give_up_after: Some(GIVE_UP_AFTER),
                ..Settings::new(&server.url, &server.model)
            };
            Client::new(settings, ApiKey::from_env(key), Some(cache))
                .map_err(|error| failed(error.to_string()))
        };
        let judge = profile.judge.as_ref().map(|judge| &judge.server);
        Ok(Servers {
            judge: judge
                .map(|server| client("judge", "JUDGE_API_KEY", server))
                .transpose()?,
            verifier: profile
                .verifier
                .as_ref()
                .map(|server| client("verifier", "VERIFIER_API_KEY", server))
                .transpose()?,
        })
    }

    /// The verifier's client.
    pub fn verifier(&self) -> Option<&Client> {
        self.verifier.as_ref()
    }

    /// An error once a server was given up: what it did not judge is not recorded as final, and the same
    /// command with `--resume` asks again.
    pub fn check_answering(&self) -> Result<()> {
        for (name, client) in [("judge", &self.judge), ("verifier", &self.verifier)] {
            if let Some(reason) = client.as_ref().and_then(Client::given_up) {
                return Err(Error::Server {
                    name,
                    problem: format!(
                        "its server was given up: {reason}; replies that were had are kept: see that \
                         it answers, and give the same command with --resume"
                    ),
                });
            }
        }
        Ok(())
    }

    /// Writes into a manifest what the servers cost and refused.
    pub fn describe(&self, manifest: &mut Manifest) {
        for (role, client) in [("judge", &self.judge), ("verifier", &self.verifier)] {
            let Some(client) = client else { continue };
            for (name, count) in client.usage().counts() {
                manifest.counts.insert(format!("{role}_{name}"), count);
            }
            let sentences = client.adaptations().sentences();
            let notes = sentences
                .iter()
                .map(|sentence| format!("{role}: {sentence}"));
            manifest.notes.extend(notes);
        }
    }
}

/// Who judges while training and in evaluation.
pub(super) struct Judges<'a> {
    rule: AnswerRule,
    /// The judge's model.
    model: Option<&'a str>,
    training: Option<EndpointJudge<'a>>,
    evaluation: Option<EndpointJudge<'a>>,
}

impl Judges<'_> {
    /// How the outcome of a training episode is told.
    pub fn training(&self) -> Scoring<'_> {
        match &self.training {
            Some(judge) => Scoring::Judged(judge),
            None => Scoring::of(self.rule, None),
        }
    }

    /// How validation and test answers are scored: by each set's own rule.
    pub fn evaluation(&self) -> Scoring<'_> {
        let judge = self.evaluation.as_ref().map(|judge| judge as &dyn Judge);
        Scoring::of(self.rule, judge)
    }

    /// Who scores a set's answers by a scoring of ours, and in which version.
    pub fn scorer(&self, scoring: Scoring<'_>, set: TestSet) -> (String, String) {
        scoring.scorer(set, self.model)
    }
}

impl Replication<'_> {
    /// The judges of this experiment.
    pub(super) fn judges(&self) -> Judges<'_> {
        let client = self.servers.judge.as_ref();
        let training = self.profile.judge.as_ref().and_then(|judge| judge.training);
        Judges {
            rule: self.data.rule(),
            model: self
                .profile
                .judge
                .as_ref()
                .map(|judge| judge.server.model.as_str()),
            training: client
                .zip(training.map(TrainingRubric::rubric))
                .map(|(client, rubric)| EndpointJudge::with_rubric(client, rubric)),
            evaluation: client.map(EndpointJudge::of_sets),
        }
    }
}
