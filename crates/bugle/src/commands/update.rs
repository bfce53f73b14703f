//! `bugle update`: changes settings of a function and keeps the others.

use bugle_api::{FunctionObject, FunctionRequest, S3CodePath};
use clap::Args;

use crate::failure::{Failure, Outcome};
use crate::names;
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bugle update hello --memory 512 --timeout 60
  bugle update hello --min-instances 1 --env GREETING=Hi")]
pub(crate) struct Arguments {
    /// Name or URN of the function.
    pub(crate) name: String,
    /// Thousandths of a core.
    #[arg(long, value_name = "N")]
    cpu: Option<i64>,
    /// MB.
    #[arg(long, value_name = "N")]
    memory: Option<i64>,
    /// How long a call may take, in seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<i64>,
    /// `module.function`.
    #[arg(long, value_name = "HANDLER")]
    handler: Option<String>,
    /// What it is for.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Instances that are kept.
    #[arg(long, value_name = "N")]
    min_instances: Option<u32>,
    /// The most instances.
    #[arg(long, value_name = "N")]
    max_instances: Option<u32>,
    /// Calls that one instance serves at once.
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// A variable, NAME=VALUE; may be given more than once. Others stay.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
}

impl Arguments {
    fn changes_nothing(&self) -> bool {
        let Self {
            name: _,
            cpu,
            memory,
            timeout,
            handler,
            description,
            min_instances,
            max_instances,
            concurrency,
            env,
        } = self;
        let numbers = [cpu, memory, timeout].iter().all(|number| number.is_none());
        let counts = [min_instances, max_instances, concurrency];
        let texts = [handler, description].iter().all(|text| text.is_none());
        numbers && counts.iter().all(|count| count.is_none()) && texts && env.is_empty()
    }
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    if arguments.changes_nothing() {
        return Err(Failure::usage("there is nothing to change")
            .hint("name a setting, for instance --memory 512; --help lists them"));
    }
    let name = names::full(&arguments.name);
    let draft = session.control.function(&name, None).send().await?;
    let request = request(arguments, draft)?;
    let function = session
        .perform(session.control.update(&name, &request))
        .await?;
    session.note(&format!("updated {}", function.name));
    output::show(session.format, &function, || {
        function.function_version_urn.clone()
    })
}

/// What an update leaves out is reset by the contract, so everything is sent as it was.
fn request(arguments: &Arguments, draft: FunctionObject) -> Outcome<FunctionRequest> {
    let mut environment = draft.environment;
    for variable in &arguments.env {
        let (name, value) = variable
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("--env {variable}: NAME=VALUE is expected")))?;
        environment.insert(name.to_owned(), value.to_owned());
    }
    let count = |wanted: Option<u32>, before: i64| {
        Some(wanted.map_or_else(|| before.to_string(), |wanted| wanted.to_string()))
    };
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(FunctionRequest {
        revision_id: Some(draft.revision_id),
        kind: Some(draft.kind),
        cpu: Some(arguments.cpu.unwrap_or(draft.cpu)),
        memory: Some(arguments.memory.unwrap_or(draft.memory)),
        timeout: Some(arguments.timeout.unwrap_or(draft.timeout)),
        handler: arguments.handler.clone(),
        description: arguments.description.clone(),
        // Unchanged variables are not sent: the platform masks some of them in its answers.
        environment: (!arguments.env.is_empty()).then_some(environment),
        min_instance: count(arguments.min_instances, draft.min_instance),
        max_instance: count(arguments.max_instances, draft.max_instance),
        concurrent_num: count(arguments.concurrency, draft.concurrent_num),
        storage_type: text(draft.storage_type),
        code_path: text(draft.code_path),
        s3_code_path: text(draft.object_id.clone()).map(|_| S3CodePath {
            bucket_id: draft.bucket_id,
            object_id: draft.object_id,
            sha512: draft.code_sha256,
            ..S3CodePath::default()
        }),
        enable_metrics: Some(draft.enable_metrics),
        device: Some(draft.device).filter(|device| !device.is_empty()),
        priority_az: text(draft.priority_az),
        ..FunctionRequest::default()
    })
}
