//! Invariants of a run, checked after every event (spec 8, `proto-spec/claim-protocol.md`).
//!
//! The checker takes notes like any other [`Record`], and looks at a host whenever an event at it
//! is over. What each number means here, and under which assumption it is demanded:
//!
//! | | demanded |
//! |---|---|
//! | I1 | an attempt is handed to an application once, by one host. Only if the scenario has a guard |
//! | I2 | no RST ends a client's connection but one of the host that the client chose. Only with a guard, and with the exceptions of the specification |
//! | I3 | a SYN that has got to a host that has joined, claims, has a listener with room and is neither killed nor paused leads to a SYN-ACK of some host within n slots and n T_own and what hosts need to wake up. Not if it may still have an older connection with these ports, which answers instead (RFC 5961), not if a host has refused it that did not know of this one when it decided, and not while a host decides by hash, or is taken for one that does: then it is the client's retransmission that leads to one |
//! | I4 | a half-open connection is removed only if a segment of the client has come that names another number |
//! | I5 | a verdict is about a packet that is held; none is held for longer than T_stale once the core was told, as soon as the daemon runs |
//! | I6 | two hosts' claims of one attempt are never equal in order |
//! | I7 | attempts, held packets, peers, queue, inbox and frames stay within their bounds |
//! | I8 | no CLAIM leaves a host whose core knows of no listener with room since its turn before |
//! | I9 | sequence numbers of an incarnation are 1, 2, 3..., incarnations grow, and a frame heard once more changes counters only (on one frame of a long run: it takes a copy of the core) |
//! | I10 | what frames say about attempts is about attempts whose SYN a host has got, and lately; no claim is said more often than three times for each host |
//! | I11 | see below |
//!
//! I11, exactly one SYN-ACK, is promised for equal views, no loss and delays below S. It is checked as the
//! steps of its proof, each where its own assumption holds: a host that has heard, before it decides
//! and while it held the SYN, that a peer it trusts owns the attempt does not accept it, nor one that has heard a
//! claim it must defer to within T_own, unless it decides by hash (always, but without draining, which is an ablation); while
//! all hosts have ranked each other for a second, none accepts before its turn by the true ranks, the first
//! says OWN once it has answered, and, if it has missed no frame yet and has no reason to think so, does not claim. What is left is an answer that
//! was heard later than S. In mode hash, after the act of healing, [`crate::judge`] demands exactly one outright.
//!
//! I3 to I11 are promises of clusterd: of its ancestors only what is about held packets and
//! queues is checked.

mod attempts;
mod frames;
mod hosts;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use clusterd::protocol::Instant;
use clusterd::wire::KeyRing;

use crate::client::Outcome;
use crate::fault::FaultKind;
use crate::host::{Host, cluster_key, host_of};
use crate::network::HUB_QUEUE_MAX;
use crate::packet::{Flag, FlowId, Segment};
use crate::record::{Happening, Record};
use crate::scenario::{Guard, Medium, Rule, Scenario};
use attempts::Attempts;
use frames::Frames;
use hosts::Hosts;

/// What is demanded of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the module describes each by its number")]
pub enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I9,
    I10,
    I11,
    /// Once everything is healed, the cluster works as at the beginning.
    Convergence,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Invariant::Convergence => f.pad("convergence"),
            numbered => f.pad(&format!("{numbered:?}")),
        }
    }
}

/// Something that must not happen.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// When.
    pub at: Instant,
    /// What it breaks.
    pub invariant: Invariant,
    /// The host that did it, from 0.
    pub host: Option<u16>,
    /// About which flow.
    pub flow: Option<FlowId>,
    /// The connection of that flow, from 0.
    pub connection: Option<u32>,
    /// What happened, with the values.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:.6} s", self.invariant, self.at.0 as f64 / 1e9)?;
        if let Some(host) = self.host {
            write!(f, ", h{}", host + 1)?;
        }
        if let Some(connection) = self.connection {
            write!(f, ", connection {connection}")?;
        }
        if let Some(flow) = self.flow {
            write!(f, " ({})", flow.key())?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Which invariants are demanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// I1 and I2.
    pub outcome: bool,
    /// I3 to I11, as far as they are about claims.
    pub claims: bool,
}

impl Promises {
    /// What the hosts of a scenario promise.
    pub fn of(scenario: &Scenario) -> Self {
        let guarded = matches!(scenario.guard, Guard::Rst | Guard::Strict | Guard::Gate);
        let claims = scenario.rule == Rule::Clusterd;
        Self { outcome: claims && guarded, claims }
    }
}

