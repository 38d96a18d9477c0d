//! What systemd may start and listen on: `.service` and `.socket` files with their drop-ins.
//!
//! A unit of `/etc` replaces one of the same name in `/usr`. Whether it is enabled is not asked: what is installed may be started by
//! hand, by D-Bus or by another unit. Specifiers and variables in a command's path are not expanded; such a command is left
//! out, and the program in it is certified like any other of the image.

use super::{Accounts, TEXT_MAX};
use crate::{Error, Kind, Tree};
use std::collections::BTreeMap;

/// Where units are, the strongest first (`systemd.unit(5)`).
const PLACES: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Where a command without a slash is looked for (`systemd.exec(5)`).
const PATHS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
/// Largest unit file.
const UNIT_MAX: u64 = 1 << 20;
/// Most units.
const UNITS_MAX: usize = 20_000;

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Name of the unit.
    pub unit: String,
    /// Programs that it starts, without links, and whether with full rights whatever the user.
    pub commands: Vec<(String, bool)>,
    /// User and group. `None`: they are not known before it runs.
    pub user: Option<(u32, u32)>,
    /// Capabilities that it gives to its user, as written.
    pub ambient: Vec<String>,
}

/// What systemd listens on for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Name of the unit.
    pub unit: String,
    /// Name of the service's unit.
    pub service: String,
    /// What.
    pub listens: Vec<Listen>,
}

/// A line of a `.socket` unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `ListenStream=`.
    Stream(String),
    /// `ListenDatagram=`.
    Datagram(String),
    /// `ListenSequentialPacket=`.
    SequentialPacket(String),
}

/// The settings of a unit: section, key, value, in order.
type Settings = Vec<(String, String, String)>;

pub(super) fn read(
    tree: &Tree,
    accounts: &Accounts,
    notes: &mut Vec<String>,
) -> Result<(Vec<Service>, Vec<Socket>), Error> {
    let mut units: BTreeMap<String, String> = BTreeMap::new();
    for place in PLACES {
        for (name, node) in tree.list(place) {
            let wanted = name.ends_with(".service") || name.ends_with(".socket");
            if wanted && matches!(node.kind, Kind::File | Kind::Link(_)) {
                units.entry(name.to_owned()).or_insert_with(|| format!("{place}/{name}"));
            }
        }
    }
    if units.len() > UNITS_MAX {
        return Err(Error::TooMany { what: "units of systemd", limit: UNITS_MAX });
    }
    let (mut services, mut sockets) = (Vec::new(), Vec::new());
    for (name, path) in units {
        // A masked unit is a link to /dev/null, which is not in the tree.
        if tree.get(&path).is_none_or(|node| node.kind != Kind::File) {
            continue;
        }
        let settings = settings(tree, &name, &path)?;
        if name.ends_with(".service") {
            services.push(service(tree, accounts, name, &settings, notes));
        } else {
            sockets.push(socket(name, &settings));
        }
    }
    Ok((services, sockets))
}

/// The settings of a unit and then those of its drop-ins.
fn settings(tree: &Tree, name: &str, path: &str) -> Result<Settings, Error> {
    let mut found = parse(&tree.text(path, UNIT_MAX)?.unwrap_or_default());
    let mut drop_ins: BTreeMap<String, String> = BTreeMap::new();
    for place in PLACES {
        let directory = format!("{place}/{name}.d");
        for (file, _) in tree.list(&directory).filter(|(file, _)| file.ends_with(".conf")) {
            drop_ins.entry(file.to_owned()).or_insert_with(|| format!("{directory}/{file}"));
        }
    }
    for path in drop_ins.into_values() {
        found.extend(parse(&tree.text(&path, TEXT_MAX.min(UNIT_MAX))?.unwrap_or_default()));
    }
    Ok(found)
}

fn parse(text: &str) -> Settings {
    let mut found = Vec::new();
    let mut section = String::new();
    let mut whole = String::new();
    for line in text.lines() {
        let line = line.trim();
        let comment = line.starts_with('#') || line.starts_with(';');
        if comment || (whole.is_empty() && line.is_empty()) {
            continue;
        }
        if let Some(part) = line.strip_suffix('\\') {
            whole.push_str(part);
            whole.push(' ');
            continue;
        }
        whole.push_str(line);
        if let Some(name) = whole.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = whole.split_once('=') {
            found.push((section.clone(), key.trim().to_owned(), value.trim().to_owned()));
        }
        whole.clear();
    }
    found
}

