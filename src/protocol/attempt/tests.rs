//! The state table of spec 5.4 as data: one row for each pair of state and event,
//! and one for each circumstance that changes a row.
//!
//! In the world of the table this node ranks second, after `a` and before `b`;
//! all three are live, serve the port and have known it for long. A state ends
//! 7 ms from now, except before a timeout, when it ends now. The attempt is in
//! its first contest; its SYN came 10 ms ago, unless it is unseen.
//!
//! A row reads: event | next state, +ms to its end | what is done. There, `held`
//! is the SYN that the state holds and `it` the packet of the event; words in
//! capitals are entries sent, with rank and try; `-a` excludes a node from the
//! contest and `+word` counts.

use super::super::fallback::{Fallback, Mode};
use super::super::membership::Membership;
use super::super::pace::Pace;
use super::super::roster::Roster;
use super::super::services::Services;
use super::super::vips::Vips;
use super::super::{Config, Pacing};
use super::*;
use crate::flow::ClusterKey;
use crate::wire::{Flags, FurtherPort, Header, MAJOR, MINOR, Report};

const ME: NodeId = NodeId(1);
const A: NodeId = NodeId(2);
const B: NodeId = NodeId(3);
const HELD: Ticket = Ticket(1);
const IT: Ticket = Ticket(2);
/// The next number wraps round.
const ISN: u32 = u32::MAX;
/// The first virtual IP, and a further one.
const VIP: [u8; 4] = [10, 0, 0, 2];
const FURTHER: [u8; 4] = [10, 0, 0, 3];
const NOW: Instant = Instant::from_micros(2_000_000);
const LEFT: Duration = Duration::from_millis(7);

const STATES: [&str; 17] = [
    "held candidate",
    "held spectator",
    "held last resort",
    "held designated",
    "claimed",
    "claimed, said again",
    "deferred to a",
    "deferred to a, unseen",
    "accepted to serve",
    "accepted to serve, said again",
    "accepted to refuse",
    "half",
    "owned",
    "foreign of a",
    "foreign of a, unseen",
    "foreign",
    "foreign, unseen",
];

const EVENTS: [&str; 14] = [
    "SYN",
    "better CLAIM of b",
    "worse CLAIM of b",
    "OWN of a",
    "RELEASE of a",
    "RELEASE of b",
    "SYN-ACK",
    "refusal",
    "right ACK",
    "right ACK, seen",
    "wrong ACK",
    "wrong ACK, seen",
    "flow ended",
    "timeout",
];

/// What may differ from the world of the table.
struct World {
    pacing: Pacing,
    peers: &'static [NodeId],
    listener: Listener,
    /// The listener, the peers and what peers serve changed that long ago.
    changed: Duration,
    incumbent: bool,
    tries: u8,
    age: Duration,
    /// How long states last.
    left: Duration,
    /// The node whose turn comes right away.
    first: NodeId,
    /// Ports of the peers are closed as well.
    all_absent: bool,
    /// The virtual IP of the service.
    vip: [u8; 4],
    /// The peers that answer the further virtual IP, too.
    having: &'static [NodeId],
    /// Frames of the peers get lost.
    lossy: bool,
    protocol: Protocol,
    mode: Mode,
    /// The peers decide by hash.
    peers_by_hash: bool,
    /// The version of the peers.
    peers_minor: u8,
    /// The node whose first try it is by hash.
    designated: NodeId,
}

impl Default for World {
    fn default() -> Self {
        Self {
            pacing: Pacing::Rank,
            peers: &[A, B],
            listener: Listener::Ready,
            changed: Duration::from_secs(1),
            incumbent: false,
            tries: 0,
            age: Duration::from_millis(10),
            left: LEFT,
            first: A,
            all_absent: false,
            vip: VIP,
            having: &[],
            lossy: false,
            protocol: Protocol::Tcp,
            mode: Mode::Claim,
            peers_by_hash: false,
            peers_minor: MINOR,
            designated: A,
        }
    }
}

#[test]
fn every_pair_of_state_and_event_has_its_row() {
    let mut actual = String::new();
    for state in STATES {
        actual += &format!("{state}\n");
        for event in EVENTS {
            actual += &format!("  {event}{}\n", row(&World::default(), state, event));
        }
    }
    compare(include_str!("../../../proto-spec/state-table/table.txt"), &actual);
}

