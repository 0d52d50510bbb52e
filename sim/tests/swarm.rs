//! A bounded swarm: seeds whose scenarios keep every invariant, whoever runs them.

use clusterd_sim::swarm::{Totals, Trial, try_seed};
use rayon::prelude::*;

#[test]
fn a_few_dozen_seeds_violate_nothing() {
    let trials: Vec<Trial> = (1..=40u64).into_par_iter().map(try_seed).collect();
    let mut totals = Totals::default();
    for trial in &trials {
        totals.add(trial);
        let violation = trial.judgement.violation.as_ref().map(ToString::to_string);
        assert_eq!(violation, None, "clusterd-sim swarm --from {} --seeds 1", trial.seed);
    }
    // They were worth something: most clients were served, some answered twice, and all was drawn.
    assert!(totals.served * 10 > totals.connections * 5, "{totals:?}");
    assert!(totals.answered_twice > 0, "{totals:?}");
    assert!(totals.classes.len() >= 28, "{totals:?}");
}

#[test]
fn a_seed_gives_the_same_on_any_thread() {
    let alone = try_seed(7).judgement;
    let among: Vec<_> = [7u64, 8, 7].into_par_iter().map(|seed| try_seed(seed).judgement).collect();
    assert_eq!([&among[0], &among[2]], [&alone, &alone]);
    assert_ne!(among[1], alone);
}
