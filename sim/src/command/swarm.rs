//! `clusterd-sim swarm`: scenarios drawn from seeds, invariants after every event.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clusterd_sim::diagram::{Diagram, text};
use clusterd_sim::scenario::Scenario;
use clusterd_sim::swarm::{self, Totals, Trial};
use clusterd_sim::{checker, file, judge, replication};
use rayon::prelude::*;

use super::{CommandLine, VIOLATED, progress_bar, say};

/// Options of `swarm`.
#[derive(Debug, clap::Args)]
pub struct SwarmArgs {
    /// How many seeds are tried
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Sets a parameter of every scenario drawn, as an ablation does
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Demands I1 and I2 whatever the guard
    #[arg(long)]
    regardless: bool,
    /// Draws no further seeds after so long
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    time: Option<Duration>,
    /// Prints the scenario that is drawn from the first seed, for `run`, `explain` and `check`, and tries nothing
    #[arg(long, conflicts_with_all = ["seeds", "time", "jobs", "out", "regardless"])]
    show: bool,
    /// Seeds tried at the same time [default: one for each processor]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "J")]
    jobs: usize,
    /// Where minimal scenarios and diagrams of failures are written
    #[arg(long, default_value = ".", value_name = "DIR")]
    out: PathBuf,
}

/// Seeds between two looks at the clock.
const BLOCK: u64 = 8;

/// Tries all seeds; says what failed and how to repeat it.
pub fn execute(args: &SwarmArgs) -> Result<ExitCode> {
    if args.show {
        let mut drawn = swarm::draw(args.from);
        set(&mut drawn.scenario, &args.set)?;
        say(file::write_changes(&drawn.scenario).trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let begin = Instant::now();
    let pool = replication::threads(args.jobs)?;
    let out = &args.out;
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let mut totals = Totals::default();
    let end = args.from.checked_add(args.seeds);
    let end =
        end.with_context(|| format!("--from {}: there are no {} seeds", args.from, args.seeds))?;
    // What cannot be set cannot be set of any scenario.
    set(&mut swarm::draw(args.from).scenario, &args.set)?;
    let tried = |seed| {
        let mut drawn = swarm::draw(seed);
        set(&mut drawn.scenario, &args.set)?;
        Ok(swarm::try_drawn(seed, drawn, args.regardless))
    };
    let progress = progress_bar(args.seeds as usize, "seeds");
    let mut next = args.from;
    while next < end && args.time.is_none_or(|time| begin.elapsed() < time) {
        let block: Vec<u64> = (next..end.min(next + BLOCK)).collect();
        next += block.len() as u64;
        let trials: Result<Vec<Trial>> =
            pool.install(|| block.into_par_iter().map(tried).collect());
        for trial in &trials? {
            totals.add(trial);
            progress.inc(1);
            progress.suspend(|| report(trial, args))?;
        }
    }
    progress.finish_and_clear();
    say(format_args!("seeds {} to {}", args.from, next - 1))?;
    print_totals(&totals)?;
    Ok(if totals.failed > 0 { ExitCode::from(VIOLATED) } else { ExitCode::SUCCESS })
}

fn set(scenario: &mut Scenario, settings: &[String]) -> Result<()> {
    for setting in settings {
        let (key, value) = setting
            .split_once('=')
            .with_context(|| format!("--set {setting}: wanted KEY=VALUE"))?;
        scenario.set(key, value).map_err(|error| anyhow!("--set {error}"))?;
    }
    // Faults were drawn for as many hosts as were drawn.
    let hosts = scenario.hosts;
    scenario.faults.retain(|fault| fault.hosts().all(|host| host < hosts));
    scenario.check().map_err(|error| anyhow!("--set: {error}"))
}

/// Says what is wrong with a seed, and writes its least scenario.
fn report(trial: &Trial, args: &SwarmArgs) -> Result<()> {
    let out = &args.out;
    let Some(violation) = &trial.judgement.violation else { return Ok(()) };
    let seed = trial.seed;
    say(format_args!("seed {seed} violates {violation}"))?;
    let again = CommandLine::new("swarm").option("--from", seed).option("--seeds", 1);
    let again = args.set.iter().fold(again, |line, setting| line.option("--set", setting));
    let again = again.flag("--regardless", args.regardless);
    say(format_args!("  repeat it: {again}"))?;
    let Some((scenario, how)) = &trial.least else { return Ok(()) };
    let name = format!("swarm-{seed}");
    let path = out.join(format!("{name}.toml"));
    let about = format!(
        "# {how}\n# clusterd-sim check {name}.toml --seed {seed}{}\n\n{}",
        if args.regardless { " --regardless" } else { "" },
        file::write_changes(scenario)
    );
    std::fs::write(&path, about).with_context(|| format!("write {}", path.display()))?;
    say(format_args!("  the least scenario: {how}\n    {}", path.display()))?;
    if let Some(connection) = how.connection {
        let diagram = Diagram::of(scenario, seed, connection, how.at);
        let drawing = text::draw(&diagram);
        let path = out.join(format!("{name}.txt"));
        std::fs::write(&path, &drawing).with_context(|| format!("write {}", path.display()))?;
        say(drawing)?;
    }
    Ok(())
}

fn print_totals(totals: &Totals) -> Result<()> {
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
    say(format_args!(
        "{seeds} seeds, {failed} failed; {connections} connections, {served} served, {answered_twice} answered \
         by two hosts ({answered_twice_healed} after everything was healed); {events} events"
    ))?;
    for (class, times) in classes {
        say(format_args!("  {class:<20} {times:>6}"))?;
    }
    Ok(())
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
            say(format_args!("violates {violation}"))?;
            Ok(ExitCode::from(VIOLATED))
        }
        None => {
            let judge::Judgement { connections, served, answered_twice, events, .. } = judgement;
            say(format_args!(
                "nothing violated: {connections} connections, {served} served, {answered_twice} answered by two \
                 hosts; {events} events"
            ))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
