//! What the fuzz targets do: hand arbitrary bytes to a reader as the file that it reads, and then use whatever it made of them as far as a
//! command would. An error is fine; a panic, an overflow, a hang, or a piece of memory that no such file can need is a finding.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use sha2::{Digest, Sha256};
use treering::checkpoint::{BaseCheckpoint, Config};
use treering::data::biography::dataset::{DATASET_FILE, Dataset};
use treering::data::{CorpusConfig, Encode, Format, Split, TokenCache, reader};
use treering::eval::suite::{Header, Samples, Selection, Suite};
use treering::export::widened::Widened;
use treering::grow::{file as expansion_file, layout};
use treering::hub::HubName;
use treering::recipe::Recipe;
use treering::report::comparison::Comparison;
use treering::route::{GATE_FILE, Gate, Recall, recall};
use treering::tokenizer::Tokenizer;
use treering::train::{checkpoint as training, metrics};
use treering::{Result, baseline, report, route, study};

/// The largest piece of memory that a reader may ask for at once. Inputs are a few KiB; what is larger comes from a number in them.
const MOST_AT_ONCE: usize = 256 << 20;

/// Stops where a header's number was believed.
struct Watched;

impl Watched {
    fn check(size: usize) {
        if size > MOST_AT_ONCE {
            eprintln!("{size} bytes were asked for at once");
            std::process::abort();
        }
    }
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::check(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::check(size);
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// A folder of this process: in the one that scripts/fuzz.sh makes and removes, or in memory where the system has such a place.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let shm = Path::new("/dev/shm");
        let or_else = || if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() };
        let base = std::env::var_os("TREERING_FUZZ_FOLDER").map_or_else(or_else, PathBuf::from);
        let folder = base.join(format!("treering-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for inputs");
        // A library's panic that a reader turns into an error is none of ours; libFuzzer's own hook would end here.
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !treering::guard::is_guarded() {
                report(info);
            }
        }));
        folder
    })
}

fn write(name: &str, data: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, data).expect("room for an input");
    path
}

/// A configuration that fits no file by chance, so that tensors of small sizes are found.
const CONFIG: &str = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32, "tie_word_embeddings": true}"#;

fn config_of_sixteen() -> Config {
    let path = folder().join("sixteen.json");
    if !path.exists() {
        fs::write(&path, CONFIG).expect("room for a configuration");
    }
    Config::from_file(&path).expect("a configuration of ours")
}

/// Everything that can be done with a base before it is computed with.
fn use_base(path: &Path) {
    let Ok(base) = BaseCheckpoint::open(path) else { return };
    let _ = base.sha256();
    for info in base.tensor_infos() {
        let _ = base.tensor(&info.name, &info.shape);
    }
    let _ = treering::checkpoint::rope::inverse_frequencies(base.config());
    let _ = base.config().parameter_count();
    if let Ok(tokenizer) = base.tokenizer() {
        use_tokenizer(&tokenizer);
    }
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    let tokens = tokenizer.encode("Rings 나이테\n <|im_end|>\0 4,844").unwrap_or_default();
    let _ = tokenizer.decode(&tokens);
    let _ = tokenizer.to_json();
}

/// `model.safetensors` of a Hugging Face folder, and the same bytes as a file of trained blocks.
pub fn safetensors(data: &[u8]) {
    write("config.json", CONFIG.as_bytes());
    let path = write("model.safetensors", data);
    use_base(folder());
    let _ = expansion_file::load_parameters(&path, None);
    let _ = expansion_file::list_parameters(&path);
}

/// A `.gguf` file, its tokenizer included.
pub fn gguf(data: &[u8]) {
    use_base(&write("model.gguf", data));
}

/// A `config.json`, and what a plan works out from it.
pub fn config(data: &[u8]) {
    let Ok(config) = Config::from_file(write("config.json", data)) else { return };
    let _ = config.parameter_count();
    let _ = treering::checkpoint::rope::inverse_frequencies(&config);
    let text = config.to_json();
    assert_eq!(Config::from_file(write("again.json", text.as_bytes())).ok().as_ref(), Some(&config), "{text}");
    for kind in ["scale-preserve", "scale-adapt", "full", "freeze", "lora", "llama-pro"] {
        let text = format!(
            "[model]\npath = \"m\"\n[method]\nkind = \"{kind}\"\n[data]\ntrain = \"a.jsonl\"\nsequence_length = 8\n[train]\nsteps = 1\n"
        );
        let recipe = Recipe::parse(&text, folder(), &[]).expect("a recipe of ours");
        let _ = recipe.resolve(&config);
    }
}

