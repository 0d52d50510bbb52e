//! The daemon of a host.
//!
//! It is the loop of `clusterd` (`src/daemon/hot_loop.rs`) step by step, because the
//! races are between these steps: it reads claims, its log and held packets; reads claims again
//! and decides; carries out; sends. Each step takes time, and a pause may fall between any two.

use std::time::Duration;

use clusterd::flow::ServicePort;
use clusterd::protocol::{Instant, Listener, Load, Output, Syn, Ticket, Verdict};

use super::{Deed, HeldPacket, Host, Logged, Measured, Stage, Step};
use crate::chance::after;
use crate::kernel::Opened;
use crate::packet::{FlowId, PORT, Segment, VIP};
use crate::scenario::Scenario;

/// Held packets and log entries taken in one step, as the daemon does.
const BUDGET: usize = 64;
/// A turn that comes this late finds SYNs that are nobody's to answer, as for the daemon.
const SLEPT: Duration = Duration::from_millis(500);
const LOAD_INTERVAL: Duration = Duration::from_millis(100);
/// A listener this full is busy, as for the daemon.
const BUSY_SHARE: (usize, usize) = (3, 4);

impl Host {
    /// There is something to read.
    pub(super) fn wake(&mut self, now: Instant, scenario: &Scenario, deeds: &mut Vec<Deed>) {
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
            self.decider.handle_listener(now, ServicePort::tcp((VIP, PORT)), listener);
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
                deeds.push(Deed::Decided(ticket, segment, verdict, held.told));
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
    pub(super) fn open(&mut self, at: Instant, syn: Segment, logged: bool, deeds: &mut Vec<Deed>) {
        match self.kernel.open_connection(at, syn, !logged) {
            Opened::SynAck(segment) => {
                if logged {
                    let (flow, client_isn, isn) = (syn.flow, syn.sequence, segment.sequence);
                    self.log.push_back(Logged::SynAck { flow, client_isn, isn });
                }
                deeds.push(Deed::Tcp(at, segment));
                self.watch_request(syn.flow, segment.sequence, deeds);
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
}

fn cost(each: Duration, number: usize) -> u64 {
    each.as_nanos() as u64 * number as u64
}
