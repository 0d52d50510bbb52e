//! Who is there: passive membership from any frame heard (spec 6.5).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::{Instant, Notice, Timers};
use crate::flow::NodeId;
use crate::wire::Header;

/// Frames over which loss is estimated; then both counts are halved.
const LOSS_WINDOW: u32 = 512;

/// A node heard from.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    incarnation: u64,
    sequence: u64,
    heard: Instant,
    suspect: bool,
    joining: bool,
    /// Ports it cannot serve, as it said last.
    pub unavailable: Vec<u16>,
    received: u32,
    lost: u32,
}

impl Peer {
    /// May be expected to take its turn.
    pub fn live(&self) -> bool {
        !self.suspect && !self.joining
    }

    pub fn serves(&self, port: u16) -> bool {
        !self.unavailable.contains(&port)
    }
}

/// What a header said about its sender.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Use the frame; `lost` frames of this sender went missing before it.
    Fresh { lost: u64 },
    /// Heard before, or from an earlier life: ignore it.
    Stale,
    /// The table is full.
    TooMany,
}

/// The peers of a node, by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    peers: BTreeMap<NodeId, Peer>,
}

impl Membership {
    pub fn get(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    pub fn live(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.peers.iter().filter(|(_, peer)| peer.live()).map(|(&node, peer)| (node, peer))
    }

    /// More than one frame in fifty of some live peer goes missing, so claims
    /// may cross unheard.
    pub fn lossy(&self) -> bool {
        self.live().any(|(_, peer)| peer.lost > 4 && peer.lost * 49 > peer.received)
    }

    /// Takes note of a frame's sender.
    pub fn hear(
        &mut self,
        now: Instant,
        header: &Header,
        peers_max: usize,
        mut notice: impl FnMut(Notice),
    ) -> Heard {
        let Header { node, incarnation, sequence, joining, leaving } = *header;
        let full = self.peers.len() >= peers_max;
        let fresh = Peer {
            incarnation,
            sequence,
            heard: now,
            suspect: false,
            joining,
            unavailable: Vec::new(),
            received: 1,
            lost: 0,
        };
        let mut entry = match self.peers.entry(node) {
            Entry::Vacant(_) if leaving => return Heard::Stale,
            Entry::Vacant(_) if full => return Heard::TooMany,
            Entry::Vacant(entry) => {
                entry.insert(fresh);
                notice(Notice::PeerFound(node));
                return Heard::Fresh { lost: 0 };
            }
            Entry::Occupied(entry) => entry,
        };
        let peer = entry.get_mut();
        if (incarnation, sequence) <= (peer.incarnation, peer.sequence) {
            return Heard::Stale;
        }
        if leaving {
            entry.remove();
            notice(Notice::PeerLeft(node));
            return Heard::Fresh { lost: 0 };
        }
        if incarnation > peer.incarnation {
            *peer = fresh;
            notice(Notice::PeerRestarted(node));
            return Heard::Fresh { lost: 0 };
        }
        let lost = sequence - peer.sequence - 1;
        if peer.suspect {
            notice(Notice::PeerBack(node));
        }
        if peer.joining && !joining {
            notice(Notice::PeerJoined(node));
        }
        peer.sequence = sequence;
        peer.heard = now;
        peer.suspect = false;
        peer.joining = joining;
        peer.received += 1;
        peer.lost = peer.lost.saturating_add(lost.min(u64::from(LOSS_WINDOW)) as u32);
        if peer.received + peer.lost > LOSS_WINDOW {
            peer.received /= 2;
            peer.lost /= 2;
        }
        Heard::Fresh { lost }
    }

    /// Replaces what a peer said about its services. True if that changed.
    pub fn set_unavailable(&mut self, node: NodeId, ports: &[u16]) -> bool {
        match self.peers.get_mut(&node) {
            Some(peer) if peer.unavailable != ports => {
                ports.clone_into(&mut peer.unavailable);
                true
            }
            _ => false,
        }
    }

    /// Suspects and forgets silent peers.
    pub fn expire(&mut self, now: Instant, timers: &Timers, mut notice: impl FnMut(Notice)) {
        self.peers.retain(|&node, peer| {
            let silent = now.since(peer.heard);
            if !peer.suspect && silent >= timers.suspect {
                peer.suspect = true;
                notice(Notice::PeerSuspect(node));
            }
            let keep = silent < timers.dead;
            if !keep {
                notice(Notice::PeerLost(node));
            }
            keep
        });
    }

    /// When [`Membership::expire`] will have something to do.
    pub fn next_expiry(&self, timers: &Timers) -> Option<Instant> {
        self.peers
            .values()
            .map(|peer| peer.heard + if peer.suspect { timers.dead } else { timers.suspect })
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(incarnation: u64, sequence: u64) -> Header {
        Header { node: NodeId(7), incarnation, sequence, joining: false, leaving: false }
    }

    fn hear(peers: &mut Membership, at: u64, header: Header) -> (Heard, Vec<Notice>) {
        let mut notices = vec![];
        let heard = peers.hear(Instant::from_micros(at), &header, 64, |n| notices.push(n));
        (heard, notices)
    }

    #[test]
    fn sequence_gaps_are_losses_and_repeats_are_stale() {
        let mut peers = Membership::default();
        assert_eq!(
            hear(&mut peers, 0, header(1, 1)),
            (Heard::Fresh { lost: 0 }, vec![Notice::PeerFound(NodeId(7))])
        );
        assert_eq!(hear(&mut peers, 1, header(1, 4)).0, Heard::Fresh { lost: 2 });
        assert_eq!(hear(&mut peers, 2, header(1, 4)).0, Heard::Stale);
        assert_eq!(hear(&mut peers, 2, header(1, 3)).0, Heard::Stale);
        assert_eq!(hear(&mut peers, 3, header(0, 99)).0, Heard::Stale);
        assert_eq!(
            hear(&mut peers, 3, header(2, 0)),
            (Heard::Fresh { lost: 0 }, vec![Notice::PeerRestarted(NodeId(7))])
        );
    }

    #[test]
    fn a_silent_peer_is_suspected_then_forgotten_and_a_leaving_one_at_once() {
        let mut peers = Membership::default();
        let timers = Timers::default();
        hear(&mut peers, 0, header(1, 1));
        let mut notices = vec![];
        let mut expire = |peers: &mut Membership, millis: u64| {
            peers.expire(Instant::from_micros(millis * 1000), &timers, |n| notices.push(n));
        };
        assert_eq!(peers.next_expiry(&timers), Some(Instant::from_micros(800_000)));
        expire(&mut peers, 799);
        expire(&mut peers, 800);
        assert_eq!(peers.live().count(), 0);
        expire(&mut peers, 2_999);
        assert!(peers.get(NodeId(7)).is_some());
        expire(&mut peers, 3_000);
        assert!(peers.get(NodeId(7)).is_none());
        assert_eq!(notices, [Notice::PeerSuspect(NodeId(7)), Notice::PeerLost(NodeId(7))]);

        hear(&mut peers, 0, header(3, 1));
        let leave = Header { leaving: true, ..header(3, 2) };
        assert_eq!(hear(&mut peers, 1, leave).1, [Notice::PeerLeft(NodeId(7))]);
        assert_eq!(peers.live().count(), 0);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut peers = Membership::default();
        for node in 0..3 {
            let heard =
                peers.hear(Instant(0), &Header { node: NodeId(node), ..header(1, 1) }, 2, |_| {});
            let expected = if node < 2 { Heard::Fresh { lost: 0 } } else { Heard::TooMany };
            assert_eq!(heard, expected);
        }
    }
}
