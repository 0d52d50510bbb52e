//! Saru: blocks of clients, given out by an elected host (Horms 2004).
//!
//! Hosts say that they live. The one with the lowest number among those heard gives the blocks
//! to the live ones in turn and says so; the others take what it says.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use clusterd::protocol::{Counters, Instant, Syn, Ticket, Verdict};

use crate::host::cluster_key;

/// How often a host says that it lives.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// A host silent for so long is dead.
const DEAD: Duration = Duration::from_secs(1);
/// Clients are divided into so many blocks.
const BLOCKS: usize = 256;
/// Nobody owns this block.
const NOBODY: u8 = u8::MAX;

/// One host of such a cluster.
pub struct Saru {
    host: u8,
    alive: BTreeMap<u8, Instant>,
    owners: Vec<u8>,
    heartbeat_at: Instant,
    started: Instant,
    due: bool,
    /// Verdicts to be given.
    pub verdicts: VecDeque<(Ticket, Verdict)>,
    /// What was counted.
    pub counters: Counters,
}

impl Saru {
    /// A host that starts.
    pub fn new(host: usize, now: Instant) -> Self {
        Self {
            host: host as u8,
            alive: BTreeMap::new(),
            owners: vec![NOBODY; BLOCKS],
            heartbeat_at: now,
            started: now,
            due: false,
            verdicts: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    fn leads(&self) -> bool {
        self.alive.keys().next().is_none_or(|&first| self.host < first)
    }

    /// A heartbeat: who says it and, from the elected host, whose blocks are whose.
    pub fn handle_frame(&mut self, now: Instant, bytes: &[u8]) {
        let Some((&from, owners)) = bytes.split_first() else { return };
        self.alive.insert(from, now);
        if owners.len() == BLOCKS && !self.leads() && Some(&from) == self.alive.keys().next() {
            self.owners.copy_from_slice(owners);
        }
    }

    /// A SYN is held: it is this host's if its block is.
    pub fn handle_syn(&mut self, syn: Syn) {
        self.counters.syns += 1;
        let block = usize::from(cluster_key().bucket(&syn.flow).0);
        let own = self.owners[block] == self.host;
        self.counters.accepted += u64::from(own);
        self.verdicts.push_back((syn.ticket, if own { Verdict::Accept } else { Verdict::Drop }));
    }

    /// Time for a heartbeat, and to see who is dead.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.heartbeat_at {
            return;
        }
        self.heartbeat_at = now + HEARTBEAT;
        self.due = true;
        self.alive.retain(|_, heard| now.since(*heard) < DEAD);
        // Who has just started does not know yet whether somebody leads.
        if self.leads() && now.since(self.started) >= DEAD {
            let mut live: Vec<u8> = self.alive.keys().copied().collect();
            live.push(self.host);
            for (block, owner) in self.owners.iter_mut().enumerate() {
                *owner = live[block % live.len()];
            }
        }
    }

    /// When the next heartbeat is due.
    pub fn poll_timeout(&self) -> Instant {
        self.heartbeat_at
    }

    /// The heartbeat.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.due).then(|| {
            let mut bytes = vec![self.host];
            if self.leads() {
                bytes.extend(&self.owners);
            }
            bytes
        })
    }
}
