//! What is known of each host, and what is demanded of hosts and of time: I3, I5, I7, and when
//! all hosts see the cluster as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use clusterd::flow::NodeId;
use clusterd::protocol::{Cause, Instant, Limits, Node, Timers};

use super::{Checker, Due, Expected, Invariant, host_of};
use crate::fault::FaultKind;
use crate::host::{Host, node_id};
use crate::packet::{FlowId, Segment};
use crate::scenario::{Pacing, Scenario};

/// For so long views must have been equal, or nobody by hash, for claims to be what decides: longer than
/// any word about a change is on its way.
const SETTLED: Duration = Duration::from_secs(1);
/// Others notice a pause that is longer than the time between two HELLOs.
const NOTICED: Duration = Duration::from_millis(200);
/// Interrupts, wake-ups, timers and costs of a host, added up over a contest.
const WAKES: Duration = Duration::from_millis(100);
/// By then the others know of a listener: its host looks for it before each HELLO.
const ANNOUNCED: Duration = Duration::from_millis(600);
/// By then a host that has answered has said so.
const SAYS_OWN: Duration = Duration::from_millis(100);

/// A host as it was after its last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Which hosts it ranks, as bits.
    pub peers: u64,
    pub joined: bool,
    pub by_hash: bool,
    /// A service listens, and has room.
    pub serves: bool,
    /// S.
    pub slot: Duration,
    /// D.
    settle: Duration,
    /// Frames of peers that it has missed.
    pub missed: u64,
    /// It has reason to believe that its words or those of the others get lost; what clients
    /// acknowledge may be the reason.
    pub doubts: bool,
    /// Why it would decide by hash, as bits.
    pub causes: u8,
    /// Peers that it remembers, alive or not.
    remembered: usize,
    /// Packets that it had no room or time for.
    refused: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// Nothing if it does not run.
    pub now: Option<Snapshot>,
    /// It can serve and has not been kept from it since.
    able_since: Option<Instant>,
    paused_until: Instant,
    /// It has had its S since then.
    slot_since: Instant,
    /// Its core knew of a listener with room at some time between the first frames of the last two turns that
    /// had something to say.
    pub ready: bool,
    /// And since the first frame of the last one.
    pub ready_since: bool,
    /// It knows of one now.
    pub ready_now: bool,
    /// When it decided last, and in the last turn that had something to say.
    decided: Instant,
    said: Instant,
}

impl Known {
    /// A frame leaves. What does not fit into the first one of a turn follows in others.
    pub fn says(&mut self) {
        if self.said != self.decided {
            self.said = self.decided;
            self.ready = std::mem::replace(&mut self.ready_since, self.ready_now);
        }
    }
}

/// All hosts.
#[derive(Debug)]
pub(super) struct Hosts {
    known: Vec<Known>,
    pacing: Pacing,
    drains: bool,
    queue: usize,
    inbox: usize,
    own: Duration,
    /// All rank each other, and nobody decides by hash.
    settled_since: Option<Instant>,
    hash_seen: Option<Instant>,
    /// When each host has heard the latest HELLO of each other one.
    hellos: BTreeMap<(u16, u16), Instant>,
    pub due: Due,
}

impl Hosts {
    pub fn new(scenario: &Scenario) -> Self {
        Self {
            known: vec![Known::default(); scenario.hosts],
            pacing: scenario.pacing,
            drains: scenario.drain,
            queue: scenario.queue,
            inbox: scenario.inbox,
            own: scenario.own,
            settled_since: None,
            hash_seen: None,
            hellos: BTreeMap::new(),
            due: Due::new(),
        }
    }

    pub fn known(&mut self, host: u16) -> Option<&mut Known> {
        self.known.get_mut(usize::from(host))
    }

    /// How many there are, whether they run or not.
    pub fn number(&self) -> usize {
        self.known.len()
    }

    /// How a host was after its last event, if it runs.
    pub fn snapshot(&self, host: u16) -> Option<Snapshot> {
        self.known.get(usize::from(host))?.now
    }

