//! What the daemon changes on the host, and how it is taken back.
//!
//! The order matters. Rules come before the address, so that the kernel never
//! answers ARP, solicitations or TCP for the virtual IP by itself; the address goes before
//! the rules for the same reason.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result};
use pnet::util::MacAddr;
use tracing::warn;

use super::Shared;
use crate::failure::Failure;
use crate::io::cluster_mac::MacMode;
use crate::io::kmod::{self, Module};
use crate::io::link::{Link, Links, Marked};
use crate::io::mark::Mark;
use crate::io::rules::{self, QUEUE_CHAINS, QueueBackend, Ruleset, table_name};
use crate::io::watch::Watch;
use crate::io::{group, neighbours, nft, xt_queue};

/// What the kernel module does instead of rules.
#[derive(Clone, Copy, Debug)]
pub struct ModuleShare {
    /// It sets the packet type.
    pub module: Module,
    /// It is the strict guard's gate, too.
    pub is_gate: bool,
}

/// The rules, the mark, the reception of frames to the cluster's MAC, the address, and what the
/// kernel module is told, in force.
#[must_use]
pub struct Installed<'a> {
    links: &'a Links,
    vip: IpAddr,
}

impl<'a> Installed<'a> {
    /// Tells the module, installs the rules, the reception, then the address. On failure
    /// nothing remains.
    pub async fn new(
        links: &'a Links,
        link: &Link,
        rules: &Ruleset,
        module: Option<ModuleShare>,
    ) -> Result<Self> {
        let installed = Self { links, vip: rules.addresses.vip() };
        match Self::install(links, link, rules, module).await {
            Ok(()) => Ok(installed),
            Err(error) => match installed.remove().await {
                Ok(()) => Err(error),
                Err(left) => Err(error.context(format!("something is left behind ({left:#})"))),
            },
        }
    }

    async fn install(
        links: &Links,
        link: &Link,
        rules: &Ruleset,
        module: Option<ModuleShare>,
    ) -> Result<()> {
        let vip = rules.addresses.vip();
        if let Some(ModuleShare { module, is_gate }) = module {
            module
                .add(vip, is_gate.then_some(rules.queue))
                .context("tell the kernel module about the virtual IP")?;
        }
        install_rules(rules)?;
        // Before what it is a note of.
        links.mark(link.index, &Mark { vip, mode: rules.mac, own: link.mac }).await?;
        receive(links, link, rules).await?;
        links.add_address(link.index, vip).await
    }

    /// Installs the rules again whenever another program has removed some.
    pub async fn keep_rules(&self, watch: &Watch, rules: &Ruleset, shared: &Shared) -> Result<()> {
        let mut installed = nft::listing(rules)?;
        loop {
            watch.removed().await.context("watch the rules")?;
            if nft::listing(rules)? != installed {
                install_rules(rules)?;
                // Their sets are empty again.
                shared.rules_installed();
                installed = nft::listing(rules)?;
                warn!(vip = %self.vip, "another program removed rules; installed them again");
            }
        }
    }

    /// Adds the address again whenever another program has removed it.
    pub async fn keep_address(&self, watch: &Watch, link: &Link) -> Result<()> {
        loop {
            watch.removed().await.context("watch the address")?;
            if !self.links.holders(self.vip).await?.contains(&link.index)
                && self.links.exists(link.index).await?
            {
                self.links.add_address(link.index, self.vip).await?;
                warn!(vip = %self.vip, "another program removed the address; added it again");
            }
        }
    }

    /// Takes the address and the rules back.
    pub async fn remove(self) -> Result<()> {
        remove(self.links, self.vip).await
    }
}

fn install_rules(rules: &Ruleset) -> Result<()> {
    nft::apply(&rules.install(), "install the rules")?;
    if rules.backend == QueueBackend::Xtables {
        let table = table_name(rules.addresses.vip());
        for (chain, offset) in QUEUE_CHAINS {
            xt_queue::insert(&table, chain, rules.queue + offset).map_err(|error| {
                Failure::unavailable(&format!(
                    "{error}; the kernel needs nft `queue` (nft_queue), or NFQUEUE (xt_NFQUEUE and \
                     nft_compat)"
                ))
            })?;
        }
    }
    Ok(())
}

