//! `eventrail completions SHELL`: a script that completes our commands and flags.

use clap::Args;
use clap_complete::Shell;

use super::output::Output;

#[derive(Args)]
#[command(after_help = "Examples:
  eventrail completions bash > ~/.local/share/bash-completion/completions/eventrail
  eventrail completions zsh > ~/.zfunc/_eventrail     # with ~/.zfunc in fpath
  eventrail completions fish > ~/.config/fish/completions/eventrail.fish")]
pub(crate) struct CompletionsArgs {
    /// Which shell it is for
    shell: Shell,
}

/// # Errors
/// Standard output is closed.
pub(crate) fn print(args: &CompletionsArgs, mut command_line: clap::Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command_line, "eventrail", &mut script);
    Output::write(&String::from_utf8_lossy(&script))
}
