//! `clusterd-sim parameters`: what a scenario can say.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clusterd_sim::scenario::{PARAMETERS, Scenario};
use serde::Serialize;

use super::say;

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
    for ParameterView { key, kind, range, default, meaning } in parameters {
        let range = if range.is_empty() { range } else { format!(", {range}") };
        say(format_args!("{key} = {default}\n    {meaning}\n    {kind}{range}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
