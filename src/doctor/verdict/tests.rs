//! Each culprit by what is seen of it.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const ALL: PerMode<bool> = PerMode([true; 4]);

fn host(number: u8, role: Role, mode: Option<MacMode>) -> Host {
    let address = Ipv4Addr::new(10, 0, 0, 10 + number).into();
    Host { id: Id(number.into()), address, role, mode, modes: ModeSet::of(&MacMode::ALL) }
}

/// Three doctors, each of which hears the others in these modes.
fn seen(works: PerMode<bool>) -> Observations {
    seen_if(|mode, _, _| works[mode])
}

fn seen_if(works: impl Fn(MacMode, u8, u8) -> bool) -> Observations {
    let mut ways = Vec::new();
    for mode in MacMode::ALL {
        for (from, to) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
            let count = Count { expected: 40, got: if works(mode, from, to) { 39 } else { 0 } };
            ways.push(Way { from: Id(from.into()), to: Id(to.into()), mode, count });
        }
    }
    Observations {
        interface: "eth0".to_owned(),
        vip: VIP,
        modes: ModeSet::of(&MacMode::ALL),
        hosts: (1..=3).map(|number| host(number, Role::Doctor, None)).collect(),
        ways,
        gateways: Vec::new(),
        port: Port::Forwards,
        querier: None,
        listened: Duration::from_secs(10),
        holders: BTreeSet::new(),
        own_mode: None,
        obstacles: Obstacles::default(),
        host_findings: Vec::new(),
    }
}

fn gateway(answers: [GatewayAnswer; 4]) -> Vec<Gateway> {
    vec![Gateway { address: ROUTER, answers: PerMode(answers) }]
}

fn culprits(verdict: &Verdict) -> Vec<Option<Culprit>> {
    verdict.modes.iter().map(|mode| mode.culprit).collect()
}

fn problems(verdict: &Verdict) -> Vec<Culprit> {
    let problems = verdict.findings.iter().filter(|it| it.weight == Weight::Problem);
    problems.map(|finding| finding.culprit).collect()
}

#[test]
fn the_kinds_of_switches_are_told_apart() {
    use Culprit::{Learning, MacSnooping, Segment, Snooping, UnknownUnicast};
    let cases = [
        ("hub", [true, true, true, true], [None; 4], Some(MacMode::Multicast)),
        (
            "switch",
            [true, true, true, false],
            [None, None, None, Some(Learning)],
            Some(MacMode::Multicast),
        ),
        (
            "snooping",
            [false, false, true, false],
            [Some(Snooping), Some(Snooping), None, Some(Learning)],
            Some(MacMode::Stealth),
        ),
        (
            "mac-snooping",
            [false, true, true, false],
            [Some(MacSnooping), None, None, Some(Learning)],
            Some(MacMode::Igmp),
        ),
        (
            "no-unknown-flood",
            [true, true, false, false],
            [None, None, Some(UnknownUnicast), Some(Learning)],
            Some(MacMode::Multicast),
        ),
        (
            "nothing",
            [false; 4],
            [Some(Segment), Some(Segment), Some(Segment), Some(Learning)],
            None,
        ),
    ];
    for (name, works, expected, recommended) in cases {
        let verdict = seen(PerMode(works)).verdict();
        assert_eq!(culprits(&verdict), expected, "{name}");
        assert_eq!(verdict.recommended, recommended, "{name}");
        assert_eq!(verdict.has_problems(), recommended.is_none(), "{name}");
    }
}

#[test]
fn a_mode_that_is_asked_for_alone_must_work() {
    let mut seen = seen(PerMode([false, false, true, false]));
    seen.modes = ModeSet::of(&[MacMode::Multicast]);
    assert_eq!(problems(&seen.verdict()), [Culprit::Segment], "nothing else was tried");
}

#[test]
fn one_host_may_be_deaf_or_mute() {
    let verdict = seen_if(|mode, _, to| mode != MacMode::Multicast || to != 3).verdict();
    assert_eq!(culprits(&verdict)[0], Some(Culprit::DeafHost));
    assert!(verdict.findings[0].text.contains("10.0.0.13"), "{:?}", verdict.findings);
    let verdict = seen_if(|mode, from, _| mode != MacMode::Multicast || from != 3).verdict();
    assert_eq!(culprits(&verdict)[0], Some(Culprit::MuteHost));
    assert_eq!(verdict.recommended, Some(MacMode::Igmp));
}

