//! The interface over a real socket, before a loop that answers from a model.

mod access;
mod fake;
mod fuzz;
mod listener;
mod openapi;
mod refusals;
mod routes;

use std::net::SocketAddr;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::access::Tls;
use crate::error::Code;
use crate::limits;
use crate::observe::health::Component;
use crate::tasks::{Kind, Tasks};

/// An interface that serves until it is dropped.
struct Api {
    address: SocketAddr,
    client: reqwest::Client,
    tasks: Tasks,
    component: Component,
    health: Health,
}

/// One answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
    json: Value,
}

impl Answer {
    fn media_type(&self) -> &str {
        self.headers.get("content-type").map_or("", |value| value.to_str().unwrap())
    }

    /// Its status, code and field, for it must be a problem document.
    fn problem(&self) -> (u16, &str, Option<&str>) {
        assert_eq!(self.media_type(), "application/problem+json", "{self:?}");
        let problem = &self.json;
        assert_eq!(problem["status"], self.status, "{self:?}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        }
        (self.status, problem["code"].as_str().unwrap(), problem.get("field").map(|field| field.as_str().unwrap()))
    }
}

fn publisher() -> Publish {
    Arc::new(|events| {
        assert_ne!(events.first(), Some(&json!("panic")), "as the test wants");
        let one = |(number, event): (usize, &Value)| {
            let read = crate::source::log::Publication::from_json(event);
            read.map(|_| format!("{:032x}", number + 1))
        };
        let results = events.iter().enumerate().map(one).collect();
        Box::pin(async move { Ok(results) })
    })
}

impl Api {
    async fn start() -> Self {
        Self::with(Some(publisher())).await
    }

    async fn with(publish: Option<Publish>) -> Self {
        Self::behind(publish, |clock, _| Door::open(clock)).await
    }

    async fn behind(publish: Option<Publish>, door: impl FnOnce(Clock, &Tasks) -> Door) -> Self {
        let tasks = Tasks::new();
        let (hub, commands) = HubHandle::single(64);
        tasks.spawn(Kind::Partition, "fake", fake::run(commands));
        let clock = Clock::manual();
        let health = Health::new(clock.clone());
        let component = health.component("store");
        component.ok();
        let state = ApiState::new(hub, "hub-1", health.clone(), Metrics::install(), clock.clone(), publish);
        let state = state.behind(door(clock, &tasks));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tasks.clone();
        let router = router(state);
        tasks.spawn(Kind::Listener, "http", async move { serve(listener, Tls::default(), router, &serving).await });
        Self { address, client: reqwest::Client::new(), tasks, component, health }
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let json = serde_json::from_str(&text).unwrap_or_default();
        Answer { status, headers, text, json }
    }

    async fn call(&self, method: &str, path: &str) -> Answer {
        self.send(self.request(method, path)).await
    }

    async fn call_with(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send(self.request(method, path).json(body)).await
    }

    async fn call_raw(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(self.request(method, path).header("content-type", "application/json").body(body)).await
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.tasks.shutdown_token().cancel();
    }
}

fn spec(gateway: &str, id: &str) -> Value {
    json!({"subscriptionId": id, "gatewayId": gateway, "tenant": "acme", "collection": "messages"})
}
