//! One connection attempt on one node: the states of spec 5 and their transitions.

use std::collections::VecDeque;
use std::time::Duration;

use super::view::{ClaimKey, View};
use super::{Counters, Instant, Listener, Output, Ticket, Turn, Verdict};
use crate::flow::{AttemptId, FlowKey, NodeId, Protocol};
use crate::wire::{Contest, Entry};

/// Where an attempt stands on this node. Each state owns what exists only in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The SYN waits for this node's turn.
    Held { ticket: Ticket, turn: Turn, until: Instant },
    /// Claimed by this node, settling.
    Claimed { ticket: Ticket, rank: u8, reasserted: bool, until: Instant },
    /// Claimed better by another node, which has not answered yet. Without a
    /// ticket the claim came before the SYN.
    Deferred { ticket: Option<Ticket>, to: NodeId, key: ClaimKey, until: Instant },
    /// The kernel has the SYN; no SYN-ACK was seen yet.
    Accepted { rank: u8, purpose: Purpose, reasserted: bool, until: Instant },
    /// The SYN-ACK with `isn` has left; the client has not chosen yet.
    Half { isn: u32, until: Instant },
    /// The client completed the handshake with this node.
    Owned { until: Instant },
    /// Another node's, or (`None`) given up by this one.
    Foreign { owner: Option<NodeId>, until: Instant },
}

/// Why a SYN was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To serve it.
    Serve,
    /// To let the kernel refuse it, since nobody can serve it.
    Refuse,
}

/// What can happen to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The SYN arrived, first or again.
    Syn(Ticket),
    /// Another node claims.
    Claim(ClaimKey),
    /// Another node's SYN-ACK has left.
    Own(NodeId),
    /// Another node passes or failed.
    Release(NodeId),
    /// This node's kernel sent a SYN-ACK.
    SynAck { isn: u32 },
    /// This node's kernel wants to refuse the SYN with a RST, which is held.
    Refusal(Ticket),
    /// A packet of the client acknowledges `number`. With the strict guard it
    /// is held; with the other one it is only a copy.
    Ack { number: u32, ticket: Option<Ticket> },
    /// The kernel does not track the flow of datagrams any more.
    Ended,
    /// The state's time is up.
    Timeout,
}

impl Event {
    /// Is this worth remembering about an attempt not heard of before?
    pub fn opens(&self) -> bool {
        match self {
            Event::Syn(_)
            | Event::Claim(_)
            | Event::Own(_)
            | Event::Release(_)
            | Event::SynAck { .. } => true,
            Event::Refusal(_) | Event::Ack { .. } | Event::Ended | Event::Timeout => false,
        }
    }

    /// The packet that this event holds.
    pub fn ticket(&self) -> Option<Ticket> {
        match *self {
            Event::Syn(ticket) | Event::Refusal(ticket) => Some(ticket),
            Event::Ack { ticket, .. } => ticket,
            Event::Claim(_)
            | Event::Own(_)
            | Event::Release(_)
            | Event::SynAck { .. }
            | Event::Ended
            | Event::Timeout => None,
        }
    }
}

impl State {
    /// This host's SYN-ACK has left.
    pub fn answered(&self) -> bool {
        matches!(self, State::Half { .. } | State::Owned { .. })
    }

    pub fn until(&self) -> Instant {
        match *self {
            State::Held { until, .. }
            | State::Claimed { until, .. }
            | State::Deferred { until, .. }
            | State::Accepted { until, .. }
            | State::Half { until, .. }
            | State::Owned { until }
            | State::Foreign { until, .. } => until,
        }
    }

    /// The SYN that waits for a verdict in this state.
    pub fn ticket(&self) -> Option<Ticket> {
        match *self {
            State::Held { ticket, .. } | State::Claimed { ticket, .. } => Some(ticket),
            State::Deferred { ticket, .. } => ticket,
            State::Accepted { .. }
            | State::Half { .. }
            | State::Owned { .. }
            | State::Foreign { .. } => None,
        }
    }
}

/// What transitions leave for the driver, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    pub outputs: VecDeque<Output>,
    pub entries: VecDeque<Entry>,
}

