//! What is known of each attempt: who got it, said, answered and has it.

use std::collections::{BTreeMap, BTreeSet};

use clusterd::flow::{AttemptId, NodeId};
use clusterd::protocol::Instant;

use crate::host::cluster_key;
use crate::packet::{FlowId, Segment};

/// What orders the claims of one attempt; the least wins (spec 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClaimKey {
    pub tries: u8,
    pub rank: u8,
    pub tie_break: u64,
    pub node: NodeId,
}

impl ClaimKey {
    pub(super) fn new(id: AttemptId, node: NodeId, tries: u8, rank: u8) -> Self {
        Self { tries, rank, tie_break: cluster_key().tie_break(id, node), node }
    }
}

/// What a peer says about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Claim(ClaimKey),
    Own(NodeId),
    Release(NodeId),
}

/// What a host has claimed by.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnClaim {
    pub key: ClaimKey,
    /// When it left first.
    pub first: Instant,
    /// When it left last: who has forgotten an attempt claims in a new contest by the same key.
    pub last: Instant,
    /// How often it has left since the host was told of a SYN.
    pub times: usize,
}

/// An attempt on one host.
#[derive(Clone, Debug, Default)]
pub(super) struct Local {
    /// Its SYN has come.
    pub arrived: bool,
    /// What it has heard from peers that it trusts, and when; not from copies of a frame.
    pub heard: Vec<(Instant, Word)>,
    /// Sender, incarnation and number of the frames that said so.
    pub frames: BTreeSet<(NodeId, u64, u64)>,
    /// Its own claim of the latest contest.
    pub claim: Option<OwnClaim>,
    /// It has accepted the SYN, or answered it.
    pub accepted: bool,
    /// Hosts of which it knew that they serve when it decided to accept, as bits: what it answers rests on that.
    pub knew: u64,
    /// It has said OWN.
    pub said_own: bool,
}

/// An attempt on all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempt {
    /// Who has answered with which number.
    pub answers: Vec<(u16, u32)>,
    /// Whose application has it.
    owner: Option<u16>,
    /// Hosts known to all that have refused it when they decided so, as bits, if any has.
    pub refused: Option<u64>,
    /// A SYN of it came last, or an answer left.
    pub active: Instant,
    /// All claims, one for each host and contest.
    pub claims: BTreeSet<ClaimKey>,
    pub at: BTreeMap<u16, Local>,
}

/// A half-open connection on a host.
#[derive(Clone, Copy, Debug)]
struct Half {
    client_isn: u32,
    isn: u32,
}

/// All attempts of a run.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    by_id: BTreeMap<AttemptId, (FlowId, u32)>,
    attempts: BTreeMap<(FlowId, u32), Attempt>,
    halves: BTreeMap<(u16, FlowId), Half>,
    /// What clients have acknowledged, as far as a host has seen it.
    named: BTreeMap<(u16, FlowId), BTreeSet<u32>>,
    /// RSTs that hosts have sent, by flow.
    resets: BTreeMap<FlowId, Vec<(u16, u32)>>,
}

impl Attempts {
    /// The attempt that an entry is about, if its SYN has come to any host.
    pub fn find(&mut self, id: AttemptId) -> Option<((FlowId, u32), &mut Attempt)> {
        let about = *self.by_id.get(&id)?;
        Some((about, self.attempts.get_mut(&about)?))
    }

    pub fn get(&self, about: (FlowId, u32)) -> Option<&Attempt> {
        self.attempts.get(&about)
    }

    /// Has this host ever answered in this flow? Then it may be the incumbent of the next attempt.
    pub fn has_answered(&self, host: u16, flow: FlowId) -> bool {
        self.halves.contains_key(&(host, flow))
    }

    /// Has a SYN of this attempt come to the host?
    pub fn has_got(&self, host: u16, flow: FlowId, isn: u32) -> bool {
        let attempt = self.attempts.get(&(flow, isn));
        attempt.and_then(|attempt| attempt.at.get(&host)).is_some_and(|local| local.arrived)
    }

    /// A SYN has come to a host. True if it is the first of its attempt there.
    pub fn arrived(&mut self, at: Instant, host: u16, syn: &Segment) -> bool {
        let about = (syn.flow, syn.sequence);
        let attempt = self.attempts.entry(about).or_insert_with(|| {
            let id = cluster_key().attempt(&syn.flow.key(), syn.sequence);
            self.by_id.insert(id, about);
            Attempt::default()
        });
        attempt.active = at;
        let first = !attempt.at.contains_key(&host);
        let local = attempt.at.entry(host).or_default();
        local.arrived = true;
        if let Some(claim) = &mut local.claim {
            claim.times = 0;
        }
        first
    }

