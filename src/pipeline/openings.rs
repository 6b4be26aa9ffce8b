//! Openings of sessions, at a bounded rate.
//!
//! Owns the queue before the machine. A thousand gateways that come back at once, after a restart, each cost
//! a write to the store and a place in the index; acks, heartbeats and changes do not wait behind them. Who has
//! gone away before his turn takes no session number.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{Clock, Instant};
use crate::delivery::session::Session;
use crate::error::{Code, Problem};
use crate::handle::{Hello, Reply};
use crate::limits;

/// Sessions that are opened without waiting, and a second after that.
const BURST: u32 = 100;
const PER_SECOND: u32 = 200;
/// Callers in the queue: what is opened in ten seconds, about as long as a caller waits.
const QUEUE_MAX: usize = 10 * PER_SECOND as usize;
const MICROS_EACH: u64 = 1_000_000 / PER_SECOND as u64;

pub(super) type Opening = (Hello, Reply<Result<Session, Problem>>);

/// A token bucket (ITU-T I.371's virtual scheduling): `full_at` is when as many may be opened at once again as
/// ever.
pub(super) struct Openings {
    clock: Clock,
    full_at: Instant,
    queue: VecDeque<Opening>,
}

impl Openings {
    pub(super) fn new(clock: Clock) -> Self {
        Self { full_at: clock.now(), clock, queue: VecDeque::new() }
    }

    /// One more asks. Refused where the queue is full.
    pub(super) fn push(&mut self, (hello, reply): Opening) {
        let of_gateway = self.queue.iter().filter(|(other, _)| other.gateway == hello.gateway).count();
        if of_gateway >= limits::opens_waiting_max {
            let detail = format!("{of_gateway} sessions of this gateway are waiting to be opened");
            drop(reply.send(Err(Problem::new(Code::RateLimited, detail).retry_after(1))));
            return;
        }
        if self.queue.len() >= QUEUE_MAX {
            self.queue.retain(|(_, reply)| !reply.is_closed());
        }
        if self.queue.len() >= QUEUE_MAX {
            let seconds = QUEUE_MAX.div_ceil(PER_SECOND as usize) as u32;
            let detail = format!("{QUEUE_MAX} sessions are waiting to be opened, {PER_SECOND} a second are");
            drop(reply.send(Err(Problem::new(Code::RateLimited, detail).retry_after(seconds))));
            return;
        }
        self.queue.push_back((hello, reply));
    }

    /// The next one whose turn has come, if its caller still waits.
    pub(super) fn next(&mut self) -> Option<Opening> {
        while self.queue.front().is_some_and(|(_, reply)| reply.is_closed()) {
            self.queue.pop_front();
        }
        if self.queue.is_empty() || self.wait() > Duration::ZERO {
            return None;
        }
        let now = self.clock.now();
        self.full_at = self.full_at.max(now).after(Duration::from_micros(MICROS_EACH));
        self.queue.pop_front()
    }

    /// How long until the next one's turn; `None` if nobody waits.
    pub(super) fn due(&self) -> Option<Duration> {
        (!self.queue.is_empty()).then(|| self.wait())
    }

    fn wait(&self) -> Duration {
        let ahead = self.full_at.since(self.clock.now());
        ahead.saturating_sub(Duration::from_micros(MICROS_EACH * u64::from(BURST - 1)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::handle::Transport;
    use crate::subscription::GatewayId;

    type Answer = oneshot::Receiver<Result<Session, Problem>>;

    fn ask(openings: &mut Openings, number: usize) -> Answer {
        let (reply, answer) = oneshot::channel();
        let gateway = GatewayId::new(&format!("gw-{number}")).unwrap();
        openings.push((Hello::new(gateway, Transport::Grpc), reply));
        answer
    }

    fn opened(openings: &mut Openings) -> Vec<String> {
        std::iter::from_fn(|| openings.next()).map(|(hello, _)| hello.gateway.to_string()).collect()
    }

    #[test]
    fn a_storm_is_let_in_at_the_rate_and_in_order() {
        let clock = Clock::manual();
        let mut openings = Openings::new(clock.clone());
        let _waiting: Vec<_> = (0..1_000).map(|number| ask(&mut openings, number)).collect();
        let first = opened(&mut openings);
        assert_eq!((first.len(), first.last().map(String::as_str)), (BURST as usize, Some("gw-99")));
        assert!(opened(&mut openings).is_empty());
        clock.advance(openings.due().unwrap());
        assert_eq!(opened(&mut openings), ["gw-100"]);
        let began = clock.now();
        let mut count = 0;
        while clock.now().since(began) < Duration::from_secs(1) {
            clock.advance(openings.due().unwrap());
            count += opened(&mut openings).len();
        }
        assert_eq!(count, PER_SECOND as usize);
        clock.advance(Duration::from_secs(60));
        assert_eq!(opened(&mut openings).len(), BURST as usize, "rest gives no more than a burst");
    }

    #[test]
    fn one_gateway_does_not_fill_the_queue() {
        let mut openings = Openings::new(Clock::manual());
        let mut waiting: Vec<_> = (0..=limits::opens_waiting_max).map(|_| ask(&mut openings, 7)).collect();
        let refused = waiting.pop().unwrap().try_recv().unwrap();
        assert_eq!(refused.err().unwrap().code, Code::RateLimited);
        let _other = ask(&mut openings, 8);
        assert_eq!(opened(&mut openings).last().map(String::as_str), Some("gw-8"));
    }

    #[test]
    fn who_has_gone_takes_no_turn_and_no_place() {
        let clock = Clock::manual();
        let mut openings = Openings::new(clock.clone());
        let mut waiting: Vec<_> = (0..QUEUE_MAX).map(|number| ask(&mut openings, number)).collect();
        let mut refused = ask(&mut openings, QUEUE_MAX);
        let problem = refused.try_recv().unwrap().err().unwrap();
        assert_eq!((problem.code, problem.retry_after_seconds), (Code::RateLimited, Some(10)));
        waiting.drain(..QUEUE_MAX - 1);
        let _again = ask(&mut openings, QUEUE_MAX);
        assert_eq!(opened(&mut openings), [format!("gw-{}", QUEUE_MAX - 1), format!("gw-{QUEUE_MAX}")]);
        assert_eq!(openings.due(), None);
    }
}
