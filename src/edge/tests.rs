//! Several partitions as one, before loops that answer what the tests want.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::cursor::{Cursor, Place, Serial};
use crate::delivery::frame::{CloseReason, Closed, Frame, Progress, Welcome};
use crate::handle::{Registered, SubscriptionState, Transport};
use crate::position::{ClusterTime, Epoch, Position};
use crate::store::Revision;
use crate::subscription::{Name, Spec};
use crate::tasks::{Kind, Tasks};

type Answers = Arc<Mutex<VecDeque<Box<dyn FnOnce(Command) + Send>>>>;

/// A partition whose loop answers each command with the next of these; without one it drops it. Says what it was asked.
fn partition(number: u16) -> (PartitionHandle, Answers, Arc<Mutex<Vec<String>>>) {
    let (handle, mut commands) = PartitionHandle::new(PartitionId::new("default", number), 16);
    let (answers, asked) = (Answers::default(), Arc::new(Mutex::new(Vec::new())));
    let (of_loop, seen) = (Arc::clone(&answers), Arc::clone(&asked));
    Tasks::new().spawn(Kind::Session, "loop", async move {
        while let Some(command) = commands.recv().await {
            seen.lock().unwrap().push(name_of(&command));
            let next = of_loop.lock().unwrap().pop_front();
            if let Some(answer) = next {
                answer(command);
            }
        }
    });
    (handle, answers, asked)
}

fn name_of(command: &Command) -> String {
    let generation = |spec: &Spec| spec.generation.map_or_else(String::new, |generation| format!(" {generation}"));
    match command {
        Command::Register(items, _) => format!("register{}", generation(&items[0].spec)),
        Command::Replace(item, _) => format!("replace{}", generation(&item.spec)),
        Command::Unregister(..) => "unregister".into(),
        Command::Open(hello, _) => {
            format!("open {} at {}", hello.number, hello.cursor.as_ref().map_or("-", CursorText::as_str))
        }
        Command::Ack(_, cursor, ..) => format!("ack {cursor}"),
        other => format!("{other:?}").split('(').next().unwrap_or_default().to_lowercase(),
    }
}

fn hub(partitions: Vec<PartitionHandle>) -> HubHandle {
    HubHandle::new(vec![Backend { name: "default".into(), tenants: Vec::new(), partitions }], Numbers::counted())
}

fn spec() -> Spec {
    let asked = json!({"subscriptionId": "s", "gatewayId": "g", "tenant": "t", "collection": "c"});
    Spec::from_json(&asked).unwrap()
}

fn gateway() -> GatewayId {
    Name::new("g").unwrap()
}

fn key() -> SubscriptionKey {
    spec().key()
}

fn position(ordinal: u32) -> Position {
    Position::new(Epoch(1), ClusterTime::new(10, 1), ordinal)
}

fn view(partition: u16, generation: u64) -> SubscriptionView {
    SubscriptionView {
        spec: Arc::new(spec()),
        member: None,
        state: SubscriptionState::Live,
        parked_reason: None,
        generation,
        active_from: vec![(PartitionId::new("default", partition), position(1))],
        expires_at: DateTime::from_timestamp(1_000 + i64::from(partition), 0).unwrap(),
        plan: json!({}),
        warnings: Vec::new(),
    }
}

fn registered(partition: u16, generation: u64, created: bool) -> Box<dyn FnOnce(Command) + Send> {
    Box::new(move |command| {
        let Command::Register(_, reply) = command else { panic!("{command:?}") };
        let _ = reply.send(vec![Ok(Registered { view: view(partition, generation), created })]);
    })
}

fn refused(code: Code) -> Box<dyn FnOnce(Command) + Send> {
    Box::new(move |command| {
        let problem = Problem::new(code, "as the test wants");
        match command {
            Command::Register(_, reply) => drop(reply.send(vec![Err(problem)])),
            Command::Replace(_, reply) => drop(reply.send(Err(problem))),
            Command::Open(_, reply) => drop(reply.send(Err(problem))),
            other => panic!("{other:?}"),
        }
    })
}

