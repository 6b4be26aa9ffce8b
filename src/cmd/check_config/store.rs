//! The store: whether what must survive can be kept there.
//!
//! Owns the judgement of etcd and of the embedded store's file; `store` looks at them.

use std::time::Duration;

use super::table::Finding;
use crate::clock::Clock;
use crate::config::{Config, StoreKind, without_password};
use crate::hub;
use crate::store::etcd;
use crate::store::etcd::inspect::{Alarm, Answer, Cluster, Compaction, Inspection, Member};
use crate::store::redb::inspect::{FileState, inspect as look_at_file};

/// What etcd's database may be where nobody has set it.
const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;
/// A database fuller than this is warned of, in percent.
const FULL_PERCENT: u64 = 80;
/// Whoever has so many revisions and still the first one does not compact.
const REVISIONS_WITHOUT_COMPACTION: i64 = 10_000;
/// What the hub has been tried with.
const ETCD_VERSION_LEAST: (u32, u32) = (3, 4);

/// Looks at it. `runs` says that a hub of this configuration seems to run already.
pub(super) async fn check(config: &Config, runs: bool, clock: &Clock, patience: Duration) -> Vec<Finding> {
    let store = &config.store;
    match store.kind {
        StoreKind::Etcd => {
            of_etcd(&etcd::inspect::inspect(&hub::etcd_config(store), clock, patience).await, &store.prefix)
        }
        StoreKind::Redb => {
            let path = store.path.clone();
            let looked = tokio::task::spawn_blocking(move || look_at_file(&path)).await;
            let looked = looked.unwrap_or_else(|error| Err(error.to_string()));
            vec![of_redb(looked, &store.path.display().to_string(), runs)]
        }
    }
}

fn of_redb(looked: Result<FileState, String>, target: &str, runs: bool) -> Finding {
    let check = "store.redb";
    match looked {
        Ok(FileState::Absent) => Finding::ok(check, target, "is not there yet; the hub makes it"),
        Ok(FileState::Sound(records)) => Finding::ok(check, target, format!("can be opened; {records} records")),
        Ok(FileState::Unclosed) => {
            Finding::ok(check, target, "was not closed by the hub that had it; the next one puts it in order")
        }
        Ok(FileState::InUse) if runs => Finding::ok(check, target, "in use by a running hub"),
        Ok(FileState::InUse) => {
            let detail = "in use by a running hub, though none answers at http.listen; no second one can open it";
            Finding::warning(check, target, detail).remedy(format!("fuser -v '{target}'   # whose it is"))
        }
        Err(error) => Finding::failed(check, target, error)
            .remedy("set store.path to a file in a folder that the hub's user may write"),
    }
}

fn of_etcd(inspection: &Inspection, prefix: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        inspection.endpoints.iter().flat_map(|(endpoint, answer)| of_endpoint(endpoint, answer)).collect();
    let there = || inspection.endpoints.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    if let Some(first) = there().next()
        && let Some((other, _)) = inspection
            .endpoints
            .iter()
            .find(|(_, answer)| answer.as_ref().is_ok_and(|one| one.cluster != first.cluster))
    {
        let detail = "belongs to another cluster than the first endpoint; hubs would not see each other's writes";
        findings.push(
            Finding::failed("etcd.cluster", without_password(other), detail)
                .remedy("name members of one cluster in store.endpoints"),
        );
    }
    let Some(cluster) = &inspection.cluster else { return findings };
    let Cluster { members, alarms, compaction, round_trip } = cluster;
    findings.push(of_members(members));
    findings.push(of_space(alarms, there().map(|member| (member.db_bytes, member.quota_bytes)).max()));
    findings.push(of_compaction(compaction));
    findings.push(match round_trip {
        Ok(took) => {
            let detail = format!("a key was written under a lease, read and deleted in {} ms", took.as_millis());
            Finding::ok("etcd.write", prefix, detail)
        }
        Err(error) => {
            Finding::failed("etcd.write", prefix, format!("a key cannot be written, read and deleted: {error}"))
                .remedy(format!("etcdctl put {prefix}/check/by-hand x   # says the same; see the other checks of etcd"))
        }
    });
    findings
}

