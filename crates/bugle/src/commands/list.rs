//! `bugle list`: the functions there are.

use clap::Args;

use crate::failure::Outcome;
use crate::numbers;
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  bugle list\n  bugle list thumb -o json")]
pub(crate) struct Arguments {
    /// Only functions whose name contains this.
    part: Option<String>,
    /// The page, from 1.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = numbers::from::<0, usize>)]
    page: usize,
    /// Versions on a page.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = numbers::from::<0, usize>)]
    page_size: usize,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    let Arguments {
        part,
        page,
        page_size,
    } = arguments;
    let list = session
        .control
        .list(part.as_deref(), (*page).max(1), (*page_size).max(1));
    let (functions, total) = session.perform(list).await?;
    output::show(session.format, &functions, || {
        let rows = functions.iter().map(|function| {
            [
                function.name.clone(),
                function.version_number.clone(),
                function.runtime.clone(),
                function.cpu.to_string(),
                function.memory.to_string(),
                function.last_modified.clone(),
            ]
        });
        output::table(
            ["NAME", "VERSION", "RUNTIME", "CPU", "MEMORY", "CHANGED"],
            rows,
        )
    })?;
    if total == 0 && part.is_none() {
        session.note("no function yet; `bugle new hello && bugle deploy hello` makes one");
    }
    if functions.len() < total {
        session.note(&format!(
            "{} of {total}; --page and --page-size show others",
            functions.len()
        ));
    }
    Ok(())
}
