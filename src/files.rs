//! Small files, read with a limit; large ones, read at offsets; patterns of paths; and digests as text.

pub mod pattern;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};

/// The folder that we are in has an empty name in front of others, and none of its own.
pub fn here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

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

/// An open regular file that is read at offsets, by any number of threads. It is not mapped: a file that shrinks meanwhile, or a disk that fails, is then an
/// error and not a signal (SIGBUS), which nothing could name.
#[derive(Debug)]
pub struct OffsetFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes when it was opened.
    pub len: u64,
    file: File,
}

impl OffsetFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] for what is no regular file.
    pub fn open(path: &Path) -> Result<Self> {
        // Looked at before it is opened: opening a pipe would wait for ever.
        if !std::fs::metadata(path).at(path)?.is_file() {
            return Err(Error::file(path, "is not a regular file"));
        }
        let file = File::open(path).at(path)?;
        let len = file.metadata().at(path)?.len();
        Ok(Self { path: path.to_path_buf(), len, file })
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] where the file ends before.
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.reader(offset).read_exact(buffer).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Error::file(
                &self.path,
                format_args!("ends before byte {}: was it changed while it was read?", offset + buffer.len() as u64),
            ),
            _ => Error::io(&self.path, source),
        })
    }

    /// A reader that starts at `offset` and shares no cursor with any other.
    pub fn reader(&self, offset: u64) -> OffsetReader<'_> {
        OffsetReader { file: self, position: offset }
    }

    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.file, buffer, offset)
    }
}

/// See [`OffsetFile::reader`].
pub struct OffsetReader<'a> {
    file: &'a OffsetFile,
    position: u64,
}

impl Read for OffsetReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for OffsetReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
            SeekFrom::End(delta) => self.file.len.checked_add_signed(delta),
        };
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
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
    fn a_file_that_shrinks_while_it_is_read_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = OffsetFile::open(&path).unwrap();
        let mut bytes = [0; 4];
        file.read_exact_at(6, &mut bytes).unwrap();
        assert_eq!((&bytes, file.len), (b"6789", 10));
        File::options().write(true).open(&path).unwrap().set_len(8).unwrap();
        let error = file.read_exact_at(6, &mut bytes).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("ends before byte 10"), "{error}");
        let error = OffsetFile::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is not a regular file"), "{error}");
    }

    #[test]
    fn digests_are_written_with_two_digits_a_byte() {
        assert_eq!(hex([0x00, 0x0f, 0xa0]), "000fa0");
    }
}
