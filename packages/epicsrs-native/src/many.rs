//! One operation on many links at once, with one deadline for all.

use std::future::Future;
use std::iter::repeat_with;
use std::task::Poll;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::task::coop::unconstrained;

use crate::arguments::Limit;
use crate::error::Error;
use crate::link::Link;
use crate::runtime::within;

/// So many are started before the circuits' writers get their turn: more would wait for room in a writer's queue.
const WAVE: usize = 1024;

/// Start `call` for every link in their order; one result each, the error of lateness for those that had none in time.
pub async fn each<T, F>(links: Vec<Link>, limit: Limit, call: impl Fn(usize, Link) -> F) -> Vec<Result<T, Error>>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut results: Vec<_> = repeat_with(|| None).take(links.len()).collect();
    let mut store = |(place, result): (usize, Result<T, Error>)| {
        if let Some(slot) = results.get_mut(place) {
            *slot = Some(result);
        }
    };
    let all = async {
        let mut running = FuturesUnordered::new();
        for (wave, links) in links.chunks(WAVE).enumerate() {
            for (place, link) in links.iter().enumerate() {
                let place = wave * WAVE + place;
                let call = call(place, link.clone());
                running.push(async move { (place, call.await) });
            }
            while let Poll::Ready(Some(done)) = futures_util::poll!(running.next()) {
                store(done);
            }
            tokio::task::yield_now().await;
        }
        while let Some(done) = running.next().await {
            store(done);
        }
    };
    // tokio lets a task use 128 results at a time, and this one task waits for thousands.
    within(limit, unconstrained(all)).await;
    links
        .iter()
        .zip(results)
        .map(|(link, result)| result.unwrap_or_else(|| Err(limit.late(Some(link)))))
        .collect()
}
