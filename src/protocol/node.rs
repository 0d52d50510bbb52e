//! The protocol core of one host: events in, outputs out.

mod frames;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::attempt::{Attempt, Context, Event, Outbox, Purpose, State};
use super::deadlines::Deadlines;
use super::fallback::{Cause, Fallback, Load, Sign};
use super::membership::Membership;
use super::pace::Pace;
use super::roster::Roster;
use super::services::Services;
use super::table::{Attempts, Slot};
use super::view::View;
use super::vips::{Service, Vip};
use super::{
    Config, Counters, Hearing, Instant, KernelShare, Listener, Member, Notice, Output, Standing,
    Syn, Ticket, Timers, Verdict,
};
use crate::flow::{AttemptId, FlowKey, NodeId, Protocol, ServicePort};
use crate::wire::{Entry, Flags, Frame, FurtherPort, Header, MINOR};

/// Of so many HELLOs the sequence numbers are remembered: longer than any peer may stay silent.
const HELLOS_MAX: usize = 32;

/// A node that has just taken another id does not take yet another one.
const ID_KEPT: Duration = Duration::from_secs(1);

/// HELLOs about services are this far apart at least.
const SERVICES_SPACING: Duration = Duration::from_millis(5);
/// So many HELLOs about members or modes leave as soon as there is news.
const NEWS_AT_ONCE: usize = 4;
/// Beyond them, the time for each HELLO and peer: all hosts together say some ten thousand
/// a second, however many they are.
const NEWS_SPACING: Duration = Duration::from_micros(100);

/// How long it takes to say again which flows of datagrams are this node's.
const REPEATED_WITHIN: Duration = Duration::from_millis(500);

/// One host of the cluster. See the [module](super) for how to drive it.
#[derive(Clone, Debug)]
pub struct Node {
    config: Config,
    membership: Membership,
    roster: Roster,
    services: Services,
    fallback: Fallback,
    pace: Pace,
    attempts: Attempts,
    /// Connections that an earlier daemon of this host has accepted.
    adopted: HashSet<FlowKey>,
    /// One deadline for each attempt.
    deadlines: Deadlines,
    outbox: Outbox,
    /// What [`Node::poll_frame`] returned last: its memory is used again.
    frame: Frame,
    counters: Counters,
    /// SYNs that wait for a verdict now.
    held: usize,
    sequence: u64,
    started: Instant,
    joined: bool,
    /// Members, services or modes changed last.
    changed: Instant,
    hello_at: Instant,
    /// When HELLOs left lately, and under which sequence numbers.
    hellos: VecDeque<(Instant, u64)>,
    /// This node has had its id since then.
    named: Instant,
    /// What the kernel was told last, and of which moment it was.
    share: KernelShare,
    shared: Option<Instant>,
}

