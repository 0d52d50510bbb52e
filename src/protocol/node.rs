//! The protocol core of one host: events in, outputs out.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::attempt::{Attempt, Context, Event, Outbox, Purpose, State};
use super::membership::{Heard, Membership};
use super::view::{Services, View};
use super::{Config, Counters, Instant, Listener, Notice, Output, Syn, Ticket, Timers, Verdict};
use crate::flow::{AttemptId, FlowKey, NodeId};
use crate::wire::{Entry, Frame, Header};

/// One host of the cluster. See the [module](super) for how to drive it.
#[derive(Clone, Debug)]
pub struct Node {
    config: Config,
    membership: Membership,
    services: Services,
    attempts: HashMap<AttemptId, Attempt, BuildHasherDefault<IdHasher>>,
    /// This node's answered attempts by flow, for packets that do not name the attempt.
    answered: HashMap<FlowKey, AttemptId>,
    /// Connections that an earlier daemon of this host has accepted.
    adopted: HashSet<FlowKey>,
    /// One deadline for each attempt, the earliest first.
    deadlines: BTreeSet<(Instant, AttemptId)>,
    outbox: Outbox,
    counters: Counters,
    /// SYNs that wait for a verdict now.
    held: usize,
    sequence: u64,
    started: Instant,
    joined: bool,
    /// Members or services changed last.
    changed: Instant,
    hello_at: Instant,
}

