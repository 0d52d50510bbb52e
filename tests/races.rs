//! Races as one node meets them: what the others say, and when, is written out.
//!
//! The node of these stories has two peers that it has known for a while; its
//! flow ranks it first. `rules.txt` of the mutation check names the rule that
//! each test defends.

mod common;

use clusterd::flow::{AttemptId, NodeId, ServicePort};
use clusterd::protocol::{Instant, Listener, Load, Mode, Pacing, Verdict};
use clusterd::wire::{Contest, Entry, Flags, Header, Report};
use common::cluster::{Cluster, key, ms, us};
use common::driver::{Driver, Op, datagrams, flow};

const ME: NodeId = NodeId(0);
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
/// Somebody who has not shown that it hears anybody.
const STRANGER: NodeId = NodeId(3);
/// The client's sequence number.
const ISN: u32 = 0;

/// A node among peers.
struct Story {
    driver: Driver,
    flow: u16,
    attempt: AttemptId,
    port: u16,
    sequence: u64,
}

impl Story {
    /// Everybody has been there for a while.
    fn new(pacing: Pacing) -> Self {
        let mut story = Self::alone(pacing);
        story.say(A, []);
        story.say(B, []);
        story.pass(100);
        story
    }

    fn alone(pacing: Pacing) -> Self {
        let weight = |number, node| key().weight(key().flow(&flow(number)), node);
        let mine = |&number: &u16| {
            [A, B].into_iter().all(|node| weight(number, ME) > weight(number, node))
        };
        let number = (0..).find(mine).expect("a flow that ranks this node first");
        let mut driver = Driver::new(ME, pacing, Mode::Auto);
        driver.run(ms(1_100));
        let attempt = key().attempt(&flow(number), ISN);
        let port = flow(number).service.port();
        Self { driver, flow: number, attempt, port, sequence: 0 }
    }

    /// The same about a flow of datagrams.
    fn datagrams() -> Self {
        let mut story = Self::new(Pacing::Rank);
        let weight = |number, node| key().weight(key().flow(&datagrams(number)), node);
        let mine = |&number: &u16| {
            [A, B].into_iter().all(|node| weight(number, ME) > weight(number, node))
        };
        story.flow = (0..).find(mine).expect("a flow that ranks this node first");
        story.attempt = key().attempt(&datagrams(story.flow), 0);
        story.port = datagrams(story.flow).service.port();
        story
    }

    fn datagram(&mut self) {
        self.driver.apply(Op::Datagram { flow: self.flow });
    }

    fn syn(&mut self) {
        self.syn_of(ISN, false);
    }

    fn syn_of(&mut self, isn: u32, incumbent: bool) {
        self.driver.apply(Op::Syn { flow: self.flow, isn, incumbent });
    }

    fn say(&mut self, node: NodeId, entries: impl Into<Vec<Entry>>) {
        self.sequence += 1;
        self.frame(node, self.sequence, false, entries);
    }

    fn frame(
        &mut self,
        node: NodeId,
        sequence: u64,
        joining: bool,
        entries: impl Into<Vec<Entry>>,
    ) {
        // A peer of minor version 0 is believed at once.
        let flags = Flags { joining, ..Flags::default() };
        let header = Header { minor: 0, flags, ..Header::new(node, 1, sequence) };
        self.driver.apply(Op::Frame { header, entries: entries.into() });
    }

    fn contest(&self, tries: u8, rank: u8) -> Contest {
        Contest { attempt: self.attempt, port: self.port, tries, rank }
    }

    fn claims(&mut self, node: NodeId, tries: u8, rank: u8) {
        let contest = self.contest(tries, rank);
        self.say(node, [Entry::Claim(contest)]);
    }

    fn owns(&mut self, node: NodeId) {
        let contest = self.contest(0, 1);
        self.say(node, [Entry::Own(contest)]);
    }

    /// The event loop runs for `millis`; 0 for one turn.
    fn pass(&mut self, millis: u64) {
        self.driver.run(ms(millis));
    }

    /// The claims that the node has made: try and rank.
    fn claimed(&self) -> Vec<(u8, u8)> {
        let claim = |entry: &Entry| match entry {
            Entry::Claim(contest) => Some((contest.tries, contest.rank)),
            _ => None,
        };
        self.driver.sent.iter().flat_map(|frame| &frame.entries).filter_map(claim).collect()
    }

