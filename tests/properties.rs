//! What holds whatever happens: random inputs to one node, random trouble for a cluster.

mod common;

use std::time::Duration;

use clusterd::flow::{AttemptId, NodeId, ServicePort, VipHash};
use clusterd::protocol::{Listener, Mode, Pacing};
use clusterd::wire::{Contest, Entry, Flags, FurtherPort, Header, Report};
use common::cluster::{Cluster, FURTHER, Kernel, Outcome, VIP, key, ms, us};
use common::driver::{Driver, Op, flow};
use proptest::prelude::*;

const ME: NodeId = NodeId(0);

fn listener() -> impl Strategy<Value = Listener> {
    prop_oneof![Just(Listener::Ready), Just(Listener::Busy), Just(Listener::Absent)]
}

fn entry() -> impl Strategy<Value = Entry> {
    let attempt = prop_oneof![
        9 => (0..4u16, 0..3u32).prop_map(|(number, isn)| key().attempt(&flow(number), isn)),
        1 => any::<[u8; 16]>().prop_map(AttemptId),
    ];
    let byte = || prop_oneof![3 => 0..4u8, 1 => any::<u8>()];
    let contest = (attempt, 79..83u16, byte(), byte())
        .prop_map(|(attempt, port, tries, rank)| Contest { attempt, port, tries, rank });
    let report = (0..5u32, 1..3u64, any::<u32>(), any::<u32>()).prop_map(
        |(node, incarnation, highest, missing)| Report {
            node: NodeId(node),
            incarnation,
            highest,
            missing,
        },
    );
    let reports = prop::collection::vec(report, 0..4);
    let vips = vec![key().vip(FURTHER.into()), key().vip(VIP.into()), VipHash(0)];
    let further = prop::collection::vec(prop::sample::select(vips), 0..3);
    (contest, prop::collection::vec(79..83u16, 0..4), reports, further, 0..13).prop_map(
        |(contest, unavailable, reports, further, kind)| match kind {
            0..3 => Entry::Claim(contest),
            3..5 => Entry::Own(contest),
            5..7 => Entry::Release(contest),
            7 => Entry::Hello { unavailable },
            8 => Entry::HelloUdp { unavailable },
            9 => Entry::Vips { further },
            10 => Entry::VipsTcp { unavailable: further_ports(&unavailable) },
            11 => Entry::VipsUdp { unavailable: further_ports(&unavailable) },
            _ => Entry::Heard { reports },
        },
    )
}

/// Ports of virtual IPs at the first three places, one of which is none.
fn further_ports(ports: &[u16]) -> Vec<FurtherPort> {
    ports.iter().map(|&port| FurtherPort { place: port as u8 % 3, port }).collect()
}

