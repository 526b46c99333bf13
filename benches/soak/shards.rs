//! Shares of one evaluation, asked at once, killed at random, of a server that dies and errs.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use results::{EPISODES, RECORDS, is_stored, read_stored, share_name};
use seeded_random::{Draw, Generator};

use super::damage::table;
use super::experiment::{Ended, Running, binary, run, start};
use super::kills::{SIGNALS, after_signal, send};
use super::report::Trials;
use super::server::{Asked, ERRORS, Playing, WELL, free_port};

/// The report's words for it.
pub const HOW: &str = " Shares are three processes of `eval-all --shard i/3` at once that ask a chat server on one \
    port; it is killed, away for a while, answers nothing but errors for a while, and is killed again, and each \
    process is started again until it ends well and leaves nothing open. Whenever one ends, each verdict and each \
    kept completion must be one of an undisturbed run; in the end records, episodes and table must be the same.";

/// Processes at once.
const SHARES: usize = 3;

/// Kills of the processes of a run, and how often its server goes.
const KILLS_OF_A_RUN: usize = 10;
const ROUNDS: usize = 2;

/// A run that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(240);

/// What a process that cannot go on is to say.
const ADVICE: &str = "same command";

/// Before a process that ended is started again.
const PAUSE: Duration = Duration::from_millis(100);

/// What a server said, beside the records.
const COMPLETIONS: &str = "completions.jsonl";

/// The run's name in the table.
const FAULT: &str = "shares of `eval-all` after all of it";

/// What an undisturbed run of one process wrote.
struct Expected {
    records: Vec<String>,
    episodes: Vec<String>,
    completions: HashSet<String>,
    table: String,
    seconds: f64,
}

/// A time of the server's: well, away, erring, away.
struct Round {
    well: Duration,
    away: [Duration; 2],
    errors: &'static str,
    erring: Duration,
}

/// Makes runs until their processes were killed `kills` times.
pub fn shards(kills: usize, draw: &mut Generator, trials: &mut Trials) -> anyhow::Result<()> {
    let port = free_port(draw)?;
    let expected = undisturbed(port)?;
    eprintln!("shares: {:.1} s undisturbed", expected.seconds);
    // Each error has its turn.
    let (mut made, mut turn) = (0, draw.below(ERRORS.len()));
    while made < kills {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let mut time = |least: f64, more: f64| {
                Duration::from_secs_f64((least + draw.unit() * more) * expected.seconds)
            };
            rounds.push(Round {
                well: time(0.0, 0.4),
                away: [time(0.0, 0.4), time(0.0, 0.2)],
                errors: ERRORS[turn % ERRORS.len()],
                erring: time(0.3, 0.5),
            });
            turn += 1;
        }
        let wanted = KILLS_OF_A_RUN.min(kills - made);
        made += disturbed(port, &rounds, wanted, &expected, draw, trials)?.max(1);
    }
    Ok(())
}

/// One process' command, of all questions without a share.
fn command(port: u16, out: &Path, share: Option<usize>) -> anyhow::Result<Command> {
    let mut command = Command::new(binary()?);
    command
        .args(["eval-all", "--endpoint"])
        .arg(format!("http://127.0.0.1:{port}/v1"))
        .args(["--model", "m", "--limit", "24", "--concurrency", "2"])
        .arg("--out")
        .arg(out)
        .env_remove("OPENAI_API_KEY");
    if let Some(share) = share {
        command.args(["--shard", &format!("{share}/{SHARES}")]);
    }
    Ok(command)
}

/// One process and a healthy server.
fn undisturbed(port: u16) -> anyhow::Result<Expected> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("out");
    let _server = Playing::start(port, WELL)?;
    let started = Instant::now();
    let ended = run(command(port, &out, None)?)?;
    anyhow::ensure!(
        ended.status.success(),
        "eval-all of a chat server failed undisturbed: {}",
        ended.last_lines()
    );
    let seconds = started.elapsed().as_secs_f64();
    let whole = [out.join("m/seed-0")];
    Ok(Expected {
        records: sorted(&whole, RECORDS)?,
        episodes: sorted(&whole, EPISODES)?,
        completions: sorted(&whole, COMPLETIONS)?.into_iter().collect(),
        table: table(&out)?.1,
        seconds,
    })
}

