//! What the daemon changes on the host, and how it is taken back.
//!
//! The order matters. Rules come before the address, so that the kernel never
//! answers ARP, solicitations or TCP for the virtual IP by itself; the address goes before
//! the rules for the same reason.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clusterd::protocol::Vips;
use pnet::util::MacAddr;
use tokio::time::interval;
use tracing::warn;

use super::Shared;
use crate::control;
use crate::failure::Failure;
use crate::io::cluster_mac::MacMode;
use crate::io::kmod::{self, Module};
use crate::io::link::{Addresses, Link, Links, Marked};
use crate::io::mark::{FurtherMark, Mark};
use crate::io::rules::{self, QUEUE_CHAINS, QueueBackend, Ruleset, table_name};
use crate::io::watch::Watch;
use crate::io::{group, neighbours, nft, xt_queue};

/// How long frames to the cluster's MAC may stay away without a reason.
const RECEPTION_INTERVAL: Duration = Duration::from_secs(1);

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
    link: &'a Link,
}

impl<'a> Installed<'a> {
    /// Tells the module, installs the rules, the reception, then the address. On failure
    /// nothing remains.
    pub async fn new(
        links: &'a Links,
        rules: &'a Ruleset,
        module: Option<ModuleShare>,
    ) -> Result<Self> {
        let link = &rules.link;
        let installed = Self { links, link };
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
        // Before what they are notes of.
        let first = rules.vip();
        links.mark(link.index, &Mark { vip: first, mode: rules.mac, own: link.mac }).await?;
        for further in &link.further {
            links.mark(link.index, &FurtherMark { vip: further.vip(), first }).await?;
        }
        if let Some(ModuleShare { module, is_gate }) = module {
            for addresses in link.all() {
                module
                    .add(addresses.vip(), is_gate.then_some(rules.queue))
                    .context("tell the kernel module about the virtual IP")?;
            }
        }
        install_rules(rules)?;
        receive(links, link, rules).await?;
        for addresses in link.all() {
            links.add_address(link.index, addresses.vip()).await?;
        }
        Ok(())
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
                warn!(vip = %rules.vip(), "another program removed rules; installed them again");
            }
        }
    }

    /// Adds the addresses again whenever another program has removed some.
    pub async fn keep_addresses(&self, watch: &Watch) -> Result<()> {
        let Self { links, link } = *self;
        loop {
            watch.removed().await.context("watch the addresses")?;
            let there = links.addresses().await?;
            for vip in link.all().map(Addresses::vip) {
                if there.holders(vip).all(|index| index != link.index)
                    && links.exists(link.index).await?
                {
                    links.add_address(link.index, vip).await?;
                    warn!(%vip, "another program removed the address; added it again");
                }
            }
        }
    }

    /// Asks again and again for frames to the second unicast MAC of mode `stealth`. The kernel adds one to those
    /// of an interface only where there is none yet (`dev_uc_add_excl`); if that was the
    /// membership of a doctor which ran here at the start, it goes with the doctor. Nobody says so.
    pub async fn keep_reception(&self, rules: &Ruleset) -> Result<()> {
        let Self { links, link } = *self;
        match rules.mac {
            MacMode::Stealth => {}
            MacMode::Multicast | MacMode::Igmp | MacMode::Shared => return pending().await,
        }
        let mut looks = interval(RECEPTION_INTERVAL);
        loop {
            looks.tick().await;
            if links.exists(link.index).await? {
                receive(links, link, rules).await?;
            }
        }
    }

    /// Takes the addresses and the rules back.
    pub async fn remove(self) -> Result<()> {
        // If the interface has gone, its marks do not say any more which these are.
        let vips = self.link.all().map(Addresses::vip).collect();
        remove(self.links, self.link.addresses.vip(), &vips).await
    }
}

