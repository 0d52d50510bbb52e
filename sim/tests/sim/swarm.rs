//! A bounded swarm: seeds whose scenarios keep every invariant, whoever runs them.

use std::fs;
use std::path::Path;

use crate::common::{directory, run, start};
use clusterd_sim::checker::Promises;
use clusterd_sim::file::{self, write_changes};
use clusterd_sim::judge::judge;
use clusterd_sim::swarm::{Totals, Trial, draw, try_seed};
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

/// The least scenarios of what swarms have found, in the core or in what was demanded of it.
#[test]
fn what_swarms_have_found_stays_mended() {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/found");
    let files: Vec<_> = fs::read_dir(found).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 30);
    files.into_par_iter().for_each(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let seed = name.strip_prefix("swarm-").unwrap().parse().unwrap();
        let scenario = file::read(&path).unwrap();
        let judgement = judge(&scenario, seed, Promises::of(&scenario));
        assert_eq!(judgement.violation, None, "{name}");
    });
}

#[test]
fn a_seed_gives_the_same_on_any_thread() {
    let alone = try_seed(7).judgement;
    let among: Vec<_> = [7u64, 8, 7].into_par_iter().map(|seed| try_seed(seed).judgement).collect();
    assert_eq!([&among[0], &among[2]], [&alone, &alone]);
    assert_ne!(among[1], alone);
}

#[test]
fn the_scenario_of_a_seed_can_be_looked_at() {
    let at = directory("swarm-shows");
    let shown = run(&at, &["swarm", "--from", "7", "--show"]);
    assert_eq!(shown, write_changes(&draw(7).scenario));
    fs::write(at.join("seven.toml"), shown).unwrap();
    let told = run(&at, &["check", "seven.toml", "--seed", "7"]);
    let events = format!("{} events", try_seed(7).judgement.events);
    assert!(told.starts_with("nothing violated") && told.contains(&events), "{told}");
}

#[test]
fn what_a_swarm_finds_is_shrunk_and_can_be_repeated() {
    let at = directory("swarm-finds");
    let words = "swarm --from 1 --seeds 12 --set cluster.guard=none --regardless";
    let output = start(&at, &words.split(' ').collect::<Vec<_>>());
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    let line = told.lines().find(|line| line.contains(" violates I2 ")).expect("a RST did harm");
    let seed = line.split(' ').nth(1).unwrap();
    let again = format!("clusterd-sim swarm --from {seed} --seeds 1 --set 'cluster.guard=none'");
    assert!(told.replace("cluster.guard=none", "'cluster.guard=none'").contains(&again), "{told}");
    // The least scenario fails, too, and is less than what was drawn.
    let least = format!("swarm-{seed}.toml");
    let check = ["check", &least, "--seed", seed, "--regardless"];
    assert_eq!(start(&at, &check).status.code(), Some(1));
    let text = fs::read_to_string(at.join(&least)).unwrap();
    assert!(text.contains("guard = \"none\""), "{text}");
    let parameters = |text: &str| text.lines().filter(|line| line.contains(" = ")).count();
    let drawn = write_changes(&draw(seed.parse().unwrap()).scenario);
    assert!(parameters(&text) < parameters(&drawn), "{text}\n{drawn}");
    let diagram = fs::read_to_string(at.join(format!("swarm-{seed}.txt"))).unwrap();
    assert!(diagram.contains("RST"), "{diagram}");
}

/// Scenarios are drawn for other numbers of hosts, and their faults name those.
#[test]
fn what_is_set_fits_what_is_drawn() {
    let at = directory("swarm-set");
    let output = start(&at, &["swarm", "--seeds", "16", "--set", "cluster.hosts=2"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    let output = start(&at, &["swarm", "--seeds", "1", "--set", "service.speeds=0"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(78) && error.contains("service.speeds"), "{error}");
}