fn of_endpoint(endpoint: &str, answer: &Answer<Member>) -> Vec<Finding> {
    let target = without_password(endpoint);
    let member = match answer {
        Err(error) => {
            return vec![
                Finding::failed("etcd.reachable", &target, error)
                    .remedy(format!("etcdctl --endpoints={target} endpoint status   # or correct store.endpoints")),
            ];
        }
        Ok(member) => member,
    };
    let version = &member.version;
    let reached = format!("etcd {version}");
    vec![if !member.has_leader {
        let detail = format!("{reached}, and the member knows no leader: nothing can be written");
        Finding::failed("etcd.reachable", &target, detail)
            .remedy(format!("etcdctl --endpoints={target} endpoint status --cluster   # start those that are missing"))
    } else if member.is_learner {
        Finding::warning("etcd.reachable", &target, format!("{reached}, and the member only learns: it refuses reads"))
            .remedy("etcdctl member promote ID")
    } else if super::mongo::version(version).is_some_and(|version| version < ETCD_VERSION_LEAST) {
        let (major, minor) = ETCD_VERSION_LEAST;
        Finding::warning("etcd.reachable", &target, format!("{reached}; the hub has been tried with {major}.{minor}"))
            .remedy(format!("upgrade etcd to {major}.{minor} or later"))
    } else {
        Finding::ok("etcd.reachable", &target, reached)
    }]
}

fn of_members(members: &Answer<Vec<String>>) -> Finding {
    let check = "etcd.members";
    let add = "etcdctl member add NAME --peer-urls=URL   # three members bear the loss of one";
    match members {
        Err(error) => {
            Finding::warning(check, "-", format!("the members cannot be listed: {error}")).remedy("etcdctl member list")
        }
        Ok(names) => {
            let all = names.join(", ");
            match names.len() {
                0 | 1 => {
                    Finding::warning(check, all, "one member: while it is away no hub registers or stores anything")
                        .remedy(add)
                }
                2 => Finding::warning(check, all, "two members: nothing is stored while either is away").remedy(add),
                count => Finding::ok(check, all, format!("{count} members bear the loss of {}", (count - 1) / 2)),
            }
        }
    }
}

fn of_space(alarms: &Answer<Vec<Alarm>>, largest: Option<(u64, Option<u64>)>) -> Finding {
    let check = "etcd.space";
    let compact = "etcdctl compact $(etcdctl endpoint status -w json | grep -o '\"revision\":[0-9]*' | head -1 | cut -d: -f2) \
                   && etcdctl defrag";
    let alarms = match alarms {
        Ok(alarms) => alarms,
        Err(error) => {
            return Finding::warning(check, "-", format!("alarms cannot be listed: {error}"))
                .remedy("etcdctl alarm list");
        }
    };
    if alarms.contains(&Alarm::NoSpace) {
        return Finding::failed(
            check,
            "-",
            "alarm NOSPACE: the database is as large as it may be, so nothing is written",
        )
        .remedy(format!("{compact} && etcdctl alarm disarm   # then --quota-backend-bytes and auto-compaction"));
    }
    if alarms.contains(&Alarm::Corrupt) {
        return Finding::failed(check, "-", "alarm CORRUPT: members hold different data")
            .remedy("etcdctl alarm list   # replace the member that it names");
    }
    let Some((bytes, quota)) = largest else { return Finding::skipped(check, "-", "no member tells") };
    let most = quota.unwrap_or(QUOTA_BYTES_DEFAULT);
    let by_default = if quota.is_none() { " by default" } else { "" };
    let detail = format!("{} KiB of the {} MiB that it may be{by_default}; no alarm", bytes >> 10, most >> 20);
    if bytes * 100 >= most.saturating_mul(FULL_PERCENT) {
        return Finding::warning(check, "-", detail).remedy(compact);
    }
    Finding::ok(check, "-", detail)
}

