//! Stories of who belongs to the cluster (spec 6.5): restarts, partitions, pauses, doubles,
//! other versions, and frames that were recorded or made up.

mod common;

use std::time::Duration;

use clusterd::bucket::Buckets;
use clusterd::flow::NodeId;
use clusterd::protocol::{Cause, Limits, Mode, Notice, Pacing};
use clusterd::wire::{self, Contest, Entry, Flags, Frame, Header, Report};
use common::cluster::{Cluster, Conn, Outcome, key, ms, us};

const SECOND: Duration = Duration::from_secs(1);

/// Connections for some time, one each 10 ms.
fn load(lan: &mut Cluster, time: Duration) -> Vec<Conn> {
    let connect = |_| {
        lan.run(ms(10));
        lan.connect(80)
    };
    (0..time.as_millis() / 10).map(connect).collect()
}

/// SYN-ACKs beyond the first; each connection must be good, and be so at its first SYN.
fn duplicates(lan: &Cluster, conns: &[Conn]) -> usize {
    let surplus = |&conn: &Conn| {
        assert!(matches!(lan.outcome(conn), Outcome::Connected(_)), "{:?}", lan.outcome(conn));
        assert_eq!(lan.accepted_by(conn), lan.syn_acks(conn)[..1]);
        assert_eq!(lan.syns(conn), 1);
        lan.syn_acks(conn).len() - 1
    };
    conns.iter().map(surplus).sum()
}

fn all_know_all(lan: &Cluster) {
    let hosts = lan.hosts.len();
    for host in 0..hosts {
        let peers: Vec<_> = lan.node(host).peers().collect();
        let expected: Vec<_> =
            (0..hosts).filter(|&other| other != host).map(|other| lan.node(other).id()).collect();
        assert!(expected.iter().all(|id| peers.contains(id)), "host {host} ranks {peers:?}");
        assert_eq!(peers.len(), hosts - 1);
        assert_eq!(lan.node(host).roster(lan.now).count(), hosts - 1);
    }
}

fn said(lan: &Cluster, host: usize, is: impl Fn(&Notice) -> bool) -> usize {
    lan.hosts[host].notices.iter().filter(|notice| is(notice)).count()
}

fn encode(header: Header, entries: Vec<Entry>) -> Vec<u8> {
    wire::encode(&Frame { header, entries }, &key().into())
}

/// All hosts at once, as after a power cut: the first SYN is answered while they listen.
#[test]
fn hosts_that_start_at_once_find_each_other() {
    let mut lan = Cluster::booting(5, Pacing::Rank, 3);
    let early = lan.connect(80);
    lan.run(ms(1_100));
    all_know_all(&lan);
    let conns = load(&mut lan, SECOND);
    lan.run(SECOND);
    assert_eq!(duplicates(&lan, &conns), 0);
    assert!(lan.waited(early) < Some(SECOND) && lan.accepted_by(early).len() == 1);
}

/// Spec 6.5: what many hosts have to say about each other when all start at once is bounded.
#[test]
fn many_hosts_that_start_at_once_do_not_flood_each_other() {
    for hosts in [8, 32] {
        let mut lan = Cluster::booting(hosts, Pacing::Rank, 3);
        let begun = lan.hellos;
        lan.run(ms(2_000));
        all_know_all(&lan);
        // Four of each host at once, ten a millisecond of all, and four a second of each by itself.
        let (said, bound) = (lan.hellos - begun, hosts * 4 + 2_000 * 10 + hosts * 8);
        assert!(said <= bound && said <= hosts * 60, "{said} HELLOs of {hosts} hosts");
    }
}

/// Every host is restarted, one after the other, as for an upgrade, while clients come.
#[test]
fn a_rolling_restart_costs_no_connection_and_no_duplicate() {
    for orderly in [true, false] {
        let mut lan = Cluster::new(3);
        let mut conns = vec![];
        for host in 0..3 {
            conns.extend(load(&mut lan, ms(300)));
            lan.run(ms(20));
            match orderly {
                true => lan.leave(host),
                false => lan.crash(host),
            }
            conns.extend(load(&mut lan, ms(300)));
            lan.restart(host);
            conns.extend(load(&mut lan, ms(1_500)));
        }
        lan.run(SECOND);
        assert_eq!(duplicates(&lan, &conns), 0, "orderly: {orderly}");
        // A dead host costs one slot and one settling time.
        let slow = conns.iter().filter(|&&conn| lan.waited(conn) > Some(us(2_500))).count();
        assert_eq!(slow, 0);
        all_know_all(&lan);
        for host in 0..3 {
            assert!(!lan.node(host).by_hash());
        }
    }
}