impl Node {
    /// A node that starts to listen at `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            membership: Membership::new(config.timers),
            roster: Roster::restore(now, &config),
            services: Services::default(),
            fallback: Fallback::new(config.mode),
            pace: Pace::new(&config.timers),
            attempts: Attempts::with_capacity(config.limits.attempts),
            deadlines: Deadlines::with_capacity(config.limits.attempts),
            config,
            adopted: HashSet::new(),
            outbox: Outbox::default(),
            frame: Frame::default(),
            counters: Counters::default(),
            held: 0,
            sequence: 0,
            started: now,
            joined: false,
            changed: now,
            hello_at: now,
            hellos: VecDeque::new(),
            named: now,
            share: KernelShare::default(),
            shared: None,
        }
    }

    // Inputs.

    /// Says within [`REPEATED_WITHIN`] which flows of datagrams are this node's: while it and
    /// others did not hear each other, one of them may have taken them over.
    fn repeat_owned(&mut self, now: Instant) {
        let spread = REPEATED_WITHIN.as_micros() as u64;
        for slot in self.attempts.all_answered() {
            let attempt = self.attempts.get(slot);
            let datagrams = |flow: FlowKey| flow.protocol == Protocol::Udp;
            if attempt.flow.is_some_and(datagrams) && attempt.state.answered() {
                let AttemptId([a, b, ..]) = self.attempts.id(slot);
                let share = u64::from(u16::from_be_bytes([a, b]));
                let wait = Duration::from_micros((spread * share) >> 16);
                self.deadlines.set(slot, now + wait);
            }
        }
    }

    /// A SYN to the virtual IP is held.
    pub fn handle_syn(&mut self, now: Instant, syn: Syn) {
        let Syn { ticket, flow, isn, incumbent } = syn;
        self.counters.syns += 1;
        self.open(now, ticket, flow, isn, incumbent);
    }

    /// This node has let a SYN of this attempt through. Then what its kernel has half open
    /// for these ports is of this attempt, and else it is left from an earlier one.
    pub fn has_accepted(&self, flow: &FlowKey, isn: u32) -> bool {
        let slot = self.attempts.find(self.config.key.attempt(flow, isn));
        slot.is_some_and(|slot| match self.attempts.get(slot).state {
            State::Accepted { .. } | State::Half { .. } | State::Owned { .. } => true,
            State::Held { .. }
            | State::Claimed { .. }
            | State::Deferred { .. }
            | State::Foreign { .. } => false,
        })
    }

    /// A datagram to the virtual IP is held whose flow the kernel does not know.
    pub fn handle_datagram(&mut self, now: Instant, ticket: Ticket, flow: FlowKey) {
        self.counters.datagrams += 1;
        if self.services.get(self.config.vips.service(&flow)) == Listener::Absent {
            self.counters.not_served += 1;
            self.decide(ticket, Verdict::Drop);
            self.outbox.outputs.push_back(Output::Block(flow));
            return;
        }
        self.open(now, ticket, flow, 0, false);
    }

    /// A datagram to a client from a port on which this host has served is held, whose flow the
    /// kernel does not know: as a rule an answer that comes after the flow was given up, or from
    /// an earlier life of the daemon. It must not open the flow from this side, or two hosts
    /// answer it for good.
    pub fn handle_unasked(&mut self, flow: FlowKey, ticket: Ticket) {
        let attempt = self.attempts.find(self.config.key.attempt(&flow, 0));
        let state = attempt.map(|slot| self.attempts.get(slot).state);
        let verdict = match state {
            Some(State::Owned { .. }) => Verdict::Accept,
            Some(_) | None => Verdict::Drop,
        };
        self.counters.late_answers += u64::from(verdict == Verdict::Drop);
        self.decide(ticket, verdict);
    }

    fn open(&mut self, now: Instant, ticket: Ticket, flow: FlowKey, isn: u32, incumbent: bool) {
        if self.held >= self.config.limits.held {
            self.counters.held_full += 1;
            self.decide(ticket, Verdict::Drop);
            return;
        }
        let id = self.config.key.attempt(&flow, isn);
        let (known, answered) = self.attempts.find_both(id, &flow);
        let incumbent = incumbent || answered.is_some() && flow.protocol == Protocol::Tcp;
        if let Some(earlier) = answered.filter(|&slot| Some(slot) != known) {
            self.attempts.get_mut(earlier).contested = true;
        }
        self.step_known(now, id, known, Event::Syn(ticket), Some((flow, incumbent)));
    }

    /// The answer to [`Output::Inquire`]: the kernel does not track the flow any more.
    pub fn handle_flow_ended(&mut self, now: Instant, flow: FlowKey) {
        if let Some(slot) = self.attempts.answered(&flow) {
            self.step_at(now, slot, Event::Ended);
        }
    }

    /// What the driver's queue and processor say, several times a second.
    pub fn handle_load(&mut self, now: Instant, load: &Load) {
        let sign = self.fallback.load(load);
        self.note(now, Cause::Overload, sign);
        if !self.fallback.has(Cause::Overload) {
            self.fallback.relieved();
        }
    }

    /// The state of a port's listener, to be said before a SYN or datagram to that port
    /// and whenever the driver looks.
    pub fn handle_listener(&mut self, now: Instant, service: ServicePort, listener: Listener) {
        let number = self.config.vips.number(service);
        let known = self.services.knows(number);
        let change = self.services.set(now, number, listener);
        self.counters.ports_forgotten += u64::from(change.forgotten);
        if change.announced {
            let notice = match listener {
                Listener::Absent if known => Notice::ServiceDown(service),
                Listener::Absent => Notice::NotServed(service),
                Listener::Ready | Listener::Busy => Notice::ServiceUp(service),
            };
            // Who is eager is so for TCP only, and only the TCP ports are divided.
            if service.protocol == Protocol::Tcp {
                self.changed = now;
            }
            // Anybody can ask for ports that nobody serves: not each is worth a frame.
            self.greet(now, 1, SERVICES_SPACING);
            self.notice(notice);
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
            self.attempts.find(id).map(|slot| self.attempts.get(slot).state),
            Some(State::Accepted { purpose: Purpose::Serve, .. })
        );
        if lost {
            self.handle_listener(now, flow.service_port(), Listener::Absent);
        }
        self.step(now, id, Event::Refusal(rst), None);
    }

    /// A client acknowledged `number` in a flow that is not confirmed yet.
    ///
    /// With a ticket the packet is held (strict guard). Without one, a packet
    /// was seen that shows which number the client acknowledges.
    pub fn handle_ack(&mut self, now: Instant, flow: FlowKey, number: u32, ticket: Option<Ticket>) {
        if let Some(slot) = self.attempts.answered(&flow) {
            self.step_at(now, slot, Event::Ack { number, ticket });
            return;
        }
        let adopted = self.adopted.remove(&flow);
        if let Some(ticket) = ticket {
            let verdict = if adopted { Verdict::Accept } else { Verdict::Drop };
            self.counters.unknown_acks += u64::from(!adopted);
            self.decide(ticket, verdict);
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
            self.change(now, Notice::Joined);
        }
        if self.paused(now) {
            // The others do not count on this node any more, and have answered what it
            // still holds.
            self.changed = now;
            self.repeat_owned(now);
        }
        let mut notices = Vec::new();
        self.membership.expire(now, |notice| notices.push(notice));
        for notice in notices {
            self.changed = now;
            self.notice(notice);
        }
        if now >= self.hello_at {
            self.roster.expire(now);
            self.weigh(now);
        }
        while let Some(slot) = self.deadlines.pop(now) {
            self.step_at(now, slot, Event::Timeout);
        }
        self.update_share(now);
    }

    /// This node has said nothing for so long that the others suspect it.
    fn paused(&self, now: Instant) -> bool {
        let Timers { hello, suspect, .. } = self.config.timers;
        now.since(self.hello_at) + hello >= suspect
    }

    /// Weighs everything that this node measures by itself.
    fn weigh(&mut self, now: Instant) {
        let present = |is: bool| if is { Sign::Present } else { Sign::Absent };
        let loss = match (self.membership.loses_one_in(4), self.membership.loses_one_in(10)) {
            (true, _) => Sign::Present,
            (false, true) => Sign::Unclear,
            (false, false) => Sign::Absent,
        };
        self.note(now, Cause::Loss, loss);
        let hearing = self.fallback.hearing(now);
        self.note(now, Cause::Deaf, hearing);
        self.note(now, Cause::Mute, present(self.membership.unheard()));
        self.note(now, Cause::Version, present(self.membership.strangers()));
    }

    fn note(&mut self, now: Instant, cause: Cause, sign: Sign) {
        let before = self.fallback.by_hash();
        if !self.fallback.weigh(now, cause, sign) {
            return;
        }
        let (active, by_hash) = (self.fallback.has(cause), self.fallback.by_hash());
        self.change(now, Notice::Fallback { cause, active, by_hash });
        self.counters.fallbacks += u64::from(by_hash && !before);
    }

    /// Tells the kernel which buckets are this node's, if that has changed.
    fn update_share(&mut self, now: Instant) {
        // Who is ranked changes with `changed` and with nothing else.
        if self.shared.is_some_and(|shared| shared > self.changed) {
            return;
        }
        self.shared = Some(now);
        let view = self.view(now);
        let (whole, left) = view.not_divided();
        let share = KernelShare {
            own: view.own_buckets(),
            decide_syns: self.fallback.by_kernel(),
            undivided: view.partly_served(),
            whole,
            left,
        };
        if share != self.share {
            self.share = share.clone();
            self.outbox.outputs.push_back(Output::Share(share));
        }
    }

    // Outputs.

    /// The next thing for the driver to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.outputs.pop_front()
    }

    /// The next frame to send, with all that this turn has brought.
    pub fn poll_frame(&mut self, now: Instant) -> Option<&Frame> {
        let hello = now >= self.hello_at;
        if hello {
            self.hello_at = now + self.config.timers.hello;
            self.say_hello(now);
        }
        self.frame.entries.clear();
        let mut room = Frame::ENTRIES_MAX;
        while let Some(entry) = self.outbox.entries.front() {
            let Some(left) = room.checked_sub(entry.wire_len()) else { break };
            room = left;
            self.frame.entries.extend(self.outbox.entries.pop_front());
        }
        if self.frame.entries.is_empty() {
            return None;
        }
        self.frame.header = self.next_header(false);
        if hello {
            self.hellos.push_back((now, self.sequence));
            if self.hellos.len() > HELLOS_MAX {
                self.hellos.pop_front();
            }
        }
        Some(&self.frame)
    }

    fn say_hello(&mut self, now: Instant) {
        let Self { config: Config { vips, .. }, services, outbox, .. } = self;
        let entries = &mut outbox.entries;
        let further = vips.hashes();
        let several = !further.is_empty();
        if several {
            // In the same frame as what makes a peer count on this node.
            entries.push_front(Entry::Vips { further: further.to_vec() });
        }
        // Whom this node hears comes first: a new peer believes what follows.
        let reports = self.membership.reports(now);
        entries.push_front(Entry::Heard { reports });
        let first = |protocol| {
            let of_first = |service: &Service| service.vip == Vip::FIRST;
            services.unavailable(protocol).filter(of_first).map(|service| service.port).collect()
        };
        entries.extend([
            Entry::Hello { unavailable: first(Protocol::Tcp) },
            Entry::HelloUdp { unavailable: first(Protocol::Udp) },
        ]);
        if several {
            let further = |protocol| {
                let further = services.unavailable(protocol).filter(|it| it.vip != Vip::FIRST);
                further.map(|it| FurtherPort { place: it.vip.place(), port: it.port }).collect()
            };
            entries.extend([
                Entry::VipsTcp { unavailable: further(Protocol::Tcp) },
                Entry::VipsUdp { unavailable: further(Protocol::Udp) },
            ]);
        }
    }

    /// The frame that tells the others that this node leaves.
    pub fn leave(&mut self) -> Frame {
        Frame { header: self.next_header(true), entries: Vec::new() }
    }

    /// When [`Node::handle_timeout`] or [`Node::poll_frame`] may next have something to do,
    /// never too late. After both it is in the future, even if they had nothing to do.
    pub fn poll_timeout(&self) -> Instant {
        let mut next = self.hello_at;
        if !self.joined {
            next = next.min(self.started + self.config.timers.listen);
        }
        if let Some(expiry) = self.membership.next_expiry() {
            next = next.min(expiry);
        }
        if let Some(deadline) = self.deadlines.next() {
            next = next.min(deadline);
        }
        next
    }

    // What others may know.

    /// Totals since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// This node's id; it is another than the configured one if that was taken.
    pub fn id(&self) -> NodeId {
        self.config.node
    }

    /// The peers that are ranked now.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.membership.live().map(|(node, _)| node)
    }

    /// Everybody heard lately, and how well they and this node hear each other.
    pub fn hearing(&self) -> impl Iterator<Item = Hearing> {
        self.membership.all().map(|(node, peer)| {
            let (lost, sent) = peer.loss();
            let (live, by_hash, missed) = (peer.live(), peer.by_hash(), peer.missed());
            Hearing { node, live, by_hash, sent, lost, missed }
        })
    }

    /// The nodes among which the hash rule distributes beside this one: to be kept for the
    /// next start.
    pub fn roster(&self, now: Instant) -> impl Iterator<Item = Member> {
        self.roster.members(now, &self.config.vips)
    }

    /// This node decides by hash now.
    pub fn by_hash(&self) -> bool {
        self.fallback.by_hash()
    }

    /// Why it would, or does.
    pub fn causes(&self) -> impl Iterator<Item = Cause> {
        self.fallback.causes()
    }

    /// The slot S and the settling time D as they are now.
    pub fn pace(&self) -> (Duration, Duration) {
        (self.pace.slot(), self.pace.settle())
    }

    /// This node takes part.
    pub fn joined(&self) -> bool {
        self.joined
    }

    /// Where an attempt stands here, if anything is known of it.
    pub fn standing(&self, attempt: AttemptId) -> Option<Standing> {
        let slot = self.attempts.find(attempt)?;
        Some(self.attempts.get(slot).state.into())
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
            roster: &self.roster,
            services: &self.services,
            fallback: &self.fallback,
            pace: &self.pace,
            joined: self.joined,
            changed: self.changed,
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.outbox.outputs.push_back(Output::Notice(notice));
    }

    /// Something has changed that the others rank by: they hear of it at once,
    /// and so does a newcomer of this node and its services.
    fn change(&mut self, now: Instant, notice: Notice) {
        self.changed = now;
        self.say_soon(now, notice);
    }

    fn say_soon(&mut self, now: Instant, notice: Notice) {
        // When many start at once each has news of every other one.
        let news = NEWS_AT_ONCE * self.membership.all().count();
        self.greet(now, NEWS_AT_ONCE, NEWS_SPACING * news as u32);
        self.notice(notice);
    }

    /// Says HELLO now, unless it would be one more than `count` within `time`.
    fn greet(&mut self, now: Instant, count: usize, time: Duration) {
        let hellos = self.hellos.len().checked_sub(count).and_then(|index| self.hellos.get(index));
        let earliest = hellos.map_or(now, |&(sent, _)| sent + time);
        self.hello_at = self.hello_at.min(earliest.max(now));
    }

    fn decide(&mut self, ticket: Ticket, verdict: Verdict) {
        self.outbox.outputs.push_back(Output::Decide(ticket, verdict));
    }

    fn next_header(&mut self, leaving: bool) -> Header {
        self.sequence += 1;
        let flags = Flags {
            joining: !self.joined,
            leaving,
            hash: self.fallback.by_hash(),
            deaf: self.fallback.has(Cause::Deaf),
            mute: self.fallback.has(Cause::Mute),
        };
        let Config { node, incarnation, .. } = self.config;
        Header { minor: MINOR, node, incarnation, sequence: self.sequence, flags }
    }

    /// Takes an attempt through an event, if it is known or worth remembering.
    fn step(&mut self, now: Instant, id: AttemptId, event: Event, syn: Option<(FlowKey, bool)>) {
        self.step_known(now, id, self.attempts.find(id), event, syn);
    }

    /// [`Node::step`] with the attempt looked up already.
    fn step_known(
        &mut self,
        now: Instant,
        id: AttemptId,
        known: Option<Slot>,
        event: Event,
        syn: Option<(FlowKey, bool)>,
    ) {
        let full = self.attempts.len() >= self.config.limits.attempts;
        let slot = match known {
            Some(slot) => slot,
            None if event.opens() && !full => {
                let fresh = Attempt::new(&self.view(now));
                self.attempts.insert(id, fresh)
            }
            None => {
                self.counters.table_full += u64::from(event.opens());
                if let Some(ticket) = event.ticket() {
                    self.decide(ticket, Verdict::Drop);
                }
                return;
            }
        };
        if let Some((flow, incumbent)) = syn {
            let attempt = self.attempts.get_mut(slot);
            attempt.flow.get_or_insert(flow);
            // What the kernel tracks when the SYN comes again may be left from
            // before: that contest is over.
            attempt.incumbent |= incumbent && !attempt.seen;
        }
        self.step_at(now, slot, event);
    }

    /// Takes the attempt in a slot through an event. What is due at once waits for
    /// [`Node::handle_timeout`], so that no frame of this turn comes too late.
    fn step_at(&mut self, now: Instant, slot: Slot, event: Event) {
        let view = View {
            now,
            config: &self.config,
            membership: &self.membership,
            roster: &self.roster,
            services: &self.services,
            fallback: &self.fallback,
            pace: &self.pace,
            joined: self.joined,
            changed: self.changed,
        };
        let counted = (self.counters.accepted, self.counters.unheard);
        let Self { attempts, outbox, counters, .. } = self;
        let mut cx = Context { id: attempts.id(slot), view, outbox, counters };
        let attempt = attempts.get_mut(slot);
        let (before, held_before) = (attempt.state, attempt.held());
        let keep = attempt.handle(event, &mut cx);
        let (after, flow) = (keep.then_some(attempt.state), attempt.flow);
        self.held += if keep { attempt.held() } else { 0 };
        self.held -= held_before;
        // The kernel's socket is of the attempt that it has answered last.
        let before = before.answered() && !matches!(event, Event::SynAck { .. });
        self.index(slot, flow, before, after.is_some_and(|state| state.answered()));
        match after {
            Some(state) => self.deadlines.set(slot, state.until()),
            None => {
                self.deadlines.clear(slot);
                self.attempts.remove(slot);
            }
        }
        if self.counters.accepted > counted.0 {
            self.fallback.accepted(now);
        }
        if self.counters.unheard > counted.1 {
            self.fallback.unheard(now);
            let hearing = self.fallback.hearing(now);
            self.note(now, Cause::Deaf, hearing);
        }
    }

    /// Keeps answered attempts to be found by flow, for packets that do not name the attempt.
    fn index(&mut self, slot: Slot, flow: Option<FlowKey>, before: bool, after: bool) {
        match flow {
            Some(flow) if after && !before => self.attempts.set_answered(slot, &flow),
            Some(flow) if before && !after => self.attempts.clear_answered(slot, &flow),
            _ => {}
        }
    }
}
