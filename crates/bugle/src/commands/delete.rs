//! `bugle delete`: deletes a function, or one version of it.

use clap::Args;

use crate::failure::Outcome;
use crate::names;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  bugle delete hello --version v1\n  bugle delete hello")]
pub(crate) struct Arguments {
    /// Name or URN of the function.
    pub(crate) name: String,
    /// Only this version; the whole function when it is missing.
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    let name = names::full(&arguments.name);
    let delete = session.control.delete(&name, arguments.version.as_deref());
    session.perform(delete).await?;
    match &arguments.version {
        Some(version) => session.note(&format!("deleted {name} {version}")),
        None => session.note(&format!("deleted {name} with all its versions")),
    }
    Ok(())
}
