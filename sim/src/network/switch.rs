//! Store-and-forward switches: every port is a queue of its own.

use clusterd::protocol::Instant;

use super::{Loss, NetworkEvent, Outlet, Station, echoes};
use crate::chance::{Chance, Entity, after};
use crate::delay::Delay;
use crate::packet::{FULL_FRAME, Packet};
use crate::scenario::Scenario;
use crate::setting::Rate;

/// A queue with utilization u forgets where it began within some times service / (1 - u)^2: its
/// relaxation time (M/D/1 in heavy traffic). So long after that next to nothing is left.
const RELAXATIONS: f64 = 8.0;

/// The other end of a cable from a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// A station.
    Station(Station),
    /// Another switch.
    Switch(u16),
}

/// The egress of a switch towards one neighbour: first in, first out.
struct Port {
    to: Hop,
    chance: Chance,
    /// When the latest frame has come to this queue: it is served in the order in which frames come to the
    /// switch, however long each is on its way within it.
    entered: Instant,
    busy_until: Instant,
    /// When the next frame of other traffic is queued.
    background_at: Instant,
    /// Mean time between two of these in nanoseconds; infinite without other traffic.
    background_every: f64,
    /// Other traffic further back has no bearing on the queue any more, in nanoseconds.
    memory: u64,
}

struct Switch {
    ports: Vec<Port>,
    /// The port towards the clients, and those of hosts below it.
    upwards: usize,
}

/// All switches and the cables into them.
pub struct Switches {
    switches: Vec<Switch>,
    /// The switch of each station, and when its own cable is free.
    uplinks: Vec<(u16, Instant)>,
    rate: Rate,
    propagation: u64,
    fabric: Delay,
    /// What a full buffer takes to be sent, in nanoseconds.
    buffer: u64,
    clients: Station,
    echoes: bool,
}

impl Switches {
    /// One switch with everybody on it.
    pub fn star(scenario: &Scenario, seed: u64) -> Self {
        let stations = (0..=scenario.hosts as u16).map(Station);
        let ports =
            stations.map(|station| (Hop::Station(station), scenario.hosts as u16 != station.0));
        Self::new(scenario, seed, vec![(ports.collect(), scenario.hosts)], |_| 0)
    }

    /// A switch with the clients on it, and below it switches with the hosts.
    pub fn tree(scenario: &Scenario, seed: u64) -> Self {
        let (hosts, leaves) = (scenario.hosts as u16, scenario.leaves as u16);
        let leaf_of = |host: u16| 1 + host % leaves;
        let mut top: Vec<_> = (1..=leaves).map(|leaf| (Hop::Switch(leaf), false)).collect();
        top.push((Hop::Station(Station(hosts)), false));
        let mut switches = vec![(top, usize::from(leaves))];
        for leaf in 1..=leaves {
            let below = (0..hosts).filter(|&host| leaf_of(host) == leaf);
            let mut ports: Vec<_> = vec![(Hop::Switch(0), false)];
            ports.extend(below.map(|host| (Hop::Station(Station(host)), true)));
            switches.push((ports, 0));
        }
        Self::new(
            scenario,
            seed,
            switches,
            |station| {
                if station == hosts { 0 } else { leaf_of(station) }
            },
        )
    }

    /// Switches by their ports (with other traffic or without) and the port upwards.
    fn new(
        scenario: &Scenario,
        seed: u64,
        switches: Vec<(Vec<(Hop, bool)>, usize)>,
        switch_of: impl Fn(u16) -> u16,
    ) -> Self {
        let full_frame = scenario.rate.time_of(FULL_FRAME) as f64;
        let background_every = full_frame / scenario.background.0;
        let memory = RELAXATIONS * full_frame / (1.0 - scenario.background.0).powi(2);
        let mut number = 0;
        let mut port = |(to, background): (Hop, bool)| {
            number += 1;
            let mut chance = Chance::new(seed, Entity::Port(number));
            let every = if background { background_every } else { f64::INFINITY };
            let background_at = arrival(Instant::default(), every, &mut chance);
            Port {
                to,
                chance,
                entered: Instant::default(),
                busy_until: Instant::default(),
                background_at,
                background_every: every,
                memory: memory as u64,
            }
        };
        let switches = switches.into_iter().map(|(ports, upwards)| Switch {
            ports: ports.into_iter().map(&mut port).collect(),
            upwards,
        });
        Self {
            switches: switches.collect(),
            uplinks: (0..=scenario.hosts as u16)
                .map(|station| (switch_of(station), Instant::default()))
                .collect(),
            rate: scenario.rate,
            propagation: scenario.propagation.as_nanos() as u64,
            fabric: scenario.fabric.clone(),
            echoes: echoes(scenario),
            buffer: scenario.rate.time_of(scenario.buffer as u32),
            clients: Station(scenario.hosts as u16),
        }
    }

