//! One operation on many links at once, with one deadline for all.

use std::future::Future;
use std::iter::repeat_with;
use std::task::Poll;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::task::coop::unconstrained;

use crate::arguments::Limit;
use crate::error::Error;
use crate::link::Link;
use crate::runtime::within;

/// Woken together: answers come in runs, and to look at a few calls costs less than to wake each. `join_all` keeps up to
/// thirty in one allocation.
const GROUP: usize = 30;
/// So many groups are started before the circuits' writers get their turn: more would wait for room in a writer's queue.
const WAVE: usize = 32;

/// Start `call` for every link in their order; one result each, the error of lateness for those that had none in time.
pub async fn each<T, F>(links: Vec<Link>, limit: Limit, call: impl Fn(usize, Link) -> F) -> Vec<Result<T, Error>>
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
    links
        .iter()
        .zip(results.into_inner())
        .map(|(link, result)| result.unwrap_or_else(|| Err(limit.late(Some(link)))))
        .collect()
}
