//! What the hot loop lets the rest of the process see.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use clusterd::flow::{FlowKey, NodeId};
use clusterd::protocol::{Cause, Counters, Hearing, Instant, Member};
use dashmap::DashMap;
use serde::Serialize;

use super::datagrams::DatagramCounters;
use crate::io::nfqueue;

/// Connections listed at most (further ones are left out), and for how long.
const FLOWS_MAX: usize = 65_536;
const FLOW_AGE_MAX: Duration = Duration::from_secs(10);

/// What the hot loop publishes a few times a second.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// This node's id now; another host may have taken the one that it began with.
    pub node: NodeId,
    /// This node takes part.
    pub joined: bool,
    /// Peers ranked now.
    pub peers: Vec<String>,
    /// How well this node and each other hear each other.
    pub hearing: Vec<Hearing>,
    /// This node decides by hash now.
    pub by_hash: bool,
    /// Reasons for it that are there, whatever the mode.
    pub causes: Vec<Cause>,
    /// The kernel decides about SYNs by itself now.
    pub by_kernel: bool,
    /// SYNs that the kernel has decided about by itself.
    pub kernel_syns: u64,
    /// S and D as they are now, in microseconds.
    pub slot_us: u64,
    pub settle_us: u64,
    /// The members among which the hash distributes beside this one.
    #[serde(serialize_with = "roster_in_seconds")]
    pub roster: Vec<Member>,
    /// Attempts remembered.
    pub attempts: usize,
    /// SYNs held.
    pub held: usize,
    /// Totals of the protocol core.
    pub protocol: Counters,
    /// Totals of the receive path of claims, by outcome.
    pub wire: WireCounters,
    /// Totals of the queue.
    pub queue: QueueCounters,
    /// Times that the kernel reported a full log socket: SYN-ACKs went unseen,
    /// and show as attempts that stayed mute.
    pub log_overruns: u64,
    /// SYNs that were dropped, and with them what an earlier attempt over the same ports had left
    /// half open here.
    pub leftovers: u64,
    /// Half-open sockets and tracking entries that the kernel did not remove;
    /// the guard keeps them silent, and they end by themselves.
    pub undestroyed: u64,
    /// Flows of datagrams.
    pub datagrams: DatagramCounters,
    /// State changes that the log could not keep up with.
    pub unlogged: u64,
    /// Inputs and outputs of the core that are not in the recording, because it was full.
    pub unrecorded: u64,
}

fn roster_in_seconds<S: serde::Serializer>(
    roster: &[Member],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let ages = roster.iter().map(|member| (member.node.to_string(), member.unheard.as_secs()));
    serializer.collect_map(ages)
}

/// Frames of IP protocol 150 that were not used, by reason.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct WireCounters {
    /// The TTL was not 255: the frame crossed a router, or was forged.
    pub ttl: u64,
    /// Too short for its contents.
    pub truncated: u64,
    /// Longer than any frame.
    pub too_long: u64,
    /// Not a claim frame.
    pub magic: u64,
    /// Another major version.
    pub version: u64,
    /// Another cluster.
    pub cluster: u64,
    /// Corrupted.
    pub tag: u64,
    /// An entry of the wrong length, or bytes after the last one.
    pub malformed: u64,
    /// About a port that `--ports` leaves out on this host.
    pub out_of_scope: u64,
    /// Own frames that the kernel did not take.
    pub unsent: u64,
}

/// Events of the queue that the hot loop sees; what the kernel drops before,
/// only the kernel counts.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct QueueCounters {
    /// Times that the kernel reported a full socket.
    pub overruns: u64,
    /// Verdicts that came too late.
    pub stale_verdicts: u64,
    /// Messages of the kernel that could not be understood.
    pub malformed: u64,
    /// Packets in the queue that were none of the protocol's.
    pub unexpected: u64,
    /// SYNs dropped because the daemon had not run for long when it found them.
    pub slept: u64,
}

impl QueueCounters {
    /// The queue's own counters and two of ours.
    pub fn new(counters: nfqueue::Counters, unexpected: u64, slept: u64) -> Self {
        Self {
            overruns: counters.enobufs,
            stale_verdicts: counters.stale_verdicts + counters.refused_verdicts,
            malformed: counters.malformed,
            unexpected,
            slept,
        }
    }
}

/// Shared by the hot loop, which writes, and the control socket, which reads.
pub struct Shared {
    /// Numbers of the queues, under which the kernel counts.
    pub queues: [u16; 2],
    snapshot: Mutex<Snapshot>,
    /// When each recently answered connection was.
    pub answered: DashMap<FlowKey, Answered>,
    /// How often the rules have been installed.
    rules: AtomicU64,
}

/// A connection that this host answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Wall-clock time of the SYN-ACK, or of the flow's first datagram.
    pub at: SystemTime,
}

impl Shared {
    /// Nothing published yet.
    pub fn new(queues: [u16; 2]) -> Self {
        Self {
            queues,
            snapshot: Mutex::default(),
            answered: DashMap::new(),
            rules: AtomicU64::new(0),
        }
    }

    /// The rules have been installed, with empty sets.
    pub fn rules_installed(&self) {
        self.rules.fetch_add(1, Ordering::Release);
    }

    /// How often the rules have been installed.
    pub fn rules(&self) -> u64 {
        self.rules.load(Ordering::Acquire)
    }

    /// Replaces the snapshot, unless a reader has it just now: the hot loop does not wait.
    pub fn publish(&self, snapshot: Snapshot) {
        if let Ok(mut published) = self.snapshot.try_lock() {
            *published = snapshot;
        }
    }

    /// The snapshot published last.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().map(|snapshot| snapshot.clone()).unwrap_or_default()
    }
}

/// The hot loop's side of [`Shared::answered`]: it also forgets what is old.
#[derive(Default)]
pub struct Directory {
    order: VecDeque<(Instant, FlowKey)>,
}

impl Directory {
    /// Notes an answered connection and forgets those older than ten seconds.
    pub fn answered(&mut self, shared: &Shared, now: Instant, flow: FlowKey) {
        self.expire(shared, now);
        if self.order.len() < FLOWS_MAX {
            self.order.push_back((now, flow));
            shared.answered.insert(flow, Answered { at: SystemTime::now() });
        }
    }

    /// Forgets connections older than ten seconds.
    pub fn expire(&mut self, shared: &Shared, now: Instant) {
        while let Some(&(at, flow)) = self.order.front() {
            if now.since(at) < FLOW_AGE_MAX {
                break;
            }
            self.order.pop_front();
            shared.answered.remove(&flow);
        }
    }
}
