//! The state of a scope: hosts, packets on their way, a client; and what is judged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use clusterd::flow::FlowKey;
use clusterd::protocol::{Listener, Node, Ticket};
use clusterd::wire::{Contest, Frame};

use crate::choices::Choices;
use crate::fingerprint::{self, Fingerprint};
use crate::scope::{Scope, moment, tick};

/// What must hold. The numbers are those of spec 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// I1: at most one application gets an attempt.
    OneAccept,
    /// I2: no kernel gets a packet that it would answer by a reset.
    NoReset,
    /// I4: no half-open socket goes that the client chose, or chooses later; at the end the
    /// application has what the client chose.
    ChosenSurvives,
    /// I5: each SYN gets one verdict, in time unless its host was paused.
    OneVerdict,
    /// S1: one host answers an attempt.
    SingleAnswer,
    /// L1: an attempt that an able host has got and survives is answered in time.
    Answered,
    /// At the end nobody is half open whom the client did not choose.
    LosersGone,
}

/// What may happen, and must in some scope, or the model would be too weak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sometimes {
    Eager,
    Claimed,
    TakenOver,
    Released,
    Conflict,
    NotChosen,
    Yielded,
    GaveUp,
    Stale,
}

#[derive(Clone, Debug)]
pub enum Packet {
    Frame {
        from: usize,
        frame: Arc<Frame>,
    },
    Syn {
        attempt: u8,
    },
    Ack {
        number: u32,
    },
    /// A copy of this host's own SYN-ACK.
    Evidence {
        attempt: u8,
        isn: u32,
    },
    /// To the client.
    SynAck {
        from: usize,
        attempt: u8,
        isn: u32,
    },
    /// The client's own timers.
    Repeat,
    Anew,
    /// A kernel's own timer: the SYN-ACK once more, if the client is silent.
    Again {
        attempt: u8,
        isn: u32,
    },
}

/// A packet on its way; to a host that is paused, also one that waits there.
#[derive(Clone, Debug)]
pub struct Flight {
    pub at: u64,
    pub to: Actor,
    pub packet: Packet,
    /// Tells packets that arrive together apart, in their order.
    pub order: u128,
}

/// Who does something. Within a tick the client comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    Client,
    Host(usize),
    /// What a host's kernel does whether its daemon runs or not.
    Kernel(usize),
}

/// Where in its turn a host can be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Nothing was read yet.
    Read,
    /// All was read; what is due is not done.
    Decide,
    /// The core has decided; the kernel does not know.
    CarryOut,
    /// The kernel has acted; the frame has not left.
    Send,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    Half { attempt: u8, isn: u32 },
    Full { attempt: u8 },
}

#[derive(Clone, Debug)]
pub struct Host {
    pub node: Node,
    pub listener: Listener,
    pub socket: Option<Socket>,
    /// SYNs without a verdict: ticket, when it came, attempt.
    pub held: Vec<(Ticket, u64, u8)>,
    pub syns: u8,
    /// ACKs without a verdict, within a turn.
    pub acks: u8,
    /// Half-open sockets destroyed; the next one has another sequence number.
    pub destroyed: u8,
    pub asleep: Option<(u64, Step)>,
    /// A pause since this tick excuses late verdicts of older SYNs.
    pub slept: Option<u64>,
    pub outputs: Vec<clusterd::protocol::Output>,
    pub unsent: Vec<Frame>,
    /// The last CLAIM or OWN said; for [`Variant::Retracting`](crate::scope::Variant).
    pub said: Option<Contest>,
    pub retracted: bool,
    fingerprint: u128,
}

impl Host {
    pub fn new(node: Node, listener: Listener) -> Self {
        Self {
            node,
            listener,
            socket: None,
            held: Vec::new(),
            syns: 0,
            acks: 0,
            destroyed: 0,
            asleep: None,
            slept: None,
            outputs: Vec::new(),
            unsent: Vec::new(),
            said: None,
            retracted: false,
            fingerprint: 0,
        }
    }

