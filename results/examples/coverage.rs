//! How often the two intervals hold a known difference, at the study's sizes: writes
//! `results/statistics/coverage.md`.
//!
//!     cargo run --release -p results --example coverage

use std::fmt::Write;
use std::path::Path;

use results::statistics::Design;
use results::statistics::simulation::{coverage_of_bootstrap, coverage_of_crossed};

const CROSSED: usize = 2000;
const BOOTSTRAP: usize = 200;
const RESAMPLES: usize = 400;

fn main() -> results::Result<()> {
    let mut page = format!(
        "# Coverage of the intervals\n\n\
         Made by `cargo run --release -p results --example coverage`. Experiments with a known \
         difference of 2 points (results/src/statistics/simulation.rs says how they are made): how \
         often the 95 % interval of the macro average's difference holds it, and its mean width in \
         points. Crossed random effects: {CROSSED} experiments (one standard error of the coverage: \
         0.005). Bootstrap over figures and seeds: {BOOTSTRAP} experiments of {RESAMPLES} replicates \
         (0.015).\n\n\
         | seeds | questions | crossed: coverage | width | bootstrap: coverage | width |\n\
         |---:|---:|---:|---:|---:|---:|\n"
    );
    for (seeds, questions) in [
        (20, 500),
        (12, 500),
        (8, 200),
        (3, 1000),
        (3, 167),
        (2, 200),
        (1, 200),
    ] {
        let design = Design {
            seeds,
            sets: 6,
            questions,
        };
        let crossed = coverage_of_crossed(design, CROSSED, 1);
        let bootstrap = coverage_of_bootstrap(design, BOOTSTRAP, 1, RESAMPLES);
        let _ = writeln!(
            page,
            "| {seeds} | 6 × {questions} | {:.3} | {:.2} | {:.3} | {:.2} |",
            crossed.covered,
            100.0 * crossed.width,
            bootstrap.covered,
            100.0 * bootstrap.width
        );
    }
    page.push_str(
        "\nFrom eight seeds on the crossed interval covers what it says and the bootstrap too much. With \
         two or three seeds the crossed interval is wide on average and yet covers too seldom where \
         seeds matter more than questions: in some experiments the seeds' component is estimated as 0 \
         and the interval is then far too narrow. With one seed neither interval says anything about \
         seeds, and both miss what seeds do.\n",
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("statistics/coverage.md");
    results::write_atomically(&path, page.as_bytes())
}
