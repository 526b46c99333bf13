//! A micro model of random weights under the recipe: packing, blocks, attribution, determinism.

use std::sync::Arc;

use agent::{Block, PromptStyle, first_turn, run_episodes};
use attribution::{BlockMass, Blocks, Distribution, Divergence, occlusion, path_differences};
use baselines::attribution_settings::{AttributionSettings, Baseline, Method, Tokens};
use benchmarks::TestSet;
use benchmarks::data::EpisodeStyle;
use benchmarks::micro::{Difficulty, MicroQuestion, Split, language, question};
use candle_core::{Device, Tensor};
use qwen2_5_vl::{Model, Processor};
use replicate::alignment::{CalledPrompt, attribute, content_tokens};
use replicate::packing::{Packed, Tree};
use replicate::policy::{EncodedPrompt, LocalPolicy};
use replicate::pretrain::recipe::Recipe;
use seeded_random::Stream;
use visual_tools::Effect;

fn processor() -> Arc<Processor> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in language::processor_files() {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    Arc::new(Processor::load(dir.path()).unwrap())
}

fn policy() -> LocalPolicy {
    let config = Recipe::micro().unwrap().model.config().unwrap();
    let model = Model::random(config, Stream::new(3), &Device::Cpu).unwrap();
    LocalPolicy::new(model, processor(), 12)
}

fn micro(index: u64) -> MicroQuestion {
    let difficulty = Difficulty {
        table_rows: [3, 5],
        table_columns: [2, 5],
        bars: [3, 6],
        named: [2, 3],
        noise: 0.01,
    };
    let set = TestSet::ALL[index as usize % 6];
    question(set, Split::Train, &difficulty, &Stream::new(9), index)
}

fn encoded(policy: &mut LocalPolicy, micro: &MicroQuestion) -> Arc<EncodedPrompt> {
    let conversation = first_turn(&micro.question.task, PromptStyle::Micro);
    policy.encode(&[&conversation]).unwrap().remove(0)
}

fn calls(policy: &LocalPolicy, micro: &MicroQuestion) -> Vec<Vec<u32>> {
    let focuses = micro.asked.right.iter().chain(&micro.asked.wrong).take(3);
    focuses
        .map(|focus| {
            let tokenizer = policy.processor.tokenizer();
            let mut ids = tokenizer.encode(&focus.call(Effect::Mask)).unwrap();
            ids.push(policy.processor.stop_ids()[0]);
            ids
        })
        .collect()
}

fn log_probs(model: &Model, trees: &[Tree]) -> Vec<f32> {
    let packed = Packed::new(model, trees).unwrap();
    let embeddings = packed.embed(model).unwrap();
    let scored = packed.log_probs(model, &embeddings, 1.0).unwrap();
    scored.log_probs.to_vec1().unwrap()
}

#[test]
fn words_survive_the_tokenizer() {
    let policy = policy();
    let unknown = language::token_id("<unk>").unwrap();
    for index in 0..24 {
        let micro = micro(index);
        let task = &micro.question.task;
        for text in [
            task.request.clone(),
            task.tools.clone().unwrap(),
            micro.asked.right[0].call(Effect::Mask),
            language::render_answer(&micro.asked.answer),
        ] {
            let ids = policy.processor.tokenizer().encode(&text).unwrap();
            assert!(!ids.contains(&unknown), "{text}");
            assert_eq!(policy.processor.decode(&ids, true).unwrap(), text);
        }
    }
}

#[test]
fn every_token_of_the_prompt_has_its_block() {
    let mut policy = policy();
    let micro = micro(3);
    let prompt = encoded(&mut policy, &micro);
    assert_eq!(prompt.blocks.len(), prompt.prompt.input_ids.len());
    // P T I R P: template and system, tools, image with its two markers, request, template.
    let mut runs: Vec<(Block, usize)> = Vec::new();
    for block in &prompt.blocks {
        match runs.last_mut() {
            Some((last, count)) if last == block => *count += 1,
            _ => runs.push((*block, 1)),
        }
    }
    let order: Vec<Block> = runs.iter().map(|run| run.0).collect();
    assert_eq!(order, [Block::P, Block::T, Block::I, Block::R, Block::P]);
    assert_eq!(runs[2].1, 48 + 2);
}