/// An attempt and what outlives its states.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// Unknown while only other nodes' entries were heard.
    pub flow: Option<FlowKey>,
    /// When the SYN that is or was held last came.
    pub arrived: Instant,
    /// Its SYN has been seen here, not only other nodes' entries about it.
    pub seen: bool,
    /// The kernel had a connection with these addresses and ports already.
    pub incumbent: bool,
    /// How many contests this attempt has had before.
    pub tries: u8,
    /// Nodes that passed, failed or stayed silent in this contest.
    pub excluded: Vec<NodeId>,
    /// Further datagrams of the flow that wait for the same verdict as the first.
    pub more: Vec<Ticket>,
    /// Some other node has said something about it, or a later attempt of its flow has come: a client
    /// that acknowledges what this node has not sent is then no sign of deafness.
    pub contested: bool,
    pub state: State,
}

/// The surroundings of a transition.
pub(super) struct Context<'a> {
    pub id: AttemptId,
    pub view: View<'a>,
    pub outbox: &'a mut Outbox,
    pub counters: &'a mut Counters,
}

impl Attempt {
    /// An attempt about which nothing is known yet.
    pub fn new(view: &View<'_>) -> Self {
        let until = view.now + view.config.timers.foreign;
        Self {
            flow: None,
            arrived: view.now,
            seen: false,
            incumbent: false,
            tries: 0,
            excluded: Vec::new(),
            more: Vec::new(),
            contested: false,
            state: State::Foreign { owner: None, until },
        }
    }

    /// Becomes another attempt. The memory of the lists is used again.
    pub fn renew(&mut self, fresh: Attempt) {
        let mut excluded = std::mem::take(&mut self.excluded);
        let mut more = std::mem::take(&mut self.more);
        excluded.clear();
        more.clear();
        *self = Attempt { excluded, more, ..fresh };
    }

    /// Packets of it that wait for a verdict.
    pub fn held(&self) -> usize {
        usize::from(self.state.ticket().is_some()) + self.more.len()
    }

    /// Takes the attempt through `event`. False when nothing is left to remember.
    #[must_use]
    pub fn handle(&mut self, event: Event, cx: &mut Context<'_>) -> bool {
        self.contested |= matches!(event, Event::Claim(_) | Event::Own(_));
        match self.next(event, cx) {
            Some(state) => {
                self.state = state;
                true
            }
            None => false,
        }
    }

