//! Figures as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use super::ticks::{self, Scale};

const WIDTH: u32 = 900;
const HEIGHT: u32 = 430;
/// Room for the names of curves, right of the figure.
const LEGEND: u32 = 240;
const LINE: i32 = 22;
/// Told apart also without colours by most eyes (Okabe and Ito).
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(190, 140, 0),
    RGBColor(0, 0, 0),
    RGBColor(140, 140, 140),
    RGBColor(110, 60, 20),
    RGBColor(120, 0, 120),
];

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with its unit.
    pub label: String,
    /// How values lie on it.
    pub scale: Scale,
}

/// A value that is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    /// Where.
    pub x: f64,
    /// The value; an upper bound if nothing was seen.
    pub y: f64,
    /// Its confidence interval.
    pub interval: Option<(f64, f64)>,
    /// Nothing was seen.
    pub bound: bool,
}

/// A line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its values, in order; where there is none, the line has a gap.
    pub marks: Vec<Option<Mark>>,
}

/// A figure of lines.
#[derive(Clone, Debug)]
pub struct Lines {
    /// To the right.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// All lines, in the order of the legend.
    pub lines: Vec<Line>,
    /// Values are marked, as they are few.
    pub marked: bool,
    /// What happens at some places of the first axis.
    pub events: Vec<(f64, String)>,
}

/// A figure of bars.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What their length shows.
    pub label: String,
    /// The names of the parts of each bar.
    pub parts: Vec<String>,
    /// The name of each bar, and how long its parts are.
    pub rows: Vec<(String, Vec<f64>)>,
}

/// An axis with marks where they are wanted.
struct Places {
    from: f64,
    to: f64,
    marks: Vec<f64>,
}

impl Ranged for Places {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (first, last): (i32, i32)) -> i32 {
        let part = (place - self.from) / (self.to - self.from);
        first + (f64::from(last - first) * part).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

type Coordinates = Cartesian2d<Places, Places>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Coordinates>;

fn failed<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("draw a figure: {error}")
}

