//! The server dies and comes back, or another takes over, in the middle of a stream.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use bson::{Document, doc};
use mongodb::options::{Acknowledgment, WriteConcern};

use super::*;
use streamer::cmd::rig::{Line, Relay};
use streamer::tasks::Kind;

/// Numbered transactions of five, each repeated until it is known to have been committed.
async fn write_numbered(client: Client, stop: Arc<AtomicBool>, written: Arc<AtomicI32>) {
    let concern = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
    let docs = client.database("restart").collection::<Document>("docs");
    while !stop.load(Ordering::SeqCst) {
        let number = written.load(Ordering::SeqCst);
        let attempt = async {
            let mut session = client.start_session().await?;
            session.start_transaction().write_concern(concern.clone()).await?;
            for part in 0..5 {
                let one = doc! { "_id": format!("{number}-{part}"), "tenant": "t" };
                docs.insert_one(one).session(&mut session).await?;
            }
            session.commit_transaction().await
        };
        // After an unknown outcome the repetition finds the documents there: it was committed.
        let done = match attempt.await {
            Ok(()) => true,
            Err(error) => error.to_string().contains("E11000"),
        };
        if done {
            written.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_mid_stream_loses_and_repeats_nothing() {
    let server = Mongod::start(&[]).await;
    let (client, db) = database(&server, "restart").await;
    db.create_collection("docs").await.unwrap();
    let source = connect(config(&server, "restart", Layout::plain())).await;
    let start = now(&source).await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
    let writer = Tasks::new();
    writer.spawn(Kind::Demo, "numbered", write_numbered(client, Arc::clone(&stop), Arc::clone(&written)));
    let mut reading = source.read(EPOCH, start).await.unwrap();
    let mut tape = Tape { reached: start, ..Tape::default() };
    let mut said = 0;
    for kill in 1..=3 {
        let goal = written.load(Ordering::SeqCst) + 20;
        let mut killed = false;
        while written.load(Ordering::SeqCst) < goal + 20 {
            if !killed && written.load(Ordering::SeqCst) >= goal {
                server.kill();
                // The second time it stays away longer than an operation waits for it.
                tokio::time::sleep(Duration::from_millis(if kill == 2 { 7000 } else { 500 })).await;
                server.restart().await;
                server.writable().await;
                killed = true;
            }
            if tape.next(&mut reading).await.is_err() {
                // What a caller does: from where it had come to, once it can.
                said += 1;
                reading = loop {
                    match source.read(EPOCH, tape.reached).await {
                        Ok(reading) => break reading,
                        Err(error) => assert!(matches!(error, SourceError::Unavailable(_)), "{error}"),
                    }
                };
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    assert!(writer.drain(STUCK).await.is_empty());
    let count = written.load(Ordering::SeqCst) as usize * 5;
    tape.until(&mut reading, |tape| tape.events.len() >= count).await;
    let seen: Vec<_> = tape.changes().iter().map(|change| (change.position.ordinal, change.key.to_string())).collect();
    let expected: Vec<_> = (0..count).map(|n| (n as u32 % 5 + 1, format!("{}-{}", n / 5, n % 5))).collect();
    assert_eq!(seen.len(), expected.len());
    assert!(seen == expected, "every transaction once, whole and in order");
    assert!(said <= 6, "short absences are bridged: {said}");
    // Read again from the start, after all that: the same positions.
    let again = read(&source, start, count).await;
    let positions = |tape: &Tape| tape.changes().iter().map(|change| change.position).collect::<Vec<_>>();
    assert_eq!(positions(&again), positions(&tape));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_primary_loses_and_repeats_nothing() {
    let members = Mongod::start_three().await;
    let [a, b, c] = &members;
    let uri = Mongod::uri_of(&[a, b, c]);
    let client = Client::with_uri_str(&uri).await.unwrap();
    client.database("restart").create_collection("docs").await.unwrap();
    let database = Some("restart".to_owned());
    let source = connect(MongoConfig { database, layout: Layout::plain(), ..MongoConfig::new(&uri) }).await;
    let start = now(&source).await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
    let writer = Tasks::new();
    let work = write_numbered(client.clone(), Arc::clone(&stop), Arc::clone(&written));
    writer.spawn(Kind::Demo, "numbered", work);
    let mut reading = source.read(EPOCH, start).await.unwrap();
    let mut tape = Tape { reached: start, ..Tape::default() };
    for fault in 0..4 {
        let goal = written.load(Ordering::SeqCst) + 20;
        let mut done = false;
        while written.load(Ordering::SeqCst) < goal + 20 {
            if !done && written.load(Ordering::SeqCst) >= goal {
                done = true;
                let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.unwrap();
                let primary = hello.get_str("primary").unwrap();
                let primary = members.iter().find(|member| primary.ends_with(&member.port().to_string())).unwrap();
                if fault % 2 == 0 {
                    let step_down = doc! { "replSetStepDown": 10, "force": true };
                    let _ = primary.direct().await.database("admin").run_command(step_down).await;
                } else {
                    primary.kill();
                    primary.restart().await;
                }
            }
            if tape.next(&mut reading).await.is_err() {
                reading = loop {
                    match source.read(EPOCH, tape.reached).await {
                        Ok(reading) => break reading,
                        Err(error) => assert!(matches!(error, SourceError::Unavailable(_)), "{error}"),
                    }
                };
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    assert!(writer.drain(STUCK).await.is_empty());
    let count = written.load(Ordering::SeqCst) as usize * 5;
    tape.until(&mut reading, |tape| tape.events.len() >= count).await;
    let seen: Vec<_> = tape.changes().iter().map(|change| (change.position.ordinal, change.key.to_string())).collect();
    let expected: Vec<_> = (0..count).map(|n| (n as u32 % 5 + 1, format!("{}-{}", n / 5, n % 5))).collect();
    assert!(seen == expected, "every transaction once, whole and in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_freezes_is_left_for_the_next_one() {
    let members = Mongod::start_three().await;
    let [a, b, c] = &members;
    let uri = Mongod::uri_of(&[a, b, c]);
    let client = Client::with_uri_str(&uri).await.unwrap();
    client.database("frozen").create_collection("docs").await.unwrap();
    let config = MongoConfig { database: Some("frozen".into()), layout: Layout::plain(), ..MongoConfig::new(&uri) };
    let source = connect(config).await;
    let mut reading = source.read(EPOCH, now(&source).await).await.unwrap();
    let mut tape = Tape::default();
    tape.next(&mut reading).await.unwrap();
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.unwrap();
    let primary = hello.get_str("primary").unwrap();
    let (frozen, others): (Vec<_>, Vec<_>) =
        members.iter().partition(|member| primary.ends_with(&member.port().to_string()));
    frozen[0].signal("STOP");
    // A client of its own, which has never spoken to the frozen one.
    let next = Client::with_uri_str(Mongod::uri_of(&others)).await.unwrap();
    let docs = next.database("frozen").collection::<Document>("docs");
    docs.insert_one(doc! { "_id": "after", "tenant": "t" }).await.unwrap();
    let error = loop {
        if tape.changes().len() == 1 {
            break None;
        }
        if let Err(error) = tape.next(&mut reading).await {
            break Some(error);
        }
    };
    if let Some(error) = error {
        assert!(matches!(error, SourceError::Unavailable(_)), "{error}");
        let reached = tape.reached;
        assert_eq!(&*read(&source, reached, 1).await.changes()[0].key, "after");
    }
    frozen[0].signal("CONT");
}

/// A firewall that forgets a connection tells nobody: no error will ever come.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nothing_comes_through_any_more_is_left_for_a_new_one() {
    let server = Mongod::shared().await;
    let tasks = Tasks::new();
    let relay = Relay::open(&tasks, server.port()).await.unwrap();
    let (_, db) = database(&server, "forgotten").await;
    let docs = recording(&db, "docs").await;
    let uri = format!("mongodb://127.0.0.1:{}/?directConnection=true", relay.port());
    let patience = Duration::from_millis(700);
    let source = connect(MongoConfig { uri, patience, ..config(&server, "forgotten", Layout::plain()) }).await;
    let start = now(&source).await;
    let mut reading = source.read(EPOCH, start).await.unwrap();
    let mut tape = Tape::default();
    for count in 1..=3 {
        docs.insert_one(doc! { "_id": format!("a-{count}"), "tenant": "t" }).await.unwrap();
        tape.until(&mut reading, |tape| tape.events.len() >= 2 * count - 1).await;
        relay.set(Line::Forgotten);
        docs.insert_one(doc! { "_id": format!("b-{count}"), "tenant": "t" }).await.unwrap();
        tape.until(&mut reading, |tape| tape.events.len() >= 2 * count).await;
        relay.set(Line::Open);
    }
    let keys: Vec<_> = tape.changes().iter().map(|change| change.key.to_string()).collect();
    assert_eq!(keys, ["a-1", "b-1", "a-2", "b-2", "a-3", "b-3"]);
}
