//! Splits QEMU's command line into options, and option values into keys (QEMU's own syntax).
//!
//! Only what tells a machine apart is asked for; unknown options are kept and ignored. A value is `key=value,…` where a
//! doubled comma is a comma, the first part may lack its key (each option has an implied one), or it is a JSON object.

use serde_json::Value;

/// Options that take no argument (qemu-options.hx, QEMU 7.2 to 10.0, x86). All others take one.
const FLAGS: &[&str] = &[
    "S",
    "alt-grab",
    "ctrl-grab",
    "curses",
    "daemonize",
    "enable-fips",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "h",
    "help",
    "jitdump",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-frame",
    "no-hpet",
    "no-kvm",
    "no-kvm-irqchip",
    "no-kvm-pit",
    "no-kvm-pit-reinjection",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nodefconfig",
    "nographic",
    "nouserconfig",
    "old-param",
    "one-insn-per-tb",
    "only-migratable",
    "perfmap",
    "portrait",
    "preconfig",
    "rtc-td-hack",
    "s",
    "sdl",
    "semihosting",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-create",
    "xen-domid-restrict",
];

/// QEMU's options in the order given, names without dashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    all: Vec<(String, String)>,
}

impl Options {
    /// Splits arguments (without the program's own name). A flag has an empty value.
    pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Self {
        let mut all = Vec::new();
        let mut rest = arguments.iter().map(AsRef::as_ref);
        while let Some(argument) = rest.next() {
            // A lone word is a disk image, a lone dash means nothing.
            let Some(name) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                continue;
            };
            let value = if FLAGS.contains(&name) { "" } else { rest.next().unwrap_or("") };
            all.push((name.to_owned(), value.to_owned()));
        }
        Self { all }
    }

    /// The values of every option that has one of these names, in order.
    pub fn values<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a str> {
        self.all.iter().filter(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value.as_str())
    }

    /// Whether one of these options is given.
    #[must_use]
    pub fn has(&self, names: &[&str]) -> bool {
        self.values(names).next().is_some()
    }

    /// The keys of an option that QEMU merges when it is given several times (`-machine`, `-m`, `-smp`, `-name`).
    #[must_use]
    pub fn merged(&self, names: &[&str], implied: &str) -> Keys {
        let mut pairs = Vec::new();
        for value in self.values(names) {
            pairs.extend(Keys::parse(value, implied).pairs);
        }
        Keys { pairs }
    }
}

/// The keys of one option value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    pairs: Vec<(String, String)>,
}

impl Keys {
    /// Parses `a,b=c,d=e,,f` or a JSON object. The first part without `=` belongs to the key `implied`; a later one is a
    /// switch and reads as `on`. Values of JSON that are objects or arrays are left out.
    #[must_use]
    pub fn parse(value: &str, implied: &str) -> Self {
        if value.trim_start().starts_with('{')
            && let Ok(Value::Object(object)) = serde_json::from_str::<Value>(value)
        {
            let pairs = object
                .into_iter()
                .filter_map(|(key, value)| match value {
                    Value::String(text) => Some((key, text)),
                    Value::Bool(on) => Some((key, if on { "on" } else { "off" }.to_owned())),
                    Value::Number(number) => Some((key, number.to_string())),
                    Value::Null | Value::Array(_) | Value::Object(_) => None,
                })
                .collect();
            return Self { pairs };
        }
        let mut pairs = Vec::new();
        for (index, part) in split_commas(value).into_iter().enumerate() {
            match part.split_once('=') {
                Some((key, value)) => pairs.push((key.to_owned(), value.to_owned())),
                None if part.is_empty() => {}
                None if index == 0 => pairs.push((implied.to_owned(), part)),
                None => pairs.push((part, "on".to_owned())),
            }
        }
        Self { pairs }
    }

    /// The value of a key; the last one counts, as in QEMU.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A key that is on or off; `None` when it is not given or is neither.
    #[must_use]
    pub fn switch(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            "on" | "yes" | "true" | "y" => Some(true),
            "off" | "no" | "false" | "n" => Some(false),
            _ => None,
        }
    }
}

/// Splits at single commas; a doubled one is a comma of the value.
fn split_commas(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            parts.push(String::new());
            continue;
        }
        if let Some(last) = parts.last_mut() {
            last.push(character);
        }
    }
    parts
}

/// Parses a size as QEMU does: a number, perhaps with a fraction, and a suffix of `BKMGTPE` in either case. Without one it
/// counts in `unit` bytes. `None` when it is no size or does not fit 64 bits.
#[must_use]
pub fn parse_size(text: &str, unit: u64) -> Option<u64> {
    let text = text.trim();
    let (number, factor) = match text.char_indices().last()? {
        (_, last) if last.is_ascii_digit() => (text, unit),
        (at, suffix) => {
            let power = "bkmgtpe".find(suffix.to_ascii_lowercase())?;
            (text.get(..at)?, 1_u64.checked_shl(u32::try_from(power.checked_mul(10)?).ok()?)?)
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bytes = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if fraction.is_empty() {
        return Some(bytes);
    }
    // Twelve digits are more than anybody writes and keep the product inside 128 bits.
    let fraction = fraction.get(..fraction.len().min(12))?;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = fraction.parse::<u128>().ok()?.checked_mul(u128::from(factor))?.checked_div(scale)?;
    bytes.checked_add(u64::try_from(part).ok()?)
}
