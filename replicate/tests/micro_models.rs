//! A micro model of random weights under the recipe: packing, blocks, attribution, determinism.

use std::sync::Arc;

use agent::{Block, PromptStyle, first_turn, run_episodes};
use attribution::{Baseline, BlockMass, Blocks, Distribution, Method, Path};
use baselines::attribution_settings::AttributionSettings;
use benchmarks::TestSet;
use benchmarks::data::EpisodeStyle;
use benchmarks::micro::{Difficulty, MicroQuestion, Split, language, question};
use candle_core::{Device, Tensor};
use qwen2_5_vl::{Model, Processor};
use replicate::alignment::{CalledPrompt, attribute, attribute_from};
use replicate::call_content::content_tokens;
use replicate::compute::Compute;
use replicate::encoding::EncodedPrompt;
use replicate::packing::{Packed, Tree};
use replicate::policy::{Budgets, LocalPolicy};
use replicate::pretrain::recipe::Recipe;
use replicate::profile::Profile;
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
        .flat_map(|m| (0..3).map(move |seed| (&m.question.task, Some(seed))))
        .collect();
    let texts = |policy: &mut LocalPolicy, tasks: &[(&agent::Task, Option<u64>)]| -> Vec<String> {
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

fn settings(method: Method, baseline: Baseline) -> AttributionSettings {
    AttributionSettings {
        method,
        baseline,
        masses: BlockMass::Signed,
        ..AttributionSettings::paper()
    }
}

fn called<'a>(
    policy: &LocalPolicy,
    prompt: &'a EncodedPrompt,
    calls: &'a [Vec<u32>],
) -> CalledPrompt<'a> {
    let tokenizer = policy.processor.tokenizer();
    CalledPrompt::new(prompt, calls.iter().map(Vec::as_slice), tokenizer).unwrap()
}

fn methods(baseline: Baseline) -> [Method; 3] {
    [
        Method::Occlusion {},
        Method::PathDifferences(AttributionSettings::levels(baseline, 2)),
        Method::IntegratedGradients {
            quadrature: AttributionSettings::quadrature(baseline, 4),
        },
    ]
}

#[test]
fn passes_shared_by_prompts_and_calls_equal_the_library_call_by_call() {
    for baseline in [Baseline::BlockMean, Baseline::Zero] {
        for method in methods(baseline) {
            shared_passes_equal_the_library(&settings(method, baseline));
        }
    }
}

fn shared_passes_equal_the_library(settings: &AttributionSettings) {
    let mut policy = policy();
    let micros = [micro(2), micro(3)];
    let prompts: Vec<_> = micros.iter().map(|m| encoded(&mut policy, m)).collect();
    let calls: Vec<_> = micros.iter().map(|m| calls(&policy, m)).collect();
    let model = policy.model.detached().unwrap();
    let both: Vec<_> = prompts
        .iter()
        .zip(&calls)
        .map(|(prompt, calls)| called(&policy, prompt, calls))
        .collect();
    let shared = attribute(&model, &both, settings, Budgets::default()).unwrap();
    for ((prompt, calls), shared) in prompts.iter().zip(&calls).zip(&shared) {
        assert_eq!(shared.len(), calls.len());
        for (call, shared) in calls.iter().zip(shared) {
            let alone = of_one_call(&model, prompt, call, settings);
            for (a, b) in shared.shares.shares().iter().zip(alone.shares()) {
                assert!(
                    (a - b).abs() < 1e-3,
                    "{settings:?}: {:?} against {alone:?}",
                    shared.shares,
                );
            }
            let has_gap = settings.method != Method::Occlusion {};
            assert_eq!(shared.relative_gap.is_some(), has_gap);
        }
    }
}

