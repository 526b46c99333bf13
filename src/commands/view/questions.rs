//! The questions of a page, each once, with what the model was shown.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use agent::{
    Conversation, Episode, EpisodeOptions, MessagePart, Task, ToolOutcome, first_turn, second_turn,
    use_tool,
};
use benchmarks::data::{Data, EpisodeStyle, Item, Truth, World};
use image::RgbImage;
use results::EpisodeRecord;
use seeded_random::Stream;
use serde_json::{Value, json};
use visual_tools::Axis;

use super::figures::Figures;
use crate::commands::recorded;

/// Where the words of a call and the reason of its failure go in the text of a second turn.
const CALL: &str = "\u{1}call\u{1}";
const WHY: &str = "\u{1}why\u{1}";

/// What tells one question from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub set: String,
    pub id: String,
    pub image_id: String,
    pub gold: String,
    /// The generated world that it belongs to, or the place in training that it was drawn at.
    pub place: String,
}

/// A question as far as it can be had again.
struct Known {
    key: Key,
    kind: Option<String>,
    task: Option<Task>,
    truth: Option<Truth>,
    style: EpisodeStyle,
    /// Whether the task's image is the figure; else it could not be had.
    has_figure: bool,
    /// The figure's file and checksum, where it has any.
    image: Option<(String, Option<String>)>,
    /// What its calls lead to, by their text.
    calls: BTreeMap<String, Called>,
}

/// What a call leads to.
#[derive(Clone)]
pub struct Called {
    /// What becomes of it.
    pub outcome: ToolOutcome,
    /// The tool, where the parser accepted it.
    pub tool: Option<String>,
    /// The names, in the order of the call.
    pub names: Vec<String>,
    /// Whether it is right, where that is known.
    pub right_focus: Option<bool>,
    edited: Option<Arc<RgbImage>>,
    /// The number of the edited figure.
    pub figure: Option<usize>,
}

/// All questions of a page.
#[derive(Default)]
pub struct Questions {
    list: Vec<Known>,
    index: HashMap<Key, usize>,
}

impl Questions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The question behind a test or validation answer. `gold` tells whether `world` is the one that
    /// it was asked in; `episode` stands for what cannot be generated.
    pub fn of_answer(
        &mut self,
        key: Key,
        kind: Option<&str>,
        world: Option<&World>,
        episode: Option<&EpisodeRecord>,
    ) -> usize {
        if let Some(&known) = self.index.get(&key) {
            if self.list[known].kind.is_none() {
                self.list[known].kind = kind.map(str::to_owned);
            }
            return known;
        }
        let item = world.and_then(|world| world.by_id(&key.id));
        let item = item
            .filter(|item| item.question.gold == key.gold && item.question.set.name() == key.set);
        let known = match (item, episode) {
            (Some(item), _) => generated(key, item),
            (None, Some(episode)) if episode.world_seed.is_none() => loaded(key, episode),
            _ => Known {
                key,
                kind: None,
                task: None,
                truth: None,
                style: EpisodeStyle::default(),
                has_figure: false,
                image: None,
                calls: BTreeMap::new(),
            },
        };
        let kind = kind.map(str::to_owned).or(known.kind);
        self.push(Known { kind, ..known })
    }

    /// The question of a training episode; generated ones are drawn again from the run's stream.
    pub fn of_training(&mut self, episode: &EpisodeRecord, world: Option<&World>) -> Option<usize> {
        let sample = episode.training.as_ref()?;
        let place = match episode.world_seed {
            None => String::new(),
            Some(_) => format!(
                "{} {} {} {}",
                episode.seed, sample.stream, sample.stage_update, sample.prompt
            ),
        };
        let key = Key {
            set: episode.set.clone(),
            id: episode.qa_id.clone(),
            image_id: episode.image_id.clone(),
            gold: episode.gold.clone(),
            place,
        };
        if let Some(&known) = self.index.get(&key) {
            return Some(known);
        }
        let known = match (episode.world_seed, world) {
            (None, _) => loaded(key, episode),
            (Some(_), None) => return None,
            (Some(_), Some(world)) => {
                let data = Data::micro(world.clone(), 0);
                let stream = Stream::new(episode.seed).purpose(&sample.stream);
                let (update, prompt) = (sample.stage_update as usize, sample.prompt as usize);
                let drawn = data.training(&stream, update, prompt + 1).ok()?;
                let item = drawn.items.into_iter().nth(prompt)?;
                // Another version's generator would give another question.
                if item.question.gold != episode.gold
                    || item.question.task.request != episode.request
                {
                    return None;
                }
                generated(key, item)
            }
        };
        Some(self.push(known))
    }

    fn push(&mut self, known: Known) -> usize {
        self.index.insert(known.key.clone(), self.list.len());
        self.list.push(known);
        self.list.len() - 1
    }

    /// What becomes of a call's text on a question; `None` where the question cannot be had again.
    pub fn call(&mut self, question: usize, text: &str) -> Option<&Called> {
        let known = &mut self.list[question];
        if !known.calls.contains_key(text) {
            let task = known.task.as_ref().filter(|_| known.has_figure)?;
            let options = known.style.options();
            let (call, outcome, edited) = use_tool(task, text, &options.tools);
            let (tool, names) = match &call {
                Some(call) => (Some(call.tool.to_string()), call.names_in(&task.boxes)),
                None => (None, Vec::new()),
            };
            let episode = Episode {
                turns: Vec::new(),
                call,
                outcome: outcome.clone(),
                observation: None,
                answer: None,
            };
            let called = outcome.called();
            let called = Called {
                outcome,
                tool,
                names,
                right_focus: known
                    .truth
                    .as_ref()
                    .filter(|_| called)
                    .map(|truth| truth.approves(&episode)),
                edited,
                figure: None,
            };
            known.calls.insert(text.to_owned(), called);
        }
        known.calls.get(text)
    }

    /// The number of the figure that a call leads to, after [`Questions::write`].
    pub fn edited(&self, question: usize, text: &str) -> Option<usize> {
        self.list[question].calls.get(text)?.figure
    }

    /// All questions as the page reads them, their figures put into `figures`.
    pub fn write(&mut self, figures: &mut Figures) -> anyhow::Result<Value> {
        let mut all = Vec::with_capacity(self.list.len());
        for known in &mut self.list {
            let task = known.task.as_ref();
            let mut figure = None;
            if let Some(task) = task.filter(|_| known.has_figure) {
                figure = figures.add(&task.image)?;
                for called in known.calls.values_mut() {
                    if let Some(edited) = &called.edited {
                        called.figure = figures.add_edited(edited, figure)?;
                    }
                }
                figures.end_of_question();
            }
            let size = task
                .filter(|_| known.has_figure)
                .map(|task| [task.image.width(), task.image.height()]);
            let turns = task.map(|task| turns(task, &known.style.options()));
            all.push(json!({
                "set": known.key.set,
                "id": known.key.id,
                "place": known.key.place,
                "kind": known.kind,
                "gold": known.key.gold,
                "request": task.map(|task| &task.request),
                "figure": figure,
                "size": size,
                "image": known.image,
                "boxes": task.map(boxes),
                "turns": turns,
                "rightCall": known.truth.as_ref().map(|truth| &truth.right_call),
            }));
        }
        Ok(Value::Array(all))
    }
}

