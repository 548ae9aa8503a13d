//! A walk over a struct of Thrift's compact protocol, which the headers of a Parquet file are, before the parquet crate reads it. What a reader does not know in
//! one it skips; the crate (60.1) skips as many elements of a list as the list claims to have, also where no bytes are left or an element takes none, so that
//! some hundred bytes can keep it busy for minutes. Fields that it does know it reads as they should be, whatever they say they are; so that it and the walk see
//! the same, what is known is held to its shape. It makes room for as many columns within a column as are claimed, and follows them by recursion: so they must be
//! there, and not too deep.

use std::io::{self, Read};

use parquet::errors::{ParquetError, Result};

use super::shapes::{Fields, Shape};

/// How deep structs and lists may lie within each other; those of Parquet lie eight deep.
const MOST_DEPTH: u32 = 32;
/// How deep columns may lie within each other.
const MOST_NODES: usize = 100;

/// Walks over a struct without keeping anything of it, in time that its bytes bound.
pub(super) struct Walk<R> {
    from: R,
    /// Bytes that may belong to it.
    left: u64,
    /// The numbers in the fields 0 to 3 of the struct itself.
    first: [i64; 4],
    /// The children of the node that is being walked over.
    children: u64,
    /// Of that node's ancestors, from the root: how many children are still to come.
    to_come: Vec<u64>,
}

impl<R: Read> Walk<R> {
    /// Over a struct that begins where `from` stands, and is `left` bytes long at most.
    pub fn new(from: R, left: u64) -> Self {
        Self { from, left, first: [0; 4], children: 0, to_come: Vec::new() }
    }

    /// Walks, and returns the numbers in the struct's own fields 0 to 3, of which those that there are not are 0.
    ///
    /// # Errors
    /// [`ParquetError`] saying what is claimed and is not there, or is not of its shape.
    pub fn run(mut self, known: Fields) -> Result<[i64; 4]> {
        self.structure(known, 0)?;
        Ok(self.first)
    }

    /// A struct, of which `known` are the fields that are read.
    fn structure(&mut self, known: Fields, depth: u32) -> Result<()> {
        check_depth(depth)?;
        let mut last = 0i16;
        loop {
            let head = self.byte()?;
            let kind = head & 15;
            if kind == 0 {
                return Ok(());
            }
            let id = match head >> 4 {
                0 => i16::try_from(self.signed()?).ok(),
                more => last.checked_add(i16::from(more)),
            };
            last = id.ok_or_else(|| damaged("a header holds a field whose number is out of all proportion".into()))?;
            match known.iter().find(|(id, _)| *id == last) {
                Some((_, shape)) => self.known(shape, kind, last, depth)?,
                // A field that is true or false has no bytes of its own.
                None if matches!(kind, 1 | 2) => {}
                None => self.unknown(kind, depth)?,
            }
        }
    }

    /// A value that is read, in a field or a list of the number `id`.
    fn known(&mut self, shape: &Shape, kind: u8, id: i16, depth: u32) -> Result<()> {
        match (shape, kind) {
            (Shape::Truth, 1 | 2) => Ok(()),
            (Shape::Number, 4..=6) => {
                let number = self.signed()?;
                if depth == 0
                    && let Some(first) = usize::try_from(id).ok().and_then(|id| self.first.get_mut(id))
                {
                    *first = number;
                }
                Ok(())
            }
            (Shape::Byte, 3) | (Shape::Double, 7) | (Shape::Bytes, 8) => self.unknown(kind, depth),
            (Shape::Children, 4..=6) => {
                let children = self.signed()?;
                // Of what has more than 32 bits the crate takes the lower ones.
                let children = i32::try_from(children).ok().and_then(|children| u64::try_from(children).ok());
                self.children =
                    children.ok_or_else(|| damaged("a column claims to have no possible number of columns within it".into()))?;
                Ok(())
            }
            (Shape::Node(fields), 12) => {
                self.children = 0;
                self.structure(fields, depth + 1)?;
                self.node()
            }
            (Shape::Struct(fields), 12) => self.structure(fields, depth + 1),
            (Shape::List(shape), 9) => {
                let (size, kind) = self.list()?;
                (0..size).try_for_each(|_| self.known(shape, kind, id, depth + 1))
            }
            _ => Err(damaged(format!("a header holds a field {id} of the kind {kind}, which that field is not"))),
        }
    }

