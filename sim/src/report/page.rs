//! The report as one HTML file that needs no other.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::experiment::{Curve, Effort, Experiment, Finding, Quantity};
use super::outcome::{Outcome, Point};
use super::ticks::digits;
use super::{chart, csv_link, lab, texts};
use crate::scenario::{PARAMETERS, Scenario};
use crate::validation::Comparison;

/// Writes the page.
pub fn page(
    outcomes: &[Outcome],
    comparisons: &[Comparison],
    effort: Effort,
    command: &str,
) -> Result<String> {
    let mut text = String::new();
    let page = &mut text;
    write!(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")?;
    writeln!(page, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(page, "<title>clusterd: claim races in the simulator</title>")?;
    writeln!(page, "<style>{}</style>\n</head>\n<body>", texts::STYLE)?;
    writeln!(page, "<h1>Claim races in the simulator</h1>")?;
    writeln!(page, "{}", texts::INTRODUCTION)?;
    how_to_read(page, effort, command)?;
    contents(page, outcomes)?;
    for (index, outcome) in outcomes.iter().enumerate() {
        section(page, index + 1, outcome, effort)
            .with_context(|| format!("write about `{}`", outcome.experiment.title))?;
    }
    writeln!(page, "<h2 id=\"trust\">How far to trust this</h2>\n{}", texts::TRUST)?;
    lab::write(page, comparisons)?;
    parameters(page)?;
    writeln!(page, "</body>\n</html>")?;
    Ok(text)
}

fn how_to_read(page: &mut String, effort: Effort, command: &str) -> Result<()> {
    let Effort { share, runs, seed } = effort;
    writeln!(page, "<h2 id=\"read\">How to read this page</h2>\n{}", texts::READING)?;
    writeln!(
        page,
        "<p>Each scenario was run {runs} times, with seeds from {seed} on. Intervals (±, and bars in \
         figures) are 95 % confidence intervals of Student's t over these runs{}. This page was written by</p>",
        if runs == 1 { "; one run has none" } else { "" }
    )?;
    writeln!(page, "<pre>{}</pre>", escaped(command))?;
    if share < 1.0 {
        writeln!(
            page,
            "<p class=\"no\"><strong>This is a short form of the report ({} % of the usual length): what is \
             rare is not seen in it, and figures are rough.</strong></p>",
            digits(share * 100.0, 3)
        )?;
    }
    Ok(())
}

fn contents(page: &mut String, outcomes: &[Outcome]) -> Result<()> {
    writeln!(page, "<h2 id=\"contents\">Experiments</h2>\n<ol>")?;
    for Outcome { experiment, .. } in outcomes {
        writeln!(
            page,
            "<li><a href=\"#{}\">{}</a></li>",
            experiment.id,
            escaped(experiment.title)
        )?;
    }
    writeln!(page, "</ol>\n<p>Then: <a href=\"#trust\">how far to trust this</a>, and ")?;
    writeln!(page, "<a href=\"#parameters\">all parameters</a>.</p>")?;
    Ok(())
}

fn section(page: &mut String, index: usize, outcome: &Outcome, effort: Effort) -> Result<()> {
    let experiment = &outcome.experiment;
    let Experiment { id, title, about, weak, .. } = experiment;
    writeln!(page, "<section>\n<h2 id=\"{id}\">{index}. {}</h2>", escaped(title))?;
    paragraphs(page, about)?;
    writeln!(page, "<h3>What this run shows</h3>\n<ul class=\"findings\">")?;
    for finding in (experiment.findings)(outcome) {
        write_finding(page, &finding, effort)?;
    }
    writeln!(page, "</ul>")?;
    for (figure, it) in experiment.charts.iter().enumerate() {
        let svg = chart::draw(outcome, it)?;
        // The tags of a figure inside a page: what it is for those who cannot see it.
        let svg = svg.replacen("<svg ", "<svg role=\"img\" ", 1);
        writeln!(page, "<figure>\n{svg}")?;
        let caption = escaped(it.caption);
        writeln!(
            page,
            "<figcaption>Figure {index}.{}. {caption}</figcaption>\n</figure>",
            figure + 1
        )?;
    }
    writeln!(page, "<h3>Where the model is weak</h3>")?;
    paragraphs(page, weak)?;
    writeln!(page, "<h3>Numbers</h3>")?;
    if experiment.along.is_some() {
        experiment.tables.iter().try_for_each(|quantity| across(page, outcome, quantity))?;
    } else {
        beside(page, outcome)?;
    }
    links(page, outcome)?;
    commands(page, experiment, effort)?;
    writeln!(page, "</section>")?;
    Ok(())
}

fn write_finding(page: &mut String, finding: &Finding, effort: Effort) -> Result<()> {
    let Finding { statement, holds, evidence } = finding;
    let (class, word) = match holds {
        Some(true) => ("yes", "Seen."),
        Some(false) if effort.share < 1.0 => ("no", "Not seen in this short form."),
        Some(false) => ("no", "Not so."),
        None => ("unknown", "This run does not tell."),
    };
    let (statement, evidence) = (escaped(statement), escaped(evidence));
    write!(page, "<li class=\"{class}\">{statement} <strong>{word}</strong>")?;
    writeln!(page, " <span class=\"evidence\">{evidence}</span></li>")?;
    Ok(())
}

fn paragraphs(page: &mut String, text: &str) -> Result<()> {
    for paragraph in text.split("\n\n") {
        writeln!(page, "<p>{}</p>", escaped(paragraph))?;
    }
    Ok(())
}

/// A table of one quantity: what changes along curves goes down, curves go across.
fn across(page: &mut String, outcome: &Outcome, quantity: &Quantity) -> Result<()> {
    let Outcome { experiment, curves } = outcome;
    let mut values: Vec<(f64, &str)> = Vec::new();
    for point in curves.iter().flatten() {
        let (Some(x), Some(value)) = (point.x, &point.value) else { continue };
        if !values.iter().any(|(other, _)| *other == x) {
            values.push((x, value));
        }
    }
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let label = experiment.along.map_or("", |along| along.label);
    writeln!(page, "<table>\n<caption>{}</caption>", escaped(quantity.label))?;
    write!(page, "<tr><th scope=\"col\">{}</th>", escaped(label))?;
    for curve in &experiment.curves {
        write!(page, "<th scope=\"col\">{}</th>", escaped(&curve.name))?;
    }
    writeln!(page, "</tr>")?;
    for (x, _) in values {
        write!(page, "<tr><th scope=\"row\">{}</th>", digits(x, 6))?;
        for points in curves {
            let point = points.iter().find(|point| point.x == Some(x));
            let cell = point.map_or_else(String::new, |point| estimate(point, quantity));
            write!(page, "<td>{cell}</td>")?;
        }
        writeln!(page, "</tr>")?;
    }
    writeln!(page, "</table>")?;
    Ok(())
}

/// A table of all quantities, one row for each scenario.
fn beside(page: &mut String, outcome: &Outcome) -> Result<()> {
    let Outcome { experiment, curves } = outcome;
    write!(page, "<table>\n<tr><th scope=\"col\">scenario</th>")?;
    for quantity in &experiment.tables {
        write!(page, "<th scope=\"col\">{}</th>", escaped(quantity.label))?;
    }
    writeln!(page, "</tr>")?;
    for (curve, points) in experiment.curves.iter().zip(curves) {
        for point in points {
            let value = point.value.as_ref().map_or_else(String::new, |value| format!(", {value}"));
            write!(page, "<tr><th scope=\"row\">{}{}</th>", escaped(&curve.name), escaped(&value))?;
            for quantity in &experiment.tables {
                write!(page, "<td>{}</td>", estimate(point, quantity))?;
            }
            writeln!(page, "</tr>")?;
        }
    }
    writeln!(page, "</table>")?;
    Ok(())
}

/// A mean with its interval, or what it is below.
fn estimate(point: &Point, quantity: &Quantity) -> String {
    if let Some(bound) = point.bound(quantity) {
        return format!("0 (&lt; {})", digits(bound, 1));
    }
    match point.estimate(quantity) {
        None => "–".to_owned(),
        Some(estimate) => {
            let mean = estimate.mean;
            let half = estimate.interval_95.map(|(_, high)| high - mean);
            let half = half.filter(|half| *half > 0.0).map(|half| {
                // Two digits of what is not sure are enough.
                format!(" ± {}", digits(half, 2))
            });
            digits(mean, 4) + &half.unwrap_or_default()
        }
    }
}

fn links(page: &mut String, outcome: &Outcome) -> Result<()> {
    let experiment = &outcome.experiment;
    let mut tables = vec![("runs", csv_link::runs(outcome)?)];
    if experiment.needs_intervals() {
        tables.push(("timeseries", csv_link::intervals(outcome)?));
    }
    if experiment.needs_times() {
        tables.push(("distribution", csv_link::distributions(outcome)?));
    }
    write!(page, "<p>As CSV:")?;
    for (name, table) in tables {
        let file = format!("{}-{name}.csv", experiment.id);
        let address = csv_link::address(&table);
        write!(page, " <a download=\"{file}\" href=\"{address}\">{file}</a>")?;
    }
    writeln!(page, "</p>")?;
    Ok(())
}

fn commands(page: &mut String, experiment: &Experiment, effort: Effort) -> Result<()> {
    writeln!(page, "<h3>Parameters and commands</h3>")?;
    write!(page, "<table class=\"left\">\n<tr><th scope=\"col\">curve</th>")?;
    writeln!(
        page,
        "<th scope=\"col\">what differs from the defaults</th><th scope=\"col\">and changes</th></tr>"
    )?;
    for curve in &experiment.curves {
        let Curve { name, over, .. } = curve;
        let over =
            over.as_ref().map_or_else(String::new, |over| over.to_string().replace(',', ", "));
        let (name, differences) = (escaped(name), escaped(&curve.differences()));
        writeln!(
            page,
            "<tr><th scope=\"row\">{name}</th><td>{differences}</td><td>{}</td></tr>",
            escaped(&over)
        )?;
    }
    writeln!(page, "</table>\n<p>{}</p>\n<pre class=\"commands\">", texts::COMMANDS)?;
    for (index, curve) in experiment.curves.iter().enumerate() {
        writeln!(page, "{}", escaped(&curve.command(effort, &experiment.directory(index))))?;
    }
    writeln!(page, "</pre>")?;
    Ok(())
}

fn parameters(page: &mut String) -> Result<()> {
    let defaults = Scenario::default();
    writeln!(page, "<h2 id=\"parameters\">All parameters and their defaults</h2>")?;
    writeln!(page, "<table class=\"left\">\n<tr><th scope=\"col\">parameter</th>")?;
    writeln!(page, "<th scope=\"col\">default</th><th scope=\"col\">meaning</th></tr>")?;
    for parameter in PARAMETERS {
        let default = escaped(&(parameter.show)(&defaults));
        let (key, help) = (parameter.key, escaped(parameter.help));
        writeln!(page, "<tr><th scope=\"row\">{key}</th><td>{default}</td><td>{help}</td></tr>")?;
    }
    writeln!(page, "</table>")?;
    Ok(())
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
