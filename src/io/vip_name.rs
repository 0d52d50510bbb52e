//! A virtual IP as a part of names: of tables, marks and files.
//!
//! A colon may not be in any of the first two (nft takes it for a separator,
//! `dev_valid_name` refuses it), so those of IPv6 are written as underscores.

use std::net::IpAddr;

/// `10.0.0.2`, or `2001_db8__2`.
pub fn spell(vip: IpAddr) -> String {
    vip.to_string().replace(':', "_")
}

/// The address that is spelled so.
pub fn read(name: &str) -> Option<IpAddr> {
    let vip = name.replace('_', ":").parse().ok()?;
    (spell(vip) == name).then_some(vip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_address() {
        for (vip, name) in
            [("10.0.0.2", "10.0.0.2"), ("2001:db8::2", "2001_db8__2"), ("fd00::", "fd00__")]
        {
            let vip = vip.parse().unwrap();
            assert_eq!(spell(vip), name);
            assert_eq!(read(name), Some(vip));
        }
        for name in ["", "x", "10.0.0.2.3", "2001:db8::2", "2001_0db8__2"] {
            assert_eq!(read(name), None, "{name}");
        }
    }
}
