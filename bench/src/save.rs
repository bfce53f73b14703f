//! From saving a file under `bugle dev` to an answer of the new code.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::Effort;
use crate::figures::Figures;
use crate::load;
use crate::platform::{Folders, Helper, Platform, invocation, pause};

/// How often a file is saved.
const ROUNDS: u32 = 10;
/// The longest that the new code may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn save(binary: &Path, _: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    let platform = Platform::start(binary, &folders.data, &folders.code)?;
    let folder = folders.function("saved")?;
    let manifest = "name = \"saved\"\nhandler = \"handler.handler\"\n";
    std::fs::write(folder.join("function.toml"), manifest)?;
    let write = |number: u32| {
        let source = format!("def handler(event, context):\n    return {number}\n");
        std::fs::write(folder.join("handler.py"), source)
    };
    write(0)?;
    let child = Command::new(binary)
        .args(["dev", "--server"])
        .arg(format!("http://{}", platform.control))
        .arg(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| binary.display().to_string())?;
    let _dev = Helper(child);
    let request = load::request(platform.gateway, &invocation("0@default@saved"), Some("{}"));
    let until_answer = |number: u32| -> anyhow::Result<f64> {
        let begin = Instant::now();
        loop {
            let (status, body) = load::once(platform.gateway, &request)?;
            if status == 200 && body == number.to_string() {
                return Ok(begin.elapsed().as_secs_f64() * 1e3);
            }
            ensure!(begin.elapsed() < PATIENCE, "{status}: {body}");
            pause();
        }
    };
    until_answer(0)?;
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        write(number)?;
        rounds.push(until_answer(number)?);
    }
    let what = "from saving a file under `bugle dev` to the first answer of the new code";
    figures.add("save_to_answer_ms", "ms", what, rounds);
    Ok(())
}
