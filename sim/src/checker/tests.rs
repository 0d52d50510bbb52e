use std::time::Duration;

use clusterd::protocol::Ticket;

use super::*;
use crate::fault::Fault;
use crate::host::node_id;
use crate::judge::judge;
use crate::rule::Decider;
use crate::scenario::Mode;
use crate::setting::{Rate, Share};
use crate::world::World;

fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Some hundred connections.
fn scenario() -> Scenario {
    Scenario {
        warm_up: millis(1_500),
        duration: millis(1_000),
        connections_per_second: 300.0,
        ..Scenario::default()
    }
}

/// What is violated first, if I1 and I2 are demanded whatever the guard.
fn violated(scenario: &Scenario) -> Option<Invariant> {
    let promises = Promises { outcome: true, ..Promises::of(scenario) };
    judge(scenario, 1, promises).violation.map(|violation| violation.invariant)
}

#[test]
fn a_cluster_keeps_what_it_promises() {
    assert_eq!(judge(&scenario(), 1, Promises::of(&scenario())).violation, None);
    // Not to drain makes second answers, and no promise rests on it.
    let careless = Scenario { drain: false, ..scenario() };
    assert_eq!(judge(&careless, 1, Promises::of(&careless)).violation, None);
    let hash = Scenario { mode: Mode::Hash, ..scenario() };
    assert_eq!(judge(&hash, 1, Promises::of(&hash)).violation, None);
}

#[test]
fn without_a_guard_hosts_reset_the_connections_of_others() {
    for (guard, rule) in [(Guard::None, Rule::Original), (Guard::Invalid, Rule::Original)] {
        let open = Scenario { guard, rule, ..scenario() };
        assert_eq!(violated(&open), Some(Invariant::I2));
        assert_eq!(judge(&open, 1, Promises::of(&open)).violation, None, "nobody has promised it");
    }
    // With the guard of clusterd even the rule of 2000 harms nobody.
    let guarded = Scenario { rule: Rule::Original, ..scenario() };
    assert_eq!(violated(&guarded), None);
}

/// A kernel that lets RSTs out although the checker was told of the guard `rst`.
#[test]
fn a_guard_that_leaks_is_found() {
    let told = Scenario { claim_loss: Share(0.5), ..scenario() };
    let leaks = Scenario { guard: Guard::None, ..told.clone() };
    let checker = Checker::new(&told, Promises::of(&told));
    let mut world = World::new(&leaks, 1, checker);
    world.run();
    let violation = world.record.violation().unwrap();
    assert_eq!(violation.invariant, Invariant::I2);
    assert!(violation.host.is_some() && violation.connection.is_some(), "{violation}");
    assert!(violation.what.starts_with("its RST"), "{violation}");
}

#[test]
fn a_second_verdict_for_a_ticket_is_found() {
    let scenario = Scenario { rule: Rule::Clusterip, ..scenario() };
    let mut world = World::new(&scenario, 1, Checker::new(&scenario, Promises::of(&scenario)));
    world.run_until(Instant::default() + millis(2_000));
    assert_eq!(world.record.violation(), None);
    // The first SYN of this host was decided long ago.
    let host = world.host_mut(0).unwrap();
    let Decider::Fixed(fixed) = &mut host.decider else { panic!("that is another rule") };
    let first = clusterd::protocol::Ticket(1);
    fixed.verdicts.push_back((first, clusterd::protocol::Verdict::Drop));
    world.run_until(Instant::default() + millis(2_500));
    let violation = world.record.violation().unwrap();
    assert_eq!((violation.invariant, violation.host), (Invariant::I5, Some(0)), "{violation}");
    assert!(violation.what.contains("ticket 1"), "{violation}");
}

/// Feeds a checker what hosts do not do.
fn tampered(change: impl Fn(&mut Checker, Instant)) -> Invariant {
    let scenario = scenario();
    let mut world = World::new(&scenario, 1, Checker::new(&scenario, Promises::of(&scenario)));
    world.run_until(Instant::default() + millis(2_400));
    assert_eq!(world.record.violation(), None);
    let now = world.now();
    change(&mut world.record, now);
    // What is overdue is seen with whatever happens next.
    world.run_until(now + millis(600));
    world.record.violation().unwrap().invariant
}

/// A SYN that comes to a host and to nobody else, as far as the checker sees.
fn syn() -> Segment {
    let (flow, sequence) = (FlowId(900_000), 77);
    Segment { flow, flag: Flag::Syn, sequence, acknowledgement: 0, length: 0 }
}

