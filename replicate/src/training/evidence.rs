//! What is measured of the distinct calls of each prompt, once per call.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use agent::{Conversation, Task};
use baselines::attribution_settings::AttributionSettings;
use baselines::{CallEvidence, Evidence};
use benchmarks::judge::EndpointVerifier;
use fused_ops::side_by_side;
use qwen2_5_vl::{Model, cut};
use results::{AttributionMetrics, CallShares};

use super::rollout::RolloutGroup;
use crate::Result;
use crate::alignment::{CalledPrompt, attribute};
use crate::encoding::EncodedPrompt;
use crate::packing::{Packed, Tree};
use crate::policy::LocalPolicy;
use crate::records::call_shares;

/// The distinct calls of one prompt.
#[derive(Clone, Debug, Default)]
pub struct GroupCalls {
    /// For each episode which of `calls` it made; `None` without a call.
    pub call_of: Vec<Option<usize>>,
    /// What was measured of each.
    pub calls: Vec<CallEvidence>,
    /// The attribution of each under the policy and under the model that it is compared with;
    /// empty where none was asked for.
    pub attributions: Vec<Option<(CallShares, CallShares)>>,
}

/// What was measured in an update.
pub struct Measured {
    /// The calls of each group.
    pub groups: Vec<GroupCalls>,
    /// What attribution gave and cost, where there was any.
    pub attribution: Option<AttributionMetrics>,
}

impl Measured {
    /// Takes the verdict from the episodes whose call has none, so that they are left out of their
    /// groups: not verified is not rejected.
    pub fn leave_out_unverified(&self, groups: &mut [RolloutGroup]) {
        for (group, own) in groups.iter_mut().zip(&self.groups) {
            for (outcome, call) in group.outcomes.iter_mut().zip(&own.call_of) {
                if call.is_some_and(|call| own.calls[call].right.is_none()) {
                    *outcome = None;
                }
            }
        }
    }
}

/// The distinct calls of one prompt, as tokens, in the order in which they were first made.
struct DistinctCalls<'e> {
    prompt: Arc<EncodedPrompt>,
    conversation: &'e Conversation,
    group: usize,
    calls: Vec<&'e [u32]>,
}

/// What calls are measured with.
pub struct Measuring<'a> {
    /// What is to be measured.
    pub wanted: Evidence,
    /// The form of a divergence.
    pub attribution: Option<&'a AttributionSettings>,
    /// The model that the policy is compared with.
    pub compared_with: Option<&'a Model>,
    /// Who verifies calls.
    pub verifier: Option<EndpointVerifier<'a>>,
    /// Tokens of one forward pass.
    pub scoring_tokens: usize,
}

/// Measures every distinct call.
pub fn measure(
    policy: &mut LocalPolicy,
    groups: &[RolloutGroup],
    with: &Measuring<'_>,
) -> Result<Measured> {
    let wanted = with.wanted;
    let mut found: Vec<GroupCalls> = Vec::with_capacity(groups.len());
    let mut distinct: Vec<Vec<&[u32]>> = Vec::with_capacity(groups.len());
    for group in groups {
        let mut own = GroupCalls::default();
        let mut known: Vec<&[u32]> = Vec::new();
        for episode in &group.episodes {
            if !episode.outcome.called() {
                own.call_of.push(None);
                continue;
            }
            let token_ids = episode.turns[0].completion.token_ids.as_slice();
            let call = match known.iter().position(|call| *call == token_ids) {
                Some(call) => call,
                None => {
                    known.push(token_ids);
                    own.calls.push(CallEvidence {
                        right: group.item.truth.as_ref().map(|t| t.approves(episode)),
                        ..CallEvidence::default()
                    });
                    known.len() - 1
                }
            };
            own.call_of.push(Some(call));
        }
        found.push(own);
        distinct.push(known);
    }
    let mut measured = Measured {
        groups: found,
        attribution: None,
    };
    match wanted {
        Evidence::Outcome | Evidence::Truth => return Ok(measured),
        Evidence::Verifier => {
            if let Some(verifier) = &with.verifier {
                verify(verifier, groups, &mut measured.groups)?;
            }
            return Ok(measured);
        }
        _ => {}
    }
    let calls = encode(policy, groups, distinct)?;
    match (wanted, with.compared_with, with.attribution) {
        (Evidence::OwnLogProb, _, _) => {
            let own = policy.model.detached()?;
            for (group, call, value) in log_probs(&own, &calls, with.scoring_tokens)? {
                measured.groups[group].calls[call].own_log_prob = Some(value);
            }
        }
        (Evidence::TeacherLogProb, Some(teacher), _) => {
            let calls = as_seen_by(teacher, policy, &calls)?;
            for (group, call, value) in log_probs(teacher, &calls, with.scoring_tokens)? {
                measured.groups[group].calls[call].teacher_log_prob = Some(value);
            }
        }
        (Evidence::Divergence(_), Some(teacher), Some(settings)) => {
            measured.attribution = Some(diverge(
                policy,
                teacher,
                &calls,
                settings,
                &mut measured.groups,
            )?);
        }
        _ => {}
    }
    Ok(measured)
}

/// Asks about every distinct call once.
fn verify(
    verifier: &EndpointVerifier<'_>,
    groups: &[RolloutGroup],
    measured: &mut [GroupCalls],
) -> Result<()> {
    let mut places = Vec::new();
    let mut asked: Vec<(&Task, &str)> = Vec::new();
    for (index, (group, own)) in groups.iter().zip(measured.iter()).enumerate() {
        for call in 0..own.calls.len() {
            let first = own.call_of.iter().position(|made| *made == Some(call));
            let Some(episode) = first.and_then(|first| group.episodes.get(first)) else {
                continue;
            };
            places.push((index, call));
            let text = episode.turns[0].completion.text.as_str();
            asked.push((&group.item.question.task, text));
        }
    }
    for ((group, call), verdict) in places.into_iter().zip(verifier.verify(&asked)?) {
        measured[group].calls[call].right = verdict;
    }
    Ok(())
}