    /// A client's segment that acknowledges something has come to a host.
    pub fn acknowledged(&mut self, host: u16, segment: &Segment) {
        let named = self.named.entry((host, segment.flow)).or_default();
        named.insert(segment.acknowledgement);
    }

    /// A host answers a SYN. True if it has not done so before.
    pub fn answers(&mut self, at: Instant, host: u16, syn_ack: &Segment) -> bool {
        let (client_isn, isn) = (syn_ack.acknowledgement.wrapping_sub(1), syn_ack.sequence);
        self.halves.insert((host, syn_ack.flow), Half { client_isn, isn });
        let attempt = self.attempts.entry((syn_ack.flow, client_isn)).or_default();
        attempt.active = attempt.active.max(at);
        attempt.at.entry(host).or_default().accepted = true;
        let answer = (host, isn);
        let new = !attempt.answers.contains(&answer);
        if new {
            attempt.answers.push(answer);
        }
        new
    }

    /// A host decides to accept a SYN that it holds, and knows of these.
    pub fn knows(&mut self, host: u16, syn: &Segment, known: u64) {
        if let Some(attempt) = self.attempts.get_mut(&(syn.flow, syn.sequence)) {
            attempt.at.entry(host).or_default().knew = known;
        }
    }

    /// A host refuses a SYN on behalf of all that it knew of.
    pub fn refuses(&mut self, host: u16, refusal: &Segment) {
        let about = (refusal.flow, refusal.acknowledgement.wrapping_sub(1));
        if let Some(attempt) = self.attempts.get_mut(&about) {
            let knew = attempt.at.get(&host).map_or(0, |local| local.knew) | 1 << host;
            attempt.refused = Some(attempt.refused.map_or(knew, |all| all & knew));
        }
    }

    pub fn said_rst(&mut self, host: u16, rst: &Segment) {
        self.resets.entry(rst.flow).or_default().push((host, rst.sequence));
    }

    /// Who has sent a RST with this number, and with which number it had answered the attempt.
    pub fn resets(&self, flow: FlowId, isn: u32, number: u32) -> Vec<(u16, Option<u32>)> {
        let answer = |host| {
            let answers = self.attempts.get(&(flow, isn)).map(|attempt| &attempt.answers);
            answers.and_then(|all| all.iter().find(|it| it.0 == host)).map(|it| it.1)
        };
        let sent = self.resets.get(&flow).into_iter().flatten();
        let mut senders: Vec<_> =
            sent.filter(|it| it.1 == number).map(|&(host, _)| (host, answer(host))).collect();
        senders.dedup();
        senders
    }

    /// Who has answered an attempt with this number.
    pub fn answered_with(&self, flow: FlowId, isn: u32, number: u32) -> Option<u16> {
        let answers = &self.attempts.get(&(flow, isn))?.answers;
        answers.iter().find(|answer| answer.1 == number).map(|answer| answer.0)
    }

    /// A host has accepted a SYN that it held. Returns the attempt there as it was before.
    pub fn accepts(&mut self, host: u16, syn: &Segment) -> Option<Local> {
        let local = self.attempts.get_mut(&(syn.flow, syn.sequence))?.at.get_mut(&host)?;
        let before = local.clone();
        local.accepted = true;
        Some(before)
    }

    /// An application has an attempt. Returns which host's has it already.
    pub fn accepted(&mut self, host: u16, flow: FlowId, isn: u32) -> Option<u16> {
        let attempt = self.attempts.entry((flow, isn)).or_default();
        attempt.owner.replace(host)
    }

    /// The attempt of an answer that is removed although no client has named another one.
    pub fn destroyed_without_reason(
        &self,
        host: u16,
        flow: FlowId,
        isn: u32,
    ) -> Option<(FlowId, u32)> {
        let half = self.halves.get(&(host, flow)).filter(|half| half.isn == isn)?;
        let mut named = self.named.get(&(host, flow)).into_iter().flatten();
        let another = named.any(|&number| number != isn.wrapping_add(1));
        (!another).then_some((flow, half.client_isn))
    }

    /// A host has lost power, and all it knew.
    pub fn killed(&mut self, host: u16) {
        self.halves.retain(|&(of, _), _| of != host);
        self.named.retain(|&(of, _), _| of != host);
        for attempt in self.attempts.values_mut() {
            attempt.at.remove(&host);
        }
    }
}
