//! Whose turn it is: this node's view of members, services and ranks (spec 5.1).

use std::collections::BTreeMap;

use super::membership::Membership;
use super::{Config, Instant, Listener, Pacing};
use crate::flow::{AttemptId, FlowKey, NodeId};
use crate::wire::PORTS_MAX;

/// This node's place in one contest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Claims `position` slots after the SYN, with `rank` in the claim.
    Candidate { position: u8, rank: u8 },
    /// Others can serve this and this node cannot: it only looks on.
    Spectator,
    /// Nobody can serve this; the node at position 0 lets its kernel refuse it.
    LastResort { position: u8 },
}

/// Orders claims of one attempt; the lower one wins, on every host alike (spec 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClaimKey {
    pub tries: u8,
    pub rank: u8,
    pub tie_break: u64,
    pub node: NodeId,
}

#[derive(Clone, Copy, Debug)]
struct Service {
    listener: Listener,
    changed: Instant,
}

/// What this node knows of its own services, by port; at most [`PORTS_MAX`].
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    ports: BTreeMap<u16, Service>,
}

impl Services {
    /// Notes the state of a port's listener. True if the cluster must hear of it.
    pub fn set(&mut self, now: Instant, port: u16, listener: Listener) -> bool {
        let before = self.get(port);
        if before == listener && self.ports.contains_key(&port) {
            return false;
        }
        if self.ports.len() >= PORTS_MAX && !self.ports.contains_key(&port) {
            self.forget_one();
        }
        let announced = (before == Listener::Absent) != (listener == Listener::Absent);
        let changed = if announced { now } else { Instant::default() };
        self.ports.insert(port, Service { listener, changed });
        announced
    }

    /// A port never asked about is taken for served; the driver asks before it says a SYN.
    pub fn get(&self, port: u16) -> Listener {
        self.ports.get(&port).map_or(Listener::Ready, |service| service.listener)
    }

    /// The ports to announce as unavailable.
    pub fn unavailable(&self) -> impl Iterator<Item = u16> {
        self.ports
            .iter()
            .filter(|(_, service)| service.listener == Listener::Absent)
            .map(|(&port, _)| port)
    }

    /// Makes room: a port that is served needs no entry, of the others the
    /// one longest unchanged goes.
    fn forget_one(&mut self) {
        let key = |service: &Service| (service.listener == Listener::Absent, service.changed);
        if let Some((&port, _)) = self.ports.iter().min_by_key(|(_, service)| key(service)) {
            self.ports.remove(&port);
        }
    }

    /// Peers may still believe that this node serves `port`.
    fn just_lost(&self, now: Instant, port: u16, quiet: std::time::Duration) -> bool {
        self.ports.get(&port).is_some_and(|service| {
            service.listener == Listener::Absent && now.since(service.changed) < quiet
        })
    }
}

/// Everything that decides whose turn it is, at one moment.
pub(super) struct View<'a> {
    pub now: Instant,
    pub config: &'a Config,
    pub membership: &'a Membership,
    pub services: &'a Services,
    /// This node has listened long enough to take part.
    pub joined: bool,
    /// Members or services changed last.
    pub changed: Instant,
}

impl View<'_> {
    pub fn me(&self) -> NodeId {
        self.config.node
    }

    /// Can this node serve `port` now?
    pub fn listener(&self, port: u16) -> Listener {
        self.services.get(port)
    }

    pub fn is_live(&self, node: NodeId) -> bool {
        self.membership.get(node).is_some_and(|peer| peer.live())
    }

    /// This node's turn among those not yet excluded from the contest.
    pub fn turn(&self, flow: &FlowKey, incumbent: bool, excluded: &[NodeId]) -> Turn {
        let port = flow.service.port();
        let candidate = self.joined && !excluded.contains(&self.me()) && self.ranked_for(port);
        if candidate && incumbent {
            return Turn::Candidate { position: 0, rank: 0 };
        }
        let weight = |node| (self.config.key.weight(self.config.key.flow(flow), node), node);
        let own = weight(self.me());
        let (mut rivals, mut heavier, mut heavier_of_all) = (0, 0, 0);
        for (node, peer) in self.membership.live() {
            let outweighs = u8::from(weight(node) > own);
            heavier_of_all += outweighs;
            if peer.serves(port) && !excluded.contains(&node) {
                rivals += 1;
                heavier += outweighs;
            }
        }
        match (candidate, self.config.pacing) {
            (true, Pacing::Rank) => Turn::Candidate { position: heavier, rank: heavier + 1 },
            (true, Pacing::Race) => Turn::Candidate { position: 0, rank: 1 },
            (false, _) if rivals > 0 || !self.joined => Turn::Spectator,
            (false, _) => Turn::LastResort { position: heavier_of_all },
        }
    }

    /// The turn of a node that nobody relieved: it no longer counts on the others.
    pub fn last_resort(&self, flow: &FlowKey) -> Turn {
        let weight = |node| (self.config.key.weight(self.config.key.flow(flow), node), node);
        let own = weight(self.me());
        let heavier = self.membership.live().filter(|&(node, _)| weight(node) > own).count();
        Turn::LastResort { position: heavier as u8 }
    }

    /// Do the peers count on this node for `port`?
    fn ranked_for(&self, port: u16) -> bool {
        match self.listener(port) {
            Listener::Ready | Listener::Busy => true,
            Listener::Absent => self.services.just_lost(self.now, port, self.config.timers.quiet),
        }
    }

    /// First in rank and undisputed: it may accept without claiming first (spec 5.2).
    /// A takeover never is: the owner may live and only its OWN be lost.
    pub fn may_be_eager(&self, position: u8, tries: u8) -> bool {
        let alone = self.membership.live().next().is_none();
        let undisputed = position == 0
            && tries == 0
            && self.config.pacing == Pacing::Rank
            && self.now.since(self.changed) >= self.config.timers.quiet
            && !self.membership.lossy();
        alone || undisputed
    }

    pub fn claim_key(&self, attempt: AttemptId, node: NodeId, tries: u8, rank: u8) -> ClaimKey {
        ClaimKey { tries, rank, tie_break: self.config.key.tie_break(attempt, node), node }
    }
}
