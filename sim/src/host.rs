//! A host: its kernel, and its daemon with the production core.
//!
//! The daemon is the loop of `clusterd` (`src/daemon/hot_loop.rs`) step by step, because the
//! races are between these steps: it reads claims, its log and held packets; reads claims again
//! and decides; carries out; sends. Each step takes time, and a pause may fall between any two.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use clusterd::flow::{ClusterKey, NodeId, ServicePort};
use clusterd::protocol::{
    Instant, KernelShare, Listener, Load, Notice, Output, Syn, Ticket, Verdict,
};

use crate::chance::{Chance, Entity, after};
use crate::kernel::{Ingress, Kernel, Opened, TakenUp};
use crate::packet::{FlowId, PORT, Segment, VIP};
use crate::rule::Decider;
use crate::scenario::Scenario;

/// Held packets and log entries taken in one step, as the daemon does.
const BUDGET: usize = 64;
/// A turn that comes this late finds SYNs that are nobody's to answer, as for the daemon.
const SLEPT: Duration = Duration::from_millis(500);
const LOAD_INTERVAL: Duration = Duration::from_millis(100);
/// A listener this full is busy, as for the daemon.
const BUSY_SHARE: (usize, usize) = (3, 4);

/// The key of every simulated cluster.
pub fn cluster_key() -> ClusterKey {
    ClusterKey::public(VIP.into())
}

/// The id of a host.
pub fn node_id(host: usize) -> NodeId {
    NodeId(host as u32 + 1)
}

/// Where the daemon stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It waits, and runs again at this time at the latest.
    Asleep { until: Instant },
    /// It is about to take this step.
    Runs(Step),
}

/// A step of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reads claims, log and held packets.
    Read,
    /// Reads claims again, decides, carries out.
    Decide,
    /// Sends what there is to say.
    Send,
    /// Reads claims only now, if it does not drain before it decides.
    ReadLate,
}

/// A packet that waits for a verdict.
#[derive(Clone, Copy, Debug)]
struct Held {
    packet: HeldPacket,
    /// When the core was told of it.
    told: Option<Instant>,
}

impl From<HeldPacket> for Held {
    fn from(packet: HeldPacket) -> Self {
        Self { packet, told: None }
    }
}

#[derive(Clone, Copy, Debug)]
enum HeldPacket {
    Syn(Segment),
    Ack(Segment),
    Refusal(Segment),
}

/// What the log shows the daemon.
#[derive(Clone, Copy, Debug)]
enum Logged {
    SynAck { flow: FlowId, client_isn: u32, isn: u32 },
    Ack { flow: FlowId, number: u32 },
}

/// What a host does; the world carries it out.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Its daemon takes this step then.
    Step(Instant, u32),
    /// It sends a segment to the client.
    Tcp(Instant, Segment),
    /// It sends a claim frame.
    Claim(Instant, Rc<[u8]>),
    /// It has a half-open connection, and says its SYN-ACK again after this.
    RequestTimer(FlowId, u32, u32),
    /// Its application has a connection, whose client began with this number.
    Accepted(FlowId, u32),
    /// Its application has something to do for a connection.
    Work(FlowId),
    /// A held SYN, of which the core was told then, got this verdict.
    Decided(Segment, Verdict, Option<Instant>),
    /// Its core gave a verdict for a packet that is not held, or not any more.
    Unheld(Ticket),
    /// Its daemon has removed a half-open connection with this number of its kernel.
    Destroyed(FlowId, u32),
    /// Something for the log.
    Notice(Notice),
}

/// What a host has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// Packets for which the queue had no room.
    pub queue_overflowed: u64,
    /// Frames for which the socket had no room.
    pub inbox_overflowed: u64,
    /// SYNs dropped because the daemon had not run for long.
    pub slept: u64,
    /// SYNs dropped because something of an earlier attempt was left, which is removed.
    pub leftovers: u64,
    /// Turns of the daemon.
    pub turns: u64,
}

/// A host that runs.
pub struct Host {
    index: usize,
    /// Its kernel.
    pub kernel: Kernel,
    /// What decides in its daemon.
    pub decider: Decider,
    share: KernelShare,
    stage: Stage,
    /// Steps scheduled earlier are void.
    epoch: u32,
    /// Nothing of the daemon runs before.
    paused_until: Instant,
    inbox: VecDeque<Rc<[u8]>>,
    queue: VecDeque<Ticket>,
    log: VecDeque<Logged>,
    held: BTreeMap<Ticket, Held>,
    tickets: u64,
    told: Option<Listener>,
    scheduler: Chance,
    load: Measured,
    busy: u64,
    /// When it has decided what was due last.
    decided: Instant,
    /// What was counted.
    pub counters: HostCounters,
}