#[test]
fn what_hosts_must_not_do_is_found() {
    let syn = syn();
    let syn_ack = |sequence| Segment { flag: Flag::SynAck, sequence, acknowledgement: 78, ..syn };
    let arrives =
        |checker: &mut Checker, at| checker.note(at, Happening::Arrived { host: 0, segment: &syn });
    let answers = |checker: &mut Checker, at, host| {
        checker.note(at, Happening::Said { host, segment: &syn_ack(500 + u32::from(host)) });
    };
    // An application gets what another one has.
    let found = tampered(|checker, at| {
        checker.note(at, Happening::Accepted { host: 0, flow: syn.flow, isn: 77 });
        checker.note(at, Happening::Accepted { host: 1, flow: syn.flow, isn: 77 });
    });
    assert_eq!(found, Invariant::I1);
    // Nobody answers.
    assert_eq!(tampered(arrives), Invariant::I3);
    // An answer is taken back because of a claim.
    let found = tampered(|checker, at| {
        arrives(checker, at);
        answers(checker, at, 0);
        checker.note(at, Happening::Destroyed { host: 0, flow: syn.flow, isn: 500 });
    });
    assert_eq!(found, Invariant::I4);
    // Who has answered says nothing.
    let found = tampered(|checker, at| {
        arrives(checker, at);
        answers(checker, at, 0);
    });
    assert_eq!(found, Invariant::I11);
    // Nobody waits for its turn: of three hosts two rank behind the first.
    let found = tampered(|checker, at| {
        for host in 0..3 {
            checker.note(at, Happening::Arrived { host, segment: &syn });
            let (ticket, told) = (Ticket(1), Some(at));
            checker.note(at, Happening::Decided { host, ticket, syn: &syn, accept: true, told });
            answers(checker, at, host);
        }
    });
    assert_eq!(found, Invariant::I11);
}

/// A frame of a host of which nothing else is known.
fn frame(host: usize, sequence: u64, entries: Vec<clusterd::wire::Entry>) -> std::rc::Rc<[u8]> {
    let header = clusterd::wire::Header::new(node_id(host), 1, sequence);
    let frame = clusterd::wire::Frame { header, entries };
    clusterd::wire::encode(&frame, &cluster_key().into()).into()
}

#[test]
fn frames_that_hosts_must_not_send_are_found() {
    use clusterd::wire::{Contest, Entry};
    let contest = |flow: FlowId, isn| {
        let attempt = cluster_key().attempt(&flow.key(), isn);
        Contest { attempt, port: 80, tries: 0, rank: 1 }
    };
    // A number is left out.
    let found = tampered(|checker, at| {
        let (_, sequence) = checker.frames.last_of(0);
        let bytes = frame(0, sequence + 2, Vec::new());
        checker.note(at, Happening::Claimed { host: 0, bytes: &bytes });
    });
    assert_eq!(found, Invariant::I9);
    // A claim of what nobody has asked for.
    let found = tampered(|checker, at| {
        let (_, sequence) = checker.frames.last_of(0);
        let bytes = frame(0, sequence + 1, vec![Entry::Claim(contest(FlowId(800_000), 1))]);
        checker.note(at, Happening::Claimed { host: 0, bytes: &bytes });
    });
    assert_eq!(found, Invariant::I10);
    // A claim again and again.
    let found = tampered(|checker, at| {
        let (_, sequence) = checker.frames.last_of(0);
        checker.note(at, Happening::Arrived { host: 0, segment: &syn() });
        let contest = contest(syn().flow, 77);
        let bytes = frame(0, sequence + 1, vec![Entry::Claim(contest); 9]);
        checker.note(at, Happening::Claimed { host: 0, bytes: &bytes });
        assert_ne!(checker.violation().map(|it| it.invariant), Some(Invariant::I10));
        let bytes = frame(0, sequence + 2, vec![Entry::Claim(contest)]);
        checker.note(at, Happening::Claimed { host: 0, bytes: &bytes });
    });
    assert_eq!(found, Invariant::I10);
    // A claim without a listener.
    let found = tampered(|checker, at| {
        let (_, sequence) = checker.frames.last_of(0);
        checker.note(at, Happening::Arrived { host: 0, segment: &syn() });
        if let Some(known) = checker.hosts.known(0) {
            (known.ready, known.ready_since, known.ready_now) = (false, false, false);
        }
        let bytes = frame(0, sequence + 1, vec![Entry::Claim(contest(syn().flow, 77))]);
        checker.note(at, Happening::Claimed { host: 0, bytes: &bytes });
    });
    assert_eq!(found, Invariant::I8);
}

