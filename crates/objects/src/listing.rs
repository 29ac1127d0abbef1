//! One page of a listing: prefix, delimiter, marker, bound. It knows keys and nothing of what they
//! name, nor of the two forms in which S3 puts a page.

use std::collections::BTreeMap;
use std::ops::Bound;

/// What of a bucket is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query<'a> {
    pub(crate) prefix: &'a str,
    /// Not empty.
    pub(crate) delimiter: Option<&'a str>,
    /// Only what comes after this.
    pub(crate) after: Option<&'a str>,
    /// The most entries of a page.
    pub(crate) limit: usize,
}

/// An entry of a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry<T> {
    Item(T),
    /// Stands for every key that begins with it.
    CommonPrefix(String),
}

/// Part of a listing.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) entries: Vec<Entry<T>>,
    /// Where the next page begins: what to give as `after`. `None` on the last page.
    pub(crate) next: Option<String>,
}

/// Lists what of `items` matches, in the order of the keys' bytes.
pub(crate) fn page<T: Clone>(items: &BTreeMap<Vec<u8>, T>, query: &Query<'_>) -> Page<T> {
    let mut entries = Vec::new();
    let mut last = None;
    let mut from = start(query);
    while let Some((key, item)) = items
        .range::<[u8], _>((as_slice(&from), Bound::Unbounded))
        .next()
    {
        if !key.starts_with(query.prefix.as_bytes()) {
            break;
        }
        let common = common_prefix(key, query);
        // The marker of a page that ended in a common prefix is that prefix.
        let listed = common.is_some() && common == query.after;
        if !listed && entries.len() >= query.limit {
            let next = last.filter(|_| query.limit > 0);
            return Page { entries, next };
        }
        from = match common {
            Some(prefix) => Bound::Included(successor(prefix.as_bytes())),
            None => Bound::Excluded(key.clone()),
        };
        if listed {
            continue;
        }
        last = Some(common.map_or_else(|| text(key).to_owned(), str::to_owned));
        entries.push(match common {
            Some(prefix) => Entry::CommonPrefix(prefix.to_owned()),
            None => Entry::Item(item.clone()),
        });
    }
    Page {
        entries,
        next: None,
    }
}

fn start(query: &Query<'_>) -> Bound<Vec<u8>> {
    match query.after {
        Some(after) if after.as_bytes() >= query.prefix.as_bytes() => {
            Bound::Excluded(after.as_bytes().to_vec())
        }
        _ => Bound::Included(query.prefix.as_bytes().to_vec()),
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// The beginning of a key up to the first delimiter after the prefix.
fn common_prefix<'a>(key: &'a [u8], query: &Query<'_>) -> Option<&'a str> {
    let delimiter = query.delimiter?;
    let rest = text(key).get(query.prefix.len()..)?;
    let end = query.prefix.len() + rest.find(delimiter)? + delimiter.len();
    text(key).get(..end)
}

/// Keys go in as text, so they come out as text.
fn text(key: &[u8]) -> &str {
    std::str::from_utf8(key).unwrap_or_default()
}

/// The first sequence of bytes after all that begin with `prefix`, which is UTF-8 and so has no 0xFF.
fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    if let Some(last) = next.last_mut() {
        *last += 1;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(keys: &[&str]) -> BTreeMap<Vec<u8>, String> {
        keys.iter()
            .map(|key| (key.as_bytes().to_vec(), (*key).to_owned()))
            .collect()
    }

    fn names(page: &Page<String>) -> Vec<String> {
        page.entries
            .iter()
            .map(|entry| match entry {
                Entry::Item(key) => key.clone(),
                Entry::CommonPrefix(prefix) => format!("[{prefix}]"),
            })
            .collect()
    }

    fn all_pages(items: &BTreeMap<Vec<u8>, String>, query: &Query<'_>) -> Vec<Vec<String>> {
        let mut pages = Vec::new();
        let mut after = query.after.map(str::to_owned);
        loop {
            let found = page(
                items,
                &Query {
                    after: after.as_deref(),
                    ..query.clone()
                },
            );
            pages.push(names(&found));
            match found.next {
                Some(next) => after = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn keys_come_in_the_order_of_their_bytes() {
        let items = bucket(&["a/b", "a", "é", "a.", "~", "a/"]);
        let found = page(
            &items,
            &Query {
                limit: 10,
                ..Query::default()
            },
        );
        assert_eq!(names(&found), ["a", "a.", "a/", "a/b", "~", "é"]);
    }

    #[test]
    fn a_delimiter_rolls_keys_up_once() {
        let items = bucket(&["a", "a/1", "a/2/3", "b/", "c"]);
        let query = Query {
            delimiter: Some("/"),
            limit: 10,
            ..Query::default()
        };
        assert_eq!(names(&page(&items, &query)), ["a", "[a/]", "[b/]", "c"]);
        let query = Query {
            prefix: "a/",
            ..query
        };
        assert_eq!(names(&page(&items, &query)), ["a/1", "[a/2/]"]);
    }

    #[test]
    fn pages_of_every_size_give_every_entry_once() {
        let items = bucket(&[
            "a", "a/1", "a/2/3", "a/2/4", "b/", "b/é/x", "c", "é/1", "é/2",
        ]);
        for delimiter in [None, Some("/"), Some("2/")] {
            for prefix in ["", "a", "a/", "b", "é", "nothing"] {
                let query = Query {
                    prefix,
                    delimiter,
                    limit: 100,
                    ..Query::default()
                };
                let whole = names(&page(&items, &query));
                for limit in 1..=4 {
                    let pages = all_pages(
                        &items,
                        &Query {
                            limit,
                            ..query.clone()
                        },
                    );
                    assert_eq!(pages.concat(), whole, "{prefix:?} {delimiter:?} {limit}");
                    assert!(pages.iter().all(|page| page.len() <= limit));
                }
            }
        }
    }

    #[test]
    fn a_full_last_page_says_that_it_is_the_last() {
        let items = bucket(&["d/1", "d/2"]);
        let query = Query {
            delimiter: Some("/"),
            limit: 1,
            ..Query::default()
        };
        assert_eq!(page(&items, &query).next, None);
    }

    #[test]
    fn a_limit_of_zero_ends_at_once() {
        let found = page(&bucket(&["a"]), &Query::default());
        assert!(found.entries.is_empty());
        assert_eq!(found.next, None);
    }

    #[test]
    fn a_marker_before_the_prefix_changes_nothing() {
        let items = bucket(&["a", "p/1", "p/2"]);
        let query = Query {
            prefix: "p/",
            after: Some("b"),
            limit: 5,
            ..Query::default()
        };
        assert_eq!(names(&page(&items, &query)), ["p/1", "p/2"]);
    }
}