/// Draws lines. What cannot be drawn on a logarithmic axis, 0, is drawn at its lower end.
pub fn lines(figure: &Lines) -> Result<String> {
    let Lines { x, y, lines, marked, events } = figure;
    let marks = || lines.iter().flat_map(|line| line.marks.iter().flatten());
    let (left, right) = bounds(marks().map(|mark| mark.x), x.scale);
    let seen = marks().flat_map(|mark| {
        let high = mark.interval.map_or(mark.y, |(_, high)| high);
        [mark.y, high]
    });
    let (mut low, mut high) = bounds(seen.filter(|&value| y.scale.shows(value)), y.scale);
    match y.scale {
        Scale::Linear => (low, high) = (low.min(0.0), high + (high - low.min(0.0)) * 0.04),
        Scale::Logarithmic => (low, high) = (low - 0.15, high + 0.1),
    }
    let margin = (right - left) * 0.015;
    let (left, right) = (left - margin, right + margin);
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
        let (plot, legend) = area.split_horizontally(WIDTH - LEGEND);
        let axis = |scale, from, to| Places { from, to, marks: ticks::ticks(scale, from, to) };
        let mut chart: Chart = ChartBuilder::on(&plot)
            .margin(14)
            .margin_top(26)
            .x_label_area_size(42)
            .y_label_area_size(72)
            .build_cartesian_2d(axis(x.scale, left, right), axis(y.scale, low, high))
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc(&x.label)
            .y_desc(&y.label)
            .x_label_formatter(&|place| ticks::label(x.scale.value(*place)))
            .y_label_formatter(&|place| ticks::label(y.scale.value(*place)))
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .axis_desc_style(("sans-serif", 15))
            .label_style(("sans-serif", 13))
            .draw()
            .map_err(failed)?;
        for (at, what) in events {
            let place = x.scale.place(*at);
            let line = [(place, low), (place, high)];
            let style = BLACK.mix(0.5).stroke_width(1);
            chart.draw_series([PathElement::new(line, style)]).map_err(failed)?;
            let style = ("sans-serif", 13).into_font().color(&BLACK.mix(0.8));
            let text = EmptyElement::at((place, high)) + Text::new(what.clone(), (-4, -16), style);
            chart.draw_series([text]).map_err(failed)?;
        }
        for (number, line) in lines.iter().enumerate() {
            draw_line(&mut chart, number, line, figure, low, *marked)?;
        }
        let names = lines.iter().map(|line| line.name.as_str());
        for (number, name) in names.enumerate() {
            let at = (4, 24 + LINE * number as i32);
            let end = (30, at.1);
            let colour = COLOURS[number % COLOURS.len()];
            let stroke = PathElement::new([at, end], colour.stroke_width(2));
            legend.draw(&stroke).map_err(failed)?;
            if *marked {
                let symbol = EmptyElement::at(((at.0 + end.0) / 2, at.1))
                    + Polygon::new(symbol(number), colour.filled());
                legend.draw(&symbol).map_err(failed)?;
            }
            let style = ("sans-serif", 14).into_font().color(&BLACK);
            legend.draw(&Text::new(name.to_owned(), (36, at.1 - 7), style)).map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(text)
}

fn draw_line(
    chart: &mut Chart,
    number: usize,
    line: &Line,
    figure: &Lines,
    low: f64,
    marked: bool,
) -> Result<()> {
    let Lines { x, y, .. } = figure;
    let colour = COLOURS[number % COLOURS.len()];
    let height = |value: f64| if y.scale.shows(value) { y.scale.place(value) } else { low };
    let place = |mark: &Mark| (x.scale.place(mark.x), height(mark.y));
    // Where nothing was seen, the line would only show how much was simulated.
    let ends = |mark: &Option<Mark>| mark.is_none_or(|mark| mark.bound);
    for part in line.marks.split(ends) {
        let path: Vec<_> = part.iter().flatten().map(place).collect();
        chart.draw_series([PathElement::new(path, colour.stroke_width(2))]).map_err(failed)?;
    }
    if !marked {
        return Ok(());
    }
    for mark in line.marks.iter().flatten() {
        let at = place(mark);
        if let Some((from, to)) = mark.interval {
            let bar = [(at.0, height(from.max(0.0)).max(low)), (at.0, height(to))];
            chart.draw_series([PathElement::new(bar, colour.mix(0.6))]).map_err(failed)?;
        }
        if mark.bound {
            let down = EmptyElement::at(at)
                + Polygon::new(vec![(-5, -4), (5, -4), (0, 5)], WHITE.filled())
                + PathElement::new(vec![(-5, -4), (5, -4), (0, 5), (-5, -4)], colour);
            chart.draw_series([down]).map_err(failed)?;
        } else {
            let symbol = EmptyElement::at(at) + Polygon::new(symbol(number), colour.filled());
            chart.draw_series([symbol]).map_err(failed)?;
        }
    }
    Ok(())
}

/// The mark of a curve around its place: shapes differ where colours cannot be seen.
fn symbol(number: usize) -> Vec<(i32, i32)> {
    match number % 4 {
        0 => vec![(-2, -4), (2, -4), (4, -2), (4, 2), (2, 4), (-2, 4), (-4, 2), (-4, -2)],
        1 => vec![(-4, -4), (4, -4), (4, 4), (-4, 4)],
        2 => vec![(0, -5), (5, 4), (-5, 4)],
        _ => vec![(0, -6), (5, 0), (0, 6), (-5, 0)],
    }
}

/// Draws bars of several parts.
pub fn bars(figure: &Bars) -> Result<String> {
    const ROW: i32 = 30;
    const NAMES: i32 = 330;
    const LENGTH: i32 = 420;
    let Bars { label, parts, rows } = figure;
    let height = 70 + ROW * rows.len() as i32;
    let longest = rows.iter().map(|(_, parts)| parts.iter().sum::<f64>()).fold(0.0, f64::max);
    let scale = f64::from(LENGTH) / if longest > 0.0 { longest } else { 1.0 };
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height as u32)).into_drawing_area();
        let style = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
        let mut left = NAMES;
        for (part, name) in parts.iter().enumerate() {
            let square = [(left, 8), (left + 14, 22)];
            let colour = COLOURS[part % COLOURS.len()];
            area.draw(&Rectangle::new(square, colour.filled())).map_err(failed)?;
            area.draw(&Text::new(name.clone(), (left + 20, 8), style(14))).map_err(failed)?;
            left += 50 + 7 * name.chars().count() as i32;
        }
        for (number, (name, values)) in rows.iter().enumerate() {
            let top = 34 + ROW * number as i32;
            area.draw(&Text::new(name.clone(), (8, top + 4), style(14))).map_err(failed)?;
            let mut from = 0.0;
            for (part, value) in values.iter().enumerate() {
                let at = |length: f64| NAMES + (length * scale).round() as i32;
                let bar = [(at(from), top), (at(from + value), top + ROW - 8)];
                let colour = COLOURS[part % COLOURS.len()];
                area.draw(&Rectangle::new(bar, colour.filled())).map_err(failed)?;
                from += value;
            }
            let whole: Vec<String> =
                values.iter().map(|value| ticks::label((value * 10.0).round() / 10.0)).collect();
            let at = (NAMES + (from * scale) as i32 + 8, top + 4);
            area.draw(&Text::new(whole.join(" / "), at, style(13))).map_err(failed)?;
        }
        let at = (NAMES, 40 + ROW * rows.len() as i32);
        area.draw(&Text::new(label.clone(), at, style(14))).map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

/// The places of the least and the greatest, a little apart if they are one.
fn bounds(values: impl Iterator<Item = f64>, scale: Scale) -> (f64, f64) {
    let places = values.map(|value| scale.place(value));
    let (low, high) = places.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), place| {
        (low.min(place), high.max(place))
    });
    match low < high {
        true => (low, high),
        false if low.is_finite() => (low - 0.5, low + 0.5),
        false => (0.0, 1.0),
    }
}
