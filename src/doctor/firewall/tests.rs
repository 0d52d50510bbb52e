//! What rules do, from their JSON.

use super::*;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::json;

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

fn daddr(right: Value) -> Value {
    json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": right}})
}

fn meta(key: &str, right: Value) -> Value {
    json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}})
}

fn tcp_port(right: Value) -> Value {
    json!({"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": right}})
}

fn chain(name: &str, hook: Option<&str>, policy: &str, rules: Vec<Vec<Value>>) -> Vec<Value> {
    let mut chain = json!({"family": "inet", "table": "fw", "name": name});
    if let Some(hook) = hook {
        chain["hook"] = hook.into();
        chain["policy"] = policy.into();
        chain["prio"] = 0.into();
    }
    let rule = |(handle, expr): (usize, Vec<Value>)| json!({"rule": {"family": "inet", "table": "fw", "chain": name, "handle": handle + 1, "expr": expr}});
    let mut all = vec![json!({"chain": chain})];
    all.extend(rules.into_iter().enumerate().map(rule));
    all
}

fn found(objects: Vec<Value>) -> Vec<(Effect, Option<u64>, Traffic)> {
    let ports = BTreeSet::from([22, 80]);
    let hits = examine(&json!({"nftables": objects}), "eth0", VIP, &ports);
    hits.into_iter().map(|hit| (hit.what, hit.handle, hit.to)).collect()
}

fn input(policy: &str, rules: Vec<Vec<Value>>) -> Vec<(Effect, Option<u64>, Traffic)> {
    found(chain("in", Some("input"), policy, rules))
}

#[test]
fn a_rule_that_certainly_drops_is_named() {
    let drop = || json!({"drop": null});
    let hit = [(Effect::Drops, Some(1), Traffic::Syn)];
    for right in [
        json!("10.0.0.2"),
        json!({"prefix": {"addr": "10.0.0.0", "len": 24}}),
        json!({"range": ["10.0.0.1", "10.0.0.3"]}),
        json!({"set": ["10.9.9.9", "10.0.0.2"]}),
    ] {
        assert_eq!(input("accept", vec![vec![daddr(right.clone()), drop()]]), hit, "{right}");
    }
    assert_eq!(input("accept", vec![vec![json!({"reject": {}})]]), hit);
    for right in [json!("10.0.0.3"), json!({"prefix": {"addr": "10.1.0.0", "len": 16}})] {
        assert_eq!(input("accept", vec![vec![daddr(right), drop()]]), []);
    }
    assert_eq!(input("accept", vec![vec![meta("iifname", json!("eth1")), drop()]]), []);
    // Nobody listens there; that is what firewalls are for.
    assert_eq!(input("accept", vec![vec![tcp_port(json!(23)), drop()]]), []);
}

#[test]
fn a_rule_that_drops_what_a_service_waits_for_is_named() {
    let drop = || json!({"drop": null});
    for (right, ports) in [
        (json!(80), &[80][..]),
        (json!({"range": [20, 80]}), &[22, 80]),
        (json!({"set": [22, {"range": [8000, 8080]}]}), &[22]),
    ] {
        let hits = ports.iter().map(|&port| (Effect::Drops, Some(1), Traffic::Port(port)));
        let rule = vec![daddr(json!("10.0.0.2")), tcp_port(right.clone()), drop()];
        assert_eq!(input("accept", vec![rule]), hits.collect::<Vec<_>>(), "{right}");
    }
    // What happens to claims there says nothing about connections.
    let mut objects = chain(
        "fw",
        Some("ingress"),
        "accept",
        vec![vec![meta("l4proto", json!(150)), drop()], vec![tcp_port(json!(80)), drop()]],
    );
    objects[0]["chain"]["dev"] = "eth0".into();
    let both =
        [(Effect::Drops, Some(1), Traffic::Claim), (Effect::Drops, Some(2), Traffic::Port(80))];
    assert_eq!(found(objects), both);
    let untracked = input("accept", vec![vec![tcp_port(json!(80)), json!({"notrack": null})]]);
    assert_eq!(untracked, [(Effect::Untracks, Some(1), Traffic::Port(80))]);
}

#[test]
fn a_rule_against_frames_to_many_is_named_where_it_meets_them() {
    let rule = || vec![meta("pkttype", json!("multicast")), json!({"drop": null})];
    let at = |hook: &str, priority: i64| {
        let mut objects = chain("fw", Some(hook), "accept", vec![rule()]);
        objects[0]["chain"]["prio"] = priority.into();
        objects[0]["chain"]["dev"] = "eth0".into();
        found(objects)
    };
    let hit = [(Effect::Drops, Some(1), Traffic::GroupFrame)];
    assert_eq!(at("ingress", 0), hit);
    assert_eq!(at("prerouting", -300), hit);
    // By then they are packets to the host.
    assert_eq!(at("prerouting", -100), []);
    assert_eq!(at("input", 0), []);
}

