//! YAML or JSON text to trees of values, one for each document, whose nodes know their line.
//!
//! Invariant: a tree is bounded: aliases are followed up to a number of nodes in all, and depth
//! costs no stack. What a document does wrong by itself (a key twice, a tag) does not concern
//! its neighbours; only text that cannot be parsed ends the whole stream.
//! Read next: `object.rs` (documents to objects).

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

/// Most nodes that aliases may add to a stream.
const ALIASED_NODES_MAX: usize = 100_000;

/// Deepest nesting of a document: as `serde_json` reads.
const DEPTH_MAX: usize = 127;

/// A line and a column of a text, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

impl Position {
    fn of(span: Span) -> Self {
        Self::at(span.start.line(), span.start.col())
    }

    /// `column` is from 0, as the parser counts.
    fn at(line: usize, column: usize) -> Self {
        let bounded = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            line: bounded(line),
            column: bounded(column.saturating_add(1)),
        }
    }
}

/// One document of a stream.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) root: Node,
    /// Why it is no object, whatever it holds.
    pub(super) fault: Option<Fault>,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) position: Position,
    pub(super) reason: String,
}

/// A value that knows where it was written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) data: Data,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Data {
    /// In the order written, with the position of each key.
    Mapping(Vec<(String, Position, Node)>),
    Scalar(Value),
    Sequence(Vec<Node>),
}

impl Node {
    /// What a key holds.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Data::Mapping(entries) = &self.data else {
            return None;
        };
        let found = entries.iter().find(|(name, ..)| name == key);
        found.map(|(.., node)| node)
    }

    /// A text that a key holds.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.data {
            Data::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether nothing was written here.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.data, Data::Scalar(Value::Null))
    }

    /// The items of a list.
    pub(super) fn into_items(self) -> Option<Vec<Self>> {
        match self.data {
            Data::Sequence(items) => Some(items),
            Data::Mapping(_) | Data::Scalar(_) => None,
        }
    }

    /// Takes what a key holds out of a mapping.
    pub(super) fn take(&mut self, key: &str) -> Option<Self> {
        let Data::Mapping(entries) = &mut self.data else {
            return None;
        };
        let index = entries.iter().position(|(name, ..)| name == key)?;
        Some(entries.remove(index).2)
    }

    /// The value without the positions.
    pub(super) fn value(&self) -> Value {
        match &self.data {
            Data::Mapping(entries) => {
                let entry = |(key, _, node): &(String, Position, Self)| (key.clone(), node.value());
                Value::Object(entries.iter().map(entry).collect::<Map<_, _>>())
            }
            Data::Scalar(value) => value.clone(),
            Data::Sequence(items) => items.iter().map(Self::value).collect(),
        }
    }

    /// Where the field of a path as `spec.rules[0].host` was written, or as much of the path as
    /// there is. A key with dots in it is found, too.
    pub(super) fn find(&self, path: &str) -> Position {
        self.within(path.trim_start_matches('.'))
            .unwrap_or(self.position)
    }

    /// As far as there is something of the path below this node.
    fn within(&self, path: &str) -> Option<Position> {
        match &self.data {
            Data::Mapping(entries) => entries.iter().find_map(|(key, at, node)| {
                let rest = path.strip_prefix(key.as_str())?;
                match rest.as_bytes().first() {
                    None => Some(*at),
                    Some(b'.') => Some(node.within(&rest[1..]).unwrap_or(*at)),
                    Some(b'[') => Some(node.within(rest).unwrap_or(*at)),
                    Some(_) => None,
                }
            }),
            Data::Sequence(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(index.parse::<usize>().ok()?)?;
                Some(item.find(rest))
            }
            Data::Scalar(_) => None,
        }
    }

    fn count(&self) -> usize {
        1 + match &self.data {
            Data::Mapping(entries) => entries.iter().map(|(.., node)| node.count()).sum(),
            Data::Scalar(_) => 0,
            Data::Sequence(items) => items.iter().map(Self::count).sum::<usize>(),
        }
    }
}

/// The documents of a text; those that hold nothing are left out.
pub(super) fn parse(text: &str) -> Result<Vec<Document>, Fault> {
    let mut documents = Vec::new();
    parse_each(text, |document| documents.push(document))?;
    Ok(documents)
}

/// Hands over each document of a text as soon as it is complete, so that only one tree is held.
pub(super) fn parse_each(text: &str, mut each: impl FnMut(Document)) -> Result<(), Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => {
                builder.on_event(event, span)?;
                builder.documents.drain(..).for_each(&mut each);
            }
            Err(error) => {
                return Err(Fault {
                    position: Position::at(error.marker().line(), error.marker().col()),
                    reason: format!("this is not YAML: {}", error.info()),
                });
            }
        }
    }
    Ok(())
}

