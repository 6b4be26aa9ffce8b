//! The way of changes as an OpenTelemetry collector is told it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bson::doc;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use reqwest::Method;
use serde_json::json;
use streamer::cmd::rig::HubPlan;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, async_trait};

use super::consumers::{Said, Session, Transport};
use super::site::{Site, call, document, soon, until};

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_traced_from_its_commit_to_its_ack() {
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = TraceServiceServer::new(collector.clone());
    let serving =
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
    let mut collecting = tokio::task::JoinSet::new();
    collecting.spawn(serving);

    let site = Site::new().await;
    let mut config = site.config();
    config.tracing.endpoint = Some(endpoint);
    config.tracing.ratio = 1.0;
    let plan = HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), site.folder.path(), config).unwrap();
    let mut hub = plan.start(None).unwrap();
    hub.ready().await.unwrap();
    let asked = json!({"subscriptionId": "s", "gatewayId": "gw", "tenant": "acme", "collection": "messages"});
    assert_eq!(call(&plan.http_url(), Method::POST, "/v1/subscriptions", Some(&asked)).await.0, 201);
    let mut session = Session::open(Transport::Sse, &plan.http_url(), &plan.grpc_url(), "gw", None).await;
    let secret = doc! { "text": "nobody's business" };
    site.documents().insert_one(document("acme", "messages", "k", secret)).await.unwrap();
    let change = loop {
        if let Said::Change(change) = soon("the change", session.next()).await.unwrap() {
            break change;
        }
    };
    session.ack(&change.cursor).await;
    // What has not been sent by its end is sent then.
    until("a delivery that is acked", async || {
        let (_, gateway) = call(&plan.http_url(), Method::GET, "/v1/gateways/gw", None).await;
        gateway["lastAckAt"].is_string().then_some(())
    })
    .await;
    let asked = reqwest::Client::new().get(format!("{}/metrics", plan.http_url()));
    let answer =
        asked.header("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").send().await.unwrap();
    let media = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(media, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let metrics = answer.text().await.unwrap();
    assert!(metrics.ends_with("\n# EOF\n"), "{metrics}");
    let exemplar = format!(" # {{trace_id=\"{}\"}} ", change.position);
    for stage in ["commit_to_read", "read_to_matched", "matched_to_sent", "sent_to_acked"] {
        let bucket = format!("streamer_latency_{stage}_seconds_bucket{{");
        let leads_there = |line: &str| line.starts_with(&bucket) && line.contains(&exemplar);
        assert!(metrics.lines().any(leads_there), "{stage} has no way to the trace: {metrics}");
    }
    assert!(hub.terminate().await.unwrap().success());

    let spans = collector.0.lock().unwrap().clone();
    let of_change: Vec<_> = spans.iter().filter(|span| hex(&span.trace_id) == change.position.to_string()).collect();
    let named: BTreeMap<&str, &Span> = of_change.iter().map(|span| (span.name.as_str(), *span)).collect();
    assert_eq!(named.keys().copied().collect::<Vec<_>>(), ["ack", "change", "delivery", "match", "queue", "read"]);
    for (name, parent) in
        [("read", "change"), ("match", "change"), ("delivery", "change"), ("queue", "delivery"), ("ack", "delivery")]
    {
        assert_eq!(named[name].parent_span_id, named[parent].span_id, "{name} is a part of {parent}");
        assert!(named[name].start_time_unix_nano <= named[name].end_time_unix_nano);
    }
    assert!(named["change"].parent_span_id.is_empty());
    // One after the other, as far as milliseconds go.
    let begins = ["read", "match", "queue", "ack"].map(|name| named[name].start_time_unix_nano / 1_000_000);
    assert!(begins.is_sorted(), "{begins:?}");
    let said = format!("{spans:?}");
    assert!(said.contains("\"gw\"") && !said.contains("business"), "{said}");
    site.remove().await;
}
