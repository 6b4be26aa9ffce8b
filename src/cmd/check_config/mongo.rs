//! The backends: whether their changes can be read, and what they will lack.
//!
//! Owns the judgement and the commands that mend; `source::mongo` looks at the deployment.

use std::time::Duration;

use futures::future::join_all;

use super::table::Finding;
use crate::clock::Clock;
use crate::config::{Backend, Config};
use crate::hub;
use crate::source::mongo::{
    Answer, Inspection, MongoSource, NoAnswer, Oplog, Reach, Refused, Split, Unfit, User, Watch,
};
use crate::source::{SourceError, SourceWarning};
use crate::tasks::Tasks;

/// The first version that records pre-images and post-images.
const VERSION_LEAST: (u32, u32) = (6, 0);
/// Positions carry the server's time, lags and `startAt` are told by this machine's: off by more, they mislead,
const SKEW_MILLIS_WARNED: u64 = 1_000;
/// and by so much that a clock is broken.
const SKEW_MILLIS_MAX: u64 = 10_000;
/// A gateway or a hub may be away for a day.
const OPLOG_HOURS_LEAST: f64 = 24.0;
/// An oplog that young and that empty does not tell how far it will reach back.
const OPLOG_SECONDS_YOUNG: u32 = 3_600;
/// Collections without images that are listed one by one.
const COLLECTIONS_LISTED: usize = 20;

/// Looks at all backends at once.
pub(super) async fn check(config: &Config, tasks: &Tasks, clock: &Clock, patience: Duration) -> Vec<Finding> {
    let backends = config.backends.0.iter().enumerate();
    let checked = backends.map(|(number, backend)| one(number, backend, tasks, clock, patience));
    join_all(checked).await.concat()
}

async fn one(number: usize, backend: &Backend, tasks: &Tasks, clock: &Clock, patience: Duration) -> Vec<Finding> {
    let about = About { number, backend };
    // What it asks for is the same in all partitions.
    let split = Split { number: 0, count: backend.partitions };
    let source = match hub::mongo_config(backend, split, None) {
        Ok(source) => source,
        Err(error) => {
            return vec![
                Finding::failed("mongodb.layout", about.name(), error.to_string())
                    .remedy(format!("correct {}", about.setting("layout"))),
            ];
        }
    };
    match MongoSource::inspect(source, tasks.clone(), clock, backend.heartbeat_writes, patience).await {
        Ok(inspection) => about.judge(&inspection),
        Err(refused) => vec![about.refused(&refused)],
    }
}

/// Which backend.
struct About<'a> {
    number: usize,
    backend: &'a Backend,
}