/// A host that says goodbye is off the roster at once, a dead one is kept on it.
#[test]
fn only_who_leaves_goes_off_the_roster_at_once() {
    let mut lan = Cluster::new(3);
    lan.leave(2);
    lan.run(ms(1));
    let roster = |lan: &Cluster| lan.node(0).roster(lan.now).map(|it| it.node).collect::<Vec<_>>();
    assert_eq!(roster(&lan), [NodeId(2)]);
    lan.crash(1);
    lan.suspend(SECOND * 23 * 3600);
    lan.run(SECOND);
    assert_eq!((roster(&lan), lan.node(0).hearing().count()), (vec![NodeId(2)], 0));
    lan.suspend(SECOND * 2 * 3600);
    lan.run(SECOND);
    assert_eq!(roster(&lan), []);
}

/// A host that did not run for five seconds is forgotten, finds everybody when it runs
/// again, and answers nothing that has become old meanwhile.
#[test]
fn a_long_pause_costs_nothing_but_a_slot() {
    let mut lan = Cluster::new(3);
    lan.pause(0, SECOND * 5);
    let mut conns = load(&mut lan, SECOND * 5);
    assert!(
        (1..3).all(|host| said(&lan, host, |notice| *notice == Notice::PeerLost(NodeId(1))) == 1)
    );
    conns.extend(load(&mut lan, SECOND * 2));
    lan.run(SECOND);
    assert_eq!(duplicates(&lan, &conns), 0);
    assert!(conns.iter().all(|&conn| lan.waited(conn) < Some(us(2_500))));
    assert!(conns[600..].iter().any(|&conn| lan.accepted_by(conn) == [0]));
    all_know_all(&lan);
    assert!((0..3).all(|host| !lan.node(host).by_hash()));
}

/// Its clock was set back and it has kept nothing: its frames look like those of an earlier
/// life until that is forgotten. No connection is lost to it.
#[test]
fn a_host_from_the_past_is_let_in_after_t_dead() {
    let mut lan = Cluster::new(3);
    lan.crash(0);
    lan.restart(0);
    lan.run(SECOND * 2);
    lan.crash(0);
    lan.hosts[0].starts = 0;
    lan.restart(0);
    let early = load(&mut lan, SECOND * 3);
    assert!(lan.node(1).counters().stale_frames > 0);
    lan.run(SECOND);
    all_know_all(&lan);
    lan.run(SECOND * 14);
    let late = load(&mut lan, SECOND);
    lan.run(SECOND);
    let surplus = duplicates(&lan, &early);
    println!("{surplus} duplicates among {} connections until then", early.len());
    assert!(surplus <= early.len());
    assert_eq!(duplicates(&lan, &late), 0);
}

/// A partition that the clients do not see, for less time than a hold and more than T_dead.
#[test]
fn after_a_partition_all_know_all_again() {
    let mut lan = Cluster::new(4);
    lan.part(&[0, 1]);
    lan.run(SECOND * 4);
    for host in 0..4 {
        assert_eq!(lan.node(host).peers().count(), 1);
        assert_eq!(lan.node(host).roster(lan.now).count(), 3, "nobody has left");
    }
    lan.heal();
    lan.run(SECOND);
    all_know_all(&lan);
    let conns = load(&mut lan, SECOND);
    lan.run(SECOND);
    assert_eq!(duplicates(&lan, &conns), 0);
}

/// Race 28 with three: all but the latest take another id, each once.
#[test]
fn three_hosts_under_one_id_end_with_three_ids() {
    let mut lan = Cluster::new(1);
    lan.join_as(NodeId(1));
    lan.join_as(NodeId(1));
    lan.join_as(NodeId(4));
    lan.run(SECOND * 4);
    all_know_all_but_departed(&lan);
    let changes =
        |host| said(&lan, host, |notice| matches!(notice, Notice::DuplicateNodeId { .. }));
    assert_eq!((0..4).map(changes).sum::<usize>(), 2);
    let conns = load(&mut lan, SECOND);
    lan.run(SECOND);
    assert_eq!(duplicates(&lan, &conns), 0);
}

