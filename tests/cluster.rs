//! Stories of a small cluster. Each names the invariant or promise it defends.

mod common;

use clusterd::flow::{NodeId, ServicePort};
use clusterd::protocol::{Listener, Mode, Notice, Pacing};
use clusterd::wire::Entry;
use common::cluster::{Cluster, Kernel, Outcome, VIP, ms, us};

/// I11: without loss, each connection has one SYN-ACK, one OWN and no CLAIM.
#[test]
fn a_quiet_cluster_says_one_own_for_each_connection() {
    let mut lan = Cluster::new(4);
    let conns: Vec<_> = (0..100).map(|_| lan.connect(80)).collect();
    lan.run(ms(600));
    assert_eq!((lan.claims(), lan.owns(), lan.releases()), (0, 100, 0));
    for conn in conns {
        assert_eq!(lan.syn_acks(conn), [lan.by_weight(conn)[0]]);
        assert_eq!(lan.accepted_by(conn), lan.syn_acks(conn));
        assert!(lan.waited(conn) < Some(us(200)));
    }
    assert_eq!(lan.held(), 0);
}

/// Spec 5.1: equal hosts serve equal shares.
#[test]
fn equal_hosts_serve_equal_shares() {
    let mut lan = Cluster::new(4);
    let conns: Vec<_> = (0..2_000).map(|_| lan.connect(80)).collect();
    lan.run(ms(100));
    let served = |host| conns.iter().filter(|&&conn| lan.accepted_by(conn) == [host]).count();
    let shares: Vec<_> = (0..4).map(served).collect();
    assert!(shares.iter().all(|share| (440..560).contains(share)), "{shares:?}");
}

/// L1: a dead rank 0 costs a new connection one slot and one settling time.
#[test]
fn the_next_rank_takes_over_one_slot_after_a_dead_one() {
    let mut lan = Cluster::new(3);
    let port = lan.port_for(0, 80);
    lan.crash(0);
    let conn = lan.connect_from(port, 80);
    lan.run(ms(10));
    assert_eq!(lan.syn_acks(conn), [lan.by_weight(conn)[1]]);
    assert!(lan.waited(conn) < Some(us(2_500)), "{:?}", lan.waited(conn));
}

/// Race 11: a claim without OWN binds the others for T_own only.
#[test]
fn a_claimant_that_dies_is_followed_after_t_own() {
    let mut lan = Cluster::with(3, Pacing::Race, 1);
    let conn = lan.connect(80);
    lan.run(us(900));
    let winner = best_claimant(&lan);
    lan.crash(winner);
    lan.run(ms(30));
    assert_eq!(lan.syn_acks(conn).len(), 1);
    assert_ne!(lan.syn_acks(conn), [winner]);
    let waited = lan.waited(conn).unwrap();
    assert!(waited > ms(20) && waited < ms(24), "{waited:?}");
}

/// S1: claims that cross are settled by content within D.
#[test]
fn crossing_claims_settle_to_one() {
    let mut lan = Cluster::with(4, Pacing::Race, 7);
    lan.segment.delay = (us(100), us(110));
    for _ in 0..20 {
        let conn = lan.connect(80);
        lan.run(ms(30));
        assert_eq!(lan.syn_acks(conn).len(), 1);
        assert_eq!(lan.accepted_by(conn), lan.syn_acks(conn));
    }
    assert!(lan.claims() > 40, "{} claims: none crossed", lan.claims());
}

/// Race 7: a claim that got lost is said again to whoever claims after it.
#[test]
fn a_lost_claim_is_said_again() {
    let mut lan = Cluster::pinned(2, Pacing::Race, Mode::Claim);
    lan.segment.delay = (us(40), us(40));
    let mut better = 0;
    for _ in 0..20 {
        lan.said.clear();
        lan.cut(0, 1);
        let conn = lan.connect(80);
        // Both have claimed, and only host 0 will hear of the other.
        lan.run(us(60));
        lan.mend(0, 1);
        lan.run(ms(50));
        better += usize::from(best_claimant(&lan) == 0 && lan.claims() > 2);
        assert_eq!(lan.syn_acks(conn), [best_claimant(&lan)]);
        lan.run(ms(250));
    }
    assert!(better > 0, "no lost claim was the better one");
}

