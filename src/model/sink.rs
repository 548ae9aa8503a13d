//! Where a base makes its attention sink.

use super::Model;
use super::layer::StreamSequences;
use crate::grow::verify;
use crate::ops::on_workers;
use crate::ops::sequence::Sequence;
use crate::ops::tape::Tape;
use std::sync::Arc;

/// Sequences that are looked at, of tokens drawn from the whole vocabulary: what a sink is made of is the position, not the token.
const SEQUENCES: usize = 64;
/// Tokens a sequence.
const LENGTH: usize = 4;
/// A sink is a row whose largest value is so many times that of an ordinary row.
const STANDS_OUT: f32 = 10.0;
/// It has risen where it has reached this part of its height.
const RISEN: f32 = 0.5;
/// The share of sequences whose sink must have risen.
const SHARE: f64 = 0.9;

impl Model {
    /// How many of the lowest layers the base takes to make a text's first position its attention sink: a row of a few values a hundred times those of all
    /// others, which later positions look at where they look for nothing. 0 where it makes none. The same number on every machine, but for what rounding
    /// does to rows at the edge.
    pub fn sink_layers(&self) -> usize {
        let batch = verify::windows(self.config.vocab_size, &[], SEQUENCES, LENGTH, 0);
        // A model with fewer positions than that has no place for a sink.
        let Ok(sequence) = self.sequence(&batch) else { return 0 };
        on_workers(|| risen(&self.largest_values(&batch.tokens, &sequence)))
    }

    /// The largest value of every row behind each layer of the base alone, `[layers][SEQUENCES * LENGTH]`.
    fn largest_values(&self, tokens: &[u32], sequence: &Arc<Sequence>) -> Vec<Vec<f32>> {
        let sequences = StreamSequences::same(sequence);
        let mut tape = Tape::inference(&self.parameters, self.precision);
        let mut streams = self.embed(&mut tape, tokens);
        streams.truncate(1);
        let mut largest = Vec::with_capacity(self.layers.len());
        for index in 0..self.layers.len() {
            streams = self.layer(&mut tape, index, streams, &sequences, None);
            let x = streams[0].value();
            largest.push(x.data().chunks_exact(x.cols()).map(|row| row.iter().fold(0.0f32, |most, v| most.max(v.abs()))).collect());
        }
        largest
    }
}

/// The number of layers after which the first rows of most sequences have risen, of the largest values of all rows behind each layer.
fn risen(largest: &[Vec<f32>]) -> usize {
    let middle = |mut values: Vec<f32>| {
        values.sort_unstable_by(f32::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    let ordinary: Vec<f32> =
        largest.iter().map(|rows| middle(rows.iter().enumerate().filter(|(row, _)| row % LENGTH > 0).map(|(_, &v)| v).collect())).collect();
    let rise = |sequence: usize| {
        let first: Vec<f32> = largest.iter().map(|rows| rows[sequence * LENGTH]).collect();
        let height = first.iter().copied().fold(0.0, f32::max);
        let peak = first.iter().position(|&v| v == height)?;
        if height < STANDS_OUT * ordinary[peak] {
            return None;
        }
        first.iter().position(|&v| v >= RISEN * height)
    };
    let sequences = largest.first().map_or(0, |rows| rows.len() / LENGTH);
    let mut rises: Vec<usize> = (0..sequences).filter_map(rise).collect();
    if 2 * rises.len() < sequences || rises.is_empty() {
        return 0;
    }
    rises.sort_unstable();
    1 + rises[((rises.len() as f64 * SHARE) as usize).min(rises.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{PRECISIONS, base, config};

    /// Rows of ordinary size 1, but the first rows of the sequences that `sinks` gives the layer of, from which on they have 500.
    fn grid(layers: usize, sequences: usize, sinks: impl Fn(usize) -> Option<usize>) -> Vec<Vec<f32>> {
        let value = |layer: usize, row: usize| match sinks(row / LENGTH) {
            Some(from) if row.is_multiple_of(LENGTH) && layer >= from => 500.0,
            _ => 1.0 + row as f32 / 100.0,
        };
        (0..layers).map(|layer| (0..sequences * LENGTH).map(|row| value(layer, row)).collect()).collect()
    }

    #[test]
    fn a_sink_is_kept_to_the_layer_in_which_nearly_all_have_risen() {
        assert_eq!(risen(&grid(12, 20, |_| Some(4))), 5);
        assert_eq!(risen(&grid(12, 20, |_| Some(0))), 1);
        // One in twenty rises later, half rise two layers later.
        assert_eq!(risen(&grid(12, 20, |s| Some(if s == 7 { 9 } else { 4 }))), 5);
        assert_eq!(risen(&grid(12, 20, |s| Some(4 + 2 * (s % 2)))), 7);
        assert_eq!(risen(&grid(12, 20, |s| (s % 4 > 0).then_some(4))), 5);
    }

    #[test]
    fn without_rows_that_stand_out_there_is_no_sink() {
        assert_eq!(risen(&grid(12, 20, |_| None)), 0);
        assert_eq!(risen(&grid(12, 20, |s| (s % 4 == 0).then_some(4))), 0);
        assert_eq!(risen(&[]), 0);
        for precision in PRECISIONS {
            let model = Model::from_base(&base(&config(true, true)), precision, false).unwrap();
            assert_eq!(model.sink_layers(), 0, "random weights make none");
        }
    }
}
