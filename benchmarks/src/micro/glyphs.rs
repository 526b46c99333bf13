//! A 3x5 pixel font: the digits and the letters that labels are made of.

/// Width of a glyph in pixels.
pub const WIDTH: usize = 3;
/// Height of a glyph in pixels.
pub const HEIGHT: usize = 5;

/// The rows of a glyph, top to bottom; bit 2 is the leftmost pixel. `None` for other characters.
pub fn glyph(character: char) -> Option<[u8; HEIGHT]> {
    Some(match character {
        '0' => [0b111, 0b101, 0b101, 0b101, 0b111],
        '1' => [0b010, 0b110, 0b010, 0b010, 0b111],
        '2' => [0b111, 0b001, 0b111, 0b100, 0b111],
        '3' => [0b111, 0b001, 0b011, 0b001, 0b111],
        '4' => [0b101, 0b101, 0b111, 0b001, 0b001],
        '5' => [0b111, 0b100, 0b111, 0b001, 0b111],
        '6' => [0b111, 0b100, 0b111, 0b101, 0b111],
        '7' => [0b111, 0b001, 0b010, 0b010, 0b010],
        '8' => [0b111, 0b101, 0b111, 0b101, 0b111],
        '9' => [0b111, 0b101, 0b111, 0b001, 0b111],
        'a' => [0b010, 0b101, 0b111, 0b101, 0b101],
        'e' => [0b111, 0b100, 0b110, 0b100, 0b111],
        'i' => [0b010, 0b000, 0b010, 0b010, 0b010],
        'o' => [0b000, 0b010, 0b101, 0b101, 0b010],
        'k' => [0b101, 0b110, 0b100, 0b110, 0b101],
        'l' => [0b100, 0b100, 0b100, 0b100, 0b111],
        'm' => [0b101, 0b111, 0b111, 0b101, 0b101],
        'n' => [0b110, 0b101, 0b101, 0b101, 0b101],
        'p' => [0b110, 0b101, 0b110, 0b100, 0b100],
        'r' => [0b110, 0b101, 0b110, 0b101, 0b101],
        's' => [0b011, 0b100, 0b010, 0b001, 0b110],
        't' => [0b111, 0b010, 0b010, 0b010, 0b010],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glyphs_are_distinct() {
        let all: Vec<_> = "0123456789aeioklmnprst".chars().map(glyph).collect();
        for (index, shape) in all.iter().enumerate() {
            assert!(shape.is_some());
            assert!(
                !all[..index].contains(shape),
                "glyph {index} is a duplicate"
            );
        }
        assert_eq!(glyph('z'), None);
    }
}
