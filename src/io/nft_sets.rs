//! The elements of nft sets, changed while the rules stay: no program is started.
//!
//! Changes are collected in a [`Transaction`], and the kernel applies all of it
//! or nothing: a packet meets either the old or the new elements
//! (`nf_tables_commit`). One transaction is one datagram, handled inside `send`.
//!
//! *Overrun* does not apply: one request, one answer. *Restart and shutdown:*
//! elements belong to their table; who installs the table again empties its sets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::error::attempt;
use super::message::{Attributes, Builder, nfnetlink};
use super::netlink::NetlinkSocket;

/// Elements in one message: their list must stay below the 64 KiB of an attribute.
const ELEMENTS_PER_MESSAGE: usize = 1024;

/// Bytes of a transaction at most: ten thousand elements of 40 bytes (two IPv6 addresses with
/// their ports) take 600 kB.
const TRANSACTION_MAX: usize = 1 << 20;

/// The sets and counters of one table of family `inet`.
#[derive(Debug)]
pub struct Sets {
    socket: NetlinkSocket,
    request: Builder,
    sequence: u32,
    table: String,
}

impl Sets {
    /// Opens a socket for the sets of table `inet` `table`, which need not exist
    /// yet. Changes need `CAP_NET_ADMIN`.
    pub fn open(table: String) -> io::Result<Self> {
        let socket = NetlinkSocket::open(libc::NETLINK_NETFILTER, 0)?;
        socket.set_send_buffer(TRANSACTION_MAX)?;
        Ok(Self { socket, request: Builder::with_capacity(8192), sequence: 0, table })
    }

    /// Starts a transaction. It changes nothing before [`Transaction::commit`].
    pub fn transaction(&mut self) -> Transaction<'_> {
        self.next();
        self.request
            .begin(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, self.sequence)
            .nfgenmsg(libc::AF_UNSPEC, SUBSYSTEM as u16)
            .end();
        Transaction { sets: self, is_empty: true }
    }

    /// The packets that the named counter has counted since its table was
    /// installed. Fails with `ENOENT` ([`super::error::errno`]) if there is none.
    pub fn packets(&mut self, counter: &str) -> io::Result<u64> {
        self.next();
        let flags = libc::NLM_F_ACK as u16;
        self.request
            .begin(nfnetlink(SUBSYSTEM, libc::NFT_MSG_GETOBJ), flags, self.sequence)
            .nfgenmsg(libc::NFPROTO_INET, 0)
            .text(NFTA_OBJ_TABLE, &self.table)
            .text(NFTA_OBJ_NAME, counter)
            .attribute(NFTA_OBJ_TYPE, &NFT_OBJECT_COUNTER.to_be_bytes())
            .end();
        let mut packets = None;
        let answer = self.socket.request(self.request.bytes(), self.sequence, |message| {
            if message.sequence == self.sequence {
                let attributes = message.payload.get(NFGENMSG..).unwrap_or_default();
                packets = counted(attributes).or(packets);
            }
        });
        answer
            .and_then(|()| packets.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)))
            .map_err(|error| {
                attempt(format!("read counter {counter} of table inet {}", self.table), error)
            })
    }

    fn next(&mut self) {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.request.clear();
    }
}

/// The key of an address.
pub fn address_key(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The key of an address and a port, or its part in a longer one.
pub fn end_key(end: SocketAddr) -> Vec<u8> {
    let mut key = address_key(end.ip());
    key.extend(end.port().to_be_bytes());
    key.extend([0; 2]);
    key
}

/// Changes that are made together.
#[derive(Debug)]
#[must_use]
pub struct Transaction<'a> {
    sets: &'a mut Sets,
    is_empty: bool,
}