impl About<'_> {
    fn name(&self) -> String {
        format!("backend {}", self.backend.name)
    }

    fn setting(&self, field: &str) -> String {
        format!("backends[{}].{field}", self.number)
    }

    fn refused(&self, refused: &Refused) -> Finding {
        let uri = self.setting("uri");
        match refused {
            Refused::Unfit(unfit) => {
                Finding::failed("mongodb.replica-set", self.name(), unfit.to_string()).remedy(match unfit {
                    Unfit::Mongos => format!("set {uri} to the members of a replica set"),
                    Unfit::NotInitiated => "rs.initiate()".into(),
                    Unfit::Standalone => {
                        "mongod --replSet rs0 with its other options as they are; then once: rs.initiate()".into()
                    }
                    Unfit::OtherName { name, .. } => format!("set replicaSet={name} in {uri}"),
                })
            }
            Refused::Other(error) => {
                let finding = Finding::failed("mongodb.reachable", self.name(), error.to_string());
                match error {
                    SourceError::Unavailable(_) => finding.remedy(format!("start MongoDB, or correct {uri}")),
                    _ => finding.remedy(format!("correct {uri}")),
                }
            }
        }
    }

    fn judge(&self, found: &Inspection) -> Vec<Finding> {
        let user = found.user.as_ref().ok().and_then(Option::as_ref);
        let mut findings = vec![
            Finding::ok(
                "mongodb.reachable",
                self.name(),
                match user {
                    Some(User { name, database }) => format!("answers; the hub is the user {name} of {database}"),
                    None => "answers; the hub has no user there".into(),
                },
            ),
            Finding::ok("mongodb.replica-set", self.name(), "its primary answers"),
            self.version(&found.version),
            self.feature_version(&found.feature_version, &found.version, user),
            self.clock(&found.skew_millis),
            self.stream(&found.stream, user),
            self.oplog(&found.oplog, user),
            self.identity(&found.identity, user),
        ];
        findings.extend(self.images(&found.collections, user));
        findings.push(self.image_expiry(&found.image_seconds, &found.oplog, user));
        findings.extend(found.heartbeats.as_ref().map(|(database, written)| self.heartbeats(database, written, user)));
        findings
    }

    fn version(&self, answer: &Answer<String>) -> Finding {
        let check = "mongodb.version";
        match answer {
            Ok(text) if version(text).is_some_and(|version| version >= VERSION_LEAST) => {
                Finding::ok(check, self.name(), format!("MongoDB {text}"))
            }
            Ok(text) => Finding::failed(check, self.name(), format!("MongoDB {text}, and 6.0 or later is needed"))
                .remedy("upgrade MongoDB to 6.0 or later"),
            Err(error) => Finding::warning(check, self.name(), unanswered(error, "tell its version")),
        }
    }

    fn feature_version(&self, answer: &Answer<String>, server: &Answer<String>, user: Option<&User>) -> Finding {
        let check = "mongodb.feature-version";
        match answer {
            Ok(text) if version(text).is_some_and(|version| version >= VERSION_LEAST) => {
                Finding::ok(check, self.name(), format!("featureCompatibilityVersion {text}"))
            }
            Ok(text) => {
                let (major, minor) = server.as_ref().ok().and_then(|text| version(text)).unwrap_or(VERSION_LEAST);
                let confirmed = if major >= 7 { ", confirm: true" } else { "" };
                let detail = format!("featureCompatibilityVersion {text}: images can be recorded from 6.0 on");
                Finding::warning(check, self.name(), detail).remedy(format!(
                    "db.adminCommand({{ setFeatureCompatibilityVersion: \"{major}.{minor}\"{confirmed} }})"
                ))
            }
            Err(NoAnswer::Forbidden) => {
                Finding::skipped(check, self.name(), "the user may not ask for it (needs getParameter on the cluster)")
                    .remedy(self.grant(user, &[MONITOR]))
            }
            Err(error) => Finding::skipped(check, self.name(), unanswered(error, "tell it")),
        }
    }

    fn clock(&self, answer: &Answer<(i64, u64)>) -> Finding {
        let check = "mongodb.clock";
        let (skew, give) = match answer {
            Ok(found) => *found,
            Err(error) => return Finding::skipped(check, self.name(), unanswered(error, "tell its time")),
        };
        let side = if skew < 0 { "behind" } else { "ahead of" };
        let detail = format!("the server's clock is {} ms {side} this machine's, give or take {give} ms", skew.abs());
        let least = skew.unsigned_abs().saturating_sub(give);
        if least <= SKEW_MILLIS_WARNED {
            return Finding::ok(check, self.name(), detail);
        }
        let finding = match least <= SKEW_MILLIS_MAX {
            true => Finding::warning(check, self.name(), detail),
            false => Finding::failed(check, self.name(), detail),
        };
        finding.remedy("timedatectl set-ntp true   # here and there; chronyc tracking says which of them is wrong")
    }

    fn stream(&self, answer: &Answer<Reach>, user: Option<&User>) -> Finding {
        let check = "mongodb.change-stream";
        let database = self.backend.database.as_deref();
        match answer {
            Ok(reach) => Finding::ok(
                check,
                self.name(),
                match (reach, database) {
                    (Reach::Database, Some(database)) => format!("can be read of the database {database}"),
                    (Reach::Deployment, Some(database)) => {
                        format!("can be read of the deployment, of which the hub takes the database {database}")
                    }
                    _ => "can be read of the whole deployment".into(),
                },
            ),
            Err(NoAnswer::Forbidden) => {
                let of = database.map_or_else(|| "every database".to_owned(), |name| format!("the database {name}"));
                let detail = format!("the user may not read it (needs changeStream and find on {of})");
                Finding::failed(check, self.name(), detail).remedy(self.grant(user, &[self.reading_role()]))
            }
            Err(error) => Finding::failed(check, self.name(), unanswered(error, "open it"))
                .remedy("rs.status()   # a primary and a majority are needed"),
        }
    }

    fn oplog(&self, answer: &Answer<Oplog>, user: Option<&User>) -> Finding {
        let check = "mongodb.oplog";
        let oplog = match answer {
            Ok(oplog) => oplog,
            Err(NoAnswer::Forbidden) => {
                let detail = "the user may not look at it (needs find on local.oplog.rs), so the hub cannot tell how \
                              long it may be away";
                return Finding::warning(check, self.name(), detail).remedy(self.grant(user, &[MONITOR]));
            }
            Err(error) => return Finding::warning(check, self.name(), unanswered(error, "tell how far it goes back")),
        };
        match reach_of(oplog) {
            (true, detail) => Finding::ok(check, self.name(), detail),
            (false, detail) => {
                let detail = format!("{detail}; who is away for longer loses changes, and is told to resync");
                let hours = OPLOG_HOURS_LEAST;
                Finding::warning(check, self.name(), detail).remedy(format!(
                    "db.adminCommand({{ replSetResizeOplog: 1, minRetentionHours: {hours:.0} }})   # on each member"
                ))
            }
        }
    }

    fn identity(&self, answer: &Answer<Option<String>>, user: Option<&User>) -> Finding {
        let check = "mongodb.identity";
        let unnoticed = "the hub does not notice by it that a restored or another deployment has taken its place";
        match answer {
            Ok(Some(id)) => Finding::ok(check, self.name(), format!("replica set {id}")),
            Ok(None) => Finding::skipped(check, self.name(), format!("the replica set has no id; {unnoticed}")),
            Err(NoAnswer::Forbidden) => {
                let detail =
                    format!("the user may not ask for it (needs replSetGetConfig on the cluster); {unnoticed}");
                Finding::warning(check, self.name(), detail).remedy(self.grant(user, &[MONITOR]))
            }
            Err(error) => Finding::warning(check, self.name(), unanswered(error, "tell it")),
        }
    }

    /// One line for all that record images, one for each that does not, up to a number.
    fn images(&self, answer: &Answer<Vec<Watch>>, user: Option<&User>) -> Vec<Finding> {
        let check = "mongodb.images";
        let collections = match answer {
            Ok(collections) => collections,
            Err(NoAnswer::Forbidden) => {
                let detail = "the user may not list collections (needs listCollections), so nobody is warned of those \
                              that record no images";
                return vec![
                    Finding::warning(check, self.name(), detail).remedy(self.grant(user, &[self.reading_role()])),
                ];
            }
            Err(error) => return vec![Finding::warning(check, self.name(), unanswered(error, "list collections"))],
        };
        if collections.is_empty() {
            return vec![Finding::skipped(check, self.name(), "there is no collection to be watched yet")];
        }
        let (on, off): (Vec<_>, Vec<_>) = collections.iter().partition(|collection| collection.records);
        let mut findings = Vec::new();
        if !on.is_empty() {
            let what =
                if on.len() == 1 { "1 collection records".into() } else { format!("{} collections record", on.len()) };
            findings.push(Finding::ok(check, self.name(), format!("{what} pre-images and post-images")));
        }
        findings.extend(off.iter().take(COLLECTIONS_LISTED).map(|collection| without_images(check, collection)));
        if let Some(next) = off.get(COLLECTIONS_LISTED) {
            let detail = format!("{} more record no images", off.len() - COLLECTIONS_LISTED);
            let database = quoted(next.database.as_deref().unwrap_or("DATABASE"));
            findings.push(Finding::warning(check, self.name(), detail).remedy(format!(
                "db.getSiblingDB({database}).getCollectionInfos({{ type: \"collection\" }}).filter(c => \
                 !c.name.startsWith(\"system.\")).forEach(c => db.getSiblingDB({database}).runCommand({{ collMod: \
                 c.name, changeStreamPreAndPostImages: {{ enabled: true }} }}))   # and of each other database"
            )));
        }
        findings
    }

    fn image_expiry(&self, answer: &Answer<Option<i64>>, oplog: &Answer<Oplog>, user: Option<&User>) -> Finding {
        let check = "mongodb.image-expiry";
        match (answer, oplog) {
            (Ok(None), _) => Finding::ok(check, self.name(), "images live as long as the oplog"),
            (Ok(Some(seconds)), Ok(oplog)) if *seconds < i64::from(oplog.seconds) => {
                let code = SourceWarning::ImagesExpireEarly.name();
                let (images, oplog) = (span(*seconds as f64), span(f64::from(oplog.seconds)));
                let detail = format!("{code}: images live for {images}, and the oplog goes back {oplog}");
                Finding::warning(check, self.name(), detail).remedy(
                    "db.adminCommand({ setClusterParameter: { changeStreamOptions: { preAndPostImages: { \
                     expireAfterSeconds: \"off\" } } } })",
                )
            }
            (Ok(Some(seconds)), _) => {
                Finding::ok(check, self.name(), format!("images live for {}", span(*seconds as f64)))
            }
            (Err(NoAnswer::Forbidden), _) => {
                let detail = "the user may not ask for it (needs getClusterParameter on the cluster)";
                Finding::skipped(check, self.name(), detail).remedy(self.grant_own(
                    user,
                    "streamerImages",
                    "{ cluster: true }",
                    "\"getClusterParameter\"",
                ))
            }
            (Err(error), _) => Finding::skipped(check, self.name(), unanswered(error, "tell it")),
        }
    }

    fn heartbeats(&self, database: &str, written: &Answer<()>, user: Option<&User>) -> Finding {
        let check = "mongodb.heartbeats";
        let place = format!("{database}.streamer.heartbeats");
        match written {
            Ok(()) => Finding::ok(check, self.name(), format!("{place} can be written")),
            Err(NoAnswer::Forbidden) => {
                let detail = format!("the user may not write {place} (needs insert and update there)");
                let resource = format!("{{ db: {}, collection: \"streamer.heartbeats\" }}", quoted(database));
                let role = self.grant_own(user, "streamerHeartbeats", &resource, "\"insert\", \"update\"");
                Finding::failed(check, self.name(), detail).remedy(role)
            }
            Err(error) => Finding::failed(check, self.name(), unanswered(error, &format!("write {place}")))
                .remedy(format!("set {} to false, or let the hub write", self.setting("heartbeat_writes"))),
        }
    }

    /// The role by which what is configured can be read.
    fn reading_role(&self) -> Role<'_> {
        self.backend.database.as_deref().map_or(READ_ALL, |database| Role { name: "read", database })
    }

    /// The command that gives the hub's user these roles.
    fn grant(&self, user: Option<&User>, roles: &[Role<'_>]) -> String {
        let all = |roles: &[Role<'_>]| roles.iter().map(Role::to_string).collect::<Vec<_>>().join(", ");
        match user {
            Some(User { name, database }) => {
                format!("db.getSiblingDB({}).grantRolesToUser({}, [{}])", quoted(database), quoted(name), all(roles))
            }
            None => format!(
                "db.getSiblingDB(\"admin\").createUser({{ user: \"streamer\", pwd: passwordPrompt(), roles: [{}] }})   \
                 # and put name and password into {}",
                all(&[self.reading_role(), MONITOR]),
                self.setting("uri")
            ),
        }
    }

    /// Likewise, where no role that MongoDB comes with allows just that.
    fn grant_own(&self, user: Option<&User>, role: &str, resource: &str, actions: &str) -> String {
        format!(
            "db.getSiblingDB(\"admin\").createRole({{ role: \"{role}\", privileges: [{{ resource: {resource}, actions: \
             [{actions}] }}], roles: [] }}); {}",
            self.grant(user, &[Role { name: role, database: "admin" }])
        )
    }
}

#[derive(Clone, Copy)]
struct Role<'a> {
    name: &'a str,
    database: &'a str,
}

