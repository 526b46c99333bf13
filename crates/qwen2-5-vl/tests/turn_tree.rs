//! The turns of many episodes as one tree are those of one sequence a turn: log-probabilities,
//! entropies and gradients, with fewer tokens.

mod common;
#[path = "common/micro.rs"]
mod micro;

use candle_core::{Tensor, Var};
use common::{config, largest_difference, model, pixels, values};
use fused_ops::AttentionLayout;
use qwen2_5_vl::{
    ChatMessage, ChatPart, Grid, ImageCache, Model, PackedTurns, Prompt, SampledTurn,
};
use seeded_random::{Draw, Stream};

const STOP: u32 = 1;

/// Words of a stream, none of which stops.
fn words(seed: u64, count: usize) -> Vec<u32> {
    let mut draw = Stream::new(seed).purpose("words").generator();
    (0..count).map(|_| 2 + draw.below(28) as u32).collect()
}

/// Tokens that stand for an image of this grid.
fn image(grid: &Grid) -> Vec<u32> {
    let mut ids = vec![37];
    ids.resize(1 + grid.tokens(2), 35);
    ids.push(38);
    ids
}

const FIRST: Grid = Grid { t: 1, h: 12, w: 6 };
const EDITED: Grid = Grid { t: 1, h: 6, w: 8 };

fn features(model: &Model, images: &[(u64, Grid)]) -> Option<Tensor> {
    let encoded = images
        .iter()
        .map(|(seed, grid)| model.encode_images(&pixels(grid, *seed), &[*grid]).unwrap())
        .collect::<Vec<_>>();
    Some(Tensor::cat(&encoded, 0).unwrap())
}

fn question(model: &Model, seed: u64) -> Prompt {
    Prompt {
        input_ids: [words(seed, 4), image(&FIRST), words(seed + 50, 5)].concat(),
        image_features: features(model, &[(seed, FIRST)]),
        grids: vec![FIRST],
    }
}

/// The second prompt: the first, what was said, the edited image, words.
fn observed(model: &Model, seed: u64, first: &Prompt, call: &[u32], edit: u64) -> Prompt {
    let after = [words(edit, 2), image(&EDITED), words(edit + 50, 3)].concat();
    Prompt {
        input_ids: [&first.input_ids[..], call, &after].concat(),
        image_features: features(model, &[(seed, FIRST), (edit, EDITED)]),
        grids: vec![FIRST, EDITED],
    }
}

fn sampled(seed: u64, count: usize) -> Vec<u32> {
    [words(seed, count), vec![STOP]].concat()
}

/// Log-probabilities and entropies of a turn alone in its sequence.
fn alone(model: &Model, turn: &SampledTurn<'_>) -> (Tensor, Tensor) {
    let prompt = turn.prompt.input_ids.len();
    let ids = [&turn.prompt.input_ids[..], turn.token_ids].concat();
    let embeddings = model
        .embed(&ids, turn.prompt.image_features.as_ref())
        .unwrap();
    let positions = model.positions(&ids, &turn.prompt.grids).unwrap();
    let layout = AttentionLayout::causal(&[ids.len()]);
    let hidden = model.hidden(&embeddings, &positions, &layout).unwrap();
    let hidden = hidden
        .narrow(0, prompt - 1, turn.token_ids.len())
        .unwrap()
        .contiguous()
        .unwrap();
    let scored = model.token_log_probs(&hidden, turn.token_ids, 0.8).unwrap();
    (scored.log_probs, scored.entropy)
}

/// Different weights for all tokens, as advantages and ratios give them.
fn loss(log_probs: &Tensor) -> candle_core::Result<Tensor> {
    let count = log_probs.dim(0)?;
    let weights: Vec<f32> = (0..count).map(|i| ((i * 7) % 11) as f32 - 4.0).collect();
    let weights = Tensor::from_vec(weights, count, log_probs.device())?;
    (log_probs * weights)?.sum_all()
}

fn close(name: &str, found: &[f32], expected: &[f32]) {
    let scale = expected.iter().fold(1e-2f32, |most, v| most.max(v.abs()));
    let difference = largest_difference(found, expected);
    assert!(difference < 3e-5 * scale, "{name}: {difference} of {scale}");
}

