//! `bugle deploy`: registers a folder as a function, or updates it.
//!
//! A platform on this machine runs the code where it is, if it is below one of its code roots: then
//! a change of a file needs no more than a new start. Any other platform gets the code as a package,
//! which `--package` asks for in any case.

use std::path::{Path, PathBuf};

use bugle_api::operator::Info;
use bugle_api::{FunctionObject, FunctionRequest, S3CodePath};
use bugle_client::Operation;
use bugle_types::{Code, Runtime};
use clap::Args;

use crate::failure::{Failure, Outcome, exit};
use crate::manifest::Manifest;
use crate::session::Session;
use crate::{output, package};

/// Others may update the same function; after so many races one of us should give up.
const ATTEMPTS: usize = 5;

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  bugle deploy examples/hello\n  bugle deploy --package .\n  bugle deploy -o json ."
)]
pub(crate) struct Arguments {
    /// The function's folder.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Sends the code as a package, although the platform could run it where it is.
    #[arg(long)]
    package: bool,
}

/// How the code gets to the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// In place if the platform can reach it.
    Nearest,
    /// As a package.
    Package,
}

/// What a deployment came to.
pub(crate) struct Deployed {
    pub(crate) function: FunctionObject,
    pub(crate) is_new: bool,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    let way = if arguments.package {
        Way::Package
    } else {
        Way::Nearest
    };
    if session.curl {
        let request = prepare(session, &arguments.folder, way).await?;
        let found = find(session, &request).await?;
        return session
            .perform(operation(session, &request, found))
            .await
            .map(drop);
    }
    let progress = output::Progress::start(session.quiet, "deploying");
    let Deployed { function, is_new } = deploy(session, &arguments.folder, way).await?;
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
pub(crate) async fn deploy(session: &Session, folder: &Path, way: Way) -> Outcome<Deployed> {
    let request = prepare(session, folder, way).await?;
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
async fn prepare(session: &Session, folder: &Path, way: Way) -> Outcome<FunctionRequest> {
    let (manifest, folder) = Manifest::read(folder)?;
    let info = session.control.info().send().await?;
    let runtime = runtime(session, &manifest, &info)?;
    manifest.check_handler(&folder, &runtime)?;
    let request = manifest.request(&runtime);
    if way == Way::Nearest && is_here(session) && is_below_root(&info, &folder) {
        return Ok(FunctionRequest {
            storage_type: Some("local".to_owned()),
            code_path: Some(folder.to_string_lossy().into_owned()),
            ..request
        });
    }
    Ok(FunctionRequest {
        storage_type: Some("s3".to_owned()),
        s3_code_path: Some(upload(session, folder).await?),
        ..request
    })
}

/// Packs the folder and sends it, unless the platform has it already.
async fn upload(session: &Session, folder: PathBuf) -> Outcome<S3CodePath> {
    let progress = output::Progress::start(session.quiet, "packing");
    let packed = tokio::task::spawn_blocking(move || package::pack(&folder)).await;
    let packed = packed.map_err(|error| Failure::new(exit::REFUSED, error.to_string()))??;
    let size = output::bytes(packed.bytes);
    if session.curl {
        // What would be sent is not sent, so neither is it asked for.
        return Ok(uploaded(&packed.sha512));
    }
    if session.control.has_package(&packed.sha512).await? {
        session.note(&format!("package unchanged ({size})"));
        return Ok(uploaded(&packed.sha512));
    }
    let (say, total) = (progress.sharer(), packed.bytes);
    let sent = move |done| {
        let done = output::bytes(done);
        say(format!("sending {done} of {}", output::bytes(total)));
    };
    let package = session
        .control
        .upload(&packed.sha512, packed.file, packed.bytes, sent);
    let package = package.await?;
    drop(progress);
    session.note(&format!("sent {size} in {} files", packed.entries));
    Ok(package.s3_code_path)
}

/// What the platform answers for a package that it has.
fn uploaded(sha512: &str) -> S3CodePath {
    S3CodePath {
        bucket_id: "uploads".to_owned(),
        object_id: sha512.to_owned(),
        bucket_url: "bugle:".to_owned(),
        sha512: sha512.to_owned(),
        ..S3CodePath::default()
    }
}

/// Whether the platform is on this machine, as far as its address tells.
fn is_here(session: &Session) -> bool {
    let authority = session.control.base.authority();
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
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

/// Whether the platform may run the code where it is.
fn is_below_root(info: &Info, folder: &Path) -> bool {
    let below = |root: &PathBuf| {
        let root = root.canonicalize();
        root.is_ok_and(|root| folder.starts_with(root))
    };
    info.code_roots.iter().any(below)
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
