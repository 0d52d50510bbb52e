//! Stories of the hash rule (spec 5.6): who answers when claims cannot be trusted.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use clusterd::flow::{NodeId, ServicePort};
use clusterd::protocol::{Cause, Listener, Load, Mode, Notice, Pacing};
use common::cluster::{Cluster, Conn, Outcome, VIP, ms, us};

const SECOND: Duration = Duration::from_secs(1);

/// Connections that come one after the other, and time for all their SYNs.
fn connect(lan: &mut Cluster, count: usize) -> Vec<Conn> {
    let conns = (0..count).map(|_| {
        let conn = lan.connect(80);
        lan.run(ms(3));
        conn
    });
    let conns = conns.collect();
    lan.run(SECOND * 4);
    conns
}

/// SYN-ACKs beyond the first of each connection, all of which must be good.
fn duplicates(lan: &Cluster, conns: &[Conn]) -> usize {
    let surplus = |&conn: &Conn| {
        let answers = lan.syn_acks(conn).len();
        assert!(matches!(lan.outcome(conn), Outcome::Connected(_)), "{:?}", lan.outcome(conn));
        assert_eq!(lan.accepted_by(conn), lan.syn_acks(conn)[..1]);
        answers - 1
    };
    conns.iter().map(surplus).sum()
}

fn known(hosts: usize, mode: Mode) -> Cluster {
    Cluster::pinned(hosts, Pacing::Rank, mode)
}

fn count(lan: &Cluster, host: usize, notice: Notice) -> usize {
    lan.hosts[host].notices.iter().filter(|&&said| said == notice).count()
}

/// Item 1 of the hash rule: one answer to each SYN, and not a word about it,
/// whether or not the hosts hear each other.
#[test]
fn by_hash_each_syn_has_one_answer_and_no_message() {
    for deaf in [false, true] {
        let mut lan = known(3, Mode::Hash);
        if deaf {
            lan.deafen_all();
            // Everybody has forgotten everybody, but for the roster.
            lan.run(SECOND * 5);
            assert!((0..3).all(|host| lan.node(host).hearing().count() == 0));
        }
        let conns = connect(&mut lan, 600);
        let mut shares = [0; 3];
        for &conn in &conns {
            let first = lan.by_hash(conn)[0];
            assert_eq!((lan.syn_acks(conn), lan.syns(conn)), (vec![first], 1));
            assert!(lan.waited(conn) < Some(us(200)), "{:?}", lan.waited(conn));
            shares[first] += 1;
        }
        assert!(lan.said.is_empty() && shares.iter().all(|share| *share > 100), "{shares:?}");
        assert_eq!(lan.held(), 0);
    }
}

/// The client's retransmission is the clock: the share of k dead hosts is answered by the
/// k-th retransmission, everything else at once.
#[test]
fn by_hash_the_share_of_a_dead_host_is_answered_at_the_next_syn() {
    for (hosts, dead) in [(2, 1), (3, 1), (3, 2), (5, 2)] {
        let mut lan = known(hosts, Mode::Hash);
        lan.deafen_all();
        (0..dead).for_each(|host| lan.crash(host));
        lan.run(SECOND * 5);
        let conns = connect(&mut lan, 100);
        let mut waits = vec![0; dead + 1];
        for conn in conns {
            let order = lan.by_hash(conn);
            let before = order.iter().take_while(|&&host| host < dead).count();
            assert_eq!((lan.syn_acks(conn), lan.syns(conn)), (vec![order[before]], before + 1));
            waits[before] += 1;
        }
        assert!(waits.iter().all(|&count| count > 0), "{waits:?}");
        assert!(lan.said.is_empty());
    }
}

/// While a majority hears each other it does without the silent, so their share waits only
/// until they are forgotten.
#[test]
fn by_hash_a_majority_passes_over_who_is_silent() {
    let mut lan = known(3, Mode::Hash);
    lan.crash(0);
    let early = connect(&mut lan, 50);
    assert!(early.iter().all(|&conn| lan.syns(conn) <= 2));
    assert!(early.iter().any(|&conn| lan.syns(conn) == 2));
    let later = connect(&mut lan, 50);
    assert!(later.iter().all(|&conn| lan.syns(conn) == 1 && lan.syn_acks(conn).len() == 1));
}

