//! The header of one installed package, as rpm stores it: an index of tags and the data that they point into, all big-endian
//! (<https://rpm-software-management.github.io/rpm/manual/format_header.html>).

/// Most tags of a header; a package has about a hundred.
const TAGS_MAX: usize = 0xffff;

/// Most texts of one list; the largest packages have a hundred thousand files.
const TEXTS_MAX: usize = 1_000_000;

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
/// Whole paths, in packages of old.
const OLD_FILE_NAMES: u32 = 1027;
const FILE_STATES: u32 = 1029;
const DIRECTORY_INDEXES: u32 = 1116;
const BASE_NAMES: u32 = 1117;
const DIRECTORY_NAMES: u32 = 1118;

const INT32: u32 = 4;
const STRING: u32 = 6;
const STRING_ARRAY: u32 = 8;
const INT8: [u32; 2] = [1, 2];

/// File states: in place, and in place but on a shared file system. All others are replaced by another package's, or not installed.
const IN_PLACE: [u8; 2] = [0, 3];

/// An installed package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// `[EPOCH:]VERSION-RELEASE`.
    pub version: String,
    /// Directories that its files are in.
    pub directories: Vec<String>,
    /// Its files that are in place: the number of a directory, and a name in it.
    pub files: Vec<(usize, String)>,
}

/// One entry of the index.
struct Tag<'h> {
    kind: u32,
    count: usize,
    data: &'h [u8],
}

/// Reads a header. `Err`: what is wrong with it.
pub(super) fn parse(header: &[u8]) -> Result<Installed, &'static str> {
    const CUT: &str = "has a header that is cut off";
    let (tags, rest) = split_word(header).ok_or(CUT)?;
    let (size, rest) = split_word(rest).ok_or(CUT)?;
    let tags = usize::try_from(tags).unwrap_or(usize::MAX);
    if tags > TAGS_MAX {
        return Err("has a header with more than 65535 tags");
    }
    let (index, data) = rest.split_at_checked(tags.saturating_mul(16)).ok_or(CUT)?;
    let data = data.get(..usize::try_from(size).unwrap_or(usize::MAX)).ok_or(CUT)?;
    let find = |wanted: u32| {
        index.chunks_exact(16).find_map(|entry| {
            let mut words = entry.chunks_exact(4).filter_map(|word| split_word(word).map(|(word, _)| word));
            let (tag, kind, offset, count) = (words.next()?, words.next()?, words.next()?, words.next()?);
            let data = data.get(usize::try_from(offset).ok()?..).filter(|_| tag == wanted)?;
            Some(Tag { kind, count: usize::try_from(count).ok()?, data })
        })
    };
    let text = |tag| find(tag).and_then(|tag| tag.text());
    let name = text(NAME).ok_or("has no name")?;
    let version = text(VERSION).ok_or("has no version")?;
    let release = text(RELEASE).ok_or("has no release")?;
    let version = match find(EPOCH).and_then(|tag| tag.numbers()).and_then(|numbers| numbers.first().copied())
    {
        Some(epoch) => format!("{epoch}:{version}-{release}"),
        None => format!("{version}-{release}"),
    };
    let mut package = Installed { name, version, ..Installed::default() };
    if let Some(paths) = find(OLD_FILE_NAMES) {
        for path in paths.texts().ok_or("has a list of files that is cut off")? {
            let (directory, name) = path.rsplit_once('/').ok_or("has a file without a directory")?;
            package.files.push((package.directories.len(), name.to_owned()));
            package.directories.push(format!("{directory}/"));
        }
    } else if let Some(names) = find(BASE_NAMES) {
        let list = || -> Option<_> {
            let directories = find(DIRECTORY_NAMES)?.texts()?;
            Some((names.texts()?, directories, find(DIRECTORY_INDEXES)?.numbers()?))
        };
        let (names, directories, indexes) = list().ok_or("has a list of files that is cut off")?;
        if names.len() != indexes.len() {
            return Err("has another number of files than of their directories");
        }
        package.directories = directories;
        for (name, directory) in names.into_iter().zip(indexes) {
            let directory = usize::try_from(directory).unwrap_or(usize::MAX);
            if directory >= package.directories.len() {
                return Err("has a file in a directory that it has not");
            }
            package.files.push((directory, name));
        }
    }
    if let Some(states) = find(FILE_STATES) {
        let states = states.bytes().filter(|states| states.len() == package.files.len());
        let mut states = states.ok_or("has another number of files than of their states")?.iter();
        package.files.retain(|_| states.next().is_some_and(|state| IN_PLACE.contains(state)));
    }
    Ok(package)
}

impl Tag<'_> {
    fn text(&self) -> Option<String> {
        (self.kind == STRING).then(|| until_zero(self.data).map(|(text, _)| text)).flatten()
    }

    fn texts(&self) -> Option<Vec<String>> {
        if self.kind != STRING_ARRAY || self.count > TEXTS_MAX {
            return None;
        }
        let mut texts = Vec::new();
        let mut rest = self.data;
        for _ in 0..self.count {
            let (text, after) = until_zero(rest)?;
            texts.push(text);
            rest = after;
        }
        Some(texts)
    }

    fn numbers(&self) -> Option<Vec<u32>> {
        let bytes = self.data.get(..self.count.checked_mul(4)?).filter(|_| self.kind == INT32)?;
        bytes.chunks_exact(4).map(|word| split_word(word).map(|(word, _)| word)).collect()
    }

    fn bytes(&self) -> Option<&[u8]> {
        self.data.get(..self.count).filter(|_| INT8.contains(&self.kind))
    }
}

/// A text that ends with a zero byte, and what follows; what is not UTF-8 in it is replaced.
fn until_zero(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let (text, rest) = bytes.split_at_checked(end)?;
    Some((String::from_utf8_lossy(text).into_owned(), rest.get(1..)?))
}

fn split_word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*word), rest))
}
