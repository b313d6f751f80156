//! A disk that a test can fill: a small tmpfs, made full by taking away the room that is left, which needs no
//! memory. Only root on Linux can have one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Unmounted when it is dropped.
pub struct SmallDisk {
    path: PathBuf,
    megabytes: u32,
}

impl SmallDisk {
    /// Mounts it on a new directory; `None` where this machine does not allow that.
    pub(super) fn mount(path: &Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        let options = format!("size={megabytes}m,mode=0700");
        let mounted =
            run("mount", &["-t", "tmpfs", "-o", &options, "eventrail-test", &path.to_string_lossy()]);
        if !mounted {
            std::fs::remove_dir(path).unwrap();
        }
        mounted.then(|| Self { path: path.to_owned(), megabytes })
    }

    /// Leaves no more than `kilobytes` of room on it; the writes of others may take them first.
    pub fn fill(&self, kilobytes: u64) {
        // What was written since we looked makes the new size too small, which is refused.
        let filled = (0..20).any(|_| self.resize(&format!("{}k", self.used_kilobytes() + kilobytes)));
        assert!(filled, "{} could not be filled", self.path.display());
    }

    /// Gives the room back.
    pub fn free(&self) {
        assert!(self.resize(&format!("{}m", self.megabytes)), "{} could not be freed", self.path.display());
    }

    pub fn used_kilobytes(&self) -> u64 {
        let output = Command::new("df").args(["-k", "--output=used"]).arg(&self.path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().nth(1).and_then(|line| line.trim().parse().ok()).unwrap()
    }

    fn resize(&self, size: &str) -> bool {
        run("mount", &["-o", &format!("remount,size={size}"), &self.path.to_string_lossy()])
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: somebody may still look into it.
        run("umount", &["-l", &self.path.to_string_lossy()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
