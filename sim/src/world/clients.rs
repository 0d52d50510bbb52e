//! What clients do: connections come, say things again, end; and the flood.

use std::time::Duration;

use clusterd::protocol::Instant;

use super::{ClientTimer, Connection, Event, Slot, World};
use crate::arrivals::Trace;
use crate::chance::after;
use crate::client::{Client, Outcome};
use crate::packet::{Flag, FlowId, Segment};
use crate::record::{Happening, Record};
use crate::scenario::{Arrivals, Rule, Scenario};

/// How long a client waits for an answer before it says its request again, the first time.
const REPEAT_REQUEST: Duration = Duration::from_secs(1);
/// Most connections are over before their client says anything twice; patience is not looked after
/// before that.
const UNEVENTFUL: Duration = REPEAT_REQUEST;
/// A client that finds so many ports in use takes one nevertheless.
const FLOWS_TRIED: usize = 64;
/// Flows of the flood lie beyond those of the clients.
const FLOOD: u32 = 0x4000_0000;

impl<R: Record> World<'_, R> {
    /// No connection comes after this.
    pub(super) fn load_ends(&self) -> Instant {
        Instant::default() + self.scenario.warm_up + self.scenario.duration
    }

    pub(super) fn arrive(&mut self) {
        let scenario = self.scenario;
        if self.now > self.load_ends() {
            return;
        }
        let mean = 1e9 / scenario.connections_per_second;
        let (connections, gap) = match &scenario.arrivals {
            Arrivals::Trace { trace, .. } => return self.arrive_as_recorded(trace),
            Arrivals::Poisson => (1, -(1.0 - self.load.unit()).ln() * mean),
            Arrivals::Regular => (1, mean),
            Arrivals::Bursts => {
                let mean = mean * scenario.burst as f64;
                (scenario.burst, -(1.0 - self.load.unit()).ln() * mean)
            }
        };
        for _ in 0..connections {
            self.connect();
        }
        self.events.schedule(after(self.now, gap as u64), Event::Arrival);
    }

    /// Connections of a trace: those of this moment now, the others later.
    pub(super) fn arrive_as_recorded(&mut self, trace: &Trace) {
        let begin = Instant::default() + self.scenario.warm_up;
        while let Some(time) = trace.time(self.connections.len()) {
            let at = after(begin, time);
            if at > self.now {
                self.events.schedule(at, Event::Arrival);
                return;
            }
            self.connect();
        }
    }

    pub(super) fn connect(&mut self) {
        let flow = self.free_flow();
        self.connect_from(flow);
    }

    /// A client opens a connection from this address and port; it forgets an earlier one.
    pub(super) fn connect_from(&mut self, flow: FlowId) {
        let now = self.now;
        let number = self.connections.len() as u32;
        let isn = self.draw_isn(flow);
        let Scenario { first_word, closes, .. } = *self.scenario;
        let client = Client::new(flow, isn, now, first_word, closes);
        let work = self.scenario.service.draw(&mut self.load);
        let chosen = self.balance();
        if let Some(&latest) = self.by_flow.get(flow.0 as usize) {
            self.reboot(latest);
        }
        self.connections.push(Connection { client, answered: 0, accepted: 0, chosen, work });
        match self.by_flow.get_mut(flow.0 as usize) {
            Some(latest) => *latest = number,
            None => self.by_flow.push(number),
        }
        self.client_timer(number, ClientTimer::Syn);
        if self.scenario.patience < UNEVENTFUL {
            self.schedule_give_up(number);
        }
        if self.reboots.happens(self.scenario.reboots.0) && !self.calm {
            let at = after(now, self.scenario.reboot_after.draw(&mut self.reboots));
            self.events.schedule(at, Event::Client(number, ClientTimer::Reboot));
        }
    }

    pub(super) fn schedule_give_up(&mut self, number: u32) {
        let started = self.connections[number as usize].client.started;
        let at = after(started, self.scenario.patience.as_nanos() as u64);
        self.events.schedule(at, Event::Client(number, ClientTimer::GiveUp));
    }

    /// Initial sequence numbers of a client follow its clock (RFC 6528; `secure_tcp_seq`), from
    /// another point after each start.
    pub(super) fn draw_isn(&mut self, flow: FlowId) -> u32 {
        let drawn = self.load.number();
        let latest = self.by_flow.get(flow.0 as usize).map(|&it| &self.connections[it as usize]);
        let latest = latest
            .map(|it| &it.client)
            .filter(|client| !matches!(client.outcome, Outcome::Open | Outcome::Rebooted));
        latest.map_or(drawn, |client| {
            let ticks = (self.now.since(client.started).as_nanos() >> 6) as u32;
            client.isn.wrapping_add(ticks.max(1))
        })
    }

    /// The client of this connection forgets it. False if it is over.
    pub(super) fn reboot(&mut self, number: u32) -> bool {
        let client = &mut self.connections[number as usize].client;
        let open = client.outcome == Outcome::Open;
        client.reboot(self.now);
        if open {
            let outcome = Outcome::Rebooted;
            self.record.note(self.now, Happening::Ended { connection: number, outcome });
        }
        open
    }

    /// The next address and port of which no connection is open; if there is none soon, the
    /// client must have started anew.
    pub(super) fn free_flow(&mut self) -> FlowId {
        let (ports, number) = (self.scenario.ports, self.turn);
        self.turn += 1;
        let free = |flow: &usize| match self.by_flow.get(*flow) {
            Some(&latest) => self.connections[latest as usize].client.outcome != Outcome::Open,
            None => true,
        };
        let next = (0..ports.min(FLOWS_TRIED)).map(|further| (number + further) % ports);
        FlowId({ next }.find(free).unwrap_or(number % ports) as u32)
    }

    /// What an omniscient balancer would do, if there is one.
    pub(super) fn balance(&mut self) -> Option<u16> {
        let live = |slot: &Slot| slot.host.as_ref().is_some_and(|host| host.kernel.serves);
        let hosts: Vec<usize> = (0..self.slots.len()).filter(|&it| live(&self.slots[it])).collect();
        if hosts.is_empty() {
            return None;
        }
        let busy = |host: usize| self.slots[host].service.jobs() as f64 / self.scenario.speed(host);
        let mut draw = || hosts[self.balancer.below(hosts.len() as u64) as usize];
        let chosen = match self.scenario.rule {
            Rule::Random => draw(),
            Rule::PowerOfTwo => {
                let (one, other) = (draw(), draw());
                if busy(other) < busy(one) { other } else { one }
            }
            Rule::ShortestQueue => {
                let from = draw();
                let next = hosts.iter().map(|&host| (busy(host), host));
                // Of equally busy ones any.
                next.min_by(|a, b| {
                    a.0.total_cmp(&b.0).then_with(|| (a.1 < from).cmp(&(b.1 < from)))
                })?
                .1
            }
            _ => return None,
        };
        Some(chosen as u16)
    }

    pub(super) fn client_timer(&mut self, number: u32, timer: ClientTimer) {
        let now = self.now;
        let patient = self.scenario.patience >= UNEVENTFUL;
        let client = &mut self.connections[number as usize].client;
        match timer {
            ClientTimer::Syn => {
                if let Some((syn, wait)) = client.syn(self.scenario.schedule) {
                    let syns = client.syns;
                    let happening =
                        Happening::Syn { connection: number, number: syns, segment: &syn };
                    self.record.note(now, happening);
                    self.events.schedule(now + wait, Event::Client(number, ClientTimer::Syn));
                    if syns == 2 && patient {
                        self.schedule_give_up(number);
                    }
                    self.leave_client(syn);
                } else if let (Some(at), 1, Outcome::Open) =
                    (client.connected, client.syns, client.outcome)
                {
                    // This timer has waited for the first SYN-ACK, and now waits for the answer.
                    let wait = REPEAT_REQUEST;
                    let timer = ClientTimer::Again { wait };
                    self.events.schedule(at + wait, Event::Client(number, timer));
                }
            }
            ClientTimer::Again { wait } => {
                if let Some(segment) = client.say_again() {
                    let first = wait == REPEAT_REQUEST && client.syns == 1;
                    let timer = ClientTimer::Again { wait: wait * 2 };
                    self.events.schedule(now + wait * 2, Event::Client(number, timer));
                    if first && patient {
                        self.schedule_give_up(number);
                    }
                    self.reply(number, segment);
                }
            }
            ClientTimer::GiveUp => {
                if client.outcome == Outcome::Open {
                    let fin = client.give_up(now);
                    let outcome = client.outcome;
                    self.record.note(now, Happening::Ended { connection: number, outcome });
                    if let Some(fin) = fin {
                        self.reply(number, fin);
                    }
                }
            }
            ClientTimer::Reboot => {
                let flow = client.flow;
                if self.reboot(number) {
                    self.connect_from(flow);
                }
            }
        }
    }

    pub(super) fn leave_client(&mut self, segment: Segment) {
        let delay = self.ends.access.draw(&mut self.ends.clients);
        self.events.schedule(after(self.now, delay), Event::FromClients(segment));
    }

    pub(super) fn reach_client(&mut self, segment: Segment) {
        let Some(&number) = self.by_flow.get(segment.flow.0 as usize) else { return };
        let now = self.now;
        let client = &mut self.connections[number as usize].client;
        let (before, connected) = (client.outcome, client.connected);
        self.record.note(now, Happening::Received { connection: number, segment: &segment });
        let answers = client.receive(now, segment);
        let outcome = client.outcome;
        if connected.is_none() && client.connected.is_some() {
            self.record.note(now, Happening::Connected { connection: number });
            if self.connections[number as usize].client.syns > 1 {
                let timer = ClientTimer::Again { wait: REPEAT_REQUEST };
                self.events.schedule(now + REPEAT_REQUEST, Event::Client(number, timer));
            }
        }
        if outcome != before {
            self.record.note(now, Happening::Ended { connection: number, outcome });
        }
        for segment in answers {
            self.reply(number, segment);
        }
    }

    pub(super) fn reply(&mut self, connection: u32, segment: Segment) {
        self.record.note(self.now, Happening::Replied { connection, segment: &segment });
        self.leave_client(segment);
    }

    pub(super) fn flood(&mut self) {
        if self.now > self.load_ends() {
            return;
        }
        let gap = -(1.0 - self.load.unit()).ln() * 1e9 / self.scenario.flood_per_second;
        self.events.schedule(after(self.now, gap as u64), Event::Flood);
        self.flooded = (self.flooded + 1) % FLOOD;
        let flow = FlowId(FLOOD + self.flooded);
        let sequence = self.load.number();
        let syn = Segment { flow, flag: Flag::Syn, sequence, acknowledgement: 0, length: 0 };
        self.events.schedule(self.now, Event::FromClients(syn));
    }
}
