//! A report as one page: its texts and charts in one file, which needs nothing else.
//!
//! It reads as much of Markdown as our own texts use: headings, tables, lists, code, charts, and
//! within lines bold, code and links. Invariant: text is escaped, and nothing is fetched.
//! Read next: `mod.rs`, which writes it beside the texts.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The name of the page in a report's folder.
pub const FILE_NAME: &str = "index.html";

const STYLE: &str = "\
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.3rem .7rem;border-bottom:1px solid #8884;text-align:left;white-space:nowrap}
td:first-child{white-space:normal}
td.r,th.r{text-align:right;font-variant-numeric:tabular-nums}
pre{background:#8881;padding:.7rem 1rem;overflow-x:auto}
code{font-size:.9em}
figure{margin:1rem 0;background:#fff;overflow-x:auto}
figure svg{max-width:100%;min-width:40rem;height:auto}
@media (prefers-color-scheme:dark){figure{background:#1a1a1a}\
figure svg{filter:invert(.9) hue-rotate(180deg)}}
nav a{margin-right:1rem}";

/// The page for the texts `parts`, with the charts of `folder` in it.
pub(super) fn render(title: &str, parts: &[&str], folder: &Path) -> String {
    let mut page = Page {
        folder,
        body: String::new(),
        headings: Vec::new(),
    };
    for part in parts {
        page.add(part);
    }
    let links: String = page
        .headings
        .iter()
        .enumerate()
        .map(|(number, text)| format!("<a href=\"#h{number}\">{text}</a>"))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title>\n<style>\n{STYLE}\n</style></head>\n<body>\n<nav>{links}</nav>\n{}\
         </body></html>\n",
        escaped(title),
        page.body
    )
}

struct Page<'a> {
    folder: &'a Path,
    body: String,
    /// Of the second level, for the list at the top.
    headings: Vec<String>,
}

impl Page<'_> {
    fn add(&mut self, text: &str) {
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if line.starts_with("```") {
                self.body += "<pre><code>";
                for code in lines.by_ref().take_while(|line| !line.starts_with("```")) {
                    self.body += &escaped(code);
                    self.body.push('\n');
                }
                self.body += "</code></pre>\n";
            } else if line.starts_with('|') {
                let mut rows = vec![line];
                while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                    rows.push(row);
                }
                self.table(&rows);
            } else if let Some(item) = line.strip_prefix("- ") {
                let mut items = vec![item.to_owned()];
                while let Some(next) = lines.next_if(|l| l.starts_with("- ") || l.starts_with("  "))
                {
                    match (next.strip_prefix("- "), items.last_mut()) {
                        (None, Some(last)) => *last += &next[1..],
                        (item, _) => items.extend(item.map(str::to_owned)),
                    }
                }
                self.body += "<ul>\n";
                for item in items {
                    let _ = writeln!(self.body, "<li>{}</li>", inline(&item));
                }
                self.body += "</ul>\n";
            } else if !line.trim().is_empty() {
                let mut text = line.to_owned();
                while let Some(next) = lines.next_if(|next| is_text(line) && is_text(next)) {
                    text = text + " " + next;
                }
                self.line(&text);
            }
        }
    }

    fn line(&mut self, line: &str) {
        let level = line.bytes().take_while(|byte| *byte == b'#').count();
        if level > 0 {
            let text = inline(line[level..].trim());
            if level == 2 {
                let number = self.headings.len();
                let _ = writeln!(self.body, "<h2 id=\"h{number}\">{text}</h2>");
                self.headings.push(text);
            } else {
                let _ = writeln!(self.body, "<h{level}>{text}</h{level}>");
            }
        } else if let Some(chart) = self.chart(line) {
            let _ = writeln!(self.body, "<figure>{chart}</figure>");
        } else {
            let _ = writeln!(self.body, "<p>{}</p>", inline(line));
        }
    }

    /// The chart that `![…](FILE.svg)` names.
    fn chart(&self, line: &str) -> Option<String> {
        let (_, rest) = line.trim().strip_prefix("![")?.split_once("](")?;
        let name = rest.strip_suffix(')')?;
        let is_here = name.ends_with(".svg") && !name.contains(['/', '\\']);
        let text = fs::read_to_string(self.folder.join(name).as_path());
        let text = text.ok().filter(|_| is_here)?;
        text.find("<svg").map(|start| text[start..].to_owned())
    }

    fn table(&mut self, rows: &[&str]) {
        let cells = |row: &str| -> Vec<String> {
            let row = row.trim().trim_start_matches('|').trim_end_matches('|');
            row.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let rule = rows.get(1).map(|row| cells(row)).unwrap_or_default();
        let class = |place: usize| match rule.get(place) {
            Some(rule) if rule.ends_with(':') => " class=\"r\"",
            _ => "",
        };
        self.body += "<table>\n";
        for (number, row) in rows.iter().enumerate().filter(|(number, _)| *number != 1) {
            let tag = if number == 0 { "th" } else { "td" };
            self.body += "<tr>";
            for (place, cell) in cells(row).iter().enumerate() {
                let _ = write!(self.body, "<{tag}{}>{}</{tag}>", class(place), inline(cell));
            }
            self.body += "</tr>\n";
        }
        self.body += "</table>\n";
    }
}

