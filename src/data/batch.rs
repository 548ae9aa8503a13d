//! One batch of token windows, as the model and the evaluation see it.

/// A target with this value counts neither in the loss nor in the metrics.
pub const IGNORE: u32 = u32::MAX;

/// `batch_size` windows of `sequence_length` tokens, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Number of windows.
    pub batch_size: usize,
    /// Tokens a window.
    pub sequence_length: usize,
    /// Input tokens, `[batch_size, sequence_length]`.
    pub tokens: Vec<u32>,
    /// The token each position has to predict, `[batch_size, sequence_length]`; [`IGNORE`] where none counts.
    pub targets: Vec<u32>,
    /// For each position the index *within its window* of its document's first token, so that attention and positions
    /// do not cross documents, `[batch_size, sequence_length]`; `None` when every window is one document.
    pub document_starts: Option<Vec<u32>>,
}

impl Batch {
    /// Number of targets that count.
    pub fn target_count(&self) -> usize {
        self.targets.iter().filter(|&&t| t != IGNORE).count()
    }
}
