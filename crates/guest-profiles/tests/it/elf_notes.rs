//! The build id among ELF notes.

use guest_profiles::{Error, build_id};

fn note(name: &[u8], kind: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [name.len(), body.len(), kind as usize] {
        bytes.extend_from_slice(&u32::try_from(word).unwrap().to_le_bytes());
    }
    for part in [name, body] {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn kernel_notes() -> Vec<u8> {
    let mut notes = note(b"Xen\0", 18, &[1, 2, 3, 4, 5]);
    notes.extend(note(b"Linux\0", 0x100, &[0; 6]));
    notes.extend(note(b"GNU\0", 5, &[0; 16]));
    notes.extend(note(b"GNU\0", 3, &[0xab, 0xcd, 0x01]));
    notes.extend(note(b"GNU\0", 3, &[0xff]));
    notes
}

#[test]
fn the_first_gnu_build_id_is_found_among_other_notes() {
    assert_eq!(build_id(&kernel_notes()).unwrap(), "abcd01");
}

#[test]
fn this_kernels_own_build_id_is_the_one_in_its_notes_file() {
    match std::fs::read("/sys/kernel/notes") {
        Ok(notes) => assert!(build_id(&notes).unwrap().len() >= 16, "{:?}", build_id(&notes)),
        Err(error) => eprintln!("skipped: /sys/kernel/notes cannot be read: {error}"),
    }
}

#[test]
fn notes_without_a_build_id_are_an_error() {
    assert!(matches!(build_id(&note(b"Xen\0", 3, &[1])), Err(Error::NoteNoBuildId { len: 20 })));
    assert!(matches!(build_id(&[]), Err(Error::NoteNoBuildId { len: 0 })));
}

#[test]
fn a_note_that_ends_outside_the_bytes_is_an_error() {
    let mut notes = note(b"GNU\0", 3, &[7; 20]);
    notes.truncate(30);
    assert!(matches!(build_id(&notes), Err(Error::NoteTruncated { offset: 0, len: 30 })));
    let huge = [0xff; 12];
    assert!(matches!(build_id(&huge), Err(Error::NoteTruncated { offset: 0, len: 12 })));
}

#[test]
fn a_build_id_of_no_bytes_or_too_many_is_an_error() {
    assert!(matches!(build_id(&note(b"GNU\0", 3, &[])), Err(Error::NoteBuildIdSize { size: 0, .. })));
    assert!(matches!(build_id(&note(b"GNU\0", 3, &[1; 65])), Err(Error::NoteBuildIdSize { size: 65, .. })));
}