/// Spec 6.1: all frames of a turn are heard before anything is decided by time.
#[test]
fn a_late_turn_hears_everything_before_it_decides() {
    let mut lan = Cluster::new(3);
    lan.segment.delay = (us(50), us(50));
    lan.listen(0, 80, Listener::Busy);
    let port = lan.port_for_order(&[0, 1, 2], 80);
    let conn = lan.connect_from(port, 80);
    lan.run(us(60));
    // Its turn has passed when it hears that host 0 passes and host 1 has answered.
    lan.pause(2, ms(5));
    lan.run(ms(50));
    assert_eq!((lan.syn_acks(conn), lan.claims()), (vec![1], 0));
}

/// I4: after a SYN-ACK a better claim destroys nothing.
#[test]
fn a_late_better_claim_undoes_nothing() {
    let mut lan = Cluster::pinned(2, Pacing::Race, Mode::Claim);
    lan.segment.client_delay = (ms(4), ms(4));
    let mut better = 0;
    for _ in 0..20 {
        // Host 0 claims after host 1 has answered, and does not hear its OWN.
        lan.pause(0, ms(3));
        lan.cut(1, 0);
        let conn = lan.connect(80);
        lan.said.clear();
        lan.run(ms(50));
        lan.mend(1, 0);
        lan.run(ms(250));
        assert_eq!(lan.claims(), 2);
        better += usize::from(best_claimant(&lan) == 0);
        assert_eq!(lan.syn_acks(conn), [1, 0]);
        assert_eq!((lan.accepted_by(conn), lan.half_open(conn)), (vec![1], vec![]));
    }
    assert!(better > 0, "no late claim was the better one");
}

/// Race 16: the owner re-asserts a retransmitted SYN; nobody else answers it.
#[test]
fn a_retransmitted_syn_is_answered_by_its_owner() {
    let mut lan = Cluster::new(3);
    let conn = lan.connect(80);
    lan.run(us(30));
    for _ in 0..3 {
        lan.repeat_syn(conn);
        lan.run(ms(30));
    }
    let owner = lan.by_weight(conn)[0];
    assert!(lan.syn_acks(conn).iter().all(|&host| host == owner), "{:?}", lan.syn_acks(conn));
    assert!(lan.owns() > 1);
    assert_eq!((lan.claims(), lan.held()), (0, 0));
}

/// Race 8: who takes a retransmitted SYN over claims first, so the owner can object.
#[test]
fn an_owner_unheard_for_a_while_keeps_its_attempt() {
    let mut lan = Cluster::new(2);
    lan.segment.client_delay = (ms(100), ms(100));
    let port = lan.port_for(0, 80);
    let conn = lan.connect_from(port, 80);
    lan.run(ms(30));
    lan.cut(0, 1);
    lan.repeat_syn(conn);
    lan.run(ms(10));
    lan.mend(0, 1);
    lan.run(ms(500));
    assert!(lan.syn_acks(conn).iter().all(|&host| host == 0), "{:?}", lan.syn_acks(conn));
    assert_eq!((lan.claims(), lan.node(1).counters().takeovers), (1, 1));
}

/// Race 17: the retransmission of a dead owner's half-open attempt is taken over.
#[test]
fn a_dead_owners_attempt_is_taken_over_at_the_next_syn() {
    let mut lan = Cluster::new(3);
    let port = lan.port_for(2, 80);
    // The kernel answers but its SYN-ACK is lost: the host dies at that moment.
    lan.segment.delay = (us(50), us(50));
    let conn = lan.connect_from(port, 80);
    lan.run(us(60));
    lan.lose_answers(conn);
    lan.crash(2);
    lan.run(ms(1_100));
    assert_eq!(lan.accepted_by(conn), [lan.by_weight(conn)[1]]);
    assert!(lan.waited(conn) < Some(ms(1_030)), "{:?}", lan.waited(conn));
}

/// Race 21: a reused port goes to the host that still tracks the old connection.
#[test]
fn a_reused_port_goes_to_the_incumbent() {
    let mut lan = Cluster::with(3, Pacing::Race, 1);
    for _ in 0..10 {
        let first = lan.connect(80);
        lan.run(ms(12_000));
        let incumbent = lan.accepted_by(first);
        // Another one hears the SYN first, but all have claimed before they hear each other.
        lan.segment.delay = (us(20), us(30));
        let second = lan.reconnect(first);
        lan.run(ms(50));
        assert_eq!((lan.accepted_by(second), lan.syn_acks(second)), (incumbent.clone(), incumbent));
    }
}