/// Builds trees from parser events.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
    fault: Option<Fault>,
    documents: Vec<Document>,
}

/// A collection that has begun and not ended.
struct Open {
    position: Position,
    anchor: usize,
    items: Items,
}

enum Items {
    /// The key waits for its value.
    Mapping {
        entries: Vec<(String, Position, Node)>,
        key: Option<(String, Position)>,
    },
    Sequence(Vec<Node>),
}

impl Builder {
    fn on_event(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let position = Position::of(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if tag.is_some() {
                    self.fail(position, "tags are not supported; quotes make a text");
                }
                self.on_scalar(text.into_owned(), style, anchor, position);
            }
            Event::MappingStart(_, anchor, tag) => {
                let (entries, key) = (Vec::new(), None);
                self.begin(
                    position,
                    anchor,
                    Items::Mapping { entries, key },
                    tag.is_some(),
                )?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.begin(position, anchor, Items::Sequence(Vec::new()), tag.is_some())?;
            }
            Event::MappingEnd | Event::SequenceEnd => self.end(),
            Event::Alias(anchor) => self.on_alias(anchor, position)?,
            Event::DocumentEnd => {
                self.fault = None;
                self.anchors.clear();
            }
            _ => {}
        }
        Ok(())
    }

    /// The first fault of a document is told.
    fn fail(&mut self, position: Position, reason: impl Into<String>) {
        let reason = reason.into();
        self.fault.get_or_insert(Fault { position, reason });
    }

    /// A key, if a mapping waits for one, or a value.
    fn on_scalar(&mut self, text: String, style: ScalarStyle, anchor: usize, at: Position) {
        if let Some(Items::Mapping {
            entries,
            key: key @ None,
        }) = self.items()
        {
            let twice = text != "<<" && entries.iter().any(|(name, ..)| *name == text);
            let reason = twice.then(|| format!("the key \"{text}\" is here twice"));
            *key = Some((text, at));
            if let Some(reason) = reason {
                self.fail(at, reason);
            }
            return;
        }
        let value = match style {
            ScalarStyle::Plain => plain(text),
            _ => Value::String(text),
        };
        let data = Data::Scalar(value);
        self.close(Node { position: at, data }, anchor);
    }

    fn on_alias(&mut self, anchor: usize, position: Position) -> Result<(), Fault> {
        let found = self.anchors.get(&anchor).cloned();
        let Some(mut node) = found else {
            self.fail(position, "this alias stands for itself");
            let data = Data::Scalar(Value::Null);
            self.close(Node { position, data }, 0);
            return Ok(());
        };
        self.aliased += node.count();
        if self.aliased > ALIASED_NODES_MAX {
            let reason = format!("aliases stand for more than {ALIASED_NODES_MAX} values");
            return Err(Fault { position, reason });
        }
        node.position = position;
        self.close(node, 0);
        Ok(())
    }

    fn begin(
        &mut self,
        position: Position,
        anchor: usize,
        items: Items,
        tagged: bool,
    ) -> Result<(), Fault> {
        if tagged {
            self.fail(position, "tags are not supported");
        }
        if self.open.len() >= DEPTH_MAX {
            let reason = format!("nested deeper than {DEPTH_MAX}");
            return Err(Fault { position, reason });
        }
        if let Some(Items::Mapping { key: None, .. }) = self.items() {
            let reason = "a key must be a plain word".to_owned();
            return Err(Fault { position, reason });
        }
        self.open.push(Open {
            position,
            anchor,
            items,
        });
        Ok(())
    }

    fn end(&mut self) {
        let Some(Open {
            position,
            anchor,
            items,
        }) = self.open.pop()
        else {
            return;
        };
        let data = match items {
            Items::Mapping { entries, .. } => Data::Mapping(merged(entries)),
            Items::Sequence(nodes) => Data::Sequence(nodes),
        };
        self.close(Node { position, data }, anchor);
    }

    /// A node is complete: it goes into what is open around it, or is the document.
    fn close(&mut self, node: Node, anchor: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.items() {
            Some(Items::Mapping { entries, key }) => {
                let (key, at) = key.take().unwrap_or_default();
                entries.push((key, at, node));
            }
            Some(Items::Sequence(nodes)) => nodes.push(node),
            None => {
                let fault = self.fault.take();
                if fault.is_some() || !node.is_null() {
                    self.documents.push(Document { root: node, fault });
                }
            }
        }
    }

    fn items(&mut self) -> Option<&mut Items> {
        self.open.last_mut().map(|open| &mut open.items)
    }
}