    fn seal(&mut self, end: u64) {
        let Self { held, syns, acks, destroyed, asleep, slept, outputs, unsent, said, .. } = &*self;
        let rest = format!(
            "{:?} {held:?} {syns} {acks} {destroyed} {asleep:?} {slept:?} {outputs:?} {unsent:?} {said:?} {}",
            self.socket, self.retracted
        );
        let end = moment(end).0;
        self.fingerprint =
            fingerprint::of_node(Fingerprint::default(), &self.node, end).text(&rest).finish();
    }
}

#[derive(Clone, Debug, Default)]
pub struct Client {
    /// The attempt it makes now.
    pub attempt: u8,
    pub started: u64,
    /// The host and sequence number of the SYN-ACK that came first.
    pub chosen: Option<(usize, u32)>,
    /// Packets sent: what it sends to one host arrives in order.
    pub sent: u8,
}

/// What has become of an attempt. Sets of hosts are bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    pub got: u8,
    pub answered: u8,
    pub accepted: u8,
}

#[derive(Clone, Debug)]
pub struct World {
    pub now: u64,
    /// `None` has crashed.
    pub hosts: Vec<Option<Arc<Host>>>,
    pub flights: Vec<Flight>,
    pub client: Client,
    pub facts: [Facts; 2],
    pub losses: u8,
    pub doubles: u8,
    pub crashes: u8,
    pub pauses: u8,
    /// Nothing that happens later is looked at.
    pub end: u64,
}

/// Hosts that are equal are kept once.
#[derive(Default)]
pub struct Pool {
    hosts: BTreeMap<u128, Arc<Host>>,
    clean_at: usize,
    /// What has come of turns at this tick: the same host, inbox and choices make the same
    /// host again, whose text need not be read once more.
    turns: HashMap<u128, Arc<Host>>,
    turns_at: u64,
}

impl Pool {
    fn turn(&mut self, now: u64, turn: u128) -> Option<Arc<Host>> {
        if self.turns_at != now {
            self.turns.clear();
            self.turns_at = now;
        }
        self.turns.get(&turn).cloned()
    }

    fn keep(&mut self, host: Host) -> Arc<Host> {
        if self.hosts.len() >= self.clean_at {
            self.hosts.retain(|_, host| Arc::strong_count(host) > 1);
            self.clean_at = 1_000.max(self.hosts.len() * 2);
        }
        self.hosts.entry(host.fingerprint).or_insert_with(|| Arc::new(host)).clone()
    }
}

pub fn all_links(hosts: usize) -> Vec<(usize, usize)> {
    let to_others = |from| (0..hosts).filter(move |&to| to != from).map(move |to| (from, to));
    (0..hosts).flat_map(to_others).collect()
}

/// A step on its way: the adversary, the judge, and the story for people.
pub struct Course<'a> {
    pub scope: &'a Scope,
    pub flow: FlowKey,
    pub choices: Choices,
    pub pool: &'a mut Pool,
    /// The turn of a host that is on its way.
    turn: Option<Fingerprint>,
    pub broken: Vec<(Property, String)>,
    pub seen: BTreeSet<Sometimes>,
    /// Links that carry nothing.
    pub cut: Vec<(usize, usize)>,
    pub story: Option<Vec<String>>,
}

impl<'a> Course<'a> {
    pub fn new(scope: &'a Scope, pool: &'a mut Pool) -> Self {
        Self {
            scope,
            pool,
            turn: None,
            flow: scope.flow(),
            choices: Choices::default(),
            broken: Vec::new(),
            seen: BTreeSet::new(),
            cut: if scope.deaf { all_links(scope.hosts) } else { Vec::new() },
            story: None,
        }
    }

    pub fn breaks(&mut self, property: Property, how: impl FnOnce() -> String) {
        let how = how();
        if let Some(story) = &mut self.story {
            story.push(format!("           *** {property:?}: {how}"));
        }
        self.broken.push((property, how));
    }

    pub fn tell(&mut self, now: u64, who: impl fmt::Display, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{now:6}  {who:<6}  {}", what()));
        }
    }
}