/// Race 21 in rank pacing: a first rank that knows nothing of an incumbent elsewhere
/// answers too. The client chooses one; the connection is good all the same (S0).
#[test]
fn an_incumbent_and_the_first_rank_leave_it_to_the_client() {
    let mut lan = Cluster::new(3);
    let port = lan.port_for(0, 80);
    lan.pause(0, ms(200));
    let first = lan.connect_from(port, 80);
    lan.run(ms(12_000));
    let incumbent = lan.accepted_by(first)[0];
    let second = lan.reconnect(first);
    lan.run(ms(50));
    let mut answered = lan.syn_acks(second);
    assert_eq!(lan.accepted_by(second), answered[..1]);
    answered.sort_unstable();
    assert_eq!(answered, [0, incumbent]);
    assert_eq!((lan.half_open(second), lan.resets(second)), (vec![], 0));
}

/// Race 22: an incumbent that missed the new attempt leaves it to its owner.
#[test]
fn an_incumbent_that_was_overtaken_is_none_any_more() {
    let mut lan = Cluster::new(2);
    let port = lan.port_for(0, 80);
    let first = lan.connect_from(port, 80);
    lan.run(ms(12_000));
    assert_eq!(lan.accepted_by(first), [0]);
    lan.segment.client_delay = (ms(100), ms(100));
    lan.pause(0, ms(30));
    let second = lan.reconnect(first);
    lan.run(ms(50));
    lan.repeat_syn(second);
    lan.run(ms(500));
    assert_eq!((lan.accepted_by(second), lan.claims()), (vec![1], 1));
    assert!(lan.syn_acks(second).iter().all(|&host| host == 1), "{:?}", lan.syn_acks(second));
}

/// Race 12, I8: a host without a listener never claims and slows nobody down.
#[test]
fn a_host_without_a_listener_leaves_the_port_to_the_others() {
    let mut lan = Cluster::new(3);
    lan.listen(0, 443, Listener::Absent);
    let port = lan.port_for(0, 443);
    for round in 0..20 {
        let conn = lan.connect_from(port + 1_000 * round, 443);
        lan.run(ms(100));
        assert_ne!(lan.accepted_by(conn), [0]);
        assert_eq!(lan.accepted_by(conn).len(), 1);
        assert!(lan.waited(conn) < Some(us(2_500)), "{:?}", lan.waited(conn));
    }
    let spoke = |said: &&common::cluster::Said| {
        said.host == 0 && matches!(said.entry, Entry::Claim(_) | Entry::Own(_))
    };
    assert_eq!(lan.said.iter().filter(spoke).count(), 0);
}

/// Spec 5.2: a port that nobody serves is refused promptly, by one RST.
#[test]
fn a_port_that_nobody_serves_is_refused_once() {
    let mut lan = Cluster::new(3);
    for host in 0..3 {
        lan.listen(host, 81, Listener::Absent);
    }
    // No HELLO has just left, after which the next one has to wait.
    lan.run(ms(50));
    for _ in 0..5 {
        let conn = lan.connect(81);
        lan.run(ms(200));
        assert_eq!((lan.outcome(conn), lan.resets(conn)), (Outcome::Refused, 1));
        assert!(lan.waited(conn) < Some(ms(2)), "{:?}", lan.waited(conn));
    }
    assert_eq!((lan.claims(), lan.held()), (0, 0));
}

/// I2: the RST of a kernel whose listener has just gone is withheld while others serve.
#[test]
fn a_listener_that_vanishes_refuses_nobody() {
    let mut lan = Cluster::new(3);
    lan.look(0, 80);
    lan.hosts[0].blind = true;
    lan.listen(0, 80, Listener::Absent);
    let port = lan.port_for(0, 80);
    let conn = lan.connect_from(port, 80);
    lan.run(ms(50));
    assert_eq!((lan.resets(conn), lan.accepted_by(conn).len()), (0, 1));
    assert_ne!(lan.accepted_by(conn), [0]);
    assert_eq!(lan.node(0).counters().refused, 1);
    assert!(lan.hosts[0].notices.contains(&Notice::ServiceDown(ServicePort::tcp((VIP, 80)))));
}