#[derive(Clone, Copy, Default)]
struct Measured {
    at: Instant,
    busy: u64,
    syns: u64,
    overflowed: u64,
}

impl Host {
    /// A host that starts at `now`, for the `starts`th time.
    pub fn start(scenario: &Scenario, seed: u64, index: usize, now: Instant, starts: u64) -> Self {
        Self {
            index,
            kernel: Kernel::new(scenario, seed, index as u16, starts),
            decider: Decider::new(scenario, seed, index, now, starts),
            share: KernelShare::default(),
            stage: Stage::Asleep { until: now },
            epoch: 0,
            paused_until: now,
            inbox: VecDeque::new(),
            queue: VecDeque::new(),
            log: VecDeque::new(),
            held: BTreeMap::new(),
            tickets: 0,
            told: None,
            scheduler: Chance::new(seed, Entity::Scheduler(index as u16)),
            load: Measured { at: now, ..Measured::default() },
            busy: 0,
            decided: now,
            counters: HostCounters::default(),
        }
    }

    // What happens to a host.

    /// A claim frame has come. False if there is no room for it.
    pub fn hear(
        &mut self,
        now: Instant,
        scenario: &Scenario,
        bytes: Rc<[u8]>,
        deeds: &mut Vec<Deed>,
    ) -> bool {
        if self.inbox.len() >= scenario.inbox {
            self.counters.inbox_overflowed += 1;
            return false;
        }
        self.inbox.push_back(bytes);
        self.wake(now, scenario, deeds);
        true
    }

    /// A segment of a client has come.
    pub fn receive(
        &mut self,
        now: Instant,
        scenario: &Scenario,
        segment: Segment,
        deeds: &mut Vec<Deed>,
    ) {
        let ingress = self.kernel.receive(now, segment);
        if let Ingress::Queue { incumbent } = ingress {
            self.enqueue(now, scenario, segment, incumbent, deeds);
            return;
        }
        self.answer(now, segment, ingress, deeds);
        if !self.log.is_empty() {
            self.wake(now, scenario, deeds);
        }
    }

    fn enqueue(
        &mut self,
        now: Instant,
        scenario: &Scenario,
        segment: Segment,
        incumbent: bool,
        deeds: &mut Vec<Deed>,
    ) {
        let syn = segment.flag == crate::packet::Flag::Syn;
        if syn && self.share.decide_syns {
            let bucket = cluster_key().bucket(&segment.flow.key());
            if self.share.own.contains(bucket) {
                self.open(now, segment, false, deeds);
            }
            return;
        }
        if self.held.len() >= scenario.queue {
            self.counters.queue_overflowed += 1;
            return;
        }
        // The number of the queue that incumbents come by is part of the ticket, as in the daemon.
        self.tickets += 1;
        let ticket = Ticket(u64::from(incumbent) << 63 | self.tickets);
        let packet = if syn { HeldPacket::Syn(segment) } else { HeldPacket::Ack(segment) };
        self.held.insert(ticket, packet.into());
        self.queue.push_back(ticket);
        self.wake(now, scenario, deeds);
    }

    /// What the kernel makes of a segment that was let through.
    fn answer(&mut self, now: Instant, segment: Segment, ingress: Ingress, deeds: &mut Vec<Deed>) {
        let (flow, number) = (segment.flow, segment.acknowledgement);
        match ingress {
            Ingress::Copy | Ingress::CopyOfReset => {
                self.log.push_back(Logged::Ack { flow, number })
            }
            Ingress::Answer(segment) => deeds.push(Deed::Tcp(now, segment)),
            // A copy of the ACK shows the daemon that the client has chosen this host.
            Ingress::Stands => deeds.push(Deed::Accepted(flow, segment.sequence.wrapping_sub(1))),
            Ingress::Asked => deeds.push(Deed::Work(flow)),
            Ingress::Queue { .. } | Ingress::Drop | Ingress::Silence | Ingress::Closed => {}
        }
        self.take_up(now, deeds);
    }

    /// The service accepts what it has workers for.
    fn take_up(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        while let Some(TakenUp { flow, asked, greeting }) = self.kernel.take_up(now) {
            deeds.extend(greeting.map(|greeting| Deed::Tcp(now, greeting)));
            if asked {
                deeds.push(Deed::Work(flow));
            }
        }
    }