    /// How often the node has said that it has answered.
    fn owned(&self) -> usize {
        let entries = self.driver.sent.iter().flat_map(|frame| &frame.entries);
        entries.filter(|entry| matches!(entry, Entry::Own(_))).count()
    }

    /// What became of the SYNs.
    fn verdicts(&self) -> Vec<Verdict> {
        self.driver.verdicts.iter().map(|&(_, verdict)| verdict).collect()
    }
}

#[test]
fn the_first_in_rank_accepts_at_once() {
    let mut story = Story::new(Pacing::Rank);
    story.syn();
    story.pass(0);
    assert_eq!((story.verdicts(), story.claimed()), (vec![Verdict::Accept], vec![]));
}

#[test]
fn a_later_try_loses_to_an_earlier_one() {
    let mut story = Story::new(Pacing::Race);
    story.syn();
    story.pass(0);
    story.claims(A, 1, 0);
    story.pass(2);
    assert_eq!(story.claimed(), [(0, 1), (0, 1)]);
    assert_eq!(story.verdicts(), [Verdict::Accept]);
}

#[test]
fn a_frame_of_the_same_turn_is_heard_before_anything_is_decided() {
    let mut story = Story::new(Pacing::Rank);
    story.syn();
    story.owns(A);
    story.pass(1);
    assert_eq!(story.verdicts(), [Verdict::Drop]);
}

#[test]
fn a_claim_is_said_again_once() {
    let mut story = Story::new(Pacing::Race);
    story.syn();
    story.pass(0);
    story.claims(A, 0, 9);
    story.claims(B, 0, 9);
    assert_eq!(story.claimed(), [(0, 1), (0, 1)]);
}

#[test]
fn who_has_accepted_answers_a_claim_by_its_own() {
    let mut story = Story::new(Pacing::Rank);
    story.syn();
    story.pass(0);
    story.claims(A, 0, 2);
    story.pass(0);
    assert_eq!((story.verdicts(), story.claimed()), (vec![Verdict::Accept], vec![(0, 1)]));
}

/// Or two of them would answer each other's answers until their kernels say something.
#[test]
fn who_has_accepted_answers_worse_claims_once() {
    let mut story = Story::new(Pacing::Rank);
    story.syn();
    story.pass(0);
    // It would not give way.
    story.claims(A, 0, 0);
    assert_eq!(story.claimed(), []);
    for _ in 0..3 {
        for node in [A, B] {
            story.claims(node, 0, 2);
            story.pass(0);
        }
    }
    assert_eq!((story.verdicts(), story.claimed()), (vec![Verdict::Accept], vec![(0, 1)]));
}

#[test]
fn while_frames_get_lost_nobody_accepts_without_a_claim() {
    let mut story = Story::new(Pacing::Rank);
    for node in [A, B] {
        story.sequence += 3;
        story.say(node, []);
        story.sequence += 3;
        story.say(node, []);
    }
    story.pass(100);
    story.syn();
    story.pass(0);
    assert_eq!((story.verdicts(), story.claimed()), (vec![], vec![(0, 1)]));
}

#[test]
fn the_others_keep_a_syn_until_its_claimant_has_answered() {
    let mut story = Story::new(Pacing::Race);
    story.syn();
    story.claims(A, 0, 0);
    story.pass(19);
    assert_eq!(story.verdicts(), []);
    story.pass(2);
    assert_eq!(story.claimed(), [(1, 1)]);
    story.pass(1);
    assert_eq!(story.verdicts(), [Verdict::Accept]);
}

/// Found by the swarm: who could not serve refused a SYN that another was about to accept.
#[test]
fn a_better_claim_of_a_peer_has_its_own_time() {
    let mut story = Story::new(Pacing::Race);
    story.syn();
    story.claims(A, 0, 1);
    story.pass(15);
    story.claims(B, 0, 0);
    story.pass(19);
    assert_eq!((story.verdicts(), story.claimed()), (vec![], vec![]));
    story.pass(2);
    assert_eq!(story.claimed(), [(1, 1)]);
}

/// However many better claims come, the packet is let go at T_stale.
#[test]
fn better_claims_do_not_hold_a_packet_for_ever() {
    let mut story = Story::new(Pacing::Rank);
    story.claims(A, 0, 255);
    story.syn();
    for rank in (0..40).rev() {
        story.pass(15);
        story.claims([A, B][usize::from(rank) % 2], 0, rank);
    }
    assert_eq!(story.verdicts(), [Verdict::Drop]);
}

