//! The model hosts of a [`Cluster`]: the driver of a node, and its kernel.

use clusterd::flow::{FlowKey, ServicePort};
use clusterd::protocol::{Instant, Listener, Node, Output, Syn, Ticket, Verdict};
use clusterd::wire;

use super::{Client, Cluster, Happening, Held, Host, Kernel, Packet, Socket, key};

impl Cluster {
    /// One turn of a host's event loop.
    pub(super) fn turn(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let due = host.node.as_ref().is_some_and(|node| node.poll_timeout() <= self.now);
        if host.node.is_none() || (host.inbox.is_empty() && !due) {
            return;
        }
        let mut packets = std::mem::take(&mut host.inbox);
        packets.sort_by_key(|packet| match packet {
            Packet::Frame(_) => 0,
            Packet::Syn { .. } => 1,
            Packet::Ack { .. } => 2,
        });
        for packet in packets {
            self.receive(index, packet);
            self.drain(index);
        }
        self.with_node(index, |node, now| node.handle_timeout(now));
        self.drain(index);
        while let Some(frame) = self.with_node(index, |node, now| node.poll_frame(now).cloned()) {
            self.broadcast(index, &frame);
        }
        let next = self.node(index).poll_timeout();
        assert!(next > self.now, "host {index} would spin at {:?}", self.now);
    }

    pub(super) fn with_node<T>(
        &mut self,
        host: usize,
        act: impl FnOnce(&mut Node, Instant) -> T,
    ) -> T {
        act(self.hosts[host].node.as_mut().expect("a running host"), self.now)
    }

    fn receive(&mut self, index: usize, packet: Packet) {
        match packet {
            Packet::Frame(bytes) => {
                let frame = wire::decode(&bytes, &key().into()).expect("our own frame");
                self.with_node(index, |node, now| node.handle_frame(now, &frame));
            }
            Packet::Syn { flow, isn } => {
                let host = &self.hosts[index];
                let incumbent = host.sockets.contains_key(&flow);
                if !host.blind {
                    let service = flow.service_port();
                    let listener = host.listener(service);
                    self.with_node(index, |node, now| {
                        node.handle_listener(now, service, listener);
                    });
                    self.drain(index);
                }
                let ticket = self.hold(index, Held::Syn { flow, isn });
                let syn = Syn { ticket, flow, isn, incumbent };
                self.with_node(index, |node, now| node.handle_syn(now, syn));
            }
            Packet::Ack { flow, number } => {
                // Confirmed flows pass in the kernel.
                if matches!(self.hosts[index].sockets.get(&flow), Some(Socket::Full { .. })) {
                    return;
                }
                let ticket = self.hold(index, Held::Ack { flow, number });
                self.with_node(index, |node, now| {
                    node.handle_ack(now, flow, number, Some(ticket));
                });
            }
        }
    }

    fn hold(&mut self, host: usize, held: Held) -> Ticket {
        self.numbers += 1;
        let ticket = Ticket(self.numbers);
        self.hosts[host].held.insert(ticket, (self.now, held));
        ticket
    }

    /// Carries out what the node wants, and what follows from it at once.
    fn drain(&mut self, index: usize) {
        while let Some(output) = self.with_node(index, |node, _| node.poll_output()) {
            match output {
                Output::Decide(ticket, verdict) => self.decide(index, ticket, verdict),
                Output::Destroy(flow) => {
                    let gone = self.hosts[index].sockets.remove(&flow);
                    let chosen = match gone {
                        None => false,
                        Some(Socket::Full { .. }) => true,
                        Some(Socket::Half { client_isn, isn }) => {
                            let client = self.client_of(&flow, client_isn);
                            self.clients[client].server_isn == Some(isn)
                        }
                    };
                    assert!(!chosen, "I4: host {index} destroys {flow}, which the client chose");
                }
                Output::Share(share) => self.hosts[index].share = share,
                Output::Block(flow) | Output::Inquire(flow) => {
                    panic!("{flow} is no flow of datagrams");
                }
                Output::Notice(notice) => self.hosts[index].notices.push(notice),
            }
        }
    }

    fn decide(&mut self, index: usize, ticket: Ticket, verdict: Verdict) {
        let host = &mut self.hosts[index];
        let (since, held) = host.held.remove(&ticket).expect("I5: one verdict for each ticket");
        let age = self.now.since(since);
        let late = host.paused_until > since;
        assert!(late || age <= self.timers.stale, "I5: a verdict after {age:?}");
        match (held, verdict) {
            (Held::Syn { flow, isn }, Verdict::Accept) => {
                assert!(age <= self.timers.stale, "a stale SYN is answered after {age:?}");
                self.kernel_gets_syn(index, flow, isn);
            }
            (Held::Rst { flow }, Verdict::Accept) => {
                let open = |client: &Client| client.flow == flow;
                let client = self.clients.iter().rposition(open).expect("only clients send SYNs");
                self.reset(index, client);
            }
            (Held::Ack { flow, number }, Verdict::Accept) => {
                self.kernel_gets_ack(index, flow, number);
            }
            (Held::Syn { .. } | Held::Rst { .. } | Held::Ack { .. }, Verdict::Drop) => {}
        }
    }

    fn kernel_gets_syn(&mut self, index: usize, flow: FlowKey, client_isn: u32) {
        let host = &mut self.hosts[index];
        match (host.kernel, host.listener(flow.service_port())) {
            (Kernel::Silent, _) | (Kernel::Answers, Listener::Busy) => {}
            (Kernel::Answers, Listener::Absent) => {
                let rst = self.hold(index, Held::Rst { flow });
                self.with_node(index, |node, now| {
                    node.handle_refusal(now, flow, client_isn, rst);
                });
            }
            (Kernel::Answers, Listener::Ready) => {
                let isn = match host.sockets.get(&flow) {
                    Some(&Socket::Half { client_isn: same, isn }) if same == client_isn => isn,
                    // A copy of the SYN of a connection that is open: a challenge ACK, no SYN-ACK.
                    Some(&Socket::Full { client_isn: same }) if same == client_isn => return,
                    _ => client_isn.wrapping_mul(31).wrapping_add(1 + index as u32),
                };
                host.sockets.insert(flow, Socket::Half { client_isn, isn });
                self.with_node(index, |node, now| {
                    node.handle_syn_ack(now, flow, client_isn, isn);
                });
                let client = self.client_of(&flow, client_isn);
                let arrival = self.now + self.chance.within(self.segment.client_delay);
                self.at(arrival, Happening::SynAck { client, from: index, client_isn, isn });
            }
        }
    }

    fn kernel_gets_ack(&mut self, index: usize, flow: FlowKey, number: u32) {
        match self.hosts[index].sockets.get(&flow) {
            Some(&Socket::Half { client_isn, isn }) if isn.wrapping_add(1) == number => {
                self.hosts[index].sockets.insert(flow, Socket::Full { client_isn });
                self.established.entry((flow, client_isn)).or_default().push(index);
            }
            Some(Socket::Full { .. }) => {}
            // RFC 9293: a wrong acknowledgement in SYN-RECEIVED is answered by a RST.
            Some(Socket::Half { .. }) | None => {
                panic!("I2: host {index} resets {flow}, which another host has");
            }
        }
    }

    fn reset(&mut self, from: usize, client: usize) {
        let arrival = self.now + self.chance.within(self.segment.client_delay);
        self.at(arrival, Happening::Reset { client, from });
    }
}

impl Host {
    pub(super) fn listener(&self, service: ServicePort) -> Listener {
        self.listeners.get(&service).copied().unwrap_or(Listener::Ready)
    }
}
