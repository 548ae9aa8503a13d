//! What people see of results: aligned tables, small charts for the terminal, SVG charts, and the comparison of runs.

pub mod axis;
pub mod chart;
pub mod comparison;
mod labels;
pub mod svg;
pub mod table;
pub mod terminal;

pub use chart::{Chart, Point, Reference, Series};
pub use table::{Align, Table};