#[test]
fn packed_trees_equal_separate_sequences_in_value_and_gradient() {
    let mut policy = policy();
    let micros: Vec<MicroQuestion> = (0..3).map(micro).collect();
    let prompts: Vec<_> = micros.iter().map(|m| encoded(&mut policy, m)).collect();
    let branches: Vec<_> = micros.iter().map(|m| calls(&policy, m)).collect();
    let model = &policy.model;
    let trees: Vec<Tree> = prompts
        .iter()
        .zip(&branches)
        .map(|(prompt, calls)| Tree {
            prompt: &prompt.prompt,
            branches: calls.iter().map(Vec::as_slice).collect(),
        })
        .collect();
    let loss = |trees: &[Tree]| -> Tensor {
        let packed = Packed::new(model, trees).unwrap();
        let scored = packed
            .log_probs(model, &packed.embed(model).unwrap(), 1.0)
            .unwrap();
        scored.log_probs.sum_all().unwrap()
    };
    let together = log_probs(model, &trees);
    let mut apart = Vec::new();
    let mut sum: Option<Tensor> = None;
    for tree in &trees {
        for branch in &tree.branches {
            let alone = [Tree {
                prompt: tree.prompt,
                branches: vec![branch],
            }];
            apart.extend(log_probs(model, &alone));
            let own = loss(&alone);
            sum = Some(match sum {
                Some(sum) => (sum + own).unwrap(),
                None => own,
            });
        }
    }
    assert_eq!(together.len(), apart.len());
    for (a, b) in together.iter().zip(&apart) {
        assert!((a - b).abs() < 2e-4, "{a} against {b}");
    }
    let packed = loss(&trees).backward().unwrap();
    let separate = sum.unwrap().backward().unwrap();
    let mut compared = 0;
    for (name, var) in model.trainable() {
        let (Some(a), Some(b)) = (packed.get(&var), separate.get(&var)) else {
            // The vision tower's features are computed once and detached.
            assert!(name.starts_with("visual."), "{name} has no gradient");
            continue;
        };
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (a, b) = (flat(a), flat(b));
        let scale = a.iter().fold(0f32, |most, value| most.max(value.abs()));
        assert!(scale > 0.0, "{name} has a zero gradient");
        for (a, b) in a.iter().zip(&b) {
            assert!(
                (a - b).abs() <= 1e-3 * scale + 1e-5,
                "{name}: {a} against {b}"
            );
        }
        compared += 1;
    }
    assert!(compared > 20);
}

#[test]
fn a_blank_image_changes_the_log_probs() {
    let mut policy = policy();
    let mut micro = micro(1);
    let seen = encoded(&mut policy, &micro);
    let call = calls(&policy, &micro).remove(0);
    let blank = image::RgbImage::from_pixel(64, 48, image::Rgb([255, 255, 255]));
    micro.question.task.image = Arc::new(blank);
    let unseen = encoded(&mut policy, &micro);
    let score = |prompt: &EncodedPrompt| {
        let tree = Tree {
            prompt: &prompt.prompt,
            branches: vec![&call],
        };
        log_probs(&policy.model, &[tree]).iter().sum::<f32>()
    };
    assert!((score(&seen) - score(&unseen)).abs() > 1e-3);
}

#[test]
fn an_episode_does_not_depend_on_its_companions() {
    let mut policy = policy();
    policy.temperature = 1.0;
    let micros: Vec<MicroQuestion> = (0..5).map(micro).collect();
    let tasks: Vec<_> = micros
        .iter()
        .flat_map(|m| (0..3).map(move |seed| (&m.question.task, seed)))
        .collect();
    let texts = |policy: &mut LocalPolicy, tasks: &[(&agent::Task, u64)]| -> Vec<String> {
        policy.forget();
        run_episodes(policy, tasks, &EpisodeStyle::Micro.options())
            .unwrap()
            .into_iter()
            .map(|episode| episode.unwrap().turns[0].completion.text.clone())
            .collect()
    };
    let together = texts(&mut policy, &tasks);
    let alone: Vec<String> = tasks
        .iter()
        .flat_map(|task| texts(&mut policy, std::slice::from_ref(task)))
        .collect();
    assert_eq!(together, alone);
    assert_ne!(together[0], together[1], "samples of one prompt differ");
}

