//! Medians, ratios and what was wanted: as JSON, or as a page for people.

use std::fmt;

use serde::Serialize;

use super::contender::Contender;
use super::{BenchArgs, CONCURRENCY, Counts, Sample, Series};
use crate::io::rules::Guard;

/// The number of hosts most targets are about.
const TARGET_HOSTS: usize = 3;

/// All figures of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    cpus: usize,
    /// Processes that wanted a CPU in the minute before the run, and in its last one.
    load_average: [f64; 2],
    figures: Vec<Figures>,
    wanted: Vec<Wanted>,
    command: String,
}

/// Medians over the rounds.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    hosts: usize,
    contender: &'static str,
    one_p50_us: f64,
    one_p99_us: f64,
    many_p50_us: f64,
    many_p99_us: f64,
    connections_per_second: f64,
    megabytes_per_second: f64,
    /// CPU time of all deciders per connection; 0 where nothing decides.
    decider_cpu_us: f64,
    /// Each within a round, then the median.
    ratios: Ratios,
    failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
    /// Resident memory of an idle daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_mib: Option<f64>,
}

/// Throughput as a multiple of plain, all else as multiples of the floor.
#[derive(Clone, Debug, Serialize)]
struct Ratios {
    one_p50: f64,
    one_p99: f64,
    many_p50: f64,
    many_p99: f64,
    rate: f64,
    throughput: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    decider_cpu: Option<f64>,
}

/// A figure that has a target.
#[derive(Clone, Debug, Serialize)]
struct Wanted {
    what: String,
    contender: &'static str,
    value: f64,
    target: String,
    met: bool,
}

impl Summary {
    /// Condenses what was measured.
    pub fn new(args: &BenchArgs, series: &[Series], load_average: [f64; 2]) -> Self {
        let figures: Vec<_> = series.iter().flat_map(condense).collect();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            load_average,
            wanted: figures.iter().flat_map(wanted).collect(),
            figures,
            command: args.command_line(),
        }
    }

    /// Whether every connection was answered.
    pub fn is_clean(&self) -> bool {
        self.figures.iter().all(|figures| figures.failed == 0)
    }
}

fn condense(series: &Series) -> Vec<Figures> {
    let of = |contender| {
        let index = Contender::ALL.iter().position(|&other| other == contender);
        &series.samples[index.expect("each contender was measured")]
    };
    let (plain, floor) = (of(Contender::Plain), of(Contender::Floor));
    let figures = |(index, contender): (usize, &Contender)| {
        let samples = &series.samples[index];
        let over = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
        let ratio = |to: &[Sample], value: fn(&Sample) -> f64| {
            median(samples.iter().zip(to).map(|(sample, to)| value(sample) / value(to)))
        };
        Figures {
            hosts: series.hosts,
            contender: contender.name(),
            one_p50_us: over(one_p50),
            one_p99_us: over(one_p99),
            many_p50_us: over(many_p50),
            many_p99_us: over(many_p99),
            connections_per_second: over(rate).round(),
            megabytes_per_second: (over(throughput) / 1e6).round(),
            decider_cpu_us: over(cpu_us),
            ratios: Ratios {
                one_p50: ratio(floor, one_p50),
                one_p99: ratio(floor, one_p99),
                many_p50: ratio(floor, many_p50),
                many_p99: ratio(floor, many_p99),
                rate: ratio(floor, rate),
                throughput: ratio(plain, throughput),
                decider_cpu: samples[0].cpu.map(|_| ratio(floor, cpu_us)),
            },
            failed: samples.iter().map(|sample| sample.failed).sum(),
            counts: series.counts[index].clone(),
            resident_mib: series.resident[index].map(|bytes| bytes as f64 / f64::from(1 << 20)),
        }
    };
    Contender::ALL.iter().enumerate().map(figures).collect()
}

fn one_p50(sample: &Sample) -> f64 {
    sample.one.connect_p50_us.unwrap_or(f64::NAN)
}

fn one_p99(sample: &Sample) -> f64 {
    sample.one.connect_p99_us.unwrap_or(f64::NAN)
}

fn many_p50(sample: &Sample) -> f64 {
    sample.many.connect_p50_us.unwrap_or(f64::NAN)
}

fn many_p99(sample: &Sample) -> f64 {
    sample.many.connect_p99_us.unwrap_or(f64::NAN)
}

fn rate(sample: &Sample) -> f64 {
    sample.rate
}

fn cpu_us(sample: &Sample) -> f64 {
    sample.cpu.map_or(0.0, |cpu| cpu.as_secs_f64() * 1e6)
}

fn throughput(sample: &Sample) -> f64 {
    sample.throughput
}

