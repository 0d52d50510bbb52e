//! The core against a model of one contest that fits on a screen.

use std::time::Duration;

use clusterd::flow::{AttemptId, ClusterKey, FlowKey, NodeId, Protocol};
use clusterd::protocol::{
    Config, Instant, Mode, Node, Output, Pacing, Syn, Ticket, Timers, Verdict,
};
use clusterd::wire::{Contest, Entry, Flags, Frame, Header};
use proptest::prelude::*;

const ME: NodeId = NodeId(1);
const PEERS: u32 = 4;

/// What another node says about the attempt.
#[derive(Clone, Copy, Debug)]
enum Said {
    Claim { tries: u8, rank: u8 },
    Own,
}

/// Spec 5.3: lower wins.
type Order = (u8, u8, u64, NodeId);

fn key() -> ClusterKey {
    ClusterKey::public([10, 0, 0, 2].into())
}

fn flow() -> FlowKey {
    FlowKey {
        protocol: Protocol::Tcp,
        client: ([10, 0, 0, 200], 4_000).into(),
        service: ([10, 0, 0, 2], 80).into(),
    }
}

fn attempt() -> AttemptId {
    key().attempt(&flow(), 1)
}

fn order(node: NodeId, tries: u8, rank: u8) -> Order {
    (tries, rank, key().tie_break(attempt(), node), node)
}

/// First claim wins: a node claims and waits for D; it yields for T_own to a claim that comes
/// before its own in the order, then claims anew; an OWN ends it. When, after the SYN, is the
/// verdict due, and which is it?
fn first_claim_wins(timers: &Timers, heard: &[(Duration, NodeId, Said)]) -> (Duration, Verdict) {
    let mine = |tries| order(ME, tries, 1);
    let (mut tries, mut best, mut until) = (0, mine(0), timers.settle);
    let mut heard = heard.iter().peekable();
    loop {
        match heard.next_if(|&&(at, ..)| at <= until) {
            Some(&(at, _, Said::Own)) => return (at, Verdict::Drop),
            Some(&(at, node, Said::Claim { tries, rank })) => {
                let theirs = order(node, tries, rank);
                if theirs < best {
                    until = (at + timers.own).min(timers.stale);
                }
                best = best.min(theirs);
            }
            None if until == timers.stale => return (until, Verdict::Drop),
            None if best.3 == ME => return (until, Verdict::Accept),
            None => {
                tries += 1;
                best = mine(tries);
                until = (until + timers.settle).min(timers.stale);
            }
        }
    }
}

/// A node that knows its peers and has joined, driven to the verdict on one SYN.
struct Driven {
    node: Node,
    now: Instant,
    sequences: [u64; PEERS as usize],
}

impl Driven {
    fn new(timers: Timers) -> Self {
        let mode = Mode::Claim;
        let config =
            Config { pacing: Pacing::Race, mode, timers, ..Config::new(ME, 1, [10, 0, 0, 2]) };
        let node = Node::new(config, Instant::default());
        let mut driven = Self { node, now: Instant::default(), sequences: [0; PEERS as usize] };
        driven.run(Instant::default() + timers.listen);
        (0..PEERS).for_each(|peer| driven.hear(NodeId(2 + peer), vec![]));
        driven
    }

    fn hear(&mut self, from: NodeId, entries: Vec<Entry>) {
        let sequence = &mut self.sequences[from.0 as usize - 2];
        *sequence += 1;
        let flags = Flags::default();
        // Of minor version 0 are those that are believed at once.
        let header = Header { minor: 0, node: from, incarnation: 1, sequence: *sequence, flags };
        self.node.handle_frame(self.now, &Frame { header, entries });
    }

    /// Wakes the node whenever it asks for it; the verdict, and its moment, if there was one.
    fn run(&mut self, end: Instant) -> Option<(Instant, Verdict)> {
        loop {
            let next = self.node.poll_timeout();
            if next > end {
                self.now = end;
                return None;
            }
            self.now = self.now.max(next);
            self.node.handle_timeout(self.now);
            if let Some(verdict) = self.verdict() {
                return Some((self.now, verdict));
            }
            while self.node.poll_frame(self.now).is_some() {}
        }
    }

    fn verdict(&mut self) -> Option<Verdict> {
        std::iter::from_fn(|| self.node.poll_output()).find_map(|output| match output {
            Output::Decide(_, verdict) => Some(verdict),
            _ => None,
        })
    }

    fn contest(&mut self, heard: &[(Duration, NodeId, Said)]) -> (Duration, Verdict) {
        let start = self.now;
        let syn = Syn { ticket: Ticket(1), flow: flow(), isn: 1, incumbent: false };
        self.node.handle_syn(start, syn);
        self.node.handle_timeout(start);
        for &(at, from, said) in heard {
            // What comes at the moment of a deadline is heard before it (spec 6.1).
            if let Some((at, verdict)) = self.run(start + (at - Duration::from_nanos(1))) {
                return (at.since(start), verdict);
            }
            self.now = start + at;
            let contest = |tries, rank| Contest { attempt: attempt(), port: 80, tries, rank };
            let entry = match said {
                Said::Claim { tries, rank } => Entry::Claim(contest(tries, rank)),
                Said::Own => Entry::Own(contest(0, 0)),
            };
            self.hear(from, vec![entry]);
            if let Some(verdict) = self.verdict() {
                return (at, verdict);
            }
        }
        let (at, verdict) = self.run(start + Duration::from_secs(2)).expect("I5: a verdict");
        (at.since(start), verdict)
    }
}

fn said() -> impl Strategy<Value = (Duration, NodeId, Said)> {
    let claim = (0..4u8, 0..3u8).prop_map(|(tries, rank)| Said::Claim { tries, rank });
    let said = prop_oneof![9 => claim, 1 => Just(Said::Own)];
    let at = prop_oneof![1..40u64, 1..1_000u64].prop_map(|half| Duration::from_micros(half * 500));
    (at, (2..2 + PEERS).prop_map(NodeId), said)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The same verdict at the same moment, whatever the others say and when. I6: the model's
    /// order is that of tuples that end in the node, so it is total, and it depends on nothing
    /// that differs between hosts.
    #[test]
    fn a_contest_goes_as_in_the_model(
        settle in 1..6u64, own in 1..50u64, mut heard in prop::collection::vec(said(), 0..12),
    ) {
        heard.sort_by_key(|&(at, ..)| at);
        let timers = Timers {
            settle: Duration::from_millis(settle),
            settle_adapts: false,
            own: Duration::from_millis(own),
            ..Timers::default()
        };
        let expected = first_claim_wins(&timers, &heard);
        prop_assert_eq!(Driven::new(timers).contest(&heard), expected);
    }
}
