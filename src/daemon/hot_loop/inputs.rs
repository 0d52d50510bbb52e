//! What comes in: frames, the log, held packets, and what is known about listeners.

use std::mem::MaybeUninit;

use anyhow::{Context, Result};
use clusterd::flow::ServicePort;
use clusterd::protocol::Syn;
use clusterd::wire::{self, DecodeError, Entry};

use super::{
    BUDGET, FRAMES_BUDGET, HotLoop, Kernel, LISTENER_AGE_MAX, LISTENERS_MAX, PUBLISH_INTERVAL,
    QUEUE_LENGTH, look_at, pack, remove_leftover, since,
};
use crate::daemon::core::Core;
use crate::io::error::errno;
use crate::io::nfqueue;
use crate::io::packet::{self, Segment};
use crate::io::sock_diag::SockDiag;

impl HotLoop {
    /// Hands all frames that have arrived to the core.
    pub(super) fn hear(&mut self) -> Result<()> {
        let (began, mut count) = (self.begin(), 0);
        let mut buffer = [MaybeUninit::uninit(); 2048];
        for _ in 0..FRAMES_BUDGET {
            let bytes = match self.kernel.claims.receive(&mut buffer) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                // The interface went down; the socket hears again when it is back.
                Err(error) if errno(&error) == Some(libc::ENETDOWN) => break,
                Err(error) => return Err(error).context("receive claims"),
            };
            count += 1;
            if let Some(epoch) = self.epoch {
                self.node.arrived(since(epoch, self.kernel.claims.arrived()));
            }
            let Some((ttl, payload)) = packet::ip_payload(bytes) else {
                self.wire.truncated += 1;
                continue;
            };
            if ttl != wire::TTL {
                self.wire.ttl += 1;
                continue;
            }
            match wire::decode_into(payload, &self.ring, &mut self.heard.entries) {
                Ok(header) => {
                    self.heard.header = header;
                    tracing::trace!(frame = %self.heard, "heard");
                    self.look_at_scope();
                    self.node.handle_frame(self.now(), &self.heard);
                }
                Err(error) => {
                    self.wire.count(&error);
                    if let DecodeError::Version { major, header } = error {
                        self.node.handle_stranger(self.now(), major, &header);
                    }
                }
            }
        }
        self.worked(|turn| &mut turn.frames, count, began);
        Ok(())
    }

    /// Says so, once, if another host speaks on ports that `--ports` leaves out here.
    fn look_at_scope(&mut self) {
        let Some(scope) = &self.scope else { return };
        let beyond = |entry: &Entry| match entry {
            Entry::Claim(it) | Entry::Own(it) if !scope.has(it.port) => Some(it.port),
            _ => None,
        };
        let Some(port) = self.heard.entries.iter().find_map(beyond) else { return };
        if self.wire.out_of_scope == 0 {
            let node = self.heard.header.node;
            tracing::warn!(%node, port, "another host answers on a port that --ports leaves out here, so \
                this one does not help there: start all with the same list");
        }
        self.wire.out_of_scope += 1;
    }

    /// Hands the kernel's SYN-ACKs, and evidence of clients' choices, to the core. Returns how many.
    pub(super) fn read_log(&mut self) -> Result<usize> {
        let now = self.now();
        let Self { kernel, node, directory, shared, unexpected, .. } = self;
        let Kernel { log, sockets, .. } = kernel;
        let got = log.recv(BUDGET, |bytes, hook| match packet::parse(bytes, hook) {
            Some(Segment::SynAck { flow, client_isn, isn }) => {
                node.handle_syn_ack(now, flow, client_isn, isn);
                directory.answered(shared, now, flow);
                tracing::debug!(%flow, "answered");
            }
            Some(Segment::Ack { flow, number }) => node.handle_ack(now, flow, number, None),
            // The kernel has decided by bucket and cannot serve the port: it need not be said
            // again what the sockets say.
            Some(Segment::Refusal { flow, .. }) => {
                let service = flow.service_port();
                if let Some(listener) = look_at(sockets, service) {
                    node.handle_listener(now, service, listener);
                }
            }
            Some(Segment::Syn { .. } | Segment::Datagram { .. } | Segment::Unasked { .. })
            | None => *unexpected += 1,
        })?;
        Ok(got)
    }

    /// Drops the SYNs and datagrams that have waited while this process did not run. Their age is
    /// not known: the other hosts have answered them, or their clients do not wait any more.
    pub(super) fn drop_backlog(&mut self) -> Result<()> {
        if self.node.peers().next().is_none() {
            return Ok(());
        }
        for _ in 0..QUEUE_LENGTH as usize / BUDGET {
            let got = self.read_queue(true)?;
            self.carry_out()?;
            if got < BUDGET {
                break;
            }
        }
        Ok(())
    }

    /// Hands held packets to the core, of a backlog only ACKs and RSTs. Returns how many there were.
    pub(super) fn read_queue(&mut self, backlog: bool) -> Result<usize> {
        let now = self.now();
        let Self {
            kernel, node, listeners, unexpected, slept, leftovers, undestroyed, epoch, ..
        } = self;
        let Kernel { queue, sockets, conntrack, datagrams, number, .. } = kernel;
        let mut none_of_ours = Vec::new();
        let mut look = |sockets: &mut SockDiag, node: &mut Core, service: ServicePort| {
            let age = listeners.get(&service).map(|&looked| now.since(looked));
            if age.is_none_or(|age| age >= LISTENER_AGE_MAX) {
                if listeners.len() >= LISTENERS_MAX {
                    listeners.clear();
                }
                listeners.insert(service, now);
                if let Some(listener) = look_at(sockets, service) {
                    node.handle_listener(now, service, listener);
                }
            }
        };
        let got = queue.recv(BUDGET, |packet| {
            let ticket = pack(packet.ticket);
            match packet::parse(packet.payload, packet.hook) {
                Some(Segment::Syn { .. } | Segment::Datagram { .. }) if backlog => {
                    *slept += 1;
                    none_of_ours.push(packet.ticket);
                }
                Some(Segment::Syn { flow, isn }) => {
                    let incumbent = packet.ticket.queue != *number;
                    if incumbent && !node.has_accepted(&flow, isn) {
                        match remove_leftover(sockets, conntrack, &flow) {
                            Ok(false) => {}
                            // The client says it again, or another host has nothing in the way.
                            removed => {
                                *leftovers += 1;
                                *undestroyed += u64::from(removed.is_err());
                                none_of_ours.push(packet.ticket);
                                return;
                            }
                        }
                    }
                    look(sockets, node, flow.service_port());
                    node.arrived(epoch.and_then(|epoch| since(epoch, packet.arrived)));
                    node.handle_syn(now, Syn { ticket, flow, isn, incumbent });
                }
                Some(Segment::Datagram { flow }) => {
                    look(sockets, node, flow.service_port());
                    datagrams.hold(ticket, flow);
                    node.handle_datagram(now, ticket, flow);
                }
                Some(Segment::Unasked { flow }) => node.handle_unasked(now, flow, ticket),
                Some(Segment::Ack { flow, number }) => {
                    node.handle_ack(now, flow, number, Some(ticket));
                }
                Some(Segment::Refusal { flow, client_isn }) => {
                    node.handle_refusal(now, flow, client_isn, ticket);
                }
                Some(Segment::SynAck { .. }) | None => {
                    *unexpected += 1;
                    none_of_ours.push(packet.ticket);
                }
            }
        })?;
        for ticket in none_of_ours {
            queue.verdict(ticket, nfqueue::Verdict::Drop);
        }
        Ok(got)
    }

    /// Looks again at listeners not looked at for a while, so that a service
    /// that has come back is noticed without a SYN.
    pub(super) fn look_at_listeners(&mut self) {
        let now = self.now();
        for (&service, looked) in &mut self.listeners {
            if now.since(*looked) >= PUBLISH_INTERVAL {
                *looked = now;
                if let Some(listener) = look_at(&mut self.kernel.sockets, service) {
                    self.node.handle_listener(now, service, listener);
                }
            }
        }
    }
}
