//! What `clusterd status` prints for people.
//!
//! The daemon that answered may be of another version than this program, so what it does not say is a dash.

use std::fmt;

use serde_json::Value;

/// A daemon's answer as text.
pub struct Table<'a>(pub &'a Value);

/// The counters that tell how a host fares: for each line its title, and what to call which number.
const COUNTERS: [(&str, &[(&str, &str)]); 5] = [
    (
        "SYNs",
        &[
            ("held", "/protocol/syns"),
            ("accepted", "/protocol/accepted"),
            ("left to others", "/protocol/yielded"),
            ("by hash", "/protocol/left_to_hash"),
            ("decided by the kernel", "/kernel_syns"),
        ],
    ),
    (
        "handshakes",
        &[
            ("completed here", "/protocol/confirmed"),
            ("with another host", "/protocol/not_chosen"),
            ("of which nothing was heard", "/protocol/unheard"),
        ],
    ),
    (
        "datagrams",
        &[("held", "/protocol/datagrams"), ("for no socket here", "/protocol/not_served")],
    ),
    (
        "claims",
        &[
            ("claimed", "/protocol/claims"),
            ("owned", "/protocol/owns"),
            ("released", "/protocol/releases"),
            ("taken over", "/protocol/takeovers"),
            ("conflicts", "/protocol/conflicts"),
        ],
    ),
    (
        "dropped",
        &[
            ("queue full", "/kernel_queue/queue_dropped"),
            ("daemon too slow", "/kernel_queue/user_dropped"),
            ("undecided too long", "/protocol/stale"),
            ("table full", "/protocol/table_full"),
            ("frames with a wrong tag", "/wire/tag"),
        ],
    ),
];

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        let vips = match report["vips"].as_array() {
            Some(vips) => vips.iter().map(text).collect::<Vec<_>>().join(", "),
            None => text(&report["vip"]),
        };
        writeln!(f, "{vips} at {} (--mac {})", text(&report["mac"]), text(&report["mac_mode"]))?;
        let part = if report["joined"] == true { "takes part" } else { "does not take part yet" };
        let way = match (&report["by_kernel"], &report["by_hash"]) {
            (Value::Bool(true), _) => "by hash, in the kernel",
            (_, Value::Bool(true)) => "by hash",
            _ => "by claims",
        };
        write!(f, "this host is {}, {part} and decides {way}", node(&report["node"]))?;
        let causes: Vec<_> = list(&report["causes"]).map(text).collect();
        match causes.is_empty() {
            true => writeln!(f)?,
            false => writeln!(f, "; causes to decide by hash: {}", causes.join(", "))?,
        }
        writeln!(f)?;
        self.fmt_peers(f)?;
        writeln!(f)?;
        for (title, counters) in COUNTERS {
            let each = counters.iter().map(|(name, path)| {
                let number = report.pointer(path).map_or_else(dash, text);
                format!("{name} {number}")
            });
            writeln!(f, "{title:<10}  {}", each.collect::<Vec<_>>().join(", "))?;
        }
        self.fmt_flows(f)
    }
}

impl Table<'_> {
    fn fmt_peers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hearing = &self.0["hearing"];
        let heard: Vec<_> = list(hearing).map(|peer| node(&peer["node"])).collect();
        // Of these nothing was heard for long, or never since the start: the hash reckons with them.
        let roster = self.0["roster"].as_object().into_iter().flatten();
        let unheard: Vec<_> = roster.filter(|(name, _)| !heard.contains(name)).collect();
        if heard.is_empty() && unheard.is_empty() {
            return writeln!(f, "no other host has been heard");
        }
        writeln!(f, "peer      ranked  decides    frames  not heard here  not heard there")?;
        for (name, peer) in heard.iter().zip(list(hearing)) {
            // Suspect, joining, not verified or of another major version.
            let state = if peer["live"] == true { "yes" } else { "no" };
            let way = if peer["by_hash"] == true { "by hash" } else { "by claims" };
            let [sent, lost, missed] = ["sent", "lost", "missed"].map(|key| text(&peer[key]));
            writeln!(f, "{name:<8}  {state:<6}  {way:<9} {sent:>8}  {lost:>14}  {missed:>15}")?;
        }
        for (name, age) in unheard {
            writeln!(f, "{name:<8}  gone    for {} s", text(age))?;
        }
        Ok(())
    }

    fn fmt_flows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(flows) = self.0["flows"].as_array() else { return Ok(()) };
        writeln!(f, "\nanswered here in the last seconds: {}", flows.len())?;
        for flow in flows {
            let [protocol, client, vip, port, age] =
                ["protocol", "client", "vip", "port", "age_ms"].map(|key| text(&flow[key]));
            writeln!(f, "{protocol}  {client} to port {port} of {vip}, {age} ms ago")?;
        }
        Ok(())
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn dash() -> String {
    "-".to_owned()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => dash(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// As the log names nodes.
fn node(value: &Value) -> String {
    value.as_u64().map_or_else(dash, |id| format!("{id:08x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn peers_causes_and_counters_are_told() {
        let report = json!({
            "vip": "10.0.0.2", "vips": ["10.0.0.2", "10.0.0.3"], "mac": "03:bf:0a:00:00:02",
            "mac_mode": "multicast", "node": 1, "joined": true, "by_hash": true, "by_kernel": false,
            "causes": ["loss", "mute"], "kernel_syns": 4,
            "hearing": [
                { "node": 0x2a, "live": true, "by_hash": false, "sent": 100, "lost": 30, "missed": null },
            ],
            "roster": { "0000002a": 0, "0000002b": 320 },
            "protocol": { "syns": 7, "accepted": 3 }, "kernel_queue": null,
            "flows": [
                { "protocol": "tcp", "client": "10.0.0.9:5", "vip": "10.0.0.3", "port": 80, "age_ms": 12 },
            ],
        });
        assert_eq!(
            Table(&report).to_string(),
            "10.0.0.2, 10.0.0.3 at 03:bf:0a:00:00:02 (--mac multicast)\n\
             this host is 00000001, takes part and decides by hash; causes to decide by hash: loss, mute\n\
             \n\
             peer      ranked  decides    frames  not heard here  not heard there\n\
             0000002a  yes     by claims      100              30                -\n\
             0000002b  gone    for 320 s\n\
             \n\
             SYNs        held 7, accepted 3, left to others -, by hash -, decided by the kernel 4\n\
             handshakes  completed here -, with another host -, of which nothing was heard -\n\
             datagrams   held -, for no socket here -\n\
             claims      claimed -, owned -, released -, taken over -, conflicts -\n\
             dropped     queue full -, daemon too slow -, undecided too long -, table full -, frames with a wrong tag -\n\
             \n\
             answered here in the last seconds: 1\n\
             tcp  10.0.0.9:5 to port 80 of 10.0.0.3, 12 ms ago\n"
        );
    }

    #[test]
    fn a_daemon_that_says_less_is_understood() {
        let text = Table(&json!({ "vip": "10.0.0.2" })).to_string();
        assert!(text.starts_with("10.0.0.2 at -") && text.contains("no other host"), "{text}");
    }
}
