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
                fmt_advice(f, interface, *vip, verdict)
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

fn fmt_advice(
    f: &mut fmt::Formatter<'_>,
    interface: &str,
    vip: IpAddr,
    verdict: &Verdict,
) -> fmt::Result {
    let alone = if verdict.others == 0 {
        "; run this on the other hosts at the same time to know more"
    } else {
        ""
    };
    match (verdict.live, verdict.recommended) {
        (Some(live), Some(mode)) if live == mode => {
            writeln!(f, "=> the cluster answers in mode {live}, and that works{alone}")
        }
        (Some(live), Some(mode)) => writeln!(
            f,
            "=> the cluster answers in mode {live}, which does not work here; stop all hosts, then start \
             them with: clusterd {interface} {vip} --mac {mode}"
        ),
        (Some(live), None) if verdict.modes.iter().all(|tried| tried.mode != live) => writeln!(
            f,
            "=> the cluster answers in mode {live}, which was not tried: clusterd doctor {interface} {vip} \
             --mac {live}"
        ),
        (Some(live), None) => {
            writeln!(f, "=> the cluster answers in mode {live}, which does not work here{alone}")
        }
        (None, Some(mode)) => {
            writeln!(f, "=> use: clusterd {interface} {vip} --mac {mode}{alone}")
        }
        (None, None) => writeln!(f, "=> no mode that was tried works as things are{alone}"),
    }
}
