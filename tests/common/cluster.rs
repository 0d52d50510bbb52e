//! A small virtual cluster: real [`Node`]s, a virtual clock, model kernels and clients.
//!
//! Frames travel as bytes, so encoding and decoding are part of every test. The
//! clock jumps to the earliest thing that happens. On each turn a host takes
//! frames, then SYNs, then the rest, then timeouts; outputs are drained after
//! every input and frames are sent at the end of the turn.
//!
//! These rules are checked in every run: a ticket is decided once (I5) and in
//! time unless its host was paused; no kernel resets a connection that a client
//! has with another host (I2); no half-open socket that the client chose is
//! destroyed (I4).

mod client;
mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use clusterd::flow::{ClusterKey, FlowKey, NodeId, ServicePort};
use clusterd::protocol::{
    Config, Instant, KernelShare, Limits, Listener, Load, Member, Mode, Node, Notice, Pacing,
    Ticket, Timers, Vips,
};
use clusterd::wire::{self, Entry, Frame, Header};

/// Turns at one moment of virtual time; more of them is a livelock.
const TURNS_MAX: usize = 1_000;

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// The first virtual IP of a cluster.
pub const VIP: [u8; 4] = [10, 0, 0, 2];
/// One that hosts may answer beside it.
pub const FURTHER: [u8; 4] = [10, 0, 0, 3];

pub fn key() -> ClusterKey {
    ClusterKey::public(VIP.into())
}

/// SplitMix64: enough chance for a test, the same on every machine.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn permille(&mut self, of_thousand: u64) -> bool {
        self.below(1_000) < of_thousand
    }

    fn within(&mut self, (least, most): (Duration, Duration)) -> Duration {
        least + Duration::from_nanos(self.below((most - least).as_nanos() as u64 + 1))
    }
}

/// What the segment does to packets.
pub struct Segment {
    /// Delay of a frame or SYN, drawn per receiver. Links keep their order.
    pub delay: (Duration, Duration),
    /// Delay of what goes to a client, and of its ACKs.
    pub client_delay: (Duration, Duration),
    /// Claim frames lost, per thousand and receiver.
    pub frames_lost: u64,
    /// Claim frames that arrive twice, per thousand and receiver.
    pub frames_doubled: u64,
    /// SYNs lost, per thousand and receiver.
    pub syns_lost: u64,
}

/// How a host's kernel treats a SYN that it got, besides what its listener says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    Answers,
    /// It swallows the SYN: a full backlog, or a broken machine.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    Half { client_isn: u32, isn: u32 },
    Full { client_isn: u32 },
}

enum Packet {
    Frame(Vec<u8>),
    Syn { flow: FlowKey, isn: u32 },
    Ack { flow: FlowKey, number: u32 },
}

/// What a ticket stands for.
enum Held {
    Syn { flow: FlowKey, isn: u32 },
    Rst { flow: FlowKey },
    Ack { flow: FlowKey, number: u32 },
}

pub struct Host {
    pub id: NodeId,
    pub kernel: Kernel,
    /// What listens really; the node is told before each SYN unless `blind`.
    pub listeners: BTreeMap<ServicePort, Listener>,
    /// The virtual IPs that its kernel answers from its next start on.
    pub vips: Vips,
    /// The driver does not look at the listener before it hands in a SYN.
    pub blind: bool,
    node: Option<Node>,
    /// What it has kept of the cluster over its crashes.
    pub roster: Vec<Member>,
    pub share: KernelShare,
    /// From which its incarnation follows.
    pub starts: u64,
    paused_until: Instant,
    inbox: Vec<Packet>,
    sockets: BTreeMap<FlowKey, Socket>,
    held: BTreeMap<Ticket, (Instant, Held)>,
    pub notices: Vec<Notice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Trying,
    /// Connected to the host at this index.
    Connected(usize),
    Refused,
    TimedOut,
}

struct Client {
    flow: FlowKey,
    isn: u32,
    started: Instant,
    syns: usize,
    server_isn: Option<u32>,
    outcome: Outcome,
    /// SYN-ACKs and RSTs received, by host.
    syn_acks: Vec<(Instant, usize)>,
    resets: Vec<(Instant, usize)>,
}

/// Names a connection that a test has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conn(usize);

enum Happening {
    Deliver { to: usize, packet: Packet },
    SynAck { client: usize, from: usize, client_isn: u32, isn: u32 },
    Reset { client: usize, from: usize },
    ClientTimer { client: usize, isn: u32 },
}

