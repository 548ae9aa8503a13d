//! A Parquet file whose headers are walked over before the parquet crate parses them.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use super::shapes::{FILE_META_DATA, PAGE_HEADER};
use super::thrift::Walk;

/// A page that takes no more than this may have been compressed to anything.
const FREE_PAGE_BYTES: i64 = 64 << 20;
/// How much smaller a larger page may have become; gzip reaches some 1,000.
const MOST_RATIO: i64 = 4096;
/// What a file ends with: the length of its metadata, and four letters.
const END_BYTES: u64 = 8;

/// A file that the parquet crate reads from.
#[derive(Clone)]
pub(super) struct ParquetFile {
    bytes: Contents,
    size: u64,
    claimed: Arc<AtomicUsize>,
}

/// Where its bytes are.
#[derive(Clone)]
enum Contents {
    Disk(Arc<File>),
    Memory(Bytes),
}

impl ParquetFile {
    /// Takes a file, and checks the metadata at its end; what is no Parquet file at all is left to the crate to refuse.
    ///
    /// # Errors
    /// [`ParquetError`] where the metadata claims more than it has, or the file cannot be read.
    pub fn new(file: File) -> Result<Self> {
        Self::checked(file.metadata()?.len(), Contents::Disk(Arc::new(file)))
    }

    /// As [`Self::new`] for a file that is in memory.
    ///
    /// # Errors
    /// [`ParquetError`] where the metadata claims more than it has.
    pub fn of_bytes(bytes: Bytes) -> Result<Self> {
        Self::checked(bytes.len() as u64, Contents::Memory(bytes))
    }

    fn checked(size: u64, bytes: Contents) -> Result<Self> {
        let found = Self { bytes, size, claimed: Arc::default() };
        let Some(at) = found.size.checked_sub(END_BYTES) else { return Ok(found) };
        let mut end = [0; END_BYTES as usize];
        found.at(at).read_exact(&mut end)?;
        let [a, b, c, d, ..] = end;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        if let Some(start) = at.checked_sub(length) {
            Walk::new(BufReader::new(found.at(start)), length).run(FILE_META_DATA)?;
        }
        Ok(found)
    }

    /// The same file for one more column, which has pages of its own that are read last.
    pub fn for_column(&self) -> Self {
        Self { claimed: Arc::default(), ..self.clone() }
    }

    /// The bytes that the page whose header was read last claims to have when it is unpacked.
    pub fn claimed(&self) -> usize {
        self.claimed.load(Ordering::Relaxed)
    }

    fn at(&self, at: u64) -> Place {
        Place { bytes: self.bytes.clone(), at }
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
        let left = self.size.saturating_sub(start);
        // The file's last bytes are read in this way too.
        Ok(PageHeader { file: self.clone(), from: BufReader::new(self.at(start)), left, start, walked: left <= END_BYTES })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if self.size.checked_sub(start).is_none_or(|left| (length as u64) > left) {
            return Err(ParquetError::EOF(format!("{length} bytes at byte {start}, the file has {}", self.size)));
        }
        if let Contents::Memory(bytes) = &self.bytes {
            return Ok(bytes.slice(start as usize..start as usize + length));
        }
        let mut bytes = vec![0; length];
        self.at(start).read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// A place in a file, independent of where others read.
struct Place {
    bytes: Contents,
    at: u64,
}

impl Read for Place {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = match &self.bytes {
            Contents::Disk(file) => {
                let mut file: &File = file;
                file.seek(SeekFrom::Start(self.at))?;
                file.read(into)?
            }
            Contents::Memory(bytes) => usize::try_from(self.at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default().read(into)?,
        };
        // Nobody asks for what lies behind the end, but for the crate where it skips.
        if count == 0 && !into.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}

/// Where the crate reads the header of a page, if it reads anything: that is walked over just before.
pub(super) struct PageHeader {
    file: ParquetFile,
    from: BufReader<Place>,
    start: u64,
    left: u64,
    walked: bool,
}

impl Read for PageHeader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.walked {
            let [_, _, unpacked, packed] = Walk::new(&mut self.from, self.left).run(PAGE_HEADER).map_err(io::Error::other)?;
            // The crate takes the lower 32 bits of whatever number is there.
            if let Some(size) = [unpacked, packed].into_iter().find(|&size| i32::try_from(size).is_err()) {
                return Err(io::Error::other(format!("a page claims a size of {size} bytes")));
            }
            // The crate refuses a size below 0.
            self.file.claimed.store(usize::try_from(unpacked).unwrap_or(0), Ordering::Relaxed);
            // The crate takes what a page claims to unpack to before it unpacks it.
            if unpacked > FREE_PAGE_BYTES && unpacked / MOST_RATIO > packed {
                return Err(io::Error::other(format!("a page of {packed} bytes claims to be {unpacked} when it is unpacked")));
            }
            self.from = BufReader::new(self.file.at(self.start));
            self.walked = true;
        }
        self.from.read(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_where_it_claims_no_more_than_it_can_be() {
        let read = |unpacked: &[u8]| {
            // A data page, the size that it unpacks to, ten bytes, an end; and the end of a file without metadata.
            let bytes = [&[0x15, 0, 0x15], unpacked, &[0x15, 20, 0], &[7; 10], &[0, 0, 0, 0, b'P', b'A', b'R', b'1']].concat();
            let mut first = [0; 4];
            let file = ParquetFile { size: bytes.len() as u64, bytes: Contents::Memory(bytes.into()), claimed: Arc::default() };
            file.get_read(0).unwrap().read_exact(&mut first).map(|()| first).map_err(|error| error.to_string())
        };
        assert_eq!(read(&[40]), Ok([0x15, 0, 0x15, 40]));
        // 64 MiB, and a byte more; the most there can be.
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x40]), Ok([0x15, 0, 0x15, 0x80]));
        assert!(read(&[0x82, 0x80, 0x80, 0x40]).unwrap_err().contains("a page of 10 bytes claims to be 67108865 when it is unpacked"));
        assert!(read(&[0xfe, 0xff, 0xff, 0xff, 0x0f]).unwrap_err().contains("claims to be 2147483647"));
        assert!(read(&[0x80, 0x80, 0x80, 0x80, 0x10]).unwrap_err().contains("a size of 2147483648 bytes"));
    }

    #[test]
    fn nothing_is_read_from_behind_the_end() {
        let mut disk = tempfile::tempfile().unwrap();
        let bytes = b"0123456789\xff\xff\xff\xffPAR1";
        io::Write::write_all(&mut disk, bytes).unwrap();
        for file in [ParquetFile::new(disk).unwrap(), ParquetFile::of_bytes(Bytes::from_static(bytes)).unwrap()] {
            assert_eq!(file.len(), 18);
            assert_eq!(file.get_bytes(8, 2).unwrap(), "89");
            for (start, length) in [(8, 11), (19, 0), (u64::MAX, 1), (0, usize::MAX)] {
                assert!(file.get_bytes(start, length).is_err(), "{start}, {length}");
            }
            let mut into = [0; 4];
            assert_eq!(file.at(8).read(&mut into).unwrap(), 4);
            for at in [18, 1 << 40] {
                assert_eq!(file.at(at).read(&mut into).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{at}");
            }
        }
    }
}
