//! The entry points, each with its seeds.

use std::path::{Path, PathBuf};

use benchmarks::TestSet;
use benchmarks::data::Data;
use benchmarks::judge::Rubric;
use benchmarks::predictions::{Scorer, score_rows};
use benchmarks::scorers::{Crashes, ScoredSet};
use qwen2_5_vl::{ChatTemplate, Config, ImageProcessor, ImageSettings, Tokenizer};
use replicate::profile::Profile;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use visual_tools::{FigureBoxes, NamedBoxes, Parsed, PixelBox, Style, apply, near_miss, parse};

use super::stored;

/// Reads one input.
pub(super) type Run = Box<dyn FnMut(&[u8])>;

/// An entry point.
pub struct Target {
    pub name: &'static str,
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub prepare: fn() -> Run,
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "calls",
        seeds: call_seeds,
        prepare: || Box::new(calls),
    },
    Target {
        name: "boxes",
        seeds: box_seeds,
        prepare: boxes,
    },
    Target {
        name: "rows",
        seeds: row_seeds,
        prepare: rows,
    },
    Target {
        name: "replies",
        seeds: reply_seeds,
        prepare: || Box::new(replies),
    },
    Target {
        name: "images",
        seeds: image_seeds,
        prepare: || Box::new(images),
    },
    Target {
        name: "configurations",
        seeds: configuration_seeds,
        prepare: || Box::new(configurations),
    },
    Target {
        name: "templates",
        seeds: template_seeds,
        prepare: || Box::new(templates),
    },
    Target {
        name: "profiles",
        seeds: profile_seeds,
        prepare: profiles,
    },
    Target {
        name: "weights",
        seeds: stored::weight_seeds,
        prepare: stored::weights,
    },
    Target {
        name: "records",
        seeds: stored::record_seeds,
        prepare: stored::records,
    },
    Target {
        name: "own-questions",
        seeds: stored::question_seeds,
        prepare: stored::questions,
    },
];

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository: without it there is nothing to mutate.
pub(super) fn file(name: &str) -> Vec<u8> {
    std::fs::read(root().join(name)).expect("the seeds are files of the repository")
}

/// A folder for entry points that read files, in memory where the system has such a place.
pub(super) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    folder.expect("the system's folder for temporary files can be written")
}

fn call_seeds() -> Vec<Vec<u8>> {
    let text =
        String::from_utf8_lossy(&file("crates/visual-tools/tests/corpus/calls.txt")).into_owned();
    text.split("=== ")
        .skip(1)
        .map(|call| call.as_bytes().to_vec())
        .collect()
}

fn calls(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    near_miss(&text);
    let Parsed::Call(call) = parse(&text) else {
        return;
    };
    let named = NamedBoxes::from_pairs([
        ("2005".to_owned(), PixelBox::new(1.0, 1.0, 14.0, 5.0)),
        ("2006".to_owned(), PixelBox::new(-1.0, 6.0, 40.0, 11.0)),
    ]);
    let image = image::RgbImage::new(16, 12);
    for style in [Style::refocus(), Style::vtool_v2(), Style::micro()] {
        for figure in [
            FigureBoxes::table(named.clone(), named.clone()),
            FigureBoxes::chart(named.clone(), NamedBoxes::default()),
        ] {
            // Failing is fine, panicking is not.
            let _ = apply(&image, &call, &figure, &style);
        }
    }
}

fn box_seeds() -> Vec<Vec<u8>> {
    let region =
        |x1: f64, y1: f64, x2: f64, y2: f64| json!({ "x1": x1, "y1": y1, "x2": x2, "y2": y2 });
    let lists = json!({ "7": {
        "query": "Which?", "answer": "B", "figure_path": "7.png", "x_values": ["A", "B"], "y_values": [],
        "x_bboxes": [region(0.025, 0.1, 0.975, 0.5), region(0.5, 0.1, 1.0, 1.1)], "y_bboxes": [],
    }});
    let objects = json!({ "7": {
        "query": "Which?", "answer": "B", "figure_path": "7.png",
        "x_values": ["A"], "y_values": [], "x_bboxes": { "A": region(1.0, 2.0, 30.0, 40.0) },
        "y_bboxes": { "x1": "none" },
    }});
    vec![
        lists.to_string().into_bytes(),
        objects.to_string().into_bytes(),
    ]
}

