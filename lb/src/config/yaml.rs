//! YAML text to a tree whose every node knows its line, column and key path.
//!
//! Invariant: a tree is as large as its text: aliases, which could make it exponential, are
//! refused, and so are tags, duplicate keys and a second document.
//! Read next: `decode.rs` (which turns nodes into typed values).

use std::mem;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::problem::{Place, Problem};

/// A place in a YAML file and what was written there.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Debug)]
pub(crate) enum Value {
    /// In the order written; no key occurs twice.
    Mapping(Vec<Entry>),
    /// Nothing, `~` or `null`.
    Null,
    /// Any other scalar, as text: what it means is for the reader of the key to say.
    Scalar(String),
    Sequence(Vec<Node>),
}

/// A key and its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Of the key; the node has that of the value.
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Node {
    /// Parses a file's text. An empty file is a null node.
    pub(crate) fn parse(file: &Arc<str>, text: &str) -> Result<Self, Problem> {
        let mut builder = Builder {
            file: Arc::clone(file),
            open: Vec::new(),
            root: None,
        };
        for event in Parser::new_from_str(text) {
            match event {
                Ok((event, span)) => builder.on_event(event, span)?,
                Err(error) => {
                    let place = builder.place(error.marker().line(), error.marker().col());
                    return Err(Problem::new(&place, format!("not YAML: {}", error.info())));
                }
            }
        }
        let empty = Self {
            place: builder.place(1, 0),
            value: Value::Null,
        };
        Ok(builder.root.unwrap_or(empty))
    }

    /// For messages: what is here.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Null => "nothing".to_owned(),
            Value::Scalar(text) => format!("\"{text}\""),
            Value::Sequence(_) => "a list".to_owned(),
        }
    }
}

/// Builds the tree from parser events, iteratively: depth costs no stack.
struct Builder {
    file: Arc<str>,
    open: Vec<Open>,
    root: Option<Node>,
}

/// A collection that has begun and not ended.
struct Open {
    place: Place,
    items: Items,
}

enum Items {
    /// `key` waits for its value; it is in the key path meanwhile.
    Mapping {
        entries: Vec<Entry>,
        key: Option<String>,
        key_at: (usize, usize),
    },
    Sequence(Vec<Node>),
}

