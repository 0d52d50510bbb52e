//! The ports of the virtual IPs on which the cluster is spoken to (`--ports`).

use std::collections::BTreeSet;
use std::str::FromStr;

use clusterd::flow::Protocol;

/// Ports in scope; packets to others are dropped before they cost anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(BTreeSet<(Protocol, u16)>);

impl Scope {
    /// Is the port in scope for any protocol? Claims name no protocol.
    pub fn has(&self, port: u16) -> bool {
        [Protocol::Tcp, Protocol::Udp].iter().any(|&protocol| self.0.contains(&(protocol, port)))
    }

    /// The elements of an nft set of the type `inet_proto . inet_service`.
    pub(super) fn elements(&self) -> String {
        let elements: Vec<_> =
            self.0.iter().map(|(protocol, port)| format!("{protocol} . {port}")).collect();
        elements.join(", ")
    }
}

impl FromStr for Scope {
    type Err = String;

    /// Reads `tcp/80,443,udp/53`: a protocol counts for all ports up to the next one.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut protocol = None;
        let mut ports = BTreeSet::new();
        for item in text.split(',') {
            let port = match item.split_once('/') {
                Some(("tcp", port)) => {
                    protocol = Some(Protocol::Tcp);
                    port
                }
                Some(("udp", port)) => {
                    protocol = Some(Protocol::Udp);
                    port
                }
                Some((other, _)) => return Err(format!("`{other}` is neither tcp nor udp")),
                None => item,
            };
            let Some(protocol) = protocol else {
                return Err(format!("a protocol must come first: tcp/{item} or udp/{item}"));
            };
            let number = port.parse().ok().filter(|&number| number != 0);
            let number = number.ok_or_else(|| format!("`{port}` is no port from 1 to 65535"))?;
            ports.insert((protocol, number));
        }
        Ok(Self(ports))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_counts_up_to_the_next_one() {
        let scope: Scope = "tcp/80,443,udp/53,tcp/80".parse().unwrap();
        assert_eq!(scope.elements(), "tcp . 80, tcp . 443, udp . 53");
        assert!([80, 443, 53].iter().all(|&port| scope.has(port)) && !scope.has(22));
        for (text, error) in [
            ("80", "a protocol must come first: tcp/80 or udp/80"),
            ("sctp/80", "`sctp` is neither tcp nor udp"),
            ("tcp/0", "`0` is no port from 1 to 65535"),
            ("tcp/80,", "`` is no port from 1 to 65535"),
            ("tcp/80,99999", "`99999` is no port from 1 to 65535"),
        ] {
            assert_eq!(text.parse::<Scope>(), Err(error.to_owned()), "{text}");
        }
    }
}