/// Everybody ranks everybody else, under three or four different ids.
fn all_know_all_but_departed(lan: &Cluster) {
    let ids: std::collections::BTreeSet<_> =
        (0..lan.hosts.len()).map(|host| lan.node(host).id()).collect();
    assert_eq!(ids.len(), lan.hosts.len());
    for host in 0..lan.hosts.len() {
        let peers: std::collections::BTreeSet<_> =
            lan.node(host).peers().chain([lan.node(host).id()]).collect();
        assert_eq!(peers, ids, "host {host}");
    }
}

/// Who repeats a host's own frames to it, of this life or an earlier one, changes nothing.
#[test]
fn a_host_is_not_impressed_by_its_own_frames() {
    let mut lan = Cluster::new(2);
    lan.crash(0);
    lan.restart(0);
    lan.run(SECOND * 2);
    let own: Vec<_> = lan.sent.iter().filter(|(from, _)| *from == 0).cloned().collect();
    let before = *lan.node(0).counters();
    for (_, bytes) in &own {
        lan.inject(0, bytes.clone());
        lan.inject(0, bytes.clone());
    }
    lan.run(ms(100));
    let after = lan.node(0).counters();
    assert_eq!(after.own_id_frames - before.own_id_frames, 2 * own.len() as u64);
    assert_eq!((lan.node(0).id(), after.duplicate_ids), (NodeId(1), 0));
    all_know_all(&lan);
}

/// A peer that speaks 1.0 says HELLO and nothing of whom it hears.
struct Old {
    node: NodeId,
    sequence: u64,
}

impl Old {
    fn say(&mut self, lan: &mut Cluster, entries: Vec<Entry>) {
        self.sequence += 1;
        let header = Header { minor: 0, ..Header::new(self.node, 7, self.sequence) };
        for to in 0..lan.hosts.len() {
            lan.inject(to, encode(header, entries.clone()));
        }
    }

    fn live(&mut self, lan: &mut Cluster, time: Duration) {
        for _ in 0..time.as_millis() / 250 {
            self.say(lan, vec![Entry::Hello { unavailable: vec![] }]);
            lan.run(ms(250));
        }
    }
}

/// Rolling upgrade, minor: a host of version 1.0 is ranked with the others and believed.
#[test]
fn a_host_of_the_minor_version_before_is_ranked_with_the_others() {
    let mut lan = Cluster::new(2);
    let mut old = Old { node: NodeId(9), sequence: 0 };
    old.live(&mut lan, SECOND * 2);
    for host in 0..2 {
        assert!(lan.node(host).peers().any(|peer| peer == old.node));
        assert!(!lan.node(host).by_hash(), "its silence about whom it hears means nothing");
        // It is taken at its word while it is heard, and not remembered.
        assert!(lan.node(host).roster(lan.now).all(|it| it.node != old.node));
    }
    let (mut foreign, mut taken) = (0, 0);
    for _ in 0..60 {
        let conn = lan.connect(80);
        let flow = lan.flow(conn);
        let hash = key().flow(&flow);
        let first = |id| key().weight(hash, old.node) > key().weight(hash, id);
        lan.run(us(200));
        if first(NodeId(1)) && first(NodeId(2)) {
            // Its turn: nobody else is quicker, and its word settles it.
            assert_eq!(lan.syn_acks(conn), []);
            if foreign < 5 {
                let attempt = key().attempt(&flow, lan.isn(conn));
                let own = Contest { attempt, port: 80, tries: 0, rank: 1 };
                old.say(&mut lan, vec![Entry::Own(own)]);
                lan.run(ms(100));
                assert_eq!((lan.syn_acks(conn), lan.held()), (vec![], 0));
                foreign += 1;
            } else {
                lan.run(ms(10));
                assert_eq!(lan.syn_acks(conn), lan.by_weight(conn)[..1]);
                taken += 1;
            }
        }
        old.live(&mut lan, ms(250));
    }
    assert!(foreign == 5 && taken > 5, "{foreign} {taken}");
}

