//! The order of loaded training questions: a seeded permutation for each epoch.

use seeded_random::{Draw, Stream};

/// The positions, below `size`, of the questions `from .. from + count` of an endless pass over the
/// training set. Each epoch is a permutation of its own, keyed by `stream` and the epoch's number, so
/// that every question comes once before any comes twice, and a resumed run meets the same ones.
pub(super) fn positions(stream: &Stream, size: usize, from: usize, count: usize) -> Vec<usize> {
    let mut found = Vec::with_capacity(count);
    let mut epoch: Option<(usize, Vec<usize>)> = None;
    for place in from..from + count {
        let number = place / size;
        let order = match &mut epoch {
            Some((known, order)) if *known == number => order,
            stale => {
                let mut order: Vec<usize> = (0..size).collect();
                let stream = stream.purpose("epoch").index(number as u64);
                stream.generator().shuffle(&mut order);
                &mut stale.insert((number, order)).1
            }
        };
        found.push(order[place % size]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_holds_every_question_once() {
        let stream = Stream::new(5);
        let mut first = positions(&stream, 10, 0, 10);
        let second = positions(&stream, 10, 10, 10);
        assert_ne!(first, second);
        assert_eq!(positions(&stream, 10, 5, 10)[..5], first[5..]);
        assert_eq!(positions(&stream, 10, 5, 10)[5..], second[..5]);
        first.sort_unstable();
        assert_eq!(first, (0..10).collect::<Vec<_>>());
    }
}
