//! `bugle image`: the container images of the platform's machine.

mod bars;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bugle_api::images::{ImageObject, PruneRequest, PullFailure, PullLine, RemovedImages};
use bugle_client::{Answer, Error};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::failure::{Failure, Outcome, exit};
use crate::output;
use crate::session::Session;
use bars::Bars;
pub(super) use bars::size;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  bugle image pull nginx:1.27
  docker save app:1 | bugle image load
  bugle image ls")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Image,
}

#[derive(Subcommand, Debug)]
enum Image {
    /// Lists the images.
    Ls,
    /// Fetches an image from its registry, with progress.
    Pull(Pull),
    /// Removes a name, and its image where nothing else means it.
    Rm(Rm),
    /// Removes images that are not needed.
    Prune(Prune),
    /// Reads images from a docker-archive or oci-archive.
    Load(Load),
}

#[derive(Args, Debug)]
struct Pull {
    /// The image, such as registry.example:5000/team/thumbnail:1.4, or with @ and its digest.
    image: String,
}

#[derive(Args, Debug)]
struct Rm {
    /// A name, or a digest.
    image: String,
}

#[derive(Args, Debug)]
struct Prune {
    /// All that no instance uses, also those that came from a file.
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
struct Load {
    /// The file; standard input when it is missing.
    file: Option<PathBuf>,
    /// What the image shall be called, where the file does not say it.
    #[arg(long, value_name = "IMAGE")]
    name: Option<String>,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    match &arguments.command {
        Image::Ls => list(session).await,
        Image::Pull(arguments) => pull(session, &arguments.image).await,
        Image::Rm(arguments) => {
            let remove = session.control.remove_image(&arguments.image);
            removed(session, &session.perform(remove).await?)
        }
        Image::Prune(Prune { all }) => {
            let prune = session.control.prune_images(&PruneRequest { all: *all });
            removed(session, &session.perform(prune).await?)
        }
        Image::Load(arguments) => load(session, arguments).await,
    }
}

async fn list(session: &Session) -> Outcome {
    let list = session.perform(session.control.images()).await?;
    output::show(session.format, &list, || {
        let rows = list.images.iter().flat_map(|image| {
            let names = match &*image.names {
                [] => vec!["-".to_owned()],
                names => names.to_vec(),
            };
            names.into_iter().map(|name| {
                let short = image.digest.get(..19).unwrap_or(&image.digest);
                [name, short.to_owned(), size(image.size), state(image)]
            })
        });
        output::table(["NAME", "DIGEST", "SIZE", "STATE"], rows)
    })?;
    for pull in &list.pulls {
        session.note(&format!("{} is being pulled", pull.reference));
    }
    if list.images.is_empty() && list.pulls.is_empty() {
        session.note("no image yet; `bugle image pull IMAGE` fetches one");
    }
    Ok(())
}

fn state(image: &ImageObject) -> String {
    let words = [
        (image.in_use, "in use"),
        (!image.complete, "incomplete"),
        (image.loaded, "from a file"),
    ];
    let words: Vec<_> = words
        .iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, word)| *word)
        .collect();
    words.join(", ")
}

async fn pull(session: &Session, image: &str) -> Outcome {
    if session.curl {
        let pull = session.control.pull_image(image);
        return Session::show_curl(&pull.base, &pull.call, None);
    }
    shown(session, &[fetch(session, image).await?])
}

/// Has the platform pull an image, and shows how far it is.
pub(super) async fn fetch(session: &Session, image: &str) -> Outcome<ImageObject> {
    let pull = session.control.pull_image(image);
    let mut bars = Bars::new(session.quiet);
    read(pull.open().await?, &mut bars).await
}

/// Reads lines until the one that ends the pull.
async fn read(mut answer: Answer, bars: &mut Bars) -> Outcome<ImageObject> {
    let mut rest = Vec::new();
    while let Some(piece) = answer.next().await? {
        rest.extend_from_slice(&piece);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = serde_json::from_slice(&line).map_err(|error| {
                let text = format!("the platform's answer cannot be read: {error}");
                Failure::new(exit::REFUSED, text)
            })?;
            match line {
                PullLine::Progress(pull) => bars.show(&pull),
                PullLine::Image(image) => return Ok(image),
                PullLine::Error(PullFailure {
                    status,
                    code,
                    message,
                }) => return Err(Failure::answered(status, code, message)),
            }
        }
    }
    Err(Failure::new(
        exit::NETWORK,
        "the platform broke off; `bugle image ls` shows whether the image has come",
    ))
}

async fn load(session: &Session, Load { file, name }: &Load) -> Outcome {
    if session.curl {
        let upload = session.control.load_images(name.as_deref());
        let data = match file {
            Some(path) => format!("@{}", path.display()),
            None => "@-".to_owned(),
        };
        return Session::show_curl(&upload.base, &upload.call, Some(&data));
    }
    let path = file.as_deref().unwrap_or_else(|| Path::new("/dev/stdin"));
    shown(session, &send(session, path, name.as_deref()).await?)
}

/// Sends an archive to the platform; yields the images in it.
pub(super) async fn send(
    session: &Session,
    path: &Path,
    name: Option<&str>,
) -> Outcome<Vec<ImageObject>> {
    let opened = tokio::fs::File::open(path).await;
    let opened = opened.map_err(|error| Failure::file(path, &error))?;
    let sent = Arc::new(AtomicU64::new(0));
    let _bar = Bars::of_upload(session.quiet, path, Arc::clone(&sent));
    let upload = session.control.load_images(name);
    upload.send(opened, sent).await.map_err(|error| {
        let is_no_archive = matches!(error, Error::Refused { status: 422, .. });
        let failure = Failure::from(error);
        if !is_no_archive {
            return failure;
        }
        failure.hint(format!(
            "`docker save -o FILE IMAGE`, `podman save` and `skopeo copy … oci-archive:FILE` write \
             such files; is {} one, whole and for this kind of machine?",
            path.display()
        ))
    })
}

fn shown(session: &Session, images: &[ImageObject]) -> Outcome {
    output::show(session.format, &images, || {
        let lines = images.iter().map(|image| {
            let name = image.names.first().unwrap_or(&image.digest);
            format!("{name} {} {}", image.digest, size(image.size))
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}

fn removed(session: &Session, removed: &RemovedImages) -> Outcome {
    let value = json!({"images": removed.images, "freed": removed.freed});
    output::show(session.format, &value, || {
        let mut lines = removed.images.clone();
        lines.push(format!("freed {}", size(removed.freed)));
        lines.join("\n")
    })
}
