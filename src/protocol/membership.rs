//! Who is there: passive membership from any frame heard (spec 6.5).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::vips::{PeerVips, Service, Vip, VipSet, Vips};
use super::window::{Place, Window};
use super::{Instant, Notice, Timers};
use crate::flow::{NodeId, Protocol, VipHash};
use crate::wire::{Flags, FurtherPort, Header, MAJOR, PORTS_MAX, REPORTS_MAX, Report};

/// Frames over which loss is estimated; then both counts are halved.
pub(super) const LOSS_WINDOW: u32 = 128;
/// Frames without which an estimate says nothing.
pub(super) const LOSS_SAMPLE: u32 = 32;

/// A node heard from.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    major: u8,
    minor: u8,
    incarnation: u64,
    window: Window,
    heard: Instant,
    suspect: bool,
    flags: Flags,
    /// It has shown that it hears what this node says now, so its frames are of
    /// now and not a recording.
    verified: bool,
    /// It has shown that itself; peers of some versions cannot, and are taken at their word.
    proven: bool,
    /// The virtual IPs that it answers.
    vips: PeerVips,
    /// Ports of the first virtual IP that it cannot serve, as it said last.
    unavailable: [Vec<u16>; 2],
    /// Ports of the further ones, also (`None`) of those that this node does not have.
    further: [Vec<(Option<Vip>, u16)>; 2],
    loss: Loss,
    /// When it was last told what was heard of it.
    told: Instant,
    /// It hears this node, as it said last; `None` while that cannot be told.
    hears_me: Option<bool>,
    /// Frames of this node that it has missed, as it said last.
    missed: Option<u32>,
}

impl Peer {
    fn new(now: Instant, major: u8, header: &Header) -> Self {
        // Earlier minor versions cannot show that they hear anybody, other
        // major versions say it in a language of their own.
        let mute_version = major != MAJOR || header.minor == 0;
        Self {
            major,
            minor: header.minor,
            incarnation: header.incarnation,
            window: Window::new(header.sequence),
            heard: now,
            suspect: false,
            flags: header.flags,
            verified: mute_version,
            proven: false,
            vips: PeerVips::UNSAID,
            unavailable: [Vec::new(), Vec::new()],
            further: [Vec::new(), Vec::new()],
            loss: Loss { received: 1, lost: 0 },
            told: Instant::default(),
            hears_me: None,
            missed: None,
        }
    }

    /// May be expected to take its turn.
    pub fn live(&self) -> bool {
        self.major == MAJOR && self.heard()
    }

    /// Belongs to the cluster and takes part, as far as can be known.
    pub fn member(&self) -> bool {
        self.verified && !self.flags.joining
    }

    /// A member heard lately, in whatever version.
    pub fn heard(&self) -> bool {
        self.member() && !self.suspect
    }

    /// It has shown that it belongs to the cluster, for good.
    pub fn proven(&self) -> bool {
        self.proven
    }

    /// What it says may be believed.
    pub fn trusted(&self) -> bool {
        self.verified
    }

    /// Decides by hash and does not claim.
    pub fn by_hash(&self) -> bool {
        self.flags.hash
    }

    /// Leaves the share of who decides by hash alone. Version 1.0 knows no such thing.
    pub fn heeds_hash(&self) -> bool {
        self.minor > 0
    }

    /// It gets what is sent to that virtual IP.
    pub fn answers(&self, vip: Vip) -> bool {
        self.vips.set().contains(vip)
    }

    /// The virtual IPs of which it does.
    pub fn vips(&self) -> VipSet {
        self.vips.set()
    }

    /// It has not said that it cannot serve the port, on a virtual IP that it answers.
    pub fn serves(&self, service: Service) -> bool {
        let Service { protocol, port, vip } = service;
        match vip {
            Vip::FIRST => !self.unavailable[list(protocol)].contains(&port),
            _ => !self.further[list(protocol)].contains(&(Some(vip), port)),
        }
    }

