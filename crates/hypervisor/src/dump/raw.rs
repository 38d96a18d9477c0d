//! Raw images: the bytes of RAM from address 0 on, with nothing said about them.
//!
//! A copy of a guest's RAM (QEMU's memory file, for one) has no hole where the guest has its PCI window, so a guest of more
//! than some 3 GiB needs to be told how its machine splits. A dump of the physical address space (`pmemsave`) is flat.

use super::image::{Image, Segment};
use crate::Error;
use crate::kvm::layout::low_size;
use crate::kvm::machine::MachineKind;
use vmi_core::{Gpa, PAGE_SIZE, Region};

const FOUR_GIB: u64 = 1 << 32;
/// Smaller than any guest: what is smaller is a file of another kind.
const MIN_SIZE: u64 = 1 << 20;

/// How the bytes of a raw image lie in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RawLayout {
    /// Byte n of the file is guest-physical n.
    #[default]
    Flat,
    /// The RAM of a QEMU `q35` machine: what does not fit below its PCI window is at 4 GiB.
    Q35,
    /// The same for QEMU's `pc`.
    I440fx,
}

/// The memory that a raw image holds.
pub(super) fn segments(image: &Image, layout: RawLayout) -> Result<Vec<Segment>, Error> {
    let size = image.len();
    if size < MIN_SIZE || !size.is_multiple_of(PAGE_SIZE) {
        return Err(image.malformed(format!(
            "it is neither ELF nor LiME, and its {size} bytes are not the pages of a raw image of at least 1 MiB"
        )));
    }
    let low = match layout {
        RawLayout::Flat => size,
        RawLayout::Q35 => low_size(MachineKind::Q35, size, 0),
        RawLayout::I440fx => low_size(MachineKind::I440fx { gigabyte_align: true }, size, 0),
    };
    Ok(vec![
        Segment { guest: Region { start: Gpa(0), len: low }, offset: 0 },
        Segment { guest: Region { start: Gpa(FOUR_GIB), len: size.saturating_sub(low) }, offset: low },
    ])
}
