//! Debian's archive, from whatever Debian the host runs: package lists and packages of any release, nothing installed.
//!
//! The host's own `apt` says where the archive is (no host name is known here); each release then has lists of its own below
//! `target/lab/apt`, so the host's are neither needed nor touched, root is not needed, and a release that vanished from the
//! mirror takes no other one with it. Every step has a limit of time.

use crate::lab;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Lists are asked for again when they are older; the lab's kernels need not be of the hour.
const LISTS_LIVE: Duration = Duration::from_secs(24 * 60 * 60);
/// Seconds that one run of apt may take; a release's lists are some 10 MB, the largest package 110 MB.
const LONGEST_RUN: &str = "300";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Names that a Debian host's own sources may use for its release.
const RELEASES: [&str; 11] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "unstable",
    "testing",
    "stable",
    "oldstable",
    "oldoldstable",
];

/// A release of Debian, with lists of its own.
#[derive(Debug)]
pub(crate) struct Archive {
    release: &'static str,
    home: PathBuf,
}

/// What the lists say of the newest version of a package.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Names of the packages it depends on, without versions and alternatives.
    pub(crate) depends: Vec<String>,
}

impl Archive {
    /// Opens the lists of a release (`bullseye`, `sid`, `trixie-backports`, …); security updates are part of it. Lists that
    /// are missing or old are fetched; old ones serve where that fails.
    pub(crate) fn open(release: &'static str) -> Result<Self> {
        let archive = Self { release, home: lab::subdirectory("apt")?.join(release) };
        let age = fs::metadata(archive.stamp()).and_then(|stamp| stamp.modified());
        let age = age.ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        if age.is_none_or(|age| age > LISTS_LIVE)
            && let Err(error) = archive.update()
        {
            if age.is_none() {
                return Err(error);
            }
            // The old lists serve for another while: not every kernel is to wait for a mirror that does not answer.
            fs::write(archive.stamp(), "")?;
        }
        Ok(archive)
    }

    /// Fetches the lists.
    pub(crate) fn update(&self) -> Result<()> {
        for directory in ["state/lists/partial", "cache/archives/partial"] {
            let path = self.home.join(directory);
            fs::create_dir_all(&path).with_context(|| format!("Cannot make {}", path.display()))?;
        }
        fs::write(self.home.join("status"), "")?;
        fs::write(self.home.join("apt.conf"), self.settings())?;
        fs::write(self.home.join("sources.list"), sources_of(self.release)?)?;
        lab::run(self.apt("apt-get").arg("update")).with_context(|| {
            format!(
                "The archive that this host's apt uses gives no lists of {}, which its kernel comes from; if the release \
                 has left the archive, its kernel is to be taken out of the lab",
                self.release
            )
        })?;
        fs::write(self.stamp(), "")?;
        Ok(())
    }

    /// The newest version of a package.
    pub(crate) fn newest(&self, name: &str) -> Result<Package> {
        let output = lab::run(self.apt("apt-cache").args(["show", "--no-all-versions", name]))
            .with_context(|| format!("Debian {} has no package {name}", self.release))?;
        parse_package(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("apt-cache shows no version of {name} in Debian {}", self.release))
    }

    /// Downloads a package into a directory and gives the file's path.
    pub(crate) fn download(&self, package: &Package, into: &Path) -> Result<PathBuf> {
        lab::run(
            self.apt("apt-get")
                .arg("download")
                .arg(format!("{}={}", package.name, package.version))
                .current_dir(into),
        )?;
        let prefix = format!("{}_", package.name);
        for entry in fs::read_dir(into)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                return Ok(entry.path());
            }
        }
        bail!("apt-get downloaded no package {}", package.name)
    }

    fn stamp(&self) -> PathBuf {
        self.home.join("updated")
    }

    /// A program of apt's that sees this release and nothing of the host's but its settings of proxies and mirrors.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args([LONGEST_RUN, program, "-q", "-c"]).arg(self.home.join("apt.conf"));
        command
    }

    fn settings(&self) -> String {
        let home = self.home.display();
        // Images of containers turn the caches off to save space; without them every question takes seconds. They also have
        // hooks, which are about the host's own lists.
        format!(
            r#"Dir::State "{home}/state";
Dir::State::status "{home}/status";
Dir::Cache "{home}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Etc::SourceList "{home}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"#
        )
    }
}

