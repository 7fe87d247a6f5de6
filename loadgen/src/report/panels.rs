//! Draws panels of horizontal bars or points, one below the other, as one SVG picture.
//!
//! Invariant: linear axes begin at zero and end at a round number; every value is written
//! beside its bar, so that no reader has to guess from the axis. `charts` says what to draw.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::{
    Circle, DrawingArea, DrawingBackend, IntoDrawingArea, PathElement, Rectangle, SVGBackend, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontDesc, FontFamily, FontStyle, RGBColor, TextStyle};

use super::Error;
use super::numbers::Quantity;
use super::statistics::Spread;

/// One group of rows with its own axis.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    /// What is compared.
    pub title: String,
    /// What the axis counts.
    pub axis: String,
    /// What the values are.
    pub quantity: Quantity,
    /// The rows.
    pub rows: Rows,
}

/// The rows of a panel.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    /// On a linear axis.
    Bars(Vec<Bar>),
    /// On a logarithmic axis.
    Points(Vec<Points>),
}

/// A median with a whisker from the least to the most.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    /// Who.
    pub name: String,
    /// In which colour.
    pub colour: RGBColor,
    /// How much.
    pub spread: Spread,
}

/// Three percentiles on one line.
#[derive(Debug, Clone)]
pub(super) struct Points {
    /// Who.
    pub name: String,
    /// In which colour.
    pub colour: RGBColor,
    /// In rising order.
    pub values: [f64; 3],
}

pub(super) type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type DrawError<'a> =
    plotters::drawing::DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

// All in pixels.
pub(super) const WIDTH: i32 = 860;
pub(super) const MARGIN: i32 = 24;
const AXIS_LEFT: i32 = 150;
const AXIS_RIGHT: i32 = 680;
const HEAD_HEIGHT: i32 = 52;
const PANEL_HEAD_HEIGHT: i32 = 34;
const PANEL_FOOT_HEIGHT: i32 = 62;
const ROW_HEIGHT: i32 = 30;
const BAR_HEIGHT: i32 = 18;
const WHISKER_HEIGHT: i32 = 8;
const WHISKER_WIDTH_MIN: i32 = 3;

pub(super) const INK: RGBColor = RGBColor(0x24, 0x29, 0x2f);
pub(super) const FAINT_INK: RGBColor = RGBColor(0x6a, 0x73, 0x7d);
pub(super) const GRID: RGBColor = RGBColor(0xe4, 0xe7, 0xeb);
pub(super) const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// The most marks that fit on an axis.
const MARKS_MAX: f64 = 6.0;

impl Panel {
    /// A panel of bars; `None` when there are none.
    pub(super) fn of_bars(
        title: &str,
        axis: String,
        quantity: Quantity,
        bars: Vec<Bar>,
    ) -> Option<Self> {
        let panel = Self {
            title: title.to_owned(),
            axis,
            quantity,
            rows: Rows::Bars(bars),
        };
        (panel.row_count() > 0).then_some(panel)
    }

    fn row_count(&self) -> i32 {
        let count = match &self.rows {
            Rows::Bars(bars) => bars.len(),
            Rows::Points(points) => points.len(),
        };
        i32::try_from(count).unwrap_or(i32::MAX / WIDTH)
    }

    fn height(&self) -> i32 {
        PANEL_HEAD_HEIGHT + self.row_count() * ROW_HEIGHT + PANEL_FOOT_HEIGHT
    }
}

/// Writes `panels` under `title` to the file at `path`.
pub(super) fn draw(path: &Path, title: &str, panels: &[Panel]) -> Result<(), Error> {
    let height = HEAD_HEIGHT + panels.iter().map(Panel::height).sum::<i32>();
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let canvas = SVGBackend::new(path, size).into_drawing_area();
    let failed = |e: DrawError<'_>| Error::Chart {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    draw_panels(&canvas, title, panels).map_err(failed)
}

