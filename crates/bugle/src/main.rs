//! The command line: one file for each command, and what they share.
//!
//! Answers go to standard output and nothing else does; summaries, progress and errors go to
//! standard error. An error says what failed, why, and what to do next, and the exit code tells
//! scripts what kind it was (see [`failure`]).

mod arguments;
mod commands;
mod event;
mod failure;
mod manifest;
mod names;
mod near;
mod numbers;
mod output;
mod package;
#[cfg(test)]
mod reference;
mod session;
mod settings;

use std::process::ExitCode;

use clap::FromArgMatches as _;

use arguments::{Arguments, Command};
use failure::Outcome;

fn main() -> ExitCode {
    if bugle_server::is_starter() {
        bugle_server::become_program();
        return ExitCode::FAILURE;
    }
    let matches = arguments::program().get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let outcome = run(arguments);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}

fn run(Arguments { global, command }: Arguments) -> Outcome {
    match command {
        Command::Serve(arguments) => commands::serve::run(&arguments),
        Command::Config(arguments) => commands::config::run(&arguments, &global),
        Command::Doctor(arguments) => commands::doctor::run(&arguments, &global),
        Command::Export(arguments) => commands::export::run(&arguments, &global),
        Command::Import(arguments) => commands::import::run(&arguments, &global),
        Command::Completion { shell } => commands::completion::run(shell),
        Command::New(arguments) => commands::new::run(&arguments, &global),
        Command::Dev(arguments) => commands::dev::run(&arguments, &global),
        Command::Run(arguments) => commands::run::run(&arguments, &global),
        Command::Bench(arguments) => commands::bench::run(&arguments, &global),
        Command::Node(arguments) if arguments.runs_here() => commands::node::host(&arguments),
        other => session::block_on(remote(other, &global)),
    }
}

async fn remote(command: Command, global: &arguments::Global) -> Outcome {
    let session = session::Session::new(global)?;
    match (carry_out(&session, &command).await, command.function()) {
        (Err(failure), Some(name)) if failure.is_unknown_function => {
            Err(names::suggest(&session, failure, name).await)
        }
        (outcome, _) => outcome,
    }
}

async fn carry_out(session: &session::Session, command: &Command) -> Outcome {
    match command {
        Command::Deploy(arguments) => commands::deploy::run(session, arguments).await,
        Command::Invoke(arguments) => commands::invoke::run(session, arguments).await,
        Command::Logs(arguments) => commands::logs::run(session, arguments).await,
        Command::List(arguments) => commands::list::run(session, arguments).await,
        Command::Describe(arguments) => commands::describe::run(session, arguments).await,
        Command::Publish(arguments) => commands::publish::run(session, arguments).await,
        Command::Update(arguments) => commands::update::run(session, arguments).await,
        Command::Delete(arguments) => commands::delete::run(session, arguments).await,
        Command::Reserve(arguments) => commands::reserve::run(session, arguments).await,
        Command::Image(arguments) => commands::image::run(session, arguments).await,
        Command::Member(arguments) => commands::member::run(session, arguments).await,
        Command::Node(arguments) => commands::node::run(session, arguments).await,
        Command::Pool(arguments) => commands::pool::run(session, arguments).await,
        Command::Login(arguments) => commands::login::run(session, arguments).await,
        Command::Logout(arguments) => commands::login::log_out(session, arguments).await,
        Command::Serve(_)
        | Command::Config(_)
        | Command::Doctor(_)
        | Command::Export(_)
        | Command::Import(_)
        | Command::Completion { .. }
        | Command::New(_)
        | Command::Dev(_)
        | Command::Run(_)
        | Command::Bench(_) => {
            unreachable!("`run` has dealt with the commands that end in a way of their own")
        }
    }
}