    /// Does a host rank a node?
    pub fn ranks(&self, host: u16, node: NodeId) -> bool {
        let bit = host_of(node).map_or(0, |peer| 1 << peer);
        self.snapshot(host).is_some_and(|snapshot| snapshot.peers & bit != 0)
    }

    /// Ids of the hosts that run.
    pub fn running(&self) -> impl Iterator<Item = NodeId> {
        let running = self.known.iter().enumerate().filter(|(_, known)| known.now.is_some());
        running.map(|(host, _)| node_id(host))
    }

    /// S of a host, if it has had that since then.
    pub fn slot(&self, host: u16, since: Instant) -> Option<Duration> {
        let known = self.known.get(usize::from(host)).filter(|known| known.slot_since < since)?;
        known.now.map(|snapshot| snapshot.slot)
    }

    pub fn paced_by_rank(&self) -> bool {
        self.pacing == Pacing::Rank
    }

    /// Have all hosts ranked each other for long?
    pub fn settled(&self, at: Instant) -> bool {
        self.settled_since.is_some_and(|since| at.since(since) >= SETTLED)
    }

    fn without_hash(&self, since: Instant) -> bool {
        self.hash_seen.is_none_or(|seen| since.since(seen) >= SETTLED)
    }

    /// Has a host been able to serve, all the time? Of several packets that come at one moment the last may
    /// find room again.
    fn able(&self, host: u16, since: Instant) -> bool {
        let known = self.known.get(usize::from(host));
        known.and_then(|known| known.able_since).is_some_and(|able| able < since)
    }

    /// A host has heard a HELLO.
    pub fn hello(&mut self, at: Instant, host: u16, from: NodeId) {
        if let Some(from) = host_of(from) {
            self.hellos.insert((host, from), at);
        }
    }

    /// As if it had missed all of them.
    #[cfg(test)]
    pub fn forget_hello(&mut self, host: u16, from: u16) {
        self.hellos.remove(&(host, from));
    }

    /// Hosts that this one ranks and of which it can know that they serve, as bits: it has heard a HELLO
    /// of them since they can.
    pub fn known_to_serve(&self, host: u16, at: Instant) -> u64 {
        let ranked = self.snapshot(host).map_or(0, |snapshot| snapshot.peers);
        let since = Instant(at.0.saturating_sub(ANNOUNCED.as_nanos() as u64));
        let told = |other| {
            let hello = self.hellos.get(&(host, other)).copied().unwrap_or_default();
            self.able(other, Instant(hello.0.saturating_sub(WAKES.as_nanos() as u64)))
        };
        let serves =
            |&other: &u16| ranked & 1 << other != 0 && self.able(other, since) && told(other);
        (0..self.known.len() as u16).filter(serves).fold(0, |all, other| all | 1 << other)
    }

    pub fn killed(&mut self, host: u16) {
        if let Some(known) = self.known(host) {
            *known = Known::default();
        }
        self.settled_since = None;
    }

    /// A daemon does not run before `until`.
    pub fn paused(&mut self, at: Instant, host: u16, until: Instant) {
        if until.since(at) >= NOTICED {
            self.settled_since = self.settled_since.map(|since| since.max(until));
        }
        if let Some(known) = self.known(host) {
            known.paused_until = known.paused_until.max(until);
            known.able_since = None;
        }
    }

    /// Was a host kept from running since then?
    pub fn paused_since(&self, host: u16, since: Instant) -> bool {
        self.known.get(usize::from(host)).is_some_and(|known| known.paused_until >= since)
    }

