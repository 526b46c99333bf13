//! `iapo parity`: our own fixtures, the shared ones where they are, and what a failure looks like.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn iapo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_iapo"))
        .args(arguments)
        .output()
        .unwrap()
}

fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/parity")
}

fn lines(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn failures(output: &Output) -> Vec<String> {
    let text = lines(output);
    let failed = text.lines().filter(|line| line.starts_with("FAIL"));
    failed.map(str::to_owned).collect()
}

#[test]
fn our_fixtures_agree() {
    let output = iapo(&["parity", own().to_str().unwrap()]);
    assert_eq!(
        failures(&output),
        [""; 0],
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success());
    // Every group took part.
    let text = lines(&output);
    for group in [
        "images/",
        "tokenizer_",
        "chat_template_",
        "vision/",
        "model/cases.json",
        "out.logits",
        "out.gen_ids",
        "grads/",
        "ig/student",
        "ig/ig.json",
        "ig/blocks_synthetic",
        "grpo/",
    ] {
        assert!(text.contains(group), "no check of {group}");
    }
    assert!(text.ends_with("checks passed\n"), "a group is absent");
}

#[test]
fn the_shared_fixtures_agree() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/parity");
    if !shared.is_dir() {
        println!("skipped: ../shared is absent");
        return;
    }
    // 2,048 nodes of integrated gradients take minutes; `iapo parity` itself runs them.
    let only = "^(images|tokenizer|chat|vision|model|grads|grpo|ig/blocks|ig/ig.json div\
                |ig/ig.json .*(weights_sum|signed_block_sum)|ig/.* out.(alphas|weights))";
    let output = iapo(&["parity", shared.to_str().unwrap(), "--only", only]);
    assert_eq!(
        failures(&output),
        [""; 0],
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success());
    // As many as there were when they were counted, or more.
    let text = lines(&output);
    for (group, least) in [
        ("PASS model/cases.json", 9),
        ("PASS model/", 139),
        ("PASS vision/", 74),
        ("PASS grads/", 206),
        ("PASS grpo/data", 142),
        ("PASS grpo/advantages", 17),
        ("PASS ig/blocks_synthetic.json", 133),
        ("PASS ig/ig.json", 70),
    ] {
        let found = text.lines().filter(|line| line.starts_with(group)).count();
        assert!(found >= least, "{found} of {group}");
    }
}

/// A copy of one file of our fixtures, with its tolerances.
fn copied(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let to = dir.path().join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(own().join(file), to).unwrap();
    }
    dir
}

