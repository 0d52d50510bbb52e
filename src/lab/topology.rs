//! The Ethernet segment of the lab: one switch, its hosts and one client.
//!
//! ```text
//!    h1        h2        h3             client
//!  10.77.0.11 .12       .13           10.77.0.200
//!   eth0      eth0      eth0             eth0      veth pairs; MAC of hN ends in N
//!     |         |         |                |
//!     +---------+--- br0 (switch) ---------+       the VIP is 10.77.0.2
//! ```

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use pnet::util::MacAddr;
use serde::Serialize;

use super::isn::{self, Isn};
use super::loss::ClaimLoss;
use super::netns::Namespace;

/// The virtual IP address that the hosts answer together.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The port of the service behind the VIP.
pub const SERVICE_PORT: u16 = 80;
/// The port of the service that hangs up on everybody.
pub const HANG_UP_PORT: u16 = 81;
/// MAC address of the client.
pub const CLIENT_MAC: MacAddr = MacAddr(2, 0, 0, 0, 1, 0);
/// The most hosts the address plan has room for.
pub const HOSTS_MAX: usize = 32;
/// The most client addresses the address plan has room for.
pub const CLIENT_ADDRESSES_MAX: usize = 50;

/// How the segment between the hosts forwards frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// A learning switch: unicast goes to one port, multicast to all.
    Switch,
    /// A hub: every frame goes to every port.
    Hub,
}

/// What the segment is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of hosts.
    pub nodes: usize,
    /// Number of addresses the client connects from.
    pub client_addresses: usize,
    /// Switch or hub.
    pub medium: Medium,
    /// Whether hosts differ in their TCP sequence numbers.
    pub isn: Isn,
}

/// A raised segment.
#[derive(Debug)]
pub struct Topology {
    /// The namespace of the bridge; port `hN` leads to host N, `client` to the client.
    pub switch: Namespace,
    /// The hosts, `h1` first.
    pub hosts: Vec<Namespace>,
    /// The namespace connections come from.
    pub client: Namespace,
}

impl Topology {
    /// Raises the segment in namespaces made by `make`, which is told the role
    /// of each: `switch`, `client`, `h1`, `h2`...
    pub fn raise(plan: &Plan, make: impl Fn(&str) -> Result<Namespace>) -> Result<Self> {
        let topology = Self {
            switch: make("switch")?,
            hosts: (0..plan.nodes).map(|host| make(&host_name(host))).collect::<Result<_>>()?,
            client: make("client")?,
        };
        let quiet = [("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")];
        for namespace in topology.hosts.iter().chain([&topology.switch, &topology.client]) {
            namespace.set_sysctls(&quiet)?;
        }
        // Frames that cross the switch are none of its IP layer's business.
        topology.switch.set_sysctls(&[("bridge/bridge-nf-call-iptables", "0")])?;
        // A fast run opens more connections within TIME_WAIT than there are ports.
        topology.client.set_sysctls(&[
            ("ipv4/ip_local_port_range", "1024 65535"),
            ("ipv4/tcp_tw_reuse", "1"),
        ])?;

        topology.ip(&topology.switch, &topology.switch_commands(plan))?;
        for (index, host) in topology.hosts.iter().enumerate() {
            topology.ip(host, &interface_commands([host_address(index)]))?;
        }
        topology
            .ip(&topology.client, &interface_commands(client_addresses(plan.client_addresses)))?;
        if plan.isn == Isn::Distinct {
            topology.client.set_sysctls(&[("ipv4/tcp_sack", "0")])?;
            for (index, host) in topology.hosts.iter().enumerate() {
                isn::make_distinct(host, index, VIP)?;
            }
        }
        Ok(topology)
    }

    /// Lets the switch lose a share of the claims from now on.
    pub fn lose_claims(&self, share: ClaimLoss) -> Result<()> {
        match share.rules(self.hosts.len()) {
            Some(rules) => feed(&self.switch, "nft", &["-f", "-"], &rules).context(
                "install the claim loss in the switch; this needs nftables and Linux 5.16",
            ),
            None => Ok(()),
        }
    }

    /// Takes the switch port of a host down, as pulling its cable does.
    pub fn unplug(&self, host: usize) -> Result<()> {
        self.ip(&self.switch, &format!("link set {} down\n", host_name(host)))
    }

    fn switch_commands(&self, plan: &Plan) -> String {
        // A bridge that forgets addresses at once never learns a port: a hub.
        let ageing = match plan.medium {
            Medium::Switch => "",
            Medium::Hub => " ageing_time 0",
        };
        let mut commands = format!(
            "link add br0 type bridge mcast_snooping 0 stp_state 0 forward_delay 0{ageing}\n"
        );
        let ports = self
            .hosts
            .iter()
            .enumerate()
            .map(|(index, host)| (host_name(index), host_mac(index), host))
            .chain([("client".to_owned(), CLIENT_MAC, &self.client)]);
        for (port, mac, namespace) in ports {
            let netns = namespace.path();
            commands += &format!(
                "link add {port} type veth peer name eth0 address {mac} netns {netns}\n\
                 link set {port} master br0 up\n"
            );
        }
        commands + "link set br0 up\nlink set lo up\n"
    }

    /// Runs commands of the program `ip` in one of the namespaces, one per line.
    pub fn ip(&self, namespace: &Namespace, commands: &str) -> Result<()> {
        feed(namespace, "ip", &["-batch", "-"], commands)
    }
}

/// Name of the host at `index`: the first is `h1`.
pub fn host_name(index: usize) -> String {
    format!("h{}", index + 1)
}

/// Address of the host at `index`.
pub fn host_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 11 + index as u8)
}

/// MAC address of the host at `index`; captures identify a host by it.
pub fn host_mac(index: usize) -> MacAddr {
    MacAddr::new(2, 0, 0, 0, 0, 1 + index as u8)
}

/// The host whose MAC address this is.
pub fn host_of_mac(mac: MacAddr) -> Option<usize> {
    (0..HOSTS_MAX).find(|&index| host_mac(index) == mac)
}

/// The addresses the client connects from.
pub fn client_addresses(count: usize) -> impl Iterator<Item = Ipv4Addr> {
    (0..count as u8).map(|index| Ipv4Addr::new(10, 77, 0, 200 + index))
}

fn interface_commands(addresses: impl IntoIterator<Item = Ipv4Addr>) -> String {
    let mut commands = String::from("link set lo up\nlink set eth0 up\n");
    for address in addresses {
        commands += &format!("addr add {address}/24 dev eth0\n");
    }
    commands
}

/// Runs a tool of the system inside a namespace with `input` on its stdin.
pub fn feed(namespace: &Namespace, program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = namespace
        .command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run `{program}`; is it installed?"))?;
    let mut stdin = child.stdin.take().expect("stdin was requested as a pipe");
    // A tool that gave up early closes the pipe; its own message says more.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("wait for `{program}`"))?;
    if !output.status.success() {
        bail!(
            "`{program} {}` failed: {}\nit was given:\n{input}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    written.with_context(|| format!("write to `{program}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_names_its_host() {
        for index in 0..HOSTS_MAX {
            assert_eq!(host_of_mac(host_mac(index)), Some(index));
        }
        assert_eq!(host_of_mac(CLIENT_MAC), None);
    }

    #[test]
    fn the_address_plan_has_room_for_every_host() {
        let last_client = client_addresses(CLIENT_ADDRESSES_MAX).last().unwrap();
        assert!(host_address(HOSTS_MAX - 1) < client_addresses(1).next().unwrap());
        assert!(last_client < Ipv4Addr::new(10, 77, 0, 255));
    }
}
