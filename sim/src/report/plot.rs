//! A figure as SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{Axis, Outcome};

const SIZE: (u32, u32) = (860, 460);
/// Told apart also without colours by most eyes (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(150, 150, 150),
];

/// Where on a linear axis a value lies.
fn place(axis: Axis, value: f64) -> f64 {
    if axis.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value }
}

fn label(axis: Axis, place: f64) -> String {
    let value = if axis.logarithmic { 10f64.powf(place) } else { place };
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e5 || size < 1e-2 => format!("{value:.0e}"),
        size if size >= 10.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

/// Draws the curves of an experiment. On a logarithmic axis what was never seen is drawn at its
/// lower end.
pub fn draw(outcome: &Outcome) -> Result<String> {
    let (x, y) = (outcome.experiment.x, outcome.experiment.y);
    let points = || outcome.series.iter().flat_map(|series| &series.points);
    let seen = |value: f64| !y.logarithmic || value > 0.0;
    let (left, right) = bounds(points().map(|point| place(x, point.x)));
    let highs = points().map(|point| point.y.interval_95.map_or(point.y.mean, |(_, high)| high));
    let means = points().map(|point| point.y.mean);
    let (mut low, mut high) =
        bounds(highs.chain(means).filter(|&value| seen(value)).map(|value| place(y, value)));
    if y.logarithmic {
        (low, high) = (low.floor() - 0.5, high.ceil());
    } else {
        (low, high) = (low.min(0.0), high * 1.05);
    }
    let mut text = String::new();
    {
        let failed = |error: DrawingAreaErrorKind<_>| anyhow!("draw a figure: {error}");
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(left..right, low..high)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc(x.label)
            .y_desc(y.label)
            .x_label_formatter(&|place| label(x, *place))
            .y_label_formatter(&|place| label(y, *place))
            .draw()
            .map_err(failed)?;
        for (series, &colour) in outcome.series.iter().zip(COLOURS.iter().cycle()) {
            let at = |value: f64| if seen(value) { place(y, value) } else { low };
            let curve = series.points.iter().map(|point| (place(x, point.x), at(point.y.mean)));
            chart
                .draw_series(LineSeries::new(curve.clone(), colour.stroke_width(2)))
                .map_err(failed)?
                .label(series.name.clone())
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
            chart
                .draw_series(curve.map(|point| Circle::new(point, 3, colour.filled())))
                .map_err(failed)?;
            let bars = series.points.iter().filter_map(|point| {
                let (from, to) = point.y.interval_95?;
                let x = place(x, point.x);
                Some(PathElement::new([(x, at(from)), (x, at(to))], colour.mix(0.6)))
            });
            chart.draw_series(bars).map_err(failed)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    match low < high {
        true => (low, high),
        // One value, or none.
        false if low.is_finite() => (low - 0.5, low + 0.5),
        false => (0.0, 1.0),
    }
}