/// The middle value, or the mean of the two in the middle; not a number of nothing.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<_> = values.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The targets that apply to these figures.
fn wanted(figures: &Figures) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    if ![Guard::Rst, Guard::Strict]
        .iter()
        .any(|&guard| Contender::Clusterd(guard).name() == figures.contender)
    {
        return wanted;
    }
    let Figures { hosts, ratios, .. } = figures;
    let mut want = |what: &str, value: f64, at_most: bool, bound: f64, unit: &str| {
        let (sign, met) = if at_most { ("<=", value <= bound) } else { (">=", value >= bound) };
        let hosts = if *hosts == 1 { "1 host".to_owned() } else { format!("{hosts} hosts") };
        wanted.push(Wanted {
            what: format!("{what}, {hosts}"),
            contender: figures.contender,
            value,
            target: format!("{sign} {bound}{unit}"),
            met,
        });
    };
    if *hosts == 1 {
        want("connections per second", ratios.rate, false, 0.9, " x floor");
    }
    if *hosts != TARGET_HOSTS {
        return wanted;
    }
    want("connect p50, one at a time", ratios.one_p50, true, 1.3, " x floor");
    want("connect p99, one at a time", ratios.one_p99, true, 2.0, " x floor");
    want("throughput", ratios.throughput, false, 0.98, " x plain");
    if let Some(counts) = &figures.counts {
        want("claims per connection", counts.claims_per_connection, true, 1.05, "");
        want("second SYN-ACKs", counts.second_syn_ack_percent, true, 0.5, " %");
        let even = 100.0 / *hosts as f64;
        let off = counts.share_percent.iter().map(|share| (share / even - 1.0).abs() * 100.0);
        want("share of a host off an even one", off.fold(0.0, f64::max), true, 10.0, " %");
    }
    if let Some(mib) = figures.resident_mib {
        want("resident memory of an idle daemon", mib, true, 20.0, " MiB");
    }
    wanted
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = self.load_average;
        writeln!(
            f,
            "{} CPUs; load average {before:.2} before the run, {after:.2} at its end\n\
             In brackets: times and rate as multiples of the floor (a reader that accepts every \
             queued SYN),\nthroughput as a multiple of plain (the kernel alone; of several hosts \
             only the first answers).\n\
             Decider CPU: time of all daemons or readers together per connection, 64 at a time.",
            self.cpus
        )?;
        for group in self.figures.chunk_by(|a, b| a.hosts == b.hosts) {
            fmt_group(f, group)?;
        }
        writeln!(
            f,
            "\nclusterd           claims  second SYN-ACKs  SYNs again  share of each host"
        )?;
        for figures in &self.figures {
            let Some(counts) = &figures.counts else { continue };
            let Counts { claims_per_connection: claims, second_syn_ack_percent: second, .. } =
                counts;
            let again = counts.syn_retransmissions;
            let shares: Vec<_> =
                counts.share_percent.iter().map(|share| format!("{share:.1}")).collect();
            write!(
                f,
                "{} x {:15} {claims:>5.3} {second:>14.3} % {again:>11}  {} %",
                figures.hosts,
                figures.contender,
                shares.join(" ")
            )?;
            match counts.frames_lost {
                0 => writeln!(f)?,
                lost => writeln!(f, "; the capture lost {lost} frames: too low")?,
            }
        }
        writeln!(f, "\nwanted")?;
        for Wanted { what, contender, value, target, met } in &self.wanted {
            let met = if *met { "met" } else { "NOT met" };
            writeln!(f, "{contender:16} {what:43} {value:>7.3}  {target:14} {met}")?;
        }
        writeln!(f, "\nrepeat with: {}", self.command)
    }
}

fn fmt_group(f: &mut fmt::Formatter<'_>, group: &[Figures]) -> fmt::Result {
    let hosts = group[0].hosts;
    let plural = if hosts == 1 { "host " } else { "hosts" };
    let singles = "connect, one at a time";
    let many = format!("connect, {CONCURRENCY} at a time");
    writeln!(f, "\n{hosts:2} {plural}         {singles:27} {many}")?;
    write!(f, "{:17}", "contender")?;
    for column in ["p50 us", "p99 us", "p50 us", "p99 us", "conn/s", "MB/s"] {
        write!(f, " {column:>8}    ")?;
    }
    writeln!(f, " decider CPU us")?;
    for figures in group {
        let Figures { contender, ratios, .. } = figures;
        write!(f, "{contender:17}")?;
        for (value, ratio) in [
            (figures.one_p50_us, ratios.one_p50),
            (figures.one_p99_us, ratios.one_p99),
            (figures.many_p50_us, ratios.many_p50),
            (figures.many_p99_us, ratios.many_p99),
            (figures.connections_per_second, ratios.rate),
            (figures.megabytes_per_second, ratios.throughput),
        ] {
            write!(f, " {value:>5.0} ({ratio:4.2})")?;
        }
        if let Some(ratio) = ratios.decider_cpu {
            write!(f, " {:>5.0} ({ratio:4.2})", figures.decider_cpu_us)?;
        }
        match figures.failed {
            0 => writeln!(f)?,
            failed => writeln!(f, "  {failed} connections FAILED")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median(std::iter::empty()).is_nan());
    }
}
