//! The prompts of both turns, block by block, and the answer's extraction.
//!
//! First turn: system text (P), tool definitions (T), image (I), request (R), in this order; the
//! real figures' prompt also lists the names that the boxes have (P), as VTool-R1's does
//! (`chartqa_dataset_creator.py`, `table_dataset_creator.py`). VTool-R1's own order is image,
//! request, names, tools, after the chat template's own system line. Second turn: see
//! [`ObservationMode`].

use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use visual_tools::{FigureBoxes, NamedBoxes};

use crate::{Block, Conversation, Message, MessagePart, Role, Task};

/// Whose wording the prompt has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptStyle {
    /// The micro world's: a system line, tools drawn per task, nothing else.
    Micro,
    /// VTool-R1's three lines after the image, our wording of the tools' description.
    Vtool,
    /// VTool-R1's prompt: no system message of its own, image, request and names, then the tools'
    /// text that the task brings ([`Task::tools`]), which is VTool-R1's published template.
    VtoolR1,
}

/// What the second turn sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObservationMode {
    /// The whole first turn, then the observation with the edited image as a second image
    /// (VTool-R1, IAPO).
    Append,
    /// The request asked anew with the edited image in place of the original and without tools.
    /// A failed call leaves no image: that makes calls consequential at the micro scale.
    Replace,
}

const MICRO_SYSTEM: &str = "Answer.";

const VTOOL_SYSTEM: &str = "You answer questions about charts and tables. You may focus the image \
with one of the given functions before you answer.";

const VTOOL_TOOLS: &str = r#"You can call one of these functions in a python block. Each returns an edited image.
focus_on_columns_with_mask(image_1, names, columns_bbox), focus_on_rows_with_mask(image_1, names, rows_bbox): for tables, hide every column (row) that is not named.
focus_on_columns_with_draw, focus_on_rows_with_draw: draw a red box around the named ones. focus_on_columns_with_highlight, focus_on_rows_with_highlight: colour the named ones.
focus_on_x_values_with_mask(image_1, names, x_values_bbox), focus_on_y_values_with_mask(image_1, names, y_values_bbox), and the same with _draw and _highlight: for charts, the regions of the named values of an axis.
`names` is a list of names out of the lists below. At most one block, then stop; the edited image will be shown to you.
Example. Request: which of Japan and Peru has the higher bar? The x values in the image are: ['Japan', 'Peru', 'Chile'].
THOUGHT 0: The question is about Japan and Peru, so I focus on these two x values.
ACTION 0:
```python
display(focus_on_x_values_with_draw(image_1, ["Japan", "Peru"], x_values_bbox))
```
When you know the answer, write it as: ANSWER: reasoning. FINAL ANSWER: the answer. TERMINATE"#;

const OBSERVATION: &str = "OBSERVATION: Execution success. The output is as follows:\n\
<the image outputs of the code is added as the second image>";

/// The conversation before the first turn.
pub fn first_turn(task: &Task, style: PromptStyle) -> Conversation {
    let default_tools = match style {
        PromptStyle::Micro | PromptStyle::VtoolR1 => "",
        PromptStyle::Vtool => VTOOL_TOOLS,
    };
    let tools = task.tools.as_deref().unwrap_or(default_tools);
    let tools = (!tools.is_empty()).then(|| MessagePart::text(Block::T, tools));
    let question = question_parts(task, &task.image, style);
    let parts = match style {
        PromptStyle::Micro | PromptStyle::Vtool => tools.into_iter().chain(question).collect(),
        PromptStyle::VtoolR1 => question.into_iter().chain(tools).collect(),
    };
    Conversation::new(
        system_message(style)
            .into_iter()
            .chain([user(parts)])
            .collect(),
    )
}

