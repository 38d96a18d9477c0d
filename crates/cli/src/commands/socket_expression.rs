//! What a socket must be, in words: `KEY=VALUE[,VALUE]…`, of which one value is enough (`KEY!=VALUE` holds where that does not), and
//! the expressions of `ss`: `state NAME`, `exclude NAME`, `dport = :443`, `sport >= 1024`, `src 10.0.0.0/8`, `dst [::1]:22`,
//! `dev eth0`, `cgroup /x`, `fwmark = 0x1/0xff`, `autobound`, put together with `and` (which may be left out), `or`, `not` and parentheses.
//!
//! What they mean is what ss(8) of iproute2 says, and what `ss` does (`socket_filter_as_ss` runs both), but where `ss` 6.1 does
//! something else than its manual says:
//!
//! - By its manual `and` binds closer than `or`, and so it is here; `ss` takes both from left to right (`ssfilter.y`).
//! - `not dst 0.0.0.0` is whatever is not that. `ss` compares addresses once more after the kernel did, there as bits without a
//!   family (`inet2_addr_match`): for it `::` is in it too, and all of IPv6 is in `0.0.0.0/0`.
//! - `not autobound` is whatever is not that. `ss` asks two questions, the kernel whether somebody asked for the port and itself whether it is
//!   one that the kernel gives, and for `not` both must be answered with no.
//! - A port is one of IP, vsock, netlink or a packet socket. `ss` takes numbers of inodes for those of unix sockets, and without a
//!   family all of them for one another.
//!
//! What it refuses is refused, except for what can have one meaning only: `src != …`, `(sport=:22)` without spaces, `state`
//! behind other words.

use super::socket_filter::{Names, Test};
use super::socket_host::{Families, host};
use facts::{Family, Socket};
use std::iter::Peekable;
use std::vec::IntoIter;

/// How deep parentheses and `not` may be in each other.
const DEPTH_MAX: usize = 64;
/// Of TCP's states those in which there is a peer, as `ss` has it; the first is not synchronized, the last two are short.
const CONNECTED: [&str; 9] = [
    "syn-sent",
    "established",
    "fin-wait-1",
    "fin-wait-2",
    "close-wait",
    "last-ack",
    "closing",
    "time-wait",
    "syn-recv",
];

/// One condition or several.
#[derive(Clone, Debug)]
pub(crate) enum Expression {
    Test(Test),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

impl Expression {
    /// What the arguments say; without any, everything holds. `family` is that of addresses that name none.
    pub(crate) fn parse(words: &[String], family: Option<Family>) -> Result<Self, String> {
        let mut tokens = Vec::new();
        for word in words {
            if is_pair(word) && word.matches('(').count() == word.matches(')').count() {
                tokens.push(word.clone());
            } else {
                tokenise(word, &mut tokens);
            }
        }
        if tokens.is_empty() {
            return Ok(Self::All(Vec::new()));
        }
        let families = Families::starting_with(family);
        let mut parser = Parser { tokens: tokens.into_iter().peekable(), families };
        let parsed = parser.any(0)?;
        if let Some(left) = parser.tokens.next() {
            return Err(format!("`{left}` closes nothing"));
        }
        Ok(match parser.families.restriction() {
            None => parsed,
            Some(restriction) => Self::All(vec![restriction, parsed]),
        })
    }

    pub(crate) fn holds(&self, socket: &Socket, names: &Names) -> bool {
        match self {
            Self::Test(test) => test.holds(socket, names),
            Self::Not(inner) => !inner.holds(socket, names),
            Self::All(all) => all.iter().all(|one| one.holds(socket, names)),
            Self::Any(any) => any.iter().any(|one| one.holds(socket, names)),
        }
    }
}

/// Whether an argument is `KEY=VALUE` as a whole, whose value may have spaces and parentheses in it.
fn is_pair(word: &str) -> bool {
    let Some((key, value)) = word.split_once('=') else { return false };
    let key = key.strip_suffix('!').unwrap_or(key);
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase()) && !value.starts_with([' ', '='])
}

/// Whether the arguments begin with states, which for `ss` say more than options such as `-l` do.
pub(super) fn begins_with_states(words: &[String]) -> bool {
    let first = words.first().and_then(|word| word.split_whitespace().next());
    first.is_some_and(|word| STATES.contains(&word))
}

