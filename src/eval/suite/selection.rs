//! Which tasks are measured, and how many examples come before each question.

use super::task::{ALONE, GROUPS, PAPER, Task, members, names, tasks};
use crate::error::{Error, Result};
use crate::recipe::suggestion;

/// Tasks with the same metrics whose mean over all items is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// The tasks in it, of groups within it too.
    pub tasks: Vec<Task>,
}

/// Tasks to measure, with the examples before each question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The tasks, none of them twice.
    pub tasks: Vec<(Task, usize)>,
    /// The groups that were named, and those within them.
    pub groups: Vec<Group>,
    /// Whether the paper's eight are among them as such, so that its averages are reported.
    pub paper: bool,
}

impl Selection {
    /// The name of the paper's eight.
    ///
    /// # Paper
    /// Table 1.
    pub const PAPER: &'static str = PAPER;
    /// The name of the Open LLM leaderboard's numbers of examples.
    pub const LEADERBOARD: &'static str = "leaderboard";

    /// Reads names of tasks and groups, and how many examples come before a question: entries such as `5`, `arc_challenge:25` or `leaderboard`,
    /// of which the one for a task stands above those for all.
    ///
    /// # Errors
    /// [`Error::Usage`] for names that there are not, with the nearest ones, and examples that cannot be.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, shots: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut selection = Self { tasks: Vec::new(), groups: Vec::new(), paper: false };
        for name in names.into_iter().map(str::trim).filter(|name| !name.is_empty()) {
            selection.add(name)?;
        }
        if selection.tasks.is_empty() {
            return Err(Error::usage(format!("no task is named\n  hint: for example arc_easy,hellaswag or {}", Self::PAPER)));
        }
        for entry in shots.into_iter().map(str::trim).filter(|entry| !entry.is_empty()) {
            selection.set_shots(entry)?;
        }
        Ok(selection)
    }

    fn add(&mut self, name: &str) -> Result<()> {
        if let Some((name, inner, reported)) = members(name) {
            self.paper |= name == Self::PAPER;
            for inner in inner {
                self.add(inner)?;
            }
            if reported && !self.groups.iter().any(|group| group.name == name) {
                self.groups.push(Group { name, tasks: tasks(name) });
            }
            return Ok(());
        }
        let Some(task) = Task::all().find(|task| task.name == name) else {
            let known: Vec<&str> = names().collect();
            let hint = match suggestion(name, known.iter().copied()) {
                hint if hint.is_empty() => {
                    let alone = ALONE.iter().map(|(name, _)| *name).chain(GROUPS.iter().map(|(name, ..)| *name));
                    format!("\n  hint: there are {}, mmlu_SUBJECT", alone.collect::<Vec<_>>().join(", "))
                }
                hint => hint,
            };
            return Err(Error::usage(format!("no task is called `{name}`{hint}")));
        };
        if !self.tasks.iter().any(|(other, _)| *other == task) {
            self.tasks.push((task, 0));
        }
        Ok(())
    }

    fn set_shots(&mut self, entry: &str) -> Result<()> {
        let number = |text: &str| {
            text.parse::<usize>().ok().filter(|&n| n <= 1000).ok_or_else(|| {
                Error::usage(format!(
                    "few-shot `{entry}`: expected a number up to 1000, {} or TASK:NUMBER, for example arc_challenge:25",
                    Self::LEADERBOARD
                ))
            })
        };
        if entry == Self::LEADERBOARD {
            self.tasks.iter_mut().for_each(|(task, shots)| *shots = task.leaderboard_shots());
            return Ok(());
        }
        let Some((name, count)) = entry.rsplit_once(':') else {
            let count = number(entry)?;
            self.tasks.iter_mut().filter(|(task, _)| !task.is_always_zero_shot()).for_each(|(_, shots)| *shots = count);
            return Ok(());
        };
        let (name, count) = (name.trim(), number(count.trim())?);
        let meant = tasks(name);
        let mut chosen = self.tasks.iter_mut().filter(|(task, _)| meant.contains(task)).peekable();
        if chosen.peek().is_none() {
            let what = if meant.is_empty() { suggestion(name, names()) } else { "\n  hint: name it among the tasks, too".into() };
            return Err(Error::usage(format!("few-shot `{entry}`: `{name}` is not among the tasks{what}")));
        }
        for (task, shots) in chosen {
            if task.is_always_zero_shot() && count > 0 {
                return Err(Error::usage(format!("few-shot `{entry}`: the prompt of {task} is fixed, and has no examples put before it")));
            }
            *shots = count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(names: &str, shots: &str) -> Result<Selection> {
        Selection::new(names.split(','), shots.split(','))
    }

    fn shots(names: &str, shots: &str) -> Vec<(&'static str, usize)> {
        select(names, shots).unwrap().tasks.into_iter().map(|(task, shots)| (task.name, shots)).collect()
    }

    #[test]
    fn groups_hold_what_lm_evaluation_harness_puts_into_them() {
        let selection = select("mmlu", "").unwrap();
        let sizes: Vec<(&str, usize)> = selection.groups.iter().map(|group| (group.name, group.tasks.len())).collect();
        assert_eq!(sizes, [("mmlu_stem", 19), ("mmlu_other", 13), ("mmlu_social_sciences", 12), ("mmlu_humanities", 13), ("mmlu", 57)]);
        assert_eq!(selection.tasks.len(), 57);
        assert_eq!(select("kobest,kobest_wic,kobest", "").unwrap().tasks.len(), 5);
        assert_eq!(shots("ai2_arc", ""), [("arc_easy", 0), ("arc_challenge", 0)]);
        assert!(select("ai2_arc", "").unwrap().groups.is_empty());
        let paper = select("paper", "").unwrap();
        assert!(paper.paper && paper.tasks.len() == 7 + 57 && paper.groups.len() == 5);
    }

    #[test]
    fn examples_are_given_for_all_by_name_and_as_the_leaderboard_has_them() {
        let names = "arc_challenge,hellaswag,truthfulqa_mc2,winogrande,kobest_copa,mmlu_anatomy";
        assert_eq!(
            shots(names, "leaderboard"),
            [("arc_challenge", 25), ("hellaswag", 10), ("truthfulqa_mc2", 0), ("winogrande", 5), ("kobest_copa", 0), ("mmlu_anatomy", 5)]
        );
        assert_eq!(
            shots("arc_easy,truthfulqa_mc1,kobest_copa,kobest_wic", "3,kobest:5,kobest_wic:1"),
            [("arc_easy", 3), ("truthfulqa_mc1", 0), ("kobest_copa", 5), ("kobest_wic", 1)]
        );
    }

    #[test]
    fn what_there_is_not_is_refused_with_what_there_is() {
        let refused = |names: &str, shots: &str| {
            let error = select(names, shots).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        assert!(refused("hellaswg", "").contains("did you mean `hellaswag`?"));
        assert!(refused("mmlu_astrology", "").contains("did you mean `mmlu_astronomy`?"));
        let unknown = refused("xyz", "");
        assert!(unknown.contains("no task is called `xyz`") && unknown.contains("kobest_wic") && unknown.contains("paper"), "{unknown}");
        assert!(refused(" ,", "").contains("no task is named"));
        assert!(refused("arc_easy", "many").contains("expected a number"));
        assert!(refused("arc_easy", "hellaswag:3").contains("not among the tasks"));
        assert!(refused("truthfulqa_mc1", "truthfulqa_mc1:5").contains("fixed"));
    }
}