    /// A fault may make a host unable to serve, or its views old.
    pub fn disturbed(&mut self, at: Instant, fault: &FaultKind) {
        match *fault {
            FaultKind::Shut(host) => {
                if let Some(known) = self.known.get_mut(host) {
                    known.able_since = None;
                }
                self.settled_since = None;
            }
            FaultKind::Serve(_)
            | FaultKind::Mute(_)
            | FaultKind::Deaf(_)
            | FaultKind::Part(_)
            | FaultKind::Start(_) => self.settled_since = None,
            FaultKind::Heal | FaultKind::Calm => {
                self.settled_since = self.settled_since.map(|_| at)
            }
            FaultKind::Kill(_) | FaultKind::Stop(..) => {}
        }
    }

    fn look(&mut self, at: Instant, host: &Host, node: &Node) {
        let (open, room) = host.kernel.waiting();
        let (slot, settle) = node.pace();
        let counters = node.counters();
        let snapshot = Snapshot {
            peers: node.peers().filter_map(host_of).fold(0, |all, peer| all | 1 << peer),
            joined: node.joined(),
            by_hash: node.by_hash(),
            serves: host.kernel.serves && open * 4 < room * 3,
            slot,
            settle,
            missed: node.hearing().map(|hearing| hearing.lost).sum(),
            doubts: node.causes().any(|cause| matches!(cause, Cause::Mute | Cause::Deaf)),
            causes: node.causes().fold(0, |all, cause| all | 1 << cause as u8),
            remembered: node.hearing().count(),
            refused: host.counters.queue_overflowed
                + host.counters.slept
                + host.kernel.overflows
                + counters.held_full
                + counters.table_full,
        };
        let Some(known) = self.known.get_mut(host.index()) else { return };
        let before = known.now.replace(snapshot);
        let refused = before.is_some_and(|before| before.refused != snapshot.refused);
        // After a pause a daemon first reads all frames that have come meanwhile.
        let runs = at >= known.paused_until && host.decided() >= known.paused_until;
        let able = snapshot.joined && snapshot.serves && runs && !refused;
        known.able_since = if able { known.able_since.or(Some(at)) } else { None };
        // The view of one that forgets somebody is new, too, and of one that finds a reason to doubt its
        // claims, or no more: it claims first for a while (T_quiet).
        let view = |it: Snapshot| (it.remembered, it.causes);
        if before.is_some_and(|before| view(before) != view(snapshot)) {
            self.settled_since = self.settled_since.map(|_| at);
        }
        if before.is_none_or(|before| before.slot != snapshot.slot) {
            known.slot_since = at;
        }
        // One that is dead by now may still be counted on to answer its share.
        if snapshot.by_hash || node.hearing().any(|peer| peer.live && peer.by_hash) {
            self.hash_seen = Some(at);
        }
        if before.is_none_or(|before| before != snapshot) {
            self.compare(at);
        }
    }

    /// Do all hosts see the cluster as it is?
    fn compare(&mut self, at: Instant) {
        let running = self.known.iter().enumerate().filter(|(_, known)| known.now.is_some());
        let all = running.clone().fold(0u64, |all, (host, _)| all | 1 << host);
        let equal = running.clone().all(|(host, known)| {
            known.now.is_some_and(|now| {
                now.peers | 1 << host == all && now.joined && now.serves && !now.by_hash
            })
        });
        self.settled_since = if equal { self.settled_since.or(Some(at)) } else { None };
    }
}

impl Checker {
    /// An event at a host is over.
    pub(super) fn look_at(&mut self, at: Instant, host: &Host) {
        let index = host.index() as u16;
        let (queue, inbox) = host.unread();
        self.bounded(at, index, "packets in the queue", queue, self.hosts.queue);
        self.bounded(at, index, "frames in the socket", inbox, self.hosts.inbox);
        let Some(node) = host.decider.node().filter(|_| self.promises.claims) else { return };
        let limits = Limits::default();
        let (attempts, held) = node.load();
        self.bounded(at, index, "attempts", attempts, limits.attempts);
        self.bounded(at, index, "SYNs held by the core", held, limits.held);
        self.bounded(at, index, "peers", node.hearing().count(), limits.peers);
        let stale = Timers::default().stale;
        if let Some(told) = host.oldest_held().filter(|&told| host.decided() >= told + stale) {
            let waited = host.decided().since(told);
            let what =
                format!("it holds a packet without a verdict for {waited:?}, T_stale is {stale:?}");
            self.blame(at, Invariant::I5, Some(index), None, what);
        }
        self.hosts.look(at, host, node);
        let ready = host.listener() == Some(clusterd::protocol::Listener::Ready);
        if let Some(known) = self.hosts.known(index) {
            known.decided = host.decided();
            known.ready_now = ready;
            known.ready_since |= ready;
        }
        self.repeat_frame(at, host, node);
    }

