//! Clusters whose hosts answer different lists of virtual IPs (spec 4.8, 5.1, 5.6).

mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use clusterd::bucket::Bucket;
use clusterd::flow::{FlowKey, NodeId, ServicePort};
use clusterd::protocol::{
    Config, Instant, Listener, Load, Mode, Node, Notice, Pacing, Timers, Vips,
};
use clusterd::wire::{
    self, Contest, Entry, FRAME_MAX, Frame, FurtherPort, Header, PORTS_MAX, VIPS_MAX,
};
use common::cluster::{Chance, Cluster, Conn, FURTHER, Outcome, VIP, key, ms, us};

const SECOND: Duration = Duration::from_secs(1);
/// One more virtual IP.
const THIRD: [u8; 4] = [10, 0, 0, 4];

/// Hosts that answer these virtual IPs beside the first one, and have known each other for a while.
fn cluster(mode: Mode, lists: &[&[[u8; 4]]]) -> Cluster {
    let mut lan = Cluster::pinned(lists.len(), Pacing::Rank, mode);
    for (host, list) in lists.iter().enumerate() {
        lan.restart_with(host, list);
    }
    lan.run(SECOND * 4);
    lan
}

/// Connections to port 80, one every 10 ms, and time enough to try twice.
fn connect(lan: &mut Cluster, vip: [u8; 4], count: usize) -> Vec<Conn> {
    let open = |_| {
        lan.run(ms(10));
        lan.connect_to(vip, 80)
    };
    let conns = (0..count).map(open).collect();
    lan.run(SECOND * 4);
    conns
}

/// The hosts that answered, if each SYN was answered once and at the first try.
fn answered_once(lan: &Cluster, conns: &[Conn]) -> BTreeSet<usize> {
    let host = |&conn: &Conn| {
        let hosts = lan.syn_acks(conn);
        assert_eq!((hosts.len(), lan.syns(conn)), (1, 1), "{}", lan.flow(conn));
        hosts[0]
    };
    conns.iter().map(host).collect()
}

/// Who does not have the virtual IP costs its connections no slot, whatever its rank.
#[test]
fn a_virtual_ip_is_answered_by_those_that_have_it_and_at_once() {
    let mut lan = cluster(Mode::Auto, &[&[FURTHER], &[], &[FURTHER, THIRD], &[THIRD]]);
    lan.said.clear();
    for (vip, having) in [(VIP, vec![0, 1, 2, 3]), (FURTHER, vec![0, 2]), (THIRD, vec![2, 3])] {
        let conns = connect(&mut lan, vip, 100);
        assert_eq!(answered_once(&lan, &conns), having.into_iter().collect());
        assert!(conns.iter().all(|&conn| lan.waited(conn) < Some(us(200))), "nobody waits");
    }
    assert_eq!((lan.owns(), lan.claims()), (300, 0));
}

/// Who is alone on a virtual IP need not claim there, whatever happens to the others.
#[test]
fn nobody_is_asked_about_a_virtual_ip_that_no_other_host_has() {
    let mut lan = cluster(Mode::Auto, &[&[FURTHER], &[], &[THIRD]]);
    lan.said.clear();
    lan.leave(1);
    lan.run(ms(1));
    let conn = lan.connect_to(FURTHER, 80);
    lan.run(ms(100));
    assert!(lan.waited(conn) < Some(us(200)), "{:?}", lan.waited(conn));
    assert_eq!((lan.owns(), lan.claims()), (1, 0));
}

