//! The endpoints of a Service, wherever they are written.
//!
//! Invariant: EndpointSlices come first; where there is none, as in a folder without a controller,
//! the Endpoints object of that name counts, and without it the Pods that the selector matches. An
//! address and port that is given twice is there once, and local if any says so.
//! Read next: `inspect.rs` (what is wrong with them), `choose.rs` (which of them take traffic).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Container, ContainerPort, EndpointAddress, Endpoints, Pod};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};

use super::choose::{Endpoint, Hints};
use super::node::NodeView;
use super::wish::{Distribution, Family, TargetPort, Transport, Wish, WishedPort};
use crate::object::Name;
use crate::store::{Kept, Store};

/// Slices that are for headless Services only.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Where the endpoints of one Service are written.
pub(crate) struct Source<'a> {
    pub(super) name: &'a Name,
    pub(super) wish: &'a Wish,
    node: &'a NodeView,
    pub(super) from: From<'a>,
}

pub(super) enum From<'a> {
    Slices(Vec<(&'a str, &'a Kept<EndpointSlice>)>),
    Endpoints(&'a Kept<Endpoints>),
    Pods(Vec<&'a Kept<Pod>>),
    /// Addresses of a name outside.
    Outside(Vec<IpAddr>),
    Nowhere,
}

impl<'a> Source<'a> {
    pub(crate) fn of(
        store: &'a Store,
        name: &'a Name,
        wish: &'a Wish,
        selector: Option<&'a BTreeMap<String, String>>,
        node: &'a NodeView,
    ) -> Self {
        let is_headless = |slice: &Kept<EndpointSlice>| {
            let labels = slice.object.metadata.labels.as_ref();
            labels.is_some_and(|labels| labels.contains_key(HEADLESS))
        };
        let mut slices = store
            .slices(name)
            .filter(|(_, slice)| !is_headless(slice))
            .peekable();
        let from = if let Some(host) = &wish.external_name {
            let known = store.addresses(host).map(<[IpAddr]>::to_vec);
            let literal = || host.parse().ok().into_iter().collect();
            From::Outside(known.unwrap_or_else(literal))
        } else if slices.peek().is_some() {
            From::Slices(slices.map(|(name, slice)| (&**name, slice)).collect())
        } else if let Some(endpoints) = store.endpoints(name) {
            From::Endpoints(endpoints)
        } else if let Some(selector) = selector {
            From::Pods(store.pods(&name.namespace, selector).collect())
        } else {
            From::Nowhere
        };
        Self {
            name,
            wish,
            node,
            from,
        }
    }

    /// The endpoints of one port, by address.
    pub(crate) fn endpoints(&self, port: &WishedPort, family: Family) -> Vec<Endpoint<'a>> {
        let mut found = Found::default();
        match &self.from {
            From::Slices(slices) => {
                for (_, slice) in slices {
                    self.add_slice(&slice.object, port, family, &mut found);
                }
            }
            From::Endpoints(kept) => self.add_subsets(&kept.object, port, family, &mut found),
            From::Pods(pods) => {
                for pod in pods {
                    self.add_pod(&pod.object, port, family, &mut found);
                }
            }
            From::Outside(addresses) => {
                for address in addresses {
                    let number = match port.target {
                        TargetPort::Number(number) => number,
                        TargetPort::Name(_) => port.number,
                    };
                    found.add(SocketAddr::new(*address, number), READY);
                }
            }
            From::Nowhere => {}
        }
        found.list.sort_by_key(|it| it.address);
        found.list
    }

    fn add_slice(
        &self,
        slice: &'a EndpointSlice,
        port: &WishedPort,
        family: Family,
        found: &mut Found<'a>,
    ) {
        if slice.address_type != family.name() {
            return;
        }
        let ports = slice.ports.iter().flatten().filter(|it| {
            it.name.as_deref().unwrap_or_default() == port.name
                && is_transport(it.protocol.as_deref(), port.transport)
        });
        for number in ports.filter_map(|it| u16::try_from(it.port?).ok()) {
            found.reserve(slice.endpoints.as_ref().map_or(0, Vec::len));
            for endpoint in slice.endpoints.iter().flatten() {
                if let Some(address) = endpoint.addresses.first().and_then(|it| it.parse().ok()) {
                    let address = SocketAddr::new(address, number);
                    found.add(address, self.slice_endpoint(endpoint));
                }
            }
        }
    }

    fn slice_endpoint(&self, endpoint: &'a SliceEndpoint) -> State<'a> {
        let conditions = endpoint.conditions.as_ref();
        let condition =
            |of: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>| {
                conditions.and_then(of)
            };
        State {
            ready: condition(|it| it.ready).unwrap_or(true),
            serving: condition(|it| it.serving).unwrap_or(true),
            terminating: condition(|it| it.terminating).unwrap_or(false),
            local: self.node.is_local(endpoint.node_name.as_deref()),
            hints: endpoint.hints.as_ref().map_or(Hints::None, Hints::Given),
        }
    }

    fn add_subsets(
        &self,
        endpoints: &'a Endpoints,
        port: &WishedPort,
        family: Family,
        found: &mut Found<'a>,
    ) {
        for subset in endpoints.subsets.iter().flatten() {
            let ports = subset.ports.iter().flatten().filter(|it| {
                it.name.as_deref().unwrap_or_default() == port.name
                    && is_transport(it.protocol.as_deref(), port.transport)
            });
            for number in ports.filter_map(|it| u16::try_from(it.port).ok()) {
                let mut add = |address: &'a EndpointAddress, ready: bool| {
                    let Ok(ip) = address.ip.parse::<IpAddr>() else {
                        return;
                    };
                    if Family::of(ip) == family {
                        let state = State {
                            ready,
                            serving: ready,
                            terminating: false,
                            local: self.node.is_local(address.node_name.as_deref()),
                            hints: Hints::None,
                        };
                        found.add(SocketAddr::new(ip, number), state);
                    }
                };
                subset
                    .addresses
                    .iter()
                    .flatten()
                    .for_each(|it| add(it, true));
                let not_ready = subset.not_ready_addresses.iter().flatten();
                not_ready.for_each(|it| add(it, false));
            }
        }
    }

    fn add_pod(&self, pod: &'a Pod, port: &WishedPort, family: Family, found: &mut Found<'a>) {
        let Some(status) = &pod.status else { return };
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return;
        }
        let Some(number) = pod_port(pod, port) else {
            return;
        };
        let addresses = status.pod_ips.iter().flatten().map(|it| it.ip.as_str());
        let mut addresses = addresses.chain(status.pod_ip.as_deref());
        let parsed = addresses.find_map(|it| {
            let address: IpAddr = it.parse().ok()?;
            (Family::of(address) == family).then_some(address)
        });
        if let Some(address) = parsed {
            found.add(SocketAddr::new(address, number), self.pod_state(pod));
        }
    }

    /// As the EndpointSlice controller has it. A Pod without any condition was written by hand, and
    /// is ready.
    fn pod_state(&self, pod: &'a Pod) -> State<'a> {
        let conditions = pod.status.as_ref().and_then(|it| it.conditions.as_deref());
        let is_ready = match conditions {
            None | Some([]) => true,
            Some(all) => all
                .iter()
                .any(|it| it.type_ == "Ready" && it.status == "True"),
        };
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let node = pod.spec.as_ref().and_then(|it| it.node_name.as_deref());
        let zone = node
            .and_then(|node| self.node.zones.get(node))
            .map(String::as_str);
        let hints = match self.wish.distribution {
            Distribution::Anywhere => Hints::None,
            Distribution::SameNode => Hints::Made { node, zone },
            Distribution::SameZone => Hints::Made { node: None, zone },
        };
        State {
            ready: self.wish.publish_not_ready || is_ready && !terminating,
            serving: is_ready,
            terminating,
            local: self.node.is_local(node),
            hints,
        }
    }
}

