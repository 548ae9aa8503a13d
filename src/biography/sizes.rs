//! Every number of every size.

use super::protocol::{Lesson, Protocol, Size};
use crate::checkpoint::Config;
use crate::grow::Sizes;
use crate::model::Precision;

impl Size {
    /// Its numbers.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Quickstart => Protocol {
                pretrained: 40,
                task_zero: 40,
                task_zero_asked: 0..40,
                new_people: 20,
                copies: 3,
                config: config(800, [128, 384, 4, 4], 256, true),
                dtype: Precision::Bf16,
                document_mask: true,
                growth: Sizes { hidden_size: 64, num_attention_heads: 2, num_key_value_heads: 2, intermediate_size: 192 },
                pretrain: Lesson { steps: 240, batch_size: 16, sequence_length: 96, warmup_steps: 12, measure_every: 240, ..PRETRAIN },
                task_zero_lesson: Lesson { steps: 120, sequence_length: 24, measure_every: 60, ..TASK_ZERO },
                task_lesson: Lesson { steps: 120, sequence_length: 24, measure_every: 15, ..TASK },
                asked_along: 40,
                asked_at_end: 40,
            },
            Self::Mini => Protocol {
                pretrained: 800,
                task_zero: 800,
                task_zero_asked: 0..800,
                new_people: 400,
                copies: 5,
                pretrain: Lesson { steps: 1_600, batch_size: 24, sequence_length: 96, warmup_steps: 80, measure_every: 400, ..PRETRAIN },
                // 25 passes: after ten (1,000 steps) only three answers in four are right.
                task_zero_lesson: Lesson { steps: 2_500, sequence_length: 28, measure_every: 500, ..TASK_ZERO },
                task_lesson: Lesson { steps: 800, sequence_length: 28, measure_every: 80, ..TASK },
                asked_along: 50,
                asked_at_end: 800,
                // The same model, of which more is wanted.
                ..Self::Quickstart.protocol()
            },
            Self::Small => Protocol {
                pretrained: 4_000,
                task_zero: 4_000,
                task_zero_asked: 0..4_000,
                new_people: 1_000,
                copies: 5,
                config: config(1_600, [192, 576, 6, 6], 256, true),
                dtype: Precision::Bf16,
                document_mask: true,
                growth: Sizes { hidden_size: 96, num_attention_heads: 3, num_key_value_heads: 3, intermediate_size: 288 },
                pretrain: Lesson {
                    steps: 6_000,
                    batch_size: 24,
                    sequence_length: 128,
                    warmup_steps: 200,
                    measure_every: 1_000,
                    ..PRETRAIN
                },
                // As many passes as `mini` has.
                task_zero_lesson: Lesson { steps: 12_500, sequence_length: 28, measure_every: 1_250, ..TASK_ZERO },
                task_lesson: Lesson { steps: 3_000, sequence_length: 28, measure_every: 200, ..TASK },
                asked_along: 50,
                asked_at_end: 1_000,
            },
            // 80,000 steps of 96 × 512 tokens, then 62,500 of 48 × 32 a task.
            Self::Paper => Protocol {
                pretrained: 100_000,
                task_zero: 50_000,
                task_zero_asked: 50_000..100_000,
                new_people: 20_000,
                copies: 5,
                config: config(8_192, [768, 2048, 12, 12], 512, false),
                dtype: Precision::Bf16,
                document_mask: false,
                growth: Sizes { hidden_size: 192, num_attention_heads: 3, num_key_value_heads: 3, intermediate_size: 512 },
                pretrain: Lesson {
                    steps: 80_000,
                    batch_size: 8,
                    gradient_accumulation: 12,
                    sequence_length: 512,
                    learning_rate: 1e-3,
                    learning_rate_floor: 0.1,
                    warmup_steps: 1_000,
                    weight_decay: 0.1,
                    epsilon: 1e-6,
                    measure_every: 5_000,
                },
                task_zero_lesson: Lesson { measure_every: 2_500, ..PAPER_TASK },
                task_lesson: Lesson { measure_every: 1_250, ..PAPER_TASK },
                asked_along: 200,
                asked_at_end: 2_000,
            },
        }
    }
}

/// What the small sizes' pre-training has in common; steps and batches are each size's own.
const PRETRAIN: Lesson = Lesson {
    steps: 0,
    batch_size: 24,
    gradient_accumulation: 1,
    sequence_length: 96,
    learning_rate: 3e-3,
    learning_rate_floor: 0.1,
    warmup_steps: 0,
    weight_decay: 0.1,
    epsilon: 1e-6,
    measure_every: 0,
};
/// The same of Task 0.
const TASK_ZERO: Lesson = Lesson {
    steps: 0,
    batch_size: 48,
    gradient_accumulation: 1,
    sequence_length: 24,
    learning_rate: 2e-3,
    learning_rate_floor: 0.1,
    warmup_steps: 20,
    weight_decay: 0.01,
    epsilon: 1e-6,
    measure_every: 0,
};
/// The same of Task 1 … k.
const TASK: Lesson = Lesson { learning_rate: 1e-3, ..TASK_ZERO };

/// What the paper's tasks have in common.
const PAPER_TASK: Lesson = Lesson {
    steps: 62_500,
    batch_size: 48,
    gradient_accumulation: 1,
    sequence_length: 32,
    learning_rate: 5e-6,
    learning_rate_floor: 0.9,
    warmup_steps: 0,
    weight_decay: 0.01,
    epsilon: 1e-6,
    measure_every: 0,
};

fn config(vocab_size: usize, [hidden_size, intermediate_size, layers, heads]: [usize; 4], context: usize, tied: bool) -> Config {
    let mut config = Config::new(vocab_size, hidden_size, intermediate_size, layers, heads);
    config.max_position_embeddings = context;
    config.tie_word_embeddings = tied;
    config
}
