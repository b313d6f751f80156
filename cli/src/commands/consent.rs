//! The question before what can't be undone.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::Args;

use super::failure::Usage;

#[derive(Args)]
pub(crate) struct ConsentArgs {
    /// Do it without asking: for scripts, and for who is sure
    #[arg(long, short = 'y')]
    yes: bool,
}

impl ConsentArgs {
    /// Nobody needs to be asked.
    pub(crate) fn is_given(&self) -> bool {
        self.yes
    }

    /// Asks whoever sits at the terminal. `what` is a sentence that says what is going to happen.
    ///
    /// # Errors
    /// The answer is no; or nobody can be asked, and `--yes` was not given.
    pub(crate) fn ask(&self, what: &str) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        let mut aside = std::io::stderr();
        if !std::io::stdin().is_terminal() || !aside.is_terminal() {
            return Err(Usage(format!("{what} There is nobody to ask: --yes does it without asking")).into());
        }
        write!(aside, "{what} Go on? [y/N] ")?;
        aside.flush()?;
        let mut said = String::new();
        if std::io::stdin().lock().read_line(&mut said)? == 0 {
            // The end of the input, without a line's.
            writeln!(aside)?;
        }
        if matches!(said.trim().to_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        anyhow::bail!("nothing was done")
    }
}