/// Version 1.0 does not know that somebody may decide by hash: who does lets it go first.
#[test]
fn beside_a_host_of_the_minor_version_before_the_hash_rule_waits_a_slot() {
    let mut lan = Cluster::pinned(2, Pacing::Rank, Mode::Hash);
    let mut old = Old { node: NodeId(9), sequence: 0 };
    old.live(&mut lan, SECOND);
    for answers in [true, false].repeat(10) {
        let conn = lan.connect(80);
        lan.run(us(200));
        assert_eq!(lan.syn_acks(conn), []);
        if answers {
            let attempt = key().attempt(&lan.flow(conn), lan.isn(conn));
            let own = Contest { attempt, port: 80, tries: 0, rank: 1 };
            old.say(&mut lan, vec![Entry::Own(own)]);
        }
        lan.run(ms(5));
        let bucket = key().bucket(&lan.flow(conn));
        let mut ids = [NodeId(1), NodeId(2), old.node];
        ids.sort_by_key(|&id| key().bucket_weight(bucket, id));
        let expected = match ids[2] {
            NodeId(id) if !answers && id < 9 => vec![id as usize - 1],
            _ => vec![],
        };
        assert_eq!(lan.syn_acks(conn), expected);
        old.live(&mut lan, ms(250));
    }
}

/// Rolling upgrade, major: both sides decide by hash over a roster that names both.
#[test]
fn beside_a_host_of_another_major_version_all_decide_by_hash() {
    let mut lan = Cluster::new(2);
    let stranger = NodeId(9);
    let mut sequence = 0;
    let mut live = |lan: &mut Cluster, time: Duration| {
        for _ in 0..time.as_millis() / 250 {
            sequence += 1;
            for to in 0..2 {
                lan.stranger(to, 2, &Header::new(stranger, 5, sequence));
            }
            lan.run(ms(250));
        }
    };
    live(&mut lan, SECOND);
    for host in 0..2 {
        assert!(lan.node(host).causes().eq([Cause::Version]));
        assert!(lan.node(host).peers().all(|peer| peer != stranger), "it cannot be ranked");
        // It counts among the members while it is heard, and is not remembered.
        assert!(lan.node(host).roster(lan.now).all(|it| it.node != stranger));
    }
    let mut left = 0;
    for _ in 0..60 {
        let conn = lan.connect(80);
        live(&mut lan, ms(250));
        let bucket = key().bucket(&lan.flow(conn));
        let weight = |id| key().bucket_weight(bucket, id);
        let its = [1, 2].iter().all(|&id| weight(stranger) > weight(NodeId(id)));
        let expected = if its { vec![] } else { lan.by_hash(conn)[..1].to_vec() };
        assert_eq!(lan.syn_acks(conn), expected);
        left += usize::from(its);
    }
    assert!((10..=30).contains(&left), "{left} of 60 left to it");
    lan.said.clear();

    // It goes away: the others claim again, after the hold.
    lan.run(SECOND * 12);
    assert!((0..2).all(|host| !lan.node(host).by_hash()));
    let conns = load(&mut lan, SECOND);
    lan.run(SECOND);
    assert_eq!((duplicates(&lan, &conns), lan.owns()), (0, conns.len()));
}

/// Everything that a dead peer has ever said is said again to a host that has just started.
#[test]
fn a_fresh_host_is_not_fooled_by_recorded_frames() {
    let mut lan = Cluster::new(3);
    let conns = load(&mut lan, SECOND);
    lan.run(SECOND);
    assert!(conns.iter().any(|&conn| lan.accepted_by(conn) == [0]));
    let recorded: Vec<_> =
        lan.sent.iter().filter(|(from, _)| *from == 0).map(|(_, bytes)| bytes.clone()).collect();
    lan.crash(0);
    lan.crash(1);
    lan.crash(2);
    lan.run(SECOND);
    lan.restart(1);
    for bytes in recorded {
        lan.inject(1, bytes);
        lan.run(ms(20));
    }
    // It was heard, and that is all.
    assert_eq!(lan.node(1).hearing().count(), 1);
    assert_eq!((lan.node(1).peers().count(), lan.node(1).roster(lan.now).count()), (0, 0));
    let conn = lan.connect_from(lan.port_for(0, 80), 80);
    lan.run(ms(5));
    assert_eq!(lan.syn_acks(conn), [1]);
    assert!(lan.waited(conn) < Some(us(200)), "nobody waits for a recording");
}