impl Transaction<'_> {
    /// Removes all elements of `set`.
    pub fn flush(self, set: &str) -> Self {
        self.message(libc::NFT_MSG_DELSETELEM, 0, set, |_| ())
    }

    /// Adds elements to `set`, each as its key: the fields of a concatenation in
    /// network byte order, numbers without a byte order of their own in the
    /// host's, each field padded to a multiple of four bytes.
    ///
    /// With `timeout` (whole milliseconds; the set has `flags timeout`) they go
    /// by themselves. One that is present already stays, up to Linux 6.11 with
    /// its old timeout. Up to ten thousand in one transaction.
    pub fn add<K: AsRef<[u8]>>(
        mut self,
        set: &str,
        keys: impl IntoIterator<Item = K>,
        timeout: Option<Duration>,
    ) -> Self {
        let mut keys = keys.into_iter().peekable();
        while keys.peek().is_some() {
            let some = keys.by_ref().take(ELEMENTS_PER_MESSAGE);
            self = self.message(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, set, |message| {
                message.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    some.for_each(|key| element(list, key.as_ref(), timeout));
                });
            });
        }
        self
    }

    /// Makes the changes. If one cannot be made none is: `ENOENT` without the
    /// table or the set, `ENFILE` if a set would exceed its size
    /// ([`super::error::errno`]).
    pub fn commit(self) -> io::Result<()> {
        let Sets { socket, request, sequence, table } = self.sets;
        if self.is_empty {
            return Ok(());
        }
        // Errors come back in any case and in the order of the messages, each in a
        // datagram of its own: the acknowledgement of the last change comes behind them.
        // (The end of a batch is acknowledged from Linux 6.10 on only.)
        request.acknowledge_last();
        request
            .begin(libc::NFNL_MSG_BATCH_END as u16, 0, *sequence)
            .nfgenmsg(libc::AF_UNSPEC, SUBSYSTEM as u16)
            .end();
        socket
            .request(request.bytes(), *sequence, |_| ())
            .map_err(|error| attempt(format!("change the sets of table inet {table}"), error))
    }

    fn message(
        mut self,
        kind: i32,
        flags: i32,
        set: &str,
        content: impl FnOnce(&mut Builder),
    ) -> Self {
        let Sets { request, sequence, table, .. } = &mut *self.sets;
        let message = request
            .begin(nfnetlink(SUBSYSTEM, kind), flags as u16, *sequence)
            .nfgenmsg(libc::NFPROTO_INET, 0)
            .text(NFTA_SET_ELEM_LIST_TABLE, table)
            .text(NFTA_SET_ELEM_LIST_SET, set);
        content(message);
        message.end();
        self.is_empty = false;
        self
    }
}

fn element(list: &mut Builder, key: &[u8], timeout: Option<Duration>) {
    list.nested(NFTA_LIST_ELEM, |element| {
        element.nested(NFTA_SET_ELEM_KEY, |data| {
            data.attribute(NFTA_DATA_VALUE, key);
        });
        if let Some(timeout) = timeout {
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            element.attribute(NFTA_SET_ELEM_TIMEOUT, &milliseconds.to_be_bytes());
        }
    });
}