/// May read all databases and their changes.
const READ_ALL: Role<'_> = Role { name: "readAnyDatabase", database: "admin" };
/// May see the oplog, the replica set's configuration and what is switched on.
const MONITOR: Role<'_> = Role { name: "clusterMonitor", database: "admin" };

impl std::fmt::Display for Role<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{{ role: {}, db: {} }}", quoted(self.name), quoted(self.database))
    }
}

fn without_images(check: &'static str, collection: &Watch) -> Finding {
    let Watch { database, name, exists, .. } = collection;
    let place = database.as_ref().map_or_else(|| name.clone(), |database| format!("{database}.{name}"));
    let database = quoted(database.as_deref().unwrap_or("DATABASE"));
    let codes = [SourceWarning::PostImagesOff.name(), SourceWarning::PreImagesOff.name()].join(", ");
    if !exists {
        let detail = format!("{codes}: does not exist, and will record no images if a write makes it");
        return Finding::warning(check, place, detail).remedy(format!(
            "db.getSiblingDB({database}).createCollection({}, {{ changeStreamPreAndPostImages: {{ enabled: true }} }})",
            quoted(name)
        ));
    }
    let detail =
        format!("{codes}: updates are looked up, deletes go to all who might have matched, a leave may go unseen");
    Finding::warning(check, place, detail).remedy(format!(
        "db.getSiblingDB({database}).runCommand({{ collMod: {}, changeStreamPreAndPostImages: {{ enabled: true }} }})",
        quoted(name)
    ))
}