#[test]
fn a_wrong_number_fails() {
    let dir = copied(&["tolerances.json", "ig/blocks_synthetic.json"]);
    let path = dir.path().join("ig/blocks_synthetic.json");
    let mut cases: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let js = &mut cases[0]["eps_1e_8"]["js"];
    *js = (js.as_f64().unwrap() + 1e-3).into();
    std::fs::write(&path, cases.to_string()).unwrap();
    let output = iapo(&["parity", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let failed = failures(&output);
    assert!(
        failed[0]
            .starts_with("FAIL ig/blocks_synthetic.json [0] random eps_1e_8 js: max_abs 1.00e-3")
    );
    assert!(failed.last().unwrap().starts_with("FAIL: "));
    assert_eq!(failed.len(), 2);
}

#[test]
fn json_tells_every_check() {
    let dir = copied(&["tolerances.json", "ig/blocks_synthetic.json"]);
    let folder = dir.path().to_str().unwrap();
    let output = iapo(&["parity", folder, "--format", "json"]);
    assert!(output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(report["passed"], checks.len());
    assert_eq!(report["failed"], 0);
    assert!(
        report["absent"]
            .as_array()
            .unwrap()
            .contains(&"vision".into())
    );
    let lines = lines(&iapo(&["parity", folder]));
    assert_eq!(lines.lines().count(), checks.len() + 1);
    for (check, line) in checks.iter().zip(lines.lines()) {
        let said = |key: &str| check[key].as_str().unwrap().to_owned();
        let (file, key, detail) = (said("file"), said("key"), said("detail"));
        assert_eq!(line, format!("PASS {file} {key}: {detail}"));
    }
}

#[test]
fn a_damaged_file_is_a_failed_check_and_the_others_still_run() {
    let dir = copied(&[
        "tolerances.json",
        "ig/blocks_synthetic.json",
        "grpo/grpo.json",
    ]);
    std::fs::write(
        dir.path().join("grpo/data0.safetensors"),
        b"\x08\0\0\0\0\0\0\0nonsense",
    )
    .unwrap();
    let output = iapo(&["parity", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let failed = failures(&output);
    assert!(
        failed
            .iter()
            .any(|line| line.starts_with("FAIL grpo/data0.safetensors: cannot read")),
        "{failed:?}"
    );
    assert!(lines(&output).contains("PASS ig/blocks_synthetic.json"));
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The checks of what the folder holds, without those of the numbers.
fn completeness(dir: &Path) -> (Option<i32>, Vec<String>) {
    let dir = dir.to_str().unwrap();
    let output = iapo(&["parity", dir, "--only", "(manifest|missing)$"]);
    (output.status.code(), failures(&output))
}

#[test]
fn a_missing_file_fails() {
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&own(), dir.path());
    for file in [
        "checkpoints/teacher/config.json",
        "grads/grads.json",
        "grads/student.safetensors",
        "grpo/data2.safetensors",
        "grpo/grpo.json",
        "ig/ig.json",
        "ig/teacher.safetensors",
        "images/preprocess.json",
        "images/tall.png",
        "model/cases.json",
        "model/teacher/text_only.safetensors",
    ] {
        let path = dir.path().join(file);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (code, failed) = completeness(dir.path());
        let expected =
            format!("FAIL {file} manifest: manifest.json lists it, but it is not in the folder");
        assert_eq!(code, Some(1), "{file}");
        assert!(failed.contains(&expected), "{file}: {failed:?}");

        // Without a manifest the files that belong together tell.
        let manifest = dir.path().join("manifest.json");
        let aside = dir.path().join("aside");
        std::fs::rename(&manifest, &aside).unwrap();
        let (code, failed) = completeness(dir.path());
        let expected = format!("FAIL {file} missing: ");
        assert_eq!(code, Some(1), "{file}");
        assert!(
            failed.iter().any(|line| line.starts_with(&expected)),
            "{file}: {failed:?}"
        );
        std::fs::rename(&aside, &manifest).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn an_altered_file_fails_and_a_group_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&own(), dir.path());
    let path = dir.path().join("images/preprocess.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n")).unwrap();
    let (_, failed) = completeness(dir.path());
    let expected = "FAIL images/preprocess.json manifest: manifest.json lists ";
    assert!(failed[0].starts_with(expected), "{failed:?}");
    std::fs::write(&path, text.replace('0', "1")).unwrap();
    let (_, failed) = completeness(dir.path());
    let expected = "FAIL images/preprocess.json manifest: manifest.json lists sha256 ";
    assert!(failed[0].starts_with(expected), "{failed:?}");

    std::fs::remove_file(dir.path().join("manifest.json")).unwrap();
    std::fs::remove_dir_all(dir.path().join("vision")).unwrap();
    let path = dir.path().to_str().unwrap();
    let output = iapo(&["parity", path, "--only", "blocks_synthetic"]);
    assert!(output.status.success());
    let text = lines(&output);
    let expected = "; not in this folder: vision, a manifest.json that lists the files\n";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn an_image_has_the_file_that_the_index_gives_it() {
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&own(), dir.path());
    let path = dir.path();
    std::fs::rename(path.join("images/tall.png"), path.join("images/high.png")).unwrap();
    let index = path.join("images/preprocess.json");
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, text.replace("tall.png", "high.png")).unwrap();
    let only = "model/cases.json .* two_images";
    let output = iapo(&["parity", path.to_str().unwrap(), "--only", only]);
    assert_eq!(failures(&output), [""; 0]);
    assert!(output.status.success());
}

#[test]
fn folders_without_cases_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let error = |arguments: &[&str]| {
        let output = iapo(arguments);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        text.replace(dir.path().to_str().unwrap(), "DIR")
    };
    let path = dir.path().to_str().unwrap();
    insta::assert_snapshot!(error(&["parity", path]), @"error: DIR is not a parity folder: it has no tolerances.json");
    std::fs::write(dir.path().join("tolerances.json"), r#"{"rules": []}"#).unwrap();
    insta::assert_snapshot!(error(&["parity", path]), @"error: nothing was checked: DIR has no cases of the parity layout");
    insta::assert_snapshot!(error(&["parity", path, "--only", "x"]), @"error: nothing was checked: DIR has no cases of the parity layout that --only matches");
}
