//! What hosts and the network have done, in numbers.

use crate::host::Host;
use crate::network::NetworkCounters;

/// What hosts have said and done, over all their lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// CLAIM entries.
    pub claims: u64,
    /// OWN entries.
    pub owns: u64,
    /// RELEASE entries.
    pub releases: u64,
    /// SYNs that the daemon has seen.
    pub syns: u64,
    /// SYNs accepted.
    pub accepted: u64,
    /// Of these at once.
    pub eager: u64,
    /// Contests taken over.
    pub takeovers: u64,
    /// Packets for which there was no room.
    pub overflowed: u64,
    /// Time in which the daemon had something to do, in nanoseconds.
    pub busy: u64,
    /// SYN-ACKs that were SYN cookies.
    pub cookies: u64,
    /// SYNs dropped because something of an earlier attempt was left.
    pub leftovers: u64,
}

impl Counts {
    /// What has come since `earlier`.
    pub fn minus(&self, earlier: &Self) -> Self {
        Self {
            claims: self.claims - earlier.claims,
            owns: self.owns - earlier.owns,
            releases: self.releases - earlier.releases,
            syns: self.syns - earlier.syns,
            accepted: self.accepted - earlier.accepted,
            eager: self.eager - earlier.eager,
            takeovers: self.takeovers - earlier.takeovers,
            overflowed: self.overflowed - earlier.overflowed,
            busy: self.busy - earlier.busy,
            cookies: self.cookies - earlier.cookies,
            leftovers: self.leftovers - earlier.leftovers,
        }
    }

    /// What this host has done in this life.
    pub fn add(&mut self, host: &Host) {
        let counters = host.decider.counters();
        self.claims += counters.claims;
        self.owns += counters.owns;
        self.releases += counters.releases;
        self.syns += counters.syns;
        self.accepted += counters.accepted;
        self.eager += counters.eager;
        self.takeovers += counters.takeovers;
        self.overflowed += host.counters.queue_overflowed + host.kernel.overflows;
        self.cookies += host.kernel.cookies;
        self.leftovers += host.counters.leftovers;
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            claims: sum.claims + one.claims,
            owns: sum.owns + one.owns,
            releases: sum.releases + one.releases,
            syns: sum.syns + one.syns,
            accepted: sum.accepted + one.accepted,
            eager: sum.eager + one.eager,
            takeovers: sum.takeovers + one.takeovers,
            overflowed: sum.overflowed + one.overflowed,
            busy: sum.busy + one.busy,
            cookies: sum.cookies + one.cookies,
            leftovers: sum.leftovers + one.leftovers,
        })
    }
}

/// What a run has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// By each host.
    pub hosts: Vec<Counts>,
    /// Claim frames, and their bytes on the wire. HELLOs are among them.
    pub claim_frames: (u64, u64),
    /// By the network.
    pub network: NetworkCounters,
}