/// The shares of one call by the crate's interface for one function.
fn of_one_call(
    model: &Model,
    encoded: &EncodedPrompt,
    call: &[u32],
    settings: &AttributionSettings,
) -> Distribution {
    let prompt = &encoded.prompt;
    let labels: Vec<usize> = encoded.blocks.iter().map(|block| *block as usize).collect();
    let blocks = Blocks::new(labels, 4).unwrap();
    let input = model
        .embed(&prompt.input_ids, prompt.image_features.as_ref())
        .unwrap();
    let path = Path::new(&input, settings.baseline, blocks).unwrap();
    let tree = [Tree {
        prompt,
        branches: vec![call],
    }];
    let packed = Packed::new(model, &tree).unwrap();
    let whole = packed.embed(model).unwrap();
    let tail = whole
        .narrow(0, prompt.input_ids.len(), call.len() - 1)
        .unwrap();
    let f = |points: &Tensor| -> candle_core::Result<Tensor> {
        let values = (0..points.dim(0)?)
            .map(|point| {
                let embeddings = Tensor::cat(&[&points.get(point)?, &tail], 0)?;
                let scored = packed.log_probs(model, &embeddings, 1.0);
                let scored = scored.map_err(candle_core::Error::wrap)?;
                scored.log_probs.sum_all()
            })
            .collect::<candle_core::Result<Vec<_>>>()?;
        Tensor::stack(&values, 0)
    };
    let found = settings.method.attribute_function(&path, 1, f).unwrap();
    let masses = found.masses(path.blocks(), settings.masses).unwrap();
    Distribution::new(&masses, settings.smoothing).unwrap()
}

