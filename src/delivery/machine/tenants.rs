//! Tenants: how many subscriptions each has, and, for those that metrics may name, what comes of them.
//!
//! Owns the quota of tenants and the bound on names in metrics.

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

#[derive(Debug)]
pub(super) struct Tenants {
    subscriptions: HashMap<Arc<str>, usize>,
    /// So many have a name in metrics: the first that have subscriptions. It stays, so that no counter goes away.
    named_max: usize,
    named: BTreeMap<Arc<str>, TenantTotals>,
    others: TenantTotals,
}

impl Tenants {
    pub(super) fn new(named_max: usize) -> Self {
        Self { subscriptions: HashMap::new(), named_max, named: BTreeMap::new(), others: TenantTotals::default() }
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
        if self.named.len() < self.named_max {
            self.named.entry(Arc::clone(tenant)).or_default();
        }
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
        if self.named_max == 0 {
            return;
        }
        let named = tenant.and_then(|tenant| self.named.get_mut(tenant));
        let totals = named.unwrap_or(&mut self.others);
        totals.changes += 1;
        totals.matches += matches;
    }

    /// Those that metrics name, and, without a name, all others together; nothing where none is named.
    pub(super) fn totals(&self) -> impl Iterator<Item = (Option<&Arc<str>>, TenantTotals)> {
        let others = (self.named_max > 0).then_some((None, self.others));
        self.named.iter().map(|(name, totals)| (Some(name), *totals)).chain(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_names_than_are_allowed_and_all_others_together() {
        let name = |tenant: &str| Arc::<str>::from(tenant);
        let mut tenants = Tenants::new(2);
        for tenant in ["a", "a", "b", "c"] {
            tenants.count(&name(tenant));
        }
        tenants.discount(&name("b"));
        tenants.count(&name("d"));
        for (tenant, matches) in [(Some("a"), 2), (Some("b"), 0), (Some("c"), 1), (Some("d"), 1), (None, 0)] {
            tenants.matched(tenant, matches);
        }
        let totals = |changes, matches| TenantTotals { changes, matches };
        let told: Vec<_> = tenants.totals().map(|(tenant, totals)| (tenant.map(|it| &**it), totals)).collect();
        assert_eq!(told, [(Some("a"), totals(1, 2)), (Some("b"), totals(1, 0)), (None, totals(3, 2))]);
        assert!(tenants.check("a", 2).is_err() && tenants.check("a", 3).is_ok() && tenants.check("b", 1).is_ok());
    }

    #[test]
    fn none_is_named_unless_it_is_wanted() {
        let mut tenants = Tenants::new(0);
        tenants.count(&Arc::from("a"));
        tenants.matched(Some("a"), 1);
        assert_eq!(tenants.totals().count(), 0);
    }
}
