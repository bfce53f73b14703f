//! `function.toml`: what a folder is as a function.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bugle_api::FunctionRequest;
use serde::Deserialize;

use crate::failure::{Failure, Outcome, exit};
use crate::names;

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
        let refuse = |text: String| Failure::new(exit::REFUSED, text);
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            refuse(format!(
                "{}: {error}; a function's folder has a {FILE}, `bugle new` makes one",
                path.display()
            ))
        })?;
        let manifest = toml::from_str(&text).map_err(|error| {
            refuse(format!(
                "{}: {}",
                path.display(),
                error.to_string().trim_end()
            ))
        })?;
        let folder = folder
            .canonicalize()
            .map_err(|error| Failure::file(folder, &error))?;
        Ok((manifest, folder))
    }

    /// The request that registers the function, or updates it.
    pub(crate) fn request(&self, folder: &Path, runtime: &str) -> FunctionRequest {
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
            storage_type: Some("local".to_owned()),
            code_path: Some(folder.to_string_lossy().into_owned()),
            ..FunctionRequest::default()
        }
    }
}
