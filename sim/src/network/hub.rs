//! One wire for all: carrier sense, collisions, back-off (IEEE 802.3 clause 4).
//!
//! What gets through reaches all stations in one order, but for its sender, which does not
//! hear itself. That is the medium for which claims were invented.

use std::collections::VecDeque;

use clusterd::protocol::Instant;

use super::{Loss, NetworkEvent, Outlet, Station, echoes};
use crate::chance::{Chance, Entity, after};
use crate::packet::Packet;
use crate::scenario::Scenario;
use crate::setting::Rate;

/// In bits: between frames, after a collision, one unit of back-off.
const GAP: f64 = 96.0;
const JAM: f64 = 32.0;
const SLOT: f64 = 512.0;
/// Collisions after which the range of back-off grows no more, and after which a frame is given up.
const BACKOFF_LIMIT: u32 = 10;
const ATTEMPT_LIMIT: u32 = 16;

/// Frames that a station holds until it can send them (`DEFAULT_TX_QUEUE_LEN` of Linux).
pub const QUEUE_MAX: usize = 1000;

/// What happens on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Idle,
    Sending { station: Station, since: Instant, until: Instant },
    Jammed { since: Instant, until: Instant },
}

#[derive(Default)]
struct Sender {
    queue: VecDeque<Packet>,
    collisions: u32,
    /// An attempt is scheduled, or waits for the wire.
    waits: bool,
}

/// The hub.
pub struct Hub {
    wire: Wire,
    senders: Vec<Sender>,
    /// Who starts as soon as the wire is free.
    deferring: Vec<Station>,
    chance: Chance,
    rate: Rate,
    propagation: u64,
    echoes: bool,
    /// Collisions so far.
    pub collisions: u64,
    /// Frames given up so far.
    pub given_up: u64,
}

