//! Evaluation of given models: shares, servers that are not there, images that are broken, and
//! what a second command finds of the first.

#[path = "../crates/chat-endpoint/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use benchmarks::Verdict;
use image::{Rgb, RgbImage};
use results::{MANIFEST, Manifest, RECORDS, Record, Runs, read_json, read_lines};
use serde_json::{Value, json};
use support::{Behaviour, Received, Server};
use tempfile::TempDir;

fn iapo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iapo"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("OPENAI_API_KEY")
        .env_remove("JUDGE_API_KEY");
    command
}

/// The model `m` behind a server.
fn eval(url: &str, out: &Path, more: &[&str]) -> Command {
    let mut command = iapo(&["eval-all", "--endpoint", url, "--model", "m", "--out"]);
    command.arg(out).args(more);
    command
}

fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn error_of(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "it should have failed");
    stderr(&output)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn manifest(out: &Path) -> Manifest {
    read_json(&out.join("m/seed-0").join(MANIFEST)).unwrap()
}

fn records(out: &Path) -> Vec<Record> {
    read_lines(&out.join("m/seed-0").join(RECORDS)).unwrap()
}

fn draw(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(60, 40, Rgb([9, 90, 200]))
        .save_with_format(path, image::ImageFormat::Png)
        .unwrap();
}

/// A folder with `n` questions about vertical bars, whose answer is 7.
fn charts(n: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = String::new();
    for index in 0..n {
        draw(&folder.path().join(format!("{index}.png")));
        let row = json!({
            "id": format!("q{index}"), "question": format!("question {index}?"), "answer": "7",
            "source": "v_bar", "image": format!("{index}.png"), "x_values": ["A"],
            "x_values_bbox": [{ "x1": 1, "y1": 2, "x2": 30, "y2": 40 }],
        });
        rows += &format!("{row}\n");
    }
    let file = folder.path().join("chartqa_vcot/test.jsonl");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, rows).unwrap();
    folder
}

fn of_charts(data: &TempDir) -> [&str; 4] {
    let folder = data.path().to_str().unwrap();
    ["--data", folder, "--sets", "chartqa-v-bar"]
}

fn says(answer: &str) -> Behaviour {
    Behaviour::Say(format!("ANSWER: so. FINAL ANSWER: {answer}. TERMINATE"))
}

/// Whether a request is a second turn.
fn is_second(received: &Received) -> bool {
    let messages = received.body["messages"].as_array().unwrap();
    messages
        .iter()
        .any(|message| message["role"] == "assistant")
}