    /// Puts a node into its tree. Its children come after it, and each takes a byte at least.
    fn node(&mut self) -> Result<()> {
        if self.children > self.left {
            return Err(damaged(format!("a column claims {} columns within it where {} bytes are left", self.children, self.left)));
        }
        while self.to_come.pop_if(|left| *left == 0).is_some() {}
        if let Some(left) = self.to_come.last_mut() {
            *left -= 1;
        }
        if self.children > 0 {
            self.to_come.push(self.children);
        }
        if self.to_come.len() > MOST_NODES {
            return Err(damaged(format!("its columns lie more than {MOST_NODES} deep within each other")));
        }
        Ok(())
    }

    /// A value that is skipped.
    fn unknown(&mut self, kind: u8, depth: u32) -> Result<()> {
        check_depth(depth)?;
        match kind {
            3 => self.skip(1),
            4..=6 => self.number().map(drop),
            7 => self.skip(8),
            8 => {
                let length = self.number()?;
                self.skip(length)
            }
            9 | 10 => {
                let (size, kind) = self.list()?;
                self.elements(size, &[kind], depth)
            }
            11 => match self.number()? {
                0 => Ok(()),
                size => {
                    let kinds = self.byte()?;
                    self.check_size(size)?;
                    self.elements(size, &[kinds >> 4, kinds & 15], depth)
                }
            },
            12 => self.structure(&[], depth + 1),
            13 => self.skip(16),
            _ => Err(damaged(format!("a header holds a value of the unknown kind {kind}"))),
        }
    }

    /// How many elements a list has, and their kind.
    fn list(&mut self) -> Result<(u64, u8)> {
        let head = self.byte()?;
        let size = if head >> 4 == 15 { self.number()? } else { u64::from(head >> 4) };
        self.check_size(size)?;
        Ok((size, head & 15))
    }

    /// Every element takes a byte at least.
    fn check_size(&self, size: u64) -> Result<()> {
        if size > self.left {
            return Err(damaged(format!("a header claims a list of {size} values where {} bytes are left", self.left)));
        }
        Ok(())
    }

    /// `size` times a value of each kind, of which there may be as many.
    fn elements(&mut self, size: u64, kinds: &[u8], depth: u32) -> Result<()> {
        // Not known to the format, and read in two ways: as a byte each, and as the crate skips them, as none.
        if size > 0 && kinds.iter().any(|kind| matches!(kind, 1 | 2)) {
            return Err(damaged(format!("a header holds a list of {size} truth values, and those of Parquet hold none")));
        }
        (0..size).try_for_each(|_| kinds.iter().try_for_each(|&kind| self.unknown(kind, depth + 1)))
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
        number(|| self.byte())
    }

    /// A number that may be below zero.
    fn signed(&mut self) -> Result<i64> {
        self.number().map(zigzag)
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        self.claim(count)?;
        let skipped = io::copy(&mut self.from.by_ref().take(count), &mut io::sink())?;
        if skipped == count { Ok(()) } else { Err(damaged("the file became shorter".into())) }
    }
}

fn check_depth(depth: u32) -> Result<()> {
    if depth > MOST_DEPTH {
        return Err(damaged(format!("its headers lie more than {MOST_DEPTH} deep within each other")));
    }
    Ok(())
}

/// A whole number in groups of seven bits, the lowest first, as headers and pages have it.
pub(super) fn number(mut byte: impl FnMut() -> Result<u8>) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = byte()?;
        number |= u64::from(byte & 127) << shift;
        if byte & 128 == 0 {
            return Ok(number);
        }
    }
    Err(damaged("a number has more than ten bytes".into()))
}

/// The number that one of those stands for, of which every other is below zero.
pub(super) fn zigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

