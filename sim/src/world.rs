//! Everything together: clients, network and hosts under one clock.

mod clients;
mod hosts;

use std::time::Duration;

use clusterd::protocol::Instant;

use crate::chance::{Chance, Entity, after};
use crate::client::{Client, Outcome};
use crate::counts::{Counted, Counts};
use crate::delay::Delay;
use crate::engine::EventQueue;
use crate::host::{Deed, Host};
use crate::network::{Loss, Network, NetworkEvent, Outlet, Station, Way};
use crate::packet::{FlowId, Packet, Segment};
use crate::record::{Happening, Record};
use crate::scenario::{COOL_DOWN, Scenario};
use crate::service::Service;

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    /// Clients open connections, and go on with that.
    Arrival,
    /// A client opens a connection.
    Connection,
    /// A spoofed SYN.
    Flood,
    Client(u32, ClientTimer),
    Network(NetworkEvent),
    /// A frame has got through a host's interface.
    Arrives(Station, Packet),
    /// A segment is at the client.
    ToClient(Segment),
    /// A client's segment is at the segment of the hosts.
    FromClients(Segment),
    /// A host's segment or claim leaves.
    Leaves(Station, Packet),
    Step {
        host: u16,
        life: u32,
        epoch: u32,
    },
    Request {
        host: u16,
        life: u32,
        flow: FlowId,
        isn: u32,
    },
    Served {
        host: u16,
        life: u32,
        epoch: u32,
    },
    Pause(u16),
    Fault(u32),
}

#[derive(Clone, Copy, Debug)]
enum ClientTimer {
    Syn,
    Again { wait: Duration },
    GiveUp,
    Reboot,
}

/// A connection attempt: what its client and the simulator know.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its client.
    pub client: Client,
    /// Hosts that have sent a SYN-ACK, as bits.
    pub answered: u64,
    /// Hosts whose application has it, as bits.
    pub accepted: u64,
    /// The host that a balancer has chosen.
    chosen: Option<u16>,
    /// What serving it takes, in nanoseconds at one unit of work per second.
    work: u64,
}

impl Connection {
    /// The host whose application has it.
    pub fn owner(&self) -> Option<usize> {
        (self.accepted != 0).then(|| self.accepted.trailing_zeros() as usize)
    }

    /// From the first SYN to the first SYN-ACK, in nanoseconds.
    pub fn connect_time(&self) -> Option<u64> {
        self.client.connected.map(|at| at.since(self.client.started).as_nanos() as u64)
    }

    /// From the first SYN to the end of the answer, in nanoseconds.
    pub fn response_time(&self) -> Option<u64> {
        let ended = self.client.ended.filter(|_| self.client.outcome == Outcome::Served);
        ended.map(|at| at.since(self.client.started).as_nanos() as u64)
    }
}

/// A place for a host, running or not.
struct Slot {
    host: Option<Host>,
    service: Service,
    /// How often it was started; events of earlier lives are void.
    life: u32,
    /// What its daemon has counted in earlier lives.
    counted: Counts,
}

/// A run.
pub struct World<'a, R> {
    scenario: &'a Scenario,
    seed: u64,
    now: Instant,
    events: EventQueue<Event>,
    network: Network,
    slots: Vec<Slot>,
    /// All connections so far.
    pub connections: Vec<Connection>,
    /// The latest connection of each flow.
    by_flow: Vec<u32>,
    /// Connections for which an address and port was sought.
    turn: usize,
    load: Chance,
    ends: Ends,
    pauses: Vec<Chance>,
    balancer: Chance,
    reboots: Chance,
    deeds: Vec<Deed>,
    happened: u64,
    flooded: u32,
    /// Nothing pauses daemons any more, and no client starts anew.
    calm: bool,
    /// Claim frames, and their bytes on the wire.
    pub claim_frames: (u64, u64),
    /// What was counted until the end of the warm-up.
    warm_up: Counted,
    /// How long daemons had something to do until the end of the load, in nanoseconds.
    busy: u64,
    /// What is written down.
    pub record: R,
}

/// The ends of the cables: what a frame goes through behind them.
struct Ends {
    interrupt: Delay,
    /// What segments need more, at each host.
    queueing: Vec<Duration>,
    access: Delay,
    /// Draws for each host, and when the last frame has got through its interface: that is a
    /// queue.
    hosts: Vec<(Chance, Instant)>,
    clients: Chance,
}

/// Puts what the network does into the queue of events.
struct Wires<'a, R> {
    events: &'a mut EventQueue<Event>,
    ends: &'a mut Ends,
    record: &'a mut R,
}