/// I2: the only host that serves the port is late, longer than others wait: it answers the next SYN.
#[test]
fn who_does_not_serve_a_port_refuses_nobody_whom_a_late_host_serves() {
    let mut lan = Cluster::new(3);
    for host in [1, 2] {
        lan.listen(host, 80, Listener::Absent);
        lan.look(host, 80);
    }
    lan.run(ms(50));
    lan.pause(0, ms(300));
    let conn = lan.connect(80);
    lan.run(ms(299));
    let left: u64 = [1, 2].map(|host| lan.node(host).counters().left_to_peers).iter().sum();
    assert_eq!((lan.resets(conn), left), (0, 2));
    lan.run(ms(1_000));
    assert_eq!((lan.accepted_by(conn), lan.resets(conn)), (vec![0], 0));
}

/// I8: a claimant whose listener goes away while it settles passes, and nobody is refused.
#[test]
fn a_listener_that_goes_while_its_claim_settles_is_not_counted_on() {
    let mut lan = Cluster::with(3, Pacing::Race, 1);
    let conn = lan.connect(80);
    lan.run(us(500));
    let claimant = best_claimant(&lan);
    lan.listen(claimant, 80, Listener::Absent);
    lan.look(claimant, 80);
    lan.run(ms(50));
    assert_eq!((lan.accepted_by(conn).len(), lan.resets(conn), lan.releases()), (1, 0, 1));
    assert_eq!(lan.node(claimant).counters().accepted, 0);
}

/// Race 12: a full accept queue hands the turn on at once.
#[test]
fn a_busy_host_passes() {
    let mut lan = Cluster::new(3);
    lan.listen(0, 80, Listener::Busy);
    let port = lan.port_for(0, 80);
    let conn = lan.connect_from(port, 80);
    lan.run(ms(50));
    assert_eq!(lan.accepted_by(conn), [lan.by_weight(conn)[1]]);
    assert!(lan.waited(conn) < Some(us(300)), "{:?}", lan.waited(conn));
    assert_eq!((lan.releases(), lan.claims()), (1, 0));
}

/// Race 12: a kernel that swallows the SYN costs its turn, not the connection.
#[test]
fn a_mute_kernel_is_passed_over() {
    let mut lan = Cluster::new(3);
    lan.hosts[0].kernel = Kernel::Silent;
    let port = lan.port_for(0, 80);
    let conn = lan.connect_from(port, 80);
    lan.run(ms(50));
    assert_eq!(lan.accepted_by(conn).len(), 1);
    assert!(lan.waited(conn) < Some(ms(8)), "{:?}", lan.waited(conn));
    assert_eq!(lan.node(0).counters().mute, 1);
}

/// S0: with every claim lost all hosts answer, the client chooses, nobody resets.
#[test]
fn total_claim_loss_costs_packets_and_no_connection() {
    let mut lan = Cluster::booting(3, Pacing::Rank, 3);
    lan.deafen_all();
    lan.run(ms(1_500));
    for _ in 0..50 {
        let conn = lan.connect(80);
        lan.run(ms(20));
        assert_eq!(lan.syn_acks(conn).len(), 3);
        assert_eq!(lan.accepted_by(conn), lan.syn_acks(conn)[..1]);
        assert_eq!((lan.half_open(conn), lan.resets(conn)), (vec![], 0));
    }
    let not_chosen: u64 = (0..3).map(|host| lan.node(host).counters().not_chosen).sum();
    assert_eq!(not_chosen, 100);
}

/// Spec 6.5: a starting node listens before it claims.
#[test]
fn a_joining_host_only_listens_first() {
    let mut lan = Cluster::new(2);
    let newcomer = lan.join();
    let mut serve = |time| {
        let conn = lan.connect(80);
        lan.run(time);
        lan.accepted_by(conn)
    };
    assert!((0..45).all(|_| serve(ms(20)) != [2]));
    let later: Vec<_> = (0..60).map(|_| serve(ms(20))).collect();
    assert!(later.contains(&vec![newcomer]));
    assert!(later.iter().all(|served| served.len() == 1));
}

