//! What connects clients and hosts: a switch, switches below a switch, or a hub.
//!
//! Stations are numbered: hosts from 0, then one for the router behind which all
//! clients are. What clients send reaches every host, as with a shared MAC; so do
//! claims. What hosts send to clients is unicast.

mod burst;
mod hub;
mod switch;

pub use hub::QUEUE_MAX as HUB_QUEUE_MAX;

use clusterd::protocol::Instant;

use crate::chance::{Chance, Entity};
use crate::packet::Packet;
use crate::scenario::{Medium, Rule, Scenario};
use crate::setting::Share;
use burst::Burst;
use hub::Hub;
use switch::Switches;

/// A host, or the router of the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Station(pub u16);

/// What the network has to do later.
#[derive(Clone, Debug)]
pub enum NetworkEvent {
    /// A switch has received a whole frame at a port.
    AtSwitch {
        /// Which switch.
        switch: u16,
        /// Where it came from; it is not sent back there.
        from: switch::Hop,
        /// Who has sent it.
        sender: Station,
        /// The frame.
        packet: Packet,
    },
    /// A station of the hub may try to send.
    HubAttempt(Station),
    /// The hub's wire becomes free.
    HubIdle,
}

/// Why a frame does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The cable loses it, as the scenario says.
    Chance,
    /// A fault has cut these two off.
    Cut,
    /// A port of a switch has no room.
    Overflow,
    /// Its sender has given it up after too many collisions.
    Collisions,
}

/// From whom, and to which station; or to none of them.
pub type Way = (Station, Option<Station>);

/// Where the network puts what comes of a frame.
pub trait Outlet {
    /// Something that the network has to do later.
    fn later(&mut self, at: Instant, event: NetworkEvent);
    /// A whole frame arrives at a station. Frames in order overtake none of each other any more.
    fn deliver(&mut self, at: Instant, to: Station, packet: Packet, in_order: bool);
    /// A frame does not arrive.
    fn lose(&mut self, at: Instant, way: Way, packet: &Packet, why: Loss);
}

/// Senders get their own claims as all others get them; no other rule than the original takes notice.
fn echoes(scenario: &Scenario) -> bool {
    scenario.echo && scenario.rule == Rule::Original
}

/// What the network has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct NetworkCounters {
    /// Frames that stations have sent.
    pub frames: u64,
    /// Copies of frames that were lost on purpose.
    pub lost: u64,
    /// Copies that a full port has dropped.
    pub overflowed: u64,
    /// Collisions on the hub.
    pub collisions: u64,
    /// Frames given up after sixteen collisions.
    pub given_up: u64,
}

impl NetworkCounters {
    /// What has come since `earlier`.
    pub fn minus(&self, earlier: &Self) -> Self {
        Self {
            frames: self.frames - earlier.frames,
            lost: self.lost - earlier.lost,
            overflowed: self.overflowed - earlier.overflowed,
            collisions: self.collisions - earlier.collisions,
            given_up: self.given_up - earlier.given_up,
        }
    }
}

/// The network of a run.
pub struct Network {
    medium: Wires,
    receivers: Vec<Receiver>,
    /// Whose claims do not reach whom.
    cut: Vec<Vec<bool>>,
    /// What was counted.
    pub counters: NetworkCounters,
}

#[expect(clippy::large_enum_variant, reason = "there is one for each network")]
enum Wires {
    Switches(Switches),
    Hub(Hub),
}

