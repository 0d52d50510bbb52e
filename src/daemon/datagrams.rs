//! Flows of datagrams: what the kernel is told about them, and asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use clusterd::flow::FlowKey;
use clusterd::protocol::Ticket;
use clusterd::protocol::Vips;
use serde::Serialize;

use crate::io::conntrack::Conntrack;
use crate::io::error::errno;
use crate::io::foreign_flows::ForeignFlows;
use crate::io::rules::ANSWERING_MAX;

/// How long the kernel drops the datagrams of another host's flow before it asks again.
const BLOCK: Duration = Duration::from_secs(5);
/// Flows that are blocked in one transaction.
const BATCH: usize = 1024;

/// What has become of flows of datagrams.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DatagramCounters {
    /// Flows of other hosts that the kernel was told to drop.
    pub blocked: u64,
    /// Of these, not dropped: the set was full, or the kernel refused. Their
    /// datagrams go on coming to the daemon.
    pub unblocked: u64,
    /// Flows of which the kernel was asked whether it still tracks them.
    pub inquired: u64,
    /// Of these, ended.
    pub ended: u64,
    /// Flows given up to another host, or with their service.
    pub given_up: u64,
    /// Tracking entries that the kernel did not show or remove.
    pub untracked: u64,
    /// Times that this host answered on one port more than the kernel can be told of: late answers
    /// from there, in flows that were given up, are not noticed.
    pub answering_full: u64,
}

/// The hot loop's side of flows of datagrams.
pub struct Datagrams {
    foreign: ForeignFlows,
    /// The flows of held datagrams; as many as the core holds.
    held: BTreeMap<Ticket, FlowKey>,
    /// To be blocked at the end of this turn, and of these, to be forgotten by the kernel.
    block: BTreeSet<FlowKey>,
    destroy: Vec<FlowKey>,
    /// The set has entries that are not to be waited for.
    unblock: bool,
    /// Ports on which this host has served anybody since it was asked last.
    ports: BTreeSet<u16>,
    /// Ports on which it ever has, up to [`ANSWERING_MAX`]: what leaves from these is an answer.
    answering: BTreeSet<u16>,
    /// There are more of them than the kernel was told.
    answers_on_more: bool,
    pub counters: DatagramCounters,
}

impl Datagrams {
    /// Opens a socket; changes nothing.
    pub fn open(vips: &Vips) -> io::Result<Self> {
        Ok(Self {
            foreign: ForeignFlows::open(vips)?,
            held: BTreeMap::new(),
            block: BTreeSet::new(),
            destroy: Vec::new(),
            unblock: false,
            ports: BTreeSet::new(),
            answering: BTreeSet::new(),
            answers_on_more: false,
            counters: DatagramCounters::default(),
        })
    }

    /// A datagram is held.
    pub fn hold(&mut self, ticket: Ticket, flow: FlowKey) {
        self.held.insert(ticket, flow);
    }

    /// The flow of a datagram that is not held any more.
    pub fn release(&mut self, ticket: Ticket) -> Option<FlowKey> {
        self.held.remove(&ticket)
    }

    /// This host serves a flow to that port.
    pub fn serve(&mut self, port: u16) {
        self.ports.insert(port);
        self.answers_on(port);
    }

    fn answers_on(&mut self, port: u16) {
        if self.answering.len() < ANSWERING_MAX {
            self.answers_on_more |= self.answering.insert(port);
        } else if !self.answering.contains(&port) {
            self.counters.answering_full += 1;
        }
    }

    /// The ports from which what leaves is an answer.
    pub fn answering(&self) -> &BTreeSet<u16> {
        &self.answering
    }

    /// Must the kernel be told of more of them?
    pub fn answers_on_more(&mut self) -> bool {
        std::mem::take(&mut self.answers_on_more)
    }

    /// Has this host served anybody on that port since it was asked last?
    pub fn has_served(&mut self, port: u16) -> bool {
        self.ports.remove(&port)
    }

    /// Another host serves this flow.
    pub fn block(&mut self, flow: FlowKey) {
        self.block.insert(flow);
    }

    /// Another host serves this flow, and this one has served it, too.
    pub fn destroy(&mut self, flow: FlowKey) {
        self.destroy.push(flow);
    }

    /// Whoever had flows has gone, or this host can serve more: all are asked about again.
    pub fn unblock_all(&mut self) {
        self.unblock = true;
    }

    /// Does the kernel still track this flow? If it does not say, it does.
    pub fn is_tracked(&mut self, conntrack: &mut Conntrack, flow: &FlowKey) -> bool {
        self.counters.inquired += 1;
        let tracked = conntrack.tracks(flow);
        self.counters.untracked += u64::from(tracked.is_err());
        self.counters.ended += u64::from(matches!(tracked, Ok(false)));
        tracked.unwrap_or(true)
    }

    /// Makes the kernel forget the flows to the virtual IP for which `which`
    /// holds, and tells them.
    pub fn forget(
        &mut self,
        conntrack: &mut Conntrack,
        vips: &[IpAddr],
        which: impl Fn(&FlowKey) -> bool,
    ) -> Vec<FlowKey> {
        let Ok(mut flows) = conntrack.datagrams(vips) else {
            self.counters.untracked += 1;
            return Vec::new();
        };
        // Also of those that an earlier daemon has served.
        for flow in &flows {
            self.answers_on(flow.service.port());
        }
        flows.retain(which);
        for flow in &flows {
            self.counters.untracked += u64::from(conntrack.delete(flow).is_err());
        }
        self.counters.given_up += flows.len() as u64;
        flows
    }

    /// Tells the kernel what this turn has brought, in one step as a rule. Flows are blocked
    /// before they are forgotten, lest an answer under way opens them anew.
    pub fn settle(&mut self, conntrack: &mut Conntrack) {
        if std::mem::take(&mut self.unblock) {
            // Without the rules there is nothing to unblock.
            drop(self.foreign.unblock_all());
        }
        while !self.block.is_empty() {
            let batch: Vec<_> = std::iter::from_fn(|| self.block.pop_first()).take(BATCH).collect();
            let result = self.foreign.block(&batch, BLOCK);
            self.counters.blocked += batch.len() as u64;
            if result.is_err_and(|error| errno(&error) != Some(libc::ENOENT)) {
                self.counters.unblocked += batch.len() as u64;
            }
        }
        for flow in self.destroy.drain(..) {
            self.counters.given_up += 1;
            self.counters.untracked += u64::from(conntrack.delete(&flow).is_err());
        }
    }
}
