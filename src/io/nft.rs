//! Runs the `nft` program. Each call is one transaction: all of it or nothing.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};

use super::rules::{Family, Ruleset, VIPS, table_name, vip_of_table};
use crate::failure::Failure;

fn nft(args: &[&str], script: &str) -> Result<Output> {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::unavailable(
                "the program `nft` is not installed; install the package nftables",
            ),
            _ => anyhow::Error::new(error).context("start nft"),
        })?;
    child.stdin.take().context("nft takes no input")?.write_all(script.as_bytes())?;
    child.wait_with_output().context("wait for nft")
}

fn succeed(output: Output, attempt: &str) -> Result<Vec<u8>> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let hint = if reason.contains("Operation not permitted") {
        return Err(Failure::privilege(&format!("nft may not {attempt}")));
    } else if reason.contains("No such file or directory") {
        "; the kernel lacks an nf_tables feature (see README, Requirements)"
    } else {
        ""
    };
    Err(Failure::unavailable(&format!("nft could not {attempt}{hint}:\n{}", reason.trim_end())))
}

/// Carries out a script of nft commands.
pub fn apply(script: &str, attempt: &str) -> Result<()> {
    succeed(nft(&["-f", "-"], script)?, attempt).map(drop)
}

/// Does this kernel have the nft expression `queue`? Changes nothing.
pub fn has_queue() -> Result<bool> {
    let script = "add table inet clusterd_probe\nadd chain inet clusterd_probe c\n\
                  add rule inet clusterd_probe c queue num 0\n";
    Ok(nft(&["--check", "-f", "-"], script)?.status.success())
}

/// Does this kernel let rules decide about frames as they come from an interface? Changes nothing.
pub fn has_ingress() -> Result<bool> {
    let script = "add table netdev clusterd_probe\n\
                  add chain netdev clusterd_probe c { type filter hook ingress device \"lo\" priority 0; }\n\
                  add rule netdev clusterd_probe c meta pkttype set host\n";
    Ok(nft(&["--check", "-f", "-"], script)?.status.success())
}

/// The tables of ours in this network namespace: family and virtual IP of each.
pub fn installed() -> Result<Vec<(String, IpAddr)>> {
    let listing = succeed(nft(&["list", "tables"], "")?, "list the tables")?;
    Ok(String::from_utf8_lossy(&listing)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            Some((words.next()?.to_owned(), vip_of_table(words.next()?)?))
        })
        .collect())
}

/// The virtual IPs in the sets of a cluster's rules: of each family in which it has further ones.
pub fn vips(first: IpAddr) -> Result<BTreeSet<IpAddr>> {
    let mut vips = BTreeSet::new();
    for family in Family::ALL {
        let (table, set) = (table_name(first), family.name(VIPS));
        let output = nft(&["--json", "list", "set", "inet", &table, &set], "")?;
        if !output.status.success() {
            continue;
        }
        let listing: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("read a set as JSON")?;
        let objects = listing["nftables"].as_array().into_iter().flatten();
        let elements = objects.filter_map(|object| object["set"]["elem"].as_array()).flatten();
        vips.extend(elements.filter_map(|vip| vip.as_str()?.parse::<IpAddr>().ok()));
    }
    Ok(vips)
}

/// The tables of a ruleset as nft lists them, without counts and without the
/// elements of sets, which change all the time; `None` if one is missing.
pub fn listing(rules: &Ruleset) -> Result<Option<Vec<u8>>> {
    let name = table_name(rules.vip());
    let mut listing = Vec::new();
    for family in rules.families() {
        let output = nft(&["--stateless", "--terse", "list", "table", family, &name], "")?;
        if !output.status.success() {
            return Ok(None);
        }
        listing.extend(output.stdout);
    }
    Ok(Some(listing))
}

/// Can rules of this kernel ask connection tracking? Changes nothing.
pub fn has_conntrack() -> Result<bool> {
    let script = "add table inet clusterd_probe\nadd chain inet clusterd_probe c\n\
                  add rule inet clusterd_probe c ct state new\n";
    Ok(nft(&["--check", "-f", "-"], script)?.status.success())
}

/// All rules in this network namespace, as libnftables-json(5) has them.
pub fn ruleset_json() -> Result<serde_json::Value> {
    let listing = succeed(nft(&["--json", "--terse", "list", "ruleset"], "")?, "list the rules")?;
    serde_json::from_slice(&listing).context("read the rules as JSON")
}
