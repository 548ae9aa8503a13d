//! Synthetic biographies: people who exist nowhere, so that a model can know of them only what it was taught.
//!
//! # Paper
//! The controlled benchmark of SCALE (arXiv 2511.03270) after Zheng et al., *Spurious Forgetting in Continual Learning of Language Models*
//! (ICLR 2025) and Allen-Zhu & Li, *Physics of Language Models* 3.1. All names and sentences are this project's own.

pub mod dataset;
mod lists;
mod questions;
mod tokenizer;

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use questions::{Question, QuestionBatch, QuestionSet};
pub use tokenizer::{END_OF_TEXT, check_tokenizer, train_tokenizer};

use self::lists::{LISTS, MONTHS};
use super::order::{Permutation, Random};
use crate::checkpoint::atomic;
use crate::error::{Error, IoContext, Result};

/// What is known of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// Day, month and year of birth.
    BirthDate,
    /// The city of birth, with its state.
    BirthCity,
    /// The university.
    University,
    /// The field of study.
    Major,
    /// The employer.
    Company,
    /// The employer's city, which follows from the employer.
    CompanyCity,
}

impl Attribute {
    /// All attributes, in the order of questions.
    pub const ALL: [Self; 6] = [Self::BirthDate, Self::BirthCity, Self::University, Self::Major, Self::Company, Self::CompanyCity];

    /// The name used in files, JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BirthDate => "birth_date",
            Self::BirthCity => "birth_city",
            Self::University => "university",
            Self::Major => "major",
            Self::Company => "company",
            Self::CompanyCity => "company_city",
        }
    }
}

impl std::str::FromStr for Attribute {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|attribute| attribute.as_str() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str);
            let hint = crate::recipe::suggestion(text, names.into_iter());
            Error::usage(format!("`{text}` is no attribute of a person; there are {}{hint}", names.join(", ")))
        })
    }
}

/// One person: six facts about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// First, middle and last name.
    pub name: String,
    /// The value of every attribute, in the order of [`Attribute::ALL`].
    pub values: [String; 6],
}

impl Person {
    /// What is known of the person under `attribute`.
    pub fn value(&self, attribute: Attribute) -> &str {
        &self.values[attribute as usize]
    }
}

/// A population, of which every person is computed when asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct People {
    count: u64,
    seed: u64,
    names: Permutation,
}

impl People {
    /// `count` people with unique names; the same on every machine, and a smaller population is the beginning of a larger one.
    ///
    /// # Errors
    /// When there are fewer than `count` names.
    pub fn generate(count: u64, seed: u64) -> Result<Self> {
        let names = [&LISTS.first_names, &LISTS.middle_names, &LISTS.last_names].iter().map(|pool| pool.len() as u64).product();
        if count > names {
            return Err(Error::usage(format!("there are {names} different names, too few for {count} people")));
        }
        Ok(Self { count, seed, names: Permutation::new(names, seed, NAME_STREAM) })
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Person `index`.
    ///
    /// # Errors
    /// When there is no such person.
    pub fn person(&self, index: u64) -> Result<Person> {
        if index >= self.count {
            return Err(Error::usage(format!("no person {index}; the population has {}", self.count)));
        }
        let mut random = Random::new(self.seed, index);
        let (city, company) = (random.below(LISTS.cities.len() as u64) as usize, random.below(LISTS.companies.len() as u64) as usize);
        let (day, month, year) = (1 + random.below(28), random.below(12) as usize, 1900 + random.below(200));
        let values = [
            format!("{} {day}, {year}", MONTHS[month]),
            LISTS.cities[city].into(),
            pick(&LISTS.universities, &mut random).clone(),
            (*pick(&LISTS.majors, &mut random)).into(),
            LISTS.companies[company].clone(),
            company_city(company).into(),
        ];
        Ok(Person { name: self.name(index), values })
    }

    /// The name of person `index`: a different combination of the three pools for every index.
    fn name(&self, index: u64) -> String {
        let number = self.names.at(index);
        let (number, first) = divide(number, &LISTS.first_names);
        let (number, middle) = divide(number, &LISTS.middle_names);
        let (_, last) = divide(number, &LISTS.last_names);
        format!("{first} {middle} {last}")
    }

    /// `copies` biographies of everyone in `range`, person after person ("multi5, permuted, full name" with 5 copies).
    ///
    /// # Errors
    /// When the range leaves the population.
    pub fn texts(&self, range: Range<u64>, copies: u64, seed: u64) -> Result<impl Iterator<Item = String> + '_> {
        self.check(&range)?;
        Ok(range.flat_map(move |index| {
            let person = self.person(index).ok();
            (0..copies).filter_map(move |copy| {
                // One stream of random numbers a person, one step of the seed a copy.
                Some(biography(person.as_ref()?, &mut Random::new(seed.wrapping_add(copy), TEXT_STREAM + index)))
            })
        }))
    }

