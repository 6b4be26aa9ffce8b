//! Calls that say what a subscription is: POST and PUT.
//!
//! Owns in which order the partitions of a backend are asked. The first one decides whether a subscription is there
//! already, and its generation is the one by which gateways know it; the others are made to have the same. A call that
//! has failed half-way can be made again: what is there is left as it is, and the rest is completed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use super::{Backend, HubHandle, merge, unowned};
use crate::cursor::CursorText;
use crate::error::{Code, Problem};
use crate::handle::{Compiled, PartitionHandle, Registered, SubscriptionView, compile, compile_one};
use crate::subscription::{Spec, StartAt, SubscriptionKey};

/// How long another backend has to say what it has.
const PATIENCE: Duration = Duration::from_secs(1);

/// What of a batch is for one backend, and in which places the answers go.
struct Group<'a> {
    backend: &'a Backend,
    slots: Vec<usize>,
    items: Vec<Compiled>,
}

/// As a partition is asked: with its own part of a cursor, and with the generation that is known.
fn part_for(partition: &PartitionHandle, item: &Compiled, generation: Option<u64>) -> Compiled {
    let mut spec = item.spec.clone();
    if let Some(StartAt::Cursor(text)) = &spec.start_at {
        spec.start_at = Some(StartAt::Cursor(CursorText(Arc::clone(text)).for_partition(partition.id()).0));
    }
    spec.generation = generation;
    Compiled { spec, filter: Arc::clone(&item.filter) }
}

impl HubHandle {
    /// Registers, each for itself; answers come in order.
    pub async fn register(&self, specs: Vec<Spec>) -> Result<Vec<Result<Registered, Problem>>, Problem> {
        let mut results: Vec<Option<Result<Registered, Problem>>> = Vec::with_capacity(specs.len());
        let mut by_backend: BTreeMap<&str, Group<'_>> = BTreeMap::new();
        for (slot, compiled) in compile(specs).await?.into_iter().enumerate() {
            let placed = compiled.and_then(|item| {
                let backend = self.backend_of(Some(&item.spec.tenant), item.spec.backend.as_deref())?;
                Ok((backend, item))
            });
            results.push(None);
            match placed {
                Ok((backend, item)) => {
                    let group = by_backend.entry(&backend.name);
                    let group = group.or_insert_with(|| Group { backend, slots: Vec::new(), items: Vec::new() });
                    group.slots.push(slot);
                    group.items.push(item);
                }
                Err(problem) => results[slot] = Some(Err(problem)),
            }
        }
        let registering = by_backend.into_values().map(|Group { backend, slots, items }| async move {
            let answers = self.register_at(backend, items).await;
            (slots, answers)
        });
        for (slots, answers) in join_all(registering).await {
            let mut answers = answers.into_iter();
            for slot in slots {
                results[slot] = Some(answers.next().unwrap_or_else(|| Err(unowned())));
            }
        }
        Ok(results.into_iter().map(|result| result.unwrap_or_else(|| Err(unowned()))).collect())
    }

