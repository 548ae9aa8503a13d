//! The folder of a run, as its commands find it when they go on from it, measure it or set it beside others.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use treering::biography::routers::{self, RouterAnswers};
use treering::recipe::Recipe;
use treering::report::comparison::Comparison;
use treering::study::variants::{self, Variant};
use treering::train::metrics::METRICS_FILE;
use treering::train::run_folder::{ENVIRONMENT_FILE, RECIPE_FILE};
use treering::train::session::{self, Event, Start};
use treering::train::{Foundation, RunFolder, build, checkpoint, foundation};

use super::models::base_of_sixteen;
use super::{folder, folder_of, new_folder_of, sums_of};

/// What stands in an input for the folder of this process.
const HERE: &str = "@FOLDER@";
/// The folder of the only checkpoint.
const CHECKPOINT: &str = "checkpoints/step-000002";
/// The files that an input may stand for.
const FILES: [&str; 9] = [
    RECIPE_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    variants::FAILED_FILE,
    routers::FILE,
    checkpoint::STATE_FILE,
    checkpoint::TRAINED_FILE,
    checkpoint::OPTIMIZER_FILE,
    checkpoint::SUMS_FILE,
];

/// A run of three steps that was stopped after the second: its recipe, and its files by their paths.
struct Stopped {
    recipe: Recipe,
    files: Vec<(String, Vec<u8>)>,
}

fn stopped() -> &'static Stopped {
    static STOPPED: OnceLock<Stopped> = OnceLock::new();
    STOPPED.get_or_init(|| {
        let lines: String = (0..8).map(|i| format!("{{\"text\": \"w{i} w{} w{} w1 w2 w3 w{}\"}}\n", i + 1, i + 2, 15 - i)).collect();
        let corpora = folder_of("words", &[("words.jsonl", lines.as_bytes())]);
        let text = format!(
            "[model]\npath = {:?}\ndtype = \"f32\"\n[method]\nkind = \"scale-adapt\"\nhidden_size = 2\nnum_attention_heads = 2\n\
             num_key_value_heads = 1\nintermediate_size = 2\npreserved_layers = 0\nmodules = [\"attention\", \"ffn\"]\n\
             [data]\ntrain = \"words.jsonl\"\nsequence_length = 4\n[train]\nsteps = 3\nbatch_size = 1\nlearning_rate = 1e-3\ncheckpoint_every_steps = 2\n",
            base_of_sixteen()
        );
        let recipe = Recipe::parse(&text, &corpora, &[]).expect("a recipe of ours");
        let run = folder().join("run");
        let stop = AtomicBool::new(false);
        let foundation = Foundation::open(&recipe.model.path).expect("a base of ours");
        let ended = session::train(recipe.clone(), foundation, &run, Start::New, &stop, &mut |event| {
            if matches!(event, Event::Step(record) if record.step == 2) {
                stop.store(true, Ordering::Relaxed);
            }
        });
        assert!(run.join(CHECKPOINT).is_dir(), "{ended:?}");
        let mut files = Vec::new();
        read_all(&run, "", &mut files);
        Stopped { recipe, files }
    })
}

fn read_all(folder: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).expect("a folder of ours").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            read_all(&entry.path(), &format!("{name}/"), files);
        } else {
            files.push((name, fs::read(entry.path()).expect("a file of ours")));
        }
    }
}

/// The first byte says which file of a run the rest stands for; those of a checkpoint have the right sums.
pub fn run(data: &[u8]) {
    let Some((&which, data)) = data.split_first() else { return };
    let stopped = stopped();
    let with_paths = std::str::from_utf8(data).ok().map(|text| text.replace(HERE, &folder().to_string_lossy()));
    let data = with_paths.as_ref().map_or(data, String::as_bytes);
    let run = damaged(stopped, FILES[usize::from(which) % FILES.len()], data);
    let _ = RunFolder::remember_hub(&run);
    let _ = RouterAnswers::read(&run);
    let _ = foundation::outline(&run);
    let _ = build::open_run(&run, None, None);
    if let Ok(comparison) = Comparison::read([&run]) {
        let _ = serde_json::to_string(&comparison).expect("a comparison can be written");
    }
    let Ok(foundation) = Foundation::open(&stopped.recipe.model.path) else { return };
    let stop = AtomicBool::new(false);
    let variants = [Variant { name: "run".into(), recipe: stopped.recipe.clone() }];
    let _ = variants::run_all(&variants, &|_| false, folder(), &stop, &mut |_, _| {});
    if session::train(stopped.recipe.clone(), foundation, &run, Start::Resume, &stop, &mut |_| {}).is_ok() {
        let (step, _) = RunFolder::checkpoints(&run).expect("a folder of ours").pop().expect("it was trained to its end");
        assert!(step >= 3);
    }
}

/// The run's folder with `data` in the place of one file.
fn damaged(stopped: &Stopped, which: &str, data: &[u8]) -> PathBuf {
    let of_checkpoint = [checkpoint::STATE_FILE, checkpoint::TRAINED_FILE, checkpoint::OPTIMIZER_FILE];
    let inside = which == checkpoint::SUMS_FILE || of_checkpoint.contains(&which);
    let path = if inside { format!("{CHECKPOINT}/{which}") } else { which.to_owned() };
    let mut files: Vec<(&str, &[u8])> = stopped.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    files.retain(|(name, _)| *name != path);
    files.push((&path, data));
    let sums = sums_of(of_checkpoint.map(|name| {
        let path = format!("{CHECKPOINT}/{name}");
        (name, files.iter().find(|(found, _)| *found == path).expect("a file of ours").1)
    }));
    let sums_path = format!("{CHECKPOINT}/{}", checkpoint::SUMS_FILE);
    if which != checkpoint::SUMS_FILE {
        files.retain(|(name, _)| *name != sums_path);
        files.push((&sums_path, sums.as_bytes()));
    }
    new_folder_of("run", &files)
}
