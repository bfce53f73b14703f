//! `bugle deploy`: registers a folder as a function, or updates it.

use std::path::{Path, PathBuf};

use bugle_api::operator::Info;
use bugle_api::{FunctionObject, FunctionRequest};
use bugle_types::Code;
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
        return show(session, &arguments.folder).await;
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
    let (manifest, folder) = Manifest::read(folder)?;
    let info = session.control.info().await?;
    check_root(&info, &folder)?;
    let runtime = runtime(&manifest, &info)?;
    let request = manifest.request(&folder, &runtime);
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

async fn attempt(
    session: &Session,
    request: &FunctionRequest,
) -> Result<Deployed, bugle_client::Error> {
    let name = request.name.clone().unwrap_or_default();
    match session.control.function(&name, None).await {
        Ok(found) => {
            let update = FunctionRequest {
                revision_id: Some(found.revision_id),
                kind: Some(found.kind),
                ..request.clone()
            };
            let function = session.control.update(&name, &update).await?;
            Ok(Deployed {
                function,
                is_new: false,
            })
        }
        Err(error) if error.code() == Some(Code::FunctionNotFound.number()) => {
            let function = session.control.register(request).await?;
            Ok(Deployed {
                function,
                is_new: true,
            })
        }
        Err(error) => Err(error),
    }
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
            "{} is not below a folder from which the platform takes code ({}); start it with \
             --code-root {}, or move the folder",
            folder.display(),
            roots.join(", "),
            folder.parent().unwrap_or(folder).display()
        ),
    ))
}

/// The manifest's runtime, or the newest Python of the platform.
fn runtime(manifest: &Manifest, info: &Info) -> Outcome<String> {
    if let Some(runtime) = &manifest.runtime {
        return Ok(runtime.clone());
    }
    let minor = |name: &str| name.strip_prefix("python3.")?.parse::<u32>().ok();
    let newest = info
        .runtimes
        .iter()
        .filter_map(|runtime| minor(&runtime.name))
        .max();
    newest
        .map(|minor| format!("python3.{minor}"))
        .ok_or_else(|| {
            let text = "the platform found no Python; install one, see `bugle doctor`";
            Failure::new(exit::REFUSED, text)
        })
}

/// Shows the request that would register the function.
async fn show(session: &Session, folder: &Path) -> Outcome {
    let (manifest, folder) = Manifest::read(folder)?;
    let info = session.control.info().await?;
    let request = manifest.request(&folder, &runtime(&manifest, &info)?);
    let path = "/serverless/v1/functions".to_owned();
    let call = session
        .control
        .call(http::Method::POST, path, Some(&request));
    Session::show_curl(&session.control.base, &call)
}