/// The conversation before the second turn. `observed` is the edited image, or why there is none.
pub fn second_turn(
    task: &Task,
    first: &Conversation,
    call: &str,
    observed: Result<&Arc<RgbImage>, &str>,
    style: PromptStyle,
    mode: ObservationMode,
) -> Conversation {
    match mode {
        ObservationMode::Append => {
            let said = Message {
                role: Role::Assistant,
                parts: vec![MessagePart::text(Block::P, call)],
            };
            let observation = user(match observed {
                Ok(image) => vec![
                    MessagePart::Image(image.clone()),
                    MessagePart::text(Block::P, OBSERVATION),
                ],
                Err(reason) => vec![MessagePart::text(
                    Block::P,
                    format!("OBSERVATION: Execution error. {reason}"),
                )],
            });
            first.followed_by([said, observation])
        }
        ObservationMode::Replace => {
            let parts = match observed {
                Ok(image) => question_parts(task, image, style),
                Err(_) => vec![
                    MessagePart::text(Block::P, "Error."),
                    MessagePart::text(Block::R, &task.request),
                ],
            };
            Conversation::new(
                system_message(style)
                    .into_iter()
                    .chain([user(parts)])
                    .collect(),
            )
        }
    }
}

/// The final answer in a completion: the text between `FINAL ANSWER:` and `TERMINATE` (or the end),
/// without a final full stop; `None` when the phrase is absent.
pub fn final_answer(text: &str) -> Option<&str> {
    let start = text.rfind("FINAL ANSWER:")? + "FINAL ANSWER:".len();
    let rest = &text[start..];
    let end = rest.find("TERMINATE").unwrap_or(rest.len());
    let answer = rest[..end].trim();
    Some(answer.strip_suffix('.').unwrap_or(answer).trim_end())
}

/// The system message of a style; `None` leaves it to the chat template.
fn system_message(style: PromptStyle) -> Option<Message> {
    let text = match style {
        PromptStyle::Micro => MICRO_SYSTEM,
        PromptStyle::Vtool => VTOOL_SYSTEM,
        PromptStyle::VtoolR1 => return None,
    };
    Some(Message {
        role: Role::System,
        parts: vec![MessagePart::text(Block::P, text)],
    })
}

fn user(parts: Vec<MessagePart>) -> Message {
    Message {
        role: Role::User,
        parts,
    }
}

fn question_parts(task: &Task, image: &Arc<RgbImage>, style: PromptStyle) -> Vec<MessagePart> {
    let image = MessagePart::Image(image.clone());
    match style {
        PromptStyle::Micro => vec![image, MessagePart::text(Block::R, &task.request)],
        PromptStyle::Vtool => vec![
            image,
            MessagePart::text(Block::R, format!("# USER REQUEST #: {}", task.request)),
            MessagePart::text(
                Block::P,
                format!(
                    "\n# USER Bounding Box Info: {}\n# USER IMAGE stored in image_1, as PIL image.",
                    boxes_line(&task.boxes, "y")
                ),
            ),
        ],
        PromptStyle::VtoolR1 => {
            // The dataset's makers put a blank after a chart's image and none after a table's.
            let blank = if names_table(&task.boxes) { "" } else { " " };
            vec![
                image,
                MessagePart::text(
                    Block::R,
                    format!("{blank}# USER REQUEST #: {}", task.request),
                ),
                MessagePart::text(
                    Block::P,
                    format!(
                        "\n# USER Bounding Box Info: {}\n# USER IMAGE stored in image_1, as PIL image.",
                        boxes_line(&task.boxes, "x")
                    ),
                ),
            ]
        }
    }
}

/// Whether a figure's regions are those of a table.
fn names_table(boxes: &FigureBoxes) -> bool {
    !boxes.columns.0.is_empty() || !boxes.rows.0.is_empty()
}