/// Total claim loss in automatic mode: the first clients that choose unheard hosts are
/// enough, then each SYN has one answer. Healed, the hosts claim again and say so.
#[test]
fn clients_that_chose_unheard_hosts_lead_into_the_hash_rule_and_silence_leads_back() {
    let mut lan = Cluster::new(3);
    lan.deafen_all();
    let first = connect(&mut lan, 30);
    assert!((0..3).all(|host| lan.node(host).by_hash()));
    assert!((0..3).all(|host| lan.node(host).causes().eq([Cause::Deaf])));
    let surplus = duplicates(&lan, &first);
    // Three clients for each host, and those under way.
    assert!((6..=12).contains(&surplus), "{surplus}");

    let settled = connect(&mut lan, 100);
    assert_eq!(duplicates(&lan, &settled), 0);
    assert!(settled.iter().all(|&conn| lan.syns(conn) == 1));
    lan.heal();
    lan.run(SECOND * 12);
    for host in 0..3 {
        assert!(!lan.node(host).by_hash());
        assert_eq!(lan.node(host).peers().count(), 2);
        let over = Notice::Fallback { cause: Cause::Deaf, active: false, by_hash: false };
        assert_eq!(count(&lan, host, over), 1);
        assert_eq!(lan.node(host).hearing().filter(|peer| peer.by_hash).count(), 0);
    }
    lan.said.clear();
    let after = connect(&mut lan, 100);
    assert_eq!((duplicates(&lan, &after), lan.owns(), lan.claims()), (0, 100, 0));
}

/// A loss that outlasts the hold is found out again by as many clients, twice as rarely
/// each time.
#[test]
fn a_cause_that_returns_is_held_longer() {
    let mut lan = Cluster::new(3);
    lan.deafen_all();
    let mut entries = vec![];
    let mut surplus = 0;
    for tick in 0..3_000u64 {
        let conn = lan.connect(80);
        let before = lan.node(0).counters().fallbacks;
        lan.run(ms(50));
        surplus += lan.syn_acks(conn).len() - 1;
        if lan.node(0).counters().fallbacks > before {
            entries.push(tick / 20);
        }
    }
    let gaps: Vec<_> = entries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() >= 3, "{entries:?}");
    for (gap, hold) in gaps.iter().zip([10, 20, 40]) {
        // What the others let slip through meanwhile may keep it up a little longer.
        assert!((hold..hold * 2).contains(gap), "{gaps:?}");
    }
    println!("{surplus} duplicates among 3000 connections, entered at {entries:?}");
    assert!(surplus < 60, "{surplus}");
}

/// A restart during total claim loss: with its roster a host goes on to serve its share,
/// without it believes that it is alone.
#[test]
fn a_host_without_its_roster_answers_everything() {
    for kept in [true, false] {
        let mut lan = known(3, Mode::Hash);
        lan.deafen_all();
        lan.run(SECOND);
        for host in 0..3 {
            if kept {
                lan.keep_roster(host);
            }
            lan.crash(host);
            lan.restart(host);
        }
        lan.run(ms(1_100));
        let conns = connect(&mut lan, 100);
        let answers: usize = conns.iter().map(|&conn| lan.syn_acks(conn).len()).sum();
        assert_eq!(answers, if kept { 100 } else { 300 });
        assert!(conns.iter().all(|&conn| lan.syns(conn) == 1));
    }
}

/// The same while it still listens: others may serve its share, so it answers nothing.
#[test]
fn a_host_that_listens_answers_nothing_that_its_roster_may_answer() {
    let mut lan = known(3, Mode::Hash);
    lan.deafen_all();
    lan.run(SECOND);
    lan.keep_roster(0);
    lan.crash(0);
    lan.restart(0);
    let conns: Vec<_> = (0..100).map(|_| lan.connect(80)).collect();
    lan.run(ms(900));
    assert!(!lan.node(0).joined());
    for &conn in &conns {
        let first = lan.by_hash(conn)[0];
        let expected = if first == 0 { vec![] } else { vec![first] };
        assert_eq!(lan.syn_acks(conn), expected);
    }
    lan.run(SECOND * 3);
    assert!(conns.iter().all(|&conn| lan.syn_acks(conn).len() == 1 && lan.syns(conn) <= 2));
}

