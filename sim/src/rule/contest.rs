//! Claims and nothing else: the rule of 2000, and ways to keep claims from crossing.
//!
//! A host waits (*back-off*), claims, waits again (*settling*) and accepts unless it has
//! heard a better claim. In 2000 there was neither wait, and the first claim seen won, which
//! for each host may be its own.
//!
//! Three settings add what the protocol does or must not do, one by one: *re-assertion* (who is
//! better says so again), *OWN* (who has answered says so), and *retraction* (who has answered
//! and hears a better claim takes its answer back, which the client may have taken).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use clusterd::flow::{AttemptId, FlowKey, NodeId};
use clusterd::protocol::{Counters, Instant, Output, Syn, Ticket, Verdict};

use crate::chance::{Chance, Entity, after};
use crate::host::{cluster_key, node_id};
use crate::scenario::{BackOff, Rule, Scenario};

/// How long a decided attempt is remembered.
const MEMORY: Duration = Duration::from_secs(3);
/// Bytes of a claim on the wire of 2000: magic, addresses and ports, as many here.
const CLAIM_BYTES: usize = 40;
/// So long a host waits for its own claim to come back.
const ECHO: Duration = Duration::from_millis(100);

/// What a frame says, as its byte after attempt and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// This host wants to answer.
    Claim = 0,
    /// It has answered.
    Own = 1,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Claims at this time.
    Waits { ticket: Ticket, flow: FlowKey, until: Instant },
    /// Has claimed and accepts at this time.
    Claimed { ticket: Ticket, flow: FlowKey, until: Instant },
    /// Has accepted.
    Answered { flow: FlowKey, until: Instant },
    /// Another host's claim came first.
    Over { until: Instant },
}

impl State {
    fn flow(self) -> Option<FlowKey> {
        match self {
            State::Waits { flow, .. }
            | State::Claimed { flow, .. }
            | State::Answered { flow, .. } => Some(flow),
            State::Over { .. } => None,
        }
    }

    fn until(self) -> Instant {
        match self {
            State::Waits { until, .. }
            | State::Claimed { until, .. }
            | State::Answered { until, .. }
            | State::Over { until } => until,
        }
    }
}

/// One host in contests.
pub struct Contest {
    host: usize,
    hosts: usize,
    first_seen_wins: bool,
    /// Its own claim counts when it comes back.
    echo: bool,
    back_off: BackOff,
    window: Duration,
    settle: Duration,
    reassert: bool,
    owns: bool,
    retract: bool,
    chance: Chance,
    attempts: BTreeMap<AttemptId, State>,
    deadlines: std::collections::BTreeSet<(Instant, AttemptId)>,
    frames: VecDeque<Vec<u8>>,
    /// What is to be done.
    pub outputs: VecDeque<Output>,
    /// What was counted.
    pub counters: Counters,
}

