//! `function.toml`: what a folder is as a function.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bugle_api::FunctionRequest;
use serde::Deserialize;

use crate::failure::{Failure, Outcome, exit};
use crate::names;
use crate::near;

/// The name of the file.
pub(crate) const FILE: &str = "function.toml";

/// A function's folder, described.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// The name; short names belong to the service `default`.
    pub(crate) name: String,
    /// The runtime; the newest that the platform has when it is missing.
    pub(crate) runtime: Option<String>,
    /// `module.function`.
    handler: String,
    /// What it is for.
    description: Option<String>,
    /// Thousandths of a core.
    #[serde(default = "cpu")]
    cpu: i64,
    /// MB.
    #[serde(default = "memory")]
    memory: i64,
    /// Seconds.
    timeout: Option<i64>,
    /// Calls that one instance serves at once.
    concurrency: Option<u32>,
    /// Instances that are kept.
    min_instances: Option<u32>,
    /// The most instances.
    max_instances: Option<u32>,
    /// Variables.
    environment: Option<BTreeMap<String, String>>,
    /// Run once before the first call.
    initializer: Option<Hook>,
    /// Run before an instance ends.
    pre_stop: Option<Hook>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hook {
    handler: String,
    timeout: Option<i64>,
}

fn cpu() -> i64 {
    500
}

fn memory() -> i64 {
    256
}

impl Manifest {
    /// Reads the file in `folder`; with the folder as the platform needs it.
    pub(crate) fn read(folder: &Path) -> Outcome<(Self, PathBuf)> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::file(&path, &error).hint(format!(
                "a function's folder has a {FILE}; `bugle new NAME` makes a folder with one"
            ))
        })?;
        let manifest = toml::from_str(&text).map_err(|error| {
            let text = format!("{}: {}", path.display(), error.to_string().trim_end());
            let failure = Failure::new(exit::REFUSED, text);
            match meant(error.message()) {
                Some(question) => failure.hint(question),
                None => failure,
            }
        })?;
        let folder = folder
            .canonicalize()
            .map_err(|error| Failure::file(folder, &error))?;
        Ok((manifest, folder))
    }

    /// Whether the handler's module is in `folder`, for a runtime of which that can be told.
    pub(crate) fn check_handler(&self, folder: &Path, runtime: &str) -> Outcome {
        let module = self.handler.split(['.', '/']).next().unwrap_or_default();
        let is_module = |name: &str| {
            name.strip_prefix(module)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        // Python looks in the folder and in its `lib`.
        let mut entries = [folder.to_owned(), folder.join("lib")]
            .into_iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .flatten();
        let found = entries.any(|entry| entry.file_name().to_str().is_some_and(is_module));
        if found || !runtime.starts_with("python") {
            return Ok(());
        }
        let text = format!(
            "there is no {module}.py in {}, and the handler is {}",
            folder.display(),
            self.handler
        );
        Err(Failure::new(exit::REFUSED, text).hint(format!(
            "`handler` in {FILE} is MODULE.FUNCTION, where MODULE is a file of the folder"
        )))
    }

    /// The request that registers the function, or updates it; where its code is is still missing.
    pub(crate) fn request(&self, runtime: &str) -> FunctionRequest {
        let text = |number: u32| number.to_string();
        let hooks = [
            ("initializer", &self.initializer),
            ("pre_stop", &self.pre_stop),
        ];
        let set = hooks
            .iter()
            .filter_map(|(key, hook)| Some((*key, hook.as_ref()?)));
        let handlers = set
            .clone()
            .map(|(key, hook)| (key.to_owned(), hook.handler.clone()));
        let timeouts = set.filter_map(|(key, hook)| Some((key.to_owned(), hook.timeout?)));
        FunctionRequest {
            name: Some(names::full(&self.name)),
            runtime: Some(runtime.to_owned()),
            kind: Some("faas".to_owned()),
            handler: Some(self.handler.clone()),
            description: self.description.clone(),
            cpu: Some(self.cpu),
            memory: Some(self.memory),
            timeout: self.timeout,
            concurrent_num: self.concurrency.map(text),
            min_instance: self.min_instances.map(text),
            max_instance: self.max_instances.map(text),
            // An empty map clears what an earlier deploy had set.
            environment: Some(self.environment.clone().unwrap_or_default()),
            extended_handler: Some(handlers.collect()),
            extended_timeout: Some(timeouts.collect()),
            ..FunctionRequest::default()
        }
    }
}

/// What may have been meant by the key that a message says is unknown.
fn meant(message: &str) -> Option<String> {
    let mut quoted = message
        .strip_prefix("unknown field ")?
        .split('`')
        .skip(1)
        .step_by(2);
    let unknown = quoted.next()?;
    near::question(&near::near(unknown, quoted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_is_recognised() {
        let error = toml::from_str::<Manifest>("name = 'f'\nhandlr = 'a.b'").unwrap_err();
        assert_eq!(meant(error.message()).unwrap(), "did you mean handler?");
        let error = toml::from_str::<Manifest>("name = 1").unwrap_err();
        assert_eq!(meant(error.message()), None);
    }

    #[test]
    fn the_manifest_in_the_document_can_be_read() {
        let document = include_str!("../../../docs/cli.md");
        let (_, rest) = document.split_once("```toml\n").unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        let manifest: Manifest = toml::from_str(text).unwrap();
        assert_eq!(manifest.concurrency, Some(10));
        assert_eq!(manifest.initializer.unwrap().timeout, Some(60));
    }

    #[test]
    fn a_handler_needs_its_module_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let manifest: Manifest = toml::from_str("name = 'f'\nhandler = 'app.main.run'").unwrap();
        let check = |runtime| manifest.check_handler(folder.path(), runtime).is_ok();
        assert!(!check("python3.11"));
        assert!(check("custom-runtime"));
        std::fs::write(folder.path().join("apple.py"), "").unwrap();
        assert!(!check("python3.11"));
        std::fs::create_dir(folder.path().join("app")).unwrap();
        assert!(check("python3.11"));
    }
}