/// Whom a restarted host hears without being heard is still there, and serves its share.
#[test]
fn a_restarted_mute_host_keeps_to_its_share() {
    let mut lan = known(2, Mode::Hash);
    lan.cut(1, 0);
    lan.keep_roster(1);
    lan.crash(1);
    lan.run(SECOND * 4);
    lan.restart(1);
    lan.run(ms(1_100));
    assert_eq!(lan.node(1).hearing().count(), 1);
    assert_eq!(lan.node(1).peers().count(), 0);
    let conns = connect(&mut lan, 60);
    for conn in conns {
        assert_eq!(lan.syn_acks(conn), [lan.by_hash(conn)[0]]);
    }
}

/// A host that starts beside hosts that decide by hash disturbs nobody while it listens.
#[test]
fn rolling_restarts_by_hash_answer_each_syn_once() {
    let mut lan = known(3, Mode::Hash);
    for host in 0..3 {
        lan.keep_roster(host);
        lan.crash(host);
        lan.run(ms(500));
        lan.restart(host);
        let mut conns = vec![];
        for _ in 0..150 {
            conns.push(lan.connect(80));
            lan.run(ms(10));
        }
        lan.run(SECOND * 4);
        assert_eq!(duplicates(&lan, &conns), 0);
        assert!(conns.iter().all(|&conn| lan.syns(conn) <= 2));
    }
}

/// In automatic mode a host that starts amid total claim loss claims first, and is led
/// into the hash rule by its first clients as the others were.
#[test]
fn an_automatic_host_that_starts_amid_the_loss_finds_out() {
    let mut lan = Cluster::new(3);
    lan.deafen_all();
    connect(&mut lan, 30);
    lan.keep_roster(0);
    lan.crash(0);
    lan.restart(0);
    lan.run(ms(1_100));
    let conns = connect(&mut lan, 60);
    let surplus = duplicates(&lan, &conns);
    assert!((1..=8).contains(&surplus), "{surplus}");
    assert!(lan.node(0).by_hash());
    let last = &conns[40..];
    assert_eq!(duplicates(&lan, last), 0);
}

fn overload() -> Load {
    Load { window: ms(100), busy: 900, overflowed: 0, syns: 10_000 }
}

fn calm() -> Load {
    Load { window: ms(100), busy: 10, overflowed: 0, syns: 10 }
}

/// The kernel knows buckets and no listeners, so where these differ it is not asked.
#[test]
fn the_kernel_divides_no_port_that_only_some_hosts_serve() {
    let mut lan = Cluster::new(3);
    let undivided = |lan: &Cluster| {
        lan.hosts.iter().map(|host| host.share.undivided.clone()).collect::<Vec<_>>()
    };
    let this = BTreeSet::from([ServicePort::tcp((VIP, 80))]);
    let none = BTreeSet::new();
    lan.listen(1, 80, Listener::Absent);
    lan.look(1, 80);
    lan.run(ms(100));
    assert_eq!(undivided(&lan), [&this; 3].map(Clone::clone));
    for host in [0, 2] {
        lan.listen(host, 80, Listener::Absent);
        lan.look(host, 80);
    }
    lan.run(ms(100));
    assert_eq!(undivided(&lan), [&none; 3].map(Clone::clone), "nobody serves it");
    lan.listen(1, 80, Listener::Ready);
    lan.look(1, 80);
    lan.run(ms(100));
    assert_eq!(undivided(&lan), [&this; 3].map(Clone::clone));
    lan.crash(1);
    lan.run(SECOND * 4);
    assert_eq!(undivided(&lan)[0], none);
}

