//! What rules of others do to packets for the virtual IP, as far as that can be told from their text.
//!
//! The packets are a SYN to the virtual IP and a claim. Of a condition that depends on more than that (the
//! client's address, a limit, an extension of xtables) it cannot be said whether it
//! holds; what hangs on it is told as a doubt, and only where nothing certain comes before.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

/// Jumps that are followed; nft itself allows 16 (`NFT_JUMP_STACK_SIZE`).
const JUMPS_MAX: usize = 16;

/// A chain that takes packets away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// Family, table and name, as nft has them.
    pub chain: String,
    /// What happens there.
    pub what: Effect,
    /// The rule's handle; none if it is the chain's policy.
    pub handle: Option<u64>,
    /// Packets that it happens to.
    pub to: Traffic,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It is dropped or refused.
    Drops,
    /// It is dropped unless a rule accepts it of which that cannot be told.
    MayDrop,
    /// It passes connection tracking by.
    Untracks,
}

/// The packets that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// The first packet of a connection.
    Syn,
    /// IP protocol 150. Daemons hear claims before any rules but those at ingress.
    Claim,
}

/// Looks for chains that take packets to `vip` away which come in by `interface`, in what
/// `nft -j list ruleset` says.
pub fn examine(ruleset: &Value, interface: &str, vip: IpAddr) -> Vec<Hit> {
    let objects = || ruleset["nftables"].as_array().into_iter().flatten();
    let rules: Vec<_> = objects().filter_map(|object| object.get("rule")).collect();
    let mut hits = Vec::new();
    let words = Words::of(vip);
    for chain in objects().filter_map(|object| object.get("chain")) {
        let text = |key: &str| chain[key].as_str().unwrap_or_default();
        let (family, table, name, hook) =
            (text("family"), text("table"), text("name"), text("hook"));
        // Ours know what they do.
        if table.starts_with("clusterd_") {
            continue;
        }
        let traffic: &[_] = match (family, hook) {
            (family, "prerouting" | "input") if [words.header, "inet"].contains(&family) => {
                &[Traffic::Syn]
            }
            ("netdev" | "inet", "ingress") => &[Traffic::Syn, Traffic::Claim],
            _ => continue,
        };
        if hook == "ingress" && !is_on(chain, interface) {
            continue;
        }
        // Before connection tracking there is no state to match.
        let tracked = hook != "ingress" && chain["prio"].as_i64().unwrap_or(0) > -200;
        for &to in traffic {
            let walk = Walk { rules: &rules, family, table, interface, vip, words, to, tracked };
            let mut doubt = false;
            let end = walk.chain(name, &mut doubt, 0);
            let policy_drops = chain["policy"] == "drop";
            let (what, handle) = match end {
                End::Dropped(handle) => (Effect::Drops, Some(handle)),
                End::Untracked(handle) => (Effect::Untracks, Some(handle)),
                End::Passed if policy_drops => (Effect::Drops, None),
                End::Accepted | End::Passed => continue,
            };
            let what = if doubt && what == Effect::Drops { Effect::MayDrop } else { what };
            hits.push(Hit { chain: format!("{family} {table} {name}"), what, handle, to });
        }
    }
    hits
}

fn is_on(chain: &Value, interface: &str) -> bool {
    match &chain["dev"] {
        Value::String(device) => device == interface,
        Value::Array(devices) => devices.iter().any(|device| device == interface),
        _ => true,
    }
}

/// Where a packet's way through a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Accepted,
    /// By the rule of this handle.
    Dropped(u64),
    /// The same.
    Untracked(u64),
    /// It came to the end of the chain.
    Passed,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    Perhaps,
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// What nft calls the family of the virtual IP.
#[derive(Clone, Copy)]
struct Words {
    /// The header and the family of tables.
    header: &'static str,
    other_header: &'static str,
    /// The field with the protocol of the payload.
    protocol: &'static str,
    /// `meta nfproto`.
    nfproto: &'static str,
    /// Bits of an address.
    bits: u8,
}

