use std::collections::BTreeSet;

use super::*;
use crate::report::experiment::{Finding, Kind};

#[test]
fn every_scenario_is_valid_at_any_share() {
    for share in [1e-6, 0.02, 1.0, 3.0] {
        for experiment in experiments(Effort { share, runs: 1, seed: 1 }).unwrap() {
            for curve in &experiment.curves {
                let scenarios = curve.scenarios().unwrap();
                assert!(!scenarios.is_empty(), "{}", curve.name);
            }
        }
    }
}

#[test]
fn experiments_are_complete() {
    let experiments = experiments(Effort { share: 1.0, runs: 5, seed: 1 }).unwrap();
    let ids: BTreeSet<&str> = experiments.iter().map(|experiment| experiment.id).collect();
    assert_eq!(ids.len(), experiments.len(), "two have one name");
    for experiment in &experiments {
        let names: BTreeSet<&str> =
            experiment.curves.iter().map(|curve| curve.name.as_str()).collect();
        assert_eq!(
            names.len(),
            experiment.curves.len(),
            "{}: two curves have one name",
            experiment.id
        );
        assert!(!experiment.charts.is_empty() && !experiment.tables.is_empty());
        for chart in &experiment.charts {
            let shown = names.iter().filter(|name| (chart.only)(name)).count();
            assert!((1..=10).contains(&shown), "{}: {shown} curves in a figure", experiment.id);
            let along = experiment.curves.iter().all(|curve| curve.over.is_some());
            assert!(!matches!(chart.kind, Kind::Lines(_)) || along && experiment.along.is_some());
        }
    }
}

/// What was done nowhere cannot be measured, so every finding says that it does not know; this also
/// shows that none is right whatever comes out.
#[test]
fn without_runs_no_statement_is_true() {
    for experiment in experiments(Effort { share: 1.0, runs: 1, seed: 1 }).unwrap() {
        let findings = experiment.findings;
        let outcome = crate::report::Outcome { experiment, curves: Vec::new() };
        for finding in findings(&outcome) {
            assert_eq!(finding.holds, None, "{}", finding.statement);
        }
    }
}

/// The curves and values that findings ask for exist: a run of every scenario leaves no finding
/// without an answer for want of a name.
#[test]
fn findings_ask_for_what_is_there() {
    let effort = Effort { share: 1e-6, runs: 1, seed: 1 };
    let pool = crate::replication::threads(0).unwrap();
    let experiments = experiments(effort).unwrap();
    for experiment in experiments.into_iter().filter(|experiment| experiment.id != "settling") {
        let id = experiment.id;
        let outcome = crate::report::carry_out(experiment, &pool, effort, || ()).unwrap();
        let along = outcome.experiment.along.is_some();
        let places = outcome.curves.iter().flatten().map(|point| point.x);
        assert!({ places }.all(|x| x.is_some() == along), "{id}: a point has no place");
        for finding in (outcome.experiment.findings)(&outcome) {
            let Finding { statement, evidence, .. } = finding;
            assert!(!evidence.contains("not measured") || id == "loss", "{statement} {evidence}");
        }
    }
}