#[test]
fn a_takeover_does_not_count_on_the_silent_claimant() {
    let mut lan = Cluster::new(3);
    // The first in rank claims, since its views have just changed.
    lan.listen(2, 443, Listener::Absent);
    lan.look(2, 443);
    lan.run(ms(1));
    let port = lan.port_for_order(&[0, 1, 2], 80);
    let conn = lan.connect_from(port, 80);
    lan.run(us(500));
    assert_eq!(lan.claims(), 1);
    lan.crash(0);
    lan.run(ms(30));
    assert_eq!(lan.accepted_by(conn), [1]);
    assert!(lan.waited(conn) > Some(ms(20)), "{:?}", lan.waited(conn));
    assert!(lan.waited(conn) < Some(ms(22)), "{:?}", lan.waited(conn));
}

#[test]
fn a_claimant_that_passes_is_not_waited_for() {
    let mut story = Story::new(Pacing::Rank);
    story.syn();
    story.claims(A, 0, 0);
    let release = Entry::Release(story.contest(0, 255));
    story.say(A, [release]);
    story.pass(2);
    assert_eq!(story.verdicts(), [Verdict::Accept]);
}

#[test]
fn an_answer_that_got_lost_is_sent_again_by_its_owner() {
    let mut lan = Cluster::new(3);
    lan.segment.client_delay = (ms(1), ms(1));
    let conn = lan.connect(80);
    lan.run(us(900));
    lan.lose_answers(conn);
    lan.run(ms(1_100));
    let owner = lan.by_weight(conn)[0];
    assert_eq!((lan.syn_acks(conn), lan.accepted_by(conn)), (vec![owner], vec![owner]));
    assert!(lan.waited(conn) < Some(ms(1_003)), "{:?}", lan.waited(conn));
}

#[test]
fn an_answer_heard_before_the_question_counts() {
    let mut story = Story::new(Pacing::Rank);
    story.owns(A);
    story.syn();
    story.pass(0);
    assert_eq!(story.verdicts(), [Verdict::Drop]);
}

#[test]
fn a_repeated_syn_waits_for_its_owner_and_is_a_further_try() {
    let mut story = Story::new(Pacing::Rank);
    story.syn();
    story.owns(A);
    story.pass(100);
    story.syn();
    story.pass(19);
    assert_eq!((story.verdicts(), story.claimed()), (vec![Verdict::Drop], vec![]));
    story.pass(2);
    // One for the repetition, one for the silent owner.
    assert_eq!(story.claimed(), [(2, 1)]);
}

/// Found by the swarm: the claims of a host that is late come in one batch with the SYN, and first.
#[test]
fn an_answer_to_the_repeated_syn_counts_though_it_is_heard_first() {
    let mut story = Story::new(Pacing::Rank);
    story.syn();
    story.owns(A);
    story.pass(100);
    story.owns(A);
    story.pass(20);
    story.syn();
    assert_eq!(story.verdicts(), [Verdict::Drop, Verdict::Drop]);
    story.pass(100);
    assert_eq!(story.claimed(), []);
    // It was a further try all the same.
    story.syn();
    story.pass(21);
    assert_eq!(story.claimed(), [(3, 1)]);
}

#[test]
fn an_owner_that_is_not_heard_any_more_is_not_waited_for() {
    let mut story = Story::new(Pacing::Rank);
    story.syn();
    story.owns(A);
    story.pass(700);
    story.say(B, []);
    story.pass(200);
    story.syn();
    story.pass(0);
    assert_eq!(story.claimed(), [(1, 1)]);
}

#[test]
fn one_copy_of_a_syn_is_held() {
    let mut story = Story::new(Pacing::Race);
    story.syn();
    story.syn();
    assert_eq!(story.verdicts(), [Verdict::Drop]);
    story.pass(0);
    story.syn();
    story.pass(2);
    assert_eq!(story.verdicts(), [Verdict::Drop, Verdict::Drop, Verdict::Accept]);
}

#[test]
fn what_the_kernel_tracks_from_the_first_syn_makes_no_incumbent_of_the_second() {
    let mut story = Story::new(Pacing::Rank);
    story.syn();
    story.owns(A);
    story.pass(100);
    story.syn_of(ISN, true);
    story.pass(19);
    assert_eq!((story.verdicts(), story.claimed()), (vec![Verdict::Drop], vec![]));
}

#[test]
fn a_new_sequence_number_is_a_new_attempt() {
    let mut story = Story::new(Pacing::Rank);
    story.syn();
    story.owns(A);
    story.syn_of(ISN + 1, false);
    story.pass(1);
    assert_eq!(story.verdicts(), [Verdict::Drop, Verdict::Accept]);
}

