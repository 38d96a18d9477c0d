//! Differences are told entry by entry, and order is none.

use crate::fixture::*;
use attest::{
    Capabilities, Certificate, Change, ChangeKind, Count, FileEntry, Flows, Identity, Pattern, Presence,
    ProcessEntry, diff,
};

fn changed(change: impl FnOnce(&mut Certificate)) -> Vec<String> {
    let mut new = certificate_with_everything();
    change(&mut new);
    let told = diff(&certificate_with_everything(), &new);
    told.iter()
        .map(|c| format!("{:?} {}: {} [{}]", c.change, c.section, c.entry, c.details.join("; ")))
        .collect()
}

#[test]
fn the_same_in_another_order_is_no_difference() {
    let same = changed(|c| {
        c.processes.reverse();
        c.listeners.reverse();
        c.modules.reverse();
    });
    assert_eq!(same, Vec::<String>::new());
}

#[test]
fn another_user_of_a_program_is_a_change_of_it_and_another_program_is_a_new_one() {
    let told = changed(|c| {
        c.processes[0].identities[0].uid = 5;
        let mut other = c.processes[0].clone();
        other.executable = Some(Pattern::literal("/usr/bin/zsh"));
        c.processes.push(other);
        c.listeners.remove(0);
    });
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told[0].starts_with("Changed processes: /usr/bin/bash as bash [identities: - {"), "{told:#?}");
    assert!(told[0].contains("\"uid\":5"), "{told:#?}");
    assert_eq!(told[1], "Added processes: /usr/bin/zsh as bash []");
    assert!(told[2].starts_with("Removed listeners: tcp 0.0.0.0 port 22"), "{told:#?}");
}