impl Node {
    /// A node that starts to listen at `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            membership: Membership::default(),
            services: Services::default(),
            attempts: HashMap::default(),
            answered: HashMap::new(),
            adopted: HashSet::new(),
            deadlines: BTreeSet::new(),
            outbox: Outbox::default(),
            counters: Counters::default(),
            held: 0,
            sequence: 0,
            started: now,
            joined: false,
            changed: now,
            hello_at: now,
        }
    }

    // Inputs.

    /// A frame of another host came.
    pub fn handle_frame(&mut self, now: Instant, frame: &Frame) {
        let from = frame.header.node;
        if from == self.config.node {
            if frame.header.incarnation != self.config.incarnation {
                self.counters.own_id_frames += 1;
                self.notice(Notice::DuplicateNodeId);
            }
            return;
        }
        let mut notices = Vec::new();
        let heard = self.membership.hear(now, &frame.header, self.config.limits.peers, |notice| {
            notices.push(notice);
        });
        match heard {
            Heard::Fresh { lost } => {
                // A forged sequence number may jump by any amount, and again.
                self.counters.lost_frames = self.counters.lost_frames.saturating_add(lost);
            }
            Heard::Stale => {
                self.counters.stale_frames += 1;
                return;
            }
            Heard::TooMany => {
                self.counters.too_many_peers += 1;
                return;
            }
        }
        self.counters.frames += 1;
        for notice in notices {
            self.changed = now;
            // A newcomer learns of this node and its services at once.
            self.hello_at = self.hello_at.min(now);
            self.notice(notice);
        }
        for entry in &frame.entries {
            self.handle_entry(now, from, entry);
        }
    }

    fn handle_entry(&mut self, now: Instant, from: NodeId, entry: &Entry) {
        let (id, event) = match entry {
            Entry::Hello { unavailable } => {
                if self.membership.set_unavailable(from, unavailable) {
                    self.changed = now;
                }
                return;
            }
            Entry::Claim(contest) => {
                let view = self.view(now);
                let key = view.claim_key(contest.attempt, from, contest.tries, contest.rank);
                (contest.attempt, Event::Claim(key))
            }
            Entry::Own(contest) => (contest.attempt, Event::Own(from)),
            Entry::Release(contest) => (contest.attempt, Event::Release(from)),
        };
        self.step(now, id, event, None);
    }

    /// A SYN to the virtual IP is held.
    pub fn handle_syn(&mut self, now: Instant, syn: Syn) {
        let Syn { ticket, flow, isn, incumbent } = syn;
        if self.held >= self.config.limits.held {
            self.counters.held_full += 1;
            self.outbox.outputs.push_back(Output::Decide(ticket, Verdict::Drop));
            return;
        }
        self.counters.syns += 1;
        let id = self.config.key.attempt(&flow, isn);
        let incumbent = incumbent || self.answered.contains_key(&flow);
        self.step(now, id, Event::Syn(ticket), Some((flow, incumbent)));
    }

    /// The state of a port's listener, to be said before a SYN to that port
    /// and whenever the driver looks.
    pub fn handle_listener(&mut self, now: Instant, port: u16, listener: Listener) {
        if self.services.set(now, port, listener) {
            self.changed = now;
            self.hello_at = self.hello_at.min(now);
            self.notice(match listener {
                Listener::Absent => Notice::ServiceDown(port),
                Listener::Ready | Listener::Busy => Notice::ServiceUp(port),
            });
        }
    }

    /// This host's kernel sent a SYN-ACK with sequence number `isn` for the
    /// SYN with `client_isn`.
    pub fn handle_syn_ack(&mut self, now: Instant, flow: FlowKey, client_isn: u32, isn: u32) {
        let id = self.config.key.attempt(&flow, client_isn);
        self.step(now, id, Event::SynAck { isn }, Some((flow, false)));
    }

    /// This host's kernel wants to answer the SYN with `client_isn` by a RST, which is held.
    pub fn handle_refusal(&mut self, now: Instant, flow: FlowKey, client_isn: u32, rst: Ticket) {
        let id = self.config.key.attempt(&flow, client_isn);
        let lost = matches!(
            self.attempts.get(&id).map(|attempt| attempt.state),
            Some(State::Accepted { purpose: Purpose::Serve, .. })
        );
        if lost {
            self.handle_listener(now, flow.service.port(), Listener::Absent);
        }
        self.step(now, id, Event::Refusal(rst), None);
    }

    /// A client acknowledged `number` in a flow that is not confirmed yet.
    ///
    /// With a ticket the packet is held (strict guard). Without one, a packet
    /// was seen that shows which number the client acknowledges.
    pub fn handle_ack(&mut self, now: Instant, flow: FlowKey, number: u32, ticket: Option<Ticket>) {
        if let Some(&id) = self.answered.get(&flow) {
            self.step(now, id, Event::Ack { number, ticket }, None);
            return;
        }
        let adopted = self.adopted.remove(&flow);
        if let Some(ticket) = ticket {
            let verdict = if adopted { Verdict::Accept } else { Verdict::Drop };
            self.counters.unknown_acks += u64::from(!adopted);
            self.outbox.outputs.push_back(Output::Decide(ticket, verdict));
        }
    }

    /// This host had an established connection when the daemon started.
    pub fn adopt(&mut self, flow: FlowKey) {
        if self.adopted.len() < self.config.limits.adopted {
            self.adopted.insert(flow);
        }
    }

    /// Time has come to [`Node::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.joined && now.since(self.started) >= self.config.timers.listen {
            self.joined = true;
            self.changed = now;
            self.hello_at = now;
            self.notice(Notice::Joined);
        }
        let Timers { hello, suspect, .. } = self.config.timers;
        if now.since(self.hello_at) + hello >= suspect {
            // This node was paused: the others do not count on it any more, and
            // have answered what it still holds.
            self.changed = now;
        }
        let mut notices = Vec::new();
        self.membership.expire(now, &self.config.timers, |notice| notices.push(notice));
        for notice in notices {
            self.changed = now;
            self.notice(notice);
        }
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.step(now, id, Event::Timeout, None);
        }
    }

    // Outputs.

    /// The next thing for the driver to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.outputs.pop_front()
    }

    /// The next frame to send, with all that this turn has brought.
    pub fn poll_frame(&mut self, now: Instant) -> Option<Frame> {
        if now >= self.hello_at {
            self.hello_at = now + self.config.timers.hello;
            let unavailable = self.services.unavailable().collect();
            self.outbox.entries.push_back(Entry::Hello { unavailable });
        }
        let mut entries = Vec::new();
        let mut room = Frame::ENTRIES_MAX;
        while let Some(entry) = self.outbox.entries.front() {
            let Some(left) = room.checked_sub(entry.wire_len()) else { break };
            room = left;
            entries.extend(self.outbox.entries.pop_front());
        }
        (!entries.is_empty()).then(|| self.frame(entries, false))
    }

    /// The frame that tells the others that this node leaves.
    pub fn leave(&mut self) -> Frame {
        self.frame(Vec::new(), true)
    }

    /// When [`Node::handle_timeout`] or [`Node::poll_frame`] will have something to do.
    pub fn poll_timeout(&self) -> Instant {
        let mut next = self.hello_at;
        if !self.joined {
            next = next.min(self.started + self.config.timers.listen);
        }
        if let Some(expiry) = self.membership.next_expiry(&self.config.timers) {
            next = next.min(expiry);
        }
        if let Some(&(deadline, _)) = self.deadlines.first() {
            next = next.min(deadline);
        }
        next
    }

    // What others may know.

    /// Totals since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The peers that are ranked now.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.membership.live().map(|(node, _)| node)
    }

    /// This node takes part.
    pub fn joined(&self) -> bool {
        self.joined
    }

    /// Attempts remembered and SYNs held.
    pub fn load(&self) -> (usize, usize) {
        (self.attempts.len(), self.held)
    }

    // Inside.

    fn view(&self, now: Instant) -> View<'_> {
        View {
            now,
            config: &self.config,
            membership: &self.membership,
            services: &self.services,
            joined: self.joined,
            changed: self.changed,
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.outbox.outputs.push_back(Output::Notice(notice));
    }

    fn frame(&mut self, entries: Vec<Entry>, leaving: bool) -> Frame {
        self.sequence += 1;
        let header = Header {
            node: self.config.node,
            incarnation: self.config.incarnation,
            sequence: self.sequence,
            joining: !self.joined,
            leaving,
        };
        Frame { header, entries }
    }

    /// Takes an attempt through an event. What is due at once waits for
    /// [`Node::handle_timeout`], so that no frame of this turn comes too late.
    fn step(&mut self, now: Instant, id: AttemptId, event: Event, syn: Option<(FlowKey, bool)>) {
        let Self { config, membership, services, attempts, outbox, counters, .. } = self;
        let view =
            View { now, config, membership, services, joined: self.joined, changed: self.changed };
        let mut cx = Context { id, view, outbox, counters };
        let full = attempts.len() >= cx.view.config.limits.attempts;
        let attempt = match attempts.entry(id) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) if event.opens() && !full => slot.insert(Attempt::new(&cx)),
            Slot::Vacant(_) => {
                cx.counters.table_full += u64::from(event.opens());
                if let Some(ticket) = event.ticket() {
                    cx.outbox.outputs.push_back(Output::Decide(ticket, Verdict::Drop));
                }
                return;
            }
        };
        if let Some((flow, incumbent)) = syn {
            attempt.flow = Some(flow);
            // What the kernel tracks when the SYN comes again may be left from
            // before: that contest is over.
            attempt.incumbent |= incumbent && !attempt.seen;
        }
        let before = attempt.state;
        let keep = attempt.handle(event, &mut cx);
        let (after, flow) = (keep.then_some(attempt.state), attempt.flow);
        self.deadlines.remove(&(before.until(), id));
        match after {
            Some(state) => {
                self.deadlines.insert((state.until(), id));
            }
            None => {
                attempts.remove(&id);
            }
        }
        self.held += usize::from(after.is_some_and(|state| state.ticket().is_some()));
        self.held -= usize::from(before.ticket().is_some());
        self.index(id, flow, before.answered(), after.is_some_and(|state| state.answered()));
    }

    /// Keeps [`Node::answered`] in step with the states.
    fn index(&mut self, id: AttemptId, flow: Option<FlowKey>, before: bool, after: bool) {
        match flow {
            Some(flow) if after && !before => {
                self.answered.insert(flow, id);
            }
            Some(flow) if before && !after && self.answered.get(&flow) == Some(&id) => {
                self.answered.remove(&flow);
            }
            _ => {}
        }
    }
}

/// Attempt ids are keyed hashes already: their first bytes serve as table hash.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
