//! Health: what works, what does not, and since when.
//!
//! Owns the states that components report and the answer that they add up to. Does not check anything
//! itself and knows nothing of HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use metrics::gauge;
use serde::{Serialize, Serializer};

use crate::clock::Clock;
use crate::observe::metrics::COMPONENT_STATUS;

/// How a component is, or all of them together. Worse is greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but somebody should look.
    Degraded,
    /// It does not work now.
    Failing,
}

/// All that components report, in one place. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    components: BTreeMap<String, Line>,
    condemned: Option<String>,
}

#[derive(Debug)]
struct Line {
    report: Report,
    /// It has reported nothing yet.
    is_starting: bool,
    /// One of several of which one alone is of use.
    is_one_of: bool,
}

/// What one component says of itself.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// How it is.
    pub status: Status,
    /// Why, unless all is well.
    pub reason: Option<String>,
    /// Since when it has been so; a new reason alone changes nothing here.
    #[serde(serialize_with = "rfc3339")]
    pub since: DateTime<Utc>,
}

/// The answer of `/health`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct View {
    /// The worst of all components; of the partitions, `degraded` while one of them works.
    pub status: Status,
    /// Whether the process can go on; otherwise only a restart helps.
    pub live: bool,
    /// Whether the process should be sent work.
    pub ready: bool,
    /// By name.
    pub components: BTreeMap<String, Report>,
}

fn rfc3339<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

impl Health {
    /// Nothing reported yet. Not ready until something is.
    pub fn new(clock: Clock) -> Self {
        Self { inner: Arc::new(Inner { clock, state: Mutex::default() }) }
    }

    /// Adds a component, which is `failing` ("starting") until it reports otherwise: the hub is not
    /// ready before all have.
    pub fn component(&self, name: impl Into<String>) -> Component {
        self.add(name.into(), false)
    }

    /// Likewise, one of several: once all of them have reported, the hub is ready if one of them works.
    pub fn one_of(&self, name: impl Into<String>) -> Component {
        self.add(name.into(), true)
    }

    fn add(&self, name: String, is_one_of: bool) -> Component {
        let reason = Some("starting".into());
        let report = Report { status: Status::Failing, reason, since: self.inner.clock.wall() };
        self.state().components.insert(name.clone(), Line { report, is_starting: true, is_one_of });
        Component { health: self.clone(), name }
    }

    /// Says that nothing but a restart will help.
    pub fn condemn(&self, reason: impl Into<String>) {
        self.state().condemned.get_or_insert(reason.into());
    }

    /// Whether the process can go on.
    pub fn is_live(&self) -> bool {
        self.state().condemned.is_none()
    }

    /// Whether the process should be sent work: live, and nothing fails.
    pub fn is_ready(&self) -> bool {
        self.state().is_ready()
    }

    /// Everything, at this moment.
    pub fn view(&self) -> View {
        let state = self.state();
        let lines = state.components.iter();
        let mut components: BTreeMap<_, _> = lines.map(|(name, line)| (name.clone(), line.report.clone())).collect();
        if let Some(reason) = &state.condemned {
            let since = self.inner.clock.wall();
            let report = Report { status: Status::Failing, reason: Some(reason.clone()), since };
            components.insert("process".to_owned(), report);
        }
        let status = if state.condemned.is_some() { Status::Failing } else { state.status() };
        View { status, live: state.condemned.is_none(), ready: state.is_ready(), components }
    }