/// An administrator adds a virtual IP host by host, and takes it away again.
#[test]
fn a_virtual_ip_is_added_and_taken_away_one_host_at_a_time() {
    for mode in [Mode::Auto, Mode::Hash] {
        let mut lan = cluster(mode, &[&[], &[], &[]]);
        for (step, lists) in [
            [&[FURTHER][..], &[], &[]],
            [&[FURTHER], &[FURTHER], &[]],
            [&[FURTHER], &[FURTHER], &[FURTHER]],
            [&[], &[FURTHER], &[FURTHER]],
            [&[], &[], &[FURTHER]],
        ]
        .into_iter()
        .enumerate()
        {
            let host = if step < 3 { step } else { step - 3 };
            lan.leave(host);
            lan.restart_with(host, lists[host]);
            // Also while it listens: it may be the only one.
            lan.run(ms(200));
            let early = lan.connect_to(FURTHER, 80);
            lan.run(SECOND * 5);
            let having = (0..3).filter(|&host| !lists[host].is_empty()).collect();
            assert_eq!(lan.syn_acks(early).len(), 1, "{mode:?} {step}");
            let conns = connect(&mut lan, FURTHER, 60);
            assert_eq!(answered_once(&lan, &conns), having, "{mode:?} {step}");
            let conns = connect(&mut lan, VIP, 60);
            assert_eq!(answered_once(&lan, &conns).len(), 3, "{mode:?} {step}");
        }
    }
}

/// A service may listen on one virtual IP and not on the other.
#[test]
fn who_lacks_a_listener_on_one_virtual_ip_serves_the_other() {
    let mut lan = cluster(Mode::Auto, &[&[FURTHER], &[FURTHER]]);
    lan.listen_on(0, FURTHER, 80, Listener::Absent);
    lan.look_on(0, FURTHER, 80);
    lan.run(ms(100));
    lan.said.clear();
    let (first, further) = (connect(&mut lan, VIP, 60), connect(&mut lan, FURTHER, 60));
    assert_eq!(answered_once(&lan, &first), BTreeSet::from([0, 1]));
    assert_eq!(answered_once(&lan, &further), BTreeSet::from([1]));
    assert!(further.iter().all(|&conn| lan.waited(conn) < Some(us(200))), "it is not waited for");
    assert_eq!((lan.owns(), lan.claims(), lan.releases()), (120, 0, 0));
    let down = Notice::NotServed(ServicePort::tcp((FURTHER, 80)));
    assert!(lan.hosts[0].notices.contains(&down));
}

/// A refusal on behalf of all is on behalf of those that have the virtual IP.
#[test]
fn a_port_that_nobody_serves_on_a_virtual_ip_is_refused_by_one_that_has_it() {
    for (mode, bound) in [(Mode::Auto, ms(21)), (Mode::Hash, us(200))] {
        let mut lan = cluster(mode, &[&[FURTHER], &[], &[FURTHER], &[]]);
        for host in [0, 2] {
            lan.listen_on(host, FURTHER, 80, Listener::Absent);
            lan.look_on(host, FURTHER, 80);
        }
        lan.run(ms(100));
        for conn in connect(&mut lan, FURTHER, 40) {
            assert_eq!((lan.outcome(conn), lan.resets(conn)), (Outcome::Refused, 1));
            assert!(lan.waited(conn) < Some(bound), "{mode:?}: {:?}", lan.waited(conn));
        }
    }
}

/// Nobody refuses what a host serves that does not have the others' attention just now.
#[test]
fn nobody_refuses_what_a_late_host_serves_on_a_virtual_ip() {
    let mut lan = cluster(Mode::Auto, &[&[FURTHER], &[FURTHER], &[]]);
    lan.listen_on(0, FURTHER, 80, Listener::Absent);
    lan.look_on(0, FURTHER, 80);
    lan.run(ms(100));
    lan.pause(1, ms(300));
    let conn = lan.connect_to(FURTHER, 80);
    lan.run(SECOND * 4);
    assert_eq!((lan.outcome(conn), lan.resets(conn)), (Outcome::Connected(1), 0));
}

/// By hash, and when nobody hears anybody: over restarts, too, a host remembers who has what.
#[test]
fn by_hash_a_share_belongs_to_who_has_the_virtual_ip_heard_or_not() {
    let mut lan = cluster(Mode::Hash, &[&[FURTHER], &[], &[FURTHER], &[THIRD]]);
    let having = [(FURTHER, BTreeSet::from([0, 2])), (THIRD, BTreeSet::from([3]))];
    for state in ["heard", "unheard", "unheard and restarted"] {
        for (vip, having) in &having {
            let conns = connect(&mut lan, *vip, 80);
            assert_eq!(answered_once(&lan, &conns), *having, "{state}");
        }
        lan.deafen_all();
        lan.run(SECOND * 4);
        if state == "unheard" {
            for host in 0..4 {
                lan.keep_roster(host);
                lan.crash(host);
                lan.restart(host);
            }
            lan.run(ms(1_100));
        }
    }
}

