//! What is explored: how many hosts, what may go wrong, how long things take.

use std::time::Duration;

use clusterd::flow::{ClusterKey, FlowKey, NodeId, Protocol, ServicePort};
use clusterd::protocol::{Config, Instant, Limits, Listener, Member, Mode, Pacing, Timers, Vips};

/// All times of a scope are whole ticks.
pub const TICK: Duration = Duration::from_micros(100);
pub const PORT: u16 = 80;
/// The first virtual IP, and a further one.
const VIP: [u8; 4] = [10, 0, 0, 2];
const FURTHER: [u8; 4] = [10, 0, 0, 3];

pub fn moment(tick: u64) -> Instant {
    Instant::default() + TICK * u32::try_from(tick).expect("scopes are short")
}

/// The first tick that is not before `moment`.
pub fn tick(moment: Instant) -> u64 {
    moment.0.div_ceil(TICK.as_nanos() as u64)
}

pub fn key() -> ClusterKey {
    ClusterKey::public(VIP.into())
}

/// How a host's kernel is kept from packets of connections that are not its own (spec 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The client's packets are held until the core has compared the number.
    Strict,
    /// Connection tracking stops them; the core sees a copy.
    Rst,
    /// A mistake: every kernel gets every packet.
    Missing,
}

/// What the hosts believe of each other when the SYN comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Views {
    /// Everybody knows everybody, and has for a while.
    Settled,
    /// The last host has just joined: nobody is eager.
    Fresh,
    /// Host 0 is not heard by host 1 until the SYN comes, and suspected; the others hear it.
    Unheard,
    /// The same, but long ago: whoever believes to be first is eager again.
    LongUnheard,
    /// Host 0 has lost its listener, and host 1 did not hear so.
    Unannounced,
    /// Host 0 is dead. Host 1 has noticed and the others have not.
    Ghost,
    /// No host has ever heard another.
    Strangers,
}

/// The node that is driven: the production core, or a deliberate mistake around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Production,
    /// The driver hides the client's sequence number: attempts are flows.
    WithoutIsn,
    /// A host whose SYN-ACK has left gives way to a better claim, silently.
    Retracting,
}

/// What is explored, completely.
#[derive(Clone, Debug)]
pub struct Scope {
    pub name: &'static str,
    pub hosts: usize,
    pub pacing: Pacing,
    /// How each host distributes connections.
    pub modes: Vec<Mode>,
    /// No frame arrives while the scope is explored.
    pub deaf: bool,
    /// The hosts know of each other from earlier lives.
    pub roster: bool,
    pub timers: Timers,
    pub views: Views,
    pub guard: Guard,
    pub variant: Variant,
    /// The client wants a further virtual IP, which these hosts do not have; of none of them, the
    /// first one.
    pub lacking: &'static [usize],
    /// What listens on each host.
    pub listeners: Vec<Listener>,
    /// Ticks from a SYN to its arrival at a host, each host on its own.
    pub skews: &'static [u64],
    /// Ticks that a frame takes to a receiver, each on its own.
    pub delays: &'static [u64],
    /// Ticks that a SYN-ACK takes to the client.
    pub answers: &'static [u64],
    /// Ticks until a host's core learns of its own kernel's SYN-ACK; 0 is the same turn.
    pub evidence: &'static [u64],
    /// Ticks from the client to a host for all but the first SYN, each host on its own.
    pub acks: &'static [u64],
    /// When an unanswered client may send its SYN again, ticks after the first.
    pub repeats: &'static [u64],
    /// When the client may start anew from the same port, ticks after the first SYN.
    pub reuses: &'static [u64],
    /// Packets that may get lost, of frames, SYNs, SYN-ACKs and ACKs.
    pub losses: u8,
    /// Frames that may arrive twice.
    pub doubles: u8,
    pub crashes: u8,
    pub pauses: u8,
    /// How long a pause may last.
    pub naps: &'static [u64],
}

/// Ticks of the explored part; all that happens in a scope happens within.
pub const SPAN: u64 = 400;