/// The `sources.list` of a release, from the archive that this host's own apt uses.
pub(crate) fn sources_of(release: &str) -> Result<String> {
    ensure!(Path::new(KEYRING).is_file(), "There is no {KEYRING} (Debian: debian-archive-keyring)");
    sources(release, &host_sources()?)
}

/// Lines `BASE|SUITE|COMPONENT` of the host's own sources.
fn host_sources() -> Result<String> {
    let output = lab::run(Command::new("apt-get").args([
        "indextargets",
        "--no-release-info",
        "--format",
        "$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
    ]))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The `sources.list` of a release, with the archive's addresses taken from the host's sources.
fn sources(release: &str, host: &str) -> Result<String> {
    let base = |wanted: &dyn Fn(&str) -> bool| {
        host.lines().find_map(|line| {
            let mut fields = line.split('|');
            let (base, suite, component) = (fields.next()?, fields.next()?, fields.next()?);
            (component == "main" && wanted(suite)).then_some(base)
        })
    };
    let main = base(&|suite| RELEASES.contains(&suite));
    let main = main.context("The sources of this host's apt name no archive of Debian")?;
    let mut list = format!("deb [signed-by={KEYRING}] {main} {release} main\n");
    let security =
        base(&|suite| suite.strip_suffix("-security").is_some_and(|name| RELEASES.contains(&name)));
    // Unstable and backports have no security updates of their own.
    if let Some(security) = security.filter(|_| release != "sid" && !release.contains('-')) {
        list.push_str(&format!("deb [signed-by={KEYRING}] {security} {release}-security main\n"));
    }
    Ok(list)
}

/// The first paragraph of `apt-cache show`.
fn parse_package(text: &str) -> Option<Package> {
    let paragraph = text.split("\n\n").next()?;
    let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let depends =
        field("Depends:").unwrap_or_default().split(',').filter_map(|one| one.split_whitespace().next());
    Some(Package {
        name: field("Package:")?.to_owned(),
        version: field("Version:")?.to_owned(),
        depends: depends.map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Package, parse_package, sources};

    #[test]
    fn the_archives_address_is_the_hosts_own_and_other_archives_are_left_alone() {
        let host = "http://third.example/|bookworm|stable\nhttp://a.example/debian/|bookworm|main\n\
                    http://a.example/debian/|bookworm-updates|main\nhttp://s.example/sec/|bookworm-security|main\n";
        let list = sources("bullseye", host).unwrap();
        assert!(list.contains("] http://a.example/debian/ bullseye main\n"), "{list}");
        assert!(list.contains("] http://s.example/sec/ bullseye-security main\n"), "{list}");
        for release in ["sid", "trixie-backports"] {
            assert_eq!(sources(release, host).unwrap().lines().count(), 1);
        }
        let error = sources("sid", "http://u.example/|noble|main\n").unwrap_err();
        assert!(error.to_string().contains("no archive of Debian"), "{error}");
    }

    #[test]
    fn a_package_is_read_off_what_apt_shows() {
        let text = "Package: linux-image-x\nVersion: 7.2.13-1\nDepends: a | b (>= 1), linux-binary-x (= 7.2.13-1)\n\nPackage: y\n";
        let expected = Package {
            name: "linux-image-x".to_owned(),
            version: "7.2.13-1".to_owned(),
            depends: vec!["a".to_owned(), "linux-binary-x".to_owned()],
        };
        assert_eq!(parse_package(text), Some(expected));
        assert_eq!(parse_package(""), None);
    }
}