#[test]
fn a_router_that_refuses_group_macs_leaves_stealth() {
    use GatewayAnswer::{Accepts, Refuses};
    let gateways = gateway([Refuses, Refuses, Accepts, Accepts]);
    let verdict = Observations { gateways, ..seen(ALL) }.verdict();
    let refuses = Some(Culprit::RouterRefuses);
    assert_eq!(culprits(&verdict), [refuses, refuses, None, None]);
    assert_eq!(verdict.recommended, Some(MacMode::Stealth));
    assert!(!verdict.has_problems());
}

#[test]
fn of_several_routers_each_must_accept() {
    use GatewayAnswer::{Accepts, Refuses, Untested};
    let mut gateways = gateway([Accepts; 4]);
    let address = Ipv4Addr::new(10, 0, 0, 254).into();
    let answers = PerMode([Refuses, Refuses, Accepts, Untested]);
    gateways.push(Gateway { address, answers });
    let verdict = Observations { gateways, ..seen(ALL) }.verdict();
    assert_eq!(verdict.recommended, Some(MacMode::Stealth));
    let answers: Vec<_> = verdict.modes.iter().map(|mode| mode.gateway).collect();
    assert_eq!(answers, [Refuses, Refuses, Accepts, Accepts]);
    assert!(verdict.findings[0].text.contains("10.0.0.254"), "{:?}", verdict.findings);
}

#[test]
fn of_a_router_only_that_is_said_which_can_be_told() {
    use GatewayAnswer::{Elsewhere, LearnsSource, Lost, NeverAsks, NoPing, Silent};
    for (answer, culprit) in [
        (Lost, Culprit::RouterRefuses),
        (NeverAsks, Culprit::RouterEntry),
        (Elsewhere, Culprit::RouterEntry),
        (LearnsSource, Culprit::RouterLearnsSource),
    ] {
        let verdict = Observations { gateways: gateway([answer; 4]), ..seen(ALL) }.verdict();
        assert_eq!(culprits(&verdict), [Some(culprit); 4]);
        assert_eq!(verdict.recommended, None);
    }
    // A dead one is no concern of clients on the segment.
    for answer in [NoPing, Silent] {
        let verdict = Observations { gateways: gateway([answer; 4]), ..seen(ALL) }.verdict();
        assert_eq!(culprits(&verdict), [None; 4]);
        assert!(!verdict.has_problems() && verdict.findings[0].culprit == Culprit::RouterSilent);
    }
}

#[test]
fn alone_behind_a_port_that_is_silent() {
    let silent = gateway([GatewayAnswer::Silent; 4]);
    let alone = |port, gateways| {
        let mut alone = Observations { port, gateways, ..seen(ALL) };
        alone.hosts.truncate(1);
        alone.ways.clear();
        let findings = alone.verdict().findings;
        findings.iter().any(|finding| finding.culprit == Culprit::PortSilent)
    };
    for (port, without_gateway, with_silent_gateway) in [
        (Port::Quiet, false, true),
        (Port::Forwards, false, false),
        (Port::SpanningTree, true, true),
        (Port::Lacp, true, true),
    ] {
        assert_eq!(alone(port, Vec::new()), without_gateway, "{port:?}");
        assert_eq!(alone(port, silent.clone()), with_silent_gateway, "{port:?}");
    }
    let verdict = Observations { port: Port::SpanningTree, ..seen(ALL) }.verdict();
    assert_eq!(verdict.findings, [], "others were heard");
}

#[test]
fn without_a_querier_igmp_is_doubtful() {
    let only_igmp = PerMode([false, true, true, false]);
    let found = |seen: Observations| {
        let findings = seen.verdict().findings;
        findings.into_iter().find(|finding| finding.culprit == Culprit::NoQuerier)
    };
    let text = found(seen(only_igmp)).expect("the mode is recommended").text;
    assert!(text.contains("in 10 s") && text.contains("the switch, which snoops,"), "{text}");
    assert_eq!(found(Observations { querier: Some(ROUTER), ..seen(only_igmp) }), None);
    assert_eq!(found(seen(ALL)), None, "another mode is recommended");
    let live = found(Observations { own_mode: Some(MacMode::Igmp), ..seen(ALL) });
    assert!(live.expect("the mode runs").text.contains("a switch that snoops"));
}

