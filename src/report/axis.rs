//! Axes: which range is shown, where ticks stand and what they say.

/// How values are spread along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal steps for equal differences.
    #[default]
    Linear,
    /// Equal steps for equal ratios; values that are not positive are left out.
    Log,
}

/// The largest value that is shown; 1 over it is the smallest of a log axis. Products of two are still numbers.
const LARGEST: f64 = 1e150;

impl Scale {
    /// Whether a value has a place on an axis.
    fn shows(self, value: f64) -> bool {
        value.abs() <= LARGEST && (self == Self::Linear || value >= 1.0 / LARGEST)
    }
}

/// A range of values laid out on `0.0..=1.0`, with its ticks.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Axis {
    /// An axis that shows every value of `values` up to 1e150 with a little room to both sides, and at most about `max_ticks` ticks.
    ///
    /// With no value at all it shows `0..1` (`1..10` on a log scale).
    pub fn fit(values: impl IntoIterator<Item = f64>, scale: Scale, max_ticks: usize) -> Self {
        let shown = values.into_iter().filter(|&v| scale.shows(v));
        let (mut low, mut high) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = if scale == Scale::Log { (1.0, 10.0) } else { (0.0, 1.0) };
        }
        match scale {
            Scale::Linear => {
                if high - low <= 1e-9 * high.abs().max(low.abs()) {
                    let room = if high == 0.0 { 1.0 } else { high.abs() * 0.1 };
                    (low, high) = (low - room, high + room);
                } else {
                    // Zero and one stay where they are: accuracies and counts end there.
                    let room = (high - low) * 0.04;
                    low = if low == 0.0 { 0.0 } else { low - room };
                    high += room;
                }
            }
            Scale::Log => {
                let ratio = (high / low).max(1.02);
                let room = ratio.powf(0.06);
                (low, high) = (low / room, high * room);
                if high / low < 1.1 {
                    let middle = (low * high).sqrt();
                    (low, high) = (middle / 1.05, middle * 1.05);
                }
            }
        }
        Self { scale, low, high, ticks: ticks(low, high, scale, max_ticks.max(2)) }
    }

    /// The same axis with ticks at whole numbers only, for what is counted.
    pub fn whole(mut self) -> Self {
        self.ticks.retain(|tick| (tick - tick.round()).abs() < 1e-6);
        self
    }

    /// Where `value` stands, 0 at the low end and 1 at the high end; `None` where it cannot be shown.
    pub fn position(&self, value: f64) -> Option<f64> {
        // Ticks may stand in the room beside the values.
        if !self.scale.shows(value) && !(self.low..=self.high).contains(&value) {
            return None;
        }
        let position = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        position.is_finite().then_some(position)
    }

    /// Tick values, ascending, all inside the range.
    pub fn ticks(&self) -> &[f64] {
        &self.ticks
    }

    /// Tick labels, with as many decimals as tell the ticks apart.
    pub fn tick_labels(&self) -> Vec<String> {
        let step = self.ticks.windows(2).map(|w| w[1] - w[0]).fold(f64::INFINITY, f64::min);
        match self.scale {
            Scale::Linear => self.ticks.iter().map(|&t| tick_label(t, step)).collect(),
            Scale::Log => self.ticks.iter().map(|&t| tick_label(t, if self.high / self.low > 10.0 { t } else { step.min(t) })).collect(),
        }
    }
}

/// The step of 1, 2 or 5 × 10^k that is at least `rough`.
fn nice_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let factor = rough / power;
    // A hair of slack, so that 2.0000000001 is still two.
    let nice = if factor <= 1.000_001 {
        1.0
    } else if factor <= 2.000_001 {
        2.0
    } else if factor <= 5.000_001 {
        5.0
    } else {
        10.0
    };
    nice * power
}

fn ticks(low: f64, high: f64, scale: Scale, max_ticks: usize) -> Vec<f64> {
    if scale == Scale::Log && high / low > 10.0 {
        for mantissas in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]] {
            let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
            let found: Vec<f64> = (first..=last)
                .flat_map(|power| mantissas.iter().map(move |m| m * 10f64.powi(power)))
                .filter(|t| (low..=high).contains(t))
                .collect();
            if found.len() <= max_ticks || mantissas.len() == 1 {
                let every = found.len().div_ceil(max_ticks).max(1);
                return found.into_iter().step_by(every).collect();
            }
        }
    }
    let step = nice_step((high - low) / max_ticks as f64);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// `value` with the decimals that a distance of `step` needs; thousands are grouped.
