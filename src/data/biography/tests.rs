use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::data::Encode;
use crate::data::batch::IGNORE;

struct Trained(tokenizers::Tokenizer);

impl Encode for Trained {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.0.encode(text, false).unwrap().get_ids().to_vec())
    }
    fn end_of_text(&self) -> Option<u32> {
        self.0.token_to_id(END_OF_TEXT)
    }
    fn fingerprint(&self) -> String {
        "trained".into()
    }
}

fn people(count: u64) -> People {
    People::generate(count, 42).unwrap()
}

fn trained(vocab_size: usize) -> Trained {
    let people = people(200);
    let questions = (0..200).flat_map(|index| questions(&people.person(index).unwrap())).map(|(prompt, answer)| format!("{prompt} {answer}"));
    Trained(train_tokenizer(people.texts(0..200, 2, 1).unwrap().chain(questions), vocab_size).unwrap())
}

#[test]
fn the_pools_have_their_sizes_and_no_repeats() {
    fn distinct<T: Ord>(items: &[T]) -> usize {
        items.iter().collect::<BTreeSet<_>>().len()
    }
    let pools = [distinct(&LISTS.first_names), distinct(&LISTS.middle_names), distinct(&LISTS.last_names)];
    assert_eq!(pools, [400, 400, 1000]);
    assert_eq!((LISTS.first_names.len(), LISTS.middle_names.len(), LISTS.last_names.len()), (400, 400, 1000));
    assert_eq!((distinct(&LISTS.universities), LISTS.universities.len()), (300, 300));
    assert_eq!((distinct(&LISTS.majors), LISTS.majors.len()), (100, 100));
    assert_eq!((distinct(&LISTS.companies), LISTS.companies.len()), (270, 270));
    assert_eq!(distinct(&LISTS.cities), LISTS.cities.len());
    assert!(LISTS.cities.len() >= 200);
    assert!(LISTS.cities.iter().all(|city| {
        let (name, state) = city.split_once(", ").unwrap();
        !name.is_empty() && state.len() == 2 && state.chars().all(|c| c.is_ascii_uppercase())
    }));
}

#[test]
fn every_attribute_has_fifty_distinct_forms() {
    for forms in &LISTS.forms {
        assert_eq!(forms.len(), 50);
        assert_eq!(forms.iter().collect::<BTreeSet<_>>().len(), 50);
        for (before, after) in forms {
            assert!(before.starts_with(' ') && after.ends_with('.') && !after.contains(" V"), "{before} / {after}");
            assert!(after.starts_with(['.', ' ']), "{before} / {after}");
        }
    }
    let all: BTreeSet<_> = LISTS.forms.iter().flatten().collect();
    assert!(all.len() >= 290, "forms should tell the attributes apart: {}", all.len());
}

#[test]
fn names_are_unique_and_smaller_populations_are_beginnings_of_larger_ones() {
    let people = people(200_000);
    let names: BTreeSet<String> = (0..200_000).map(|index| people.name(index)).collect();
    assert_eq!(names.len(), 200_000);
    let few = People::generate(10, 42).unwrap();
    assert!((0..10).all(|index| few.person(index).unwrap() == people.person(index).unwrap()));
    assert_ne!(People::generate(10, 43).unwrap().person(0).unwrap(), few.person(0).unwrap());
    assert!(few.person(10).is_err());
    assert!(People::generate(400 * 400 * 1000 + 1, 1).is_err());
}

#[test]
fn attributes_stay_in_their_ranges_and_the_city_follows_from_the_company() {
    let people = people(20_000);
    let mut cities: BTreeMap<String, String> = BTreeMap::new();
    let (mut days, mut years) = (BTreeSet::new(), BTreeSet::new());
    for index in 0..people.len() {
        let person = people.person(index).unwrap();
        let (month, rest) = person.value(Attribute::BirthDate).split_once(' ').unwrap();
        let (day, year) = rest.split_once(", ").unwrap();
        assert!(MONTHS.contains(&month));
        days.insert(day.parse::<u32>().unwrap());
        years.insert(year.parse::<u32>().unwrap());
        let [_, city, university, major, company, company_city] = person.values;
        assert!(LISTS.cities.contains(&city.as_str()) && LISTS.majors.contains(&major.as_str()));
        assert!(LISTS.universities.contains(&university));
        assert_eq!(cities.entry(company).or_insert_with(|| company_city.clone()), &company_city);
    }
    assert_eq!(days, (1..=28).collect());
    assert_eq!(years, (1900..2100).collect());
    assert_eq!(cities.len(), 270);
    assert!(cities.values().collect::<BTreeSet<_>>().len() >= 200, "companies should be spread over the cities");
}

