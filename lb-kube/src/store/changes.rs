//! What has changed, and which Services a changed Pod belongs to.
//!
//! Invariant: a Pod that begins or ceases to match the selector of a Service marks that Service,
//! at a cost that grows with the Services that share a label with it, not with all of them.
//! Read next: `../compile.rs` (which compiles what is marked).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::object::Name;

/// Names of what changed since last asked.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) services: BTreeSet<Name>,
    /// The Services whose endpoints may have changed.
    pub(crate) endpoints: BTreeSet<Name>,
    pub(crate) nodes: BTreeSet<Name>,
    pub(crate) ingresses: BTreeSet<Name>,
    pub(crate) ingress_classes: BTreeSet<Name>,
    pub(crate) secrets: BTreeSet<Name>,
    pub(crate) config_maps: BTreeSet<Name>,
    pub(crate) namespaces: BTreeSet<Name>,
    /// Whether an object was refused, or is refused no more.
    pub(crate) refused: bool,
}

/// The selectors of Services and the labels of Pods, from both sides.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    selectors: HashMap<Name, BTreeMap<String, String>>,
    /// Services by the first pair of their selector.
    services: HashMap<Label, BTreeSet<Name>>,
    /// Pods by each of their labels.
    pods: HashMap<Label, BTreeSet<Name>>,
}

/// A label within a namespace.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Label {
    namespace: Arc<str>,
    key: Box<str>,
    value: Box<str>,
}

impl Label {
    fn new(namespace: &Arc<str>, (key, value): (&String, &String)) -> Self {
        Self {
            namespace: Arc::clone(namespace),
            key: key.as_str().into(),
            value: value.as_str().into(),
        }
    }
}

impl Selectors {
    /// A Service has this selector from now on.
    pub(super) fn service(&mut self, name: &Name, selector: Option<&BTreeMap<String, String>>) {
        if let Some(pair) = self.selectors.get(name).and_then(|it| it.first_key_value()) {
            let label = Label::new(&name.namespace, pair);
            withdraw(&mut self.services, &label, name);
        }
        self.selectors.remove(name);
        if let Some(selector) = selector
            && let Some(pair) = selector.first_key_value()
        {
            let label = Label::new(&name.namespace, pair);
            self.services.entry(label).or_default().insert(name.clone());
            self.selectors.insert(name.clone(), selector.clone());
        }
    }

    /// A Pod had labels, and has others; those whose endpoints change are added to `affected`.
    pub(super) fn pod(
        &mut self,
        name: &Name,
        before: Option<&BTreeMap<String, String>>,
        after: Option<&BTreeMap<String, String>>,
        affected: &mut BTreeSet<Name>,
    ) {
        for pair in before.into_iter().flatten() {
            withdraw(&mut self.pods, &Label::new(&name.namespace, pair), name);
        }
        for pair in after.into_iter().flatten() {
            let label = Label::new(&name.namespace, pair);
            self.pods.entry(label).or_default().insert(name.clone());
        }
        for labels in before.into_iter().chain(after) {
            for pair in labels {
                let services = self.services.get(&Label::new(&name.namespace, pair));
                let selects = |service: &&Name| {
                    let selector = self.selectors.get(service);
                    selector.is_some_and(|selector| matches(selector, labels))
                };
                affected.extend(services.into_iter().flatten().filter(selects).cloned());
            }
        }
    }

    /// Pods that have at least one label of `selector`, the rarest; by name.
    pub(super) fn pods(
        &self,
        namespace: &Arc<str>,
        selector: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = &Name> {
        let each = selector
            .iter()
            .map(|pair| self.pods.get(&Label::new(namespace, pair)));
        let rarest = each.min_by_key(|pods| pods.map_or(0, BTreeSet::len));
        rarest.flatten().into_iter().flatten()
    }
}

/// Whether `labels` have all pairs of `selector`.
pub(super) fn matches(
    selector: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn withdraw(index: &mut HashMap<Label, BTreeSet<Name>>, label: &Label, name: &Name) {
    if let Some(names) = index.get_mut(label) {
        names.remove(name);
        if names.is_empty() {
            index.remove(label);
        }
    }
}
