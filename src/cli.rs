//! The command line: every flag, its default and its help, once.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clusterd::protocol::{Pacing, Timers};

use crate::io::rules::Guard;
use crate::lab::LabCommand;

/// Several hosts on one Ethernet segment answer one virtual IP together:
/// type `clusterd eth0 10.0.0.2` on each of them.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 stopped by a signal and cleaned up, 2 wrong usage, 69 interface, \
                  kernel feature or program missing, 75 virtual IP or queue numbers in use, 77 privilege missing, \
                  78 arguments do not fit this host, 1 anything else."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    cluster: Option<ClusterArgs>,

    /// What to log, most to least: trace, debug, info, warn, error. Connections
    /// appear at debug only.
    #[arg(long, global = true, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

impl Cli {
    /// The cluster to run; clap has seen to it that there is one.
    pub fn cluster(&self) -> Result<ClusterArgs> {
        self.cluster.clone().ok_or_else(|| anyhow!("INTERFACE and VIP are missing"))
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the nft rules that would be installed; needs no privilege.
    Rules(ClusterArgs),
    /// Show what the daemons on this host see and count.
    Status(StatusArgs),
    /// Try a whole cluster on this machine, in network namespaces.
    #[command(subcommand)]
    Lab(LabCommand),
    /// Remove what a killed daemon left behind.
    Cleanup {
        /// Only for this virtual IP [default: for all without a running daemon].
        vip: Option<Ipv4Addr>,
    },
}

/// A cluster as this host takes part in it.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// Ethernet interface on which the cluster lives.
    pub interface: String,

    /// The virtual IP: an unused address of the interface's subnet.
    pub vip: Ipv4Addr,

    /// When a host claims a connection.
    #[arg(long, value_enum, default_value_t = PacingArg::Rank)]
    pub pacing: PacingArg,

    /// How packets meant for another host's connection are kept from this
    /// host's TCP: `rst` costs nothing per connection, `strict` queues one
    /// packet more of each and is exact.
    #[arg(long, value_enum, default_value_t = Guard::Rst)]
    pub guard: Guard,

    /// How long each rank waits for the one before it: what a dead host costs
    /// a new connection.
    #[arg(long, value_parser = parse_timer, default_value = "1ms", value_name = "TIME")]
    pub slot: Duration,

    /// How long a claim that may have crossed another one settles.
    #[arg(long, value_parser = parse_timer, default_value = "1ms", value_name = "TIME")]
    pub settle: Duration,
}

impl ClusterArgs {
    /// The protocol's timers with the ones given here.
    pub fn timers(&self) -> Timers {
        Timers { slot: self.slot, settle: self.settle, ..Timers::default() }
    }
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only this virtual IP [default: all of this host].
    pub vip: Option<Ipv4Addr>,

    /// List the connections answered in the last seconds.
    #[arg(long)]
    pub flows: bool,

    /// One JSON object per virtual IP.
    #[arg(long)]
    pub json: bool,
}

/// [`Pacing`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PacingArg {
    /// In rank order, one claim per connection.
    Rank,
    /// All at once, the first claim wins: the rule of the year 2000.
    Race,
}

impl From<PacingArg> for Pacing {
    fn from(pacing: PacingArg) -> Self {
        match pacing {
            PacingArg::Rank => Pacing::Rank,
            PacingArg::Race => Pacing::Race,
        }
    }
}

/// A protocol timer: far below the 20 ms for which a claim defers others.
fn parse_timer(text: &str) -> Result<Duration, String> {
    let range = Duration::from_micros(50)..=Duration::from_millis(15);
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if range.contains(&time) {
        Ok(time)
    } else {
        Err(format!(
            "must be from {} to {}",
            humantime::format_duration(*range.start()),
            humantime::format_duration(*range.end())
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_interface_and_an_address_are_enough() {
        let cli = Cli::try_parse_from(["clusterd", "eth0", "10.0.0.2"]).unwrap();
        let cluster = cli.cluster().unwrap();
        assert_eq!((cluster.interface.as_str(), cluster.slot), ("eth0", Duration::from_millis(1)));
        assert!(Cli::try_parse_from(["clusterd", "eth0"]).is_err());
        assert!(Cli::try_parse_from(["clusterd", "eth0", "10.0.0.2", "--slot", "1s"]).is_err());
    }
}
