//! The command line: every flag, its default and its help, once.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clusterd::protocol::{Mode, Pacing, Timers, Vips};
use clusterd::wire::Policy;

use crate::doctor::DoctorArgs;
use crate::failure::Failure;
use crate::io::cluster_mac::MacMode;
use crate::io::rules::{Guard, Scope};
use crate::lab::LabCommand;
use crate::verify::VerifyArgs;

/// Several hosts on one Ethernet segment answer one virtual IP together:
/// type `clusterd eth0 10.0.0.2` on each of them.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 stopped by a signal and cleaned up, 2 wrong usage, 3 what was looked at is \
                  not in order, 4 no other host heard, 69 interface, kernel feature or program missing, 75 virtual IP or queue \
                  numbers in use, 77 privilege missing, 78 arguments do not fit this host, 1 anything else."
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
    /// Find out in which MAC mode this network carries a virtual IP, and what is in the way: before
    /// going live on all hosts at the same time, later on any one.
    ///
    /// Exits with 0 if all is well, with 3 if something must be changed, with 4 if no other host was heard.
    Doctor(DoctorArgs),
    /// Open connections to a virtual IP from a client, and tell from the frames on its interface who
    /// answered and what went wrong.
    ///
    /// Exits with 0 if each connection was answered once, at once and without a reset; with 3 if not.
    Verify(VerifyArgs),
    /// Try a whole cluster on this machine, in network namespaces.
    #[command(subcommand)]
    Lab(LabCommand),
    /// Remove what a killed daemon left behind.
    Cleanup {
        /// Only for the cluster of which this is a virtual IP [default: for all without a running daemon].
        vip: Option<IpAddr>,
    },
}

/// A cluster as this host takes part in it.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// Ethernet interface on which the cluster lives.
    pub interface: String,

    /// The virtual IPs, up to 64 IPv4 or IPv6 addresses: unused ones of the interface's subnets.
    /// The first one names the cluster and is the same on all hosts.
    #[arg(required = true, value_name = "VIP")]
    vips: Vec<IpAddr>,

    /// The only ports on which the cluster is spoken to, the same on all hosts: packets to
    /// other TCP and UDP ports of the virtual IPs are dropped silently [default: all ports].
    #[arg(long, value_name = "PORTS", value_parser = Scope::from_str)]
    pub ports: Option<Scope>,

    /// What kind of MAC the virtual IP resolves to, the same on all hosts: multicast, igmp, stealth,
    /// shared, or auto, which is that of the cluster that runs, else the first that gets to all
    /// hosts and the gateway. README says which one for which network.
    #[arg(long, default_value = "multicast", value_name = "MODE", value_parser = parse_mac)]
    pub mac: MacArg,

    /// When a host claims a connection.
    #[arg(long, value_enum, default_value_t = PacingArg::Rank)]
    pub pacing: PacingArg,

    /// How packets meant for another host's connection are kept from this
    /// host's TCP: `rst` costs nothing per connection, `strict` queues one
    /// packet more of each and is exact.
    #[arg(long, value_enum, default_value_t = Guard::Rst)]
    pub guard: Guard,

    /// How connections are distributed: by claims, by a hash of the client, or
    /// by claims as long as they can be trusted and afforded.
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    pub mode: ModeArg,

    /// How flows of datagrams are distributed: `claim` asks the cluster about
    /// each new one, `hash` lets the kernel decide without the daemon.
    #[arg(long, value_enum, default_value_t = UdpArg::Claim)]
    pub udp: UdpArg,

    /// How long each rank waits for the one before it: what a dead host costs
    /// a new connection [default: 1ms at first, then as measured].
    #[arg(long, value_parser = parse_timer, value_name = "TIME")]
    pub slot: Option<Duration>,

    /// How long a claim that may have crossed another one settles [default:
    /// 1ms at first, then as measured].
    #[arg(long, value_parser = parse_settle, value_name = "TIME")]
    pub settle: Option<Duration>,

    /// File with the secret of the cluster, mode 0600: 64 hexadecimal digits,
    /// as of `openssl rand -hex 32`. A second line is a secret that is believed
    /// but does not sign.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// What to do with the secret while other hosts may not have it yet.
    #[arg(long, value_enum, default_value_t = AuthArg::Enforce, requires = "key_file")]
    pub auth: AuthArg,

    /// Directory where the members of the cluster are remembered from one start
    /// to the next.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/clusterd")]
    pub state_dir: PathBuf,

    /// Remember nothing from one start to the next.
    #[arg(long, conflicts_with = "state_dir")]
    pub no_state: bool,

    /// Write all that the protocol core is told and says to a new file, to be replayed
    /// by `clusterd-sim replay`.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Length at which a recording ends.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", requires = "record")]
    pub record_limit: Size,
}

