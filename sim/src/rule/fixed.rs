//! Rules without a word between the hosts: a fixed split, and what an omniscient balancer does.

use std::collections::VecDeque;
use std::net::SocketAddr;

use clusterd::protocol::{Counters, Syn, Ticket, Verdict};

use crate::host::cluster_key;
use crate::scenario::{Rule, Scenario};

/// A host's fixed share.
pub struct Fixed {
    rule: Rule,
    host: usize,
    hosts: usize,
    /// Verdicts to be given.
    pub verdicts: VecDeque<(Ticket, Verdict)>,
    /// What was counted.
    pub counters: Counters,
}

impl Fixed {
    /// The share of this host of all.
    pub fn new(scenario: &Scenario, host: usize) -> Self {
        Self {
            rule: scenario.rule,
            host,
            hosts: scenario.hosts,
            verdicts: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// A SYN is held: it is this host's or not, whoever lives.
    pub fn handle_syn(&mut self, syn: Syn) {
        self.counters.syns += 1;
        let owner = match self.rule {
            // Each host serves the clients of some addresses (`netmask` rules of 2001).
            Rule::Split => match syn.flow.client {
                SocketAddr::V4(client) => u32::from(*client.ip()) as usize % self.hosts,
                SocketAddr::V6(_) => 0,
            },
            // `sourceip-sourceport`, the numbers of nodes given by hand.
            Rule::Clusterip => usize::from(cluster_key().bucket(&syn.flow).0) % self.hosts,
            // A balancer has sent it only here.
            Rule::Random
            | Rule::PowerOfTwo
            | Rule::ShortestQueue
            | Rule::Clusterd
            | Rule::Original
            | Rule::Contest
            | Rule::Saru => self.host,
        };
        let own = owner == self.host;
        self.counters.accepted += u64::from(own);
        self.verdicts.push_back((syn.ticket, if own { Verdict::Accept } else { Verdict::Drop }));
    }
}