fn replaced(partition: u16, generation: u64) -> Box<dyn FnOnce(Command) + Send> {
    Box::new(move |command| {
        let Command::Replace(_, reply) = command else { panic!("{command:?}") };
        let _ = reply.send(Ok(view(partition, generation)));
    })
}

fn give(answers: &Answers, these: impl IntoIterator<Item = Box<dyn FnOnce(Command) + Send>>) {
    answers.lock().unwrap().extend(these);
}

fn taken(asked: &Mutex<Vec<String>>) -> Vec<String> {
    std::mem::take(&mut asked.lock().unwrap())
}

async fn register(hub: &HubHandle) -> Result<Registered, Problem> {
    hub.register(vec![spec()]).await.unwrap().pop().unwrap()
}

#[tokio::test]
async fn a_registration_that_failed_half_way_is_completed_by_the_next() {
    let ((first, of_first, _), (second, of_second, asked)) = (partition(0), partition(1));
    let hub = hub(vec![first, second]);
    give(&of_first, [registered(0, 7, true)]);
    assert_eq!(register(&hub).await.unwrap_err().code, Code::OwnerUnknown);
    assert_eq!(taken(&asked), ["register 7"], "under the first one's generation");
    give(&of_first, [registered(0, 7, false)]);
    give(&of_second, [registered(1, 7, true)]);
    let done = register(&hub).await.unwrap();
    assert_eq!((done.created, done.view.active_from.len(), done.view.expires_at.timestamp()), (false, 2, 1_000));
}

#[tokio::test]
async fn what_an_earlier_call_has_left_is_replaced() {
    let ((first, of_first, _), (second, of_second, asked)) = (partition(0), partition(1));
    let hub = hub(vec![first, second]);
    give(&of_first, [registered(0, 9, true)]);
    give(&of_second, [registered(1, 3, false), replaced(1, 9)]);
    assert_eq!(register(&hub).await.unwrap().view.generation, 9);
    assert_eq!(taken(&asked), ["register 9", "replace 9"]);
    give(&of_first, [registered(0, 9, false)]);
    give(&of_second, [refused(Code::SubscriptionExists), replaced(1, 9)]);
    register(&hub).await.unwrap();
    assert_eq!(taken(&asked), ["register 9", "replace 9"]);
    // And a PUT makes what is missing.
    give(&of_first, [replaced(0, 12)]);
    give(&of_second, [refused(Code::SubscriptionNotFound), registered(1, 12, true)]);
    assert_eq!(hub.replace(spec()).await.unwrap().active_from.len(), 2);
    assert_eq!(taken(&asked), ["replace 12", "register 12"]);
}

#[tokio::test]
async fn a_refused_registration_leaves_nothing() {
    let ((first, of_first, at_first), (second, of_second, at_second)) = (partition(0), partition(1));
    let hub = hub(vec![first, second]);
    give(&of_first, [registered(0, 7, true)]);
    give(&of_second, [refused(Code::StartTooOld)]);
    assert_eq!(register(&hub).await.unwrap_err().code, Code::StartTooOld);
    assert_eq!(
        (taken(&at_first), taken(&at_second)),
        (vec!["register".into(), "unregister".into()], vec!["register 7".into(), "unregister".into()])
    );
    // One that had been there stays.
    give(&of_first, [registered(0, 7, false)]);
    give(&of_second, [refused(Code::StartTooOld)]);
    register(&hub).await.unwrap_err();
    assert_eq!(taken(&at_first), ["register"]);
}

