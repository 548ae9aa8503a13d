//! What the fuzz targets do: hand arbitrary bytes to a reader as the file that it reads, and then use whatever it made of them as far as a
//! command would. An error is fine; a panic, an overflow, a hang, or a piece of memory that no such file can need is a finding.

mod corpora;
mod grown;
mod hub;
mod left;
mod models;
mod run;
mod settings;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

pub use corpora::{corpus, dataset, parquet, suite};
pub use grown::{adapter, expansion, widened};
pub use hub::hub;
pub use left::{checkpoint, comparison, metrics, samples, token_cache};
pub use models::{config, gguf, index, safetensors, tokenizer};
pub use run::run;
pub use settings::{aids, recipe, router, study};

/// The largest piece of memory that a reader may ask for at once. Inputs are a few KiB; what is larger comes from a number in them.
const MOST_AT_ONCE: usize = 256 << 20;

/// A recipe of ours.
const RECIPE: &str =
    "[model]\npath = \"m\"\n[method]\nkind = \"scale-preserve\"\n[data]\ntrain = \"a.jsonl\"\nsequence_length = 8\n[train]\nsteps = 1\n";

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

/// A folder of that name with these files.
fn folder_of(name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let inner = folder().join(name);
    fs::create_dir_all(&inner).expect("a folder within ours");
    for (file, data) in files {
        let path = inner.join(file);
        fs::create_dir_all(path.parent().expect("within ours")).expect("a folder within ours");
        fs::write(path, data).expect("room for an input");
    }
    inner
}

/// The same without what was there before.
fn new_folder_of(name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    free(name);
    folder_of(name, files)
}

/// A place for a folder of that name, where none is.
fn free(name: &str) -> PathBuf {
    let path = folder().join(name);
    let _ = fs::remove_dir_all(&path);
    path
}

/// The list of hashes that a checkpoint of these files has.
fn sums_of<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let hash = |bytes| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    files.into_iter().map(|(name, bytes)| format!("{}  {name}\n", hash(bytes))).collect()
}

/// Two files in one input, with a zero byte between them; the second is empty where there is none.
fn two_of(data: &[u8]) -> (&[u8], &[u8]) {
    data.iter().position(|&byte| byte == 0).map_or((data, &[]), |at| (&data[..at], &data[at + 1..]))
}
