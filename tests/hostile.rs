//! Corpora, token caches and recipes that are broken, cut, flipped, grown, huge or malicious: an error that says where, or the same text; never other tokens.

mod damage;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use damage::{Damage, every_way, put};
use treering::data::reader::{self, BadRecord, MAX_DOCUMENT_BYTES, read_documents};
use treering::data::{CorpusConfig, Encode, Split, TokenCache};
use treering::recipe::Recipe;
use treering::{Error, Result};

/// One token a byte; refuses texts that say so.
struct Bytes;

impl Encode for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.contains("REFUSE") { Err(Error::usage("refused")) } else { Ok(text.bytes().map(u32::from).collect()) }
    }
    fn end_of_text(&self) -> Option<u32> {
        None
    }
    fn fingerprint(&self) -> String {
        "bytes".into()
    }
}

fn write(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    put(&path, content);
    path
}

fn corpus(path: &Path) -> CorpusConfig {
    CorpusConfig::new(path.to_str().unwrap())
}

/// Texts that were read, what was told of others, and how it ended.
fn read(file: &Path, config: &CorpusConfig, limit: usize, forgiving: bool) -> (Vec<String>, Vec<String>, Result<()>) {
    let (mut texts, mut told) = (Vec::new(), Vec::new());
    let mut bad = |record: BadRecord| told.push(record.error);
    let bad: reader::OnBad = if forgiving { Some(&mut bad) } else { None };
    let mut each = |document: reader::RawDocument| {
        texts.push(document.text);
        Ok(())
    };
    let end = read_documents(file, config, limit, &Arc::new(AtomicU64::new(0)), &mut each, bad);
    (texts, told, end)
}

/// One good line, then every way in which a line can be bad, then another good one.
const BROKEN: [(&[u8], &str); 12] = [
    (b"{\"text\": \"cut", "not a valid JSON object"),
    (b"{\"text\": 5}", "must be a string, found a number"),
    (b"{\"text\": null}", "found null"),
    (b"{\"text\": [\"a\"]}", "found an array"),
    (b"{\"body\": \"a\"}", "has no field \"text\""),
    (b"[1, 2]", "not a valid JSON object"),
    (b"{\"text\": \"\xff\xfe\"}", "invalid UTF-8 at byte 11"),
    (b"{\"text\": \"a\x00b\"}", "not a valid JSON object"),
    (b"\x00\x00\x00\x00", "not a valid JSON object"),
    (b"{\"text\": \"a\"} {\"text\": \"b\"}", "not a valid JSON object"),
    (b"{\"text\": \"\\ud800\"}", "not a valid JSON object"),
    (b"{\"text\": \"a long, long, long, long, long, long, long, long, long, long line\"}", "longer than 60 bytes"),
];

#[test]
fn every_broken_line_is_an_error_with_file_and_line_or_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    for (line, says) in BROKEN {
        let file = write(folder.path(), "a.jsonl", &[b"{\"text\": \"good\"}\n", line, b"\n{\"text\": \"also good\"}\n"].concat());
        let (texts, _, end) = read(&file, &corpus(&file), 60, false);
        let error = end.unwrap_err();
        assert!(error.to_string().contains("a.jsonl: line 2: ") && error.to_string().contains(says), "{error}");
        assert_eq!((texts.len(), error.exit_code()), (1, 1));
        let (texts, told, end) = read(&file, &corpus(&file), 60, true);
        end.unwrap();
        assert_eq!(texts, ["good", "also good"], "{says}");
        assert!(told.len() == 1 && told[0].contains("a.jsonl: line 2: ") && told[0].contains(says), "{told:?}");
    }
    let all: Vec<u8> = BROKEN.iter().flat_map(|(line, _)| [line, &b"\n"[..]].concat()).collect();
    let (texts, told, end) = read(&write(folder.path(), "b.jsonl", &all), &corpus(&folder.path().join("b.jsonl")), 60, true);
    assert_eq!((texts.len(), told.len(), end.is_ok()), (0, 12, true));
    assert!(told[11].contains("line 12"), "{told:?}");
}

#[test]
fn plain_text_is_left_out_document_by_document() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.txt", b"one\n\ntwo \xff\nstill two\n\nthree\n\nfour is too long for it\nand longer\n\nfive\n");
    for (split, texts, lines) in [
        (Split::BlankLines, vec!["one", "three", "five"], vec!["line 3", "line 9"]),
        (Split::Lines, vec!["one", "still two", "three", "four is too long for it", "and longer", "five"], vec!["line 3"]),
        (Split::File, vec![], vec!["line 3"]),
    ] {
        let config = CorpusConfig { split, ..corpus(&file) };
        let (found, told, end) = read(&file, &config, 25, true);
        end.unwrap();
        assert_eq!(found, texts, "{split:?}");
        assert!(told.len() == lines.len() && told.iter().zip(&lines).all(|(told, line)| told.contains(line)), "{split:?}: {told:?}");
        assert!(read(&file, &config, 25, false).2.unwrap_err().to_string().contains(lines[0]));
    }
}

