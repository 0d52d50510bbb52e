//! NFLOG: copies of packets that a rule has logged, while they go on.
//!
//! Clusterd logs its own SYN-ACKs (they prove that the handshake began) and ACKs
//! that do not fit. Each packet is one message, sent at once (`qthresh` 1): the
//! copy of a SYN-ACK is there when the verdict that caused it returns.
//!
//! `nlbufsiz` is left alone: the kernel ignores values below its own minimum, one
//! page less overhead (`nfulnl_set_nlbufsiz`), and trims each message to its
//! real size before it is charged to the socket (`netlink_trim`). The timeout is
//! irrelevant with `qthresh` 1 and set to its smallest value, 10 ms.
//!
//! *Overrun.* A full receive buffer loses copies, never packets; `ENOBUFS` is
//! counted in [`Log::enobufs`]. *Restart and shutdown.* The group is free again
//! when the socket closes; packets go on whether or not anyone listens.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::error::attempt;
use super::message::{Attributes, Builder, Message, Messages, nfnetlink};
use super::netlink::{Batch, NetlinkSocket, busy_if_listed};

/// Bytes of each packet that are copied here.
pub const COPY_RANGE: u32 = 128;
/// Receive buffer in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Where `nfnetlink_log` shows its groups (`seq_show`).
const PROC: &str = "/proc/thread-self/net/netfilter/nfnetlink_log";

const PACKET: u16 = nfnetlink(libc::NFNL_SUBSYS_ULOG, libc::NFULNL_MSG_PACKET);
const CONFIG: u16 = nfnetlink(libc::NFNL_SUBSYS_ULOG, libc::NFULNL_MSG_CONFIG);

/// One log group.
#[derive(Debug)]
pub struct Log {
    socket: NetlinkSocket,
    batch: Batch,
    /// Packets that came while the group was being configured.
    early: Vec<u8>,
    /// How often the receive buffer ran full and copies were lost.
    pub enobufs: u64,
}

impl Log {
    /// Takes log group `group`. Fails with `EBUSY` ([`super::error::errno`]) if
    /// another process has it, with `EPERM` without `CAP_NET_ADMIN`.
    pub fn bind(group: u16) -> io::Result<Self> {
        let [a, b, c, d] = COPY_RANGE.to_be_bytes();
        let mut message = Builder::default();
        message
            .begin(CONFIG, libc::NLM_F_ACK as u16, 1)
            .nfgenmsg(libc::AF_UNSPEC, group)
            .attribute(libc::NFULA_CFG_CMD, &[libc::NFULNL_CFG_CMD_BIND as u8])
            .attribute(libc::NFULA_CFG_MODE, &[a, b, c, d, libc::NFULNL_COPY_PACKET as u8, 0])
            .attribute(libc::NFULA_CFG_QTHRESH, &1u32.to_be_bytes())
            .attribute(libc::NFULA_CFG_TIMEOUT, &1u32.to_be_bytes())
            .end();
        let socket = NetlinkSocket::open(libc::NETLINK_NETFILTER, RECEIVE_BUFFER)?;
        let mut early = Vec::new();
        socket
            .request(message.bytes(), 1, |packet| {
                early.extend_from_slice(packet.whole);
                early.resize(early.len().next_multiple_of(4), 0);
            })
            .map_err(|error| {
                attempt(format!("bind NFLOG group {group}"), busy_if_listed(PROC, group, error))
            })?;
        Ok(Self { socket, batch: Batch::new(), early, enobufs: 0 })
    }

    /// Hands waiting copies to `on_packet` as (beginning of the packet from the
    /// IP header on, hook), at most about `budget`; returns how many there were.
    /// Fewer than `budget`: no more at that moment.
    pub fn recv(
        &mut self,
        budget: usize,
        mut on_packet: impl FnMut(&[u8], u8),
    ) -> io::Result<usize> {
        let mut packets = 0;
        if !self.early.is_empty() {
            packets = deliver(&std::mem::take(&mut self.early), &mut on_packet);
        }
        while packets < budget {
            let wanted = (budget - packets).min(Batch::SLOTS);
            let received = match self.socket.recv_batch(&mut self.batch, wanted) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.enobufs += 1;
                    continue;
                }
                Err(error) => return Err(attempt("receive logged packets", error)),
            };
            for datagram in self.batch.datagrams(received) {
                packets += deliver(datagram, &mut on_packet);
            }
            if received < wanted {
                break;
            }
        }
        Ok(packets)
    }
}

impl AsRawFd for Log {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn deliver(datagram: &[u8], on_packet: &mut impl FnMut(&[u8], u8)) -> usize {
    let packets = Messages(datagram).filter_map(packet);
    packets.map(|(payload, hook)| on_packet(payload, hook)).count()
}

fn packet(message: Message<'_>) -> Option<(&[u8], u8)> {
    if message.kind != PACKET {
        return None;
    }
    let (_nfgenmsg, attributes) = message.payload.split_first_chunk::<4>()?;
    let mut hook = None;
    let mut payload = None;
    for (kind, value) in Attributes(attributes) {
        match kind {
            // struct nfulnl_msg_packet_hdr: protocol of the link layer, hook.
            libc::NFULA_PACKET_HDR => hook = value.get(2).copied(),
            libc::NFULA_PAYLOAD => payload = Some(value),
            _ => {}
        }
    }
    Some((payload?, hook?))
}

#[cfg(test)]
mod tests;
