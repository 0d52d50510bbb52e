//! A host: its kernel, its daemon with the production core, and what happens to both.

mod daemon;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use clusterd::flow::{ClusterKey, NodeId};
use clusterd::protocol::{Instant, KernelShare, Listener, Notice, Ticket, Verdict};

use crate::chance::{Chance, Entity};
use crate::kernel::{Ingress, Kernel, TakenUp};
use crate::packet::{FlowId, Segment, VIP};
use crate::rule::Decider;
use crate::scenario::Scenario;

/// The key of every simulated cluster.
pub fn cluster_key() -> ClusterKey {
    ClusterKey::public(VIP.into())
}

/// The id of a host.
pub fn node_id(host: usize) -> NodeId {
    NodeId(host as u32 + 1)
}

/// The host with this id.
pub fn host_of(node: NodeId) -> Option<u16> {
    (0..64).find(|&host| node_id(usize::from(host)) == node)
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
    /// It has a half-open connection with this number, and looks at its timer then.
    RequestTimer(Instant, FlowId, u32),
    /// Its application has a connection, whose client began with this number.
    Accepted(FlowId, u32),
    /// Its application has something to do for a connection.
    Work(FlowId),
    /// A held SYN, of which the core was told then, got this verdict.
    Decided(Ticket, Segment, Verdict, Option<Instant>),
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

/// The rule `limit rate 1000/second` in front of the log (spec 7, *evidence*), with nft's burst of 5
/// (`nft_limit_eval`): a bucket that has room for 5 ms, of which each packet takes one.
#[derive(Clone, Copy, Debug, Default)]
struct RateLimit {
    full_at: Instant,
}

impl RateLimit {
    const EACH: Duration = Duration::from_millis(1);
    const BURST: u32 = 5;

    /// A packet comes; does it pass?
    fn passes(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + Self::EACH;
        let passes = full_at.since(now) <= Self::EACH * Self::BURST;
        if passes {
            self.full_at = full_at;
        }
        passes
    }
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
    evidence: RateLimit,
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
            evidence: RateLimit::default(),
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
        // A service that is full of idle connections closes them by its own clock. It shows, at the latest,
        // when the daemon looks whether there is room for this packet.
        self.take_up(now, deeds);
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
            Ingress::Copy if !self.evidence.passes(now) => {}
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
        let again = self.kernel.repeat_syn_ack(now, flow, isn, scenario.syn_ack_retries);
        if let Some(segment) = again {
            deeds.push(Deed::Tcp(now, segment));
            self.watch_request(flow, isn, deeds);
            // The rules copy every SYN-ACK to the daemon.
            let client_isn = segment.acknowledgement.wrapping_sub(1);
            self.log.push_back(Logged::SynAck { flow, client_isn, isn });
            self.wake(now, scenario, deeds);
        }
    }

    fn watch_request(&self, flow: FlowId, isn: u32, deeds: &mut Vec<Deed>) {
        let due = self.kernel.request_due(flow, isn);
        deeds.extend(due.map(|due| Deed::RequestTimer(due, flow, isn)));
    }

    /// The daemon does not run before `until`.
    pub fn pause(&mut self, until: Instant) {
        self.paused_until = self.paused_until.max(until);
    }

    /// Packets that wait for a verdict.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Which of the SYNs of an attempt that wait for a verdict has come last.
    pub fn newest_syn(&self, flow: FlowId, isn: u32) -> Option<Ticket> {
        let of_attempt = |held: &Held| match held.packet {
            HeldPacket::Syn(syn) => (syn.flow, syn.sequence) == (flow, isn),
            HeldPacket::Ack(_) | HeldPacket::Refusal(_) => false,
        };
        let tickets = self.held.iter().filter(|(_, held)| of_attempt(held)).map(|(&it, _)| it);
        // Whatever the queue that it came by.
        tickets.max_by_key(|ticket| ticket.0 & !(1 << 63))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_so_many_packets_a_second_and_a_few_at_once() {
        let mut limit = RateLimit::default();
        let second: Vec<_> = (0..2_000).map(|half| Duration::from_micros(500 * half)).collect();
        let passed = second.iter().filter(|&&at| limit.passes(Instant::default() + at)).count();
        assert!((1_000..1_010).contains(&passed), "{passed}");
        let later = Instant::default() + Duration::from_secs(9);
        assert_eq!((0..100).filter(|_| limit.passes(later)).count(), 5);
    }
}
