//! Items cut into batches that fit a budget.

/// Items in order, cut where their sizes would add up to more than `budget`; an item that is larger
/// alone is a part of its own.
pub fn cut<T>(items: &[T], budget: usize, size: impl Fn(&T) -> usize) -> Vec<&[T]> {
    cut_by(items, budget, |_, item| size(item))
}

/// As [`cut`], where an item's size depends on those before it in its part.
pub fn cut_by<T>(items: &[T], budget: usize, size: impl Fn(&[T], &T) -> usize) -> Vec<&[T]> {
    let mut parts = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (index, item) in items.iter().enumerate() {
        let mut own = size(&items[start..index], item);
        if index > start && sum + own > budget {
            parts.push(&items[start..index]);
            (start, sum) = (index, 0);
            own = size(&[], item);
        }
        sum += own;
    }
    if start < items.len() {
        parts.push(&items[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_below_the_budget_and_lose_nothing() {
        let sizes = [3usize, 4, 9, 1, 1, 2, 8];
        let parts = cut(&sizes, 7, |size| *size);
        let expected: [&[usize]; 4] = [&[3, 4], &[9], &[1, 1, 2], &[8]];
        assert_eq!(parts, expected);
        assert!(cut(&sizes[..0], 7, |size| *size).is_empty());
    }
}