/// Two attempts of one flow, and the kernel has answered the first of them last.
#[test]
fn an_acknowledgement_is_about_the_attempt_that_was_answered_last() {
    let mut story = Story::alone(Pacing::Rank);
    for (isn, server_isn) in [(7, 1_000), (8, 500_000), (7, 3_000)] {
        story.syn_of(isn, false);
        story.pass(0);
        story.driver.apply(Op::SynAck { flow: story.flow, isn, server_isn });
    }
    story.driver.apply(Op::Ack { flow: story.flow, number: 3_001, held: false });
    let counters = story.driver.node.counters();
    assert_eq!((counters.confirmed, counters.not_chosen), (1, 0));
}

/// A client that has forgotten its connection begins another with the same ports, which another
/// host answers: nobody need have said anything about the first.
#[test]
fn who_chooses_another_host_for_a_later_attempt_is_no_sign_of_deafness() {
    for (begins_anew, unheard) in [(false, 1), (true, 0)] {
        let mut story = Story::new(Pacing::Rank);
        story.syn();
        story.pass(2);
        story.driver.apply(Op::SynAck { flow: story.flow, isn: ISN, server_isn: 1_000 });
        if begins_anew {
            story.syn_of(ISN + 1, true);
        }
        story.driver.apply(Op::Ack { flow: story.flow, number: 501, held: false });
        let counters = story.driver.node.counters();
        assert_eq!((counters.not_chosen, counters.unheard), (1, unheard));
    }
}

#[test]
fn a_retransmission_finds_its_owner_remembered() {
    let mut lan = Cluster::new(2);
    lan.listen(0, 80, Listener::Busy);
    let port = lan.port_for(0, 80);
    lan.segment.client_delay = (ms(600), ms(600));
    let conn = lan.connect_from(port, 80);
    lan.run(ms(900));
    assert_eq!(lan.syn_acks(conn), [1]);
    // Now the first in rank could serve it.
    lan.listen(0, 80, Listener::Ready);
    lan.repeat_syn(conn);
    lan.run(ms(2_000));
    assert_eq!((lan.accepted_by(conn), lan.claims()), (vec![1], 0));
    assert!(lan.syn_acks(conn).iter().all(|&host| host == 1), "{:?}", lan.syn_acks(conn));
}

#[test]
fn no_moment_is_long_after_a_later_one() {
    assert_eq!(Instant::from_micros(1).since(Instant::from_micros(2)), ms(0));
}

#[test]
fn no_wait_ends_after_t_stale() {
    let mut story = Story::new(Pacing::Rank);
    story.syn();
    story.driver.apply(Op::Sleep(ms(490)));
    story.claims(A, 0, 0);
    story.pass(9);
    assert_eq!(story.verdicts(), []);
    story.pass(1);
    assert_eq!(story.verdicts(), [Verdict::Drop]);
}

#[test]
fn a_node_that_was_paused_claims_first() {
    let mut lan = Cluster::new(2);
    let port = lan.port_for(0, 80);
    lan.segment.client_delay = (ms(100), ms(100));
    lan.pause(0, ms(900));
    lan.run(ms(880));
    // Host 1 has suspected it and answers; that is not heard.
    lan.cut(1, 0);
    let conn = lan.connect_from(port, 80);
    lan.run(ms(10));
    lan.mend(1, 0);
    lan.run(ms(500));
    assert_eq!((lan.syn_acks(conn), lan.claims()), (vec![1], 1));
}

#[test]
fn connections_of_an_earlier_daemon_are_let_through() {
    let mut story = Story::new(Pacing::Rank);
    let ack = || Op::Ack { flow: 1, number: 7, held: true };
    story.driver.apply(ack());
    assert_eq!(story.driver.node.counters().unknown_acks, 1);
    story.driver.apply(Op::Adopt { flow: 1 });
    story.driver.apply(ack());
    assert_eq!(story.driver.node.counters().unknown_acks, 1);
    assert_eq!(story.driver.others, [Verdict::Drop, Verdict::Accept]);
}

#[test]
fn a_peer_that_starts_again_is_heard() {
    let mut lan = Cluster::new(2);
    lan.crash(1);
    lan.restart(1);
    lan.run(ms(1_200));
    let restarted = clusterd::protocol::Notice::PeerRestarted(lan.hosts[1].id);
    assert!(lan.hosts[0].notices.contains(&restarted));
    let conn = lan.connect_from(lan.port_for(1, 80), 80);
    lan.run(ms(10));
    assert_eq!((lan.accepted_by(conn), lan.claims()), (vec![1], 0));
}