/// Only a document is forgiven: what follows a break in compressed data is not to be guessed.
#[test]
fn compressed_files_that_are_damaged_are_refused_or_read_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..300).map(|i| format!("{{\"text\": \"line {i} of {}\"}}\n", i * 7919 % 1000)).collect();
    let whole: Vec<String> = (0..300).map(|i| format!("line {i} of {}", i * 7919 % 1000)).collect();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(lines.as_bytes()).unwrap();
    let mut zst = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zst.include_checksum(true).unwrap();
    zst.write_all(lines.as_bytes()).unwrap();
    for (suffix, bytes) in [("gz", gz.finish().unwrap()), ("zst", zst.finish().unwrap())] {
        let name = format!("a.jsonl.{suffix}");
        let file = write(folder.path(), &name, &bytes);
        assert_eq!(read(&file, &corpus(&file), 1000, false).0, whole);
        for (damage, damaged) in every_way(&bytes, 0, 5) {
            write(folder.path(), &name, &damaged);
            match damage {
                // An empty file, to which zstd has nothing to say.
                Damage::Cut(0) => {}
                Damage::Cut(_) => {
                    for forgiving in [false, true] {
                        let error = read(&file, &corpus(&file), 1000, forgiving).2.unwrap_err().to_string();
                        assert!(error.contains(&name) && error.contains("truncated or damaged"), "{damage:?}: {error}");
                    }
                }
                Damage::Flipped(_) | Damage::Grown(_) => {
                    let (texts, _, end) = read(&file, &corpus(&file), 1000, false);
                    assert!(end.is_err() || texts == whole, "{suffix}: another text, {damage:?}");
                }
            }
        }
    }
}

#[test]
fn a_line_that_was_damaged_anywhere_takes_no_other_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = |line: usize| format!("Zeile {line} \u{e4} 나이테");
    let lines: Vec<String> = (0..6).map(|line| format!("{{\"id\": {line}, \"text\": \"{}\"}}\n", text(line))).collect();
    let whole = lines.concat();
    let line_of = |at: usize| whole.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
    let mut noticed = 0;
    for (damage, bytes) in every_way(whole.as_bytes(), usize::MAX, 1) {
        let file = write(folder.path(), "a.jsonl", &bytes);
        let (texts, told, end) = read(&file, &corpus(&file), 1000, true);
        end.unwrap();
        let touched = |line: usize| match damage {
            // The last line is as good without its end.
            Damage::Cut(at) => line > line_of(at) || line == line_of(at) && at + 1 < lines[..=line].concat().len(),
            // Without the end between them two lines are one.
            Damage::Flipped(at) => line == line_of(at) || line > 0 && line == line_of(at) + 1 && whole.as_bytes()[at] == b'\n',
            Damage::Grown(at) => line == line_of(at),
        };
        let mut found = texts.iter();
        for line in (0..lines.len()).filter(|line| !touched(*line)) {
            assert!(found.any(|found| *found == text(line)), "line {line} is gone, {damage:?}: {texts:?}");
        }
        assert!(told.iter().all(|told| told.contains("a.jsonl: line ")), "{damage:?}: {told:?}");
        // Who forgives nothing is told of the same line.
        let first = read(&file, &corpus(&file), 1000, false).2.err().map(|error| error.to_string());
        assert_eq!(first.as_ref(), told.first(), "{damage:?}");
        noticed += usize::from(first.is_some());
    }
    assert!(noticed > whole.len(), "{noticed}");
}

/// What can still be read is read as what it says, which is written back the same; everything else is refused by the file's name.
#[test]
fn recipes_that_were_damaged_anywhere_are_refused_by_name_or_read_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["smollm2-korean-route.toml", "smollm2-korean-lora.toml"] {
        let whole = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes").join(name)).unwrap();
        let (mut refused, mut read) = (0, 0);
        for (damage, bytes) in every_way(&whole, usize::MAX, 1) {
            let path = write(folder.path(), name, &bytes);
            match Recipe::load(&path, &[]) {
                Ok(recipe) => {
                    let written = recipe.resolved_toml();
                    assert_eq!(Recipe::parse(&written, folder.path(), &[]).unwrap(), recipe, "{damage:?}: {written}");
                    read += 1;
                }
                Err(error) => {
                    let says = error.to_string();
                    assert!(error.exit_code() == 2 && says.contains(name), "{damage:?}: {says}");
                    refused += 1;
                }
            }
        }
        assert!(refused > whole.len() && read > 100, "{name}: {refused} {read}");
    }
}

/// A line of a hundred megabytes is refused when it is longer than any document may be, without being kept, and the lines after it are read.
#[test]
fn a_line_of_a_hundred_megabytes_is_passed_over_in_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.jsonl");
    let mut out = std::io::BufWriter::new(fs::File::create(&file).unwrap());
    out.write_all(b"{\"text\": \"before\"}\n{\"text\": \"").unwrap();
    (0..100).for_each(|_| out.write_all(&[b'x'; 1 << 20]).unwrap());
    out.write_all(b"\"}\n{\"text\": \"after\"}\n").unwrap();
    out.flush().unwrap();
    let error = read(&file, &corpus(&file), MAX_DOCUMENT_BYTES, false).2.unwrap_err().to_string();
    assert!(error.contains("line 2: the line is longer than 67108864 bytes"), "{error}");
    let (texts, told, end) = read(&file, &corpus(&file), MAX_DOCUMENT_BYTES, true);
    end.unwrap();
    assert_eq!((texts, told.len()), (vec!["before".to_string(), "after".to_string()], 1));
}