/// Two questions. The first has four episodes: two made one call and answered differently, one made
/// another, one answered at once; the second has one whose second prompt does not go on with its call.
#[test]
fn one_tree_gives_what_a_sequence_a_turn_gives() {
    let model = model(false, 3);
    let (p, q) = (question(&model, 10), question(&model, 20));
    let (same, other, direct, lost) = (sampled(1, 6), sampled(2, 4), sampled(3, 5), sampled(4, 3));
    let p_same = observed(&model, 10, &p, &same, 30);
    let p_other = observed(&model, 10, &p, &other, 31);
    let rewritten = observed(&model, 20, &q, &sampled(5, 3), 32);
    let answers = [sampled(6, 3), sampled(7, 5), sampled(8, 2), sampled(9, 4)];
    let turn = |prompt, token_ids, follows| SampledTurn {
        prompt,
        token_ids,
        follows,
    };
    let turns = [
        turn(&p, &same[..], None),
        turn(&p, &same, None),
        turn(&p, &other, None),
        turn(&p, &direct, None),
        turn(&q, &lost, None),
        turn(&p_same, &answers[0], Some(0)),
        turn(&p_same, &answers[1], Some(1)),
        turn(&p_other, &answers[2], Some(2)),
        turn(&rewritten, &answers[3], Some(4)),
    ];
    let packed = PackedTurns::new(&model, &turns).unwrap();
    assert_eq!(packed.not_continued, 1);

    // Every token once: prompts, distinct calls (the last token where something follows), what was
    // said since, answers but for their last tokens.
    let since =
        |prompt: &Prompt, call: &[u32]| prompt.input_ids.len() - p.input_ids.len() - call.len();
    let expected = p.input_ids.len()
        + (same.len() + since(&p_same, &same))
        + (other.len() + since(&p_other, &other))
        + (direct.len() - 1)
        + q.input_ids.len()
        + (lost.len() - 1)
        + rewritten.input_ids.len()
        + answers.iter().map(|answer| answer.len() - 1).sum::<usize>();
    assert_eq!(packed.input_ids.len(), expected);
    let prompts = [&p, &q, &p_same, &p_other, &rewritten];
    let sampled: usize = turns.iter().map(|turn| turn.token_ids.len() - 1).sum();
    let separate = prompts.map(|prompt| prompt.input_ids.len());
    assert_eq!(
        packed.separate_tokens,
        separate.iter().sum::<usize>() + sampled
    );
    println!("{expected} tokens for {}", packed.separate_tokens);

    let embeddings = packed.embed(&model).unwrap();
    let found = packed.log_probs(&model, &embeddings, 0.8).unwrap();
    let each: Vec<(Tensor, Tensor)> = turns.iter().map(|turn| alone(&model, turn)).collect();
    let joined = |part: fn(&(Tensor, Tensor)) -> Tensor| {
        Tensor::cat(&each.iter().map(part).collect::<Vec<_>>(), 0).unwrap()
    };
    let expected = joined(|(log_probs, _)| log_probs.clone());
    close("log-probs", &values(&found.log_probs), &values(&expected));
    let entropy = joined(|(_, entropy)| entropy.clone());
    close("entropy", &values(&found.entropy), &values(&entropy));
    assert_eq!(packed.turns.len(), turns.len());
    for (range, turn) in packed.turns.iter().zip(&turns) {
        assert_eq!(&packed.targets[range.clone()], turn.token_ids);
    }

    let gradients = loss(&found.log_probs).unwrap().backward().unwrap();
    let expected = loss(&expected).unwrap().backward().unwrap();
    let (_, recomputed) = model
        .backward_with_recompute_of(
            &packed.predictors,
            &embeddings,
            &packed.positions,
            &packed.layout,
            |hidden| {
                loss(
                    &packed
                        .score(&model, hidden, 0.8)
                        .map_err(candle_core::Error::wrap)?
                        .log_probs,
                )
            },
        )
        .unwrap();
    let text = |(name, _): &(String, Var)| !name.starts_with("visual.");
    for (name, variable) in model.trainable().iter().filter(|own| text(own)) {
        let expected = values(expected.get(variable).unwrap());
        close(name, &values(gradients.get(variable).unwrap()), &expected);
        assert_eq!(
            values(recomputed.get(variable).unwrap()),
            values(gradients.get(variable).unwrap()),
            "{name}"
        );
    }
}

