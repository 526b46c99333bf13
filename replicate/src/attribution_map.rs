//! A picture of an attribution: heat over the image, a strip over the tokens, bars of the blocks.

use std::fmt::Write;

use agent::Block;
use base64::Engine;
use image::{ImageFormat, RgbImage};
use serde::Serialize;

/// One token of the prompt with what it contributed.
#[derive(Clone, Debug, Serialize)]
pub struct TokenScore {
    /// The token's text; image tokens are `<|image_pad|>`.
    pub text: String,
    /// Its block.
    pub block: Block,
    /// Its attribution score, in nats of the call's log-probability.
    pub score: f32,
    /// Where an image token lies in the image's grid; absent for other tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell: Option<PatchCell>,
}

/// A merged token's place in the grid of its image, from 0 at the top left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PatchCell {
    /// From the top.
    pub row: usize,
    /// From the left.
    pub column: usize,
}

/// How many merged tokens an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PatchGrid {
    /// Down.
    pub rows: usize,
    /// Across.
    pub columns: usize,
}

impl PatchGrid {
    /// The place of the `index`-th token of the image, which run by rows; `None` beyond the last.
    pub fn cell(self, index: usize) -> Option<PatchCell> {
        (index < self.rows * self.columns).then(|| PatchCell {
            row: index / self.columns,
            column: index % self.columns,
        })
    }
}

/// Everything that the picture shows, and the JSON file holds.
#[derive(Clone, Debug, Serialize)]
pub struct AttributionMap {
    /// The attributed call, as text.
    pub call: String,
    /// Shares of P, R, I, T.
    pub shares: Vec<f64>,
    /// |completeness gap| / |F(input) − F(baseline)|; absent for methods that have none.
    pub relative_gap: Option<f64>,
    /// The log-probability of the call's attributed tokens, nats.
    pub log_prob: f64,
    /// The grid of the image.
    pub grid: PatchGrid,
    /// Every token of the prompt in order; empty for methods that know blocks alone.
    pub tokens: Vec<TokenScore>,
}

const WIDTH: f64 = 720.0;
const MARGIN: f64 = 16.0;
const LINE: f64 = 18.0;
/// Width of a character of the monospaced font at 11 px.
const CHARACTER: f64 = 6.7;

impl AttributionMap {
    /// The picture as SVG; `image` is what the model saw.
    ///
    /// # Errors
    /// When the image cannot be encoded.
    pub fn to_svg(&self, image: &RgbImage) -> image::ImageResult<String> {
        let mut png = std::io::Cursor::new(Vec::new());
        image.write_to(&mut png, ImageFormat::Png)?;
        let data = base64::engine::general_purpose::STANDARD.encode(png.into_inner());
        let inner = WIDTH - 2.0 * MARGIN;
        let height = inner * f64::from(image.height()) / f64::from(image.width());
        let largest = |block_is: &dyn Fn(Block) -> bool| {
            self.tokens
                .iter()
                .filter(|token| block_is(token.block))
                .fold(1e-12f32, |most, token| most.max(token.score.abs()))
        };
        let mut body = String::new();
        let mut y = MARGIN + LINE;
        text(
            &mut body,
            MARGIN,
            y,
            13.0,
            &format!("call: {}", self.call.replace('\n', " ")),
        );
        y += LINE;
        let gap = match self.relative_gap {
            Some(gap) => format!(", completeness gap {:.1} %", 100.0 * gap),
            None => String::new(),
        };
        text(
            &mut body,
            MARGIN,
            y,
            11.0,
            &format!("log-probability {:.2}{gap}", self.log_prob),
        );
        y += LINE / 2.0;

        for (block, share) in Block::ALL.iter().zip(&self.shares) {
            let (name, colour) = block_style(*block);
            rect(
                &mut body,
                [MARGIN + 110.0, y, (inner - 170.0) * share, 12.0],
                colour,
                0.9,
            );
            text(&mut body, MARGIN, y + 10.0, 11.0, name);
            text(
                &mut body,
                WIDTH - MARGIN - 50.0,
                y + 10.0,
                11.0,
                &format!("{share:.3}"),
            );
            y += LINE;
        }
        y += 6.0;
        let _ = write!(
            body,
            "<image x=\"{MARGIN}\" y=\"{y:.1}\" width=\"{inner}\" height=\"{height:.1}\" \
             preserveAspectRatio=\"none\" style=\"image-rendering:pixelated\" \
             href=\"data:image/png;base64,{data}\"/>"
        );
        let most = largest(&|block| block == Block::I);
        let PatchGrid { rows, columns } = self.grid;
        let (across, down) = (inner / columns as f64, height / rows as f64);
        for token in &self.tokens {
            let Some(cell) = token.cell else { continue };
            let left = MARGIN + cell.column as f64 * across;
            let place = [left, y + cell.row as f64 * down, across, down];
            heat(&mut body, place, token.score / most);
        }
        y += height + 10.0;
        let most = largest(&|block| block != Block::I);
        let mut x = MARGIN;
        for token in self.tokens.iter().filter(|token| token.block != Block::I) {
            let shown = visible(&token.text);
            let width = CHARACTER * shown.chars().count() as f64 + 6.0;
            if x + width > WIDTH - MARGIN {
                x = MARGIN;
                y += LINE + 4.0;
            }
            heat(&mut body, [x, y, width, LINE], token.score / most);
            rect(
                &mut body,
                [x, y + LINE, width, 2.0],
                block_style(token.block).1,
                1.0,
            );
            text(&mut body, x + 3.0, y + 13.0, 11.0, &shown);
            x += width + 2.0;
        }
        y += LINE + 22.0;
        text(
            &mut body,
            MARGIN,
            y,
            11.0,
            "red speaks for the call, blue against it; the line under a token is its block's colour",
        );
        let total = y + MARGIN;
        Ok(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{total:.0}\" \
             viewBox=\"0 0 {WIDTH} {total:.0}\" font-family=\"DejaVu Sans Mono, monospace\">\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>{body}</svg>\n"
        ))
    }
}

