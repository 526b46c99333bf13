//! The tools against images that Pillow painted: every pixel within one grey level.

use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::Deserialize;
use visual_tools::{FigureBoxes, Parsed, Style, apply, parse};

#[derive(Deserialize)]
struct Case {
    name: String,
    style: String,
    image: PathBuf,
    boxes: FigureBoxes,
    code: String,
    expected: Option<PathBuf>,
}

/// What a folder of cases came to.
#[derive(Debug, Default)]
struct Tally {
    images: usize,
    exact: usize,
    failures_shared: usize,
    pixels: u64,
    largest_difference: u8,
    faults: Vec<String>,
}

fn style(name: &str) -> Style {
    match name {
        "refocus" => Style::refocus(),
        "vtool_v2" => Style::vtool_v2(),
        "micro" => Style::micro(),
        other => panic!("no style {other}"),
    }
}

fn open(path: &Path) -> RgbImage {
    image::open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .to_rgb8()
}

fn compare(folder: &Path) -> Tally {
    let cases = std::fs::read_to_string(folder.join("cases.json")).expect("cases.json");
    let cases: Vec<Case> = serde_json::from_str(&cases).expect("cases.json is a list of cases");
    let mut tally = Tally::default();
    for case in &cases {
        let label = format!("{} / {}", case.style, case.name);
        let completion = format!("ACTION 0:\n```python\n{}\n```", case.code);
        let input = open(&folder.join(&case.image));
        let ours = match parse(&completion) {
            Parsed::Call(call) => apply(&input, &call, &case.boxes, &style(&case.style))
                .map_err(|error| error.to_string()),
            Parsed::NoTool => Err("no tool".to_owned()),
            Parsed::Refused(refusal) => Err(refusal.to_string()),
        };
        match (ours, &case.expected) {
            (Err(_), None) => tally.failures_shared += 1,
            (Err(error), Some(_)) => tally.faults.push(format!("{label}: we fail: {error}")),
            (Ok(_), None) => tally
                .faults
                .push(format!("{label}: Python fails, we do not")),
            (Ok(ours), Some(expected)) => {
                let theirs = open(&folder.join(expected));
                if ours.dimensions() != theirs.dimensions() {
                    tally.faults.push(format!("{label}: other dimensions"));
                    continue;
                }
                let difference = ours
                    .as_raw()
                    .iter()
                    .zip(theirs.as_raw())
                    .map(|(a, b)| a.abs_diff(*b))
                    .max()
                    .unwrap_or(0);
                tally.images += 1;
                tally.exact += usize::from(difference == 0);
                tally.pixels += u64::from(ours.width()) * u64::from(ours.height());
                tally.largest_difference = tally.largest_difference.max(difference);
                if difference > 1 {
                    tally
                        .faults
                        .push(format!("{label}: differs by {difference}"));
                }
            }
        }
    }
    tally
}

fn report(tally: &Tally) {
    println!(
        "images compared {}, equal in every pixel {}, pixels {}, largest difference {}, \
         calls that fail on both sides {}, faults {}",
        tally.images,
        tally.exact,
        tally.pixels,
        tally.largest_difference,
        tally.failures_shared,
        tally.faults.len()
    );
}

#[test]
fn committed_images_are_reproduced() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/visual-tools");
    let tally = compare(&folder);
    report(&tally);
    assert!(tally.faults.is_empty(), "{:#?}", tally.faults);
    assert!(
        tally.images > 250 && tally.failures_shared > 30,
        "{tally:?}"
    );
}

/// `golden/visual-tools/compare_real.sh` paints the real charts with Pillow into a folder and names
/// it here.
#[test]
fn real_charts_are_reproduced() {
    let Some(folder) = std::env::var_os("VISUAL_TOOLS_EXPECTED") else {
        println!("skipped: VISUAL_TOOLS_EXPECTED is not set (golden/visual-tools/compare_real.sh)");
        return;
    };
    let tally = compare(Path::new(&folder));
    report(&tally);
    assert!(tally.faults.is_empty(), "{:#?}", tally.faults);
}