/// Lets frames to the cluster's MAC in, also after the end of this process: the established
/// connections of this host go on after a crash.
async fn receive(links: &Links, link: &Link, rules: &Ruleset) -> Result<()> {
    let mac = rules.mac.address(rules.addresses.vip());
    match rules.mac {
        MacMode::Multicast | MacMode::Igmp => group::subscribe(&link.name, mac)
            .with_context(|| format!("let {} receive frames to {mac}", link.name)),
        MacMode::Stealth => links.receive(&link.name, link.index, mac).await,
        MacMode::Shared => exchange_mac(links, &link.name, link.index, mac).await,
    }
}

/// Takes back what [`receive`] did as this mark says. `all` are the marks there are.
async fn receive_no_more(links: &Links, marked: &Marked, all: &[Marked]) -> Result<()> {
    let Mark { vip, mode, own } = marked.mark;
    let mac = mode.address(vip);
    match mode {
        MacMode::Multicast | MacMode::Igmp => {
            // Virtual IPs that end alike have one group MAC in mode `igmp`.
            let is_shared = all.iter().any(|other| {
                other.mark.vip != vip && other.mark.mode.address(other.mark.vip) == mac
            });
            if is_shared { Ok(()) } else { unsubscribe(mac) }
        }
        MacMode::Stealth => links.receive_no_more(marked.index, mac).await,
        // Whoever has given it a third one meanwhile had a reason.
        MacMode::Shared if marked.mac != mac => Ok(()),
        MacMode::Shared => exchange_mac(links, &marked.interface, marked.index, own).await,
    }
}

fn unsubscribe(mac: MacAddr) -> Result<()> {
    group::unsubscribe(mac).with_context(|| format!("stop receiving frames to {mac}"))
}

/// Gives the interface another MAC, and tells its neighbours.
async fn exchange_mac(links: &Links, interface: &str, index: u32, mac: MacAddr) -> Result<()> {
    links.set_mac(interface, index, mac).await?;
    for address in links.host_addresses(index).await? {
        neighbours::announce_host(index, address, mac)
            .with_context(|| format!("announce {address} at {mac} on {interface}"))?;
    }
    Ok(())
}

/// The virtual IPs of which something is installed: by running daemons, or by
/// killed ones. Rules alone are no evidence, others may have flushed them.
pub async fn left_behind(links: &Links) -> Result<BTreeSet<IpAddr>> {
    let ruled = nft::installed()?.into_iter().map(|(_, vip)| vip);
    let marked = links.marks().await?.into_iter().map(|marked| marked.mark.vip);
    let in_module = kmod::vips().context("list the virtual IPs of the kernel module")?;
    Ok(ruled.chain(marked).chain(in_module).collect())
}

/// Removes what a killed daemon left, unless it was on the same interface in the same mode: then the
/// established connections of this host go on meanwhile.
pub async fn remove_other(links: &Links, link: &Link, vip: IpAddr, mode: MacMode) -> Result<()> {
    let marks = links.marks().await?;
    let mut of_vip = marks.iter().filter(|marked| marked.mark.vip == vip).peekable();
    let is_same = of_vip.peek().is_some()
        && of_vip.all(|marked| marked.index == link.index && marked.mark.mode == mode);
    if is_same { Ok(()) } else { remove(links, vip).await }
}

/// Fails if the interface has the MAC of another virtual IP already.
pub async fn require_own_mac(links: &Links, link: &Link, vip: IpAddr) -> Result<()> {
    let marks = links.marks().await?;
    let other = marks.iter().find(|marked| {
        let Mark { mode, vip: other, .. } = marked.mark;
        marked.index == link.index && mode == MacMode::Shared && other != vip
    });
    match other {
        Some(Marked { interface, mark, .. }) => Err(Failure::config(&format!(
            "{interface} has the MAC of {} already, and an interface has only one; \
             use --mac stealth",
            mark.vip
        ))),
        None => Ok(()),
    }
}

/// Removes the address, the reception and the rules of `vip`, whoever installed them.
pub async fn remove(links: &Links, vip: IpAddr) -> Result<()> {
    for index in links.holders(vip).await? {
        links.remove_address(index, vip).await?;
    }
    let marks = links.marks().await?;
    for marked in marks.iter().filter(|marked| marked.mark.vip == vip) {
        receive_no_more(links, marked, &marks).await?;
        links.unmark(marked.index, &marked.mark).await?;
    }
    // Of a daemon of a version without marks.
    unsubscribe(MacMode::Multicast.address(vip))?;
    let tables = nft::installed()?.into_iter().filter(|&(_, of)| of == vip);
    let families: Vec<_> = tables.map(|(family, _)| family).collect();
    nft::apply(&rules::remove(vip, &families), "remove the rules")?;
    kmod::remove(vip).context("take the virtual IP out of the kernel module")
}
