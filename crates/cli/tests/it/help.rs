//! The command line is a contract (DESIGN 4.1).

use crate::run::run;

#[test]
fn help_names_every_command_of_the_contract() {
    let help = run(["--help"]);
    assert_eq!(help.status, Some(0));
    let commands = [
        "list",
        "snapshot",
        "ps",
        "sockets",
        "modules",
        "watch",
        "audit",
        "certify",
        "keygen",
        "verify",
        "show",
        "review",
        "sign",
        "diff",
        "accept",
        "profile",
        "status",
        "findings",
        "quarantine",
        "release",
        "doctor",
    ];
    for command in commands {
        let line = format!("\n  {command} ");
        assert!(help.stdout.contains(&line), "{command} is missing in\n{}", help.stdout);
        let own = run([command, "--help"]);
        assert_eq!(own.status, Some(0), "{command}");
        assert!(own.stdout.contains("--json"), "{command} has no --json:\n{}", own.stdout);
    }
    for word in ["--json", "pid:N", "uuid:U", "xen:DOMID", "memory image", "Exit status"] {
        assert!(help.stdout.contains(word), "{word} is missing in\n{}", help.stdout);
    }
}

#[test]
fn the_options_of_the_contract_are_there() {
    let options: [(&str, &[&str]); 7] = [
        (
            "ps",
            &[
                "--no-kernel",
                "--threads",
                "--tree",
                "-o",
                "--sort",
                "--name",
                "--pid",
                "--uid",
                "--container",
                "--namespace",
                "--env",
                "--show-values",
            ],
        ),
        ("watch", &["--interval"]),
        ("audit", &["--certificate", "--trusted-key"]),
        (
            "certify",
            &[
                "--service",
                "--key",
                "-o",
                "--serial",
                "--valid-for",
                "--selector",
                "--learn",
                "--action",
                "--force",
            ],
        ),
        ("keygen", &["-o"]),
        ("verify", &["--trusted-key"]),
        ("release", &["--socket"]),
    ];
    for (command, options) in options {
        let help = run([command, "--help"]).stdout;
        for option in options {
            assert!(help.contains(option), "{command} has no {option}:\n{help}");
        }
    }
}

#[test]
fn a_wrong_command_line_is_one_line_and_status_2() {
    let wrong: [(&[&str], &str); 10] = [
        (&[], "No command"),
        (&["frobnicate"], "frobnicate"),
        (&["ps"], "<TARGET>"),
        (&["ps", "pid:none"], "process id"),
        // As from a variable that is not set: nothing is in a container without a name.
        (&["ps", "web", "--container", ""], "--container"),
        (&["ps", "web", "--pid", "x"], "--pid"),
        (&["sockets", "web", "state", "up"], "no state `up`"),
        (&["sockets", "web", "(", "sport", "=", ":22"], "not closed"),
        (&["certify", "web", "--service", "web"], "--output <FILE>"),
        (&["certify", "web", "--service", "w", "--key", "k", "-o", "f", "--valid-for", "soon"], "365d"),
    ];
    for (args, what) in wrong {
        let ran = run(args);
        assert!(ran.error().contains(what), "{args:?}: {ran:?}");
        assert_eq!(ran.stdout, "");
    }
}
