//! One operation on many links at once, with one deadline for all.

use std::collections::VecDeque;
use std::future::Future;
use std::iter::repeat_with;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{join, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::task::coop::unconstrained;

use crate::arguments::Limit;
use crate::ca;
use crate::error::Error;
use crate::link::Link;
use crate::runtime::within;
use crate::value::{Fetch, Form, Reading};

/// Woken together: answers come in runs, and to look at a few calls costs less than to wake each. `join_all` keeps up to
/// thirty in one allocation.
const GROUP: usize = 30;
/// So many groups are started before the circuits' writers get their turn: more would wait for room in a writer's queue.
const WAVE: usize = 32;
/// So many reads are written before the next are prepared: the server works meanwhile.
const READS: usize = 1000;

/// Start `call` for every link in their order; one result each, the error of lateness for those that had none in time.
pub async fn each<T, F>(links: Arc<Vec<Link>>, limit: Limit, call: impl Fn(usize, Link) -> F) -> Vec<Result<T, Error>>
where
    F: Future<Output = Result<T, Error>>,
{
    let results: Mutex<Vec<_>> = Mutex::new(repeat_with(|| None).take(links.len()).collect());
    let one = |place: usize, link: &Link| {
        let call = call(place, link.clone());
        let results = &results;
        async move {
            let result = call.await;
            if let Some(slot) = results.lock().get_mut(place) {
                *slot = Some(result);
            }
        }
    };
    let all = async {
        let mut running = FuturesUnordered::new();
        for (number, group) in links.chunks(GROUP).enumerate() {
            let first = number * GROUP;
            let calls = group.iter().enumerate().map(|(place, link)| one(first + place, link));
            running.push(join_all(calls));
            if number % WAVE == WAVE - 1 {
                while let Poll::Ready(Some(_)) = futures_util::poll!(running.next()) {}
                tokio::task::yield_now().await;
            }
        }
        while running.next().await.is_some() {}
    };
    // tokio lets a task use 128 results at a time, and this one task waits for thousands.
    within(limit, unconstrained(all)).await;
    on_time::<T, _>(&links, limit, results.into_inner())
}

/// Read every link, as `each` would: what can be read in batches is, the rest one by one beside it.
pub async fn read<T>(links: Arc<Vec<Link>>, fetch: Fetch, limit: Limit) -> Vec<T>
where
    T: From<Result<Reading, Error>>,
{
    let mut results: Vec<Option<T>> = repeat_with(|| None).take(links.len()).collect();
    let mut batches = ask(&links, &fetch).await;
    let mut alone = vec![true; links.len()];
    for place in batches.iter().flat_map(ca::Batch::places) {
        if let Some(alone) = alone.get_mut(place) {
            *alone = false;
        }
    }
    let others: Vec<_> = (0..)
        .zip(&alone)
        .filter_map(|(place, alone)| alone.then_some(place))
        .collect();
    let other_links = others.iter().filter_map(|place: &usize| links.get(*place).cloned());
    let singly = each(Arc::new(other_links.collect()), limit, |_, link| {
        link.get(fetch.clone())
    });
    let mut take = |place: usize, result| {
        if let Some(slot) = results.get_mut(place) {
            *slot = Some(T::from(result));
        }
    };
    let batched = async {
        let answers = async {
            while let Some(batch) = batches.front() {
                batch.answered().await;
                // Its readings are made while the server answers the next.
                if let Some(batch) = batches.pop_front() {
                    batch.results(&links, &mut take);
                }
            }
        };
        within(limit, unconstrained(answers)).await;
    };
    let ((), singly) = join(batched, singly).await;
    for batch in batches {
        batch.results(&links, &mut take);
    }
    for (place, result) in others.into_iter().zip(singly) {
        take(place, result);
    }
    on_time::<Reading, _>(&links, limit, results)
}

/// Send what can be read in batches, wave by wave.
async fn ask(links: &[Link], fetch: &Fetch) -> VecDeque<ca::Batch> {
    let mut batches = VecDeque::new();
    if fetch.form == Form::Ctrl || fetch.count.is_some() || fetch.cached || fetch.string {
        return batches;
    }
    for (wave, first) in links.chunks(READS).zip((0..).step_by(READS)) {
        if first > 0 {
            tokio::task::yield_now().await;
        }
        let channels = (first..).zip(wave).filter_map(|(place, link)| match link {
            Link::Ca(link) => Some((place, &**link)),
            Link::Pva(_) => None,
        });
        batches.extend(ca::ask(channels, fetch.form));
    }
    batches
}

/// The results, the error of lateness where there is none.
fn on_time<T, R: From<Result<T, Error>>>(links: &[Link], limit: Limit, results: Vec<Option<R>>) -> Vec<R> {
    let late = |link| R::from(Err(limit.late(Some(link))));
    let results = results.into_iter().zip(links);
    results
        .map(|(result, link)| result.unwrap_or_else(|| late(link)))
        .collect()
}