/// What no messages can tell: the client's retransmission is the next member's.
#[test]
fn by_hash_a_dead_host_that_had_the_virtual_ip_is_passed_over_by_the_next_try() {
    let mut lan = cluster(Mode::Hash, &[&[FURTHER], &[FURTHER], &[], &[]]);
    lan.crash(0);
    let conns: Vec<_> = (0..40).map(|_| lan.connect_to(FURTHER, 80)).collect();
    lan.run(SECOND * 4);
    assert!(conns.iter().all(|&conn| lan.syn_acks(conn) == [1] && lan.syns(conn) <= 2));
    assert!(conns.iter().any(|&conn| lan.syns(conn) == 2));
}

fn overload() -> Load {
    Load { window: ms(100), busy: 900, overflowed: 0, syns: 10_000 }
}

/// Buckets divide what every member has. The rest is not divided: one of those that have
/// it answers what only the kernel decides about, and SYNs go to the daemons.
#[test]
fn the_kernel_divides_no_virtual_ip_that_some_member_does_not_have() {
    let set = |vips: &[[u8; 4]]| vips.iter().copied().map(IpAddr::from).collect::<BTreeSet<_>>();
    let shares = |lan: &Cluster, vip: [u8; 4]| {
        let of = |host: usize| {
            let share = &lan.hosts[host].share;
            (share.whole.contains(&vip.into()), share.left.contains(&vip.into()))
        };
        (0..lan.hosts.len()).map(of).collect::<Vec<_>>()
    };
    let mut lan = cluster(Mode::Auto, &[&[FURTHER, THIRD], &[FURTHER], &[FURTHER, THIRD]]);
    let divided: usize = (0..3).map(|host| lan.hosts[host].share.own.len()).sum();
    assert_eq!(divided, Bucket::COUNT);
    assert_eq!(shares(&lan, FURTHER), [(false, false); 3], "all have it");
    let owner = Bucket(key().vip(THIRD.into()).0 as u8);
    let weight = |host: usize| key().bucket_weight(owner, NodeId(host as u32 + 1));
    let first = if weight(0) > weight(2) { 0 } else { 2 };
    let mut expected = vec![(false, true), (false, false), (false, true)];
    expected[first] = (true, false);
    assert_eq!(shares(&lan, THIRD), expected);

    // The host that does not have it is gone: all that are left have it.
    lan.crash(1);
    lan.run(SECOND * 4);
    assert_eq!(shares(&lan, THIRD)[0], (false, false));
    lan.restart(1);
    lan.run(SECOND * 4);
    assert_eq!(shares(&lan, THIRD), expected);

    // Under overload such SYNs are decided by the daemons, by hash and with lists.
    (0..3).for_each(|host| lan.load(host, &overload()));
    let conns = connect(&mut lan, THIRD, 60);
    assert!((0..3).all(|host| lan.hosts[host].share.decide_syns));
    assert_eq!(answered_once(&lan, &conns), BTreeSet::from([0, 2]));

    // The other one leaves for good: then this one has it alone, beside one that has not.
    lan.leave(2 - first);
    lan.run(SECOND);
    assert_eq!(lan.hosts[first].share.whole, set(&[THIRD]));
    assert_eq!(lan.hosts[first].share.left, set(&[]));
}

/// A port is not divided where some host that gets its SYNs does not serve it.
#[test]
fn the_kernel_divides_ports_by_the_hosts_that_have_the_virtual_ip() {
    let mut lan = cluster(Mode::Auto, &[&[FURTHER], &[FURTHER], &[]]);
    let undivided = |lan: &Cluster| lan.hosts[0].share.undivided.clone();
    let service = ServicePort::tcp((FURTHER, 80));
    lan.listen_on(1, FURTHER, 80, Listener::Absent);
    lan.look_on(1, FURTHER, 80);
    lan.run(ms(100));
    assert_eq!(undivided(&lan), BTreeSet::from([service]), "and not that of the first one");
    lan.listen_on(0, FURTHER, 80, Listener::Absent);
    lan.look_on(0, FURTHER, 80);
    lan.run(ms(100));
    assert_eq!(undivided(&lan), BTreeSet::new(), "nobody that has it serves it");
}

