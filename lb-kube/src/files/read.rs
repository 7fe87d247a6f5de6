//! The text of one file to objects.
//!
//! Invariant: each document, and each item of a List, is an object, a report or passed over by
//! name: none is lost.
//! Read next: `document.rs` (text to values), `old.rs` (versions of long ago), `../decode.rs`.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::document::{Data, Document, Fault, Node, Position, parse_each};
use super::old;
use super::report::Report;
use crate::decode::{Decoded, Malformed};
use crate::object::{Kind, Object, ObjectRef, Origin};
use crate::problem::Severity;

/// Largest object in bytes, as the API server takes it.
pub const OBJECT_BYTES_MAX: usize = 3 << 20;

/// The kinds whose objects are kept when they cannot be read.
const KINDS: [Kind; 10] = [
    Kind::ConfigMap,
    Kind::Endpoints,
    Kind::EndpointSlice,
    Kind::Ingress,
    Kind::IngressClass,
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::Secret,
    Kind::Service,
];

/// What a file holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Objects, in the order written.
    pub objects: Vec<Found>,
    /// Objects that cannot be read: what they were before goes on.
    pub kept: Vec<ObjectRef>,
    /// Objects of kinds that configure nothing here.
    pub passed_over: Vec<PassedOver>,
    /// What is wrong.
    pub reports: Vec<Report>,
}

/// An object and where it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// It.
    pub object: Object,
    /// Where.
    pub origin: Origin,
}

/// An object of a kind that configures nothing here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PassedOver {
    /// As `apps/v1`.
    pub api_version: String,
    /// As `Deployment`.
    pub kind: String,
    /// As `shop/web`.
    pub name: String,
    /// Where it was found.
    pub origin: Origin,
}

/// Reads a file's text; `file` is its name in reports.
///
/// # Errors
/// Text that is neither YAML nor JSON: then nothing in it can be relied on.
pub fn read(file: &Arc<str>, text: &str) -> Result<Contents, Box<Report>> {
    let mut reader = Reader {
        file,
        document: 0,
        contents: Contents::default(),
    };
    let parsed = parse_each(text, |Document { root, fault }| {
        reader.document += 1;
        match fault {
            Some(fault) => reader.faulty(&root, fault),
            None => reader.node(root, None),
        }
    });
    parsed.map_err(|fault| {
        let reason = format!("{}; what it held before goes on", fault.reason);
        Box::new(Report {
            position: Some(fault.position),
            ..Report::of_file(file, reason)
        })
    })?;
    Ok(reader.contents)
}

struct Reader<'f> {
    file: &'f Arc<str>,
    document: u32,
    contents: Contents,
}

impl Reader<'_> {
    /// One document, or one item of a List; `inherited` is what the List says its items are.
    fn node(&mut self, mut node: Node, inherited: Option<(&str, &str)>) {
        let position = node.position;
        let kind = node.text("kind").map(str::to_owned);
        if let Some(kind) = kind.filter(|kind| kind.ends_with("List"))
            && node.get("items").is_some()
        {
            return self.list(&mut node, &kind);
        }
        if weight(&node) > OBJECT_BYTES_MAX {
            let reason = format!("larger than {} MiB", OBJECT_BYTES_MAX >> 20);
            let object = object_of(&node);
            return self.refuse(position, object, String::new(), reason);
        }
        let mut value = node.value();
        if let (Some((api_version, kind)), Value::Object(map)) = (inherited, &mut value) {
            map.entry("apiVersion")
                .or_insert_with(|| api_version.into());
            map.entry("kind").or_insert_with(|| kind.into());
        }
        let upgraded = old::upgrade(&mut value);
        match Decoded::from_value(value) {
            Ok(Decoded::Object(object)) => self.found(object, position, upgraded),
            Ok(Decoded::Other {
                api_version,
                kind,
                name,
            }) => {
                let origin = self.origin(position);
                self.contents.passed_over.push(PassedOver {
                    api_version,
                    kind,
                    name,
                    origin,
                });
            }
            Err(Malformed {
                object,
                field,
                reason,
            }) => self.refuse(node.find(&field), object, field, reason),
        }
    }

    fn found(&mut self, object: Object, position: Position, upgraded: Option<String>) {
        if let Some(reason) = upgraded.or_else(|| deprecated(&object)) {
            let reference = object.reference();
            let mut report = self.report(position, Some(reference), String::new(), reason);
            report.severity = Severity::Warning;
            self.contents.reports.push(report);
        }
        let origin = self.origin(position);
        self.contents.objects.push(Found { object, origin });
    }

    fn list(&mut self, node: &mut Node, kind: &str) {
        let api_version = node.text("apiVersion").unwrap_or_default().to_owned();
        let items = node.take("items");
        let is_null = items.as_ref().is_some_and(Node::is_null);
        let Some(items) = items.and_then(Node::into_items) else {
            if !is_null {
                let reason = "a List has a list of objects here".to_owned();
                self.refuse(node.position, None, "items".to_owned(), reason);
            }
            return;
        };
        let of_one_kind = Some(kind.trim_end_matches("List")).filter(|kind| !kind.is_empty());
        for item in items {
            self.node(item, of_one_kind.map(|kind| (&*api_version, kind)));
        }
    }

    /// A document that is odd in itself.
    fn faulty(&mut self, root: &Node, fault: Fault) {
        let object = object_of(root);
        self.refuse(fault.position, object, String::new(), fault.reason);
    }

    fn refuse(
        &mut self,
        position: Position,
        object: Option<ObjectRef>,
        field: String,
        reason: String,
    ) {
        let report = self.report(position, object.clone(), field, reason);
        self.contents.reports.push(report);
        self.contents.kept.extend(object);
    }

    fn report(
        &self,
        position: Position,
        object: Option<ObjectRef>,
        field: String,
        reason: String,
    ) -> Report {
        Report {
            document: self.document,
            position: Some(position),
            object,
            field,
            ..Report::of_file(self.file, reason)
        }
    }

    fn origin(&self, position: Position) -> Origin {
        Origin {
            file: Arc::clone(self.file),
            document: self.document,
            line: position.line,
        }
    }
}