/// Puts in place what `<<` refers to; keys of the mapping itself win.
fn merged(mut entries: Vec<(String, Position, Node)>) -> Vec<(String, Position, Node)> {
    while let Some(index) = entries.iter().position(|(key, ..)| key == "<<") {
        let (_, _, node) = entries.remove(index);
        let sources = match node.data {
            Data::Mapping(inner) => vec![inner],
            Data::Sequence(nodes) => nodes.into_iter().filter_map(mapping).collect(),
            Data::Scalar(_) => Vec::new(),
        };
        for (key, at, node) in sources.into_iter().flatten() {
            if entries.iter().all(|(name, ..)| *name != key) {
                entries.push((key, at, node));
            }
        }
    }
    entries
}

fn mapping(node: Node) -> Option<Vec<(String, Position, Node)>> {
    match node.data {
        Data::Mapping(entries) => Some(entries),
        Data::Scalar(_) | Data::Sequence(_) => None,
    }
}

/// What a scalar without quotes means (YAML 1.2 section 10.3, the core schema).
fn plain(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let begins = text.as_bytes()[0];
    if !(begins.is_ascii_digit() || matches!(begins, b'-' | b'+' | b'.')) {
        return Value::String(text);
    }
    number(&text).map_or(Value::String(text), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    if let Some(hex) = text.strip_prefix("0x") {
        return Some(u64::from_str_radix(hex, 16).ok()?.into());
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return Some(u64::from_str_radix(octal, 8).ok()?.into());
    }
    let digits = text.strip_prefix('+').unwrap_or(text);
    if let Ok(whole) = digits.parse::<i64>() {
        return Some(whole.into());
    }
    let float = digits
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'-' | b'+'));
    let value = digits.parse::<f64>().ok().filter(|_| float)?;
    Number::from_f64(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<Value> {
        let documents = parse(text).unwrap();
        documents.iter().map(|it| it.root.value()).collect()
    }

    #[test]
    fn a_stream_of_documents_in_yaml_or_json() {
        let text = "# first\na: 1\n---\n---\nb: [x, 'y', \"1\", 2.5, true, ~]\n...\n---\n{\"c\": {\"d\": -3}}\n";
        let expected: Vec<Value> = [
            r#"{"a":1}"#,
            r#"{"b":["x","y","1",2.5,true,null]}"#,
            r#"{"c":{"d":-3}}"#,
        ]
        .map(|it| serde_json::from_str(it).unwrap())
        .into();
        assert_eq!(values(text), expected);
        assert!(values("").is_empty());
        assert!(values("---\n# nothing\n---\n").is_empty());
        assert_eq!(values("\u{feff}{\"a\":\n\t1}")[0]["a"], 1, "JSON with tabs");
    }

    #[test]
    fn scalars_without_quotes() {
        let value =
            &values("a: 0x1F\nb: 1.2.3.4\nc: 10.0.0.0/8\nd: yes\ne: 1e3\ng: 08\nh: .5\n")[0];
        assert_eq!(value["a"], 31);
        assert_eq!(value["b"], "1.2.3.4");
        assert_eq!(value["c"], "10.0.0.0/8");
        assert_eq!(value["d"], "yes");
        assert_eq!(value["e"], 1000.0);
        assert_eq!(value["g"], 8);
        assert_eq!(value["h"], 0.5);
    }

    #[test]
    fn fields_are_found_again() {
        let text =
            "spec:\n  rules:\n  - host: a\n    http: {paths: [{path: /}]}\nmeta:\n  a.b/c: x\n";
        let root = &parse(text).unwrap()[0].root;
        let at = |path| {
            let found = root.find(path);
            (found.line, found.column)
        };
        assert_eq!(at("spec.rules[0].host"), (3, 5));
        assert_eq!(at("spec.rules[0].http.paths[0].path"), (4, 21));
        assert_eq!(at("spec.rules[0].missing"), (3, 5));
        assert_eq!(at("spec.missing"), (1, 1));
        assert_eq!(at("meta.a.b/c"), (6, 3));
    }

    #[test]
    fn anchors_aliases_and_merges() {
        let value = &values("a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}\n")[0];
        assert_eq!(value["b"]["p"], 1);
        assert_eq!((&value["c"]["p"], &value["c"]["q"]), (&1.into(), &3.into()));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let inner = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        let fault = parse(&bomb).unwrap_err();
        assert!(fault.reason.contains("aliases"), "{fault:?}");
    }

    #[test]
    fn a_fault_of_one_document_is_its_own() {
        let documents = parse("a: 1\na: 2\n---\nb: !!int 3\n---\nc: 4\n").unwrap();
        let faults: Vec<_> = documents
            .iter()
            .map(|it| it.fault.as_ref().map(|fault| fault.position.line))
            .collect();
        assert_eq!(faults, [Some(2), Some(4), None]);
    }

    #[test]
    fn what_cannot_be_parsed_says_where() {
        for text in ["a: [1, 2\n", "a: b: c\n", "a: *none\n", "a: \"x\n"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"- ".repeat(100_000)).is_err());
    }
}
