//! Kept layers give the bits of the operators that they are made of, with a backward pass for each
//! gradient.

mod common;

use candle_core::Tensor;
use common::kept_layers::{Case, assert_refusals};
use common::values;

fn bits(tensor: &Tensor) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

#[test]
fn the_bits_of_operators_on_any_number_of_threads() {
    let case = Case::new();
    let expected = case.by_operators().unwrap();
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let found = pool.install(|| Case::new().by_kept_layers());
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.dims(), expected.dims(), "{index}");
            let (found, expected) = (bits(found), bits(expected));
            let off = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
            assert_eq!(off, 0, "{index} on {threads} threads, of {}", found.len());
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    assert_refusals();
}