#[test]
fn a_rule_of_the_other_family_is_none() {
    let to = |header: &str, right: Value| json!({"match": {"op": "==", "left": {"payload": {"protocol": header, "field": "daddr"}}, "right": right}});
    let drops = |condition: Value, vip| {
        let rule = vec![condition, json!({"drop": null})];
        let objects = chain("in", Some("input"), "accept", vec![rule]);
        !examine(&json!({"nftables": objects}), "eth0", vip, &BTreeSet::new()).is_empty()
    };
    let prefix = |address: &str, length: u8| json!({"prefix": {"addr": address, "len": length}});
    for (condition, v4, v6) in [
        (to("ip", json!("10.0.0.2")), true, false),
        (to("ip6", json!("2001:db8::2")), false, true),
        (to("ip6", prefix("2001:db8::", 64)), false, true),
        (to("ip6", prefix("2001:db8:1::", 48)), false, false),
        (to("ip6", prefix("::", 0)), false, true),
        (to("ip6", json!({"range": ["2001:db8::1", "2001:db8::3"]})), false, true),
        (meta("nfproto", json!("ipv6")), false, true),
        (meta("l4proto", json!("tcp")), true, true),
    ] {
        assert_eq!((drops(condition.clone(), VIP), drops(condition, VIP6)), (v4, v6));
    }
    let mut objects = chain("in", Some("input"), "drop", vec![]);
    objects[0]["chain"]["family"] = "ip6".into();
    assert_eq!(found(objects), []);
}

#[test]
fn a_policy_drops_what_nothing_accepts() {
    let accept = || json!({"accept": null});
    assert_eq!(input("drop", vec![]), [(Effect::Drops, None, Traffic::Syn)]);
    let lo = vec![meta("iifname", json!("lo")), accept()];
    assert_eq!(input("drop", vec![lo]), [(Effect::Drops, None, Traffic::Syn)]);
    let port = vec![tcp_port(json!(80)), accept()];
    assert_eq!(input("drop", vec![port]), [(Effect::MayDrop, None, Traffic::Syn)]);
    assert_eq!(input("drop", vec![vec![daddr(json!("10.0.0.2")), accept()]]), []);
    let vmap = vec![json!({"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@ways"}})];
    assert_eq!(input("drop", vec![vmap]), [(Effect::MayDrop, None, Traffic::Syn)]);
    let new = json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}});
    assert_eq!(input("drop", vec![vec![new, accept()]]), [(Effect::Drops, None, Traffic::Syn)]);
}

#[test]
fn jumps_are_followed_and_loops_end() {
    let jump = |target: &str| vec![json!({"jump": {"target": target}})];
    let mut objects = chain("in", Some("input"), "accept", vec![jump("more")]);
    objects.extend(chain(
        "more",
        None,
        "",
        vec![vec![daddr(json!("10.0.0.2")), json!({"drop": null})]],
    ));
    assert_eq!(found(objects), [(Effect::Drops, Some(1), Traffic::Syn)]);
    let mut objects = chain("in", Some("input"), "accept", vec![jump("a")]);
    objects.extend(chain("a", None, "", vec![jump("a")]));
    assert_eq!(found(objects), []);
}

#[test]
fn claims_meet_rules_at_ingress_only() {
    let claims = || vec![meta("l4proto", json!(150)), json!({"drop": null})];
    assert_eq!(input("accept", vec![claims()]), []);
    let mut objects = chain("in", Some("ingress"), "accept", vec![claims()]);
    assert_eq!(found(objects.clone()), [(Effect::Drops, Some(1), Traffic::Claim)]);
    objects[0]["chain"]["dev"] = "eth7".into();
    assert_eq!(found(objects), []);
}

#[test]
fn untracked_flows_are_noticed_and_our_own_tables_are_not() {
    let rule = vec![daddr(json!("10.0.0.2")), json!({"notrack": null})];
    let mut objects = chain("raw", Some("prerouting"), "accept", vec![rule]);
    assert_eq!(found(objects.clone()), [(Effect::Untracks, Some(1), Traffic::Syn)]);
    for object in &mut objects {
        for kind in ["chain", "rule"] {
            if object.get(kind).is_some() {
                object[kind]["table"] = "clusterd_10.0.0.2".into();
            }
        }
    }
    assert_eq!(found(objects), []);
}

#[test]
fn nonsense_is_ignored() {
    for nonsense in [json!(null), json!({"nftables": 7}), json!({"nftables": [7, {"chain": 1}]})] {
        assert_eq!(examine(&nonsense, "eth0", VIP, &BTreeSet::from([80])), []);
    }
}
