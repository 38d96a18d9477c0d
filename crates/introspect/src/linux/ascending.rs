//! Addresses in ascending order, each once: what views of thousands of objects are compared by.
//!
//! To ask a table of 20,000 for each of 20,000 waits for memory each time. Two lists in the same order are gone through side by side.

use vmi_core::Gva;

/// Each once, ascending.
pub(super) fn ascending(mut all: Vec<Gva>) -> Vec<Gva> {
    // The stable one makes use of what is in order already, as several lists behind each other are.
    all.sort();
    all.dedup();
    all
}

/// The next of `all` whose `key` is `at`. All before it are left behind: who asks goes in ascending order too.
pub(super) fn next<'v, T>(all: &mut &'v [T], at: Gva, key: impl Fn(&T) -> Gva) -> Option<&'v T> {
    while let Some((first, rest)) = all.split_first() {
        if key(first) >= at {
            return Some(first).filter(|first| key(first) == at);
        }
        *all = rest;
    }
    None
}

/// What is kept for `at`, of pairs in ascending order.
pub(super) fn find<T>(all: &[(Gva, T)], at: Gva) -> Option<&T> {
    let index = all.binary_search_by_key(&at, |(of, _)| *of).ok()?;
    all.get(index).map(|(_, found)| found)
}

#[cfg(test)]
mod tests {
    use super::{ascending, find, next};
    use vmi_core::Gva;

    #[test]
    fn lists_behind_each_other_become_one_in_order_with_each_once() {
        assert_eq!(ascending([2, 5, 9, 1, 5, 7].map(Gva).to_vec()), [1, 2, 5, 7, 9].map(Gva));
    }

    #[test]
    fn a_list_that_is_gone_through_says_of_each_whether_it_has_it() {
        let all = [2, 5, 9].map(Gva);
        let mut rest = all.as_slice();
        let has = (1..11).filter(|at| next(&mut rest, Gva(*at), |of| *of).is_some());
        assert_eq!(has.collect::<Vec<_>>(), [2, 5, 9]);
    }

    #[test]
    fn what_is_kept_for_an_address_is_found_and_nothing_for_others() {
        let pairs = [(Gva(2), 'a'), (Gva(5), 'b')];
        assert_eq!((find(&pairs, Gva(5)), find(&pairs, Gva(4))), (Some(&'b'), None));
    }
}
