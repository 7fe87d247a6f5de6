//! Lists of revoked certificates (RFC 5280 section 5), as far as people should know of them: whose
//! they are, and until when they are good.
//!
//! Invariant: whatever bytes come, reading ends without a panic. Who has signed a list is looked at
//! where it is used.
//! Read next: `client_auth.rs` (where that is).

use std::time::{Duration, SystemTime};

use lb_core::plan::{ClientAuth, OverdueCrl, TlsServer};

use super::policies::ClientPolicies;
use super::x509::{Der, SEQUENCE, distinguished_name, time};

const INTEGER: u8 = 0x02;

/// A list, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RevocationList {
    /// When there should be a newer one.
    pub next_update: SystemTime,
    /// The authority whose list it is, as RFC 4514 writes it.
    pub issuer: String,
    /// Whether the authority's clients are refused from then on.
    pub is_enforced: bool,
}

impl RevocationList {
    /// How long before its end a list is talked of.
    pub const NOTICE: Duration = Duration::from_hours(24);

    /// Those of a listener, each once, the one that ends first first. A list that cannot be read,
    /// with which no listener works, is left out.
    #[must_use]
    pub fn of(plan: &TlsServer) -> Vec<Self> {
        let all = ClientPolicies::of(plan).flatten();
        let mut lists: Vec<_> = all.flat_map(Self::of_auth).collect();
        lists.sort_unstable();
        lists.dedup();
        lists
    }

    /// Likewise of some clients.
    pub fn of_auth(auth: &ClientAuth) -> impl Iterator<Item = Self> {
        let is_enforced = auth.overdue == OverdueCrl::Refuse;
        auth.revoked.iter().filter_map(move |der| {
            let (next_update, issuer) = parse(der)?;
            Some(Self {
                next_update,
                issuer,
                is_enforced,
            })
        })
    }

    /// What is to be said of it at `now`, in words, if there is anything.
    #[must_use]
    pub fn fault(&self, now: SystemTime) -> Option<&'static str> {
        let is_near = now + Self::NOTICE >= self.next_update;
        match (now >= self.next_update, is_near, self.is_enforced) {
            (false, false, _) => None,
            (true, _, true) => Some(
                "is overdue, so its authority's clients are refused: renew the file, or set \
                 crl_overdue: use",
            ),
            (true, _, false) => Some("is overdue, and counts on as crl_overdue says"),
            (false, true, true) => Some(
                "will be overdue within a day, and then its authority's clients are refused: renew \
                 the file",
            ),
            (false, true, false) => Some("will be overdue within a day"),
        }
    }

    /// When there will be something else to say of it, after `now`.
    #[must_use]
    pub fn next_change(&self, now: SystemTime) -> Option<SystemTime> {
        let notice = self.next_update.checked_sub(Self::NOTICE);
        let moments = notice.into_iter().chain([self.next_update]);
        moments.filter(|it| *it > now).min()
    }
}

/// nextUpdate and issuer of a list. Version, signature, issuer and thisUpdate come before it.
fn parse(der: &[u8]) -> Option<(SystemTime, String)> {
    let (SEQUENCE, list) = Der(der).next()? else {
        return None;
    };
    let (SEQUENCE, signed) = Der(list).next()? else {
        return None;
    };
    let mut fields = Der(signed);
    if fields.next_is(INTEGER) {
        fields.next()?;
    }
    fields.next()?;
    let (_, issuer) = fields.next()?;
    fields.next()?;
    Some((time(fields.next())?, distinguished_name(issuer)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{
        CertificateParams, CertificateRevocationListParams, DnType, Issuer, KeyIdMethod, KeyPair,
        KeyUsagePurpose, SerialNumber, date_time_ymd,
    };

    use super::*;

    fn list() -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "Some authority");
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2024, 3, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::new(params, KeyPair::generate().unwrap());
        list.signed_by(&issuer).unwrap().der().to_vec()
    }

    fn auth(overdue: OverdueCrl) -> ClientAuth {
        ClientAuth {
            required: true,
            roots: Arc::default(),
            revoked: Arc::new([list(), b"none".to_vec()]),
            overdue,
            depth: 1,
        }
    }

    #[test]
    fn a_list_is_talked_of_before_it_is_overdue_and_after() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_251_200);
        let second = Duration::from_secs(1);
        let mut plan = TlsServer::new(Vec::new());
        plan.client_auth = Some(auth(OverdueCrl::Refuse));
        let lists = RevocationList::of(&plan);
        assert_eq!(lists.len(), 1);
        let list = &lists[0];
        assert_eq!(
            (list.next_update, &*list.issuer),
            (end, "CN=Some authority")
        );
        let near = end - RevocationList::NOTICE;
        assert_eq!(list.fault(near - second), None);
        assert!(list.fault(near).unwrap().contains("will be"));
        assert!(list.fault(end).unwrap().contains("are refused"));
        assert_eq!(list.next_change(near - second), Some(near));
        assert_eq!(list.next_change(near), Some(end));
        assert_eq!(list.next_change(end), None);
        let used = RevocationList::of_auth(&auth(OverdueCrl::Use)).next();
        assert!(used.unwrap().fault(end).unwrap().contains("counts on"));
    }

    #[test]
    fn a_broken_list_is_read_without_a_panic() {
        let whole = list();
        for at in 0..whole.len() {
            let _ = parse(&whole[..at]);
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            let _ = parse(&changed);
        }
    }
}
