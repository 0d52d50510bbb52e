//! The capture on the client's interface, which feeds the oracle.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::netns::Namespace;
use super::oracle::Oracle;
use crate::capture::{self, Observer, Opened, Scope};

/// What the oracle needs: SYNs, SYN-ACKs, resets and claims.
/// libpcap finds TCP's flags behind an IPv4 header only; they are in byte 13 behind the 40 of IPv6.
const FILTER: &str = "tcp[tcpflags] & (tcp-syn|tcp-rst) != 0 or ip proto 150 \
                      or (ip6 proto 6 and ip6[53] & (tcp-syn|tcp-rst) != 0) or ip6 proto 150";

/// The capture on the client's interface.
pub type Listener = capture::Listener<Oracle>;

impl Observer for Oracle {
    fn observe(&mut self, frame: &[u8], wire_length: u64, at: Duration) {
        Oracle::observe(self, frame, wire_length, at);
    }
}

impl Listener {
    /// Starts to capture in `namespace`; on return no later frame is missed.
    pub fn start(namespace: &Namespace, oracle: Oracle, savefile: Option<PathBuf>) -> Result<Self> {
        let namespace = namespace.clone();
        Self::spawn(move || {
            namespace.enter().context("enter the client's namespace")?;
            let capture = capture::open("eth0", Scope::Promiscuous, FILTER)?;
            let create = |path: &PathBuf| {
                capture.savefile(path).with_context(|| format!("write {}", path.display()))
            };
            let savefile = savefile.as_ref().map(create).transpose()?;
            Ok(Opened { capture, savefile, observer: oracle })
        })
    }
}