#[test]
fn shares_that_are_asked_at_once_lose_nothing() {
    const N: usize = 7;
    let data = charts(N);
    let out = tempfile::tempdir().unwrap();
    let server = Server::start(|_| says("7"));
    let share = |share: &str| {
        let mut command = eval(&server.url(), out.path(), &of_charts(&data));
        command.args(["--shard", share]);
        command
    };
    let running: Vec<_> = ["1/2", "2/2"]
        .map(|name| {
            let mut command = share(name);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect();
    for output in &running {
        assert!(output.status.success(), "{}", stderr(output));
    }
    let runs = Runs::load(&[out.path().to_owned()]).unwrap();
    let mut asked: Vec<&str> = runs.records().map(|record| record.qa_id.as_str()).collect();
    asked.sort();
    assert_eq!(asked, ["q0", "q1", "q2", "q3", "q4", "q5", "q6"]);
    let table = succeed(iapo(&["tables", out.path().to_str().unwrap()]));
    assert!(table.contains("n=7×1"), "{table}");
    let checked = succeed(iapo(&["check", out.path().to_str().unwrap()]));
    assert!(checked.contains("all questions answered"), "{checked}");

    // A second time nothing is asked, and the whole is not asked beside its shares.
    assert_eq!(server.received().len(), N);
    let again = succeed(share("2/2"));
    assert!(again.contains("Share 2 of 2 alone"), "{again}");
    let whole = error_of(eval(&server.url(), out.path(), &of_charts(&data)));
    assert!(whole.contains("go on with --shard i/2"), "{whole}");
    assert_eq!(server.received().len(), N);
}

#[test]
fn a_run_that_another_process_holds_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("m/seed-0");
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let error = error_of(eval("http://127.0.0.1:9/v1", out.path(), &[]));
    assert!(
        error.contains("another process is evaluating into it") && error.contains("--out"),
        "{error}"
    );
}

#[test]
fn a_broken_image_is_not_judged_and_everything_is_counted() {
    let data = charts(3);
    let whole = std::fs::read(data.path().join("1.png")).unwrap();
    std::fs::write(data.path().join("1.png"), &whole[..whole.len() / 2]).unwrap();
    let out = tempfile::tempdir().unwrap();
    let server = Server::start(|received| {
        let text = received.body["messages"].to_string();
        if text.contains("question 0?") && !is_second(received) {
            return Behaviour::Say(
                "ACTION 0:\n```python\nimport os\ndisplay(focus_on_x_values_with_draw(image_1, ['A'], x_values_bbox))\n```"
                    .to_owned(),
            );
        }
        match text.contains("question 2?") {
            true => says("8"),
            false => says("7"),
        }
    });
    let command = || {
        let mut command = eval(&server.url(), out.path(), &of_charts(&data));
        command.args(["--prompt-price", "1", "--completion-price", "2"]);
        command
    };
    let table = succeed(command());
    assert!(
        table.starts_with("Given models on the test sets"),
        "{table}"
    );
    assert!(!table.contains("claim"), "{table}");

    let verdict = |id: &str| {
        let records = records(out.path());
        let record = records.into_iter().find(|record| record.qa_id == id);
        record.map(|record| (record.verdict, record.reason.unwrap_or_default()))
    };
    assert_eq!(records(out.path()).len(), 3);
    assert_eq!(verdict("q0"), Some((Verdict::Right, "equal".to_owned())));
    assert_eq!(
        verdict("q2"),
        Some((Verdict::Wrong, "different".to_owned()))
    );
    let (open, reason) = verdict("q1").unwrap();
    assert_eq!(open, Verdict::NotJudged);
    assert!(reason.contains("cannot decode the image"), "{reason}");

    let counted = |name: &str| manifest(out.path()).counts.get(name).copied();
    let broken = "chartqa-v-bar_undecodable_images";
    for _ in 0..2 {
        assert_eq!(counted(broken), Some(1));
        assert_eq!(counted("tool_refused_import"), Some(1));
        assert_eq!(counted("policy_requests"), Some(3));
        assert_eq!(counted("policy_from_cache"), Some(0));
        assert_eq!(counted("policy_prompt_tokens"), Some(30));
        assert_eq!(counted("policy_completion_tokens"), Some(6));
        let cost = manifest(out.path()).costs["policy"];
        assert!((cost - 42e-6).abs() < 1e-12, "{cost}");
        assert_eq!(manifest(out.path()).questions["chartqa-v-bar"], 3);
        // Nothing but the broken one is tried again.
        succeed(command());
    }
    std::fs::write(data.path().join("1.png"), &whole).unwrap();
    succeed(command());
    assert_eq!(verdict("q1"), Some((Verdict::Right, "equal".to_owned())));
    assert_eq!((counted(broken), records(out.path()).len()), (Some(0), 3));
}

#[test]
fn a_server_that_is_not_there_is_told_and_the_rest_is_asked_later() {
    let out = tempfile::tempdir().unwrap();
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let dead = format!("http://{address}/v1");
    // Too few questions to give the server up: the command ends, and not well.
    let error = error_of(eval(&dead, out.path(), &["--sets", "vwtq", "--limit", "2"]));
    assert!(
        error.contains("none of 2 questions has a verdict") && error.contains("cannot reach"),
        "{error}"
    );
    let sets = ["--sets", "vwtq,vtabfact", "--limit", "4"];
    let error = error_of(eval(&dead, out.path(), &sets));
    assert!(
        error.contains("the server of the policy was given up: gave up after ")
            && error.contains("the same command asks only for the rest"),
        "{error}"
    );
    assert!(records(out.path()).iter().all(|record| {
        record.verdict == Verdict::NotJudged && record.set == "vwtq" && record.reason.is_some()
    }));

    let server = Server::start(|_| Behaviour::Say("no idea".to_owned()));
    let table = succeed(eval(&server.url(), out.path(), &sets));
    assert!(
        table.starts_with("Given models on the micro world's questions"),
        "{table}"
    );
    let records = records(out.path());
    assert_eq!(records.len(), 8);
    assert!(
        records
            .iter()
            .all(|record| record.verdict == Verdict::Wrong)
    );
}

#[test]
fn a_second_command_adds_to_the_first() {
    let out = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Behaviour::Say("no idea".to_owned()));
    for (set, limit) in [("vwtq", "2"), ("vtabfact", "3"), ("vwtq", "1")] {
        let more = ["--sets", set, "--limit", limit];
        succeed(eval(&server.url(), out.path(), &more));
    }
    assert_eq!(server.received().len(), 5);
    let manifest = manifest(out.path());
    let asked = BTreeMap::from([("vtabfact".to_owned(), 3), ("vwtq".to_owned(), 2)]);
    assert_eq!(manifest.questions, asked);
    assert_eq!(manifest.counts["policy_completions"], 5);
    assert_eq!(records(out.path()).len(), 5);
}

