//! What the others say.

use super::{ID_KEPT, Node};
use crate::flow::{NodeId, Protocol, VipHash};
use crate::protocol::attempt::{Event, State};
use crate::protocol::membership::{Heard, Peer};
use crate::protocol::{Config, Instant, Notice};
use crate::wire::{Contest, Entry, Frame, FurtherPort, Header, MAJOR, REPORTS_MAX, Report};

impl Node {
    /// A frame of another host came.
    pub fn handle_frame(&mut self, now: Instant, frame: &Frame) {
        let Some(heard) = self.hear(now, MAJOR, &frame.header) else { return };
        let from = frame.header.node;
        let mut trusted = self.trusts(from);
        for entry in &frame.entries {
            match entry {
                Entry::Claim(contest) if trusted => self.handle_claim(now, from, contest),
                // Who only listens yet believes everybody: it would answer as a last resort.
                Entry::Own(contest) if trusted || !self.joined => {
                    self.handle_own(now, from, contest);
                }
                Entry::Claim(contest) | Entry::Own(contest) => {
                    self.handle_doubtful(now, from, contest);
                }
                Entry::Release(contest) if trusted => {
                    self.step(now, contest.attempt, Event::Release(from), None);
                }
                Entry::Release(_) => {}
                Entry::Hello { .. }
                | Entry::HelloUdp { .. }
                | Entry::Heard { .. }
                | Entry::Vips { .. }
                | Entry::VipsTcp { .. }
                | Entry::VipsUdp { .. }
                    if heard == Heard::Late => {}
                Entry::Hello { unavailable } => {
                    self.handle_hello(now, from, Protocol::Tcp, unavailable);
                }
                Entry::HelloUdp { unavailable } => {
                    self.handle_hello(now, from, Protocol::Udp, unavailable);
                }
                // It may verify its sender; what follows is as fresh as it is.
                Entry::Heard { reports } => {
                    self.handle_reports(now, from, reports);
                    trusted = self.trusts(from);
                }
                Entry::Vips { further } => self.handle_vips(now, from, further),
                Entry::VipsTcp { unavailable } => {
                    self.handle_further(now, from, Protocol::Tcp, unavailable);
                }
                Entry::VipsUdp { unavailable } => {
                    self.handle_further(now, from, Protocol::Udp, unavailable);
                }
            }
        }
    }

    /// A frame of a host came that speaks another major version. It is
    /// authentic, and its header is the same in all versions.
    pub fn handle_stranger(&mut self, now: Instant, major: u8, header: &Header) {
        if self.hear(now, major, header).is_some() && !header.flags.leaving {
            self.weigh(now);
        }
    }

    /// Takes note of a frame's sender. `None` if the frame must not be used.
    fn hear(&mut self, now: Instant, major: u8, header: &Header) -> Option<Heard> {
        if header.node == self.config.node {
            self.handle_own_id(now, header);
            return None;
        }
        let mut notices = Vec::new();
        let peers_max = self.config.limits.peers;
        let heard = self.membership.hear(now, major, header, peers_max, |notice| {
            notices.push(notice);
        });
        match heard {
            Heard::Fresh { lost } => {
                // A forged sequence number may jump by any amount, and again.
                self.counters.lost_frames = self.counters.lost_frames.saturating_add(lost);
            }
            Heard::Late => {
                self.counters.late_frames += 1;
                self.counters.lost_frames = self.counters.lost_frames.saturating_sub(1);
            }
            Heard::Stale => {
                self.counters.stale_frames += 1;
                return None;
            }
            Heard::TooMany => {
                self.counters.too_many_peers += 1;
                return None;
            }
        }
        self.counters.frames += 1;
        for notice in notices {
            if let Notice::PeerLeft(node) = notice {
                self.roster.remove(node);
            }
            if let Notice::PeerBack(_) = notice {
                self.repeat_owned(now);
            }
            let live = |node| self.membership.get(node).is_some_and(Peer::live);
            match notice {
                // It hears of this node at once, but is not ranked before it has answered.
                Notice::PeerFound(node) if !live(node) => self.say_soon(now, notice),
                notice => self.change(now, notice),
            }
        }
        Some(heard)
    }

    fn trusts(&self, node: NodeId) -> bool {
        self.membership.get(node).is_some_and(Peer::trusted)
    }

