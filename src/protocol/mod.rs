//! Decisions: which host answers which connection attempt.
//!
//! [`Node`] is the whole surface. A driver (the daemon, a test, the simulator)
//!
//! 1. tells it what happened with one of the `handle_*` methods, in this order
//!    when several things are at hand: frames, then SYNs, then
//!    [`Node::handle_timeout`] — a claim already received must not lose to a
//!    SYN read earlier (spec 6.1, *drain before you decide*);
//! 2. takes every [`Output`] with [`Node::poll_output`] and carries it out;
//! 3. sends every frame that [`Node::poll_frame`] returns, at the end of its turn;
//! 4. sleeps until [`Node::poll_timeout`] or the next input.
//!
//! Time never runs backwards from one call to the next.
//!
//! Invariants, numbered as in spec 8: every held packet gets exactly one
//! verdict, within [`Timers::stale`] (I5); a node that cannot serve a port
//! never claims it (I8); no claim undoes an attempt whose SYN-ACK has left (I4);
//! every table has a bound in [`Limits`] (I7).

mod attempt;
mod counters;
mod deadlines;
mod fallback;
mod membership;
mod node;
mod pace;
mod roster;
mod services;
#[cfg(test)]
mod specification;
mod standing;
mod table;
mod time;
mod view;
mod vips;
mod window;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bucket::Buckets;
use crate::flow::{ClusterKey, FlowKey, NodeId, ServicePort, VipHash};
pub use attempt::Purpose;
pub use counters::Counters;
pub use fallback::{Cause, Load, Mode};
pub use node::Node;
pub use standing::Standing;
pub use time::Instant;
pub use view::Turn;
pub use vips::{Vips, VipsError};

/// A packet that the driver holds until the core decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// What a held packet gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The kernel goes on with the packet.
    Accept,
    /// The packet disappears without an answer.
    Drop,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub enum Output {
    /// Release a held packet.
    Decide(Ticket, Verdict),
    /// Another host serves this flow: remove its half-open socket, if it has one,
    /// without a word on the wire, and its connection tracking entry.
    Destroy(FlowKey),
    /// Another host serves this flow of datagrams: the kernel need not ask about
    /// it for some seconds.
    Block(FlowKey),
    /// Does the kernel still track this flow of datagrams? If not, say so with
    /// [`Node::handle_flow_ended`].
    Inquire(FlowKey),
    /// What the kernel decides by itself has changed.
    Share(KernelShare),
    /// Something for the log.
    Notice(Notice),
}

/// What the kernel decides by itself (spec 5.6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelShare {
    /// The buckets whose clients this host serves.
    pub own: Buckets,
    /// SYNs are accepted or dropped by their buckets too, without being held.
    pub decide_syns: bool,
    /// TCP ports whose SYNs are held nevertheless: not every host serves them.
    pub undivided: BTreeSet<ServicePort>,
    /// Virtual IPs that some members do not have, so that no buckets divide them: SYNs to these are
    /// held, too, and all else that is divided is this host's...
    pub whole: BTreeSet<IpAddr>,
    /// ... or another one's.
    pub left: BTreeSet<IpAddr>,
}

/// Another node of the cluster, as it is kept for the next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// How long it has not been heard.
    pub unheard: Duration,
    /// The further virtual IPs that both it and this node answered.
    pub vips: Vec<VipHash>,
}

/// How well a peer and this node hear each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hearing {
    /// The peer.
    pub node: NodeId,
    /// It is ranked.
    pub live: bool,
    /// It decides by hash.
    pub by_hash: bool,
    /// Frames it has sent since it was first heard.
    pub sent: u64,
    /// Of these, not heard.
    pub lost: u64,
    /// Frames of this node that it has not heard, as it said last.
    pub missed: Option<u32>,
}

/// A state change worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// This node has listened long enough and takes part now.
    Joined,
    /// A node was heard for the first time, or after it had been lost.
    PeerFound(NodeId),
    /// A known node runs a new incarnation of its daemon.
    PeerRestarted(NodeId),
    /// A node has shown that it is there now and hears this node.
    PeerVerified(NodeId),
    /// A node decides by hash from now on, or no longer.
    PeerMode {
        /// The node.
        node: NodeId,
        /// It decides by hash.
        hash: bool,
    },
    /// A node takes part now.
    PeerJoined(NodeId),
    /// A node said that it leaves.
    PeerLeft(NodeId),
    /// A node was silent for [`Timers::suspect`]: it is not ranked any more.
    PeerSuspect(NodeId),
    /// A suspect node was heard again.
    PeerBack(NodeId),
    /// A node was silent for [`Timers::dead`]: it is forgotten.
    PeerLost(NodeId),
    /// Another host sends frames under this node's id, so this one has taken another.
    DuplicateNodeId {
        /// The id that both had.
        taken: NodeId,
        /// The id of this node from now on.
        new: NodeId,
    },
    /// A reason to decide by hash has come or gone.
    Fallback {
        /// The reason.
        cause: Cause,
        /// It is there.
        active: bool,
        /// This node decides by hash now.
        by_hash: bool,
    },
    /// This node can serve a port again.
    ServiceUp(ServicePort),
    /// This node has no listener on a port any more and leaves it to the others.
    ServiceDown(ServicePort),
    /// Somebody has asked for a port on which this node has no listener.
    NotServed(ServicePort),
}

