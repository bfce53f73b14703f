//! `bugle completion`: the completion script of a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::arguments;
use crate::failure::Outcome;
use crate::output;

pub(crate) fn run(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(
        shell,
        &mut arguments::Arguments::command(),
        "bugle",
        &mut script,
    );
    output::write(&script)
}