fn of_compaction(compaction: &Answer<Compaction>) -> Finding {
    let check = "etcd.compaction";
    match compaction {
        Err(error) => Finding::skipped(check, "-", format!("cannot be told: {error}")),
        Ok(Compaction { has_first: false, revision }) => {
            Finding::ok(check, "-", format!("old revisions are given up; now {revision}"))
        }
        Ok(Compaction { revision, .. }) if *revision < REVISIONS_WITHOUT_COMPACTION => Finding::skipped(
            check,
            "-",
            format!("cannot be told yet: revision {revision}, and the first is still kept"),
        ),
        Ok(Compaction { revision, .. }) => {
            let detail = format!("nobody compacts: all {revision} revisions are kept, until there is no space");
            Finding::warning(check, "-", detail)
                .remedy("etcd --auto-compaction-mode=periodic --auto-compaction-retention=1h")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::check_config::table::Outcome;

    fn member() -> Member {
        Member {
            version: "3.5.9".into(),
            cluster: 1,
            has_leader: true,
            is_learner: false,
            db_bytes: 1 << 20,
            quota_bytes: None,
        }
    }

    fn result_of(member: Member) -> Outcome {
        of_endpoint("http://etcd:2379", &Ok(member))[0].result
    }

    #[test]
    fn a_member_is_judged_by_what_it_says() {
        assert_eq!(result_of(member()), Outcome::Ok);
        assert_eq!(result_of(Member { has_leader: false, ..member() }), Outcome::Failed);
        assert_eq!(result_of(Member { is_learner: true, ..member() }), Outcome::Warning);
        assert_eq!(result_of(Member { version: "3.3.27".into(), ..member() }), Outcome::Warning);
        assert_eq!(result_of(Member { version: "4.0.0".into(), ..member() }), Outcome::Ok);
        let away = of_endpoint("http://u:s3cret@etcd:2379", &Err("refused".into()));
        assert_eq!((away[0].result, away[0].target.as_str()), (Outcome::Failed, "http://u:***@etcd:2379"));
        assert!(!away[0].remedy.as_ref().unwrap().contains("s3cret"));
    }

    #[test]
    fn two_clusters_are_a_fault() {
        let endpoint = |name: &str, cluster| (name.to_owned(), Ok(Member { cluster, ..member() }));
        let look = |endpoints| of_etcd(&Inspection { endpoints, cluster: None }, "/streamer");
        assert_eq!(look(vec![endpoint("http://a:1", 1), endpoint("http://b:1", 1)]).len(), 2);
        let torn = look(vec![endpoint("http://a:1", 1), endpoint("http://b:1", 2)]);
        assert_eq!((torn[2].check, torn[2].target.as_str()), ("etcd.cluster", "http://b:1"));
    }

    #[test]
    fn members_space_and_compaction_are_judged() {
        let names = |count: usize| Ok(vec!["m".to_owned(); count]);
        let results: Vec<_> = [1, 2, 3, 5].map(|count| of_members(&names(count)).result).into();
        assert_eq!(results, [Outcome::Warning, Outcome::Warning, Outcome::Ok, Outcome::Ok]);
        let space = |alarms: &[Alarm], bytes, quota| of_space(&Ok(alarms.to_vec()), Some((bytes, quota))).result;
        assert_eq!(space(&[], 1 << 30, None), Outcome::Ok);
        assert_eq!(space(&[], 1_900 << 20, None), Outcome::Warning);
        assert_eq!(space(&[], 1_900 << 20, Some(8 << 30)), Outcome::Ok);
        assert_eq!(space(&[Alarm::NoSpace], 0, None), Outcome::Failed);
        assert_eq!(space(&[Alarm::Corrupt], 0, None), Outcome::Failed);
        let compaction = |revision, has_first| of_compaction(&Ok(Compaction { revision, has_first })).result;
        assert_eq!(compaction(1_000_000, false), Outcome::Ok);
        assert_eq!(compaction(5, true), Outcome::Skipped);
        assert_eq!(compaction(1_000_000, true), Outcome::Warning);
    }

    #[test]
    fn a_file_in_use_is_this_hubs_or_told() {
        assert_eq!(of_redb(Ok(FileState::InUse), "f", true).result, Outcome::Ok);
        assert_eq!(of_redb(Ok(FileState::InUse), "f", false).result, Outcome::Warning);
        assert_eq!(of_redb(Err("no".into()), "f", false).result, Outcome::Failed);
        assert_eq!(of_redb(Ok(FileState::Unclosed), "f", false).result, Outcome::Ok);
    }
}