/// S 3, D 4 (twice the longest delay), T_own 16, T_emit 2, T_stale 60 ticks. The rest is
/// either over before the SYN comes or lasts longer than [`SPAN`].
pub fn timers() -> Timers {
    let ticks = |count: u32| TICK * count;
    Timers {
        slot: ticks(3),
        slot_adapts: false,
        settle: ticks(4),
        settle_adapts: false,
        own: ticks(16),
        emit: ticks(2),
        stale: ticks(60),
        foreign: ticks(1_000),
        owned: ticks(1_000),
        datagrams: ticks(1_000),
        tries: ticks(1_000),
        hello: ticks(2_000),
        suspect: ticks(6_500),
        dead: ticks(40_000),
        listen: ticks(100),
        quiet: ticks(500),
    }
}

impl Scope {
    /// `hosts` hosts that nothing happens to, but for delays.
    pub fn new(name: &'static str, hosts: usize) -> Self {
        Self {
            name,
            hosts,
            pacing: Pacing::Rank,
            modes: vec![Mode::Auto; hosts],
            deaf: false,
            roster: false,
            timers: timers(),
            views: Views::Settled,
            guard: Guard::Strict,
            variant: Variant::Production,
            lacking: &[],
            listeners: vec![Listener::Ready; hosts],
            skews: &[0, 1, 2],
            delays: &[1, 2],
            answers: &[1, 3],
            evidence: &[0],
            acks: &[1, 2],
            repeats: &[],
            reuses: &[],
            losses: 0,
            doubles: 0,
            crashes: 0,
            pauses: 0,
            naps: &[],
        }
    }

    /// What a host starts with.
    pub fn config(&self, host: usize) -> Config {
        let others = (0..self.hosts).filter(|&other| self.roster && other != host);
        let has = !self.lacking.is_empty() && !self.lacking.contains(&host);
        let further = has.then_some(FURTHER.into());
        Config {
            pacing: self.pacing,
            mode: self.modes[host],
            roster: others.map(|other| member(node_id(other))).collect(),
            timers: self.timers,
            vips: Vips::new(VIP.into(), further).expect("two addresses"),
            limits: Limits { attempts: 8, held: 4, peers: 4, adopted: 1 },
            ..Config::new(node_id(host), 1, VIP)
        }
    }

    /// L1: an attempt has a SYN-ACK so long after its first SYN came, in ticks:
    /// every rank's slot and one settling time; a crash, a pause or a loss may cost a T_own
    /// and a contest anew, and a nap itself.
    pub fn bound(&self) -> u64 {
        let ticks = |time: Duration| time.as_nanos().div_ceil(TICK.as_nanos()) as u64;
        let Timers { slot, settle, own, emit, .. } = self.timers;
        let contest = ticks(slot) * self.hosts as u64 + ticks(settle) + ticks(emit);
        let troubles = u64::from(self.crashes + self.pauses + self.losses);
        let longest = |list: &[u64]| list.iter().copied().max().unwrap_or(0);
        let spectator = if self.listeners.iter().all(|&l| l == Listener::Ready) { 0 } else { 3 };
        longest(self.skews)
            + contest
            + troubles * (ticks(own) + contest)
            + spectator * ticks(own)
            + longest(self.naps) * u64::from(self.pauses)
            + longest(self.evidence)
    }

    /// The flow that the client uses, also when it starts anew: one that ranks the hosts
    /// in the order of their numbers.
    pub fn flow(&self) -> FlowKey {
        let flow = |port: u16| FlowKey {
            protocol: Protocol::Tcp,
            client: ([10, 0, 0, 200], port).into(),
            service: (self.vip(), PORT).into(),
        };
        let in_order = |flow: &FlowKey| {
            let weights = (0..self.hosts).map(|host| key().weight(key().flow(flow), node_id(host)));
            weights.rev().is_sorted()
        };
        (4_000..).map(flow).find(in_order).expect("one port in six")
    }

    fn vip(&self) -> [u8; 4] {
        if self.lacking.is_empty() { VIP } else { FURTHER }
    }

    pub fn service(&self) -> ServicePort {
        ServicePort::tcp((self.vip(), PORT))
    }
}

/// Who was heard in an earlier life until its end.
fn member(node: NodeId) -> Member {
    Member { node, unheard: Duration::ZERO, vips: Vec::new() }
}

pub fn node_id(host: usize) -> NodeId {
    NodeId(host as u32 + 1)
}

/// The client's sequence number of its first or second attempt.
pub fn client_isn(attempt: u8) -> u32 {
    1_000 + 77 * u32::from(attempt)
}