impl World {
    /// Who acts next, and when; `None` when nothing happens any more.
    pub fn next(&self) -> Option<(u64, Actor)> {
        let hosts = self.hosts.iter().enumerate().filter_map(|(index, host)| {
            let host = host.as_ref()?;
            let due = match host.asleep {
                Some((until, _)) => until,
                None => {
                    let inbox = self.flights.iter().filter(|f| f.to == Actor::Host(index));
                    let due = tick(host.node.poll_timeout()).max(self.now);
                    inbox.map(|flight| flight.at).fold(due, u64::min)
                }
            };
            Some((due.max(self.now), Actor::Host(index)))
        });
        let others = self.flights.iter().filter(|f| !matches!(f.to, Actor::Host(_)));
        let others = others.map(|flight| (flight.at, flight.to));
        hosts.chain(others).min().filter(|&(at, _)| at <= self.end)
    }

    /// Lets the next actor act.
    pub fn step(&mut self, course: &mut Course<'_>) {
        let Some((now, actor)) = self.next() else { return };
        self.now = now;
        self.judge_answer(course);
        let awake = |flight: &Flight| match flight.to {
            Actor::Client | Actor::Kernel(_) => true,
            Actor::Host(host) => {
                let asleep = self.hosts[host].as_ref().and_then(|host| host.asleep);
                matches!(asleep, None | Some((_, Step::Read)))
            }
        };
        let (mut batch, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.flights)
            .into_iter()
            .partition(|flight| flight.to == actor && flight.at <= now && awake(flight));
        self.flights = left;
        batch.sort_by_key(|flight| (flight.order >> 80, flight.at, flight.order));
        match actor {
            Actor::Client => {
                let packets = batch.into_iter().map(|flight| flight.packet).collect();
                self.client_turn(packets, course);
            }
            Actor::Host(host) => {
                course.turn = Some(self.turn_of(host, &batch));
                self.host_turn(host, batch, course);
            }
            Actor::Kernel(host) => self.kernel_timer(host, batch, course),
        }
    }

    /// Everything that decides, with the adversary's choices, what a host is after its turn.
    fn turn_of(&self, index: usize, inbox: &[Flight]) -> Fingerprint {
        let before = self.hosts[index].as_ref().map_or(0, |host| host.fingerprint);
        let running = |all: Fingerprint, host: &Option<_>| all.number(u8::from(host.is_some()));
        let turn = self.hosts.iter().fold(Fingerprint::default().number(before), running);
        let turn = turn.number(self.now).number(self.budget());
        inbox.iter().fold(turn, |turn, flight| turn.number(flight.fingerprint()))
    }

    fn budget(&self) -> u32 {
        u32::from_be_bytes([self.losses, self.doubles, self.crashes, self.pauses])
    }

    /// Replaces a host after its turn.
    pub fn put(&mut self, index: usize, host: Option<Host>, course: &mut Course<'_>) {
        let turn = course.turn.take().map(|turn| {
            let choices = course.choices.taken().iter();
            choices.fold(turn, |turn, &choice| turn.number(choice)).finish()
        });
        self.hosts[index] = host.map(|mut host| {
            if let Some(known) = turn.and_then(|turn| course.pool.turn(self.now, turn)) {
                return known;
            }
            host.seal(self.end);
            let host = course.pool.keep(host);
            if let Some(turn) = turn {
                course.pool.turns.insert(turn, host.clone());
            }
            host
        });
        if self.hosts[index].is_none() {
            let theirs = [Actor::Host(index), Actor::Kernel(index)];
            self.flights.retain(|flight| !theirs.contains(&flight.to));
        }
    }

    /// Sends `packet`, which arrives at `at` or gets lost.
    pub fn send(&mut self, at: u64, to: Actor, packet: Packet) {
        if let Actor::Host(host) | Actor::Kernel(host) = to
            && self.hosts[host].is_none()
        {
            return;
        }
        let order = match &packet {
            // The driver reads frames first, then its log, then what is held (spec 6.1).
            Packet::Frame { from, frame } => u128::from(frame.header.sequence) << 8 | *from as u128,
            Packet::Evidence { .. } => 1 << 80,
            Packet::Syn { .. } | Packet::Ack { .. } => 1 << 90 | u128::from(self.client.sent),
            Packet::SynAck { from, .. } => *from as u128,
            Packet::Repeat | Packet::Anew | Packet::Again { .. } => 1 << 90,
        };
        self.flights.push(Flight { at, to, packet, order });
    }