    /// I7.
    fn bounded(&mut self, at: Instant, host: u16, what: &str, number: usize, bound: usize) {
        if number > bound {
            let what = format!("{number} {what}, the bound is {bound}");
            self.blame(at, Invariant::I7, Some(host), None, what);
        }
    }

    /// I3: a SYN has come to a host. If that can serve it, somebody will answer.
    pub(super) fn expect_answer(&mut self, at: Instant, host: u16, syn: &Segment) {
        let Some(snapshot) = self.hosts.snapshot(host) else { return };
        let older = self.attempts.has_answered(host, syn.flow);
        if older || !self.hosts.able(host, at) || !self.hosts.without_hash(at) {
            return;
        }
        let hosts = self.hosts.known.len() as u32;
        let waits = (snapshot.slot + self.hosts.own) * hosts + snapshot.settle;
        let bound = waits + self.hosts.own * 2 + Timers::default().emit + WAKES;
        // A packet held so long is dropped.
        if bound < Timers::default().stale {
            let due = (at + bound, syn.flow, syn.sequence, host);
            self.hosts.due.insert(due, Expected::Answer { since: at });
        }
    }

    /// I11: a host has answered. It will say so.
    pub(super) fn expect_own(&mut self, at: Instant, host: u16, about: (FlowId, u32)) {
        if self.hosts.settled(at) {
            let due = (at + SAYS_OWN, about.0, about.1, host);
            self.hosts.due.insert(due, Expected::Own { since: at });
        }
    }

    /// Looks at what should have happened by now.
    pub(super) fn overdue(&mut self, now: Instant) {
        while let Some((&due, &expected)) =
            self.hosts.due.first_key_value().filter(|(due, _)| due.0 < now)
        {
            self.hosts.due.remove(&due);
            let (at, flow, isn, host) = due;
            let about = (flow, isn);
            let attempt = self.attempts.get(about);
            match expected {
                Expected::Answer { since } => {
                    let answered = attempt.is_some_and(|attempt| !attempt.answers.is_empty());
                    // Meanwhile it may have answered another attempt with these ports.
                    let other = self.attempts.has_answered(host, flow);
                    let refused = attempt.and_then(|attempt| attempt.refused);
                    let unknown = refused.is_some_and(|known| known & 1 << host == 0);
                    if !answered
                        && !other
                        && !unknown
                        && self.hosts.able(host, since)
                        && self.hosts.without_hash(since)
                    {
                        let what = format!(
                            "it got the SYN at {:.6} s and can serve, and nobody has answered in {:?}",
                            since.0 as f64 / 1e9,
                            at.since(since),
                        );
                        self.blame(at, Invariant::I3, Some(host), Some(about), what);
                    }
                }
                Expected::Own { since } => {
                    let local = attempt.and_then(|attempt| attempt.at.get(&host));
                    let said = local.is_none_or(|local| local.said_own);
                    let kept = self.hosts.paused_since(host, since) || !self.hosts.settled(at);
                    if !said && !kept && self.hosts.drains {
                        let what = format!(
                            "it answered at {:.6} s and has not said OWN in {:?}",
                            since.0 as f64 / 1e9,
                            at.since(since),
                        );
                        self.blame(at, Invariant::I11, Some(host), Some(about), what);
                    }
                }
            }
        }
    }
}