pub(super) fn damaged(message: String) -> ParquetError {
    ParquetError::General(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(known: Fields, bytes: &[u8]) -> std::result::Result<u64, String> {
        let mut walk = Walk::new(bytes, bytes.len() as u64);
        walk.structure(known, 0).map(|()| walk.left).map_err(|error| error.to_string())
    }

    /// A number, a text, true, a list of two structs with a number each, a map of one pair, a double, and an end.
    const GOOD: [u8; 32] = [
        0x15, 0x96, 0x01, 0x18, 2, b'o', b'k', 0x11, 0x19, 0x2c, 0x15, 2, 0, 0x15, 4, 0, 0x1b, 1, 0x58, 7, 1, b'x', 0x17, 0, 0, 0, 0, 0, 0,
        0, 0, 0,
    ];
    const FITS: Fields = &[
        (1, Shape::Number),
        (2, Shape::Bytes),
        (3, Shape::Truth),
        (4, Shape::List(&Shape::Struct(&[(1, Shape::Number)]))),
        (6, Shape::Double),
    ];

    #[test]
    fn a_struct_is_walked_over_to_its_end() {
        let more = [&GOOD[..], &[9, 9, 9]].concat();
        for known in [FITS, &[]] {
            assert_eq!(walk(known, &more), Ok(3));
            let first = Walk::new(&GOOD[..], 32).run(known).unwrap();
            assert_eq!(first, [0, if known.is_empty() { 0 } else { 75 }, 0, 0]);
            for end in 0..GOOD.len() {
                assert!(walk(known, &GOOD[..end]).unwrap_err().contains("are left"), "cut at {end}");
            }
        }
    }

    #[test]
    fn what_is_known_is_held_to_its_shape() {
        for (index, shape) in [(1, Shape::Bytes), (2, Shape::Number), (3, Shape::Number), (4, Shape::Struct(&[])), (6, Shape::Byte)] {
            let known: Fields = Box::leak(Box::new([(index, shape)]));
            assert!(walk(known, &GOOD).unwrap_err().contains(&format!("a field {index} of the kind")), "{index}");
        }
        assert!(walk(&[(4, Shape::List(&Shape::Number))], &GOOD).unwrap_err().contains("a field 4 of the kind 12"));
        // A field's number in full, -1 and 32768, and one that grows out of its bits.
        assert_eq!(walk(FITS, &[0x05, 1, 4, 0]), Ok(0));
        assert!(walk(FITS, &[0x05, 0x80, 0x80, 4, 4, 0]).unwrap_err().contains("out of all proportion"));
        assert!(walk(FITS, &[0x05, 0xfe, 0xff, 3, 4, 0x15, 4, 0]).unwrap_err().contains("out of all proportion"));
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
            let error = walk(&[], &bytes).unwrap_err();
            assert!(error.contains(part), "{kinds:x?}: {error}");
        }
        assert!(walk(FITS, &[0x49, 0xfc, 0xff, 0x7f, 0]).unwrap_err().contains("a list of 16383"));
        // A list of truth values that would fit, lists and structs in each other without end, and a number without end.
        assert!(walk(&[], &[0xf9, 0x31, 1, 1, 1, 0]).unwrap_err().contains("a list of 3 truth values"));
        assert!(walk(&[], &[&[0xf9][..], &[0x19; 100]].concat()).unwrap_err().contains("more than 32 deep"));
        assert!(walk(&[], &[0xfc; 100]).unwrap_err().contains("more than 32 deep"));
        assert!(walk(&[], &[&[0xf6][..], &[0xff; 11]].concat()).unwrap_err().contains("more than ten bytes"));
        assert!(walk(&[], &[0xfe]).unwrap_err().contains("unknown kind 14"));
    }

    #[test]
    fn a_tree_has_the_children_that_it_claims_and_is_not_too_deep() {
        const TREE: Fields = &[(1, Shape::List(&Shape::Node(&[(1, Shape::Children)])))];
        let node = |children: u8| if children == 0 { vec![0] } else { vec![0x15, 2 * children, 0] };
        let tree = |nodes: &[u8]| [vec![0x19, 0xfc, nodes.len() as u8], nodes.iter().flat_map(|&n| node(n)).collect(), vec![0]].concat();
        let walked = |nodes: &[u8]| walk(TREE, &tree(nodes));
        // Two subtrees of two; more nodes than the root has are the crate's to refuse.
        assert_eq!(walked(&[2, 2, 0, 0, 2, 0, 0]), Ok(0));
        assert_eq!(walked(&[1, 0, 0, 0]), Ok(0));
        assert!(walked(&[0, 0, 9]).unwrap_err().contains("a column claims 9 columns within it where 1 bytes are left"));
        // 2³¹ - 1, and -1.
        assert!(walk(TREE, &[0x19, 0x1c, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0]).unwrap_err().contains("claims 2147483647"));
        assert!(walk(TREE, &[0x19, 0x1c, 0x15, 1, 0, 0]).unwrap_err().contains("no possible number"));
        assert!(walk(TREE, &[0x19, 0x1c, 0x15, 0x80, 0x80, 0x80, 0x80, 0x20, 0, 0]).unwrap_err().contains("no possible number"));
        let chain = |deep: usize| [vec![1; deep], vec![0]].concat();
        assert_eq!(walked(&chain(100)), Ok(0));
        assert!(walked(&chain(101)).unwrap_err().contains("more than 100 deep"));
        // Many beside each other are not deep, nor is what ends within another's last child.
        let mut pairs = vec![60];
        pairs.extend([1, 0].repeat(60));
        assert_eq!(walked(&pairs), Ok(0));
    }
}
