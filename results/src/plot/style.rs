//! What all pictures share: colours, dashes, letters and the dark variant.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};
use crate::record::ArmName;

/// Text and axes.
pub(super) const INK: RGBColor = RGBColor(40, 40, 40);
/// Lines of a grid.
pub(super) const FAINT: RGBColor = RGBColor(225, 225, 225);
/// What others are compared with, behind them.
pub(super) const SOFT: RGBColor = RGBColor(140, 148, 160);

/// Ink, paper and greys on paper and on a dark ground.
const GROUND: [(&str, &str); 4] = [
    ("#FFFFFF", "#14171C"),
    ("#282828", "#E8EBF0"),
    ("#E1E1E1", "#39414D"),
    ("#8C94A0", "#A0A9B8"),
];

/// An arm's place in the palette: its name, its colour on paper and on a dark ground. Chosen after
/// Okabe and Ito (2008), whose colours the colour-blind can tell apart.
const ARMS: [(&str, [&str; 2]); 13] = [
    (ArmName::UNTRAINED, ["#6B7280", "#9AA4B4"]),
    (ArmName::TEACHER, ["#1B1F26", "#F2F4F8"]),
    (ArmName::VTOOL_R1, ["#0072B2", "#5AB0EA"]),
    (ArmName::TORL, ["#009E73", "#3CC79B"]),
    (ArmName::TRM, ["#CC79A7", "#E59CC6"]),
    (ArmName::IAPO, ["#D55E00", "#F08A4B"]),
    ("iapo-occlusion", ["#7A4FBF", "#B193F0"]),
    (ArmName::DISTILL, ["#B58900", "#E0B93F"]),
    ("own-log-prob", ["#3F9FB5", "#7FD3E6"]),
    ("iapo-occlusion-shuffled", ["#A04040", "#EE8B8B"]),
    ("iapo-occlusion-wrong-teacher", ["#7D8B2A", "#BCCB5C"]),
    ("random", ["#8A5A2B", "#C99A68"]),
    ("vtool-r1-equal-time", ["#3B5B92", "#8FA9D6"]),
];

/// Colours of arms that the palette does not name.
const OTHERS: [[&str; 2]; 4] = [
    ["#B0307A", "#EA7FBC"],
    ["#2F6F4E", "#6FBF97"],
    ["#5B5BD6", "#A3A3F5"],
    ["#9A6B00", "#D9AE4C"],
];

/// How many looks there are before they repeat: those of named arms, then the others.
pub const SLOTS: usize = ARMS.len() + OTHERS.len();

/// Dash and gap in pixels; the first is a whole line.
const DASHES: [Option<(u32, u32)>; 4] = [None, Some((8, 4)), Some((2, 3)), Some((14, 4))];

/// How an arm is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its place in the palette, below [`SLOTS`].
    pub slot: usize,
    /// Dash and gap of its lines in pixels; `None` is a whole line.
    pub dash: Option<(u32, u32)>,
}

impl Look {
    /// The look in a place of the palette; places repeat after [`SLOTS`].
    pub fn slot(slot: usize) -> Self {
        // Neighbours in the palette, whose greys may be alike, differ in their dash.
        Look {
            slot: slot % SLOTS,
            dash: DASHES[(slot + 2) % DASHES.len()],
        }
    }

    /// The colour on paper and on a dark ground, as `#RRGGBB`.
    pub fn colors(&self) -> [&'static str; 2] {
        match ARMS.get(self.slot) {
            Some((_, colors)) => *colors,
            None => OTHERS[(self.slot - ARMS.len()) % OTHERS.len()],
        }
    }

    pub(super) fn color(&self) -> RGBColor {
        let text = self.colors()[0].trim_start_matches('#');
        // The constants above are six hexadecimal digits (test).
        let value = u32::from_str_radix(text, 16).unwrap_or(0);
        let [_, red, green, blue] = value.to_be_bytes();
        RGBColor(red, green, blue)
    }
}

/// The looks of the arms of one picture.
#[derive(Clone, Debug)]
pub struct Looks(BTreeMap<ArmName, Look>);

