//! Faults that `just soak` found or guards against, each as a small test: signals, processes that start
//! together, damaged files, and inputs that made a command hang or abort.

use std::io::Cursor;
use std::path::Path;
use std::process::{Command, Output};

use qwen2_5_vl::ChatTemplate;
use serde_json::{Map, json};

/// The smallest run with an arm, in a folder.
fn small(out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iapo"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "replicate",
        "--profile",
        "smoke",
        "--arms",
        "vtool-r1",
    ]);
    for change in [
        "schedule.teacher=1",
        "schedule.cold_start=1",
        "schedule.arm=2",
        "evaluation.questions=1",
        "evaluation.validation=1",
        "gates.replicates=10",
    ] {
        command.args(["--set", change]);
    }
    command.arg("--out").arg(out);
    command
}

fn error_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[cfg(unix)]
#[test]
fn a_signal_ends_after_a_step_and_says_how_to_go_on() {
    use std::process::Stdio;

    let folder = tempfile::tempdir().unwrap();
    for (index, signal) in ["INT", "TERM"].into_iter().enumerate() {
        let out = folder.path().join(signal);
        let child = small(&out)
            .args(["--set", "schedule.teacher=500"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let metrics = out.join("teacher/seed-0/metrics.jsonl");
        while !std::fs::metadata(&metrics).is_ok_and(|found| found.len() > 0) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {}", child.id())])
            .status()
            .unwrap();
        assert!(sent.success(), "{index}");
        let output = child.wait_with_output().unwrap();
        let text = error_text(&output);
        assert_eq!(output.status.code(), Some(130), "{text}");
        assert!(text.contains("--resume"), "{text}");
        // What was trained is kept: as many lines as the newest state has steps.
        let lines = std::fs::read_to_string(&metrics).unwrap().lines().count();
        let state = out.join(format!("teacher/seed-0/state/step-{lines}"));
        assert!(state.exists(), "{}", state.display());
    }
}

#[test]
fn a_process_that_starts_while_another_writes_its_first_file_is_refused_by_the_lock() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let held = std::fs::File::create(out.join("lock")).unwrap();
    held.lock().unwrap();
    // The profile is being written, and has not its name yet.
    std::fs::write(out.join(".partial-x"), "").unwrap();
    let text = error_text(&small(out).output().unwrap());
    assert!(text.contains("another process is at work"), "{text}");
    drop(held);
    let text = error_text(&small(out).output().unwrap());
    assert!(text.contains("not empty and holds no run"), "{text}");
}

/// Changes a text in a file of a finished run, which going on must name.
fn going_on_names(file: &str, from: &str, to: &str) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = small(&out).output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
    let path = out.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = text.replacen(from, to, 1);
    assert_ne!(changed, text, "{text}");
    std::fs::write(&path, changed).unwrap();
    let output = small(&out).arg("--resume").output().unwrap();
    let error = error_text(&output);
    assert!(!output.status.success(), "it went on with it");
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(error.contains(name) && error.contains("damaged"), "{error}");
}

#[test]
fn a_changed_configuration_of_a_finished_checkpoint_is_named() {
    going_on_names(
        "cold-start/seed-0/checkpoint/config.json",
        "\"rms_norm_eps\": 1e-6",
        "\"rms_norm_eps\": 1e-4",
    );
}

#[test]
fn changed_metrics_of_a_finished_stage_are_named() {
    // Arms begin with these lines, and no manifest tells of them.
    let file = "cold-start/seed-0/metrics.jsonl";
    going_on_names(file, "\"accuracy\":0.", "\"accuracy\":1.");
}

fn rendered(source: &str) -> Result<String, String> {
    let messages = json!([{ "role": "user", "content": "hello" }]);
    ChatTemplate::new(source.to_owned(), Path::new("chat_template.jinja"))
        .and_then(|template| template.render(&messages, true, &Map::new()))
        .map_err(|error| error.to_string())
}

#[test]
fn a_template_whose_namespace_holds_itself_is_an_error() {
    for source in [
        "{% set ns = namespace(n=0) %}{% set ns.n = ns %}{{ ns }}",
        "{% set ns = namespace(n=0) %}{% set ns.n = [{'a': ns}] %}{{ ns | tojson }}",
        "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a == b }}",
    ] {
        let error = rendered(source).unwrap_err();
        assert!(error.contains("a namespace may hold"), "{error}");
    }
    let fine = "{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 if true else 0 %}\
                {%- set ns.m = messages -%} {{ ns.n }}{{ ns.m[0].content }}";
    assert_eq!(rendered(fine).unwrap(), "2hello");
}

#[test]
fn a_template_that_formats_to_a_width_beyond_memory_is_an_error() {
    for source in [
        "{{ '%-9223372036854775808s' | format(1) }}",
        "{{ '%.99999f' | format(1) }}",
        "{{ '%*d' | format(99999999, 1) }}",
    ] {
        let error = rendered(source).unwrap_err();
        assert!(error.contains("wider than"), "{error}");
    }
    let fine = "{{ '**a: %5s %03d** %%' | format('b', 7) }}";
    assert_eq!(rendered(fine).unwrap(), "**a:     b 007** %");
}

#[test]
fn a_template_with_an_integer_beyond_64_bits_is_still_bounded() {
    let factors = " * 9".repeat(40);
    let error = rendered(&format!(
        "{{{{ 'a'{factors} }}}}{{{{ 18446744073709551616 }}}}"
    ))
    .unwrap_err();
    assert!(error.contains("does not compile"), "{error}");
}

#[test]
fn a_webp_chunk_that_claims_gigabytes_is_refused_unread() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/images/lossy-alpha.webp");
    let mut bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[12..16], b"VP8X");
    // Says that there is EXIF, and that it has almost 4 GB.
    bytes[20] |= 0x08;
    bytes.extend_from_slice(b"EXIF");
    bytes.extend_from_slice(&0xffff_ff00_u32.to_le_bytes());
    let size = bytes.len() as u32 - 8;
    bytes[4..8].copy_from_slice(&size.to_le_bytes());
    for error in [
        image_files::dimensions_of(Cursor::new(&bytes)).unwrap_err(),
        image_files::decode(&bytes).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("chunk 'EXIF'"), "{error}");
    }
}