impl Words {
    fn of(vip: IpAddr) -> Self {
        let (header, other_header, protocol, nfproto, bits) = match vip {
            IpAddr::V4(_) => ("ip", "ip6", "protocol", "ipv4", 32),
            IpAddr::V6(_) => ("ip6", "ip", "nexthdr", "ipv6", 128),
        };
        Self { header, other_header, protocol, nfproto, bits }
    }
}

struct Walk<'a> {
    rules: &'a [&'a Value],
    family: &'a str,
    table: &'a str,
    interface: &'a str,
    vip: IpAddr,
    words: Words,
    to: Traffic,
    tracked: bool,
}

impl Walk<'_> {
    /// `doubt` becomes true if a rule may have accepted the packet before.
    fn chain(&self, name: &str, doubt: &mut bool, depth: usize) -> End {
        if depth > JUMPS_MAX {
            return End::Passed;
        }
        let here = |rule: &&&Value| {
            rule["family"] == self.family && rule["table"] == self.table && rule["chain"] == name
        };
        for rule in self.rules.iter().filter(here) {
            let handle = rule["handle"].as_u64().unwrap_or(0);
            let mut holds = Holds::Yes;
            for statement in rule["expr"].as_array().into_iter().flatten() {
                let Some((kind, value)) = statement.as_object().and_then(|all| all.iter().next())
                else {
                    continue;
                };
                let end = match kind.as_str() {
                    "match" => {
                        holds = match (holds, self.matches(value)) {
                            (Holds::No, _) | (_, Holds::No) => Holds::No,
                            (Holds::Yes, Holds::Yes) => Holds::Yes,
                            (Holds::Yes | Holds::Perhaps, Holds::Yes | Holds::Perhaps) => {
                                Holds::Perhaps
                            }
                        };
                        None
                    }
                    "accept" | "queue" => Some(End::Accepted),
                    "drop" | "reject" => Some(End::Dropped(handle)),
                    "notrack" => Some(End::Untracked(handle)),
                    "return" => Some(End::Passed),
                    "jump" | "goto" if holds != Holds::No => {
                        let target = value["target"].as_str().unwrap_or_default();
                        match self.chain(target, doubt, depth + 1) {
                            End::Passed if kind == "goto" => Some(End::Passed),
                            End::Passed => None,
                            end => Some(end),
                        }
                    }
                    // Where it leads depends on what is not known here.
                    "vmap" if holds != Holds::No => {
                        *doubt = true;
                        None
                    }
                    // These change nothing about where a packet goes.
                    "counter" | "log" | "comment" | "mangle" | "jump" | "goto" => None,
                    // Limits, sets, extensions of xtables.
                    _ => {
                        if holds == Holds::Yes {
                            holds = Holds::Perhaps;
                        }
                        None
                    }
                };
                match (end, holds) {
                    (None, _) | (_, Holds::No) => {}
                    (Some(end), Holds::Yes) => return end,
                    (Some(End::Accepted | End::Passed), Holds::Perhaps) => *doubt = true,
                    // Perhaps dropped: by a limit, or for a client that is not wanted.
                    (Some(End::Dropped(_) | End::Untracked(_)), Holds::Perhaps) => {}
                }
            }
        }
        End::Passed
    }

    fn matches(&self, condition: &Value) -> Holds {
        let (left, right) = (&condition["left"], &condition["right"]);
        let holds = self.equals(left, right);
        match condition["op"].as_str() {
            Some("==" | "in") => holds,
            Some("!=") => match holds {
                Holds::Yes => Holds::No,
                Holds::No => Holds::Yes,
                Holds::Perhaps => Holds::Perhaps,
            },
            _ => Holds::Perhaps,
        }
    }

    fn equals(&self, left: &Value, right: &Value) -> Holds {
        let words = self.words;
        let (names, number): (&[&str], u64) = match self.to {
            Traffic::Syn => (&["tcp"], 6),
            Traffic::Claim => (&[], 150),
        };
        let protocol = |right: &Value| {
            any_of(right, &|value| {
                let named = value.as_str().is_some_and(|name| names.contains(&name));
                (named || value.as_u64() == Some(number)).into()
            })
        };
        let name = |right: &Value, expected: &[&str]| {
            any_of(right, &|value| match value.as_str() {
                Some(text) if text.starts_with('@') || text.ends_with('*') => Holds::Perhaps,
                Some(text) => expected.contains(&text).into(),
                None => Holds::Perhaps,
            })
        };
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        if let Some(payload) = left.get("payload") {
            let (header, field) = (text(payload, "protocol"), text(payload, "field"));
            return match (header.as_str(), field.as_str()) {
                (header, "daddr") if header == words.header => {
                    any_of(right, &|value| self.is_vip(value))
                }
                (header, field) if (header, field) == (words.header, words.protocol) => {
                    protocol(right)
                }
                (header, _) if header == words.header => Holds::Perhaps,
                (header, _) if header == words.other_header => Holds::No,
                ("ether", "type") => name(right, &[words.header]),
                ("ether", _) => Holds::Perhaps,
                ("tcp" | "th", _) if self.to == Traffic::Syn => Holds::Perhaps,
                _ => Holds::No,
            };
        }
        if let Some(meta) = left.get("meta") {
            return match text(meta, "key").as_str() {
                "iifname" | "iif" => name(right, &[self.interface]),
                "l4proto" => protocol(right),
                "nfproto" => name(right, &[words.nfproto]),
                "protocol" => name(right, &[words.header]),
                _ => Holds::Perhaps,
            };
        }
        match left.get("ct").map(|ct| text(ct, "key")) {
            Some(key) if key == "state" && self.tracked => name(right, &["new"]),
            Some(key) if key == "state" => name(right, &["untracked"]),
            _ => Holds::Perhaps,
        }
    }

    fn is_vip(&self, value: &Value) -> Holds {
        let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
        if let Some(prefix) = value.get("prefix") {
            let network = address(&prefix["addr"]);
            let length = prefix["len"].as_u64().and_then(|length| u8::try_from(length).ok());
            let length = length.filter(|&length| length <= self.words.bits);
            return match network.zip(length) {
                Some((network, length)) => is_within(self.vip, network, length).into(),
                None => Holds::Perhaps,
            };
        }
        if let Some([first, last]) = value["range"].as_array().map(Vec::as_slice) {
            return match address(first).zip(address(last)) {
                Some((first, last)) => (first..=last).contains(&self.vip).into(),
                None => Holds::Perhaps,
            };
        }
        address(value).map_or(Holds::Perhaps, |address| (address == self.vip).into())
    }
}

