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
    /// Which colour of the palette, and which mark; series that share it are told apart by `dashed`.
    pub style: usize,
    /// Dashed line and hollow marks.
    pub dashed: bool,
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

impl Point {
    /// A point without a label.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, label: String::new() }
    }
}