/// `model.safetensors.index.json` beside a shard.
pub fn index(data: &[u8]) {
    let inner = folder().join("sharded");
    let _ = fs::create_dir_all(&inner);
    fs::write(inner.join("config.json"), CONFIG).expect("room");
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  "#;
    let mut shard = (header.len() as u64).to_le_bytes().to_vec();
    shard.extend_from_slice(header);
    shard.extend_from_slice(&1.0f32.to_le_bytes());
    fs::write(inner.join("a.safetensors"), shard).expect("room");
    fs::write(inner.join("model.safetensors.index.json"), data).expect("room");
    use_base(&inner);
}

/// Two files in one input, with a zero byte between them; the second is empty where there is none.
fn two_of(data: &[u8]) -> (&[u8], &[u8]) {
    data.iter().position(|&byte| byte == 0).map_or((data, &[]), |at| (&data[..at], &data[at + 1..]))
}

/// A `tokenizer.json`, a zero byte, and the `tokenizer_config.json` beside it.
pub fn tokenizer(data: &[u8]) {
    let (data, config) = two_of(data);
    let path = folder().join("tokenizer_config.json");
    if config.is_empty() {
        let _ = fs::remove_file(path);
    } else {
        fs::write(path, config).expect("room");
    }
    if let Ok(tokenizer) = Tokenizer::from_file(write("tokenizer.json", data)) {
        use_tokenizer(&tokenizer);
    }
}

/// A recipe; one that is read must be written back to an equal one.
pub fn recipe(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(recipe) = Recipe::parse(text, Path::new("/r"), &[]) else { return };
    let written = recipe.resolved_toml();
    match Recipe::parse(&written, Path::new("/r"), &[]) {
        Ok(again) => assert_eq!(again, recipe, "{written}"),
        Err(error) => panic!("{error}\n{written}"),
    }
    let _ = recipe.resolve(&config_of_sixteen());
}

/// The file of a study.
pub fn study(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = study::Study::parse(text, "fuzzed", None);
    }
}

/// What a data set of biographies says about itself; what is read is written back to the same.
pub fn dataset(data: &[u8]) {
    let inner = folder().join("dataset");
    let _ = fs::create_dir_all(&inner);
    let path = inner.join(DATASET_FILE);
    fs::write(&path, data).expect("room");
    if let Ok(found) = Dataset::open(&inner) {
        fs::write(&path, serde_json::to_vec(&found).expect("numbers and text")).expect("room");
        assert_eq!(Dataset::open(&inner).ok(), Some(found));
    }
}

/// Routers as they are named on a command line; what is read must be written back to the same.
pub fn router(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(routers) = route::parse_list(text) {
        let names: Vec<String> = routers.iter().map(ToString::to_string).collect();
        assert_eq!(route::parse_list(&names.join(",")).ok(), Some(routers), "{names:?}");
    }
}

/// What a router asks beside the heads: a gate where the first byte is a brace, else a recall. What is read is written back to the same.
pub fn aids(data: &[u8]) {
    let folder = folder();
    if data.first() == Some(&b'{') {
        write(GATE_FILE, data);
        if let Ok(Some(gate)) = Gate::load(folder) {
            gate.save(folder).expect("room");
            assert!(Gate::load(folder).is_ok_and(|found| found.is_some()));
        }
    } else {
        write(recall::FILE, data);
        if let Ok(Some(found)) = Recall::load(folder) {
            found.save(folder).expect("room");
            assert_eq!(Recall::load(folder).ok().flatten(), Some(found));
        }
    }
}

/// A name of a model or corpus on the hub, and what is made of it.
pub fn hub(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = HubName::of(Path::new(text));
    if let Ok(name) = text.parse::<HubName>() {
        let _ = (name.asked().len(), name.root(), name.at("0123456789abcdef"));
    }
}

