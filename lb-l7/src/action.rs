//! What the routes of a listener do, compiled, and what that means for one request.
//!
//! Invariant: a request that is not sent to a cluster has an answer of its own.
//! Read next: `service.rs` (who asks), `rewrite.rs`, `redirect.rs`.

use std::net::SocketAddr;

use lb_core::plan::{PathForm, Route, RouteAction};
use lb_core::rt::{Buffer, Chunk};

use crate::failure::Failure;
use crate::http1::authority::Authority;
use crate::http1::head::HeadError;
use crate::http1::request::RequestHead;
use crate::redirect::{From, Redirect};
use crate::rewrite::{PathRewrite, normalized};
use crate::route::{ClusterIndex, RouteIndex};

/// What a route does.
#[derive(Debug)]
pub(crate) enum Action {
    Answer(u16),
    Cluster {
        index: ClusterIndex,
        rewrite: Option<PathRewrite>,
    },
    Redirect(Box<Redirect>),
}

impl Action {
    /// Compiles what `route` does; `cluster` is the index of the cluster that it names.
    pub(crate) fn build(route: &Route, cluster: ClusterIndex) -> Result<Self, String> {
        Ok(match &route.action {
            RouteAction::Answer { status } => Self::Answer(*status),
            RouteAction::Cluster { rewrite, .. } => {
                let rewrite = rewrite.as_ref();
                let rewrite = rewrite.map(|it| PathRewrite::build(it, &route.path));
                Self::Cluster {
                    index: cluster,
                    rewrite: rewrite.transpose()?,
                }
            }
            RouteAction::Redirect(redirect) => {
                Self::Redirect(Box::new(Redirect::build(redirect, &route.path)?))
            }
        })
    }
}

/// What a request's route means for it.
#[derive(Debug)]
pub(crate) struct Routed {
    /// `None` for the default of the listener.
    pub(crate) route: Option<RouteIndex>,
    /// Where it goes; otherwise the answer.
    pub(crate) cluster: Result<ClusterIndex, Failure>,
    /// Where a redirect leads; empty for all others.
    pub(crate) location: Chunk,
    /// What the backend gets in place of path and query.
    pub(crate) target: Option<Buffer>,
}

impl Routed {
    /// Nowhere: its connection is not for its host (RFC 9110 section 15.5.20).
    pub(crate) const fn misdirected() -> Self {
        Self {
            route: None,
            cluster: Err(Failure::Answered(421)),
            location: Chunk::empty(),
            target: None,
        }
    }

    /// To `cluster` as it came, or nowhere.
    pub(crate) fn default_of(cluster: Option<ClusterIndex>) -> Self {
        Self {
            route: None,
            cluster: cluster.ok_or(Failure::NoRoute),
            location: Chunk::empty(),
            target: None,
        }
    }
}

/// A request as its routes see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// All of its head.
    pub(crate) bytes: &'a [u8],
    pub(crate) head: &'a RequestHead,
    pub(crate) scheme: &'static str,
    /// The address that the client connected to, if the head names none.
    pub(crate) local: Option<SocketAddr>,
}

impl Asked<'_> {
    /// The path in the form that is compared with the routes, if that is not as it came.
    pub(crate) fn routed_path(&self, form: PathForm) -> Result<Option<Buffer>, HeadError> {
        match form {
            PathForm::AsSent => Ok(None),
            PathForm::Normalized => normalized(self.head.path(self.bytes)),
        }
    }

    /// What `action` of `route` means for the request, whose path was compared as `routed`.
    pub(crate) fn take(
        &self,
        action: &Action,
        route: RouteIndex,
        routed: &[u8],
    ) -> Result<Routed, HeadError> {
        let path = self.head.path(self.bytes);
        let resource = self.head.resource(self.bytes);
        let query = &resource[memchr::memchr(b'?', resource).unwrap_or(resource.len())..];
        let mut taken = Routed {
            route: Some(route),
            ..Routed::default_of(None)
        };
        match action {
            Action::Answer(status) => taken.cluster = Err(Failure::Answered(*status)),
            Action::Cluster { index, rewrite } => {
                taken.cluster = Ok(*index);
                // `*` is no path: OPTIONS asks about the server.
                if let Some(rewrite) = rewrite.as_ref().filter(|_| path != b"*") {
                    let mut target = Buffer::new();
                    rewrite.write(routed, query, routed != path, &mut target)?;
                    taken.target = Some(target);
                }
            }
            Action::Redirect(redirect) => {
                taken.cluster = Err(Failure::Answered(redirect.status));
                taken.location = redirect.location(&From {
                    scheme: self.scheme,
                    authority: Authority::parse(self.head.authority(self.bytes)),
                    local: self.local,
                    path,
                    routed,
                    query,
                })?;
            }
        }
        Ok(taken)
    }
}
