//! `iapo tables`: every table again from recorded results.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use results::{Format, Runs, Table, differences, write_pictures};

use super::output::{print, width};

/// Every table again from the records of finished runs, beside the paper's known numbers.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folders that `replicate --out` or `eval-all --out` wrote
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// terminal, markdown, csv, latex or json
    #[arg(long, default_value = "terminal")]
    format: Format,
    /// Compare with a kept markdown table and name the cells that differ; without FILE
    /// golden/tables/<last part of the first DIR>.md
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    check: Option<Option<PathBuf>>,
    /// Draw the pictures of these runs there: results.svg, differences.svg, learning-curves.svg
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
}

/// Runs the command. `--check` exits with 1 when a cell differs.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runs = Runs::load(&args.dirs)?;
    let unverified = runs.unverified();
    if let Some(first) = unverified.first() {
        eprintln!(
            "warning: {} of {} runs hold no checksums and are not verified, {} for one; `iapo check` tells more",
            unverified.len(),
            runs.runs.len(),
            first.display()
        );
    }
    let table = Table::committed(&runs)?;
    if let Some(folder) = &args.pictures {
        for name in write_pictures(folder, &runs, &table)? {
            eprintln!("{}", folder.join(name).display());
        }
    }
    let Some(file) = args.check else {
        match args.format {
            Format::Terminal => print(&table.for_terminal(width()))?,
            format => print(&table.render(format))?,
        }
        return Ok(ExitCode::SUCCESS);
    };
    let golden = match file {
        Some(file) => file,
        None => golden_file(&args.dirs[0])?,
    };
    if !golden.is_file() {
        let dirs: Vec<String> = args
            .dirs
            .iter()
            .map(|dir| dir.display().to_string())
            .collect();
        bail!(
            "{}: no such table to check against; make it with `iapo tables {} --format markdown > {}`",
            golden.display(),
            dirs.join(" "),
            golden.display()
        );
    }
    let expected = std::fs::read_to_string(&golden)
        .with_context(|| format!("cannot read {}", golden.display()))?;
    let found = differences(&expected, &table.render(Format::Markdown));
    if found.is_empty() {
        print(&format!(
            "{}: the records give the same table\n",
            golden.display()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!(
        "{}: {} differences from what the records give\n",
        golden.display(),
        found.len()
    );
    for difference in &found {
        text.push_str(&format!("  {difference}\n"));
    }
    print(&text)?;
    Ok(ExitCode::FAILURE)
}

/// `golden/tables/<name>.md` for a folder of that name.
fn golden_file(dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = dir
        .canonicalize()
        .with_context(|| format!("cannot find {}", dir.display()))?;
    let name = dir
        .file_name()
        .context("--check needs a file: this folder has no name")?;
    Ok(Path::new("golden/tables").join(name).with_extension("md"))
}
