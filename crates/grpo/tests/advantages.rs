//! Advantages: ties, floor, unscored samples.

use grpo::{
    ScaleByStd, advantages, advantages_of_scored, advantages_of_shaped, zero_variance_share,
};
use proptest::prelude::*;

const TRL: ScaleByStd = ScaleByStd::Group {
    eps: 1e-4,
    floor: 0.0,
};

#[test]
fn a_floor_tames_rounding_residue_in_a_nearly_tied_group() {
    let rewards = [0.1f32, 0.1, 0.1, 0.1 + 1e-7];
    let groups = [0; 4];
    let eps = 1e-8;
    let wild = advantages(&rewards, &groups, ScaleByStd::Group { eps, floor: 0.0 }).unwrap();
    let tame = advantages(&rewards, &groups, ScaleByStd::Group { eps, floor: 1e-3 }).unwrap();
    assert!(wild[3] > 1.0);
    assert!(tame[3] < 1e-3);
}

#[test]
fn unscored_samples_are_refused_or_left_out() {
    let rewards = [1.0, f32::NAN, 0.0, f32::NAN, 0.5];
    let groups = [0, 0, 0, 1, 1];
    let error = advantages(&rewards, &groups, TRL).unwrap_err();
    assert!(error.to_string().contains("sample 1"), "{error}");
    let found = advantages_of_scored(&rewards, &groups, ScaleByStd::None).unwrap();
    assert_eq!(found, [0.5, 0.0, -0.5, 0.0, 0.0]);
    assert_eq!(zero_variance_share(&rewards, &groups).unwrap(), 0.5);
    assert!(advantages_of_scored(&[f32::INFINITY], &[0], TRL).is_err());
    assert!(advantages(&[1.0], &[0, 0], TRL).is_err());
    assert!(
        advantages(
            &[1.0],
            &[0],
            ScaleByStd::Group {
                eps: -1.0,
                floor: 0.0
            }
        )
        .is_err()
    );
    assert!(advantages(&[], &[], TRL).unwrap().is_empty());
}

fn scale() -> impl Strategy<Value = ScaleByStd> {
    prop_oneof![
        Just(TRL),
        Just(ScaleByStd::Group {
            eps: 1e-6,
            floor: 0.05
        }),
        Just(ScaleByStd::Batch {
            eps: 1e-4,
            floor: 0.0
        }),
        Just(ScaleByStd::None),
    ]
}

proptest! {
    #[test]
    fn ties_are_exactly_zero(reward in -1e6..1e6f32, n in 1..40usize, scale in scale()) {
        // A second group keeps the batch's standard deviation away from 0.
        let mut rewards = vec![reward; n];
        rewards.extend([0.0, 1.0]);
        let mut groups = vec![7; n];
        groups.extend([3, 3]);
        let found = advantages(&rewards, &groups, scale).unwrap();
        prop_assert!(found[..n].iter().all(|&a| a == 0.0));
        prop_assert!(found[n] < 0.0 && found[n + 1] > 0.0);
        prop_assert_eq!(zero_variance_share(&rewards, &groups).unwrap(), 0.5);
    }

    /// Centred by group, ordered as the rewards, and unmoved by a constant or by interleaving.
    #[test]
    fn advantages_are_relative_to_the_group(
        rewards in prop::collection::vec(-10i32..10, 2..24),
        shift in -8i32..8,
        scale in scale(),
    ) {
        let rewards: Vec<f32> = rewards.iter().map(|&r| r as f32 / 4.0).collect();
        let groups: Vec<usize> = (0..rewards.len()).map(|i| i % 2).collect();
        let found = advantages(&rewards, &groups, scale).unwrap();
        for group in 0..2 {
            let of: Vec<usize> = (0..rewards.len()).filter(|i| i % 2 == group).collect();
            let sum: f64 = of.iter().map(|&i| f64::from(found[i])).sum();
            prop_assert!(sum.abs() < 1e-4);
            for (&i, &j) in of.iter().zip(&of[1..]) {
                prop_assert_eq!(rewards[i] < rewards[j], found[i] < found[j]);
            }
        }
        if !matches!(scale, ScaleByStd::Batch { .. }) {
            let shifted: Vec<f32> = rewards.iter().map(|r| r + shift as f32).collect();
            let moved = advantages(&shifted, &groups, scale).unwrap();
            for (a, b) in found.iter().zip(&moved) {
                prop_assert!((a - b).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn a_shaping_term_keeps_its_weight_where_outcomes_tie() {
    let scale = ScaleByStd::Outcome {
        eps: 0.0,
        floor: 0.0,
    };
    // The first group's outcomes tie: its penalty of 0.1 stays 0.1 apart. The second's do not.
    let outcomes = [1.0, 1.0, 1.0, 0.0];
    let rewards = [1.0, 0.9, 1.0, -0.1];
    let groups = [0, 0, 1, 1];
    let found = advantages_of_shaped(&rewards, &outcomes, &groups, scale).unwrap();
    let expected = [0.05, -0.05, 0.55 * 2f32.sqrt(), -0.55 * 2f32.sqrt()];
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
    // By the rewards' own deviation the penalty alone fills the first group.
    let own = ScaleByStd::Group {
        eps: 0.0,
        floor: 0.0,
    };
    let found = advantages_of_shaped(&rewards, &outcomes, &groups, own).unwrap();
    assert!(
        (found[0] - found[1] - 2f32.sqrt()).abs() < 1e-4,
        "{found:?}"
    );
}
