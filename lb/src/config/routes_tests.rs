//! Routes of every kind, and the mistakes in them.

use super::compile::Names;

use lb_core::plan::{PathMatch, Protocol, Redirect, Rewrite, Route, RouteAction, Scheme};

use super::tests::load;

fn routes(list: &str) -> Result<Vec<Route>, Vec<String>> {
    let indented: String = list
        .lines()
        .map(|line| format!("        {line}\n"))
        .collect();
    let text = format!(
        "listeners:\n  - address: 80\n    http:\n      routes:\n{indented}clusters:\n  a: {{backends: [10.0.0.1:80]}}\n"
    );
    let draft = load(&text)?;
    let plan = draft.plan(&Names::new());
    match &plan.listeners[0].protocol {
        Protocol::Http(http) => Ok(http.routes.clone()),
        _ => unreachable!("it is HTTP"),
    }
}

fn problem(list: &str) -> String {
    let problems = routes(list).unwrap_err();
    assert_eq!(problems.len(), 1, "{list}: {problems:?}");
    problems[0].split_once("routes[").unwrap().1.to_owned()
}

#[test]
fn every_kind_of_route_is_read() {
    let read = routes(
        "- {exact: /a, answer: 404}\n\
         - {host: '*', regex: '/u/([0-9]+)', ignore_case: true, cluster: a, rewrite: '/v/$1'}\n\
         - {path: /s, cluster: a, rewrite_prefix: /}\n\
         - {start: /im, redirect: {scheme: https, host: B.example, port: 8443, prefix: /x, trim_slash: true, status: 308}}\n\
         - {redirect: {path: /new}}\n",
    )
    .unwrap();
    let cluster = |rewrite| RouteAction::Cluster {
        name: "a".into(),
        rewrite: Some(rewrite),
    };
    let redirect = Redirect {
        scheme: Some(Scheme::Https),
        host: Some("b.example".into()),
        port: Some(8443),
        path: Some(Rewrite::Prefix("/x".into())),
        trims_slash: true,
        status: 308,
    };
    let plain = Redirect {
        path: Some(Rewrite::Path("/new".into())),
        ..Redirect::by(302)
    };
    let regex = PathMatch::Regex {
        pattern: "/u/([0-9]+)".into(),
        ignore_case: true,
    };
    let expected = [
        (
            PathMatch::Exact("/a".into()),
            RouteAction::Answer { status: 404 },
        ),
        (regex, cluster(Rewrite::Path("/v/$1".into()))),
        (
            PathMatch::Prefix("/s".into()),
            cluster(Rewrite::Prefix("/".into())),
        ),
        (
            PathMatch::Start("/im".into()),
            RouteAction::Redirect(redirect),
        ),
        (PathMatch::Prefix("/".into()), RouteAction::Redirect(plain)),
    ];
    let expected = expected.map(|(path, action)| Route {
        host: None,
        path,
        action,
    });
    assert_eq!(read, expected);
}

#[test]
fn mistakes_are_told() {
    for (list, said) in [
        (
            "- {path: /a, exact: /a, cluster: a}",
            "0]: a route has only one of \"path\", \"exact\", \"start\", \"regex\"",
        ),
        (
            "- {path: /a}",
            "0]: a route has one of \"cluster\", \"redirect\", \"answer\"",
        ),
        (
            "- {path: /a, cluster: a, answer: 200}",
            "0]: a route has only one of \"cluster\", \"redirect\", \"answer\"",
        ),
        (
            "- {regex: '/a(', cluster: a}",
            "0].regex: \"/a(\" is not a regular expression: unclosed group",
        ),
        (
            "- {path: /a, ignore_case: true, cluster: a}",
            "0]: \"ignore_case\" is for \"regex\"",
        ),
        (
            "- {path: /a, cluster: a, rewrite: '/$1'}",
            "0].rewrite: \"/$1\" cannot take its place: only a route with a regular expression has \
             groups to refer to",
        ),
        (
            "- {regex: '/(a)', cluster: a, rewrite: '/$2'}",
            "0]: $2 stands for nothing: \"/(a)\" has 1 groups",
        ),
        (
            "- {path: /a, answer: 200, rewrite: /b}",
            "0].rewrite: \"rewrite\" has no effect here; it is for routes to a \"cluster\"",
        ),
        (
            "- {path: /a, answer: 99}",
            "0].answer: \"99\" is not a whole number from 200 to 599",
        ),
        (
            "- {path: /a, redirect: {status: 301}}",
            "0].redirect: a redirect leads to another place by one of \"scheme\", \"host\", \
             \"port\", \"path\", \"prefix\", \"trim_slash\"",
        ),
        (
            "- {path: /a, redirect: {scheme: htps}}",
            "0].redirect.scheme: \"htps\" is not one of http, https; did you mean \"https\"?",
        ),
        (
            "- {path: /a, redirect: {host: b, status: 300}}",
            "0].redirect.status: \"300\" is not one of 301, 302, 303, 307, 308",
        ),
        (
            "- {pth: /a, cluster: a}",
            "0].pth: there is no key \"pth\" here; there are host, path, exact, start, \
             ignore_case, regex, cluster, redirect, answer, rewrite, rewrite_prefix; did you mean \
             \"path\"?",
        ),
    ] {
        assert_eq!(problem(list), said, "{list}");
    }
    let twice = problem("- {path: /a, cluster: a}\n- {path: /a/, answer: 200}");
    assert!(
        twice.starts_with("1]: the route \"*/a/\" is here a second time"),
        "{twice}"
    );
}
