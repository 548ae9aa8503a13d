//! What bit rot, a broken disk or bad will leave of a file.

use std::fs;
use std::path::Path;

/// How a file was damaged, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// It ends before that byte.
    Cut(usize),
    /// One bit of it is another, or all of them.
    Flipped(usize),
    /// Something stands before it, or behind the last one, that wasn't there.
    Grown(usize),
}

/// `whole` damaged in each way at every byte of the first `dense`, at every `stride`th of the rest, and grown at its end.
pub fn every_way(whole: &[u8], dense: usize, stride: usize) -> impl Iterator<Item = (Damage, Vec<u8>)> {
    let positions = (0..whole.len().min(dense)).chain((dense..whole.len()).step_by(stride));
    let within = positions.flat_map(move |at| {
        // Every bit is flipped somewhere, in turn.
        let flipped = [1 << (at % 8), 1 << ((at + 3) % 8), 0xff].map(|bits: u8| {
            let mut bytes = whole.to_vec();
            bytes[at] ^= bits;
            (Damage::Flipped(at), bytes)
        });
        // The same byte once more, one that is nothing, and a number without end.
        let added = [&whole[at..=at], b"\0", &[0xff; 8]][at % 3];
        let grown = [&whole[..at], added, &whole[at..]].concat();
        [(Damage::Cut(at), whole[..at].to_vec()), (Damage::Grown(at), grown)].into_iter().chain(flipped)
    });
    within.chain([b"x".as_slice(), b"and something else"].map(|added| (Damage::Grown(whole.len()), [whole, added].concat())))
}

/// Puts a file in another's place. Written over, it would be waited for: ext4 puts on the disk what was emptied and is closed, 3 ms for each.
pub fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}