fn generated(key: Key, item: Item) -> Known {
    Known {
        key,
        kind: item.truth.as_ref().map(|truth| truth.kind.to_owned()),
        task: Some(item.question.task),
        truth: item.truth,
        style: EpisodeStyle::Micro,
        has_figure: true,
        image: None,
        calls: BTreeMap::new(),
    }
}

/// A question from files: its figure is shown if the file is still there, the same to the pixel.
fn loaded(key: Key, episode: &EpisodeRecord) -> Known {
    let image = recorded::figure(episode);
    Known {
        key,
        kind: episode.kind.clone(),
        has_figure: image.is_some(),
        task: Some(recorded::task(
            episode,
            image.unwrap_or_else(|| RgbImage::new(1, 1)),
        )),
        truth: None,
        style: EpisodeStyle::Vtool,
        image: Some((
            episode.image.clone().unwrap_or_default(),
            episode.image_blake3.clone(),
        )),
        calls: BTreeMap::new(),
    }
}

fn boxes(task: &Task) -> Value {
    let of = |axis: Axis| {
        let named = match axis {
            Axis::Columns => &task.boxes.columns,
            Axis::Rows => &task.boxes.rows,
            Axis::XValues => &task.boxes.x_values,
            Axis::YValues => &task.boxes.y_values,
        };
        let regions = named.0.iter();
        let regions: Vec<Value> = regions
            .map(|(name, region)| json!([name, region.x1, region.y1, region.x2, region.y2]))
            .collect();
        (!regions.is_empty()).then(|| (axis.word().to_owned(), Value::Array(regions)))
    };
    Value::Object(Axis::ALL.into_iter().filter_map(of).collect())
}

/// The prompts: of the first turn, of the second after a call that ran, and after one that did not.
fn turns(task: &Task, options: &EpisodeOptions) -> Value {
    let first = first_turn(task, options.prompt);
    let second = |observed: Result<&Arc<RgbImage>, &str>| {
        let observation = options.observation;
        let next = second_turn(task, &first, CALL, observed, options.prompt, observation);
        // What the second turn repeats of the first is said once.
        let repeats = next.len() > first.len() && next[0].parts.len() == first[0].parts.len();
        let skipped = if repeats { first.len() } else { 0 };
        json!({"repeats": repeats, "parts": parts(&next, skipped)})
    };
    json!({
        "first": parts(&first, 0),
        "ran": second(Ok(&task.image)),
        "failed": second(Err(WHY)),
    })
}

/// Role, block and text of every part; the text of an image is null.
fn parts(conversation: &Conversation, skipped: usize) -> Vec<Value> {
    let messages = conversation.iter().skip(skipped);
    messages
        .flat_map(|message| message.parts.iter().map(|part| (message.role, part)))
        .map(|(role, part)| match part {
            MessagePart::Text { text, block } => json!([role.name(), block, text]),
            MessagePart::Image(_) => json!([role.name(), "I", null]),
        })
        .collect()
}
