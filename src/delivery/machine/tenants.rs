//! Tenants: how many subscriptions each has, and, for those that metrics may name, what comes of them.
//!
//! Owns the quota of tenants. Who may be named, and how many, is decided by whoever tells the metrics.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::{Code, Problem};

/// What has come of a tenant, since this node owns the partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TenantTotals {
    /// Changes read.
    pub changes: u64,
    /// Pairs of one and a subscription that it concerns.
    pub matches: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tenants {
    subscriptions: HashMap<Arc<str>, usize>,
    named: BTreeMap<Arc<str>, TenantTotals>,
    others: TenantTotals,
}

impl Tenants {
    /// From now on what comes of these is counted for each by itself.
    pub(super) fn name(&mut self, names: impl IntoIterator<Item = Arc<str>>) {
        for name in names {
            self.named.entry(name).or_default();
        }
    }

    /// Those that have subscriptions.
    pub(super) fn present(&self) -> impl Iterator<Item = &Arc<str>> {
        self.subscriptions.keys()
    }

    /// Whether the tenant may have one more subscription.
    pub(super) fn check(&self, tenant: &str, quota: usize) -> Result<(), Problem> {
        if self.subscriptions.get(tenant).is_some_and(|count| *count >= quota) {
            let detail = format!("the tenant has {quota} subscriptions, its quota");
            return Err(Problem::new(Code::TenantQuotaExceeded, detail).retry_after(60));
        }
        Ok(())
    }

    /// Counts a subscription under its tenant.
    pub(super) fn count(&mut self, tenant: &Arc<str>) {
        *self.subscriptions.entry(Arc::clone(tenant)).or_default() += 1;
    }

    pub(super) fn discount(&mut self, tenant: &Arc<str>) {
        if let Some(count) = self.subscriptions.get_mut(tenant) {
            *count -= 1;
            if *count == 0 {
                self.subscriptions.remove(tenant);
            }
        }
    }

    /// A change of this tenant has been matched.
    pub(super) fn matched(&mut self, tenant: Option<&str>, matches: u64) {
        if self.named.is_empty() {
            return;
        }
        let named = tenant.and_then(|tenant| self.named.get_mut(tenant));
        let totals = named.unwrap_or(&mut self.others);
        totals.changes += 1;
        totals.matches += matches;
    }

    /// Those that are named, and, without a name, all others together; nothing where none is named.
    pub(super) fn totals(&self) -> impl Iterator<Item = (Option<&Arc<str>>, TenantTotals)> {
        let others = (!self.named.is_empty()).then_some((None, self.others));
        self.named.iter().map(|(name, totals)| (Some(name), *totals)).chain(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_named_are_counted_by_themselves_and_all_others_together() {
        let name = |tenant: &str| Arc::<str>::from(tenant);
        let mut tenants = Tenants::default();
        for tenant in ["a", "a", "b", "c"] {
            tenants.count(&name(tenant));
        }
        tenants.matched(Some("a"), 1);
        assert_eq!(tenants.totals().count(), 0, "none is named");
        tenants.name([name("a"), name("b")]);
        tenants.name([name("a")]);
        tenants.discount(&name("b"));
        for (tenant, matches) in [(Some("a"), 2), (Some("b"), 0), (Some("c"), 1), (Some("d"), 1), (None, 0)] {
            tenants.matched(tenant, matches);
        }
        let totals = |changes, matches| TenantTotals { changes, matches };
        let told: Vec<_> = tenants.totals().map(|(tenant, totals)| (tenant.map(|it| &**it), totals)).collect();
        assert_eq!(told, [(Some("a"), totals(1, 2)), (Some("b"), totals(1, 0)), (None, totals(3, 2))]);
        assert!(tenants.check("a", 2).is_err() && tenants.check("a", 3).is_ok() && tenants.check("b", 1).is_ok());
        assert_eq!(tenants.present().count(), 2);
    }
}