#[test]
fn turns_that_cannot_be_packed_are_named() {
    let model = model(true, 3);
    assert_eq!(config(true).image_token_id, 35);
    let p = question(&model, 10);
    let turn = |token_ids, follows| SampledTurn {
        prompt: &p,
        token_ids,
        follows,
    };
    let refused = |turns: &[SampledTurn<'_>], model: &Model| {
        PackedTurns::new(model, turns).unwrap_err().to_string()
    };
    let message = refused(&[turn(&[3], None), turn(&[], None)], &model);
    assert!(message.contains("turn 1 has no tokens"), "{message}");
    let message = refused(&[turn(&[3], Some(0))], &model);
    assert!(message.contains("turn 0 follows"), "{message}");
    let short = Prompt {
        image_features: None,
        ..p.clone()
    };
    let turns = [SampledTurn {
        prompt: &short,
        token_ids: &[3],
        follows: None,
    }];
    let message = refused(&turns, &model);
    assert!(
        message.contains("turn 0: ") && message.contains("18 image tokens"),
        "{message}"
    );
}

/// The released chat template renders what was said as it was sampled, so an observation goes on with
/// its call; and an image that both prompts hold is encoded once.
#[test]
fn the_chat_template_continues_a_turn_and_its_image_is_encoded_once() {
    let dir = micro::student();
    let (model, processor) = (micro::load(&dir).unwrap(), micro::processor(&dir).unwrap());
    let picture = |shade: u8| image::RgbImage::from_pixel(64, 64, image::Rgb([shade, 9, 200]));
    let (original, edited) = (picture(10), picture(90));
    let message = |role: &str, content: Vec<ChatPart>| ChatMessage {
        role: role.into(),
        content,
    };
    let text = |text: &str| ChatPart::Text(text.into());
    let call = "how many bars are red";
    let asked = message(
        "user",
        vec![ChatPart::Image, text("how many bars are blue ?")],
    );
    let first = processor
        .encode(std::slice::from_ref(&asked), &[&original], true)
        .unwrap();
    let told = [
        asked,
        message("assistant", vec![text(call)]),
        message("user", vec![ChatPart::Image, text("how many bars")]),
    ];
    let second = processor
        .encode(&told, &[&original, &edited], true)
        .unwrap();
    let images = processor.image_processor();
    let vision = model.vision_key(images.settings()).unwrap();
    let mut cache = ImageCache::new(usize::MAX);
    let mut prompt = |encoded: &qwen2_5_vl::Encoded, pictures: &[&image::RgbImage]| {
        let features = model
            .cached_image_features(&mut cache, vision, images, pictures, 4096)
            .unwrap();
        Prompt {
            input_ids: encoded.input_ids.clone(),
            image_features: Some(Tensor::cat(&features, 0).unwrap()),
            grids: encoded.grids.clone(),
        }
    };
    let (first, second) = (
        prompt(&first, &[&original]),
        prompt(&second, &[&original, &edited]),
    );
    assert_eq!(cache.encoded(), 2);
    let expected = model
        .image_features(&[(pixel_values(&processor, &edited), second.grids[1])], 1)
        .unwrap();
    let own = first.image_features.as_ref().unwrap().dim(0).unwrap();
    let found = second.image_features.as_ref().unwrap();
    assert_eq!(
        values(&found.narrow(0, own, found.dim(0).unwrap() - own).unwrap()),
        values(&expected[0])
    );

    let mut said = processor.tokenizer().encode(call).unwrap();
    said.extend(processor.tokenizer().encode("<|im_end|>").unwrap());
    let answer = processor.tokenizer().encode("red").unwrap();
    let turn = |prompt, token_ids, follows| SampledTurn {
        prompt,
        token_ids,
        follows,
    };
    let turns = [
        turn(&first, &said[..], None),
        turn(&second, &answer, Some(0)),
    ];
    let packed = PackedTurns::new(&model, &turns).unwrap();
    assert_eq!(packed.not_continued, 0);
    assert_eq!(
        packed.input_ids.len(),
        second.input_ids.len() + answer.len() - 1
    );
    // Other words than those that were rendered: a tree of its own.
    let turns = [
        turn(&first, &answer[..], None),
        turn(&second, &answer, Some(0)),
    ];
    assert_eq!(PackedTurns::new(&model, &turns).unwrap().not_continued, 1);
}

fn pixel_values(processor: &qwen2_5_vl::Processor, image: &image::RgbImage) -> Tensor {
    processor.image_processor().process(&[image]).unwrap().0
}