/// The whole lines of a file, of all folders together, in their order.
fn sorted(folders: &[PathBuf], name: &str) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for folder in folders {
        let path = folder.join(name);
        if !is_stored(&path) {
            continue;
        }
        let text = String::from_utf8(read_stored(&path)?)?;
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        lines.extend(whole.map(str::to_owned));
    }
    lines.sort();
    Ok(lines)
}

/// A share's process, started again and again.
struct Share {
    number: usize,
    folder: PathBuf,
    running: Option<Running>,
    /// Not started again before.
    next: Instant,
    /// When it is killed and by what, and what it was killed by.
    kill: (Instant, &'static str),
    sent: Option<&'static str>,
    finished: bool,
}

/// One run with its faults; how many kills met a process.
fn disturbed(
    port: u16,
    rounds: &[Round],
    kills: usize,
    expected: &Expected,
    draw: &mut Generator,
    trials: &mut Trials,
) -> anyhow::Result<usize> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("out");
    std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(port, rounds));
        let fallen = trials.fallen();
        let made = ask(port, kills, &out, expected, draw, trials);
        let server = server
            .join()
            .map_err(|_| anyhow::anyhow!("the chat server's thread panicked"))?;
        let (_playing, met) = server?;
        let made = made?;
        if trials.fallen() > fallen {
            return Ok(made);
        }
        for (round, (well, erring)) in rounds.iter().zip(met) {
            let outcome = match well.in_flight {
                0 => "nothing was in flight",
                _ => "what was in flight was asked again",
            };
            trials.add("server of shares killed, away, back", outcome, None);
            let outcome = match erring.requests {
                0 => "nobody asked meanwhile",
                _ => "nothing scored by it, nothing kept of it",
            };
            let fault = format!("server of shares answers {}", round.errors);
            trials.add(&fault, outcome, None);
        }
        Ok(made)
    })
}

/// Plays the rounds, then a healthy server; what each round's two servers were asked.
fn serve(port: u16, rounds: &[Round]) -> anyhow::Result<(Playing, Vec<(Asked, Asked)>)> {
    let mut met = Vec::new();
    for round in rounds {
        let playing = Playing::start(port, WELL)?;
        std::thread::sleep(round.well);
        let well = playing.kill()?;
        std::thread::sleep(round.away[0]);
        let playing = Playing::start(port, round.errors)?;
        std::thread::sleep(round.erring);
        met.push((well, playing.kill()?));
        std::thread::sleep(round.away[1]);
    }
    Ok((Playing::start(port, WELL)?, met))
}