/// Any lists, some loss: each SYN of a virtual IP that somebody has gets to a host that has it.
/// Without loss it gets one answer.
#[test]
fn whatever_the_lists_are_each_connection_finds_a_host_that_has_its_virtual_ip() {
    let all = [VIP, FURTHER, THIRD];
    for seed in 0..40 {
        let mut chance = Chance(seed);
        let hosts = 2 + chance.below(4) as usize;
        let mode = [Mode::Auto, Mode::Hash, Mode::Claim][chance.below(3) as usize];
        let lists: Vec<Vec<[u8; 4]>> = (0..hosts)
            .map(|_| [FURTHER, THIRD].into_iter().filter(|_| chance.below(2) == 1).collect())
            .collect();
        let borrowed: Vec<&[[u8; 4]]> = lists.iter().map(Vec::as_slice).collect();
        let mut lan = cluster(mode, &borrowed);
        for lost in [0, 30] {
            lan.segment.frames_lost = lost;
            for vip in all {
                let has = |&host: &usize| vip == VIP || lists[host].contains(&vip);
                let having: BTreeSet<usize> = (0..hosts).filter(has).collect();
                if having.is_empty() {
                    continue;
                }
                for conn in connect(&mut lan, vip, 20) {
                    let answers = lan.syn_acks(conn);
                    let Outcome::Connected(host) = lan.outcome(conn) else {
                        panic!("seed {seed}, {lists:?}: {} is not served", lan.flow(conn));
                    };
                    assert!(having.contains(&host), "seed {seed}: {host} has no {vip:?}");
                    assert_eq!(lan.accepted_by(conn), [host], "seed {seed}");
                    let single = answers.len() == 1 && lan.syns(conn) == 1;
                    assert!(single || lost > 0, "seed {seed}, {lists:?}: {answers:?}");
                }
            }
        }
    }
}

/// One node that says HELLO by itself, after this was done with it.
fn hello(vips: Vips, act: impl FnOnce(&mut Node, Instant)) -> (Node, Vec<Frame>) {
    let config = Config { vips, ..Config::new(NodeId(1), 1, VIP) };
    let mut node = Node::new(config, Instant::default());
    while node.poll_frame(Instant::default()).is_some() {}
    let now = Instant::default() + SECOND;
    act(&mut node, now);
    node.handle_timeout(now);
    let frames = std::iter::from_fn(|| node.poll_frame(now).cloned()).collect();
    (node, frames)
}

fn last(number: usize) -> IpAddr {
    [192, 0, 2, number as u8].into()
}

