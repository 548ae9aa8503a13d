//! The straight line through points.

use serde::Serialize;

/// The line that lies closest to some points, by the squares of the vertical distances.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Line {
    /// `y` at `x = 0`.
    pub intercept: f64,
    /// What `y` grows by for each unit of `x`.
    pub slope: f64,
    /// Share of the variance of `y` that the line explains, 0 to 1.
    pub r_squared: f64,
    /// Number of points.
    pub points: usize,
}

impl Line {
    /// The line through `points` of `(x, y)`; `None` with fewer than three of them, or where all `x` or all `y` are equal or one is not finite.
    pub fn through(points: &[(f64, f64)]) -> Option<Self> {
        let n = points.len() as f64;
        let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / n;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let sum = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>();
        let (xx, xy, yy) = (sum(&|p| (p.0 - x).powi(2)), sum(&|p| (p.0 - x) * (p.1 - y)), sum(&|p| (p.1 - y).powi(2)));
        let slope = xy / xx;
        let line = Self { intercept: y - slope * x, slope, r_squared: xy * xy / (xx * yy), points: points.len() };
        (points.len() > 2 && line.intercept.is_finite() && line.r_squared.is_finite()).then_some(line)
    }

    /// `y` at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_exactly_and_scatter_lowers_r_squared() {
        let line = Line::through(&[(0.0, 1.0), (1.0, 3.0), (3.0, 7.0)]).unwrap();
        assert!((line.slope - 2.0).abs() < 1e-12 && (line.intercept - 1.0).abs() < 1e-12 && (line.r_squared - 1.0).abs() < 1e-12);
        assert!((line.at(10.0) - 21.0).abs() < 1e-9);
        // By hand: means 1 and 1, sums of squares 2 and 2, of products 1.
        let scattered = Line::through(&[(0.0, 0.0), (1.0, 2.0), (2.0, 1.0)]).unwrap();
        assert!((scattered.slope - 0.5).abs() < 1e-12 && (scattered.r_squared - 0.25).abs() < 1e-12);
    }

    #[test]
    fn what_has_no_line_has_none() {
        assert_eq!(Line::through(&[(0.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(Line::through(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(Line::through(&[(0.0, 1.0), (1.0, f64::INFINITY), (2.0, 3.0)]), None);
        assert_eq!(Line::through(&[(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]), None);
    }
}
