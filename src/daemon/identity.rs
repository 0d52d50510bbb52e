//! Who this host is, and whether this process may be it.

use std::fs;
use std::hash::Hasher;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clusterd::flow::NodeId;
use pnet::util::MacAddr;
use siphasher::sip::SipHasher24;

use crate::failure::Failure;

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

/// The node id: the same after a restart, different on each host.
///
/// The machine id alone would not do, since cloned machines and containers
/// share it; the MAC must be unique on the segment anyway.
pub fn node_id(mac: MacAddr) -> NodeId {
    let machine = fs::read("/etc/machine-id").unwrap_or_default();
    let mut hasher = SipHasher24::new();
    hasher.write(&machine);
    hasher.write(&mac.octets());
    NodeId(hasher.finish() as u32)
}

/// Grows from start to start, also if the clock was set back: `before` is that
/// of the last start.
pub fn incarnation(before: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos() as u64).max(before.saturating_add(1))
}

/// Fails unless this process may change the network and open packet sockets.
pub fn require_capabilities() -> Result<()> {
    require(&[(CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_NET_RAW, "CAP_NET_RAW")])
}

/// Fails unless this process may open packet sockets.
pub fn require_packet_sockets() -> Result<()> {
    require(&[(CAP_NET_RAW, "CAP_NET_RAW")])
}

fn require(capabilities: &[(u32, &str)]) -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .context("find CapEff in /proc/self/status")?;
    for (bit, name) in capabilities {
        if effective & (1 << bit) == 0 {
            return Err(Failure::privilege(&format!("{name} is missing")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incarnation_grows_with_the_clock_and_also_against_it() {
        let by_clock = incarnation(0);
        assert!(by_clock > 1_700_000_000_000_000_000, "nanoseconds since 1970");
        // The clock was set back since the last start, by an hour and by ages.
        for before in [by_clock + 3_600_000_000_000, u64::MAX - 1] {
            assert_eq!(incarnation(before), before + 1);
        }
        assert_eq!(incarnation(u64::MAX), u64::MAX);
    }
}
