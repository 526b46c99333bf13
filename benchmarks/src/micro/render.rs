//! Pixels of a figure.

use image::{Rgb, RgbImage};
use seeded_random::{Draw, Generator};

use super::figure::{
    CELL, Content, Figure, GRID_COLUMNS, GRID_ROWS, Orientation, Panel, label_text,
};
use super::glyphs;

/// How a figure is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct FigureStyle {
    /// Colour of the canvas.
    pub background: Rgb<u8>,
    /// Colour of text.
    pub ink: Rgb<u8>,
    /// Colour of the bars.
    pub bar: Rgb<u8>,
    /// Colour behind the header of a table.
    pub header: Option<Rgb<u8>>,
    /// Colour of the lines between the cells of a table.
    pub grid: Option<Rgb<u8>>,
    /// Share of pixels with random ink.
    pub noise: f64,
}

impl FigureStyle {
    /// The one style of the family that stands for VWTQ: black on white with grey lines.
    pub fn plain(noise: f64) -> Self {
        FigureStyle {
            background: Rgb([255, 255, 255]),
            ink: Rgb([0, 0, 0]),
            bar: Rgb([60, 110, 180]),
            header: None,
            grid: Some(Rgb([200, 200, 200])),
            noise,
        }
    }

    /// A random style: tints, inks, header fills, with or without lines.
    pub fn varied(noise: f64, draw: &mut Generator) -> Self {
        let mut shade =
            |from: usize, to: usize| Rgb([0; 3].map(|_: u8| (from + draw.below(to - from)) as u8));
        let (background, ink, bar) = (shade(225, 256), shade(0, 90), shade(40, 190));
        let (header, grid) = (shade(170, 225), shade(150, 215));
        FigureStyle {
            background,
            ink,
            bar,
            header: (draw.below(2) == 0).then_some(header),
            grid: (draw.below(3) > 0).then_some(grid),
            noise,
        }
    }
}

/// Draws a figure; the generator places the noise.
pub fn render(figure: &Figure, style: &FigureStyle, draw: &mut Generator) -> RgbImage {
    let (width, height) = ((GRID_COLUMNS * CELL) as u32, (GRID_ROWS * CELL) as u32);
    let mut image = RgbImage::from_pixel(width, height, style.background);
    for Panel { left, content } in &figure.panels {
        match content {
            Content::Table(table) => {
                let (columns, rows) = (1 + table.columns.len(), 1 + table.rows.len());
                if let Some(colour) = style.header {
                    fill(&mut image, [left * CELL, 0], [columns * CELL, CELL], colour);
                }
                if let Some(colour) = style.grid {
                    for column in 0..columns {
                        let x = (left + column + 1) * CELL - 1;
                        fill(&mut image, [x, 0], [1, rows * CELL], colour);
                    }
                    for row in 0..rows {
                        let y = (row + 1) * CELL - 1;
                        fill(&mut image, [left * CELL, y], [columns * CELL, 1], colour);
                    }
                }
                for (index, label) in table.columns.iter().enumerate() {
                    write(
                        &mut image,
                        left + 1 + index,
                        0,
                        &label_text(*label),
                        style.ink,
                    );
                }
                for (row, label) in table.rows.iter().enumerate() {
                    write(&mut image, *left, 1 + row, &label_text(*label), style.ink);
                    for (column, number) in table.cells[row].iter().enumerate() {
                        let text = number.to_string();
                        write(&mut image, left + 1 + column, 1 + row, &text, style.ink);
                    }
                }
            }
            Content::Bars(bars) => {
                for (index, (label, value)) in bars.labels.iter().zip(&bars.values).enumerate() {
                    let text = label_text(*label);
                    let value = *value as usize;
                    match bars.orientation {
                        Orientation::Horizontal => {
                            write(&mut image, *left, index, &text, style.ink);
                            let corner = [(left + 1) * CELL, index * CELL + 1];
                            fill(&mut image, corner, [3 * value, CELL - 2], style.bar);
                        }
                        Orientation::Vertical => {
                            write(&mut image, left + index, GRID_ROWS - 1, &text, style.ink);
                            let top = (GRID_ROWS - 1) * CELL - 2 * value;
                            let corner = [(left + index) * CELL + 1, top];
                            fill(&mut image, corner, [CELL - 2, 2 * value], style.bar);
                        }
                    }
                }
            }
        }
    }
    if style.noise > 0.0 {
        for pixel in image.pixels_mut() {
            if draw.unit() < style.noise {
                *pixel = Rgb([0; 3].map(|_: u8| draw.below(256) as u8));
            }
        }
    }
    image
}

fn fill(image: &mut RgbImage, [left, top]: [usize; 2], [width, height]: [usize; 2], ink: Rgb<u8>) {
    for y in top..(top + height).min(image.height() as usize) {
        for x in left..(left + width).min(image.width() as usize) {
            image.put_pixel(x as u32, y as u32, ink);
        }
    }
}

/// Two characters in one cell, one pixel from its top edge.
fn write(image: &mut RgbImage, column: usize, row: usize, text: &str, ink: Rgb<u8>) {
    for (index, character) in text.chars().enumerate() {
        let Some(shape) = glyphs::glyph(character) else {
            continue;
        };
        for (y, bits) in shape.iter().enumerate() {
            for x in 0..glyphs::WIDTH {
                if bits >> (glyphs::WIDTH - 1 - x) & 1 == 1 {
                    image.put_pixel(
                        (column * CELL + index * (glyphs::WIDTH + 1) + x) as u32,
                        (row * CELL + 1 + y) as u32,
                        ink,
                    );
                }
            }
        }
    }
}
