//! Kubernetes objects to a plan: what kube-proxy, an external load balancer and an Ingress
//! controller do with them, as a function without I/O.
//!
//! Invariant: what comes out depends on the objects in the store and on the options alone, not on
//! the order in which they came; a bad object affects itself only and is reported.
//! Read next: `compile.rs`.
#![forbid(unsafe_code)]

mod compile;
mod decode;
pub mod files;
mod health;
pub mod ingress;
mod object;
mod options;
mod problem;
mod service;
mod store;

pub use compile::{Compiled, Compiler};
pub use decode::{Decoded, Malformed};
pub use health::{HealthAnswer, HealthCheckNodePort};
pub use k8s_openapi;
pub use object::{Kind, Name, Object, ObjectRef, Origin};
pub use options::{NodePortAddresses, Options};
pub use problem::{Problem, Severity};
pub use store::Store;