/// A host replaced by a recording of itself: the roster still counts on it, nobody else does.
#[test]
fn a_recording_does_not_keep_a_dead_host_ranked() {
    let mut lan = Cluster::new(3);
    lan.run(SECOND * 2);
    lan.crash(0);
    let recorded: Vec<_> =
        lan.sent.iter().filter(|(from, _)| *from == 0).map(|(_, bytes)| bytes.clone()).collect();
    for round in 0..40 {
        for to in [1, 2] {
            lan.inject(to, recorded[round % recorded.len()].clone());
        }
        lan.run(ms(100));
    }
    for host in [1, 2] {
        assert!(lan.node(host).peers().all(|peer| peer != NodeId(1)));
    }
    let conn = lan.connect_from(lan.port_for(0, 80), 80);
    lan.run(ms(5));
    assert!(lan.waited(conn) < Some(us(200)));
    assert_eq!(lan.syn_acks(conn), lan.by_weight(conn)[1..2]);
}

/// Somebody who hears nobody and answers every SYN with claims under ever new names.
fn forge(lan: &mut Cluster, conn: Conn, next: &mut u32, say: fn(Contest) -> Entry) {
    let attempt = key().attempt(&lan.flow(conn), lan.isn(conn));
    *next += 1;
    let header = Header::new(NodeId(*next), 1, 1);
    let entry = say(Contest { attempt, port: 80, tries: 0, rank: 0 });
    for to in 0..lan.hosts.len() {
        lan.inject(to, encode(header, vec![entry.clone()]));
    }
}

/// Security considerations: whoever nobody knows can delay an attempt by T_own, once.
#[test]
fn an_unverified_claimant_delays_an_attempt_by_t_own_at_most() {
    for say in [Entry::Claim as fn(Contest) -> Entry, Entry::Own] {
        let mut lan = Cluster::new(3);
        let mut next = 1_000;
        let mut delayed = 0;
        for _ in 0..20 {
            let conn = lan.connect(80);
            // Before the SYN, at once, and again and again.
            for _ in 0..100 {
                forge(&mut lan, conn, &mut next, say);
                lan.run(ms(1));
            }
            lan.run(ms(500));
            assert_eq!(lan.syns(conn), 1, "it is answered at the first SYN");
            assert!(lan.waited(conn) < Some(ms(24)), "{:?}", lan.waited(conn));
            assert_eq!(lan.syn_acks(conn).len(), 1);
            delayed += usize::from(lan.waited(conn) >= Some(ms(20)));
        }
        assert!(delayed > 0, "no claim came in time");
        all_know_all(&lan);
    }
}

/// The same under one name, known but never verified.
#[test]
fn an_unverified_claimant_that_insists_gains_nothing() {
    let mut lan = Cluster::new(3);
    let conn = lan.connect(80);
    for _ in 0..100 {
        let mut same = 1_000;
        forge(&mut lan, conn, &mut same, Entry::Claim);
        lan.run(ms(3));
    }
    assert!(lan.waited(conn) < Some(ms(24)), "{:?}", lan.waited(conn));
    assert_eq!(lan.syn_acks(conn).len(), 1);
}

/// By hash nobody waits for strangers, and they do not stop the clock of retransmissions.
#[test]
fn an_unverified_claimant_does_nothing_to_the_hash_rule() {
    let mut lan = Cluster::pinned(3, Pacing::Rank, Mode::Hash);
    lan.deafen_all();
    lan.crash(0);
    lan.run(SECOND * 4);
    let mut next = 1_000;
    for _ in 0..20 {
        let conn = lan.connect(80);
        for _ in 0..200 {
            forge(&mut lan, conn, &mut next, Entry::Claim);
            lan.run(ms(20));
        }
        let order = lan.by_hash(conn);
        let first = usize::from(order[0] == 0);
        assert_eq!((lan.syn_acks(conn), lan.syns(conn)), (vec![order[first]], first + 1));
    }
}

