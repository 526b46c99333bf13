//! A data folder in the layout of the hub's files, a few questions of each set: from the charts, boxes,
//! tables and questions of a folder of rows where one is given, else drawn.
//!
//! The training split's own pictures are in neither, so charts of the test split stand in for them:
//! this is a rehearsal, and nothing of it is a result. Tables have no pictures there either: their
//! real cells are drawn with marks for letters, and the boxes are those of the drawing.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use image::{Rgb, RgbImage};
use serde_json::{Map, Value, json};

/// How many questions of each kind the folder has.
pub struct Sizes {
    /// Test questions of each set.
    pub test: usize,
    /// Training charts of each direction.
    pub train: usize,
}

/// Writes the folder, with rows from `real` where that is given: `chartqa/`, `tables/`, `charxiv/`.
pub fn write(folder: &Path, real: Option<&Path>, sizes: &Sizes) -> anyhow::Result<()> {
    charts(folder, real, sizes)?;
    tables(folder, real, sizes)?;
    charxiv(folder, real, sizes)
}

fn lines(file: &Path) -> anyhow::Result<Vec<Value>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let rows = text.lines().enumerate().map(|(line, row)| {
        serde_json::from_str(row).with_context(|| format!("{}, line {}", file.display(), line + 1))
    });
    rows.collect()
}

fn write_lines(file: &Path, rows: &[Value]) -> anyhow::Result<()> {
    create_parent(file)?;
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    Ok(results::write_atomically(file, text.as_bytes())?)
}

fn save(image: &RgbImage, file: &Path) -> anyhow::Result<()> {
    create_parent(file)?;
    image
        .save(file)
        .with_context(|| format!("cannot write {}", file.display()))
}

fn create_parent(file: &Path) -> anyhow::Result<()> {
    let folder = file.parent().unwrap_or(file);
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// The text of a row's key.
fn text<'a>(row: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    row[key]
        .as_str()
        .with_context(|| format!("expected a text as '{key}', found {}", row[key]))
}

/// Charts in ReFocus' current dialect: the first figures are tested, the next ones trained on.
fn charts(folder: &Path, real: Option<&Path>, sizes: &Sizes) -> anyhow::Result<()> {
    let (mut test, mut train) = (Vec::new(), Vec::new());
    for source in ["chartqa_h_bar", "chartqa_v_bar"] {
        let mut rows: Vec<Value> = match real {
            Some(real) => lines(&real.join("chartqa/refocus_chartqa_test.jsonl"))?
                .into_iter()
                .filter(|row| row["source"] == source && row["image_file"].is_string())
                .collect(),
            None => (0..sizes.test + sizes.train)
                .map(|index| drawn_chart(folder, source, index))
                .collect::<anyhow::Result<_>>()?,
        };
        // Answers that the models can give, and small pictures, first: a rehearsal need not be long.
        rows.sort_by_key(|row| {
            let answerable = row["answer"]
                .as_str()
                .is_some_and(|a| ["Yes", "No"].contains(&a));
            (!answerable, row["image_size"][0].as_u64().unwrap_or(0))
        });
        let mut figures = BTreeSet::new();
        rows.retain(|row| figures.insert(row["image"].to_string()));
        for mut row in rows.into_iter().take(sizes.test + sizes.train) {
            if let Some(real) = real {
                let name = text(&row, "image_file")?;
                let (from, to) = (real.join("chartqa").join(name), folder.join(name));
                create_parent(&to)?;
                std::fs::copy(&from, to)
                    .with_context(|| format!("cannot copy {}", from.display()))?;
            }
            let tested = test.iter().filter(|row: &&Value| row["source"] == source);
            if tested.count() < sizes.test {
                test.push(row);
            } else {
                row["id"] = json!(format!("train-{}", text(&row, "id")?));
                train.push(row);
            }
        }
    }
    write_lines(&folder.join("chartqa_vcot/test.jsonl"), &test)?;
    write_lines(&folder.join("chartqa_vcot/train.jsonl"), &train)
}

