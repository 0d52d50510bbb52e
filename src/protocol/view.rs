//! Whose turn it is: this node's view of members, services and ranks (spec 5.1, 5.6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::fallback::{Cause, Fallback};
use super::membership::{Membership, Peer};
use super::pace::Pace;
use super::roster::Roster;
use super::services::Services;
use super::vips::{Service, Vip};
use super::{Config, Instant, Listener, Pacing};
use crate::bucket::{Bucket, Buckets};
use crate::flow::{AttemptId, FlowKey, NodeId, Protocol, ServicePort};

/// This node's place in one contest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Claims `position` slots after the SYN, with `rank` in the claim.
    Candidate {
        /// Slots to wait: for each candidate before it one, and none where all claim at once.
        position: u8,
        /// From 1; 0 for whose kernel has a connection of this flow already.
        rank: u8,
    },
    /// Others can serve this and this node cannot: it only looks on.
    Spectator,
    /// Nobody can serve this; the node at position 0 lets its kernel refuse it.
    LastResort {
        /// Times T_own to wait: for each live node before it one.
        position: u8,
    },
    /// Decided by hash: this try is this node's. It waits one slot if others
    /// may not know that it decides by hash, and claim.
    Designated {
        /// It waits.
        wait: bool,
    },
    /// Decided by hash: this try is another node's.
    Bystander,
}

/// Orders claims of one attempt; the lower one wins, on every host alike (spec 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClaimKey {
    pub tries: u8,
    pub rank: u8,
    pub tie_break: u64,
    pub node: NodeId,
}

/// Everything that decides whose turn it is, at one moment.
pub(super) struct View<'a> {
    pub now: Instant,
    pub config: &'a Config,
    pub membership: &'a Membership,
    pub roster: &'a Roster,
    pub services: &'a Services,
    pub fallback: &'a Fallback,
    pub pace: &'a Pace,
    /// This node has listened long enough to take part.
    pub joined: bool,
    /// Members, services or modes changed last.
    pub changed: Instant,
}