/// Somebody who tries all ports does not make a host forget the one that others serve.
#[test]
fn closed_ports_do_not_displace_one_that_only_some_hosts_serve() {
    let mut lan = Cluster::new(3);
    lan.listen(1, 80, Listener::Absent);
    lan.look(1, 80);
    let conns = connect(&mut lan, 5);
    assert_eq!(duplicates(&lan, &conns), 0);
    for port in 1_000..1_300 {
        lan.listen(1, port, Listener::Absent);
        lan.look(1, port);
        lan.run(us(100));
    }
    lan.run(ms(100));
    let undivided = &lan.hosts[0].share.undivided;
    assert!(
        undivided.contains(&ServicePort::tcp((VIP, 80))) && undivided.len() == 64,
        "{undivided:?}"
    );
}

/// Modes may be mixed: an overloaded host serves by hash, the others claim the rest.
#[test]
fn one_host_by_hash_and_two_by_claims_answer_each_syn_once() {
    let mut lan = Cluster::new(3);
    lan.load(0, &overload());
    // From the very moment on, not only when all have heard of it.
    let conns: Vec<_> = (0..300)
        .map(|_| {
            lan.run(us(500));
            lan.connect(80)
        })
        .collect();
    lan.run(SECOND * 4);
    assert!(lan.node(0).by_hash() && lan.hosts[0].share.decide_syns);
    assert!((1..3).all(|host| !lan.node(host).by_hash()));
    for host in 1..3 {
        assert_eq!(count(&lan, host, Notice::PeerMode { node: NodeId(1), hash: true }), 1);
    }
    assert_eq!(duplicates(&lan, &conns), 0);
    for &conn in &conns {
        assert_eq!(lan.syns(conn), 1);
        // No longer than a slot and a settling time.
        assert!(lan.waited(conn) < Some(us(2_200)), "{:?}", lan.waited(conn));
    }
    // Once all know, nobody waits at all.
    for &conn in &conns[150..] {
        let by_hash = lan.by_hash(conn)[0] == 0;
        assert_eq!(lan.accepted_by(conn) == [0], by_hash);
        assert!(lan.waited(conn) < Some(us(200)), "{:?}", lan.waited(conn));
    }
    // A flood must not be multiplied.
    assert!(lan.said.iter().all(|said| said.host != 0));

    for _ in 0..120 {
        lan.load(0, &calm());
        lan.run(ms(100));
    }
    assert!(!lan.node(0).by_hash() && !lan.hosts[0].share.decide_syns);
    let after = connect(&mut lan, 60);
    assert_eq!(duplicates(&lan, &after), 0);
    assert!(after.iter().all(|&conn| lan.accepted_by(conn) == lan.by_weight(conn)[..1]));
}

/// Whoever is left of the cluster serves all of it, also under overload.
#[test]
fn an_overloaded_host_passes_over_who_is_gone() {
    let mut lan = Cluster::new(3);
    lan.crash(1);
    lan.crash(2);
    lan.run(SECOND * 4);
    lan.load(0, &overload());
    let conns = connect(&mut lan, 50);
    assert!(conns.iter().all(|&conn| lan.syns(conn) == 1 && lan.syn_acks(conn) == [0]));
}

/// A mute host learns it from the others' reports and goes last.
#[test]
fn a_mute_host_notices_and_goes_last() {
    let mut lan = Cluster::new(3);
    lan.cut(0, 1);
    lan.cut(0, 2);
    lan.run(ms(1_300));
    assert!(lan.node(0).causes().eq([Cause::Mute]));
    assert!(
        count(&lan, 0, Notice::Fallback { cause: Cause::Mute, active: true, by_hash: true }) == 1
    );
    // While the others still remember it, and when they have forgotten it.
    for _ in 0..3 {
        let conns = connect(&mut lan, 60);
        assert_eq!(duplicates(&lan, &conns), 0);
        assert!(conns.iter().all(|&conn| lan.syns(conn) == 1));
        assert!(conns.iter().all(|&conn| lan.accepted_by(conn) != [0]));
        assert!(conns.iter().all(|&conn| lan.waited(conn) < Some(us(2_200))));
    }
    assert!((1..3).all(|host| lan.node(host).peers().count() == 1));
    lan.heal();
    lan.run(SECOND * 12);
    assert!(!lan.node(0).by_hash());
    let conns = connect(&mut lan, 60);
    assert_eq!(duplicates(&lan, &conns), 0);
    assert!(conns.iter().any(|&conn| lan.accepted_by(conn) == [0]));
}

