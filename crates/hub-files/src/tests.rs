//! Downloads from a hub in this process.

#[path = "../tests/support/hub.rs"]
mod server;

use std::fs;

use tempfile::TempDir;

use super::download::{RETRIES, matches};
use super::lock::{LOCK, Lock};
use super::*;
use server::{COMMIT, Hub, Trick};

const DATASET: &str = "datasets/o/n";

fn origin(hub: &Hub) -> Repository<'static> {
    Repository::dataset("o", "n", Some(&hub.address())).unwrap()
}

/// A hub with a large and a small file that are wanted, and one that is not.
fn hub() -> (Hub, TempDir) {
    let hub = Hub::start();
    hub.put(DATASET, "data/big-0.bin", content(100_000), true);
    hub.put(DATASET, "small.json", "{}", false);
    hub.put(DATASET, "other.txt", "nobody asks for it", false);
    (hub, tempfile::tempdir().unwrap())
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * index / 7) as u8).collect()
}

const WANTED: [&str; 2] = ["data/big-*.bin", "small.json"];

fn told(result: Result<(), DownloadError>, folder: &TempDir) -> String {
    let folder = folder.path().display().to_string();
    result.unwrap_err().to_string().replace(&folder, "DIR")
}

#[test]
fn files_arrive_are_locked_and_are_not_asked_for_again() {
    let (hub, folder) = hub();
    download(&origin(&hub), None, &WANTED, folder.path()).unwrap();
    let big = fs::read(folder.path().join("data/big-0.bin")).unwrap();
    assert_eq!(big, content(100_000));
    assert!(folder.path().join("small.json").is_file());
    assert!(!folder.path().join("other.txt").exists());
    assert!(!folder.path().join("data/big-0.bin.part").exists());
    let lock = Lock::open(folder.path()).unwrap();
    let locked = &lock.repositories[DATASET];
    assert_eq!(locked.revision, COMMIT);
    assert_eq!(locked.files.len(), 2);

    // Nobody is there any more: what the lock has is checked, and more cannot be had.
    let address = hub.address();
    let asked = hub.asked().len();
    assert_eq!(asked, 2);
    drop(hub);
    let gone = Repository::dataset("o", "n", Some(&address)).unwrap();
    download(&gone, None, &WANTED, folder.path()).unwrap();
    download(&gone, Some(COMMIT), &WANTED, folder.path()).unwrap();
    assert!(download(&gone, None, &["other.txt"], folder.path()).is_err());
}

#[test]
fn more_of_a_repository_comes_from_the_same_commit() {
    let (hub, folder) = hub();
    download(&origin(&hub), Some("main"), &["small.json"], folder.path()).unwrap();
    download(&origin(&hub), Some("main"), &WANTED, folder.path()).unwrap();
    let paths: Vec<String> = hub.asked().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["small.json", "data/big-0.bin"]);

    let other = "f".repeat(40);
    let told = told(
        download(&origin(&hub), Some(&other), &WANTED, folder.path()),
        &folder,
    );
    assert!(told.contains(COMMIT) && told.contains(&other), "{told}");
    assert!(told.contains("name another folder"), "{told}");
}

#[test]
fn a_cut_download_goes_on() {
    let (hub, folder) = hub();
    // The first answer breaks off, the second attempt succeeds.
    hub.play(&[Trick::Cut(10)]);
    download(&origin(&hub), None, &WANTED, folder.path()).unwrap();
    let big = fs::read(folder.path().join("data/big-0.bin")).unwrap();
    assert_eq!(big, content(100_000));

    // A run that died between two ranges left a part; the next one asks for the rest alone.
    let (hub, folder) = self::hub();
    let part = folder.path().join("data/big-0.bin.part");
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(&part, &content(100_000)[..60_000]).unwrap();
    hub.play(&[Trick::Status(503)]);
    download(&origin(&hub), None, &WANTED, folder.path()).unwrap();
    let big = fs::read(folder.path().join("data/big-0.bin")).unwrap();
    assert_eq!(big, content(100_000));
    let ranges: Vec<String> = hub
        .asked()
        .into_iter()
        .filter(|(path, _)| path == "data/big-0.bin")
        .map(|(_, range)| range)
        .collect();
    assert_eq!(ranges, ["bytes=60000-99999"; 2]);
}

