//! Everything together: clients, network and hosts under one clock.

use std::rc::Rc;
use std::time::Duration;

use clusterd::protocol::{Instant, Verdict};

use crate::arrivals::Trace;
use crate::chance::{Chance, Entity, after};
use crate::client::{Client, Outcome};
use crate::delay::Delay;
use crate::engine::EventQueue;
use crate::fault::FaultKind;
use crate::host::{Deed, Host};
use crate::network::{Network, NetworkCounters, NetworkEvent, Outlet, Station};
use crate::packet::{Flag, FlowId, Packet, Segment};
use crate::record::{Happening, Record};
use crate::scenario::{Arrivals, Rule, Scenario};
use crate::service::Service;

/// How long a client waits for an answer before it says its request again, the first time.
const REPEAT_REQUEST: Duration = Duration::from_secs(1);
/// Most connections are over before their client says anything twice; patience is not looked after
/// before that.
const UNEVENTFUL: Duration = REPEAT_REQUEST;
/// How long a run goes on after the last connection: most of them end in that time.
const COOL_DOWN: Duration = Duration::from_secs(5);
/// A client that finds so many ports in use takes one nevertheless.
const FLOWS_TRIED: usize = 64;
/// Flows of the flood lie beyond those of the clients.
const FLOOD: u32 = 0x4000_0000;

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

/// What hosts have said and done, over all their lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// CLAIM entries.
    pub claims: u64,
    /// OWN entries.
    pub owns: u64,
    /// RELEASE entries.
    pub releases: u64,
    /// SYNs that the daemon has seen.
    pub syns: u64,
    /// SYNs accepted.
    pub accepted: u64,
    /// Of these at once.
    pub eager: u64,
    /// Contests taken over.
    pub takeovers: u64,
    /// Packets for which there was no room.
    pub overflowed: u64,
    /// Time in which the daemon had something to do, in nanoseconds.
    pub busy: u64,
    /// SYN-ACKs that were SYN cookies.
    pub cookies: u64,
    /// SYNs dropped because something of an earlier attempt was left.
    pub leftovers: u64,
}

impl Counts {
    /// What has come since `earlier`.
    fn minus(&self, earlier: &Self) -> Self {
        Self {
            claims: self.claims - earlier.claims,
            owns: self.owns - earlier.owns,
            releases: self.releases - earlier.releases,
            syns: self.syns - earlier.syns,
            accepted: self.accepted - earlier.accepted,
            eager: self.eager - earlier.eager,
            takeovers: self.takeovers - earlier.takeovers,
            overflowed: self.overflowed - earlier.overflowed,
            busy: self.busy - earlier.busy,
            cookies: self.cookies - earlier.cookies,
            leftovers: self.leftovers - earlier.leftovers,
        }
    }

    fn add(&mut self, host: &Host) {
        let counters = host.decider.counters();
        self.claims += counters.claims;
        self.owns += counters.owns;
        self.releases += counters.releases;
        self.syns += counters.syns;
        self.accepted += counters.accepted;
        self.eager += counters.eager;
        self.takeovers += counters.takeovers;
        self.overflowed += host.counters.queue_overflowed + host.kernel.overflows;
        self.cookies += host.kernel.cookies;
        self.leftovers += host.counters.leftovers;
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            claims: sum.claims + one.claims,
            owns: sum.owns + one.owns,
            releases: sum.releases + one.releases,
            syns: sum.syns + one.syns,
            accepted: sum.accepted + one.accepted,
            eager: sum.eager + one.eager,
            takeovers: sum.takeovers + one.takeovers,
            overflowed: sum.overflowed + one.overflowed,
            busy: sum.busy + one.busy,
            cookies: sum.cookies + one.cookies,
            leftovers: sum.leftovers + one.leftovers,
        })
    }
}

/// What a run has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// By each host.
    pub hosts: Vec<Counts>,
    /// Claim frames, and their bytes on the wire. HELLOs are among them.
    pub claim_frames: (u64, u64),
    /// By the network.
    pub network: NetworkCounters,
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
struct Wires<'a> {
    events: &'a mut EventQueue<Event>,
    ends: &'a mut Ends,
}

