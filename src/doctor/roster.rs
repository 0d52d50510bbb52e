//! Who has been heard, and which probes of theirs arrived here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::modes::{ModeSet, PerMode};
use super::wire::{Bulletin, Count, GatewayAnswer, HOSTS_MAX, Id, Probe, Role};
use crate::io::cluster_mac::MacMode;

/// Another participant, by its last bulletin and its probes.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What it is.
    pub role: Role,
    /// Its own address.
    pub address: IpAddr,
    /// The modes it takes part in.
    pub modes: ModeSet,
    /// The mode it has chosen, or runs in.
    pub choice: Option<MacMode>,
    /// Its gateway on this segment.
    pub router: Option<IpAddr>,
    /// What it knows of that.
    pub gateway: PerMode<GatewayAnswer>,
    /// What it says of the probes of others.
    pub heard: Vec<(Id, PerMode<Count>)>,
    /// Its counts of sent probes in its first bulletin.
    base: PerMode<u16>,
    /// Its probes that arrived since then.
    counts: PerMode<Count>,
    /// Number of the last probe that arrived.
    last: PerMode<Option<u16>>,
}

/// All other participants.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    peers: BTreeMap<Id, Peer>,
}

impl Roster {
    /// Takes a bulletin of another participant. Whether that one is new.
    pub fn bulletin(&mut self, bulletin: Bulletin) -> bool {
        if let Some(peer) = self.peers.get_mut(&bulletin.id) {
            for mode in MacMode::ALL {
                peer.counts[mode].expected = bulletin.sent[mode].wrapping_sub(peer.base[mode]);
            }
            peer.role = bulletin.role;
            peer.choice = bulletin.choice;
            peer.router = bulletin.router;
            peer.gateway = bulletin.gateway;
            peer.heard = bulletin.heard;
            return false;
        }
        // Whoever invents participants must not fill the memory.
        if self.peers.len() == HOSTS_MAX {
            return false;
        }
        let peer = Peer {
            role: bulletin.role,
            address: bulletin.address,
            modes: bulletin.modes,
            choice: bulletin.choice,
            router: bulletin.router,
            gateway: bulletin.gateway,
            heard: bulletin.heard,
            base: bulletin.sent,
            counts: PerMode::default(),
            last: PerMode::default(),
        };
        self.peers.insert(bulletin.id, peer);
        true
    }

    /// Takes a probe. One of a stranger does not count, nor a copy of one, as a loop makes them.
    pub fn probe(&mut self, probe: Probe) {
        let Some(peer) = self.peers.get_mut(&probe.id) else { return };
        // Sent before the first bulletin, which tells how many were.
        let since = probe.sequence.wrapping_sub(peer.base[probe.mode]);
        let is_new = peer.last[probe.mode]
            .is_none_or(|last| (1..0x8000).contains(&probe.sequence.wrapping_sub(last)));
        if (1..0x8000).contains(&since) && is_new {
            peer.last[probe.mode] = Some(probe.sequence);
            peer.counts[probe.mode].got += 1;
        }
    }

    /// All of them.
    pub fn peers(&self) -> impl Iterator<Item = (Id, &Peer)> {
        self.peers.iter().map(|(&id, peer)| (id, peer))
    }

    /// What arrived from each, for a bulletin.
    pub fn heard(&self) -> Vec<(Id, PerMode<Count>)> {
        self.peers().map(|(id, peer)| (id, peer.counts())).collect()
    }
}

impl Peer {
    /// Its probes that should have arrived here, and have. A bulletin may be read later than the
    /// probes sent after it, so more may have arrived than it told of.
    pub fn counts(&self) -> PerMode<Count> {
        PerMode(
            self.counts.0.map(|Count { expected, got }| Count { expected: expected.max(got), got }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::wire::Wants;

    fn bulletin(id: u32, sent: u16) -> Bulletin {
        Bulletin {
            id: Id(id),
            role: Role::Doctor,
            wants: Wants::Bulletin,
            vip: "10.0.0.2".parse().unwrap(),
            address: "10.0.0.11".parse().unwrap(),
            modes: ModeSet::of(&MacMode::ALL),
            choice: None,
            sent: PerMode([sent; 4]),
            router: None,
            gateway: PerMode::default(),
            heard: Vec::new(),
        }
    }

    fn probe(sequence: u16) -> Probe {
        Probe { id: Id(1), mode: MacMode::Igmp, sequence }
    }

    #[test]
    fn probes_count_from_the_first_bulletin_on_and_once() {
        let mut roster = Roster::default();
        roster.probe(probe(0xfffd));
        assert!(roster.bulletin(bulletin(1, 0xfffe)));
        // Number 0xfffe was sent before; 0xffff, 0 and 1 after it, and 0 is lost.
        for sequence in [0xfffe, 0xffff, 0xffff, 1, 1, 0xffff] {
            roster.probe(probe(sequence));
        }
        assert!(!roster.bulletin(bulletin(1, 1)));
        let [(id, counts)] = roster.heard()[..] else { panic!("one peer") };
        assert_eq!((id, counts[MacMode::Igmp]), (Id(1), Count { expected: 3, got: 2 }));
        assert_eq!(counts[MacMode::Stealth], Count { expected: 3, got: 0 });
    }

    #[test]
    fn invented_participants_do_not_fill_the_memory() {
        let mut roster = Roster::default();
        for id in 0..1000 {
            assert_eq!(roster.bulletin(bulletin(id, 0)), (id as usize) < HOSTS_MAX);
        }
        assert_eq!(roster.peers().count(), HOSTS_MAX);
    }
}