fn draw_panels<'a>(
    canvas: &Canvas<'a>,
    title: &str,
    panels: &[Panel],
) -> Result<(), DrawError<'a>> {
    canvas.fill(&PAPER)?;
    text(
        canvas,
        title,
        (MARGIN, MARGIN),
        &style(19, INK, FontStyle::Bold, HPos::Left),
    )?;
    let mut top = HEAD_HEIGHT;
    for panel in panels {
        draw_panel(canvas, panel, top)?;
        top += panel.height();
    }
    canvas.present()
}

fn draw_panel<'a>(canvas: &Canvas<'a>, panel: &Panel, top: i32) -> Result<(), DrawError<'a>> {
    let heading = style(15, INK, FontStyle::Bold, HPos::Left);
    text(
        canvas,
        &panel.title,
        (MARGIN, top + PANEL_HEAD_HEIGHT / 2),
        &heading,
    )?;
    let rows_top = top + PANEL_HEAD_HEIGHT;
    let rows_bottom = rows_top + panel.row_count() * ROW_HEIGHT;
    let scale = Scale::for_panel(panel);
    draw_axis(canvas, panel, &scale, rows_top, rows_bottom)?;
    let centre = |row: i32| rows_top + row * ROW_HEIGHT + ROW_HEIGHT / 2;
    match &panel.rows {
        Rows::Bars(bars) => {
            for (row, bar) in (0..).zip(bars) {
                draw_bar(canvas, bar, &scale, centre(row), panel.quantity)?;
            }
        }
        Rows::Points(rows) => {
            for (row, points) in (0..).zip(rows) {
                draw_points(canvas, points, &scale, centre(row), panel.quantity)?;
            }
        }
    }
    Ok(())
}

fn draw_axis<'a>(
    canvas: &Canvas<'a>,
    panel: &Panel,
    scale: &Scale,
    top: i32,
    bottom: i32,
) -> Result<(), DrawError<'a>> {
    let label = style(12, FAINT_INK, FontStyle::Normal, HPos::Center);
    for mark in scale.marks() {
        let x = scale.x(mark);
        canvas.draw(&PathElement::new(
            [(x, top), (x, bottom + 4)],
            GRID.stroke_width(1),
        ))?;
        text(canvas, &panel.quantity.mark(mark), (x, bottom + 15), &label)?;
    }
    let base = PathElement::new(
        [(AXIS_LEFT, top), (AXIS_LEFT, bottom)],
        FAINT_INK.stroke_width(1),
    );
    canvas.draw(&base)?;
    let caption = style(12, FAINT_INK, FontStyle::Normal, HPos::Left);
    text(canvas, &panel.axis, (AXIS_LEFT, bottom + 34), &caption)
}

fn draw_bar<'a>(
    canvas: &Canvas<'a>,
    bar: &Bar,
    scale: &Scale,
    centre: i32,
    quantity: Quantity,
) -> Result<(), DrawError<'a>> {
    draw_name(canvas, &bar.name, centre)?;
    let Spread { median, min, max } = bar.spread;
    let corners = [
        (AXIS_LEFT, centre - BAR_HEIGHT / 2),
        (scale.x(median), centre + BAR_HEIGHT / 2),
    ];
    canvas.draw(&Rectangle::new(corners, bar.colour.filled()))?;
    if scale.x(max) - scale.x(min) >= WHISKER_WIDTH_MIN {
        draw_whisker(canvas, scale.x(min), scale.x(max), centre)?;
    }
    let end = scale.x(max.max(median)) + 8;
    text(
        canvas,
        &quantity.text(median),
        (end, centre),
        &style(13, INK, FontStyle::Normal, HPos::Left),
    )
}

fn draw_whisker<'a>(
    canvas: &Canvas<'a>,
    from: i32,
    to: i32,
    centre: i32,
) -> Result<(), DrawError<'a>> {
    let line = INK.stroke_width(1);
    canvas.draw(&PathElement::new([(from, centre), (to, centre)], line))?;
    for x in [from, to] {
        let (above, below) = (centre - WHISKER_HEIGHT / 2, centre + WHISKER_HEIGHT / 2);
        canvas.draw(&PathElement::new([(x, above), (x, below)], line))?;
    }
    Ok(())
}

