//! Every fixed limit, with the relations between them checked at compile time.
//!
//! Units stand last in the names. What an operator may change lives in `config.rs`; what would break
//! a promise or another limit if changed lives here.

#![allow(non_upper_case_globals, reason = "limits read like the settings they bound, unit last")]

/// The greatest HTTP body of a single call.
pub const body_bytes_max: usize = 1 << 20;
/// The greatest HTTP body of a batch.
pub const batch_body_bytes_max: usize = 32 << 20;
/// Items in a registration batch.
pub const batch_items_max: usize = 10_000;

/// `filters` of one subscription.
pub const filters_max: usize = 32;
/// CEL source.
pub const cel_source_bytes_max: usize = 2 << 10;
/// Depth of CEL's syntax tree.
pub const cel_depth_max: usize = 100;
/// Steps in which a CEL expression is taken apart; one that needs more is left whole. Without repetition
/// a source of the greatest length does with as many.
pub const formula_steps_max: usize = 1_024;
/// Keys under which one filter is filed; one that needs more is scanned.
pub const cover_keys_max: usize = list_values_max;
/// Nesting of CEL comprehensions (`exists`, `all`, `map`, `filter`).
pub const cel_comprehensions_max: usize = 1;
/// Elements that a CEL loop runs over; more is an error of the evaluation.
pub const cel_loop_items_max: usize = 100_000;
/// Values, nested ones included, in what a CEL loop takes from the document with every turn.
pub const cel_loop_operand_values_max: usize = 1_000;
/// Bytes of texts and binary data in what a CEL loop takes from the document with every turn.
pub const cel_loop_operand_bytes_max: usize = 64 << 10;
/// `+` in CEL that might join strings or lists: each copies what the document holds.
pub const cel_joins_max: usize = 8;
/// Values in CEL's written-out lists and maps that may be a part of the document: each is copied.
pub const cel_copies_max: usize = 8;
/// What one program with CEL may take of a second, in milliseconds, before it is parked; matching has one thread.
pub const program_millis_per_second_max: u32 = 200;
/// A program is not too dear, however often it runs, whose evaluations take no longer than this in the mean.
pub const program_micros_max: u32 = 20;
/// A pattern of CEL's `matches`.
pub const cel_pattern_bytes_max: usize = 256;
/// A pattern of CEL's `matches` as a compiled automaton.
pub const cel_pattern_compiled_bytes_max: usize = 64 << 10;
/// Stack of the thread that parses and first evaluates CEL: the parser is recursive.
pub const cel_stack_bytes: usize = 64 << 20;
/// Values of an `in`, `not-in` or `array-contains-any`.
pub const list_values_max: usize = 1_000;
/// One string value of a filter.
pub const string_value_bytes_max: usize = 4 << 10;
/// A dotted path.
pub const path_bytes_max: usize = 256;
/// Steps of a dotted path.
pub const path_steps_max: usize = 16;
/// A subscription as stored, superseded filters included.
pub const subscription_bytes_max: usize = 64 << 10;
/// Filters replaced by PUT that are kept until the gateway has acked past them.
pub const superseded_max: usize = 8;
/// Earlier revivals of a subscription whose starts are kept apart: those before count as one.
pub const revivals_max: usize = 16;
/// What a session may ask to be sent without an ack. More is as good as unpaced, and remembering what
/// is unacked costs memory.
pub const unacked_bytes_max: u64 = 1 << 30;
/// How far behind the head a checkpoint may stay for the sake of gateways that are about there, in cluster time.
pub const checkpoint_hold_seconds: u64 = 2;
/// And in bytes of the window.
pub const checkpoint_hold_bytes: usize = 16 << 20;
/// Gateways that a hub knows, connected or not: each costs a record and a place in a page of cursors.
pub const gateways_max: usize = 100_000;
/// A batch of changes in one message of a NATS stream.
pub const nats_batch_bytes_max: usize = 512 << 10;
/// Gateways that are given a publisher at once.
pub const nats_publishers_at_once_max: usize = 256;
/// Requests for a session of one gateway that may wait for one another.
pub const opens_waiting_max: usize = 16;

