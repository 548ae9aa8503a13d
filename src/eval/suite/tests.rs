//! Sets in all their forms, and what is wrong with them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use super::item::{Contexts, Gold, Item};
use super::library::Library;
use super::request::{Bos, Prompter};
use super::*;
use crate::tokenizer::Tokenizer;

const ARC: &str = r#"{"id": "1", "question": {"stem": "Which one?", "choices": [{"text": "this", "label": "1"}, {"text": "that", "label": "2"}]}, "answerKey": "2"}
"#;

fn task(name: &str) -> Task {
    Task::all().find(|task| task.name == name).unwrap()
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn load(folder: &Path, name: &str, shots: usize) -> Result<TaskData> {
    TaskData::load(&Library::open(folder)?, task(name), shots, None)
}

fn items(folder: &TempDir, name: &str) -> Vec<Item> {
    load(folder.path(), name, 0).unwrap().items
}

fn error(folder: &TempDir, name: &str, shots: usize) -> String {
    load(folder.path(), name, shots).unwrap_err().to_string()
}

fn context(item: &Item) -> &str {
    match &item.contexts {
        Contexts::Shared(context) => context,
        Contexts::Each(contexts) => &contexts[0],
    }
}

/// A column of texts: values, definition levels, repetition levels.
type Column<'a> = (&'a [&'a str], &'a [i16], &'a [i16]);

/// ARC as the Hugging Face hub has it: lists within an object.
fn parquet(path: &Path, columns: &[Column<'_>]) {
    let list = |name: &str| format!("OPTIONAL group {name} (LIST) {{ REPEATED group list {{ OPTIONAL BYTE_ARRAY element (UTF8); }} }}");
    let schema = format!(
        "message schema {{ OPTIONAL BYTE_ARRAY question (UTF8); OPTIONAL group choices {{ {} {} }} OPTIONAL BYTE_ARRAY answerKey (UTF8); }}",
        list("text"),
        list("label")
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (values, defined, repeated) in columns {
        let values: Vec<ByteArray> = values.iter().map(|text| ByteArray::from(*text)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, Some(defined), Some(repeated)).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn a_set_is_the_same_in_every_form() {
    let plain = folder(&[("sets/ARC-Easy-Test.jsonl", ARC)]);
    let expected = items(&plain, "arc_easy");
    assert_eq!(context(&expected[0]), "Question: Which one?\nAnswer:");
    assert_eq!((expected[0].gold.clone(), expected[0].shot()), (Gold::Index(1), "Question: Which one?\nAnswer: that\n\n".to_owned()));

    let compressed = folder(&[]);
    fs::write(compressed.path().join("ARC-Easy-Test.jsonl.zst"), zstd::encode_all(ARC.as_bytes(), 1).unwrap()).unwrap();
    assert_eq!(items(&compressed, "arc_easy"), expected);

    let archived = folder(&[]);
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(ARC.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "ARC-V1/ARC-Easy/ARC-Easy-Test.jsonl", ARC.as_bytes()).unwrap();
    let bytes = archive.into_inner().unwrap();
    fs::write(archived.path().join("arc.tar.zst"), zstd::encode_all(bytes.as_slice(), 1).unwrap()).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    assert_eq!(items(&archived, "arc_easy"), expected);
    fs::remove_file(archived.path().join("arc.tar.zst")).unwrap();
    fs::write(archived.path().join("arc.tgz"), gzip.finish().unwrap()).unwrap();
    assert_eq!(items(&archived, "arc_easy"), expected);

    let hub = folder(&[]);
    let path = |shard: usize| hub.path().join(format!("ai2_arc/ARC-Easy/test-0000{shard}-of-00002.parquet"));
    let columns: [Column<'_>; 4] =
        [(&["Which one?"], &[1], &[0]), (&["this", "that"], &[4, 4], &[0, 1]), (&["1", "2"], &[4, 4], &[0, 1]), (&["2"], &[1], &[0])];
    parquet(&path(0), &columns);
    parquet(&path(1), &columns);
    let found = items(&hub, "arc_easy");
    assert_eq!(found.len(), 2, "two shards");
    assert!(found.iter().all(|item| item.contexts == expected[0].contexts && item.gold == expected[0].gold));
    // The original form stands before the hub's, and one form in two places is a question for the user.
    fs::write(hub.path().join("ARC-Easy-Test.jsonl"), ARC).unwrap();
    assert_eq!(items(&hub, "arc_easy").len(), 1);
    fs::create_dir(hub.path().join("again")).unwrap();
    fs::write(hub.path().join("again/arc-easy-test.jsonl"), ARC).unwrap();
    assert!(error(&hub, "arc_easy", 0).contains("is there twice"));
    fs::write(path(1), b"PAR1 and nothing else").unwrap();
    fs::remove_file(hub.path().join("ARC-Easy-Test.jsonl")).unwrap();
    fs::remove_dir_all(hub.path().join("again")).unwrap();
    assert!(error(&hub, "arc_easy", 0).contains("test-00001-of-00002.parquet: cannot be read as Parquet"));
}

#[test]
fn truthfulqa_s_table_gives_what_its_task_file_holds() {
    let json =
        r#"[{"question": "Q?", "mc1_targets": {"yes": 1, "no": 0, "aye": 0}, "mc2_targets": {"zes": 1, "yes": 1, "no": 0, "aye": 0}}]"#;
    let csv = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\nA,B,Q?,yes,zes; yes,no; aye,x\n";
    let (of_json, of_csv) = (folder(&[("mc_task.json", json)]), folder(&[("TruthfulQA.csv", csv)]));
    for name in ["truthfulqa_mc1", "truthfulqa_mc2"] {
        let (a, b) = (items(&of_json, name), items(&of_csv, name));
        assert_eq!((&a[0].continuations, &a[0].gold), (&b[0].continuations, &b[0].gold));
        assert!(
            context(&a[0]).ends_with("Barcelona, Spain.\n\nQ: Q?\nA:") && context(&a[0]).starts_with("Q: What is human life expectancy")
        );
    }
    assert_eq!(items(&of_json, "truthfulqa_mc2")[0].continuations, ["zes", "yes", "no", "aye"], "the order of the file");
    assert_eq!(items(&of_json, "truthfulqa_mc1")[0].gold, Gold::Index(0));
}

#[test]
fn what_is_missing_or_malformed_is_named_with_its_place() {
    let none = folder(&[("readme.txt", "")]);
    let message = error(&none, "kobest_copa", 0);
    assert!(
        message.contains("no test split") && message.contains("v1.0/copa/test.tsv") && message.contains("KoBEST_datarepo"),
        "{message}"
    );
    assert!(Library::open(&none.path().join("nowhere")).unwrap_err().to_string().contains("no folder of evaluation sets"));

    let broken = |name: &'static str, text: &str| folder(&[(name, text)]);
    let at = |folder: &TempDir, task: &str, words: &[&str]| {
        let message = error(folder, task, 0);
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    at(&broken("ARC-Easy-Test.jsonl", &format!("{ARC}\n{{\"id\": ")), "arc_easy", &["ARC-Easy-Test.jsonl: line 3", "not a JSON object"]);
    at(&broken("ARC-Easy-Test.jsonl", &ARC.replace("\"2\"}\n", "\"5\"}\n")), "arc_easy", &["line 1", "`answerKey` is \"5\"", "1, 2"]);
    at(&broken("ARC-Easy-Test.jsonl", "\n"), "arc_easy", &["no item"]);
    at(&broken("test/anatomy_test.csv", "q,a,b,c,d,A\nq,a,b,c,A\n"), "mmlu_anatomy", &["anatomy_test.csv: line 2", "5 cells, 6"]);
    at(&broken("test/anatomy_test.csv", "q,a,b,c,d,E\n"), "mmlu_anatomy", &["line 1", "below 4"]);
    at(
        &broken("winogrande_dev.jsonl", r#"{"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"}"#),
        "winogrande",
        &["line 1", "no `_`"],
    );
    at(&broken("hellaswag_val.jsonl", r#"{"ctx_a": "a", "endings": ["b"], "label": ""}"#), "hellaswag", &["line 1", "activity_label"]);
    at(&broken("kobest/wic/test.tsv", "Target\tSENTENCE1\tSENTENCE2\n배\t가\t나\n"), "kobest_wic", &["line 2", "label"]);
    at(&broken("kobest/copa/test.tsv", "sentence\tquestion\t1\t2\tAnswer\n가\t왜\t나\t다\t1\n"), "kobest_copa", &["line 2", "원인"]);
    at(&broken("mc_task.json", "[{\"question\": 1}]"), "truthfulqa_mc1", &["mc_task.json", "line 1"]);
    let damaged = folder(&[]);
    fs::write(damaged.path().join("kobest.tar.zst"), b"no archive").unwrap();
    at(&damaged, "kobest_wic", &["kobest.tar.zst", "tar archive"]);
}

#[test]
fn examples_are_drawn_from_the_split_that_is_there_and_never_the_item_itself() {
    let line = |n: usize| ARC.replace("Which one?", &format!("Which {n}?"));
    let test: String = (0..6).map(line).collect();
    let alone = folder(&[("ARC-Easy-Test.jsonl", &test)]);
    let data = load(alone.path(), "arc_easy", 5).unwrap();
    assert_eq!(data.pool_split, Some(source::Split::Test));
    for (index, item) in data.items.iter().enumerate() {
        let prefix = data.prefix(index);
        assert!(!prefix.contains(context(item)), "{prefix}");
        assert_eq!(prefix.matches("Question:").count(), 5, "all others");
    }
    assert!(error(&alone, "arc_easy", 6).contains("6 examples were asked for, and the test split has 6 items, of which 5 can"));
    let train: String = (10..14).map(line).collect();
    let both = folder(&[("ARC-Easy-Test.jsonl", &test), ("ARC-Easy-Train.jsonl", &train)]);
    let data = load(both.path(), "arc_easy", 4).unwrap();
    assert_eq!(data.pool_split, Some(source::Split::Train));
    // MMLU takes its examples in their order, and says what they are about before them.
    let csv = "One?,a,b,c,d,B\nTwo?,a,b,c,d,C\n";
    let mmlu = folder(&[("test/high_school_physics_test.csv", csv), ("dev/high_school_physics_dev.csv", csv)]);
    let data = load(mmlu.path(), "mmlu_high_school_physics", 1).unwrap();
    assert_eq!(
        data.prefix(1),
        "The following are multiple choice questions (with answers) about high school physics.\n\nOne?\nA. a\nB. b\nC. c\nD. d\nAnswer: B\n\n"
    );
    assert!(error(&mmlu, "mmlu_high_school_physics", 3).contains("dev split has 2 items"));
    // A pool that holds the item several times still gives others.
    let twice: String = [0, 0, 0, 1, 2].into_iter().map(line).collect();
    let twice = folder(&[("ARC-Easy-Test.jsonl", &twice)]);
    let data = load(twice.path(), "arc_easy", 2).unwrap();
    assert!(data.items.iter().enumerate().all(|(index, item)| !data.prefix(index).contains(context(item))));
    assert!(error(&twice, "arc_easy", 3).contains("too few that differ"));
}

fn words() -> Tokenizer {
    let words = ["<s>", "</s>", "<unk>", "Question:", "Which", "one?", "Answer:", "this", "that"];
    let vocabulary: Vec<String> = words.iter().enumerate().map(|(i, word)| format!("\"{word}\": {i}")).collect();
    let json = format!(
        "{{\"version\": \"1.0\", \"added_tokens\": [{{\"id\": 0, \"content\": \"<s>\", \"special\": true, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false}}],
         \"normalizer\": null, \"pre_tokenizer\": {{\"type\": \"WhitespaceSplit\"}}, \"decoder\": null,
         \"post_processor\": {{\"type\": \"TemplateProcessing\", \"single\": [{{\"SpecialToken\": {{\"id\": \"<s>\", \"type_id\": 0}}}}, {{\"Sequence\": {{\"id\": \"A\", \"type_id\": 0}}}}],
         \"pair\": [{{\"Sequence\": {{\"id\": \"A\", \"type_id\": 0}}}}, {{\"Sequence\": {{\"id\": \"B\", \"type_id\": 1}}}}], \"special_tokens\": {{\"<s>\": {{\"id\": \"<s>\", \"ids\": [0], \"tokens\": [\"<s>\"]}}}}}},
         \"model\": {{\"type\": \"WordLevel\", \"vocab\": {{{}}}, \"unk_token\": \"<unk>\"}}}}",
        vocabulary.join(", ")
    );
    Tokenizer::from_json(&json).unwrap().with_defaults(Some(0), Some(1))
}

#[test]
fn prompts_begin_as_they_are_told_and_lose_their_beginning_where_they_are_too_long() {
    let folder = folder(&[("ARC-Easy-Test.jsonl", ARC)]);
    let data = load(folder.path(), "arc_easy", 0).unwrap();
    let tokenizer = words();
    let ask = |bos, context| Prompter::new(&tokenizer, bos, context).requests(&data, 0).map(|requests| requests[1].clone());
    let whole = ask(Bos::Tokenizer, 64).unwrap();
    assert_eq!((whole.tokens.as_slice(), whole.scored, whole.truncated), (&[0, 3, 4, 5, 6, 8][..], 1, false));
    assert_eq!(ask(Bos::None, 64).unwrap().tokens, [3, 4, 5, 6, 8]);
    // Five inputs fit; of two the last two, and the choice.
    assert!(!ask(Bos::Tokenizer, 5).unwrap().truncated);
    let cut = ask(Bos::Tokenizer, 2).unwrap();
    assert_eq!((cut.tokens.as_slice(), cut.truncated), (&[5, 6, 8][..], true));
    // A choice that is nothing but white space has no token here.
    let blank = self::folder(&[("ARC-Easy-Test.jsonl", &ARC.replace("that", " "))]);
    let data = load(blank.path(), "arc_easy", 0).unwrap();
    let message = Prompter::new(&tokenizer, Bos::None, 64).requests(&data, 0).unwrap_err().to_string();
    assert!(message.contains("line 1: arc_easy, choice 2: has no token of its own"), "{message}");
}
