//! What the core wants done.

use anyhow::{Context, Result};
use clusterd::flow::{FlowKey, Protocol, ServicePort};
use clusterd::protocol::{Notice, Output, Verdict};
use clusterd::wire;

use super::{HotLoop, Kernel, LEASE, LEASE_INTERVAL, unpack};
use crate::io::error::errno;
use crate::io::nfqueue;
use crate::io::sock_diag::Destroyed;

impl HotLoop {
    /// Does what the core wants, until it wants nothing more.
    pub(super) fn carry_out(&mut self) -> Result<()> {
        let mut dropped = 0;
        loop {
            let mut accepted = 0;
            while let Some(output) = self.node.poll_output() {
                match output {
                    Output::Decide(ticket, verdict) => {
                        let datagram = self.kernel.datagrams.release(ticket);
                        match datagram {
                            Some(flow) if verdict == Verdict::Accept => self.serve(flow),
                            Some(_) => {}
                            None => accepted += usize::from(verdict == Verdict::Accept),
                        }
                        dropped += usize::from(verdict == Verdict::Drop);
                        let verdict = match verdict {
                            Verdict::Accept => nfqueue::Verdict::Accept,
                            Verdict::Drop => nfqueue::Verdict::Drop,
                        };
                        self.kernel.queue.verdict(unpack(ticket), verdict);
                    }
                    Output::Destroy(flow) => self.destroy(&flow),
                    Output::Share(share) => {
                        self.share = share;
                        self.apply_share()?;
                    }
                    Output::Block(flow) => self.kernel.datagrams.block(flow),
                    Output::Inquire(flow) => {
                        let Kernel { datagrams, conntrack, .. } = &mut self.kernel;
                        if !datagrams.is_tracked(conntrack, &flow) {
                            self.node.handle_flow_ended(self.now(), flow);
                        }
                    }
                    // A log that cannot keep up loses lines, not connections.
                    Output::Notice(notice) => {
                        self.follow(&notice);
                        self.unlogged += u64::from(self.notices.try_send(notice).is_err());
                    }
                }
            }
            // Only an accepted packet makes the kernel answer.
            if accepted == 0 {
                break;
            }
            let began = self.begin();
            self.kernel.queue.flush()?;
            self.read_log()?;
            self.worked(|turn| &mut turn.accepts, accepted, began);
            self.node.answered(began);
            dropped = 0;
        }
        let began = self.begin();
        self.kernel.queue.flush()?;
        self.worked(|turn| &mut turn.drops, dropped, began);
        self.kernel.datagrams.settle(&mut self.kernel.conntrack);
        if self.kernel.datagrams.answers_on_more() {
            self.apply_share()?;
        }
        let (began, mut sent) = (self.begin(), 0);
        loop {
            let now = self.now();
            let Some(frame) = self.node.poll_frame(now) else { break };
            tracing::trace!(%frame, "sent");
            wire::encode_into(frame, &self.ring, &mut self.bytes);
            self.kernel.claims.send(&self.bytes);
            sent += 1;
        }
        self.worked(|turn| &mut turn.sent, sent, began);
        Ok(())
    }

    /// Tells the kernel what it may decide by itself. Before the rules are
    /// installed there is nobody to tell.
    pub(super) fn apply_share(&mut self) -> Result<()> {
        let rules = self.shared.rules();
        if rules == 0 {
            return Ok(());
        }
        let decide_syns = self.share.decide_syns.then_some(Protocol::Tcp);
        let protocols = self.divided.into_iter().chain(decide_syns);
        let answering = self.kernel.datagrams.answering();
        match self.kernel.buckets.set(&self.share, protocols, answering) {
            Ok(()) => self.shared_rules = rules,
            // They have just been removed; whoever installs them again says so.
            Err(error) if errno(&error) == Some(libc::ENOENT) => {}
            Err(error) => return Err(error).context("tell the kernel its buckets"),
        }
        Ok(())
    }

    /// Lets the kernel go on with flows of datagrams by itself, a few times a second.
    pub(super) fn lease(&mut self) -> Result<()> {
        let now = self.now();
        let due = self.leased.is_none_or(|leased| now.since(leased) >= LEASE_INTERVAL);
        if !due || !self.node.joined() || self.shared.rules() == 0 {
            return Ok(());
        }
        match self.kernel.buckets.lease(LEASE) {
            Ok(()) => self.leased = Some(now),
            // No rules, for now; or the kernel has not collected yet what has ended during a pause.
            Err(error) if matches!(errno(&error), Some(libc::ENOENT | libc::ENFILE)) => {}
            Err(error) => return Err(error).context("tell the kernel that the daemon lives"),
        }
        Ok(())
    }

    /// A datagram of this flow has been let through.
    pub(super) fn serve(&mut self, flow: FlowKey) {
        let now = self.now();
        self.kernel.datagrams.serve(flow.service.port());
        if !self.shared.answered.contains_key(&flow) {
            self.directory.answered(&self.shared, now, flow);
        }
        tracing::debug!(%flow, "answered");
    }

    /// Makes the kernel follow a change of who serves which datagrams.
    pub(super) fn follow(&mut self, notice: &Notice) {
        match *notice {
            Notice::PeerLeft(_)
            | Notice::PeerSuspect(_)
            | Notice::PeerLost(_)
            | Notice::PeerRestarted(_)
            | Notice::PeerMode { .. }
            | Notice::ServiceUp(ServicePort { protocol: Protocol::Udp, .. }) => {
                self.kernel.datagrams.unblock_all();
            }
            // Ports on which nobody listens are asked for all the time, and the kernel's
            // table is long.
            Notice::ServiceDown(service) | Notice::NotServed(service)
                if service.protocol == Protocol::Udp =>
            {
                if self.kernel.datagrams.has_served(service.port) {
                    self.forget_datagrams(|flow| flow.service_port() == service);
                }
            }
            Notice::Joined
            | Notice::PeerFound(_)
            | Notice::PeerVerified(_)
            | Notice::PeerJoined(_)
            | Notice::PeerBack(_)
            | Notice::DuplicateNodeId { .. }
            | Notice::Fallback { .. }
            | Notice::ServiceUp(_)
            | Notice::ServiceDown(_)
            | Notice::NotServed(_) => {}
        }
    }

    /// Gives up flows of datagrams that this host serves.
    pub(super) fn forget_datagrams(&mut self, which: impl Fn(&FlowKey) -> bool) {
        let Kernel { datagrams, conntrack, .. } = &mut self.kernel;
        for flow in datagrams.forget(conntrack, &self.vips, which) {
            self.node.handle_flow_ended(self.now(), flow);
        }
    }

    /// Removes a half-open connection whose client chose another host.
    pub(super) fn destroy(&mut self, flow: &FlowKey) {
        if flow.protocol == Protocol::Udp {
            return self.kernel.datagrams.destroy(*flow);
        }
        match self.kernel.sockets.destroy_request(flow.client, flow.service) {
            Ok(Destroyed::Request) => {
                let entry = self.kernel.conntrack.delete(flow);
                self.undestroyed += u64::from(entry.is_err());
            }
            // Gone by itself; or the kernel has taken an ACK for this host's
            // meanwhile, and then the evidence was somebody's forgery.
            Ok(Destroyed::Absent | Destroyed::Established) => {}
            Err(_) => self.undestroyed += 1,
        }
    }
}