/// One virtual IP costs nothing, and the longest lists fit one frame beside twelve reports.
#[test]
fn a_hello_is_one_frame_whatever_the_lists_are() {
    let (_, frames) = hello(IpAddr::from(VIP).into(), |_, _| {});
    let entries: Vec<Entry> = frames.into_iter().flat_map(|frame| frame.entries).collect();
    let none = || vec![];
    let expected = [
        Entry::Heard { reports: vec![] },
        Entry::Hello { unavailable: none() },
        Entry::HelloUdp { unavailable: none() },
    ];
    assert_eq!(entries, expected);

    let vips = Vips::new(VIP.into(), (1..=VIPS_MAX).map(last)).unwrap();
    let further: Vec<_> = vips.all().skip(1).map(|vip| key().vip(vip)).collect();
    let flow = FlowKey::tcp(([192, 0, 2, 200], 4_000), (VIP, 80));
    let (node, frames) = hello(vips, |node, now| {
        for peer in 0..20 {
            let frame = Frame { header: Header::new(NodeId(100 + peer), 1, 1), entries: vec![] };
            node.handle_frame(now, &frame);
        }
        node.handle_syn_ack(now, flow, 1, 2);
        // Each has more than can be said of it, and those of further ones are on all of them.
        for port in 0..PORTS_MAX as u16 + 5 {
            for vip in [VIP.into(), last(1 + usize::from(port) % VIPS_MAX)] {
                let at = now + us(u64::from(port));
                for service in [ServicePort::tcp((vip, port)), ServicePort::udp((vip, port))] {
                    node.handle_listener(at, service, Listener::Absent);
                }
            }
        }
    });
    let [frame] = &frames[..] else { panic!("{} frames", frames.len()) };
    let bytes = wire::encode(frame, &key().into());
    assert!(bytes.len() <= FRAME_MAX);
    assert_eq!(bytes.len(), 32 + 242 + 254 + 22 + 2 * 130 + 2 * 194 + 16);
    assert_eq!(node.counters().ports_forgotten, 4 * 5);
    let place = |port: u16| {
        let vip = last(1 + usize::from(port) % VIPS_MAX);
        let at = further.iter().position(|&hash| hash == key().vip(vip)).unwrap();
        FurtherPort { place: at as u8 + 1, port }
    };
    let ports = 5..PORTS_MAX as u16 + 5;
    let unavailable: Vec<_> = ports.clone().map(place).collect();
    let [Entry::Heard { reports }, said @ ..] = &frame.entries[..] else { panic!("{frame}") };
    let expected = [
        Entry::Vips { further },
        Entry::Own(Contest { attempt: key().attempt(&flow, 1), port: 80, tries: 0, rank: 0 }),
        Entry::Hello { unavailable: ports.clone().collect() },
        Entry::HelloUdp { unavailable: ports.collect() },
        Entry::VipsTcp { unavailable: unavailable.clone() },
        Entry::VipsUdp { unavailable },
    ];
    assert_eq!((reports.len(), said), (12, &expected[..]));
}

/// A peer that could not name more ports may lack the one that is asked for: then this node
/// refuses, as it does for the first virtual IP.
#[test]
fn a_peer_whose_list_is_full_is_not_said_to_serve_a_further_port() {
    for (named, refused) in [(PORTS_MAX - 1, false), (PORTS_MAX, true)] {
        let mut lan = cluster(Mode::Claim, &[&[FURTHER], &[FURTHER]]);
        lan.listen_on(0, FURTHER, 80, Listener::Absent);
        lan.look_on(0, FURTHER, 80);
        for port in 0..named as u16 {
            lan.listen_on(1, FURTHER, 1_000 + port, Listener::Absent);
            lan.look_on(1, FURTHER, 1_000 + port);
        }
        lan.run(ms(100));
        lan.pause(1, ms(400));
        let conn = lan.connect_to(FURTHER, 80);
        lan.run(ms(300));
        assert_eq!(lan.outcome(conn) == Outcome::Refused, refused);
    }
}

/// Of one that is late, what it says about its virtual IPs is outdated, too.
#[test]
fn a_late_frame_changes_no_list() {
    let vips = Vips::new(VIP.into(), [FURTHER.into()]).unwrap();
    let timers = Timers { listen: Duration::ZERO, ..Timers::default() };
    let config = Config { vips, timers, ..Config::new(NodeId(1), 1, VIP) };
    let mut node = Node::new(config, Instant::default());
    let peer = NodeId(2);
    let mut say = |sequence, entries| {
        let frame = Frame { header: Header::new(peer, 1, sequence), entries };
        node.handle_frame(Instant::default(), &frame);
        node.roster(Instant::default()).map(|member| member.vips).collect::<Vec<_>>()
    };
    let heard = || {
        let report = wire::Report { node: NodeId(1), incarnation: 1, highest: 0, missing: 0 };
        Entry::Heard { reports: vec![report] }
    };
    let hash = key().vip(FURTHER.into());
    let further = || Entry::Vips { further: vec![hash] };
    let hello = || Entry::Hello { unavailable: vec![] };
    assert_eq!(say(1, vec![heard(), hello()]), [vec![]]);
    assert_eq!(say(3, vec![heard(), hello()]), [vec![]]);
    assert_eq!(say(2, vec![heard(), further(), hello()]), [vec![]]);
    assert_eq!(say(4, vec![heard(), hello()]), [vec![]]);
    assert_eq!(say(5, vec![heard(), further(), hello()]), [vec![hash]]);
}