#[test]
fn a_mode_that_a_host_cannot_use_is_not_recommended() {
    let mut some = seen(ALL);
    let finding = Finding::problem(Culprit::DropUnicastInMulticast, "a text");
    some.obstacles[MacMode::Multicast] = Some(finding.clone());
    some.obstacles[MacMode::Igmp] = Some(finding);
    let verdict = some.verdict();
    assert_eq!(verdict.recommended, Some(MacMode::Stealth));
    assert!(!verdict.has_problems());
    some.hosts[2].role = Role::Starting;
    some.hosts[2].modes = ModeSet::of(&[MacMode::Multicast]);
    let verdict = some.verdict();
    assert_eq!(culprits(&verdict)[2], Some(Culprit::HostCannot));
    assert_eq!(verdict.recommended, Some(MacMode::Shared), "which has been tried, too");
    // A doctor that tries one mode says nothing of the others.
    some.hosts[2].role = Role::Doctor;
    assert_eq!(some.verdict().recommended, Some(MacMode::Stealth));
}

#[test]
fn a_live_mode_that_was_not_tried_is_unexamined() {
    let live = |role, mode| {
        let mut live = seen(ALL);
        live.hosts[1] = host(2, role, Some(mode));
        live.modes = ModeSet::of(&[MacMode::Stealth]);
        live.verdict().live_is_unexamined()
    };
    assert!(live(Role::Daemon, MacMode::Multicast));
    assert!(!live(Role::Daemon, MacMode::Stealth));
    assert!(!live(Role::Starting, MacMode::Multicast), "nothing is live");
}

#[test]
fn the_protocols_are_those_of_the_family() {
    let vip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into();
    let works = PerMode([false, true, true, false]);
    let gateways = gateway([GatewayAnswer::Refuses; 4]);
    let verdict = Observations { vip, gateways, ..seen(works) }.verdict();
    let texts: Vec<_> = verdict.findings.iter().map(|finding| &finding.text[..]).collect();
    let text = texts.join("\n");
    assert!(text.contains("MLD") && text.contains("a neighbour advertisement"), "{text}");
    assert!(!text.contains("IGMP") && !text.contains("ARP"), "{text}");
}

#[test]
fn alone_the_gateway_decides_and_without_one_nothing_speaks_against_the_default() {
    use GatewayAnswer::{Accepts, Refuses};
    let mut alone = seen(ALL);
    alone.hosts.truncate(1);
    alone.ways.clear();
    let verdict = alone.verdict();
    assert_eq!((verdict.others, verdict.recommended), (0, Some(MacMode::Multicast)));
    alone.gateways = gateway([Refuses, GatewayAnswer::Lost, Accepts, Accepts]);
    let verdict = alone.verdict();
    assert_eq!(verdict.recommended, Some(MacMode::Stealth));
    // Who is to blame for a lost answer cannot be told alone.
    assert_eq!(
        culprits(&verdict)[..2],
        [Some(Culprit::RouterRefuses), Some(Culprit::RouterFrames)]
    );
}

#[test]
fn a_live_cluster_keeps_its_mode_if_that_works() {
    let mut live = seen(ALL);
    live.hosts[1] = host(2, Role::Daemon, Some(MacMode::Stealth));
    let verdict = live.verdict();
    assert_eq!(
        (verdict.live, verdict.recommended),
        (Some(MacMode::Stealth), Some(MacMode::Stealth))
    );
    assert!(!verdict.has_problems());

    // A daemon too old to take part in this answers ARP all the same.
    let holders = BTreeSet::from([MacMode::Multicast.address(VIP)]);
    let works = PerMode([false, false, true, false]);
    let verdict = Observations { holders, ..seen(works) }.verdict();
    assert_eq!(
        (verdict.live, verdict.recommended),
        (Some(MacMode::Multicast), Some(MacMode::Stealth))
    );
    assert_eq!(problems(&verdict), [Culprit::Snooping]);
}

