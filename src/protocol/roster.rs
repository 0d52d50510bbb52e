//! Who belongs to the cluster, heard or not (spec 5.6).
//!
//! The hash fallback is for the moment when hosts do not hear each other. If it
//! went by who is heard, every host would believe itself alone and answer
//! everything. So who was once verified stays on the roster until it says that
//! it leaves, or for a day.

use std::collections::BTreeMap;
use std::time::Duration;

use super::vips::{VipSet, Vips};
use super::{Config, Instant, Member};
use crate::flow::NodeId;

/// How long a node stays on the roster unheard.
pub(super) const MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

/// The other nodes of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<NodeId, Listed>,
}

#[derive(Clone, Copy, Debug)]
struct Listed {
    /// When it is struck off unless it is heard.
    expiry: Instant,
    /// The virtual IPs that it answered when it was heard last.
    vips: VipSet,
}

impl Roster {
    /// The roster of an earlier life.
    pub fn restore(now: Instant, config: &Config) -> Self {
        let mut roster = Self::default();
        let others = config.roster.iter().filter(|member| member.node != config.node);
        for member in others.take(config.limits.peers) {
            let expiry = now + MEMORY.saturating_sub(member.unheard);
            let vips = config.vips.among(&member.vips);
            roster.members.insert(member.node, Listed { expiry, vips });
        }
        roster
    }

    /// A verified node was heard. At the bound the one unheard longest goes.
    pub fn heard(&mut self, now: Instant, node: NodeId, vips: VipSet, members_max: usize) {
        if self.members.len() >= members_max && !self.contains(node) {
            let stalest = self.members.iter().min_by_key(|(_, listed)| listed.expiry);
            if let Some((&stalest, _)) = stalest {
                self.members.remove(&stalest);
            }
        }
        self.members.insert(node, Listed { expiry: now + MEMORY, vips });
    }

    /// A node has said that it leaves.
    pub fn remove(&mut self, node: NodeId) {
        self.members.remove(&node);
    }

    /// Strikes off who has not been heard for a day.
    pub fn expire(&mut self, now: Instant) {
        self.members.retain(|_, listed| listed.expiry > now);
    }

    pub fn contains(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// The members, and of which virtual IPs each.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, VipSet)> {
        self.members.iter().map(|(&node, listed)| (node, listed.vips))
    }

    /// What to keep for a later life.
    pub fn members(&self, now: Instant, vips: &Vips) -> impl Iterator<Item = Member> {
        self.members.iter().map(move |(&node, listed)| {
            let answered = vips.further().filter(|&(vip, _)| listed.vips.contains(vip));
            let vips = answered.map(|(_, hash)| hash).collect();
            Member { node, unheard: MEMORY - listed.expiry.since(now), vips }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const HOUR: Duration = Duration::from_secs(3600);

    fn nodes(roster: &Roster) -> Vec<NodeId> {
        roster.nodes().map(|(node, _)| node).collect()
    }

    fn vip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_silent_node_stays_for_a_day_over_restarts() {
        let config = Config::new(C, 1, [10, 0, 0, 2]);
        let mut roster = Roster::default();
        let start = Instant::default();
        roster.heard(start, A, VipSet::FIRST, 64);
        roster.heard(start + HOUR, B, VipSet::FIRST, 64);
        let kept: Vec<_> = roster.members(start + HOUR, &config.vips).collect();
        let member = |node, unheard| Member { node, unheard, vips: vec![] };
        assert_eq!(kept, [member(A, HOUR), member(B, Duration::ZERO)]);

        let kept = kept.into_iter().chain([member(C, HOUR)]).collect();
        let mut roster = Roster::restore(start, &Config { roster: kept, ..config });
        roster.expire(start + 22 * HOUR);
        assert_eq!(nodes(&roster), [A, B]);
        roster.expire(start + 23 * HOUR);
        assert_eq!(nodes(&roster), [B]);
        roster.remove(B);
        assert_eq!(nodes(&roster), []);
    }

    #[test]
    fn at_its_bound_the_one_unheard_longest_goes() {
        let mut roster = Roster::default();
        for (at, node) in [(1, A), (2, B), (3, A), (4, C)] {
            roster.heard(Instant(at), node, VipSet::FIRST, 2);
        }
        assert_eq!(nodes(&roster), [A, C]);
    }

    /// Also if the list of virtual IPs is another one in the next life.
    #[test]
    fn who_answers_which_virtual_ip_is_kept() {
        let config = |further: &[u8]| {
            let vips = Vips::new(vip(2), further.iter().copied().map(vip)).unwrap();
            Config { vips, ..Config::new(C, 1, vip(2)) }
        };
        let before = config(&[3, 4]);
        let named = |config: &Config, last: &[u8]| {
            let hashes = last.iter().map(|&last| config.key.vip(vip(last)));
            config.vips.among(&hashes.collect::<Vec<_>>())
        };
        let mut roster = Roster::default();
        roster.heard(Instant(1), A, named(&before, &[4]), 64);
        let kept = roster.members(Instant(1), &before.vips).collect();
        let after = Config { roster: kept, ..config(&[1, 4, 5]) };
        let restored = Roster::restore(Instant::default(), &after);
        assert_eq!(restored.nodes().next(), Some((A, named(&after, &[4]))));
    }
}
