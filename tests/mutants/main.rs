//! Each rule of the race catalogue is there for a reason: switched off, it makes a test fail.
//!
//! `rules.txt` lists the rules, and for each the edits that break it together with the
//! test that must notice. `make mutants` applies one edit at a time to a copy of the
//! tree, builds and runs that test. A mutant that survives is a rule without a test,
//! or a rule without use.

mod lane;
mod rules;

use std::sync::Mutex;
use std::time::Instant;
use std::{fs, thread};

use lane::{Fate, Lane};
use rules::{Rule, root};

/// Copies of the tree that are built side by side.
const LANES: usize = 2;

/// Every `n`th mutant from the `k`th on, for `MUTANTS_SHARD=k/n` with k from 0; all without it.
fn shard() -> (usize, usize) {
    let Ok(text) = std::env::var("MUTANTS_SHARD") else { return (0, 1) };
    let (shard, shards) = text.split_once('/').expect("MUTANTS_SHARD is k/n");
    (shard.parse().expect("k is a number"), shards.parse().expect("n is a number"))
}

#[test]
fn every_race_has_its_rule() {
    let mut races: Vec<u32> = Rule::all().iter().flat_map(|rule| rule.races.clone()).collect();
    races.sort_unstable();
    races.dedup();
    assert_eq!(races, Vec::from_iter(1..=43));
    for rule in Rule::all() {
        let broken = !rule.mutants.is_empty() || !rule.guards.is_empty();
        assert_ne!(broken, rule.none.is_some(), "{}: either a test or a reason", rule.title);
    }
}

#[test]
fn every_mutant_applies_exactly_once() {
    for rule in Rule::all() {
        for mutant in rule.mutants {
            let text = fs::read_to_string(root().join(&mutant.file)).expect("a file of the tree");
            let times = text.matches(&mutant.old).count();
            assert_eq!(times, 1, "{}: `{}` in {}", mutant.name, mutant.old, mutant.file);
            assert_ne!(mutant.old, mutant.new, "{}", mutant.name);
        }
    }
}

#[test]
fn every_guard_exists() {
    for rule in Rule::all() {
        for guard in &rule.guards {
            let text = fs::read_to_string(root().join(&guard.file)).unwrap_or_default();
            let function = format!("fn {}(", guard.test);
            assert!(text.contains(&function), "{}: no {function}) in {}", rule.title, guard.file);
        }
    }
}

#[test]
#[ignore = "builds the library once for each mutant: make mutants"]
fn every_mutant_is_caught() {
    let began = Instant::now();
    let (shard, shards) = shard();
    let mutants = Rule::all().into_iter().flat_map(|rule| rule.mutants);
    let mutants: Vec<_> = mutants.skip(shard).step_by(shards).collect();
    let total = mutants.len();
    let queue = Mutex::new(mutants.into_iter());
    let next = || queue.lock().expect("no lane panics with the queue").next();
    let failed: usize = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|number| {
                scope.spawn(move || {
                    let lane = Lane::new(number);
                    let mut failed = 0;
                    while let Some(mutant) = next() {
                        let began = Instant::now();
                        let fate = lane.try_out(&mutant);
                        println!(
                            "{:5.1} s  {}  {fate}",
                            began.elapsed().as_secs_f64(),
                            mutant.name
                        );
                        failed += usize::from(!matches!(fate, Fate::Caught(_)));
                    }
                    failed
                })
            })
            .collect();
        lanes.into_iter().map(|lane| lane.join().expect("a lane that ends")).sum()
    });
    println!(
        "{} of {total} mutants caught, {:.0} s",
        total - failed,
        began.elapsed().as_secs_f64()
    );
    assert_eq!(failed, 0, "mutants that no test caught as announced");
}
