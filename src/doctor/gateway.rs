//! Does the gateway accept the MAC of the virtual IP?
//!
//! An echo request *from* the virtual IP makes it ask for the MAC. It gets the mode's as answer, and if
//! it accepts that, the echo reply comes to it. While a cluster is live only that cluster's mode is
//! tried, and its daemons answer the question: the gateway must not learn another MAC.

use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use pnet::packet::arp::{ArpOperations, ArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket};
use pnet::packet::icmp::echo_reply::EchoReplyPacket;
use pnet::packet::icmp::echo_request::MutableEchoRequestPacket;
use pnet::packet::icmp::{IcmpPacket, IcmpTypes, checksum};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::util::MacAddr;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::modes::PerMode;
use super::wire::GatewayAnswer;
use crate::io::arp;
use crate::io::cluster_mac::MacMode;
use crate::io::doctor_socket::{Receiver, Sender};
use crate::io::link::Link;
use crate::io::packet::ip_payload;

/// How often a question is sent again.
const REPEAT: Duration = Duration::from_millis(200);
/// How long the gateway may take to answer a question of this host's own.
const PATIENCE: Duration = Duration::from_millis(600);
/// How long it may take to answer the virtual IP: who does not accept an answer asks again after a second
/// (Linux, `retrans_time_ms`), and that tells a refusal from a lost frame.
const PATIENCE_MODE: Duration = Duration::from_millis(1300);

/// The gateway as far as this host is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// It answers ARP and pings.
    Answers,
    /// It answers ARP but no ping of this host, so a missing answer to the virtual IP says nothing.
    NoPing,
    /// It does not even answer ARP.
    Silent,
}

/// What there is to try.
pub struct Trial<'a> {
    /// This host's interface.
    pub link: &'a Link,
    /// The virtual IP.
    pub vip: Ipv4Addr,
    /// The gateway.
    pub gateway: Ipv4Addr,
    /// The modes to try.
    pub modes: &'a [MacMode],
    /// Whether a cluster answers for the virtual IP already.
    pub is_live: &'a dyn Fn() -> bool,
}

/// What the gateway sent.
enum Event {
    /// Its own MAC.
    Here(MacAddr),
    /// A question for the virtual IP's MAC.
    Asks(MacAddr),
    /// An echo reply with this number, in a frame to this MAC.
    Reply(u16, MacAddr),
}

impl Trial<'_> {
    /// Tries all modes, and tells `progress` as far as it is. Takes some 7 seconds at most.
    pub async fn run(
        &self,
        sender: &Sender,
        progress: impl Fn(PerMode<GatewayAnswer>),
    ) -> Result<Reach> {
        let trial = Running {
            trial: self,
            sender,
            arp: Receiver::arp_frames(self.link).context("open a socket for ARP")?,
            ip: Receiver::icmp_frames(self.link).context("open a socket for replies")?,
            ident: rand::random(),
        };
        let mut answers = PerMode::default();
        for &mode in self.modes {
            answers[mode] = GatewayAnswer::Pending;
        }
        progress(answers);
        let Some(mac) = trial.resolve().await? else {
            progress(PerMode::default());
            return Ok(Reach::Silent);
        };
        let reach = if trial.ping(mac).await? { Reach::Answers } else { Reach::NoPing };
        for (&mode, number) in self.modes.iter().zip(1..) {
            answers[mode] = trial.try_mode(mac, mode, number).await?;
            progress(answers);
        }
        Ok(reach)
    }
}

struct Running<'a> {
    trial: &'a Trial<'a>,
    sender: &'a Sender,
    arp: Receiver,
    ip: Receiver,
    ident: u16,
}