    /// At one backend. The answers come in order.
    async fn register_at(&self, backend: &Backend, items: Vec<Compiled>) -> Vec<Result<Registered, Problem>> {
        let Some((first, others)) = backend.partitions.split_first() else {
            return items.iter().map(|_| Err(unowned())).collect();
        };
        let elsewhere = self.elsewhere(backend, &items).await;
        let refused = |key: &SubscriptionKey| {
            let detail = format!("subscription {} is there, in another backend; DELETE it first", key.id);
            Problem::new(Code::SubscriptionExists, detail)
        };
        let (good, bad): (Vec<_>, Vec<_>) =
            items.into_iter().enumerate().partition(|(_, item)| !elsewhere.contains(&item.spec.key()));
        let asked = good.iter().map(|(_, item)| part_for(first, item, None)).collect();
        let answers = match good.is_empty() {
            true => Ok(Vec::new()),
            false => first.register_compiled(asked).await,
        };
        let mut results: Vec<(usize, Result<Registered, Problem>)> =
            bad.into_iter().map(|(slot, item)| (slot, Err(refused(&item.spec.key())))).collect();
        match answers {
            Err(problem) => results.extend(good.iter().map(|(slot, _)| (*slot, Err(problem.clone())))),
            Ok(answers) => {
                let mut done: Vec<(usize, Compiled, Registered)> = Vec::new();
                for ((slot, item), answer) in good.into_iter().zip(answers) {
                    match answer {
                        Ok(registered) => done.push((slot, item, registered)),
                        Err(problem) => results.push((slot, Err(problem))),
                    }
                }
                results.extend(complete(first, others, done).await);
            }
        }
        results.sort_by_key(|(slot, _)| *slot);
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// Those of them that another backend has. One that does not answer is not waited for: what is down must not touch
    /// the others.
    async fn elsewhere(&self, backend: &Backend, items: &[Compiled]) -> HashSet<SubscriptionKey> {
        let others = self.0.backends.iter().filter(|other| other.name != backend.name);
        let asked = others.filter_map(|other| other.partitions.first()).map(|partition| {
            let keys = items.iter().map(|item| item.spec.key()).collect();
            timeout(PATIENCE, partition.known(keys))
        });
        join_all(asked).await.into_iter().flatten().flatten().flatten().collect()
    }

    /// Replaces a subscription's filter, at one position of each partition.
    pub async fn replace(&self, spec: Spec) -> Result<SubscriptionView, Problem> {
        let item = compile_one(spec).await?;
        let backend = self.backend_of(Some(&item.spec.tenant), item.spec.backend.as_deref())?;
        let (first, others) = backend.partitions.split_first().ok_or_else(unowned)?;
        let view = match first.replace_compiled(part_for(first, &item, None)).await {
            Err(problem) if problem.code == Code::SubscriptionNotFound => {
                if self.elsewhere(backend, std::slice::from_ref(&item)).await.is_empty() {
                    return Err(problem);
                }
                let detail = "this tenant lives in another backend than the subscription: DELETE and POST it";
                return Err(Problem::new(Code::InvalidRequest, detail).at("tenant"));
            }
            answer => answer?,
        };
        let generation = view.generation;
        let rest = others.iter().map(|partition| put(partition, &item, generation));
        let rest = join_all(rest).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(merge::subscription(std::iter::once(view).chain(rest).collect()))
    }
}

/// Has the other partitions have what the first one has.
async fn complete(
    first: &PartitionHandle,
    others: &[PartitionHandle],
    done: Vec<(usize, Compiled, Registered)>,
) -> Vec<(usize, Result<Registered, Problem>)> {
    if others.is_empty() || done.is_empty() {
        return done.into_iter().map(|(slot, _, registered)| (slot, Ok(registered))).collect();
    }
    let followed = join_all(others.iter().map(|partition| follow(partition, &done))).await;
    let mut followed: Vec<_> = followed.into_iter().map(Vec::into_iter).collect();
    let mut results = Vec::new();
    for (slot, item, Registered { view, created }) in done {
        let rest = followed.iter_mut().map(|answers| answers.next().unwrap_or_else(|| Err(unowned())));
        match rest.collect::<Vec<_>>().into_iter().collect::<Result<Vec<_>, Problem>>() {
            Ok(rest) => {
                let view = merge::subscription(std::iter::once(view).chain(rest).collect());
                results.push((slot, Ok(Registered { view, created })));
            }
            Err(problem) => {
                // Whoever is refused does not ask again: nothing of it stays.
                if created && problem.status < 500 && problem.code != Code::RateLimited {
                    let key = item.spec.key();
                    let all = others.iter().chain([first]);
                    join_all(all.map(|partition| partition.unregister(key.clone()))).await;
                }
                results.push((slot, Err(problem)));
            }
        }
    }
    results
}

/// Has one partition have what the first one has.
async fn follow(
    partition: &PartitionHandle,
    done: &[(usize, Compiled, Registered)],
) -> Vec<Result<SubscriptionView, Problem>> {
    let asked = done.iter().map(|(_, item, first)| part_for(partition, item, Some(first.view.generation)));
    let answers = match partition.register_compiled(asked.collect()).await {
        Ok(answers) => answers,
        Err(problem) => return done.iter().map(|_| Err(problem.clone())).collect(),
    };
    let mut results = Vec::new();
    for ((_, item, first), answer) in done.iter().zip(answers) {
        let generation = first.view.generation;
        results.push(match answer {
            // What an earlier call has left here that did not come to its end.
            Ok(registered) if registered.view.generation != generation => put(partition, item, generation).await,
            Err(problem) if problem.code == Code::SubscriptionExists => put(partition, item, generation).await,
            answer => answer.map(|registered| registered.view),
        });
    }
    results
}

/// Has a partition have this filter under this generation, whatever it has.
async fn put(partition: &PartitionHandle, item: &Compiled, generation: u64) -> Result<SubscriptionView, Problem> {
    match partition.replace_compiled(part_for(partition, item, Some(generation))).await {
        Err(problem) if problem.code == Code::SubscriptionNotFound => {
            let asked = vec![part_for(partition, item, Some(generation))];
            let mut answers = partition.register_compiled(asked).await?;
            answers.pop().unwrap_or_else(|| Err(unowned())).map(|registered| registered.view)
        }
        answer => answer,
    }
}