fn drawn_chart(folder: &Path, source: &str, index: usize) -> anyhow::Result<Value> {
    let (width, height) = (160, 120);
    let mut image = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    let labels = ["2015", "2016", "2018"];
    let mut boxes = Vec::new();
    for (bar, _) in labels.iter().enumerate() {
        let (bar, tall) = (bar as u32, 20 + (index as u32 * 17 + bar as u32 * 29) % 80);
        let region = match source {
            "chartqa_v_bar" => [10 + 50 * bar, 0, 50 + 50 * bar, 119],
            _ => [0, 10 + 36 * bar, 159, 38 + 36 * bar],
        };
        for x in region[0] + 5..region[2] - 5 {
            for y in region[1] + 5..region[3] - 5 {
                let inside = match source {
                    "chartqa_v_bar" => y > 118 - tall,
                    _ => x < tall,
                };
                if inside {
                    image.put_pixel(x, y, Rgb([40, 90, 200]));
                }
            }
        }
        let [x1, y1, x2, y2] = region;
        boxes.push(json!({ "x1": x1, "y1": y1, "x2": x2, "y2": y2 }));
    }
    let name = format!("png/{source}-{index}.png");
    save(&image, &folder.join(&name))?;
    let (x, y) = match source {
        "chartqa_v_bar" => ((json!(labels), json!(boxes)), (json!([]), json!([]))),
        _ => ((json!([]), json!([])), (json!(labels), json!(boxes))),
    };
    Ok(json!({
        "id": format!("{source}-{index}"), "question": "Is 2015 larger than 2016?",
        "answer": if index.is_multiple_of(2) { "Yes" } else { "No" },
        "image": name, "image_file": name, "image_size": [width, height], "source": source,
        "x_values": x.0, "x_values_bbox": x.1, "y_values": y.0, "y_values_bbox": y.1,
    }))
}

/// A table's cells.
struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Tables in ReFocus' dialect for the test sets, in VTool-R1's for training.
fn tables(folder: &Path, real: Option<&Path>, sizes: &Sizes) -> anyhow::Result<()> {
    let mut train = Vec::new();
    for (set, file) in [
        ("vwtq", "tablevqa_wbb.json"),
        ("vwtq_syn", "tablevqa-vwtq_syn_wbb.json"),
        ("vtabfact", "tablevqa-vtabfact_wbb.json"),
    ] {
        let mut rows = match real {
            Some(real) => lines(&real.join(format!("tables/{set}.jsonl")))?,
            None => (0..2 * sizes.test)
                .map(|index| made_table(set, index))
                .collect(),
        };
        rows.sort_by_key(|row| row["table"].to_string().len());
        let mut tested = Map::new();
        for row in rows.into_iter().take(2 * sizes.test) {
            let id = text(&row, "qa_id")?.to_owned();
            let table = Table::of(&row["table"])
                .with_context(|| format!("{id}: expected 'headers' and 'rows' of texts"))?;
            let (image, columns, lines) = table.drawn();
            let name = format!("images/{set}-{id}.png");
            save(&image, &folder.join(&name))?;
            let size = [f64::from(image.width()), f64::from(image.height())];
            if tested.len() < sizes.test {
                let fractions = |regions: &[[u32; 4]]| -> Vec<Value> {
                    regions
                        .iter()
                        .map(|region| region_json(*region, size))
                        .collect()
                };
                let starters: Vec<&str> = table.starters();
                tested.insert(
                    id.clone(),
                    json!({
                        "figure_id": id, "query": row["question"], "answer": row["gt"],
                        "figure_path": name, "column_headers": table.headers,
                        "columns_bbox": fractions(&columns), "row_starters": starters,
                        "rows_bbox": fractions(&lines),
                    }),
                );
            } else if set != "vwtq_syn" {
                let named = |names: &[&str], regions: &[[u32; 4]]| -> Map<String, Value> {
                    let pairs = names.iter().zip(regions);
                    pairs
                        .map(|(name, region)| ((*name).to_owned(), region_json(*region, [1.0; 2])))
                        .collect()
                };
                let headers: Vec<&str> = table.headers.iter().map(String::as_str).collect();
                let metadata = json!({
                    "type": "table", "columns_bbox": named(&headers, &columns),
                    "row_starters": named(&table.starters(), &lines),
                });
                train.push(json!({
                    "figure_id": id, "query": row["question"], "answer": row["gt"],
                    "figure_path": name, "metadata": metadata.to_string(),
                }));
            }
        }
        results::write_json(&folder.join(file), &Value::Object(tested))?;
    }
    write_lines(&folder.join("table_train.jsonl"), &train)
}