/// L1: a host that is alone serves from the start, even while it listens.
#[test]
fn a_lonely_host_serves_at_once() {
    let mut lan = Cluster::booting(1, Pacing::Rank, 1);
    let early = lan.connect(80);
    lan.run(ms(1_200));
    let later = lan.connect(80);
    lan.run(ms(10));
    assert!(lan.waited(early) < Some(ms(50)), "{:?}", lan.waited(early));
    assert!(lan.waited(later) < Some(us(200)), "{:?}", lan.waited(later));
}

/// Spec 6.5: a leaving host is not waited for.
#[test]
fn after_a_leave_nobody_waits_for_the_leaver() {
    let mut lan = Cluster::new(3);
    let port = lan.port_for(0, 80);
    lan.leave(0);
    lan.run(ms(60));
    let conn = lan.connect_from(port, 80);
    lan.run(ms(10));
    assert!(lan.waited(conn) < Some(us(200)), "{:?}", lan.waited(conn));
    assert!(lan.hosts[1].notices.contains(&Notice::PeerLeft(NodeId(1))));
}

/// Spec 6.5: a silent host is suspected, then forgotten; heard again, it is back.
#[test]
fn a_silent_host_is_suspected_and_comes_back() {
    let mut lan = Cluster::new(3);
    lan.pause(0, ms(1_200));
    lan.run(ms(1_100));
    let conn = lan.connect_from(lan.port_for(0, 80), 80);
    lan.run(ms(50));
    assert!(lan.waited(conn) < Some(us(200)), "{:?}", lan.waited(conn));
    assert!(lan.hosts[1].notices.contains(&Notice::PeerSuspect(NodeId(1))));
    lan.run(ms(300));
    assert!(lan.hosts[1].notices.contains(&Notice::PeerBack(NodeId(1))));
}

/// Race 27: a host that slept over its SYNs answers none of them late.
#[test]
fn a_host_that_slept_drops_what_it_held() {
    let mut lan = Cluster::with(2, Pacing::Race, 1);
    lan.cut(0, 1);
    lan.cut(1, 0);
    let conn = lan.connect(80);
    lan.run(us(500));
    lan.pause(0, ms(2_000));
    lan.run(ms(2_500));
    assert_eq!(lan.accepted_by(conn), [1]);
    assert_eq!(lan.syn_acks(conn), [1]);
    assert_eq!(lan.node(0).counters().stale, 1);
}

/// Race 28: of two hosts under one id the one that has it longer takes another, once.
#[test]
fn a_duplicate_node_id_is_noticed_and_given_up() {
    let mut lan = Cluster::new(2);
    let twin = lan.join_as(NodeId(1));
    lan.run(ms(3_000));
    let gave_up = |host: usize| {
        let is = |notice: &&Notice| matches!(notice, Notice::DuplicateNodeId { .. });
        lan.hosts[host].notices.iter().filter(is).count()
    };
    assert_eq!((gave_up(0), gave_up(1), gave_up(twin)), (1, 0, 0));
    assert_eq!(lan.node(twin).id(), NodeId(1));
    assert_ne!(lan.node(0).id(), NodeId(1));
    for host in 0..3 {
        assert_eq!(lan.node(host).peers().count(), 2, "everybody counts everybody");
    }
}

/// I10: a cluster without SYNs says HELLO and nothing else.
#[test]
fn silence_is_only_hellos() {
    let mut lan = Cluster::new(3);
    let before = lan.hellos;
    lan.run(ms(10_000));
    assert_eq!(lan.hellos - before, 3 * 40);
    assert!(lan.said.is_empty());
}

fn best_claimant(lan: &Cluster) -> usize {
    let claims = lan.said.iter().filter_map(|said| match said.entry {
        Entry::Claim(contest) => Some((said.host, contest)),
        Entry::Own(_)
        | Entry::Release(_)
        | Entry::Hello { .. }
        | Entry::HelloUdp { .. }
        | Entry::Heard { .. }
        | Entry::Vips { .. }
        | Entry::VipsTcp { .. }
        | Entry::VipsUdp { .. } => None,
    });
    let key = common::cluster::key();
    let order = |&(host, contest): &(usize, clusterd::wire::Contest)| {
        let tie_break = key.tie_break(contest.attempt, lan.hosts[host].id);
        (contest.tries, contest.rank, tie_break)
    };
    claims.min_by_key(order).expect("somebody claims").0
}
