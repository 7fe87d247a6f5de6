//! `fo` and `ovf`: in the order of the weights, the first that can take it.
//!
//! Invariant: of equal weights, the one that the plan names first comes first.
//! Read next: ip_vs_fo.c and ip_vs_ovf.c of Linux, whose rules these are.

use super::Ask;

/// The members by weight, the highest first.
#[derive(Debug)]
pub(super) struct Priority {
    order: Box<[u16]>,
    /// Whether a member that has more in flight than its weight is passed over.
    overflows: bool,
}

impl Priority {
    /// `fo`.
    pub(super) fn failover(weights: &[u16]) -> Self {
        Self::new(weights, false)
    }

    /// `ovf`. When all have more in flight than their weights, none takes more, as in IPVS.
    pub(super) fn overflow(weights: &[u16]) -> Self {
        Self::new(weights, true)
    }

    fn new(weights: &[u16], overflows: bool) -> Self {
        let mut order: Box<[u16]> = (0..weights.len() as u16).collect();
        order.sort_by_key(|&position| std::cmp::Reverse(weights[usize::from(position)]));
        Self { order, overflows }
    }

    #[inline]
    pub(super) fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let takes = |position: &usize| {
            let weight = u64::from(ask.members[*position].weight);
            ask.may(*position) && !(self.overflows && ask.load(*position) > weight)
        };
        self.order.iter().map(|&it| usize::from(it)).find(takes)
    }
}