/// Whether the oplog goes back far enough, and how far it does.
fn reach_of(oplog: &Oplog) -> (bool, String) {
    let seconds = f64::from(oplog.seconds);
    let reach = format!("goes back {}", span(seconds));
    let enough = |hours: f64| hours >= OPLOG_HOURS_LEAST;
    if let Some(hours) = oplog.kept_hours.filter(|hours| enough(*hours)) {
        return (true, format!("{reach}; everything is kept for {hours:.0} h"));
    }
    match oplog.fill {
        _ if enough(seconds / 3_600.0) => (true, reach),
        // Nothing is given up before it is full.
        Some((used, most)) if used.saturating_mul(10) < most.saturating_mul(9) => {
            let percent = used * 100 / most.max(1);
            if oplog.seconds < OPLOG_SECONDS_YOUNG && percent < 10 {
                return (true, format!("{reach}, {percent} % full: too young to tell how far it will"));
            }
            let full = seconds * most as f64 / used.max(1) as f64;
            let detail = format!("{reach}, {percent} % full: about {} when it is full, at this pace", span(full));
            (enough(full / 3_600.0), detail)
        }
        _ => (false, reach),
    }
}

fn span(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

fn unanswered(error: &NoAnswer, what: &str) -> String {
    match error {
        NoAnswer::Forbidden => format!("the user may not {what}"),
        NoAnswer::Failed(text) => text.clone(),
    }
}

/// A text as mongosh reads it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The first two numbers of a version.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-']).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::check_config::table::Outcome;

    const DAY: u32 = 86_400;

    #[test]
    fn a_version_is_compared_by_its_numbers() {
        assert_eq!(version("6.0.5"), Some((6, 0)));
        assert_eq!(version("10.1.0-rc1"), Some((10, 1)));
        assert!(version("10.0").unwrap() > version("6.3").unwrap());
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn an_oplog_is_judged_by_how_far_it_will_go_back() {
        let judged = |seconds, fill, kept_hours| reach_of(&Oplog { seconds, fill, kept_hours }).0;
        assert!(judged(DAY, None, None));
        assert!(!judged(DAY - 1, None, None));
        assert!(!judged(DAY / 2, Some((100, 100)), None), "it is full");
        assert!(judged(DAY / 2, Some((40, 100)), None), "it will be far enough when it is full");
        assert!(!judged(DAY / 2, Some((80, 100)), None), "it will not");
        assert!(judged(5, Some((1, 1_000)), None), "it has only begun");
        assert!(!judged(5, Some((1_000, 1_000)), None), "that is all it ever has");
        assert!(judged(5, Some((1_000, 1_000)), Some(24.0)), "it grows");
    }

    fn judged(skew: i64, give: u64) -> Outcome {
        let backend = Backend::default();
        About { number: 0, backend: &backend }.clock(&Ok((skew, give))).result
    }

    #[test]
    fn a_clock_is_judged_by_what_is_certain() {
        assert_eq!(judged(900, 0), Outcome::Ok);
        assert_eq!(judged(1_200, 300), Outcome::Ok, "the answer may have been late");
        assert_eq!(judged(-1_200, 100), Outcome::Warning);
        assert_eq!(judged(-10_500, 100), Outcome::Failed);
    }

    #[test]
    fn commands_name_the_user_the_database_and_the_collection() {
        let backend = Backend { database: Some("app".into()), ..Backend::default() };
        let about = About { number: 0, backend: &backend };
        let user = User { name: "o'hub \"x\"".into(), database: "users".into() };
        let denied = about.stream(&Err(NoAnswer::Forbidden), Some(&user));
        assert_eq!(
            denied.remedy.unwrap(),
            r#"db.getSiblingDB("users").grantRolesToUser("o'hub \"x\"", [{ role: "read", db: "app" }])"#
        );
        let nobody = about.stream(&Err(NoAnswer::Forbidden), None).remedy.unwrap();
        assert!(nobody.contains("createUser") && nobody.ends_with("into backends[0].uri"), "{nobody}");
        let images = about.image_expiry(&Err(NoAnswer::Forbidden), &Err(NoAnswer::Forbidden), Some(&user));
        assert!(images.remedy.unwrap().contains("createRole"));
    }

    #[test]
    fn many_collections_without_images_are_few_lines() {
        let backend = Backend::default();
        let about = About { number: 0, backend: &backend };
        let watch = |number: usize, records| Watch {
            database: Some("app".into()),
            name: format!("c{number}"),
            exists: true,
            records,
        };
        let of = |off: usize, on: usize| {
            let all = (0..off).map(|n| watch(n, false)).chain((0..on).map(|n| watch(off + n, true))).collect();
            about.images(&Ok(all), None)
        };
        assert_eq!(of(0, 0)[0].result, Outcome::Skipped);
        assert_eq!(of(0, 500).len(), 1);
        assert_eq!(of(20, 5).len(), 21);
        let many = of(300, 5);
        assert_eq!(many.len(), 22);
        assert!(many[21].detail.starts_with("280 more"));
        assert_eq!(
            many[1].remedy.as_deref(),
            Some(
                r#"db.getSiblingDB("app").runCommand({ collMod: "c0", changeStreamPreAndPostImages: { enabled: true } })"#
            )
        );
        let absent = Watch { exists: false, database: None, ..watch(1, false) };
        let absent = &about.images(&Ok(vec![absent]), None)[0];
        assert!(absent.remedy.as_ref().unwrap().contains("createCollection(\"c1\""));
    }

    #[test]
    fn images_that_go_before_the_oplog_are_warned_of() {
        let backend = Backend::default();
        let about = About { number: 0, backend: &backend };
        let oplog = Ok(Oplog { seconds: 100, fill: None, kept_hours: None });
        let result = |seconds| about.image_expiry(&Ok(seconds), &oplog, None).result;
        assert_eq!(result(None), Outcome::Ok);
        assert_eq!(result(Some(100)), Outcome::Ok);
        assert_eq!(result(Some(99)), Outcome::Warning);
    }
}