/// A claim entry that was sent.
pub struct Said {
    pub host: usize,
    pub entry: Entry,
}

pub struct Cluster {
    pub now: Instant,
    pub segment: Segment,
    pub chance: Chance,
    pub hosts: Vec<Host>,
    /// Everything that was said except HELLO.
    pub said: Vec<Said>,
    pub hellos: usize,
    /// Every frame that was sent, as bytes, and by whom.
    pub sent: Vec<(usize, Vec<u8>)>,
    pacing: Pacing,
    mode: Mode,
    pub timers: Timers,
    limits: Limits,
    happenings: BTreeMap<(Instant, u64), Happening>,
    links: BTreeMap<(usize, usize), Instant>,
    cut: BTreeSet<(usize, usize)>,
    clients: Vec<Client>,
    /// Who has a connection of which client, from each kernel's point of view.
    established: BTreeMap<(FlowKey, u32), Vec<usize>>,
    numbers: u64,
}

impl Cluster {
    /// `hosts` hosts that have known each other for a while.
    pub fn new(hosts: usize) -> Self {
        let mut cluster = Self::booting(hosts, Pacing::Rank, 1);
        cluster.run(ms(1_500));
        cluster
    }

    pub fn with(hosts: usize, pacing: Pacing, seed: u64) -> Self {
        let mut cluster = Self::booting(hosts, pacing, seed);
        cluster.run(ms(1_500));
        cluster
    }

    /// Hosts that have known each other for a while, in one mode whatever happens.
    pub fn pinned(hosts: usize, pacing: Pacing, mode: Mode) -> Self {
        let mut cluster = Self::booting(0, pacing, 1);
        cluster.mode = mode;
        for _ in 0..hosts {
            cluster.join();
        }
        cluster.run(ms(1_500));
        cluster
    }

    /// `hosts` hosts that start now.
    pub fn booting(hosts: usize, pacing: Pacing, seed: u64) -> Self {
        let mut cluster = Self {
            now: Instant::default(),
            segment: Segment {
                delay: (us(20), us(60)),
                client_delay: (us(20), us(60)),
                frames_lost: 0,
                frames_doubled: 0,
                syns_lost: 0,
            },
            chance: Chance(seed),
            hosts: Vec::new(),
            said: Vec::new(),
            hellos: 0,
            sent: Vec::new(),
            pacing,
            mode: Mode::default(),
            timers: Timers::default(),
            limits: Limits::default(),
            happenings: BTreeMap::new(),
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            clients: Vec::new(),
            established: BTreeMap::new(),
            numbers: 0,
        };
        for _ in 0..hosts {
            cluster.join();
        }
        cluster
    }

    // What a test does to the cluster.

    /// One more host starts. Returns its index.
    pub fn join(&mut self) -> usize {
        self.join_as(NodeId(self.hosts.len() as u32 + 1))
    }

    pub fn join_as(&mut self, id: NodeId) -> usize {
        self.hosts.push(Host {
            id,
            kernel: Kernel::Answers,
            listeners: BTreeMap::new(),
            vips: IpAddr::from(VIP).into(),
            blind: false,
            node: None,
            roster: Vec::new(),
            share: KernelShare::default(),
            starts: 0,
            paused_until: Instant::default(),
            inbox: Vec::new(),
            sockets: BTreeMap::new(),
            held: BTreeMap::new(),
            notices: Vec::new(),
        });
        let host = self.hosts.len() - 1;
        self.restart(host);
        host
    }

    /// Power off: no leave, no sockets.
    pub fn crash(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        (host.node, host.inbox) = (None, Vec::new());
        host.held.clear();
        host.sockets.clear();
    }

    pub fn restart(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.starts += 1;
        // Distinct also for two hosts that were given one id.
        let incarnation = host.starts * 100 + index as u64;
        let config = Config {
            pacing: self.pacing,
            mode: self.mode,
            roster: host.roster.clone(),
            timers: self.timers,
            limits: self.limits,
            vips: host.vips.clone(),
            ..Config::new(host.id, incarnation, VIP)
        };
        host.node = Some(Node::new(config, self.now));
    }

    pub fn leave(&mut self, host: usize) {
        let frame = self.hosts[host].node.as_mut().expect("a running host").leave();
        self.broadcast(host, &frame);
        self.crash(host);
    }