fn region_json(region: [u32; 4], size: [f64; 2]) -> Value {
    let [x1, y1, x2, y2] = region.map(f64::from);
    json!({ "x1": x1 / size[0], "y1": y1 / size[1], "x2": x2 / size[0], "y2": y2 / size[1] })
}

fn made_table(set: &str, index: usize) -> Value {
    let rows: Vec<[String; 3]> = (1..=4)
        .map(|row| {
            [
                row.to_string(),
                format!("Team {row}"),
                (row * index).to_string(),
            ]
        })
        .collect();
    let id = match set {
        "vtabfact" => format!("2-1.html.csv_{index}"),
        _ => format!("nu-{index}"),
    };
    json!({
        "qa_id": id, "question": "which rank has team 1?",
        "gt": if set == "vtabfact" { json!(index % 2) } else { json!("1") },
        "table": { "headers": ["Rank", "Nation", "Gold"], "rows": rows },
    })
}

impl Table {
    fn of(value: &Value) -> Option<Self> {
        let cells = |value: &Value| -> Option<Vec<String>> {
            let cells = value.as_array()?.iter();
            cells.map(|cell| Some(cell.as_str()?.to_owned())).collect()
        };
        Some(Table {
            headers: cells(&value["headers"])?,
            rows: value["rows"]
                .as_array()?
                .iter()
                .map(cells)
                .collect::<Option<_>>()?,
        })
    }

    /// The first cell of every row, the header's too, as ReFocus lists them.
    fn starters(&self) -> Vec<&str> {
        let headers = self.headers.first();
        let rows = self.rows.iter().filter_map(|row| row.first());
        headers
            .into_iter()
            .chain(rows)
            .map(String::as_str)
            .collect()
    }

    /// Its picture with the regions of columns and rows.
    fn drawn(&self) -> (RgbImage, Vec<[u32; 4]>, Vec<[u32; 4]>) {
        let (cell, line) = ([64, 14], self.rows.len() as u32 + 1);
        let (width, height) = (cell[0] * self.headers.len() as u32, cell[1] * line);
        let mut image = RgbImage::from_pixel(width, height, Rgb([255; 3]));
        let lines = std::iter::once(&self.headers).chain(&self.rows);
        for (y, row) in lines.enumerate() {
            for (x, text) in row.iter().enumerate() {
                for (place, byte) in text.bytes().take(10).enumerate() {
                    for bit in 0..8u32 {
                        if byte >> bit & 1 == 1 {
                            let x = cell[0] * x as u32 + 2 + 6 * place as u32 + bit % 4;
                            let y = cell[1] * y as u32 + 3 + 3 * (bit / 4);
                            image.put_pixel(x.min(width - 1), y, Rgb([0; 3]));
                        }
                    }
                }
            }
        }
        let columns = 0..self.headers.len() as u32;
        let columns = columns.map(|x| [cell[0] * x, 0, cell[0] * (x + 1) - 1, height - 1]);
        let rows = (0..line).map(|y| [0, cell[1] * y, width - 1, cell[1] * (y + 1) - 1]);
        let (columns, rows) = (columns.collect(), rows.collect());
        (image, columns, rows)
    }
}

/// CharXiv's questions; its figures are not public here, so any picture stands for them.
fn charxiv(folder: &Path, real: Option<&Path>, sizes: &Sizes) -> anyhow::Result<()> {
    let rows: Vec<Value> = match real {
        Some(real) => lines(&real.join("charxiv/reasoning_val.jsonl"))?,
        None => (0..sizes.test)
            .map(|index| {
                json!({
                    "figure_id": index, "query": "Which line is higher?", "answer": "the blue one",
                    "inst_category": 1 + index % 4, "qa_source": 1,
                })
            })
            .collect(),
    };
    let rows: Vec<Value> = rows.into_iter().take(sizes.test).collect();
    for row in &rows {
        let shade = row["figure_id"].as_u64().unwrap_or(0) as u8;
        let image = RgbImage::from_fn(120, 90, |x, y| Rgb([shade, x as u8, y as u8]));
        save(
            &image,
            &folder.join(format!("charxiv/images/{}.jpg", row["figure_id"])),
        )?;
    }
    write_lines(&folder.join("charxiv/reasoning_val.jsonl"), &rows)
}
