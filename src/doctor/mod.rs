//! `clusterd doctor`: does this network carry a virtual IP, in which MAC mode, and if not, why?
//!
//! All participants (doctors on some hosts, daemons on others) tell each other by broadcast who they are
//! and which of the others' probes they have seen; each then comes to its own [`verdict`].
//!
//! | file | job |
//! |---|---|
//! | [`wire`], [`modes`] | bulletins and probes as bytes |
//! | [`roster`] | who was heard, and how well |
//! | [`session`] | a participant that asks |
//! | [`attendant`] | the daemon's part: it answers |
//! | [`gateway`] | does the router accept the MAC? |
//! | [`port`], [`querier`] | what the switch says by itself |
//! | [`host`], [`firewall`], [`obstacles`] | this host's own settings, and rules of others |
//! | [`verdict`], [`finding`] | who is to blame, and the way out |
//! | [`auto`] | `--mac auto` |

pub mod attendant;
pub mod auto;
mod examination;
mod finding;
mod firewall;
mod gateway;
mod host;
mod modes;
mod obstacles;
mod port;
mod querier;
mod report;
mod roster;
mod session;
mod verdict;
pub mod wire;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use clusterd::protocol::Vips;

use crate::daemon::identity;
use crate::failure::{Exit, Failure};
use crate::io::cluster_mac::MacMode;
use crate::io::link::Links;
use examination::Examination;
use modes::ModeSet;
use report::Report;
use wire::Role;

/// The modes in which frames come from the interface's own MAC only. Whoever tries the other one
/// unasked may find the port shut down by a switch that allows one MAC per port.
const HARMLESS: [MacMode; 3] = [MacMode::Multicast, MacMode::Igmp, MacMode::Stealth];

/// Options of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Ethernet interface on which the cluster lives, or shall live.
    interface: String,
    /// The virtual IP: of a cluster with several the first one.
    vip: IpAddr,
    /// MAC mode to try, or all [default: all but shared, which sends from a second MAC: a switch that
    /// allows one per port may take the port down].
    #[arg(long, value_name = "MODE", value_parser = parse_modes)]
    mac: Option<ModeSet>,
    /// How long to wait for doctors on other hosts. If only daemons are there, 3 seconds do.
    #[arg(long = "for", default_value = "10s", value_name = "TIME", value_parser = parse_window)]
    window: Duration,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Examines network and host, and prints what is the matter.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    identity::require_capabilities()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let report = runtime.context("start tokio")?.block_on(examine(args))?;
    if args.json {
        println!("{}", serde_json::to_string(&report).context("write the report as JSON")?);
    } else {
        print!("{report}");
    }
    Ok(ExitCode::from(match &report {
        Report::Unfit { .. } => Exit::NotInOrder as u8,
        Report::Examined { verdict, .. } if verdict.has_problems() => Exit::NotInOrder as u8,
        // Nobody knows whether the cluster's mode gets through.
        Report::Examined { verdict, .. } if verdict.live_is_unexamined() => Exit::NotInOrder as u8,
        Report::Examined { verdict, .. } if verdict.others == 0 => Exit::Alone as u8,
        Report::Examined { .. } => 0,
    }))
}

async fn examine(args: &DoctorArgs) -> Result<Report> {
    let begin = Instant::now();
    let links = Links::open()?;
    let marks = links.marks().await?;
    if let Some(marked) = marks.iter().find(|marked| marked.further.contains(&args.vip)) {
        let (vip, first) = (args.vip, marked.mark.vip);
        return Err(Failure::config(&format!(
            "{vip} is a further virtual IP of the cluster {first} on this host, with the MAC that {first} \
             has; ask the doctor about {first}"
        )));
    }
    let condition = links.condition(&args.interface).await?;
    let link = match (links.find(&args.interface, &Vips::from(args.vip)).await, &condition) {
        (Ok(link), _) => link,
        (Err(error), None) => return Err(error),
        (Err(error), Some(_)) => return Ok(Report::unfit(args, &error, begin.elapsed())),
    };
    let (role, modes) = (Role::Doctor, args.mac.unwrap_or(ModeSet::of(&HARMLESS)));
    let examination = Examination { links: &links, link: &link, role, modes };
    let (_session, observations) = examination.run(args.window).await?;
    Ok(Report::new(&observations, observations.verdict(), begin.elapsed()))
}

fn parse_modes(text: &str) -> Result<ModeSet, String> {
    if text == "all" {
        return Ok(ModeSet::of(&MacMode::ALL));
    }
    MacMode::from_str(text, false)
        .map(|mode| ModeSet::of(&[mode]))
        .map_err(|_| "one of all, multicast, igmp, stealth, shared".to_owned())
}

fn parse_window(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if range.contains(&time) { Ok(time) } else { Err("must be from 1s to 1h".to_owned()) }
}
