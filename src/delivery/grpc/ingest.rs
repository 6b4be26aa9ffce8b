//! `Ingest`: publishing into the embedded log.
//!
//! Owns the service's texts. Where there is no embedded log it says so.

use serde_json::Value;
use tonic::{Request, Response, Status, async_trait};

use super::Publish;
use super::status::{invalid, status};
use crate::limits;
use crate::proto::ingest_server::Ingest;
use crate::proto::{PublishRequest, PublishResponse};

pub(super) struct Publisher {
    pub(super) publish: Option<Publish>,
}

#[async_trait]
impl Ingest for Publisher {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let Some(publish) = &self.publish else {
            return Err(Status::unimplemented(
                "this hub reads a MongoDB deployment: changes are made there, and published only into the embedded log of `streamer dev`",
            ));
        };
        let texts = request.into_inner().events;
        if texts.len() > limits::batch_items_max {
            return Err(invalid("events", format!("a batch has at most {} events", limits::batch_items_max)));
        }
        let parse = |(index, text): (usize, &String)| -> Result<Value, Status> {
            serde_json::from_str(text).map_err(|error| invalid(&format!("events[{index}]"), error.to_string()))
        };
        let events = texts.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        let positions = publish(events).await.map_err(status)?;
        Ok(Response::new(PublishResponse { positions }))
    }
}