impl View<'_> {
    pub fn me(&self) -> NodeId {
        self.config.node
    }

    /// Can this node serve this flow now?
    pub fn listener(&self, flow: &FlowKey) -> Listener {
        self.services.get(self.service(flow))
    }

    fn service(&self, flow: &FlowKey) -> Service {
        self.config.vips.service(flow)
    }

    /// The live peers that answer a virtual IP: others do not get its packets.
    fn peers_with(&self, vip: Vip) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.membership.live().filter(move |(_, peer)| peer.answers(vip))
    }

    pub fn is_live(&self, node: NodeId) -> bool {
        self.membership.get(node).is_some_and(|peer| peer.live())
    }

    /// This node's turn in the contest number `tries`, among those not yet excluded from it.
    pub fn turn(&self, flow: &FlowKey, tries: u8, incumbent: bool, excluded: &[NodeId]) -> Turn {
        if self.fallback.by_hash() {
            if self.joined {
                return self.turn_by_hash(flow, tries);
            }
            // Whoever may be there serves this, heard or not; nobody counts on a listener.
            if self.members(self.service(flow).vip, true).next().is_some() {
                return Turn::Bystander;
            }
        }
        let service = self.service(flow);
        let candidate = self.joined && !excluded.contains(&self.me()) && self.ranked_for(service);
        if candidate && incumbent {
            return Turn::Candidate { position: 0, rank: 0 };
        }
        if self.left_to_hash(flow, tries) {
            return Turn::Bystander;
        }
        let weight = self.weights(flow);
        let own = weight(self.me());
        let (mut rivals, mut heavier, mut heavier_of_all) = (0, 0, 0);
        for (node, peer) in self.peers_with(service.vip).filter(|(_, peer)| !peer.by_hash()) {
            let outweighs = u8::from(weight(node) > own);
            heavier_of_all += outweighs;
            if peer.serves(service) && !excluded.contains(&node) {
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
        let weight = self.weights(flow);
        let own = weight(self.me());
        let peers = self.peers_with(self.service(flow).vip);
        let heavier = peers.filter(|&(node, _)| weight(node) > own).count();
        Turn::LastResort { position: heavier as u8 }
    }

    /// A peer that is heard serves this, as far as it has said; who cannot name
    /// more ports may not.
    pub fn served_by_peer(&self, flow: &FlowKey) -> bool {
        let service = self.service(flow);
        let mut peers = self.peers_with(service.vip);
        peers.any(|(_, peer)| peer.serves(service) && !peer.may_lack_more(service))
    }

    /// What orders the nodes for a flow, the greatest first.
    fn weights(&self, flow: &FlowKey) -> impl Fn(NodeId) -> (u64, NodeId) {
        let (key, flow) = (self.config.key, self.config.key.flow(flow));
        move |node| (key.weight(flow, node), node)
    }

    /// Do the peers count on this node for `service`?
    fn ranked_for(&self, service: Service) -> bool {
        match self.services.get(service) {
            Listener::Ready | Listener::Busy => true,
            Listener::Absent => {
                self.services.just_lost(self.now, service, self.config.timers.quiet)
            }
        }
    }

    /// First in rank and undisputed: it may accept without claiming first (spec 5.2).
    /// A takeover never is: the owner may live and only its OWN be lost. Nor is a
    /// flow of datagrams: no client decides between two answers to one.
    pub fn may_be_eager(&self, flow: &FlowKey, position: u8, tries: u8) -> bool {
        let alone = self.peers_with(self.service(flow).vip).next().is_none();
        let undisputed = position == 0
            && tries == 0
            && flow.protocol == Protocol::Tcp
            && self.config.pacing == Pacing::Rank
            && self.now.since(self.changed) >= self.config.timers.quiet
            && !self.membership.lossy()
            && !self.fallback.has(Cause::Mute);
        alone || undisputed
    }

    pub fn claim_key(&self, attempt: AttemptId, node: NodeId, tries: u8, rank: u8) -> ClaimKey {
        ClaimKey { tries, rank, tie_break: self.config.key.tie_break(attempt, node), node }
    }

    // By hash (spec 5.6).

    /// Somebody wants to hear that this node has answered: a node that claims. Under
    /// overload nobody is told, or claims would multiply a flood.
    pub fn announces(&self) -> bool {
        !self.fallback.by_hash()
            || !self.fallback.has(Cause::Overload)
                && self.membership.live().any(|(_, peer)| !peer.by_hash())
    }

    fn turn_by_hash(&self, flow: &FlowKey, tries: u8) -> Turn {
        if self.designated(flow, tries) != Some(self.me()) {
            return Turn::Bystander;
        }
        let vip = self.service(flow).vip;
        let claimants = || self.peers_with(vip).filter(|(_, peer)| !peer.by_hash());
        let announced = self.now.since(self.changed) >= self.config.timers.quiet
            && !self.fallback.has(Cause::Mute)
            && claimants().all(|(_, peer)| peer.heeds_hash());
        Turn::Designated { wait: claimants().next().is_some() && !announced }
    }

    /// A peer that decides by hash takes this try: the others leave it alone.
    fn left_to_hash(&self, flow: &FlowKey, tries: u8) -> bool {
        let by_hash = |node| self.membership.get(node).is_some_and(|p| p.live() && p.by_hash());
        self.membership.live().any(|(_, peer)| peer.by_hash())
            && self.designated(flow, tries).is_some_and(by_hash)
    }

    /// The node whose try this is by hash: the one at position `tries` in the
    /// order of the flow's bucket, and round again. Nobody retransmits datagrams
    /// as such, so of them the first position takes all. Nobody, if this node only
    /// listens yet and knows of no other.
    fn designated(&self, flow: &FlowKey, tries: u8) -> Option<NodeId> {
        let service = self.service(flow);
        let serves = |node: &NodeId| match self.membership.get(*node) {
            Some(peer) => peer.serves(service),
            None => *node != self.me() || self.services.get(service) != Listener::Absent,
        };
        let bucket = self.config.key.bucket(flow);
        let weight = |node| (self.config.key.bucket_weight(bucket, node), node);
        // If nobody serves it, somebody must refuse.
        let tried_again = flow.protocol == Protocol::Tcp;
        let members = || self.members(service.vip, tried_again);
        let served = members().any(|node| serves(&node));
        let order = || members().filter(|node| !served || serves(node)).map(weight);
        let position = match flow.protocol {
            Protocol::Tcp => usize::from(tries) % order().count().max(1),
            Protocol::Udp => 0,
        };
        // Not sorted: this is done for every SYN of a flood, and nearly always for the first.
        let next = |last: Option<_>| order().filter(|&it| last.is_none_or(|last| it < last)).max();
        let found = (0..=position).fold(None, |last, _| next(last));
        found.map(|(_, node)| node)
    }

    /// The nodes among which the hash distributes a virtual IP, this one included once it takes
    /// part. Who has not said that it answers a further one does not get its packets.
    ///
    /// While hosts hear each other these are the live ones. In the fallback it is the
    /// roster, heard or not, less those that are passed over, and who is heard without
    /// being on it, because in its version it cannot show that it belongs there.
    ///
    /// Only clients that retransmit give another member its turn; where they do not
    /// (`tried_again`), who is silent is passed over at once.
    fn members(&self, vip: Vip, tried_again: bool) -> impl Iterator<Item = NodeId> {
        let by_hash = self.fallback.by_hash() || self.membership.live().any(|(_, p)| p.by_hash());
        let proven = |peer: &Peer| peer.heard() && peer.proven();
        let heard = self.membership.all().filter(|(_, peer)| proven(peer)).count() + 1;
        let majority = heard * 2 > self.roster.len() + 1;
        // Overload says nothing about the network: who is silent then is gone. But when
        // clients choose hosts that are not heard, somebody silent answers.
        let only_overload = self.fallback.causes().eq([Cause::Overload]);
        let gone = majority || only_overload || !tried_again;
        let pass_over_silent = gone && !self.fallback.has(Cause::Deaf);
        let takes_part = move |peer: &Peer| by_hash && peer.member() || peer.live();
        // Who has not shown that it hears this node may be a recording, or not hear it.
        let verified = |node| self.membership.get(node).filter(|peer| peer.trusted());
        let of_roster = self.roster.nodes().filter(move |&(node, vips)| match verified(node) {
            Some(peer) => takes_part(peer) && peer.answers(vip),
            None => by_hash && !pass_over_silent && vips.contains(vip),
        });
        let of_roster = of_roster.map(|(node, _)| node);
        let at_their_word = self.membership.all().filter(|(_, peer)| !peer.proven());
        let at_their_word =
            at_their_word.filter(move |(_, peer)| takes_part(peer) && peer.answers(vip));
        let not_listed = |node: &NodeId| !self.roster.contains(*node);
        let at_their_word = at_their_word.map(|(node, _)| node).filter(not_listed);
        of_roster.chain(at_their_word).chain(self.joined.then(|| self.me()))
    }

    /// TCP ports that some hosts serve and others do not, as far as they have said: there the
    /// kernel, which knows only buckets, would leave a share to who does not serve it.
    pub fn partly_served(&self) -> BTreeSet<ServicePort> {
        let mut lacking = BTreeMap::<Service, usize>::new();
        let own = self.services.unavailable(Protocol::Tcp);
        let theirs = self.membership.live().flat_map(|(_, peer)| peer.unavailable(Protocol::Tcp));
        own.chain(theirs).for_each(|service| *lacking.entry(service).or_default() += 1);
        let partly = |&(Service { vip, .. }, lacking): &(Service, usize)| {
            lacking < self.peers_with(vip).count() + 1
        };
        let partly = lacking.into_iter().filter(partly);
        let port = |Service { protocol, port, vip }| {
            let vip = self.config.vips.address(vip);
            ServicePort { protocol, vip, port }
        };
        partly.map(|(service, _)| port(service)).collect()
    }

    /// The buckets that are this node's on the first try.
    pub fn own_buckets(&self) -> Buckets {
        if !self.joined {
            return Buckets::EMPTY;
        }
        let members: Vec<NodeId> = self.members(Vip::FIRST, false).collect();
        Bucket::all().filter(|&bucket| self.leads(bucket, &members)).collect()
    }

    fn leads(&self, bucket: Bucket, members: &[NodeId]) -> bool {
        let weight = |node| (self.config.key.bucket_weight(bucket, node), node);
        members.iter().max_by_key(|&&node| weight(node)) == Some(&self.me())
    }

    /// The virtual IPs that some member does not have: a bucket of that member would not be
    /// answered. So they are not divided, and one node answers all: the first in the order of the
    /// bucket that the virtual IP names. Here those that are this node's, and the others.
    pub fn not_divided(&self) -> (BTreeSet<IpAddr>, BTreeSet<IpAddr>) {
        let Config { vips, .. } = self.config;
        let all = self.members(Vip::FIRST, false).count();
        let further = vips.further().filter_map(|(vip, hash)| {
            let members: Vec<NodeId> = self.members(vip, false).collect();
            let (address, bucket) = (vips.address(vip), Bucket(hash.0 as u8));
            (members.len() < all).then(|| (address, self.leads(bucket, &members)))
        });
        let (whole, left): (Vec<_>, Vec<_>) = further.partition(|&(_, leads)| leads);
        let addresses = |vips: Vec<(IpAddr, bool)>| vips.into_iter().map(|(vip, _)| vip).collect();
        (addresses(whole), addresses(left))
    }
}
