//! The kernel's image in guest memory: where it is mapped, and a copy of its bytes.
//!
//! Only for a kernel that does not tell where its symbol table is (VMCOREINFO of before 6.0, or none): then the table is
//! looked for in the image, which is some ten MiB, and never in all of memory. The copy is bounded, and what is not mapped
//! (sections that were freed after boot) is zeros in it.

use vmi_core::{AddressSpace, Gva, PAGE_SIZE, ReadError};

/// Where the kernel image is mapped (``__START_KERNEL_map``, arch/x86/include/asm/page_64_types.h).
pub(super) const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// ``LOAD_PHYSICAL_ADDR``, ``CONFIG_PHYSICAL_START`` rounded up: where in that window the image is linked. Every distribution has
/// 16 MiB.
pub(super) const LINKED_AT: u64 = START_KERNEL_MAP + (16 << 20);
/// Bytes of the window that KASLR places the image in (``KERNEL_IMAGE_SIZE``, the same file); modules are behind it.
const WINDOW: u64 = 1 << 30;
/// The image starts at a multiple of this (``CONFIG_PHYSICAL_ALIGN``), and its text is mapped in pages of this size.
const STEP: u64 = 2 << 20;
/// Steps without a mapped page that end the image. Freed sections in its middle are shorter.
const GAP: usize = 16;
/// Most bytes of an image.
const BYTES_MAX: u64 = 192 << 20;

/// A copy of the image as it is mapped.
#[derive(Debug)]
pub(super) struct KernelImage {
    /// Virtual address of the first byte.
    pub(super) start: Gva,
    /// The bytes; zeros where nothing is mapped.
    pub(super) bytes: Vec<u8>,
}

impl KernelImage {
    /// Reads the image that the page tables of `space` map. `Ok(None)`: they map none.
    pub(super) fn read(space: &AddressSpace<'_, '_>) -> Result<Option<Self>, ReadError> {
        let mut start = None;
        for at in (START_KERNEL_MAP..START_KERNEL_MAP.saturating_add(WINDOW)).step_by(step_len()) {
            match space.translate(Gva(at)) {
                Ok(_) => {
                    start = Some(Gva(at));
                    break;
                }
                Err(error) if error.ends_the_look() => return Err(error),
                Err(_) => {}
            }
        }
        let Some(start) = start else { return Ok(None) };
        let mut bytes = Vec::new();
        let mut used = 0;
        let mut gap = 0;
        let mut at = start;
        while gap < GAP && (bytes.len() as u64) < BYTES_MAX && at.0 - START_KERNEL_MAP < WINDOW {
            let (step, mapped) = read_step(space, at)?;
            bytes.extend_from_slice(&step);
            if mapped {
                used = bytes.len();
                gap = 0;
            } else {
                gap += 1;
            }
            let Some(next) = at.checked_add(STEP) else { break };
            at = next;
        }
        bytes.truncate(used);
        Ok(Some(Self { start, bytes }))
    }
}

fn step_len() -> usize {
    usize::try_from(STEP).unwrap_or(usize::MAX)
}

/// The bytes of one step, and whether any page of it is mapped.
fn read_step(space: &AddressSpace<'_, '_>, at: Gva) -> Result<(Vec<u8>, bool), ReadError> {
    match space.bytes(at, step_len()) {
        Ok(bytes) => return Ok((bytes, true)),
        Err(error) if error.ends_the_look() => return Err(error),
        Err(_) => {}
    }
    let mut bytes = vec![0; step_len()];
    let mut mapped = false;
    let mut page_at = at;
    for page in bytes.chunks_exact_mut(usize::try_from(PAGE_SIZE).unwrap_or(1)) {
        match space.read(page_at, page) {
            Ok(()) => mapped = true,
            Err(error) if error.ends_the_look() => return Err(error),
            Err(_) => page.fill(0),
        }
        let Some(next) = page_at.checked_add(PAGE_SIZE) else { break };
        page_at = next;
    }
    Ok((bytes, mapped))
}