impl Network {
    /// The network of a scenario.
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let stations = scenario.hosts + 1;
        let medium = match scenario.medium {
            Medium::Switch => Wires::Switches(Switches::star(scenario, seed)),
            Medium::Tree => Wires::Switches(Switches::tree(scenario, seed)),
            Medium::Hub => Wires::Hub(Hub::new(scenario, seed)),
        };
        Self {
            medium,
            receivers: (0..stations).map(|index| Receiver::new(scenario, seed, index)).collect(),
            cut: vec![vec![false; stations]; stations],
            counters: NetworkCounters::default(),
        }
    }

    /// The station of all clients.
    pub fn clients(&self) -> Station {
        Station(self.receivers.len() as u16 - 1)
    }

    /// A station sends a frame.
    pub fn send(&mut self, now: Instant, from: Station, packet: Packet, outlet: &mut impl Outlet) {
        self.counters.frames += 1;
        let Receiver { chance, uplink_loss, uplink_bursts, .. } =
            &mut self.receivers[usize::from(from.0)];
        if uplink_bursts.loses(chance) || chance.happens(*uplink_loss) {
            self.counters.lost += 1;
            outlet.lose(now, (from, None), &packet, Loss::Chance);
            return;
        }
        match &mut self.medium {
            Wires::Switches(switches) => switches.send(now, from, packet, outlet),
            Wires::Hub(hub) => hub.send(now, from, packet, outlet),
        }
    }

    /// The time of an event of the network has come.
    pub fn handle<O: Outlet>(&mut self, now: Instant, event: NetworkEvent, outlet: &mut O) {
        let Self { medium, receivers, cut, counters } = self;
        let mut arrive = |at, sender: Station, to: Station, packet: &Packet, outlet: &mut O| {
            if packet.is_claim() && cut[usize::from(sender.0)][usize::from(to.0)] {
                outlet.lose(at, (sender, Some(to)), packet, Loss::Cut);
                return;
            }
            let receiver = &mut receivers[usize::from(to.0)];
            if !receiver.arrive(at, to, packet, outlet) {
                counters.lost += 1;
                outlet.lose(at, (sender, Some(to)), packet, Loss::Chance);
            }
        };
        match (medium, event) {
            (
                Wires::Switches(switches),
                NetworkEvent::AtSwitch { switch, from, sender, packet },
            ) => {
                counters.overflowed +=
                    switches.forward(now, switch, from, sender, &packet, outlet, &mut arrive);
            }
            (Wires::Hub(hub), NetworkEvent::HubAttempt(station)) => {
                hub.attempt(now, station, outlet);
            }
            (Wires::Hub(hub), NetworkEvent::HubIdle) => hub.idle(now, outlet, &mut arrive),
            (Wires::Switches(_), NetworkEvent::HubAttempt(_) | NetworkEvent::HubIdle)
            | (Wires::Hub(_), NetworkEvent::AtSwitch { .. }) => {
                unreachable!("a network has one medium")
            }
        }
        if let Wires::Hub(hub) = &self.medium {
            (self.counters.collisions, self.counters.given_up) = (hub.collisions, hub.given_up);
        }
    }

    /// Claims of `from` do not reach `to` any more, or do again.
    pub fn cut(&mut self, from: Station, to: Station, cut: bool) {
        self.cut[usize::from(from.0)][usize::from(to.0)] = cut;
    }

    /// All claims reach everybody again.
    pub fn heal(&mut self) {
        self.cut.iter_mut().for_each(|row| row.fill(false));
    }

    /// From now on no frame is lost, doubled or overtaken by chance.
    pub fn calm(&mut self) {
        self.receivers.iter_mut().for_each(Receiver::calm);
    }
}

/// What becomes of frames at the end of a station's cable.
struct Receiver {
    chance: Chance,
    /// Of what it sends.
    uplink_loss: f64,
    uplink_bursts: Burst,
    loss: f64,
    claim_loss: f64,
    bursts: Burst,
    /// On its own cable.
    downlink_bursts: Burst,
    duplication: f64,
    reordering: f64,
    reordering_delay: crate::delay::Delay,
}

impl Receiver {
    fn new(scenario: &Scenario, seed: u64, index: usize) -> Self {
        let burst = |lost| Burst::new(lost, scenario.burst_mean);
        let cable = |losses: &[Share]| {
            let host = losses.get(index).or(losses.last()).filter(|_| index < scenario.hosts);
            host.map_or(0.0, |share| share.0)
        };
        Self {
            chance: Chance::new(seed, Entity::Receiver(index as u16)),
            uplink_loss: cable(&scenario.uplink_loss),
            uplink_bursts: burst(cable(&scenario.uplink_bursts)),
            loss: 1.0 - (1.0 - scenario.loss.0) * (1.0 - cable(&scenario.downlink_loss)),
            claim_loss: scenario.claim_loss.0,
            bursts: burst(scenario.burst_loss.0),
            downlink_bursts: burst(cable(&scenario.downlink_bursts)),
            duplication: scenario.duplication.0,
            reordering: scenario.reordering.0,
            reordering_delay: scenario.reordering_delay.clone(),
        }
    }

    fn calm(&mut self) {
        (self.loss, self.claim_loss, self.duplication, self.reordering) = (0.0, 0.0, 0.0, 0.0);
        self.uplink_loss = 0.0;
        for burst in [&mut self.bursts, &mut self.uplink_bursts, &mut self.downlink_bursts] {
            *burst = Burst::default();
        }
    }

    /// A frame has come to the end of the cable. False if it is lost there.
    fn arrive(
        &mut self,
        at: Instant,
        to: Station,
        packet: &Packet,
        outlet: &mut impl Outlet,
    ) -> bool {
        let chance = &mut self.chance;
        // Each channel goes on, whatever the others do.
        let bursts = [&mut self.bursts, &mut self.downlink_bursts];
        let burst = bursts.into_iter().fold(false, |lost, burst| burst.loses(chance) | lost);
        let lost = burst
            || chance.happens(self.loss)
            || packet.is_claim() && chance.happens(self.claim_loss);
        if lost {
            return false;
        }
        let late = match chance.happens(self.reordering) {
            true => self.reordering_delay.draw(chance),
            false => 0,
        };
        let at = crate::chance::after(at, late);
        if chance.happens(self.duplication) {
            outlet.deliver(at, to, packet.clone(), late == 0);
        }
        outlet.deliver(at, to, packet.clone(), late == 0);
        true
    }
}