const STATES: [&str; 3] = ["state", "exclude", "excl"];
/// What is followed by a comparison.
const KEYS: [&str; 7] = ["sport", "dport", "src", "dst", "dev", "cgroup", "fwmark"];
/// What comparisons, and words between others, are made of.
const OPERATORS: &str = "=!<>|&";

/// Cuts an argument at spaces, and around parentheses and comparisons where they can be nothing else. Behind a `\\` a character
/// is like any other.
fn tokenise(word: &str, tokens: &mut Vec<String>) {
    let mut escaped = false;
    let spaces = |character: char| {
        let is_space = character.is_whitespace() && !escaped;
        escaped = character == '\\' && !escaped;
        is_space
    };
    for part in word.split(spaces).filter(|part| !part.is_empty()) {
        cut(part, tokens);
    }
}

fn cut(part: &str, tokens: &mut Vec<String>) {
    let mut rest = part;
    // `(`, `!`, `>=` and so on before a word.
    loop {
        let length = match rest.find(|character| !OPERATORS.contains(character)) {
            _ if rest.starts_with('(') => 1,
            // `!(`, `!sport`
            Some(length) => length,
            None => rest.len(),
        };
        if length == 0 {
            break;
        }
        let (operator, behind) = rest.split_at(length);
        tokens.push(operator.to_owned());
        rest = behind;
    }
    // `)` that closes nothing in the word itself.
    let mut closing = 0;
    while rest.ends_with(')') && rest.matches(')').count() > rest.matches('(').count() {
        rest = rest.strip_suffix(')').unwrap_or(rest);
        closing += 1;
    }
    let key = KEYS.iter().find_map(|key| Some((key, rest.strip_prefix(key)?)));
    match key {
        // Keys with their comparison: `sport>=:443`. `sport=:443` is a pair.
        Some((key, behind)) if behind.starts_with(|first| OPERATORS.contains(first)) && !is_pair(rest) => {
            tokens.push((*key).to_owned());
            cut(behind, tokens);
        }
        _ if is_pair(rest) => tokens.push(rest.to_owned()),
        _ if rest.is_empty() => {}
        _ => tokens.push(unescaped(rest)),
    }
    tokens.extend(std::iter::repeat_n(")".to_owned(), closing));
}

fn unescaped(word: &str) -> String {
    let mut characters = word.chars();
    std::iter::from_fn(|| match characters.next()? {
        '\\' => characters.next(),
        other => Some(other),
    })
    .collect()
}

struct Parser {
    tokens: Peekable<IntoIter<String>>,
    families: Families,
}

impl Parser {
    fn takes(&mut self, words: &[&str]) -> bool {
        self.tokens.next_if(|token| words.contains(&token.as_str())).is_some()
    }

    fn any(&mut self, depth: usize) -> Result<Expression, String> {
        let mut parts = vec![self.all(depth)?];
        while self.takes(&["or", "|", "||"]) {
            parts.push(self.all(depth)?);
        }
        Ok(Expression::Any(parts))
    }

    fn all(&mut self, depth: usize) -> Result<Expression, String> {
        let mut parts = vec![self.one(depth)?];
        loop {
            let goes_on = self.takes(&["and", "&", "&&"]);
            let ends = |token: &String| matches!(token.as_str(), ")" | "or" | "|" | "||");
            if !goes_on && self.tokens.peek().is_none_or(ends) {
                return Ok(Expression::All(parts));
            }
            parts.push(self.one(depth)?);
        }
    }