/// Whether a line is part of a paragraph.
fn is_text(line: &str) -> bool {
    let begins = ["#", "|", "- ", "```", "!["];
    !line.trim().is_empty() && !begins.iter().any(|begin| line.starts_with(begin))
}

/// Bold, code and links within a line.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(['*', '`', '[']) {
        out += &escaped(&rest[..start]);
        rest = &rest[start..];
        let (done, length) = marked(rest).unwrap_or_else(|| (escaped(&rest[..1]), 1));
        out += &done;
        rest = &rest[length..];
    }
    out + &escaped(rest)
}

/// The marked text that `text` begins with, and its length.
fn marked(text: &str) -> Option<(String, usize)> {
    if let Some(rest) = text.strip_prefix("**") {
        let end = rest.find("**")?;
        return Some((
            format!("<strong>{}</strong>", inline(&rest[..end])),
            end + 4,
        ));
    }
    if let Some(rest) = text.strip_prefix('`') {
        let end = rest.find('`')?;
        return Some((format!("<code>{}</code>", escaped(&rest[..end])), end + 2));
    }
    let (name, rest) = text.strip_prefix('[')?.split_once("](")?;
    let (address, _) = rest.split_once(')')?;
    let is_plain = !name.contains('[') && !address.contains(['"', '<', '>', ' ']);
    let length = name.len() + address.len() + 4;
    is_plain.then(|| {
        let link = format!("<a href=\"{}\">{}</a>", escaped(address), inline(name));
        (link, length)
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_a_page_with_their_charts() {
        let folder = std::env::temp_dir().join(format!("html-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cpu.svg"), "<?xml?><svg><g/></svg>").unwrap();
        let text = "# T\n\n## A & b\n\nSee **this** `x<y` and [raw](raw.json), 2*3 [a].\n\n\
                    | a | n |\n| --- | ---: |\n| `k` | **1** |\n\n- one\n  more\n- two\n\na\nb\n\n\
                    ```sh\na <b>\n```\n\n![cpu](cpu.svg)\n\n![no](../cpu.svg)\n";
        let page = render("T <1>", &[text], &folder);
        fs::remove_dir_all(&folder).unwrap();
        for expected in [
            "<title>T &lt;1&gt;</title>",
            "<a href=\"#h0\">A &amp; b</a>",
            "<h1>T</h1>",
            "<h2 id=\"h0\">A &amp; b</h2>",
            "<strong>this</strong> <code>x&lt;y</code> and <a href=\"raw.json\">raw</a>, 2*3 [a].",
            "<tr><td><code>k</code></td><td class=\"r\"><strong>1</strong></td></tr>",
            "<ul>\n<li>one more</li>\n<li>two</li>\n</ul>\n<p>a b</p>",
            "<pre><code>a &lt;b&gt;\n</code></pre>",
            "<figure><svg><g/></svg></figure>",
        ] {
            assert!(page.contains(expected), "{expected}\n{page}");
        }
        assert_eq!(page.matches("<svg>").count(), 1, "only what lies beside it");
        assert!(!page.contains("<script") && !page.contains("---:"));
    }
}