/// A subscription's, gateway's, group's or member's name.
pub const name_chars_max: usize = 128;
/// A tenant's or collection's name.
pub const scope_name_bytes_max: usize = 256;
/// A subscription's lease.
pub const ttl_seconds_min: u32 = 60;
/// A subscription's lease.
pub const ttl_seconds_max: u32 = 3600;
/// A subscription's lease where none is named.
pub const ttl_seconds_default: u32 = 300;
/// How often a gateway is asked to renew its leases.
pub const heartbeat_seconds: u32 = 20;
/// How often a stream with `?ack=auto` renews its gateway's leases.
pub const lease_renewal_seconds: u32 = 20;
/// Subscriptions on one page of a list.
pub const page_items_max: usize = 1_000;
/// Matches that an explanation lists.
pub const explain_matches_max: usize = 1_000;
/// Gateways that `GET /v1/overview` lists, those furthest behind first.
pub const overview_gateways_max: usize = 200;
/// Reports of drills that are shown.
pub const drill_reports_max: usize = 64;
/// What is longer is no report.
pub const drill_report_bytes_max: u64 = 64 << 10;
/// How far back a backtest may look.
pub const backtest_seconds_max: u32 = 7 * 24 * 3600;
/// The buckets of its histogram, at most.
pub const backtest_buckets: u32 = 60;
/// Changes that it tries in each partition; what it has come to by then is its answer.
pub const backtest_changes_max: u64 = 1_000_000;
/// Matches that it shows.
pub const backtest_samples_max: usize = 20;
/// The longest document of a match that it shows.
pub const backtest_sample_bytes_max: usize = 64 << 10;
/// Costs that it keeps while it goes on.
pub const backtest_costs_max: usize = 4_096;
/// From the oldest entry of an oplog on, which may go at any moment.
pub const backtest_margin_seconds: u32 = 2;
/// Backtests of one partition at once.
pub const backtests_max: usize = 2;
/// Filters that `GET /v1/overview` names as the costliest of a partition.
pub const costliest_shown_max: usize = 10;
/// Subscriptions on one page of a list where no limit is named.
pub const page_items_default: usize = 100;

/// A cursor's text.
pub const cursor_text_bytes_max: usize = 4 << 10;
/// Unfinished catch-ups that one cursor names; past that, cursors say less and replay more.
pub const cursor_catchups_max: usize = 64;

/// A window that gives way to others has at least this, unless it is configured with less.
pub const window_bytes_least: u64 = 4 << 20;
/// A partition's part of a cursor without catch-ups and without the backend's name: ten numbers and a checksum.
pub const cursor_part_bytes_max: usize = 72;
/// What one catch-up adds to it.
pub const cursor_catchup_bytes_max: usize = 31;

/// A gRPC response where `hello` names no other limit.
pub const grpc_message_bytes_default: usize = 4 << 20;
/// The least limit that `hello` may name: a change without its body must fit.
pub const grpc_message_bytes_min: usize = 256 << 10;
/// No session is promised more than this, whatever `hello` names; two documents of MongoDB's 16 MB fit.
pub const grpc_message_bytes_max: usize = 64 << 20;
/// A message between nodes: frames of a batch, two documents of 16 MB with what an update of them set, or a batch of
/// registrations.
pub const peer_message_bytes_max: usize = 128 << 20;
/// Points that each member has on a ring.
pub const ring_points_per_member: usize = 150;
/// Subscriptions of a group that one turn moves to other members, and those of which it tells members that are there.
pub const group_moves_at_once_max: usize = 10_000;
/// Likewise.
pub const group_revokes_at_once_max: usize = 1_000;
/// Names of one of a group's subscriptions by which cursors of earlier members may know it.
pub const names_before_max: usize = 16;
/// How long a move within a group waits for the ack of the member that has the subscription.
pub const revoke_seconds_max: u64 = 5;
/// Questions to a partition's owner under way at once, and openings of sessions; callers past that are told to come
/// again.
pub const peer_questions_max: usize = 1_024;
/// A request in a `Consume` stream.
pub const grpc_consume_request_bytes_max: usize = 64 << 10;
/// How long a new `Consume` stream may take to say `hello`.
pub const grpc_hello_seconds_max: u64 = 30;
/// Bodies that a transport takes from its session at a time, by what they cost there.
pub const transport_chunk_bytes: usize = 256 << 10;
/// Nesting of a delivered body; MongoDB itself stores 180 levels at most.
pub const body_depth_max: usize = 200;
/// Projections of one change whose encoded forms are kept; others are encoded when needed.
pub const projections_kept_max: usize = 16;
/// Subscriptions listed in one `change` message's `matches`.
pub const matches_per_message_max: usize = 1_000;
/// A batch of changes from a source, by sum of `Change::size_bytes`.
pub const source_batch_bytes_max: usize = 4 << 20;
/// What a reading of the source holds: batches that wait, and the one that its taker looks at.
pub const reading_bytes_max: u64 = (source_batch_bytes_max * (reading_batches_max + 1)) as u64;
/// Batches in flight between a reading's task and its taker.
pub const reading_batches_max: usize = 4;
/// How far ahead of a reading, in cluster time, a catch-up may be to wait for it rather than have one of its own.
pub const ride_wait_seconds: u32 = 30;
/// Readings of the source for catch-ups of a partition at once; who finds no place in one waits.
pub const readings_max: usize = 8;
/// Changes in a batch from a source.
pub const source_batch_changes_max: usize = 1_000;