fn install_rules(rules: &Ruleset) -> Result<()> {
    nft::apply(&rules.install(), "install the rules")?;
    if rules.backend == QueueBackend::Xtables {
        let table = table_name(rules.vip());
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
    let mac = rules.mac.address(rules.vip());
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

/// The clusters, by their first virtual IP, of which something is installed, by running daemons or by
/// killed ones; and all virtual IPs of each, as far as marks say, or rules where there are no marks
/// (the interface has gone). Rules alone are no evidence, others may have flushed them. What the
/// kernel module does is none, an administrator may have told it.
pub async fn left_behind(links: &Links) -> Result<BTreeMap<IpAddr, BTreeSet<IpAddr>>> {
    let mut clusters = BTreeMap::<IpAddr, BTreeSet<IpAddr>>::new();
    for marked in links.marks().await? {
        clusters.entry(marked.mark.vip).or_default().extend(marked.vips());
    }
    let tables: BTreeSet<_> = nft::installed()?.into_iter().map(|(_, first)| first).collect();
    for first in tables {
        if let Entry::Vacant(unmarked) = clusters.entry(first) {
            unmarked.insert(nft::vips(first)?).insert(first);
        }
    }
    Ok(clusters)
}

/// Fails if a virtual IP is one of another cluster on this host.
pub async fn require_no_other(links: &Links, vips: &Vips) -> Result<()> {
    let marks = links.marks().await?;
    let others = || marks.iter().filter(|marked| marked.mark.vip != vips.first());
    for vip in vips.all() {
        let Some(other) = others().find(|other| other.vips().any(|other| other == vip)) else {
            continue;
        };
        let Mark { vip: first, .. } = other.mark;
        let way_out = match control::is_running(first) {
            true => "stop its daemon, or leave the address to it".to_owned(),
            false => format!("its daemon was killed, so: clusterd cleanup {first}"),
        };
        return Err(Failure::in_use(&format!(
            "{vip} is a virtual IP of the cluster {first} on this host; {way_out}"
        )));
    }
    Ok(())
}

/// Fails if a virtual IP is an address of this host that no daemon has given to it.
pub async fn require_free(links: &Links, vips: &Vips) -> Result<()> {
    let (marks, there) = (links.marks().await?, links.addresses().await?);
    for vip in vips.all() {
        let is_ours = marks.iter().any(|marked| marked.vips().any(|marked| marked == vip));
        if !is_ours && there.holders(vip).next().is_some() {
            return Err(Failure::in_use(&format!(
                "{vip} is already an address of this host; clusterd adds and removes it itself, \
                 so remove it first: ip address del {vip} dev INTERFACE"
            )));
        }
    }
    Ok(())
}

/// Removes what a killed daemon with the virtual IPs `left` left, unless it was on the same interface
/// in the same mode with the same virtual IPs: then the established connections of this host go on
/// meanwhile.
pub async fn remove_other(
    links: &Links,
    link: &Link,
    mode: MacMode,
    left: &BTreeSet<IpAddr>,
) -> Result<()> {
    let vip = link.addresses.vip();
    let vips: BTreeSet<_> = link.all().map(Addresses::vip).collect();
    let marks = links.marks().await?;
    let mut of_vip = marks.iter().filter(|marked| marked.mark.vip == vip).peekable();
    let is_same = of_vip.peek().is_some()
        && of_vip.all(|marked| {
            marked.index == link.index
                && marked.mark.mode == mode
                && marked.vips().collect::<BTreeSet<_>>() == vips
        });
    if is_same { Ok(()) } else { remove(links, vip, left).await }
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

/// Removes the addresses, the reception and the rules of the cluster that `vip` names, whoever
/// installed them. Its virtual IPs are `known`, or more: marks may name others.
pub async fn remove(links: &Links, vip: IpAddr, known: &BTreeSet<IpAddr>) -> Result<()> {
    let marks = links.marks().await?;
    let of_vip = || marks.iter().filter(|marked| marked.mark.vip == vip);
    let all: BTreeSet<_> = of_vip().flat_map(Marked::vips).chain(known.iter().copied()).collect();
    links.remove_addresses(&all).await?;
    for marked in of_vip() {
        receive_no_more(links, marked, &marks).await?;
    }
    // Of a daemon of a version without marks.
    unsubscribe(MacMode::Multicast.address(vip))?;
    let tables = nft::installed()?.into_iter().filter(|&(_, of)| of == vip);
    let families: Vec<_> = tables.map(|(family, _)| family).collect();
    nft::apply(&rules::remove(vip, &families), "remove the rules")?;
    kmod::remove(&all).context("take the virtual IPs out of the kernel module")?;
    // Last what says whose all that was.
    for marked in of_vip() {
        for &further in &marked.further {
            links.unmark(marked.index, &FurtherMark { vip: further, first: vip }).await?;
        }
        links.unmark(marked.index, &marked.mark).await?;
    }
    Ok(())
}
