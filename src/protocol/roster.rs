//! Who belongs to the cluster, heard or not (spec 5.6).
//!
//! The hash fallback is for the moment when hosts do not hear each other. If it
//! went by who is heard, every host would believe itself alone and answer
//! everything. So who was once verified stays on the roster until it says that
//! it leaves, or for a day.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Config, Instant};
use crate::flow::NodeId;

/// How long a node stays on the roster unheard.
pub(super) const MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

/// The other nodes of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    /// When each is struck off unless it is heard.
    expiry: BTreeMap<NodeId, Instant>,
}

impl Roster {
    /// The roster of an earlier life: nodes and how long they had not been heard.
    pub fn restore(now: Instant, config: &Config) -> Self {
        let mut roster = Self::default();
        let others = config.roster.iter().filter(|&&(node, _)| node != config.node);
        for &(node, age) in others.take(config.limits.peers) {
            roster.expiry.insert(node, now + MEMORY.saturating_sub(age));
        }
        roster
    }

    /// A verified node was heard. At the bound the one unheard longest goes.
    pub fn heard(&mut self, now: Instant, node: NodeId, members_max: usize) {
        if self.expiry.len() >= members_max && !self.expiry.contains_key(&node) {
            let stalest = self.expiry.iter().min_by_key(|&(_, expiry)| expiry);
            if let Some((&stalest, _)) = stalest {
                self.expiry.remove(&stalest);
            }
        }
        self.expiry.insert(node, now + MEMORY);
    }

    /// A node has said that it leaves.
    pub fn remove(&mut self, node: NodeId) {
        self.expiry.remove(&node);
    }

    /// Strikes off who has not been heard for a day.
    pub fn expire(&mut self, now: Instant) {
        self.expiry.retain(|_, &mut expiry| expiry > now);
    }

    pub fn contains(&self, node: NodeId) -> bool {
        self.expiry.contains_key(&node)
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.expiry.keys().copied()
    }

    /// What to keep for a later life.
    pub fn ages(&self, now: Instant) -> impl Iterator<Item = (NodeId, Duration)> {
        self.expiry.iter().map(move |(&node, &expiry)| (node, MEMORY - expiry.since(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::ClusterKey;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const HOUR: Duration = Duration::from_secs(3600);

    fn nodes(roster: &Roster) -> Vec<NodeId> {
        roster.nodes().collect()
    }

    #[test]
    fn a_silent_node_stays_for_a_day_over_restarts() {
        let mut roster = Roster::default();
        let start = Instant::default();
        roster.heard(start, A, 64);
        roster.heard(start + HOUR, B, 64);
        let kept: Vec<_> = roster.ages(start + HOUR).collect();
        assert_eq!(kept, [(A, HOUR), (B, Duration::ZERO)]);

        let config = Config::new(C, 1, ClusterKey::public([10, 0, 0, 2].into()));
        let kept = kept.into_iter().chain([(C, HOUR)]).collect();
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
            roster.heard(Instant(at), node, 2);
        }
        assert_eq!(nodes(&roster), [A, C]);
    }
}