#[test]
fn every_circumstance_has_its_rows() {
    let new = World::default;
    let moving = Duration::from_millis(49);
    let quiet = Duration::from_millis(50);
    let absent = |changed| World { listener: Listener::Absent, changed, ..new() };
    let by_hash = |designated| World { mode: Mode::Hash, peers_by_hash: true, designated, ..new() };
    let udp = || World { protocol: Protocol::Udp, ..new() };
    let further = |having| World { vip: FURTHER, having, ..new() };
    let further_by_hash = |having| World { vip: FURTHER, having, ..by_hash(A) };
    let cases = [
        ("first in rank", World { first: ME, ..new() }, "timeout"),
        ("first, views moving", World { changed: moving, first: ME, ..new() }, "timeout"),
        ("first, frames lost", World { lossy: true, first: ME, ..new() }, "timeout"),
        ("first, second try", World { tries: 1, first: ME, ..new() }, "timeout"),
        ("first, racing", World { pacing: Pacing::Race, first: ME, ..new() }, "timeout"),
        ("alone", World { peers: &[], changed: moving, tries: 1, ..new() }, "timeout"),
        ("accept queue full", World { listener: Listener::Busy, ..new() }, "timeout"),
        ("listener just gone", absent(moving), "timeout"),
        ("listener gone for a while", absent(quiet), "timeout"),
        ("listeners just gone", World { all_absent: true, ..absent(moving) }, "timeout"),
        ("listeners gone for a while", World { all_absent: true, ..absent(quiet) }, "SYN"),
        ("listener gone for a while", absent(quiet), "worse CLAIM of b"),
        ("stale", World { age: Duration::from_millis(500), ..new() }, "timeout"),
        ("nearly stale", World { age: Duration::from_millis(499), ..new() }, "timeout"),
        ("nearly stale", World { age: Duration::from_millis(499), ..new() }, "better CLAIM of b"),
        ("incumbent", World { incumbent: true, ..new() }, "SYN"),
        ("incumbent", World { incumbent: true, ..new() }, "OWN of a"),
        ("owner not live", World { peers: &[B], ..new() }, "SYN"),
        ("owner just heard", World { left: Duration::from_millis(2_980), ..new() }, "SYN"),
        ("owner heard before", World { left: Duration::from_millis(2_979), ..new() }, "SYN"),
        ("claimant not live", World { peers: &[A], ..new() }, "better CLAIM of b"),
        ("racing", World { pacing: Pacing::Race, ..new() }, "SYN"),
        ("a by hash", World { peers_by_hash: true, ..new() }, "SYN"),
        ("by hash", by_hash(A), "SYN"),
        ("by hash, others claim", World { peers_by_hash: false, ..by_hash(ME) }, "SYN"),
        (
            "by hash since just now, others claim",
            World { peers_by_hash: false, changed: moving, ..by_hash(ME) },
            "SYN",
        ),
        (
            "by hash, others claim and know no better",
            World { peers_by_hash: false, peers_minor: 0, ..by_hash(ME) },
            "SYN",
        ),
        ("by hash, designated", by_hash(ME), "SYN"),
        ("by hash, designated, second try", World { tries: 1, ..by_hash(ME) }, "SYN"),
        ("by hash, designated", by_hash(ME), "timeout"),
        ("by hash", by_hash(A), "timeout"),
        ("by hash", by_hash(ME), "SYN-ACK"),
        (
            "by hash, accept queue full",
            World { listener: Listener::Busy, ..by_hash(ME) },
            "timeout",
        ),
        ("a virtual IP that all have", further(&[A, B]), "SYN"),
        ("a virtual IP that a has not", further(&[B]), "SYN"),
        ("a virtual IP that a has not", further(&[B]), "timeout"),
        ("a virtual IP that no peer has", further(&[]), "SYN"),
        (
            "a virtual IP that no peer has, views moving",
            World { changed: moving, tries: 1, ..further(&[]) },
            "timeout",
        ),
        (
            "a virtual IP that no peer has, listener gone for a while",
            World { listener: Listener::Absent, changed: quiet, ..further(&[]) },
            "SYN",
        ),
        (
            "a virtual IP that no peer has, listener gone for a while",
            World { listener: Listener::Absent, changed: quiet, ..further(&[]) },
            "timeout",
        ),
        (
            "a virtual IP that all have, listeners gone for a while",
            World {
                listener: Listener::Absent,
                changed: quiet,
                all_absent: true,
                ..further(&[A, B])
            },
            "SYN",
        ),
        ("a virtual IP that all have, by hash", further_by_hash(&[A, B]), "SYN"),
        ("a virtual IP that a has not, by hash", further_by_hash(&[B]), "SYN"),
        (
            "a virtual IP that no peer has, by hash since just now, others claim",
            World { peers_by_hash: false, changed: moving, ..further_by_hash(&[]) },
            "SYN",
        ),
        (
            "datagrams to a virtual IP that no peer has",
            World { protocol: Protocol::Udp, ..further(&[]) },
            "timeout",
        ),
        ("datagrams", udp(), "SYN"),
        ("datagrams", udp(), "OWN of a"),
        ("datagrams", udp(), "OWN of b"),
        ("datagrams", udp(), "flow ended"),
        ("datagrams", udp(), "timeout"),
        ("datagrams, first", World { first: ME, ..udp() }, "timeout"),
        ("datagrams, stale", World { age: Duration::from_millis(500), ..udp() }, "timeout"),
        ("datagrams by hash", World { protocol: Protocol::Udp, ..by_hash(A) }, "SYN"),
        (
            "datagrams by hash, designated",
            World { protocol: Protocol::Udp, ..by_hash(ME) },
            "timeout",
        ),
    ];
    let mut actual = String::new();
    for (circumstance, world, event) in cases {
        actual += &format!("{circumstance}: {event}\n");
        for state in STATES {
            let row = row(&world, state, event);
            if row != self::row(&World::default(), state, event) {
                actual += &format!("  {state}{row}\n");
            }
        }
    }
    compare(include_str!("../../../proto-spec/state-table/circumstances.txt"), &actual);
}

