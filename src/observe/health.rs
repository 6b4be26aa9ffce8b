//! Health: what works, what does not, and since when.
//!
//! Owns the states that components report and the answer that they add up to. Does not check anything
//! itself and knows nothing of HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use crate::clock::Clock;

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
    components: BTreeMap<String, Report>,
    condemned: Option<String>,
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
    /// The worst of all components.
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
        let component = Component { health: self.clone(), name: name.into() };
        component.failing("starting");
        component
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
        let mut components = state.components.clone();
        if let Some(reason) = &state.condemned {
            let since = self.inner.clock.wall();
            let report = Report { status: Status::Failing, reason: Some(reason.clone()), since };
            components.insert("process".to_owned(), report);
        }
        let status = components.values().map(|report| report.status).max().unwrap_or(Status::Failing);
        View { status, live: state.condemned.is_none(), ready: state.is_ready(), components }
    }

    fn report(&self, name: &str, status: Status, reason: Option<String>) {
        let now = self.inner.clock.wall();
        let mut state = self.state();
        match state.components.get_mut(name) {
            Some(report) if report.status == status => report.reason = reason,
            _ => {
                state.components.insert(name.to_owned(), Report { status, reason, since: now });
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_ready(&self) -> bool {
        let works = |report: &Report| report.status != Status::Failing;
        self.condemned.is_none() && !self.components.is_empty() && self.components.values().all(works)
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