    /// A frame came that bears this node's id, and not an echo of its own.
    fn handle_own_id(&mut self, now: Instant, header: &Header) {
        let ours = (self.config.incarnation, self.sequence);
        if (header.incarnation, header.sequence) <= ours {
            // Said before, or by an earlier life: somebody repeats it. Or an older host of
            // the same id, which will hear of this one and give way.
            self.counters.own_id_frames += 1;
            return;
        }
        self.counters.duplicate_ids += 1;
        if now.since(self.named) < ID_KEPT {
            return;
        }
        let taken = self.config.node;
        self.config.node = self.config.key.other_node_id(taken, self.config.incarnation);
        self.named = now;
        self.sequence = 0;
        self.hellos.clear();
        self.change(now, Notice::DuplicateNodeId { taken, new: self.config.node });
    }

    fn handle_claim(&mut self, now: Instant, from: NodeId, contest: &Contest) {
        self.sample(now, contest);
        let key = self.view(now).claim_key(contest.attempt, from, contest.tries, contest.rank);
        self.step(now, contest.attempt, Event::Claim(key), None);
    }

    /// Whoever may be a recording can make this node wait for T_own, once in a contest
    /// and not at all by hash.
    fn handle_doubtful(&mut self, now: Instant, from: NodeId, contest: &Contest) {
        let attempt = self.attempts.find(contest.attempt).map(|slot| self.attempts.get(slot));
        let has_waited = attempt.is_some_and(|attempt| !attempt.excluded.is_empty());
        if !has_waited && !self.fallback.by_hash() {
            self.handle_claim(now, from, contest);
        }
    }

    fn handle_own(&mut self, now: Instant, from: NodeId, contest: &Contest) {
        self.services.served_elsewhere(contest.port);
        self.sample(now, contest);
        self.step(now, contest.attempt, Event::Own(from), None);
    }

    /// Measures how late the first host's word comes. An incumbent, or who says something
    /// again, is rank 0; and where words get lost, the first that is heard may be a later one.
    fn sample(&mut self, now: Instant, contest: &Contest) {
        let first_of_all = contest.tries == 0 && contest.rank == 1 && !self.membership.lossy();
        if first_of_all && let Some(slot) = self.attempts.find(contest.attempt) {
            let attempt = self.attempts.get(slot);
            let waiting = matches!(attempt.state, State::Held { .. } | State::Claimed { .. });
            if waiting && attempt.tries == 0 {
                self.pace.sample(attempt.arrived, now);
            }
        }
    }

    fn handle_hello(&mut self, now: Instant, from: NodeId, protocol: Protocol, ports: &[u16]) {
        let changed = self.membership.set_unavailable(from, protocol, ports);
        self.services_changed(now, from, changed && protocol == Protocol::Tcp);
        // Who is only taken at its word counts while it is heard.
        let peer = self.membership.get(from).filter(|peer| peer.heard() && peer.proven());
        if let Some(peer) = peer {
            self.roster.heard(now, from, peer.vips(), self.config.limits.peers);
        }
    }

    fn handle_further(
        &mut self,
        now: Instant,
        from: NodeId,
        protocol: Protocol,
        ports: &[FurtherPort],
    ) {
        let changed = self.membership.set_unavailable_further(from, protocol, ports);
        self.services_changed(now, from, changed && protocol == Protocol::Tcp);
    }

    fn handle_vips(&mut self, now: Instant, from: NodeId, further: &[VipHash]) {
        let changed = self.membership.set_vips(from, &self.config.vips, further);
        self.services_changed(now, from, changed);
    }

    fn services_changed(&mut self, now: Instant, peer: NodeId, changed: bool) {
        if changed && self.membership.get(peer).is_some_and(Peer::live) {
            self.changed = now;
        }
    }

    fn handle_reports(&mut self, now: Instant, from: NodeId, reports: &[Report]) {
        let Config { node, incarnation, .. } = self.config;
        let mine = |report: &&Report| (report.node, report.incarnation) == (node, incarnation);
        let complete = reports.len() < REPORTS_MAX;
        if self.paused(now) {
            // The others may have forgotten this node for its silence.
            self.hellos.clear();
        }
        let expected = self.hellos.iter().rev();
        let expected = expected
            .copied()
            .find(|&(sent, _)| now.since(sent) >= self.config.timers.suspect)
            .map(|(_, sequence)| sequence);
        if self.membership.report(from, reports.iter().find(mine), complete, expected) {
            self.repeat_owned(now);
            self.change(now, Notice::PeerVerified(from));
        }
    }
}