    fn report(&self, name: &str, status: Status, reason: Option<String>) {
        let now = self.inner.clock.wall();
        let mut state = self.state();
        // One that was removed says no more.
        let Some(line) = state.components.get_mut(name) else { return };
        line.is_starting = false;
        gauge!(COMPONENT_STATUS, "component" => name.to_owned()).set(f64::from(status as u8));
        if line.report.status == status {
            line.report.reason = reason;
        } else {
            line.report = Report { status, reason, since: now };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_ready(&self) -> bool {
        let is_starting = self.components.values().any(|line| line.is_starting);
        self.condemned.is_none() && !is_starting && self.status() != Status::Failing
    }

    /// What all add up to. Of those of which one is enough all must fail for the hub to fail.
    fn status(&self) -> Status {
        let of = |is_one_of| {
            let lines = self.components.values().filter(move |line: &&Line| line.is_one_of == is_one_of);
            lines.map(|line| line.report.status)
        };
        let worst = of(true).max().map(|worst| match of(true).min() {
            Some(Status::Failing) => worst,
            _ => worst.min(Status::Degraded),
        });
        of(false).chain(worst).max().unwrap_or(Status::Failing)
    }
}

/// One component's own line. Dropping it leaves the line as it is.
#[derive(Clone, Debug)]
pub struct Component {
    health: Health,
    name: String,
}

impl Component {
    /// All is well.
    pub fn ok(&self) {
        self.health.report(&self.name, Status::Ok, None);
    }

    /// It works, but somebody should look.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.health.report(&self.name, Status::Degraded, Some(reason.into()));
    }

    /// It does not work now.
    pub fn failing(&self, reason: impl Into<String>) {
        self.health.report(&self.name, Status::Failing, Some(reason.into()));
    }

    /// It has not started yet, for this reason.
    pub fn starting(&self, reason: impl Into<String>) {
        self.failing(reason);
        if let Some(line) = self.health.state().components.get_mut(&self.name) {
            line.is_starting = true;
        }
    }

    /// It is no longer part of this process.
    pub fn remove(self) {
        self.health.state().components.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_worst_component_decides_and_all_must_have_started() {
        let health = Health::new(Clock::manual());
        assert!(health.is_live() && !health.is_ready());
        assert_eq!(health.view().status, Status::Failing);
        let (store, source) = (health.component("store"), health.component("source"));
        store.ok();
        assert!(!health.is_ready(), "the source has not started");
        source.ok();
        assert!(health.is_ready());
        assert_eq!(health.view().status, Status::Ok);
        source.degraded("reconnecting");
        assert!(health.is_ready());
        assert_eq!(health.view().status, Status::Degraded);
        store.failing("no answer");
        assert!(!health.is_ready() && health.is_live());
        assert_eq!(health.view().status, Status::Failing);
        store.remove();
        assert!(health.is_ready());
    }

    #[test]
    fn one_of_several_is_enough_once_all_have_said_how_they_are() {
        let health = Health::new(Clock::manual());
        let (first, second) = (health.one_of("partition a/0"), health.one_of("partition b/0"));
        first.ok();
        assert!(!health.is_ready(), "the second has not started");
        second.starting("it waits for another");
        assert!(!health.is_ready(), "nor has it by saying why");
        second.failing("its backend does not answer");
        assert!(health.is_ready());
        assert_eq!(health.view().status, Status::Degraded);
        health.component("store").failing("no answer");
        assert!(!health.is_ready());
        health.component("store").ok();
        first.failing("nor does this one's");
        assert!(!health.is_ready());
        assert_eq!(health.view().status, Status::Failing);
    }

    #[test]
    fn since_is_the_beginning_of_the_state_not_of_its_reason() {
        let clock = Clock::manual();
        let health = Health::new(clock.clone());
        let source = health.component("source");
        source.ok();
        clock.advance(Duration::from_secs(5));
        source.degraded("first attempt");
        let since = health.view().components["source"].since;
        clock.advance(Duration::from_secs(5));
        source.degraded("second attempt");
        let report = health.view().components["source"].clone();
        assert_eq!((report.since, report.reason.as_deref()), (since, Some("second attempt")));
        source.ok();
        let report = health.view().components["source"].clone();
        assert_eq!((report.since - since, report.reason), (chrono::TimeDelta::seconds(5), None));
    }

    #[test]
    fn a_condemned_process_is_not_live() {
        let health = Health::new(Clock::manual());
        health.component("store").ok();
        health.condemn("a partition panicked");
        health.condemn("and then more");
        assert!(!health.is_live() && !health.is_ready());
        let view = health.view();
        assert_eq!((view.status, view.live), (Status::Failing, false));
        assert_eq!(view.components["process"].reason.as_deref(), Some("a partition panicked"));
    }

    #[test]
    fn the_json_is_what_is_documented() {
        let health = Health::new(Clock::manual());
        health.component("store").degraded("slow");
        let json = serde_json::to_value(health.view()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "status": "degraded", "live": true, "ready": true,
                "components": {"store": {"status": "degraded", "reason": "slow", "since": "2025-11-21T01:53:20.000Z"}}
            })
        );
    }
}