/// What a checker knows of a connection of a client.
#[derive(Clone, Copy, Debug)]
struct Opened {
    flow: FlowId,
    isn: u32,
    /// What has come last.
    received: Option<Segment>,
    /// The server's sequence number that the client has acknowledged.
    chosen: Option<u32>,
}

/// Checks a run. See the module for what.
pub struct Checker {
    promises: Promises,
    guard: Guard,
    drains: bool,
    ring: KeyRing,
    own: Duration,
    attempts: Attempts,
    /// So long after the last SYN of an attempt, or answer to it, there is still something to say.
    quiet: Duration,
    frames: Frames,
    hosts: Hosts,
    connections: Vec<Opened>,
    violation: Option<Violation>,
}

impl Checker {
    /// A checker for a run of this scenario.
    pub fn new(scenario: &Scenario, promises: Promises) -> Self {
        Self {
            promises,
            guard: scenario.guard,
            drains: scenario.drain,
            ring: cluster_key().into(),
            own: scenario.own,
            attempts: Attempts::default(),
            quiet: QUIET + waiting(scenario),
            frames: Frames::default(),
            hosts: Hosts::new(scenario),
            connections: Vec::new(),
            violation: None,
        }
    }

    /// The first thing that must not have happened.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Notes a violation, unless there is one.
    fn blame(
        &mut self,
        at: Instant,
        invariant: Invariant,
        host: Option<u16>,
        about: Option<(FlowId, u32)>,
        what: String,
    ) {
        if self.violation.is_some() {
            return;
        }
        let same = |it: &Opened| about == Some((it.flow, it.isn));
        let connection = self.connections.iter().position(same).map(|index| index as u32);
        let flow = about.map(|(flow, _)| flow);
        self.violation = Some(Violation { at, invariant, host, flow, connection, what });
    }

    /// I2: a RST has ended a connection.
    fn reset(&mut self, at: Instant, connection: u32) {
        let Some(&Opened { flow, isn, received, chosen }) =
            self.connections.get(connection as usize)
        else {
            return;
        };
        let (Some(rst), Some(chosen)) = (received, chosen) else { return };
        let chooses = self.attempts.answered_with(flow, isn, chosen);
        for (host, own) in self.attempts.resets(flow, isn, rst.sequence) {
            let near =
                own.is_some_and(|own| own.wrapping_add(1).wrapping_sub(rst.sequence) <= ACK_WINDOW);
            // Or a host still has an earlier connection of these ports, has no room to accept it, and
            // has missed every SYN of this one.
            let missed = !self.attempts.has_got(host, flow, isn);
            let older = missed && self.attempts.has_answered(host, flow);
            let is_exception = match self.guard {
                Guard::Rst => near || older,
                Guard::Strict => older,
                Guard::Gate | Guard::Invalid | Guard::None => false,
            };
            if Some(host) == chooses || is_exception {
                continue;
            }
            let what = format!(
                "its RST {} ended the connection that the client has with {}",
                rst.sequence,
                chooses.map_or("nobody".to_owned(), |host| format!("h{}", host + 1)),
            );
            self.blame(at, Invariant::I2, Some(host), Some((flow, isn)), what);
        }
    }
}

/// So long after the last SYN of an attempt, or answer to it, there is still something to say, where
/// frames do not wait.
const QUIET: Duration = Duration::from_secs(2);

/// Bytes of a small frame of claims, with what belongs to it on the wire.
const FRAME: u32 = 160;

/// For how long a word may wait for the wire, and then the answer to it. The stations of a hub wait for each
/// other, and collide for half of the time; on the way through a switch there is one
/// buffer, through a tree there are three.
fn waiting(scenario: &Scenario) -> Duration {
    let stations = 1 + scenario.hosts as u32;
    let once = match scenario.medium {
        Medium::Hub => {
            scenario.rate.time_of(FRAME) * u64::from(2 * stations) * HUB_QUEUE_MAX as u64
        }
        Medium::Switch => scenario.rate.time_of(scenario.buffer as u32),
        Medium::Tree => 3 * scenario.rate.time_of(scenario.buffer as u32),
    };
    Duration::from_nanos(2 * once)
}

/// How far an acknowledgement may lie behind a host's number for connection tracking to take it
/// for one of that host's: the exception of I2 with guard `rst` (spec 8).
const ACK_WINDOW: u32 = 66_001;

