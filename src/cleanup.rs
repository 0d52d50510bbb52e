//! `clusterd cleanup`: removes what a killed daemon left behind.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::control;
use crate::daemon::install;
use crate::io::link::Links;

/// Cleans up after the cluster of which `vip` is a virtual IP, or after all without a running daemon.
pub fn run(vip: Option<IpAddr>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start tokio")?;
    runtime.block_on(async {
        let links = Links::open()?;
        let mut left = install::left_behind(&links).await?;
        if let Some(vip) = vip {
            left.retain(|_, vips| vips.contains(&vip));
        }
        for (first, vips) in left {
            let part = match vip.filter(|vip| *vip != first) {
                Some(vip) => format!(", of which {vip} is a further virtual IP"),
                None => String::new(),
            };
            if !control::is_running(first) {
                install::remove(&links, first, &vips).await?;
                println!("removed what was left of {first}{part}");
            } else {
                println!("left {first} alone{part}: its daemon is running");
            }
        }
        Ok(())
    })
}
