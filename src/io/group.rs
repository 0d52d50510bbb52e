//! The interface's subscription to a group MAC (SIOCADDMULTI).
//!
//! Unlike a packet socket's membership it outlives the process: after a crash
//! the established connections of this host must still receive their frames.
//! So it must be taken back, at the latest by the next start or `clusterd cleanup`.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use pnet::util::MacAddr;
use socket2::{Domain, Socket, Type};

/// Where the kernel lists subscriptions: index, name, users, static users, address.
const PROC: &str = "/proc/thread-self/net/dev_mcast";

/// Lets `interface` receive frames to `group` from now on. It may already.
pub fn subscribe(interface: &str, group: MacAddr) -> io::Result<()> {
    match request(libc::SIOCADDMULTI, interface, group) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        outcome => outcome,
    }
}

/// Takes the subscriptions to `group` back, on whichever interfaces they are.
pub fn unsubscribe(group: MacAddr) -> io::Result<()> {
    for (interface, subscribed) in fs::read_to_string(PROC)?.lines().filter_map(subscription) {
        if subscribed == group {
            request(libc::SIOCDELMULTI, interface, group)?;
        }
    }
    Ok(())
}

/// The interface and the MAC of a line, if it is about a static subscription.
fn subscription(line: &str) -> Option<(&str, MacAddr)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (name, _users, static_users, address) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let number = u64::from_str_radix(address, 16).ok().filter(|_| address.len() == 12)?;
    let [_, _, a, b, c, d, e, f] = number.to_be_bytes();
    (static_users != "0").then_some((name, MacAddr::new(a, b, c, d, e, f)))
}

fn request(kind: libc::c_ulong, interface: &str, group: MacAddr) -> io::Result<()> {
    // SAFETY: all-zero is a valid value of this C structure.
    let mut ifreq: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= ifreq.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, &from) in ifreq.ifr_name.iter_mut().zip(interface.as_bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: a zeroed union read as the field that is then written.
    let address = unsafe { &mut ifreq.ifr_ifru.ifru_hwaddr };
    address.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    for (to, from) in address.sa_data.iter_mut().zip(group.octets()) {
        *to = from as libc::c_char;
    }
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: `ifreq` is complete and lives through the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), kind as _, &raw const ifreq) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_static_subscriptions_count() {
        let group = MacAddr::new(0x03, 0xbf, 10, 77, 0, 2);
        let line = "2    eth0            2     1     03bf0a4d0002";
        assert_eq!(subscription(line), Some(("eth0", group)));
        assert_eq!(subscription("2    eth0            1     0     03bf0a4d0002"), None);
        assert_eq!(subscription("2    eth0            1     1     03bf0a4d"), None);
        assert_eq!(subscription("2    eth0"), None);
    }
}
