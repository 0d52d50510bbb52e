//! The report as one HTML file that needs no other.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::{Effort, Outcome, plot};
use crate::file;
use crate::scenario::Scenario;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
    padding:0 1rem;color:#222}h2{margin-top:3rem}table{border-collapse:collapse;font-size:14px}\
    td,th{border:1px solid #ccc;padding:2px 8px;text-align:right}th:first-child{text-align:left}\
    code,pre{font-size:13px;background:#f5f5f5}pre{padding:8px;overflow-x:auto}.weak{color:#666}\
    svg{max-width:100%;height:auto}";

/// Writes the page.
pub fn page(outcomes: &[Outcome], effort: Effort) -> Result<String> {
    let mut text = String::new();
    write_page(&mut text, outcomes, effort)?;
    Ok(text)
}

fn write_page(text: &mut String, outcomes: &[Outcome], effort: Effort) -> Result<()> {
    writeln!(text, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">")?;
    writeln!(text, "<title>clusterd: claim races in the simulator</title>")?;
    writeln!(text, "<style>{STYLE}</style></head><body>")?;
    writeln!(text, "<h1>Claim races in the simulator</h1>")?;
    writeln!(
        text,
        "<p>Several hosts share one virtual IP without a leader. Each sees every SYN; who answers \
         is decided by short multicast messages, <em>claims</em>. What can go wrong is a second \
         host that answers, too, or none. Everything here was simulated with the production \
         code of the protocol (version {}), on modelled networks, hosts, kernels and \
         clients. Bars are 95 % confidence intervals over {} runs with seeds from {} on.</p>",
        env!("CARGO_PKG_VERSION"),
        effort.runs,
        effort.seed
    )?;
    for (number, outcome) in outcomes.iter().enumerate() {
        let experiment = &outcome.experiment;
        writeln!(text, "<h2>{}. {}</h2>", number + 1, escaped(experiment.title))?;
        writeln!(text, "<p>{}</p>", escaped(experiment.shows))?;
        let figure = plot::draw(outcome).with_context(|| format!("draw {}", experiment.title))?;
        writeln!(text, "{figure}")?;
        writeln!(
            text,
            "<p class=\"weak\">Where the model is weak: {}</p>",
            escaped(experiment.weak)
        )?;
        table(text, outcome)?;
        writeln!(
            text,
            "<details><summary>Commands</summary><p>The first point of each curve; the \
             others change what the first axis shows.</p><pre>"
        )?;
        for series in &outcome.series {
            writeln!(text, "{}", escaped(&series.command))?;
        }
        writeln!(text, "</pre></details>")?;
    }
    writeln!(text, "<h2>Parameters</h2><p>Unless a command says otherwise:</p>")?;
    writeln!(text, "<pre>{}</pre></body></html>", escaped(&file::write(&Scenario::default())))?;
    Ok(())
}

fn table(text: &mut String, outcome: &Outcome) -> Result<()> {
    let (x, y) = (outcome.experiment.x, outcome.experiment.y);
    writeln!(text, "<details><summary>{}</summary><table>", escaped(y.label))?;
    for series in &outcome.series {
        write!(text, "<tr><th>{}</th>", escaped(&series.name))?;
        for point in &series.points {
            let (mean, x_value) = (point.y.mean, point.x);
            let interval = point.y.interval_95;
            let half = interval.map_or(String::new(), |(_, to)| format!(" ± {:.3}", to - mean));
            write!(text, "<td title=\"{} {x_value}\">{mean:.3}{half}</td>", escaped(x.label))?;
        }
        writeln!(text, "</tr>")?;
    }
    writeln!(text, "</table></details>")?;
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
