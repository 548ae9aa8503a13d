//! `treering compare`: runs side by side, as a table, as a page with every curve, and as the plot of forgetting against learning.

use std::io::Write;
use std::path::{Path, PathBuf};

use treering::checkpoint::atomic;
use treering::error::IoContext;
use treering::report::comparison::Comparison;
use treering::report::{page, svg};
use treering::{Error, Result};

/// Arguments of `treering compare`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run folders, finished or not
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Write a file, by its ending .html (a page with every curve), .svg, .md, .csv or .json; or all five into a folder
    #[arg(long, value_name = "DIR|FILE")]
    out: Vec<PathBuf>,
    /// Print one JSON object (docs/format-compare.md)
    #[arg(long)]
    json: bool,
    /// Print the table as Markdown
    #[arg(long, conflicts_with_all = ["json", "csv"])]
    markdown: bool,
    /// Print every measurement as comma-separated values
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// The kinds of file that are written, by their endings.
const KINDS: [&str; 5] = ["html", "svg", "md", "csv", "json"];

/// Compares.
pub fn run(args: Args) -> Result<()> {
    // Before anything is read: which files will be written.
    let files = args.out.iter().map(|out| targets(out)).collect::<Result<Vec<_>>>()?.concat();
    let comparison = Comparison::read(&args.runs)?;
    for (path, kind) in &files {
        write(path, &text(&comparison, kind)?)?;
    }
    if args.json || args.markdown || args.csv {
        let kind = if args.json { "json" } else { ["md", "csv"][usize::from(args.csv)] };
        return super::print(text(&comparison, kind)?.trim_end());
    }
    let written: Vec<String> = files.iter().map(|(path, _)| format!("\nwritten: {}", path.display())).collect();
    super::print(format!("{}{}", comparison.to_text().trim_end(), written.concat()))
}

/// The files that `--out` asks for, each with its kind.
fn targets(out: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let ending = out.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    if out.is_dir() || ending.is_none() || out.as_os_str().to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]) {
        return Ok(KINDS.map(|kind| (out.join("comparison").with_extension(kind), kind)).to_vec());
    }
    let kind = KINDS.into_iter().find(|kind| ending.as_deref() == Some(*kind));
    kind.map(|kind| vec![(out.to_path_buf(), kind)]).ok_or_else(|| {
        Error::usage(format!(
            "--out {}: expected a file ending in .html, .svg, .md, .csv or .json, or a folder\n  hint: a folder whose name has a dot is given with a slash at its end",
            out.display()
        ))
    })
}

fn text(comparison: &Comparison, kind: &str) -> Result<String> {
    Ok(match kind {
        "html" => page::render(comparison),
        "svg" => svg::render(&comparison.chart()),
        "md" => comparison.to_markdown(),
        "csv" => comparison.measurements().to_csv(),
        _ => {
            let json = serde_json::to_string(comparison);
            json.map_err(|error| Error::usage(format!("the comparison cannot be written as JSON: {error}")))? + "\n"
        }
    })
}

/// Writes a text file, whole or not at all.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        atomic::create_folders(folder)?;
    }
    atomic::write_file(path, |out| out.write_all(text.as_bytes()).at(path))
}
