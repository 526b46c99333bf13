//! How the tools paint: the constants of each published version, and ours for tiny images.

/// What a tool does with a name that no region has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// ReFocus' `tools.py`, tool by tool. Masks ignore unknown names. Draw and highlight fail
    /// (Python's `KeyError`), but for two tools that go on with the next name after any failure:
    /// `focus_on_x_values_with_highlight`, and `focus_on_y_values_with_draw`, which first replaces
    /// the name by every label in turn that contains it or is contained in it.
    ReFocus,
    /// VTool-R1's `refocus_tools.py`: unknown names are skipped; `focus_on_y_values_with_draw`
    /// takes the first label that contains the name or is contained in it.
    VtoolV2,
    /// Every name must be a region's, whatever the effect.
    Strict,
}

/// The constants of painting. Pixels are RGB; regions are inclusive rectangles.
#[derive(Clone, Debug, PartialEq)]
pub struct Style {
    /// By how many pixels a masked region is made larger on each side (negative: smaller).
    pub mask_margin: f64,
    /// The same for outlines.
    pub draw_margin: f64,
    /// The same for highlights.
    pub highlight_margin: f64,
    /// Whether corners are clamped to `0..=width` and `0..=height` after the margin.
    pub clamp: bool,
    /// Thickness of outlines, inwards, pixels.
    pub outline_width: u32,
    /// Colour of outlines.
    pub outline: [u8; 3],
    /// Colour of masks.
    pub mask: [u8; 3],
    /// Colour and opacity of highlights.
    pub highlight: [u8; 4],
    /// Whether `focus_on_rows_with_mask` never masks the first row, the table's header.
    pub keep_header_row: bool,
    /// What becomes of unknown names.
    pub names: NameRule,
}

impl Style {
    /// ReFocus (`src/tools.py`): inset 2, outline 5.
    pub fn refocus() -> Self {
        Self {
            mask_margin: -2.0,
            draw_margin: -2.0,
            highlight_margin: -2.0,
            clamp: false,
            outline_width: 5,
            outline: [255, 0, 0],
            mask: [255, 255, 255],
            highlight: [255, 0, 0, 50],
            keep_header_row: true,
            names: NameRule::ReFocus,
        }
    }

    /// VTool-R1's second version (`recipe/vtool/refocus_tools.py`): outset 1 (mask) or 2, clamped,
    /// outline 3.
    pub fn vtool_v2() -> Self {
        Self {
            mask_margin: 1.0,
            draw_margin: 2.0,
            highlight_margin: 2.0,
            clamp: true,
            outline_width: 3,
            names: NameRule::VtoolV2,
            ..Self::refocus()
        }
    }

    /// Ours for images of 64×48 pixels with cells of 8: the region itself, outline 1, so that no
    /// line crosses a digit; the header row has no region of its own there. Unknown names fail, so
    /// that a wrong call has a consequence.
    pub fn micro() -> Self {
        Self {
            mask_margin: 0.0,
            draw_margin: 0.0,
            highlight_margin: 0.0,
            clamp: false,
            outline_width: 1,
            keep_header_row: false,
            names: NameRule::Strict,
            ..Self::refocus()
        }
    }
}

impl Default for Style {
    fn default() -> Self {
        Self::refocus()
    }
}
