//! Latency by percentile: how long the unlucky wait.
//!
//! Invariant: drawn from the histogram alone, both axes logarithmic, so that each further nine has
//! as much room as the one before; the line ends with the slowest answer.

use std::path::Path;

use plotters::prelude::{IntoDrawingArea, PathElement, SVGBackend};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, FontStyle};

use super::Error;
use super::axis::{Axis, LEFT, RIGHT};
use super::charts::OURS;
use super::numbers::Quantity;
use super::panels::{
    Canvas, DrawError, FAINT_INK, GRID, INK, MARGIN, PAPER, Scale, WIDTH, style, text,
};

// All in pixels.
const TOP: i32 = 70;
const BOTTOM: i32 = 360;
const HEIGHT: i32 = 430;

/// What has a mark, while there are enough answers for it.
const MARKS: [(&str, f64); 8] = [
    ("0", 0.0),
    ("50 %", 0.5),
    ("90 %", 0.9),
    ("99 %", 0.99),
    ("99.9 %", 0.999),
    ("99.99 %", 0.9999),
    ("99.999 %", 0.99999),
    ("99.9999 %", 0.999_999),
];

/// Draws `histogram`, of `[latency in µs, answers]` in ascending order, under `title` into the
/// file at `path`.
pub(super) fn draw(path: &Path, title: &str, histogram: &[(f64, u64)]) -> Result<(), Error> {
    let size = (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs());
    let canvas = SVGBackend::new(path, size).into_drawing_area();
    draw_all(&canvas, title, histogram).map_err(|e| Error::Chart {
        path: path.to_owned(),
        reason: e.to_string(),
    })
}

fn draw_all<'a>(
    canvas: &Canvas<'a>,
    title: &str,
    histogram: &[(f64, u64)],
) -> Result<(), DrawError<'a>> {
    canvas.fill(&PAPER)?;
    let heading = style(19, INK, FontStyle::Bold, HPos::Left);
    text(canvas, title, (MARGIN, MARGIN), &heading)?;
    let all: u64 = histogram.iter().map(|(_, count)| count).sum();
    let (Some((least, _)), Some((most, _))) = (histogram.first(), histogram.last()) else {
        return canvas.present();
    };
    let axis = Axis {
        scale: Scale::logarithmic(*least, *most),
        quantity: Quantity::Microseconds,
        top: TOP,
        bottom: BOTTOM,
    };
    axis.draw(canvas)?;
    let place = |share: f64| LEFT + (nines(share, all) * f64::from(RIGHT - LEFT)).round() as i32;
    let words = style(12, FAINT_INK, FontStyle::Normal, HPos::Center);
    for (name, share) in MARKS {
        if share < 1.0 - 1.0 / all.max(2) as f64 {
            let line = [(place(share), TOP), (place(share), BOTTOM)];
            canvas.draw(&PathElement::new(line, GRID.stroke_width(1)))?;
            text(canvas, name, (place(share), BOTTOM + 16), &words)?;
        }
    }
    let below = "part of the answers that took no longer; latency from the intended send time";
    text(canvas, below, ((LEFT + RIGHT) / 2, BOTTOM + 42), &words)?;
    let steps = steps(histogram, all);
    let points = steps.map(|(share, latency)| (place(share), axis.y(latency)));
    let line = PathElement::new(points.collect::<Vec<_>>(), OURS.stroke_width(2));
    canvas.draw(&line)?;
    canvas.present()
}

/// The line: each latency from the share of answers that were faster to that of those that were
/// no slower.
fn steps(histogram: &[(f64, u64)], all: u64) -> impl Iterator<Item = (f64, f64)> {
    let mut below = 0;
    histogram.iter().flat_map(move |(latency, count)| {
        let from = below as f64 / all as f64;
        below += count;
        [(from, *latency), (below as f64 / all as f64, *latency)]
    })
}

/// How far along the axis a share of `all` answers is, from 0 to 1: by the number of its nines.
fn nines(share: f64, all: u64) -> f64 {
    let end = (all.max(2) as f64).log10();
    (-(1.0 - share).log10() / end).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nine_takes_as_much_room_and_the_slowest_is_last() {
        assert_eq!(nines(0.0, 1000), 0.0);
        assert!((nines(0.9, 1000) - 1.0 / 3.0).abs() < 1e-9);
        assert!((nines(0.99, 1000) - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(nines(1.0, 1000), 1.0);
        let histogram = [(100.0, 9), (5000.0, 1)];
        let line: Vec<(f64, f64)> = steps(&histogram, 10).collect();
        assert_eq!(
            line,
            [(0.0, 100.0), (0.9, 100.0), (0.9, 5000.0), (1.0, 5000.0)]
        );
    }
}