/// One whose owner is frozen answers nothing, not even that it is away.
#[tokio::test(start_paused = true)]
async fn a_backend_that_says_nothing_holds_up_no_registration_in_another() {
    let ((here, of_here, _), (frozen, of_frozen, asked)) = (partition(0), partition(0));
    let backend = |name: &str, tenants: &[&str], partition| Backend {
        name: name.into(),
        tenants: tenants.iter().map(|pattern| WildMatch::new(pattern)).collect(),
        partitions: vec![partition],
    };
    let hub = HubHandle::new(vec![backend("a", &[], here), backend("b", &["far"], frozen)], Numbers::counted());
    give(&of_here, [registered(0, 7, true)]);
    let (kept, mut unanswered) = mpsc::channel(1);
    give(&of_frozen, [Box::new(move |command| kept.try_send(command).unwrap()) as _]);
    let registering = tokio::time::timeout(std::time::Duration::from_secs(5), register(&hub));
    assert!(registering.await.expect("an answer").unwrap().created);
    assert_eq!(taken(&asked), ["known"]);
    assert!(unanswered.recv().await.is_some());
}

fn renewed(count: u64, unknown: &[&str], unlisted: &[&str]) -> Result<Renewed, Problem> {
    let ids = |ids: &[&str]| ids.iter().map(|id| Name::new(id).unwrap()).collect();
    let expires_at = DateTime::from_timestamp(1_000 + count as i64, 0).unwrap();
    Ok(Renewed { expires_at, renewed: count, unknown: ids(unknown), unlisted: ids(unlisted) })
}

#[test]
fn nothing_is_called_unknown_while_somebody_cannot_say() {
    let named: Vec<SubscriptionId> = ["a", "b", "c"].map(|id| Name::new(id).unwrap()).into();
    let missing = || Err(Problem::new(Code::GatewayNotFound, "no"));
    let away = || Err(Problem::new(Code::OwnerUnknown, "no"));
    let merged = |answers| {
        merge::renewed(answers, &named).map(|it| {
            let ids = |ids: Vec<SubscriptionId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            (it.renewed, it.expires_at.timestamp(), ids(it.unknown), ids(it.unlisted))
        })
    };
    // One that a partition of its backend lacks is unknown.
    let one = vec![renewed(3, &["c"], &["x"]), renewed(2, &["b", "c"], &["x"])];
    assert_eq!(merged(vec![one]).unwrap(), (2, 1_002, "b c".into(), "x".into()));
    // One that another backend has is not.
    let two = vec![vec![renewed(1, &["b", "c"], &[])], vec![renewed(2, &["a"], &["y"])]];
    assert_eq!(merged(two).unwrap(), (3, 1_001, "".into(), "y".into()));
    assert_eq!(merged(vec![vec![renewed(1, &["b", "c"], &[])], vec![missing()]]).unwrap().2, "b c");
    assert_eq!(merged(vec![vec![renewed(1, &["b", "c"], &[])], vec![away()]]).unwrap().2, "");
    assert_eq!(merged(vec![vec![missing()], vec![away()]]).unwrap_err().code, Code::OwnerUnknown);
    assert_eq!(merged(vec![vec![missing()], vec![missing()]]).unwrap_err().code, Code::GatewayNotFound);
}

proptest! {
    /// Pages of several partitions, one after the other, are the whole list in order, each once.
    #[test]
    fn pages_add_up_to_the_list(having in prop::collection::vec(1u8..8, 0..40), limit in 1usize..7) {
        let all: Vec<(SubscriptionKey, u8)> = having.iter().enumerate().map(|(number, who)| {
            let id = Name::new(&format!("s{number:02}")).unwrap();
            (SubscriptionKey { gateway: gateway(), id }, *who)
        }).collect();
        let page = |partition: u16, after: Option<&SubscriptionKey>| {
            let here = all.iter().filter(|(key, who)| who & (1 << partition) != 0 && after.is_none_or(|after| key > after));
            let mut found: Vec<_> = here.map(|(key, _)| key.clone()).collect();
            let next = (found.len() > limit).then(|| found[limit - 1].clone());
            found.truncate(limit);
            let one = |key: SubscriptionKey| SubscriptionView {
                spec: Arc::new(Spec { subscription_id: key.id, ..spec() }),
                ..view(partition, 1)
            };
            Page { subscriptions: found.into_iter().map(one).collect(), next }
        };
        let (mut after, mut listed) = (None, Vec::new());
        loop {
            let pages = (0..3).map(|partition| page(partition, after.as_ref())).collect();
            let merged = merge::pages(pages, limit);
            prop_assert!(merged.subscriptions.len() <= limit);
            listed.extend(merged.subscriptions.iter().map(|view| (view.spec.key(), view.active_from.len() as u32)));
            let Some(next) = merged.next else { break };
            prop_assert!(after.as_ref() != Some(&next), "it goes on");
            after = Some(next);
        }
        let wanted: Vec<_> = all.iter().map(|(key, who)| (key.clone(), who.count_ones())).collect();
        prop_assert_eq!(listed, wanted);
    }
}

