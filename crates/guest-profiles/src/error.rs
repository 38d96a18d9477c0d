//! Everything that can be wrong with the bytes, or with a question asked of a profile.

use std::io;
use std::path::PathBuf;

use crate::btf::Kind;
use crate::kallsyms::Encoding;

/// Why bytes could not be read, or why a profile cannot answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The BTF bytes end inside the header.
    #[error("BTF of {len} bytes is shorter than its header")]
    BtfTooShort {
        /// Bytes given.
        len: usize,
    },
    /// A header field has a value that this reader does not know.
    #[error("BTF header field {field} is {value:#x} where {expected} was expected")]
    BtfHeader {
        /// Name as in `struct btf_header`.
        field: &'static str,
        /// Value found.
        value: u32,
        /// What a readable BTF has there.
        expected: &'static str,
    },
    /// A section does not lie within the bytes.
    #[error("BTF {section} section of {size} bytes at {offset} does not fit in {len} bytes")]
    BtfSection {
        /// `type` or `string`.
        section: &'static str,
        /// Offset from the end of the header.
        offset: u32,
        /// Size in bytes.
        size: u32,
        /// Bytes given.
        len: usize,
    },
    /// The base of a split BTF is itself split.
    #[error("BTF of a module cannot be the base of another module's")]
    BtfBaseIsSplit,
    /// The string section does not start and end with a NUL byte.
    #[error("BTF string section does not start and end with a NUL byte")]
    BtfStringsNotTerminated,
    /// A type record ends outside the type section.
    #[error("BTF type {id} at offset {offset} of the type section is cut short")]
    BtfTruncatedType {
        /// Type id.
        id: u32,
        /// Offset in the type section.
        offset: usize,
    },
    /// A kind that this reader does not know, so that the next record cannot be found.
    #[error("BTF type {id} has unknown kind {kind}")]
    BtfUnknownKind {
        /// Type id.
        id: u32,
        /// Kind number.
        kind: u32,
    },
    /// A name offset outside the string section.
    #[error("BTF string offset {offset} lies outside the string section of {len} bytes")]
    BtfStringOffset {
        /// Offset asked for.
        offset: u32,
        /// Size of the string section.
        len: usize,
    },
    /// A name that no C identifier can be.
    #[error("BTF string at {offset} is not UTF-8 or is longer than {limit} bytes")]
    BtfString {
        /// Offset in the string section.
        offset: u32,
        /// Longest name that is read.
        limit: usize,
    },
    /// A type id beyond the last type.
    #[error("BTF type {id} does not exist: there are {count} types")]
    BtfTypeId {
        /// Type id asked for.
        id: u32,
        /// Number of types, `void` included.
        count: usize,
    },
    /// A type of the wrong kind for the question.
    #[error("BTF type {id} is of kind {kind:?} where {expected} was expected")]
    BtfKind {
        /// Type id.
        id: u32,
        /// Its kind.
        kind: Kind,
        /// What was needed.
        expected: &'static str,
    },
    /// Types that refer to each other more deeply than any real kernel's do.
    #[error("BTF type {id} nests deeper than {limit} levels")]
    BtfTooDeep {
        /// Where the walk gave up.
        id: u32,
        /// Deepest nesting followed.
        limit: u32,
    },
    /// A record with more members than any real kernel's.
    #[error("BTF type {id} has more than {limit} members")]
    BtfTooManyMembers {
        /// The record.
        id: u32,
        /// Most members read.
        limit: usize,
    },
    /// A member that does not fit in its record.
    #[error("BTF type {id} of {size} bytes has member {member} at bit {bit_offset}, outside of it")]
    BtfMemberOutside {
        /// The record.
        id: u32,
        /// Its size in bytes.
        size: u64,
        /// Path of the member.
        member: String,
        /// Where the member starts, in bits.
        bit_offset: u64,
    },
    /// A type whose size overflows 64 bits, or which has none.
    #[error("BTF type {id} has no size")]
    BtfNoSize {
        /// Type id.
        id: u32,
    },

    /// A table is shorter than the number of symbols needs, or the names end early.
    #[error("Kallsyms table {table} of {len} bytes ends before symbol {symbol} of {count}")]
    KallsymsTruncated {
        /// Which table.
        table: &'static str,
        /// Its size in bytes.
        len: usize,
        /// First symbol that is not there.
        symbol: u32,
        /// Number of symbols announced.
        count: u32,
    },
    /// The token index is not 256 two-byte offsets of NUL-terminated strings.
    #[error("Kallsyms token {token} at {offset} does not lie within the token table of {len} bytes")]
    KallsymsToken {
        /// Token number.
        token: usize,
        /// Its offset, if the index holds it.
        offset: usize,
        /// Size of the token table.
        len: usize,
    },
    /// The token index has another size than 512 bytes.
    #[error("Kallsyms token index has {len} bytes instead of 512")]
    KallsymsTokenIndex {
        /// Bytes given.
        len: usize,
    },
    /// A symbol name longer than the kernel allows, or empty.
    #[error("Kallsyms symbol {symbol} has a name of {len} bytes, outside 1..={limit}")]
    KallsymsName {
        /// Symbol number.
        symbol: u32,
        /// Bytes of its name.
        len: usize,
        /// Longest name read.
        limit: usize,
    },
    /// No symbol table in an image.
    #[error("No kallsyms tables found in a kernel image of {len} bytes")]
    KallsymsNotFound {
        /// Bytes searched.
        len: usize,
    },
    /// Without `_stext` the encoding of the addresses cannot be told.
    #[error("Kallsyms has no symbol _stext among {count}")]
    KallsymsNoStext {
        /// Number of symbols.
        count: u32,
    },
    /// No encoding gives the known address of `_stext`.
    #[error("Kallsyms gives no _stext at {expected:#x}: {}", tried(.found))]
    KallsymsEncoding {
        /// Where `_stext` is known to be.
        expected: u64,
        /// Where each encoding puts it.
        found: Vec<(Encoding, u64)>,
    },
    /// More than one encoding gives the known address of `_stext`.
    #[error("Kallsyms gives _stext at {expected:#x} under more than one encoding: {}", tried(.found))]
    KallsymsAmbiguous {
        /// Where `_stext` is known to be.
        expected: u64,
        /// The encodings that agree.
        found: Vec<(Encoding, u64)>,
    },

    /// VMCOREINFO is longer than any kernel writes.
    #[error("VMCOREINFO text does not end within {limit} bytes")]
    VmcoreinfoTooLong {
        /// Most bytes read.
        limit: usize,
    },
    /// A line that is not `KEY=value` in printable ASCII.
    #[error("VMCOREINFO line {line} is not KEY=value in printable ASCII")]
    VmcoreinfoLine {
        /// Line number from 1.
        line: usize,
    },
    /// A key that comes twice.
    #[error("VMCOREINFO line {line} repeats {key}")]
    VmcoreinfoDuplicate {
        /// Line number from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// A value that is not what its key promises.
    #[error("VMCOREINFO line {line} gives {key} the value {value}, which is not {expected}")]
    VmcoreinfoValue {
        /// Line number from 1.
        line: usize,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A line that every kernel writes is missing.
    #[error("VMCOREINFO has no {key} line")]
    VmcoreinfoMissing {
        /// The key.
        key: &'static str,
    },

    /// A note's sizes point outside the bytes.
    #[error("ELF note at offset {offset} of {len} bytes is cut short")]
    NoteTruncated {
        /// Offset of the note.
        offset: usize,
        /// Bytes given.
        len: usize,
    },
    /// A GNU build id of a size that no linker writes.
    #[error("GNU build id at offset {offset} has {size} bytes, outside 1..={limit}")]
    NoteBuildIdSize {
        /// Offset of the note.
        offset: usize,
        /// Bytes of the id.
        size: u32,
        /// Longest id read.
        limit: u32,
    },
    /// None of the notes is a GNU build id.
    #[error("No GNU build id among {len} bytes of ELF notes")]
    NoteNoBuildId {
        /// Bytes given.
        len: usize,
    },

    /// The profile does not know a type.
    #[error("Profile of {release} has no type {name}")]
    NoType {
        /// Kernel release.
        release: String,
        /// The type asked for.
        name: String,
    },
    /// The profile does not know a member.
    #[error("Profile of {release} has no member {member} in struct {name}")]
    NoMember {
        /// Kernel release.
        release: String,
        /// The type asked.
        name: String,
        /// The path asked for, from that type.
        member: String,
    },
    /// A dotted path goes on below something that is not an embedded record.
    #[error("Profile of {release} has {member} in struct {name}, but it is not an embedded record")]
    NotRecord {
        /// Kernel release.
        release: String,
        /// The type asked.
        name: String,
        /// The member that is not a record.
        member: String,
    },
    /// The profile does not know an enum or one of its values.
    #[error("Profile of {release} has no value {value} in enum {name}")]
    NoEnumValue {
        /// Kernel release.
        release: String,
        /// The enum asked; empty for untagged enums.
        name: String,
        /// The value asked for.
        value: String,
    },
    /// The profile does not know a symbol.
    #[error("Profile of {release} has no symbol {name}")]
    NoSymbol {
        /// Kernel release.
        release: String,
        /// The symbol asked for.
        name: String,
    },
    /// A profile's offsets add up to more than 64 bits.
    #[error("Profile of {release} places {member} of struct {name} beyond 64 bits")]
    OffsetOverflow {
        /// Kernel release.
        release: String,
        /// The type asked.
        name: String,
        /// The path asked for.
        member: String,
    },
    /// A stored profile is not the JSON that this version writes.
    #[error("Profile is not valid JSON of schema {schema}")]
    ProfileJson {
        /// The schema that was expected.
        schema: &'static str,
        /// What the JSON reader says.
        #[source]
        source: serde_json::Error,
    },
    /// A stored profile is of another schema.
    #[error("Profile has schema {found} where {expected} was expected")]
    ProfileSchema {
        /// Schema found.
        found: String,
        /// Schema that this version reads.
        expected: &'static str,
    },
    /// A stored profile is larger than any real one.
    #[error("Profile of {len} bytes is larger than {limit} bytes")]
    ProfileTooLarge {
        /// Bytes given.
        len: usize,
        /// Most bytes read.
        limit: usize,
    },

    /// A file or directory of the store could not be read.
    #[error("{} could not be read", path.display())]
    StoreRead {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something in the store is no regular file.
    #[error("{} is no regular file", path.display())]
    StoreNotAFile {
        /// What it is.
        path: PathBuf,
    },
    /// Others than root and the running user could have written it.
    #[error("{} belongs to user {owner} with mode {mode:04o}: others could have written it", path.display())]
    StoreOpenToOthers {
        /// The file or directory.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
    /// A file of the store is larger than any profile.
    #[error("{} has more than {limit} bytes", path.display())]
    StoreTooLarge {
        /// The file.
        path: PathBuf,
        /// Most bytes read.
        limit: u64,
    },
    /// A directory has more files than a store can have.
    #[error("{} has more than {limit} files", path.display())]
    StoreTooMany {
        /// The directory.
        path: PathBuf,
        /// Most files looked at.
        limit: usize,
    },
    /// A file of the store is damaged.
    #[error("{} is no profile", path.display())]
    StoreContent {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<Error>,
    },
    /// The compressed part of a file could not be unpacked.
    #[error("Its compression is damaged behind {unpacked} unpacked bytes")]
    StoreUnpack {
        /// Bytes that came out before.
        unpacked: usize,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{} holds a profile of {release} with digest {digest}, which is not what its name says", path.display())]
    StoreDigest {
        /// The file.
        path: PathBuf,
        /// Release of the profile in it.
        release: String,
        /// Digest of the profile in it.
        digest: String,
    },
    /// A profile could not be compressed.
    #[error("The profile of {release} could not be compressed")]
    StorePack {
        /// Release.
        release: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A profile could not be written.
    #[error("{} could not be written", path.display())]
    StoreWrite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no directory to write to.
    #[error("There is no directory for profiles")]
    StoreNone,
    /// What should be a release cannot be one.
    #[error("{release:?} is no release: it is empty or has more than {limit} bytes")]
    StoreRelease {
        /// The release.
        release: String,
        /// Most bytes.
        limit: usize,
    },

    /// A symbol file of Volatility could not be written.
    #[error("The symbol file could not be written")]
    IsfWrite {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A symbol file could not be compressed.
    #[error("The symbol file could not be compressed")]
    IsfPack {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A symbol file cannot be read.
    #[error("{} cannot be read as Volatility's symbol file", path.display())]
    IsfFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A symbol file is not what Volatility's schema says.
    #[error("It is no symbol file of Volatility")]
    IsfJson {
        /// What is wrong, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A symbol file is of another format.
    #[error("The symbol file has format {found}; 4 to 6 can be read")]
    IsfFormat {
        /// Format found.
        found: String,
    },
    /// A symbol file does not say which kernel it is of.
    #[error("The symbol file does not say which Linux it is of: linux_banner is {found}")]
    IsfBanner {
        /// What it has instead of a banner.
        found: String,
    },
    /// A member of a symbol file that cannot be.
    #[error(
        "The symbol file has {member} of {size} bytes at {offset} in {name}, which has {record_size} bytes"
    )]
    IsfMember {
        /// The record.
        name: String,
        /// The member.
        member: String,
        /// Its offset in bytes.
        offset: u64,
        /// Its size in bytes.
        size: u64,
        /// Size of the record in bytes.
        record_size: u64,
    },
    /// Records in records, or more members than a kernel's record has.
    #[error("The symbol file has more than {limit} members or levels in {name}")]
    IsfTooDeep {
        /// The record.
        name: String,
        /// The limit.
        limit: usize,
    },

    /// A file cannot be read.
    #[error("Cannot read {len} bytes at offset {offset:#x}")]
    FileRead {
        /// Offset in the file.
        offset: u64,
        /// Bytes wanted.
        len: u64,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// A pipe, a device or another file that may never end.
    #[error("It is no regular file")]
    FileNotRegular,
    /// A file that is no kernel in any form that is read.
    #[error("It is neither a bzImage, a vmlinux for x86-64 nor a Debian package: it starts with {start}")]
    FileUnknown {
        /// The first bytes in hexadecimal.
        start: String,
    },
    /// A directory without a kernel in the places where kernels are.
    #[error("It has no vmlinuz or vmlinux in it, in boot, or in lib/modules")]
    DirectoryWithoutKernel,
    /// Something that a file's headers tell of does not lie within the file.
    #[error("The {what} of {len} bytes at offset {offset:#x} does not lie within {size} bytes")]
    FilePiece {
        /// What it is.
        what: &'static str,
        /// Its offset in the file.
        offset: u64,
        /// Its size in bytes.
        len: u64,
        /// Bytes of the file.
        size: u64,
    },
    /// Something in a file is larger than any real kernel's.
    #[error("The {what} has {size} bytes, more than the {limit} that are read")]
    FileTooLarge {
        /// What it is.
        what: String,
        /// Its size in bytes.
        size: u64,
        /// Most bytes read.
        limit: u64,
    },
    /// A field of a file's headers with a value that this reader does not know.
    #[error("{format} field {field} at offset {offset:#x} is {value:#x} where {expected} was expected")]
    FileField {
        /// Format of the file.
        format: &'static str,
        /// Name of the field in the format's specification.
        field: &'static str,
        /// Its offset in the file.
        offset: u64,
        /// Its value.
        value: u64,
        /// What a readable file has there.
        expected: &'static str,
    },
    /// A field of a file's headers that should be a number in ASCII.
    #[error("{format} field {field} at offset {offset:#x} is not {expected}")]
    FileText {
        /// Format of the file.
        format: &'static str,
        /// Name of the field in the format's specification.
        field: &'static str,
        /// Its offset in the file.
        offset: u64,
        /// What a readable file has there.
        expected: &'static str,
    },
    /// A compression that is known by name only.
    #[error("The data at offset {offset:#x} is compressed with {compression}, which is not supported")]
    CompressionUnsupported {
        /// Its name.
        compression: String,
        /// Offset of the data in the file.
        offset: u64,
    },
    /// Compressed data that is damaged or that needs more memory than is given.
    #[error("The {compression} data at offset {offset:#x} cannot be decompressed")]
    Decompress {
        /// Name of the compression.
        compression: String,
        /// Offset of the data in the file.
        offset: u64,
        /// What the decoder says.
        #[source]
        source: io::Error,
    },
    /// Compressed data that gives more or less than its header says.
    #[error(
        "The {compression} data at offset {offset:#x} gives {found} bytes where {expected} were announced"
    )]
    DecompressedLength {
        /// Name of the compression.
        compression: String,
        /// Offset of the data in the file.
        offset: u64,
        /// Bytes that it gives, or `more`.
        found: String,
        /// Bytes announced.
        expected: usize,
    },
    /// A package without the member or file that is looked for.
    #[error("There is no {what} in the {member}")]
    PackageWithout {
        /// What is missing.
        what: &'static str,
        /// Where it was looked for.
        member: String,
    },
    /// A kernel too large to be read inside of a package: a vmlinux with debug information.
    #[error(
        "{name} of {size} bytes is too large to be read inside of a package ({limit}): unpack the package"
    )]
    PackageKernelTooLarge {
        /// Name in the package.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// Most bytes read.
        limit: u64,
    },
    /// What is wrong lies in a file within the file.
    #[error("The {part} cannot be read")]
    FilePart {
        /// Which part.
        part: String,
        /// What is wrong with it.
        #[source]
        source: Box<Self>,
    },
    /// What is wrong with a file.
    #[error("Kernel file {} cannot be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<Self>,
    },
    /// A kernel file without something that a profile needs.
    #[error("The kernel has no {what}")]
    KernelWithout {
        /// What is missing.
        what: &'static str,
    },
    /// A System.map of another kernel.
    #[error("{} has {symbol} at {found:#x} and the kernel beside it at {expected:#x}: it is another kernel's", .path.display())]
    SystemMapForeign {
        /// The map.
        path: PathBuf,
        /// A symbol that both have.
        symbol: String,
        /// Its address there.
        found: u64,
        /// Its address in the kernel.
        expected: u64,
    },
    /// A unit of debug information that is damaged.
    #[error("The DWARF unit at offset {unit:#x} of .debug_info is damaged")]
    Dwarf {
        /// Offset of the unit.
        unit: u64,
        /// What the reader says.
        #[source]
        source: gimli::Error,
    },
    /// Debug information that ends too early or cannot be read.
    #[error("The DWARF unit at offset {unit:#x} of .debug_info cannot be read")]
    DwarfRead {
        /// Offset of the unit.
        unit: u64,
        /// What the operating system or the decompressor says.
        #[source]
        source: io::Error,
    },
    /// A type in another unit, as link-time optimisation and `dwz` leave them.
    #[error(
        "The DWARF unit at offset {unit:#x} of .debug_info refers to a type in another unit, which is not supported"
    )]
    DwarfForeign {
        /// Offset of the unit.
        unit: u64,
    },
    /// A member whose place is not a constant.
    #[error("The DWARF unit at offset {unit:#x} of .debug_info does not say where member {member} is")]
    DwarfMember {
        /// Offset of the unit.
        unit: u64,
        /// Name of the member.
        member: String,
    },
    /// Debug information beyond a bound.
    #[error("The DWARF unit at offset {unit:#x} of .debug_info has {what}, beyond {limit}")]
    DwarfLimit {
        /// Offset of the unit.
        unit: u64,
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}

fn tried(found: &[(Encoding, u64)]) -> String {
    let each: Vec<String> =
        found.iter().map(|(encoding, address)| format!("{encoding} puts it at {address:#x}")).collect();
    each.join(", ")
}