impl ClusterArgs {
    /// The virtual IPs.
    pub fn vips(&self) -> Result<Vips> {
        let (first, further) = self.vips.split_first().context("VIP is missing")?;
        Vips::new(*first, further.iter().copied())
            .map_err(|error| Failure::usage(&error.to_string()))
    }

    /// The protocol's timers with the ones given here, which then stay as they are.
    pub fn timers(&self) -> Timers {
        let default = Timers::default();
        Timers {
            slot: self.slot.unwrap_or(default.slot),
            slot_adapts: self.slot.is_none(),
            settle: self.settle.unwrap_or(default.settle),
            settle_adapts: self.settle.is_none(),
            ..default
        }
    }
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only the cluster of which this is a virtual IP [default: all of this host].
    pub vip: Option<IpAddr>,

    /// List the connections answered in the last seconds.
    #[arg(long)]
    pub flows: bool,

    /// All that the daemons say, and all counters: one JSON object per cluster.
    #[arg(long)]
    pub json: bool,
}

/// A number of bytes, such as `64MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(u64);

impl Size {
    /// It in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
        let found = units.iter().find_map(|&(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
        let number = found.and_then(|(number, shift)| {
            let number: u64 = number.trim().parse().ok()?;
            number.checked_mul(1 << shift)
        });
        number
            .filter(|&bytes| bytes > 0)
            .map(Self)
            .ok_or_else(|| "must be a whole number of KiB, MiB or GiB, such as 64MiB".to_owned())
    }
}

/// The MAC mode, or how to come to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacArg {
    /// Found out at the start.
    Auto,
    /// This one.
    Mode(MacMode),
}

fn parse_mac(text: &str) -> Result<MacArg, String> {
    if text == "auto" {
        return Ok(MacArg::Auto);
    }
    MacMode::from_str(text, false)
        .map(MacArg::Mode)
        .map_err(|_| "one of multicast, igmp, stealth, shared, auto".to_owned())
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

/// [`Mode`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// By claims; by hash while claims get lost or come too fast.
    Auto,
    /// By claims, whatever happens.
    Claim,
    /// By hash: no claims, but a dead host's share waits for a retransmission.
    Hash,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Auto => Mode::Auto,
            ModeArg::Claim => Mode::Claim,
            ModeArg::Hash => Mode::Hash,
        }
    }
}

/// How flows of datagrams are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UdpArg {
    /// Each new flow is claimed and settled.
    Claim,
    /// By a hash of the client, in the kernel.
    Hash,
}

/// [`Policy`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthArg {
    /// First step of a rollout: believe signed and unsigned frames, sign none.
    ReceiveOnly,
    /// Second step: sign, still believe unsigned frames.
    Permissive,
    /// Last step: sign, refuse unsigned frames.
    Enforce,
}

impl From<AuthArg> for Policy {
    fn from(auth: AuthArg) -> Self {
        match auth {
            AuthArg::ReceiveOnly => Policy::ReceiveOnly,
            AuthArg::Permissive => Policy::Permissive,
            AuthArg::Enforce => Policy::Enforce,
        }
    }
}

/// A protocol timer: far below the 20 ms for which a claim defers others.
fn parse_timer(text: &str) -> Result<Duration, String> {
    parse_within(text, Duration::from_millis(15))
}

/// D and the time to answer must fit into the 20 ms (spec 7).
fn parse_settle(text: &str) -> Result<Duration, String> {
    parse_within(text, Duration::from_millis(10))
}

fn parse_within(text: &str, most: Duration) -> Result<Duration, String> {
    let range = Duration::from_micros(50)..=most;
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
        assert_eq!((cluster.interface.as_str(), cluster.slot), ("eth0", None));
        assert_eq!(cluster.mac, MacArg::Mode(MacMode::Multicast));
        assert!(Cli::try_parse_from(["clusterd", "eth0"]).is_err());
        assert!(Cli::try_parse_from(["clusterd", "eth0", "10.0.0.2", "--mac", "x"]).is_err());
        assert!(Cli::try_parse_from(["clusterd", "eth0", "10.0.0.2", "--slot", "1s"]).is_err());
    }

    #[test]
    fn a_size_has_a_unit() {
        assert_eq!("64MiB".parse(), Ok(Size(64 << 20)));
        for text in ["64", "0KiB", "MiB", "-1GiB", "1.5GiB", "99999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