#[test]
fn a_cache_says_what_was_skipped_and_is_kept_apart_from_one_without_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let broken: Vec<u8> = BROKEN[..11].iter().flat_map(|(line, _)| [line, &b"\n"[..]].concat()).collect();
    let file = write(folder.path(), "a.jsonl", &[b"{\"text\": \"good\"}\n{\"text\": \"REFUSE\"}\n", &broken[..]].concat());
    let cache = folder.path().join("cache");
    let open = |config: &CorpusConfig| TokenCache::open(config, Path::new(""), &cache, &Bytes, &mut |_| Ok(()));
    assert!(open(&corpus(&file)).unwrap_err().to_string().contains("a.jsonl: line "));
    let forgiving = CorpusConfig { skip_bad_records: true, ..corpus(&file) };
    // Made, and found again.
    for _ in 0..2 {
        let opened = open(&forgiving).unwrap();
        assert_eq!((opened.documents(), opened.tokens(), opened.skipped().documents), (1, 4, 12));
        assert!(opened.skipped().first.len() == 3 && opened.skipped().first[0].contains("line 3"), "{:?}", opened.skipped());
    }
    assert!(open(&corpus(&file)).is_err());
    let none = write(folder.path(), "b.jsonl", &broken);
    let error = open(&CorpusConfig { skip_bad_records: true, ..corpus(&none) }).unwrap_err().to_string();
    assert!(error.contains("is empty") && error.contains("11 could not be read"), "{error}");
}

/// A token cache with several blocks of checksums, made in `folder` where it is not there or damaged.
fn several_blocks(folder: &Path) -> TokenCache {
    let file = folder.join("a.jsonl");
    if !file.exists() {
        let lines: String = (0..2000).map(|i| format!("{{\"text\": \"document {i}, {}\"}}\n", i * i)).collect();
        write(folder, "a.jsonl", lines.as_bytes());
    }
    TokenCache::open(&corpus(&file), Path::new(""), &folder.join("cache"), &Bytes, &mut |_| Ok(())).unwrap()
}

/// Every region of it is damaged in turn.
#[test]
fn a_token_cache_that_was_damaged_anywhere_never_gives_other_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let open = || several_blocks(folder.path());
    let everything = |cache: &TokenCache| -> Result<(Vec<u32>, u64)> {
        let (mut tokens, mut bytes) = (Vec::new(), 0);
        for document in 0..cache.documents() {
            let (range, size) = cache.document(document)?;
            cache.read(range, &mut tokens)?;
            bytes += size;
        }
        Ok((tokens, bytes))
    };
    let opened = open();
    let (path, expected) = (opened.path().to_path_buf(), everything(&opened).unwrap());
    let whole = fs::read(&path).unwrap();
    assert!(whole.len() > 3 << 16, "{} bytes are too few blocks", whole.len());
    let (mut refused, mut made_again) = (0, 0);
    let dense = (0..32).chain(whole.len() - 100..whole.len());
    for at in dense.chain((32..whole.len() - 100).step_by(1999)) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        put(&path, &flipped);
        match everything(&open()) {
            Ok(found) => assert!(found == expected, "a flip at {at} gave other tokens"),
            Err(error) => {
                assert!(error.to_string().contains("the token cache is damaged; delete it"), "{error}");
                refused += 1;
            }
        }
        made_again += usize::from(fs::read(&path).unwrap() == whole);
    }
    assert!(refused > 20 && made_again > 20, "{refused} {made_again}");
    for bytes in [&whole[..whole.len() - 1], &whole[..1 << 16], &[&whole[..], b"x"].concat()] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(everything(&open()).unwrap(), expected);
    }
    // A cache of the version before is made again as well.
    let mut old = whole.clone();
    old[..8].copy_from_slice(b"TRTOKEN1");
    fs::write(&path, &old).unwrap();
    assert_eq!(everything(&open()).unwrap(), expected);
}

/// As another program may do to it, or a file system. Mapped, it would be a signal that ends the process.
#[test]
fn a_token_cache_that_shrinks_while_it_is_read_is_an_error_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let opened = several_blocks(folder.path());
    let mut tokens = Vec::new();
    let last = opened.tokens() - 100..opened.tokens();
    // Once compared with its checksum and then again, or for the first time.
    opened.read(last.clone(), &mut tokens).unwrap();
    fs::File::options().write(true).open(opened.path()).unwrap().set_len(70_000).unwrap();
    for range in [last, 40_000..40_100] {
        let error = opened.read(range, &mut tokens).unwrap_err().to_string();
        assert!(error.contains(opened.path().to_str().unwrap()) && error.contains("was it changed while it was read?"), "{error}");
    }
    opened.read(0..100, &mut tokens).unwrap();
    assert!(opened.document(0).is_err());
    assert_eq!(tokens.len(), 200);
}