#[test]
fn every_part_of_a_certificate_is_compared() {
    type Part = (&'static str, fn(&mut Certificate));
    let parts: [Part; 11] = [
        ("certificate", |c| c.serial += 1),
        ("certificate", |c| c.supersedes = None),
        ("certificate", |c| c.validity.not_after = time("2030-01-01T00:00:00Z")),
        ("selector", |c| c.selector.names.clear()),
        ("kernels", |c| c.guest.kernels[0].build_id = None),
        ("processes", |c| c.processes[3].sha256.clear()),
        ("flows", |c| c.flows = None),
        ("egress flows", |c| c.flows = Some(Flows { egress: vec![], ..c.flows.clone().unwrap() })),
        ("raw sockets", |c| c.raw_sockets[0].processes.clear()),
        ("modules", |c| c.modules[0].name = Pattern::literal("x")),
        ("policy", |c| c.policy.mode = attest::Mode::Monitor),
    ];
    for (section, change) in parts {
        let mut new = certificate_with_everything();
        change(&mut new);
        let told = diff(&certificate_with_everything(), &new);
        assert!(told.iter().any(|change| change.section == section), "{section}: {told:?}");
        let back = diff(&new, &certificate_with_everything());
        assert_eq!(told.len(), back.len(), "{section}: one way tells more than the other");
    }
    let mut mode = certificate();
    mode.policy.mode = attest::Mode::Monitor;
    let told = diff(&certificate(), &mode);
    assert_eq!(
        (told[0].change, told[0].details.as_slice()),
        (ChangeKind::Changed, ["mode: \"enforce\" → \"monitor\"".to_owned()].as_slice())
    );
}

/// `count` files of a package, with the programs that they are; their contents are told by `seed`.
fn image(c: &mut Certificate, package: &str, count: usize, seed: u8) {
    let name = package.split('=').next().unwrap();
    for number in 0..count {
        let path = format!("/usr/lib/{name}/{number}");
        let sha256 = format!("{seed:02x}").repeat(32);
        let pages = Some(base64(&[seed; 64]));
        c.files.push(FileEntry {
            path: path.clone(),
            sha256: sha256.clone(),
            size: 8000,
            package: Some(package.to_owned()),
            pages,
        });
        c.processes.push(ProcessEntry {
            executable: Some(Pattern::literal(&path)),
            exe_state: facts::ExeState::Present,
            kernel_thread: false,
            names: vec![],
            args: None,
            sha256: vec![sha256],
            identities: vec![root()],
            parents: None,
            count: Count::default(),
            presence: Presence::Allowed,
            container: None,
        });
    }
}

fn root() -> Identity {
    Identity { uid: 0, euid: 0, gid: 0, egid: 0, capabilities: Capabilities::from_mask(u64::MAX) }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn of_images(old: impl FnOnce(&mut Certificate), new: impl FnOnce(&mut Certificate)) -> Vec<Change> {
    let (mut one, mut two) = (certificate(), certificate());
    old(&mut one);
    new(&mut two);
    diff(&one, &two)
}

#[test]
fn an_update_of_a_package_is_one_change_however_many_files_it_has() {
    let told = of_images(
        |c| image(c, "libreoffice=1:7.4", 400, 1),
        |c| {
            image(c, "libreoffice=1:7.5", 401, 2);
            c.files.remove(0);
            c.processes.retain(|p| p.executable != Some(Pattern::literal("/usr/lib/libreoffice/0")));
        },
    );
    let [change] = told.as_slice() else { panic!("{told:#?}") };
    assert_eq!((change.section.as_str(), change.change), ("packages", ChangeKind::Changed));
    assert_eq!(change.entry, "libreoffice 1:7.4 → 1:7.5: 401 files");
    // What may run from now on, and what not any more, is said all the same.
    assert_eq!(
        change.details,
        ["programs: - /usr/lib/libreoffice/0", "programs: + /usr/lib/libreoffice/400"]
    );
    assert_eq!((change.covers.len(), &change.alarm), (401, &None));
}

#[test]
fn a_package_that_comes_or_goes_is_one_change() {
    let with = |c: &mut Certificate| image(c, "nginx=1.22", 3, 1);
    let told = of_images(|_| (), with);
    let [change] = told.as_slice() else { panic!("{told:#?}") };
    assert_eq!((change.change, change.entry.as_str()), (ChangeKind::Added, "nginx 1.22: 3 files"));
    assert_eq!(change.details, ["programs: + /usr/lib/nginx/0, /usr/lib/nginx/1, /usr/lib/nginx/2"]);
    let told = of_images(with, |_| ());
    assert_eq!((told.len(), told[0].change), (1, ChangeKind::Removed));
}

#[test]
fn contents_that_changed_while_the_package_kept_its_version_stand_out_before_everything() {
    let told = of_images(
        |c| {
            image(c, "aaa=1", 2, 1);
            image(c, "nginx=1.22", 3, 1);
        },
        |c| {
            image(c, "aaa=2", 2, 2);
            image(c, "nginx=1.22", 3, 1);
            let changed = c.files.iter_mut().find(|file| file.path == "/usr/lib/nginx/1").unwrap();
            changed.sha256 = "66".repeat(32);
            changed.pages = Some(base64(&[[1; 32], [6; 32]].concat()));
            let program =
                c.processes.iter_mut().find(|p| p.executable == Some(Pattern::literal("/usr/lib/nginx/1")));
            program.unwrap().sha256 = vec!["66".repeat(32)];
        },
    );
    let [first, second] = told.as_slice() else { panic!("{told:#?}") };
    assert_eq!((first.section.as_str(), first.entry.as_str()), ("files", "/usr/lib/nginx/1 of nginx=1.22"));
    let alarm = first.alarm.as_deref().unwrap();
    assert_eq!(alarm, "its contents changed, and its package is nginx=1.22 before and after");
    assert!(first.details.iter().any(|detail| detail == "pages: 1 of 2 differ"), "{first:#?}");
    assert_eq!(second.entry, "aaa 1 → 2: 2 files");
}

#[test]
fn what_no_package_explains_is_told_file_by_file_and_what_is_allowed_more_is_never_folded_away() {
    let old = |c: &mut Certificate| {
        image(c, "nginx=1.22", 2, 1);
        image(c, "lost=1", 1, 1);
    };
    let told = of_images(old, |c| {
        image(c, "nginx=1.23", 2, 2);
        image(c, "nginx=1.22", 3, 1);
        // The third file claims the old version, which was there before.
        c.files
            .retain(|file| file.path == "/usr/lib/nginx/2" || file.package.as_deref() != Some("nginx=1.22"));
        c.processes.truncate(c.processes.len() - 3);
        // A set-id program is no plain one.
        let one = c
            .processes
            .iter_mut()
            .find(|p| p.executable == Some(Pattern::literal("/usr/lib/nginx/1")))
            .unwrap();
        one.identities.push(Identity { euid: 5, ..root() });
        image(c, "lost=1", 1, 3);
        c.files.last_mut().unwrap().package = None;
    });
    let seen: Vec<_> =
        told.iter().map(|c| (c.section.as_str(), c.entry.as_str(), c.alarm.is_some())).collect();
    assert_eq!(
        seen,
        [
            ("files", "/usr/lib/lost/0 of lost=1", true),
            ("files", "/usr/lib/nginx/2 of nginx=1.22", true),
            ("packages", "lost 1: 0 files", false),
            ("packages", "nginx 1.22 → 1.22, 1.23: 2 files", false),
            ("processes", "/usr/lib/nginx/1", false),
        ]
    );
}

#[test]
fn an_update_of_the_kernel_is_one_change_with_its_modules() {
    let told = changed(|c| {
        c.guest.kernels[0].release = "6.1.0-20-cloud-amd64".to_owned();
        c.guest.kernels[0].build_id = Some("00ff".to_owned());
        c.modules[0].name = Pattern::literal("xfs");
        c.modules.push(attest::ModuleEntry { name: Pattern::literal("virtio_gpu") });
    });
    let [change] = told.as_slice() else { panic!("{told:#?}") };
    assert!(change.starts_with("Changed kernels: 6.1.0-18-cloud-amd64 → 6.1.0-20-cloud-amd64 ["), "{change}");
    assert!(change.contains("build_id: "), "{change}");
    assert!(change.contains("modules: - ext4") && change.contains("modules: + xfs, virtio_gpu"), "{change}");
    // Modules alone are told one by one.
    assert_eq!(changed(|c| c.modules.clear()).len(), 2);
}

#[test]
fn many_files_are_compared_in_no_time() {
    let started = std::time::Instant::now();
    let told = of_images(
        |c| (0..200).for_each(|n| image(c, &format!("p{n}=1"), 50, 1)),
        |c| (0..200).for_each(|n| image(c, &format!("p{n}=2"), 50, 2)),
    );
    assert_eq!(told.len(), 200);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
