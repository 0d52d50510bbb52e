//! What `clusterd doctor` says of each MAC mode on a segment where no daemon runs yet.

use std::collections::BTreeMap;
use std::process::{Child, Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::super::hosts::this_program_in;
use super::super::isn::Isn;
use super::super::netns::Namespace;
use super::super::topology::{Family, Medium, Plan, Topology};

/// How long doctors look; what the router says takes them a little longer.
const WINDOW: &str = "4s";

/// The culprit of each mode that does not work, by the name of the mode.
pub type Culprits = BTreeMap<String, Option<String>>;

/// Doctors on all hosts of a segment.
pub struct Doctors {
    running: Vec<Child>,
    _topology: Topology,
}

impl Doctors {
    /// Raises a segment and calls the doctors.
    pub fn call(medium: Medium, nodes: usize, family: Family) -> Result<Self> {
        let plan = Plan { nodes, client_addresses: 1, medium, isn: Isn::Shared, family };
        let topology = Topology::raise(&plan, |_role| Namespace::unnamed())?;
        let start = |host: &Namespace| {
            let mut command = this_program_in(host)?;
            command.args([
                "doctor",
                "eth0",
                &family.vip().to_string(),
                "--json",
                "--mac",
                "all",
                "--for",
                WINDOW,
            ]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().context("start a doctor")
        };
        let running = topology.hosts.iter().map(start).collect::<Result<_>>()?;
        Ok(Self { running, _topology: topology })
    }

    /// What they say, if they agree.
    pub fn verdict(self) -> Result<Culprits> {
        let said = self
            .running
            .into_iter()
            .map(|doctor| culprits(&doctor.wait_with_output().context("wait for a doctor")?));
        let mut said = said.collect::<Result<Vec<_>>>()?;
        said.dedup();
        match said.len() {
            1 => Ok(said.remove(0)),
            _ => bail!("doctors on the same segment disagree: {said:?}"),
        }
    }
}

fn culprits(output: &Output) -> Result<Culprits> {
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("read a doctor's report: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    let modes = report["modes"].as_array();
    let modes = modes.with_context(|| format!("a doctor's report has no modes: {report}"))?;
    let of_mode = |mode: &Value| {
        let name = mode["mode"].as_str()?.to_owned();
        Some((name, mode["culprit"].as_str().map(str::to_owned)))
    };
    Ok(modes.iter().filter_map(of_mode).collect())
}