    /// It cannot name more ports that it does not serve, so there may be others.
    pub fn may_lack_more(&self, service: Service) -> bool {
        let named = match service.vip {
            Vip::FIRST => self.unavailable[list(service.protocol)].len(),
            _ => self.further[list(service.protocol)].len(),
        };
        named >= PORTS_MAX
    }

    /// Ports of this node's virtual IPs that it answers and cannot serve.
    pub fn unavailable(&self, protocol: Protocol) -> impl Iterator<Item = Service> {
        let of = move |vip, port| Service { protocol, port, vip };
        let first = self.unavailable[list(protocol)].iter();
        let further = self.further[list(protocol)].iter();
        let further = further.filter_map(move |&(vip, port)| Some(of(vip?, port)));
        first.map(move |&port| of(Vip::FIRST, port)).chain(further)
    }

    /// Frames of it that were not heard, of how many.
    pub fn loss(&self) -> (u64, u64) {
        (self.window.missing(), self.window.missing().saturating_add(self.window.received()))
    }

    /// Frames of this node that it has not heard, as it said last.
    pub fn missed(&self) -> Option<u32> {
        self.missed
    }
}

fn list(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
    }
}

/// An estimate of the share of frames lost lately.
#[derive(Clone, Copy, Debug)]
struct Loss {
    received: u32,
    lost: u32,
}

impl Loss {
    fn count(&mut self, place: Place) {
        match place {
            Place::Ahead { skipped } => {
                self.received += 1;
                // One gap of any length is one burst: it must not fill the whole estimate.
                self.lost += skipped.min(u64::from(LOSS_WINDOW)) as u32;
            }
            Place::Late => {
                self.received += 1;
                self.lost = self.lost.saturating_sub(1);
            }
            Place::Again => {}
        }
        while self.received + self.lost > LOSS_WINDOW {
            self.received /= 2;
            self.lost /= 2;
        }
    }

    /// At least one in `parts` was lost, and enough were sent to say so.
    fn one_in(&self, parts: u32) -> bool {
        let sent = self.received + self.lost;
        sent >= LOSS_SAMPLE && self.lost * parts >= sent
    }
}

/// What a header said about its sender.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The latest frame of its sender; `lost` before it went missing.
    Fresh { lost: u64 },
    /// A frame that was missing: what it says about attempts still counts, what
    /// it says about its sender is outdated.
    Late,
    /// Heard before, or from an earlier life: ignore it.
    Stale,
    /// The table is full.
    TooMany,
}

/// The peers of a node, by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    peers: BTreeMap<NodeId, Peer>,
    timers: Timers,
    /// No peer is to be suspected or forgotten before this; none at all if there is no peer.
    /// The one that was may have been heard since.
    expiry: Option<Instant>,
}

impl Membership {
    pub fn new(timers: Timers) -> Self {
        Self { timers, ..Self::default() }
    }