/// A folder with one question of CharXiv, whose answer is B.
fn charxiv() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    draw(&folder.path().join("images/0.jpg"));
    let questions = json!({
        "0": { "figure_id": 0, "query": "Which?", "answer": "B", "inst_category": 1, "qa_source": 1 },
    });
    std::fs::write(
        folder.path().join("reasoning_val.json"),
        questions.to_string(),
    )
    .unwrap();
    folder
}

#[test]
fn answers_without_a_judge_are_kept_and_judged_later() {
    let data = charxiv();
    let out = tempfile::tempdir().unwrap();
    let server = Server::start(|_| says("B"));
    let judging =
        Server::start(|_| Behaviour::Say("{\"extracted_answer\": \"B\", \"score\": 1}".to_owned()));
    let command = || {
        let folder = data.path().to_str().unwrap();
        let sets = ["--data", folder, "--sets", "charxiv"];
        eval(&server.url(), out.path(), &sets)
    };
    let error = error_of(command());
    assert!(
        error.contains("needs_judge; give a judge with --judge"),
        "{error}"
    );
    assert_eq!(records(out.path())[0].verdict, Verdict::NotJudged);

    let mut judged = command();
    judged.args(["--judge", &judging.url(), "--judge-model", "j"]);
    succeed(judged);
    assert_eq!(server.received().len(), 1, "the answer was kept");
    let record = records(out.path()).remove(0);
    assert_eq!(
        (record.verdict, record.scorer.as_str()),
        (Verdict::Right, "judge j")
    );
    assert_eq!(manifest(out.path()).counts["policy_from_cache"], 1);
    assert_eq!(manifest(out.path()).counts["judge_completions"], 1);

    // A verdict is not thrown away for want of its judge.
    let error = error_of(command());
    assert!(error.contains("charxiv was scored by 'judge j'"), "{error}");
}

