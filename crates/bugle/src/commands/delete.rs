//! `bugle delete`: deletes a function, or one version of it.

use clap::Args;

use crate::failure::{Failure, Outcome};
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
    let (name, version) = names::versioned(&arguments.name, arguments.version.as_deref());
    // For the platform that would be the whole function, which is not what was said.
    if matches!(version, Some("latest" | "$latest")) {
        return Err(
            Failure::usage("the draft cannot be deleted without its function").hint(format!(
                "`bugle delete {name}` deletes it with all versions"
            )),
        );
    }
    let delete = session.control.delete(&name, version);
    session.perform(delete).await?;
    match version {
        Some(version) => session.note(&format!("deleted {name} {version}")),
        None => session.note(&format!("deleted {name} with all its versions")),
    }
    Ok(())
}
