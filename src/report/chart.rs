//! What a chart shows, apart from how it is drawn.

use super::axis::Scale;

/// A line or scatter chart.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// What the chart says, above it.
    pub title: String,
    /// What was measured and how, in smaller letters under the title.
    pub subtitle: String,
    /// Name and unit of the horizontal axis.
    pub x_label: String,
    /// Name and unit of the vertical axis.
    pub y_label: String,
    /// Spread of the horizontal axis.
    pub x_scale: Scale,
    /// Whether the horizontal axis counts, so that there is nothing between two whole numbers.
    pub x_whole: bool,
    /// Spread of the vertical axis.
    pub y_scale: Scale,
    /// What is drawn, first series on top.
    pub series: Vec<Series>,
    /// Lines across the plot that values are compared with.
    pub references: Vec<Reference>,
    /// Values that the vertical axis shows in any case.
    pub y_also: Vec<f64>,
}

/// Points that belong together.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Which colour of the palette.
    pub style: usize,
    /// Which mark, where it is not the one that goes with the colour: series of one colour are told apart by it and by their lines.
    pub mark: Option<usize>,
    /// Dashed line and hollow marks.
    pub dashed: bool,
    /// Dotted line.
    pub dotted: bool,
    /// Whether the points are joined by a line, in their order.
    pub joined: bool,
    /// The points.
    pub points: Vec<Point>,
}

/// A value, and a few words beside it where there is something to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Point {
    /// Horizontal value.
    pub x: f64,
    /// Vertical value.
    pub y: f64,
    /// Shown beside the mark; empty for none.
    pub label: String,
}

/// A thin dashed line at one value of the vertical axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// The value.
    pub y: f64,
    /// What it stands for.
    pub label: String,
}

impl Series {
    /// Which mark its points have.
    pub fn mark(&self) -> usize {
        self.mark.unwrap_or(self.style)
    }
}

impl Point {
    /// A point without a label.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, label: String::new() }
    }
}

/// Numbers side by side, one a row.
#[derive(Debug, Clone, Default)]
pub struct Bars {
    /// What the bars say, above them.
    pub title: String,
    /// What was measured and how.
    pub subtitle: String,
    /// Name and unit of the values.
    pub label: String,
    /// The bars, from top to bottom.
    pub rows: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bar {
    /// Its name, above it.
    pub name: String,
    /// Which colour of the palette, and which mark beside the name.
    pub style: usize,
    /// Its length; one that is not finite has none.
    pub value: f64,
    /// The value in words, at its end.
    pub text: String,
}

/// Something that can be drawn.
#[derive(Debug, Clone)]
pub enum Drawing {
    /// Lines or single points on two axes.
    Lines(Chart),
    /// Bars from a common line.
    Bars(Bars),
}

impl Drawing {
    /// Whether it shows no value at all.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Lines(chart) => chart.series.iter().all(|series| series.points.is_empty()),
            Self::Bars(bars) => bars.rows.iter().all(|bar| !bar.value.is_finite()),
        }
    }
}
