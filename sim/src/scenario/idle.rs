//! What a scenario sets in vain.

use super::{Arrivals, COOL_DOWN, Medium, PARAMETERS, Rule, Scenario};
use crate::delay::show_time;

impl Scenario {
    /// What was set and changes nothing in a run, and why.
    pub fn idle(&self) -> Vec<String> {
        let default = Self::default();
        let contest = matches!(self.rule, Rule::Contest);
        let clusterd = self.rule == Rule::Clusterd;
        let switched = self.medium != Medium::Hub;
        let rules: [(&[&str], bool, &str); 10] = [
            (
                &["network.fabric", "network.buffer", "network.background"],
                switched,
                "a hub has no ports (network.medium)",
            ),
            (
                &["network.leaves"],
                self.medium == Medium::Tree,
                "only a tree has leaves (network.medium)",
            ),
            (
                &[
                    "cluster.pacing",
                    "cluster.mode",
                    "cluster.slot",
                    "cluster.slot_adapts",
                    "cluster.settle_adapts",
                    "cluster.own",
                ],
                clusterd,
                "it is one of clusterd's (cluster.rule)",
            ),
            (
                &[
                    "cluster.back_off",
                    "cluster.window",
                    "cluster.reassert",
                    "cluster.owns",
                    "cluster.retract",
                ],
                contest,
                "it is one of the rule contest (cluster.rule)",
            ),
            (
                &["cluster.echo"],
                self.rule == Rule::Original,
                "it is one of the rule original (cluster.rule)",
            ),
            (&["network.burst_mean"], self.loses_bursts(), "nothing is lost in bursts"),
            (
                &["network.reordering_delay"],
                self.reordering.0 > 0.0,
                "nothing is reordered (network.reordering)",
            ),
            (
                &["host.pause"],
                self.pauses_per_second > 0.0,
                "nothing pauses (host.pauses_per_second)",
            ),
            (
                &["load.burst"],
                self.arrivals == Arrivals::Bursts,
                "there are no bursts (load.arrivals)",
            ),
            (
                &["client.reboot_after"],
                self.reboots.0 > 0.0,
                "no client begins anew (client.reboots)",
            ),
        ];
        let changed = |key: &str| {
            let parameter = PARAMETERS.iter().find(|parameter| parameter.key == key);
            parameter.is_some_and(|it| (it.show)(self) != (it.show)(&default))
        };
        let idle = rules.into_iter().filter(|(_, acts, _)| !acts);
        let named = idle.flat_map(|(keys, _, why)| keys.iter().map(move |&key| (key, why)));
        let named = named.filter(|(key, _)| changed(key));
        let end = self.warm_up + self.duration + COOL_DOWN;
        let late = self.faults.iter().filter(|fault| fault.at > end);
        let late = late.map(|fault| {
            format!("faults: `{fault}` never happens: the run is over after {}", show_time(end))
        });
        named.map(|(key, why)| format!("{key} changes nothing: {why}")).chain(late).collect()
    }

    fn loses_bursts(&self) -> bool {
        let cables = self.uplink_bursts.iter().chain(&self.downlink_bursts);
        self.burst_loss.0 > 0.0 || cables.into_iter().any(|share| share.0 > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_nothing_is_named() {
        let mut scenario = Scenario::default();
        assert_eq!(scenario.idle(), [""; 0]);
        scenario.set("network.background", "50%").unwrap();
        scenario.set("cluster.mode", "hash").unwrap();
        assert_eq!(scenario.idle(), [""; 0]);
        scenario.set("network.medium", "hub").unwrap();
        scenario.set("cluster.rule", "saru").unwrap();
        scenario.faults.push("99d kill h1".parse().unwrap());
        let named: Vec<_> = scenario
            .idle()
            .into_iter()
            .map(|it| it.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(named, ["network.background", "cluster.mode", "faults:"]);
    }
}
