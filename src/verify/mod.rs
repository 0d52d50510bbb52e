//! `clusterd verify`: the check from a client before a cluster goes live.
//!
//! Connections are opened as any program would, and what the hosts made of them is read from the
//! frames on the client's interface, not from anybody's word.

mod ledger;
mod load;
mod report;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::capture::{self, Listener, Opened, Scope};
use crate::daemon::identity;
use crate::failure::{Exit, Failure};
use crate::io::link::{Links, Route};
use ledger::{Framing, Ledger};
use load::Load;
use report::Report;

/// Options of `verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// The virtual IP and a TCP port: 10.0.0.2:80, or [2001:db8::2]:80.
    #[arg(value_name = "VIP:PORT")]
    target: SocketAddr,
    /// Number of connections.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    connections: u64,
    /// How many are attempted at a time.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Interface to connect by [default: as the routes say].
    #[arg(long)]
    interface: Option<String>,
    /// How long each connection may take, from its first SYN until the service has hung up, too. What is
    /// answered by then counts as answered. A SYN is sent again after one second and after three.
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = parse_timeout)]
    timeout: Duration,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Opens the connections and prints the report.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    identity::require_packet_sockets()?;
    let route = find_route(args.target.ip(), args.interface.as_deref())?;
    if route.is_local {
        return Err(Failure::config(&format!(
            "{} is an address of this host, which answers itself without a word on the wire; run this \
             on a client, which is no member of the cluster",
            args.target.ip()
        )));
    }
    let (interface, framing) = (route.interface.clone(), Framing::of(&route));
    let (target, source) = (args.target, route.source);
    let listener = Listener::spawn(move || {
        let filter = ledger::filter(target, source);
        let capture = capture::open(&interface, Scope::Own, &filter)?;
        Ok(Opened { capture, savefile: None, observer: Ledger::new(target, framing) })
    })?;
    let load = Load {
        target,
        interface: args.interface.clone(),
        connections: args.connections,
        concurrency: args.concurrency.into(),
        timeout: args.timeout,
    };
    let tally = load.run()?;
    let (ledger, frames_lost) = listener.finish()?;
    let report = Report::new(args, &route, &tally, &ledger, frames_lost);
    if args.json {
        println!("{}", serde_json::to_string(&report).context("write the report as JSON")?);
    } else {
        print!("{report}");
    }
    Ok(match report.is_clean() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(Exit::NotInOrder as u8),
    })
}

fn find_route(target: IpAddr, interface: Option<&str>) -> Result<Route> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start tokio")?;
    runtime.block_on(async { Links::open()?.route(target, interface).await })
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(10)..=Duration::from_secs(60);
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if range.contains(&time) { Ok(time) } else { Err("must be from 10ms to 1m".to_owned()) }
}