#[test]
fn a_download_that_stays_broken_says_where_it_goes_on() {
    let (hub, folder) = hub();
    let part = folder.path().join("data/big-0.bin.part");
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(&part, &content(100_000)[..60_000]).unwrap();
    hub.play(&[Trick::Cut(5); RETRIES + 1]);
    let told = told(
        download(&origin(&hub), None, &WANTED, folder.path()),
        &folder,
    );
    assert!(
        told.contains("data/big-0.bin") && told.contains("goes on at byte 60000 of 100000"),
        "{told}"
    );
    assert_eq!(fs::metadata(&part).unwrap().len(), 60_000);
    download(&origin(&hub), None, &WANTED, folder.path()).unwrap();
}

#[test]
fn what_cannot_be_right_is_not_tried_again() {
    let (hub, folder) = hub();
    hub.play(&[Trick::Status(403)]);
    let told = told(
        download(&origin(&hub), None, &WANTED, folder.path()),
        &folder,
    );
    assert!(told.contains("set HF_TOKEN"), "{told}");
    assert_eq!(hub.asked().len(), 1);
    let missing = Repository::dataset("o", "missing", Some(&hub.address())).unwrap();
    let told = self::told(download(&missing, None, &WANTED, folder.path()), &folder);
    assert!(told.contains("o/missing"), "{told}");
    let told = self::told(
        download(&origin(&hub), None, &["nothing-*"], folder.path()),
        &folder,
    );
    assert_eq!(
        told,
        format!("download: {DATASET} at {COMMIT} has none of nothing-*")
    );
}

#[test]
fn a_server_without_ranges_serves_too() {
    let (hub, folder) = hub();
    hub.play(&[Trick::NoRange, Trick::NoRange]);
    download(&origin(&hub), None, &WANTED, folder.path()).unwrap();

    let (hub, folder) = self::hub();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/big-0.bin.part"), [0; 10]).unwrap();
    hub.play(&[Trick::NoRange]);
    let told = told(
        download(&origin(&hub), None, &WANTED, folder.path()),
        &folder,
    );
    assert!(
        told.contains("from byte 10 of 100000, got 100000"),
        "{told}"
    );
}

#[test]
fn damaged_bytes_never_get_the_files_name() {
    for large in [true, false] {
        let hub = Hub::start();
        hub.put(DATASET, "small.json", "{\"a\": 1}", large);
        let folder = tempfile::tempdir().unwrap();
        hub.play(&[Trick::Damage]);
        let told = told(
            download(&origin(&hub), None, &["small.json"], folder.path()),
            &folder,
        );
        let name = if large { "LFS pointer" } else { "git object" };
        assert!(
            told.contains("arrived damaged") && told.contains(name),
            "{told}"
        );
        assert!(!folder.path().join("small.json").exists());
        download(&origin(&hub), None, &["small.json"], folder.path()).unwrap();
    }
    // Neither does a part of something else, nor one that is longer than the file.
    let (hub, folder) = hub();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/big-0.bin.part"), [7; 10]).unwrap();
    let told = told(
        download(&origin(&hub), None, &WANTED, folder.path()),
        &folder,
    );
    assert!(told.contains("arrived damaged"), "{told}");
    fs::write(folder.path().join("data/big-0.bin.part"), [7; 100_001]).unwrap();
    download(&origin(&hub), None, &WANTED, folder.path()).unwrap();
}

