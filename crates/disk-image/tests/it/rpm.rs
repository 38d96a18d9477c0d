//! RPM's database, as rpm itself and SQLite write it.

use crate::make::{Lab, run};
use disk_image::rpm::{Installed, RpmError, read};
use disk_image::{Image, Inventory, inventory};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use testkit::{Need, require};

const RPM: [Need; 2] = [Need::Program("rpm"), Need::Program("rpmbuild")];

/// A database that rpm made, in `db` of a directory.
struct Made(TempDir);

impl Made {
    /// Installs, updates and removes packages: `web` with a program, and many with many files, so that the table takes pages of all
    /// kinds.
    fn new(packages: usize, files: usize) -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        for release in [1, 2] {
            made.build(release, packages, files);
        }
        made.rpm(&["--initdb"]);
        let of = |release: u32| {
            let all = fs::read_dir(made.path("out/noarch")).unwrap().map(|entry| entry.unwrap().path());
            let mut all: Vec<_> =
                all.filter(|path| path.to_str().unwrap().contains(&format!("-{release}.noarch"))).collect();
            all.sort();
            all.into_iter().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let install = ["-U", "--justdb", "--nodeps", "--noscripts"];
        let (old, new) = (of(1), of(2));
        let arguments = |packages: &[String]| {
            install
                .iter()
                .map(|&option| option.to_owned())
                .chain(packages.iter().cloned())
                .collect::<Vec<_>>()
        };
        made.rpm(&arguments(&old));
        made.rpm(&arguments(&new[..new.len() / 2]));
        made.rpm(&["-e", "--justdb", "--nodeps", "many-0"]);
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn build(&self, release: u32, packages: usize, files: usize) {
        let mut spec = format!(
            "Name: web\nVersion: 1.2\nRelease: {release}\nEpoch: 3\nSummary: x\nLicense: MIT\nBuildArch: noarch\n%description\nx\n"
        );
        let mut install = String::from(
            "mkdir -p %{buildroot}/usr/bin %{buildroot}/bin\ntouch %{buildroot}/usr/bin/web %{buildroot}/bin/script\n",
        );
        let mut lists = String::from("%files\n/usr/bin/web\n/bin/script\n%ghost /usr/bin/ghost\n");
        install.push_str("touch %{buildroot}/usr/bin/ghost\n");
        for number in 0..packages {
            spec.push_str(&format!(
                "%package -n many-{number}\nSummary: x\n%description -n many-{number}\nx\n"
            ));
            lists.push_str(&format!("%files -n many-{number}\n/opt/many/{number}\n"));
            install.push_str(&format!(
                "for d in a b c; do mkdir -p %{{buildroot}}/opt/many/{number}/$d; (cd %{{buildroot}}/opt/many/{number}/$d; touch $(seq {files})); done\n"
            ));
        }
        let text = format!("{spec}%install\n{install}{lists}");
        fs::write(self.path("web.spec"), text).unwrap();
        run(Command::new("rpmbuild")
            .args(["-bb", "--quiet", "--nodeps", "--define"])
            .arg(format!("_topdir {}", self.path("top").display()))
            .arg("--define")
            .arg(format!("_rpmdir {}", self.path("out").display()))
            .args(["--define", "_binary_payload w0.gzdio"])
            .arg(self.path("web.spec")));
    }

    fn rpm<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> String {
        let output = Command::new("rpm")
            .arg("--dbpath")
            .arg(self.path("db"))
            // Debian's rpm warns that it is the wrong tool otherwise, and keeps its log unless it is asked to.
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let log = fs::read(self.path("db/rpmdb.sqlite-wal")).unwrap_or_default();
        (fs::read(self.path("db/rpmdb.sqlite")).unwrap(), log)
    }
}

fn all(database: &[u8], log: &[u8]) -> Result<Vec<Installed>, RpmError> {
    let mut all = Vec::new();
    read(database, log, |package| all.push(package))?;
    Ok(all)
}

/// As `rpm -q` would say it.
fn said(packages: &[Installed]) -> BTreeSet<String> {
    let one = |package: &Installed| {
        let paths = package
            .files
            .iter()
            .map(|(directory, name)| format!("{}{name}", package.directories[*directory]));
        let (name, version) = (&package.name, &package.version);
        paths.map(move |path| format!("{name} {version} {path}")).collect::<Vec<_>>()
    };
    packages.iter().flat_map(one).collect()
}

#[test]
fn what_rpm_says_of_its_packages_is_what_is_read() {
    if !require(&RPM) {
        return;
    }
    let made = Made::new(12, 80);
    let (database, log) = made.bytes();
    let packages = all(&database, &log).unwrap();
    let names: BTreeSet<_> = packages.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(packages.len(), 12, "{names:?}");
    assert!(!names.contains("many-0") && names.contains("web"));
    let rpm = made.rpm(&["-qa", "--qf", "[%{=NAME} %{=EVR} %{FILENAMES}\n]"]);
    let expected: BTreeSet<_> = rpm.lines().map(str::to_owned).collect();
    assert!(expected.len() > 240 * 11, "{}", expected.len());
    assert_eq!(said(&packages), expected);
    assert!(expected.iter().any(|line| line.starts_with("many-1 3:1.2-2 ")), "the update is there");
    assert!(
        expected.iter().any(|line| line.starts_with("many-9 3:1.2-1 ")),
        "what was not updated is as it was"
    );
}

/// Runs a program of Python in a directory.
fn python(directory: &Path, program: &str) {
    run(Command::new("python3").arg("-c").arg(program).current_dir(directory));
}

/// A header with a name, a version, and so many bytes of something else.
fn header(name: &str, padding: usize) -> Vec<u8> {
    let mut data = Vec::new();
    let mut index = Vec::new();
    let mut tag = |tag: u32, kind: u32, count: u32, value: &[u8]| {
        for word in [tag, kind, data.len() as u32, count] {
            index.extend_from_slice(&word.to_be_bytes());
        }
        data.extend_from_slice(value);
    };
    tag(1000, 6, 1, format!("{name}\0").as_bytes());
    tag(1001, 6, 1, b"1\0");
    tag(1002, 6, 1, b"2\0");
    tag(5000, 7, padding as u32, &vec![0x55; padding]);
    let mut header = Vec::new();
    for word in [(index.len() / 16) as u32, data.len() as u32] {
        header.extend_from_slice(&word.to_be_bytes());
    }
    [header, index, data].concat()
}

#[test]
fn rows_of_every_size_are_read_whatever_the_size_of_the_pages() {
    if !require(&[Need::Program("python3")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let near = |size: usize| (size.saturating_sub(40)..size + 3).collect::<Vec<_>>();
    let paddings: Vec<usize> = [near(512), near(4096), near(8192), near(65536), vec![0, 1, 300_000]].concat();
    let mut hex = String::new();
    for (index, padding) in paddings.iter().enumerate() {
        let bytes = header(&format!("p{index}"), padding.saturating_sub(100));
        bytes.iter().for_each(|byte| hex.push_str(&format!("{byte:02x}")));
        hex.push('\n');
    }
    fs::write(dir.path().join("rows"), hex).unwrap();
    for size in [512, 1024, 4096, 65536] {
        python(
            dir.path(),
            &format!(
                "import sqlite3
c = sqlite3.connect('{size}.db')
c.execute('pragma page_size={size}')
c.execute('create table other (a, b, c)')
c.execute('create table \\'Packages\\' (hnum integer primary key autoincrement, blob blob not null)')
for line in open('rows'):
    c.execute('insert into Packages (blob) values (?)', (bytes.fromhex(line.strip()),))
    c.execute('insert into other values (1.5, null, -70000)')
c.commit()"
            ),
        );
        let database = fs::read(dir.path().join(format!("{size}.db"))).unwrap();
        let packages = all(&database, &[]).unwrap_or_else(|error| panic!("pages of {size}: {error}"));
        let names: Vec<_> = packages.iter().map(|package| package.name.clone()).collect();
        let expected: Vec<_> = (0..paddings.len()).map(|index| format!("p{index}")).collect();
        assert_eq!(names, expected, "pages of {size}");
    }
}

#[test]
fn what_a_program_that_was_stopped_has_left_in_the_log_counts_up_to_its_last_commit() {
    if !require(&[Need::Program("python3")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let row = |name: &str| header(name, 9000).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    python(
        dir.path(),
        &format!(
            "import sqlite3, shutil
c = sqlite3.connect('db', isolation_level=None)
c.execute('pragma journal_mode=wal')
c.execute('pragma wal_autocheckpoint=0')
def put(hex): c.execute('insert into Packages (blob) values (?)', (bytes.fromhex(hex),))
c.execute('create table Packages (hnum integer primary key autoincrement, blob blob not null)')
put('{}')
c.execute('pragma wal_checkpoint(truncate)')
put('{}')
shutil.copy('db-wal', 'second')
put('{}')
shutil.copy('db-wal', 'third')
shutil.copy('db', 'file')",
            row("one"),
            row("two"),
            row("three")
        ),
    );
    let bytes = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let (file, second, third) = (bytes("file"), bytes("second"), bytes("third"));
    let names = |log: &[u8]| -> Vec<String> {
        all(&file, log).unwrap().into_iter().map(|package| package.name).collect()
    };
    assert_eq!(names(&[]), ["one"]);
    assert_eq!(names(&second), ["one", "two"]);
    assert_eq!(names(&third), ["one", "two", "three"]);
    // A transaction that was not written to its end never was.
    assert_eq!(names(&third[..third.len() - 1]), ["one", "two"]);
    let mut altered = third.clone();
    altered[second.len() + 30] ^= 1;
    assert_eq!(names(&altered), ["one", "two"]);
    altered[9] ^= 1;
    assert_eq!(names(&altered), ["one"], "a log that is none counts for nothing");
}

/// What is in an image with this database.
fn look(lab: &Lab, change: impl FnOnce(&Lab)) -> Inventory {
    change(lab);
    inventory(&Image::open(&lab.path("root"), None).unwrap().tree).unwrap()
}

#[test]
fn a_program_of_an_image_carries_its_rpm_and_a_database_that_is_not_read_is_told() {
    if !require(&RPM) {
        return;
    }
    let made = Made::new(2, 3);
    let (database, log) = made.bytes();
    let lab = Lab::new();
    fs::remove_dir_all(lab.path("root/var/lib/dpkg")).unwrap();
    let facts = look(&lab, |lab| {
        lab.file("usr/lib/sysimage/rpm/rpmdb.sqlite", 0o644, &database);
        lab.file("usr/lib/sysimage/rpm/rpmdb.sqlite-wal", 0o644, &log);
        lab.link("var/lib/rpm", "../../usr/lib/sysimage/rpm");
    });
    let package = |path: &str| {
        let program = facts.programs.iter().find(|program| program.path == path).unwrap();
        program.package.as_ref().map(|package| format!("{}={}", package.name, package.version))
    };
    assert_eq!(package("/usr/bin/web").as_deref(), Some("web=3:1.2-1"));
    // rpm says /bin/script, and /bin is a link.
    assert_eq!(package("/usr/bin/script").as_deref(), Some("web=3:1.2-1"));
    assert_eq!(package("/usr/sbin/admin"), None);
    assert_eq!((facts.packages, facts.notes.len()), (2, 0), "{:?}", facts.notes);

    let damaged = look(&lab, |lab| {
        let mut bytes = database.clone();
        bytes[4096..8192].fill(0xff);
        lab.file("usr/lib/sysimage/rpm/rpmdb.sqlite", 0o644, &bytes);
        lab.file("usr/lib/sysimage/rpm/rpmdb.sqlite-wal", 0o644, &[]);
    });
    assert_eq!(damaged.packages, 0);
    assert!(damaged.notes[0].contains("rpmdb.sqlite is not read"), "{:?}", damaged.notes);
    let older = look(&lab, |lab| {
        fs::remove_file(lab.path("root/usr/lib/sysimage/rpm/rpmdb.sqlite")).unwrap();
        lab.file("usr/lib/sysimage/rpm/Packages.db", 0o644, &ndb(&made.blobs()));
    });
    assert_eq!((older.packages, older.notes.len()), (2, 0), "{:?}", older.notes);
    let damaged = look(&lab, |lab| lab.file("usr/lib/sysimage/rpm/Packages.db", 0o644, b"RpmP"));
    assert!(damaged.notes[0].contains("Packages.db is not read"), "{:?}", damaged.notes);
}

/// `Packages.db` as rpmpkg.c writes it: this Debian's rpm was built without that format.
fn ndb(blobs: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let pages = (blobs.len() + 2).div_ceil(256).max(1);
    let mut slots = Vec::new();
    let mut data = Vec::new();
    let mut block = pages * 256;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    for (number, blob) in blobs {
        let length = blob.len() as u32;
        let mut whole = [words(&[u32::from_le_bytes(*b"BlbS"), *number, 7, length]), blob.clone()].concat();
        // With its tail it fills blocks of 16 bytes.
        whole.resize((blob.len() + 28).div_ceil(16) * 16 - 12, 0);
        let (low, high) = whole.iter().fold((1, 0), |(low, high), byte| {
            let low = (low + u64::from(*byte)) % 65521;
            (low, (high + low) % 65521)
        });
        whole.extend(words(&[(high << 16 | low) as u32, length, u32::from_le_bytes(*b"BlbE")]));
        slots.extend(words(&[
            u32::from_le_bytes(*b"Slot"),
            *number,
            block as u32,
            (whole.len() / 16) as u32,
        ]));
        block += whole.len() / 16;
        data.extend(whole);
    }
    let free = words(&[u32::from_le_bytes(*b"Slot"), 0, 0, 0]);
    slots.extend(free.repeat(pages * 256 - 2 - blobs.len()));
    let header = words(&[u32::from_le_bytes(*b"RpmP"), 0, 9, pages as u32, 1 + blobs.len() as u32, 0, 0, 0]);
    [header, slots, data].concat()
}

#[test]
fn rpms_own_format_gives_the_same_as_its_sqlite_and_any_change_to_it_is_refused_or_nothing() {
    if !require(&RPM) {
        return;
    }
    let made = Made::new(300, 2);
    let (database, log) = made.bytes();
    let mut blobs = made.blobs();
    let packages = all(&database, &log).unwrap();
    assert_eq!(packages.len(), 300);
    let whole = ndb(&blobs);
    assert_eq!(all(&whole, &[]).unwrap(), packages);
    // Slots are in any order.
    blobs.reverse();
    assert_eq!(all(&ndb(&blobs), &[]).unwrap(), packages);
    for end in (0..whole.len()).step_by(4099) {
        assert!(all(&whole[..end], &[]).is_err(), "{end}");
    }
    let few = ndb(&made.blobs()[..3]);
    let three = all(&few, &[]).unwrap();
    let said = |at: usize, value: u32| {
        let mut bytes = few.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        all(&bytes, &[]).unwrap_err().to_string()
    };
    let block = |slot: usize| u32::from_le_bytes(few[32 + slot * 16 + 8..][..4].try_into().unwrap());
    assert!(said(4, 1).contains("version"));
    assert!(said(12, u32::MAX).contains("pages"));
    assert!(said(32, 0).contains("mark of a slot"));
    assert!(said(32 + 4, 0).contains("lies where none can"));
    assert!(said(32 + 4, 2).contains("twice") || said(32 + 4, 3).contains("twice"));
    assert!(said(32 + 8, 3).contains("lies where none can"));
    assert!(said(32 + 8, block(1)).contains("lies over another"));
    assert!(said(32 + 12, u32::MAX).contains("cut off"));
    assert!(said(few.len() - 12, 0).contains("checksum"));
    // No byte of a blob can be altered unseen.
    for at in (4096..few.len()).step_by(97) {
        let mut bytes = few.clone();
        bytes[at] ^= 0x10;
        assert!(all(&bytes, &[]).is_err(), "{at}");
    }
    assert_eq!(three.len(), 3);
}

impl Made {
    /// The header of each package and its number, as rpm has written them.
    fn blobs(&self) -> Vec<(u32, Vec<u8>)> {
        python(
            &self.path("db"),
            "import sqlite3
for number, blob in sqlite3.connect('rpmdb.sqlite').execute('select hnum, blob from Packages order by hnum'):
    open('blobs', 'a').write(f'{number} {blob.hex()}\\n')",
        );
        let text = fs::read_to_string(self.path("db/blobs")).unwrap();
        fs::remove_file(self.path("db/blobs")).unwrap();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        text.lines()
            .map(|line| {
                let (number, hex) = line.split_once(' ').unwrap();
                (number.parse().unwrap(), hex.as_bytes().chunks(2).map(byte).collect())
            })
            .collect()
    }

    /// `Packages`, written by Berkeley DB itself, in a directory where rpm can read it.
    fn berkeley(&self, directory: &str, page_size: u32, last: u32) -> Vec<u8> {
        let directory = self.path(directory);
        fs::create_dir(&directory).unwrap();
        let lines: String = self
            .blobs()
            .iter()
            .map(|(number, blob)| {
                let hex: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{number} {hex}\n")
            })
            .collect();
        fs::write(directory.join("blobs"), lines).unwrap();
        let program = format!(
            "use DB_File; my $info = DB_File::HASHINFO->new; $info->{{bsize}} = {page_size};
             tie my %table, 'DB_File', 'Packages', O_RDWR | O_CREAT, 0644, $info or die $!;
             $table{{pack('V', 0)}} = pack('V', {last});
             open my $blobs, '<', 'blobs' or die $!;
             while (<$blobs>) {{ my ($number, $hex) = split; $table{{pack('V', $number)}} = pack('H*', $hex); }}"
        );
        run(Command::new("perl").arg("-MFcntl").arg("-e").arg(program).current_dir(&directory));
        fs::remove_file(directory.join("blobs")).unwrap();
        fs::read(directory.join("Packages")).unwrap()
    }
}

#[test]
fn what_rpm_reads_of_a_berkeley_db_is_what_is_read_whatever_the_size_of_the_pages() {
    if !require(&RPM) {
        return;
    }
    let made = Made::new(12, 80);
    let (database, log) = made.bytes();
    let packages = all(&database, &log).unwrap();
    for size in [512, 4096, 65536] {
        let directory = format!("berkeley-{size}");
        let file = made.berkeley(&directory, size, 30);
        assert_eq!(u32::from_le_bytes(file[20..24].try_into().unwrap()), size);
        assert_eq!(all(&file, &[]).unwrap_or_else(|error| panic!("{size}: {error}")), packages, "{size}");
        let output = Command::new("rpm")
            .args(["--define", "_db_backend bdb_ro", "-qa", "--qf", "[%{=NAME} %{=EVR} %{FILENAMES}\n]"])
            .arg("--dbpath")
            .arg(made.path(&directory))
            .output()
            .unwrap();
        let rpm: BTreeSet<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(said(&packages), rpm, "pages of {size}");
        for end in (0..file.len()).step_by(1021) {
            assert!(all(&file[..end], &[]).is_err(), "{end} of {size}");
        }
    }
}

#[test]
fn a_berkeley_db_that_contradicts_itself_is_refused() {
    if !require(&RPM) {
        return;
    }
    let made = Made::new(2, 40);
    let file = made.berkeley("berkeley", 4096, 9);
    let page = |number: usize| number * 4096;
    let pages = file.len() / 4096;
    let of_kind = |kinds: &[u8]| {
        (1..pages).filter(|number| kinds.contains(&file[page(*number) + 25])).collect::<Vec<_>>()
    };
    let (hash, overflow) = (of_kind(&[2, 13]), of_kind(&[7]));
    let filled = *hash.iter().find(|number| file[page(**number) + 20] > 0).unwrap();
    let said = |at: usize, value: &[u8]| {
        let mut bytes = file.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        all(&bytes, &[]).unwrap_err().to_string()
    };
    assert!(said(16, &7_u32.to_le_bytes()).contains("version"));
    assert!(said(20, &4097_u32.to_le_bytes()).contains("page size"));
    assert!(said(24, &[1]).contains("cipher"));
    assert!(said(25, &[9]).contains("kind"));
    assert!(said(32, &1_000_000_u32.to_le_bytes()).contains("number of pages"));
    assert!(said(page(filled) + 20, &[3]).contains("without a value"));
    assert!(said(page(filled) + 20, &[0xfe, 0x0f]).contains("lie over each other"));
    assert!(said(page(filled) + 26, &[2, 0]).contains("lie over each other"));
    // The value that the second item is: a chain that leads to itself, to nothing, to a page of another kind.
    let chained = *overflow.first().unwrap();
    assert!(said(page(chained) + 16, &(chained as u32).to_le_bytes()).contains("part of two things"));
    assert!(said(page(chained) + 16, &9999_u32.to_le_bytes()).contains("is not there"));
    assert!(said(page(chained) + 16, &(filled as u32).to_le_bytes()).contains("no part of a value"));
    assert!(said(page(chained) + 22, &[0xff, 0xff]).contains("more than it has"));
    assert!(said(page(chained) + 22, &[1, 0]).contains("another length"));
}

#[test]
fn a_database_with_any_bytes_does_no_harm() {
    if !require(&RPM) {
        return;
    }
    let made = Made::new(2, 40);
    let (database, _) = made.bytes();
    let (own, berkeley) = (ndb(&made.blobs()), made.berkeley("berkeley", 512, 9));
    let change = (0..database.len(), prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x7f)]);
    let cases = proptest::collection::vec(change, 1..8);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let started = std::time::Instant::now();
    runner
        .run(&cases, |changes| {
            let mut bytes = database.clone();
            changes.iter().for_each(|(at, value)| bytes[*at] = *value);
            let _ = all(&bytes, &[]);
            // The first pages hold what says where everything is.
            changes.iter().for_each(|(at, value)| bytes[at % 8192] = *value);
            let _ = all(&bytes, &bytes);
            for whole in [&own, &berkeley] {
                let mut bytes = whole.clone();
                changes.iter().for_each(|(at, value)| bytes[at % whole.len()] = *value);
                let _ = all(&bytes, &[]);
            }
            Ok(())
        })
        .unwrap();
    for end in (0..8192).step_by(61) {
        assert!(all(&database[..end], &[]).is_err(), "{end}");
    }
    assert!(started.elapsed().as_secs() < 120);
    assert_eq!(all(b"SQLite format 4", &[]), Err(RpmError::NoDatabase));
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |value, byte| (value << 8) | usize::from(*byte))
}

#[test]
fn a_page_that_leads_to_itself_or_to_another_table_is_refused() {
    if !require(&[Need::Program("python3")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("row"),
        header("p", 700).iter().map(|b| format!("{b:02x}")).collect::<String>(),
    )
    .unwrap();
    python(
        dir.path(),
        "import sqlite3
c = sqlite3.connect('db')
c.execute('pragma page_size=512')
c.execute('create table Packages (hnum integer primary key autoincrement, blob blob not null)')
for n in range(60): c.execute('insert into Packages (blob) values (?)', (bytes.fromhex(open('row').read()),))
c.commit()",
    );
    let database = fs::read(dir.path().join("db")).unwrap();
    let kind = |page: usize| database[(page - 1) * 512];
    let pages = database.len() / 512;
    let inner = (2..=pages).find(|page| kind(*page) == 5).unwrap();
    // The left child of its first cell.
    let cell = (inner - 1) * 512 + number(&database[(inner - 1) * 512 + 12..][..2]);
    let leaf = number(&database[cell..cell + 4]);
    for (what, at, value) in [
        ("its right-most child is itself", (inner - 1) * 512 + 8, inner),
        ("its right-most child is one of the others", (inner - 1) * 512 + 8, leaf),
        ("its right-most child is beyond the end", (inner - 1) * 512 + 8, 1_000_000),
    ] {
        let mut bytes = database.clone();
        bytes[at..at + 4].copy_from_slice(&(value as u32).to_be_bytes());
        assert!(matches!(all(&bytes, &[]), Err(RpmError::Page { .. })), "{what}");
    }
}

#[test]
fn rows_that_lie_over_each_other_are_refused() {
    if !require(&[Need::Program("python3")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("row"),
        header("p", 3000).iter().map(|b| format!("{b:02x}")).collect::<String>(),
    )
    .unwrap();
    python(
        dir.path(),
        "import sqlite3
c = sqlite3.connect('db')
c.execute('pragma page_size=4096')
c.execute('create table Packages (hnum integer primary key, blob blob not null)')
c.execute('insert into Packages (blob) values (?)', (bytes.fromhex(open('row').read()),))
c.commit()",
    );
    let mut database = fs::read(dir.path().join("db")).unwrap();
    assert_eq!(all(&database, &[]).unwrap().len(), 1);
    // The second page is the only leaf: 400 cells that are all the same one.
    let cell: [u8; 2] = database[4096 + 8..4096 + 10].try_into().unwrap();
    database[4096 + 3..4096 + 5].copy_from_slice(&400_u16.to_be_bytes());
    (0..400).for_each(|index| database[4096 + 8 + 2 * index..][..2].copy_from_slice(&cell));
    let said = all(&database, &[]).unwrap_err().to_string();
    assert!(said.contains("lie over each other"), "{said}");
}
