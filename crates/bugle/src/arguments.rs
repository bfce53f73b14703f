//! What can be said on the command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::commands::{
    config, delete, deploy, describe, dev, doctor, invoke, list, logs, new, publish, reserve,
    serve, update,
};

const EXIT_CODES: &str = "\
Exit codes:
  0 ok · 1 the platform or the function said no · 2 usage · 3 no connection · 4 not allowed
  5 not found · 6 conflict · 7 throttled, try again · 64 bad configuration · 124 timeout
  130 interrupted";

/// A serverless function platform in one binary.
#[derive(Parser, Debug)]
// The last of an option that is given twice wins, so that a script can override its defaults.
#[command(version, about, after_help = EXIT_CODES, args_override_self = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of all commands that talk to a platform.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Address of the control API.
    #[arg(
        long,
        global = true,
        env = "BUGLE_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:31182"
    )]
    pub(crate) server: String,
    /// Address of the invocation gateway; the platform says it when it is not given.
    #[arg(long, global = true, env = "BUGLE_GATEWAY", value_name = "URL")]
    pub(crate) gateway: Option<String>,
    /// Tenant on whose behalf to act.
    #[arg(long, global = true, env = "BUGLE_TENANT", value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// Form of what is shown.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Says nothing on standard error but errors.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Prints the equivalent curl command instead of sending the request.
    #[arg(long, global = true)]
    pub(crate) curl: bool,
}

/// Forms of what is shown.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Runs the platform.
    Serve(serve::Arguments),
    /// Makes a function's folder from a template.
    New(new::Arguments),
    /// Runs a folder as a function and deploys it again on each save.
    Dev(dev::Arguments),
    /// Registers a folder as a function, or updates it.
    Deploy(deploy::Arguments),
    /// Calls a function.
    Invoke(invoke::Arguments),
    /// Shows what a function wrote.
    Logs(logs::Arguments),
    /// Lists functions.
    List(list::Arguments),
    /// Shows everything about a function: definition, versions, instances, failures.
    Describe(describe::Arguments),
    /// Makes a version of the draft that never changes.
    Publish(publish::Arguments),
    /// Changes settings of a function.
    Update(update::Arguments),
    /// Deletes a function, or one version of it.
    Delete(delete::Arguments),
    /// Keeps instances for calls with a label.
    Reserve(reserve::Arguments),
    /// Looks at the machine and says what is missing.
    Doctor(doctor::Arguments),
    /// Prints the completion script of a shell.
    #[command(after_help = "Example:\n  bugle completion bash > /etc/bash_completion.d/bugle")]
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Checks or shows the configuration.
    Config(config::Arguments),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_make_sense() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