impl Hub {
    /// The hub of a scenario.
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        Self {
            wire: Wire::Idle,
            senders: (0..=scenario.hosts).map(|_| Sender::default()).collect(),
            deferring: Vec::new(),
            chance: Chance::new(seed, Entity::Port(0)),
            rate: scenario.rate,
            // Two stations that start at one moment always collide.
            propagation: (scenario.propagation.as_nanos() as u64).max(1),
            echoes: echoes(scenario),
            collisions: 0,
            given_up: 0,
        }
    }

    fn bits(&self, bits: f64) -> u64 {
        (bits * 1e9 / self.rate.0) as u64
    }

    /// A station has a frame to send.
    pub fn send(&mut self, now: Instant, from: Station, packet: Packet, outlet: &mut impl Outlet) {
        let sender = &mut self.senders[usize::from(from.0)];
        if sender.queue.len() >= QUEUE_MAX {
            return outlet.lose(now, (from, None), &packet, Loss::Overflow);
        }
        sender.queue.push_back(packet);
        if !sender.waits && sender.queue.len() == 1 {
            sender.waits = true;
            outlet.later(now, NetworkEvent::HubAttempt(from));
        }
    }

    /// A station with a frame looks at the wire.
    pub fn attempt(&mut self, now: Instant, station: Station, outlet: &mut impl Outlet) {
        // Who has started less than the propagation delay ago is not heard yet.
        let unheard = |since: Instant| now.0 - since.0 < self.propagation;
        match self.wire {
            Wire::Idle => {
                let sender = &mut self.senders[usize::from(station.0)];
                let Some(packet) = sender.queue.front() else { return };
                sender.waits = false;
                let until = after(now, self.rate.time_of(packet.wire_length()));
                self.wire = Wire::Sending { station, since: now, until };
                outlet.later(until, NetworkEvent::HubIdle);
            }
            Wire::Sending { station: other, since, .. } if unheard(since) => {
                self.collisions += 1;
                let until = after(now, self.propagation + self.bits(JAM));
                self.wire = Wire::Jammed { since: now, until };
                outlet.later(until, NetworkEvent::HubIdle);
                self.back_off(until, other, outlet);
                self.back_off(until, station, outlet);
            }
            Wire::Jammed { since, until } if unheard(since) => {
                self.back_off(until, station, outlet);
            }
            Wire::Sending { .. } | Wire::Jammed { .. } => self.deferring.push(station),
        }
    }

    /// Truncated binary exponential back-off.
    fn back_off(&mut self, jam_ends: Instant, station: Station, outlet: &mut impl Outlet) {
        let (gap, slot) = (self.bits(GAP), self.bits(SLOT));
        let sender = &mut self.senders[usize::from(station.0)];
        sender.collisions += 1;
        if sender.collisions > ATTEMPT_LIMIT {
            if let Some(packet) = sender.queue.pop_front() {
                outlet.lose(jam_ends, (station, None), &packet, Loss::Collisions);
            }
            sender.collisions = 0;
            self.given_up += 1;
        }
        sender.waits = !sender.queue.is_empty();
        if sender.waits {
            let range = 1 << sender.collisions.min(BACKOFF_LIMIT);
            let wait = gap + slot * self.chance.below(range);
            outlet.later(after(jam_ends, wait), NetworkEvent::HubAttempt(station));
        }
    }

    /// A transmission or a jam may have ended.
    pub fn idle<O: Outlet>(
        &mut self,
        now: Instant,
        outlet: &mut O,
        arrive: &mut impl FnMut(Instant, Station, Station, &Packet, &mut O),
    ) {
        match self.wire {
            Wire::Sending { station, until, .. } if until == now => {
                self.sent(now, station, outlet, arrive)
            }
            Wire::Jammed { until, .. } if until == now => {}
            // That transmission has collided.
            Wire::Idle | Wire::Sending { .. } | Wire::Jammed { .. } => return,
        }
        self.wire = Wire::Idle;
        let start = after(now, self.bits(GAP));
        for station in self.deferring.drain(..) {
            outlet.later(start, NetworkEvent::HubAttempt(station));
        }
    }

    fn sent<O: Outlet>(
        &mut self,
        now: Instant,
        station: Station,
        outlet: &mut O,
        arrive: &mut impl FnMut(Instant, Station, Station, &Packet, &mut O),
    ) {
        let clients = Station(self.senders.len() as u16 - 1);
        let sender = &mut self.senders[usize::from(station.0)];
        let packet = sender.queue.pop_front();
        let packet = packet.unwrap_or_else(|| unreachable!("what was sent was queued"));
        sender.collisions = 0;
        if !sender.queue.is_empty() {
            sender.waits = true;
            self.deferring.push(station);
        }
        let at = after(now, self.propagation);
        let unicast = !packet.is_claim() && station != clients;
        let echo = self.echoes && packet.is_claim();
        let stations = (0..self.senders.len() as u16).map(Station);
        for to in stations.filter(|&to| to != station || echo) {
            let heeds = if unicast { to == clients } else { to != clients };
            if heeds {
                arrive(at, station, to, &packet, outlet);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Way;
    use crate::packet::{Flag, FlowId, Segment};

    /// What a hub has scheduled, and how many frames it has lost for want of room.
    #[derive(Default)]
    struct Seen {
        events: Vec<(Instant, NetworkEvent)>,
        overflowed: usize,
    }

    impl Outlet for Seen {
        fn later(&mut self, at: Instant, event: NetworkEvent) {
            self.events.push((at, event));
        }
        fn deliver(&mut self, _: Instant, _: Station, _: Packet, _: bool) {}
        fn lose(&mut self, _: Instant, way: Way, _: &Packet, why: Loss) {
            assert_eq!((way, why), ((Station(0), None), Loss::Overflow));
            self.overflowed += 1;
        }
    }

    #[test]
    fn a_station_holds_so_many_frames_and_sends_all_of_them() {
        let scenario = Scenario { hosts: 2, ..Scenario::default() };
        let mut hub = Hub::new(&scenario, 1);
        let mut seen = Seen::default();
        let segment = Segment {
            flow: FlowId(0),
            flag: Flag::SynAck,
            sequence: 1,
            acknowledgement: 2,
            length: 0,
        };
        for _ in 0..QUEUE_MAX + 3 {
            hub.send(Instant::default(), Station(0), Packet::Tcp(segment), &mut seen);
        }
        assert_eq!(seen.overflowed, 3);
        let mut arrived = 0;
        while let Some((at, event)) = seen.events.pop() {
            match event {
                NetworkEvent::HubAttempt(station) => hub.attempt(at, station, &mut seen),
                NetworkEvent::HubIdle => {
                    hub.idle(at, &mut seen, &mut |_, _, _, _: &Packet, _: &mut Seen| arrived += 1)
                }
                NetworkEvent::AtSwitch { .. } => unreachable!("there is none"),
            }
        }
        assert_eq!((arrived, seen.overflowed), (QUEUE_MAX, 3));
    }
}