/// The values of a setting that may be given more than once; an empty one forgets those before it.
fn all<'s>(settings: &'s Settings, section: &str, wanted: &str) -> Vec<&'s str> {
    let mut values = Vec::new();
    for (_, _, value) in settings.iter().filter(|(of, key, _)| of == section && key == wanted) {
        if value.is_empty() {
            values.clear();
        } else {
            values.push(value.as_str());
        }
    }
    values
}

fn last<'s>(settings: &'s Settings, section: &str, key: &str) -> Option<&'s str> {
    all(settings, section, key).last().copied()
}

fn service(
    tree: &Tree,
    accounts: &Accounts,
    unit: String,
    settings: &Settings,
    notes: &mut Vec<String>,
) -> Service {
    const COMMANDS: [&str; 7] = [
        "ExecCondition",
        "ExecStartPre",
        "ExecStart",
        "ExecStartPost",
        "ExecReload",
        "ExecStop",
        "ExecStopPost",
    ];
    let mut commands = Vec::new();
    for line in COMMANDS.iter().flat_map(|key| all(settings, "Service", key)) {
        let mut word = line.split_whitespace().next().unwrap_or_default();
        let mut full_rights = false;
        while let Some(rest) = word.strip_prefix(['@', '-', ':', '+', '!', '|']) {
            // `!!` is for kernels without ambient capabilities (before 4.3); on others it changes nothing.
            if let Some(rest) = word.strip_prefix("!!") {
                word = rest;
                continue;
            }
            full_rights |= word.starts_with('+') || word.starts_with('!');
            word = rest;
        }
        let word = word.trim_matches(['"', '\'']);
        let path = if word.contains('/') {
            tree.resolve(word)
        } else {
            PATHS.iter().find_map(|place| tree.resolve(&format!("{place}/{word}")))
        };
        if let Some(path) = path {
            commands.push((path.to_owned(), full_rights));
        }
    }
    commands.sort();
    commands.dedup();
    let yes = |key| {
        last(settings, "Service", key).is_some_and(|value| matches!(value, "yes" | "true" | "1" | "on"))
    };
    let named = last(settings, "Service", "User");
    let group = last(settings, "Service", "Group");
    let user = if yes("DynamicUser") {
        named.and_then(|name| accounts.user(name))
    } else {
        accounts.user(named.unwrap_or("0")).or((named.is_none()).then_some((0, 0)))
    };
    let user = user.and_then(|(uid, gid)| Some((uid, group.map_or(Some(gid), |name| accounts.group(name))?)));
    if user.is_none() && !commands.is_empty() {
        let why = if yes("DynamicUser") {
            "it gets a user when it starts"
        } else {
            "its user is not in /etc/passwd"
        };
        notes.push(format!("As whom {unit} runs is not known: {why}."));
    }
    let ambient = all(settings, "Service", "AmbientCapabilities")
        .iter()
        .flat_map(|value| value.split_whitespace())
        .map(str::to_lowercase)
        .collect();
    Service { unit, commands, user, ambient }
}

fn socket(unit: String, settings: &Settings) -> Socket {
    let plain = format!("{}.service", unit.trim_end_matches(".socket"));
    // With Accept=yes it is a template: one instance for each connection.
    let accept =
        last(settings, "Socket", "Accept").is_some_and(|value| matches!(value, "yes" | "true" | "1" | "on"));
    let instance = format!("{}@.service", unit.trim_end_matches(".socket"));
    let service =
        last(settings, "Socket", "Service").map_or(if accept { instance } else { plain }, str::to_owned);
    let of = |key| all(settings, "Socket", key).into_iter().map(str::to_owned);
    let listens = of("ListenStream")
        .map(Listen::Stream)
        .chain(of("ListenDatagram").map(Listen::Datagram))
        .chain(of("ListenSequentialPacket").map(Listen::SequentialPacket))
        .collect();
    Socket { unit, service, listens }
}

#[cfg(test)]
mod tests {
    use super::{all, last, parse};

    #[test]
    fn a_unit_is_read_with_its_continued_lines_and_forgets_what_an_empty_value_resets() {
        let settings = parse(
            "[Unit]\nExecStart=/not/this\n[Service]\n# no\nExecStart=/usr/bin/a \\\n  -x\nExecStart=\nExecStart=/usr/bin/b\nUser = www\n",
        );
        assert_eq!(all(&settings, "Service", "ExecStart"), ["/usr/bin/b"]);
        assert_eq!(last(&settings, "Service", "User"), Some("www"));
        let continued = parse("[Service]\nExecStart=/usr/bin/a \\\n# comment between\n  -x\n");
        assert_eq!(
            last(&continued, "Service", "ExecStart").map(|v| v.split_whitespace().collect::<Vec<_>>()),
            Some(vec!["/usr/bin/a", "-x"])
        );
    }
}
