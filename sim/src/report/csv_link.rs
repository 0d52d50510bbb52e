//! Tables for machines, inside the page: links whose address is the file.

use anyhow::{Context, Result};

use super::experiment::column;
use super::outcome::Outcome;
use crate::output::figure_cells;
use crate::result::{IntervalRow, Row, cell};
use crate::summary::FIGURES;

/// One row for each run: curve, parameter, run, seed and all figures.
pub fn runs(outcome: &Outcome) -> Result<String> {
    let mut table = Table::default();
    let mut columns = vec!["curve".to_owned(), "parameter".to_owned(), "value".to_owned()];
    columns.extend(["run", "seed"].map(str::to_owned));
    columns.extend(FIGURES.iter().map(|figure| figure.name.to_owned()));
    table.add(columns)?;
    for (curve, points) in outcome.experiment.curves.iter().zip(&outcome.curves) {
        let parameter = curve.over.as_ref().map(column).transpose()?;
        for point in points {
            let number = point.over_number(curve.over.as_ref());
            let value =
                number.map_or_else(|| point.value.clone(), |number| Some(number.to_string()));
            for (number, run) in point.runs.iter().enumerate() {
                let mut cells = vec![
                    curve.name.clone(),
                    parameter.clone().unwrap_or_default(),
                    value.clone().unwrap_or_default(),
                    number.to_string(),
                    run.seed.to_string(),
                ];
                cells.extend(figure_cells(run));
                table.add(cells)?;
            }
        }
    }
    table.finish()
}

/// One row for each 100 ms of each run.
pub fn intervals(outcome: &Outcome) -> Result<String> {
    let mut table = Table::default();
    let mut columns = ["curve", "run", "seed"].map(str::to_owned).to_vec();
    columns.extend(IntervalRow::COLUMNS.iter().map(|&column| column.to_owned()));
    table.add(columns)?;
    for (curve, points) in outcome.experiment.curves.iter().zip(&outcome.curves) {
        for point in points {
            for (number, (run, rows)) in point.runs.iter().zip(&point.intervals).enumerate() {
                for row in rows {
                    let mut cells =
                        vec![curve.name.clone(), number.to_string(), run.seed.to_string()];
                    cells.extend(row.cells());
                    table.add(cells)?;
                }
            }
        }
    }
    table.finish()
}

/// The distributions as they are drawn.
pub fn distributions(outcome: &Outcome) -> Result<String> {
    let mut table = Table::default();
    table.add(["curve", "connect_us", "percent"].map(str::to_owned).to_vec())?;
    for (curve, points) in outcome.experiment.curves.iter().zip(&outcome.curves) {
        for mark in points.iter().flat_map(super::chart::distribution).flatten() {
            table.add(vec![curve.name.clone(), cell(Some(mark.x)), cell(Some(mark.y))])?;
        }
    }
    table.finish()
}

/// The address of a table: the table itself (RFC 2397).
pub fn address(table: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~,;:/=+".contains(&byte);
    let mut address = "data:text/csv;charset=utf-8,".to_owned();
    for byte in table.bytes() {
        match plain(byte) {
            true => address.push(char::from(byte)),
            false => address += &format!("%{byte:02X}"),
        }
    }
    address
}

struct Table(csv::Writer<Vec<u8>>);

impl Default for Table {
    fn default() -> Self {
        Self(csv::Writer::from_writer(Vec::new()))
    }
}

impl Table {
    fn add(&mut self, cells: Vec<String>) -> Result<()> {
        self.0.write_record(&cells).context("write a row of the report")
    }

    fn finish(self) -> Result<String> {
        let bytes = self.0.into_inner().context("write a table of the report")?;
        String::from_utf8(bytes).context("write a table of the report")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_no_character_that_ends_it() {
        assert_eq!(
            address("a b,\"1%\"\n<&"),
            "data:text/csv;charset=utf-8,a%20b,%221%25%22%0A%3C%26"
        );
    }
}
