//! The studies that come with the program, and the recipe that they vary.

use crate::error::{Error, Result};

/// Names and texts of the studies.
pub const STUDIES: [(&str, &str); 5] = [
    ("fig4", include_str!("../../studies/fig4.toml")),
    ("fig5", include_str!("../../studies/fig5.toml")),
    ("fig6", include_str!("../../studies/fig6.toml")),
    ("fig7", include_str!("../../studies/fig7.toml")),
    ("fig9", include_str!("../../studies/fig9.toml")),
];

const RECIPE_NAME: &str = "../recipes/smollm2-korean-preserve.toml";
const RECIPE: &str = include_str!("../../recipes/smollm2-korean-preserve.toml");

/// The text of a study.
pub fn study(name: &str) -> Option<&'static str> {
    STUDIES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The text of the recipe that a study names, with paths that start at the current folder rather than at `recipes/` in it.
///
/// # Errors
/// [`Error::Usage`] for a recipe that does not come with the program.
pub fn recipe(name: &str) -> Result<String> {
    if name != RECIPE_NAME {
        return Err(Error::usage(format!("{name}: this recipe does not come with the program; {RECIPE_NAME} does")));
    }
    Ok(RECIPE.replace("\"../", "\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;
    use crate::study::Study;
    use crate::study::claims::Kind;
    use std::path::Path;

    #[test]
    fn every_study_is_read_and_names_the_recipe_that_comes_with_it() {
        for (name, text) in STUDIES {
            let study = Study::parse(text, name, None).unwrap();
            assert!(study.variants.len() >= 3 && !study.claims.is_empty(), "{name}");
            let recipe = Recipe::parse(&recipe(&study.recipe).unwrap(), Path::new("/here"), &[]).unwrap();
            assert_eq!(recipe.model.path, Path::new("/here/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
            assert_eq!(super::study(name), Some(text));
        }
        assert!(recipe("other.toml").is_err());
    }

    /// The paper's numbers bear out what we say that it says.
    #[test]
    fn every_claim_holds_for_the_papers_own_numbers() {
        for (name, text) in STUDIES {
            let study = Study::parse(text, name, None).unwrap();
            for claim in &study.claims {
                let paper = |name: &str| match name {
                    "base" => study.base.get(claim.metric),
                    name => study.variants.iter().find(|entry| entry.name == name)?.paper.get(claim.metric),
                };
                let holds = claim.kind().unwrap().judge(&paper);
                assert!(holds != Some(false), "{name}: {}", claim.says);
                // A claim whose numbers the paper does not give for each variant says in words what it gives.
                assert!(holds.is_some() || claim.paper.is_some() || matches!(claim.kind(), Ok(Kind::Linear(_))), "{name}: {}", claim.says);
            }
        }
    }
}
