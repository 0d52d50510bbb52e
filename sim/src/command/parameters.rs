//! `clusterd-sim parameters`: what a scenario can say.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clusterd_sim::scenario::{PARAMETERS, Scenario};
use serde::Serialize;

use super::say;

/// What is no parameter, as it has no single value.
const FAULTS: &str = "\
faults = []
    what goes wrong when; in files before the first table, or one by one by --fault
    a list of \"2s kill h1\", \"5s start h1\", \"2s stop h1 500ms\", \"2s mute h1\", \"2s deaf h1\",
    \"2s part h1 h2\", \"2s shut h1\", \"4s serve h1\", \"9s heal\", \"9s calm\"";

/// Options of `parameters`.
#[derive(Debug, clap::Args)]
pub struct ParametersArgs {
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct ParameterView {
    key: &'static str,
    /// Of a sweep's table.
    column: String,
    kind: &'static str,
    range: String,
    default: String,
    meaning: &'static str,
}

/// Prints all parameters.
pub fn execute(args: &ParametersArgs) -> Result<ExitCode> {
    let defaults = Scenario::default();
    let view = |parameter: &clusterd_sim::scenario::Parameter| ParameterView {
        key: parameter.key,
        column: parameter.column(),
        kind: parameter.kind,
        range: (parameter.range)(),
        default: (parameter.show)(&defaults),
        meaning: parameter.help,
    };
    let parameters: Vec<ParameterView> = PARAMETERS.iter().map(view).collect();
    if args.json {
        let object = serde_json::json!({ "parameters": parameters });
        let text = serde_json::to_string_pretty(&object).context("write the parameters")?;
        say(text)?;
        return Ok(ExitCode::SUCCESS);
    }
    for ParameterView { key, kind, range, default, meaning, column: _ } in parameters {
        let range = if range.is_empty() { range } else { format!(", {range}") };
        say(format_args!("{key} = {default}\n    {meaning}\n    {kind}{range}"))?;
    }
    say(FAULTS)?;
    Ok(ExitCode::SUCCESS)
}
