//! What our own commands leave for later: token caches, checkpoints, metrics, samples.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use treering::data::{Encode, StreamConfig, StreamState, TokenCache, TrainSource, TrainStream};
use treering::eval::suite::{Header, Samples};
use treering::report::comparison::Comparison;
use treering::train::{checkpoint as training, metrics};
use treering::{Result, report};

use super::{RECIPE, folder_of, sums_of, two_of, write};

/// One token a byte.
struct Bytes;

impl Encode for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn end_of_text(&self) -> Option<u32> {
        None
    }

    fn fingerprint(&self) -> String {
        "bytes".into()
    }
}

/// A stream over a corpus of ours in that folder, cached there; in windows, or in rows that each are a document.
fn small_stream(folder: &Path, packing: bool) -> Result<TrainStream> {
    let corpus = folder.join("small.jsonl");
    if !corpus.exists() {
        // More than one block of a token cache's checksums.
        let lines: String = (0..12).map(|i| format!("{{\"text\": \"{i} {}\"}}\n", "ring".repeat(300 + 20 * i))).collect();
        fs::write(&corpus, lines).expect("room for a corpus");
    }
    let sources = vec![TrainSource::new(corpus.to_string_lossy())];
    let config = StreamConfig { packing, open_documents: 3, ..StreamConfig::new(sources, 3000) };
    TrainStream::new(&config, Path::new(""), folder, &Bytes, 7, &mut |_| Ok(()))
}

/// What is done to a token cache, which is made anew where it shows: first byte odd, and all sums are made to fit what came of it; else the rest of that byte
/// says how much is cut off. Then four bytes each: a place (from the end where the highest bit is set), and what to flip there. Without the right sums there
/// must be no other tokens.
pub fn token_cache(data: &[u8]) {
    static GOOD: OnceLock<(PathBuf, Vec<u8>, Vec<u32>)> = OnceLock::new();
    let inner = folder_of("cached", &[]);
    let tokens = |cache: &TokenCache| -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        for document in 0..cache.documents() {
            cache.read(cache.document(document)?.0, &mut tokens)?;
        }
        Ok(tokens)
    };
    let (path, good, expected) = GOOD.get_or_init(|| {
        let stream = small_stream(&inner, true).expect("a corpus of ours");
        let cache = stream.caches().next().expect("of one corpus");
        (cache.path().to_path_buf(), fs::read(cache.path()).expect("a cache"), tokens(cache).expect("tokens"))
    });
    let mut bytes = good.clone();
    let Some((&how, edits)) = data.split_first() else { return };
    for edit in edits.chunks_exact(4) {
        let at = match (edit[2] & 0x80, u32::from_le_bytes([edit[0], edit[1], edit[2] & 0x7f, 0]) as usize) {
            (0, at) => at % bytes.len(),
            (_, at) => bytes.len() - 1 - at % 1024,
        };
        bytes[at] ^= edit[3];
    }
    let right = how & 1 == 1;
    if right {
        make_right(&mut bytes);
    } else {
        bytes.truncate(bytes.len() - usize::from(how) / 4);
    }
    fs::write(path, &bytes).expect("room for a cache");
    for packing in [true, false] {
        match small_stream(&inner, packing) {
            Ok(mut stream) => {
                let _ = stream.next_batch(3);
                if let Ok(found) = tokens(stream.caches().next().expect("of one corpus")) {
                    assert!(right || &found == expected);
                }
            }
            // Documents of any length, or of none; and rows are read at once, so that damage is found.
            Err(_) if right || !packing => {}
            Err(error) => panic!("a cache that is damaged is made again, but: {error}"),
        }
    }
}

