//! Small files, read with a limit, and digests as text.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, IoContext, Result};

/// The bytes of a file that has at most `most` of them; `what` says in the message what no such file is. A larger one is refused by its length, before
/// anything is read; what has no length, as a device, is read up to the limit.
///
/// # Errors
/// [`Error::Io`], and [`Error::File`] for a larger one.
pub fn read_limited(path: &Path, most: u64, what: &str) -> Result<Vec<u8>> {
    let too_large = || Error::file(path, format_args!("is larger than {most} bytes, which no {what} is"));
    let file = File::open(path).at(path)?;
    let length = file.metadata().at(path)?.len();
    if length > most {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(most + 1).read_to_end(&mut bytes).at(path)?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) }
}

/// As [`read_limited`], of a text in UTF-8.
///
/// # Errors
/// As [`read_limited`], and [`Error::File`] naming the place of what is no UTF-8.
pub fn read_limited_text(path: &Path, most: u64, what: &str) -> Result<String> {
    let bytes = read_limited(path, most, what)?;
    String::from_utf8(bytes).map_err(|error| Error::file(path, format_args!("is not UTF-8: {}", error.utf8_error())))
}

/// Bytes in hexadecimal, as digests are written.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_limited(&path, 5, "note").unwrap(), b"12345");
        let error = read_limited(&path, 4, "note").unwrap_err().to_string();
        assert!(error.contains("larger than 4 bytes, which no note is") && error.contains('a'), "{error}");
        std::fs::write(&path, b"12\xff").unwrap();
        let error = read_limited_text(&path, 5, "note").unwrap_err().to_string();
        assert!(error.contains("not UTF-8") && error.contains("index 2"), "{error}");
        // A device tells no length and has no end.
        assert!(read_limited(Path::new("/dev/zero"), 10, "note").unwrap_err().to_string().contains("larger than 10 bytes"));
    }

    #[test]
    fn digests_are_written_with_two_digits_a_byte() {
        assert_eq!(hex([0x00, 0x0f, 0xa0]), "000fa0");
    }
}
