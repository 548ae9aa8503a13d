//! Corpora on disk: readers, their errors, the token cache.

mod damage;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use damage::{Damage, every_way, put};
use parquet::basic::Compression;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use treering::data::reader::{RawDocument, read_documents};
use treering::data::{CorpusConfig, Encode, Format, HeldOut, HeldOutConfig, Split, TokenCache};
use treering::{Error, Result};

/// One token a byte; counts how often it is asked.
#[derive(Default)]
struct Bytes(AtomicUsize);

impl Encode for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(text.bytes().map(u32::from).collect())
    }
    fn end_of_text(&self) -> Option<u32> {
        Some(256)
    }
    fn fingerprint(&self) -> String {
        "bytes".into()
    }
}

fn write(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    put(&path, content);
    path
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

/// A Parquet file with the columns `id` (i64) and `text` (strings, null where `None`), in row groups of two.
fn parquet(rows: &[Option<&str>]) -> Vec<u8> {
    parquet_with(rows, WriterProperties::builder().set_compression(Compression::SNAPPY))
}

/// The same, written as `properties` say.
fn parquet_with(rows: &[Option<&str>], properties: WriterPropertiesBuilder) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    let schema = "message m { required int64 id; optional binary text (UTF8); }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let mut out = Vec::new();
    let mut writer = parquet::file::writer::SerializedFileWriter::new(&mut out, schema, Arc::new(properties.build())).unwrap();
    for group in rows.chunks(2) {
        let mut row_group = writer.next_row_group().unwrap();
        let mut column = row_group.next_column().unwrap().unwrap();
        let ids: Vec<i64> = (0..group.len() as i64).collect();
        column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        let mut column = row_group.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> = group.iter().flatten().map(|&text| ByteArray::from(text)).collect();
        let levels: Vec<i16> = group.iter().map(|text| i16::from(text.is_some())).collect();
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None).unwrap();
        column.close().unwrap();
        row_group.close().unwrap();
    }
    writer.close().unwrap();
    out
}

/// Every way to pack pages of both versions, with a dictionary and without.
fn packings() -> impl Iterator<Item = WriterPropertiesBuilder> {
    let all = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::ZSTD(Default::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ];
    let versions = [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0];
    let each = all.into_iter().flat_map(move |by| versions.map(|version| (by, version)));
    each.flat_map(|(by, version)| {
        [true, false].map(|dictionary| {
            WriterProperties::builder().set_compression(by).set_writer_version(version).set_dictionary_enabled(dictionary)
        })
    })
}

fn read(file: &Path, corpus: &CorpusConfig) -> Result<Vec<RawDocument>> {
    let mut documents = Vec::new();
    let mut each = |document| {
        documents.push(document);
        Ok(())
    };
    read_documents(file, corpus, 1000, &Arc::new(AtomicU64::new(0)), &mut each, None)?;
    Ok(documents)
}

fn texts(file: &Path, corpus: &CorpusConfig) -> Vec<String> {
    read(file, corpus).unwrap().into_iter().map(|document| document.text).collect()
}

fn corpus(path: &Path) -> CorpusConfig {
    CorpusConfig::new(path.to_str().unwrap())
}

const JSONL: &str =
    "{\"id\": 1, \"text\": \"eins\"}\n\n{\"text\": \"zwei\\nzeilig\", \"x\": {\"text\": 3}}\r\n{\"text\": \"  \"}\n{\"text\": \"셋\"}";

#[test]
fn jsonl_reads_the_same_plain_gzipped_and_zstd() {
    let folder = tempfile::tempdir().unwrap();
    let plain = JSONL.as_bytes();
    // Two members and two frames: both formats allow files to be joined.
    let halves = plain.split_at(30);
    let files = [
        write(folder.path(), "a.jsonl", plain),
        write(folder.path(), "a.ndjson.gz", &[gzip(halves.0), gzip(halves.1)].concat()),
        write(folder.path(), "a.jsonl.zst", &[zstd(halves.0), zstd(halves.1)].concat()),
    ];
    for file in files {
        assert_eq!(texts(&file, &corpus(&file)), ["eins", "zwei\nzeilig", "셋"], "{}", file.display());
    }
}