/// The line that names a figure's regions. `stored` is what it says that `y_values_bbox` stores:
/// VTool-R1's has "x".
fn boxes_line(boxes: &FigureBoxes, stored: &str) -> String {
    let (first, second) = if !names_table(boxes) {
        (
            format!(
                "x_values_bbox, storing x values and coordinates. y_values_bbox, storing {stored} values \
                 and coordinates. The x values in the image are: {}.",
                python_list(&boxes.x_values)
            ),
            format!(
                "The y values in the image are: {}.",
                python_list(&boxes.y_values)
            ),
        )
    } else {
        (
            format!(
                "columns_bbox, where keys are column headers and values are column bounding boxes. \
                 rows_bbox, where keys are row headers and values are row bounding boxes. \
                 The columns in the image are: {}.",
                python_list(&boxes.columns)
            ),
            format!(
                "The rows in the image start with: {}.",
                python_list(&boxes.rows)
            ),
        )
    };
    format!("{first} {second}")
}

/// A list of names as Python's `repr` writes it.
fn python_list(boxes: &NamedBoxes) -> String {
    let quoted: Vec<String> = boxes
        .0
        .iter()
        .map(|(name, _)| {
            let escaped = name.replace('\\', "\\\\").replace('\n', "\\n");
            if escaped.contains('\'') && !escaped.contains('"') {
                format!("\"{escaped}\"")
            } else {
                format!("'{}'", escaped.replace('\'', "\\'"))
            }
        })
        .collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words decide what a model sees: changing one changes every result.
    #[test]
    fn the_words_of_the_prompt() {
        insta::assert_snapshot!(format!(
            "{MICRO_SYSTEM}\n---\n{VTOOL_SYSTEM}\n---\n{VTOOL_TOOLS}\n---\n{OBSERVATION}"
        ));
    }

    /// The order of VTool-R1's prompt decides where its blocks stand, which is what is measured.
    #[test]
    fn vtool_r1s_prompt_has_its_tools_last() {
        let region = visual_tools::PixelBox {
            x1: 0.0,
            y1: 0.0,
            x2: 1.0,
            y2: 1.0,
        };
        let mut boxes = FigureBoxes {
            x_values: NamedBoxes(vec![("2019".into(), region)]),
            ..FigureBoxes::default()
        };
        let told = |boxes: &FigureBoxes| {
            let task = Task {
                image: Arc::new(RgbImage::new(1, 1)),
                boxes: Arc::new(boxes.clone()),
                request: "How high?".into(),
                tools: Some("\n\nHere are some tools".into()),
            };
            let conversation = first_turn(&task, PromptStyle::VtoolR1);
            let parts = conversation.iter().flat_map(|message| &message.parts);
            let parts = parts.map(|part| match part {
                MessagePart::Image(_) => "<image>".to_owned(),
                MessagePart::Text { text, block } => format!("[{block:?}]{text}"),
            });
            parts.collect::<Vec<_>>().join("|")
        };
        let chart = told(&boxes);
        boxes.rows = NamedBoxes(vec![("1".into(), region)]);
        insta::assert_snapshot!(format!("{chart}\n---\n{}", told(&boxes)));
    }

    #[test]
    fn the_last_final_answer_counts() {
        assert_eq!(final_answer("FINAL ANSWER: 4. TERMINATE"), Some("4"));
        assert_eq!(
            final_answer("FINAL ANSWER: 4. no: FINAL ANSWER: 0.57"),
            Some("0.57")
        );
        assert_eq!(final_answer("FINAL ANSWER:TERMINATE"), Some(""));
        assert_eq!(final_answer("forty-two"), None);
    }

    #[test]
    fn names_are_listed_as_python_would() {
        let zero = visual_tools::PixelBox {
            x1: 0.0,
            y1: 0.0,
            x2: 1.0,
            y2: 1.0,
        };
        let boxes = NamedBoxes(vec![
            ("a".into(), zero),
            ("it's".into(), zero),
            ("\"it's\"".into(), zero),
        ]);
        assert_eq!(python_list(&boxes), r#"['a', "it's", '"it\'s"']"#);
    }
}