    /// The state table of spec 5.4: every pair of state and event has its row.
    fn next(&mut self, event: Event, cx: &mut Context<'_>) -> Option<State> {
        use Event as E;
        use State as S;
        let now = cx.view.now;
        let timers = cx.view.config.timers;
        let same = Some(self.state);
        match (self.state, event) {
            // A datagram is not said again by itself: it shares the fate of the first.
            (
                S::Held { .. } | S::Claimed { .. } | S::Deferred { ticket: Some(_), .. },
                E::Syn(next),
            ) if self.is_datagrams() && self.more.len() < DATAGRAMS_MAX => {
                self.more.push(next);
                same
            }
            // A second copy of a SYN that is already held.
            (
                S::Held { .. } | S::Claimed { .. } | S::Deferred { ticket: Some(_), .. },
                E::Syn(copy),
            ) => {
                cx.decide(copy, Verdict::Drop);
                cx.counters.datagrams_full += u64::from(self.is_datagrams());
                same
            }
            (S::Deferred { ticket: None, to, key, until }, E::Syn(ticket)) => {
                self.arrived = now;
                self.seen = true;
                Some(S::Deferred { ticket: Some(ticket), to, key, until })
            }
            // The kernel answers its own SYN again; OWN tells the others why.
            (S::Accepted { .. }, E::Syn(ticket)) => {
                cx.decide(ticket, Verdict::Accept);
                same
            }
            (S::Half { .. } | S::Owned { .. }, E::Syn(ticket)) => {
                cx.decide(ticket, Verdict::Accept);
                cx.announce(self, 0);
                same
            }
            // The kernel of the owner goes on with a flow of datagrams and asks no daemon,
            // so nobody there would answer a claim.
            (S::Foreign { owner: Some(owner), .. }, E::Syn(ticket))
                if self.is_datagrams() && cx.view.is_live(owner) =>
            {
                let goes_on = self.seen;
                self.seen = true;
                self.yield_to_owner(cx, ticket);
                if goes_on {
                    self.block(cx);
                }
                same
            }
            // The answer was heard before the question.
            (S::Foreign { owner: Some(_), .. }, E::Syn(ticket)) if !self.seen => {
                self.seen = true;
                self.yield_to_owner(cx, ticket);
                same
            }
            // The owner re-asserts a retransmitted SYN, or it is contested again.
            (S::Foreign { owner, until }, E::Syn(ticket)) => {
                self.arrived = now;
                if self.seen {
                    self.tries = self.tries.saturating_add(1);
                    self.excluded.clear();
                }
                self.seen = true;
                match owner {
                    // A host that is late hears the owner's answer to this SYN before the SYN.
                    Some(to)
                        if cx.view.is_live(to)
                            && !self.incumbent
                            && until >= now + timers.foreign.saturating_sub(timers.own) =>
                    {
                        self.yield_to_owner(cx, ticket);
                        same
                    }
                    Some(to) if cx.view.is_live(to) && !self.incumbent => {
                        let key = cx.view.claim_key(cx.id, to, 0, 0);
                        Some(self.defer(cx, Some(ticket), key))
                    }
                    _ => Some(self.hold(cx, ticket)),
                }
            }

            (S::Held { ticket, .. }, E::Claim(key)) => Some(self.defer(cx, Some(ticket), key)),
            (S::Claimed { ticket, rank, reasserted, until }, E::Claim(theirs)) => {
                let ours = cx.view.claim_key(cx.id, cx.view.me(), self.tries, rank);
                if theirs < ours {
                    return Some(self.defer(cx, Some(ticket), theirs));
                }
                // They have not heard ours: say it again, once.
                if !reasserted && self.ready(cx) {
                    cx.claim(self, rank);
                }
                Some(S::Claimed { ticket, rank, reasserted: true, until })
            }
            // A peer's claim defers for T_own; as the order has an end, so has this. Strangers could
            // make up one better claim after the other.
            (S::Deferred { ticket, key, until, .. }, E::Claim(other)) if other < key => {
                let to = other.node;
                Some(match cx.view.is_live(to) {
                    true => self.defer(cx, ticket, other),
                    false => S::Deferred { ticket, to, key: other, until },
                })
            }
            (S::Deferred { .. }, E::Claim(_)) => same,
            // They have not heard that it is taken, and a worse claim gives way; once, or hosts that have
            // all accepted answer each other without end.
            (S::Accepted { rank, purpose, reasserted: false, until }, E::Claim(theirs))
                if cx.view.claim_key(cx.id, cx.view.me(), self.tries, rank) < theirs =>
            {
                cx.claim(self, rank);
                Some(S::Accepted { rank, purpose, reasserted: true, until })
            }
            (S::Accepted { .. }, E::Claim(_)) => same,
            (S::Half { .. } | S::Owned { .. }, E::Claim(_)) => {
                cx.own(self, 0);
                same
            }
            (S::Foreign { owner: None, .. }, E::Claim(key)) => Some(self.defer(cx, None, key)),
            (S::Foreign { owner: Some(_), .. }, E::Claim(_)) => same,

            (S::Held { .. } | S::Claimed { .. } | S::Deferred { .. }, E::Own(owner)) => {
                match self.state.ticket() {
                    Some(ticket) => self.yield_to_owner(cx, ticket),
                    None => self.incumbent = false,
                }
                Some(S::Foreign { owner: Some(owner), until: now + timers.foreign })
            }
            // Two answer datagrams and no client decides between them: the tie-break does.
            (S::Owned { .. }, E::Own(other)) if self.is_datagrams() => {
                cx.counters.conflicts += 1;
                if cx.tie_break(other) > cx.tie_break(cx.view.me()) {
                    cx.own(self, 0);
                    return same;
                }
                cx.outbox.outputs.extend(self.flow.map(Output::Destroy));
                cx.outbox.outputs.extend(self.flow.map(Output::Block));
                self.incumbent = false;
                Some(S::Foreign { owner: Some(other), until: now + timers.foreign })
            }
            // Two have answered: only the client's ACK decides between them.
            (S::Accepted { .. } | S::Half { .. } | S::Owned { .. }, E::Own(_)) => {
                cx.counters.conflicts += 1;
                same
            }
            (S::Foreign { .. }, E::Own(owner)) => {
                Some(S::Foreign { owner: Some(owner), until: now + timers.foreign })
            }

            (S::Held { ticket, until, .. }, E::Release(from)) => {
                self.exclude(from);
                let next = self.hold(cx, ticket);
                Some(match next {
                    S::Held { ticket, turn: turn @ Turn::Candidate { .. }, until: later } => {
                        S::Held { ticket, turn, until: until.min(later) }
                    }
                    other => other,
                })
            }
            (S::Deferred { ticket, to, .. }, E::Release(from)) if from == to => {
                self.exclude(from);
                Some(match ticket {
                    Some(ticket) => self.hold(cx, ticket),
                    None => S::Foreign { owner: None, until: now + timers.own },
                })
            }
            (S::Claimed { .. } | S::Deferred { .. }, E::Release(from)) => {
                self.exclude(from);
                same
            }
            (S::Foreign { owner: Some(owner), until }, E::Release(from)) if owner == from => {
                Some(S::Foreign { owner: None, until })
            }
            // It was heard before the SYN: the contest starts without that node.
            (S::Foreign { owner: None, .. }, E::Release(from)) if !self.seen => {
                self.exclude(from);
                Some(S::Foreign { owner: None, until: now + timers.own })
            }
            (
                S::Accepted { .. } | S::Half { .. } | S::Owned { .. } | S::Foreign { .. },
                E::Release(_),
            ) => same,

            // Who has claimed meanwhile wants to hear it in any case.
            (S::Accepted { rank, .. }, E::SynAck { isn }) => {
                match self.contested {
                    true => cx.own(self, rank),
                    false => cx.announce(self, rank),
                }
                Some(S::Half { isn, until: now + timers.owned })
            }
            // The kernel answers again, or still, what this node had given up,
            // forgotten or not accepted in this life: the fact decides.
            (
                S::Held { .. } | S::Claimed { .. } | S::Deferred { .. } | S::Foreign { .. },
                E::SynAck { isn },
            ) => {
                if let Some(ticket) = self.state.ticket() {
                    cx.decide(ticket, Verdict::Accept);
                }
                cx.announce(self, 0);
                Some(S::Half { isn, until: now + timers.owned })
            }
            // Also of an owned attempt, if a copy of its SYN comes when the connection is over: the
            // kernel has opened it anew, and an ACK must name the new sequence number.
            (S::Half { .. } | S::Owned { .. }, E::SynAck { isn }) => {
                Some(S::Half { isn, until: now + timers.owned })
            }

            (S::Accepted { purpose: Purpose::Refuse, rank, .. }, E::Refusal(rst)) => {
                cx.decide(rst, Verdict::Accept);
                cx.counters.refusals += 1;
                cx.announce(self, rank);
                None
            }
            // The listener went away under this attempt: the others go on.
            (S::Accepted { purpose: Purpose::Serve, .. }, E::Refusal(rst)) => {
                cx.decide(rst, Verdict::Drop);
                cx.counters.refused += 1;
                Some(self.give_up(cx))
            }
            (S::Half { .. } | S::Owned { .. }, E::Refusal(rst)) => {
                cx.decide(rst, Verdict::Accept);
                same
            }
            (
                S::Held { .. } | S::Claimed { .. } | S::Deferred { .. } | S::Foreign { .. },
                E::Refusal(rst),
            ) => {
                cx.decide(rst, Verdict::Drop);
                same
            }

            (S::Half { isn, .. }, E::Ack { number, ticket }) if names(isn, number, ticket) => {
                if let Some(ticket) = ticket {
                    cx.decide(ticket, Verdict::Accept);
                }
                cx.counters.confirmed += 1;
                Some(S::Owned { until: now + timers.owned })
            }
            (S::Half { .. }, E::Ack { ticket, .. }) => {
                if let Some(ticket) = ticket {
                    cx.decide(ticket, Verdict::Drop);
                }
                cx.counters.not_chosen += 1;
                cx.counters.unheard += u64::from(!self.contested);
                cx.outbox.outputs.extend(self.flow.map(Output::Destroy));
                self.incumbent = false;
                Some(S::Foreign { owner: None, until: now + timers.foreign })
            }
            (S::Owned { .. }, E::Ack { ticket, .. }) => {
                if let Some(ticket) = ticket {
                    cx.decide(ticket, Verdict::Accept);
                }
                same
            }
            (
                S::Held { .. }
                | S::Claimed { .. }
                | S::Deferred { .. }
                | S::Accepted { .. }
                | S::Foreign { .. },
                E::Ack { ticket, .. },
            ) => {
                if let Some(ticket) = ticket {
                    cx.decide(ticket, Verdict::Drop);
                    cx.counters.unknown_acks += 1;
                }
                same
            }

            (S::Owned { .. }, E::Ended) => None,
            (
                S::Held { .. }
                | S::Claimed { .. }
                | S::Deferred { .. }
                | S::Accepted { .. }
                | S::Half { .. }
                | S::Foreign { .. },
                E::Ended,
            ) => same,

            (
                S::Held { ticket, .. }
                | S::Claimed { ticket, .. }
                | S::Deferred { ticket: Some(ticket), .. },
                E::Timeout,
            ) if now.since(self.arrived) >= timers.stale => {
                self.release_held(cx, ticket, Verdict::Drop);
                cx.counters.stale += 1;
                None
            }
            (S::Held { ticket, turn, .. }, E::Timeout) => Some(self.take_turn(cx, ticket, turn)),
            (S::Claimed { ticket, rank, .. }, E::Timeout) if self.ready(cx) => {
                Some(self.accept(cx, ticket, rank, Purpose::Serve))
            }
            // The listener went away while the claim settled.
            (S::Claimed { ticket, .. }, E::Timeout) => Some(self.pass(cx, ticket)),
            // The claimant is silent: the contest goes on without it.
            (S::Deferred { ticket: Some(ticket), to, .. }, E::Timeout) => {
                self.exclude(to);
                self.tries = self.tries.saturating_add(1);
                cx.counters.takeovers += 1;
                Some(self.hold(cx, ticket))
            }
            (S::Accepted { .. }, E::Timeout) => {
                cx.counters.mute += 1;
                Some(self.give_up(cx))
            }
            // The owner remembers a flow of datagrams for as long as its kernel does. It says
            // so again in case that another host has one, too: nobody would notice.
            (S::Owned { .. }, E::Timeout) if self.is_datagrams() => {
                cx.outbox.outputs.extend(self.flow.map(Output::Inquire));
                cx.announce(self, 0);
                Some(S::Owned { until: now + timers.datagrams })
            }
            (
                S::Deferred { ticket: None, .. }
                | S::Half { .. }
                | S::Owned { .. }
                | S::Foreign { .. },
                E::Timeout,
            ) => None,
        }
    }