impl<R: Record> Outlet for Wires<'_, R> {
    fn later(&mut self, at: Instant, event: NetworkEvent) {
        self.events.schedule(at, Event::Network(event));
    }

    fn deliver(&mut self, at: Instant, to: Station, packet: Packet, in_order: bool) {
        let Ends { interrupt, queueing, access, hosts, clients } = &mut *self.ends;
        match (hosts.get_mut(usize::from(to.0)), packet) {
            (Some((chance, last)), packet) => {
                let mut at = after(at, interrupt.draw(chance));
                if in_order {
                    at = at.max(*last);
                    *last = at;
                }
                if !packet.is_claim() {
                    at = at + queueing[usize::from(to.0)];
                }
                self.events.schedule(at, Event::Arrives(to, packet));
            }
            (None, Packet::Tcp(segment)) => {
                self.events.schedule(after(at, access.draw(clients)), Event::ToClient(segment));
            }
            // Clients take no notice of claims.
            (None, Packet::Claim(_)) => {}
        }
    }

    fn lose(&mut self, at: Instant, (from, to): Way, packet: &Packet, why: Loss) {
        let (from, to) = (from.0, to.map(|to| to.0));
        self.record.note(at, Happening::Lost { from, to, packet, why });
    }
}

impl<'a, R: Record> World<'a, R> {
    /// The beginning of a run.
    pub fn new(scenario: &'a Scenario, seed: u64, record: R) -> Self {
        let mut world = Self {
            scenario,
            seed,
            now: Instant::default(),
            events: EventQueue::default(),
            network: Network::new(scenario, seed),
            slots: Vec::new(),
            connections: Vec::new(),
            by_flow: Vec::new(),
            turn: 0,
            load: Chance::new(seed, Entity::Load),
            ends: Ends {
                interrupt: scenario.interrupt.clone(),
                queueing: (0..scenario.hosts).map(|host| scenario.queueing(host)).collect(),
                access: scenario.access.clone(),
                hosts: Vec::new(),
                clients: Chance::new(seed, Entity::Access),
            },
            pauses: Vec::new(),
            balancer: Chance::new(seed, Entity::Balancer),
            reboots: Chance::new(seed, Entity::Reboots),
            deeds: Vec::new(),
            happened: 0,
            flooded: 0,
            calm: false,
            claim_frames: (0, 0),
            warm_up: Counted {
                hosts: vec![Counts::default(); scenario.hosts],
                ..Counted::default()
            },
            busy: 0,
            record,
        };
        for index in 0..scenario.hosts {
            world.slots.push(Slot {
                host: None,
                service: Service::new(scenario.speed(index)),
                life: 0,
                counted: Counts::default(),
            });
            let interrupts = Chance::new(seed, Entity::Interrupts(index as u16));
            world.ends.hosts.push((interrupts, Instant::default()));
            world.pauses.push(Chance::new(seed, Entity::Pauses(index as u16)));
            world.start(index);
            if scenario.pauses_per_second > 0.0 {
                world.schedule_pause(index);
            }
        }
        for (index, fault) in scenario.faults.iter().enumerate() {
            world.events.schedule(Instant::default() + fault.at, Event::Fault(index as u32));
        }
        // Nobody asks before the hosts have listened for a second.
        world.events.schedule(Instant::default() + world.first_arrival(), Event::Arrival);
        if scenario.flood_per_second > 0.0 {
            let at = Instant::default() + scenario.warm_up;
            world.events.schedule(at, Event::Flood);
        }
        world
    }

    /// When the first connection may come.
    fn first_arrival(&self) -> Duration {
        self.scenario.warm_up.min(Duration::from_millis(1_300))
    }

    /// Connections that began after the warm-up.
    pub fn measured(&self) -> impl Iterator<Item = &Connection> {
        let begin = Instant::default() + self.scenario.warm_up;
        self.connections.iter().filter(move |connection| connection.client.started >= begin)
    }

    /// What was counted since the end of the warm-up.
    pub fn measured_counts(&self) -> Counted {
        let Counted { hosts, claim_frames: (frames, bytes), network } = self.counted();
        let before = &self.warm_up;
        Counted {
            hosts: hosts.iter().zip(&before.hosts).map(|(now, then)| now.minus(then)).collect(),
            claim_frames: (frames - before.claim_frames.0, bytes - before.claim_frames.1),
            network: network.minus(&before.network),
        }
    }

