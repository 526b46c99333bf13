//! The servers of `../shared/cases`, cases from other people's bug reports, where that folder and
//! a Python are there.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Ports that a server of these tests was given: none is given twice.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Plays a scenario until it is dropped.
pub struct SharedServer {
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

/// The folder of the cases, beside the repository.
fn cases() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|folder| folder.join("Cargo.lock").is_file())
        .unwrap();
    root.join("../shared/cases")
}

impl SharedServer {
    /// The scenario in a file of the folder, its text changed by `change`; `None`, with a printed
    /// line, where it cannot be played.
    pub fn start(scenario: &str, change: impl Fn(String) -> String) -> Option<Self> {
        let server = cases().join("server.py");
        let Ok(text) = std::fs::read_to_string(cases().join(scenario)) else {
            println!("skipped: no {scenario} in {}", cases().display());
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("scenario.json");
        std::fs::write(&file, change(text)).unwrap();
        // Between its choice and its use a port may go to another server of the tests; then the
        // process ends, or the connection was somebody else's.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| listener.local_addr())
                .unwrap()
                .port();
            if !TAKEN.lock().unwrap().insert(port) {
                continue;
            }
            let process = Command::new("python3")
                .arg(&server)
                .arg(port.to_string())
                .arg(&file)
                .arg(folder.path().join("log.jsonl"))
                .stderr(Stdio::null())
                .spawn();
            let Ok(mut process) = process else {
                println!("skipped: no python3");
                return None;
            };
            for _ in 0..600 {
                if process.try_wait().unwrap().is_some() {
                    break;
                }
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    // Somebody else's server answers while ours finds the port taken and ends.
                    std::thread::sleep(Duration::from_millis(200));
                    if process.try_wait().unwrap().is_none() {
                        return Some(SharedServer {
                            process,
                            port,
                            folder,
                        });
                    }
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        panic!("the server of {scenario} does not listen");
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// How many requests it had.
    pub fn requests(&self) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("log.jsonl"));
        log.map_or(0, |log| log.lines().count())
    }
}

impl Drop for SharedServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