    fn is_datagrams(&self) -> bool {
        self.flow.is_some_and(|flow| flow.protocol == Protocol::Udp)
    }

    /// The flow of an attempt whose packet is held.
    fn known_flow(&self) -> FlowKey {
        self.flow.unwrap_or_else(|| unreachable!("a packet is held, so its flow is known"))
    }

    /// One verdict for all packets that are held.
    fn release_held(&mut self, cx: &mut Context<'_>, ticket: Ticket, verdict: Verdict) {
        cx.decide(ticket, verdict);
        self.more.drain(..).for_each(|ticket| cx.decide(ticket, verdict));
    }

    /// The kernel can spare the daemon what comes next.
    fn block(&self, cx: &mut Context<'_>) {
        cx.outbox.outputs.extend(self.flow.map(Output::Block));
    }

    /// Another node has answered.
    fn yield_to_owner(&mut self, cx: &mut Context<'_>, ticket: Ticket) {
        self.release_held(cx, ticket, Verdict::Drop);
        cx.counters.yielded += 1;
        self.incumbent = false;
    }

    /// Holds the SYN until this node's turn, if it has one.
    fn hold(&mut self, cx: &mut Context<'_>, ticket: Ticket) -> State {
        let flow = self.known_flow();
        match cx.view.turn(&flow, self.tries, self.incumbent, &self.excluded) {
            Turn::Bystander => self.leave_to_hash(cx, ticket),
            turn => self.hold_for(cx, ticket, turn),
        }
    }