fn draw_points<'a>(
    canvas: &Canvas<'a>,
    points: &Points,
    scale: &Scale,
    centre: i32,
    quantity: Quantity,
) -> Result<(), DrawError<'a>> {
    draw_name(canvas, &points.name, centre)?;
    let xs = points.values.map(|value| scale.x(value));
    let line = PathElement::new(
        [(xs[0], centre), (xs[2], centre)],
        points.colour.stroke_width(2),
    );
    canvas.draw(&line)?;
    for (x, radius) in xs.into_iter().zip([6, 5, 4]) {
        canvas.draw(&Circle::new((x, centre), radius, points.colour.filled()))?;
    }
    let values = points.values.map(|value| quantity.text(value)).join(" · ");
    let at = (xs[2] + 12, centre);
    text(
        canvas,
        &values,
        at,
        &style(13, INK, FontStyle::Normal, HPos::Left),
    )
}

fn draw_name<'a>(canvas: &Canvas<'a>, name: &str, centre: i32) -> Result<(), DrawError<'a>> {
    let right = style(13, INK, FontStyle::Normal, HPos::Right);
    text(canvas, name, (AXIS_LEFT - 10, centre), &right)
}

pub(super) fn text<'a>(
    canvas: &Canvas<'a>,
    words: &str,
    at: (i32, i32),
    style: &TextStyle<'static>,
) -> Result<(), DrawError<'a>> {
    canvas.draw(&Text::new(words.to_owned(), at, style.clone()))
}

pub(super) fn style(
    size: i32,
    colour: RGBColor,
    weight: FontStyle,
    side: HPos,
) -> TextStyle<'static> {
    let font = FontDesc::new(FontFamily::SansSerif, f64::from(size), weight);
    TextStyle {
        font,
        color: colour.to_backend_color(),
        pos: Pos::new(side, VPos::Center),
    }
}

/// From values to places on the axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// From zero to `end`, a mark at each `step`.
    Linear { end: f64, step: f64 },
    /// From `start` to `end`, both powers of ten, a mark at each.
    Logarithmic { start: f64, end: f64 },
}

impl Scale {
    fn for_panel(panel: &Panel) -> Self {
        match &panel.rows {
            Rows::Bars(bars) => {
                let max = bars.iter().map(|bar| bar.spread.max).fold(0.0, f64::max);
                Self::linear(max, panel.quantity)
            }
            Rows::Points(points) => {
                let values = || points.iter().flat_map(|points| points.values);
                Self::logarithmic(
                    values().fold(f64::MAX, f64::min),
                    values().fold(0.0, f64::max),
                )
            }
        }
    }

    /// From zero to the first mark that is not below `max`.
    pub(super) fn linear(max: f64, quantity: Quantity) -> Self {
        if max <= 0.0 {
            return Self::Linear {
                end: 1.0,
                step: 1.0,
            };
        }
        let step = quantity.step(max / MARKS_MAX);
        Self::Linear {
            end: (max / step).ceil() * step,
            step,
        }
    }

    /// From the power of ten that is no more than `min` to the one that is no less than `max`.
    pub(super) fn logarithmic(min: f64, max: f64) -> Self {
        let start = 10_f64.powf(min.max(1.0).log10().floor());
        let end = 10_f64.powf(max.max(1.0).log10().ceil()).max(start * 10.0);
        Self::Logarithmic { start, end }
    }

    pub(super) fn marks(&self) -> Vec<f64> {
        match *self {
            Self::Linear { end, step } => {
                let count = (end / step).round() as u32;
                (0..=count).map(|mark| f64::from(mark) * step).collect()
            }
            Self::Logarithmic { start, end } => {
                let marks = std::iter::successors(Some(start), |mark| Some(mark * 10.0));
                marks.take_while(|mark| *mark <= end * 1.001).collect()
            }
        }
    }