/// Operations in one store transaction; one of etcd's 128 is the fence.
pub const store_txn_operations_max: usize = 127;
/// Positions of which it is remembered that the source has lost them.
pub const lost_positions_max: usize = 1_024;
/// Subscriptions that are looked at in one turn for whether their leases have run out, so that a turn is short: of a million
/// each is looked at every half a minute.
pub const subscriptions_swept_at_once_max: usize = 32_768;
/// Gateways that are forgotten at once, for each is a transaction or more.
pub const gateways_forgotten_at_once_max: usize = 100;
/// Sum of keys and values in one store transaction.
pub const store_txn_bytes_max: usize = 1 << 20;
/// Pages over which a partition's cursors are spread.
pub const cursor_pages: u16 = 64;

/// An event the server's own guard lets through; larger ones lose their images (`$bsonSize`).
pub const event_image_bytes_max: i64 = 15_000_000;

/// One document as BSON; MongoDB's own limit, held by the embedded log as well.
pub const document_bytes_max: usize = 16 << 20;
/// A key on `POST /v1/events`; MongoDB's limit for an index key.
pub const event_key_bytes_max: usize = 1024;
/// Publications that wait for the embedded log's disk.
pub const log_queue_bytes_max: usize = 64 << 20;
/// Calls that wait for the embedded log's disk.
pub const log_queue_requests_max: usize = 4096;
/// One group commit of the embedded log; the call that crosses it still belongs to it.
pub const log_group_bytes_max: usize = 4 << 20;

/// Subscriptions a partition in a client's table of last positions; past that the quietest half goes.
pub const client_positions_max: usize = 1_000_000;
/// Messages between a client's connection and its application, each at most the client's message limit.
pub const client_queue_messages_max: usize = 4;

const _: () = assert!(lease_renewal_seconds * 2 < ttl_seconds_min);
const _: () = assert!(heartbeat_seconds * 3 <= ttl_seconds_min, "two heartbeats may be lost");
const _: () = assert!(subscription_bytes_max < store_txn_bytes_max);
const _: () = assert!(subscription_bytes_max < body_bytes_max);
const _: () = assert!(cel_source_bytes_max < 64 << 10, "the CEL parser panics past column 65,535");
const _: () = assert!(batch_body_bytes_max <= log_queue_bytes_max && log_group_bytes_max < log_queue_bytes_max);
// A match takes at most its name, a generation and three short texts; 64 KiB are for all else.
const _: () = assert!(matches_per_message_max * (name_chars_max + 48) + (64 << 10) <= grpc_message_bytes_min);
const _: () = assert!(grpc_message_bytes_min <= grpc_message_bytes_default);
const _: () = assert!(grpc_message_bytes_default <= grpc_message_bytes_max);
const _: () = assert!(source_batch_bytes_max >= 1 << 20);
// A catch-up in a cursor takes at most 10 bytes of revision and 21 of position; base64 adds a third.
const _: () = assert!((cursor_catchups_max * cursor_catchup_bytes_max + 200) * 4 / 3 < cursor_text_bytes_max);