    pub fn fingerprint(&self) -> u128 {
        let mut all = Fingerprint::default().number(self.now).number(self.client.sent);
        for host in &self.hosts {
            all = all.number(host.as_ref().map_or(0, |host| host.fingerprint));
        }
        let mut flights: Vec<_> = self.flights.iter().map(Flight::fingerprint).collect();
        flights.sort_unstable();
        all = flights.into_iter().fold(all.number(0u8), |all, flight| all.number(flight));
        let Client { attempt, started, chosen, sent: _ } = self.client;
        let (host, isn) = chosen.map_or((9, 0), |(host, isn)| (host as u8, isn));
        all = all.number(attempt).number(started).number(host).number(isn);
        for Facts { got, answered, accepted } in self.facts {
            all = all.number(got).number(answered).number(accepted);
        }
        all.number(self.budget()).finish()
    }

    /// L1, and at the end of a run the rest.
    pub fn judge_answer(&self, course: &mut Course<'_>) {
        let Client { attempt, started, .. } = self.client;
        let facts = self.facts[usize::from(attempt)];
        let late = self.client.sent > 0 && self.now > started + course.scope.bound();
        if !late || facts.answered > 0 {
            return;
        }
        let able = |(index, host): (usize, &Option<Arc<Host>>)| {
            host.as_ref()
                .is_some_and(|host| facts.got & 1 << index != 0 && host.listener == Listener::Ready)
        };
        if self.hosts.iter().enumerate().any(able) {
            let bound = course.scope.bound();
            course.breaks(Property::Answered, || format!("no SYN-ACK within {bound} ticks"));
        }
    }

    /// Nothing happens any more.
    pub fn judge_end(&self, course: &mut Course<'_>) {
        let mut last = self.clone();
        last.now = self.end;
        last.judge_answer(course);
        for (index, host) in self.hosts.iter().enumerate() {
            let Some(host) = host else { continue };
            if !host.held.is_empty() {
                course.breaks(Property::OneVerdict, || format!("h{index} still holds a SYN"));
            }
            let Some(chosen) = self.client.chosen else { continue };
            match host.socket {
                Some(Socket::Half { isn, .. }) if chosen != (index, isn) => {
                    course.breaks(Property::LosersGone, || format!("h{index} is half open"));
                }
                socket if chosen.0 == index => {
                    let attempt = self.client.attempt;
                    if socket != Some(Socket::Full { attempt }) {
                        course.breaks(Property::ChosenSurvives, || {
                            format!("the client is connected to h{index}, where there is nothing")
                        });
                    }
                }
                _ => {}
            }
        }
    }
}

impl Flight {
    fn fingerprint(&self) -> u128 {
        let to = match self.to {
            Actor::Client => 99,
            Actor::Host(host) => host as u64,
            Actor::Kernel(host) => 50 + host as u64,
        };
        let all = Fingerprint::default().number(self.at).number(to).number(self.order);
        match &self.packet {
            Packet::Frame { frame, .. } => all.text(&format!("{:?}", frame.entries)),
            Packet::Syn { attempt } => all.text("syn").number(*attempt),
            Packet::Ack { number } => all.text("ack").number(*number),
            Packet::Evidence { attempt, isn } => all.text("own").number(*attempt).number(*isn),
            Packet::SynAck { attempt, isn, .. } => {
                all.text("syn-ack").number(*attempt).number(*isn)
            }
            Packet::Repeat => all.text("repeat"),
            Packet::Anew => all.text("anew"),
            Packet::Again { attempt, isn } => all.text("again").number(*attempt).number(*isn),
        }
        .finish()
    }
}
