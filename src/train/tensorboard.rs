//! TensorBoard event files: TFRecord frames with masked CRC-32C around hand-encoded `Event` messages with scalar summaries.

use std::io::Write;

/// A scalar at a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// Name of the curve; `/` groups curves.
    pub tag: String,
    /// Its value.
    pub value: f32,
}

/// Writes the record that starts an event file.
///
/// # Errors
/// Whatever `out` returns.
pub fn write_header(out: &mut impl Write, wall_time: f64) -> std::io::Result<()> {
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    bytes(&mut event, 3, b"brain.Event:2");
    write_record(out, &event)
}

/// Writes one event: the scalars of a step.
///
/// # Errors
/// Whatever `out` returns.
pub fn write_scalars(out: &mut impl Write, wall_time: f64, step: u64, scalars: &[Scalar]) -> std::io::Result<()> {
    let mut summary = Vec::new();
    for scalar in scalars {
        let mut value = Vec::new();
        bytes(&mut value, 1, scalar.tag.as_bytes());
        key(&mut value, 2, 5);
        value.extend(scalar.value.to_le_bytes());
        bytes(&mut summary, 1, &value);
    }
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    key(&mut event, 2, 0);
    varint(&mut event, step);
    bytes(&mut event, 5, &summary);
    write_record(out, &event)
}

/// A TFRecord frame: length, its checksum, data, its checksum.
fn write_record(out: &mut impl Write, data: &[u8]) -> std::io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    let mut frame = Vec::with_capacity(data.len() + 16);
    frame.extend(length);
    frame.extend(masked_crc(&length).to_le_bytes());
    frame.extend(data);
    frame.extend(masked_crc(data).to_le_bytes());
    // In one write, so that a reader that follows the file sees whole frames.
    out.write_all(&frame)
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    key(out, field, 1);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_record_format() {
        // CRC-32C of "123456789" is the algorithm's published check value.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn an_event_is_the_protocol_buffer_encoding_of_its_fields() {
        let mut out = Vec::new();
        write_scalars(&mut out, 1.5, 300, &[Scalar { tag: "loss".into(), value: 2.0 }]).unwrap();
        let event = [
            &[0x09][..], // wall_time, 64-bit
            &1.5f64.to_le_bytes(),
            &[0x10, 0xac, 0x02], // step = 300
            &[0x2a, 13],         // summary
            &[0x0a, 11],         // value
            &[0x0a, 4, b'l', b'o', b's', b's', 0x15],
            &2.0f32.to_le_bytes(),
        ]
        .concat();
        assert_eq!(out[..8], (event.len() as u64).to_le_bytes());
        assert_eq!(out[8..12], masked_crc(&out[..8]).to_le_bytes());
        assert_eq!(out[12..12 + event.len()], event);
        assert_eq!(out[12 + event.len()..], masked_crc(&event).to_le_bytes());
    }

    #[test]
    fn a_file_starts_with_the_version_that_readers_look_for() {
        let mut out = Vec::new();
        write_header(&mut out, 0.0).unwrap();
        assert!(out.windows(13).any(|w| w == b"brain.Event:2"));
    }
}