fn settings(method: Method, baseline: Baseline, nodes: usize) -> AttributionSettings {
    AttributionSettings {
        method,
        baseline,
        nodes,
        masses: BlockMass::Signed,
        tokens: Tokens::All,
        divergence: Divergence::Kl,
    }
}

fn site<'a>(
    policy: &LocalPolicy,
    prompt: &'a EncodedPrompt,
    calls: &'a [Vec<u32>],
) -> CalledPrompt<'a> {
    CalledPrompt {
        prompt,
        calls: calls.iter().map(Vec::as_slice).collect(),
        content: calls
            .iter()
            .map(|ids| content_tokens(policy, ids))
            .collect(),
    }
}

#[test]
fn edits_shared_by_all_calls_equal_the_library_call_by_call() {
    for method in [Method::Occlusion, Method::PathDifferences] {
        for baseline in [Baseline::BlockMean, Baseline::Zero] {
            shared_edits_equal_the_library(method, baseline);
        }
    }
}

fn shared_edits_equal_the_library(method: Method, of: Baseline) {
    let mut policy = policy();
    let micro = micro(2);
    let prompt = encoded(&mut policy, &micro);
    let calls = calls(&policy, &micro);
    let model = policy.model.detached().unwrap();
    let settings = settings(method, of, 2);
    let shared = attribute(&model, &[site(&policy, &prompt, &calls)], &settings).unwrap();

    let labels: Vec<usize> = prompt.blocks.iter().map(|block| *block as usize).collect();
    let blocks = Blocks::new(labels, 4).unwrap();
    let input = model
        .embed(
            &prompt.prompt.input_ids,
            prompt.prompt.image_features.as_ref(),
        )
        .unwrap();
    let baseline = match of {
        Baseline::Zero => attribution::Baseline::Zero,
        Baseline::BlockMean => attribution::Baseline::BlockMean,
    };
    let baseline = baseline.tensor(&input, &blocks).unwrap();
    for (call, shared) in calls.iter().zip(&shared[0]) {
        let tree = [Tree {
            prompt: &prompt.prompt,
            branches: vec![call],
        }];
        let packed = Packed::new(&model, &tree).unwrap();
        let whole = packed.embed(&model).unwrap();
        let tail = whole
            .narrow(0, prompt.prompt.input_ids.len(), call.len() - 1)
            .unwrap();
        let mut f = |points: &Tensor| -> candle_core::Result<Tensor> {
            let values = (0..points.dim(0)?)
                .map(|point| {
                    let embeddings = Tensor::cat(&[&points.get(point)?, &tail], 0)?;
                    let scored = packed.log_probs(&model, &embeddings, 1.0);
                    scored
                        .map_err(candle_core::Error::wrap)?
                        .log_probs
                        .sum_all()
                })
                .collect::<candle_core::Result<Vec<_>>>()?;
            Tensor::stack(&values, 0)
        };
        let found = match method {
            Method::Occlusion => occlusion(&input, &baseline, &blocks, 1, &mut f),
            _ => path_differences(&input, &baseline, &blocks, &settings.staircase(), 1, &mut f),
        }
        .unwrap();
        assert_eq!(shared.relative_gap.is_some(), method != Method::Occlusion);
        let masses = blocks
            .masses(&found.scores, BlockMass::Signed, None)
            .unwrap();
        let expected = Distribution::new(&masses, 1e-3).unwrap();
        for (a, b) in shared.shares.shares().iter().zip(expected.shares()) {
            assert!(
                (a - b).abs() < 1e-3,
                "{:?} against {:?}",
                shared.shares,
                expected
            );
        }
    }
}

#[test]
fn more_nodes_close_the_completeness_gap() {
    let mut policy = policy();
    let micro = micro(2);
    let prompt = encoded(&mut policy, &micro);
    let calls = calls(&policy, &micro);
    let model = policy.model.detached().unwrap();
    let gap = |nodes| {
        let settings = settings(Method::IntegratedGradients, Baseline::BlockMean, nodes);
        let found = attribute(&model, &[site(&policy, &prompt, &calls[..1])], &settings).unwrap();
        found[0][0].relative_gap.unwrap()
    };
    let fine = gap(64);
    assert!(fine < 0.05, "gap with 64 nodes: {fine}");
    assert!(fine <= gap(2) + 1e-6);
}
