//! How weights are stored, plain and in blocks of small integers, and how they become f32 again.

use half::{bf16, f16};

/// Weights in a super-block of the `K` formats.
const K: usize = 256;

/// A way of storing weights that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub(super) enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl Encoding {
    const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Name, number in GGUF files, weights a block, bytes a block.
    fn row(self) -> (&'static str, u32, usize, usize) {
        match self {
            Self::F32 => ("F32", 0, 1, 4),
            Self::F16 => ("F16", 1, 1, 2),
            Self::Bf16 => ("BF16", 30, 1, 2),
            Self::Q4_0 => ("Q4_0", 2, 32, 18),
            Self::Q4_1 => ("Q4_1", 3, 32, 20),
            Self::Q5_0 => ("Q5_0", 6, 32, 22),
            Self::Q5_1 => ("Q5_1", 7, 32, 24),
            Self::Q8_0 => ("Q8_0", 8, 32, 34),
            Self::Q2K => ("Q2_K", 10, K, 84),
            Self::Q3K => ("Q3_K", 11, K, 110),
            Self::Q4K => ("Q4_K", 12, K, 144),
            Self::Q5K => ("Q5_K", 13, K, 176),
            Self::Q6K => ("Q6_K", 14, K, 210),
        }
    }

    pub fn name(self) -> &'static str {
        self.row().0
    }

    pub fn from_gguf(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.row().1 == number)
    }

    /// The names of all encodings, for messages.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    pub fn block_size(self) -> usize {
        self.row().2
    }

    /// Bytes of `count` weights; `None` where they are not whole blocks or do not fit 64 bits.
    pub fn bytes(self, count: u64) -> Option<u64> {
        let (_, _, block, bytes) = self.row();
        if count.is_multiple_of(block as u64) { (count / block as u64).checked_mul(bytes as u64) } else { None }
    }

    /// Decodes whole blocks; `bytes` and `out` must be of the same number of weights.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let (_, _, size, width) = self.row();
        debug_assert_eq!(bytes.len() / width * size, out.len());
        let blocks = bytes.chunks_exact(width).zip(out.chunks_exact_mut(size));
        match self {
            Self::F32 => blocks.for_each(|(b, o)| o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::F16 => blocks.for_each(|(b, o)| o[0] = half_at(b, 0)),
            Self::Bf16 => blocks.for_each(|(b, o)| o[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::Q4_0 => blocks.for_each(|(b, o)| nibbles(o, &b[2..], 0, half_at(b, 0), |q| q - 8.0, 0.0)),
            Self::Q4_1 => blocks.for_each(|(b, o)| nibbles(o, &b[4..], 0, half_at(b, 0), |q| q, half_at(b, 2))),
            Self::Q5_0 => blocks.for_each(|(b, o)| nibbles(o, &b[6..], word_at(b, 2), half_at(b, 0), |q| q - 16.0, 0.0)),
            Self::Q5_1 => blocks.for_each(|(b, o)| nibbles(o, &b[8..], word_at(b, 4), half_at(b, 0), |q| q, half_at(b, 2))),
            Self::Q8_0 => blocks.for_each(|(b, o)| {
                let scale = half_at(b, 0);
                o.iter_mut().zip(&b[2..]).for_each(|(o, &q)| *o = f32::from(q as i8) * scale);
            }),
            Self::Q2K => blocks.for_each(|(b, o)| q2_k(b, o)),
            Self::Q3K => blocks.for_each(|(b, o)| q3_k(b, o)),
            Self::Q4K => blocks.for_each(|(b, o)| q4_k(b, o)),
            Self::Q5K => blocks.for_each(|(b, o)| q5_k(b, o)),
            Self::Q6K => blocks.for_each(|(b, o)| q6_k(b, o)),
        }
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn word_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// 32 weights: the low nibbles of 16 bytes, then their high ones, with a fifth bit each from `high`.
#[inline(always)]
fn nibbles(out: &mut [f32], packed: &[u8], high: u32, scale: f32, centre: impl Fn(f32) -> f32, minimum: f32) {
    for (j, &byte) in packed[..16].iter().enumerate() {
        let low = u32::from(byte & 15) | (high >> j & 1) << 4;
        let top = u32::from(byte >> 4) | (high >> (j + 16) & 1) << 4;
        out[j] = scale * centre(low as f32) + minimum;
        out[j + 16] = scale * centre(top as f32) + minimum;
    }
}

/// Weight `i` of the two-bit planes of the 2- and 3-bit formats: each half of 128 has four planes of 32.
fn two_bits(packed: &[u8], i: usize) -> u8 {
    packed[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// 16 scales (nibbles), 64 bytes of two-bit planes, scale of scales, scale of minima.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    for (i, out) in out.iter_mut().enumerate() {
        let sub = block[i / 16];
        *out = scale * f32::from(sub & 15) * f32::from(two_bits(&block[16..80], i)) - minimum * f32::from(sub >> 4);
    }
}

/// 32 bytes of third bits, 64 bytes of two-bit planes, 16 six-bit scales in 12 bytes, scale of scales.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 108);
    let packed = &block[96..108];
    for (i, out) in out.iter_mut().enumerate() {
        let sub = i / 16;
        let low = packed[sub % 8] >> (sub / 8 * 4) & 15;
        let high = packed[8 + sub % 4] >> (sub / 4 * 2) & 3;
        // The third bit is stored inverted: clear means minus four.
        let third = if block[i % 32] >> (i / 32) & 1 == 1 { 0 } else { 4 };
        let value = two_bits(&block[32..96], i) as i8 - third;
        *out = scale * f32::from((low | high << 4) as i8 - 32) * f32::from(value);
    }
}

/// The six-bit scale and minimum of sub-block `g` of the 4- and 5-bit formats, eight pairs in 12 bytes.
fn scale_and_minimum(packed: &[u8], g: usize) -> (f32, f32) {
    let (scale, minimum) = if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        (packed[g + 4] & 15 | packed[g - 4] >> 2 & 48, packed[g + 4] >> 4 | packed[g] >> 2 & 48)
    };
    (f32::from(scale), f32::from(minimum))
}

/// Scale of scales, scale of minima, 12 bytes of scales, 128 bytes of nibbles.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (g, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], g);
        let (scale, minimum) = (d * scale, m * minimum);
        for (out, byte) in out.iter_mut().zip(&block[16 + g / 2 * 32..]) {
            *out = scale * f32::from(byte >> (g % 2 * 4) & 15) - minimum;
        }
    }
}

/// As [`q4_k`], with 32 bytes of fifth bits before the nibbles.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (g, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], g);
        let (scale, minimum) = (d * scale, m * minimum);
        for ((out, byte), high) in out.iter_mut().zip(&block[48 + g / 2 * 32..]).zip(&block[16..48]) {
            *out = scale * f32::from(byte >> (g % 2 * 4) & 15 | (high >> g & 1) << 4) - minimum;
        }
    }
}

/// 128 bytes of nibbles, 64 bytes of two-bit planes, 16 signed scales, scale of scales.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 208);
    for (i, out) in out.iter_mut().enumerate() {
        let low = block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        let value = (low | two_bits(&block[128..192], i) << 4) as i8 - 32;
        *out = d * f32::from(block[192 + i / 16] as i8) * f32::from(value);
    }
}
