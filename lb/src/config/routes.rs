//! The keys of a route, and how routes are looked up.
//!
//! Invariant: as in `read.rs`, a key that is read takes effect, and every mistake is reported at
//! its line; what `lb_core::plan` finds wrong with a route is found here first.
//! Read next: `lb_core::plan::Route` (what the keys mean), `compile.rs`.

use lb_core::plan::{
    HostMatching, Matching, PathForm, PathMatch, Redirect, Rewrite, Scheme, pattern_problem,
    rewrite_problem,
};

use super::decode::{self, Fields, Problems};
use super::file::{Action, Route};
use super::notation;
use super::problem::{Located, Problem};
use super::read::name;
use super::yaml::Node;

const HOSTS_WORDS: [(&str, HostMatching); 2] = [
    ("closest", HostMatching::Closest),
    ("fall_through", HostMatching::FallThrough),
];

const PATHS_WORDS: [(&str, PathForm); 2] = [
    ("as_sent", PathForm::AsSent),
    ("normalized", PathForm::Normalized),
];

const SCHEME_WORDS: [(&str, Scheme); 2] = [("http", Scheme::Http), ("https", Scheme::Https)];

/// The keys of which a route has one, to say which paths it is for.
const PATH_KEYS: [&str; 4] = ["path", "exact", "start", "regex"];

/// The keys of which a route has one, to say what is done.
const ACTION_KEYS: [&str; 3] = ["cluster", "redirect", "answer"];

/// `matching:` of an HTTP listener.
pub(super) fn matching(node: &Node, problems: &mut Problems) -> Option<Matching> {
    let mut fields = Fields::of(node, problems)?;
    let hosts = fields.optional("hosts", decode::choice(&HOSTS_WORDS));
    let paths = fields.optional("paths", decode::choice(&PATHS_WORDS));
    fields.finish();
    Some(Matching {
        hosts: hosts.map(|it| it.value).unwrap_or_default(),
        paths: paths.map(|it| it.value).unwrap_or_default(),
    })
}

/// One route.
pub(super) fn route(node: &Node, problems: &mut Problems) -> Option<Route> {
    let mut fields = Fields::of(node, problems)?;
    let host = decode::parsed(|text| match text {
        "*" => Ok(None),
        _ => notation::route_host(text).map(Some),
    });
    let host = fields.optional("host", host);
    let path = path(&mut fields);
    let action = action(&mut fields, path.as_ref());
    fields.finish();
    Some(Route {
        place: node.place.clone(),
        host: host.and_then(|host| host.value),
        path: path?,
        action: action?,
    })
}

/// Whether the mapping has one key of several; reports it if there are more.
fn has_one_of(fields: &mut Fields<'_, '_>, keys: &[&str]) -> bool {
    let count = keys.iter().filter(|key| fields.has(key)).count();
    if count > 1 {
        let keys = quoted(keys);
        fields.problem(format!("a route has only one of {keys}"));
    }
    count > 0
}

fn quoted(keys: &[&str]) -> String {
    let quoted: Vec<String> = keys.iter().map(|key| format!("\"{key}\"")).collect();
    quoted.join(", ")
}

fn path(fields: &mut Fields<'_, '_>) -> Option<PathMatch> {
    let is_written = has_one_of(fields, &PATH_KEYS);
    let plain = || decode::parsed(notation::route_path);
    let prefix = fields.optional("path", plain());
    let exact = fields.optional("exact", plain());
    let start = fields.optional("start", plain());
    let ignore_case = fields.optional("ignore_case", decode::boolean);
    let is_regex = fields.has("regex");
    let pattern = decode::parsed(|text| {
        let problem = pattern_problem(text, ignore_case.unwrap_or_default());
        problem.map_or_else(
            || Ok(text.to_owned()),
            |problem| Err(format!("\"{text}\" is not a regular expression: {problem}")),
        )
    });
    let pattern = fields.optional("regex", pattern);
    if ignore_case.is_some() && !is_regex {
        fields.problem("\"ignore_case\" is for \"regex\"");
    }
    if !is_written {
        return Some(PathMatch::Prefix("/".to_owned()));
    }
    let regex = |pattern: Located<String>| PathMatch::Regex {
        pattern: pattern.value,
        ignore_case: ignore_case.unwrap_or_default(),
    };
    prefix
        .map(|it| PathMatch::Prefix(it.value))
        .or_else(|| exact.map(|it| PathMatch::Exact(it.value)))
        .or_else(|| start.map(|it| PathMatch::Start(it.value)))
        .or_else(|| pattern.map(regex))
}

