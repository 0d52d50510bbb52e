//! Ports on which programs of this network namespace listen.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

/// `TCP_LISTEN` as `/proc/net/tcp` prints it.
const LISTEN: &str = "0A";

/// TCP ports on which somebody listens for connections to `vip`: at that address, or at all.
pub fn tcp_ports(vip: IpAddr) -> BTreeSet<u16> {
    let tables = match vip {
        // A socket of IPv6 hears IPv4, too, unless it was told not to; this does not say so.
        IpAddr::V4(_) => &["tcp", "tcp6"][..],
        IpAddr::V6(_) => &["tcp6"],
    };
    let tables =
        tables.iter().map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")));
    tables.flatten().flat_map(|table| listening(&table, vip)).collect()
}

/// Reads such a table (`tcp4_seq_show`): address and port in hexadecimal, each four bytes of an address
/// in the order of the host.
fn listening(table: &str, vip: IpAddr) -> BTreeSet<u16> {
    let word = |bytes: &[u8]| {
        let bytes = bytes.try_into().expect("four bytes");
        format!("{:08X}", u32::from_ne_bytes(bytes))
    };
    let own: String = match vip {
        IpAddr::V4(vip) => vip.octets().chunks(4).map(word).collect(),
        IpAddr::V6(vip) => vip.octets().chunks(4).map(word).collect(),
    };
    let port = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (address, port) = words.next()?.split_once(':')?;
        let fits = address.bytes().all(|digit| digit == b'0') || address == own;
        let listens = words.nth(1)? == LISTEN;
        (fits && listens).then(|| u16::from_str_radix(port, 16).ok())?
    };
    table.lines().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_at_the_address_or_at_all_count() {
        let octets = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let table = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue\n\
             \x20  0: 00000000:0016 00000000:0000 0A 00000000:00000000\n\
             \x20  1: {}:0050 00000000:0000 0A 00000000:00000000\n\
             \x20  2: {}:1F90 00000000:0000 0A 00000000:00000000\n\
             \x20  3: {}:01BB 00000000:0000 01 00000000:00000000\n",
            octets([10, 0, 0, 2]),
            octets([127, 0, 0, 1]),
            octets([10, 0, 0, 2]),
        );
        assert_eq!(listening(&table, [10, 0, 0, 2].into()), BTreeSet::from([22, 80]));
    }
}