#[test]
fn a_mode_that_was_not_tried_is_not_recommended() {
    // A doctor among daemons, of which each listens in the cluster's mode only.
    let mut live = seen(PerMode([false; 4]));
    live.own_mode = Some(MacMode::Multicast);
    live.ways.retain(|way| way.mode == MacMode::Multicast);
    let verdict = live.verdict();
    assert_eq!((problems(&verdict), verdict.recommended), (vec![Culprit::Segment], None));
    assert!(verdict.findings[0].text.contains("on all hosts at the same time"));

    // A cluster in a mode that this doctor leaves alone.
    let modes = ModeSet::of(&[MacMode::Multicast]);
    let verdict = Observations { modes, own_mode: Some(MacMode::Shared), ..seen(ALL) }.verdict();
    assert_eq!((verdict.live, verdict.recommended), (Some(MacMode::Shared), None));
}

#[test]
fn strangers_and_mixed_modes_are_named() {
    let mac = MacAddr::new(2, 0, 0, 0, 0, 9);
    let verdict = Observations { holders: BTreeSet::from([mac]), ..seen(ALL) }.verdict();
    assert_eq!((problems(&verdict), verdict.live), (vec![Culprit::DuplicateVip], None));
    assert!(verdict.findings[0].text.contains("02:00:00:00:00:09"));

    // One of which this is a further address.
    let mac = MacMode::Stealth.address(Ipv4Addr::new(10, 0, 0, 3).into());
    let verdict = Observations { holders: BTreeSet::from([mac]), ..seen(ALL) }.verdict();
    assert_eq!(problems(&verdict), [Culprit::DuplicateVip]);
    assert!(verdict.findings[0].text.contains("the cluster that 10.0.0.3 names"));

    let mut mixed = Observations { own_mode: Some(MacMode::Igmp), ..seen(ALL) };
    mixed.hosts[2] = host(3, Role::Daemon, Some(MacMode::Shared));
    assert_eq!(problems(&mixed.verdict()), [Culprit::MixedModes]);
}

#[test]
fn a_router_that_believes_a_stranger_is_not_accused() {
    use GatewayAnswer::{Elsewhere, LearnsSource, NeverAsks, Refuses};
    let by_hand = Finding::problem(Culprit::VipConfigured, "a text");
    let here = Observations { host_findings: vec![by_hand], ..seen(ALL) };
    let mac = MacAddr::new(2, 0, 0, 0, 0, 9);
    let there = Observations { holders: BTreeSet::from([mac]), ..seen(ALL) };
    for (seen, culprit) in [(here, Culprit::VipConfigured), (there, Culprit::DuplicateVip)] {
        for answer in [Elsewhere, LearnsSource, NeverAsks, Refuses] {
            let gateways = gateway([answer; 4]);
            let verdict = Observations { gateways, ..seen.clone() }.verdict();
            assert_eq!((problems(&verdict), culprits(&verdict)), (vec![culprit], vec![None; 4]));
            let [_, note] = &verdict.findings[..] else { panic!("{:?}", verdict.findings) };
            assert_eq!((note.culprit, note.weight), (culprit, Weight::Note));
            assert!(note.text.contains("may follow from who else answers"), "{}", note.text);
        }
        // Of one that does not object nothing is said.
        let gateways = gateway([GatewayAnswer::Untested; 4]);
        assert_eq!(Observations { gateways, ..seen }.verdict().findings.len(), 1);
    }

    // What a killed daemon left answers nobody.
    let left = Finding::note(Culprit::LeftBehind, "a text");
    let gateways = gateway([Refuses, Refuses, Elsewhere, Elsewhere]);
    let verdict = Observations { host_findings: vec![left], gateways, ..seen(ALL) }.verdict();
    assert_eq!(culprits(&verdict)[0], Some(Culprit::RouterRefuses));
}

#[test]
fn loss_is_noted_and_few_probes_say_nothing() {
    let mut some = seen(ALL);
    some.ways[0].count = Count { expected: 40, got: 36 };
    let verdict = some.verdict();
    assert_eq!(verdict.findings[0].culprit, Culprit::Loss);
    assert!(!verdict.has_problems());
    some.ways.iter_mut().for_each(|way| way.count = Count { expected: 3, got: 0 });
    let verdict = some.verdict();
    assert_eq!(culprits(&verdict), [None; 4]);
    assert_eq!(verdict.modes[0].reaches_hosts(), None);
}

#[test]
fn what_is_wrong_on_this_host_is_passed_on() {
    let finding = Finding::problem(Culprit::RpFilter, "a text");
    let verdict = Observations { host_findings: vec![finding], ..seen(ALL) }.verdict();
    assert_eq!(problems(&verdict), [Culprit::RpFilter]);
}