/// Line by line, comments aside; shows the whole actual table when they differ.
fn compare(expected: &str, actual: &str) {
    let expected: Vec<_> = expected.lines().filter(|line| !line.starts_with('#')).collect();
    for (expected, line) in expected.iter().zip(actual.lines()) {
        assert_eq!(*expected, line, "in\n{actual}");
    }
    assert_eq!(expected.len(), actual.lines().count(), "in\n{actual}");
}

/// Takes an attempt in `state` through `event`; says what comes of it.
fn row(world: &World, state: &str, event: &str) -> String {
    let (pacing, mode) = (world.pacing, world.mode);
    let vips = Vips::new(VIP.into(), [FURTHER.into()]).unwrap();
    let config = Config { pacing, mode, vips, ..Config::new(ME, 1, VIP) };
    let flow = flow_ranked(&config.key, world);
    let changed = NOW - world.changed;
    let (mut membership, mut roster) = (Membership::default(), Roster::default());
    for &node in world.peers {
        let flags = Flags { hash: world.peers_by_hash, ..Flags::default() };
        let header = Header { minor: world.peers_minor, flags, ..Header::new(node, 1, 1) };
        membership.hear(changed, MAJOR, &header, 64, |_| {});
        let me = Report { node: ME, incarnation: 1, highest: 1, missing: 0 };
        membership.report(node, Some(&me), true, None);
        if world.having.contains(&node) {
            let said = [config.key.vip(FURTHER.into())];
            membership.set_vips(node, &config.vips, &said);
        }
        let peer = membership.get(node).expect("it was heard");
        roster.heard(changed, node, peer.vips(), 64);
        if world.lossy {
            let later = Header { sequence: 7, ..header };
            membership.hear(changed, MAJOR, &later, 64, |_| {});
        }
        if world.all_absent {
            let port = flow.service.port();
            membership.set_unavailable(node, world.protocol, &[port]);
            let further = FurtherPort { place: 1, port };
            membership.set_unavailable_further(node, world.protocol, &[further]);
        }
    }
    let mut services = Services::default();
    services.set(changed, config.vips.service(&flow), world.listener);
    let (fallback, pace) = (Fallback::new(world.mode), Pace::new(&config.timers));
    let view = View {
        now: NOW,
        config: &config,
        membership: &membership,
        roster: &roster,
        services: &services,
        fallback: &fallback,
        pace: &pace,
        joined: true,
        changed,
    };
    let (mut outbox, mut counters) = (Outbox::default(), Counters::default());
    let id = config.key.attempt(&flow, 1);
    let mut cx = Context { id, view, outbox: &mut outbox, counters: &mut counters };

    let seen = !state.ends_with("unseen");
    let left = if event == "timeout" { Duration::ZERO } else { world.left };
    let before = state_named(state, &cx, &flow, world, NOW + left);
    let event = event_named(event, &cx);
    // What the node tells an attempt that did not know its flow.
    let known = seen || matches!(event, Event::Syn(_) | Event::SynAck { .. });
    let mut attempt = Attempt {
        flow: known.then_some(flow),
        arrived: NOW - world.age,
        seen,
        incumbent: world.incumbent,
        tries: world.tries,
        excluded: Vec::new(),
        more: Vec::new(),
        contested: false,
        state: before,
    };
    let keep = attempt.handle(event, &mut cx);

    let next = match attempt.state {
        _ if !keep => "gone".into(),
        same if same == before => "same".into(),
        other => state_text(&other),
    };
    let mut done: Vec<String> = outbox.outputs.iter().map(output_text).collect();
    done.extend(outbox.entries.iter().map(entry_text));
    done.extend(attempt.more.iter().map(|_| "hold it".into()));
    done.extend(attempt.excluded.iter().map(|&node| format!("-{}", node_text(node))));
    if attempt.tries != world.tries {
        done.push(format!("try {}", attempt.tries));
    }
    done.extend(counted(&counters));
    format!(" | {next} | {}", done.join(", ")).trim_end().into()
}