#[test]
fn a_frame_is_used_once_and_not_after_a_later_one() {
    let mut story = Story::new(Pacing::Rank);
    story.say(A, [Entry::Hello { unavailable: vec![] }]);
    let old = story.sequence;
    story.say(A, []);
    let own = Entry::Own(story.contest(0, 1));
    story.frame(A, old, false, [own]);
    assert_eq!(story.driver.node.counters().stale_frames, 1);
    story.syn();
    story.pass(0);
    assert_eq!(story.verdicts(), [Verdict::Accept]);
}

#[test]
fn a_recording_of_an_earlier_life_is_nothing() {
    let mut story = Story::new(Pacing::Rank);
    let own = Entry::Own(story.contest(0, 1));
    let header = Header { minor: 0, ..Header::new(A, 0, 1_000) };
    story.driver.apply(Op::Frame { header, entries: vec![own] });
    story.syn();
    story.pass(0);
    assert_eq!(story.verdicts(), [Verdict::Accept]);
}

#[test]
fn what_may_be_a_recording_makes_a_node_wait_and_no_more() {
    let mut story = Story::alone(Pacing::Rank);
    let own = Entry::Own(story.contest(0, 1));
    story.driver.apply(Op::Frame { header: Header::new(A, 1, 1), entries: vec![own] });
    story.syn();
    story.pass(19);
    assert_eq!(story.verdicts(), []);
    story.pass(2);
    assert_eq!(story.verdicts(), [Verdict::Accept]);
}

/// A host that is back says in one frame that it hears the others and what it has answered.
#[test]
fn what_follows_a_report_that_verifies_its_sender_is_believed() {
    for (report_first, verdicts) in [(true, vec![Verdict::Drop]), (false, vec![])] {
        let mut story = Story::new(Pacing::Rank);
        story.syn();
        let highest = story.driver.sent.last().expect("a HELLO").header.sequence as u32;
        let report = Report { node: ME, incarnation: 1, highest, missing: 0 };
        let mut entries =
            vec![Entry::Heard { reports: vec![report] }, Entry::Own(story.contest(0, 1))];
        if !report_first {
            entries.reverse();
        }
        story.driver.apply(Op::Frame { header: Header::new(STRANGER, 1, 1), entries });
        assert_eq!(story.verdicts(), verdicts);
    }
}

/// More nodes pass than are remembered, and this one cannot serve it either.
#[test]
fn made_up_nodes_that_pass_do_not_give_a_node_its_turn_for_ever() {
    let mut story = Story::new(Pacing::Rank);
    let service = ServicePort::tcp(([10, 0, 0, 2], story.port));
    story.driver.apply(Op::Listener { service, listener: Listener::Busy });
    let release = Entry::Release(story.contest(0, 255));
    for node in [A, B].into_iter().chain((100..200).map(NodeId)) {
        story.say(node, [release.clone()]);
    }
    story.syn();
    story.pass(100);
    assert_eq!(story.verdicts(), [Verdict::Drop]);
}

/// By hash and under overload a host says OWN to whoever wants to hear it only: also if the
/// claim came while its kernel was about to answer.
#[test]
fn who_is_overloaded_says_own_to_who_has_claimed_meanwhile() {
    for claimed in [false, true] {
        let mut story = Story::alone(Pacing::Rank);
        let load = Load { window: ms(100), busy: 1_000, overflowed: 9, syns: 10_000 };
        story.driver.apply(Op::Load(load));
        let designated = |story: &mut Story| {
            let before = story.verdicts().len();
            story.syn();
            story.pass(2);
            story.verdicts().get(before) == Some(&Verdict::Accept)
        };
        while !designated(&mut story) {
            story.flow += 1;
        }
        story.attempt = key().attempt(&flow(story.flow), ISN);
        if claimed {
            story.claims(A, 0, 1);
        }
        story.driver.apply(Op::SynAck { flow: story.flow, isn: ISN, server_isn: 1_000 });
        story.pass(0);
        assert_eq!(story.owned(), usize::from(claimed));
    }
}