fn header() -> impl Strategy<Value = Header> {
    let wild = |common: std::ops::Range<u64>| prop_oneof![15 => common, 1 => any::<u64>()];
    let rarely = || prop::bool::weighted(0.1);
    let flags = (rarely(), rarely(), rarely(), rarely(), rarely()).prop_map(
        |(joining, leaving, hash, deaf, mute)| Flags { joining, leaving, hash, deaf, mute },
    );
    // Of minor version 0 are those that are believed at once.
    (0..2u8, 0..5u32, wild(1..3), wild(1..60), flags).prop_map(
        |(minor, node, incarnation, sequence, flags)| {
            let node = NodeId(node);
            Header { minor, node, incarnation, sequence, flags }
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let (flow, isn) = (|| 0..4u16, || 0..3u32);
    prop_oneof![
        6 => (flow(), isn(), prop::bool::weighted(0.1))
            .prop_map(|(flow, isn, incumbent)| Op::Syn { flow, isn, incumbent }),
        6 => (header(), prop::collection::vec(entry(), 0..4))
            .prop_map(|(header, entries)| Op::Frame { header, entries }),
        1 => (any::<bool>(), 80..82u16, listener()).prop_map(|(first, port, listener)| {
            let service = ServicePort::tcp((if first { VIP } else { FURTHER }, port));
            Op::Listener { service, listener }
        }),
        2 => (flow(), isn(), 0..3u32)
            .prop_map(|(flow, isn, server_isn)| Op::SynAck { flow, isn, server_isn }),
        1 => (flow(), isn()).prop_map(|(flow, isn)| Op::Refusal { flow, isn }),
        2 => (flow(), 0..4u32, any::<bool>())
            .prop_map(|(flow, number, held)| Op::Ack { flow, number, held }),
        1 => flow().prop_map(|flow| Op::Adopt { flow }),
        5 => (0..30_000u64).prop_map(|micros| Op::Run(us(micros))),
        1 => (0..2_000u64).prop_map(|millis| Op::Run(ms(millis))),
        1 => Just(Op::Replay),
        1 => (0..2_000u64).prop_map(|millis| Op::Sleep(ms(millis))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn one_node_keeps_its_promises(
        race in any::<bool>(),
        joined in any::<bool>(),
        ops in prop::collection::vec(op(), 0..120),
    ) {
        let mut driver = Driver::new(ME, if race { Pacing::Race } else { Pacing::Rank }, Mode::Auto);
        if joined {
            driver.run(ms(1_001));
        }
        ops.into_iter().for_each(|op| driver.apply(op));
        driver.replay();
        driver.rest();
    }
}

/// I7: a flood moves counters, not memory.
#[test]
fn full_tables_drop_and_count() {
    let mut driver = Driver::new(ME, Pacing::Rank, Mode::Auto);
    driver.run(ms(1_001));
    let frame =
        |node, sequence, entries| Op::Frame { header: Header::new(node, 1, sequence), entries };
    // Peers that have shown that they hear this node: nobody else takes their places.
    let report = Report { node: ME, incarnation: 1, highest: 100, missing: 0 };
    for node in 1..=10 {
        driver.apply(frame(NodeId(node), 1, vec![Entry::Heard { reports: vec![report] }]));
    }
    assert_eq!(driver.node.counters().too_many_peers, 7);
    for isn in 0..10 {
        driver.apply(Op::Syn { flow: 0, isn, incumbent: false });
    }
    assert_eq!((driver.node.load(), driver.node.counters().held_full), ((4, 4), 6));
    for number in 0..20 {
        let contest = Contest { attempt: AttemptId([number; 16]), port: 80, tries: 0, rank: 1 };
        driver.apply(frame(NodeId(1), 2 + u64::from(number), vec![Entry::Own(contest)]));
    }
    assert_eq!((driver.node.load().0, driver.node.counters().table_full), (8, 16));
    driver.run(ms(4_000));
    assert_eq!(driver.node.load().1, 0);
}

#[derive(Clone, Debug)]
enum Trouble {
    Pause(usize, u64),
    Crash(usize),
    Restart(usize),
    Cut(usize, usize),
    Mend(usize, usize),
    Listen(usize, Listener),
    Silent(usize),
    Connect,
    Run(u64),
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let host = || 0..4usize;
    prop_oneof![
        1 => (host(), 0..2_500u64).prop_map(|(host, millis)| Trouble::Pause(host, millis)),
        1 => host().prop_map(Trouble::Crash),
        1 => host().prop_map(Trouble::Restart),
        1 => (host(), host()).prop_map(|(from, to)| Trouble::Cut(from, to)),
        1 => (host(), host()).prop_map(|(from, to)| Trouble::Mend(from, to)),
        1 => (host(), listener()).prop_map(|(host, listener)| Trouble::Listen(host, listener)),
        1 => host().prop_map(Trouble::Silent),
        8 => Just(Trouble::Connect),
        4 => (0..10_000u64).prop_map(Trouble::Run),
        1 => (0..2_000_000u64).prop_map(Trouble::Run),
    ]
}

fn pacing() -> impl Strategy<Value = Pacing> {
    prop_oneof![Just(Pacing::Rank), Just(Pacing::Race)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// S0: at most one application gets a connection, whatever is lost, late, doubled, paused,
    /// dead or wrongly believed. I2, I4 and I5 are checked by the cluster on the way.
    #[test]
    fn trouble_makes_no_second_connection(
        seed in any::<u64>(),
        pacing in pacing(),
        (frames_lost, frames_doubled, syns_lost) in (0..500u64, 0..300u64, 0..300u64),
        (delay, client_delay) in (20..3_000u64, 20..20_000u64),
        troubles in prop::collection::vec(trouble(), 0..40),
    ) {
        let mut lan = Cluster::with(4, pacing, seed);
        lan.segment.frames_lost = frames_lost;
        lan.segment.frames_doubled = frames_doubled;
        lan.segment.syns_lost = syns_lost;
        lan.segment.delay = (us(20), us(delay));
        lan.segment.client_delay = (us(20), us(client_delay));
        let mut conns = Vec::new();
        for trouble in troubles {
            match trouble {
                Trouble::Pause(host, millis) => lan.pause(host, ms(millis)),
                Trouble::Crash(host) => lan.crash(host),
                Trouble::Restart(host) => {
                    lan.crash(host);
                    lan.restart(host);
                }
                Trouble::Cut(from, to) => lan.cut(from, to),
                Trouble::Mend(from, to) => lan.mend(from, to),
                Trouble::Listen(host, listener) => lan.listen(host, 80, listener),
                Trouble::Silent(host) => lan.hosts[host].kernel = Kernel::Silent,
                Trouble::Connect => conns.push(lan.connect(80)),
                Trouble::Run(micros) => lan.run(us(micros)),
            }
        }
        lan.run(Duration::from_secs(14));
        prop_assert_eq!(lan.held(), 0);
        for conn in conns {
            match lan.outcome(conn) {
                Outcome::Connected(host) => {
                    let served = lan.accepted_by(conn);
                    prop_assert!(served.is_empty() || served == [host], "{:?}", served);
                    prop_assert_eq!(lan.half_open(conn), Vec::<usize>::new());
                }
                Outcome::Refused | Outcome::TimedOut => {
                    prop_assert!(lan.accepted_by(conn).is_empty());
                }
                Outcome::Trying => prop_assert!(false, "the client gives up after 10 s"),
            }
        }
    }

    /// I11: without loss and with views at rest, exactly one SYN-ACK.
    #[test]
    fn a_quiet_lossless_cluster_answers_once(
        seed in any::<u64>(), pacing in pacing(), hosts in 1..6usize, delay in 20..300u64,
    ) {
        let mut lan = Cluster::with(hosts, pacing, seed);
        lan.segment.delay = (us(20), us(delay));
        lan.segment.client_delay = (us(20), ms(10));
        let conns: Vec<_> = (0..20).map(|_| { lan.run(us(300)); lan.connect(80) }).collect();
        lan.run(ms(700));
        for conn in conns {
            prop_assert_eq!(lan.syn_acks(conn).len(), 1);
            prop_assert_eq!(lan.accepted_by(conn), lan.syn_acks(conn));
        }
    }

    /// The reference model: the heaviest live host with a listener wins.
    #[test]
    fn the_heaviest_live_host_that_can_serve_wins(
        seed in any::<u64>(),
        fates in prop::collection::vec((prop::bool::weighted(0.3), listener()), 1..6),
    ) {
        let mut lan = Cluster::with(fates.len(), Pacing::Rank, seed);
        for (host, &(dead, listener)) in fates.iter().enumerate() {
            lan.listen(host, 80, listener);
            if dead {
                lan.crash(host);
            }
        }
        // Everybody learns who is dead, and by a first connection what is closed.
        lan.run(ms(1_000));
        lan.connect(80);
        lan.run(ms(1_000));
        for _ in 0..10 {
            let conn = lan.connect(80);
            lan.run(ms(50));
            let can_serve = |host: &usize| fates[*host] == (false, Listener::Ready);
            let winner = lan.by_weight(conn).into_iter().find(can_serve);
            prop_assert_eq!(lan.accepted_by(conn), Vec::from_iter(winner));
        }
    }
}