impl Outlet for Wires<'_> {
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
                let Self { network, events, ends, .. } = self;
                network.handle(now, event, &mut Wires { events, ends });
            }
            Event::Arrives(station, packet) => self.receive(station, packet),
            Event::ToClient(segment) => self.reach_client(segment),
            Event::FromClients(segment) => {
                self.record.note(now, Happening::FromClients { segment: &segment });
                let Self { network, events, ends, .. } = self;
                let clients = network.clients();
                network.send(now, clients, Packet::Tcp(segment), &mut Wires { events, ends });
            }
            Event::Leaves(from, packet) => {
                let Self { network, events, ends, .. } = self;
                network.send(now, from, packet, &mut Wires { events, ends });
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

    // Clients.

    /// No connection comes after this.
    fn load_ends(&self) -> Instant {
        Instant::default() + self.scenario.warm_up + self.scenario.duration
    }

    fn arrive(&mut self) {
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
    fn arrive_as_recorded(&mut self, trace: &Trace) {
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

    fn connect(&mut self) {
        let flow = self.free_flow();
        self.connect_from(flow);
    }

    /// A client opens a connection from this address and port; it forgets an earlier one.
    fn connect_from(&mut self, flow: FlowId) {
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

    fn schedule_give_up(&mut self, number: u32) {
        let started = self.connections[number as usize].client.started;
        let at = after(started, self.scenario.patience.as_nanos() as u64);
        self.events.schedule(at, Event::Client(number, ClientTimer::GiveUp));
    }

    /// Initial sequence numbers of a client follow its clock (RFC 6528; `secure_tcp_seq`), from
    /// another point after each start.
    fn draw_isn(&mut self, flow: FlowId) -> u32 {
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
    fn reboot(&mut self, number: u32) -> bool {
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
    fn free_flow(&mut self) -> FlowId {
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
    fn balance(&mut self) -> Option<u16> {
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

    fn client_timer(&mut self, number: u32, timer: ClientTimer) {
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

    fn leave_client(&mut self, segment: Segment) {
        let delay = self.ends.access.draw(&mut self.ends.clients);
        self.events.schedule(after(self.now, delay), Event::FromClients(segment));
    }

    fn reach_client(&mut self, segment: Segment) {
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

    fn reply(&mut self, connection: u32, segment: Segment) {
        self.record.note(self.now, Happening::Replied { connection, segment: &segment });
        self.leave_client(segment);
    }

    fn flood(&mut self) {
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

    // Hosts.

    fn start(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.host.is_some() {
            return;
        }
        slot.life += 1;
        let life = slot.life;
        let host = Host::start(self.scenario, self.seed, index, self.now, u64::from(life));
        slot.host = Some(host);
        self.record.note(self.now, Happening::Started { host: index as u16 });
        self.events.schedule(self.now, Event::Step { host: index as u16, life, epoch: 0 });
    }

    fn kill(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.counted = slot.counts();
        slot.host = None;
        slot.service = Service::new(self.scenario.speed(index));
    }

    fn schedule_pause(&mut self, host: usize) {
        let mean = 1e9 / self.scenario.pauses_per_second;
        let gap = -(1.0 - self.pauses[host].unit()).ln() * mean;
        self.events.schedule(after(self.now, gap as u64), Event::Pause(host as u16));
    }

    fn pause(&mut self, index: usize, until: Instant) {
        if let Some(host) = &mut self.slots[index].host {
            host.pause(until);
            self.record.note(self.now, Happening::Paused { host: index as u16, until });
        }
    }

    /// Something goes wrong now, or right again.
    pub fn inflict(&mut self, fault: &FaultKind) {
        self.record.note(self.now, Happening::Fault(fault));
        let stations = || (0..self.scenario.hosts as u16).map(Station);
        match *fault {
            FaultKind::Kill(host) => self.kill(host),
            FaultKind::Start(host) => self.start(host),
            FaultKind::Stop(host, time) => self.pause(host, self.now + time),
            FaultKind::Mute(host) => {
                stations().for_each(|to| self.network.cut(Station(host as u16), to, true));
            }
            FaultKind::Deaf(host) => {
                stations().for_each(|from| self.network.cut(from, Station(host as u16), true));
            }
            FaultKind::Part(ref hosts) => {
                let here = |station: Station| hosts.contains(&usize::from(station.0));
                for (from, to) in stations().flat_map(|from| stations().map(move |to| (from, to))) {
                    self.network.cut(from, to, here(from) != here(to));
                }
            }
            FaultKind::Shut(host) | FaultKind::Serve(host) => {
                if let Some(it) = &mut self.slots[host].host {
                    it.kernel.serves = matches!(fault, FaultKind::Serve(_));
                }
            }
            FaultKind::Heal => self.network.heal(),
            FaultKind::Calm => {
                self.network.calm();
                self.calm = true;
            }
        }
    }

    /// A frame has got through a host's interface.
    fn receive(&mut self, station: Station, packet: Packet) {
        let now = self.now;
        let life = self.slots[usize::from(station.0)].life;
        match packet {
            Packet::Claim(bytes) => {
                let mut heard = false;
                self.with_host(station.0, life, |host, scenario, deeds| {
                    heard = host.hear(now, scenario, bytes.clone(), deeds);
                });
                if heard {
                    self.record.note(now, Happening::Heard { host: station.0, bytes: &bytes });
                }
            }
            Packet::Tcp(segment) => {
                let runs = self.slots[usize::from(station.0)].host.is_some();
                if !runs || !self.reaches(station.0, segment) {
                    return;
                }
                self.record.note(now, Happening::Arrived { host: station.0, segment: &segment });
                self.with_host(station.0, life, |host, scenario, deeds| {
                    host.receive(now, scenario, segment, deeds);
                });
            }
        }
    }

    /// A balancer lets only one host see a connection.
    fn reaches(&self, host: u16, segment: Segment) -> bool {
        let number = self.by_flow.get(segment.flow.0 as usize);
        let chosen = number.and_then(|&number| self.connections[number as usize].chosen);
        chosen.is_none_or(|chosen| chosen == host)
    }

    fn with_host(
        &mut self,
        index: u16,
        life: u32,
        act: impl FnOnce(&mut Host, &Scenario, &mut Vec<Deed>),
    ) {
        let slot = &mut self.slots[usize::from(index)];
        let Some(host) = slot.host.as_mut().filter(|_| slot.life == life) else { return };
        let mut deeds = std::mem::take(&mut self.deeds);
        act(host, self.scenario, &mut deeds);
        self.record.after(self.now, host);
        for deed in deeds.drain(..) {
            self.carry_out(index, life, deed);
        }
        self.deeds = deeds;
    }

    fn carry_out(&mut self, host: u16, life: u32, deed: Deed) {
        let now = self.now;
        match deed {
            Deed::Step(at, epoch) => self.events.schedule(at, Event::Step { host, life, epoch }),
            Deed::Tcp(at, segment) => {
                if segment.flag == Flag::SynAck {
                    self.answered(host, segment);
                }
                self.record.note(at, Happening::Said { host, segment: &segment });
                self.events.schedule(at, Event::Leaves(Station(host), Packet::Tcp(segment)));
            }
            Deed::Claim(at, bytes) => self.claim(at, host, bytes),
            Deed::RequestTimer(flow, isn, retries) => {
                let at = now + Duration::from_secs(1 << retries.min(6));
                self.events.schedule(at, Event::Request { host, life, flow, isn });
            }
            Deed::Accepted(flow, isn) => {
                if let Some(connection) = self.attempt(flow, isn) {
                    connection.accepted |= 1 << host;
                }
                self.record.note(now, Happening::Accepted { host, flow, isn });
            }
            Deed::Work(flow) => {
                let work = self.connection_of(flow).map_or(0, |connection| connection.work);
                let service = &mut self.slots[usize::from(host)].service;
                service.add(now, flow, work);
                self.predict(host, life);
            }
            Deed::Decided(syn, verdict, told) => {
                let accept = verdict == Verdict::Accept;
                self.record.note(now, Happening::Decided { host, syn: &syn, accept, told });
            }
            Deed::Unheld(ticket) => self.record.note(now, Happening::Unheld { host, ticket }),
            Deed::Destroyed(flow, isn) => {
                self.record.note(now, Happening::Destroyed { host, flow, isn });
            }
            Deed::Notice(notice) => self.record.note(now, Happening::Notice { host, notice }),
        }
    }

    fn claim(&mut self, at: Instant, host: u16, bytes: Rc<[u8]>) {
        self.record.note(at, Happening::Claimed { host, bytes: &bytes });
        let packet = Packet::Claim(bytes);
        self.claim_frames.0 += 1;
        self.claim_frames.1 += u64::from(packet.wire_length());
        self.events.schedule(at, Event::Leaves(Station(host), packet));
    }

    fn connection_of(&mut self, flow: FlowId) -> Option<&mut Connection> {
        let &number = self.by_flow.get(flow.0 as usize)?;
        self.connections.get_mut(number as usize)
    }

    /// The connection of a flow whose client began with this number, unless a later one of the
    /// flow has begun.
    fn attempt(&mut self, flow: FlowId, isn: u32) -> Option<&mut Connection> {
        self.connection_of(flow).filter(|connection| connection.client.isn == isn)
    }

    fn answered(&mut self, host: u16, syn_ack: Segment) {
        let isn = syn_ack.acknowledgement.wrapping_sub(1);
        if let Some(connection) = self.attempt(syn_ack.flow, isn) {
            connection.answered |= 1 << host;
        }
    }

    fn predict(&mut self, host: u16, life: u32) {
        if let Some((at, epoch)) = self.slots[usize::from(host)].service.predict(self.now) {
            self.events.schedule(at, Event::Served { host, life, epoch });
        }
    }

    fn served(&mut self, host: u16, life: u32, epoch: u32) {
        let slot = &mut self.slots[usize::from(host)];
        if slot.life != life {
            return;
        }
        let Some(flow) = slot.service.finish(self.now, epoch) else { return };
        let now = self.now;
        self.with_host(host, life, |host, _, deeds| host.served(now, flow, deeds));
        self.predict(host, life);
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
