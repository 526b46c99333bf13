//! The manipulation check: does the policy come to attend as the teacher does?
//!
//! On a fixed set of validation questions both a right and a wrong call are forced; block
//! attributions of policy and teacher are taken on the same prompt and call, in the same form for
//! every arm, and their mean divergence stands in the metrics of every validation. If an arm that
//! is rewarded for alignment is no closer to the teacher than plain GRPO, what it gained is not by
//! alignment. Needs questions with their truth.

use std::sync::Arc;

use agent::{Conversation, first_turn};
use baselines::attribution_settings::AttributionSettings;
use benchmarks::data::{Data, Item};
use qwen2_5_vl::Model;
use results::Alignment;

use crate::Result;
use crate::alignment::{CallAttribution, CalledPrompt, attribute};
use crate::encoding::EncodedPrompt;
use crate::policy::LocalPolicy;

/// A prompt with the tokens of a right and, where there is one, a wrong call.
struct Probed {
    conversation: Conversation,
    calls: Vec<Vec<u32>>,
}

/// The fixed calls, with the teacher's attribution of each.
pub struct Probe {
    settings: AttributionSettings,
    prompts: Vec<Probed>,
    teacher: Vec<Vec<CallAttribution>>,
}

impl Probe {
    /// The first `count` items that know a right and a wrong call, attributed under the teacher;
    /// `None` where `count` is 0 or no item knows its truth. `policy` lends its processor.
    pub fn new(
        policy: &mut LocalPolicy,
        teacher: &Model,
        data: &Data,
        items: &[Item],
        count: usize,
        settings: &AttributionSettings,
    ) -> Result<Option<Self>> {
        let style = data.episodes().prompt;
        let stop = policy.processor.stop_ids().first().copied();
        let mut prompts = Vec::new();
        for item in items {
            let calls = item
                .truth
                .as_ref()
                .and_then(|truth| Some([truth.right_call.as_str(), truth.wrong_call.as_deref()?]));
            let Some(calls) = calls else { continue };
            if prompts.len() == count {
                break;
            }
            let calls = calls
                .iter()
                .map(|call| {
                    let mut ids = policy.processor.tokenizer().encode(call)?;
                    ids.extend(stop);
                    Ok(ids)
                })
                .collect::<Result<Vec<_>>>()?;
            prompts.push(Probed {
                conversation: first_turn(&item.question.task, style),
                calls,
            });
        }
        if prompts.is_empty() {
            return Ok(None);
        }
        let mut probe = Probe {
            settings: settings.clone(),
            prompts,
            teacher: Vec::new(),
        };
        let teacher = teacher.on(policy.model.device())?;
        probe.teacher = probe.attributed(policy, Some(&teacher))?;
        Ok(Some(probe))
    }

    /// How far the policy's attributions are from the teacher's now.
    pub fn measure(&self, policy: &mut LocalPolicy) -> Result<Alignment> {
        let own = self.attributed(policy, None)?;
        let mut sums = [0.0; 2];
        for (own, teacher) in own.iter().zip(&self.teacher) {
            for (sum, (own, teacher)) in sums.iter_mut().zip(own.iter().zip(teacher)) {
                *sum += self
                    .settings
                    .divergence
                    .between(&own.shares, &teacher.shares)?;
            }
        }
        let n = self.prompts.len();
        Ok(Alignment {
            right: sums[0] / n as f64,
            wrong: sums[1] / n as f64,
            n: n as u64,
        })
    }

    fn attributed(
        &self,
        policy: &mut LocalPolicy,
        other: Option<&Model>,
    ) -> Result<Vec<Vec<CallAttribution>>> {
        let conversations: Vec<_> = self.prompts.iter().map(|own| &own.conversation).collect();
        let encoded: Vec<Arc<EncodedPrompt>> = match other {
            Some(other) => {
                let encoded = policy.encode_for(other, &conversations)?;
                encoded.into_iter().map(Arc::new).collect()
            }
            None => policy.encode(&conversations)?,
        };
        let tokenizer = policy.processor.tokenizer();
        let prompts = encoded
            .iter()
            .zip(&self.prompts)
            .map(|(prompt, own)| {
                CalledPrompt::new(prompt, own.calls.iter().map(Vec::as_slice), tokenizer)
            })
            .collect::<Result<Vec<_>>>()?;
        let own;
        let model = match other {
            Some(model) => model,
            None => {
                own = policy.model.detached()?;
                &own
            }
        };
        let found = attribute(model, &prompts, &self.settings, policy.budgets);
        policy.forget();
        found
    }
}