/// Can this host serve a new connection to a port?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listener {
    /// There is a listener with room in its accept queue.
    Ready,
    /// The accept queue of the listener is nearly full.
    Busy,
    /// Nobody listens.
    Absent,
}

/// A SYN that the driver holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syn {
    /// Handle of the held packet.
    pub ticket: Ticket,
    /// Who wants what.
    pub flow: FlowKey,
    /// The client's initial sequence number.
    pub isn: u32,
    /// The kernel tracks a connection with these addresses and ports already.
    pub incumbent: bool,
}

/// When a node claims (spec 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pacing {
    /// In rank order, [`Timers::slot`] apart: one claim per connection as a rule.
    Rank,
    /// Every node at once, as in 2000; crossing claims settle by content.
    Race,
}

/// Everything a node must know from the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Greater than that of any earlier start of this node.
    pub incarnation: u64,
    /// Shared by the cluster.
    pub key: ClusterKey,
    /// The virtual IPs that this host answers.
    pub vips: Vips,
    /// When to claim.
    pub pacing: Pacing,
    /// Whether to claim at all.
    pub mode: Mode,
    /// The cluster as an earlier life of this node knew it.
    pub roster: Vec<Member>,
    /// How long to wait for what.
    pub timers: Timers,
    /// Bounds of the tables.
    pub limits: Limits,
}

impl Config {
    /// A node with all defaults, of the cluster that this virtual IP names.
    pub fn new(node: NodeId, incarnation: u64, vip: impl Into<IpAddr>) -> Self {
        let vip = vip.into();
        Self {
            node,
            incarnation,
            key: ClusterKey::public(vip),
            vips: vip.into(),
            pacing: Pacing::Rank,
            mode: Mode::default(),
            roster: Vec::new(),
            timers: Timers::default(),
            limits: Limits::default(),
        }
    }
}

/// The timers of spec 7 with their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    /// S: how long the next rank waits for the one before it.
    pub slot: Duration,
    /// S follows what is measured.
    pub slot_adapts: bool,
    /// D: how long a claim that may have crossed another settles.
    pub settle: Duration,
    /// D follows what is measured.
    pub settle_adapts: bool,
    /// T_own: how long a claim defers the others without an OWN.
    pub own: Duration,
    /// T_emit: how long an accepted SYN may take to produce its SYN-ACK.
    pub emit: Duration,
    /// T_stale: a SYN held longer is dropped, the contest is over.
    pub stale: Duration,
    /// How long a node remembers who owns an attempt that is not its own.
    pub foreign: Duration,
    /// How long a node remembers an attempt of its own after the SYN-ACK.
    pub owned: Duration,
    /// How long it takes a flow of its own datagrams for alive before it asks the kernel.
    pub datagrams: Duration,
    /// How long tries are counted that are left to others by hash.
    pub tries: Duration,
    /// HELLO interval.
    pub hello: Duration,
    /// A peer silent for so long is not ranked.
    pub suspect: Duration,
    /// A peer silent for so long is forgotten.
    pub dead: Duration,
    /// A starting node only listens for so long.
    pub listen: Duration,
    /// After a change of members or services views may differ for so long.
    pub quiet: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            slot: Duration::from_millis(1),
            slot_adapts: true,
            settle: Duration::from_millis(1),
            settle_adapts: true,
            own: Duration::from_millis(20),
            emit: Duration::from_millis(5),
            stale: Duration::from_millis(500),
            foreign: Duration::from_secs(3),
            owned: Duration::from_secs(10),
            datagrams: Duration::from_secs(35),
            tries: Duration::from_secs(9),
            hello: Duration::from_millis(250),
            suspect: Duration::from_millis(800),
            dead: Duration::from_secs(3),
            listen: Duration::from_secs(1),
            quiet: Duration::from_millis(50),
        }
    }
}

/// Peers by default, [`Limits::peers`].
pub const PEERS_MAX: usize = 64;

/// Bounds; what happens at each is counted in [`Counters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Attempts remembered; beyond it a new SYN is dropped, a claim forgotten.
    pub attempts: usize,
    /// SYNs held at once; beyond it a new SYN is dropped.
    pub held: usize,
    /// Peers; frames of further nodes are ignored.
    pub peers: usize,
    /// Connections taken over from an earlier daemon on this host.
    pub adopted: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { attempts: 262_144, held: 4_096, peers: PEERS_MAX, adopted: 262_144 }
    }
}