/// What an endpoint says of itself.
#[derive(Debug, Clone, Copy)]
struct State<'a> {
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    hints: Hints<'a>,
}

const READY: State<'_> = State {
    ready: true,
    serving: true,
    terminating: false,
    local: false,
    hints: Hints::None,
};

/// Endpoints without duplicates.
#[derive(Default)]
struct Found<'a> {
    list: Vec<Endpoint<'a>>,
    positions: HashMap<SocketAddr, usize>,
}

impl<'a> Found<'a> {
    fn reserve(&mut self, more: usize) {
        self.list.reserve(more);
        self.positions.reserve(more);
    }

    fn add(&mut self, address: SocketAddr, state: State<'a>) {
        if !is_reachable(address.ip()) || address.port() == 0 {
            return;
        }
        let endpoint = Endpoint {
            address,
            ready: state.ready,
            serving: state.serving,
            terminating: state.terminating,
            local: state.local,
            hints: state.hints,
        };
        match self.positions.get(&address) {
            Some(position) if state.local => self.list[*position] = endpoint,
            Some(_) => {}
            None => {
                self.positions.insert(address, self.list.len());
                self.list.push(endpoint);
            }
        }
    }
}

pub(super) fn is_reachable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address.to_canonical() == address
}

fn is_transport(protocol: Option<&str>, transport: Transport) -> bool {
    protocol.filter(|it| !it.is_empty()).unwrap_or("TCP") == transport.name()
}

/// The number of a Service's port on a Pod.
pub(super) fn pod_port(pod: &Pod, port: &WishedPort) -> Option<u16> {
    let name = match &port.target {
        TargetPort::Number(number) => return Some(*number),
        TargetPort::Name(name) => name,
    };
    let mut ports = container_ports(pod).filter(|it| {
        it.name.as_ref() == Some(name) && is_transport(it.protocol.as_deref(), port.transport)
    });
    u16::try_from(ports.next()?.container_port).ok()
}

/// Ports of containers that go on running: sidecars are init containers that restart.
pub(super) fn container_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let spec = pod.spec.as_ref();
    let is_sidecar = |it: &&Container| it.restart_policy.as_deref() == Some("Always");
    let init = spec
        .and_then(|it| it.init_containers.as_deref())
        .unwrap_or_default();
    let containers = spec.map(|it| it.containers.as_slice()).unwrap_or_default();
    let running = containers.iter().chain(init.iter().filter(is_sidecar));
    running.flat_map(|it| it.ports.iter().flatten())
}
