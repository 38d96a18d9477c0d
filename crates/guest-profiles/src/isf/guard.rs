//! Bounds on JSON before it is parsed: the length of the whole and of each string in it, and how deep it nests.
//!
//! The parser behind this keeps a string in memory until it ends, and a byte for each open bracket of what it skips. A real symbol file has 20 to 50 MB and no string of more
//! than a few hundred bytes.

use std::io::{self, ErrorKind, Read};

/// Most bytes of JSON.
const BYTES_MAX: u64 = 256 << 20;
/// Most open brackets. Real files stay below 20, and the parser follows at most 128.
const DEPTH_MAX: u32 = 128;
/// Most bytes of one string.
const STRING_MAX: usize = 64 << 10;

/// A reader that ends with an error where a bound is broken.
#[derive(Debug)]
pub(super) struct Guard<R> {
    inner: R,
    read: u64,
    most: u64,
    depth: u32,
    /// Bytes of the string that is open; `None` outside of strings.
    string: Option<usize>,
    escaped: bool,
}

impl<R> Guard<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, read: 0, most: BYTES_MAX, depth: 0, string: None, escaped: false }
    }

    fn take(&mut self, byte: u8) -> Result<(), String> {
        let Some(length) = &mut self.string else {
            match byte {
                b'"' => self.string = Some(0),
                b'[' | b'{' if self.depth >= DEPTH_MAX => return Err(format!("{DEPTH_MAX} open brackets")),
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            return Ok(());
        };
        if self.escaped {
            self.escaped = false;
        } else if byte == b'\\' {
            self.escaped = true;
        } else if byte == b'"' {
            self.string = None;
            return Ok(());
        }
        *length += 1;
        if *length > STRING_MAX {
            return Err(format!("a string of more than {STRING_MAX} bytes"));
        }
        Ok(())
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        for byte in buffer.get(..count).unwrap_or_default() {
            self.take(*byte).map_err(|what| {
                io::Error::new(ErrorKind::InvalidData, format!("{what} near byte {}", self.read))
            })?;
            self.read += 1;
        }
        if self.read > self.most {
            let text = format!("more than {} bytes of JSON", self.most);
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_bounded() {
        let mut guard = Guard { most: 1000, ..Guard::new(io::repeat(b' ')) };
        let error = guard.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "more than 1000 bytes of JSON");
    }

    #[test]
    fn brackets_and_quotes_in_strings_do_not_count() {
        let text = r#"{"a": "[[[[\"[[[[", "b": [[]]}"#.repeat(1000);
        let mut read = String::new();
        Guard::new(text.as_bytes()).read_to_string(&mut read).unwrap();
        assert_eq!(read, text);
    }
}