impl Builder {
    fn on_event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let place = self.place(span.start.line(), span.start.col());
        match event {
            Event::Alias(_) => Err(Problem::new(&place, "aliases are not supported")),
            Event::Scalar(_, _, _, Some(_))
            | Event::MappingStart(_, _, Some(_))
            | Event::SequenceStart(_, _, Some(_)) => {
                Err(Problem::new(&place, "tags are not supported"))
            }
            Event::Scalar(text, style, _, None) => self.on_scalar(text.into_owned(), style, span),
            Event::MappingStart(..) => {
                let entries = Vec::new();
                self.begin(
                    place,
                    Items::Mapping {
                        entries,
                        key: None,
                        key_at: (0, 0),
                    },
                )
            }
            Event::SequenceStart(..) => self.begin(place, Items::Sequence(Vec::new())),
            Event::MappingEnd | Event::SequenceEnd => self.end(),
            _ => Ok(()),
        }
    }

    /// A key, if a mapping waits for one, or a value.
    fn on_scalar(&mut self, text: String, style: ScalarStyle, span: Span) -> Result<(), Problem> {
        let (line, column) = (span.start.line(), span.start.col());
        let place = self.place(line, column);
        if let Some(Open {
            items:
                Items::Mapping {
                    entries,
                    key: key @ None,
                    key_at,
                },
            ..
        }) = self.open.last_mut()
        {
            if entries.iter().any(|entry| entry.key == text) {
                return Err(Problem::new(
                    &place,
                    format!("the key \"{text}\" is here twice"),
                ));
            }
            *key = Some(text);
            *key_at = (line, column);
            return Ok(());
        }
        let null = style == ScalarStyle::Plain && matches!(text.as_str(), "" | "~" | "null");
        let value = if null {
            Value::Null
        } else {
            Value::Scalar(text)
        };
        self.attach(Node { place, value })
    }

    fn begin(&mut self, place: Place, items: Items) -> Result<(), Problem> {
        if let Some(Open {
            items: Items::Mapping { key: None, .. },
            ..
        }) = self.open.last()
        {
            return Err(Problem::new(&place, "a key must be a plain word"));
        }
        self.open.push(Open { place, items });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(Open { place, items }) = self.open.pop() else {
            return Ok(());
        };
        let value = match items {
            Items::Mapping { entries, .. } => Value::Mapping(entries),
            Items::Sequence(nodes) => Value::Sequence(nodes),
        };
        self.attach(Node { place, value })
    }

    fn attach(&mut self, node: Node) -> Result<(), Problem> {
        let key_place = match self.open.last().map(|open| &open.items) {
            Some(Items::Mapping {
                key_at: (line, column),
                ..
            }) => self.place(*line, *column),
            _ => node.place.clone(),
        };
        match self.open.last_mut().map(|open| &mut open.items) {
            Some(Items::Mapping { entries, key, .. }) => {
                let key = mem::take(key).unwrap_or_default();
                entries.push(Entry {
                    key,
                    place: key_place,
                    node,
                });
            }
            Some(Items::Sequence(nodes)) => nodes.push(node),
            None if self.root.is_some() => {
                return Err(Problem::new(&node.place, "a file holds one YAML document"));
            }
            None => self.root = Some(node),
        }
        Ok(())
    }

    /// The place of the event at `line` (from 1) and `column` (from 0): its key path is that of
    /// the collections open around it.
    fn place(&self, line: usize, column: usize) -> Place {
        let mut key = String::new();
        for open in &self.open {
            match &open.items {
                Items::Mapping {
                    key: Some(name), ..
                } if key.is_empty() => key.push_str(name),
                Items::Mapping {
                    key: Some(name), ..
                } => {
                    key.push('.');
                    key.push_str(name);
                }
                Items::Mapping { key: None, .. } => {}
                Items::Sequence(nodes) => key.push_str(&format!("[{}]", nodes.len())),
            }
        }
        Place::File {
            file: Arc::clone(&self.file),
            line,
            column: column + 1,
            key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Node, String> {
        Node::parse(&"t.yaml".into(), text).map_err(|problem| problem.to_string())
    }

    #[test]
    fn nodes_know_their_place() {
        let root = parse("a:\n  - b: 1\n    c: [x, y]\n").unwrap();
        let Value::Mapping(root) = root.value else {
            panic!()
        };
        let Value::Sequence(list) = &root[0].node.value else {
            panic!()
        };
        let Value::Mapping(item) = &list[0].value else {
            panic!()
        };
        assert_eq!(item[0].node.place.to_string(), "t.yaml:2:8: a[0].b");
        assert_eq!(item[1].place.to_string(), "t.yaml:3:5: a[0].c");
        let Value::Sequence(inner) = &item[1].node.value else {
            panic!()
        };
        assert_eq!(inner[1].place.to_string(), "t.yaml:3:12: a[0].c[1]");
    }

    #[test]
    fn what_could_surprise_is_refused() {
        for (text, problem) in [
            ("a: 1\na: 2\n", "t.yaml:2:1: the key \"a\" is here twice"),
            (
                "a: &x 1\nb: *x\n",
                "t.yaml:2:4: b: aliases are not supported",
            ),
            ("a: !!int 1\n", "t.yaml:1:10: a: tags are not supported"),
            (
                "a: 1\n---\nb: 2\n",
                "t.yaml:3:1: a file holds one YAML document",
            ),
            ("? [a]\n: 1\n", "t.yaml:1:3: a key must be a plain word"),
        ] {
            assert_eq!(parse(text).unwrap_err(), problem, "{text}");
        }
        assert!(parse("a: [1, 2\n").unwrap_err().starts_with("t.yaml:"));
        assert!(parse("a: b: c\n").unwrap_err().contains("not YAML"));
    }

    #[test]
    fn an_empty_file_is_null() {
        assert!(matches!(parse("").unwrap().value, Value::Null));
        assert!(matches!(parse("# nothing\n").unwrap().value, Value::Null));
    }

    #[test]
    fn depth_is_bounded() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"- ".repeat(100_000)).is_err());
    }
}