impl Running<'_> {
    async fn resolve(&self) -> Result<Option<MacAddr>> {
        let Trial { link, gateway, .. } = self.trial;
        let question = arp::packet(
            ArpOperations::Request,
            (link.mac, self.sender.own()),
            (MacAddr::zero(), *gateway),
        );
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.sender.arp(MacAddr::broadcast(), &question);
            let again = Instant::now() + REPEAT;
            while let Some(event) = self.event(again).await? {
                if let Event::Here(mac) = event {
                    return Ok(Some(mac));
                }
            }
        }
        Ok(None)
    }

    async fn ping(&self, gateway: MacAddr) -> Result<bool> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.echo(self.sender.own(), gateway, 0);
            let again = Instant::now() + REPEAT;
            while let Some(event) = self.event(again).await? {
                if let Event::Reply(0, _) = event {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn try_mode(
        &self,
        gateway: MacAddr,
        mode: MacMode,
        number: u16,
    ) -> Result<GatewayAnswer> {
        let vip = self.trial.vip;
        let mac = mode.address(vip.into());
        let (mut asked, mut elsewhere) = (0, false);
        if !(self.trial.is_live)() {
            // It may know the MAC of the mode tried before; whoever knows none learns nothing.
            let announcement =
                arp::packet(ArpOperations::Request, (mac, vip), (MacAddr::zero(), vip));
            self.sender.arp(MacAddr::broadcast(), &announcement);
        }
        let end = Instant::now() + PATIENCE_MODE;
        while Instant::now() < end {
            self.echo(vip, gateway, number);
            let again = Instant::now() + REPEAT;
            while let Some(event) = self.event(again).await? {
                match event {
                    Event::Asks(asker) => {
                        asked += 1;
                        if !(self.trial.is_live)() {
                            let target = (asker, self.trial.gateway);
                            let answer = arp::packet(ArpOperations::Reply, (mac, vip), target);
                            self.sender.arp(asker, &answer);
                        }
                    }
                    Event::Reply(got, to) if got == number && to == mac => {
                        return Ok(GatewayAnswer::Accepts);
                    }
                    Event::Reply(got, _) => elsewhere |= got == number,
                    Event::Here(_) => {}
                }
            }
        }
        Ok(match asked {
            0 if elsewhere => GatewayAnswer::Elsewhere,
            0 => GatewayAnswer::NeverAsks,
            1 => GatewayAnswer::Lost,
            _ => GatewayAnswer::Refuses,
        })
    }

    fn echo(&self, from: Ipv4Addr, gateway: MacAddr, number: u16) {
        let mut message = [0; MutableEchoRequestPacket::minimum_packet_size() + 8];
        let mut echo = MutableEchoRequestPacket::new(&mut message).expect("room for the header");
        echo.set_icmp_type(IcmpTypes::EchoRequest);
        echo.set_identifier(self.ident);
        echo.set_sequence_number(number);
        let sum = IcmpPacket::new(&message).map_or(0, |icmp| checksum(&icmp));
        let mut echo = MutableEchoRequestPacket::new(&mut message).expect("room for the header");
        echo.set_checksum(sum);
        self.sender.echo_request(from, (gateway, self.trial.gateway), &message);
    }

    /// The next thing the gateway says, or nothing until `end`.
    async fn event(&self, end: Instant) -> Result<Option<Event>> {
        let (mut arp, mut ip) = ([MaybeUninit::uninit(); 128], [MaybeUninit::uninit(); 128]);
        let next = async {
            loop {
                let event = tokio::select! {
                    frame = self.arp.receive(&mut arp) => self.of_arp(frame?),
                    frame = self.ip.receive(&mut ip) => self.of_ip(frame?),
                };
                if let Some(event) = event {
                    return std::io::Result::Ok(event);
                }
            }
        };
        match timeout_at(end, next).await {
            Ok(event) => Ok(Some(event.context("listen to the gateway")?)),
            Err(_) => Ok(None),
        }
    }

    fn of_arp(&self, frame: &[u8]) -> Option<Event> {
        let packet = ArpPacket::new(frame.get(EthernetPacket::minimum_packet_size()..)?)?;
        if packet.get_sender_proto_addr() != self.trial.gateway {
            return None;
        }
        let (operation, mac) = (packet.get_operation(), packet.get_sender_hw_addr());
        if operation == ArpOperations::Request {
            (packet.get_target_proto_addr() == self.trial.vip).then_some(Event::Asks(mac))
        } else {
            Some(Event::Here(mac))
        }
    }

    fn of_ip(&self, frame: &[u8]) -> Option<Event> {
        let ethernet = EthernetPacket::new(frame)?;
        let packet = frame.get(EthernetPacket::minimum_packet_size()..)?;
        let ip = Ipv4Packet::new(packet)?;
        let is_reply = ethernet.get_ethertype() == EtherTypes::Ipv4
            && ip.get_source() == self.trial.gateway
            && ip.get_next_level_protocol() == IpNextHeaderProtocols::Icmp;
        let (_, message) = ip_payload(packet).filter(|_| is_reply)?;
        let echo = EchoReplyPacket::new(message)?;
        let is_ours =
            echo.get_icmp_type() == IcmpTypes::EchoReply && echo.get_identifier() == self.ident;
        is_ours.then(|| Event::Reply(echo.get_sequence_number(), ethernet.get_destination()))
    }
}