/// Budgets shape batches; what they round differently is far below what shares are compared by.
#[test]
fn budgets_change_the_last_bits_at_most() {
    let mut policy = policy();
    let micro = micro(2);
    let prompt = encoded(&mut policy, &micro);
    let calls = calls(&policy, &micro);
    let model = policy.model.detached().unwrap();
    let called = [called(&policy, &prompt, &calls)];
    let small = Budgets {
        attribution_tokens: 1,
        attribution_gradient_tokens: 1,
        ..Budgets::default()
    };
    for method in methods(Baseline::Zero) {
        let settings = settings(method, Baseline::Zero);
        let shares = |budgets| -> Vec<f64> {
            let found = attribute(&model, &called, &settings, budgets).unwrap();
            let calls = found.iter().flatten();
            calls
                .flat_map(|call| call.shares.shares().to_vec())
                .collect()
        };
        for (a, b) in shares(Budgets::default()).iter().zip(shares(small)) {
            assert!((a - b).abs() < 1e-4, "{settings:?}: {a} {b}");
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
        let baseline = Baseline::BlockMean;
        let quadrature = AttributionSettings::quadrature(baseline, nodes);
        let settings = settings(Method::IntegratedGradients { quadrature }, baseline);
        let called = [called(&policy, &prompt, &calls[..1])];
        let found = attribute(&model, &called, &settings, Budgets::default()).unwrap();
        found[0][0].relative_gap.unwrap()
    };
    let fine = gap(64);
    assert!(fine < 0.05, "gap with 64 nodes: {fine}");
    assert!(fine <= gap(2) + 1e-6);
}

/// The profile's rule of sixteen nodes is spaced by the norm of the checkpoints that it is used for.
#[test]
fn the_profiles_knee_is_that_of_its_checkpoints() {
    let profile = Profile::load("micro", &[]).unwrap();
    let arm = serde_json::to_value(&profile.arms["iapo-sixteen-nodes"]).unwrap();
    let told = &arm["attribution"]["method"]["quadrature"]["knee"];
    let told = told.as_f64().unwrap();
    for name in ["student", "teacher"] {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/micro");
        let policy = LocalPolicy::load(&folder.join(name), &Compute::cpu(), 1).unwrap();
        let found = policy.model.norm_knee().unwrap();
        assert!(
            (found / told - 1.0).abs() < 0.01,
            "{name}: {found}, profile {told}"
        );
    }
}

#[test]
fn from_itself_there_is_nothing_to_attribute() {
    let mut policy = policy();
    let micro = micro(2);
    let prompt = encoded(&mut policy, &micro);
    let calls = calls(&policy, &micro);
    let model = policy.model.detached().unwrap();
    let called = [called(&policy, &prompt, &calls)];
    let [_, _, method] = methods(Baseline::Zero);
    let settings = settings(method, Baseline::Zero);
    let budgets = Budgets::default();
    let found = attribute_from(&[&prompt], &model, &called, &settings, budgets).unwrap();
    for call in &found[0] {
        assert!(call.scores.as_ref().unwrap().iter().all(|s| *s == 0.0));
        assert_eq!(call.relative_gap, None);
    }
    let rollout = AttributionSettings {
        method: Method::AttentionRollout {},
        ..settings
    };
    let found = attribute(&model, &called, &rollout, budgets).unwrap();
    let reached: f32 = found[0][0].scores.as_ref().unwrap().iter().sum();
    assert!(reached > 0.1 && reached < 1.0 + 1e-5, "{reached}");
    let empty =
        [CalledPrompt::new(&prompt, [[].as_slice()], policy.processor.tokenizer()).unwrap()];
    let error = attribute(&model, &empty, &rollout, budgets).unwrap_err();
    assert!(error.to_string().contains("has no token"), "{error}");
}

/// The rule before calls were parsed, which micro vocabularies allow: whole words.
fn content_by_words(policy: &LocalPolicy, ids: &[u32]) -> Vec<bool> {
    ids.iter()
        .map(|id| {
            let text = policy.processor.decode(&[*id], true).unwrap();
            text.starts_with("focus_on_")
                || text.len() == 2 && text.chars().all(char::is_alphabetic)
        })
        .collect()
}

#[test]
fn content_of_a_micro_call_is_its_tool_and_names() {
    let policy = policy();
    let stop = policy.processor.stop_ids()[0];
    let mut selected = 0;
    for index in 0..48 {
        let micro = micro(index);
        for focus in micro.asked.right.iter().chain(&micro.asked.wrong) {
            for effect in Effect::ALL {
                let tokenizer = policy.processor.tokenizer();
                let mut ids = tokenizer.encode(&focus.call(effect)).unwrap();
                ids.push(stop);
                let content = content_tokens(tokenizer, &ids).unwrap();
                assert_eq!(content, content_by_words(&policy, &ids));
                selected += content.iter().filter(|content| **content).count();
            }
        }
    }
    assert!(selected > 500, "{selected}");
}

/// With the byte-level vocabulary of real checkpoints, a tool and a name are several tokens each.
#[test]
fn content_of_a_byte_level_call_is_its_tool_and_names() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../golden/parity/checkpoints/student");
    let processor = Processor::load(&folder).unwrap();
    let tokenizer = processor.tokenizer();
    let content = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text).unwrap();
        let content = content_tokens(tokenizer, &ids).unwrap();
        let mut runs: Vec<Vec<u32>> = vec![Vec::new()];
        for (id, content) in ids.iter().zip(content) {
            match content {
                true => runs.last_mut().unwrap().push(*id),
                false => runs.push(Vec::new()),
            }
        }
        runs.retain(|run| !run.is_empty());
        runs.iter()
            .map(|run| tokenizer.decode(run, true).unwrap())
            .collect()
    };
    let call = "THOUGHT 0: rows.\n```python\n# \"not this\"\nshown = focus_on_rows_with_mask(image_1, \
                [\"Zürich 🏔\", 'b'], rows_bbox)\ndisplay(shown)\n```";
    assert_eq!(content(call), ["focus_on_rows_with_mask", "Zürich 🏔", "b"]);
    let escaped =
        "```python\nfocus\\_on\\_rows\\_with\\_draw(image\\_1, [\"a\\_b\"], rows\\_bbox)\n```";
    assert_eq!(content(escaped), [r"focus\_on\_rows\_with\_draw", r"a\_b"]);
    // Keys of a dict of boxes are names of theirs; its corners are not.
    let literal = "```python\nfocus_on_rows_with_mask(image_1, [\"a\"], {\"a\": {\"x1\": 1, \"y1\": 1, \
                   \"x2\": 2, \"y2\": 2}})\n```";
    assert_eq!(content(literal), ["focus_on_rows_with_mask", "a", "a"]);
    // A refused call has the tools and strings that can be read.
    let refused = "```python\nfocus_on_rows_with_mask(image_1, [\"Year\", \"Al\n```";
    assert_eq!(content(refused), ["focus_on_rows_with_mask", "Year", "Al"]);
    assert!(content("FINAL ANSWER: \"Year\"").is_empty());
}