/// What a checker finds that has seen an attempt, and its release by the only host so much later.
fn released_after(scenario: &Scenario, late: Duration) -> Option<Invariant> {
    let mut checker = Checker::new(scenario, Promises::of(scenario));
    let at = Instant::default() + millis(100);
    checker.note(at, Happening::Started { host: 0 });
    checker.note(at, Happening::Arrived { host: 0, segment: &syn() });
    let attempt = cluster_key().attempt(&syn().flow.key(), syn().sequence);
    let contest = clusterd::wire::Contest { attempt, port: 80, tries: 0, rank: 1 };
    let bytes = frame(0, 1, vec![clusterd::wire::Entry::Release(contest)]);
    checker.note(at + late, Happening::Claimed { host: 0, bytes: &bytes });
    checker.violation().map(|violation| violation.invariant)
}

#[test]
fn words_may_come_as_late_as_frames_wait_for_the_wire() {
    let rate = Rate(1e7);
    let switch = Scenario { medium: Medium::Switch, rate, ..scenario() };
    let hub = Scenario { medium: Medium::Hub, ..switch.clone() };
    assert_eq!(released_after(&switch, millis(1_900)), None);
    assert_eq!(released_after(&switch, millis(3_900)), Some(Invariant::I10));
    assert_eq!(released_after(&hub, millis(3_900)), None);
    assert_eq!(released_after(&hub, millis(4_500)), Some(Invariant::I10));
}

/// What a checker of a settled cluster finds when host 0 has held a SYN for so long, has heard these
/// words of peers, each so long before it decides and in a frame with that number, and accepts.
fn accepted_after(
    scenario: &Scenario,
    held: Duration,
    words: &[(Duration, usize, u64, Say)],
) -> Option<Invariant> {
    accepted_after_as(scenario, held, words, false)
}

/// The same, and if it has `forgotten` them, the first word is the first that it has heard of its sender.
fn accepted_after_as(
    scenario: &Scenario,
    held: Duration,
    words: &[(Duration, usize, u64, Say)],
    forgotten: bool,
) -> Option<Invariant> {
    let mut world = World::new(scenario, 1, Checker::new(scenario, Promises::of(scenario)));
    world.run_until(Instant::default() + millis(2_400));
    let now = world.now().0;
    let ago = |time: Duration| Instant(now - time.as_nanos() as u64);
    let checker = &mut world.record;
    if forgotten {
        checker.frames.started(0);
    }
    let syn = syn();
    let attempt = cluster_key().attempt(&syn.flow.key(), syn.sequence);
    let contest = clusterd::wire::Contest { attempt, port: 80, tries: 0, rank: 1 };
    let first = words.iter().map(|word| word.0).fold(held, Duration::max);
    // Of what comes to nobody nothing is kept.
    checker.note(ago(first), Happening::Arrived { host: 2, segment: &syn });
    for &(time, peer, number, say) in words {
        let bytes = frame(peer, number, vec![say(contest)]);
        checker.note(ago(time), Happening::Heard { host: 0, bytes: &bytes });
    }
    checker.note(ago(held), Happening::Arrived { host: 0, segment: &syn });
    let told = Some(ago(held));
    let accepts = Happening::Decided { host: 0, ticket: Ticket(1), syn: &syn, accept: true, told };
    checker.note(Instant(now), accepts);
    checker.violation().map(|violation| violation.invariant)
}

/// What a host says about an attempt.
type Say = fn(clusterd::wire::Contest) -> clusterd::wire::Entry;
const CLAIM: Say = clusterd::wire::Entry::Claim;
const OWN: Say = clusterd::wire::Entry::Own;

#[test]
fn a_copy_of_a_frame_says_nothing_new() {
    let long = scenario().own + millis(2);
    let after = |that: u64, this: u64| {
        let words = [(long, 1, that, CLAIM), (millis(1), 1, this, CLAIM)];
        accepted_after(&scenario(), Duration::from_micros(500), &words)
    };
    assert_eq!(after(7_000, 7_000), None);
    assert_eq!(after(7_000, 7_001), Some(Invariant::I11));
}

/// Spec 3.5: it may be a recording.
#[test]
fn a_frame_before_the_first_that_was_heard_says_nothing() {
    let long = scenario().own * 2;
    let after = |number: u64| {
        let words = [(long, 1, 7_000, OWN), (millis(1), 1, number, OWN)];
        accepted_after_as(&scenario(), scenario().own, &words, true)
    };
    assert_eq!(after(7_001), Some(Invariant::I11));
    assert_eq!(after(6_999), None);
}

