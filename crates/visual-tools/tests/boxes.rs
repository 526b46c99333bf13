//! Boxes: reading, mending, counting.

use proptest::prelude::*;
use visual_tools::{BoxRepairs, FigureBoxes, NamedBoxes, PixelBox};

fn named(pairs: &[(&str, [f64; 4])]) -> NamedBoxes {
    NamedBoxes::from_pairs(
        pairs
            .iter()
            .map(|(name, [a, b, c, d])| (name.to_string(), PixelBox::new(*a, *b, *c, *d))),
    )
}

#[test]
fn json_keeps_the_order_and_the_last_of_equal_names() {
    let text = r#"{"b": {"x1": 1, "y1": 2, "x2": 3, "y2": 4.5}, "a": {"x1": 0, "y1": 0, "x2": 1, "y2": 1},
                   "b": {"x1": 9, "y1": 9, "x2": 10, "y2": 10}}"#;
    let boxes: NamedBoxes = serde_json::from_str(text).unwrap();
    assert_eq!(
        boxes,
        named(&[("b", [9.0, 9.0, 10.0, 10.0]), ("a", [0.0, 0.0, 1.0, 1.0])])
    );
    assert_eq!(
        serde_json::to_string(&boxes).unwrap(),
        r#"{"b":{"x1":9.0,"y1":9.0,"x2":10.0,"y2":10.0},"a":{"x1":0.0,"y1":0.0,"x2":1.0,"y2":1.0}}"#
    );
}

#[test]
fn json_of_another_shape_is_refused() {
    for text in [
        "[]",
        r#"{"a": {"x1": 1, "y1": 2, "x2": 3}}"#,
        r#"{"a": {"x1": "1", "y1": 2, "x2": 3, "y2": 4}}"#,
        r#"{"a": {"x1": 1, "y1": 2, "x2": 3, "y2": 4, "z": 0}}"#,
        r#"{"a": {"x1": 1e999, "y1": 2, "x2": 3, "y2": 4}}"#,
    ] {
        assert!(serde_json::from_str::<NamedBoxes>(text).is_err(), "{text}");
    }
}

#[test]
fn every_repair_is_counted() {
    let mut boxes = FigureBoxes::chart(
        named(&[
            ("good", [1.0, 1.0, 5.0, 5.0]),
            ("inverted", [5.0, 1.0, 1.0, 5.0]),
            ("clipped", [-2.0, 1.0, 5.0, 99.0]),
            ("both", [70.0, 5.0, 60.0, 1.0]),
            ("outside", [64.0, 1.0, 70.0, 5.0]),
            ("not finite", [f64::NAN, 1.0, 70.0, 5.0]),
        ]),
        NamedBoxes::default(),
    );
    let repairs = boxes.repair(64, 48);
    assert_eq!(
        repairs,
        BoxRepairs {
            boxes: 6,
            inverted: 2,
            clipped: 2,
            dropped: 2,
            figures_without_boxes: 0
        }
    );
    assert_eq!(
        boxes.x_values,
        named(&[
            ("good", [1.0, 1.0, 5.0, 5.0]),
            ("inverted", [1.0, 1.0, 5.0, 5.0]),
            ("clipped", [0.0, 1.0, 5.0, 48.0]),
            ("both", [60.0, 1.0, 64.0, 5.0]),
        ])
    );
    let mut total = repairs;
    total += FigureBoxes::default().repair(64, 48);
    assert_eq!((total.boxes, total.figures_without_boxes), (6, 1));
}

/// A corner just outside becomes 0 when it is cut, which a second repair found outside.
#[test]
fn nothing_lies_within_an_image_without_pixels() {
    for (width, height) in [(1, 0), (0, 1), (0, 0)] {
        let mut boxes = named(&[("a", [-1e-9, -1e-9, 0.0, 0.0])]);
        let repairs = boxes.repair(width, height);
        assert_eq!(
            (boxes.0.len(), repairs.dropped),
            (0, 1),
            "{width} x {height}"
        );
    }
}

proptest! {
    #[test]
    fn mended_boxes_are_ordered_and_inside(
        corners in prop::array::uniform4(prop::num::f64::ANY), width in 0u32..5000, height in 0u32..5000
    ) {
        let mut boxes = NamedBoxes(vec![("a".to_owned(), PixelBox::new(corners[0], corners[1], corners[2], corners[3]))]);
        boxes.repair(width, height);
        for (_, b) in &boxes.0 {
            prop_assert!(0.0 <= b.x1 && b.x1 <= b.x2 && b.x2 <= f64::from(width));
            prop_assert!(0.0 <= b.y1 && b.y1 <= b.y2 && b.y2 <= f64::from(height));
        }
        let again = boxes.clone();
        let repairs = boxes.repair(width, height);
        prop_assert_eq!(boxes, again);
        prop_assert_eq!((repairs.inverted, repairs.clipped, repairs.dropped), (0, 0, 0));
    }
}
