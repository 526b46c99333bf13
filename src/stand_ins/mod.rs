//! What a rehearsal of a profile needs, made from nothing: checkpoints of the real architecture with
//! random weights, and a few charts, tables and questions of every set.

mod checkpoint;
mod data;

use std::path::Path;

pub use checkpoint::ModelSize;
pub use data::Sizes;

/// Writes `student/`, `teacher/` and `data/` into a folder.
///
/// # Errors
/// A file that cannot be written, or rows in `real` of another layout.
pub fn write(
    folder: &Path,
    size: ModelSize,
    real: Option<&Path>,
    sizes: &Sizes,
) -> anyhow::Result<()> {
    let words = words();
    for (name, own) in ["student", "teacher"].into_iter().zip(size.models()) {
        checkpoint::write(&folder.join(name), &own, &words)?;
    }
    data::write(&folder.join("data"), real, sizes)
}

/// Whole calls and answers, each a token of the vocabulary: a random model writes random bytes, which
/// call no tool.
fn words() -> Vec<String> {
    let call = |tool: &str, name: &str, boxes: &str| {
        format!("```python\ndisplay({tool}(image_1, [\"{name}\"], {boxes}))\n```")
    };
    let mut words = Vec::new();
    for year in ["2014", "2015", "2016", "2018", "Yes", "No"] {
        for axis in ["x", "y"] {
            let (tool, boxes) = (
                format!("focus_on_{axis}_values_with_draw"),
                format!("{axis}_values_bbox"),
            );
            words.push(call(&tool, year, &boxes));
        }
    }
    for name in ["Rank", "Nation", "player", "date"] {
        words.push(call("focus_on_columns_with_mask", name, "columns_bbox"));
        words.push(call("focus_on_rows_with_highlight", name, "rows_bbox"));
    }
    for answer in [
        "Yes", "No", "1", "2", "3", "8", "2015", "True", "False", "0.57",
    ] {
        words.push(format!("ANSWER: so. FINAL ANSWER: {answer}. TERMINATE"));
    }
    words
}