    fn one(&mut self, depth: usize) -> Result<Expression, String> {
        if depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} parentheses are open"));
        }
        if self.takes(&["not", "!"]) {
            return Ok(Expression::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.takes(&["("]) {
            let inner = self.any(depth + 1)?;
            return if self.takes(&[")"]) { Ok(inner) } else { Err("a `(` is not closed".to_owned()) };
        }
        let word = self.tokens.next().ok_or("the filter ends where something must follow")?;
        match word.as_str() {
            "state" | "exclude" | "excl" => self.states(word),
            "sport" | "dport" | "src" | "dst" => {
                let operator = self.tokens.next_if(|token| comparison(token).is_some());
                let operator = operator.as_deref().and_then(comparison).unwrap_or(Comparison::Equal);
                let value = self.value(&word)?;
                host(&word, operator, &value, &mut self.families)
            }
            "dev" | "cgroup" | "fwmark" => {
                let operator = self.tokens.next_if(|token| comparison(token).is_some());
                let operator = operator.as_deref().and_then(comparison).unwrap_or(Comparison::Equal);
                let test = Expression::Test(Test::parse(&word, &self.value(&word)?)?);
                match operator {
                    Comparison::Equal => Ok(test),
                    Comparison::Unequal => Ok(Expression::Not(Box::new(test))),
                    _ => Err(format!("`{word}` is equal or not, and never more or less")),
                }
            }
            "autobound" => Ok(Expression::Test(Test::Autobound)),
            _ if is_pair(&word) => pair(&word),
            _ => Err(format!(
                "there is no filter `{word}`; one is KEY=VALUE such as state=listen, or what `ss` takes such as dport = :443"
            )),
        }
    }

    /// One state or several in a row, which add up: the first says what there is, each further `state` more and each `exclude` less.
    fn states(&mut self, mut word: String) -> Result<Expression, String> {
        let mut chosen = None;
        loop {
            let states = states(&self.value(&word)?)?;
            chosen = Some(match (chosen, word == "state") {
                (None, true) => states,
                (None, false) => Expression::Not(Box::new(states)),
                (Some(before), true) => Expression::Any(vec![before, states]),
                (Some(before), false) => Expression::All(vec![before, Expression::Not(Box::new(states))]),
            });
            match self.tokens.next_if(|token| STATES.contains(&token.as_str())) {
                Some(next) => word = next,
                None => return chosen.ok_or_else(|| format!("`{word}` has no value")),
            }
        }
    }

    fn value(&mut self, key: &str) -> Result<String, String> {
        self.tokens.next().ok_or_else(|| format!("`{key}` has no value"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

fn comparison(token: &str) -> Option<Comparison> {
    Some(match token {
        "=" | "==" | "eq" => Comparison::Equal,
        "!=" | "ne" | "neq" => Comparison::Unequal,
        "<" | "lt" => Comparison::Less,
        "<=" | "le" | "leq" => Comparison::LessOrEqual,
        ">" | "gt" => Comparison::Greater,
        ">=" | "ge" | "geq" => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

/// `KEY=VALUE[,VALUE]…` or `KEY!=…`.
fn pair(word: &str) -> Result<Expression, String> {
    let (key, values) = word.split_once('=').unwrap_or((word, ""));
    let (key, negated) = key.strip_suffix('!').map_or((key, false), |key| (key, true));
    let is_port = matches!(key, "port" | "sport" | "dport");
    let test = |value: &str| {
        let value = if is_port { value.strip_prefix(':').unwrap_or(value) } else { value };
        Test::parse(key, value).map(Expression::Test)
    };
    let any = Expression::Any(values.split(',').map(test).collect::<Result<_, _>>()?);
    Ok(if negated { Expression::Not(Box::new(any)) } else { any })
}

/// The states that `ss` calls so; ours are words for it too.
fn states(name: &str) -> Result<Expression, String> {
    let connected = CONNECTED.as_slice();
    let name = name.to_ascii_lowercase();
    let states: &[&str] = match name.as_str() {
        "all" => return Ok(Expression::All(Vec::new())),
        "listening" => &["listen"],
        "syn-rcv" => &["syn-recv"],
        // `ss` has one word for both.
        "closed" | "close" | "unconnected" => &["close", "unconnected"],
        "connected" => connected,
        "synchronized" => &connected[1..],
        "bucket" => &connected[7..],
        "big" => &[
            "established",
            "syn-sent",
            "fin-wait-1",
            "fin-wait-2",
            "close",
            "unconnected",
            "close-wait",
            "last-ack",
            "listen",
            "closing",
        ],
        other => &[other],
    };
    let test = |state: &&str| Test::parse("state", state).map(Expression::Test);
    Ok(Expression::Any(states.iter().map(test).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::Expression;
    use std::collections::BTreeMap;

    fn holds(words: &[&str], state: &str) -> bool {
        let socket = serde_json::from_value(serde_json::json!({
            "family": "inet", "protocol_family": 2, "type": "stream", "protocol": "tcp", "state": state,
            "local_address": "10.0.2.15", "local_port": 443, "remote_address": "192.168.7.9", "remote_port": 50000,
            "path": null, "inode": 4711, "net_namespace": 1, "uid": 33, "processes": [7], "views": [],
            "sock": "0xffff888000000000",
        }));
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Expression::parse(&words, None).unwrap().holds(&socket.unwrap(), &BTreeMap::new())
    }

    #[test]
    fn what_ss_takes_is_taken_in_one_argument_and_in_several() {
        for yes in [
            "sport = :443",
            "sport = 443",
            "sport=:443",
            "( sport = :443 or sport = :22 )",
            "(sport=:443 or sport=:22)",
            "( dport = :22 or sport = :443 ) and not dst 10.0.0.0/8",
            "sport == :443 && dport gt :49999",
            "dport > :49999",
            "dport >= 50000 and dport le :50000",
            "sport != :22",
            "sport ne :22",
            "src 10.0.0.0/8",
            "src = 10.0.2.15:443",
            "src 10.0.2.15:443 dst 192.168.7.9:50000",
            "src != 10.1.0.0/16",
            "dst *:50000",
            "dst :50000",
            "not ( sport = :22 | sport = :80 )",
            "! sport = :22",
            "state established",
            "state connected sport = :443",
            "state synchronized",
            "state big",
            "state all",
            "exclude listening",
            "state established or state=listen and sport=1",
            "sport = :400-500",
            "((sport=443))",
            "(sport>=:443)",
        ] {
            assert!(holds(&[yes], "established"), "{yes}");
            assert!(holds(&yes.split(' ').collect::<Vec<_>>(), "established"), "{yes}, in several");
            assert!(!holds(&["not", "(", yes, ")"], "established"), "not {yes}");
        }
        for no in [
            "state bucket",
            "state listening",
            "exclude established",
            "dport < :50000",
            "dport > :50000",
            "sport lt 443",
        ] {
            assert!(!holds(&[no], "established"), "{no}");
        }
        assert!(holds(&["state closed"], "unconnected") && holds(&["state unconnected"], "close"));
        assert!(holds(&["state bucket"], "time-wait") && !holds(&["state synchronized"], "syn-sent"));
        assert!(holds(&[], "established"));
    }

    #[test]
    fn states_in_a_row_add_up_as_with_ss() {
        for (words, states) in [
            ("state established state listening", ["established", "listen"].as_slice()),
            ("state listening state connected exclude time-wait", &["established", "listen", "syn-sent"]),
            ("exclude bucket state time-wait", &["established", "listen", "syn-sent", "time-wait"]),
            ("exclude established excl listening", &["syn-sent", "time-wait"]),
            ("state ESTABLISHED", &["established"]),
            ("state established state listening sport = :443", &["established", "listen"]),
            ("state established state listening sport = :444", &[]),
            ("state established and state listening", &[]),
        ] {
            for state in ["established", "listen", "syn-sent", "time-wait"] {
                assert_eq!(holds(&[words], state), states.contains(&state), "{words}: {state}");
            }
        }
        assert!(holds(&["state syn-rcv"], "syn-recv"));
    }

    #[test]
    fn and_binds_closer_than_or() {
        assert!(holds(&["sport = :443 or sport = :80 and dport = :1"], "listen"));
        assert!(!holds(&["( sport = :443 or sport = :80 ) and dport = :1"], "listen"));
    }

    fn holds_of(word: &str, change: &serde_json::Value) -> bool {
        let mut socket = serde_json::json!({
            "family": "inet", "protocol_family": 2, "type": "stream", "protocol": "tcp", "state": "listen",
            "local_address": "0.0.0.0", "local_port": 22, "remote_address": null, "remote_port": null, "path": null,
            "inode": 1, "net_namespace": 1, "uid": 0, "processes": [], "views": [], "sock": "0xffff888000000000",
            "interface": {"index": 2, "name": "eth0"}, "cgroup": "/system.slice/ssh.service",
        });
        for (key, value) in change.as_object().unwrap() {
            socket[key] = value.clone();
        }
        let socket = serde_json::from_value(socket).unwrap();
        Expression::parse(&[word.to_owned()], None).unwrap().holds(&socket, &BTreeMap::new())
    }

    #[test]
    fn interfaces_and_control_groups_are_told_as_with_ss() {
        let same = serde_json::json!({});
        for yes in [
            "dev eth0",
            "dev = eth0",
            "dev 2",
            "dev != lo",
            "dev=eth0",
            "cgroup /system.slice/ssh.service",
            "cgroup = /sys/fs/cgroup/system.slice/ssh.service",
            "cgroup=/system.slice/*",
            "cgroup != /",
        ] {
            assert!(holds_of(yes, &same), "{yes}");
        }
        for no in ["dev lo", "dev 3", "dev != eth0", "cgroup /system.slice", "cgroup /sys/fs/cgroup"] {
            assert!(!holds_of(no, &same), "{no}");
        }
        let nothing = serde_json::json!({"interface": null, "cgroup": null});
        assert!(!holds_of("dev eth0", &nothing) && holds_of("dev != eth0", &nothing));
    }

    #[test]
    fn marks_and_ports_that_the_kernel_chose_are_told_as_with_ss() {
        let marked = serde_json::json!({"mark": 0x8000_0117_u32, "autobound": true});
        for yes in [
            "fwmark = 0x80000117",
            "fwmark 2147483927",
            "fwmark = 0x17/0xff",
            "fwmark = 0x100/0x100",
            "fwmark != 0",
            "not fwmark = 1/0xff",
            "fwmark=0x17/0xff,1",
            "fwmark=020000000427",
            "autobound",
            "autobound and sport = :22",
            "( autobound )",
        ] {
            assert!(holds_of(yes, &marked), "{yes}");
        }
        // The mark itself is not cut to the bits that count.
        for no in ["fwmark = 0x117/0xff", "fwmark = 0", "not autobound", "fwmark != 0x80000117"] {
            assert!(!holds_of(no, &marked), "{no}");
        }
        let same = serde_json::json!({});
        assert!(holds_of("fwmark = 0 and not autobound", &same) && !holds_of("autobound", &same));
        for (yes, socket) in [
            (true, serde_json::json!({"family": "unix", "path": "@0001f"})),
            (true, serde_json::json!({"family": "unix", "path": null})),
            (false, serde_json::json!({"family": "unix", "path": "@0001g"})),
            (false, serde_json::json!({"family": "unix", "path": "@00001f"})),
            (true, serde_json::json!({"family": "packet", "protocol": "0x0000", "interface": null})),
            (false, serde_json::json!({"family": "packet", "protocol": "0x0000"})),
            (
                true,
                serde_json::json!({"family": "netlink", "netlink": {"port": 4_294_963_200_u32, "groups": []}}),
            ),
            (false, serde_json::json!({"family": "netlink", "netlink": {"port": 1, "groups": []}})),
            (true, serde_json::json!({"family": "vsock", "vsock_local": {"cid": 3, "port": 1024}})),
            (false, serde_json::json!({"family": "vsock", "vsock_local": {"cid": 3, "port": u32::MAX}})),
        ] {
            assert_eq!(holds_of("autobound", &socket), yes, "{socket}");
        }
    }

    #[test]
    fn who_has_no_peer_has_nobody_at_port_0_as_its_peer_as_with_ss() {
        let same = serde_json::json!({});
        for yes in ["dport = :0", "dport < :5000", "dst 0.0.0.0", "dst 0.0.0.0/0", "not dst 10.0.0.0/8"] {
            assert!(holds_of(yes, &same), "{yes}");
        }
        assert!(!holds_of("dport > :0", &same) && !holds_of("dst ::", &same));
        let v6 = serde_json::json!({"family": "inet6", "local_address": "::"});
        assert!(holds_of("dst ::", &v6) && !holds_of("dst 0.0.0.0/0", &v6));
        let unix = serde_json::json!({"family": "unix", "path": "/run/Docker.sock", "local_port": null});
        assert!(!holds_of("dport < :5000", &unix) && holds_of("not dport < :5000", &unix));
    }

    #[test]
    fn an_address_may_say_its_family() {
        let same = serde_json::json!({});
        for yes in ["src inet:0.0.0.0", "src inet:*:22", "sport = inet::22", "src != inet:*:23"] {
            assert!(holds_of(yes, &same), "{yes}");
        }
        // A family that is named is one that a socket must be of.
        for no in ["src inet6:*:22", "src != inet6:*", "not src inet6:*:22", "src unix:*"] {
            assert!(!holds_of(no, &same), "{no}");
        }
        // And it is that of further addresses.
        assert!(Expression::parse(&["src inet:10.0.0.1 or src [::1]".to_owned()], None).is_err());
        assert!(holds_of("src inet6:[::1] or src inet:0.0.0.0", &same));
        let unix = serde_json::json!({"family": "unix", "path": "/run/Docker.sock", "local_port": null});
        for yes in [
            "src unix:/run/*",
            "src unix:/run/docker.sock",
            "src unix:*",
            "src unix:*SOCK",
            "src unix:/a or src /run/[a-d]*",
        ] {
            assert!(holds_of(yes, &unix), "{yes}");
        }
        assert!(!holds_of("src unix:/run", &unix) && !holds_of("src unix:@*", &unix));
        let vsock = serde_json::json!({
            "family": "vsock", "local_address": null, "local_port": null, "vsock_local": {"cid": 3, "port": 22},
        });
        for yes in ["src vsock:3:22", "src vsock:*:22", "src vsock:3", "src vsock:3:*"] {
            assert!(holds_of(yes, &vsock), "{yes}");
        }
        assert!(!holds_of("src vsock:2:22", &vsock) && !holds_of("dst vsock:*", &vsock));
    }

    #[test]
    fn an_address_of_ipv6_has_its_port_behind_brackets() {
        let socket = serde_json::from_value(serde_json::json!({
            "family": "inet6", "protocol_family": 10, "type": "stream", "protocol": "tcp", "state": "listen",
            "local_address": "fe80::1", "local_port": 22, "remote_address": "::", "remote_port": 0, "path": null,
            "inode": 1, "net_namespace": 1, "uid": 0, "processes": [], "views": [], "sock": "0xffff888000000000",
        }));
        let socket = socket.unwrap();
        let holds = |word: &str| {
            Expression::parse(&[word.to_owned()], None).unwrap().holds(&socket, &BTreeMap::new())
        };
        assert!(
            holds("src [fe80::1]:22")
                && holds("src [fe80::1]")
                && holds("src fe80::/10")
                && holds("src [fe80::]/10")
                && holds("src [fe80::/10]:22")
                && !holds("src [fe80::/10]:23")
                && holds("src fe80::1")
        );
        assert!(!holds("src [fe80::1]:23") && !holds("src [fe80::2]:22") && !holds("src 10.0.0.0/8"));
    }

    #[test]
    fn what_is_no_expression_is_refused_with_what_is_wrong() {
        for (text, wrong) in [
            ("sport", "has no value"),
            ("sport =", "has no value"),
            ("( sport = :22", "not closed"),
            ("sport = :22 )", "closes nothing"),
            ("sport = :22 or", "ends where"),
            ("not", "ends where"),
            ("established", "no filter `established`"),
            ("state up", "no state `up`"),
            ("src > 10.0.0.1", "never more or less"),
            ("src [::1", "is not closed"),
            ("src 80", "neither an address"),
            ("src 2001:db8::1:2", "`[2001:db8::1:2]` or `[2001:db8::1]:2`"),
            ("src inet6:10.0.0.1", "no address of IPv6"),
            ("src 10.0.0.0/255.0.255.0", "neither an address"),
            ("src netlink:rtnl:x", "no port of netlink"),
            ("src link:x", "no protocol of Ethernet"),
            ("dst netlink:rtnl", "`dst` is not"),
            ("dport = :no-such-service", "no name in /etc/services"),
            ("sport > :no-such-service", "no name in /etc/services"),
            ("dev > lo", "never more or less"),
            ("dev", "has no value"),
            ("state established state", "has no value"),
            ("fwmark", "has no value"),
            ("fwmark = x", "neither a mark"),
            ("fwmark = 1/", "neither a mark"),
            ("fwmark > 1", "never more or less"),
            ("autobound = 1", "no filter `=`"),
            ("src unix:[[:alpha:]]", "classes"),
            ("dst unix:/run/a", "`dst` is not"),
            ("src netlink:x", "no protocol of netlink"),
            ("src vsock:x", "no number of vsock"),
            ("src > inet:10.0.0.1", "never more or less"),
            ("src localhost", "neither an address"),
        ] {
            let error = Expression::parse(&[text.to_owned()], None).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
        let deep = "(".repeat(100_000);
        assert!(Expression::parse(&[deep], None).unwrap_err().contains("parentheses"));
    }
}
