//! What the core counts: plain integers, no metrics library.

use serde::Serialize;

/// Totals since the start of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// SYNs held for a contest.
    pub syns: u64,
    /// Datagrams held for a contest, or not served here.
    pub datagrams: u64,
    /// Of these, dropped because nobody listens on the port here.
    pub not_served: u64,
    /// Attempts whose SYN or datagram this node let through to its kernel.
    pub accepted: u64,
    /// Of these, accepted at once, without a settling time.
    pub eager: u64,
    /// SYNs dropped because another node owns the attempt.
    pub yielded: u64,
    /// SYNs and datagrams left to another node, or to the next try, by hash.
    pub left_to_hash: u64,
    /// SYNs not refused here, since a peer that has not answered them serves the port.
    pub left_to_peers: u64,
    /// Times that this node began to decide by hash.
    pub fallbacks: u64,
    /// SYNs dropped at the end of [`Timers::stale`](super::Timers::stale).
    pub stale: u64,
    /// CLAIM entries sent.
    pub claims: u64,
    /// OWN entries sent.
    pub owns: u64,
    /// RELEASE entries sent.
    pub releases: u64,
    /// Contests taken over because the claimant stayed silent.
    pub takeovers: u64,
    /// Accepted SYNs that produced no SYN-ACK within [`Timers::emit`](super::Timers::emit).
    pub mute: u64,
    /// Accepted SYNs that the kernel refused although a listener was known.
    pub refused: u64,
    /// Clients told that nobody serves the port, on behalf of the cluster.
    pub refusals: u64,
    /// Handshakes that the client completed with this node, as far as it saw them.
    pub confirmed: u64,
    /// Handshakes that the client completed with another node.
    pub not_chosen: u64,
    /// Of these, handshakes with a node of which nothing was heard about them.
    pub unheard: u64,
    /// Other nodes' OWNs for attempts that this node had accepted.
    pub conflicts: u64,
    /// Datagrams of this host in flows that another node answers, or may come to, dropped.
    pub late_answers: u64,
    /// Packets of unconfirmed flows that this node knows nothing about, dropped.
    pub unknown_acks: u64,
    /// Ports without a listener that are not announced any more, because more than
    /// [`PORTS_MAX`](crate::wire::PORTS_MAX) were asked for.
    pub ports_forgotten: u64,
    /// Frames heard and used.
    pub frames: u64,
    /// Frames ignored because they were heard before, or too long ago.
    pub stale_frames: u64,
    /// Frames missing in the peers' sequences.
    pub lost_frames: u64,
    /// Frames that came after a later one of the same sender.
    pub late_frames: u64,
    /// Frames under this node's own id that it has said itself, or an earlier life of it.
    pub own_id_frames: u64,
    /// Frames under this node's own id that somebody else has said.
    pub duplicate_ids: u64,
    /// Frames ignored because [`Limits::peers`](super::Limits::peers) nodes were known.
    pub too_many_peers: u64,
    /// SYNs or claims ignored at [`Limits::attempts`](super::Limits::attempts).
    pub table_full: u64,
    /// SYNs dropped at [`Limits::held`](super::Limits::held).
    pub held_full: u64,
    /// Datagrams dropped because fifteen others of their flow were held beside the first.
    pub datagrams_full: u64,
}