/// The same calls with the prompts as another model sees them: the widths of two models' image
/// features may differ.
fn as_seen_by<'e>(
    other: &Model,
    policy: &LocalPolicy,
    calls: &[DistinctCalls<'e>],
) -> Result<Vec<DistinctCalls<'e>>> {
    let conversations: Vec<_> = calls.iter().map(|own| own.conversation).collect();
    let prompts = policy.encode_for(other, &conversations)?;
    Ok(calls
        .iter()
        .zip(prompts)
        .map(|(own, prompt)| DistinctCalls {
            prompt: Arc::new(prompt),
            conversation: own.conversation,
            group: own.group,
            calls: own.calls.clone(),
        })
        .collect())
}

fn encode<'e>(
    policy: &mut LocalPolicy,
    groups: &'e [RolloutGroup],
    distinct: Vec<Vec<&'e [u32]>>,
) -> Result<Vec<DistinctCalls<'e>>> {
    let calling: Vec<(usize, Vec<&[u32]>)> = distinct
        .into_iter()
        .enumerate()
        .filter(|(_, calls)| !calls.is_empty())
        .collect();
    let conversations: Vec<_> = calling
        .iter()
        .map(|(group, _)| &groups[*group].episodes[0].turns[0].conversation)
        .collect();
    let prompts = policy.encode(&conversations)?;
    Ok(prompts
        .into_iter()
        .zip(conversations)
        .zip(calling)
        .map(|((prompt, conversation), (group, calls))| DistinctCalls {
            prompt,
            conversation,
            group,
            calls,
        })
        .collect())
}

/// Mean log-probability of the tokens of every call under a model, nats: group, call, value.
fn log_probs(
    model: &Model,
    calls: &[DistinctCalls<'_>],
    scoring_tokens: usize,
) -> Result<Vec<(usize, usize, f32)>> {
    let tokens = |own: &DistinctCalls| {
        own.prompt.prompt.input_ids.len() + own.calls.iter().map(|call| call.len()).sum::<usize>()
    };
    let batches = cut(calls, scoring_tokens, tokens);
    let scored = side_by_side(model.device(), batches.len(), |index| -> Result<_> {
        let trees: Vec<Tree> = batches[index]
            .iter()
            .map(|own| Tree {
                prompt: &own.prompt.prompt,
                branches: own.calls.clone(),
            })
            .collect();
        let packed = Packed::new(model, &trees)?;
        let embeddings = packed.embed(model)?;
        let scored = packed.log_probs(model, &embeddings, 1.0)?;
        Ok((packed.branches, scored.log_probs.to_vec1::<f32>()?))
    });
    let mut found = Vec::new();
    for (batch, scored) in batches.iter().zip(scored) {
        let (branches, log_probs): (Vec<Range<usize>>, Vec<f32>) = scored?;
        let places = batch
            .iter()
            .flat_map(|own| (0..own.calls.len()).map(|call| (own.group, call)));
        for ((group, call), range) in places.zip(branches) {
            let tokens = &log_probs[range];
            let mean = tokens.iter().sum::<f32>() / tokens.len().max(1) as f32;
            found.push((group, call, mean));
        }
    }
    Ok(found)
}

fn diverge(
    policy: &LocalPolicy,
    teacher: &Model,
    calls: &[DistinctCalls<'_>],
    settings: &AttributionSettings,
    groups: &mut [GroupCalls],
) -> Result<AttributionMetrics> {
    let started = Instant::now();
    let tokenizer = policy.processor.tokenizer();
    let attributed = |model: &Model, calls: &[DistinctCalls<'_>]| {
        let prompts = calls
            .iter()
            .map(|own| CalledPrompt::new(&own.prompt, own.calls.iter().copied(), tokenizer))
            .collect::<Result<Vec<_>>>()?;
        attribute(model, &prompts, settings, policy.budgets)
    };
    let student = attributed(&policy.model.detached()?, calls)?;
    let teacher = attributed(teacher, &as_seen_by(teacher, policy, calls)?)?;
    let (mut divergences, mut gaps, mut passes) = (Vec::new(), Vec::new(), 0);
    for ((own, student), teacher) in calls.iter().zip(&student).zip(&teacher) {
        for (call, (student, teacher)) in student.iter().zip(teacher).enumerate() {
            let divergence = settings
                .divergence
                .between(&student.shares, &teacher.shares)?;
            let group = &mut groups[own.group];
            group.calls[call].divergence = Some(divergence);
            group.attributions.resize(group.calls.len(), None);
            group.attributions[call] = Some((call_shares(student), call_shares(teacher)));
            divergences.push(divergence);
            passes += student.passes + teacher.passes;
            gaps.extend(student.relative_gap);
            gaps.extend(teacher.relative_gap);
        }
    }
    gaps.sort_by(f64::total_cmp);
    let count = divergences.len();
    Ok(AttributionMetrics {
        calls: count as u64,
        passes: passes as u64,
        gap: gaps.get(gaps.len() / 2).copied(),
        divergence: divergences.iter().sum::<f64>() / count.max(1) as f64,
        seconds: Some(started.elapsed().as_secs_f64()),
    })
}
