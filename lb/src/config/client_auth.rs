//! `client_auth` and `client_auth_by_name` of a listener: which certificates clients are asked for.
//!
//! Invariant: as `tls.rs`: what is returned can be used.
//! Read next: `tls.rs`, `lb_core::plan::ClientAuth`.

use lb_core::plan::{ClientAuth, NamedClientAuth, OverdueCrl};
use lb_l7::tls::{revoked_from_pem, roots_from_pem};

use super::decode::{self, Fields, Problems};
use super::yaml::Node;
use super::{notation, tls};

const OVERDUE_WORDS: [(&str, OverdueCrl); 2] =
    [("refuse", OverdueCrl::Refuse), ("use", OverdueCrl::Use)];

const REQUIRED_WORDS: [(&str, bool); 2] = [("optional", false), ("required", true)];

/// As [`REQUIRED_WORDS`], of names that may differ from their listener.
const MODE_WORDS: [(&str, Option<bool>); 3] = [
    ("off", None),
    ("optional", Some(false)),
    ("required", Some(true)),
];

/// `client_auth` of a listener.
pub(super) fn client_auth(node: &Node, problems: &mut Problems) -> Option<ClientAuth> {
    let mut fields = Fields::of(node, problems)?;
    let required = fields.optional("mode", decode::choice(&REQUIRED_WORDS));
    let auth = client_auth_fields(&mut fields, required.is_none_or(|it| it.value));
    fields.finish();
    auth
}

/// An item of `client_auth_by_name`.
pub(super) fn named_client_auth(node: &Node, problems: &mut Problems) -> Option<NamedClientAuth> {
    let mut fields = Fields::of(node, problems)?;
    let name =
        |node: &Node, problems: &mut Problems| decode::parsed(notation::route_host)(node, problems);
    let names = fields.required("names", decode::list(name));
    let mode = fields.optional("mode", decode::choice(&MODE_WORDS));
    let auth = match mode.map_or(Some(true), |it| it.value) {
        Some(required) => client_auth_fields(&mut fields, required).map(Some),
        None => {
            for key in ["ca", "crl", "crl_overdue", "depth"] {
                fields.refuse(key, "mode is off, so no certificate is asked for");
            }
            Some(None)
        }
    };
    fields.finish();
    let names = names?.into_iter().map(|name| name.value).collect();
    auth.map(|auth| NamedClientAuth { names, auth })
}

/// `ca`, `crl`, `crl_overdue` and `depth`.
fn client_auth_fields(fields: &mut Fields<'_, '_>, required: bool) -> Option<ClientAuth> {
    let roots = fields.required(
        "ca",
        decode::parsed(|text| {
            let text = notation::path(text).and_then(|path| Ok((tls::read(&path)?, path)))?;
            let found = roots_from_pem(&text.0);
            found.map_err(|error| format!("\"{}\" cannot be used: {error}", text.1.display()))
        }),
    );
    let revoked = fields.optional(
        "crl",
        decode::parsed(|text| {
            let text = notation::path(text).and_then(|path| Ok((tls::read(&path)?, path)))?;
            let found = revoked_from_pem(&text.0);
            found.map_err(|error| format!("\"{}\" cannot be used: {error}", text.1.display()))
        }),
    );
    let overdue = if fields.has("crl") {
        fields.optional("crl_overdue", decode::choice(&OVERDUE_WORDS))
    } else {
        fields.refuse("crl_overdue", "it is about a crl, and there is none");
        None
    };
    let depth = fields.optional("depth", decode::number(0..=ClientAuth::DEPTH_LIMIT.into()));
    Some(ClientAuth {
        required,
        roots: roots?.value.into(),
        revoked: revoked.map(|it| it.value.into()).unwrap_or_default(),
        overdue: overdue.map_or_else(OverdueCrl::default, |it| it.value),
        depth: depth.map_or(ClientAuth::DEPTH_DEFAULT, |it| it.value as u8),
    })
}
