//! By which kind of transport a gateway is served.
//!
//! Owns the choice: an operator's word, which is stored, else the patterns of the configuration. A session of the
//! other kind is refused, and ends when the choice changes.

use super::registry::store_problem;
use super::state::{Gateway, GatewayIndex, RecordRequest, RecordState, ServeRequest, WriteKind};
use super::{Answer, Machine, Waiter};
use crate::delivery::frame::CloseReason;
use crate::error::{Code, Problem};
use crate::handle::{DeliveryMode, Mark, Unserved};
use crate::store::{CommitError, Revision};
use crate::subscription::GatewayId;

impl Machine {
    /// An operator's word on how a gateway is served, which need not be known yet. Answered when it is stored.
    pub fn on_serve(&mut self, id: &GatewayId, mode: DeliveryMode, waiter: Waiter) {
        if let Err(problem) = self.check_room(id) {
            return self.answer(waiter, Err(problem));
        }
        let index = self.gateway_or_new(id);
        self.request(index, RecordRequest::Serve(ServeRequest { mode, waiter, abandoned: false }));
    }

    pub(super) fn write_serve(&mut self, index: GatewayIndex, request: ServeRequest) {
        let gateway = &self.gateways[index.0];
        if gateway.delivery == Some(request.mode) {
            self.gateways[index.0].record = RecordState::Free;
            self.answer(request.waiter, Ok(Answer::Done));
            return self.next_request(index);
        }
        let owed = gateway.still_owed(gateway.owed);
        let mut record =
            self.gateway_record(index, gateway.sessions, gateway.presented.clone(), owed, gateway.moved.clone());
        record.delivery = Some(request.mode);
        let write = self.record_write_of(index, &record);
        self.write(WriteKind::Serve(index, request), vec![write]);
    }

    pub(super) fn on_served(&mut self, index: GatewayIndex, request: ServeRequest, revision: Revision) {
        let gateway = &mut self.gateways[index.0];
        gateway.record = RecordState::Free;
        gateway.revision = revision;
        gateway.delivery = Some(request.mode);
        if gateway.incarnation == Revision(0) {
            gateway.incarnation = revision;
            gateway.dirty = true;
        }
        let is_other = gateway.session.as_ref().is_some_and(|session| session.transport.mode() != request.mode);
        if is_other {
            self.end_session(index, CloseReason::Superseded);
        }
        self.note_served(index, request.mode);
        if !request.abandoned {
            self.answer(request.waiter, Ok(Answer::Done));
        }
        self.next_request(index);
    }

    pub(super) fn on_serve_refused(&mut self, index: GatewayIndex, request: ServeRequest, error: &CommitError) {
        self.gateways[index.0].record = RecordState::Free;
        if !request.abandoned {
            self.answer(request.waiter, Err(store_problem(error)));
        }
        self.next_request(index);
    }

    /// How a gateway is served.
    pub(super) fn mode(&self, index: GatewayIndex) -> DeliveryMode {
        let gateway = &self.gateways[index.0];
        gateway.delivery.unwrap_or_else(|| {
            let is_open = gateway.id.in_group().is_none();
            let named = is_open && self.config.nats_gateways.iter().any(|pattern| pattern.matches(gateway.id.as_str()));
            if named { DeliveryMode::Nats } else { DeliveryMode::Stream }
        })
    }

    /// Refuses a session of the other kind.
    pub(super) fn check_mode(&self, index: GatewayIndex, mode: DeliveryMode) -> Result<(), Problem> {
        let served = self.mode(index);
        if served == mode {
            return Ok(());
        }
        let gateway = &self.gateways[index.0].id;
        let detail = match served {
            DeliveryMode::Nats => format!("gateway {gateway} is served by NATS: consume from the stream there"),
            DeliveryMode::Stream => format!("gateway {gateway} is served by gRPC and SSE"),
        };
        Err(Problem::new(Code::DeliveryMismatch, detail))
    }

    /// What was noted for all gateways by what keeps their messages.
    pub fn marks(&self) -> Vec<Mark> {
        self.gateways.iter().filter_map(|(_, gateway)| gateway.mark.clone()).collect()
    }

    /// Gateways that NATS served and that have been removed since this was asked last.
    pub fn take_removed(&mut self) -> Vec<GatewayId> {
        std::mem::take(&mut self.removed)
    }

    /// At most `max` gateways that wait for a publisher: those with something to be told.
    pub fn unserved(&self, max: usize) -> Vec<Unserved> {
        let waits = |index: GatewayIndex, gateway: &Gateway| {
            gateway.session.is_none()
                && gateway.record == RecordState::Free
                && gateway.removing.is_none()
                && gateway.subs.iter().any(|sub| self.subs[sub.0].is_active())
                && self.mode(index) == DeliveryMode::Nats
        };
        let waiting = self.gateways.iter().filter(|(index, gateway)| waits(GatewayIndex(*index), gateway));
        waiting.take(max).map(|(_, it)| Unserved { gateway: it.id.clone(), mark: it.mark.clone() }).collect()
    }
}
