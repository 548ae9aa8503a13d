//! Evaluation windows in which every token of every document is predicted exactly once.
//!
//! The first window of a document scores all its tokens; every later one begins `stride` tokens further and scores only the tokens that no
//! earlier window reached, with the rest as context. Short pieces of several documents share a row, kept apart by `document_starts`.

use super::batch::{Batch, IGNORE};
use super::held_out::HeldOut;
use crate::error::{Error, Result};

/// How documents are cut into windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowConfig {
    /// Tokens a window.
    pub window: usize,
    /// Tokens from one window's beginning to the next's; `window` means no overlap.
    pub stride: usize,
    /// Windows a batch, at most.
    pub batch_size: usize,
    /// A token put before every document, so that its first token is predicted too; without one the first token is not scored.
    pub bos: Option<u32>,
}

impl WindowConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// When one is zero or the stride exceeds the window, which would leave tokens out.
    pub fn validate(&self) -> Result<()> {
        if self.window == 0 || self.stride == 0 || self.batch_size == 0 {
            return Err(Error::usage("eval: window, stride and batch_size must be at least 1"));
        }
        if self.stride > self.window {
            return Err(Error::usage(format!("eval: the stride ({}) must not exceed the window ({})", self.stride, self.window)));
        }
        Ok(())
    }
}

/// A batch that says for every scored target whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoredBatch {
    /// The windows; `sequence_length` is the longest row used, at most the window.
    pub batch: Batch,
    /// For each position the index of the document whose token is its target, `[batch_size, sequence_length]`; 0 where nothing is scored.
    pub documents: Vec<usize>,
    /// For each position the index of its target within the document, `[batch_size, sequence_length]`; 0 where nothing is scored.
    pub positions: Vec<usize>,
}

/// A stretch of one document that fits into a row.
#[derive(Debug, Clone)]
struct Piece {
    document: usize,
    /// Inputs, and one token more: the last target.
    tokens: Vec<u32>,
    /// Targets before this one are context.
    first_scored: usize,
    /// The index in the document of the first target.
    first_position: usize,
}

impl Piece {
    fn len(&self) -> usize {
        self.tokens.len() - 1
    }
}

/// Yields the windows of a sequence of documents.
pub struct Windows<I> {
    documents: I,
    config: WindowConfig,
    /// The document being cut (with `bos`), its index, the next window's beginning and the next target to score.
    current: Vec<u32>,
    count: usize,
    begin: usize,
    next_target: usize,
    /// A piece that did not fit into the last batch.
    waiting: Option<Piece>,
}

impl HeldOut {
    /// The windows of this corpus.
    ///
    /// # Errors
    /// When the configuration is invalid.
    pub fn windows(&self, config: WindowConfig) -> Result<Windows<impl Iterator<Item = Result<Vec<u32>>> + '_>> {
        Windows::new((0..self.len()).map(|index| Ok(self.document(index)?.tokens)), config)
    }
}

impl<I: Iterator<Item = Result<Vec<u32>>>> Windows<I> {
    /// The windows of `documents`, each the tokens of one document.
    ///
    /// # Errors
    /// When the configuration is invalid.
    pub fn new(documents: I, config: WindowConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { documents, config, current: Vec::new(), count: 0, begin: 0, next_target: 1, waiting: None })
    }

    /// The next piece of the current document, or the first of the next that has anything to score.
    fn next_piece(&mut self) -> Option<Result<Piece>> {
        while self.next_target >= self.current.len() {
            let tokens = match self.documents.next()? {
                Ok(tokens) => tokens,
                Err(e) => return Some(Err(e)),
            };
            self.current.clear();
            self.current.extend(self.config.bos);
            self.current.extend(tokens);
            (self.begin, self.next_target) = (0, 1);
            self.count += 1;
        }
        let end = (self.begin + self.config.window).min(self.current.len() - 1);
        let shift = usize::from(self.config.bos.is_some());
        let piece = Piece {
            document: self.count - 1,
            tokens: self.current[self.begin..=end].to_vec(),
            first_scored: self.next_target - self.begin - 1,
            // Target `t` of the sequence with `bos` is token `t - 1` of the document.
            first_position: self.begin + 1 - shift,
        };
        self.next_target = end + 1;
        self.begin += self.config.stride;
        Some(Ok(piece))
    }

    /// Fills rows until a piece fits into none.
    fn next_rows(&mut self) -> Result<Vec<Vec<Piece>>> {
        let mut rows: Vec<(usize, Vec<Piece>)> = Vec::new();
        loop {
            let piece = match self.waiting.take() {
                Some(piece) => piece,
                None => match self.next_piece().transpose()? {
                    Some(piece) => piece,
                    None => break,
                },
            };
            let fits = rows.iter().position(|(used, _)| used + piece.len() <= self.config.window);
            match fits {
                Some(index) => {
                    rows[index].0 += piece.len();
                    rows[index].1.push(piece);
                }
                None if rows.len() < self.config.batch_size => rows.push((piece.len(), vec![piece])),
                None => {
                    self.waiting = Some(piece);
                    break;
                }
            }
        }
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }
}

impl<I: Iterator<Item = Result<Vec<u32>>>> Iterator for Windows<I> {
    type Item = Result<ScoredBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_rows() {
            Ok(rows) if rows.is_empty() => None,
            Ok(rows) => Some(Ok(assemble(&rows))),
            Err(e) => Some(Err(e)),
        }
    }
}