    /// The service has done the work for a connection.
    pub fn served(&mut self, now: Instant, flow: FlowId, deeds: &mut Vec<Deed>) {
        let answers = self.kernel.answer(flow);
        deeds.extend(answers.into_iter().map(|answer| Deed::Tcp(now, answer)));
        self.take_up(now, deeds);
    }

    /// The timer of a request socket.
    pub fn request_timer(
        &mut self,
        now: Instant,
        scenario: &Scenario,
        flow: FlowId,
        isn: u32,
        deeds: &mut Vec<Deed>,
    ) {
        if let Some((segment, retries)) =
            self.kernel.repeat_syn_ack(flow, isn, scenario.syn_ack_retries)
        {
            deeds.push(Deed::Tcp(now, segment));
            deeds.push(Deed::RequestTimer(flow, isn, retries));
            // The rules copy every SYN-ACK to the daemon.
            let client_isn = segment.acknowledgement.wrapping_sub(1);
            self.log.push_back(Logged::SynAck { flow, client_isn, isn });
            self.wake(now, scenario, deeds);
        }
    }

    /// The daemon does not run before `until`.
    pub fn pause(&mut self, until: Instant) {
        self.paused_until = self.paused_until.max(until);
    }

    // The daemon.

    /// There is something to read.
    fn wake(&mut self, now: Instant, scenario: &Scenario, deeds: &mut Vec<Deed>) {
        if let Stage::Asleep { .. } = self.stage {
            let late = scenario.wake_of(self.index).draw(&mut self.scheduler);
            self.schedule(after(now, late), Step::Read, deeds);
        }
    }

    fn schedule(&mut self, at: Instant, step: Step, deeds: &mut Vec<Deed>) {
        self.stage = Stage::Runs(step);
        self.epoch += 1;
        deeds.push(Deed::Step(at, self.epoch));
    }

    /// The time of a step has come, unless that was scheduled anew.
    pub fn step(&mut self, now: Instant, scenario: &Scenario, epoch: u32, deeds: &mut Vec<Deed>) {
        if epoch != self.epoch {
            return;
        }
        if now < self.paused_until {
            let late = scenario.wake_of(self.index).draw(&mut self.scheduler);
            deeds.push(Deed::Step(after(self.paused_until, late), epoch));
            return;
        }
        let step = match self.stage {
            Stage::Asleep { until } => {
                if now.since(until) >= SLEPT {
                    self.drop_backlog();
                }
                Step::Read
            }
            Stage::Runs(step) => step,
        };
        let mut at = now;
        let mut next = Some(step);
        // Steps in which nothing was done take no time, so they are not scheduled one by one.
        while let Some(step) = next.take().filter(|_| at == now) {
            let (took, following) = match step {
                Step::Read => (self.read(now, scenario), Some(Step::Decide)),
                Step::Decide => (self.decide(now, scenario, deeds), Some(Step::Send)),
                Step::Send => {
                    let late = !scenario.drain && !self.inbox.is_empty();
                    (self.send(now, scenario, deeds), late.then_some(Step::ReadLate))
                }
                Step::ReadLate => {
                    (cost(scenario.frame_cost, self.read_claims(now)), Some(Step::Decide))
                }
            };
            at = after(at, took);
            self.busy += took;
            match following {
                Some(following) if took > 0 => self.schedule(at, following, deeds),
                Some(following) => next = Some(following),
                None => self.sleep(at, scenario, deeds),
            }
        }
    }

    /// The end of a turn.
    fn sleep(&mut self, now: Instant, scenario: &Scenario, deeds: &mut Vec<Deed>) {
        self.counters.turns += 1;
        if self.inbox.is_empty() && self.queue.is_empty() && self.log.is_empty() {
            let until = self.decider.poll_timeout().max(now);
            self.stage = Stage::Asleep { until };
            self.epoch += 1;
            let late = scenario.timer_error.draw(&mut self.scheduler);
            deeds.push(Deed::Step(after(until, late), self.epoch));
        } else {
            self.schedule(now, Step::Read, deeds);
        }
    }

    fn read(&mut self, now: Instant, scenario: &Scenario) -> u64 {
        let frames = if scenario.drain { self.read_claims(now) } else { 0 };
        let logged = self.read_log(now);
        let held = self.queue.len().min(BUDGET);
        for _ in 0..held {
            if let Some(ticket) = self.queue.pop_front() {
                self.hand_in(now, ticket);
            }
        }
        cost(scenario.frame_cost, frames) + cost(scenario.packet_cost, logged + held)
    }

    fn read_claims(&mut self, now: Instant) -> usize {
        let frames = self.inbox.len();
        while let Some(bytes) = self.inbox.pop_front() {
            self.decider.handle_frame(now, &bytes);
        }
        frames
    }