    /// Part of the time of the load in which a daemon had something to do, mean of the hosts.
    pub fn busy_share(&self) -> f64 {
        let before: u64 = self.warm_up.hosts.iter().map(|host| host.busy).sum();
        let time = self.scenario.duration.as_nanos() as f64 * self.slots.len() as f64;
        self.busy.saturating_sub(before) as f64 / time
    }

    fn counted(&self) -> Counted {
        Counted {
            hosts: self.slots.iter().map(Slot::counts).collect(),
            claim_frames: self.claim_frames,
            network: self.network.counters,
        }
    }

    /// Runs to the end of the load, and then until what it has left is over.
    pub fn run(&mut self) {
        self.run_in_steps(Duration::from_nanos(u64::MAX), |_| ());
    }

    /// Like [`World::run`], and calls `sample` at every multiple of `step` and at the end.
    pub fn run_in_steps(&mut self, step: Duration, mut sample: impl FnMut(&Self)) {
        let warm = Instant::default() + self.scenario.warm_up;
        let loaded = self.load_ends();
        let end = loaded + COOL_DOWN;
        let mut sampled = Instant::default();
        let (mut warmed_up, mut load_over) = (false, false);
        while sampled < end {
            let next = end.min(Instant(sampled.0.saturating_add(step.as_nanos() as u64)));
            if !warmed_up && warm <= next {
                self.run_until(warm);
                self.warm_up = self.counted();
                warmed_up = true;
            }
            if !load_over && loaded <= next {
                self.run_until(loaded);
                self.busy = self.counts().busy;
                load_over = true;
            }
            self.run_until(next);
            sampled = next;
            sample(self);
        }
    }

    /// Runs until this time.
    pub fn run_until(&mut self, end: Instant) {
        while let Some((at, event)) = self.events.pop_until(end) {
            self.now = at;
            self.happened += 1;
            self.happen(event);
        }
        self.now = end;
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// A client opens one more connection then.
    pub fn connect_at(&mut self, at: Instant) {
        self.events.schedule(at, Event::Connection);
    }

    /// Events so far.
    pub fn happened(&self) -> u64 {
        self.happened
    }

    /// What the network has counted.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The hosts that run.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.slots.iter().filter_map(|slot| slot.host.as_ref())
    }

    /// The host with this number, if it runs.
    pub fn host_mut(&mut self, index: usize) -> Option<&mut Host> {
        self.slots.get_mut(index)?.host.as_mut()
    }

    /// What all hosts have counted.
    pub fn counts(&self) -> Counts {
        self.slots.iter().map(Slot::counts).sum()
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Arrival => self.arrive(),
            Event::Connection => self.connect(),
            Event::Flood => self.flood(),
            Event::Client(connection, timer) => self.client_timer(connection, timer),
            Event::Network(event) => {
                let Self { network, events, ends, record, .. } = self;
                network.handle(now, event, &mut Wires { events, ends, record });
            }
            Event::Arrives(station, packet) => self.receive(station, packet),
            Event::ToClient(segment) => self.reach_client(segment),
            Event::FromClients(segment) => {
                self.record.note(now, Happening::FromClients { segment: &segment });
                let Self { network, events, ends, record, .. } = self;
                let clients = network.clients();
                let wires = &mut Wires { events, ends, record };
                network.send(now, clients, Packet::Tcp(segment), wires);
            }
            Event::Leaves(from, packet) => {
                let Self { network, events, ends, record, .. } = self;
                network.send(now, from, packet, &mut Wires { events, ends, record });
            }
            Event::Step { host, life, epoch } => {
                self.with_host(host, life, |host, scenario, deeds| {
                    host.step(now, scenario, epoch, deeds);
                })
            }
            Event::Request { host, life, flow, isn } => {
                self.with_host(host, life, |host, scenario, deeds| {
                    host.request_timer(now, scenario, flow, isn, deeds);
                });
            }
            Event::Served { host, life, epoch } => self.served(host, life, epoch),
            Event::Pause(_) if self.calm => {}
            Event::Pause(host) => {
                let pause = self.scenario.pause.draw(&mut self.pauses[usize::from(host)]);
                self.pause(usize::from(host), after(now, pause));
                self.schedule_pause(usize::from(host));
            }
            Event::Fault(index) => {
                let scenario = self.scenario;
                self.inflict(&scenario.faults[index as usize].kind);
            }
        }
    }
}

impl Slot {
    fn counts(&self) -> Counts {
        let mut counts = self.counted;
        if let Some(host) = &self.host {
            counts.add(host);
            counts.busy += host.busy();
        }
        counts
    }
}
