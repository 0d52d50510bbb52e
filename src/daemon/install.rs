//! What the daemon changes on the host, and how it is taken back.
//!
//! The order matters. Rules come before the address, so that the kernel never
//! answers ARP or TCP for the virtual IP by itself; the address goes before
//! the rules for the same reason.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use tracing::warn;

use super::Shared;
use crate::failure::Failure;
use crate::io::kmod::{self, Module};
use crate::io::link::{Link, Links};
use crate::io::rules::{QUEUE_CHAINS, QueueBackend, Ruleset, group_mac, table_name, vip_of_group};
use crate::io::watch::Watch;
use crate::io::{group, nft, xt_queue};

/// What the kernel module does instead of rules.
#[derive(Clone, Copy, Debug)]
pub struct ModuleShare {
    /// It sets the packet type.
    pub module: Module,
    /// It is the strict guard's gate, too.
    pub is_gate: bool,
}

/// The rules, the subscription to the group MAC, the address, and what the kernel module is told, in
/// force.
#[must_use]
pub struct Installed<'a> {
    links: &'a Links,
    vip: Ipv4Addr,
}

impl<'a> Installed<'a> {
    /// Tells the module, installs the rules, the subscription, then the address. On failure
    /// nothing remains.
    pub async fn new(
        links: &'a Links,
        link: &Link,
        rules: &Ruleset,
        module: Option<ModuleShare>,
    ) -> Result<Self> {
        let installed = Self { links, vip: rules.vip };
        match Self::install(links, link, rules, module).await {
            Ok(()) => Ok(installed),
            Err(error) => {
                installed.remove().await?;
                Err(error)
            }
        }
    }

    async fn install(
        links: &Links,
        link: &Link,
        rules: &Ruleset,
        module: Option<ModuleShare>,
    ) -> Result<()> {
        if let Some(ModuleShare { module, is_gate }) = module {
            module
                .add(rules.vip.into(), is_gate.then_some(rules.queue))
                .context("tell the kernel module about the virtual IP")?;
        }
        install_rules(rules)?;
        group::subscribe(&rules.interface, group_mac(rules.vip))
            .context("subscribe to the group MAC")?;
        links.add_address(link.index, rules.vip).await
    }

    /// Installs the rules again whenever another program has removed some.
    pub async fn keep_rules(&self, watch: &Watch, rules: &Ruleset, shared: &Shared) -> Result<()> {
        let mut installed = nft::listing(self.vip)?;
        loop {
            watch.removed().await.context("watch the rules")?;
            if nft::listing(self.vip)? != installed {
                install_rules(rules)?;
                // Their sets are empty again.
                shared.rules_installed();
                installed = nft::listing(self.vip)?;
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
        let table = table_name(rules.vip);
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

/// The virtual IPs of which something is installed: by running daemons, or by
/// killed ones. Rules alone are no evidence, others may have flushed them.
pub fn left_behind() -> Result<BTreeSet<Ipv4Addr>> {
    let subscribed = group::subscribed().context("list group MAC subscriptions")?;
    let in_module = kmod::vips().context("list the virtual IPs of the kernel module")?;
    Ok(nft::installed()?
        .into_iter()
        .chain(subscribed.into_iter().filter_map(vip_of_group))
        .chain(in_module.into_iter().filter_map(|vip| match vip {
            IpAddr::V4(vip) => Some(vip),
            IpAddr::V6(_) => None,
        }))
        .collect())
}

/// Removes what a killed daemon left on interfaces other than `index`.
pub async fn remove_elsewhere(links: &Links, index: u32, vip: Ipv4Addr) -> Result<()> {
    if links.holders(vip).await?.iter().any(|&holder| holder != index) {
        remove(links, vip).await?;
    }
    Ok(())
}

/// Removes the address, the subscription and the rules of `vip`, whoever installed them.
pub async fn remove(links: &Links, vip: Ipv4Addr) -> Result<()> {
    for index in links.holders(vip).await? {
        links.remove_address(index, vip).await?;
    }
    group::unsubscribe(group_mac(vip)).context("take back the subscription to the group MAC")?;
    nft::apply(&Ruleset::remove(vip), "remove the rules")?;
    kmod::remove(vip.into()).context("take the virtual IP out of the kernel module")
}
