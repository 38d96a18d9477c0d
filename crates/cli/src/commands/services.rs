//! Ports by their names, as this host's `/etc/services` has them: `ss` takes such names, and so do filters of sockets.
//!
//! The guest's own file is the guest's word and is never asked.

use super::socket_host::integer;

const FILE: &str = "/etc/services";

/// One port: its number or its name. `key` is told in the error.
pub(super) fn port(key: &str, text: &str) -> Result<u16, String> {
    port_by(key, text, &known())
}

/// One port, or `FIRST-LAST`.
pub(super) fn ports(key: &str, text: &str) -> Result<(u16, u16), String> {
    let range =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match range {
        Some((first, last)) if first > last => Err(format!("`{text}` ends before it begins")),
        Some(range) => Ok(range),
        None => port(key, text).map(|port| (port, port)),
    }
}

fn known() -> String {
    // Without the file there are no names, and numbers do.
    std::fs::read(FILE).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn port_by(key: &str, text: &str, services: &str) -> Result<u16, String> {
    if let Some(number) = integer(text).and_then(|number| number.try_into().ok()) {
        return Ok(number);
    }
    // `name port/protocol alias…  # comment`
    let mut found = services.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let (name, port) = (words.next()?, words.next()?);
        let port: u16 = port.split_once('/')?.0.parse().ok()?;
        (name == text || words.any(|alias| alias == text)).then_some(port)
    });
    let Some(port) = found.next() else {
        return Err(format!("`{text}` is no number that `{key}` can have, and no name in {FILE}"));
    };
    match found.find(|other| *other != port) {
        Some(other) => Err(format!("`{text}` is port {port} and port {other} in {FILE}")),
        None => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::{port_by, ports};

    const SERVICES: &str = "# comment\nhttp\t80/tcp\twww # World Wide Web\nsyslog 514/udp\nshell 514/tcp cmd syslog\n\
                            odd 1/tcp\nodd 2/udp\nbroken\nlarge 70000/tcp\nhttp-alt 8080/tcp";

    #[test]
    fn a_port_is_a_number_or_a_name_that_says_one_thing() {
        for (text, number) in
            [("80", 80), ("http", 80), ("www", 80), ("syslog", 514), ("cmd", 514), ("http-alt", 8080)]
        {
            assert_eq!(port_by("sport", text, SERVICES), Ok(number), "{text}");
        }
        for (text, wrong) in [
            ("odd", "port 1 and port 2"),
            ("broken", "no name"),
            ("large", "no name"),
            ("70000", "no number"),
            ("", "no number"),
            ("#", "no number"),
            ("-1", "no number"),
        ] {
            let error = port_by("sport", text, SERVICES).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }

    #[test]
    fn a_range_is_two_numbers() {
        assert_eq!(ports("sport", "1-1024"), Ok((1, 1024)));
        assert!(ports("sport", "2-1").unwrap_err().contains("before it begins"));
        assert!(ports("sport", "1-").unwrap_err().contains("no number"));
    }
}
