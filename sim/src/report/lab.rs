//! The part of the page that compares the simulator with a lab.

use std::fmt::Write as _;

use anyhow::Result;

use super::page::escaped;
use super::texts;
use super::ticks::digits;
use crate::validation::{Band, Comparison, Row};

/// Digits of a number in the table.
const DIGITS: usize = 4;

/// Writes all comparisons, or that there is none.
pub fn write(page: &mut String, comparisons: &[Comparison]) -> Result<()> {
    writeln!(page, "<h3 id=\"lab\">Compared with real kernels</h3>")?;
    if comparisons.is_empty() {
        writeln!(page, "{}", texts::NO_LAB)?;
        return Ok(());
    }
    writeln!(page, "{}", texts::LAB)?;
    comparisons.iter().try_for_each(|comparison| table(page, comparison))
}

fn table(page: &mut String, comparison: &Comparison) -> Result<()> {
    let Comparison { command, kernel, processors, connections, first_seed, runs, rows, within } =
        comparison;
    writeln!(
        page,
        "<table>\n<caption><code>{}</code>: {connections} connections on Linux {}, all on {processors} \
         processors; {runs} runs of the simulator, seeds from {first_seed} on. {}</caption>",
        escaped(command),
        escaped(kernel),
        if *within { "All within their bands." } else { "Not all within their bands." }
    )?;
    let head = ["figure", "lab", "simulator", "difference", "band", "within"];
    let head = head.map(|word| format!("<th scope=\"col\">{word}</th>"));
    writeln!(page, "<tr>{}</tr>", head.concat())?;
    for Row { figure, lab, simulator, interval_95, difference, band, within } in rows {
        let Band { relative, absolute } = band;
        let allowed = absolute.max(relative * lab.abs());
        let interval = interval_95
            .map_or(String::new(), |(low, high)| format!(" ±{}", digits((high - low) / 2.0, 2)));
        let cells = [
            digits(*lab, DIGITS),
            digits(*simulator, DIGITS) + &interval,
            digits(*difference, DIGITS),
            format!("±{}", digits(allowed, 2)),
            if *within { "yes" } else { "no" }.to_owned(),
        ];
        let cells = cells.map(|cell| format!("<td>{cell}</td>"));
        writeln!(page, "<tr><th scope=\"row\">{}</th>{}</tr>", escaped(figure), cells.concat())?;
    }
    writeln!(page, "</table>")?;
    Ok(())
}