/// RELEASE and HELLO of strangers count for nothing.
#[test]
fn a_stranger_excludes_nobody() {
    let mut lan = Cluster::new(3);
    let forged =
        |node, sequence, entry| encode(Header::new(NodeId(node), 1, sequence), vec![entry]);
    let conn = lan.connect_from(lan.port_for(0, 80), 80);
    let attempt = key().attempt(&lan.flow(conn), lan.isn(conn));
    let release = Entry::Release(Contest { attempt, port: 80, tries: 0, rank: 255 });
    let report = Report { node: NodeId(1), incarnation: 1, highest: 5, missing: 0 };
    for to in 0..3 {
        lan.inject(to, forged(1_000, 1, release.clone()));
        lan.inject(to, forged(1_001, 1, Entry::Hello { unavailable: vec![80] }));
        // It knows who is there, but not in which life.
        lan.inject(to, forged(1_002, 1, Entry::Heard { reports: vec![report] }));
    }
    lan.run(ms(20));
    assert_eq!((lan.syn_acks(conn), lan.claims()), (vec![0], 0));
    all_know_all(&lan);
}

/// The table of peers is full of names that somebody made up: who was verified stays, and
/// who comes new is let in.
#[test]
fn invented_hosts_neither_displace_the_real_ones_nor_keep_them_out() {
    let mut lan = Cluster::new(3);
    let peers_max = Limits::default().peers as u32;
    let flood = |lan: &mut Cluster| {
        for node in 0..4 * peers_max {
            for to in 0..lan.hosts.len() {
                lan.inject(to, encode(Header::new(NodeId(10_000 + node), 1, 1), vec![]));
            }
        }
        lan.run(ms(100));
    };
    flood(&mut lan);
    all_know_all(&lan);
    lan.join();
    for _ in 0..15 {
        flood(&mut lan);
    }
    all_know_all(&lan);
    let conns = load(&mut lan, SECOND);
    lan.run(SECOND);
    assert_eq!(duplicates(&lan, &conns), 0);
}

/// A frame that says goodbye in a stranger's name, or in that of an earlier life.
#[test]
fn a_recorded_goodbye_sends_nobody_away() {
    let mut lan = Cluster::new(3);
    let leaving = Flags { leaving: true, ..Flags::default() };
    lan.crash(0);
    lan.restart(0);
    lan.run(SECOND * 2);
    for to in [1, 2] {
        // Of the first life, which was incarnation 100.
        let header = Header { flags: leaving, ..Header::new(NodeId(1), 100, 9_999) };
        lan.inject(to, encode(header, vec![]));
        lan.inject(to, encode(Header { flags: leaving, ..Header::new(NodeId(77), 1, 1) }, vec![]));
    }
    lan.run(ms(50));
    all_know_all(&lan);
}

/// Whoever invents nodes of other versions, which need not show that they hear anybody,
/// neither gets them on the roster nor any member off it, and decides no majority.
#[test]
fn invented_nodes_of_other_versions_are_not_remembered() {
    let mut lan = Cluster::new(2);
    for host in 0..2 {
        for number in 0..64 {
            lan.stranger(host, 2, &Header::new(NodeId(1000 + number), 1 << 60, 1));
        }
    }
    lan.run(ms(100));
    for host in 0..2 {
        let roster: Vec<_> = lan.node(host).roster(lan.now).map(|it| it.node).collect();
        assert_eq!(roster, [NodeId(2 - host as u32)]);
    }
    // Once they are silent, all is as before.
    lan.run(SECOND * 14);
    assert!((0..2).all(|host| !lan.node(host).by_hash() && lan.node(host).peers().count() == 1));
    let conns = load(&mut lan, SECOND);
    lan.run(SECOND);
    assert_eq!((duplicates(&lan, &conns), lan.owns()), (0, conns.len()));
}

/// Datagrams and pings have no second try: of two hosts by hash the one that is left serves
/// all buckets as soon as it has not heard the other for T_dead.
#[test]
fn of_two_hosts_by_hash_the_survivor_takes_all_buckets() {
    let mut lan = Cluster::pinned(2, Pacing::Rank, Mode::Hash);
    assert!(lan.hosts[0].share.own != Buckets::FULL);
    lan.crash(1);
    lan.run(SECOND * 4);
    assert_eq!(lan.hosts[0].share.own, Buckets::FULL);
}
