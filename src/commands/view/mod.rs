//! `iapo view`: recorded runs as one page to look at, without a network and without a server.

mod answers;
mod figures;
mod page;
mod questions;
mod serve;
mod summary;
mod training;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use results::plot::Looks;
use results::{ArmName, Paper, Runs, SETS, TableOptions, UnfinishedRun};
use serde_json::{Value, json};

use self::answers::Column;
use self::figures::Figures;
use self::page::Chunks;
use self::questions::Questions;
use self::summary::Source;
use super::output::print;
use super::recorded;

/// Writes recorded runs as one HTML file: verdict, grid of all answers, every episode with its
/// figure, attribution, training groups, learning curves, calls, comparison.
///
/// The file needs no network and no server: open it in a browser. Questions of generated worlds are
/// made again; those of other sets are shown from the files that the episodes name, where these are
/// still there. Two or more runs are compared with the first.
#[derive(clap::Args)]
pub struct Args {
    /// Folders that `replicate --out` or `eval-all --out` wrote.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The file; `view.html` in the first run's folder if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Opens it in the system's browser.
    #[arg(long)]
    open: bool,
    /// Serves the page on this machine alone, made again at each reload: for a run that is going on,
    /// whose learning curves are shown as far as they go. Without PORT at a free one.
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "0", conflicts_with = "out")]
    serve: Option<u16>,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(port) = args.serve {
        serve::serve(
            port,
            || page_of(&args.runs),
            |address| {
                print(&format!("{address} until it is stopped (Ctrl-C)\n"))?;
                match args.open {
                    true => open(address),
                    false => Ok(()),
                }
            },
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let page = page_of(&args.runs)?;
    let out = args.out.unwrap_or_else(|| args.runs[0].join("view.html"));
    results::write_atomically(&out, page.as_bytes())
        .with_context(|| format!("give another --out than {}", out.display()))?;
    let size = page.len() as f64 / 1e6;
    print(&format!("{} ({size:.1} MB)\n", out.display()))?;
    if args.open {
        open(&out.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The page of some folders.
fn page_of(folders: &[PathBuf]) -> anyhow::Result<String> {
    let mut sources = Vec::new();
    for folder in folders {
        let unfinished = match folder.is_dir() {
            true => UnfinishedRun::find(folder)?,
            false => Vec::new(),
        };
        let runs = match Runs::load(std::slice::from_ref(folder)) {
            // Learning curves can be looked at before anything is answered.
            Err(results::Error::NoRuns { .. }) if !unfinished.is_empty() => Runs::new(Vec::new())?,
            loaded => loaded?,
        };
        sources.push(Source {
            name: folder.display().to_string(),
            runs,
            unfinished,
        });
    }
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    Ok(bundle(&sources)?.page(&format!("iapo view: {}", names.join(", "))))
}

/// Hands a file or an address to whatever the system opens pages with.
fn open(page: &str) -> anyhow::Result<()> {
    let opener = match std::env::consts::OS {
        "macos" => "open",
        "windows" => "explorer",
        _ => "xdg-open",
    };
    let started = std::process::Command::new(opener).arg(page).status();
    let status = started.with_context(|| {
        format!("--open: {opener} could not be started; open {page} in a browser")
    })?;
    anyhow::ensure!(
        status.success(),
        "--open: {opener} ended with {status}; open {page} in a browser"
    );
    Ok(())
}

/// Everything that the page shows.
fn bundle(sources: &[Source]) -> anyhow::Result<Chunks> {
    let mut questions = Questions::default();
    let mut columns: Vec<Column<'_>> = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        for run in &source.runs.runs {
            let world = recorded::world(run)?;
            columns.extend(answers::columns(
                number,
                run,
                world.as_ref(),
                &mut questions,
            )?);
        }
    }
    let asked = questions.len();
    let mut groups = Vec::new();
    let mut validation = Vec::new();
    for column in &columns {
        groups.push(training::groups(column, &mut questions)?);
        validation.push(training::validation(column, &mut questions)?);
    }
    let mut figures = Figures::default();
    let listed = questions.write(&mut figures)?;
    let left_out = figures.left_out;
    let (packed, starts) = figures.finish();

    let paper = Paper::committed()?;
    let options = TableOptions::default();
    let names: Vec<ArmName> = sources
        .iter()
        .flat_map(|source| {
            let unfinished = source.unfinished.iter().map(|run| run.arm.clone());
            source.runs.arms().into_iter().chain(unfinished)
        })
        .collect();
    let looks = Looks::new(&names);
    let mut arms: Vec<Value> = Vec::new();
    let (mut calls, mut shares) = (Vec::new(), Vec::new());
    for (number, source) in sources.iter().enumerate() {
        for arm in source.runs.arms() {
            let own = |column: &&Column<'_>| column.source == number && column.arm == arm;
            let of_arm: Vec<&Column<'_>> = columns.iter().filter(own).collect();
            let places = (0..columns.len()).filter(|place| own(&&columns[*place]));
            arms.push(json!({
                "source": number,
                "name": arm,
                "label": source.runs.label(&arm),
                "slot": looks.of(&arm).slot,
                "columns": places.collect::<Vec<_>>(),
            }));
            calls.push(summary::calls(&of_arm));
            shares.push(summary::attribution(&of_arm));
        }
    }
    let told = sources
        .iter()
        .map(|source| summary::of_source(source, &paper, &options))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let compared: Vec<Value> = sources
        .iter()
        .skip(1)
        .map(|other| summary::comparison(&sources[0], other, &options))
        .collect();
    let mut curves: Vec<Value> = sources
        .iter()
        .enumerate()
        .flat_map(|(number, source)| training::curves(number, &source.runs))
        .collect();
    let mut unfinished = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        for run in &source.unfinished {
            curves.extend(training::unfinished_curves(unfinished.len(), run));
            let slot = looks.of(&run.arm).slot;
            unfinished.push(training::unfinished(number, slot, run));
        }
    }

    let mut chunks = Chunks::default();
    chunks.json(
        "meta",
        &json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": env!("IAPO_COMMIT"),
            "sets": SETS,
            "sources": told,
            "arms": arms,
            "columns": columns.iter().enumerate().map(|(place, column)| json!({
                "source": column.source,
                "arm": column.arm,
                "seed": column.seed,
                "folder": column.run.folder.display().to_string(),
                "groups": groups[place].is_some(),
                "validation": validation[place].is_some(),
            })).collect::<Vec<_>>(),
            "unfinished": unfinished,
            "asked": asked,
            "questions": questions.len(),
            "figureStarts": starts,
            "figuresLeftOut": left_out,
            "paper": {"arxiv": paper.arxiv, "student": paper.student, "claim": paper.claim.difference},
            "largestGap": super::attribute::LARGEST_GAP,
        }),
    );
    chunks.json("questions", &listed);
    let letters: Vec<Value> = columns
        .iter()
        .map(|column| answers::letters(column, asked))
        .collect();
    chunks.json("letters", &Value::Array(letters));
    chunks.json("calls", &Value::Array(calls));
    chunks.json("attribution", &json!(shares));
    chunks.json("curves", &Value::Array(curves));
    chunks.json("compare", &Value::Array(compared));
    chunks.json("provenance", &provenance(&columns)?);
    for (place, column) in columns.iter().enumerate() {
        chunks.json(
            format!("column-{place}"),
            &answers::details(column, &questions),
        );
        if let Some(groups) = &groups[place] {
            chunks.json(format!("groups-{place}"), &groups.groups(&questions));
        }
        if let Some(validation) = &validation[place] {
            let by_question = validation.by_question(&questions);
            chunks.json(format!("validation-{place}"), &by_question);
        }
    }
    for (number, bytes) in packed.iter().enumerate() {
        chunks.bytes(format!("figures-{number}"), bytes);
    }
    Ok(chunks)
}

/// The manifests, as they are.
fn provenance(columns: &[Column<'_>]) -> anyhow::Result<Value> {
    let manifests = columns
        .iter()
        .map(|column| serde_json::to_value(&column.run.manifest))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Value::Array(manifests))
}