impl Looks {
    /// Known arms have their own look in every picture; the others get the rest in order.
    pub fn new<'a>(arms: impl IntoIterator<Item = &'a ArmName>) -> Self {
        let mut looks = BTreeMap::new();
        let mut next = ARMS.len();
        for arm in arms {
            looks.entry(arm.clone()).or_insert_with(|| {
                let known = ARMS.iter().position(|(name, _)| *name == arm.name());
                let slot = known.unwrap_or_else(|| {
                    next += 1;
                    next - 1
                });
                // Past the end the others begin again, never the named ones.
                let slot = match slot < SLOTS {
                    true => slot,
                    false => ARMS.len() + (slot - ARMS.len()) % OTHERS.len(),
                };
                Look::slot(slot)
            });
        }
        Looks(looks)
    }

    /// An arm's look; that of the first place for an arm that is not among them.
    pub fn of(&self, arm: &ArmName) -> Look {
        self.0.get(arm).copied().unwrap_or_else(|| Look::slot(0))
    }
}

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What drawing gives: the library's error is text, for it differs by the type of the drawing.
pub(super) type Drawn = std::result::Result<(), String>;

pub(super) fn text_style(size: i32, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    ("sans-serif", size)
        .into_font()
        .color(&INK)
        .pos(Pos::new(horizontal, vertical))
}

pub(super) fn label(area: &Area<'_>, text: &str, at: (i32, i32), style: &TextStyle<'_>) -> Drawn {
    area.draw_text(text, style, at)
        .map_err(|error| error.to_string())
}

/// A title and, below it, a smaller line.
pub(super) fn heading(area: &Area<'_>, title: &str, caption: &str) -> Drawn {
    let style = |size| text_style(size, HPos::Left, VPos::Top);
    label(area, title, (20, 14), &style(17))?;
    label(area, caption, (20, 40), &style(13))
}

/// A line in a look.
pub(super) fn line(area: &Area<'_>, from: (i32, i32), to: (i32, i32), style: ShapeStyle) -> Drawn {
    area.draw(&PathElement::new([from, to], style))
        .map_err(|error| error.to_string())
}

/// Draws a picture of so many pixels.
///
/// # Errors
/// [`Error::Plot`] when the drawing library fails.
pub(super) fn picture(
    what: &'static str,
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let drawn = area
            .fill(&WHITE)
            .map_err(|error| error.to_string())
            .and_then(|()| draw(&area))
            .and_then(|()| area.present().map_err(|error| error.to_string()));
        drawn.map_err(|reason| Error::Plot { what, reason })?;
    }
    Ok(with_dark_variant(&text))
}

/// The picture with rules that replace its colours where the reader's system prefers a dark ground.
fn with_dark_variant(svg: &str) -> String {
    let mut rules = String::from("<style>@media (prefers-color-scheme: dark) {\n");
    let looks = (0..SLOTS).map(|slot| {
        let [light, dark] = Look::slot(slot).colors();
        (light, dark)
    });
    for (light, dark) in GROUND.into_iter().chain(looks) {
        if svg.contains(light) {
            let _ = writeln!(
                rules,
                "[fill=\"{light}\"] {{ fill: {dark}; }} [stroke=\"{light}\"] {{ stroke: {dark}; }}"
            );
        }
    }
    rules += "}</style>\n";
    // After the opening tag, which is the first one that ends.
    match svg
        .find("<svg")
        .and_then(|at| Some(at + svg[at..].find('>')? + 1))
    {
        Some(end) => format!("{}\n{rules}{}", &svg[..end], svg[end..].trim_start()),
        None => svg.to_owned(),
    }
}

/// Values to pixels, over a range that ends in round numbers.
pub(super) struct Scale {
    low: f64,
    high: f64,
    step: f64,
    pixels: Range<i32>,
}

impl Scale {
    /// Over all values, with about eight ticks.
    pub fn new(values: impl IntoIterator<Item = f64>, pixels: Range<i32>) -> Self {
        let (least, greatest) = extent(values).unwrap_or((0.0, 1.0));
        let step = round_step((greatest - least) / 8.0);
        let low = (least / step).floor() * step;
        Scale {
            low,
            high: ((greatest / step).ceil() * step).max(low + step),
            step,
            pixels,
        }
    }

