//! Reads a `System.map`: a kernel's symbols as `nm` printed them when it was built.
//!
//! Only for kernels whose own symbol table has no data (`CONFIG_KALLSYMS_ALL` is off) or that have none. Debian puts a stub with
//! this name beside its kernels, which has no symbols and says so in prose: a line that is no symbol is skipped.

use std::collections::BTreeMap;

use crate::kallsyms::Hits;

/// The link addresses of the wanted names, chosen among symbols of one name as [`crate::Kallsyms::resolve`] does.
pub fn system_map(text: &[u8], wanted: &[&str]) -> BTreeMap<String, u64> {
    let mut hits = Hits::new(wanted);
    for line in text.split(|byte| *byte == b'\n') {
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(address), Some([kind]), Some(name), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let digits = str::from_utf8(address)
            .ok()
            .filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if let Some(address) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            hits.add(name, kind.is_ascii_uppercase(), address);
        }
    }
    hits.addresses()
}
