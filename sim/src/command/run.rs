//! `clusterd-sim run`: one scenario, one or more seeds, and variants to compare with.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow, ensure};
use clusterd_sim::output::{self, Directory, Recordings, Report};
use clusterd_sim::replication::{self, Replication, Variant};
use clusterd_sim::result::{Details, RunResult};
use clusterd_sim::statistics::Estimate;
use clusterd_sim::table;

use super::{CommandLine, ScenarioArgs, progress_bar, say};

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// Seed of all chance; run I of several, counted from 0, has the seed SEED + I
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs, each with a seed of its own
    #[arg(long, default_value_t = 1, value_name = "N")]
    runs: u32,
    /// Runs at a time [default: one for each processor]; what comes out does not depend on it
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "J")]
    jobs: usize,
    /// Also runs the scenario with this changed, on the same seeds, and prints the differences;
    /// several changes at once are separated by `;`
    #[arg(long, value_name = "KEY=VALUE")]
    compare: Vec<String>,
    /// Directory for scenario.toml, summary.json, runs.csv, connections.csv, hosts.csv and
    /// timeseries.csv
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Writes all that happens into DIR/trace-SEED.jsonl, too
    #[arg(long, requires = "out")]
    trace: bool,
    /// Writes a capture for Wireshark into DIR/capture-SEED.pcap, too
    #[arg(long, requires = "out")]
    pcap: bool,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// Simulates and prints the figures.
pub fn execute(args: &RunArgs) -> Result<ExitCode> {
    let scenario = args.scenario.load()?;
    let seeds = replication::seeds(args.seed, args.runs)?;
    let mut variants = vec![Variant::base(scenario.clone())];
    for settings in &args.compare {
        let variant = Variant::parse(&scenario, settings);
        let variant = variant.map_err(|error| anyhow!("--compare {error}"))?;
        let double = variants.iter().any(|other| other.name == variant.name);
        ensure!(!double, "--compare {settings}: given twice");
        variants.push(variant);
    }
    for Variant { name, scenario } in &variants {
        scenario.idle().iter().for_each(|idle| eprintln!("note: {name}: {idle}"));
    }
    if !args.json {
        say(args.command_line())?;
    }
    let mut directory =
        args.out.as_deref().map(|path| Directory::create(path, &scenario)).transpose()?;
    let replications = simulate(args, &variants, &seeds, directory.as_mut())?;
    if let Some(directory) = directory {
        // Where it is written to has no influence on what is written.
        directory.finish(&Report::new(args.figures().to_string(), &replications))?;
    }
    match args.json {
        true => say(Report::new(args.command_line().to_string(), &replications).to_json()?)?,
        false => say(tables(&replications))?,
    }
    Ok(ExitCode::SUCCESS)
}

impl RunArgs {
    /// What gives the same figures again; the number of threads has no part in them.
    fn figures(&self) -> CommandLine {
        let line = CommandLine::new("run")
            .scenario(&self.scenario)
            .option("--seed", self.seed)
            .option("--runs", self.runs);
        self.compare.iter().fold(line, |line, settings| line.option("--compare", settings))
    }

    /// What prints and writes the same again.
    fn command_line(&self) -> CommandLine {
        self.figures()
            .with_path("--out", self.out.as_deref())
            .flag("--trace", self.trace)
            .flag("--pcap", self.pcap)
            .flag("--json", self.json)
    }
}

fn simulate(
    args: &RunArgs,
    variants: &[Variant],
    seeds: &[u64],
    mut directory: Option<&mut Directory>,
) -> Result<Vec<Replication>> {
    let pool = replication::threads(args.jobs)?;
    let progress = progress_bar(variants.len() * seeds.len(), "runs");
    let recordings = Recordings { trace: args.trace, pcap: args.pcap };
    let empty = |variant: &Variant| Replication { variant: variant.name.clone(), runs: Vec::new() };
    let mut replications: Vec<Replication> = variants.iter().map(empty).collect();
    let run = |number: usize, variant: &Variant, seed: u64| {
        let Some(path) = &args.out else {
            let run = RunResult::of(&variant.scenario, seed);
            progress.inc(1);
            return Ok((run, Details::default()));
        };
        let recorders = recordings.begin(&variant.scenario, path, number, seed)?;
        let (run, details, recorders) = RunResult::with_details(&variant.scenario, seed, recorders);
        output::finish(recorders)?;
        progress.inc(1);
        Ok((run, details))
    };
    replication::run_all(&pool, variants, seeds, run, |variant, (run, details)| {
        let Replication { variant, runs } = &mut replications[variant];
        if let Some(directory) = &mut directory {
            directory.add(variant, runs.len(), &run, &details)?;
        }
        runs.push(run);
        Ok(())
    })?;
    progress.finish_and_clear();
    Ok(replications)
}

/// The figures for people.
fn tables(replications: &[Replication]) -> String {
    let mut text = String::new();
    let Some((base, variants)) = replications.split_first() else { return text };
    let runs = base.runs.len();
    if variants.is_empty() {
        let rows: Vec<Vec<String>> = base
            .each_figure(Replication::estimate)
            .into_iter()
            .map(|(figure, estimate)| row(figure.name, [], estimate))
            .collect();
        text += &format!("\n{}", lay_out("figure", [], "mean", runs, &rows));
    }
    for variant in variants {
        let rows: Vec<Vec<String>> = variant
            .each_figure(|variant, figure| variant.difference(base, figure))
            .into_iter()
            .map(|(figure, difference)| {
                let means = [base, variant].map(|it| it.estimate(figure).map(|it| it.mean));
                row(figure.name, means, difference)
            })
            .collect();
        let table = lay_out("figure", ["base", "variant"], "difference", runs, &rows);
        text += &format!("\n{}\n{table}", variant.variant);
    }
    text + &match runs {
        1 => "\none run: no confidence intervals; --runs N gives them".to_owned(),
        _ => format!("\n{runs} runs; from, to: 95 % confidence intervals (Student's t)"),
    }
}

/// A row: a name, means, and an estimate with its interval.
fn row<const N: usize>(
    name: &str,
    means: [Option<f64>; N],
    estimate: Option<Estimate>,
) -> Vec<String> {
    let show = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), table::number);
    let mut row = vec![name.to_owned()];
    row.extend(means.map(show));
    row.push(show(estimate.map(|estimate| estimate.mean)));
    let interval = estimate.and_then(|estimate| estimate.interval_95);
    row.push(show(interval.map(|(low, _)| low)));
    row.push(show(interval.map(|(_, high)| high)));
    row
}

fn lay_out<const N: usize>(
    first: &str,
    means: [&str; N],
    estimate: &str,
    runs: usize,
    rows: &[Vec<String>],
) -> String {
    let mut head = vec![first];
    head.extend(means);
    head.push(estimate);
    if runs > 1 {
        head.extend(["from", "to"]);
        return table::lay_out(&head, rows);
    }
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row[..head.len()].to_vec()).collect();
    table::lay_out(&head, &rows)
}
