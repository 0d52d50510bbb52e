//! What on this host keeps a MAC mode from working, whatever the network does.

use anyhow::Result;

use super::finding::{Culprit, Finding};
use super::modes::PerMode;
use crate::io::cluster_mac::MacMode;
use crate::io::link::{Condition, Link, require_packets_in_group_frames};
use crate::io::nft;

/// The obstacle of each mode, if there is one.
pub type Obstacles = PerMode<Option<Finding>>;

/// Looks at this host.
pub fn look(link: &Link, condition: &Condition) -> Result<Obstacles> {
    let takes_group_frames = require_packets_in_group_frames(link).is_ok();
    Ok(judge(&link.name, takes_group_frames, condition.is_macvlan, nft::has_ingress()?))
}

fn judge(
    interface: &str,
    takes_group_frames: bool,
    is_macvlan: bool,
    has_ingress: bool,
) -> Obstacles {
    let mut obstacles = Obstacles::default();
    if !takes_group_frames {
        for mode in [MacMode::Multicast, MacMode::Igmp] {
            // As sysctl(8) has names with a dot of their own.
            let name = interface.replace('.', "/");
            let text = format!(
                "{mode}: this host drops IPv6 packets in frames to a group MAC before any rule; let it \
                 take them, or use mode stealth"
            );
            let command = format!("sysctl -w net.ipv6.conf.{name}.drop_unicast_in_l2_multicast=0");
            let finding = Finding::problem(Culprit::DropUnicastInMulticast, text);
            obstacles[mode] = Some(finding.try_this(command));
        }
    }
    if is_macvlan {
        let text = format!(
            "stealth: {interface} is a macvlan, which gets unicast frames to its own MAC only; use the \
             interface below it, or another mode"
        );
        obstacles[MacMode::Stealth] = Some(Finding::problem(Culprit::Interface, text));
    } else if !has_ingress {
        let text = "stealth: this kernel has no nftables rules at an interface's ingress \
                    (CONFIG_NF_TABLES_NETDEV), which the mode needs; use another one";
        obstacles[MacMode::Stealth] = Some(Finding::problem(Culprit::IngressMissing, text));
    }
    obstacles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_obstacle_is_in_the_way_of_its_modes_only() {
        let culprits = |obstacles: Obstacles| obstacles.0.map(|it| it.map(|it| it.culprit));
        let drop = Some(Culprit::DropUnicastInMulticast);
        for (takes_group_frames, is_macvlan, has_ingress, expected) in [
            (true, false, true, [None; 4]),
            (false, false, true, [drop, drop, None, None]),
            (true, true, true, [None, None, Some(Culprit::Interface), None]),
            (true, false, false, [None, None, Some(Culprit::IngressMissing), None]),
        ] {
            let obstacles = judge("eth0.7", takes_group_frames, is_macvlan, has_ingress);
            assert_eq!(culprits(obstacles.clone()), expected);
            let commands = obstacles.0.iter().flatten().filter_map(|it| it.command.as_ref());
            let known = "sysctl -w net.ipv6.conf.eth0/7.drop_unicast_in_l2_multicast=0";
            assert!(commands.into_iter().all(|command| command == known));
        }
    }
}
