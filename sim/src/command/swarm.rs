//! `clusterd-sim swarm`: scenarios drawn from seeds, invariants after every event.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clusterd_sim::diagram::{Diagram, text};
use clusterd_sim::swarm::{Totals, Trial, try_seed};
use clusterd_sim::{checker, file, judge};
use rayon::prelude::*;

use super::VIOLATED;

/// Options of `swarm`.
#[derive(Debug, clap::Args)]
pub struct SwarmArgs {
    /// How many seeds are tried
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Draws no further seeds after so long
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    time: Option<Duration>,
    /// Seeds tried at the same time; all processors without it
    #[arg(long)]
    jobs: Option<usize>,
    /// Where minimal scenarios and diagrams of failures are written
    #[arg(long, default_value = ".", value_name = "DIRECTORY")]
    out: PathBuf,
}

/// Seeds between two looks at the clock.
const BLOCK: u64 = 8;

/// Tries all seeds; says what failed and how to repeat it.
pub fn execute(args: &SwarmArgs) -> Result<ExitCode> {
    let begin = Instant::now();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.jobs.unwrap_or(0));
    let pool = pool.build().context("start threads for the seeds")?;
    let mut totals = Totals::default();
    let end = args.from.saturating_add(args.seeds);
    let mut next = args.from;
    while next < end && args.time.is_none_or(|time| begin.elapsed() < time) {
        let block: Vec<u64> = (next..end.min(next + BLOCK)).collect();
        next += block.len() as u64;
        let trials: Vec<Trial> = pool.install(|| block.into_par_iter().map(try_seed).collect());
        for trial in &trials {
            totals.add(trial);
            report(trial, &args.out)?;
        }
    }
    print_totals(&totals);
    Ok(if totals.failed > 0 { ExitCode::from(VIOLATED) } else { ExitCode::SUCCESS })
}

/// Says what is wrong with a seed, and writes its least scenario.
fn report(trial: &Trial, out: &std::path::Path) -> Result<()> {
    let Some(violation) = &trial.judgement.violation else { return Ok(()) };
    let seed = trial.seed;
    println!("seed {seed} violates {violation}");
    println!("  repeat it: clusterd-sim swarm --from {seed} --seeds 1");
    let Some((scenario, how)) = &trial.least else { return Ok(()) };
    let name = format!("swarm-{seed}");
    let path = out.join(format!("{name}.toml"));
    let about = format!(
        "# {how}\n# clusterd-sim check {name}.toml --seed {seed}\n\n{}",
        file::write_changes(scenario)
    );
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    std::fs::write(&path, about).with_context(|| format!("write {}", path.display()))?;
    println!("  the least scenario: {how}");
    println!("    {}", path.display());
    if let Some(connection) = how.connection {
        let diagram = Diagram::of(scenario, seed, connection, how.at);
        let drawing = text::draw(&diagram);
        let path = out.join(format!("{name}.txt"));
        std::fs::write(&path, &drawing).with_context(|| format!("write {}", path.display()))?;
        println!("{drawing}");
    }
    Ok(())
}

fn print_totals(totals: &Totals) {
    let Totals {
        seeds,
        failed,
        connections,
        served,
        answered_twice,
        answered_twice_healed,
        events,
        classes,
    } = totals;
    println!(
        "{seeds} seeds, {failed} failed; {connections} connections, {served} served, {answered_twice} answered \
         by two hosts ({answered_twice_healed} after everything was healed); {events} events"
    );
    for (class, times) in classes {
        println!("  {class:<20} {times:>6}");
    }
}

/// Options of `check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    scenario: super::ScenarioArgs,
    /// Seed of all chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Demands I1 and I2 whatever the guard
    #[arg(long)]
    regardless: bool,
}

/// Runs one scenario through both acts.
pub fn check(args: &CheckArgs) -> Result<ExitCode> {
    let scenario = args.scenario.load()?;
    let mut promises = checker::Promises::of(&scenario);
    promises.outcome |= args.regardless;
    let judgement = judge::judge(&scenario, args.seed, promises);
    match &judgement.violation {
        Some(violation) => {
            println!("violates {violation}");
            Ok(ExitCode::from(VIOLATED))
        }
        None => {
            let judge::Judgement { connections, served, answered_twice, events, .. } = judgement;
            println!(
                "nothing violated: {connections} connections, {served} served, {answered_twice} answered by two \
                 hosts; {events} events"
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}