    fn read_log(&mut self, now: Instant) -> usize {
        let entries = self.log.len().min(BUDGET);
        for logged in self.log.drain(..entries) {
            match logged {
                Logged::SynAck { flow, client_isn, isn } => {
                    self.decider.handle_syn_ack(now, flow.key(), client_isn, isn);
                }
                Logged::Ack { flow, number } => {
                    self.decider.handle_ack(now, flow.key(), number, None)
                }
            }
        }
        entries
    }

    /// Hands a held packet to the core.
    fn hand_in(&mut self, now: Instant, ticket: Ticket) {
        let Some(held) = self.held.get_mut(&ticket) else { return };
        held.told = Some(now);
        match held.packet {
            HeldPacket::Syn(segment) => {
                let incumbent = ticket.0 >> 63 == 1;
                let (flow, isn) = (segment.flow.key(), segment.sequence);
                // What is left of an earlier attempt must not answer (spec 9).
                if incumbent
                    && self.decider.is_new(&flow, isn)
                    && self.kernel.remove_leftover(segment.flow)
                {
                    self.held.remove(&ticket);
                    self.counters.leftovers += 1;
                    return;
                }
                self.look_at_listener(now);
                self.decider.handle_syn(now, Syn { ticket, flow, isn, incumbent });
            }
            HeldPacket::Ack(segment) => {
                self.decider.handle_ack(
                    now,
                    segment.flow.key(),
                    segment.acknowledgement,
                    Some(ticket),
                );
            }
            HeldPacket::Refusal(segment) => {
                let client_isn = segment.acknowledgement.wrapping_sub(1);
                self.decider.handle_refusal(now, segment.flow.key(), client_isn, ticket);
            }
        }
    }

    fn look_at_listener(&mut self, now: Instant) {
        let (open, room) = self.kernel.waiting();
        let (share, whole) = BUSY_SHARE;
        let listener = match self.kernel.serves {
            false => Listener::Absent,
            true if open * whole >= room * share => Listener::Busy,
            true => Listener::Ready,
        };
        if self.told != Some(listener) {
            self.told = Some(listener);
            self.decider.handle_listener(now, ServicePort::tcp(PORT), listener);
        }
    }

    fn decide(&mut self, now: Instant, scenario: &Scenario, deeds: &mut Vec<Deed>) -> u64 {
        let mut frames = 0;
        if self.decider.poll_timeout() <= now {
            if scenario.drain {
                frames = self.read_claims(now);
            }
            if self.told.is_some() {
                self.look_at_listener(now);
            }
            self.decider.handle_timeout(now);
        }
        self.decided = now;
        self.weigh_load(now);
        cost(scenario.frame_cost, frames) + self.carry_out(now, scenario, deeds)
    }

    fn weigh_load(&mut self, now: Instant) {
        let window = now.since(self.load.at);
        if window < LOAD_INTERVAL {
            return;
        }
        let measured = Measured {
            at: now,
            busy: self.busy,
            syns: self.decider.counters().syns,
            overflowed: self.counters.queue_overflowed,
        };
        let before = std::mem::replace(&mut self.load, measured);
        if window >= SLEPT {
            return;
        }
        let busy = (measured.busy - before.busy) * 1000 / window.as_nanos() as u64;
        let load = Load {
            window,
            busy: busy.min(1000) as u16,
            overflowed: measured.overflowed - before.overflowed,
            syns: measured.syns - before.syns,
        };
        self.decider.handle_load(now, &load);
    }

    /// Does what the core wants. Verdicts come one after the other, and with each the kernel
    /// answers.
    fn carry_out(&mut self, now: Instant, scenario: &Scenario, deeds: &mut Vec<Deed>) -> u64 {
        let mut took = 0;
        loop {
            let mut accepted = false;
            while let Some(output) = self.decider.poll_output() {
                match output {
                    Output::Decide(ticket, verdict) => {
                        took += scenario.verdict_cost.as_nanos() as u64;
                        accepted |= verdict == Verdict::Accept;
                        let opens = verdict == Verdict::Accept && self.holds_syn(ticket);
                        if opens {
                            took += scenario.answer_cost.as_nanos() as u64;
                        }
                        self.give(after(now, took), ticket, verdict, deeds);
                        if opens {
                            took += scenario.answer_rest.draw(&mut self.scheduler);
                        }
                    }
                    Output::Destroy(flow) => {
                        if let Some(flow) = FlowId::of(&flow) {
                            let isn = self.kernel.destroy(flow);
                            deeds.extend(isn.map(|isn| Deed::Destroyed(flow, isn)));
                        }
                    }
                    Output::Share(share) => self.share = share,
                    Output::Notice(notice) => deeds.push(Deed::Notice(notice)),
                    // Nothing here is about datagrams.
                    Output::Block(_) | Output::Inquire(_) => {}
                }
            }
            if !accepted {
                return took;
            }
            self.read_log(after(now, took));
        }
    }