#[test]
fn a_biography_says_everything_once_and_begins_every_sentence_with_the_name() {
    let people = people(50);
    let mut random = Random::new(1, 0);
    for index in 0..50 {
        let person = people.person(index).unwrap();
        let text = biography(&person, &mut random);
        assert_eq!(text.matches(&person.name).count(), 6, "{text}");
        assert!(text.starts_with(&person.name) && text.matches(". ").count() == 5, "{text}");
        assert!(text.split(". ").all(|sentence| sentence.starts_with(&person.name)), "{text}");
        assert!(person.values.iter().all(|value| text.contains(value)), "{text}");
    }
}

#[test]
fn copies_differ_and_are_the_same_again() {
    let people = people(20);
    let texts: Vec<String> = people.texts(5..8, 5, 9).unwrap().collect();
    assert_eq!(texts.len(), 15);
    assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), 15);
    assert!(texts[5..10].iter().all(|text| text.starts_with(&people.name(6))));
    assert_eq!(texts, people.texts(5..8, 5, 9).unwrap().collect::<Vec<_>>());
    assert!(people.texts(5..21, 5, 9).is_err());
}

#[test]
fn questions_have_the_form_of_the_benchmark() {
    let person = people(1).person(0).unwrap();
    let prompts: Vec<String> = questions(&person).into_iter().map(|(prompt, _)| prompt.replace(&person.name, "NAME")).collect();
    let expected = [
        "What is the birth date of NAME?\nAnswer:",
        "What is the birth city of NAME?\nAnswer:",
        "Which university did NAME study?\nAnswer:",
        "What major did NAME study?\nAnswer:",
        "Which company did NAME work for?\nAnswer:",
        "Where did NAME work?\nAnswer:",
    ];
    assert_eq!(prompts, expected);
    assert_eq!(questions(&person).map(|(_, answer)| answer), person.values);
}

#[test]
fn the_loss_counts_on_answers_only() {
    let encoder = trained(600);
    let set = QuestionSet::new(&people(200), 10..20, &encoder, 64).unwrap();
    assert_eq!(set.questions().len(), 60);
    let mut seen = 0;
    for QuestionBatch { batch, first_answer, answer_length, question } in set.evaluation(7) {
        for row in 0..batch.batch_size {
            let Question { person, attribute, .. } = &set.questions()[question[row]];
            let answer = people(200).person(*person).unwrap().value(*attribute).to_string();
            let targets = &batch.targets[row * 64..(row + 1) * 64];
            let tokens = &batch.tokens[row * 64..(row + 1) * 64];
            let (first, length) = (first_answer[row], answer_length[row]);
            assert_eq!(encoder.0.decode(&targets[first..first + length], false).unwrap(), format!(" {answer}"));
            assert!(encoder.0.decode(&tokens[..=first], false).unwrap().ends_with("?\nAnswer:"));
            assert_eq!(targets.iter().filter(|&&target| target != IGNORE).count(), length);
            seen += 1;
        }
    }
    assert_eq!(seen, 60);
}

#[test]
fn training_asks_every_question_once_an_epoch() {
    let encoder = trained(600);
    let set = QuestionSet::new(&people(200), 0..8, &encoder, 64).unwrap();
    let epoch = |first: u64| -> BTreeMap<Vec<u32>, usize> {
        let mut rows = BTreeMap::new();
        for step in first..first + 12 {
            let batch = set.train_batch(step, 4, 3);
            batch.tokens.chunks(64).for_each(|row| *rows.entry(row.to_vec()).or_default() += 1);
        }
        rows
    };
    assert_eq!(epoch(0).len(), 48);
    assert_eq!(epoch(0), epoch(12));
    assert_ne!(set.train_batch(0, 4, 3), set.train_batch(12, 4, 3));
    assert_ne!(set.train_batch(0, 4, 3), set.train_batch(0, 4, 4));
}

#[test]
fn rows_that_are_too_short_are_refused_with_the_length_needed() {
    let encoder = trained(600);
    let error = QuestionSet::new(&people(200), 0..50, &encoder, 4).unwrap_err().to_string();
    let needed: usize = error.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(QuestionSet::new(&people(200), 0..50, &encoder, needed).is_ok());
    assert!(QuestionSet::new(&people(200), 0..50, &encoder, needed - 1).is_err());
    assert!(QuestionSet::new(&people(200), 5..5, &encoder, 64).is_err());
}

#[test]
fn the_tokenizer_writes_every_text_and_is_trained_the_same_again() {
    let encoder = trained(500);
    assert_eq!(encoder.end_of_text(), Some(0));
    assert!(encoder.0.get_vocab_size(true) <= 500);
    for text in ["Adan Alard Asham was born on May 3, 1987.", "셋 naïve\n\ttabs", "  two  spaces "] {
        assert_eq!(encoder.0.decode(&encoder.encode(text).unwrap(), false).unwrap(), text);
    }
    assert_eq!(trained(500).0.to_string(false).unwrap(), encoder.0.to_string(false).unwrap());
    assert!(train_tokenizer(std::iter::empty(), 256).is_err());
}