/// A flow whose heaviest node is the first of that world, the others follow in
/// the order a, me, b; by hash the designated node comes first, then they follow likewise.
/// Of two owners, a wins the tie-break against this node and b loses it.
fn flow_ranked(key: &ClusterKey, world: &World) -> FlowKey {
    let order = |first: NodeId| {
        let mut order = [A, ME, B];
        order.sort_by_key(|&node| node != first);
        order
    };
    let (by_claim, by_hash) = (order(world.first), order(world.designated));
    let flows = (1..=u16::MAX).map(|port| FlowKey {
        protocol: world.protocol,
        ..FlowKey::tcp(([10, 0, 0, 200], port), (world.vip, 80))
    });
    let weight = |flow: &FlowKey, node| key.weight(key.flow(flow), node);
    let by_bucket = |flow: &FlowKey, node| key.bucket_weight(key.bucket(flow), node);
    let tie = |flow: &FlowKey, node| key.tie_break(key.attempt(flow, 1), node);
    let ranked = |flow: &FlowKey| {
        by_claim.is_sorted_by(|&x, &y| weight(flow, x) > weight(flow, y))
            && by_hash.is_sorted_by(|&x, &y| by_bucket(flow, x) > by_bucket(flow, y))
            && [A, ME, B].is_sorted_by(|&x, &y| tie(flow, x) < tie(flow, y))
    };
    flows.into_iter().find(ranked).expect("some port gives this order")
}

fn state_named(
    state: &str,
    cx: &Context<'_>,
    flow: &FlowKey,
    world: &World,
    until: Instant,
) -> State {
    let (turn, rank) = match cx.view.turn(flow, world.tries, world.incumbent, &[]) {
        turn @ Turn::Candidate { rank, .. } => (turn, rank),
        // It was one when the state was entered.
        Turn::Spectator | Turn::LastResort { .. } | Turn::Designated { .. } | Turn::Bystander => {
            (Turn::Candidate { position: 1, rank: 2 }, 2)
        }
    };
    let key = cx.view.claim_key(cx.id, A, 0, 1);
    let held = |turn| State::Held { ticket: HELD, turn, until };
    match state {
        "held candidate" => held(turn),
        "held spectator" => held(Turn::Spectator),
        "held last resort" => held(Turn::LastResort { position: 1 }),
        "held designated" => held(Turn::Designated { wait: true }),
        "claimed" => State::Claimed { ticket: HELD, rank, reasserted: false, until },
        "claimed, said again" => State::Claimed { ticket: HELD, rank, reasserted: true, until },
        "deferred to a" => State::Deferred { ticket: Some(HELD), to: A, key, until },
        "deferred to a, unseen" => State::Deferred { ticket: None, to: A, key, until },
        "accepted to serve" => {
            State::Accepted { rank, purpose: Purpose::Serve, reasserted: false, until }
        }
        "accepted to serve, said again" => {
            State::Accepted { rank, purpose: Purpose::Serve, reasserted: true, until }
        }
        "accepted to refuse" => {
            State::Accepted { rank: 255, purpose: Purpose::Refuse, reasserted: false, until }
        }
        "half" => State::Half { isn: ISN, until },
        "owned" => State::Owned { until },
        "foreign of a" | "foreign of a, unseen" => State::Foreign { owner: Some(A), until },
        "foreign" | "foreign, unseen" => State::Foreign { owner: None, until },
        other => panic!("no state is called {other}"),
    }
}

