//! What was not heard.

use std::net::IpAddr;

use super::{Gateway, ModeVerdict, Observations};
use crate::doctor::finding::{Culprit, Finding};
use crate::doctor::port::Port;
use crate::doctor::wire::GatewayAnswer;

impl Observations {
    /// A port that does not forward looks like a segment without other hosts.
    pub(super) fn port_silence(&self) -> Option<Finding> {
        let is_silent = |gateway: &Gateway| gateway.answers.0.contains(&GatewayAnswer::Silent);
        let heard = match self.port {
            _ if self.hosts.len() > 1 => return None,
            Port::Forwards => return None,
            Port::Quiet if self.gateways.iter().any(is_silent) => "nothing at all was heard",
            Port::Quiet => return None,
            Port::SpanningTree => "only the switch was heard, which speaks of spanning tree",
            Port::Lacp => {
                "only the switch was heard, which wants to make one port of several (LACP)"
            }
        };
        let out = match self.port {
            Port::Lacp => "make a bond of the ports here, or switch LACP off there",
            Port::Quiet | Port::Forwards | Port::SpanningTree => {
                "try again in half a minute, and make it an edge port there (portfast)"
            }
        };
        let text = format!(
            "{heard}, so the switch's port may not forward frames of this host (yet): {out}"
        );
        Some(Finding::note(Culprit::PortSilent, text))
    }

    /// Without queries mode `igmp` works for some minutes.
    pub(super) fn missing_querier(&self, modes: &[ModeVerdict]) -> Option<Finding> {
        if self.querier.is_some() {
            return None;
        }
        let snoops = modes.iter().any(|mode| mode.culprit == Some(Culprit::MacSnooping));
        let (protocol, seconds) = (self.group_protocol(), self.listened.as_secs());
        let if_it = if snoops { "the switch, which snoops," } else { "a switch that snoops" };
        let text = format!(
            "igmp: no {protocol} query was heard in {seconds} s, not even after this host had left a group; without a \
             querier {if_it} forgets the hosts after some four minutes: switch one on for this network, on \
             the switch or the router"
        );
        Some(Finding::note(Culprit::NoQuerier, text))
    }

    /// What switches snoop.
    pub(super) fn group_protocol(&self) -> &'static str {
        match self.vip {
            IpAddr::V4(_) => "IGMP",
            IpAddr::V6(_) => "MLD",
        }
    }
}