fn boxes() -> Run {
    let folder = scratch();
    let picture = image::RgbImage::new(40, 20).save(folder.path().join("7.png"));
    picture.expect("it can be written");
    Box::new(move |data| {
        let written = std::fs::write(folder.path().join("chartQA_v_bar_wbb.json"), data);
        written.expect("it can be written");
        if let Ok(set) = benchmarks::sources::load(folder.path(), TestSet::ChartQaVertical) {
            for question in set.questions().flatten() {
                let boxes = &question.task.boxes;
                for (_, found) in boxes.x_values.0.iter().chain(&boxes.y_values.0) {
                    assert!(found.is_finite(), "{found:?}");
                    assert!(
                        found.x1 >= 0.0 && found.x2 <= 40.0 && found.y2 <= 20.0,
                        "{found:?}"
                    );
                }
            }
        }
    })
}

fn row_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for name in [
        "golden/scorers/pairs.jsonl",
        "golden/scorers/numbers.jsonl",
        "golden/scorers/text.jsonl",
    ] {
        let text = String::from_utf8_lossy(&file(name)).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        // The first byte names the set.
        seeds.extend(lines.chunks(3).take(100).enumerate().map(|(index, rows)| {
            let mut seed = vec![index as u8];
            seed.extend_from_slice(rows.join("\n").as_bytes());
            seed
        }));
    }
    seeds
}

fn rows() -> Run {
    let folder = scratch();
    let sets = [
        "vwtq",
        "vtabfact",
        "chartqa-v-bar",
        "charxiv",
        "fintabnetqa",
    ];
    Box::new(move |data| {
        let [first, rows @ ..] = data else { return };
        let set: ScoredSet = sets[usize::from(*first) % sets.len()]
            .parse()
            .expect("a set's name");
        let input = folder.path().join("rows.jsonl");
        std::fs::write(&input, rows).expect("it can be written");
        for scorer in [
            Scorer::Official(Crashes::NotJudged),
            Scorer::Official(Crashes::Wrong),
            Scorer::Relaxed,
        ] {
            let mut out = Vec::new();
            let _ = score_rows(set, &scorer, &input, &mut out, "out".as_ref());
            for line in String::from_utf8(out).expect("JSON is UTF-8").lines() {
                // Fields that are handed on may have lone surrogates, as Python writes them.
                let read = serde_json::from_str::<serde::de::IgnoredAny>(line);
                assert!(read.is_ok(), "{line}");
            }
        }
    })
}

fn reply_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"extracted_answer": "7", "score": 1}"#,
        "<think>It says 7.</think>\n```json\n{\"extracted_answer\": \"7\", \"score\": 0}\n```",
        "1",
        "Score: 1\nThe answers agree.",
        "The two answers differ, so the verdict is **0**.",
        "True",
        "[[1]] Rating: 1/1",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn replies(data: &[u8]) {
    let reply = String::from_utf8_lossy(data);
    for rubric in [
        Rubric::CharXiv,
        Rubric::RefocusChart,
        Rubric::RefocusTable,
        Rubric::VtoolV1,
        Rubric::VtoolV2,
        Rubric::VtoolV2Eval,
    ] {
        rubric.verdict("Question: which? Answer: 7. Prediction: 7.", &reply);
        rubric.prediction(&reply);
    }
}

fn image_seeds() -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join("golden/images"))
        .expect("golden/images is in the repository")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|end| end != "py" && end != "txt")
        })
        .collect();
    files.sort();
    files
        .iter()
        .filter_map(|path| std::fs::read(path).ok())
        .collect()
}

