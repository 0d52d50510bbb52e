//! Runs the `nft` program. Each call is one transaction: all of it or nothing.

use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};

use super::rules::{TABLE_FAMILIES, table_name, vip_of_table};
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

/// The virtual IPs for which a table of ours exists in this network namespace.
pub fn installed() -> Result<Vec<Ipv4Addr>> {
    let listing = succeed(nft(&["list", "tables"], "")?, "list the tables")?;
    Ok(String::from_utf8_lossy(&listing)
        .lines()
        .filter_map(|line| vip_of_table(line.split_whitespace().nth(2)?))
        .collect())
}

/// The tables of `vip` as nft lists them, without counts and without the
/// elements of sets, which change all the time; `None` if one is missing.
pub fn listing(vip: Ipv4Addr) -> Result<Option<Vec<u8>>> {
    let name = table_name(vip);
    let mut listing = Vec::new();
    for family in TABLE_FAMILIES {
        let output = nft(&["--stateless", "--terse", "list", "table", family, &name], "")?;
        if !output.status.success() {
            return Ok(None);
        }
        listing.extend(output.stdout);
    }
    Ok(Some(listing))
}
