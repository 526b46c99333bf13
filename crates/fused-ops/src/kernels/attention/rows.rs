//! Keys or values as they lie in memory.

/// Rows of keys or values: copies of some rows, which are kept once, and then others.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    repeated: &'a [f32],
    copies: usize,
    others: &'a [f32],
}

impl<'a> Rows<'a> {
    /// `copies` copies of `repeated`, and then `others`.
    pub(crate) fn after(repeated: &'a [f32], copies: usize, others: &'a [f32]) -> Self {
        Rows {
            repeated,
            copies,
            others,
        }
    }

    /// The values of all rows, copies included.
    pub(super) fn len(self) -> usize {
        self.copies * self.repeated.len() + self.others.len()
    }

    /// The rows, where none are copies.
    pub(super) fn alone(self) -> Option<&'a [f32]> {
        (self.copies == 0).then_some(self.others)
    }

    /// Where the values from `at` on are, as far as a copy or the others go: copies have one place.
    pub(super) fn from(self, at: usize) -> &'a [f32] {
        let of_copies = self.copies * self.repeated.len();
        match at < of_copies {
            true => &self.repeated[at % self.repeated.len()..],
            false => &self.others[at - of_copies..],
        }
    }
}

impl<'a> From<&'a [f32]> for Rows<'a> {
    fn from(rows: &'a [f32]) -> Self {
        Rows::after(&[], 0, rows)
    }
}
