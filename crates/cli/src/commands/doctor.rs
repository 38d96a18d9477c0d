//! `birthmark doctor`: what this host can and cannot do, and why.

use crate::Outcome;
use crate::args::DoctorArgs;
use crate::client::Client;
use crate::output::{Cell, Output, Paint};
use hypervisor::Check;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Prints every check. Exit status 1 when one is not as it should be.
pub(crate) fn doctor(args: &DoctorArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let mut checks = hypervisor::host_checks();
    checks.push(nft());
    checks.push(directory("certificates", &args.config_dir, "certificates (*.json)"));
    checks.push(directory("trusted-keys", &args.config_dir, "public keys (*.pub, *.pem)"));
    checks.push(daemon(&Client::new(&args.daemon.socket)));
    if out.json {
        let checks: Vec<Value> = checks
            .iter()
            .map(|check| {
                json!({ "name": check.name, "ok": check.ok, "detail": check.detail, "advice": check.advice })
            })
            .collect();
        out.json(&checks)?;
    } else {
        for check in &checks {
            let mark = if check.ok { ("ok  ", Paint::Green) } else { ("no  ", Paint::Red) };
            out.line(&[
                Cell::new(mark.0).paint(mark.1),
                Cell::new(&check.name).paint(Paint::Bold),
                Cell::new(": "),
                Cell::new(&check.detail),
            ])?;
            if let Some(advice) = &check.advice {
                out.line(&[Cell::new("    → "), Cell::new(advice)])?;
            }
        }
    }
    Ok(if checks.iter().all(|check| check.ok) { Outcome::Done } else { Outcome::Findings })
}

fn nft() -> Check {
    let (ok, detail, advice) = match quarantine::Nftables::find() {
        Ok(_) => (true, "the program nft is here, so VMs can be cut off".to_owned(), None),
        Err(error) => (
            false,
            format!("{:#}", anyhow::Error::new(error)),
            Some("Install nftables, or VMs cannot be cut off".to_owned()),
        ),
    };
    Check { name: "nftables".to_owned(), ok, detail, advice }
}

fn directory(name: &str, config: &Path, content: &str) -> Check {
    let path = config.join(name);
    let shown = path.display();
    let (ok, detail, advice) = match fs::read_dir(&path) {
        Ok(entries) => match entries.count() {
            0 => (false, format!("{shown} is empty"), Some(format!("Put {content} into it"))),
            1 => (true, format!("{shown} has 1 file"), None),
            files => (true, format!("{shown} has {files} files"), None),
        },
        Err(error) => {
            (false, format!("{shown}: {error}"), Some(format!("Make it, and put {content} into it")))
        }
    };
    Check { name: name.to_owned(), ok, detail, advice }
}

fn daemon(client: &Client) -> Check {
    let (ok, detail) = match client.get("status") {
        Ok(status) => {
            let version = status.get("version").and_then(Value::as_str).unwrap_or("of unknown version");
            (true, format!("birthmarkd {version} answers"))
        }
        Err(error) => (false, format!("{error:#}")),
    };
    Check { name: "birthmarkd".to_owned(), ok, detail, advice: None }
}
