//! Chats: every subscription asks for one, two ask for the same; or each for one of its own.

use bson::{Document, doc};

use super::random::Random;
use super::workload::Wanted;
use crate::subscription::Operator;

pub(super) const NAMED: [&str; 1] = ["chatId"];

fn chats(subscriptions: u32) -> u64 {
    u64::from(subscriptions / 2).max(1)
}

pub(super) fn wanted(subscriptions: u32, number: u32) -> Wanted {
    // What comes after a removal asks for the same chats anew.
    let chat = u64::from(number / 2) % chats(subscriptions);
    Wanted { filters: vec![("chatId", Operator::Equal, name(chat).into())], ..Wanted::default() }
}

pub(super) fn wanted_single(subscriptions: u32, number: u32) -> Wanted {
    let number = number % subscriptions.max(1);
    Wanted { filters: vec![("chatId", Operator::Equal, name(u64::from(number)).into())], ..Wanted::default() }
}

pub(super) fn named_single(subscriptions: u32, number: u64) -> Document {
    doc! { "chatId": name(Random(1).below(number, u64::from(subscriptions))) }
}

pub(super) fn named(subscriptions: u32, number: u64, mostly_nobody: bool) -> Document {
    let chats = chats(subscriptions);
    let chat = Random(1).below(number, chats);
    let nobody = mostly_nobody && Random(2).below(number, 10) > 0;
    doc! { "chatId": name(if nobody { chat + chats } else { chat }) }
}

/// Of one length, whether asked for or not.
fn name(chat: u64) -> String {
    format!("chat-{chat:08}")
}