/// Whether the first `length` bits of two addresses of a family are the same.
fn is_within(address: IpAddr, network: IpAddr, length: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            (u32::from(address) ^ u32::from(network)) & mask == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (u128::from(address) ^ u128::from(network)) & mask == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Whether one of several values fits.
fn any_of(right: &Value, fits: &dyn Fn(&Value) -> Holds) -> Holds {
    let values = match right {
        Value::Array(values) => values,
        Value::Object(object) => match object.get("set") {
            Some(Value::Array(values)) => values,
            _ => return fits(right),
        },
        _ => return fits(right),
    };
    let all: Vec<_> = values.iter().map(fits).collect();
    if all.contains(&Holds::Yes) {
        Holds::Yes
    } else if all.contains(&Holds::Perhaps) {
        Holds::Perhaps
    } else {
        Holds::No
    }
}

#[cfg(test)]
mod tests {
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
        let hits = examine(&json!({"nftables": objects}), "eth0", VIP);
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
        // Perhaps, for some clients; that is what firewalls are for.
        assert_eq!(input("accept", vec![vec![tcp_port(json!(23)), drop()]]), []);
    }

    #[test]
    fn a_rule_of_the_other_family_is_none() {
        let to = |header: &str, right: Value| json!({"match": {"op": "==", "left": {"payload": {"protocol": header, "field": "daddr"}}, "right": right}});
        let drops = |condition: Value, vip| {
            let rule = vec![condition, json!({"drop": null})];
            let objects = chain("in", Some("input"), "accept", vec![rule]);
            !examine(&json!({"nftables": objects}), "eth0", vip).is_empty()
        };
        let prefix =
            |address: &str, length: u8| json!({"prefix": {"addr": address, "len": length}});
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
        for nonsense in
            [json!(null), json!({"nftables": 7}), json!({"nftables": [7, {"chain": 1}]})]
        {
            assert_eq!(examine(&nonsense, "eth0", VIP), []);
        }
    }
}