#[test]
fn plain_text_is_cut_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.txt", "\u{FEFF}eins\nzwei\n\n \ndrei\r\n".as_bytes());
    let with = |split| CorpusConfig { split, ..corpus(&file) };
    assert_eq!(texts(&file, &with(Split::File)), ["eins\nzwei\n\n \ndrei\r\n"]);
    assert_eq!(texts(&file, &with(Split::BlankLines)), ["eins\nzwei", "drei"]);
    assert_eq!(texts(&file, &with(Split::Lines)), ["eins", "zwei", "drei"]);
    let lines: Vec<u64> = read(&file, &with(Split::BlankLines)).unwrap().iter().map(|document| document.line).collect();
    assert_eq!(lines, [1, 5]);
}

#[test]
fn parquet_reads_a_string_column_across_row_groups() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.parquet", &parquet(&[Some("eins"), Some("zwei"), Some("셋"), Some(" "), Some("fünf")]));
    assert_eq!(texts(&file, &corpus(&file)), ["eins", "zwei", "셋", "fünf"]);
    // The length of the metadata, which stands at the end, is not taken for a header, whatever it is.
    for length in 0..256 {
        let properties = WriterProperties::builder().set_created_by("x".repeat(length));
        let file = write(folder.path(), "b.parquet", &parquet_with(&[Some("eins"), Some("zwei")], properties));
        assert_eq!(texts(&file, &corpus(&file)), ["eins", "zwei"], "{length}");
    }
}

#[test]
fn parquet_reads_the_same_however_it_is_packed() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [Some("eins"), Some("eins zwei"), Some("셋"), Some("셋"), Some("fünf")];
    for (index, properties) in packings().enumerate() {
        let file = write(folder.path(), &format!("{index}.parquet"), &parquet_with(&rows, properties));
        assert_eq!(texts(&file, &corpus(&file)), rows.map(Option::unwrap), "{index}");
    }
    assert_eq!(packings().count(), 28);
}

#[test]
fn broken_files_are_refused_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(2000));
    let big: String = (0..3000).map(|i| format!("{{\"text\": \"document {i} {}\"}}\n", i * 7919)).collect();
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() * 2 / 3].to_vec();
    let table = parquet(&[Some("eins"), None, Some("zwei")]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("json.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"b\"\n".to_vec(), "line 2: not a valid JSON object"),
        ("trailing.jsonl", b"{\"text\": \"a\"} x\n".to_vec(), "line 1: not a valid JSON object: trailing characters"),
        ("array.jsonl", b"[1]\n".to_vec(), "expected an object with the field \"text\""),
        (
            "missing.jsonl",
            b"{\"text\": \"a\"}\n\n{\"body\": \"b\"}\n".to_vec(),
            "line 3: the object has no field \"text\"; set `text_field`",
        ),
        ("type.jsonl", b"{\"text\": [\"a\"]}\n".to_vec(), "line 1: the field \"text\" must be a string, found an array"),
        ("null.jsonl", b"{\"text\": null}\n".to_vec(), "found null"),
        ("utf8.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xFF\"}\n".to_vec(), "line 2: invalid UTF-8 at byte 11 of the line"),
        ("utf8.txt", b"fine\n\xC3\x28\n".to_vec(), "line 2: invalid UTF-8 at byte 1"),
        ("long.jsonl", long.into_bytes(), "line 1: the line is longer than 1000 bytes"),
        ("long.txt", "abc\n".repeat(300).into_bytes(), "set `split`"),
        ("cut.jsonl.zst", cut(zstd(big.as_bytes())), "the zstd data is truncated or damaged"),
        ("cut.jsonl.gz", cut(gzip(big.as_bytes())), "the gzip data is truncated or damaged"),
        ("not.jsonl.zst", b"{\"text\": \"a\"}\n".to_vec(), "line 1: cannot decompress"),
        ("cut.parquet", cut(table.clone()), "the file is truncated or damaged"),
        ("empty.parquet", Vec::new(), "the file is truncated or damaged"),
        ("null.parquet", table, "row 2: the column \"text\" is null"),
    ];
    for (name, content, expected) in cases {
        let file = write(folder.path(), name, &content);
        let error = read(&file, &corpus(&file)).expect_err(name).to_string();
        assert!(error.contains(expected) && error.contains(name), "{name}: {error}");
    }
}

