//! The NATS server as the hub uses it: what the stream must be, and what is known of it after each kind of accident.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use futures::StreamExt;
use streamer::cmd::rig::{self, Nats};
use streamer::nats::subject;
use streamer::nats::{Endpoint, Kept, Login, Message, Server, State, Stored, StreamConfig, Trouble};
use streamer::position::PartitionId;
use streamer::subscription::{GatewayId, Name};
use streamer::tasks::Tasks;
use tempfile::TempDir;

/// Nothing here takes long; what does is stuck.
const STUCK: Duration = Duration::from_secs(60);

async fn start(config: &str) -> (Nats, TempDir) {
    let (program, folder) = (rig::find("nats-server", None, "STREAMER_NATS").unwrap(), rig::folder().unwrap());
    (Nats::start(&program, folder.path(), config).await.unwrap(), folder)
}

fn config() -> StreamConfig {
    StreamConfig { name: "STREAMER".into(), subject_messages_max: 3, replicas: 1 }
}

async fn connect(nats: &Nats, login: Login) -> Server {
    let endpoint = Endpoint { url: nats.url(), login, ..Endpoint::default() };
    Server::connect(&endpoint, config()).await.unwrap()
}

/// Starts it again, after the connection is gone.
async fn restart(nats: &mut Nats, server: &mut Server) {
    tokio::time::timeout(STUCK, server.gone()).await.expect("that the connection is gone is to be seen");
    nats.restart().await.unwrap();
    *server = connect(nats, Login::Nobody).await;
}

fn gateway(name: &str) -> GatewayId {
    Name::new(name).unwrap()
}

fn subject_of(name: &str) -> String {
    subject::deliveries(&gateway(name), &PartitionId::new("default", 0))
}

/// The message of this number to a gateway.
fn message(name: &str, number: u32) -> Message {
    Message {
        subject: subject_of(name),
        id: format!("{name}/{number}"),
        name: "changes",
        cursor: Some(format!("cursor-{number}")),
        after: Some(format!("cursor-{}", number - 1)),
        payload: Bytes::from(format!("{number}")),
    }
}

fn new(sequence: u64) -> Stored {
    Stored { sequence, is_duplicate: false }
}