/// The number of packets in the description of a counter.
fn counted(attributes: &[u8]) -> Option<u64> {
    let find = |attributes, wanted| {
        Attributes(attributes).find(|&(kind, _)| kind == wanted).map(|(_, value)| value)
    };
    let packets = find(find(attributes, NFTA_OBJ_DATA)?, NFTA_COUNTER_PACKETS)?;
    packets.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

const SUBSYSTEM: i32 = libc::NFNL_SUBSYS_NFTABLES;
/// Bytes of `struct nfgenmsg` before the attributes.
const NFGENMSG: usize = 4;

// linux/netfilter/nf_tables.h
const NFTA_LIST_ELEM: i32 = 1;
const NFTA_DATA_VALUE: i32 = 1;
const NFTA_SET_ELEM_KEY: i32 = 1;
const NFTA_SET_ELEM_TIMEOUT: i32 = 4;
const NFTA_SET_ELEM_LIST_TABLE: i32 = 1;
const NFTA_SET_ELEM_LIST_SET: i32 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: i32 = 3;
const NFTA_OBJ_TABLE: i32 = 1;
const NFTA_OBJ_NAME: i32 = 2;
const NFTA_OBJ_TYPE: i32 = 3;
const NFTA_OBJ_DATA: i32 = 4;
const NFT_OBJECT_COUNTER: u32 = 1;
const NFTA_COUNTER_PACKETS: i32 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::error::errno;
    use crate::io::testing::{in_namespace, nft, run};

    fn listing(set: &str) -> String {
        run("nft", &["list", "set", "inet", "t", set])
    }

    #[test]
    fn a_transaction_is_made_whole_or_not_at_all() {
        in_namespace(|| {
            nft("table inet t {
                set a { type inet_proto; size 3; }
                set b { typeof numgen inc mod 256; }
            }");
            let mut sets = Sets::open("t".to_owned()).unwrap();
            let numbers = |from: u32, to: u32| (from..to).map(u32::to_ne_bytes);
            sets.transaction()
                .add("a", [[6]], None)
                .add("b", numbers(0, 3), None)
                .commit()
                .unwrap();
            assert!(listing("a").contains("elements = { tcp }"), "{}", listing("a"));
            // In no order.
            for number in ["0", "1", "2"] {
                assert!(listing("b").contains(number), "{}", listing("b"));
            }
            // What is removed may be added again at the same time.
            sets.transaction().flush("b").add("b", numbers(2, 3), None).commit().unwrap();
            assert!(listing("b").contains("elements = { 2 }"), "{}", listing("b"));
            // The second message fails, so the first must not have happened.
            let too_many = sets.transaction().flush("b").add("a", [[1], [2], [3]], None).commit();
            assert_eq!(errno(&too_many.unwrap_err()), Some(libc::ENFILE));
            let no_set = sets.transaction().flush("b").flush("absent").commit();
            assert_eq!(errno(&no_set.unwrap_err()), Some(libc::ENOENT));
            assert!(listing("b").contains("elements = { 2 }"), "{}", listing("b"));
            sets.transaction().flush("a").flush("b").commit().unwrap();
            assert!(!listing("a").contains("elements"), "{}", listing("a"));
            assert!(!listing("b").contains("elements"), "{}", listing("b"));
            let mut absent = Sets::open("absent".to_owned()).unwrap();
            let no_table = absent.transaction().flush("a").commit();
            assert_eq!(errno(&no_table.unwrap_err()), Some(libc::ENOENT));
        });
    }

    #[test]
    fn elements_of_a_concatenation_go_when_their_time_is_over() {
        in_namespace(|| {
            nft("table inet t {
                set flows {
                    type ipv4_addr . inet_service . inet_service
                    flags timeout
                    size 65536
                }
            }");
            let mut sets = Sets::open("t".to_owned()).unwrap();
            let key = |port: u16| {
                let [a, b] = port.to_be_bytes();
                [192, 0, 2, 1, a, b, 0, 0, 0, 53, 0, 0]
            };
            let hour = Some(Duration::from_secs(3600));
            sets.transaction().add("flows", (0..3000).map(key), hour).commit().unwrap();
            let text = listing("flows");
            assert!(text.contains("192.0.2.1 . 2999 . 53 timeout 1h"), "{text}");
            assert_eq!(text.matches("192.0.2.1").count(), 3000);
            sets.transaction().flush("flows").commit().unwrap();
            assert!(!listing("flows").contains("192.0.2.1"));
            sets.transaction()
                .add("flows", [key(1)], Some(Duration::from_millis(1)))
                .commit()
                .unwrap();
            while listing("flows").contains("192.0.2.1") {}
        });
    }

    #[test]
    fn a_counter_is_read() {
        in_namespace(|| {
            nft("table inet t {
                counter c { packets 5000000000 bytes 1 }
                set s { type inet_proto; }
            }");
            let mut sets = Sets::open("t".to_owned()).unwrap();
            assert_eq!(sets.packets("c").unwrap(), 5_000_000_000);
            assert_eq!(errno(&sets.packets("absent").unwrap_err()), Some(libc::ENOENT));
            // What an earlier failure left behind is no answer to a later request.
            sets.transaction().flush("absent").flush("absent").commit().unwrap_err();
            assert_eq!(sets.packets("c").unwrap(), 5_000_000_000);
            sets.transaction().flush("s").commit().unwrap();
        });
    }
}