#[test]
fn parquet_columns_of_the_wrong_kind_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.parquet", &parquet(&[Some("eins")]));
    let with = |field: &str| CorpusConfig { text_field: field.into(), ..corpus(&file) };
    assert!(read(&file, &with("body")).unwrap_err().to_string().contains("no column \"body\"; set `text_field` to one of id, text"));
    assert!(read(&file, &with("id")).unwrap_err().to_string().contains("must hold one string a row, found INT64"));
}

#[test]
fn a_damaged_parquet_file_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    for properties in packings() {
        let whole = parquet_with(&[Some("eins"), Some("zwei"), Some("drei")], properties);
        for (damage, bytes) in every_way(&whole, usize::MAX, 1) {
            let file = write(folder.path(), "damaged.parquet", &bytes);
            let read = read(&file, &corpus(&file));
            // A flipped bit may go unnoticed; it must not take the process down.
            let refused = matches!(damage, Damage::Cut(_)) || damage == Damage::Grown(whole.len());
            assert!(!(refused && read.is_ok()), "{damage:?}");
        }
    }
}

/// Found by fuzzing: the parquet crate skips as many elements of an unknown list as it claims, for minutes.
#[test]
fn a_parquet_header_that_claims_a_list_without_end_is_refused_at_once() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let folder = tempfile::tempdir().unwrap();
    let whole = parquet(&[Some("eins"), Some("zwei"), Some("drei")]);
    let reader = SerializedFileReader::new(bytes::Bytes::from(whole.clone())).unwrap();
    let column = reader.metadata().row_group(0).column(1);
    let page = column.dictionary_page_offset().unwrap_or(column.data_page_offset()) as usize;
    let length = u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize;
    let started = std::time::Instant::now();
    for (place, at) in [("page", page), ("metadata", whole.len() - 8 - length)] {
        // The unknown field 15: 2³¹ - 1 doubles, or truth values.
        for (kind, list) in [("doubles", 0xf7), ("truth values", 0xf1)] {
            let mut bytes = whole.clone();
            bytes[at..at + 7].copy_from_slice(&[0xf9, list, 0xff, 0xff, 0xff, 0xff, 7]);
            let file = write(folder.path(), "endless.parquet", &bytes);
            let error = read(&file, &corpus(&file)).expect_err(place).to_string();
            assert!(error.contains("a list of 2147483647 values") && error.contains("endless.parquet"), "{place}, {kind}: {error}");
        }
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[test]
fn paths_are_files_globs_and_folders_in_sorted_order() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("odd [name]");
    for name in ["b/2.jsonl", "b/1.txt.gz", "a.parquet", "notes.md", ".hidden.jsonl", "b/x.parquet.gz", "c.jsonl.zst"] {
        write(&base, name, b"");
    }
    let names = |path: &str| -> Vec<String> {
        let files = CorpusConfig::new(path).files(&base).unwrap();
        files.iter().map(|file| file.strip_prefix(&base).unwrap().display().to_string()).collect()
    };
    assert_eq!(names("."), ["a.parquet", "b/1.txt.gz", "b/2.jsonl", "c.jsonl.zst"]);
    assert_eq!(names("b"), ["b/1.txt.gz", "b/2.jsonl"]);
    assert_eq!(names("*.jsonl*"), ["c.jsonl.zst"]);
    assert_eq!(names("b/2.jsonl"), ["b/2.jsonl"]);
    let error = |path: &str| CorpusConfig::new(path).files(&base).unwrap_err().to_string();
    assert!(error("none").contains("no such file, folder or glob match"));
    assert!(error("*.csv").contains("the glob matches no corpus file"));
    assert!(error("notes.md").contains("the suffix does not tell the format"));
    let forced = CorpusConfig { format: Some(Format::Text), ..CorpusConfig::new("notes.md") };
    assert_eq!(forced.files(&base).unwrap().len(), 1);
}