fn tick_label(value: f64, step: f64) -> String {
    if value != 0.0 && (value.abs() >= 1e7 || value.abs() < 1e-4) {
        return format!("{value:.0e}");
    }
    let decimals = (-step.log10() - 1e-9).ceil().clamp(0.0, 6.0) as usize;
    let text = format!("{value:.decimals$}");
    if decimals == 0 { group_thousands(&text) } else { text }
}

/// Puts commas between the thousands of a whole number written in digits.
pub fn group_thousands(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut out = String::from(sign);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_ones_twos_and_fives() {
        let axis = Axis::fit([0.0, 100.0], Scale::Linear, 6);
        assert_eq!(axis.ticks(), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(Axis::fit([0.0, 1.0], Scale::Linear, 7).tick_labels(), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(Axis::fit([0.0, 12_000.0], Scale::Linear, 5).tick_labels(), ["0", "5,000", "10,000"]);
    }

    #[test]
    fn what_is_counted_has_no_halves() {
        assert_eq!(Axis::fit([0.0, 3.0], Scale::Linear, 7).whole().tick_labels(), ["0", "1", "2", "3"]);
        assert_eq!(Axis::fit([7.0], Scale::Linear, 4).whole().tick_labels(), ["7"]);
    }

    #[test]
    fn log_ticks_over_decades_are_round() {
        let axis = Axis::fit([1.2, 900.0], Scale::Log, 10);
        assert_eq!(axis.tick_labels(), ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1,000"]);
        assert_eq!(Axis::fit([4.2, 6.9], Scale::Log, 6).tick_labels(), ["5", "6", "7"]);
    }

    #[test]
    fn a_single_value_still_gets_an_axis() {
        for scale in [Scale::Linear, Scale::Log] {
            let axis = Axis::fit([35.5, 35.5], scale, 6);
            let middle = axis.position(35.5).unwrap();
            assert!((0.3..0.7).contains(&middle), "{scale:?}: {middle}");
            assert!(axis.ticks().len() >= 2, "{scale:?}: {:?}", axis.ticks());
        }
        assert_eq!(Axis::fit([], Scale::Linear, 6).tick_labels(), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    }

    #[test]
    fn values_a_log_axis_cannot_show_are_left_out() {
        let axis = Axis::fit([0.0, -1.0, f64::NAN, 10.0, 1000.0], Scale::Log, 6);
        assert!(axis.position(10.0).unwrap() >= 0.0);
        assert_eq!(axis.position(0.0), None);
    }

    /// Found by fuzzing: a tick for every power of ten up to one that is no number any more.
    #[test]
    fn values_out_of_all_proportion_are_left_out() {
        for scale in [Scale::Log, Scale::Linear] {
            let axis = Axis::fit([4.25, 9.0, f64::MAX, f64::MIN_POSITIVE, -f64::MAX], scale, 6);
            assert!(axis.position(4.25).is_some() && axis.position(f64::MAX).is_none() && axis.ticks().len() < 8, "{axis:?}");
        }
    }

    proptest! {
        #[test]
        fn every_value_and_every_tick_lies_on_the_axis(values in prop::collection::vec(1e-3f64..1e6, 1..20), log: bool, max_ticks in 2usize..12) {
            let scale = if log { Scale::Log } else { Scale::Linear };
            let axis = Axis::fit(values.iter().copied(), scale, max_ticks);
            for v in values.iter().chain(axis.ticks()) {
                let position = axis.position(*v).unwrap();
                prop_assert!((-1e-6..=1.0 + 1e-6).contains(&position), "{v} at {position}");
            }
            prop_assert!(axis.ticks().windows(2).all(|w| w[0] < w[1]));
            prop_assert!(axis.ticks().len() <= max_ticks + 1, "{:?}", axis.ticks());
            let labels = axis.tick_labels();
            let distinct: std::collections::BTreeSet<_> = labels.iter().collect();
            prop_assert_eq!(distinct.len(), labels.len(), "{:?}", labels);
        }

        #[test]
        fn whatever_the_values_are_there_are_few_ticks(values in prop::collection::vec(prop::num::f64::ANY, 0..6), log: bool, max_ticks in 2usize..12) {
            let scale = if log { Scale::Log } else { Scale::Linear };
            let axis = Axis::fit(values.iter().copied(), scale, max_ticks);
            prop_assert!(axis.ticks().len() <= max_ticks + 1, "{:?}", axis.ticks());
            for v in values.iter().filter(|v| scale.shows(**v)).chain(axis.ticks()) {
                let position = axis.position(*v);
                prop_assert!(position.is_some_and(|position| (-1e-6..=1.0 + 1e-6).contains(&position)), "{v} at {position:?}");
            }
            prop_assert_eq!(axis.tick_labels().len(), axis.ticks().len());
        }
    }
}
