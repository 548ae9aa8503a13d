//! What a user writes: recipes, studies, routers, names on the Hub; and what routers ask beside the heads.

use std::fmt::{Debug, Display};
use std::path::Path;
use std::str::FromStr;

use treering::grow::{Initialisation, Module};
use treering::hub::HubName;
use treering::model::Head;
use treering::recipe::Recipe;
use treering::route::{self, GATE_FILE, Gate, Recall, recall};
use treering::study::{self, Sweep};

use super::models::config_of_sixteen;
use super::{RECIPE, folder, write};

/// A recipe; one that is read must be written back to an equal one.
pub fn recipe(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(recipe) = Recipe::parse(text, Path::new("/r"), &[]) else { return };
    recipe_written_back(&recipe);
    let _ = recipe.resolve(&config_of_sixteen());
}

fn recipe_written_back(recipe: &Recipe) {
    let written = recipe.resolved_toml();
    match Recipe::parse(&written, Path::new("/r"), &[]) {
        Ok(again) => assert_eq!(&again, recipe, "{written}"),
        Err(error) => panic!("{error}\n{written}"),
    }
}

/// The file of a study.
pub fn study(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = study::Study::parse(text, "fuzzed", None);
    }
}

/// What is named on a command line: routers, heads, modules and initialisations, which must be written back to the same; sweeps; and a change of a recipe.
pub fn router(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(routers) = route::parse_list(text) {
        let names: Vec<String> = routers.iter().map(ToString::to_string).collect();
        assert_eq!(route::parse_list(&names.join(",")).ok(), Some(routers), "{names:?}");
    }
    written_back::<Head>(text);
    written_back::<Module>(text);
    written_back::<Initialisation>(text);
    let _ = Sweep::rates(text, &[]);
    if let Ok(sweep) = Sweep::each(text) {
        assert_eq!(sweep.folders().len(), sweep.values.len());
    }
    if let Ok(changed) = Recipe::parse(RECIPE, Path::new("/r"), &[text.to_owned()]) {
        recipe_written_back(&changed);
    }
}

fn written_back<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(found) = text.parse::<T>() {
        assert_eq!(found.to_string().parse().ok(), Some(found), "{text}");
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