fn images(data: &[u8]) {
    let size = image_files::dimensions_of(std::io::Cursor::new(data));
    if let Ok(image) = image_files::decode(data) {
        assert!(size.is_ok_and(|size| size == image.dimensions()));
    }
}

fn configuration_seeds() -> Vec<Vec<u8>> {
    [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    .map(|name| file(&format!("replicate/checkpoints/micro/student/{name}")))
    .to_vec()
}

fn configurations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(config) = Config::parse(&text, "config.json") {
        // What was accepted can be written and read again.
        let written = config.to_json("float32").to_string();
        let again = Config::parse(&written, "config.json");
        assert!(again.is_ok_and(|again| again == config), "{written}");
    }
    if let Ok(value) = serde_json::from_str::<Value>(&text) {
        let settings = ImageSettings::from_json(&value);
        if let Ok(processor) = settings.and_then(ImageProcessor::new) {
            let _ = processor.grid(40, 60);
        }
    }
    if let Ok(tokenizer) = Tokenizer::from_bytes(data) {
        let ids = tokenizer.encode("the column of 2005 is é <|im_end|>\n");
        let _ = ids.and_then(|ids| tokenizer.decode(&ids, false));
    }
}

fn template_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        file("replicate/checkpoints/micro/student/chat_template.jinja"),
        file("golden/parity/checkpoints/student/chat_template.jinja"),
    ];
    seeds.extend([
        "{% for message in messages %}{% generation %}{{ message.content | tojson }}{% endgeneration %}{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
        "{% macro f(x) %}{{ x ~ x }}{% endmacro %}{{ f(f('a')) }}{{ messages[0]['content'][0].text.split('a') | join }}",
        "{{ 'a' * 9 }}{{ messages | length }}{{ [1, 2] + [3] }}{{ 'b'.replace('b', 'cc') }}{{ raise_exception('no') }}",
        "{%- if messages[0].role == 'system' -%}{{ '%s' | format(1) }}{%- else -%}{{ {'a': 1}.items() | list }}{%- endif -%}",
    ].map(|text| text.as_bytes().to_vec()));
    seeds
}

fn templates(data: &[u8]) {
    let source = String::from_utf8_lossy(data).into_owned();
    let Ok(template) = ChatTemplate::new(source, Path::new("chat_template.jinja")) else {
        return;
    };
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": [{ "type": "image" }, { "type": "text", "text": "Which? a b" }] },
    ]);
    let _ = template.render(&messages, true, &Map::new());
}

fn profile_seeds() -> Vec<Vec<u8>> {
    let smoke = Profile::load("smoke", &[])
        .expect("it is built in")
        .to_toml();
    let mut seeds = vec![smoke.clone().into_bytes()];
    let mut table = String::new();
    for line in smoke.lines() {
        match line.strip_prefix('[') {
            Some(name) => table = format!("{}.", name.trim_end_matches(']')),
            None if line.contains(" = ") => {
                // A line that ends inside a list is a change that cannot be read, a seed like others.
                seeds.push(format!("{table}{}", line.replacen(" = ", "=", 1)).into_bytes());
            }
            None => {}
        }
    }
    seeds
}

fn profiles() -> Run {
    let folder = scratch();
    Box::new(move |data| {
        let text = String::from_utf8_lossy(data).into_owned();
        let loaded = match text.contains('\n') {
            false => Profile::load("smoke", &[text]),
            true => {
                let path = folder.path().join("profile.toml");
                std::fs::write(&path, text).expect("it can be written");
                Profile::load(&path.to_string_lossy(), &[])
            }
        };
        // What was accepted can be drawn.
        let Ok(profile) = loaded else { return };
        if let Some(world) = profile.world.clone() {
            let data = Data::micro(world, profile.evaluation.questions);
            let _ = data.validation(1);
        }
        profile.to_toml();
    })
}
