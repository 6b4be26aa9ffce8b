//! Servers whose stream cannot be read, each with its one line.

use super::*;

async fn refusal(uri: String) -> SourceError {
    let config = MongoConfig { server_selection_timeout: Duration::from_millis(500), ..MongoConfig::new(uri) };
    MongoSource::connect(config, Tasks::new()).await.expect_err("refused")
}

fn says(error: &SourceError, words: &str) {
    let line = error.to_string();
    assert!(line.contains(words) && !line.contains('\n'), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_connection_string_is_misconfigured() {
    for uri in ["", "localhost", "mongodb://", "mongodb://h:port/", "mongodb://h/?w=-1"] {
        let error = refusal(uri.into()).await;
        assert!(matches!(error, SourceError::Misconfigured(_)), "{uri}: {error}");
        says(&error, "connection string");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_it_is_unavailable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refusal(format!("mongodb://127.0.0.1:{free}/?replicaSet=rs0")).await;
    assert!(matches!(error, SourceError::Unavailable(_)));
    says(&error, &format!("127.0.0.1:{free}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_replica_set_is_misconfigured_whatever_the_string_says() {
    let server = Mongod::start_bare(&[]).await;
    for options in ["", "?replicaSet=rs0", "?directConnection=true"] {
        let error = refusal(format!("mongodb://127.0.0.1:{}/{options}", server.port())).await;
        assert!(matches!(error, SourceError::Misconfigured(_)), "{options}: {error}");
        says(&error, "--replSet");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_that_is_not_initiated_or_has_another_name_is_misconfigured() {
    let server = Mongod::start_bare(&["--replSet", "rs0"]).await;
    for options in ["", "?replicaSet=rs0"] {
        let error = refusal(format!("mongodb://127.0.0.1:{}/{options}", server.port())).await;
        assert!(matches!(error, SourceError::Misconfigured(_)), "{options}: {error}");
        says(&error, "rs.initiate()");
    }
    let server = Mongod::shared().await;
    let error = refusal(format!("mongodb://127.0.0.1:{}/?replicaSet=rs9", server.port())).await;
    assert!(matches!(error, SourceError::Misconfigured(_)));
    says(&error, "rs9");
}
