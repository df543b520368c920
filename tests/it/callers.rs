//! What `examples/callers` ships: on each page, the lines that start the callers print what stands
//! behind them, and the configuration is one that answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rpchost::private_broker::PrivateBroker;
use tokio::process::Command;

use crate::support::guests;
use crate::support::host::{Host, Options};

/// How long a program may take, compiling and a busy machine included. Its own
/// share is below three seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// A line of a page, and what it prints.
struct Example {
    line: String,
    prints: String,
}

/// One folder's README.
struct Page {
    folder: PathBuf,
    name: String,
    configuration: String,
    examples: Vec<Example>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_says_what_happens() {
    // Queues and exchanges of the libraries have no prefix.
    let broker = PrivateBroker::start().await.expect("a broker");
    let (fib, math) = (guests::built("fib"), guests::built("math"));
    let plugins: [(&str, &[u8]); 2] = [("fib", &fib), ("math", &math)];
    let mut wrong = Vec::new();
    for page in pages() {
        let options = Options::in_file(&broker.amqp_url(), &page.configuration);
        let host = Host::start(&options, &plugins);
        for example in &page.examples {
            let printed = printed(&page.folder, &example.line, &broker.amqp_url()).await;
            if printed != example.prints {
                wrong.push(format!(
                    "{}: `{}` prints\n{printed}\ninstead of\n{}\n",
                    page.name, example.line, example.prints
                ));
            }
        }
        drop(host);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_folder_has_a_page_and_is_in_the_overview() {
    let overview = std::fs::read_to_string(callers().join("README.md")).expect("the overview");
    let pages = pages();
    assert_eq!(pages.len(), 10);
    let mut programs = BTreeMap::new();
    for page in &pages {
        assert!(overview.contains(&format!("]({})", page.name)), "{} is not named", page.name);
        assert!(page.examples.iter().any(|example| example.prints == "832040"), "{}", page.name);
        for entry in std::fs::read_dir(&page.folder).expect("a folder").flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            if !["README.md", "__pycache__"].contains(&file.as_str()) {
                let started = page.examples.iter().any(|example| example.line.contains(&file));
                programs.insert(format!("{}/{file}", page.name), started);
            }
        }
    }
    let idle: Vec<_> = programs.iter().filter(|(_, started)| !**started).collect();
    assert!(idle.is_empty(), "started by no line of their page: {idle:?}");
}

fn callers() -> PathBuf {
    guests::root().join("examples/callers")
}

fn pages() -> Vec<Page> {
    let mut pages: Vec<Page> = std::fs::read_dir(callers())
        .expect("examples/callers")
        .map(|entry| entry.expect("a folder").path())
        .filter(|path| path.is_dir())
        .map(|folder| page(&folder))
        .collect();
    pages.sort_by(|one, other| one.name.cmp(&other.name));
    pages
}

/// Reads a page: its ```toml block, and the indented lines with `#` and what they print.
fn page(folder: &Path) -> Page {
    let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
    let text = std::fs::read_to_string(folder.join("README.md"))
        .unwrap_or_else(|error| panic!("{name}/README.md: {error}"));
    let (_, after) = text.split_once("```toml\n").unwrap_or_else(|| panic!("{name}: no toml"));
    let (configuration, _) = after.split_once("```").expect("its end");
    let examples = text
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.split_once(" # "))
        .map(|(line, prints)| Example { line: line.trim().into(), prints: prints.trim().into() })
        .collect();
    Page { folder: folder.to_owned(), name, configuration: configuration.to_owned(), examples }
}

/// What a line prints, to whichever of the two outputs.
async fn printed(folder: &Path, line: &str, url: &str) -> String {
    let target = guests::root().join("target");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{line} 2>&1")])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", target.join("venv/bin").display()))
        .env("NODE_PATH", target.join("clients/node/node_modules"))
        .env("AMQP_URL", url)
        .env("HOME", "/nonexistent")
        // Python's libraries warn of each other.
        .env("PYTHONWARNINGS", "ignore")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, shell.output())
        .await
        .unwrap_or_else(|_| panic!("`{line}` did not end within {PATIENCE:?}"))
        .expect("a shell");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