#[test]
fn a_checkpoint_says_it_once() {
    let data = charxiv();
    let out = tempfile::tempdir().unwrap();
    let command = || {
        let mut command = iapo(&[
            "eval-all",
            "--model",
            "golden/parity/checkpoints/student",
            "--sets",
            "charxiv",
            "--max-new-tokens",
            "4",
        ]);
        command.arg("--data").arg(data.path());
        command.arg("--out").arg(out.path());
        command
    };
    let kept = || {
        let file = out.path().join("student/seed-0/completions.jsonl");
        std::fs::read_to_string(file).unwrap()
    };
    error_of(command());
    let first = kept();
    let lines: Vec<Value> = first
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines[0]["text"].is_string(), "{first}");
    error_of(command());
    assert_eq!(kept(), first, "nothing was generated again");
}

#[test]
fn what_cannot_be_is_refused_with_its_cause_told_once() {
    let out = tempfile::tempdir().unwrap();
    let nothing = ["--max-new-tokens", "0"];
    let error = error_of(eval("http://127.0.0.1:9/v1", out.path(), &nothing));
    assert!(
        error.contains("--max-new-tokens must be at least 1"),
        "{error}"
    );
    let nowhere = out.path().join("nowhere");
    let error = error_of(iapo(&["tables", nowhere.to_str().unwrap()]));
    assert_eq!(error.matches("No such file").count(), 1, "{error}");
}

/// Answers by the seed of the request, so that the same seed gets the same answer.
fn by_seed(received: &Received) -> Behaviour {
    let seed = received.body["seed"].as_u64().expect("a sample has a seed");
    says(if seed.is_multiple_of(3) { "7" } else { "8" })
}

#[test]
fn questions_that_are_asked_several_times_have_a_pass_at_k() {
    let (data, out) = (charts(6), tempfile::tempdir().unwrap());
    let server = Server::start(by_seed);
    let more = [
        &of_charts(&data)[..],
        &["--epochs", "3", "--temperature", "0.7"],
    ]
    .concat();
    let said = succeed(eval(&server.url(), out.path(), &more));
    let asked = server.received();
    assert_eq!(asked.len(), 18);
    assert!(asked.iter().all(|own| own.body["temperature"] == 0.7));
    let seeds: std::collections::BTreeSet<u64> = asked
        .iter()
        .map(|own| own.body["seed"].as_u64().unwrap())
        .collect();
    assert_eq!(seeds.len(), 18, "another for every question and time");
    assert!(
        said.contains("pass@1") && said.contains("pass@2") && said.contains("pass@3"),
        "{said}"
    );

    let runs = Runs::load(&[out.path().to_owned()]).unwrap();
    let right = runs
        .records()
        .filter(|own| own.verdict == Verdict::Right)
        .count();
    let expected = seeds.iter().filter(|seed| seed.is_multiple_of(3)).count();
    assert_eq!((runs.records().count(), right), (18, expected));
    let found = results::repeats(&runs);
    assert!((found[0].pass_at[&1] - right as f64 / 18.0).abs() < 1e-12);

    // What was sampled is not asked again, and greedy answers are others.
    succeed(eval(&server.url(), out.path(), &more));
    assert_eq!(server.received().len(), 18);
    let error = error_of(eval(&server.url(), out.path(), &of_charts(&data)));
    assert!(error.contains("\"temperature\":0.7"), "{error}");

    for (wrong, cause) in [
        (
            &["--epochs", "2"][..],
            "--epochs 2 would have the same greedy answer 2 times",
        ),
        (&["--epochs", "0"], "--epochs must be at least 1"),
        (&["--temperature=-1"], "--temperature must be 0 or more"),
        (&["--top-p", "0.9"], "give a --temperature"),
        (
            &["--temperature", "1", "--top-p", "0"],
            "--top-p must lie above 0",
        ),
    ] {
        let error = error_of(eval(&server.url(), out.path(), wrong));
        assert!(error.contains(cause), "{wrong:?}: {error}");
    }
}