    pub fn pixel(&self, value: f64) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        self.pixels.start + (share * f64::from(self.pixels.end - self.pixels.start)).round() as i32
    }

    /// Round values and how they are written.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let count = ((self.high - self.low) / self.step).round() as i32;
        let digits = usize::from(self.step < 1.0) + usize::from(self.step < 0.1);
        (0..=count)
            .map(|tick| {
                let value = self.low + f64::from(tick) * self.step;
                // A sum may end at -0.0.
                let value = if value.abs() < self.step / 2.0 {
                    0.0
                } else {
                    value
                };
                (value, format!("{value:.digits$}"))
            })
            .collect()
    }
}

/// The least of 1, 2, 5 and their tens that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powi(step.max(1e-6).log10().floor() as i32);
    let choices = [1.0, 2.0, 5.0, 10.0];
    let found = choices.into_iter().find(|choice| choice * power >= step);
    found.unwrap_or(10.0) * power
}

/// Least and greatest of the finite values.
pub(super) fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .into_iter()
        .filter(|value| value.is_finite())
        .fold(None, |known, value| match known {
            None => Some((value, value)),
            Some((low, high)) => Some((f64::min(low, value), f64::max(high, value))),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_look_is_a_colour_of_its_own() {
        let mut seen = Vec::new();
        for slot in 0..SLOTS {
            let look = Look::slot(slot);
            for color in look.colors() {
                assert_eq!(color.len(), 7, "{color}");
                assert!(u32::from_str_radix(&color[1..], 16).is_ok(), "{color}");
                assert_eq!(
                    color,
                    color.to_uppercase(),
                    "as the drawing library writes it"
                );
            }
            seen.push(look.colors());
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), SLOTS);
        assert_eq!(Look::slot(2).color(), RGBColor(0, 0x72, 0xb2));
        assert_eq!(Look::slot(2).dash, None, "plain GRPO is a whole line");
    }

    #[test]
    fn arms_keep_their_look_and_unknown_ones_differ() {
        let arms: Vec<ArmName> = ["torl", "my-model", "other", "iapo"]
            .iter()
            .map(|name| name.parse().unwrap())
            .collect();
        let all = Looks::new(&arms);
        let few = Looks::new(&arms[3..]);
        assert_eq!(all.of(&arms[3]), few.of(&arms[3]));
        assert_ne!(all.of(&arms[1]).slot, all.of(&arms[2]).slot);
        let many: Vec<ArmName> = (0..9).map(|n| format!("m{n}").parse().unwrap()).collect();
        let looks = Looks::new(&many);
        assert!(many.iter().all(|arm| looks.of(arm).slot >= ARMS.len()));
    }

    #[test]
    fn scales_end_in_round_numbers() {
        let scale = Scale::new([-0.7, 2.9], 0..100);
        let ticks: Vec<String> = scale.ticks().into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            ticks,
            [
                "-1.0", "-0.5", "0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0"
            ]
        );
        assert_eq!((scale.pixel(-1.0), scale.pixel(3.0)), (0, 100));
        let one = Scale::new([40.0], 0..10);
        assert!(one.ticks().len() > 1, "a single value has a range");
        assert_eq!(round_step(0.13), 0.2);
        assert_eq!(round_step(5.0), 5.0);
    }

    #[test]
    fn a_dark_variant_replaces_each_colour() {
        let svg = picture("a test", (40, 30), |area| {
            label(area, "a", (1, 1), &text_style(9, HPos::Left, VPos::Top))?;
            line(area, (0, 0), (9, 9), Look::slot(5).color().stroke_width(2))
        })
        .unwrap();
        assert!(svg.contains("prefers-color-scheme: dark"), "{svg}");
        assert!(
            svg.contains("[fill=\"#FFFFFF\"] { fill: #14171C; }"),
            "{svg}"
        );
        assert!(
            svg.contains("[stroke=\"#D55E00\"] { stroke: #F08A4B; }"),
            "{svg}"
        );
        assert!(
            !svg.contains("#F08A4B; }}") && !svg.contains("#009E73"),
            "{svg}"
        );
        assert!(svg.find("<style>").unwrap() > svg.find("<svg").unwrap());
    }
}