    fn hold_for(&self, cx: &Context<'_>, ticket: Ticket, turn: Turn) -> State {
        let timers = &cx.view.config.timers;
        let wait = match turn {
            Turn::Candidate { position, .. } => cx.view.pace.slot() * u32::from(position),
            Turn::Spectator => timers.own * 2,
            Turn::LastResort { position } => timers.own * u32::from(position),
            Turn::Designated { wait: true } => cx.view.pace.slot(),
            Turn::Designated { wait: false } | Turn::Bystander => Duration::ZERO,
        };
        State::Held { ticket, turn, until: self.while_fresh(cx, wait) }
    }

    /// This try is another node's by hash, or nobody's; the next one is the next node's.
    fn leave_to_hash(&mut self, cx: &mut Context<'_>, ticket: Ticket) -> State {
        let left = self.leave(cx, ticket);
        // A question and its answer are not worth it, a flow that goes on is.
        if self.is_datagrams() && self.tries > 0 {
            self.block(cx);
        }
        cx.counters.left_to_hash += 1;
        left
    }

    /// Does nothing about this try; the next one is counted on from it.
    fn leave(&mut self, cx: &mut Context<'_>, ticket: Ticket) -> State {
        self.release_held(cx, ticket, Verdict::Drop);
        State::Foreign { owner: None, until: cx.view.now + cx.view.config.timers.tries }
    }