    /// A station puts a frame on its cable.
    pub fn send(&mut self, now: Instant, from: Station, packet: Packet, outlet: &mut impl Outlet) {
        let time = self.rate.time_of(packet.wire_length());
        let (switch, free) = &mut self.uplinks[usize::from(from.0)];
        *free = after(now.max(*free), time);
        let at = after(*free, self.propagation);
        let (switch, from, sender) = (*switch, Hop::Station(from), from);
        outlet.later(at, NetworkEvent::AtSwitch { switch, from, sender, packet });
    }

    /// A switch has the whole frame: it goes into the queues of the ports that it leaves by.
    /// Returns how many had no room.
    #[expect(clippy::too_many_arguments, reason = "a frame, where it is, and where it may go")]
    pub fn forward<O: Outlet>(
        &mut self,
        now: Instant,
        number: u16,
        from: Hop,
        sender: Station,
        packet: &Packet,
        outlet: &mut O,
        arrive: &mut impl FnMut(Instant, Station, Station, &Packet, &mut O),
    ) -> u64 {
        let Switch { ports, upwards } = &mut self.switches[usize::from(number)];
        // Hosts answer clients by unicast; all else is for a group and is flooded.
        let unicast = !packet.is_claim() && sender != self.clients;
        let upwards = *upwards;
        let echo = self.echoes && packet.is_claim();
        let time = self.rate.time_of(packet.wire_length());
        let mut overflowed = 0;
        for (index, port) in ports.iter_mut().enumerate() {
            let back = port.to == from && !(echo && from == Hop::Station(sender));
            if back || unicast && index != upwards {
                continue;
            }
            let at = after(now, self.fabric.draw(&mut port.chance));
            let Some(sent) = port.send(at, time, self.rate, self.buffer) else {
                overflowed += 1;
                let to = match port.to {
                    Hop::Station(to) => Some(to),
                    Hop::Switch(_) => None,
                };
                outlet.lose(at, (sender, to), packet, Loss::Overflow);
                continue;
            };
            let at = after(sent, self.propagation);
            match port.to {
                // Clients hear claims and take no notice.
                Hop::Station(to) if to == self.clients && packet.is_claim() => {}
                Hop::Station(to) => arrive(at, sender, to, packet, outlet),
                Hop::Switch(switch) => {
                    let (from, packet) = (Hop::Switch(number), packet.clone());
                    outlet.later(at, NetworkEvent::AtSwitch { switch, from, sender, packet });
                }
            }
        }
        overflowed
    }
}

impl Port {
    /// Queues a frame. Returns when its last bit leaves, or `None` if there is no room.
    fn send(&mut self, at: Instant, time: u64, rate: Rate, buffer: u64) -> Option<Instant> {
        let at = at.max(self.entered);
        self.entered = at;
        // Poisson arrivals remember nothing, so they may begin anew shortly before.
        let recent = Instant(at.0.saturating_sub(self.memory));
        if self.background_at < recent {
            self.background_at = arrival(recent, self.background_every, &mut self.chance);
        }
        while self.background_at <= at {
            let queued = self.busy_until.max(self.background_at);
            if queued.0 - self.background_at.0 <= buffer {
                self.busy_until = after(queued, rate.time_of(FULL_FRAME));
            }
            self.background_at =
                arrival(self.background_at, self.background_every, &mut self.chance);
        }
        let start = self.busy_until.max(at);
        if start.0 - at.0 > buffer {
            return None;
        }
        self.busy_until = after(start, time);
        Some(self.busy_until)
    }
}

/// The next arrival of a Poisson process.
fn arrival(now: Instant, mean: f64, chance: &mut Chance) -> Instant {
    if mean.is_infinite() {
        return Instant(u64::MAX);
    }
    after(now, (-(1.0 - chance.unit()).ln() * mean) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_full_by_what_is_in_it_and_not_by_what_comes_later() {
        let scenario = Scenario { buffer: 1_600, rate: Rate(1e10), ..Scenario::default() };
        let mut switches = Switches::star(&scenario, 1);
        let port = &mut switches.switches[0].ports[0];
        let buffer = switches.buffer;
        let mut send = |at| port.send(Instant(at), 100, scenario.rate, buffer).map(|sent| sent.0);
        // One frame takes long within the switch; those behind it wait for it, and not in the queue.
        assert_eq!(send(500_000), Some(500_100));
        assert_eq!([send(1_000), send(2_000)], [Some(500_200), Some(500_300)]);
        let sent = (0..100).filter_map(|_| send(3_000)).count() as u64;
        assert_eq!(sent, (buffer - 300) / 100 + 1, "the buffer takes {buffer} ns to be sent");
    }
}