/// Found by fuzzing: `.*` led upwards, so that this went through the whole machine, and once more for each `**`.
#[test]
fn a_glob_stays_below_its_folder_and_is_done_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (base, deep) = (folder.path().join("base"), ["a"; 20].join("/"));
    for name in ["outside.jsonl", "base/a.jsonl", "base/b/.c/d.jsonl", "base/b/.c/e.txt", "base/b/f.jsonl", &format!("base/{deep}/g.jsonl")]
    {
        write(folder.path(), name, b"");
    }
    let found = |path: &str| CorpusConfig::new(path).files(&base).map(|files| files.len()).map_err(|error| error.to_string());
    assert!(found(".*/**/*/.*/.*/**/**/.*/.*//.*/.*/**").unwrap_err().contains("matches no corpus file"));
    assert!(found(&format!("{}/none.jsonl", ["**/a"; 10].join("/"))).unwrap_err().contains("matches no corpus file"));
    for (pattern, count) in [
        ("**", 3),
        ("**/*.jsonl", 3),
        ("*", 3),
        ("*/", 2),
        ("b/**/*", 1),
        ("b/.*", 2),
        ("*/.c/*.txt", 1),
        ("../*.jsonl", 1),
        ("b/../*.jsonl", 1),
    ] {
        assert_eq!(found(pattern), Ok(count), "{pattern}");
    }
    assert!(found("*/../a.jsonl").unwrap_err().contains("not a valid glob: `..` cannot follow a wildcard"));
}

#[cfg(unix)]
#[test]
fn links_back_and_names_that_are_no_text_harm_no_search() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    for name in ["b/a.jsonl", "c/a.jsonl"] {
        write(folder.path(), name, b"");
    }
    std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"b/\xff.jsonl")), b"").unwrap();
    for (to, name) in [(".", "b/one"), ("..", "b/two"), ("../c", "b/three"), ("nothing", "b/four")] {
        std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
    }
    for (pattern, count) in [("", 4), ("**/*.jsonl", 4), ("b", 4), ("*/\u{fffd}*", 1)] {
        assert_eq!(
            CorpusConfig::new(folder.path().join(pattern).to_str().unwrap()).files(Path::new("")).unwrap().len(),
            count,
            "{pattern}"
        );
    }
}

#[test]
fn a_corpus_is_tokenised_once_and_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.jsonl", JSONL.as_bytes());
    let cache = folder.path().join("cache");
    let encoder = Bytes::default();
    let mut reports = Vec::new();
    let mut open = || {
        TokenCache::open(&corpus(&file), Path::new(""), &cache, &encoder, &mut |progress| {
            reports.push(progress.clone());
            Ok(())
        })
        .unwrap()
    };
    let first = open();
    assert_eq!((first.documents(), first.tokens(), first.text_bytes()), (3, 4 + 11 + 3, 18));
    assert_eq!(first.document(1).unwrap(), (4..15, 11));
    let mut tokens = Vec::new();
    first.read(4..8, &mut tokens).unwrap();
    assert_eq!(tokens, b"zwei".map(u32::from));
    assert_eq!(open().fingerprint(), first.fingerprint());
    assert_eq!(encoder.0.load(Ordering::Relaxed), 3);
    write(folder.path(), "a.jsonl", b"{\"text\": \"neu\"}\n");
    assert_ne!(open().fingerprint(), first.fingerprint());
    assert_eq!(encoder.0.load(Ordering::Relaxed), 4);
    let last = reports.last().unwrap();
    assert_eq!((last.bytes_done, last.documents, last.tokens), (last.bytes_total, 1, 3));
    // The old mapping still serves the old tokens.
    tokens.clear();
    first.read(0..4, &mut tokens).unwrap();
    assert_eq!(tokens, b"eins".map(u32::from));
}

#[test]
fn an_empty_corpus_is_refused_by_name_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "leer.jsonl", b"\n\n{\"text\": \" \"}\n");
    let cache = folder.path().join("cache");
    let error = TokenCache::open(&corpus(&file), Path::new(""), &cache, &Bytes::default(), &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("leer.jsonl\" is empty"), "{error}");
    let left: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().unwrap() == "lock"), "{left:?}");
}