    /// Leaves the attempt to the claimant of `key` for T_own.
    fn defer(&self, cx: &Context<'_>, ticket: Option<Ticket>, key: ClaimKey) -> State {
        let own = cx.view.config.timers.own;
        let until = match ticket {
            Some(_) => self.while_fresh(cx, own),
            None => cx.view.now + own,
        };
        State::Deferred { ticket, to: key.node, key, until }
    }

    /// The end of a wait with a held SYN: never beyond T_stale.
    fn while_fresh(&self, cx: &Context<'_>, wait: Duration) -> Instant {
        (cx.view.now + wait).min(self.arrived + cx.view.config.timers.stale)
    }

    /// What a node does when its turn has come and nobody has claimed.
    fn take_turn(&mut self, cx: &mut Context<'_>, ticket: Ticket, turn: Turn) -> State {
        let flow = self.known_flow();
        let ready = self.ready(cx);
        match turn {
            Turn::Candidate { position, rank } if ready => {
                if cx.view.may_be_eager(&flow, position, self.tries) {
                    cx.counters.eager += 1;
                    return self.accept(cx, ticket, rank, Purpose::Serve);
                }
                cx.claim(self, rank);
                let until = self.while_fresh(cx, cx.view.pace.settle());
                State::Claimed { ticket, rank, reasserted: false, until }
            }
            Turn::Candidate { .. } => self.pass(cx, ticket),
            Turn::Spectator => self.hold_for(cx, ticket, cx.view.last_resort(&flow)),
            Turn::LastResort { .. } | Turn::Designated { .. } if ready => {
                self.accept(cx, ticket, u8::MAX, Purpose::Serve)
            }
            // A service that is only busy is not refused: the client tries again.
            Turn::Designated { .. } if cx.view.listener(&flow) == Listener::Busy => {
                self.leave_to_hash(cx, ticket)
            }
            // Nobody refuses a datagram: who serves it may not be known here.
            Turn::LastResort { .. } | Turn::Designated { .. } if self.is_datagrams() => {
                self.leave_to_hash(cx, ticket)
            }
            // Who serves it is late; the client tries again.
            Turn::LastResort { .. } if cx.view.served_by_peer(&flow) => {
                cx.counters.left_to_peers += 1;
                self.leave(cx, ticket)
            }
            Turn::LastResort { .. } | Turn::Designated { .. } => {
                self.accept(cx, ticket, u8::MAX, Purpose::Refuse)
            }
            Turn::Bystander => self.leave_to_hash(cx, ticket),
        }
    }