/// Tries until it is done, as a publisher does.
async fn publish(server: &Server, message: &Message) -> u64 {
    let trying = async {
        loop {
            match server.publish(message).await {
                Ok(stored) => return stored.sequence,
                Err(Trouble::NoStream) => drop(ensured(server).await),
                Err(Trouble::Unanswered(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(trouble) => panic!("{trouble}"),
            }
        }
    };
    tokio::time::timeout(STUCK, trying).await.expect("published in the end")
}

async fn ensured(server: &Server) -> State {
    let trying = async {
        loop {
            match server.ensure().await {
                Ok(state) => return state,
                Err(Trouble::Unanswered(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(trouble) => panic!("{trouble}"),
            }
        }
    };
    tokio::time::timeout(STUCK, trying).await.expect("the stream is there in the end")
}

/// The gateway takes so many of its messages for good.
async fn take(nats: &Nats, name: &str, count: usize) {
    let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let wanted = pull::Config {
        durable_name: Some(name.into()),
        filter_subject: subject::all_deliveries(&gateway(name)),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let stream = context.get_stream("STREAMER").await.unwrap();
    let consumer = stream.get_or_create_consumer(name, wanted).await.unwrap();
    let mut messages = consumer.fetch().max_messages(count).messages().await.unwrap();
    for _ in 0..count {
        messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
    }
}

fn kept(sequence: u64, number: u32) -> Option<Kept> {
    let cursor = |number: u32| Some(format!("cursor-{number}"));
    Some(Kept { sequence, name: Some("changes".into()), cursor: cursor(number), after: cursor(number - 1) })
}

#[tokio::test]
async fn the_stream_is_made_if_absent_and_keeps_what_nobody_has_taken() {
    let (nats, _folder) = start("").await;
    let server = connect(&nats, Login::Nobody).await;
    assert_eq!(server.publish(&message("a", 1)).await, Err(Trouble::NoStream));
    let made = ensured(&server).await;
    assert_eq!(made.last_sequence, 0);
    assert_eq!(ensured(&server).await, made);
    assert_eq!((server.first(&subject_of("a")).await, server.last(&subject_of("a")).await), (Ok(None), Ok(None)));
    for number in 1..=3 {
        assert_eq!(server.publish(&message("a", number)).await, Ok(new(u64::from(number))));
    }
    let again = Stored { is_duplicate: true, ..new(2) };
    assert_eq!(server.publish(&message("a", 2)).await, Ok(again), "what it knows already it says again");
    // Full for one, and for nobody else.
    let full = server.publish(&message("a", 4)).await;
    assert!(matches!(full, Err(Trouble::Full(_))), "{full:?}");
    assert_eq!(server.publish(&message("b", 1)).await, Ok(new(4)));
    take(&nats, "a", 2).await;
    assert_eq!(server.first(&subject_of("a")).await, Ok(kept(3, 3)));
    assert_eq!(server.publish(&message("a", 4)).await, Ok(new(5)));
    assert_eq!(server.last(&subject_of("a")).await, Ok(kept(5, 4)));
    take(&nats, "a", 2).await;
    assert_eq!((server.first(&subject_of("a")).await, server.last(&subject_of("a")).await), (Ok(None), Ok(None)));
    assert_eq!(ensured(&server).await, State { last_sequence: 5, ..made });
}

#[tokio::test]
async fn a_stream_that_would_lose_messages_is_refused_with_what_mends_it() {
    let (nats, _folder) = start("").await;
    let server = connect(&nats, Login::Nobody).await;
    let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let right = stream::Config {
        name: "STREAMER".into(),
        subjects: vec!["streamer.v1.deliver.>".into()],
        retention: stream::RetentionPolicy::WorkQueue,
        discard: stream::DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages_per_subject: 100,
        ..stream::Config::default()
    };
    let wrong = [
        (stream::Config { retention: stream::RetentionPolicy::Limits, ..right.clone() }, "nats stream rm STREAMER"),
        (
            stream::Config { discard: stream::DiscardPolicy::Old, discard_new_per_subject: false, ..right.clone() },
            "nats stream edit STREAMER --discard new",
        ),
        (stream::Config { discard_new_per_subject: false, ..right.clone() }, "--discard-per-subject"),
        (stream::Config { max_age: Duration::from_secs(9), ..right.clone() }, "--max-age 0"),
        (stream::Config { subjects: vec!["streamer.v1.deliver.a.>".into()], ..right.clone() }, "--subjects"),
        (stream::Config { storage: stream::StorageType::Memory, ..right.clone() }, "nats stream rm STREAMER"),
        (stream::Config { max_message_size: 1_000, ..right.clone() }, "--max-msg-size -1"),
        (stream::Config { no_ack: true, ..right.clone() }, "--ack"),
    ];
    for (config, mends) in wrong {
        context.create_stream(config).await.unwrap();
        let refused = server.ensure().await;
        let Err(Trouble::Misconfigured(text)) = &refused else { panic!("{mends}: {refused:?}") };
        assert!(text.contains(mends) && text.contains("STREAMER"), "{text}");
        context.delete_stream("STREAMER").await.unwrap();
    }
    context.create_stream(right).await.unwrap();
    server.ensure().await.unwrap();
}

#[tokio::test]
async fn what_has_become_of_the_stream_shows_in_its_state() {
    let (mut nats, _folder) = start("").await;
    let mut server = connect(&nats, Login::Nobody).await;
    let made = ensured(&server).await;
    publish(&server, &message("a", 1)).await;
    // Killed, it has everything that it had acked.
    nats.kill().await.unwrap();
    restart(&mut nats, &mut server).await;
    assert_eq!(publish(&server, &message("a", 2)).await, 2);
    assert_eq!(ensured(&server).await, State { last_sequence: 2, ..made.clone() });
    assert_eq!(publish(&server, &message("a", 1)).await, 1, "ids outlive it as well");
    // Put back to an earlier state, it ends earlier.
    nats.kill().await.unwrap();
    nats.back_up().unwrap();
    restart(&mut nats, &mut server).await;
    assert_eq!(publish(&server, &message("a", 3)).await, 3);
    nats.kill().await.unwrap();
    nats.restore().unwrap();
    restart(&mut nats, &mut server).await;
    assert_eq!(ensured(&server).await, State { last_sequence: 2, ..made.clone() });
    assert_eq!(server.last(&subject_of("a")).await, Ok(kept(2, 2)));
    // Without its storage it is another.
    nats.kill().await.unwrap();
    nats.lose_storage().unwrap();
    restart(&mut nats, &mut server).await;
    let anew = ensured(&server).await;
    assert!(anew.created != made.created && anew.last_sequence == 0, "{made:?} {anew:?}");
    assert_eq!(server.last(&subject_of("a")).await, Ok(None));
}

/// The server may have stored what it did not ack in time.
#[tokio::test]
async fn a_frozen_server_says_nothing_and_stores_nothing_twice() {
    let (nats, _folder) = start("").await;
    let server = connect(&nats, Login::Nobody).await;
    ensured(&server).await;
    nats.freeze().await.unwrap();
    let unanswered = server.publish(&message("a", 1)).await;
    assert!(matches!(unanswered, Err(Trouble::Unanswered(_))), "{unanswered:?}");
    nats.thaw().await.unwrap();
    assert_eq!(publish(&server, &message("a", 1)).await, 1);
    assert_eq!(publish(&server, &message("a", 2)).await, 2);
}

/// What is stuck in the driver when the connection goes would be sent on the next one, before anyone has looked at the
/// stream there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_sent_when_the_connection_went_is_never_sent() {
    let (nats, _folder) = start("").await;
    let relay = rig::Relay::open(&Tasks::new(), nats.port()).await.unwrap();
    let endpoint = Endpoint { url: format!("nats://127.0.0.1:{}", relay.port()), ..Endpoint::default() };
    let server = Server::connect(&endpoint, config()).await.unwrap();
    ensured(&server).await;
    relay.set(rig::Line::Silent);
    // More than the sockets and the relay hold.
    let large = |number| Message { payload: Bytes::from(vec![b'x'; 900_000]), ..message(&format!("gw-{number}"), 1) };
    let all: Vec<Message> = (1..=64).map(large).collect();
    let publishing = futures::future::join_all(all.iter().map(|message| server.publish(message)));
    let cut = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Whoever connects anew is let through.
        relay.set(rig::Line::Forgotten);
        tokio::time::timeout(STUCK, server.gone()).await.unwrap();
    };
    let (published, ()) = tokio::join!(publishing, cut);
    for published in published {
        assert!(matches!(published, Err(Trouble::Unanswered(_))), "{published:?}");
    }
    let other = connect(&nats, Login::Nobody).await;
    let stored = ensured(&other).await.last_sequence;
    assert!(stored < 64, "{stored}: some were not sent before");
    assert_eq!(server.publish(&message("later", 1)).await.err().map(|_| ()), Some(()));
    assert_eq!(ensured(&other).await.last_sequence, stored);
}

#[tokio::test]
async fn a_message_that_the_server_does_not_take_is_known_beforehand() {
    let (nats, _folder) = start("max_payload: 4096").await;
    let server = connect(&nats, Login::Nobody).await;
    ensured(&server).await;
    assert_eq!(server.message_bytes_max(), 4096);
    let large = Message { payload: Bytes::from(vec![b'x'; 4096]), ..message("a", 1) };
    assert_eq!(server.publish(&large).await, Err(Trouble::TooLarge));
    assert_eq!(server.publish(&message("a", 1)).await, Ok(new(1)));
}

#[tokio::test]
async fn whoever_the_server_wants_the_hub_can_be() {
    let user = Login::User { name: "hub".into(), password: "secret".into() };
    for (config, login) in [
        ("authorization { user: hub, password: secret }", user.clone()),
        ("authorization { token: sesame }", Login::Token("sesame".into())),
    ] {
        let (nats, _folder) = start(config).await;
        ensured(&connect(&nats, login).await).await;
        let endpoint = Endpoint { url: nats.url(), login: Login::Token("wrong".into()), ..Endpoint::default() };
        let refused = Server::connect(&endpoint, self::config()).await.unwrap_err();
        assert!(matches!(&refused, Trouble::Misconfigured(why) if why.contains("does not let")), "{refused:?}");
    }
    let text = format!("{user:?}");
    assert!(!text.contains("secret"), "{text}");
}