/// Name and colour of a block (Okabe-Ito palette).
fn block_style(block: Block) -> (&'static str, &'static str) {
    match block {
        Block::P => ("P context", "#999999"),
        Block::R => ("R request", "#0072B2"),
        Block::I => ("I image", "#009E73"),
        Block::T => ("T tools", "#E69F00"),
    }
}

/// A cell whose colour says the sign and whose opacity says the size of a score in [-1, 1].
fn heat(body: &mut String, place: [f64; 4], score: f32) {
    let colour = if score >= 0.0 { "#D55E00" } else { "#0072B2" };
    rect(body, place, colour, 0.75 * f64::from(score.abs().min(1.0)));
}

fn rect(body: &mut String, [x, y, width, height]: [f64; 4], fill: &str, opacity: f64) {
    let _ = write!(
        body,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         fill=\"{fill}\" fill-opacity=\"{opacity:.3}\"/>"
    );
}

/// A text with every character shown. XML has no way to write most control characters.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push('\u{21b5}'),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                shown.extend(c.escape_default());
            }
            c => shown.push(c),
        }
    }
    shown
}

fn text(body: &mut String, x: f64, y: f64, size: f64, content: &str) {
    let escaped = visible(content)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = write!(
        body,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" xml:space=\"preserve\">{escaped}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_shows_every_token_and_escapes_text() {
        let token = |text: &str, block, score| TokenScore {
            text: text.into(),
            block,
            score,
            cell: None,
        };
        let grid = PatchGrid {
            rows: 1,
            columns: 2,
        };
        let pad = |index, score| TokenScore {
            cell: grid.cell(index),
            ..token("<|image_pad|>", Block::I, score)
        };
        let map = AttributionMap {
            call: "focus(\"a\")".into(),
            shares: vec![0.1, 0.4, 0.3, 0.2],
            relative_gap: Some(0.02),
            log_prob: -1.5,
            grid,
            tokens: vec![
                token("<|im_start|>", Block::P, 0.1),
                pad(0, -0.5),
                pad(1, 0.25),
                token("a & b", Block::R, 1.0),
                token("\u{1b}[1m\t\0", Block::R, 0.0),
            ],
        };
        let svg = map.to_svg(&RgbImage::new(4, 2)).unwrap();
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;|im_start|&gt;"));
        assert!(svg.contains(r">\u{1b}[1m\t\u{0}</text>"), "{svg}");
        assert!(!svg.contains("image_pad"));
        // All that XML 1.0 allows below a blank are tab, line feed and carriage return.
        let allowed = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
        assert!(svg.chars().all(allowed));
        // Two cells of heat on the image, one for each other token.
        assert_eq!(
            svg.matches("#D55E00").count()
                + svg
                    .matches("fill=\"#0072B2\" fill-opacity=\"0.750\"")
                    .count(),
            5
        );
        assert_eq!(grid.cell(1), Some(PatchCell { row: 0, column: 1 }));
        assert_eq!(grid.cell(2), None);
    }
}