#[test]
fn a_damaged_or_half_written_cache_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.jsonl", JSONL.as_bytes());
    let cache = folder.path().join("cache");
    let encoder = Bytes::default();
    let open = || TokenCache::open(&corpus(&file), Path::new(""), &cache, &encoder, &mut |_| Ok(())).unwrap();
    let path = open().path().to_path_buf();
    let whole = std::fs::read(&path).unwrap();
    for damaged in [&whole[..whole.len() - 1], &whole[..20], &whole[1..], b""] {
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(open().tokens(), 18);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
    // Damage beyond the last 64 KiB is noticed when it is read: tests/hostile.rs.
    let mut flipped = whole.clone();
    flipped[8 + 3] = 0x7F;
    std::fs::write(&path, flipped).unwrap();
    let mut tokens = Vec::new();
    open().read(0..4, &mut tokens).unwrap();
    assert_eq!(tokens, b"eins".map(u32::from));
}

#[test]
fn leftovers_of_a_killed_process_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.jsonl", JSONL.as_bytes());
    let cache = folder.path().join("cache");
    let open = || TokenCache::open(&corpus(&file), Path::new(""), &cache, &Bytes::default(), &mut |_| Ok(())).unwrap();
    let path = open().path().to_path_buf();
    std::fs::remove_file(&path).unwrap();
    let leftover = path.with_extension("1.tokens.tmp");
    std::fs::write(&leftover, b"half").unwrap();
    open();
    assert!(!leftover.exists());
}

#[test]
fn two_at_once_make_a_cache_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.jsonl", JSONL.repeat(50).replace("셋\"}", "셋\"}\n").as_bytes());
    let cache = folder.path().join("cache");
    let encoder = Bytes::default();
    let open = || TokenCache::open(&corpus(&file), Path::new(""), &cache, &encoder, &mut |_| Ok(())).unwrap().tokens();
    let counts = std::thread::scope(|scope| [(); 4].map(|()| scope.spawn(open)).map(|thread| thread.join().unwrap()));
    assert_eq!(counts, [18 * 50; 4]);
    assert_eq!(encoder.0.load(Ordering::Relaxed), 150);
}

#[test]
fn stopping_while_tokenising_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.jsonl", JSONL.as_bytes());
    let cache = folder.path().join("cache");
    let stop = &mut |_: &treering::data::Progress| Err(Error::Interrupted("by hand".into()));
    let error = TokenCache::open(&corpus(&file), Path::new(""), &cache, &Bytes::default(), stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted(_)));
    assert!(std::fs::read_dir(&cache).unwrap().all(|entry| entry.unwrap().path().extension().unwrap() == "lock"));
}

#[test]
fn held_out_limits_take_whole_documents_from_the_front() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.jsonl", JSONL.as_bytes());
    let cache = folder.path().join("cache");
    let open = |max_documents, max_tokens| {
        let config = HeldOutConfig { max_documents, max_tokens, ..HeldOutConfig::new("klein", file.to_str().unwrap()) };
        HeldOut::open(&config, Path::new(""), &cache, &Bytes::default(), &mut |_| Ok(()))
    };
    let whole = open(None, None).unwrap();
    assert_eq!((whole.len(), whole.tokens(), whole.bytes(), whole.name()), (3, 18, 18, "klein"));
    assert_eq!(whole.document(2).unwrap().tokens.len(), 3);
    assert_eq!(whole.document(2).unwrap().bytes, "셋".len() as u64);
    assert!(whole.document(3).is_err());
    assert_eq!(open(Some(2), None).unwrap().len(), 2);
    assert_eq!(open(None, Some(15)).unwrap().len(), 2);
    assert_eq!(open(None, Some(14)).unwrap().len(), 1);
    assert_eq!(open(None, Some(1)).unwrap().len(), 1);
    assert!(open(Some(0), None).unwrap_err().to_string().contains("\"klein\" is limited to nothing"));
}
