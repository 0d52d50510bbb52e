//! What the gateways have against a mode.

use std::net::IpAddr;

use super::{Gateway, ModeVerdict, Observations};
use crate::doctor::finding::{Culprit, Finding};
use crate::doctor::wire::GatewayAnswer;
use crate::io::cluster_mac::MacMode;

impl Observations {
    /// What gateways make of a mode: an objection if there is one.
    pub(super) fn gateway_answer(&self, mode: MacMode) -> GatewayAnswer {
        let answers = || self.gateways.iter().map(|gateway| gateway.answers[mode]);
        answers().find(is_objection).or_else(|| answers().next()).unwrap_or_default()
    }

    /// Why clients behind a gateway do not reach the cluster in a mode, if a gateway objects.
    pub(super) fn blame_gateway(&self, verdict: &ModeVerdict) -> Option<Finding> {
        // It is no router's fault that it believes whoever else answers.
        if self.rival().is_some() {
            return None;
        }
        self.gateways.iter().find_map(|gateway| self.blame_one_gateway(gateway, verdict))
    }

    fn blame_one_gateway(&self, gateway: &Gateway, verdict: &ModeVerdict) -> Option<Finding> {
        let (mode, router, vip) = (verdict.mode, gateway.address, self.vip);
        let mac = mode.address(vip);
        let is_group = mac.is_multicast();
        // What gets from host to host gets from the router, too, if it is sent.
        let answer = match (gateway.answers[mode], verdict.reaches_hosts()) {
            (GatewayAnswer::Lost, Some(true)) => GatewayAnswer::Refuses,
            (answer, _) => answer,
        };
        match answer {
            GatewayAnswer::Refuses => {
                let (answer, rule) = match vip {
                    IpAddr::V4(_) => ("an ARP answer", " (a group MAC, RFC 1812 3.3.2)"),
                    IpAddr::V6(_) => ("a neighbour advertisement", " (a group MAC)"),
                };
                let rule = if is_group { rule } else { "" };
                let out = if is_group {
                    format!("use mode stealth, or set it there by hand ({vip} is at {mac})")
                } else {
                    format!("set it there by hand ({vip} is at {mac})")
                };
                let finding = Finding::problem(Culprit::RouterRefuses, format!(
                    "{mode}: the router {router} refuses {mac} in {answer}{rule}, so clients behind it \
                     reach nobody; {out}"
                ));
                let Self { interface, .. } = self;
                Some(match is_group {
                    true => finding.try_this(format!("clusterd {interface} {vip} --mac stealth")),
                    false => finding,
                })
            }
            GatewayAnswer::LearnsSource => Some(Finding::problem(Culprit::RouterLearnsSource, format!(
                "{mode}: the router {router} was told that {vip} is at {mac}, and sends to the MAC of the host \
                 whose frame told it, so clients behind it reach that one host only; set {mac} there by hand, or \
                 have it flood (on Dell OS9: ip vlan-flooding)"
            ))),
            GatewayAnswer::Lost => Some(Finding::problem(Culprit::RouterFrames, format!(
                "{mode}: the router {router} asked for {vip} and was told {mac}, but its answer to {vip} did not \
                 arrive: the switch does not deliver it, or the router drops it"
            ))),
            GatewayAnswer::NeverAsks | GatewayAnswer::Elsewhere => Some(
                Finding::problem(Culprit::RouterEntry, format!(
                    "{mode}: the router {router} answers this host but sends nothing for {vip} to {mac}, and did \
                     not ask for it: it has an old or fixed entry, or filters the address; clear the \
                     entry there (on Linux"
                ))
                .try_this(format!("ip neigh del {vip} dev INTERFACE)")),
            ),
            GatewayAnswer::Untested
            | GatewayAnswer::Pending
            | GatewayAnswer::Accepts
            | GatewayAnswer::NoPing
            | GatewayAnswer::Silent => None,
        }
    }

    /// Gateways that somebody else's answers may have misled.
    pub(super) fn gateway_misled(&self) -> Option<Finding> {
        let culprit = self.rival()?;
        let mut objecting = self
            .gateways
            .iter()
            .filter(|gateway| self.modes.iter().any(|mode| is_objection(&gateway.answers[mode])));
        let (router, vip) = (objecting.next()?.address, self.vip);
        let text = format!(
            "that the router {router} does not send to the MACs that were tried may follow from who else answers for \
             {vip}: it learns that MAC; ask again when nobody does"
        );
        Some(Finding::note(culprit, text))
    }

    /// Gateways of which nothing can be told.
    pub(super) fn gateway_silence(&self) -> Vec<Finding> {
        let silence = |gateway: &Gateway| {
            let (router, has) = (gateway.address, |answer| gateway.answers.0.contains(&answer));
            let text = if has(GatewayAnswer::Silent) {
                format!(
                    "the router {router}, a gateway of this segment, does not answer: it is down, or not on this \
                     segment; clients behind it reach nobody"
                )
            } else if has(GatewayAnswer::NoPing) && !has(GatewayAnswer::Accepts) {
                format!(
                    "the router {router} answers no pings, so it cannot be told whether it accepts the MAC; try \
                     a client behind it with `clusterd verify {}`",
                    with_port(self.vip)
                )
            } else {
                return None;
            };
            Some(Finding::note(Culprit::RouterSilent, text))
        };
        self.gateways.iter().filter_map(silence).collect()
    }
}

/// Whether clients behind a gateway that answers so do not reach the cluster.
fn is_objection(answer: &GatewayAnswer) -> bool {
    match answer {
        GatewayAnswer::Refuses
        | GatewayAnswer::Lost
        | GatewayAnswer::NeverAsks
        | GatewayAnswer::Elsewhere
        | GatewayAnswer::LearnsSource => true,
        GatewayAnswer::Untested
        | GatewayAnswer::Accepts
        | GatewayAnswer::NoPing
        | GatewayAnswer::Silent
        | GatewayAnswer::Pending => false,
    }
}

/// An address as `verify` wants it.
fn with_port(vip: IpAddr) -> String {
    match vip {
        IpAddr::V4(vip) => format!("{vip}:PORT"),
        IpAddr::V6(vip) => format!("[{vip}]:PORT"),
    }
}