fn cursor(partition: u16, written: u64) -> CursorText {
    let place = Place { position: position(written as u32), ..Place::default() };
    let places = BTreeMap::from([(PartitionId::new("default", partition), place)]);
    Cursor { incarnation: Revision(1), serial: Serial { session: 1, written }, places }.encode()
}

fn both(first: u64, second: u64) -> CursorText {
    CursorText::joined([&cursor(0, first), &cursor(1, second)])
}

/// Answers an opening with a session, whose other end is returned.
fn opened(answers: &Answers) -> mpsc::Sender<Vec<Frame>> {
    let (sender, session) = Session::scripted(1);
    give(
        answers,
        [Box::new(move |command| {
            let Command::Open(_, reply) = command else { panic!("{command:?}") };
            let _ = reply.send(Ok(session));
        }) as _],
    );
    sender
}

fn welcome(partition: u16, written: u64) -> Frame {
    Frame::Welcome(Welcome {
        session: 1,
        node: "hub".into(),
        cursor: cursor(partition, written),
        positions: vec![(PartitionId::new("default", partition), position(written as u32))],
        heartbeat_seconds: 20,
    })
}

fn progress(partition: u16, written: u64, catching_up: u64) -> Frame {
    let positions = vec![(PartitionId::new("default", partition), position(written as u32))];
    Frame::Progress(Progress { cursor: cursor(partition, written), positions, catching_up })
}