#[test]
fn a_file_that_changed_since_its_lock_is_refused() {
    let (hub, folder) = hub();
    let again = || download(&origin(&hub), None, &WANTED, folder.path());
    again().unwrap();
    let (file, lock) = (folder.path().join("small.json"), folder.path().join(LOCK));
    let mut messages = Vec::new();
    fs::write(&file, "[]").unwrap();
    messages.push(told(again(), &folder));
    fs::remove_file(&file).unwrap();
    messages.push(told(again(), &folder));
    // As told: without the lock, only what is not there is downloaded.
    fs::remove_file(&lock).unwrap();
    let before = hub.asked().len();
    again().unwrap();
    assert_eq!(hub.asked()[before..].len(), 1);
    // A file of the same name that is another one is not overwritten.
    fs::remove_file(&lock).unwrap();
    fs::write(&file, "[]").unwrap();
    messages.push(told(again(), &folder));
    fs::write(&lock, "{").unwrap();
    messages.push(told(again(), &folder));
    insta::assert_snapshot!(messages.join("\n"), @r"
    download: DIR/small.json: 2 bytes with SHA-256 4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945, but hub.lock.json says 2 with 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a; delete it and hub.lock.json to download it again
    download: DIR/small.json: it is gone, but hub.lock.json has it; delete hub.lock.json to download it again
    download: DIR/small.json: it is not the file of datasets/o/n at 0123456789abcdef0123456789abcdef01234567: its git object is 0637a088a01e8ddab3bf3fa98dbe804cbde1a0dc instead of 9e26dfeeb6e641a33dae4961196235bdb965b21b; move it away, then run again
    download: DIR/hub.lock.json: EOF while parsing an object at line 1 column 1; delete it, then the files are checked against their hosts again
    ");
}

#[test]
fn a_path_that_leads_out_of_the_folder_is_refused() {
    for path in ["../evil.bin", "data/../../evil.bin", "/tmp/evil.bin", ""] {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        let hub = Hub::start();
        hub.put(DATASET, path, "evil", false);
        let error = download(&origin(&hub), None, &["*"], &inner).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("download: '{path}' leads out of the folder")
        );
        assert!(!folder.path().join("evil.bin").exists());
        // Nor is one that a lock names.
        let lock = format!(
            r#"{{"repositories": {{"{DATASET}": {{"revision": "{COMMIT}", "complete": ["*"],
                "files": {{"{path}": {{"bytes": 4, "sha256": ""}}}}}}}}}}"#
        );
        fs::write(inner.join(LOCK), lock).unwrap();
        let error = download(&origin(&hub), None, &["*"], &inner).unwrap_err();
        assert!(error.to_string().contains("leads out of the folder"));
    }
}

#[test]
fn code_comes_from_its_pinned_commit_with_its_pinned_hash() {
    let hub = Hub::start();
    // `echo hello | sha256sum`.
    let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    let files = GitHubFiles {
        repository: "o/code",
        commit: COMMIT,
        files: &[("data/a.json", 6, sha256)],
    };
    let origin = Repository::github(files, &hub.address());
    let folder = tempfile::tempdir().unwrap();
    let wanted = ["data/a.json"];
    let told = told(download(&origin, None, &wanted, folder.path()), &folder);
    assert!(told.contains("404"), "{told}");
    hub.put("github/o/code", "data/a.json", "hello\n", false);
    hub.play(&[Trick::Cut(2), Trick::Status(500)]);
    download(&origin, None, &wanted, folder.path()).unwrap();
    assert_eq!(
        fs::read(folder.path().join("data/a.json")).unwrap(),
        b"hello\n"
    );
    let lock = Lock::open(folder.path()).unwrap();
    let locked = &lock.repositories["github/o/code"];
    assert_eq!(locked.revision, COMMIT);
    assert_eq!(locked.files["data/a.json"].sha256, sha256);

    let folder = tempfile::tempdir().unwrap();
    hub.put("github/o/code", "data/a.json", "HELLO\n", false);
    let told = self::told(download(&origin, None, &wanted, folder.path()), &folder);
    assert!(told.contains("SHA-256") && told.contains(sha256), "{told}");
}

#[test]
fn patterns_have_one_star() {
    for (pattern, path, expected) in [
        ("images.zip", "images.zip", true),
        ("images.zip", "a/images.zip", false),
        (
            "data/vwtq-*.parquet",
            "data/vwtq-00000-of-00001.parquet",
            true,
        ),
        ("data/vwtq-*.parquet", "data/vwtq_syn-0.parquet", false),
        ("images/*", "images/ChartQA.zip", true),
        ("ab*ba", "aba", false),
    ] {
        assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
    }
}
