//! Loss of claims inside the switch.

use std::fmt;
use std::str::FromStr;

use super::topology::host_name;

const MILLION: u32 = 1_000_000;

/// Share of claim frames lost on the way to each host, in millionths.
///
/// Each receiver loses frames independently, as with overrun receive rings. The
/// client's port is exempt, so that the capture sees what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimLoss {
    millionths: u32,
}

impl ClaimLoss {
    /// The share as a percentage.
    pub fn percent(self) -> f64 {
        f64::from(self.millionths) / 1e4
    }

    /// nft rules for the switch; none when nothing is to be lost.
    pub fn rules(self, hosts: usize) -> Option<String> {
        if self.millionths == 0 {
            return None;
        }
        let ports = (0..hosts).map(host_name).collect::<Vec<_>>().join(", ");
        let chance = match self.millionths {
            // nft refuses a comparison that is always true.
            MILLION => String::new(),
            share => format!("numgen random mod {MILLION} < {share} "),
        };
        Some(format!(
            "table netdev lab {{\n\
             chain to_hosts {{\n\
             type filter hook egress devices = {{ {ports} }} priority 0\n\
             meta l4proto 150 {chance}counter drop\n\
             }}\n}}\n"
        ))
    }
}

impl fmt::Display for ClaimLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent())
    }
}

impl FromStr for ClaimLoss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, scale) = match text.strip_suffix('%') {
            Some(percent) => (percent, 1e4),
            None => (text, 1e6),
        };
        let value: f64 = number.parse().map_err(|_| {
            format!("`{text}` is neither a share such as 0.01 nor a percentage such as 1%")
        })?;
        let millionths = (value * scale).round();
        if !(0.0..=1e6).contains(&millionths) {
            return Err(format!(
                "a loss of `{text}` is not between 0% and 100%; write 5% for five percent"
            ));
        }
        if millionths == 0.0 && value > 0.0 {
            return Err(format!(
                "a loss of `{text}` is below the smallest the switch can do, 0.0001%"
            ));
        }
        Ok(Self { millionths: millionths as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_and_a_percentage_mean_the_same() {
        for (text, percent) in [
            ("0", 0.0),
            ("0.01", 1.0),
            ("1%", 1.0),
            ("1", 100.0),
            ("100%", 100.0),
            ("0.0001%", 0.0001),
        ] {
            assert_eq!(text.parse::<ClaimLoss>().unwrap().percent(), percent, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "%", "1.5", "101%", "-1%", "nan", "some", "1e-9"] {
            assert!(text.parse::<ClaimLoss>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_rules_spare_the_client() {
        let rules = "1%".parse::<ClaimLoss>().unwrap().rules(2).unwrap();
        assert!(rules.contains("numgen random mod 1000000 < 10000 counter drop"));
        let rules = "100%".parse::<ClaimLoss>().unwrap().rules(2).unwrap();
        assert!(rules.contains("devices = { h1, h2 }"));
        assert!(rules.contains("meta l4proto 150 counter drop"));
        assert_eq!("0%".parse::<ClaimLoss>().unwrap().rules(2), None);
    }
}