fn hello(cursor: Option<CursorText>) -> Hello {
    Hello { cursor, ..Hello::new(gateway(), Transport::Grpc) }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_away_joins_when_it_is_back() {
    let ((first, of_first, at_first), (second, of_second, at_second)) = (partition(0), partition(1));
    let hub = hub(vec![first, second]);
    let one = opened(&of_first);
    one.send(vec![welcome(0, 5)]).await.unwrap();
    let mut session = hub.open(hello(Some(both(5, 9)))).await.unwrap();
    assert_eq!(taken(&at_first), [format!("open 1 at {}", cursor(0, 5))]);
    assert_eq!(taken(&at_second), [format!("open 1 at {}", cursor(1, 9))]);
    let frames = session.next(1_000).await.unwrap();
    let [Frame::Welcome(said)] = &frames[..] else { panic!("{frames:?}") };
    let of = |positions: &[(PartitionId, Position)]| positions.iter().map(|(_, at)| *at).collect::<Vec<_>>();
    assert_eq!(said.cursor, both(5, 9), "its part stays as it was presented");
    assert_eq!(of(&said.positions), [position(5), Position::default()], "and nothing of it has been sent");

    one.send(vec![progress(0, 6, 0)]).await.unwrap();
    let frames = session.next(1_000).await.unwrap();
    let [Frame::Progress(said)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((&said.cursor, said.catching_up), (&both(6, 9), 1), "who is away is behind");
    assert_eq!(of(&said.positions), [position(6), Position::default()]);

    let two = opened(&of_second);
    let of_two = two.clone();
    Tasks::new().spawn(Kind::Session, "frames", async move {
        of_two.send(vec![welcome(1, 9), progress(1, 10, 2)]).await.unwrap();
        of_two.send(vec![progress(1, 11, 1)]).await.unwrap();
    });
    // One alone is not told at once: the other is about to say something, too.
    let frames = session.next(1_000).await.unwrap();
    let [Frame::Progress(said)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((&said.cursor, said.catching_up), (&both(6, 11), 1));
    assert_eq!(of(&said.positions), [position(6), position(11)]);
    assert_eq!(taken(&at_second).pop(), Some(format!("open 1 at {}", cursor(1, 9))), "under the same number");

    two.send(vec![Frame::Closed(Closed { reason: CloseReason::Draining })]).await.unwrap();
    assert!(matches!(
        session.next(1_000).await.unwrap()[..],
        [Frame::Closed(Closed { reason: CloseReason::Draining })]
    ));
    assert!(session.next(1_000).await.is_none());
}

/// A browser presents the cursor of the last event that it has had, which may be the welcome.
#[tokio::test(start_paused = true)]
async fn the_cursor_of_a_welcome_acks_nothing_that_comes_after_it() {
    let ((first, of_first, _), (second, of_second, _)) = (partition(0), partition(1));
    let hub = hub(vec![first, second]);
    let (one, two) = (opened(&of_first), opened(&of_second));
    let lost = |partition: u16, written: u64| {
        Frame::Resync(crate::delivery::frame::Resync {
            cursor: cursor(partition, written),
            partition: PartitionId::new("default", partition),
            from: None,
            to: position(written as u32),
            reason: crate::change::ResyncReason::Forgotten,
            scopes: None,
            subscription_ids: Vec::new(),
        })
    };
    one.send(vec![welcome(0, 5), lost(0, 6)]).await.unwrap();
    two.send(vec![welcome(1, 8), lost(1, 9)]).await.unwrap();
    let mut session = hub.open(hello(None)).await.unwrap();
    let frames = session.next(1_000).await.unwrap();
    let cursors: Vec<_> = frames.iter().map(|frame| frame.cursor().unwrap().clone()).collect();
    assert_eq!(cursors, [both(5, 8), both(6, 8), both(6, 9)]);
}

#[tokio::test(start_paused = true)]
async fn what_one_partition_says_of_the_session_is_said_of_all() {
    let ((first, of_first, _), (second, of_second, _)) = (partition(0), partition(1));
    let hub = hub(vec![first, second]);
    let (one, two) = (opened(&of_first), opened(&of_second));
    one.send(vec![welcome(0, 1)]).await.unwrap();
    two.send(vec![Frame::Closed(Closed { reason: CloseReason::Superseded })]).await.unwrap();
    let mut session = hub.open(hello(None)).await.unwrap();
    let mut frames = session.next(1_000).await.unwrap();
    let last = frames.pop().unwrap();
    assert!(matches!(last, Frame::Closed(Closed { reason: CloseReason::Superseded })), "{last:?}");

    // Late, it may be an operator's move: the gateway comes back.
    let one = opened(&of_first);
    one.send(vec![welcome(0, 1)]).await.unwrap();
    let mut session = hub.open(hello(None)).await.unwrap();
    session.next(1_000).await.unwrap();
    let two = opened(&of_second);
    two.send(vec![Frame::Closed(Closed { reason: CloseReason::Superseded })]).await.unwrap();
    let frames = session.next(1_000).await.unwrap();
    assert!(matches!(frames[..], [Frame::Closed(Closed { reason: CloseReason::Draining })]), "{frames:?}");

    // What is refused by one is refused.
    give(&of_first, [refused(Code::DeliveryMismatch)]);
    let _two = opened(&of_second);
    assert_eq!(hub.open(hello(None)).await.unwrap_err().code, Code::DeliveryMismatch);
    assert_eq!(hub.open(hello(None)).await.unwrap_err().code, Code::OwnerUnknown, "nobody answers");
    let nonsense = hello(Some(CursorText("nonsense".into())));
    assert_eq!(hub.open(nonsense).await.unwrap_err().code, Code::InvalidCursor);
}

#[tokio::test(start_paused = true)]
async fn who_has_much_to_say_does_not_keep_others_from_it() {
    let ((first, of_first, _), (second, of_second, _)) = (partition(0), partition(1));
    let hub = hub(vec![first, second]);
    let (one, two) = (opened(&of_first), opened(&of_second));
    one.send(vec![welcome(0, 1)]).await.unwrap();
    two.send(vec![welcome(1, 1)]).await.unwrap();
    let mut session = hub.open(hello(None)).await.unwrap();
    session.next(1_000).await.unwrap();
    let expired = |id: &str| {
        let subscription_ids = vec![Name::new(id).unwrap()];
        Frame::Expired(crate::delivery::frame::Expired {
            subscription_ids,
            reason: crate::delivery::frame::ExpiredReason::Lease,
        })
    };
    let tasks = Tasks::new();
    let talk = |sender: mpsc::Sender<Vec<Frame>>, id: &'static str| async move {
        while sender.send(vec![expired(id)]).await.is_ok() {}
    };
    tasks.spawn(Kind::Session, "one", talk(one, "one"));
    tasks.spawn(Kind::Session, "two", talk(two, "two"));
    let mut counts = BTreeMap::new();
    for _ in 0..100 {
        tokio::task::yield_now().await;
        for frame in session.next(1_000).await.unwrap() {
            let Frame::Expired(expired) = frame else { continue };
            *counts.entry(expired.subscription_ids[0].to_string()).or_insert(0) += 1;
        }
    }
    assert!(counts.len() == 2 && counts.values().all(|count| *count > 30), "{counts:?}");
}

#[tokio::test]
async fn an_ack_is_taken_apart() {
    let ((first, _, at_first), (second, _, at_second)) = (partition(0), partition(1));
    let hub = hub(vec![first, second]);
    let _ = hub.ack(gateway(), both(3, 4)).await;
    assert_eq!(
        (taken(&at_first), taken(&at_second)),
        (vec![format!("ack {}", cursor(0, 3))], vec![format!("ack {}", cursor(1, 4))])
    );
    for foreign in [cursor(7, 1), CursorText("nonsense".into())] {
        assert_eq!(hub.ack(gateway(), foreign).await.unwrap_err().code, Code::InvalidCursor);
    }
    assert!(taken(&at_first).is_empty());
    let _ = hub.unregister(key()).await;
    assert_eq!((taken(&at_first).len(), taken(&at_second).len()), (1, 1));
}

#[test]
fn a_tenant_lives_where_the_map_says() {
    let backend = |name: &str, tenants: &[&str]| Backend {
        name: name.into(),
        tenants: tenants.iter().map(|pattern| WildMatch::new(pattern)).collect(),
        partitions: Vec::new(),
    };
    let hub = |backends| HubHandle::new(backends, Numbers::counted());
    let at = |hub: &HubHandle, tenant: &str, named: Option<&str>| {
        hub.backend_of(Some(tenant), named).map(|backend| backend.name.to_string()).map_err(|problem| problem.field)
    };
    let refused = || Err(Some("backend".to_owned()));
    let mapped = hub(vec![backend("a", &["acme*"]), backend("b", &[])]);
    assert_eq!(at(&mapped, "acme-1", None), Ok("a".into()));
    assert_eq!(at(&mapped, "other", None), Ok("b".into()));
    assert_eq!(at(&mapped, "acme-1", Some("a")), Ok("a".into()));
    assert_eq!(at(&mapped, "acme-1", Some("b")), refused());
    assert_eq!(at(&mapped, "other", Some("a")), refused());
    assert_eq!(at(&mapped, "other", Some("c")), refused());
    let closed = hub(vec![backend("a", &["acme"]), backend("b", &["globex"])]);
    assert_eq!(at(&closed, "other", None), refused());
    let open = hub(vec![backend("a", &[]), backend("b", &[])]);
    assert_eq!(at(&open, "any", None), refused());
    assert_eq!(at(&open, "any", Some("b")), Ok("b".into()));
}
