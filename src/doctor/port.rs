//! Does the port of the switch that this host is plugged into forward frames?
//!
//! Spanning tree keeps a port that has just come up silent for 30 s, unless it is told that a host is there; a port
//! that is to be one of several (LACP) may be silent for ever. The switch's own frames come all the same.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::mem::MaybeUninit;

use anyhow::{Context, Result};
use pnet::packet::ethernet::EthernetPacket;
use pnet::util::MacAddr;
use serde::Serialize;

use crate::io::doctor_socket::{ETHERNET_LEN, Receiver};
use crate::io::link::Link;

/// Groups of which frames end at the next switch: of spanning tree, and of LACP (IEEE 802.1Q 8.6.3).
const SPANNING_TREE: MacAddr = MacAddr(0x01, 0x80, 0xc2, 0, 0, 0);
const SLOW_PROTOCOLS: MacAddr = MacAddr(0x01, 0x80, 0xc2, 0, 0, 2);
/// EtherType of LACP, and the first byte of its frames.
const LACP: (u16, u8) = (0x8809, 1);
/// Longest part of a frame that is looked at.
const FRAME_MAX: usize = 64;

/// What is known of the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Port {
    /// Nothing at all was heard, so nothing is known.
    #[default]
    Quiet,
    /// A frame came that was not the switch's own, or the switch says so.
    Forwards,
    /// The switch spoke of spanning tree, and nobody else spoke.
    SpanningTree,
    /// The switch spoke of LACP, and nobody else spoke.
    Lacp,
}

/// Listens to all frames until one shows that the port forwards.
pub struct PortWatch {
    /// Gone once it is known: all traffic of the host is much.
    frames: RefCell<Option<Receiver>>,
    own: MacAddr,
    port: Cell<Port>,
}

impl PortWatch {
    /// Opens the socket.
    pub fn open(link: &Link) -> Result<Self> {
        let frames = Receiver::all_frames(link, &[SPANNING_TREE, SLOW_PROTOCOLS]);
        let frames = frames.context("open a socket for all frames")?;
        let frames = RefCell::new(Some(frames));
        Ok(Self { frames, own: link.mac, port: Cell::default() })
    }

    /// What is known by now.
    pub fn port(&self) -> Port {
        self.port.get()
    }

    /// Listens as long as that tells more.
    pub async fn listen(&self) -> Result<Infallible> {
        if let Some(frames) = self.frames.take() {
            let mut buffer = [MaybeUninit::uninit(); FRAME_MAX];
            while self.port.get() != Port::Forwards {
                let frame = frames.receive(&mut buffer).await.context("listen to the switch")?;
                self.port.set(next(self.port.get(), frame, self.own));
            }
        }
        std::future::pending().await
    }
}

/// What is known after a frame.
fn next(port: Port, frame: &[u8], own: MacAddr) -> Port {
    let Some(ethernet) = EthernetPacket::new(frame) else { return port };
    let (to, from) = (ethernet.get_destination(), ethernet.get_source());
    let payload = &frame[ETHERNET_LEN..];
    match to {
        SPANNING_TREE => match says_forwarding(payload) {
            Some(true) => Port::Forwards,
            Some(false) | None => Port::SpanningTree,
        },
        SLOW_PROTOCOLS
            if (ethernet.get_ethertype().0, payload.first()) == (LACP.0, Some(&LACP.1)) =>
        {
            match port {
                Port::Quiet => Port::Lacp,
                Port::Forwards | Port::SpanningTree | Port::Lacp => port,
            }
        }
        // Others that end at the next switch (IEEE 802.1Q 8.6.3, and Cisco's), what a switch sends to
        // itself to find loops, and what a loop brings back.
        MacAddr(0x01, 0x80, 0xc2, 0, 0, 0..=0x0f) | MacAddr(0x01, 0, 0x0c, 0xcc, 0xcc, _) => port,
        _ if from == to || from == own => port,
        _ => Port::Forwards,
    }
}

/// What a BPDU of rapid spanning tree says of the port that it comes from (IEEE 802.1Q 14.2.1); older
/// ones say nothing of that.
fn says_forwarding(payload: &[u8]) -> Option<bool> {
    const RAPID: u8 = 2;
    const FORWARDING: u8 = 0x20;
    let [0x42, 0x42, 0x03, 0, 0, _version, kind, flags, ..] = *payload else { return None };
    (kind == RAPID).then_some(flags & FORWARDING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const SWITCH: MacAddr = MacAddr(2, 0, 0, 0, 0, 9);

    fn frame(to: MacAddr, from: MacAddr, rest: &[u8]) -> Vec<u8> {
        [&to.octets()[..], &from.octets(), rest].concat()
    }

    #[test]
    fn what_the_switch_says_itself_is_no_traffic() {
        let old = [0, 38, 0x42, 0x42, 0x03, 0, 0, 0, 0, 0];
        let rapid = |flags| [0, 39, 0x42, 0x42, 0x03, 0, 0, 2, 2, flags];
        let tree = |rest: &[u8]| frame(SPANNING_TREE, SWITCH, rest);
        let lldp = frame(MacAddr(0x01, 0x80, 0xc2, 0, 0, 0x0e), SWITCH, &[0x88, 0xcc, 1]);
        let cdp = frame(MacAddr(0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc), SWITCH, &[0, 100, 0xaa, 0xaa]);
        for (name, frame, expected) in [
            ("spanning tree", tree(&old), Port::SpanningTree),
            ("rapid, discarding", tree(&rapid(0x0e)), Port::SpanningTree),
            ("rapid, learning", tree(&rapid(0x1e)), Port::SpanningTree),
            ("rapid, forwarding", tree(&rapid(0x3e)), Port::Forwards),
            ("LACP", frame(SLOW_PROTOCOLS, SWITCH, &[0x88, 0x09, 1]), Port::Lacp),
            ("OAM", frame(SLOW_PROTOCOLS, SWITCH, &[0x88, 0x09, 3]), Port::Quiet),
            ("LLDP", lldp, Port::Quiet),
            ("CDP", cdp, Port::Quiet),
            ("a loop", frame(MacAddr::broadcast(), OWN, &[8, 6]), Port::Quiet),
            ("a keepalive", frame(SWITCH, SWITCH, &[0x90, 0]), Port::Quiet),
            ("a broadcast", frame(MacAddr::broadcast(), SWITCH, &[8, 6]), Port::Forwards),
            ("cut off", vec![1, 2, 3], Port::Quiet),
        ] {
            assert_eq!(next(Port::Quiet, &frame, OWN), expected, "{name}");
        }
        let lacp = frame(SLOW_PROTOCOLS, SWITCH, &[0x88, 0x09, 1]);
        assert_eq!(next(Port::SpanningTree, &lacp, OWN), Port::SpanningTree);
    }
}
