//! `iapo attribute` on the tiny checkpoints of the parity fixtures.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/parity")
}

fn attribute(out: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_iapo"))
        .arg("attribute")
        .arg("--model")
        .arg(fixtures().join("checkpoints/student"))
        .arg("--image")
        .arg(fixtures().join("images/chart.png"))
        .arg("--out")
        .arg(out)
        .args(if more.contains(&"--call") {
            &[][..]
        } else {
            &["--call", "bar"]
        })
        .arg("Which bar is the highest?")
        .args(more)
        .output()
        .unwrap()
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A copy of the teacher with one of its files changed.
fn teacher(file: &str, change: impl Fn(&str) -> String) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join("checkpoints/teacher")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let path = copy.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(&text)).unwrap();
    copy
}

#[test]
fn the_json_tells_the_settings_and_where_each_image_token_lies() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("map");
    // A quarter of the pixels, so another grid.
    let smaller = |text: &str| text.replace("\"longest_edge\": 1024", "\"longest_edge\": 256");
    let teacher = teacher("processor_config.json", smaller);
    let teacher = teacher.path().to_str().unwrap();
    let output = attribute(
        &out,
        &[
            "--baseline",
            "block-mean",
            "--nodes",
            "16",
            "--teacher",
            teacher,
        ],
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let json = std::fs::read(out.with_extension("json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    insta::assert_snapshot!(json["settings"], @r#"{"baseline":"block-mean","masses":"absolute","smoothing":0.001,"tokens":"all","divergence":"kl","method":{"name":"integrated-gradients","quadrature":{"kind":"riemann","rule":"middle","nodes":16}}}"#);
    for (side, rows, columns) in [("model", 4, 3), ("teacher", 2, 1)] {
        let map = &json[side];
        assert_eq!(map["grid"]["rows"], rows, "{side}");
        assert_eq!(map["grid"]["columns"], columns, "{side}");
        let tokens = map["tokens"].as_array().unwrap();
        let cells: Vec<&Value> = tokens
            .iter()
            .filter_map(|token| token.get("cell"))
            .collect();
        assert_eq!(cells.len(), rows * columns, "{side}");
        for (index, cell) in cells.into_iter().enumerate() {
            assert_eq!(cell["row"], index / columns, "{side}");
            assert_eq!(cell["column"], index % columns, "{side}");
        }
    }
    for picture in ["svg", "teacher.svg"] {
        assert!(out.with_extension(picture).is_file(), "{picture}");
    }
}

#[test]
fn a_blurred_image_and_rollout_give_maps_too() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("map");
    let run = |more: &[&str]| -> Value {
        let output = attribute(&out, more);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let json = std::fs::read(out.with_extension("json")).unwrap();
        serde_json::from_slice(&json).unwrap()
    };
    // Each token's block and score.
    let scores = |json: &Value| -> Vec<(bool, f64)> {
        let tokens = json["model"]["tokens"].as_array().unwrap();
        tokens
            .iter()
            .map(|token| {
                (
                    token.get("cell").is_some(),
                    token["score"].as_f64().unwrap(),
                )
            })
            .collect()
    };

    let json = run(&["--baseline", "blurred-image", "--nodes", "4"]);
    insta::assert_snapshot!(json["settings"]["baseline"], @r#"{"blurred-image":0.05}"#);
    let blurred = scores(&json);
    // The text is the same in both prompts, so nothing goes to it.
    assert!(blurred.iter().all(|(image, score)| *image || *score == 0.0));
    assert!(blurred.iter().any(|(_, score)| *score != 0.0));

    let json = run(&["--method", "attention-rollout"]);
    insta::assert_snapshot!(json["settings"]["method"], @r#"{"name":"attention-rollout"}"#);
    assert!(json["model"]["relative_gap"].is_null());
    let rollout = scores(&json);
    assert!(rollout.iter().all(|(_, score)| *score >= 0.0));
    let reached: f64 = rollout.iter().map(|(_, score)| score).sum();
    // What remains is the attention of the call's tokens to one another.
    assert!(reached > 0.1 && reached < 1.0 + 1e-5, "{reached}");
}

#[test]
fn what_cannot_be_attributed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("map");
    let too_few = error(&attribute(&out, &["--nodes", "1"]));
    assert!(
        too_few.starts_with("error: --nodes 1: quadrature.linear_nodes: 1 of 1 nodes")
            && too_few.contains("a zero baseline needs at least 1 there"),
        "{too_few}"
    );
    let steps = error(&attribute(
        &out,
        &["--method", "path-differences", "--steps", "0"],
    ));
    assert!(steps.starts_with("error: --steps 0: steps: "), "{steps}");
    let empty = error(&attribute(&out, &["--call", " "]));
    assert!(empty.starts_with("error: --call is empty"), "{empty}");
    let no_form = error(&attribute(&out, &["--profile", "micro", "--arm", "torl"]));
    assert!(
        no_form
            .contains("--arm torl: this arm of profile micro attributes nothing; these do: iapo,"),
        "{no_form}"
    );
    let unknown = error(&attribute(&out, &["--profile", "micro", "--arm", "iapi"]));
    assert!(unknown.contains("has no such arm"), "{unknown}");
    // "bar" is no call, so an arm that attributes tools and names has nothing to do.
    let arm = ["--profile", "micro", "--arm", "iapo-occlusion"];
    let nothing = error(&attribute(&out, &arm));
    assert!(nothing.contains("there are none in \"bar\""), "{nothing}");
    let swapped = |text: &str| {
        let mut tokenizer: Value = serde_json::from_str(text).unwrap();
        let vocabulary = &mut tokenizer["model"]["vocab"];
        vocabulary["!"] = 1.into();
        vocabulary["\""] = 0.into();
        tokenizer.to_string()
    };
    let teacher = teacher("tokenizer.json", swapped);
    let other = error(&attribute(
        &out,
        &["--teacher", teacher.path().to_str().unwrap()],
    ));
    assert!(
        other.contains("its tokenizer (288 tokens) is not that of"),
        "{other}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Two nodes say nothing, and so does the command; the files show what was found.
#[test]
fn a_gap_above_the_limit_makes_the_shares_worthless() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("map");
    let output = attribute(&out, &["--nodes", "2"]);
    let said = error(&output);
    assert!(said.contains("makes the shares worthless"), "{said}");
    let json = std::fs::read(out.with_extension("json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert!(json["model"]["relative_gap"].as_f64().unwrap() > 0.5);
}

#[test]
fn every_method_and_the_form_of_an_arm() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("map");
    let call = "```python\nfocus_on_x_values_with_draw(image_1, [\"a\"], x_values_bbox)\n```";
    let run = |more: &[&str]| -> Value {
        let output = attribute(&out, &[&["--call", call], more].concat());
        let text = std::fs::read(out.with_extension("json"));
        assert!(text.is_ok(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&text.unwrap()).unwrap()
    };
    for (method, tokens_have_scores, has_gap) in [
        ("integrated-gradients", true, true),
        ("gradient-x-input", true, true),
        ("path-differences", false, true),
        ("occlusion", false, false),
        ("attention-rollout", true, false),
    ] {
        let json = run(&["--method", method, "--nodes", "8", "--steps", "2"]);
        assert_eq!(json["settings"]["method"]["name"], method);
        let map = &json["model"];
        let tokens = map["tokens"].as_array().unwrap();
        assert_eq!(!tokens.is_empty(), tokens_have_scores, "{method}");
        assert_eq!(map["relative_gap"].is_number(), has_gap, "{method}");
        let shares = map["shares"].as_array().unwrap();
        let sum: f64 = shares.iter().map(|share| share.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{method}");
    }
    let json = run(&["--profile", "micro", "--arm", "iapo-occlusion"]);
    insta::assert_snapshot!(json["settings"], @r#"{"baseline":"zero","masses":"positive-drops","smoothing":0.001,"tokens":"content","divergence":"jensen-shannon","method":{"name":"occlusion"}}"#);
}

/// The call of the repository's own model, in the form that an arm trains with, beside its teacher.
#[test]
fn a_question_of_the_micro_world() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("map");
    let output = Command::new(env!("CARGO_BIN_EXE_iapo"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["attribute", "--micro", "vwtq/17", "--profile", "micro"])
        .args(["--arm", "iapo-occlusion"])
        .args(["--teacher", "replicate/checkpoints/micro/teacher", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
    let said = String::from_utf8(output.stdout).unwrap();
    insta::assert_snapshot!(said.replace(folder.path().to_str().unwrap(), "DIR"));
}

fn iapo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_iapo"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Questions of a recorded run, several at once, by a model that is given, since the run's own
/// checkpoint is not kept.
#[test]
fn questions_of_a_recorded_run_are_asked_and_attributed_again() {
    let run = "results/runs/micro/iapo/seed-0";
    let student = "replicate/checkpoints/micro/student";
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("map");
    let out = out.to_str().unwrap();
    let common = [
        "attribute",
        "--run",
        run,
        "--method",
        "occlusion",
        "--out",
        out,
    ];
    let ids = "vwtq-test-3,charxiv-test-7";
    let output = iapo(&[&common[..], &["--id", ids, "--model", student]].concat());
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(told.contains("| question"), "{told}");
    for id in ids.split(',') {
        assert!(told.contains(&format!("| {id}")), "{told}");
        for kind in ["json", "svg"] {
            assert!(folder.path().join(format!("map-{id}.{kind}")).is_file());
        }
    }
    let gone = error(&iapo(&[&common[..], &["--id", "vwtq-test-3"]].concat()));
    assert!(
        gone.contains("the run's checkpoint is not kept; give --model"),
        "{gone}"
    );
    let unknown = error(&iapo(
        &[&common[..], &["--id", "vwtq-test-9999", "--model", student]].concat(),
    ));
    assert!(
        unknown.contains("was not asked it; it was asked 1200 questions"),
        "{unknown}"
    );
    let many = iapo(&["ask", "--run", "results/runs/micro", "--id", "vwtq-test-3"]);
    let many = error(&many);
    assert!(
        many.contains("holds 42 runs; name one of them, such as"),
        "{many}"
    );
    let edited = folder.path().join("edited.png");
    let edited = edited.to_str().unwrap();
    let asked = iapo(&[
        "ask",
        "--run",
        run,
        "--id",
        "vwtq-test-3",
        "--model",
        student,
        "--out",
        edited,
    ]);
    assert!(String::from_utf8_lossy(&asked.stdout).contains("=== gold: "));
}
