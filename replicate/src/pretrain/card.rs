//! A model card: how a base checkpoint was made and what it can do.

use std::fmt::Write;

use benchmarks::TestSet;
use benchmarks::data::{Data, World};
use benchmarks::evaluation::Scoring;

use super::recipe::Recipe;
use crate::Result;
use crate::evaluation::base_card;
use crate::policy::LocalPolicy;

/// The card as markdown, with accuracies on validation questions of each set.
pub fn model_card(
    role: &str,
    recipe: &Recipe,
    world: &World,
    policy: &mut LocalPolicy,
) -> Result<String> {
    let count = recipe.card.questions;
    let stage = match role {
        "teacher" => &recipe.teacher,
        _ => &recipe.student,
    };
    let mut card = String::new();
    let _ = writeln!(
        card,
        "# Micro {role}, before reinforcement learning\n\n\
         A Qwen2.5-VL of {} parameters over a vocabulary of {} words, made from nothing by \
         `iapo pretrain --profile micro` (recipe {}, seed {}):\n\n\
         1. vision tower: {} steps of {} figures with dense labels for every cell;\n\
         2. question answering, vision frozen: {} steps of {} figures with {} questions each, {:.0} % \
         of the figures masked to what the questions are about, the first {} steps look-ups alone, \
         with dense labels for what two heads of the decoder look at;\n\
         3. demonstrations: {} steps of {} episodes; {:.0} % answer without a call; of the calls \
         {:.0} % copy the worked example and {:.0} % take a habitual axis, the others are right.\n\n\
         Both models together take about 25 minutes of two quiet cores.\n",
        policy.model.parameters().elements(),
        policy.model.config().text.vocab_size,
        recipe.hash(),
        recipe.seed,
        recipe.vision.steps,
        recipe.vision.figures,
        recipe.reading.steps,
        recipe.reading.figures,
        recipe.reading.questions,
        100.0 * recipe.reading.focused,
        recipe.reading.lookup_only,
        stage.steps,
        stage.episodes,
        100.0 * stage.direct,
        100.0 * stage.copied,
        100.0 * stage.habitual,
    );
    let _ = writeln!(
        card,
        "Accuracy on {count} validation questions of each set, greedy: on the raw figure without \
         tools, after the right mask, after a mask on other entries, and in its own episodes with \
         the shares that call, whose call runs, and whose call has the right focus.\n\n\
         | set | no tool | right tool | wrong tool | own choice | calls | runs | right focus |\n\
         |---|---|---|---|---|---|---|---|"
    );
    let data = Data::micro(world.clone(), count);
    for set in TestSet::ALL {
        let asked = world.validation_of(set, count);
        let figures = base_card(policy, &data, &asked, Scoring::Exact)?;
        let _ = writeln!(
            card,
            "| {set} | {:.3} | {:.3} | {:.3} | {:.3} | {:.2} | {:.2} | {:.2} |",
            figures.no_tool,
            figures.right_call,
            figures.wrong_call,
            figures.own_choice,
            figures.calls,
            figures.runs,
            figures.right_focus,
        );
    }
    Ok(card)
}