/// Lays the pieces of every row one after another and pads the rest.
fn assemble(rows: &[Vec<Piece>]) -> ScoredBatch {
    let length = rows.iter().map(|row| row.iter().map(Piece::len).sum()).max().unwrap_or(0);
    let size = rows.len() * length;
    let mut batch = Batch {
        batch_size: rows.len(),
        sequence_length: length,
        // Padding is token 0, which every vocabulary has; nothing attends to it and nothing is scored there.
        tokens: vec![0; size],
        targets: vec![IGNORE; size],
        document_starts: None,
    };
    let (mut documents, mut positions) = (vec![0; size], vec![0; size]);
    let mut starts = vec![0u32; size];
    for (index, row) in rows.iter().enumerate() {
        let row_begin = index * length;
        let mut used = 0;
        for piece in row {
            let at = row_begin + used;
            batch.tokens[at..at + piece.len()].copy_from_slice(&piece.tokens[..piece.len()]);
            starts[at..at + piece.len()].fill(used as u32);
            for offset in piece.first_scored..piece.len() {
                batch.targets[at + offset] = piece.tokens[offset + 1];
                documents[at + offset] = piece.document;
                positions[at + offset] = piece.first_position + offset;
            }
            used += piece.len();
        }
        starts[row_begin + used..row_begin + length].fill(used as u32);
    }
    if rows.iter().any(|row| row.len() > 1) {
        batch.document_starts = Some(starts);
    }
    ScoredBatch { batch, documents, positions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn every_token_is_scored_exactly_once(
            lengths in prop::collection::vec(1usize..60, 1..12),
            window in 1usize..20,
            stride_share in 0.01f64..=1.0,
            batch_size in 1usize..5,
            bos in prop::option::of(Just(7u32)),
        ) {
            let stride = ((window as f64 * stride_share).ceil() as usize).clamp(1, window);
            let config = WindowConfig { window, stride, batch_size, bos };
            // Distinct tokens, so that a target in the wrong place cannot pass.
            let mut next = 100u32;
            let documents: Vec<Vec<u32>> = lengths.iter().map(|&n| (0..n).map(|_| { next += 1; next }).collect()).collect();
            let mut seen: BTreeMap<(usize, usize), usize> = BTreeMap::new();
            for scored in Windows::new(documents.iter().cloned().map(Ok), config).unwrap() {
                let ScoredBatch { batch, documents: whose, positions } = scored.unwrap();
                prop_assert!(batch.sequence_length <= window && batch.batch_size <= batch_size);
                for at in 0..batch.tokens.len() {
                    if batch.targets[at] == IGNORE {
                        continue;
                    }
                    let (document, position) = (whose[at], positions[at]);
                    prop_assert_eq!(batch.targets[at], documents[document][position]);
                    // All the context that stands in the same document of the row is the document's own.
                    let row = at / batch.sequence_length * batch.sequence_length;
                    let start = row + batch.document_starts.as_ref().map_or(0, |starts| starts[at] as usize);
                    let context = &batch.tokens[start..=at];
                    let mut whole: Vec<u32> = bos.into_iter().collect();
                    whole.extend(&documents[document]);
                    let end = position + usize::from(bos.is_some());
                    prop_assert_eq!(context, &whole[end - context.len()..end]);
                    // Every target has the context that the stride promises, or the whole beginning of its document.
                    prop_assert!(context.len() > window - stride || context.len() == end);
                    *seen.entry((document, position)).or_default() += 1;
                }
            }
            let first = usize::from(bos.is_none());
            let expected: BTreeMap<_, _> =
                documents.iter().enumerate().flat_map(|(d, tokens)| (first..tokens.len()).map(move |p| ((d, p), 1))).collect();
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn later_windows_score_only_the_stride() {
        let config = WindowConfig { window: 4, stride: 2, batch_size: 1, bos: None };
        let batches: Vec<_> = Windows::new([Ok((0..9).collect())].into_iter(), config).unwrap().map(|b| b.unwrap().batch).collect();
        assert_eq!(batches[0].targets, [1, 2, 3, 4]);
        assert_eq!(batches[1].targets, [IGNORE, IGNORE, 5, 6]);
        assert_eq!(batches[2].targets, [IGNORE, IGNORE, 7, 8]);
        assert_eq!(batches.len(), 3);
    }

    #[test]
    fn short_documents_share_a_row() {
        let config = WindowConfig { window: 6, stride: 6, batch_size: 2, bos: Some(9) };
        let documents = [vec![1, 2], vec![3, 4], vec![5, 6, 7], vec![8]];
        let batches: Vec<_> = Windows::new(documents.into_iter().map(Ok), config).unwrap().map(|b| b.unwrap().batch).collect();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].tokens, [9, 1, 9, 3, 9, 9, 5, 6, 0, 0]);
        assert_eq!(batches[0].document_starts.as_deref(), Some(&[0, 0, 2, 2, 4, 0, 0, 0, 3, 3][..]));
    }

    #[test]
    fn a_stride_beyond_the_window_is_refused() {
        let config = WindowConfig { window: 4, stride: 5, batch_size: 1, bos: None };
        assert!(config.validate().unwrap_err().to_string().contains("must not exceed the window (4)"));
    }
}
