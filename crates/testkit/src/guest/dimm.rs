//! Memory plugged into a running guest: QEMU gets a new block and a DIMM of it, and the guest's kernel is told to use it.

use super::Guest;
use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// The guest's kernel learns of a DIMM by an interrupt; one that has not after this long never will.
const LONGEST_NOTICE: Duration = Duration::from_secs(30);

impl Guest {
    /// Plugs a DIMM of so many MiB (a multiple of 128, the unit of Linux) with the guest's kind of memory, and waits until
    /// the guest has more memory than before. The guest must have been booted with slots. `name` must be new to it.
    pub fn plug_dimm(&self, name: &str, mib: u64) -> Result<()> {
        let before = self.memory_total_kib()?;
        let block = format!("{name}-block");
        let mut object = Map::new();
        for (key, value) in self.spec().backing.object(&block, mib) {
            let value = match (key, value.as_str()) {
                (_, "on") => Value::Bool(true),
                ("size" | "hugetlbsize", number) => json!(number.parse::<u64>()?),
                (_, text) => json!(text),
            };
            object.insert(key.to_owned(), value);
        }
        self.qmp(&json!({"execute": "object-add", "arguments": object}))?;
        let arguments = json!({"driver": "pc-dimm", "id": name, "memdev": block});
        self.qmp(&json!({"execute": "device_add", "arguments": arguments}))?;
        // The kernel's default is to leave plugged memory offline and to let the distribution decide.
        let online = "for state in /sys/devices/system/memory/memory*/state; do \
                      grep -q offline $state && echo online > $state; done; true";
        let deadline = Instant::now() + LONGEST_NOTICE;
        // Page structures of the new memory may be taken from it.
        while self.memory_total_kib()? < before + mib * 1024 * 9 / 10 {
            ensure!(Instant::now() < deadline, "The guest {} does not use the DIMM {name}", self.name());
            self.run(&["sh", "-c", online])?;
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn memory_total_kib(&self) -> Result<u64> {
        let text = self.run(&["cat", "/proc/meminfo"])?.stdout;
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        Ok(total.unwrap_or_default().trim().trim_end_matches(" kB").parse()?)
    }
}