/// Puts the sums right of a token cache whose numbers fit its size (`src/data/cache_file.rs` says what is where).
fn make_right(bytes: &mut [u8]) {
    const BLOCK: usize = 1 << 16;
    let Some(footer) = bytes.len().checked_sub(40) else { return };
    let number = |at: usize| u64::from_le_bytes(bytes[footer + at..][..8].try_into().expect("eight bytes"));
    let content = number(0).checked_mul(4).zip(number(8).checked_mul(16)).and_then(|(tokens, table)| tokens.checked_add(table));
    let content = content.and_then(|sum| sum.checked_add(number(16))).and_then(|sum| usize::try_from(sum).ok()?.checked_add(8));
    let Some(content) =
        content.filter(|&content| content.div_ceil(BLOCK).checked_mul(4).and_then(|sums| content.checked_add(sums)) == Some(footer))
    else {
        return;
    };
    for block in 0..content.div_ceil(BLOCK) {
        let sum = crc32c::crc32c(&bytes[block * BLOCK..content.min((block + 1) * BLOCK)]);
        bytes[content + 4 * block..][..4].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = u64::from(crc32c::crc32c(&bytes[content..footer + 24]));
    bytes[footer + 24..][..8].copy_from_slice(&sum.to_le_bytes());
}

/// `state.json` of a checkpoint whose hashes are right, a stream that goes on from what it says, and then the bytes as the list of hashes itself.
pub fn checkpoint(data: &[u8]) {
    thread_local! {
        static STREAM: RefCell<TrainStream> = RefCell::new(small_stream(&folder_of("positions", &[]), true).expect("a corpus of ours"));
    }
    let files = [(training::TRAINED_FILE, &b"x"[..]), (training::OPTIMIZER_FILE, b"x"), (training::STATE_FILE, data)];
    let inner = folder_of("state", &files);
    fs::write(inner.join(training::SUMS_FILE), sums_of(files)).expect("room");
    if let Ok(state) = training::load_state(&inner) {
        STREAM.with_borrow_mut(|stream| go_on(stream, state.stream));
    }
    fs::write(inner.join(training::SUMS_FILE), data).expect("room");
    let _ = training::load_state(&inner);
}

/// Goes on from a position as if it belonged to this stream's corpus. The same follows each time, and where it ends is a position again.
fn go_on(stream: &mut TrainStream, mut position: StreamState) {
    let own = stream.state();
    position.seed = own.seed;
    position.sources.truncate(own.sources.len());
    for (source, own) in position.sources.iter_mut().zip(&own.sources) {
        source.fingerprint.clone_from(&own.fingerprint);
    }
    if stream.restore(&position).is_err() {
        return;
    }
    let first = stream.next_batch(3).expect("a corpus of ours");
    let end = stream.state();
    stream.restore(&position).expect("it was one just now");
    assert_eq!(stream.next_batch(3).expect("a corpus of ours"), first);
    assert_eq!(stream.state(), end);
    assert!(stream.restore(&end).is_ok() || end.sources.iter().any(|source| source.opened >= 1 << 32 || source.tokens >= 1 << 40));
}

/// `metrics.jsonl` of a run, read as it is and cut back for a resumption.
pub fn metrics(data: &[u8]) {
    let inner = folder_of("run", &[(metrics::METRICS_FILE, data)]);
    let path = inner.join(metrics::METRICS_FILE);
    let _ = metrics::read(&path);
    let _ = metrics::Metrics::open(&inner, Some(metrics::Cut { step: 3, evaluated: true }));
    // What was kept is whole.
    let kept = metrics::read(&path);
    assert!(
        kept.as_ref().map_or(true, |kept| kept.iter().all(|record| record.step() <= 3)) || fs::read(&path).ok().as_deref() == Some(data)
    );
}

/// The items of a suite that were measured before a stop. What is gone on from is gone on from again.
pub fn samples(data: &[u8]) {
    let header = Header { version: Header::VERSION, model: "m".into(), heads: vec!["base".into()], fingerprint: "f".into() };
    let path = write("samples.jsonl", data);
    let fits = Samples::fits(&path, &header);
    if Samples::resume(&path, &header).is_ok() {
        assert!(Samples::resume(&path, &header).is_ok());
        assert!(fits.is_ok());
    }
}

/// Two runs beside each other: `metrics.jsonl`, a zero byte, and that of the other; and all that is made of them.
pub fn comparison(data: &[u8]) {
    let (one, other) = two_of(data);
    let runs = [("one", one), ("other", other)]
        .map(|(name, records)| folder_of(name, &[("recipe.toml", RECIPE.as_bytes()), (metrics::METRICS_FILE, records)]));
    let Ok(comparison) = Comparison::read(runs) else { return };
    let _ = comparison.to_text();
    let _ = comparison.to_markdown();
    let _ = comparison.measurements().to_csv();
    let _ = report::svg::render(&comparison.chart());
    let _ = report::page::render(&comparison);
    let _ = serde_json::to_string(&comparison).expect("a comparison can be written");
}