impl Contest {
    /// A host of a scenario.
    pub fn new(scenario: &Scenario, seed: u64, host: usize) -> Self {
        let original = scenario.rule == Rule::Original;
        Self {
            host,
            hosts: scenario.hosts,
            first_seen_wins: original,
            echo: original && scenario.echo,
            back_off: if original { BackOff::None } else { scenario.back_off },
            window: scenario.window,
            settle: match original {
                true if scenario.echo => ECHO,
                true => Duration::ZERO,
                false => scenario.settle,
            },
            reassert: !original && scenario.reassert,
            owns: !original && scenario.owns,
            retract: !original && scenario.retract,
            chance: Chance::new(seed, Entity::Rule(host as u16)),
            attempts: BTreeMap::new(),
            deadlines: std::collections::BTreeSet::new(),
            frames: VecDeque::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    fn set(&mut self, id: AttemptId, state: State) {
        if let Some(before) = self.attempts.insert(id, state) {
            self.deadlines.remove(&(before.until(), id));
        }
        self.deadlines.insert((state.until(), id));
    }

    /// A SYN is held.
    pub fn handle_syn(&mut self, now: Instant, syn: Syn) {
        self.counters.syns += 1;
        let id = cluster_key().attempt(&syn.flow, syn.isn);
        if self.attempts.contains_key(&id) {
            self.decide(syn.ticket, Verdict::Drop);
            return;
        }
        let wait = self.wait(&syn);
        let (ticket, flow) = (syn.ticket, syn.flow);
        self.set(id, State::Waits { ticket, flow, until: after(now, wait) });
    }

    /// How long this host holds its claim back, in nanoseconds.
    fn wait(&mut self, syn: &Syn) -> u64 {
        let window = self.window.as_nanos() as f64;
        match self.back_off {
            BackOff::None => 0,
            BackOff::Uniform => (window * self.chance.unit()) as u64,
            // Nonnenmacher and Biersack 1999: most wait nearly the whole window.
            BackOff::Exponential => {
                let lambda = (self.hosts as f64).ln().max(1.0) + 1.0;
                let drawn = (1.0 + self.chance.unit() * (lambda.exp() - 1.0)).ln() / lambda;
                (window * drawn) as u64
            }
            BackOff::Rank => {
                let flow = cluster_key().flow(&syn.flow);
                let weight = |host: usize| cluster_key().weight(flow, node_id(host));
                let own = weight(self.host);
                let rank = (0..self.hosts).filter(|&host| weight(host) > own).count();
                (window * rank as f64) as u64
            }
        }
    }

    /// Whether that host's claim comes before this host's: all hosts agree on that. Who waits less
    /// in the order of ranks is better in it, too.
    fn is_better(&self, other: NodeId, id: AttemptId, flow: &FlowKey) -> bool {
        let own = node_id(self.host);
        match self.back_off {
            BackOff::Rank => {
                let flow = cluster_key().flow(flow);
                cluster_key().weight(flow, other) > cluster_key().weight(flow, own)
            }
            BackOff::None | BackOff::Uniform | BackOff::Exponential => {
                let order = |node| (cluster_key().tie_break(id, node), node);
                order(other) < order(own)
            }
        }
    }

    fn decide(&mut self, ticket: Ticket, verdict: Verdict) {
        self.counters.accepted += u64::from(verdict == Verdict::Accept);
        self.outputs.push_back(Output::Decide(ticket, verdict));
    }

    fn say(&mut self, word: Word, id: AttemptId) {
        match word {
            Word::Claim => self.counters.claims += 1,
            Word::Own => self.counters.owns += 1,
        }
        let mut bytes = id.0.to_vec();
        bytes.extend(node_id(self.host).0.to_be_bytes());
        bytes.push(word as u8);
        bytes.resize(CLAIM_BYTES, 0);
        self.frames.push_back(bytes);
    }

    /// Another host claims, or has answered.
    pub fn handle_frame(&mut self, now: Instant, bytes: &[u8]) {
        let Some((id, rest)) = bytes.split_first_chunk::<16>() else { return };
        let Some((from, rest)) = rest.split_first_chunk() else { return };
        let from = NodeId(u32::from_be_bytes(*from));
        let word = if rest.first() == Some(&1) { Word::Own } else { Word::Claim };
        let id = AttemptId(*id);
        if from == node_id(self.host) {
            self.handle_echo(now, id);
            return;
        }
        let over = State::Over { until: now + MEMORY };
        let state = self.attempts.get(&id).copied();
        let better =
            state.and_then(State::flow).is_some_and(|flow| self.is_better(from, id, &flow));
        match (state, word) {
            (None, _) => self.set(id, over),
            (Some(State::Waits { ticket, .. }), _)
            | (Some(State::Claimed { ticket, .. }), Word::Own) => {
                self.decide(ticket, Verdict::Drop);
                self.set(id, over);
            }
            (Some(State::Claimed { ticket, .. }), Word::Claim) if self.echo => {
                self.decide(ticket, Verdict::Drop);
                self.set(id, over);
            }
            (Some(State::Claimed { .. }), Word::Claim) if self.first_seen_wins => {}
            (Some(State::Claimed { ticket, .. }), Word::Claim) if better => {
                self.decide(ticket, Verdict::Drop);
                self.set(id, over);
            }
            (Some(State::Claimed { .. }), Word::Claim) if self.reassert => {
                self.say(Word::Claim, id);
            }
            (Some(State::Answered { flow, .. }), Word::Claim) if self.retract && better => {
                self.outputs.push_back(Output::Destroy(flow));
                self.set(id, over);
            }
            (Some(State::Answered { .. }), Word::Claim) if self.owns => self.say(Word::Own, id),
            // Who is worse does not reply to that, so this comes to an end.
            (Some(State::Answered { .. }), Word::Claim) if self.reassert && !better => {
                self.say(Word::Claim, id);
            }
            // Two have answered: the client decides.
            (Some(State::Claimed { .. } | State::Answered { .. } | State::Over { .. }), _) => {}
        }
    }

    /// This host's own claim has come back.
    fn handle_echo(&mut self, now: Instant, id: AttemptId) {
        if let Some(&State::Claimed { ticket, flow, .. }) = self.attempts.get(&id) {
            self.decide(ticket, Verdict::Accept);
            self.set(id, State::Answered { flow, until: now + MEMORY });
        }
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(until, id)) = self.deadlines.first().filter(|(until, _)| *until <= now) {
            match self.attempts.get(&id).copied() {
                Some(State::Waits { ticket, flow, .. }) => {
                    self.say(Word::Claim, id);
                    self.set(id, State::Claimed { ticket, flow, until: now + self.settle });
                }
                Some(State::Claimed { ticket, flow, .. }) => {
                    self.decide(ticket, Verdict::Accept);
                    if self.owns {
                        self.say(Word::Own, id);
                    }
                    self.set(id, State::Answered { flow, until: now + MEMORY });
                }
                Some(State::Answered { .. } | State::Over { .. }) | None => {
                    self.attempts.remove(&id);
                    self.deadlines.remove(&(until, id));
                }
            }
        }
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Instant {
        self.deadlines.first().map_or(Instant(u64::MAX), |&(until, _)| until)
    }

    /// The next claim to send.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }
}