#[test]
fn a_strangers_release_makes_nobody_wait_longer() {
    let mut story = Story::new(Pacing::Rank);
    let service = ServicePort::tcp(([10, 0, 0, 2], story.port));
    story.driver.apply(Op::Listener { service, listener: Listener::Absent });
    story.pass(100);
    // Others could serve it, but nobody does.
    story.syn();
    story.pass(30);
    let release = Entry::Release(story.contest(0, 255));
    story.driver.apply(Op::Frame { header: Header::new(STRANGER, 1, 1), entries: vec![release] });
    story.pass(20);
    assert_eq!(story.verdicts(), [Verdict::Drop]);
}

#[test]
fn a_late_frame_is_heard_but_not_about_its_sender() {
    let mut story = Story::new(Pacing::Rank);
    let old = story.sequence + 1;
    story.sequence += 1;
    story.say(A, []);
    story.pass(100);
    let own = Entry::Own(story.contest(0, 1));
    let hello = Entry::Hello { unavailable: vec![story.port] };
    story.frame(A, old, false, [hello, own]);
    story.syn();
    assert_eq!(story.verdicts(), [Verdict::Drop]);
    // Nothing has changed: another connection is accepted at once.
    story.syn_of(ISN + 1, false);
    story.pass(0);
    assert_eq!((story.verdicts().len(), story.claimed()), (2, vec![]));
}

#[test]
fn a_flow_of_datagrams_is_claimed_first() {
    let mut story = Story::datagrams();
    story.datagram();
    story.pass(0);
    assert_eq!((story.verdicts(), story.claimed()), (vec![], vec![(0, 1)]));
    story.pass(2);
    assert_eq!(story.verdicts(), [Verdict::Accept]);
}

#[test]
fn of_two_owners_of_datagrams_one_gives_way() {
    for other in [A, B] {
        let mut story = Story::datagrams();
        story.datagram();
        story.pass(2);
        let said = story.owned();
        story.owns(other);
        story.datagram();
        story.pass(0);
        let tie_break = |node| (key().tie_break(story.attempt, node), node);
        let stays = tie_break(ME) < tie_break(other);
        let next = if stays { Verdict::Accept } else { Verdict::Drop };
        assert_eq!(story.verdicts(), [Verdict::Accept, next], "{other}");
        assert_eq!(story.owned() > said, stays);
    }
}

#[test]
fn datagrams_of_a_live_owner_are_not_contested() {
    let mut story = Story::datagrams();
    story.owns(A);
    story.datagram();
    story.pass(100);
    story.datagram();
    story.pass(25);
    assert_eq!((story.verdicts(), story.claimed()), (vec![Verdict::Drop; 2], vec![]));
}

#[test]
fn an_owner_of_datagrams_says_so_to_a_peer_that_is_back() {
    let mut story = Story::datagrams();
    story.datagram();
    story.pass(900);
    let said = story.owned();
    story.say(A, []);
    story.pass(600);
    assert_eq!(story.owned(), said + 1);
}

#[test]
fn datagrams_that_are_held_share_the_fate_of_the_first() {
    let mut story = Story::datagrams();
    story.datagram();
    story.datagram();
    story.pass(2);
    assert_eq!(story.verdicts(), [Verdict::Accept, Verdict::Accept]);
}

#[test]
fn an_owner_of_datagrams_remembers_as_long_as_its_kernel() {
    let mut story = Story::datagrams();
    story.datagram();
    story.pass(12_000);
    assert_eq!(story.driver.node.load(), (1, 0));
    story.driver.apply(Op::FlowEnded { flow: story.flow });
    assert_eq!(story.driver.node.load(), (0, 0));
}

#[test]
fn after_a_change_of_members_nobody_accepts_without_a_claim() {
    let mut story = Story::alone(Pacing::Rank);
    story.say(A, []);
    story.syn();
    story.pass(0);
    assert_eq!((story.verdicts(), story.claimed()), (vec![], vec![(0, 1)]));
}

#[test]
fn a_node_that_joins_is_not_waited_for() {
    let mut story = Story::alone(Pacing::Rank);
    story.frame(A, 1, true, []);
    story.syn();
    story.pass(0);
    assert_eq!((story.verdicts(), story.claimed()), (vec![Verdict::Accept], vec![]));
}

#[test]
fn own_frames_are_nobodys() {
    let mut story = Story::alone(Pacing::Rank);
    let claim = Entry::Claim(story.contest(0, 0));
    story.frame(ME, 1, false, [claim]);
    story.syn();
    story.pass(0);
    assert_eq!(story.verdicts(), [Verdict::Accept]);
    let node = &story.driver.node;
    assert_eq!((node.counters().duplicate_ids, node.peers().count()), (0, 0));
}
