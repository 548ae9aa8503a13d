//! Forgetting and learning of every head and router: two numbers each, and how far they are from the best that could be had.

use serde::Serialize;

use super::result::{CorpusResult, Group};
use super::{format_perplexity, head_name};
use crate::model::Head;
use crate::report::{Align, Table};

/// Forgetting and learning of a head or a router, each the geometric mean of the perplexities on the corpora of its group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The head's name, or the router as it is written.
    pub name: String,
    /// Perplexity on the corpora that are not to be forgotten; absent where there is none.
    pub forgetting: Option<f64>,
    /// Perplexity on the corpora that are to be learnt; absent where there is none.
    pub learning: Option<f64>,
    /// `forgetting` over the preservation head's, less 1; absent for a model with one head.
    pub forgetting_excess: Option<f64>,
    /// `learning` over the adaptation head's, less 1; absent for a model with one head.
    pub learning_excess: Option<f64>,
}

/// One entry a head and router; empty where no corpus has a group.
pub(super) fn of(corpora: &[CorpusResult]) -> Vec<Summary> {
    let Some(first) = corpora.iter().find(|c| c.group.is_some()) else { return Vec::new() };
    let mean = |group: Group, perplexity: &dyn Fn(&CorpusResult) -> f64| {
        let logs: Vec<f64> = corpora.iter().filter(|c| c.group == Some(group)).map(|c| perplexity(c).ln()).collect();
        (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
    };
    let best = |group: Group, head: Head| {
        let index = first.heads.iter().position(|result| result.head == head)?;
        mean(group, &|c| c.heads[index].perplexity)
    };
    let (least_forgetting, least_learning) = (best(Group::Forget, Head::Preservation), best(Group::Learn, Head::Adaptation));
    let entry = |name: String, perplexity: &dyn Fn(&CorpusResult) -> f64| {
        let (forgetting, learning) = (mean(Group::Forget, perplexity), mean(Group::Learn, perplexity));
        let excess = |value: Option<f64>, best: Option<f64>| Some(value? / best? - 1.0);
        Summary {
            name,
            forgetting,
            learning,
            forgetting_excess: excess(forgetting, least_forgetting),
            learning_excess: excess(learning, least_learning),
        }
    };
    let heads = first.heads.iter().enumerate().map(|(i, r)| entry(head_name(r.head), &|c| c.heads[i].perplexity));
    let routers = first.routers.iter().enumerate().map(|(i, r)| entry(r.router.to_string(), &|c| c.routers[i].perplexity));
    heads.chain(routers).collect()
}

/// Summaries as a table, one row each.
pub fn table(summaries: &[Summary]) -> Table {
    let mut table = Table::new([
        ("head or router", Align::Left),
        ("forgetting", Align::Right),
        ("over preservation", Align::Right),
        ("learning", Align::Right),
        ("over adaptation", Align::Right),
    ]);
    let perplexity = |value: Option<f64>| value.map_or("–".into(), format_perplexity);
    let percent = |value: Option<f64>| value.map_or("–".into(), |v| format!("{:+.2} %", 100.0 * v));
    for s in summaries {
        let numbers = [perplexity(s.forgetting), percent(s.forgetting_excess), perplexity(s.learning), percent(s.learning_excess)];
        table.row(std::iter::once(s.name.clone()).chain(numbers));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{HeadResult, RouterResult};
    use crate::route::Router;

    fn corpus(group: Option<Group>, perplexities: [f64; 3]) -> CorpusResult {
        let head = |head, perplexity: f64| HeadResult { head, nll: 0.0, perplexity, bits_per_byte: 0.0, accuracy: 0.0 };
        let router = RouterResult {
            router: Router::Confidence,
            nll: 0.0,
            perplexity: perplexities[2],
            bits_per_byte: 0.0,
            accuracy: 0.0,
            adaptation_share: 0.5,
            head_shares: Vec::new(),
            worst_document_excess: 0.0,
        };
        CorpusResult {
            name: "a".into(),
            group,
            documents: 1,
            tokens: 1,
            scored_tokens: 1,
            bytes: 1,
            heads: vec![head(Head::Preservation, perplexities[0]), head(Head::Adaptation, perplexities[1])],
            routers: vec![router],
            representation: None,
            seconds: 0.0,
        }
    }

    #[test]
    fn means_are_geometric_and_excesses_relative_to_the_right_head() {
        let corpora = [
            corpus(Some(Group::Forget), [4.0, 8.0, 4.4]),
            corpus(None, [1.0, 1.0, 1.0]),
            corpus(Some(Group::Forget), [9.0, 8.0, 9.9]),
            corpus(Some(Group::Learn), [20.0, 10.0, 10.2]),
        ];
        insta::assert_snapshot!(table(&of(&corpora)).to_text(), @r"
        head or router  forgetting  over preservation  learning  over adaptation
        ────────────────────────────────────────────────────────────────────────
        preservation          6.00            +0.00 %     20.00        +100.00 %
        adaptation            8.00           +33.33 %     10.00          +0.00 %
        confidence            6.60           +10.00 %     10.20          +2.00 %
        ");
        assert!(of(&corpora[1..2]).is_empty());
        let alone = of(&corpora[..1]);
        assert_eq!((alone[0].learning, alone[2].learning_excess), (None, None));
    }
}
