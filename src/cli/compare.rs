//! `treering compare`: runs side by side, as a table and as the plot of forgetting against learning.

use std::io::Write;
use std::path::{Path, PathBuf};

use treering::checkpoint::atomic;
use treering::error::IoContext;
use treering::report::comparison::Comparison;
use treering::report::svg;
use treering::{Error, Result};

/// Arguments of `treering compare`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run folders
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Write the plot to a file that ends in .svg, or plot, table and numbers into a folder
    #[arg(long, value_name = "DIR|FILE.svg")]
    out: Option<PathBuf>,
    /// Print one JSON object (docs/format-eval.md)
    #[arg(long)]
    json: bool,
    /// Print the table as Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

/// Compares.
pub fn run(args: Args) -> Result<()> {
    let comparison = Comparison::read(&args.runs)?;
    let json =
        || serde_json::to_string(&comparison).map_err(|error| Error::usage(format!("the comparison cannot be written as JSON: {error}")));
    if let Some(out) = &args.out {
        let plot = svg::render(&comparison.chart());
        if out.extension().is_some_and(|extension| extension == "svg") {
            write(out, &plot)?;
        } else {
            std::fs::create_dir_all(out).at(out)?;
            write(&out.join("comparison.svg"), &plot)?;
            write(&out.join("comparison.md"), &comparison.table().to_markdown())?;
            write(&out.join("comparison.json"), &(json()? + "\n"))?;
        }
    }
    match (args.json, args.markdown) {
        (true, _) => super::print(json()?),
        (false, true) => super::print(comparison.table().to_markdown().trim_end()),
        (false, false) => super::print(comparison.table().to_text().trim_end()),
    }
}

/// Writes a text file, whole or not at all.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).at(folder)?;
    }
    atomic::write_file(path, |out| out.write_all(text.as_bytes()).at(path))
}