/// What is said of a kind that others have taken the place of.
fn deprecated(object: &Object) -> Option<String> {
    matches!(object, Object::Endpoints(_)).then(|| {
        "Endpoints are deprecated since Kubernetes 1.33; EndpointSlices take their place".to_owned()
    })
}

/// Bytes of text in a node.
fn weight(node: &Node) -> usize {
    match &node.data {
        Data::Mapping(entries) => entries
            .iter()
            .map(|(key, _, node)| key.len() + weight(node))
            .sum(),
        Data::Scalar(Value::String(text)) => text.len(),
        Data::Scalar(_) => 4,
        Data::Sequence(items) => items.iter().map(weight).sum(),
    }
}

/// The object that a node says it is, if it is one of our kinds, whatever else it holds.
fn object_of(node: &Node) -> Option<ObjectRef> {
    let mut kinds = KINDS.into_iter();
    let kind = kinds.find(|kind| Some(kind.name()) == node.text("kind"))?;
    let written = node.get("metadata")?;
    let metadata = ObjectMeta {
        name: Some(written.text("name")?.to_owned()),
        namespace: written.text("namespace").map(str::to_owned),
        ..ObjectMeta::default()
    };
    Some(ObjectRef::of(kind, &metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Contents {
        read(&"a/b.yaml".into(), text).unwrap()
    }

    fn reports(contents: &Contents) -> Vec<String> {
        contents.reports.iter().map(Report::to_string).collect()
    }

    #[test]
    fn documents_and_lists_are_objects() {
        let contents = read_text(
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\napiVersion: v1\nkind: List\n\
             items:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: b, namespace: n}\n- \
             {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}\n---\n{\"apiVersion\": \
             \"v1\", \"kind\": \"SecretList\", \"items\": [{\"metadata\": {\"name\": \"s\"}}]}\n",
        );
        assert!(contents.reports.is_empty(), "{:?}", reports(&contents));
        let names: Vec<_> = contents
            .objects
            .iter()
            .map(|it| {
                format!(
                    "{} {} {}",
                    it.object.reference(),
                    it.origin.document,
                    it.origin.line
                )
            })
            .collect();
        assert_eq!(
            names,
            [
                "Service default/a 1 1",
                "Service n/b 2 8",
                "Secret default/s 3 13"
            ]
        );
        assert_eq!(contents.passed_over[0].kind, "Deployment");
        assert_eq!(contents.passed_over[0].origin.line, 11);
    }

    #[test]
    fn a_bad_object_affects_itself_only() {
        let contents = read_text(
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: x\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {}\nspec: {}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: c}\n---\nhello\n",
        );
        assert_eq!(contents.objects.len(), 1);
        let kept: Vec<_> = contents.kept.iter().map(ToString::to_string).collect();
        assert_eq!(kept, ["Service default/a", "Service default/b"]);
        let reports = reports(&contents);
        assert!(
            reports[0].starts_with("a/b.yaml:6:5: Service default/a: spec.ports[0].port: "),
            "{reports:?}"
        );
        assert_eq!(
            reports[1],
            "a/b.yaml:12:1: Service default/b: the key \"spec\" is here twice"
        );
        assert!(
            reports[2].starts_with("a/b.yaml:18:1: kind: "),
            "{reports:?}"
        );
        assert_eq!(contents.reports[2].document, 4);
    }

    #[test]
    fn a_huge_object_is_refused_and_its_neighbour_is_read() {
        let data = "A".repeat(OBJECT_BYTES_MAX);
        let text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: big}}\ndata: {{x: {data}}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\n"
        );
        let contents = read_text(&text);
        assert_eq!(contents.objects.len(), 1);
        assert_eq!(
            reports(&contents),
            ["a/b.yaml:1:1: Secret default/big: larger than 3 MiB"]
        );
    }

    #[test]
    fn text_that_is_no_yaml_is_an_error_of_the_file() {
        let report = read(&"x.yaml".into(), "a: [1\n---\n").unwrap_err();
        assert!(report.to_string().starts_with("x.yaml:"), "{report}");
        assert_eq!(report.severity, Severity::Error);
    }

    #[test]
    fn old_versions_are_read_with_a_warning() {
        let contents = read_text(
            "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: a}\nspec:\n  rules:\n\
             \x20 - http: {paths: [{path: /, backend: {serviceName: s, servicePort: 80}}]}\n",
        );
        let Object::Ingress(ingress) = &contents.objects[0].object else {
            panic!()
        };
        let rules = ingress.spec.as_ref().unwrap().rules.as_ref().unwrap();
        let path = &rules[0].http.as_ref().unwrap().paths[0];
        assert_eq!(path.backend.service.as_ref().unwrap().name, "s");
        assert_eq!(contents.reports[0].severity, Severity::Warning);
    }
}
