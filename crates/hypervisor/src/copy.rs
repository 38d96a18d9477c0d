//! Copies bytes out of memory that somebody else writes to meanwhile.
//!
//! Loads are volatile, so the compiler neither repeats nor assumes them, and naturally aligned eight-byte words are read
//! by one load each, as is a number of four bytes: a pointer in guest memory comes out whole. No reference to the source ever exists.

/// Copies `out.len()` bytes from `from`.
///
/// # Safety
/// `[from, from + out.len())` must be readable for the whole call. Others may write to it meanwhile; it must not overlap
/// `out`.
pub(crate) unsafe fn copy_volatile(from: *const u8, out: &mut [u8]) {
    const WORD: usize = size_of::<u64>();
    // Most reads are of one number.
    if let Ok(word) = <&mut [u8; WORD]>::try_from(&mut *out)
        && from.cast::<u64>().is_aligned()
    {
        // SAFETY: it is aligned, and its eight bytes are the range.
        *word = unsafe { from.cast::<u64>().read_volatile() }.to_ne_bytes();
        return;
    }
    if let Ok(half) = <&mut [u8; 4]>::try_from(&mut *out)
        && from.cast::<u32>().is_aligned()
    {
        // SAFETY: it is aligned, and its four bytes are the range.
        *half = unsafe { from.cast::<u32>().read_volatile() }.to_ne_bytes();
        return;
    }
    let to_aligned = from.align_offset(WORD).min(out.len());
    let (head, rest) = out.split_at_mut(to_aligned);
    for (index, byte) in head.iter_mut().enumerate() {
        // SAFETY: `index` is below `out.len()`, so the byte is in the range the caller vouches for.
        *byte = unsafe { from.add(index).read_volatile() };
    }
    // SAFETY: `to_aligned` is at most `out.len()`, so this stays inside the range, or at its end.
    let words = unsafe { from.add(to_aligned) }.cast::<u64>();
    let mut chunks = rest.chunks_exact_mut(WORD);
    let mut done = 0;
    for chunk in chunks.by_ref() {
        // SAFETY: word `done` is aligned (the head ended on a word boundary) and `chunk` has its eight bytes in `out`, so
        // it is in the range.
        let word = unsafe { words.add(done).read_volatile() };
        chunk.copy_from_slice(&word.to_ne_bytes());
        done += 1;
    }
    // SAFETY: `done` words were in the range, so this is inside it or at its end.
    let tail = unsafe { words.add(done) }.cast::<u8>();
    for (index, byte) in chunks.into_remainder().iter_mut().enumerate() {
        // SAFETY: what is left of `out` is also left of the range.
        *byte = unsafe { tail.add(index).read_volatile() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alignment_and_length_copies_exactly() {
        let source: Vec<u8> = (0..=255).collect();
        for start in 0..17 {
            for len in 0..100 {
                let mut out = vec![0xee; len];
                // SAFETY: `start + len` is at most 116, inside `source`.
                unsafe { copy_volatile(source.as_ptr().add(start), &mut out) };
                assert_eq!(out, source[start..start + len], "start {start}, len {len}");
            }
        }
    }
}