    pub fn get(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    pub fn all(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.peers.iter().map(|(&node, peer)| (node, peer))
    }

    pub fn live(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.all().filter(|(_, peer)| peer.live())
    }

    /// More than one frame in fifty of some live peer goes missing, so claims
    /// may cross unheard.
    pub fn lossy(&self) -> bool {
        self.live().any(|(_, peer)| peer.loss.lost > 2 && peer.loss.lost * 49 > peer.loss.received)
    }

    /// At least one frame in `parts` of some live peer goes missing.
    pub fn loses_one_in(&self, parts: u32) -> bool {
        self.live().any(|(_, peer)| peer.loss.one_in(parts))
    }

    /// Somebody speaks another major version.
    pub fn strangers(&self) -> bool {
        self.peers.values().any(|peer| peer.major != MAJOR && !peer.suspect)
    }

    /// Some peer does not hear this node and none does.
    pub fn unheard(&self) -> bool {
        let mut opinions = self.live().filter_map(|(_, peer)| peer.hears_me).peekable();
        opinions.peek().is_some() && !opinions.any(|hears_me| hears_me)
    }

    /// Takes note of a frame's sender.
    pub fn hear(
        &mut self,
        now: Instant,
        major: u8,
        header: &Header,
        peers_max: usize,
        mut notice: impl FnMut(Notice),
    ) -> Heard {
        let Header { node, incarnation, sequence, flags, .. } = *header;
        let fresh = || Peer::new(now, major, header);
        let fresh_until = now + self.timers.suspect;
        if !self.peers.contains_key(&node) && self.peers.len() >= peers_max && !flags.leaving {
            self.forget_unverified();
        }
        let full = self.peers.len() >= peers_max;
        let mut entry = match self.peers.entry(node) {
            Entry::Vacant(_) if flags.leaving => return Heard::Stale,
            Entry::Vacant(_) if full => return Heard::TooMany,
            Entry::Vacant(entry) => {
                entry.insert(fresh());
                self.expiry = earlier(self.expiry, fresh_until);
                notice(Notice::PeerFound(node));
                return Heard::Fresh { lost: 0 };
            }
            Entry::Occupied(entry) => entry,
        };
        let peer = entry.get_mut();
        if incarnation < peer.incarnation {
            return Heard::Stale;
        }
        if incarnation > peer.incarnation {
            if flags.leaving {
                return Heard::Stale;
            }
            *peer = fresh();
            self.expiry = earlier(self.expiry, fresh_until);
            notice(Notice::PeerRestarted(node));
            return Heard::Fresh { lost: 0 };
        }
        let place = peer.window.place(sequence);
        peer.loss.count(place);
        let lost = match place {
            Place::Again => return Heard::Stale,
            Place::Late => return Heard::Late,
            Place::Ahead { skipped } => skipped,
        };
        if flags.leaving {
            entry.remove();
            notice(Notice::PeerLeft(node));
            return Heard::Fresh { lost };
        }
        if peer.suspect {
            self.expiry = earlier(self.expiry, fresh_until);
            notice(Notice::PeerBack(node));
        }
        if peer.flags.joining && !flags.joining {
            notice(Notice::PeerJoined(node));
        }
        if peer.flags.hash != flags.hash {
            notice(Notice::PeerMode { node, hash: flags.hash });
        }
        peer.heard = now;
        peer.suspect = false;
        peer.flags = flags;
        Heard::Fresh { lost }
    }

    /// Anybody can make up nodes, but none of them can keep a real one out.
    fn forget_unverified(&mut self) {
        let unverified = self.peers.iter().filter(|(_, peer)| !peer.proven);
        if let Some((&stalest, _)) = unverified.min_by_key(|(_, peer)| peer.heard) {
            self.peers.remove(&stalest);
        }
    }

    /// Replaces what a peer said about the virtual IPs that it answers. True if that changed.
    pub fn set_vips(&mut self, node: NodeId, ours: &Vips, said: &[VipHash]) -> bool {
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        let changed = peer.vips.replace(ours, said);
        if changed {
            // They were named by their places.
            peer.further.iter_mut().for_each(Vec::clear);
        }
        changed
    }

    /// Replaces what a peer said about its services on further virtual IPs. True if that changed.
    pub fn set_unavailable_further(
        &mut self,
        node: NodeId,
        protocol: Protocol,
        ports: &[FurtherPort],
    ) -> bool {
        let Some(Peer { vips, further, .. }) = self.peers.get_mut(&node) else { return false };
        let said = ports.iter().map(|said| (vips.at(said.place), said.port));
        let known = &mut further[list(protocol)];
        let changed = !said.clone().eq(known.iter().copied());
        known.clear();
        known.extend(said);
        changed
    }

    /// Replaces what a peer said about its services on the first one. True if that changed.
    pub fn set_unavailable(&mut self, node: NodeId, protocol: Protocol, ports: &[u16]) -> bool {
        match self.peers.get_mut(&node) {
            Some(Peer { unavailable, .. }) if unavailable[list(protocol)] != ports => {
                ports.clone_into(&mut unavailable[list(protocol)]);
                true
            }
            _ => false,
        }
    }

    /// A peer has said whom it hears. `expected` is a sequence number of this
    /// node that everybody must have heard by now. True if that verifies it.
    pub fn report(
        &mut self,
        from: NodeId,
        about_me: Option<&Report>,
        complete: bool,
        expected: Option<u64>,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(&from) else { return false };
        match about_me {
            Some(report) => {
                // Serial number arithmetic (RFC 1982) over the low 32 bits.
                let behind = |expected: u64| (expected as u32).wrapping_sub(report.highest);
                peer.hears_me = expected.map(|expected| behind(expected) as i32 <= 0);
                peer.missed = Some(report.missing);
                // It may also be a recording of this node's own time.
                let fresh = peer.hears_me != Some(false);
                let newly = fresh && !peer.verified;
                peer.verified |= fresh;
                peer.proven |= fresh;
                newly
            }
            // It has room to mention everybody it hears.
            None if complete => {
                peer.hears_me = expected.map(|_| false);
                false
            }
            None => false,
        }
    }

    /// What to tell the others about whom, those first who have waited longest.
    pub fn reports(&mut self, now: Instant) -> Vec<Report> {
        let ours = self.peers.iter_mut().filter(|(_, peer)| peer.major == MAJOR);
        let mut waiting: Vec<_> = ours.collect();
        waiting.sort_by_key(|(node, peer)| (peer.told, **node));
        let chosen = waiting.into_iter().take(REPORTS_MAX);
        let report = |(&node, peer): (&NodeId, &mut Peer)| {
            peer.told = now;
            Report {
                node,
                incarnation: peer.incarnation,
                highest: peer.window.highest() as u32,
                missing: peer.window.missing() as u32,
            }
        };
        chosen.map(report).collect()
    }

    /// Suspects and forgets silent peers.
    pub fn expire(&mut self, now: Instant, mut notice: impl FnMut(Notice)) {
        if self.expiry.is_none_or(|expiry| now < expiry) {
            return;
        }
        let Timers { suspect, dead, .. } = self.timers;
        let mut expiry = None;
        self.peers.retain(|&node, peer| {
            let silent = now.since(peer.heard);
            if !peer.suspect && silent >= suspect {
                peer.suspect = true;
                notice(Notice::PeerSuspect(node));
            }
            let keep = silent < dead;
            if keep {
                let wait = if peer.suspect { dead } else { suspect };
                expiry = earlier(expiry, peer.heard + wait);
            } else {
                notice(Notice::PeerLost(node));
            }
            keep
        });
        self.expiry = expiry;
    }

    /// When [`Membership::expire`] may have something to do, and not later.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiry
    }
}

