//! Texts: corpora and what models are measured on.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use treering::Error;
use treering::biography::world::{SETUP_FILE, World};
use treering::biography::{Loss, Setup, Size};
use treering::data::biography::Attribute;
use treering::data::biography::dataset::{DATASET_FILE, Dataset};
use treering::data::{CorpusConfig, Format, Split, reader};
use treering::eval::suite::{Selection, Suite};

use super::{folder_of, new_folder_of, write};

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

/// What a data set of biographies says about itself; what is read is written back to the same. And what a folder of the benchmark does.
pub fn dataset(data: &[u8]) {
    let inner = folder_of("dataset", &[(DATASET_FILE, data)]);
    if let Ok(found) = Dataset::open(&inner) {
        folder_of("dataset", &[(DATASET_FILE, &serde_json::to_vec(&found).expect("numbers and text"))]);
        assert_eq!(Dataset::open(&inner).ok(), Some(found));
    }
    // A benchmark's folder says in the same way whom it is about; it is not the one that is asked for here.
    let inner = new_folder_of("benchmark", &[(SETUP_FILE, data)]);
    let (size, loss, attributes) = (Size::Quickstart, Loss::Answer, Attribute::ALL.to_vec());
    let setup = Setup { size, seed: u64::MAX, loss, attributes, people: None, new_people: None, population: None, tokenizer: None };
    let protocol = setup.protocol(1).expect("a benchmark of ours");
    let _ = World::open(&inner, &setup, &protocol, 1, &|| Err(Error::Interrupted("it is another one".into())));
}

/// The files of an evaluation suite: the first byte says of which, the rest is the file, or an archive of files. Where a task takes examples from another
/// split, that has the same.
pub fn suite(data: &[u8]) {
    const FILES: [(&[&str], &str); 18] = [
        (&["arc-easy-test.jsonl", "arc-easy-train.jsonl"], "arc_easy"),
        (&["hellaswag_val.jsonl"], "hellaswag"),
        (&["winogrande_dev.jsonl"], "winogrande"),
        (&["truthfulqa.csv"], "truthfulqa_mc2"),
        (&["mc_task.json"], "truthfulqa_mc1"),
        (&["sets.tar"], "kobest"),
        (&["arc_easy/test.parquet", "arc_easy/train.parquet"], "arc_easy"),
        (&["hellaswag/validation.parquet"], "hellaswag"),
        (&["truthfulqa/validation.parquet"], "truthfulqa_mc2"),
        (&["mmlu_anatomy/test.parquet", "mmlu_anatomy/dev.parquet"], "mmlu_anatomy"),
        (&["test/anatomy_test.csv", "dev/anatomy_dev.csv"], "mmlu_anatomy"),
        (&["v1.0/boolq/test.tsv", "v1.0/boolq/train.tsv"], "kobest_boolq"),
        (&["v1.0/copa/test.tsv", "v1.0/copa/dev.tsv"], "kobest_copa"),
        (&["kobest_hellaswag/test.jsonl"], "kobest_hellaswag"),
        (&["v1.0/sentineg/test.tsv"], "kobest_sentineg"),
        (&["v1.0/wic/test.tsv"], "kobest_wic"),
        (&["arc-easy-test.jsonl.gz", "arc-easy-dev.jsonl.gz"], "arc_easy"),
        (&["sets.tar.zst"], "arc_challenge"),
    ];
    let Some((&which, data)) = data.split_first() else { return };
    let (names, task) = FILES[usize::from(which) % FILES.len()];
    let inner = new_folder_of("suite", &names.iter().map(|&name| (name, data)).collect::<Vec<_>>());
    for shots in ["0", "2"] {
        let selection = Selection::new([task], [shots]).expect("a task of ours");
        if let Ok(suite) = Suite::open(&inner, selection, Some(5)) {
            for task in suite.tasks() {
                (0..task.items.len()).for_each(|index| drop(task.prefix(index)));
            }
        }
    }
}