    /// Writes [`texts`](Self::texts) to `path` as a JSONL corpus with the field `text`, beside and renamed.
    ///
    /// # Errors
    /// When the range leaves the population or the file cannot be written.
    pub fn write_corpus(&self, path: &Path, range: Range<u64>, copies: u64, seed: u64) -> Result<()> {
        write_texts(path, self.texts(range, copies, seed)?)
    }

    /// The questions about everyone in `range`, those about `attributes`, each with its answer after one space.
    ///
    /// # Errors
    /// When the range leaves the population.
    pub fn question_texts<'a>(&'a self, range: Range<u64>, attributes: &'a [Attribute]) -> Result<impl Iterator<Item = String> + 'a> {
        self.check(&range)?;
        Ok(range.flat_map(move |index| {
            let asked = self.person(index).ok().map(|person| questions(&person));
            let wanted =
                Attribute::ALL.into_iter().zip(asked.into_iter().flatten()).filter(|(attribute, _)| attributes.contains(attribute));
            wanted.map(|(_, (prompt, answer))| format!("{prompt} {answer}")).collect::<Vec<_>>()
        }))
    }

    /// Writes [`question_texts`](Self::question_texts) as [`write_corpus`](Self::write_corpus) writes biographies.
    ///
    /// # Errors
    /// As [`write_corpus`](Self::write_corpus).
    pub fn write_questions(&self, path: &Path, range: Range<u64>, attributes: &[Attribute]) -> Result<()> {
        write_texts(path, self.question_texts(range, attributes)?)
    }

    fn check(&self, range: &Range<u64>) -> Result<()> {
        if range.start > range.end || range.end > self.count {
            return Err(Error::usage(format!("no people {}..{}; the population has {}", range.start, range.end, self.count)));
        }
        Ok(())
    }
}

fn write_texts(path: &Path, texts: impl Iterator<Item = String>) -> Result<()> {
    atomic::write_file(path, |file| {
        for text in texts {
            writeln!(file, "{}", serde_json::json!({ "text": text })).at(path)?;
        }
        Ok(())
    })
}

/// Streams of random numbers apart from those of the people themselves.
const NAME_STREAM: u64 = u64::MAX;
const TEXT_STREAM: u64 = 1 << 40;

/// The city of a company: a fixed one for each, spread over the list (77 shares no factor with its length).
fn company_city(company: usize) -> &'static str {
    LISTS.cities[company * 77 % LISTS.cities.len()]
}

fn pick<'a, T>(items: &'a [T], random: &mut Random) -> &'a T {
    &items[random.below(items.len() as u64) as usize]
}

/// The item that the last digit of `number` names, in base `items.len()`, and the digits before it.
fn divide(number: u64, items: &[String]) -> (u64, &str) {
    (number / items.len() as u64, &items[(number % items.len() as u64) as usize])
}

/// Six sentences in random order, one for every attribute, each beginning with the full name.
pub fn biography(person: &Person, random: &mut Random) -> String {
    let mut order = Attribute::ALL;
    random.shuffle(&mut order);
    let sentences = order.map(|attribute| {
        let (before, after) = pick(&LISTS.forms[attribute as usize], random);
        format!("{}{before} {}{after}", person.name, person.value(attribute))
    });
    sentences.join(" ")
}

/// The six questions about a person, each with its answer, which follows the prompt after one space.
pub fn questions(person: &Person) -> [(String, String); 6] {
    let name = &person.name;
    Attribute::ALL.map(|attribute| {
        let question = match attribute {
            Attribute::BirthDate => format!("What is the birth date of {name}?"),
            Attribute::BirthCity => format!("What is the birth city of {name}?"),
            Attribute::University => format!("Which university did {name} study?"),
            Attribute::Major => format!("What major did {name} study?"),
            Attribute::Company => format!("Which company did {name} work for?"),
            Attribute::CompanyCity => format!("Where did {name} work?"),
        };
        (format!("{question}\nAnswer:"), person.value(attribute).to_string())
    })
}

#[cfg(test)]
mod tests;