fn earlier(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.min(other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::ClusterKey;
    use crate::wire::MINOR;

    const ME: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(7);

    fn header(incarnation: u64, sequence: u64) -> Header {
        Header { minor: MINOR, node: PEER, incarnation, sequence, flags: Flags::default() }
    }

    fn hear(peers: &mut Membership, at: u64, header: Header) -> (Heard, Vec<Notice>) {
        let mut notices = vec![];
        let at = Instant::from_micros(at);
        let heard = peers.hear(at, MAJOR, &header, 64, |n| notices.push(n));
        (heard, notices)
    }

    fn report(highest: u32) -> Report {
        Report { node: ME, incarnation: 5, highest, missing: 3 }
    }

    #[test]
    fn sequence_gaps_are_losses_late_frames_fill_them_and_repeats_are_stale() {
        let mut peers = Membership::default();
        assert_eq!(
            hear(&mut peers, 0, header(1, 1)),
            (Heard::Fresh { lost: 0 }, vec![Notice::PeerFound(PEER)])
        );
        assert_eq!(hear(&mut peers, 1, header(1, 4)).0, Heard::Fresh { lost: 2 });
        assert_eq!(hear(&mut peers, 2, header(1, 4)).0, Heard::Stale);
        assert_eq!(peers.get(PEER).unwrap().loss(), (2, 4));
        assert_eq!(hear(&mut peers, 2, header(1, 3)).0, Heard::Late);
        assert_eq!(hear(&mut peers, 2, header(1, 3)).0, Heard::Stale);
        assert_eq!(peers.get(PEER).unwrap().loss(), (1, 4));
        assert_eq!(hear(&mut peers, 3, header(0, 99)).0, Heard::Stale);
        assert_eq!(
            hear(&mut peers, 3, header(2, 0)),
            (Heard::Fresh { lost: 0 }, vec![Notice::PeerRestarted(PEER)])
        );
    }

    #[test]
    fn a_silent_peer_is_suspected_then_forgotten_and_a_leaving_one_at_once() {
        let mut peers = Membership::default();
        hear(&mut peers, 0, header(1, 1));
        let mut notices = vec![];
        let mut expire = |peers: &mut Membership, millis: u64| {
            peers.expire(Instant::from_micros(millis * 1000), |n| notices.push(n));
        };
        assert_eq!(peers.next_expiry(), Some(Instant::from_micros(800_000)));
        expire(&mut peers, 799);
        expire(&mut peers, 800);
        assert_eq!(peers.live().count(), 0);
        expire(&mut peers, 2_999);
        assert!(peers.get(PEER).is_some());
        expire(&mut peers, 3_000);
        assert!(peers.get(PEER).is_none());
        assert_eq!(notices, [Notice::PeerSuspect(PEER), Notice::PeerLost(PEER)]);

        hear(&mut peers, 0, header(3, 1));
        let flags = Flags { leaving: true, ..Flags::default() };
        let leave = Header { flags, ..header(3, 2) };
        assert_eq!(hear(&mut peers, 1, leave).1, [Notice::PeerLeft(PEER)]);
        assert_eq!(peers.all().count(), 0);
    }

    #[test]
    fn a_peer_is_live_once_it_has_named_this_incarnation_and_again_after_its_restart() {
        let mut peers = Membership::default();
        hear(&mut peers, 0, header(1, 1));
        assert_eq!(peers.live().count(), 0, "it may be a recording");
        assert!(!peers.report(PEER, None, true, None));
        assert!(!peers.report(PEER, Some(&report(1)), true, Some(2)), "of this life, but old");
        assert_eq!(peers.live().count(), 0);
        assert!(peers.report(PEER, Some(&report(1)), true, None));
        assert_eq!(peers.live().count(), 1);
        assert!(!peers.report(PEER, Some(&report(2)), true, None), "it was verified before");
        hear(&mut peers, 0, header(2, 1));
        assert_eq!(peers.live().count(), 0);

        let old = Header { minor: 0, node: NodeId(8), ..header(1, 1) };
        hear(&mut peers, 0, old);
        assert_eq!(peers.live().count(), 1, "version 1.0 has no such reports");
    }

    #[test]
    fn a_node_is_unheard_if_nobody_who_could_tell_has_heard_what_it_sent() {
        let mut peers = Membership::default();
        hear(&mut peers, 0, header(1, 1));
        hear(&mut peers, 0, Header { node: NodeId(8), ..header(1, 1) });
        peers.report(PEER, Some(&report(9)), true, None);
        peers.report(NodeId(8), Some(&report(9)), true, None);
        assert!(!peers.unheard(), "too early to tell");
        peers.report(PEER, Some(&report(9)), true, Some(10));
        assert!(peers.unheard());
        peers.report(NodeId(8), Some(&report(10)), true, Some(10));
        assert!(!peers.unheard());
        peers.report(NodeId(8), None, true, Some(10));
        assert!(peers.unheard());
        peers.report(PEER, Some(&report(2)), true, Some(u64::from(u32::MAX)));
        assert!(!peers.unheard(), "the number has wrapped round");
    }

    #[test]
    fn ports_of_further_virtual_ips_are_known_by_their_places() {
        let key = ClusterKey::public([10, 0, 0, 2].into());
        let (third, fourth) = ([10, 0, 0, 3].into(), [10, 0, 0, 4].into());
        let ours = Vips::new([10, 0, 0, 2].into(), [third, fourth]).unwrap();
        let mut peers = Membership::default();
        hear(&mut peers, 0, header(1, 1));
        let of = |vip, port| Service { protocol: Protocol::Tcp, port, vip: ours.find(vip) };
        let unavailable = |peers: &Membership| {
            peers.get(PEER).unwrap().unavailable(Protocol::Tcp).collect::<Vec<_>>()
        };
        let answers = |peers: &Membership, vip| peers.get(PEER).unwrap().answers(ours.find(vip));
        assert!(!answers(&peers, third), "it has not said that it has it");
        let said = [fourth, [10, 0, 0, 9].into(), third].map(|vip| key.vip(vip));
        assert!(peers.set_vips(PEER, &ours, &said));
        assert!(!peers.set_vips(PEER, &ours, &said));
        let ports = [1, 2, 3, 0, 4].map(|place| FurtherPort { place, port: 80 });
        assert!(peers.set_unavailable_further(PEER, Protocol::Tcp, &ports));
        assert!(!peers.set_unavailable_further(PEER, Protocol::Tcp, &ports));
        assert_eq!(unavailable(&peers), [of(fourth, 80), of(third, 80)]);
        let peer = peers.get(PEER).unwrap();
        assert!(!peer.serves(of(third, 80)) && peer.serves(of(third, 81)));
        assert!(peer.serves(Service { protocol: Protocol::Udp, ..of(third, 80) }));
        assert!(peer.serves(Service { vip: Vip::FIRST, ..of(third, 80) }));
        assert!(peers.set_vips(PEER, &ours, &said[..1]));
        assert_eq!(unavailable(&peers), [], "places have another meaning now");
        assert!(answers(&peers, fourth) && !answers(&peers, third));
        hear(&mut peers, 0, header(2, 1));
        assert!(!answers(&peers, fourth), "its next life has its own");
    }

    #[test]
    fn invented_nodes_cannot_keep_a_real_one_out() {
        let mut peers = Membership::default();
        let hear = |peers: &mut Membership, node, at| {
            let header = Header { node: NodeId(node), ..header(1, 1) };
            peers.hear(Instant(at), MAJOR, &header, 2, |_| {})
        };
        for node in 0..2 {
            hear(&mut peers, node, u64::from(node));
            peers.report(NodeId(node), Some(&report(1)), true, None);
        }
        assert_eq!(hear(&mut peers, 2, 2), Heard::TooMany);

        let mut peers = Membership::default();
        for node in 0..3 {
            assert_eq!(hear(&mut peers, node, u64::from(node)), Heard::Fresh { lost: 0 });
        }
        assert!(peers.get(NodeId(0)).is_none());
    }

    #[test]
    fn everybody_is_reported_on_in_turn_and_newcomers_first() {
        let mut peers = Membership::default();
        for node in 0..20 {
            hear(&mut peers, 0, Header { node: NodeId(node), ..header(1, 1) });
        }
        let mut nodes = |at| {
            let reports = peers.reports(Instant(at));
            reports.iter().map(|report| report.node.0).collect::<Vec<_>>()
        };
        assert_eq!(nodes(1), (0..12).collect::<Vec<_>>());
        assert_eq!(nodes(2), (12..20).chain(0..4).collect::<Vec<_>>());
    }
}