/// The files of an evaluation suite: the first byte says of which, the rest is the file, or an archive of files.
pub fn suite(data: &[u8]) {
    const FILES: [(&str, &str); 6] = [
        ("arc-easy-test.jsonl", "arc_easy"),
        ("hellaswag_val.jsonl", "hellaswag"),
        ("winogrande_dev.jsonl", "winogrande"),
        ("truthfulqa.csv", "truthfulqa_mc2"),
        ("mc_task.json", "truthfulqa_mc1"),
        ("sets.tar", "kobest"),
    ];
    let Some((&which, data)) = data.split_first() else { return };
    let (name, task) = FILES[usize::from(which) % FILES.len()];
    let inner = folder().join("suite");
    let _ = fs::remove_dir_all(&inner);
    fs::create_dir_all(&inner).expect("room");
    fs::write(inner.join(name), data).expect("room");
    for shots in ["0", "2"] {
        let selection = Selection::new([task], [shots]).expect("a task of ours");
        if let Ok(suite) = Suite::open(&inner, selection, Some(5)) {
            for task in suite.tasks() {
                (0..task.items.len()).for_each(|index| drop(task.prefix(index)));
            }
        }
    }
}

/// A corpus: the first byte says in which form, the rest is the file.
pub fn corpus(data: &[u8]) {
    let Some((&form, data)) = data.split_first() else { return };
    let suffix = ["", ".gz", ".zst"][usize::from(form % 3)];
    let (format, split) =
        [(Format::Jsonl, Split::File), (Format::Text, Split::File), (Format::Text, Split::BlankLines), (Format::Text, Split::Lines)]
            [usize::from(form / 3 % 4)];
    read_corpus(&format!("corpus.bin{suffix}"), data, format, split, 1 << 16);
}

/// A Parquet file.
pub fn parquet(data: &[u8]) {
    read_corpus("corpus.parquet", data, Format::Parquet, Split::File, 1 << 16);
}

fn read_corpus(name: &str, data: &[u8], format: Format, split: Split, limit: usize) {
    let path = write(name, data);
    let config = CorpusConfig { format: Some(format), split, ..CorpusConfig::new(path.to_string_lossy()) };
    let mut bad = |record: reader::BadRecord| assert!(record.error.contains("corpus."), "{}", record.error);
    for bad in [None, Some(&mut bad as &mut dyn FnMut(reader::BadRecord))] {
        let _ = reader::read_documents(
            &path,
            &config,
            limit,
            &Arc::new(AtomicU64::new(0)),
            &mut |document| {
                assert!(document.text.len() <= limit && document.line > 0);
                Ok(())
            },
            bad,
        );
    }
}

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

/// A token cache under the name that a small corpus has, damaged: four bytes each say where and how, and the first of all how much is cut off. Whatever is
/// damaged, no other tokens come out.
pub fn token_cache(data: &[u8]) {
    static GOOD: OnceLock<(PathBuf, Vec<u8>, Vec<u32>)> = OnceLock::new();
    let corpus = folder().join("small.jsonl");
    let cache = folder().join("cache");
    let open = || TokenCache::open(&CorpusConfig::new(corpus.to_string_lossy()), Path::new(""), &cache, &Bytes, &mut |_| Ok(()));
    let tokens = |cache: &TokenCache| -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        for document in 0..cache.documents() {
            cache.read(cache.document(document)?.0, &mut tokens)?;
        }
        Ok(tokens)
    };
    let (path, good, expected) = GOOD.get_or_init(|| {
        // More than one block of checksums.
        let lines: String = (0..1500).map(|i| format!("{{\"text\": \"ring {i} of many\"}}\n")).collect();
        fs::write(&corpus, lines).expect("room for a corpus");
        let cache = open().expect("a corpus of ours");
        (cache.path().to_path_buf(), fs::read(cache.path()).expect("a cache"), tokens(&cache).expect("tokens"))
    });
    let mut bytes = good.clone();
    let Some((&cut, edits)) = data.split_first() else { return };
    for edit in edits.chunks_exact(4) {
        let at = u32::from_le_bytes([edit[0], edit[1], edit[2], 0]) as usize % bytes.len();
        bytes[at] ^= edit[3];
    }
    bytes.truncate(bytes.len() - usize::from(cut) / 4);
    fs::write(path, &bytes).expect("room for a cache");
    if let Ok(found) = tokens(&open().expect("a cache that is damaged is made again")) {
        assert_eq!(&found, expected);
    }
}