fn event_named(event: &str, cx: &Context<'_>) -> Event {
    match event {
        "SYN" => Event::Syn(IT),
        "better CLAIM of b" => Event::Claim(cx.view.claim_key(cx.id, B, 0, 0)),
        "worse CLAIM of b" => Event::Claim(cx.view.claim_key(cx.id, B, 0, 9)),
        "OWN of a" => Event::Own(A),
        "OWN of b" => Event::Own(B),
        "RELEASE of a" => Event::Release(A),
        "RELEASE of b" => Event::Release(B),
        "SYN-ACK" => Event::SynAck { isn: ISN },
        "refusal" => Event::Refusal(IT),
        "right ACK" => Event::Ack { number: 0, ticket: Some(IT) },
        "right ACK, seen" => Event::Ack { number: (1 << 24) - 1, ticket: None },
        "wrong ACK" => Event::Ack { number: 1, ticket: Some(IT) },
        "wrong ACK, seen" => Event::Ack { number: 1 << 24, ticket: None },
        "flow ended" => Event::Ended,
        "timeout" => Event::Timeout,
        other => panic!("no event is called {other}"),
    }
}

fn state_text(state: &State) -> String {
    let text = match *state {
        State::Held { turn: Turn::Candidate { position, rank }, .. } => {
            format!("held candidate {position} of rank {rank}")
        }
        State::Held { turn: Turn::Spectator, .. } => "held spectator".into(),
        State::Held { turn: Turn::LastResort { position }, .. } => {
            format!("held last resort {position}")
        }
        State::Held { turn: Turn::Designated { wait }, .. } => {
            format!("held designated{}", if wait { ", waiting" } else { "" })
        }
        State::Held { turn: Turn::Bystander, .. } => panic!("a bystander holds nothing"),
        State::Claimed { rank, reasserted: false, .. } => format!("claimed with {rank}"),
        State::Claimed { rank, reasserted: true, .. } => format!("claimed with {rank}, said again"),
        State::Deferred { ticket: Some(_), to, .. } => format!("deferred to {}", node_text(to)),
        State::Deferred { ticket: None, to, .. } => {
            format!("deferred to {}, unseen", node_text(to))
        }
        State::Accepted { rank, purpose: Purpose::Serve, reasserted, .. } => {
            format!("accepted to serve with {rank}{}", if reasserted { ", said again" } else { "" })
        }
        State::Accepted { rank, purpose: Purpose::Refuse, .. } => {
            format!("accepted to refuse with {rank}")
        }
        State::Half { isn, .. } => format!("half {isn}"),
        State::Owned { .. } => "owned".into(),
        State::Foreign { owner: Some(owner), .. } => format!("foreign of {}", node_text(owner)),
        State::Foreign { owner: None, .. } => "foreign".into(),
    };
    format!("{text}, +{}", state.until().since(NOW).as_millis())
}

fn output_text(output: &Output) -> String {
    match output {
        Output::Decide(ticket, verdict) => {
            let packet = if *ticket == HELD { "held" } else { "it" };
            format!("{verdict:?} {packet}").to_lowercase()
        }
        Output::Destroy(_) => "destroy".into(),
        Output::Block(_) => "block".into(),
        Output::Inquire(_) => "inquire".into(),
        Output::Share(share) => format!("{share:?}"),
        Output::Notice(notice) => format!("{notice:?}"),
    }
}

fn entry_text(entry: &Entry) -> String {
    let (kind, contest) = match entry {
        Entry::Claim(contest) => ("CLAIM", contest),
        Entry::Own(contest) => ("OWN", contest),
        Entry::Release(contest) => ("RELEASE", contest),
        Entry::Hello { .. }
        | Entry::HelloUdp { .. }
        | Entry::Heard { .. }
        | Entry::Vips { .. }
        | Entry::VipsTcp { .. }
        | Entry::VipsUdp { .. } => panic!("an attempt says no HELLO"),
    };
    format!("{kind} {}/{}", contest.rank, contest.tries)
}

fn node_text(node: NodeId) -> &'static str {
    match node {
        ME => "me",
        A => "a",
        B => "b",
        _ => "somebody",
    }
}

/// The counters that moved.
fn counted(counters: &Counters) -> Vec<String> {
    let text = format!("{counters:?}");
    let fields = text.trim_start_matches("Counters { ").trim_end_matches(" }").split(", ");
    fields
        .filter_map(|field| field.split_once(": ").filter(|&(_, count)| count != "0"))
        .map(|(name, _)| format!("+{name}"))
        .collect()
}