    /// The host's daemon does not run for `time`; its packets wait.
    pub fn pause(&mut self, host: usize, time: Duration) {
        self.hosts[host].paused_until = self.now + time;
    }

    /// Nothing at all happens for `time`; what was under way is lost.
    pub fn suspend(&mut self, time: Duration) {
        self.happenings.clear();
        self.now = self.now + time;
    }

    /// Frames of `from` do not reach `to` any more.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// They do again.
    pub fn mend(&mut self, from: usize, to: usize) {
        self.cut.remove(&(from, to));
    }

    /// No claim frame reaches anybody.
    pub fn deafen_all(&mut self) {
        self.segment.frames_lost = 1_000;
    }

    /// Claim frames reach everybody again.
    pub fn heal(&mut self) {
        self.segment.frames_lost = 0;
        self.cut.clear();
    }

    /// Frames of these hosts do not reach the others, nor the other way round.
    pub fn part(&mut self, hosts: &[usize]) {
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                if hosts.contains(&from) != hosts.contains(&to) {
                    self.cut(from, to);
                }
            }
        }
    }

    /// Somebody sends bytes, made up or recorded, that reach one host.
    pub fn inject(&mut self, to: usize, bytes: Vec<u8>) {
        self.at(self.now, Happening::Deliver { to, packet: Packet::Frame(bytes) });
    }

    /// A frame of another major version reaches a host.
    pub fn stranger(&mut self, to: usize, major: u8, header: &Header) {
        self.with_node(to, |node, now| node.handle_stranger(now, major, header));
    }

    /// The driver of a host says how much it has to do.
    pub fn load(&mut self, host: usize, load: &Load) {
        self.with_node(host, |node, now| node.handle_load(now, load));
    }

    /// The host keeps its roster for its next start.
    pub fn keep_roster(&mut self, host: usize) {
        self.hosts[host].roster = self.node(host).roster(self.now).collect();
    }

    /// The host starts anew and answers these virtual IPs beside the first.
    pub fn restart_with(&mut self, host: usize, further: &[[u8; 4]]) {
        let further = further.iter().copied().map(IpAddr::from);
        self.hosts[host].vips = Vips::new(VIP.into(), further).unwrap();
        self.crash(host);
        self.restart(host);
    }

    /// What listens on `port` of `host` from now on.
    pub fn listen(&mut self, host: usize, port: u16, listener: Listener) {
        self.listen_on(host, VIP, port, listener);
    }

    pub fn listen_on(&mut self, host: usize, vip: [u8; 4], port: u16, listener: Listener) {
        self.hosts[host].listeners.insert(ServicePort::tcp((vip, port)), listener);
    }

    /// The driver looks at the listener without a SYN at hand.
    pub fn look(&mut self, host: usize, port: u16) {
        self.look_on(host, VIP, port);
    }

    pub fn look_on(&mut self, host: usize, vip: [u8; 4], port: u16) {
        let service = ServicePort::tcp((vip, port));
        let listener = self.hosts[host].listener(service);
        self.with_node(host, |node, now| node.handle_listener(now, service, listener));
    }

    pub fn node(&self, host: usize) -> &Node {
        self.hosts[host].node.as_ref().expect("a running host")
    }

    /// A new client connects to `port`.
    pub fn connect(&mut self, port: u16) -> Conn {
        let client_port = 10_000 + self.clients.len() as u16;
        self.connect_from(client_port, port)
    }

    /// A client connects from a port of its own choice.
    pub fn connect_from(&mut self, client_port: u16, port: u16) -> Conn {
        self.open(flow_between(client_port, port))
    }

    /// A new client connects to `port` of some virtual IP.
    pub fn connect_to(&mut self, vip: [u8; 4], port: u16) -> Conn {
        let client_port = 10_000 + self.clients.len() as u16;
        self.open(FlowKey::tcp(([10, 0, 0, 200], client_port), (vip, port)))
    }

    fn open(&mut self, flow: FlowKey) -> Conn {
        let client = self.clients.len();
        let isn = self.chance.next() as u32;
        self.clients.push(Client {
            flow,
            isn,
            started: self.now,
            syns: 0,
            server_isn: None,
            outcome: Outcome::Trying,
            syn_acks: Vec::new(),
            resets: Vec::new(),
        });
        self.client_timer(client);
        Conn(client)
    }

    /// A new attempt over the same ports, as after a reboot of the client.
    pub fn reconnect(&mut self, conn: Conn) -> Conn {
        let flow = self.clients[conn.0].flow;
        self.connect_from(flow.client.port(), flow.service.port())
    }

    /// The client sends its SYN once more, whatever it has heard.
    pub fn repeat_syn(&mut self, conn: Conn) {
        self.send_syn(conn.0);
    }

    /// SYN-ACKs to this client that are on their way get lost.
    pub fn lose_answers(&mut self, conn: Conn) {
        self.happenings.retain(|_, happening| {
            !matches!(happening, Happening::SynAck { client, .. } if *client == conn.0)
        });
    }

    // What a test asks.

    pub fn outcome(&self, conn: Conn) -> Outcome {
        self.clients[conn.0].outcome
    }

    pub fn flow(&self, conn: Conn) -> FlowKey {
        self.clients[conn.0].flow
    }

    /// The client's initial sequence number.
    pub fn isn(&self, conn: Conn) -> u32 {
        self.clients[conn.0].isn
    }

    /// SYNs that the client has sent by its own schedule.
    pub fn syns(&self, conn: Conn) -> usize {
        self.clients[conn.0].syns
    }

    /// Hosts that sent SYN-ACKs that reached the client, in order.
    pub fn syn_acks(&self, conn: Conn) -> Vec<usize> {
        self.clients[conn.0].syn_acks.iter().map(|&(_, host)| host).collect()
    }

    /// How long the client waited for its first SYN-ACK or RST.
    pub fn waited(&self, conn: Conn) -> Option<Duration> {
        let client = &self.clients[conn.0];
        let heard = client.syn_acks.iter().chain(&client.resets).map(|&(at, _)| at).min();
        heard.map(|at| at.since(client.started))
    }

    pub fn resets(&self, conn: Conn) -> usize {
        self.clients[conn.0].resets.len()
    }

    /// Hosts whose application got the connection.
    pub fn accepted_by(&self, conn: Conn) -> Vec<usize> {
        let client = &self.clients[conn.0];
        self.established.get(&(client.flow, client.isn)).cloned().unwrap_or_default()
    }

    /// Hosts with a half-open socket for the connection.
    pub fn half_open(&self, conn: Conn) -> Vec<usize> {
        let flow = &self.clients[conn.0].flow;
        let half = |host: &Host| matches!(host.sockets.get(flow), Some(Socket::Half { .. }));
        (0..self.hosts.len()).filter(|&host| half(&self.hosts[host])).collect()
    }

    pub fn claims(&self) -> usize {
        self.count(|entry| matches!(entry, Entry::Claim(_)))
    }

    pub fn owns(&self) -> usize {
        self.count(|entry| matches!(entry, Entry::Own(_)))
    }

    pub fn releases(&self) -> usize {
        self.count(|entry| matches!(entry, Entry::Release(_)))
    }

    fn count(&self, is: impl Fn(&Entry) -> bool) -> usize {
        self.said.iter().filter(|said| is(&said.entry)).count()
    }

    /// Hosts by weight for a connection, the heaviest first.
    pub fn by_weight(&self, conn: Conn) -> Vec<usize> {
        self.order(&self.clients[conn.0].flow)
    }

    /// Hosts in the order of the hash rule for a connection.
    pub fn by_hash(&self, conn: Conn) -> Vec<usize> {
        self.hash_order(&self.clients[conn.0].flow)
    }

    fn hash_order(&self, flow: &FlowKey) -> Vec<usize> {
        let bucket = key().bucket(flow);
        let mut hosts: Vec<usize> = (0..self.hosts.len()).collect();
        let weight =
            |host: usize| (key().bucket_weight(bucket, self.hosts[host].id), self.hosts[host].id);
        hosts.sort_by_key(|&host| std::cmp::Reverse(weight(host)));
        hosts
    }

    /// A client port whose connections to `port` rank `host` first.
    pub fn port_for(&self, host: usize, port: u16) -> u16 {
        self.port_for_order(&[host], port)
    }

    /// A client port whose connections to `port` rank these hosts first, in this order.
    pub fn port_for_order(&self, first: &[usize], port: u16) -> u16 {
        let ranked =
            |&client_port: &u16| self.order(&flow_between(client_port, port)).starts_with(first);
        (20_000..).find(ranked).expect("a port of 45536")
    }

    fn order(&self, flow: &FlowKey) -> Vec<usize> {
        let hash = key().flow(flow);
        let mut hosts: Vec<usize> = (0..self.hosts.len()).collect();
        let weight = |host: usize| (key().weight(hash, self.hosts[host].id), self.hosts[host].id);
        hosts.sort_by_key(|&host| std::cmp::Reverse(weight(host)));
        hosts
    }

    /// SYNs that wait for a verdict anywhere.
    pub fn held(&self) -> usize {
        self.hosts.iter().map(|host| host.held.len()).sum()
    }

    // The clock.

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns = 0;
        while let Some(next) = self.next_moment().filter(|&next| next <= end) {
            assert!(next >= self.now, "time runs backwards");
            turns = if next == self.now { turns + 1 } else { 0 };
            assert!(turns < TURNS_MAX, "livelock at {:?}", self.now);
            self.now = next;
            self.step();
        }
        self.now = end;
    }

    fn next_moment(&self) -> Option<Instant> {
        let wakes = self.hosts.iter().filter_map(|host| {
            let next = host.node.as_ref()?.poll_timeout();
            let next = if host.inbox.is_empty() { next } else { self.now };
            Some(next.max(host.paused_until).max(self.now))
        });
        let happens = self.happenings.first_key_value().map(|(&(at, _), _)| at);
        wakes.chain(happens).min()
    }

    fn step(&mut self) {
        while let Some(first) = self.happenings.first_entry()
            && first.key().0 <= self.now
        {
            let happening = first.remove();
            self.happen(happening);
        }
        for host in 0..self.hosts.len() {
            if self.hosts[host].paused_until <= self.now {
                self.turn(host);
            }
        }
    }

    fn at(&mut self, when: Instant, happening: Happening) {
        self.numbers += 1;
        self.happenings.insert((when, self.numbers), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver { to, packet } => {
                let host = &mut self.hosts[to];
                let has = |flow: &FlowKey| host.vips.all().any(|vip| vip == flow.service.ip());
                let for_it = match &packet {
                    Packet::Frame(_) => true,
                    Packet::Syn { flow, .. } | Packet::Ack { flow, .. } => has(flow),
                };
                if host.node.is_some() && for_it {
                    host.inbox.push(packet);
                }
            }
            Happening::SynAck { client, from, client_isn, isn } => {
                self.syn_ack_arrives(client, from, client_isn, isn);
            }
            Happening::Reset { client, from } => self.reset_arrives(client, from),
            Happening::ClientTimer { client, isn } => {
                if self.clients[client].isn == isn {
                    self.client_timer(client);
                }
            }
        }
    }

    // The segment.

    fn broadcast(&mut self, from: usize, frame: &Frame) {
        for entry in &frame.entries {
            match entry {
                Entry::Hello { .. } => self.hellos += 1,
                Entry::HelloUdp { .. }
                | Entry::Heard { .. }
                | Entry::Vips { .. }
                | Entry::VipsTcp { .. }
                | Entry::VipsUdp { .. } => {}
                Entry::Claim(_) | Entry::Own(_) | Entry::Release(_) => {
                    self.said.push(Said { host: from, entry: entry.clone() });
                }
            }
        }
        let bytes = wire::encode(frame, &key().into());
        self.sent.push((from, bytes.clone()));
        for to in (0..self.hosts.len()).filter(|&to| to != from) {
            let lost = self.chance.permille(self.segment.frames_lost);
            if lost || self.cut.contains(&(from, to)) {
                continue;
            }
            let copies = 1 + usize::from(self.chance.permille(self.segment.frames_doubled));
            for _ in 0..copies {
                let drawn = self.now + self.chance.within(self.segment.delay);
                // A switch port is a queue: frames of one sender stay in order.
                let arrival = self.links.entry((from, to)).or_default();
                *arrival = drawn.max(*arrival);
                let arrival = *arrival;
                self.at(arrival, Happening::Deliver { to, packet: Packet::Frame(bytes.clone()) });
            }
        }
    }

    fn flood(&mut self, sent: Instant, syns_lost: u64, packet: impl Fn() -> Packet) {
        for to in 0..self.hosts.len() {
            if self.chance.permille(syns_lost) {
                continue;
            }
            let arrival = sent + self.chance.within(self.segment.delay);
            self.at(arrival, Happening::Deliver { to, packet: packet() });
        }
    }
}

fn flow_between(client_port: u16, port: u16) -> FlowKey {
    FlowKey::tcp(([10, 0, 0, 200], client_port), (VIP, port))
}
