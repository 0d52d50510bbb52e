//! The model clients of a [`Cluster`]: TCP as far as the protocol can see it.

use std::time::Duration;

use clusterd::flow::FlowKey;

use super::{Client, Cluster, Happening, Outcome, Packet};

/// The client's SYN schedule, seconds after the first.
const SYN_AT: [u64; 3] = [0, 1, 3];
const GIVE_UP: Duration = Duration::from_secs(10);

impl Cluster {
    pub(super) fn client_timer(&mut self, client: usize) {
        let Client { outcome, started, isn, syns, .. } = self.clients[client];
        if outcome != Outcome::Trying {
            return;
        }
        if self.now.since(started) >= GIVE_UP {
            self.clients[client].outcome = Outcome::TimedOut;
            return;
        }
        self.clients[client].syns += 1;
        self.send_syn(client);
        let next = SYN_AT.get(syns + 1).map_or(GIVE_UP, |&seconds| Duration::from_secs(seconds));
        self.at(started + next, Happening::ClientTimer { client, isn });
    }

    pub(super) fn send_syn(&mut self, client: usize) {
        let Client { flow, isn, .. } = self.clients[client];
        self.flood(self.now, self.segment.syns_lost, || Packet::Syn { flow, isn });
    }

    pub(super) fn syn_ack_arrives(
        &mut self,
        client: usize,
        from: usize,
        client_isn: u32,
        isn: u32,
    ) {
        let now = self.now;
        let state = &mut self.clients[client];
        if state.isn != client_isn {
            return;
        }
        state.syn_acks.push((now, from));
        if state.outcome == Outcome::Trying {
            state.outcome = Outcome::Connected(from);
            state.server_isn = Some(isn);
        }
        // To a second SYN-ACK this is the challenge ACK of RFC 5961: the first one's number.
        if let (Some(chosen), flow) = (state.server_isn, state.flow) {
            let number = chosen.wrapping_add(1);
            let near = self.now + self.chance.within(self.segment.client_delay);
            self.flood(near, 0, || Packet::Ack { flow, number });
        }
    }

    pub(super) fn reset_arrives(&mut self, client: usize, from: usize) {
        let now = self.now;
        let state = &mut self.clients[client];
        state.resets.push((now, from));
        if state.outcome == Outcome::Trying {
            state.outcome = Outcome::Refused;
        }
    }

    pub(super) fn client_of(&self, flow: &FlowKey, isn: u32) -> usize {
        let is = |client: &Client| client.flow == *flow && client.isn == isn;
        self.clients.iter().position(is).expect("only clients send SYNs")
    }
}
