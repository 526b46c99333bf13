//! A local policy's completions: prompts encoded, sampled from in batches, their turns kept.

use std::collections::HashMap;
use std::sync::Arc;

use agent::{Completion, CompletionId, CompletionRequest, Conversation, ConversationId, Policy};
use qwen2_5_vl::{GenerationOptions, KeptRows, TurnPrompt, cut, cut_by};

use crate::encoding::EncodedPrompt;
use crate::policy::LocalPolicy;
use crate::{Error, Result};

/// Requests with the same prompt, which share its prefill.
struct Group<'k> {
    encoded: Arc<EncodedPrompt>,
    members: Vec<usize>,
    /// The turn that one of them goes on with, where its rows are the prompt's first.
    follows: Option<&'k KeptRows>,
}

impl Group<'_> {
    /// Rows that its prompt adds to a batch of others.
    fn rows_beside(&self, others: &[Self]) -> usize {
        let tokens = self.encoded.prompt.input_ids.len();
        let Some(kept) = self.follows else {
            return tokens;
        };
        let others = others.iter().filter_map(|other| other.follows);
        tokens - kept.rows() + kept.rows_beside(others)
    }
}

impl Policy for LocalPolicy {
    type Error = Error;

    fn complete(&mut self, requests: &[CompletionRequest<'_>]) -> Result<Vec<Result<Completion>>> {
        // What was kept is for these requests.
        let before = std::mem::take(&mut self.kept);
        let conversations: Vec<&Conversation> = requests
            .iter()
            .map(|request| request.conversation)
            .collect();
        let encoded = self.encode_each(&conversations)?;
        let mut completions: Vec<Option<Result<Completion>>> =
            requests.iter().map(|_| None).collect();
        let mut groups: Vec<Group<'_>> = Vec::new();
        let mut group_of: HashMap<ConversationId, usize> = HashMap::new();
        for (index, encoded) in encoded.into_iter().enumerate() {
            let encoded = match encoded {
                Ok(encoded) => encoded,
                Err(error) => {
                    completions[index] = Some(Err(error));
                    continue;
                }
            };
            let group = *group_of.entry(encoded.id).or_insert_with(|| {
                groups.push(Group {
                    encoded,
                    members: Vec::new(),
                    follows: None,
                });
                groups.len() - 1
            });
            groups[group].members.push(index);
        }
        for group in &mut groups {
            let prompt = &group.encoded.prompt;
            let mut follow = group.members.iter().filter_map(|&index| {
                let request = &requests[index];
                Some((request.follows?, request.conversation))
            });
            if follow.clone().next().is_none() {
                continue;
            }
            group.follows =
                follow.find_map(|(id, conversation)| before.before(id, conversation, prompt));
            match group.follows {
                Some(kept) => self.reused.tokens += kept.rows() as u64,
                None => self.reused.run_whole += 1,
            }
        }
        let options = GenerationOptions {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            repetition_penalty: None,
            stop_ids: self.processor.stop_ids().to_vec(),
        };
        let budget = self.budgets.rollout_tokens;
        for batch in cut_by(&groups, budget, |others, own| own.rows_beside(others)) {
            let turns: Vec<TurnPrompt> = batch
                .iter()
                .map(|group| {
                    let members = || group.members.iter().map(|&index| &requests[index]);
                    TurnPrompt {
                        prompt: &group.encoded.prompt,
                        follows: group.follows,
                        seeds: members().map(|request| request.seed).collect(),
                        keep: members().any(|request| request.may_be_followed),
                    }
                })
                .collect();
            let found = self.model.generate_turns(&turns, &options, budget)?;
            for (group, samples) in batch.iter().zip(found) {
                let mut kept = Vec::new();
                for (&index, sample) in group.members.iter().zip(samples) {
                    let id = requests[index].may_be_followed.then(|| {
                        self.named += 1;
                        CompletionId(self.named)
                    });
                    kept.extend(id.map(|id| (id, sample.kept)));
                    let text = self.processor.decode(&sample.sampled.token_ids, true)?;
                    completions[index] = Some(Ok(Completion {
                        text,
                        prompt_ids: group.encoded.prompt.input_ids.clone(),
                        token_ids: sample.sampled.token_ids,
                        log_probs: sample.sampled.log_probs,
                        stopped: sample.sampled.stopped,
                        id,
                    }));
                }
                let conversation = requests[group.members[0]].conversation;
                self.kept.keep(conversation, kept, budget);
            }
        }
        Ok(completions
            .into_iter()
            .map(|completion| completion.expect("every request is refused or in exactly one group"))
            .collect())
    }

    /// Half of the budget is for the prompts of a part, the other half for what their samples add.
    fn parts(&mut self, requests: &[CompletionRequest<'_>]) -> Result<Vec<Vec<usize>>> {
        let conversations: Vec<&Conversation> = requests
            .iter()
            .map(|request| request.conversation)
            .collect();
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut group_of: HashMap<ConversationId, usize> = HashMap::new();
        for (index, encoded) in self.encode_each(&conversations)?.into_iter().enumerate() {
            let group = *group_of
                .entry(*conversations[index].id())
                .or_insert_with(|| {
                    // One that is refused takes no room.
                    let tokens = encoded.map_or(0, |own| own.prompt.input_ids.len());
                    groups.push((tokens, Vec::new()));
                    groups.len() - 1
                });
            groups[group].1.push(index);
        }
        let parts = cut(&groups, self.budgets.rollout_tokens / 2, |group| group.0);
        let members = |part: &[(usize, Vec<usize>)]| {
            let members = part.iter().flat_map(|(_, members)| members);
            members.copied().collect()
        };
        Ok(parts.into_iter().map(members).collect())
    }
}