    fn x(&self, value: f64) -> i32 {
        let width = f64::from(AXIS_RIGHT - AXIS_LEFT);
        AXIS_LEFT + (self.share(value) * width).round() as i32
    }

    /// How far along the axis `value` is, from 0 to 1.
    pub(super) fn share(&self, value: f64) -> f64 {
        let share = match *self {
            Self::Linear { end, .. } => value / end,
            Self::Logarithmic { start, end } => {
                (value.max(start) / start).log10() / (end / start).log10()
            }
        };
        share.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panels() -> Vec<Panel> {
        let bar = |name: &str, median: f64| Bar {
            name: name.to_owned(),
            colour: INK,
            spread: Spread {
                median,
                min: median * 0.9,
                max: median * 1.1,
            },
        };
        let points = Points {
            name: "a & b".to_owned(),
            colour: INK,
            values: [120.0, 800.0, 12_000.0],
        };
        vec![
            Panel::of_bars(
                "bars <1>",
                "µs".to_owned(),
                Quantity::Count,
                vec![bar("a", 10.0), bar("b", 23.4)],
            )
            .unwrap(),
            Panel {
                title: "points".to_owned(),
                axis: "latency".to_owned(),
                quantity: Quantity::Microseconds,
                rows: Rows::Points(vec![points]),
            },
        ]
    }

    /// Every element that opens closes again in its place, and no text breaks the markup.
    fn assert_well_formed(xml: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = xml;
        while let Some(start) = rest.find('<') {
            assert!(
                !rest[..start].contains('>'),
                "a bare > before {}",
                &rest[start..]
            );
            let end = start + rest[start..].find('>').expect("a tag that never ends");
            let tag = &rest[start + 1..end];
            let name = tag
                .trim_start_matches('/')
                .split([' ', '\n', '/'])
                .next()
                .unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') && !tag.starts_with(['!', '?']) {
                open.push(name);
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty(), "never closed: {open:?}");
        assert!(
            !xml.replace("&amp;", "")
                .replace("&lt;", "")
                .replace("&gt;", "")
                .contains('&')
        );
    }

    #[test]
    fn the_picture_is_well_formed_and_tells_the_values() {
        let path = std::env::temp_dir().join(format!("panels-{}.svg", std::process::id()));
        draw(&path, "A title", &panels()).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_well_formed(&svg);
        for words in [
            "A title",
            "bars &lt;1&gt;",
            "a &amp; b",
            "23.4",
            "120 µs · 800 µs · 12.0 ms",
        ] {
            assert!(svg.contains(words), "{words} is missing in {svg}");
        }
    }

    #[test]
    fn a_linear_axis_begins_at_zero_and_ends_round() {
        assert_eq!(
            Scale::linear(23.4, Quantity::Count),
            Scale::Linear {
                end: 25.0,
                step: 5.0
            }
        );
        assert_eq!(
            Scale::linear(60.0, Quantity::Count),
            Scale::Linear {
                end: 60.0,
                step: 10.0
            }
        );
        assert_eq!(
            Scale::linear(0.0, Quantity::Count),
            Scale::Linear {
                end: 1.0,
                step: 1.0
            }
        );
        let scale = Scale::linear(23.4, Quantity::Count);
        assert_eq!(scale.marks(), [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]);
        assert_eq!((scale.x(0.0), scale.x(25.0)), (AXIS_LEFT, AXIS_RIGHT));
    }

    #[test]
    fn a_logarithmic_axis_runs_between_powers_of_ten() {
        let scale = Scale::logarithmic(120.0, 12_000.0);
        assert_eq!(scale.marks().len(), 4);
        assert_eq!((scale.x(100.0), scale.x(1e5)), (AXIS_LEFT, AXIS_RIGHT));
        assert!(scale.x(1e3) < scale.x(2e3));
    }
}