    /// This node has its turn and cannot serve: the next one need not wait for it.
    fn pass(&mut self, cx: &mut Context<'_>, ticket: Ticket) -> State {
        // Made-up nodes that have passed must not keep this one in: its turn would come again at once.
        self.excluded.truncate(EXCLUDED_MAX - 1);
        self.exclude(cx.view.me());
        cx.release(self);
        self.hold(cx, ticket)
    }

    /// Can this node serve the attempt now?
    fn ready(&self, cx: &Context<'_>) -> bool {
        self.flow.is_some_and(|flow| cx.view.listener(&flow) == Listener::Ready)
    }

    fn accept(
        &mut self,
        cx: &mut Context<'_>,
        ticket: Ticket,
        rank: u8,
        purpose: Purpose,
    ) -> State {
        self.release_held(cx, ticket, Verdict::Accept);
        cx.counters.accepted += 1;
        let timers = cx.view.config.timers;
        if self.is_datagrams() {
            // There is no SYN-ACK to wait for: who accepts owns.
            cx.announce(self, rank);
            return State::Owned { until: cx.view.now + timers.datagrams };
        }
        State::Accepted { rank, purpose, reasserted: false, until: cx.view.now + timers.emit }
    }

    /// This node accepted and cannot answer: it says so and forgets its claim.
    fn give_up(&self, cx: &mut Context<'_>) -> State {
        cx.release(self);
        State::Foreign { owner: None, until: cx.view.now + cx.view.config.timers.foreign }
    }

    fn exclude(&mut self, node: NodeId) {
        // More nodes than there can be peers are made up.
        if self.excluded.len() < EXCLUDED_MAX && !self.excluded.contains(&node) {
            self.excluded.push(node);
        }
    }
}

/// Nodes that a contest goes on without, at most.
pub(super) const EXCLUDED_MAX: usize = 64;

/// Datagrams of one flow held beside the first.
pub(super) const DATAGRAMS_MAX: usize = 15;

/// How far a client may have acknowledged when a copy of its packet is seen, in bytes.
const SENT_MAX: u32 = 1 << 24;

/// Does an acknowledgement of `number` name this host, whose sequence numbers
/// began with `isn`? A held packet is the first that the guard lets pass, so it
/// must acknowledge the SYN-ACK and nothing else. A copy may be of any later moment.
fn names(isn: u32, number: u32, ticket: Option<Ticket>) -> bool {
    let ahead = number.wrapping_sub(isn.wrapping_add(1));
    match ticket {
        Some(_) => ahead == 0,
        None => ahead < SENT_MAX,
    }
}

impl Context<'_> {
    fn decide(&mut self, ticket: Ticket, verdict: Verdict) {
        self.outbox.outputs.push_back(Output::Decide(ticket, verdict));
    }

    fn claim(&mut self, attempt: &Attempt, rank: u8) {
        self.counters.claims += 1;
        let contest = self.contest(attempt, rank);
        self.outbox.entries.push_back(Entry::Claim(contest));
    }

    /// Says that this node has answered, if anybody wants to hear it.
    fn announce(&mut self, attempt: &Attempt, rank: u8) {
        if self.view.announces() {
            self.own(attempt, rank);
        }
    }

    fn own(&mut self, attempt: &Attempt, rank: u8) {
        self.counters.owns += 1;
        let contest = self.contest(attempt, rank);
        self.outbox.entries.push_back(Entry::Own(contest));
    }

    fn release(&mut self, attempt: &Attempt) {
        self.counters.releases += 1;
        let contest = self.contest(attempt, u8::MAX);
        self.outbox.entries.push_back(Entry::Release(contest));
    }

    fn tie_break(&self, node: NodeId) -> (u64, NodeId) {
        (self.view.config.key.tie_break(self.id, node), node)
    }

    fn contest(&self, attempt: &Attempt, rank: u8) -> Contest {
        let port = attempt.flow.map_or(0, |flow| flow.service.port());
        Contest { attempt: self.id, port, tries: attempt.tries, rank }
    }
}

#[cfg(test)]
mod tests;