/// Spec 5.4, `Foreign` and SYN: T_own for the owner that a host knew, and not once more for its claim.
#[test]
fn who_has_waited_for_the_owner_it_knew_need_not_wait_for_its_claim() {
    let own = scenario().own;
    let after = |owner: usize, held: Duration| {
        let words = [(own + millis(5), owner, 7_000, OWN), (millis(1), 1, 7_001, CLAIM)];
        accepted_after(&scenario(), held, &words)
    };
    assert_eq!(after(1, own), None);
    assert_eq!(after(1, own - millis(1)), Some(Invariant::I11), "it has not waited for T_own");
    assert_eq!(after(2, own), Some(Invariant::I11), "it has waited for another one");
}

/// A host refuses what another one can serve, of which it knows that, or has not been told yet.
#[test]
fn who_refuses_what_another_one_is_known_to_serve_is_found() {
    let refused = |told: bool| {
        let scenario = scenario();
        let mut world = World::new(&scenario, 1, Checker::new(&scenario, Promises::of(&scenario)));
        world.run_until(Instant::default() + millis(2_400));
        let (now, syn, checker) = (world.now(), syn(), &mut world.record);
        if !told {
            checker.hosts.forget_hello(0, 1);
        }
        for host in 0..2 {
            checker.note(now, Happening::Arrived { host, segment: &syn });
        }
        let ticket = Ticket(1);
        checker
            .note(now, Happening::Decided { host: 0, ticket, syn: &syn, accept: true, told: None });
        // That host 0 could serve it itself is another matter.
        checker.hosts.known(0).unwrap().now.as_mut().unwrap().serves = false;
        checker.hosts.due.retain(|due, _| due.3 != 0);
        let refusal = Segment { flag: Flag::Refusal, acknowledgement: syn.sequence + 1, ..syn };
        checker.note(now, Happening::Said { host: 0, segment: &refusal });
        world.run_until(now + millis(600));
        world.record.violation().map(|violation| violation.invariant)
    };
    assert_eq!(refused(true), Some(Invariant::I3));
    assert_eq!(refused(false), None);
}

/// A host that finds a reason to doubt claims, or none any more, claims first for a while (T_quiet).
#[test]
fn a_first_claim_of_who_ranks_first_is_found_where_nobody_has_doubted_lately() {
    let scenario = Scenario { duration: millis(3_000), ..scenario() };
    let claimed = |doubted: Option<Duration>| {
        let mut world = World::new(&scenario, 1, Checker::new(&scenario, Promises::of(&scenario)));
        world.run_until(Instant::default() + millis(2_400));
        if let Some(ago) = doubted {
            world.record.hosts.known(0).unwrap().now.as_mut().unwrap().causes ^= 1;
            world.run_until(world.now() + ago);
        }
        let (now, syn, checker) = (world.now(), syn(), &mut world.record);
        let first = (0..3).find(|&host| checker.position(host, syn.flow) == 0).unwrap();
        checker.note(now, Happening::Arrived { host: first, segment: &syn });
        let attempt = cluster_key().attempt(&syn.flow.key(), syn.sequence);
        let contest = clusterd::wire::Contest { attempt, port: 80, tries: 0, rank: 1 };
        let (_, sequence) = checker.frames.last_of(first);
        let bytes = frame(usize::from(first), sequence + 1, vec![CLAIM(contest)]);
        checker.note(now, Happening::Claimed { host: first, bytes: &bytes });
        checker.violation().map(|violation| violation.invariant)
    };
    assert_eq!(claimed(None), Some(Invariant::I11));
    assert_eq!(claimed(Some(millis(500))), None);
    assert_eq!(claimed(Some(millis(1_500))), Some(Invariant::I11));
}

#[test]
fn hosts_that_cannot_come_together_are_found() {
    // Half of all claims are lost and one host is gone; the second act must not depend on either.
    let scenario = Scenario {
        claim_loss: Share(0.5),
        faults: vec![Fault { at: millis(1_800), kind: FaultKind::Kill(1) }],
        ..scenario()
    };
    let judgement = judge(&scenario, 1, Promises::of(&scenario));
    assert_eq!(judgement.violation, None);
    assert!(judgement.answered_twice > 0, "the first act must have been hard");
    // Loss that a fault brings after the act of healing has begun is none of the simulator's: a cluster
    // of hosts whose service has no room serves nobody, however healed.
    let full = Scenario { backlog: 1, service: "1h".parse().unwrap(), ..scenario };
    let found = judge(&full, 1, Promises::of(&full)).violation.map(|it| it.invariant);
    assert_eq!(found, Some(Invariant::Convergence));
}
