//! A Parquet file whose headers are walked over before the parquet crate parses them. They are structs of Thrift's compact protocol, and what a reader does
//! not know in them it skips; the crate (60.1) skips as many elements of a list as the list claims to have, also where no bytes are left or an element takes
//! none, so that some hundred bytes can keep it busy for minutes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// How deep structs and lists may lie within each other; those of Parquet lie eight deep.
const MOST_DEPTH: u32 = 32;
/// What a file ends with: the length of its metadata, and four letters.
const END_BYTES: u64 = 8;

/// A file that the parquet crate reads from.
pub(super) struct ParquetFile {
    file: Arc<File>,
    size: u64,
}

impl ParquetFile {
    /// Takes a file, and checks the metadata at its end; what is no Parquet file at all is left to the crate to refuse.
    ///
    /// # Errors
    /// [`ParquetError`] where the metadata claims more than it has, or the file cannot be read.
    pub fn new(file: File) -> Result<Self> {
        let size = file.metadata()?.len();
        let found = Self { file: Arc::new(file), size };
        let Some(at) = size.checked_sub(END_BYTES) else { return Ok(found) };
        let mut end = [0; END_BYTES as usize];
        found.at(at).read_exact(&mut end)?;
        let [a, b, c, d, ..] = end;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        if let Some(start) = at.checked_sub(length) {
            Walk { from: BufReader::new(found.at(start)), left: length }.structure(0)?;
        }
        Ok(found)
    }

    fn at(&self, at: u64) -> Place {
        Place { file: self.file.clone(), at }
    }
}

impl Length for ParquetFile {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for ParquetFile {
    type T = PageHeader;

    fn get_read(&self, start: u64) -> Result<PageHeader> {
        Ok(PageHeader { from: BufReader::new(self.at(start)), left: self.size.saturating_sub(start), start, walked: false })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if self.size.checked_sub(start).is_none_or(|left| (length as u64) > left) {
            return Err(ParquetError::EOF(format!("{length} bytes at byte {start}, the file has {}", self.size)));
        }
        let mut bytes = vec![0; length];
        self.at(start).read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// A place in a file, independent of where others read.
struct Place {
    file: Arc<File>,
    at: u64,
}

impl Read for Place {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut file: &File = &self.file;
        file.seek(SeekFrom::Start(self.at))?;
        let count = file.read(into)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Where the crate reads the header of a page, if it reads anything: it is walked over just before.
pub(super) struct PageHeader {
    from: BufReader<Place>,
    start: u64,
    left: u64,
    walked: bool,
}

impl Read for PageHeader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.walked {
            Walk { from: &mut self.from, left: self.left }.structure(0).map_err(io::Error::other)?;
            self.from = BufReader::new(Place { file: self.from.get_ref().file.clone(), at: self.start });
            self.walked = true;
        }
        self.from.read(into)
    }
}

/// Walks over a struct without keeping anything of it, in time that its bytes bound.
struct Walk<R> {
    from: R,
    /// Bytes that may belong to it.
    left: u64,
}

impl<R: Read> Walk<R> {
    fn structure(&mut self, depth: u32) -> Result<()> {
        loop {
            let head = self.byte()?;
            let kind = head & 15;
            if kind == 0 {
                return Ok(());
            }
            if head >> 4 == 0 {
                self.number()?;
            }
            // A field that is true or false has no bytes of its own.
            if !matches!(kind, 1 | 2) {
                self.value(kind, depth)?;
            }
        }
    }

