//! A table as JSON: numbers in full, shares of 1; what was not measured is null.

use serde_json::{Map, Value, json};

use crate::claim::{Claim, Comparison};
use crate::record::SETS;
use crate::statistics::{Cell, Estimate};
use crate::table::{Table, TableRow};

/// The table, its notes and the verdict, indented, with a final newline.
pub(crate) fn json(table: &Table) -> String {
    let paper: Vec<Value> = table
        .paper
        .iter()
        .map(|row| {
            let mut cells = Map::new();
            for (column, value) in SETS.into_iter().chain(["average"]).zip(&row.values) {
                cells.insert(column.to_string(), json!(value));
            }
            json!({"arm": row.arm, "percent": cells})
        })
        .collect();
    let value = json!({
        "title": table.title,
        "rows": table.rows.iter().map(row).collect::<Vec<_>>(),
        "paper": paper,
        "notes": table.notes,
        "claim": table.claim.as_ref().map(claim),
    });
    format!("{value:#}\n")
}

fn estimate(estimate: &Estimate) -> Value {
    json!({
        "accuracy": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "standard_error": estimate.standard_error,
    })
}

fn row(row: &TableRow) -> Value {
    let mut sets = Map::new();
    for (set, cell) in SETS.into_iter().zip(&row.estimates.cells) {
        let value = match cell {
            Cell::Missing => Value::Null,
            Cell::Invalid {
                not_judged,
                questions,
            } => json!({"accuracy": null, "not_judged": not_judged, "questions": questions}),
            Cell::Measured {
                outcome,
                estimate: measured,
            } => {
                let mut value = estimate(measured);
                value["questions"] = outcome.questions.into();
                value["figures"] = outcome.figures.into();
                value["seeds"] = outcome.seeds.into();
                value["not_judged"] = outcome.not_judged.into();
                value
            }
        };
        sets.insert(set.to_string(), value);
    }
    json!({
        "arm": row.arm,
        "seeds": row.seeds,
        "questions": row.questions,
        "sets": sets,
        "average": row.estimates.average.as_ref().map(estimate),
        "tool_call_rate": row.tool_call_rate,
        "tool_success_rate": row.tool_success_rate,
    })
}

fn claim(claim: &Claim) -> Value {
    json!({
        "arm": claim.arm,
        "label": claim.label(),
        "line": claim.line(),
        "rule": claim.rule(),
        "main": comparison(&claim.main),
        "every_baseline": claim.best_baseline.to_string(),
        "others": claim.others.iter().map(comparison).collect::<Vec<_>>(),
    })
}

fn comparison(comparison: &Comparison) -> Value {
    let mut value = json!({
        "against": comparison.against,
        "decision": comparison.decision.to_string(),
    });
    match &comparison.difference {
        Err(reason) => value["reason"] = reason.to_string().into(),
        Ok(difference) => {
            let crossed = &difference.crossed;
            value["difference"] = crossed.value.into();
            value["low"] = crossed.low().into();
            value["high"] = crossed.high().into();
            value["p"] = crossed.p_value().into();
            value["standard_error"] = crossed.standard_error.into();
            // Null where it is infinite: the arms never differ.
            value["degrees_of_freedom"] = crossed.degrees_of_freedom.into();
            value["components"] = json!(crossed.components);
            value["bootstrap"] = json!({
                "low": difference.average.low,
                "high": difference.average.high,
                "share_above_zero": difference.share_above_zero,
            });
            value["probability_of_improvement"] = difference.probability_of_improvement.into();
            value["questions"] = difference.questions.into();
            value["seeds"] = json!([difference.seeds.0, difference.seeds.1]);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use crate::fixture;
    use crate::options::TableOptions;
    use crate::paper::Paper;
    use crate::table::Table;

    #[test]
    fn the_json_holds_what_the_table_shows() {
        let mut runs = fixture::runs(6);
        for run in &mut runs {
            run.records
                .retain(|record| record.arm.name() != "trm" || record.set != "vwtq");
        }
        let runs = crate::Runs::new(runs).unwrap();
        let table = Table::new(
            &runs,
            &Paper::committed().unwrap(),
            &TableOptions::default(),
        );
        let value: serde_json::Value = serde_json::from_str(&super::json(&table)).unwrap();
        assert_eq!(value["rows"].as_array().unwrap().len(), table.rows.len());
        let trm = &value["rows"][4];
        assert_eq!(trm["arm"], "trm");
        assert!(trm["sets"]["vwtq"].is_null() && trm["average"].is_null());
        assert!(trm["sets"]["charxiv"]["low"].as_f64().unwrap() >= 0.0);
        let main = &value["claim"]["main"];
        assert_eq!(main["against"], "vtool-r1");
        assert!(main["low"].as_f64() < main["difference"].as_f64());
        let others = value["claim"]["others"].as_array().unwrap();
        let trm = others.iter().find(|one| one["against"] == "trm").unwrap();
        assert_eq!(trm["decision"], "NOT TESTED");
        assert_eq!(trm["reason"], "not evaluated by both: vwtq");
    }
}
