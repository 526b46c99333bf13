//! Any policy, with its completions kept on disk.
//!
//! For a local model that decodes greedily, or samples with the seeds of its requests: what it said
//! once it would say again, so a run that goes on, or whose answers only now have a judge, need not
//! generate them a second time.

use agent::{Completion, CompletionRequest, Policy};

use crate::cache::{Cache, CacheError, Cached};
use crate::request::{SamplingParameters, cache_key};

/// A policy whose completions come from a [`Cache`] where it has them. Those carry text alone.
#[derive(Debug)]
pub struct CachedPolicy<P> {
    policy: P,
    cache: Cache,
    /// What tells its completions from those of others: a hash of its weights.
    model: String,
    /// How the policy decodes.
    parameters: SamplingParameters,
}

/// What keeps a [`CachedPolicy`] from a completion.
#[derive(Debug, thiserror::Error)]
pub enum CachedPolicyError<E: std::error::Error + 'static> {
    /// The policy.
    #[error(transparent)]
    Policy(E),
    /// The cache on disk.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl<P> CachedPolicy<P> {
    /// `policy`, which must decode as `parameters` say, requests without a seed greedily, with `cache`.
    pub fn new(
        policy: P,
        cache: Cache,
        model: impl Into<String>,
        parameters: SamplingParameters,
    ) -> Self {
        CachedPolicy {
            policy,
            cache,
            model: model.into(),
            parameters,
        }
    }

    /// The policy itself.
    pub fn policy_mut(&mut self) -> &mut P {
        &mut self.policy
    }
}

impl<P: Policy> Policy for CachedPolicy<P> {
    type Error = CachedPolicyError<P::Error>;

    fn complete(
        &mut self,
        requests: &[CompletionRequest<'_>],
    ) -> Result<Vec<Result<Completion, Self::Error>>, Self::Error> {
        let keys: Vec<blake3::Hash> = requests
            .iter()
            .map(|request| {
                let parameters = self.parameters.of_request(request.seed);
                cache_key(&self.model, request.conversation, &parameters)
            })
            .collect();
        let mut completions: Vec<Option<Result<Completion, Self::Error>>> = keys
            .iter()
            .map(|key| {
                self.cache.get(key).map(|kept| {
                    Ok(Completion {
                        text: kept.text,
                        stopped: kept.stopped,
                        ..Completion::default()
                    })
                })
            })
            .collect();
        let missing: Vec<usize> = (0..requests.len())
            .filter(|&index| completions[index].is_none())
            .collect();
        if !missing.is_empty() {
            let asked: Vec<CompletionRequest<'_>> = missing
                .iter()
                .map(|&index| requests[index].clone())
                .collect();
            let made = self
                .policy
                .complete(&asked)
                .map_err(CachedPolicyError::Policy)?;
            for (&index, completion) in missing.iter().zip(made) {
                let completion = completion.map_err(CachedPolicyError::Policy);
                if let Ok(completion) = &completion {
                    self.cache.put(keys[index], kept(completion))?;
                }
                completions[index] = Some(completion);
            }
        }
        // The policy gave a completion for each request, so none is missing.
        Ok(completions.into_iter().flatten().collect())
    }

    fn parts(
        &mut self,
        requests: &[CompletionRequest<'_>],
    ) -> Result<Vec<Vec<usize>>, Self::Error> {
        self.policy
            .parts(requests)
            .map_err(CachedPolicyError::Policy)
    }
}

fn kept(completion: &Completion) -> Cached {
    Cached {
        text: completion.text.clone(),
        stopped: completion.stopped,
        finish_reason: None,
        served_by: None,
        prompt_tokens: Some(completion.prompt_ids.len() as u64),
        completion_tokens: Some(completion.token_ids.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use agent::{Block, Conversation, Message, MessagePart, Role};

    use super::*;

    /// Says how often it was asked, and cannot answer what it is told not to.
    struct Counting(usize);

    #[derive(Debug, thiserror::Error)]
    #[error("no answer")]
    struct NoAnswer;

    impl Policy for Counting {
        type Error = NoAnswer;

        fn complete(
            &mut self,
            requests: &[CompletionRequest<'_>],
        ) -> Result<Vec<Result<Completion, NoAnswer>>, NoAnswer> {
            let complete = |request: &CompletionRequest<'_>| {
                self.0 += 1;
                let MessagePart::Text { text, .. } = &request.conversation[0].parts[0] else {
                    return Err(NoAnswer);
                };
                if text == "fail" {
                    return Err(NoAnswer);
                }
                Ok(Completion {
                    text: format!("answer {}", self.0),
                    stopped: true,
                    token_ids: vec![1, 2],
                    ..Completion::default()
                })
            };
            Ok(requests.iter().map(complete).collect())
        }
    }

    fn ask(text: &str) -> Conversation {
        vec![Message {
            role: Role::User,
            parts: vec![MessagePart::text(Block::R, text)],
        }]
        .into()
    }

    #[test]
    fn what_was_said_once_is_not_generated_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("completions.jsonl");
        let texts = |model: &str, asked: &[&str]| -> (Vec<String>, usize) {
            let cache = Cache::open(&path).unwrap();
            let greedy = SamplingParameters::greedy(8);
            let mut policy = CachedPolicy::new(Counting(0), cache, model, greedy);
            let conversations: Vec<Conversation> = asked.iter().map(|text| ask(text)).collect();
            let requests: Vec<CompletionRequest<'_>> = conversations
                .iter()
                .map(|conversation| CompletionRequest::new(conversation, None))
                .collect();
            let said = policy.complete(&requests).unwrap();
            let texts = said
                .into_iter()
                .map(|said| said.map_or_else(|error| error.to_string(), |said| said.text))
                .collect();
            (texts, policy.policy_mut().0)
        };
        let words = |words: &[&str]| -> Vec<String> {
            words.iter().map(|word| (*word).to_owned()).collect()
        };
        let first = texts("m", &["a", "fail", "b"]);
        assert_eq!(first, (words(&["answer 1", "no answer", "answer 3"]), 3));
        // What failed is asked again, and so is what is new; each stands in its place.
        let second = texts("m", &["b", "c", "fail", "a"]);
        let expected = words(&["answer 3", "answer 1", "no answer", "answer 1"]);
        assert_eq!(second, (expected, 2));
        assert_eq!(texts("m", &["c", "a"]).1, 0);
        // Other weights are another model.
        assert_eq!(texts("n", &["a"]), (words(&["answer 1"]), 1));
    }

    #[test]
    fn samples_are_known_by_their_seeds() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().join("completions.jsonl")).unwrap();
        let parameters = SamplingParameters {
            temperature: 0.7,
            ..SamplingParameters::greedy(8)
        };
        let mut policy = CachedPolicy::new(Counting(0), cache, "m", parameters);
        let conversation = ask("a");
        let mut said = |seed: Option<u64>| {
            let request = CompletionRequest::new(&conversation, seed);
            let mut said = policy.complete(&[request]).unwrap();
            said.remove(0).unwrap().text
        };
        assert_eq!(
            [said(Some(1)), said(Some(2)), said(None)],
            ["answer 1", "answer 2", "answer 3"]
        );
        assert_eq!([said(Some(2)), said(None)], ["answer 2", "answer 3"]);
    }
}
