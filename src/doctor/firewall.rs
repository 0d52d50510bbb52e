//! What rules of others do to packets for the virtual IP, as far as that can be told from their text.
//!
//! The packets are a SYN to the virtual IP and a claim. Of a condition that depends on more than that (the
//! client's address, a limit, an extension of xtables) it cannot be said whether it
//! holds; what hangs on it is told as a doubt, and only where nothing certain comes before. Then SYNs
//! to the ports on which this host listens are looked at, and those in frames to many: what drops them
//! may be meant so.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

/// Ports that are looked at, the lowest.
const PORTS_MAX: usize = 256;

/// `NF_IP_PRI_MANGLE`: from there on the rules of a running daemon have made packets in frames to many such to
/// the host.
const MANGLE: i64 = -150;

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

impl Hit {
    /// Whether no connection gets through.
    fn is_about_all_ports(&self) -> bool {
        match self.to {
            Traffic::Syn | Traffic::GroupFrame => true,
            Traffic::Claim | Traffic::Port(_) => false,
        }
    }
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
    /// The first packet of a connection, in a frame to a group MAC.
    GroupFrame,
    /// The first packet of a connection to this port, on which this host listens.
    Port(u16),
}

impl Traffic {
    /// Whoever drops it may have wanted that.
    pub fn is_special(self) -> bool {
        match self {
            Self::Syn | Self::Claim => false,
            Self::GroupFrame | Self::Port(_) => true,
        }
    }
}

/// Looks for chains that take packets to `vip` away which come in by `interface`, in what
/// `nft -j list ruleset` says. This host listens on `ports`.
pub fn examine(ruleset: &Value, interface: &str, vip: IpAddr, ports: &BTreeSet<u16>) -> Vec<Hit> {
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
        let mut traffic = match (family, hook) {
            (family, "prerouting" | "input") if [words.header, "inet"].contains(&family) => {
                vec![Traffic::Syn]
            }
            ("netdev" | "inet", "ingress") => vec![Traffic::Syn, Traffic::Claim],
            _ => continue,
        };
        let priority = chain["prio"].as_i64().unwrap_or(0);
        if hook == "ingress" || hook == "prerouting" && priority < MANGLE {
            traffic.push(Traffic::GroupFrame);
        }
        traffic.extend(ports.iter().take(PORTS_MAX).copied().map(Traffic::Port));
        if hook == "ingress" && !is_on(chain, interface) {
            continue;
        }
        // Before connection tracking there is no state to match.
        let tracked = hook != "ingress" && priority > -200;
        let certain = hits.len();
        for to in traffic {
            // That is told already.
            if to.is_special() && hits[certain..].iter().any(Hit::is_about_all_ports) {
                break;
            }
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
            Traffic::Syn | Traffic::GroupFrame | Traffic::Port(_) => (&["tcp"], 6),
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
                ("tcp" | "th", field) => match self.to {
                    Traffic::Port(port) if field == "dport" => {
                        any_of(right, &|value| is_port(value, port))
                    }
                    Traffic::Syn | Traffic::GroupFrame | Traffic::Port(_) => Holds::Perhaps,
                    Traffic::Claim => Holds::No,
                },
                _ => Holds::No,
            };
        }
        if let Some(meta) = left.get("meta") {
            return match text(meta, "key").as_str() {
                "iifname" | "iif" => name(right, &[self.interface]),
                "l4proto" => protocol(right),
                "nfproto" => name(right, &[words.nfproto]),
                "protocol" => name(right, &[words.header]),
                "pkttype" if self.to == Traffic::GroupFrame => name(right, &["multicast"]),
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

/// Whether a port is one that a rule names, by number or as a range.
fn is_port(value: &Value, port: u16) -> Holds {
    if let Some([first, last]) = value["range"].as_array().map(Vec::as_slice) {
        return match first.as_u64().zip(last.as_u64()) {
            Some((first, last)) => (first..=last).contains(&port.into()).into(),
            None => Holds::Perhaps,
        };
    }
    value.as_u64().map_or(Holds::Perhaps, |value| (value == u64::from(port)).into())
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
mod tests;
