//! Reads VMCOREINFO, the text that a kernel keeps in its memory for crash dumpers.
//!
//! It names the release, the build id, the page-table root, the KASLR offset and (since 6.0) the kallsyms tables.
//! It is ordinary guest memory: what it says is a hint that the caller must check against the vCPU's registers and the
//! memory itself. Format: `kernel/vmcore_info.c` and `arch/x86/kernel/vmcore_info_64.c` of Linux 6.12.
//!
//! The text is strict `KEY=value` lines; anything else is refused, because a half-understood hint is worse than none.

use std::collections::{BTreeMap, BTreeSet};

use crate::Error;

/// Longest text read. Kernels reserve one page of 4 KiB (`VMCOREINFO_BYTES`).
const MAX_LEN: usize = 8192;
const MAX_BUILD_ID: usize = 64;

/// What VMCOREINFO says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct VmcoreInfo {
    /// `OSRELEASE`, as `uname -r` prints it.
    pub osrelease: String,
    /// `BUILD-ID` in lower-case hexadecimal (5.9 and later). Some stable kernels (6.1.113 to 118, 6.6.55 to 62, 6.11.3
    /// to 9 and others) write garbage there: what is not hexadecimal is kept in `others` instead, and what is may still
    /// be wrong. The note in the kernel image is the authority.
    pub build_id: Option<String>,
    /// `PAGESIZE` in bytes.
    pub page_size: Option<u64>,
    /// `KERNELOFFSET`: the KASLR offset of the kernel image's virtual addresses.
    pub kerneloffset: Option<u64>,
    /// `NUMBER(phys_base)`: physical load address less the link-time one; negative when loaded below 16 MiB.
    pub phys_base: Option<i64>,
    /// `NUMBER(pgtable_l5_enabled)`: 5-level page tables are in use.
    pub pgtable_l5_enabled: Option<bool>,
    /// `SYMBOL(name)`: guest-virtual addresses in the running kernel.
    pub symbols: BTreeMap<String, u64>,
    /// `OFFSET(struct.member)` in bytes.
    pub offsets: BTreeMap<String, u64>,
    /// `SIZE(struct)` in bytes.
    pub sizes: BTreeMap<String, u64>,
    /// `LENGTH(struct.member)` or `LENGTH(array)`: number of elements.
    pub lengths: BTreeMap<String, u64>,
    /// `NUMBER(name)`.
    pub numbers: BTreeMap<String, i64>,
    /// Every other line, as it stands.
    pub others: BTreeMap<String, String>,
}

impl VmcoreInfo {
    /// Reads the text up to its first NUL byte, or to the end of `bytes` if there is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let text = match bytes.iter().take(MAX_LEN + 1).position(|&byte| byte == 0) {
            Some(end) => bytes.get(..end).unwrap_or_default(),
            None if bytes.len() <= MAX_LEN => bytes,
            None => return Err(Error::VmcoreinfoTooLong { limit: MAX_LEN }),
        };
        let mut info = Self::default();
        let mut osrelease = None;
        let mut seen = BTreeSet::new();
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        for (index, raw) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = Line::parse(index + 1, raw)?;
            if !seen.insert(line.key) {
                return Err(Error::VmcoreinfoDuplicate { line: line.number, key: line.key.to_owned() });
            }
            if line.key == "OSRELEASE" {
                osrelease = Some(line.value.to_owned());
            } else {
                info.take(&line)?;
            }
        }
        info.osrelease = osrelease.ok_or(Error::VmcoreinfoMissing { key: "OSRELEASE" })?;
        Ok(info)
    }

    fn take(&mut self, line: &Line<'_>) -> Result<(), Error> {
        let argument = |name: &str| {
            line.key
                .strip_prefix(name)?
                .strip_prefix('(')?
                .strip_suffix(')')
                .filter(|inner| !inner.is_empty())
        };
        if let Some(name) = argument("SYMBOL") {
            self.symbols.insert(name.to_owned(), line.hexadecimal()?);
        } else if let Some(name) = argument("OFFSET") {
            self.offsets.insert(name.to_owned(), line.decimal()?);
        } else if let Some(name) = argument("SIZE") {
            self.sizes.insert(name.to_owned(), line.decimal()?);
        } else if let Some(name) = argument("LENGTH") {
            self.lengths.insert(name.to_owned(), line.decimal()?);
        } else if let Some(name) = argument("NUMBER") {
            let value = line.number_value()?;
            match (name, value) {
                ("phys_base", _) => self.phys_base = Some(value),
                ("pgtable_l5_enabled", 0) => self.pgtable_l5_enabled = Some(false),
                ("pgtable_l5_enabled", 1) => self.pgtable_l5_enabled = Some(true),
                ("pgtable_l5_enabled", _) => return Err(line.unexpected("0 or 1")),
                _ => {}
            }
            self.numbers.insert(name.to_owned(), value);
        } else {
            match line.key {
                "BUILD-ID" if line.is_build_id() => self.build_id = Some(line.value.to_ascii_lowercase()),
                "PAGESIZE" => self.page_size = Some(line.decimal()?),
                "KERNELOFFSET" => self.kerneloffset = Some(line.hexadecimal()?),
                _ => {
                    self.others.insert(line.key.to_owned(), line.value.to_owned());
                }
            }
        }
        Ok(())
    }
}

struct Line<'a> {
    number: usize,
    key: &'a str,
    value: &'a str,
}

impl<'a> Line<'a> {
    fn parse(number: usize, raw: &'a [u8]) -> Result<Self, Error> {
        let text =
            if raw.iter().all(|byte| (0x20..0x7f).contains(byte)) { str::from_utf8(raw).ok() } else { None };
        match text.and_then(|text| text.split_once('=')) {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok(Self { number, key, value }),
            _ => Err(Error::VmcoreinfoLine { line: number }),
        }
    }

    fn unexpected(&self, expected: &'static str) -> Error {
        Error::VmcoreinfoValue {
            line: self.number,
            key: self.key.to_owned(),
            value: self.value.to_owned(),
            expected,
        }
    }

    /// `%lx`: digits only, where Rust's own parser would also take a sign.
    fn hexadecimal(&self) -> Result<u64, Error> {
        self.hex_digits(self.value)
    }

    fn hex_digits(&self, digits: &str) -> Result<u64, Error> {
        let all_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        all_digits
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten()
            .ok_or_else(|| self.unexpected("a hexadecimal number of 64 bits"))
    }

    fn decimal(&self) -> Result<u64, Error> {
        let all_digits = self.value.bytes().all(|byte| byte.is_ascii_digit());
        all_digits
            .then(|| self.value.parse().ok())
            .flatten()
            .ok_or_else(|| self.unexpected("a decimal number of 64 bits"))
    }

    /// Mostly `%ld`; some architectures and later kernels write `0x%lx` of an unsigned long.
    fn number_value(&self) -> Result<i64, Error> {
        if let Some(digits) = self.value.strip_prefix("0x") {
            return self.hex_digits(digits).map(u64::cast_signed);
        }
        let digits = self.value.strip_prefix('-').unwrap_or(self.value);
        let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
        all_digits
            .then(|| self.value.parse().ok())
            .flatten()
            .ok_or_else(|| self.unexpected("a number of 64 bits"))
    }

    fn is_build_id(&self) -> bool {
        self.value.len() <= 2 * MAX_BUILD_ID
            && self.value.len().is_multiple_of(2)
            && self.value.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}
