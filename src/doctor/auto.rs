//! `--mac auto`: the mode of the cluster that runs, else the first that gets to all hosts and the gateway.
//!
//! Hosts that start at the same moment tell each other what they have chosen, for a second, and follow the
//! one with the lowest number; later ones follow whoever runs.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;
use tracing::{info, warn};

use super::HARMLESS;
use super::examination::Examination;
use super::finding::Weight;
use super::modes::ModeSet;
use super::wire::Role;
use crate::failure::Failure;
use crate::io::cluster_mac::MacMode;
use crate::io::link::{Addresses, Link, Links, require_packets_in_group_frames};
use crate::io::nft;

/// How long to look for others.
const WINDOW: Duration = Duration::from_secs(3);
/// How long a choice is announced before it counts.
const AGREEMENT: Duration = Duration::from_secs(1);

/// The modes in which this host can start.
fn possible(link: &Link) -> Result<ModeSet> {
    let group_frames = require_packets_in_group_frames(link);
    let can_stealth = nft::has_ingress()?;
    let is_possible = |mode: &MacMode| match mode {
        MacMode::Multicast | MacMode::Igmp => group_frames.is_ok(),
        MacMode::Stealth => can_stealth,
        MacMode::Shared => true,
    };
    let modes: ModeSet = HARMLESS.into_iter().filter(is_possible).collect();
    match group_frames {
        Err(error) if modes == ModeSet::default() => Err(error),
        _ => Ok(modes),
    }
}

/// The mode to start in.
pub async fn choose(links: &Links, link: &Link) -> Result<MacMode> {
    let Addresses::V4 { vip, .. } = link.addresses else {
        return Err(Failure::config(
            "--mac auto is for clusters whose first virtual IP is of IPv4, so far; name the mode",
        ));
    };
    let role = Role::Starting;
    let modes = possible(link)?;
    let examination = Examination { links, link, vip, role, modes };
    let (session, mut observations) = examination.run(WINDOW).await?;
    // All hosts need the same one, and what another host cannot do it has not offered.
    observations.modes = session.modes_of_all();
    let verdict = observations.verdict();
    if let Some(mode) = verdict.live {
        info!(%vip, "--mac auto: {mode}, as the cluster that runs");
        return Ok(mode);
    }
    for finding in verdict.findings.iter().filter(|it| it.weight == Weight::Problem) {
        warn!(%vip, "--mac auto: {finding}");
    }
    let default = observations.modes.iter().chain(modes.iter()).next();
    let own = verdict.recommended.or(default).unwrap_or(MacMode::Multicast);
    let announced = session.choice_of_others(None).unwrap_or(own);
    session.set_choice(announced);
    let begin = Instant::now();
    session.take_part(|| begin.elapsed() >= AGREEMENT).await?;
    let mode = session.choice_of_others(Some(session.id())).unwrap_or(announced);
    match verdict.others {
        0 => info!(%vip, "--mac auto: {mode}, chosen alone: no other host was heard"),
        others => info!(%vip, "--mac auto: {mode}, with {others} other hosts"),
    }
    Ok(mode)
}
