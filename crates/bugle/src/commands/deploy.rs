//! `bugle deploy`: registers a folder as a function, or updates it.

use std::path::{Path, PathBuf};

use bugle_api::operator::Info;
use bugle_api::{FunctionObject, FunctionRequest};
use bugle_client::Operation;
use bugle_types::{Code, Runtime};
use clap::Args;

use crate::failure::{Failure, Outcome, exit};
use crate::manifest::Manifest;
use crate::output;
use crate::session::Session;

/// Others may update the same function; after so many races one of us should give up.
const ATTEMPTS: usize = 5;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  bugle deploy examples/hello\n  bugle deploy -o json .")]
pub(crate) struct Arguments {
    /// The function's folder.
    #[arg(default_value = ".")]
    folder: PathBuf,
}

/// What a deployment came to.
pub(crate) struct Deployed {
    pub(crate) function: FunctionObject,
    pub(crate) is_new: bool,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    if session.curl {
        let request = prepare(session, &arguments.folder).await?;
        let found = find(session, &request).await?;
        return session
            .perform(operation(session, &request, found))
            .await
            .map(drop);
    }
    let progress = output::Progress::start(session.quiet, "deploying");
    let Deployed { function, is_new } = deploy(session, &arguments.folder).await?;
    drop(progress);
    session.note(&format!(
        "{} {}",
        if is_new { "registered" } else { "updated" },
        function.name
    ));
    output::show(session.format, &function, || {
        function.function_version_urn.clone()
    })
}

/// Brings the function in `folder` onto the platform as it is there.
pub(crate) async fn deploy(session: &Session, folder: &Path) -> Outcome<Deployed> {
    let request = prepare(session, folder).await?;
    for _ in 0..ATTEMPTS {
        match attempt(session, &request).await {
            // Somebody registered or updated it in this moment.
            Err(error)
                if [Code::FunctionNameExist, Code::RevisionIDError]
                    .iter()
                    .any(|code| error.code() == Some(code.number())) => {}
            outcome => return Ok(outcome?),
        }
    }
    Err(Failure::new(
        exit::CONFLICT,
        "the function is changed by others all the time; try again",
    ))
}

/// The function as its folder describes it, checked as far as that can be done from here.
async fn prepare(session: &Session, folder: &Path) -> Outcome<FunctionRequest> {
    let (manifest, folder) = Manifest::read(folder)?;
    let info = session.control.info().send().await?;
    check_root(&info, &folder)?;
    let runtime = runtime(session, &manifest, &info)?;
    manifest.check_handler(&folder, &runtime)?;
    Ok(manifest.request(&folder, &runtime))
}

async fn attempt(
    session: &Session,
    request: &FunctionRequest,
) -> Result<Deployed, bugle_client::Error> {
    let found = find(session, request).await?;
    let is_new = found.is_none();
    let function = operation(session, request, found).send().await?;
    Ok(Deployed { function, is_new })
}

/// The function as the platform has it, if it has.
async fn find(
    session: &Session,
    request: &FunctionRequest,
) -> Result<Option<FunctionObject>, bugle_client::Error> {
    let name = request.name.as_deref().unwrap_or_default();
    match session.control.function(name, None).send().await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code() == Some(Code::FunctionNotFound.number()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Updates the function that was found, or registers it.
fn operation(
    session: &Session,
    request: &FunctionRequest,
    found: Option<FunctionObject>,
) -> Operation<FunctionObject> {
    let Some(found) = found else {
        return session.control.register(request);
    };
    let update = FunctionRequest {
        revision_id: Some(found.revision_id),
        kind: Some(found.kind),
        ..request.clone()
    };
    session.control.update(&found.name, &update)
}

/// The platform reads the code where it is, below its roots only.
fn check_root(info: &Info, folder: &Path) -> Outcome {
    let below = |root: &PathBuf| {
        root.canonicalize()
            .is_ok_and(|root| folder.starts_with(root))
    };
    if info.code_roots.iter().any(below) {
        return Ok(());
    }
    let roots: Vec<String> = info
        .code_roots
        .iter()
        .map(|root| root.display().to_string())
        .collect();
    Err(Failure::new(
        exit::REFUSED,
        format!(
            "{} is not below a folder from which the platform takes code ({})",
            folder.display(),
            roots.join(", "),
        ),
    )
    .hint(format!(
        "start the platform with --code-root {}, or move the folder",
        folder.parent().unwrap_or(folder).display()
    )))
}

/// The manifest's runtime, or the newest Python of the platform.
fn runtime(session: &Session, manifest: &Manifest, info: &Info) -> Outcome<String> {
    let known = || info.runtimes.iter().map(|runtime| runtime.name.as_str());
    if let Some(wanted) = &manifest.runtime {
        // Programs need no interpreter that the platform would know of.
        let is_program = matches!(Runtime::from_name(wanted), Runtime::Program(_));
        if !is_program && !known().any(|name| name == wanted) {
            // It may be installed later, or not exist at all: that the platform decides.
            let known: Vec<&str> = known().collect();
            session.note(&format!(
                "runtime {wanted} is not on this platform, which has: {}",
                known.join(", ")
            ));
        }
        return Ok(wanted.clone());
    }
    let minor = |name: &str| name.strip_prefix("python3.")?.parse::<u32>().ok();
    let newest = known().filter_map(minor).max();
    newest
        .map(|minor| format!("python3.{minor}"))
        .ok_or_else(|| {
            Failure::new(exit::REFUSED, "the platform found no Python")
                .hint("`bugle doctor` shows where it looked and what is wrong with what it found")
        })
}
