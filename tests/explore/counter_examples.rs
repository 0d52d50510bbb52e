//! Mistakes that the exploration must find. Each test shows the shortest story of one.

use clusterd::protocol::{Mode, Pacing};

use crate::scope::{Guard, Scope, TICK, Variant, Views};
use crate::world::{Property, Sometimes};
use crate::{holds, holds_but_single, named, run};

/// The story of how `property` breaks in `scope`.
fn story(scope: &Scope, property: Property) -> String {
    let report = run(scope);
    let Some(story) = report.broken.get(&property) else {
        panic!("{property:?} is not broken in {}", scope.name);
    };
    let story = story.join("\n");
    println!("{story}");
    story
}

fn settling(name: &str, ticks: u32) -> Scope {
    let mut scope = named(name.into(), 2, Pacing::Race);
    scope.timers.settle = TICK * ticks;
    scope
}

/// D must exceed the round trip of a claim less one tick: two ticks each way here.
#[test]
fn a_settling_time_below_the_round_trip_makes_two_answers() {
    holds(&settling("2 Race D of 3", 3));
    let story = story(&settling("2 Race D of 2", 2), Property::SingleAnswer);
    assert!(!story.contains("LOST"), "nothing was lost:\n{story}");
}

/// Giving way to a better claim after one's SYN-ACK has left: the client may have chosen it.
#[test]
fn giving_way_after_the_syn_ack_connects_the_client_to_nobody() {
    let scope = Scope { crashes: 0, ..settling("2 Race D of 2 retracting", 2) };
    holds_but_single(&settling("2 Race D of 2 not retracting", 2));
    let retracting = Scope { variant: Variant::Retracting, ..scope };
    let story = story(&retracting, Property::ChosenSurvives);
    assert!(story.contains("GIVES WAY"), "{story}");
}

/// Attempts named without the client's sequence number: the second one's SYN is taken for a
/// copy of the first, which nobody waits for any more.
#[test]
fn attempts_without_the_clients_number_are_mixed() {
    let scope = |name: &str| Scope {
        reuses: &[1, 6, 14],
        ..named(format!("2 Race reuse {name}"), 2, Pacing::Race)
    };
    holds(&scope("with isn"));
    let mixed = Scope { variant: Variant::WithoutIsn, ..scope("without isn") };
    story(&mixed, Property::Answered);
}

/// The hash rule over those who are heard: when nobody is, everybody is alone and answers.
#[test]
fn hash_without_a_roster_makes_every_host_answer() {
    let scope = |name: &str, roster| Scope {
        roster,
        deaf: true,
        views: Views::Strangers,
        modes: vec![Mode::Hash; 3],
        ..named(format!("3 by hash {name}"), 3, Pacing::Rank)
    };
    holds(&scope("with roster", true));
    let story = story(&scope("without roster", false), Property::SingleAnswer);
    assert_eq!(story.matches("SYN-ACK leaves").count(), 2, "at the second it is broken");
}

/// Without the guard a kernel that was not chosen resets the client.
#[test]
fn without_the_guard_a_second_answer_resets_the_client() {
    let scope = Scope { losses: 2, ..named("2 Race unguarded".into(), 2, Pacing::Race) };
    let report = holds_but_single(&scope);
    assert!(report.seen.contains(&Sometimes::NotChosen));
    story(&Scope { guard: Guard::Missing, ..scope }, Property::NoReset);
}
