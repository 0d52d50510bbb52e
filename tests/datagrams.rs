//! Flows of datagrams that two nodes own after a partition (spec 5.5).

use std::net::Ipv4Addr;
use std::time::Duration;

use clusterd::flow::{FlowKey, NodeId};
use clusterd::protocol::{Config, Instant, Node, Output, Ticket, Verdict};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const STEP: Duration = Duration::from_micros(250);

/// Two nodes; what one says the other hears at once, unless they are apart.
struct Pair {
    now: Instant,
    nodes: [Node; 2],
    apart: bool,
    outputs: [Vec<Output>; 2],
}

impl Pair {
    fn new() -> Self {
        let node = |id| Node::new(Config::new(NodeId(id), 1, VIP), Instant::default());
        let nodes = [node(1), node(2)];
        let mut pair =
            Self { now: Instant::default(), nodes, apart: false, outputs: Default::default() };
        pair.run(Duration::from_secs(3));
        pair
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + STEP;
            for me in 0..2 {
                if self.nodes[me].poll_timeout() <= self.now {
                    self.nodes[me].handle_timeout(self.now);
                }
                while let Some(frame) = self.nodes[me].poll_frame(self.now).cloned() {
                    if !self.apart {
                        self.nodes[1 - me].handle_frame(self.now, &frame);
                    }
                }
                while let Some(output) = self.nodes[me].poll_output() {
                    self.outputs[me].push(output);
                }
            }
        }
    }

    /// Both hear the datagram; says who has let it through.
    fn datagram(&mut self, ticket: u64, flow: FlowKey) -> [bool; 2] {
        for node in &mut self.nodes {
            node.handle_datagram(self.now, Ticket(ticket), flow);
        }
        self.run(Duration::from_millis(600));
        let accepted = Output::Decide(Ticket(ticket), Verdict::Accept);
        [0, 1].map(|me| self.outputs[me].contains(&accepted))
    }
}

#[test]
fn after_a_partition_one_of_two_owners_goes_on() {
    let mut pair = Pair::new();
    let flow = |port| FlowKey::udp((Ipv4Addr::new(10, 0, 0, 200), port), (VIP, 53));
    assert_eq!(pair.datagram(0, flow(999)).iter().filter(|&&accepted| accepted).count(), 1);
    // Shorter than it takes to forget a peer, then longer.
    for (apart, ports) in [(1, 1000..1020), (4, 2000..2020)] {
        pair.apart = true;
        pair.run(Duration::from_secs(apart));
        for port in ports.clone() {
            assert_eq!(pair.datagram(port.into(), flow(port)), [true; 2]);
        }
        pair.apart = false;
        pair.run(Duration::from_secs(2));
        for port in ports {
            let gave_up = |me: usize| pair.outputs[me].contains(&Output::Destroy(flow(port)));
            assert!(gave_up(0) != gave_up(1), "port {port}");
            let blocks = |me: usize| pair.outputs[me].contains(&Output::Block(flow(port)));
            assert!(!gave_up(0) || blocks(0));
            assert!(!gave_up(1) || blocks(1));
        }
    }
}

#[test]
fn a_late_answer_does_not_open_the_flow_that_another_one_has() {
    let mut pair = Pair::new();
    let flow = FlowKey::udp((Ipv4Addr::new(10, 0, 0, 200), 1000), (VIP, 53));
    let owner = pair.datagram(0, flow);
    let leaves = |pair: &mut Pair, ticket: u64, flow: FlowKey| {
        pair.nodes.iter_mut().for_each(|node| node.handle_unasked(flow, Ticket(ticket)));
        pair.run(STEP);
        let accepted = Output::Decide(Ticket(ticket), Verdict::Accept);
        [0, 1].map(|me| pair.outputs[me].contains(&accepted))
    };
    assert_eq!(leaves(&mut pair, 1, flow), owner);
    // Also long after, or in another life of the daemon.
    let forgotten = FlowKey::udp((Ipv4Addr::new(10, 0, 0, 200), 1001), (VIP, 53));
    assert_eq!(leaves(&mut pair, 2, forgotten), [false; 2]);
}
