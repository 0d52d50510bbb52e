//! `--mac auto`: the mode of the cluster that runs, else the first that gets to all hosts and the gateway.
//!
//! Hosts that start at the same moment tell each other what they have chosen, for a second, and follow the
//! one with the lowest number; later ones follow whoever runs. Behind a port of the switch that does not forward
//! yet a host would be as if alone, so it tries again for a while.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;
use tracing::{info, warn};

use super::HARMLESS;
use super::examination::Examination;
use super::finding::{Culprit, Weight};
use super::modes::ModeSet;
use super::obstacles;
use super::session::Session;
use super::verdict::Verdict;
use super::wire::Role;
use crate::io::cluster_mac::MacMode;
use crate::io::link::{Link, Links};

/// How long to look for others.
const WINDOW: Duration = Duration::from_secs(3);
/// How long a choice is announced before it counts.
const AGREEMENT: Duration = Duration::from_secs(1);
/// How long to try again. Spanning tree makes a port listen for 15 s and learn for 15 s (IEEE 802.1D-1998 8.10.2),
/// and the switch may take some seconds more.
const PATIENCE: Duration = Duration::from_secs(45);

/// The mode to start in.
pub async fn choose(links: &Links, link: &Link) -> Result<MacMode> {
    let vip = link.addresses.vip();
    let condition = links.condition(&link.name).await?.context("the interface was removed")?;
    let obstacles = obstacles::look(link, &condition)?;
    let modes: ModeSet = HARMLESS.into_iter().filter(|&it| obstacles[it].is_none()).collect();
    let examination = Examination { links, link, role: Role::Starting, modes };
    let (session, verdict) = look(&examination).await?;
    for finding in verdict.findings.iter().filter(|it| it.weight == Weight::Problem) {
        warn!(%vip, "--mac auto: {finding}");
    }
    if let Some(mode) = verdict.live {
        info!(%vip, "--mac auto: {mode}, as the cluster that runs");
        return Ok(mode);
    }
    let own = verdict.recommended.or(session.modes_of_all().iter().next());
    let own = own.or(modes.iter().next()).unwrap_or(MacMode::Multicast);
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

/// Looks until the port of the switch forwards, as far as that can be told, or patience ends.
async fn look(examination: &Examination<'_>) -> Result<(Session, Verdict)> {
    let (begin, vip) = (Instant::now(), examination.link.addresses.vip());
    let mut is_first = true;
    loop {
        let (session, observations) = examination.run(WINDOW).await?;
        let verdict = observations.verdict();
        let mut silence = verdict.findings.iter().filter(|it| it.culprit == Culprit::PortSilent);
        let Some(finding) = silence.next() else { return Ok((session, verdict)) };
        if begin.elapsed() >= PATIENCE {
            warn!(%vip, "--mac auto: going on all the same after {PATIENCE:?}: {}", finding.text);
            return Ok((session, verdict));
        }
        if is_first {
            info!(%vip, "--mac auto: waiting up to {PATIENCE:?}: {}", finding.text);
        }
        is_first = false;
    }
}