impl Record for Checker {
    fn note(&mut self, at: Instant, happening: Happening<'_>) {
        match happening {
            Happening::Syn { number, segment, .. } => {
                if number == 1 {
                    let (flow, isn) = (segment.flow, segment.sequence);
                    if self.connections.is_empty() {
                        self.frames.draw_sample(isn);
                    }
                    self.connections.push(Opened { flow, isn, received: None, chosen: None });
                }
            }
            Happening::Received { connection, segment } => {
                if let Some(opened) = self.connections.get_mut(connection as usize) {
                    opened.received = Some(*segment);
                }
            }
            Happening::Connected { connection } => {
                if let Some(opened) = self.connections.get_mut(connection as usize) {
                    opened.chosen = opened.received.map(|syn_ack| syn_ack.sequence);
                }
            }
            Happening::Ended { connection, outcome: Outcome::Reset } if self.promises.outcome => {
                self.reset(at, connection);
            }
            Happening::Arrived { host, segment } => self.arrived(at, host, segment),
            Happening::Heard { host, bytes } if self.promises.claims => self.heard(at, host, bytes),
            Happening::Claimed { host, bytes } if self.promises.claims => {
                self.claimed(at, host, bytes)
            }
            Happening::Decided { host, ticket: _, syn, accept, told } => {
                if accept {
                    self.attempts.knows(host, syn, self.hosts.known_to_serve(host, at));
                }
                self.decided(at, host, syn, accept.then_some(told).flatten());
            }
            Happening::Unheld { host, ticket } => {
                let what =
                    format!("a verdict for ticket {}, which is not held (any more)", ticket.0);
                self.blame(at, Invariant::I5, Some(host), None, what);
            }
            Happening::Destroyed { host, flow, isn } => self.destroyed(at, host, flow, isn),
            Happening::Said { host, segment } => self.said(at, host, segment),
            Happening::Accepted { host, flow, isn } => self.accepted(at, host, flow, isn),
            Happening::Fault(fault) => {
                if let FaultKind::Kill(host) = *fault {
                    self.attempts.killed(host as u16);
                    self.hosts.killed(host as u16);
                }
                self.hosts.disturbed(at, fault);
            }
            Happening::Started { host } => self.frames.started(host),
            Happening::Paused { host, until } => self.hosts.paused(at, host, until),
            Happening::Heard { .. }
            | Happening::Claimed { .. }
            | Happening::Ended { .. }
            | Happening::Replied { .. }
            | Happening::FromClients { .. }
            | Happening::Lost { .. }
            | Happening::Notice { .. } => {}
        }
        self.overdue(at);
    }

    fn after(&mut self, at: Instant, host: &Host) {
        self.look_at(at, host);
    }
}

impl Checker {
    /// A segment of a client has come to a host.
    fn arrived(&mut self, at: Instant, host: u16, segment: &Segment) {
        match segment.flag {
            Flag::Syn => {
                let first = self.attempts.arrived(at, host, segment);
                if first && self.promises.claims {
                    self.expect_answer(at, host, segment);
                }
            }
            Flag::Ack | Flag::Fin => self.attempts.acknowledged(host, segment),
            Flag::Rst | Flag::SynAck | Flag::Refusal => {}
        }
    }

    /// A host sends a segment.
    fn said(&mut self, at: Instant, host: u16, segment: &Segment) {
        match segment.flag {
            Flag::SynAck => {
                let about = (segment.flow, segment.acknowledgement.wrapping_sub(1));
                if self.attempts.answers(at, host, segment) && self.promises.claims {
                    self.expect_own(at, host, about);
                }
            }
            Flag::Rst => self.attempts.said_rst(host, segment),
            Flag::Refusal => self.attempts.refuses(host, segment),
            Flag::Syn | Flag::Ack | Flag::Fin => {}
        }
    }

    /// I1: an application has a connection.
    fn accepted(&mut self, at: Instant, host: u16, flow: FlowId, isn: u32) {
        let before = self.attempts.accepted(host, flow, isn);
        if let Some(before) = before.filter(|_| self.promises.outcome) {
            let what = format!("its application has what that of h{} has got already", before + 1);
            self.blame(at, Invariant::I1, Some(host), Some((flow, isn)), what);
        }
    }

    /// I4: a half-open connection is removed.
    fn destroyed(&mut self, at: Instant, host: u16, flow: FlowId, isn: u32) {
        if !self.promises.claims {
            return;
        }
        if let Some(about) = self.attempts.destroyed_without_reason(host, flow, isn) {
            let what = format!("it removes its answer {isn}, and no client has named another one");
            self.blame(at, Invariant::I4, Some(host), Some(about), what);
        }
    }
}

/// What happens at a time, by that time: at most one thing for each attempt and host.
type Due = BTreeMap<(Instant, FlowId, u32, u16), Expected>;

/// What must have happened by then.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Some host has answered a SYN that came to this host then.
    Answer { since: Instant },
    /// This host has said that it has answered, which it did then.
    Own { since: Instant },
}

#[cfg(test)]
mod tests;