#[test]
fn a_checkpoint_samples_by_its_seeds() {
    let out = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let mut command = iapo(&["eval-all", "--model", "replicate/checkpoints/micro/student"]);
        command.args(["--sets", "vwtq", "--limit", "8", "--max-new-tokens", "16"]);
        command.args(["--epochs", "2", "--temperature", "1"]);
        command.arg("--out").arg(out.path().join(name));
        let said = succeed(command);
        let runs = Runs::load(&[out.path().join(name)]).unwrap();
        let answers: Vec<(u64, String)> = runs
            .records()
            .map(|own| (own.seed, own.prediction.clone()))
            .collect();
        (said, answers)
    };
    let (said, first) = run("one");
    assert!(said.contains("pass@2"), "{said}");
    let of = |seed: u64| -> Vec<&String> {
        first
            .iter()
            .filter(|own| own.0 == seed)
            .map(|own| &own.1)
            .collect()
    };
    assert_eq!((of(0).len(), of(1).len()), (8, 8));
    assert_ne!(of(0), of(1), "another sample each time");
    assert_eq!(run("two").1, first, "and the same in another run");
}

#[test]
fn two_judges_of_the_same_completions_are_compared() {
    let data = charxiv();
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let server = Server::start(|_| says("B"));
    let judge = |score: u8| {
        Server::start(move |_| {
            Behaviour::Say(format!(
                "{{\"extracted_answer\": \"B\", \"score\": {score}}}"
            ))
        })
    };
    let (strict, kind) = (judge(0), judge(1));
    let folder = data.path().to_str().unwrap();
    let sets = ["--data", folder, "--sets", "charxiv"];
    let judged = |out: &Path, judge: &Server, name: &str, more: &[&str]| {
        let mut command = eval(&server.url(), out, &sets);
        command
            .args(["--judge", &judge.url(), "--judge-model", name])
            .args(more);
        succeed(command)
    };
    judged(&first, &kind, "kind", &[]);
    let of_first = ["--completions", first.to_str().unwrap()];
    judged(&second, &strict, "strict", &of_first);
    assert_eq!(
        server.received().len(),
        1,
        "the completions are the first's"
    );
    let mut compare = iapo(&["agreement"]);
    compare.arg(&first).arg(&second).args(["--format", "json"]);
    let found: Value = serde_json::from_str(&succeed(compare)).unwrap();
    assert_eq!(found["scorers"], json!(["judge kind", "judge strict"]));
    assert_eq!(found["agreement"][0]["answers"], 1);
    assert_eq!(found["agreement"][0]["agreed"], 0.0);
    let nowhere = dir.path().join("third");
    let mut missing = eval(&server.url(), &nowhere, &sets);
    missing.arg("--completions").arg(dir.path().join("nowhere"));
    let error = error_of(missing);
    assert!(
        error.contains("give an --out that eval-all wrote"),
        "{error}"
    );
}

#[test]
fn a_spending_limit_ends_the_run_and_keeps_what_was_had() {
    let (data, out) = (charts(12), tempfile::tempdir().unwrap());
    let server = Server::start(|_| says("7"));
    let prices = ["--prompt-price", "1000000", "--completion-price", "0"];
    let limited = ["--concurrency", "1", "--spending-limit", "1"];
    let more = [&of_charts(&data)[..], &prices, &limited].concat();
    let error = error_of(eval(&server.url(), out.path(), &more));
    assert!(
        error.contains("more than the --spending-limit 1"),
        "{error}"
    );
    let asked = server.received().len();
    assert!((1..12).contains(&asked), "{asked} requests");
    assert_eq!(records(out.path()).len(), asked);
    let whole = [&of_charts(&data)[..], &prices].concat();
    succeed(eval(&server.url(), out.path(), &whole));
    assert_eq!(server.received().len(), 12, "only the rest is asked");
}

#[test]
fn the_sets_are_listed_without_a_model() {
    let said = succeed(iapo(&["eval-all", "--list"]));
    assert_eq!(said.lines().count(), 7, "{said}");
    assert!(said.contains("charxiv") && said.contains("1000"), "{said}");
    assert!(said.contains("ReFocus/ReFocus_Data"), "{said}");
}
