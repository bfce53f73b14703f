//! What can be said on the command line.

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::commands::{
    bench, config, delete, deploy, describe, dev, doctor, export, image, import, invoke, list,
    login, logs, member, new, node, pool, publish, reserve, run, serve, update,
};

/// The options that say where the platform is; each command takes them, and those that need none
/// make nothing of them.
const PLATFORM: &str = "Talking to a platform";
const OUTPUT: &str = "Output";

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

/// The command line. A negative number is a value wherever one can be, and breaks its rule; no flag is a digit.
pub(crate) fn program() -> clap::Command {
    with_negative_numbers(Arguments::command())
}

fn with_negative_numbers(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| {
            let takes_values = argument.get_action().takes_values();
            argument.allow_negative_numbers(takes_values)
        })
        .mut_subcommands(with_negative_numbers)
}

/// Options of all commands that talk to a platform.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Address of the control API.
    #[arg(
        long,
        global = true,
        help_heading = PLATFORM,
        env = "BUGLE_SERVER",
        hide_env_values = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:31182"
    )]
    pub(crate) server: String,
    /// Address of the invocation gateway; the platform says it when it is not given.
    #[arg(
        long,
        global = true,
        help_heading = PLATFORM,
        env = "BUGLE_GATEWAY",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) gateway: Option<String>,
    /// Tenant on whose behalf to act.
    #[arg(
        long,
        global = true,
        help_heading = PLATFORM,
        env = "BUGLE_TENANT",
        hide_env_values = true,
        value_name = "TENANT"
    )]
    pub(crate) tenant: Option<String>,
    /// Form of what is shown: for people, for programs, or for both.
    #[arg(
        short,
        long,
        global = true,
        help_heading = OUTPUT,
        value_name = "FORM",
        value_enum,
        default_value_t = Format::Table
    )]
    pub(crate) output: Format,
    /// Says nothing on standard error but errors.
    #[arg(short, long, global = true, help_heading = OUTPUT)]
    pub(crate) quiet: bool,
    /// Prints the request as a curl command instead of sending it.
    #[arg(long, global = true, help_heading = PLATFORM)]
    pub(crate) curl: bool,
}

/// Forms of what is shown. Comments on them would make every `--help` three times as long.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
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
    /// Runs a container image as a function, on the spot.
    Run(run::Arguments),
    /// Registers a folder as a function, or updates it.
    Deploy(deploy::Arguments),
    /// Calls a function.
    Invoke(invoke::Arguments),
    /// Measures a function: calls at a rate, their latencies, cold starts and failures.
    Bench(bench::Arguments),
    /// Shows what a function wrote.
    Logs(logs::Arguments),
    /// Lists functions.
    List(list::Arguments),
    /// Shows one function: definition, versions, instances, calls, failures.
    Describe(describe::Arguments),
    /// Makes a version of the draft that never changes.
    Publish(publish::Arguments),
    /// Changes settings of a function.
    Update(update::Arguments),
    /// Deletes a function, or one version of it.
    Delete(delete::Arguments),
    /// Keeps instances for calls with a label.
    Reserve(reserve::Arguments),
    /// Fetches, lists and removes container images.
    Image(image::Arguments),
    /// Creates, lists, resizes and deletes pools of workers.
    Pool(pool::Arguments),
    /// Hosts instances for a platform elsewhere, and looks after such nodes.
    Node(node::Arguments),
    /// Shows the gateways that share the functions of one etcd.
    Member(member::Arguments),
    /// Keeps credentials for a registry of images.
    Login(login::Arguments),
    /// Forgets the credentials for a registry.
    Logout(login::Out),
    /// Looks at the machine and says what is missing.
    Doctor(doctor::Arguments),
    /// Writes everything that the store holds into a file.
    Export(export::Arguments),
    /// Takes over what was exported.
    Import(import::Arguments),
    /// Prints the completion script of a shell.
    #[command(after_help = "Example:\n  bugle completion bash > /etc/bash_completion.d/bugle")]
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Checks or shows the configuration.
    Config(config::Arguments),
}

impl Command {
    /// The function that the command is about, as it was typed.
    pub(crate) fn function(&self) -> Option<&str> {
        match self {
            Self::Invoke(arguments) => Some(&arguments.event.name),
            Self::Logs(arguments) => Some(&arguments.name),
            Self::Describe(arguments) => Some(&arguments.name),
            Self::Publish(arguments) => Some(&arguments.name),
            Self::Update(arguments) => Some(&arguments.name),
            Self::Delete(arguments) => Some(&arguments.name),
            Self::Reserve(arguments) => Some(arguments.name()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_make_sense() {
        program().debug_assert();
    }

    #[test]
    fn a_negative_number_is_a_value_and_breaks_the_rule_of_its_flag() {
        for (line, rule) in [
            ("pool create p --size -3", "'--size <N>': -3 is not in 0.."),
            ("pool create p --max-size -1", "-1 is not in 0.."),
            ("pool resize p --size -3", "-3 is not in 0.."),
            ("pool wait p --timeout -1", "-1 is not in 0.."),
            ("invoke f --timeout -1", "-1 is not in 0.."),
            ("node --cpu -1", "-1 is not in 1.."),
            ("node token --minutes -5", "-5 is not in 0.."),
            ("reserve set f l --min -1 --max 2", "-1 is not in 0.."),
            ("update f --max-instances -2", "-2 is not in 0.."),
            ("bench f --rate -1", "-1 is not in "),
            ("logs f --tail -1", "-1 is not in 0.."),
            ("list --page -1", "-1 is not in 0.."),
        ] {
            let words = ["bugle"].into_iter().chain(line.split(' '));
            let refused = program().try_get_matches_from(words);
            let refused = refused.expect_err(line).to_string();
            assert!(refused.contains(rule), "{line}: {refused}");
        }
        let read = |line: &str| program().try_get_matches_from(line.split(' '));
        assert!(
            read("bugle update f --cpu -1").is_ok(),
            "the platform says what is wrong"
        );
        assert!(read("bugle invoke f -3").is_ok(), "a number is an event");
        assert!(read("bugle pool create p -x").is_err());
    }
}
