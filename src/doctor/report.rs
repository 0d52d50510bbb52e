//! What `doctor` prints.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::DoctorArgs;
use super::finding::{Culprit, Finding};
use super::port::Port;
use super::verdict::{Host, ModeVerdict, Observations, Verdict};
use super::wire::{GatewayAnswer, Role};
use crate::io::cluster_mac::MacMode;

/// The report.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// The interface does not do, so nothing else was tried.
    Unfit {
        /// The interface.
        interface: String,
        /// The virtual IP.
        vip: IpAddr,
        /// Why.
        findings: Vec<Finding>,
        /// From the start to this verdict.
        seconds: f64,
    },
    /// What was seen, and what that means.
    Examined {
        /// The interface.
        interface: String,
        /// The virtual IP.
        vip: IpAddr,
        /// All participants, this one first.
        hosts: Vec<Host>,
        /// What they heard of each other.
        heard: Vec<Heard>,
        /// The gateways of all hosts on this segment, that of this one first.
        gateways: Vec<IpAddr>,
        /// What is known of the switch's port.
        port: Port,
        /// Who asks for members of groups, if anybody was heard.
        querier: Option<IpAddr>,
        /// What it means.
        #[serde(flatten)]
        verdict: Verdict,
        /// From the start to this verdict.
        seconds: f64,
    },
}

/// What one host heard of another.
#[derive(Debug, Serialize)]
pub struct Heard {
    from: String,
    to: String,
    mode: MacMode,
    sent: u16,
    arrived: u16,
}

impl Report {
    /// A report on an interface that cannot carry the virtual IP.
    pub fn unfit(args: &DoctorArgs, error: &anyhow::Error, took: Duration) -> Self {
        let findings = vec![Finding::problem(Culprit::Interface, format!("{error:#}"))];
        let (interface, vip, seconds) = (args.interface.clone(), args.vip, seconds(took));
        Self::Unfit { interface, vip, findings, seconds }
    }

    /// A report on all that was seen.
    pub fn new(seen: &Observations, verdict: Verdict, took: Duration) -> Self {
        let names: BTreeMap<_, _> =
            seen.hosts.iter().map(|host| (host.id, host.address.to_string())).collect();
        let heard = seen.ways.iter().filter_map(|way| {
            Some(Heard {
                from: names.get(&way.from)?.clone(),
                to: names.get(&way.to)?.clone(),
                mode: way.mode,
                sent: way.count.expected,
                arrived: way.count.got,
            })
        });
        Self::Examined {
            interface: seen.interface.clone(),
            vip: seen.vip,
            hosts: seen.hosts.clone(),
            heard: heard.collect(),
            gateways: seen.gateways.iter().map(|gateway| gateway.address).collect(),
            port: seen.port,
            querier: seen.querier,
            verdict,
            seconds: seconds(took),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit { interface, vip, findings, .. } => {
                writeln!(f, "{vip} on {interface}: not possible")?;
                findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))
            }
            Self::Examined { interface, vip, hosts, heard, gateways, verdict, seconds, .. } => {
                write!(f, "{vip} on {interface}, seen from ")?;
                let names: Vec<_> = hosts.iter().map(describe).collect();
                match names.split_first() {
                    Some((own, [])) => write!(f, "{own}; no other host was heard")?,
                    Some((own, others)) => write!(f, "{own}; others: {}", others.join(", "))?,
                    None => write!(f, "nowhere")?,
                }
                writeln!(f, " (took {seconds:.1} s)\n")?;
                fmt_modes(f, gateways, verdict)?;
                fmt_gaps(f, heard, verdict)?;
                writeln!(f)?;
                verdict.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))?;
                writeln!(f, "=> {}", advice(interface, *vip, verdict))
            }
        }
    }
}

/// To the millisecond.
fn seconds(took: Duration) -> f64 {
    took.as_millis() as f64 / 1000.0
}

fn describe(host: &Host) -> String {
    let Host { address, role, mode, .. } = host;
    match (role, mode) {
        (Role::Doctor, None) => address.to_string(),
        (Role::Doctor | Role::Daemon, Some(mode)) => format!("{address} (answers, {mode})"),
        (Role::Daemon, None) => format!("{address} (answers)"),
        (Role::Starting, _) => format!("{address} (starting)"),
    }
}

