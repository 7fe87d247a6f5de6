//! TLS of a plan, as JSON and as text: certificates by name and date, never a key.
//!
//! Invariant: as `mod.rs`: nothing of a plan is left out but what is secret.
//! Read next: `mod.rs`.

use std::fmt::Write as _;
use std::sync::Arc;

use lb_core::plan::{
    BackendTls, Certificate, ClientAuth, OverdueCrl, TlsServer, UnknownNames, Verify,
};
use lb_l7::tls::{RevocationList, ServerCertificate};
use serde_json::{Value, json};

use super::duration;
use crate::log;

/// What a listener shows and asks for.
pub(super) fn server_json(tls: &TlsServer) -> Value {
    let certificates = tls.certificates.iter().map(certificate_json);
    let mut value = json!({
        "certificates": certificates.collect::<Vec<_>>(),
        "http2": tls.alpn_http2,
        "min_version": tls.min_version.name(),
        "unknown_names": match tls.unknown_names {
            UnknownNames::Default => "default",
            UnknownNames::Refuse => "refuse",
        },
        "handshake_timeout": duration(tls.handshake_timeout),
        "ticket_keys": match tls.ticket_keys.len() {
            0 => json!("random"),
            count => json!(count),
        },
        "resumption": tls.resumption,
        "records": tls.records.name(),
    });
    let suites: Vec<_> = tls.suites.iter().map(|suite| suite.name()).collect();
    let groups: Vec<_> = tls.groups.iter().map(|group| group.name()).collect();
    for (key, names) in [("suites", suites), ("groups", groups)] {
        if !names.is_empty() {
            value[key] = json!(names);
        }
    }
    if let Some(rate) = tls.handshake_rate {
        value["handshake_rate"] = json!(rate.per_second);
    }
    if let Some(auth) = &tls.client_auth {
        value["client_auth"] = client_auth_json(auth);
    }
    if !tls.client_auth_by_name.is_empty() {
        let each = tls.client_auth_by_name.iter().map(|policy| {
            let auth = policy.auth.as_ref();
            let mut value = auth.map_or_else(|| json!({ "mode": "off" }), client_auth_json);
            value["names"] = json!(policy.names);
            value
        });
        value["client_auth_by_name"] = each.collect();
    }
    if tls.key_log {
        value["key_log"] = json!(true);
    }
    value
}

fn client_auth_json(auth: &ClientAuth) -> Value {
    let ClientAuth {
        required,
        roots,
        revoked,
        overdue,
        depth,
    } = auth;
    let mode = if *required { "required" } else { "optional" };
    let mut value =
        json!({ "mode": mode, "ca": roots.len(), "crl": revoked.len(), "depth": depth });
    if !revoked.is_empty() {
        value["crl_overdue"] = json!(match overdue {
            OverdueCrl::Refuse => "refuse",
            OverdueCrl::Use => "use",
        });
        let now = lb_core::rt::wall_clock();
        let lists = RevocationList::of_auth(auth).map(|list| {
            json!({
                "issuer": list.issuer,
                "next_update": log::rfc3339(list.next_update),
                "overdue": now >= list.next_update,
            })
        });
        value["crls"] = lists.collect();
    }
    value
}

/// How backends are spoken to.
pub(super) fn backend_json(tls: &BackendTls) -> Value {
    let mut value = json!({
        "verify": match &tls.verify {
            Verify::Off => json!("off"),
            Verify::Roots(roots) => json!(format!("by {} authorities", roots.len())),
        },
        "min_version": tls.min_version.name(),
        "resumption": tls.resumption,
    });
    if let Some(name) = &tls.server_name {
        value["server_name"] = json!(name);
    }
    if let Some(certificate) = &tls.certificate {
        value["certificate"] = certificate_json(certificate);
    }
    value
}

fn certificate_json(certificate: &Arc<Certificate>) -> Value {
    match ServerCertificate::of(certificate) {
        Ok(parsed) => json!({
            "certificate": certificate.name,
            "names": parsed.names,
            "not_before": log::rfc3339(parsed.not_before),
            "not_after": log::rfc3339(parsed.not_after),
        }),
        Err(error) => json!({ "certificate": certificate.name, "error": error.to_string() }),
    }
}

/// A line for each certificate.
pub(super) fn write_server(text: &mut String, tls: &TlsServer) -> std::fmt::Result {
    for certificate in tls.certificates.iter() {
        let name = &certificate.name;
        match ServerCertificate::of(certificate) {
            Ok(parsed) => writeln!(
                text,
                "  certificate {name} for {} until {}",
                if parsed.names.is_empty() {
                    "any name".to_owned()
                } else {
                    parsed.names.join(", ")
                },
                log::rfc3339(parsed.not_after)
            )?,
            Err(error) => writeln!(text, "  certificate {name}: {error}")?,
        }
    }
    Ok(())
}