    fn value(&mut self, kind: u8, depth: u32) -> Result<()> {
        if depth > MOST_DEPTH {
            return Err(damaged(format!("its headers lie more than {MOST_DEPTH} deep within each other")));
        }
        match kind {
            3 => self.skip(1),
            4..=6 => self.number().map(drop),
            7 => self.skip(8),
            8 => {
                let length = self.number()?;
                self.skip(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let size = if head >> 4 == 15 { self.number()? } else { u64::from(head >> 4) };
                self.elements(size, &[head & 15], depth)
            }
            11 => match self.number()? {
                0 => Ok(()),
                size => {
                    let kinds = self.byte()?;
                    self.elements(size, &[kinds >> 4, kinds & 15], depth)
                }
            },
            12 => self.structure(depth + 1),
            13 => self.skip(16),
            _ => Err(damaged(format!("a header holds a value of the unknown kind {kind}"))),
        }
    }

    /// `size` times a value of each kind.
    fn elements(&mut self, size: u64, kinds: &[u8], depth: u32) -> Result<()> {
        if size > self.left {
            return Err(damaged(format!("a header claims a list of {size} values where {} bytes are left", self.left)));
        }
        // Not known to the format, and read in two ways: as a byte each, and as the crate skips them, as none.
        if size > 0 && kinds.iter().any(|kind| matches!(kind, 1 | 2)) {
            return Err(damaged(format!("a header holds a list of {size} truth values, and those of Parquet hold none")));
        }
        (0..size).try_for_each(|_| kinds.iter().try_for_each(|&kind| self.value(kind, depth + 1)))
    }

    fn claim(&mut self, count: u64) -> Result<()> {
        let cut = || damaged(format!("a header claims {count} bytes where {} are left", self.left));
        self.left = self.left.checked_sub(count).ok_or_else(cut)?;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8> {
        self.claim(1)?;
        let mut byte = [0];
        self.from.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 127) << shift;
            if byte & 128 == 0 {
                return Ok(number);
            }
        }
        Err(damaged("a number in a header has more than ten bytes".into()))
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        self.claim(count)?;
        let skipped = io::copy(&mut self.from.by_ref().take(count), &mut io::sink())?;
        if skipped == count { Ok(()) } else { Err(damaged("the file became shorter".into())) }
    }
}

fn damaged(message: String) -> ParquetError {
    ParquetError::General(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(bytes: &[u8]) -> std::result::Result<u64, String> {
        let mut walk = Walk { from: bytes, left: bytes.len() as u64 };
        walk.structure(0).map(|()| walk.left).map_err(|error| error.to_string())
    }

    /// A number, a text, true, a list of two structs with a number each, a map of one pair, a double, and three bytes that belong to none of it.
    const GOOD: [u8; 32] = [
        0x15, 0x96, 0x01, 0x18, 2, b'o', b'k', 0x11, 0x19, 0x2c, 0x15, 2, 0, 0x15, 4, 0, 0x1b, 1, 0x58, 7, 1, b'x', 0x17, 0, 0, 0, 0, 0, 0,
        0, 0, 0,
    ];

    #[test]
    fn a_struct_is_walked_over_to_its_end() {
        let mut more = GOOD.to_vec();
        more.extend([9, 9, 9]);
        assert_eq!(walk(&more), Ok(3));
        for end in 0..GOOD.len() {
            assert!(walk(&GOOD[..end]).unwrap_err().contains("are left"), "cut at {end}");
        }
    }

    #[test]
    fn what_claims_more_than_there_is_ends_at_once() {
        let most = [0xff, 0xff, 0xff, 0xff, 7];
        for (kinds, part) in [
            (&[0xf9, 0xf7][..], "a list of 2147483647 values where 2 bytes"), // doubles
            (&[0xf9, 0xf1], "a list of 2147483647"),                          // truth values
            (&[0xfa, 0xfd], "a list of 2147483647"),                          // a set of UUIDs
            (&[0xfb], "a list of 2147483647"),                                // a map
            (&[0xf8], "2147483647 bytes where 2 are left"),                   // a text
        ] {
            let mut bytes = kinds.to_vec();
            bytes.extend(most);
            // A map says after its size of which kinds it is.
            bytes.extend(&[0x55, 0, 0][usize::from(kinds != [0xfb])..]);
            let error = walk(&bytes).unwrap_err();
            assert!(error.contains(part), "{kinds:x?}: {error}");
        }
        // A list of truth values that would fit, lists in lists without end, and a number without end.
        assert!(walk(&[0xf9, 0x31, 1, 1, 1, 0]).unwrap_err().contains("a list of 3 truth values"));
        assert!(walk(&[&[0xf9][..], &[0x19; 100]].concat()).unwrap_err().contains("more than 32 deep"));
        assert!(walk(&[&[0xf6][..], &[0xff; 11]].concat()).unwrap_err().contains("more than ten bytes"));
        assert!(walk(&[0xfe]).unwrap_err().contains("unknown kind 14"));
    }
}