/// Clients come all the time: the others find out too that they do not hear somebody.
#[test]
fn a_host_that_goes_mute_under_load_costs_few_duplicates() {
    let mut lan = Cluster::new(3);
    lan.cut(0, 1);
    lan.cut(0, 2);
    let (mut early, mut late) = (0, 0);
    for round in 0..400 {
        let conn = lan.connect(80);
        lan.run(ms(50));
        let surplus = lan.syn_acks(conn).len().saturating_sub(1);
        if round < 40 {
            early += surplus;
        } else {
            late += surplus;
        }
    }
    println!("{early} duplicates among the first 40 connections, {late} among the next 360");
    assert!(early <= 30 && late == 0, "{early} {late}");
    lan.heal();
    lan.run(SECOND * 30);
    assert!((0..3).all(|host| !lan.node(host).by_hash()));
    let conns = connect(&mut lan, 60);
    assert_eq!(duplicates(&lan, &conns), 0);
}

/// A deaf host answers what it should not, until its clients show it that.
#[test]
fn a_deaf_host_finds_out_by_its_clients() {
    let mut lan = Cluster::new(3);
    lan.cut(1, 0);
    lan.cut(2, 0);
    let (mut early, mut late) = (0, 0);
    for round in 0..200 {
        let conn = lan.connect(80);
        lan.run(ms(50));
        let surplus = lan.syn_acks(conn).len().saturating_sub(1);
        if round < 40 {
            early += surplus;
        } else {
            late += surplus;
        }
    }
    println!("{early} duplicates among the first 40 connections, {late} among the next 160");
    assert!(early <= 20 && late == 0, "{early} {late}");
    assert!(lan.node(0).causes().any(|cause| cause == Cause::Deaf));
    assert_eq!(lan.node(1).peers().count(), 2, "the others hear it");
    lan.heal();
    lan.run(SECOND * 14);
    assert!((0..3).all(|host| !lan.node(host).by_hash()));
    let conns = connect(&mut lan, 60);
    assert_eq!(duplicates(&lan, &conns), 0);
}

/// A partition of the hosts that the clients do not see: each side finds out.
#[test]
fn both_sides_of_a_partition_share_by_hash_until_it_heals() {
    let mut lan = Cluster::new(3);
    lan.part(&[2]);
    let (mut early, mut late) = (0, 0);
    for round in 0..200 {
        let conn = lan.connect(80);
        lan.run(ms(50));
        let surplus = lan.syn_acks(conn).len().saturating_sub(1);
        if round < 60 {
            early += surplus;
        } else {
            late += surplus;
        }
    }
    println!("{early} duplicates among the first 60 connections, {late} among the next 140");
    assert!(early <= 30 && late == 0, "{early} {late}");
    lan.heal();
    lan.run(SECOND * 14);
    assert!((0..3).all(|host| !lan.node(host).by_hash()));
    assert!((0..3).all(|host| lan.node(host).peers().count() == 2));
    let conns = connect(&mut lan, 60);
    assert_eq!(duplicates(&lan, &conns), 0);
}

/// What is not promised: a host that nobody has ever heard cannot tell those whom it hears
/// from recordings, and so goes on as if it were alone. Each connection is good all the same.
#[test]
fn a_host_that_is_mute_from_its_start_costs_duplicates_and_no_connection() {
    let mut lan = Cluster::booting(3, Pacing::Rank, 5);
    lan.cut(0, 1);
    lan.cut(0, 2);
    lan.run(SECOND * 2);
    assert_eq!((lan.node(0).hearing().count(), lan.node(0).peers().count()), (2, 0));
    let conns = connect(&mut lan, 100);
    assert!(duplicates(&lan, &conns) <= 100 + 12);
    // Heard once, it knows; and stays on the roster from then on.
    lan.heal();
    lan.run(SECOND * 14);
    let conns = connect(&mut lan, 100);
    assert_eq!(duplicates(&lan, &conns), 0);
}