/// `state.json` of a checkpoint whose hashes are right, and then the bytes as the list of hashes itself.
pub fn checkpoint(data: &[u8]) {
    let inner = folder().join("step-000001");
    let _ = fs::create_dir_all(&inner);
    let mut sums = String::new();
    for (name, bytes) in [(training::TRAINED_FILE, &b"x"[..]), (training::OPTIMIZER_FILE, b"x"), (training::STATE_FILE, data)] {
        fs::write(inner.join(name), bytes).expect("room");
        let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        sums += &format!("{hash}  {name}\n");
    }
    fs::write(inner.join(training::SUMS_FILE), sums).expect("room");
    let _ = training::load_state(&inner);
    fs::write(inner.join(training::SUMS_FILE), data).expect("room");
    let _ = training::load_state(&inner);
}

/// `metrics.jsonl` of a run, read as it is and cut back for a resumption.
pub fn metrics(data: &[u8]) {
    let inner = folder().join("run");
    let _ = fs::create_dir_all(&inner);
    let path = inner.join(metrics::METRICS_FILE);
    fs::write(&path, data).expect("room");
    let _ = metrics::read(&path);
    let _ = metrics::Metrics::open(&inner, Some(metrics::Cut { step: 3, evaluated: true }));
    // What was kept is whole.
    let kept = metrics::read(&path);
    assert!(
        kept.as_ref().map_or(true, |kept| kept.iter().all(|record| record.step() <= 3)) || fs::read(&path).ok().as_deref() == Some(data)
    );
}

/// An expansion: a manifest, a zero byte, and the tensors.
pub fn expansion(data: &[u8]) {
    let inner = folder().join("expansion");
    let _ = fs::create_dir_all(&inner);
    let (manifest, tensors) = two_of(data);
    fs::write(inner.join(expansion_file::MANIFEST_FILE), manifest).expect("room");
    fs::write(inner.join(expansion_file::EXPANSION_FILE), tensors).expect("room");
    let Ok(manifest) = expansion_file::load_manifest(&inner) else { return };
    let config = config_of_sixteen();
    if manifest.growth.validate(&config).is_ok() {
        let _ = layout::expansion_parameters(&config, &manifest.growth);
    }
    let _ = expansion_file::load(&inner, &config, &manifest.base.sha256);
}

/// A PEFT adapter: `adapter_config.json`, a zero byte, and the tensors.
pub fn adapter(data: &[u8]) {
    static BASE: OnceLock<BaseCheckpoint> = OnceLock::new();
    let base = BASE.get_or_init(|| BaseCheckpoint::from_memory(config_of_sixteen(), HashMap::new(), None).expect("a base of ours"));
    let inner = folder().join("adapter");
    let _ = fs::create_dir_all(&inner);
    let (config, tensors) = two_of(data);
    fs::write(inner.join("adapter_config.json"), config).expect("room");
    fs::write(inner.join("adapter_model.safetensors"), tensors).expect("room");
    let _ = baseline::peft::load(&inner, base);
}

/// A widened model as `transformers` keeps it: `config.json`, a zero byte, and the tensors.
pub fn widened(data: &[u8]) {
    let inner = folder().join("widened");
    let _ = fs::create_dir_all(&inner);
    let (config, tensors) = two_of(data);
    fs::write(inner.join("config.json"), config).expect("room");
    fs::write(inner.join("model.safetensors"), tensors).expect("room");
    if let Ok(Some(found)) = Widened::open(&inner) {
        let _ = found.model();
    }
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
    const RECIPE: &str = "[model]\npath = \"m\"\n[method]\nkind = \"scale-preserve\"\n[data]\ntrain = \"a.jsonl\"\nsequence_length = 8\n\
        [train]\nsteps = 1\n";
    let (one, other) = two_of(data);
    let runs = [("one", one), ("other", other)].map(|(name, records)| {
        let run = folder().join(name);
        let _ = fs::create_dir_all(&run);
        fs::write(run.join("recipe.toml"), RECIPE).expect("room");
        fs::write(run.join(metrics::METRICS_FILE), records).expect("room");
        run
    });
    let Ok(comparison) = Comparison::read(runs) else { return };
    let _ = comparison.to_text();
    let _ = comparison.to_markdown();
    let _ = comparison.measurements().to_csv();
    let _ = report::svg::render(&comparison.chart());
    let _ = report::page::render(&comparison);
    let _ = serde_json::to_string(&comparison).expect("a comparison can be written");
}