/// Runs all shares to their end, killed on the way; how many kills met a process.
fn ask(
    port: u16,
    kills: usize,
    out: &Path,
    expected: &Expected,
    draw: &mut Generator,
    trials: &mut Trials,
) -> anyhow::Result<usize> {
    let (began, mut made) = (Instant::now(), 0);
    let mut shares: Vec<Share> = (1..=SHARES)
        .map(|number| Share {
            number,
            folder: out.join(share_name(number, SHARES)).join("m/seed-0"),
            running: None,
            next: began,
            kill: (began, SIGNALS[0]),
            sent: None,
            finished: false,
        })
        .collect();
    while shares.iter().any(|share| !share.finished) && began.elapsed() < LONGEST {
        for share in shares.iter_mut().filter(|share| !share.finished) {
            match share.running.take() {
                None if share.next <= Instant::now() => {
                    let delay = Duration::from_secs_f64(draw.unit() * 0.4 * expected.seconds);
                    let signal = SIGNALS[draw.below(SIGNALS.len())];
                    share.kill = (Instant::now() + delay, signal);
                    share.sent = None;
                    share.running = Some(start(command(port, out, Some(share.number))?)?);
                }
                None => {}
                Some(mut running) => match running.child.try_wait()? {
                    Some(_) => share.count(&running.wait()?, expected, trials)?,
                    None => {
                        let (at, signal) = share.kill;
                        if share.sent.is_none() && made < kills && at <= Instant::now() {
                            send(signal, &running)?;
                            made += 1;
                            share.sent = Some(signal);
                        }
                        share.running = Some(running);
                    }
                },
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut hung = Vec::new();
    for share in shares.iter_mut().filter(|share| !share.finished) {
        hung.push(share.number.to_string());
        if let Some(mut running) = share.running.take() {
            running.child.kill()?;
            running.wait()?;
        }
    }
    let folders: Vec<PathBuf> = shares.into_iter().map(|share| share.folder).collect();
    let fell = match hung.is_empty() {
        true => differences(out, &folders, expected)?,
        false => Some(format!(
            "shares {} not finished after {} s",
            hung.join(", "),
            LONGEST.as_secs()
        )),
    };
    let outcome = match &fell {
        None => "finished, every question once, same records, episodes and table",
        Some(_) => "not the same",
    };
    trials.add(FAULT, outcome, fell);
    Ok(made)
}

impl Share {
    /// Counts how its process ended, and looks at what it left.
    fn count(
        &mut self,
        ended: &Ended,
        expected: &Expected,
        trials: &mut Trials,
    ) -> anyhow::Result<()> {
        let folder = std::slice::from_ref(&self.folder);
        let records = sorted(folder, RECORDS)?;
        let (open, judged): (Vec<&String>, Vec<&String>) = records
            .iter()
            .partition(|record| record.contains("\"verdict\":\"not_judged\""));
        self.finished = ended.status.success() && open.is_empty();
        self.next = Instant::now() + PAUSE;
        let (fault, (outcome, fell)) = match self.sent {
            // Status 1 is an error's: the signal came too late.
            Some(signal) if ended.status.code() != Some(1) => (
                format!("SIG{signal} to a share of `eval-all`"),
                after_signal(signal, ended, ADVICE),
            ),
            _ => (
                "share of `eval-all` left alone".to_owned(),
                match (ended.status.success(), open.is_empty()) {
                    (true, true) => ("finished", ended.fell()),
                    (true, false) => ("ended, questions not judged", ended.fell()),
                    _ if ended.error_names(ADVICE) => ("ended, said how to go on", ended.fell()),
                    _ if ended.error_names("127.0.0.1") || ended.error_names("status 401") => {
                        ("ended by what the server said", ended.fell())
                    }
                    _ => ("ended, gave no reason", Some(ended.last_lines())),
                },
            ),
        };
        let scored = judged
            .into_iter()
            .find(|record| expected.records.binary_search(record).is_err());
        let kept = sorted(folder, COMPLETIONS)?
            .into_iter()
            .find(|line| !expected.completions.contains(line));
        let fell = fell
            .or(scored.map(|record| format!("scored otherwise: {record}")))
            .or(kept.map(|line| format!("kept: {line}")));
        trials.add(&fault, outcome, fell);
        Ok(())
    }
}

/// In what a finished run differs from the undisturbed one.
fn differences(
    out: &Path,
    folders: &[PathBuf],
    expected: &Expected,
) -> anyhow::Result<Option<String>> {
    let mut check = Command::new(binary()?);
    check.arg("check").arg(out);
    let checked = run(check)?;
    let shown = table(out)?;
    let found = [
        (sorted(folders, RECORDS)? != expected.records, "records"),
        (sorted(folders, EPISODES)? != expected.episodes, "episodes"),
        (shown != (true, expected.table.clone()), "table"),
        (!checked.status.success(), "`check` refuses it"),
    ];
    let found: Vec<&str> = found
        .iter()
        .filter(|(differs, _)| *differs)
        .map(|(_, name)| *name)
        .collect();
    Ok((!found.is_empty()).then(|| found.join(", ")))
}
