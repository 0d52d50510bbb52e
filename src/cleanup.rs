//! `clusterd cleanup`: removes what a killed daemon left behind.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::control;
use crate::daemon::install;
use crate::io::link::Links;

/// Cleans up after the cluster that `vip` names, or after all without a running daemon.
pub fn run(vip: Option<IpAddr>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start tokio")?;
    runtime.block_on(async {
        let links = Links::open()?;
        let left: Vec<_> = install::left_behind(&links)
            .await?
            .into_iter()
            .filter(|left| vip.is_none_or(|vip| vip == *left))
            .collect();
        for vip in left {
            if !control::is_running(vip) {
                install::remove(&links, vip).await?;
                println!("removed what was left of {vip}");
            } else {
                println!("left {vip} alone: its daemon is running");
            }
        }
        Ok(())
    })
}