fn fmt_modes(f: &mut fmt::Formatter<'_>, gateways: &[IpAddr], verdict: &Verdict) -> fmt::Result {
    let names: Vec<_> = gateways.iter().map(IpAddr::to_string).collect();
    let gateway = match names.len() {
        0 => "no gateway".to_owned(),
        1 => format!("gateway {}", names[0]),
        _ => format!("gateways {}", names.join(", ")),
    };
    writeln!(f, "mode       MAC gets from host to host   {gateway}")?;
    for ModeVerdict { mode, ways, working, gateway, .. } in &verdict.modes {
        let hosts = match ways {
            0 => "not tried".to_owned(),
            _ if ways == working => format!("yes, {ways} ways of {ways}"),
            _ => format!("no, {working} ways of {ways}"),
        };
        let gateway = match gateway {
            GatewayAnswer::Untested | GatewayAnswer::Pending => "-",
            GatewayAnswer::Accepts => "accepts it",
            GatewayAnswer::Refuses => "refuses it",
            GatewayAnswer::Lost => "asked, then nothing came",
            GatewayAnswer::NeverAsks => "does not ask for it",
            GatewayAnswer::Elsewhere => "sends to another MAC",
            GatewayAnswer::LearnsSource => "sends to who told it",
            GatewayAnswer::NoPing => "cannot be told",
            GatewayAnswer::Silent => "is not there",
        };
        writeln!(f, "{:<10} {hosts:<26}   {gateway}", mode.name())?;
    }
    Ok(())
}

/// Which ways fail in the mode that matters.
fn fmt_gaps(f: &mut fmt::Formatter<'_>, heard: &[Heard], verdict: &Verdict) -> fmt::Result {
    let Some(mode) = verdict.live.or(verdict.recommended) else { return Ok(()) };
    let gaps = heard.iter().filter(|way| way.mode == mode && way.sent > 3 && way.arrived == 0);
    for Heard { from, to, sent, .. } in gaps {
        writeln!(f, "{mode}: of {sent} probes from {from} none got to {to}")?;
    }
    Ok(())
}

/// The last line: what to do.
fn advice(interface: &str, vip: IpAddr, verdict: &Verdict) -> String {
    let alone = if verdict.others == 0 {
        "; run this on the other hosts at the same time to know more"
    } else {
        ""
    };
    let (live, recommended) = (verdict.live, verdict.recommended);
    match (live, recommended, verdict.has_problems()) {
        (Some(live), Some(mode), false) if live == mode => {
            format!("the cluster answers in mode {live}, and that works{alone}")
        }
        (Some(live), Some(mode), true) if live == mode => format!(
            "the cluster answers in mode {live}, and nothing speaks against that mode; see to what is marked \
             with ! above{alone}"
        ),
        (Some(live), Some(mode), _) => format!(
            "the cluster answers in mode {live}, which does not work here; stop all hosts, then start \
             them with: clusterd {interface} {vip} --mac {mode}"
        ),
        (Some(live), None, _) if verdict.modes.iter().all(|tried| tried.mode != live) => format!(
            "the cluster answers in mode {live}, which was not tried: clusterd doctor {interface} {vip} \
             --mac {live}"
        ),
        (Some(live), None, _) => {
            format!("the cluster answers in mode {live}, which does not work here{alone}")
        }
        (None, Some(mode), false) => {
            format!("use: clusterd {interface} {vip} --mac {mode}{alone}")
        }
        // Whoever starts before that has a cluster which does not work, or none.
        (None, Some(mode), true) => format!(
            "do not start yet: see to what is marked with ! above, then run this again; as far as can be told \
             now the mode will be {mode}{alone}"
        ),
        (None, None, _) => format!("no mode that was tried works as things are{alone}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_start_before_a_problem_is_solved() {
        let vip = IpAddr::from([10, 0, 0, 2]);
        let verdict = |live, problem: Option<Culprit>| Verdict {
            modes: Vec::new(),
            live,
            recommended: Some(MacMode::Stealth),
            others: 2,
            findings: problem.map(|it| Finding::problem(it, "a text")).into_iter().collect(),
        };
        let said = |live, problem| advice("eth0", vip, &verdict(live, problem));
        assert_eq!(said(None, None), "use: clusterd eth0 10.0.0.2 --mac stealth");
        let text = said(None, Some(Culprit::DuplicateVip));
        assert!(text.starts_with("do not start yet") && text.ends_with("stealth"), "{text}");
        assert!(!text.contains("clusterd eth0"), "{text}");

        let live = Some(MacMode::Stealth);
        assert!(said(live, None).ends_with("and that works"));
        let text = said(live, Some(Culprit::MixedModes));
        assert!(text.contains("marked with !") && !text.contains("works"), "{text}");

        // What is good to know keeps nobody from starting.
        let note = vec![Finding::note(Culprit::RpFilter, "a text")];
        let noted = Verdict { findings: note, ..verdict(None, None) };
        assert!(advice("eth0", vip, &noted).starts_with("use: "));
    }
}
