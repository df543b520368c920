//! A run as a picture: latency by percentile, results and latency over time.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::Report;
use super::tally::Second;

/// Pixels.
const SIZE: (u32, u32) = (860, 900);

/// Dark enough on white, and told apart by those who see no red.
const BLUE: RGBColor = RGBColor(31, 105, 176);
const ORANGE: RGBColor = RGBColor(214, 110, 14);
const INK: RGBColor = RGBColor(51, 51, 51);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// The axis of percentiles ends here: 99.99 %.
const NINES: f64 = 4.0;

/// Points of the curve.
const POINTS: u32 = 400;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Its name, its colour and its points.
type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);
type Drawn<T> = Result<T, String>;

/// Draws a run.
///
/// # Errors
///
/// When the library cannot.
pub fn svg(report: &Report) -> Result<String, String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let style = font(17).color(&INK).pos(Pos::new(HPos::Left, VPos::Top));
        area.draw_text(&report.title(), &style, (16, 12)).map_err(failed)?;
        let (_, below) = area.split_vertically(36);
        let [first, second, third] = &below.split_evenly((3, 1))[..] else {
            return Err("the picture was not divided".to_owned());
        };
        percentiles(first, report)?;
        rates(second, &report.seconds)?;
        latencies(third, &report.seconds)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

fn percentiles(area: &Area<'_>, report: &Report) -> Drawn<()> {
    let latency = &report.tally.latency;
    let points: Vec<(f64, f64)> = (0..=POINTS)
        .map(|point| NINES * f64::from(point) / f64::from(POINTS))
        .map(|nines| (nines, latency.value_at_quantile(1.0 - 0.1_f64.powf(nines)) as f64 / 1e6))
        .collect();
    let nines = |nines: &f64| match nines.round() as i64 {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        3 => "99.9 %".to_owned(),
        _ => "99.99 %".to_owned(),
    };
    let frame =
        Frame { title: "latency by percentile, ms", x: (0.0, NINES), labels: 5, x_label: &nines };
    let lines = [("", BLUE, points)];
    frame.draw(area, &lines)
}

fn rates(area: &Area<'_>, seconds: &[Second]) -> Drawn<()> {
    let points = seconds.iter().map(|one| (middle(one), one.rate())).collect();
    over_time("results a second", seconds).draw(area, &[("", BLUE, points)])
}

fn latencies(area: &Area<'_>, seconds: &[Second]) -> Drawn<()> {
    let of =
        |time: fn(&Second) -> f64| seconds.iter().map(|one| (middle(one), time(one))).collect();
    let lines = [
        ("p99", ORANGE, of(|one| one.p99.as_secs_f64() * 1e3)),
        ("p50", BLUE, of(|one| one.p50.as_secs_f64() * 1e3)),
    ];
    over_time("latency over time, ms", seconds).draw(area, &lines)
}

/// Where on the axis of time what happened in a second stands.
fn middle(second: &Second) -> f64 {
    second.number as f64 + second.length.as_secs_f64() / 2.0
}

fn over_time<'a>(title: &'a str, seconds: &[Second]) -> Frame<'a> {
    let end = seconds.last().map_or(1.0, |last| last.number as f64 + last.length.as_secs_f64());
    let seconds = &|at: &f64| format!("{at} s");
    Frame { title, x: (0.0, end.max(0.1)), labels: 11, x_label: seconds }
}

/// One of the pictures in the picture.
struct Frame<'a> {
    title: &'a str,
    x: (f64, f64),
    /// Labels of the horizontal axis, at most.
    labels: usize,
    x_label: &'a dyn Fn(&f64) -> String,
}

impl Frame<'_> {
    fn draw(&self, area: &Area<'_>, lines: &[Line<'_>]) -> Drawn<()> {
        let top = lines.iter().flat_map(|(_, _, points)| points).map(|(_, y)| *y);
        let top = top.fold(0.0_f64, f64::max);
        let top = if top > 0.0 { top * 1.1 } else { 1.0 };
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, font(15).color(&INK))
            .margin(12)
            .x_label_area_size(28)
            .y_label_area_size(64)
            .build_cartesian_2d(self.x.0..self.x.1, 0.0..top)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(font(13).color(&INK))
            .x_labels(self.labels)
            .y_labels(6)
            .x_label_formatter(self.x_label)
            .y_label_formatter(&label)
            .draw()
            .map_err(failed)?;
        for (name, color, points) in lines {
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
            let series = chart.draw_series(line).map_err(failed)?;
            if !name.is_empty() {
                let color = *color;
                series.label(*name).legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2))
                });
            }
        }
        if lines.iter().any(|(name, ..)| !name.is_empty()) {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .label_font(font(13).color(&INK))
                .background_style(WHITE.mix(0.8))
                .draw()
                .map_err(failed)?;
        }
        Ok(())
    }
}

/// A number on the vertical axis.
fn label(number: &f64) -> String {
    if *number >= 100.0 {
        super::report::thousands(number.round() as u64)
    } else {
        let text = format!("{number:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

fn font(size: i32) -> FontDesc<'static> {
    ("sans-serif", size).into_font()
}

fn failed(error: impl std::fmt::Display) -> String {
    format!("the picture cannot be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_run_becomes_a_picture() {
        let text = svg(&report()).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        for part in ["results a second", "99.9 %", "p99", "polyline", "ec&lt;h&gt;o"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains('\x1b') && !text.contains("NaN"));
    }

    #[test]
    fn a_run_without_calls_becomes_one_too() {
        let mut empty = report();
        empty.tally = super::super::tally::Tally::new().unwrap();
        empty.seconds.clear();
        assert!(svg(&empty).unwrap().contains("</svg>"));
    }

    #[test]
    fn numbers_on_the_axis_are_short() {
        let labels = [0.0, 0.5, 12.0, 99.25, 25_412.4].map(|number| label(&number));
        assert_eq!(labels, ["0", "0.5", "12", "99.25", "25,412"]);
    }
}
