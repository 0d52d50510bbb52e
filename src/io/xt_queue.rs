//! A queue rule for kernels whose nftables lack the `queue` expression.
//!
//! `CONFIG_NFT_QUEUE` is an option of its own; without it `nft` cannot make a
//! rule with `queue`. If the older target `NFQUEUE` and `nft_compat` are there,
//! the same rule can be sent by hand, as `iptables-nft` does. `nft list` then
//! shows it as `queue num N` or as `xt target "NFQUEUE"`.
//!
//! *Modules.* For a rule in family `inet` the kernel does not load the target:
//! it makes the module's name from the family, and has no name for this one
//! (`xt_request_find_target`). Asking whether the target exists for IPv4 loads it.
//!
//! *Restart and shutdown.* The rule belongs to its chain and goes with the table.
//! *Overrun* does not apply: one request, one answer.

use std::io;

use super::error::attempt;
use super::message::{Builder, nfnetlink};
use super::netlink::NetlinkSocket;

/// Adds to chain `chain` of table `inet` `table`, before all its other rules,
/// one rule that sends every packet to NFQUEUE `queue`, without `bypass`: with
/// no daemon the packet is dropped.
///
/// Fails with `ENOENT` ([`super::error::errno`]) if table, chain or target do
/// not exist.
pub fn insert(table: &str, chain: &str, queue: u16) -> io::Result<()> {
    let socket = NetlinkSocket::open(libc::NETLINK_NETFILTER, 0)?;
    socket
        .request(question().bytes(), SEQUENCE, |_| ())
        .map_err(|error| attempt("ask for the target NFQUEUE", error))?;
    socket.request(batch(table, chain, queue).bytes(), SEQUENCE, |_| ()).map_err(|error| {
        attempt(format!("add target NFQUEUE {queue} to chain {chain} of table inet {table}"), error)
    })
}

/// Sequence number of all messages: any of a batch may bring an error back.
const SEQUENCE: u32 = 1;
/// Revision of the target with 16-bit flags, in the kernel since 3.10.
const REVISION: u32 = 3;
/// The name of the target.
const TARGET: &str = "NFQUEUE";

/// Does the target exist? The answer is an error if not.
fn question() -> Builder {
    let mut question = Builder::default();
    question
        .begin(
            nfnetlink(libc::NFNL_SUBSYS_NFT_COMPAT, NFNL_MSG_COMPAT_GET),
            libc::NLM_F_ACK as u16,
            SEQUENCE,
        )
        .nfgenmsg(libc::AF_INET, 0)
        .text(NFTA_COMPAT_NAME, TARGET)
        .attribute(NFTA_COMPAT_REV, &REVISION.to_be_bytes())
        .attribute(NFTA_COMPAT_TYPE, &COMPAT_TARGET.to_be_bytes())
        .end();
    question
}

fn batch(table: &str, chain: &str, queue: u16) -> Builder {
    let subsystem = libc::NFNL_SUBSYS_NFTABLES;
    // struct xt_NFQ_info_v3 { u16 queuenum, queues_total, flags }, in host byte
    // order and padded to eight bytes (XT_ALIGN).
    let mut info = [0; 8];
    info[..2].copy_from_slice(&queue.to_ne_bytes());
    info[2..4].copy_from_slice(&1u16.to_ne_bytes());

    let mut batch = Builder::default();
    batch
        .begin(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, SEQUENCE)
        .nfgenmsg(libc::AF_UNSPEC, subsystem as u16)
        .end();
    // Without NLM_F_APPEND a rule becomes the first of its chain.
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_ACK) as u16;
    batch
        .begin(nfnetlink(subsystem, libc::NFT_MSG_NEWRULE), flags, SEQUENCE)
        .nfgenmsg(libc::NFPROTO_INET, 0)
        .text(NFTA_RULE_TABLE, table)
        .text(NFTA_RULE_CHAIN, chain)
        .nested(NFTA_RULE_EXPRESSIONS, |expressions| {
            expressions.nested(NFTA_LIST_ELEM, |element| {
                element.text(NFTA_EXPR_NAME, "target").nested(NFTA_EXPR_DATA, |data| {
                    data.text(NFTA_TARGET_NAME, TARGET)
                        .attribute(NFTA_TARGET_REV, &REVISION.to_be_bytes())
                        .attribute(NFTA_TARGET_INFO, &info);
                });
            });
        })
        .end();
    batch
        .begin(libc::NFNL_MSG_BATCH_END as u16, 0, SEQUENCE)
        .nfgenmsg(libc::AF_UNSPEC, subsystem as u16)
        .end();
    batch
}

// linux/netfilter/nf_tables.h
const NFTA_LIST_ELEM: i32 = 1;
const NFTA_RULE_TABLE: i32 = 1;
const NFTA_RULE_CHAIN: i32 = 2;
const NFTA_RULE_EXPRESSIONS: i32 = 4;
const NFTA_EXPR_NAME: i32 = 1;
const NFTA_EXPR_DATA: i32 = 2;
// linux/netfilter/nf_tables_compat.h
const NFNL_MSG_COMPAT_GET: i32 = 0;
const NFTA_COMPAT_NAME: i32 = 1;
const NFTA_COMPAT_REV: i32 = 2;
const NFTA_COMPAT_TYPE: i32 = 3;
/// A target, not a match.
const COMPAT_TARGET: u32 = 1;
const NFTA_TARGET_NAME: i32 = 1;
const NFTA_TARGET_REV: i32 = 2;
const NFTA_TARGET_INFO: i32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::error::errno;
    use crate::io::testing::{in_namespace, nft, run};

    #[test]
    fn the_rule_is_first_in_its_chain() {
        in_namespace(|| {
            nft("table inet t { chain c { counter; }; }");
            insert("t", "c", 7).unwrap();
            let list = run("nft", &["list", "table", "inet", "t"]);
            let (queue, counter) =
                (list.find("NFQUEUE").or(list.find("queue")), list.find("counter"));
            assert!(queue.is_some() && queue < counter, "{list}");
            assert!(!list.contains("bypass"), "{list}");
            assert_eq!(errno(&insert("t", "absent", 7).unwrap_err()), Some(libc::ENOENT));
        });
    }
}
