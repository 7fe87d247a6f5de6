//! The Set-Cookie field that tells a client its backend (RFC 6265 section 4.1). On its way back the
//! cookie is forwarded like any other, as ingress-nginx does.
//!
//! Invariant: it is made of what the plan says and of the cookie's value alone; all but the value
//! and the date is put together when the plan is compiled.
//! Read next: `exchange.rs` (who sends it), `keys.rs` (the cookie on its way back).

use std::fmt::Write as _;
use std::time::Duration;

use lb_core::lines::since_epoch;
use lb_core::plan::{CookieAffinity, SameSite, Secure};
use lb_core::rt;

use crate::date::{DateText, imf_fixdate};

/// The end of the year 9999, in seconds since 1970: a date has four digits for the year.
const YEARS_END: u64 = 253_402_300_799;

/// The affinity cookie of a cluster, but for its value.
#[derive(Debug)]
pub(crate) struct SetCookie {
    /// Up to the value.
    start: String,
    /// From behind the value, or behind the date if there is one, to the end of the line.
    attributes: String,
    max_age: Option<Duration>,
}

impl SetCookie {
    /// The cookie of `plan`, for clients that came over TLS or in the clear.
    pub(crate) fn new(plan: &CookieAffinity, over_tls: bool) -> Self {
        let mut attributes = String::new();
        if let Some(max_age) = plan.max_age {
            // Into a String, nothing fails.
            let _ = write!(attributes, "; Max-Age={}", max_age.as_secs());
        }
        let _ = write!(attributes, "; Path={}", plan.path);
        if let Some(domain) = &plan.domain {
            let _ = write!(attributes, "; Domain={domain}");
        }
        let is_secure = match plan.secure {
            Secure::Always => true,
            Secure::Auto => over_tls,
            Secure::Never => false,
        };
        attributes.push_str(if is_secure { "; Secure" } else { "" });
        attributes.push_str(if plan.http_only { "; HttpOnly" } else { "" });
        attributes.push_str(match plan.same_site {
            None => "",
            Some(SameSite::Lax) => "; SameSite=Lax",
            Some(SameSite::None) => "; SameSite=None",
            Some(SameSite::Strict) => "; SameSite=Strict",
        });
        attributes.push_str("\r\n");
        Self {
            start: format!("Set-Cookie: {}=", plan.name),
            attributes,
            max_age: plan.max_age,
        }
    }

    /// When a cookie set now ends, as text; for the clients that do not know Max-Age.
    pub(crate) fn expires(&self) -> Option<DateText> {
        let now = since_epoch(rt::wall_clock());
        let at = now.saturating_add(self.max_age?).as_secs();
        Some(imf_fixdate(at.min(YEARS_END)))
    }

    /// The line, in parts.
    pub(crate) fn line<'a>(
        &'a self,
        value: &'a [u8],
        expires: Option<&'a DateText>,
    ) -> [&'a [u8]; 5] {
        let (expires_name, expires) = match expires {
            Some(date) => (&b"; Expires="[..], &date[..]),
            None => (&[][..], &[][..]),
        };
        let (start, attributes) = (self.start.as_bytes(), self.attributes.as_bytes());
        [start, value, expires_name, expires, attributes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(plan: &CookieAffinity, over_tls: bool) -> String {
        let cookie = SetCookie::new(plan, over_tls);
        let date = cookie.expires().map(|_| *b"Sun, 06 Nov 1994 08:49:37 GMT");
        let line = cookie.line(b"value", date.as_ref()).concat();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn every_attribute_is_said() {
        let plan = CookieAffinity::new("lb");
        assert_eq!(
            line(&plan, false),
            "Set-Cookie: lb=value; Path=/; HttpOnly\r\n"
        );
        let full = CookieAffinity {
            path: "/shop".into(),
            domain: Some("shop.example".into()),
            max_age: Some(Duration::from_secs(3600)),
            same_site: Some(SameSite::Strict),
            secure: Secure::Always,
            http_only: false,
            ..plan
        };
        assert_eq!(
            line(&full, false),
            "Set-Cookie: lb=value; Expires=Sun, 06 Nov 1994 08:49:37 GMT; Max-Age=3600; \
             Path=/shop; Domain=shop.example; Secure; SameSite=Strict\r\n"
        );
    }

    #[test]
    fn secure_depends_on_the_connection_unless_it_is_said() {
        for (secure, over_tls, expected) in [
            (Secure::Auto, false, false),
            (Secure::Auto, true, true),
            (Secure::Never, true, false),
            (Secure::Always, false, true),
        ] {
            let plan = CookieAffinity {
                secure,
                ..CookieAffinity::new("lb")
            };
            assert_eq!(line(&plan, over_tls).contains("; Secure"), expected);
        }
    }
}
