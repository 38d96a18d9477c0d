//! Runs the command and says what came out.

use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::sync::LazyLock;
use tempfile::TempDir;

/// What this test's runs remember, and no other's.
static STATE: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());

/// The command, with nothing of the host's configuration in its environment.
pub fn birthmark<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_birthmark"));
    command
        .args(args)
        .env("BIRTHMARK_PROFILES", "")
        .env("BIRTHMARK_CONFIG_DIR", "/nonexistent/birthmark")
        .env("BIRTHMARK_STATE_DIR", STATE.path())
        .env("BIRTHMARK_SOCKET", "/nonexistent/birthmarkd.sock");
    command
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The one line of an error, after checking that it is one and that the status is 2.
    pub fn error(&self) -> &str {
        assert_eq!(self.status, Some(2), "{self:?}");
        let line = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {self:?}"));
        assert!(!line.contains('\n'), "more than one line: {self:?}");
        line.strip_prefix("birthmark: ").unwrap_or_else(|| panic!("who says so? {self:?}"))
    }
}

pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    birthmark(args).output().unwrap().into()
}

/// Runs a copy of the command, in a place that everybody may read, as the user `nobody`. Only root can.
pub fn run_as_nobody<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    let place = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(place.path(), mode).unwrap();
    let copy = place.path().join("birthmark");
    std::fs::copy(env!("CARGO_BIN_EXE_birthmark"), &copy).unwrap();
    Command::new(copy).args(args).current_dir("/").uid(65534).gid(65534).output().unwrap().into()
}