    fn holds_syn(&self, ticket: Ticket) -> bool {
        let held = self.held.get(&ticket).map(|held| held.packet);
        matches!(held, Some(HeldPacket::Syn(_)))
    }

    fn give(&mut self, at: Instant, ticket: Ticket, verdict: Verdict, deeds: &mut Vec<Deed>) {
        let Some(held) = self.held.remove(&ticket) else {
            deeds.push(Deed::Unheld(ticket));
            return;
        };
        match (held.packet, verdict) {
            (HeldPacket::Syn(segment), verdict) => {
                deeds.push(Deed::Decided(segment, verdict, held.told));
                if verdict == Verdict::Accept {
                    self.open(at, segment, true, deeds);
                }
            }
            (HeldPacket::Ack(segment), Verdict::Accept) => {
                let ingress = self.kernel.confirm(at, segment);
                self.answer(at, segment, ingress, deeds);
            }
            (HeldPacket::Refusal(segment), Verdict::Accept) => deeds.push(Deed::Tcp(at, segment)),
            (HeldPacket::Ack(_) | HeldPacket::Refusal(_), Verdict::Drop) => {}
        }
    }

    /// The kernel gets a SYN.
    fn open(&mut self, at: Instant, syn: Segment, logged: bool, deeds: &mut Vec<Deed>) {
        match self.kernel.open_connection(at, syn) {
            Opened::SynAck(segment) => {
                if logged {
                    let (flow, client_isn, isn) = (syn.flow, syn.sequence, segment.sequence);
                    self.log.push_back(Logged::SynAck { flow, client_isn, isn });
                }
                deeds.push(Deed::Tcp(at, segment));
                deeds.push(Deed::RequestTimer(syn.flow, segment.sequence, 0));
            }
            Opened::Refusal(segment) if logged => {
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                self.held.insert(ticket, HeldPacket::Refusal(segment).into());
                self.queue.push_back(ticket);
            }
            Opened::Challenge(segment) => deeds.push(Deed::Tcp(at, segment)),
            Opened::Refusal(_) | Opened::Nothing => {}
        }
    }

    fn send(&mut self, now: Instant, scenario: &Scenario, deeds: &mut Vec<Deed>) -> u64 {
        let mut took = 0;
        while let Some(bytes) = self.decider.poll_frame(now) {
            took += scenario.send_cost.as_nanos() as u64;
            deeds.push(Deed::Claim(after(now, took), bytes.into()));
        }
        took
    }

    /// SYNs that have waited while the daemon did not run.
    fn drop_backlog(&mut self) {
        if !self.decider.has_peers() {
            return;
        }
        let Self { queue, held, counters, .. } = self;
        queue.retain(|ticket| match held.get(ticket).map(|held| held.packet) {
            Some(HeldPacket::Syn(_)) => {
                held.remove(ticket);
                counters.slept += 1;
                false
            }
            Some(HeldPacket::Ack(_) | HeldPacket::Refusal(_)) | None => true,
        });
    }

    /// Packets that wait for a verdict.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Packets and frames that wait to be read.
    pub fn unread(&self) -> (usize, usize) {
        (self.queue.len(), self.inbox.len())
    }

    /// When its core was told of the packet that has waited longest since.
    pub fn oldest_held(&self) -> Option<Instant> {
        // Tickets of each queue are told in order.
        let oldest = |tickets: std::ops::Range<Ticket>| self.held.range(tickets).next();
        let incumbents = Ticket(1 << 63);
        let queues = [oldest(Ticket(0)..incumbents), oldest(incumbents..Ticket(u64::MAX))];
        queues.into_iter().flatten().filter_map(|(_, held)| held.told).min()
    }

    /// Time in which its daemon had something to do, in nanoseconds.
    pub fn busy(&self) -> u64 {
        self.busy
    }

    /// When its daemon has decided what was due last.
    pub fn decided(&self) -> Instant {
        self.decided
    }

    /// The state of the listener as its core was told last.
    pub fn listener(&self) -> Option<Listener> {
        self.told
    }

    /// Its number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }
}

fn cost(each: Duration, number: usize) -> u64 {
    each.as_nanos() as u64 * number as u64
}