fn action(fields: &mut Fields<'_, '_>, path: Option<&PathMatch>) -> Option<Action> {
    if !has_one_of(fields, &ACTION_KEYS) {
        let keys = quoted(&ACTION_KEYS);
        fields.problem(format!("a route has one of {keys}"));
    }
    let cluster = fields.optional("cluster", name);
    let redirect = fields.optional("redirect", |node, problems| redirect(node, problems, path));
    let answer = fields.optional("answer", decode::number(200..=599));
    if fields.has("cluster") {
        let rewrite = rewrite(fields, path, ("rewrite", "rewrite_prefix"));
        return cluster.map(|cluster| Action::Cluster { cluster, rewrite });
    }
    for key in ["rewrite", "rewrite_prefix"] {
        fields.refuse(key, "it is for routes to a \"cluster\"");
    }
    let answer = answer.map(|status| Action::Answer(status.value as u16));
    redirect.map(Action::Redirect).or(answer)
}

/// A rewrite by one of two keys: of the whole path, or of its prefix.
fn rewrite(
    fields: &mut Fields<'_, '_>,
    path: Option<&PathMatch>,
    (whole, prefix): (&'static str, &'static str),
) -> Option<Rewrite> {
    if fields.has(whole) && fields.has(prefix) {
        fields.problem(format!("\"{whole}\" and \"{prefix}\" exclude each other"));
    }
    let of = |make: fn(String) -> Rewrite| {
        decode::parsed(move |text: &str| {
            let rewrite = make(text.to_owned());
            match path.and_then(|path| rewrite_problem(&rewrite, path)) {
                Some(problem) => Err(format!("\"{text}\" cannot take its place: {problem}")),
                None => Ok(rewrite),
            }
        })
    };
    let whole = fields.optional(whole, of(Rewrite::Path));
    let prefix = fields.optional(prefix, of(Rewrite::Prefix));
    whole.or(prefix).map(|it| it.value)
}

fn redirect(node: &Node, problems: &mut Problems, path: Option<&PathMatch>) -> Option<Redirect> {
    let mut fields = Fields::of(node, problems)?;
    let scheme = fields.optional("scheme", decode::choice(&SCHEME_WORDS));
    let host = decode::parsed(|text| match notation::route_host(text)? {
        host if host.starts_with("*.") => Err(format!("\"{text}\" is not one host")),
        host => Ok(host),
    });
    let host = fields.optional("host", host);
    let port = fields.optional("port", decode::number(1..=65_535));
    let rewrite = rewrite(&mut fields, path, ("path", "prefix"));
    let trims_slash = fields.optional("trim_slash", decode::boolean);
    let status = decode::parsed(|text| match text {
        "301" | "302" | "303" | "307" | "308" => notation::number(text, 301..=308),
        _ => Err(format!("\"{text}\" is not one of 301, 302, 303, 307, 308")),
    });
    let status = fields.optional("status", status);
    let leads = ["scheme", "host", "port", "path", "prefix", "trim_slash"];
    if !leads.iter().any(|key| fields.has(key)) {
        let keys = quoted(&leads);
        fields.problem(format!(
            "a redirect leads to another place by one of {keys}"
        ));
    }
    fields.finish();
    Some(Redirect {
        scheme: scheme.map(|it| it.value),
        host: host.map(|it| it.value),
        port: port.map(|it| it.value as u16),
        path: rewrite,
        trims_slash: trims_slash.unwrap_or_default(),
        ..Redirect::by(status.map_or(302, |it| it.value as u16))
    })
}

/// Reports references to groups that an expression does not have: they would stand for nothing.
pub(super) fn missing_groups(route: &Route, problems: &mut Problems) {
    let PathMatch::Regex { pattern, .. } = &route.path else {
        return;
    };
    let rewrite = match &route.action {
        Action::Cluster { rewrite, .. } => rewrite.as_ref(),
        Action::Redirect(redirect) => redirect.path.as_ref(),
        Action::Answer(_) => None,
    };
    let Some(Rewrite::Path(text)) = rewrite else {
        return;
    };
    let groups = lb_core::plan::group_count(pattern);
    let referred = text.replace("$$", "");
    let numbers = referred
        .split('$')
        .skip(1)
        .filter_map(|it| it.chars().next());
    if let Some(missing) = numbers
        .filter_map(|it| it.to_digit(10))
        .find(|it| *it as usize > groups)
    {
        let reason = format!("${missing} stands for nothing: \"{pattern}\" has {groups} groups");
        problems.push(Problem::new(&route.place, reason));
    }
}
