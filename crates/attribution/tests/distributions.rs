//! Block masses, distributions and divergences: laws and refusals.

use attribution::{
    BlockMass, Blocks, Distribution, Divergence, Error, jensen_shannon, kl, total_variation,
};
use proptest::prelude::*;

#[test]
fn masses_are_what_their_names_say() {
    let blocks = Blocks::new(vec![0, 0, 1, 1, 3], 4).unwrap();
    let scores = [1.0, -3.0, 2.0, -0.5, 0.0];
    let masses = |aggregation, selected| blocks.masses(&scores, aggregation, selected).unwrap();
    assert_eq!(masses(BlockMass::Absolute, None), [4.0, 2.5, 0.0, 0.0]);
    assert_eq!(masses(BlockMass::Signed, None), [2.0, 1.5, 0.0, 0.0]);
    assert_eq!(masses(BlockMass::PositiveDrops, None), [0.0, 1.5, 0.0, 0.0]);
    let some = [true, false, false, true, true];
    assert_eq!(
        masses(BlockMass::Absolute, Some(&some)),
        [1.0, 0.5, 0.0, 0.0]
    );
    assert_eq!(
        masses(BlockMass::PositiveDrops, Some(&some)),
        [1.0, 0.0, 0.0, 0.0]
    );
    assert_eq!(masses(BlockMass::Absolute, Some(&[false; 5])), [0.0; 4]);
    assert_eq!(blocks.sizes(), [2, 2, 0, 1]);
}

#[test]
fn all_zero_masses_are_uniform() {
    let found = Distribution::new(&[0.0; 4], 1e-8).unwrap();
    assert_eq!(found.shares(), [0.25; 4]);
}

#[test]
fn two_blocks_by_hand() {
    let p = Distribution::new(&[3.0, 1.0], 0.0).unwrap();
    let q = Distribution::new(&[1.0, 1.0], 0.0).unwrap();
    let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
    assert!((Divergence::Kl.between(&p, &q).unwrap() - expected).abs() < 1e-15);
    let expected = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * 2f64.ln();
    assert!((Divergence::ReverseKl.between(&p, &q).unwrap() - expected).abs() < 1e-15);
    assert_eq!(Divergence::TotalVariation.between(&p, &q).unwrap(), 0.25);
}

#[test]
fn disjoint_blocks_are_as_far_apart_as_can_be() {
    let p = Distribution::new(&[1.0, 0.0], 0.0).unwrap();
    let q = Distribution::new(&[0.0, 1.0], 0.0).unwrap();
    assert_eq!(total_variation(&p, &q).unwrap(), 1.0);
    assert!((jensen_shannon(&p, &q).unwrap() - 2f64.ln()).abs() < 1e-15);
    assert!(matches!(kl(&p, &q), Err(Error::NonFinite { .. })));
    let smooth = |masses: &[f64]| Distribution::new(masses, 1e-8).unwrap();
    assert!(kl(&smooth(&[1.0, 0.0]), &smooth(&[0.0, 1.0])).unwrap() > 18.0);
}

#[test]
fn bad_input_is_refused() {
    assert!(matches!(
        Blocks::new(vec![0, 4], 4),
        Err(Error::Label {
            token: 1,
            label: 4,
            ..
        })
    ));
    let blocks = Blocks::new(vec![0, 1], 2).unwrap();
    let masses = |scores: &[f32], selected: Option<&[bool]>| {
        blocks.masses(scores, BlockMass::Signed, selected)
    };
    assert!(matches!(masses(&[1.0], None), Err(Error::Length { .. })));
    assert!(matches!(
        masses(&[1.0, 2.0], Some(&[true])),
        Err(Error::Length { .. })
    ));
    assert!(matches!(
        masses(&[1.0, f32::NAN], None),
        Err(Error::NonFinite { .. })
    ));
    // What is not selected is not looked at.
    assert!(masses(&[1.0, f32::NAN], Some(&[true, false])).is_ok());
    for (bad, eps) in [
        (&[][..], 1e-8),
        (&[1.0, -0.1], 1e-8),
        (&[1.0, f64::INFINITY], 1e-8),
        (&[f64::MAX, f64::MAX], 1e-8),
        (&[1.0, 1.0], -1.0),
        (&[1.0, 1.0], f64::NAN),
    ] {
        assert!(Distribution::new(bad, eps).is_err(), "{bad:?} {eps}");
    }
    let two = Distribution::new(&[1.0, 1.0], 0.0).unwrap();
    let three = Distribution::new(&[1.0, 1.0, 1.0], 0.0).unwrap();
    for divergence in ALL {
        assert!(matches!(
            divergence.between(&two, &three),
            Err(Error::Length { .. })
        ));
    }
}

const ALL: [Divergence; 4] = [
    Divergence::Kl,
    Divergence::ReverseKl,
    Divergence::JensenShannon,
    Divergence::TotalVariation,
];

fn masses() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(prop_oneof![Just(0.0), 0.0..1e6f64, 0.0..1e-6f64], 4)
}

proptest! {
    #[test]
    fn distributions_sum_to_one_and_ignore_scale(masses in masses(), scale in 1e-3..1e3f64) {
        let p = Distribution::new(&masses, 1e-8).unwrap();
        prop_assert!((p.shares().iter().sum::<f64>() - 1.0).abs() < 1e-12);
        prop_assert!(p.shares().iter().all(|&share| share > 0.0));
        let scaled: Vec<f64> = masses.iter().map(|m| m * scale).collect();
        let q = Distribution::new(&scaled, 1e-8).unwrap();
        prop_assert!(total_variation(&p, &q).unwrap() < 1e-12);
    }

    #[test]
    fn divergences_keep_their_laws(a in masses(), b in masses()) {
        let (p, q) = (Distribution::new(&a, 1e-8).unwrap(), Distribution::new(&b, 1e-8).unwrap());
        for divergence in ALL {
            prop_assert!(divergence.between(&p, &q).unwrap() >= 0.0);
            prop_assert_eq!(divergence.between(&p, &p).unwrap(), 0.0);
        }
        let (js, tv) = (jensen_shannon(&p, &q).unwrap(), total_variation(&p, &q).unwrap());
        prop_assert!((js - jensen_shannon(&q, &p).unwrap()).abs() < 1e-15);
        prop_assert!(js <= 2f64.ln() + 1e-12);
        prop_assert!(tv <= 1.0 + 1e-12);
        // Pinsker, and Lin's bounds of JS by total variation.
        prop_assert!(kl(&p, &q).unwrap() >= 2.0 * tv * tv - 1e-12);
        prop_assert!(js <= tv * 2f64.ln() + 1e-9);
        let forward = Divergence::Kl.between(&p, &q).unwrap();
        prop_assert_eq!(forward, Divergence::ReverseKl.between(&q, &p).unwrap());
    }

    /// Order of tokens does not matter beyond rounding; labels decide.
    #[test]
    fn masses_follow_labels(tokens in prop::collection::vec((-1.0..1.0f32, 0..4usize), 0..40)) {
        let of = |tokens: &[(f32, usize)]| {
            let blocks = Blocks::new(tokens.iter().map(|t| t.1).collect(), 4).unwrap();
            let scores: Vec<f32> = tokens.iter().map(|t| t.0).collect();
            blocks.masses(&scores, BlockMass::Absolute, None).unwrap()
        };
        let mut reversed = tokens.clone();
        reversed.reverse();
        for (a, b) in of(&tokens).iter().zip(of(&reversed)) {
            prop_assert!((a - b).abs() < 1e-9);
        }
    }
}
