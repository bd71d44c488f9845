//! How many names are searched for at once: a server's socket holds no more, and what is lost there is searched for
//! again a good while later.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::link::CaLink;

/// So many searches may be unanswered before the next has to wait.
const MOST: usize = 1000;
/// Where no answer has come for so long, those that are out are of PVs that nobody serves.
const PATIENCE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct State {
    unanswered: usize,
    waiting: VecDeque<Weak<CaLink>>,
    admitting: bool,
}

#[derive(Default)]
pub struct Pacer {
    state: Mutex<State>,
    answers: Notify,
}

impl Pacer {
    /// Have the link search for its server, now or in its turn.
    pub fn enter(self: &Arc<Self>, handle: &Handle, link: &Arc<CaLink>) {
        let mut state = self.state.lock();
        if state.unanswered < MOST && state.waiting.is_empty() {
            state.unanswered += 1;
            drop(state);
            link.search();
            return;
        }
        state.waiting.push_back(Arc::downgrade(link));
        if !state.admitting {
            state.admitting = true;
            handle.spawn(admit(self.clone()));
        }
    }

    /// A server has answered for one that was searched for.
    pub fn answered(&self) {
        let mut state = self.state.lock();
        state.unanswered = state.unanswered.saturating_sub(1);
        if state.admitting {
            self.answers.notify_one();
        }
    }

    /// Those whose turn it is; None where nobody waits any more.
    fn next(&self, patient: bool) -> Option<Vec<Arc<CaLink>>> {
        let mut state = self.state.lock();
        if !patient {
            state.unanswered = 0;
        }
        let mut links = Vec::new();
        while state.unanswered < MOST {
            let Some(waiting) = state.waiting.pop_front() else {
                break;
            };
            if let Some(link) = waiting.upgrade() {
                state.unanswered += 1;
                links.push(link);
            }
        }
        if links.is_empty() && state.waiting.is_empty() {
            state.admitting = false;
            return None;
        }
        Some(links)
    }
}

async fn admit(pacer: Arc<Pacer>) {
    let mut patient = true;
    while let Some(links) = pacer.next(patient) {
        for link in links {
            link.search();
        }
        patient = tokio::time::timeout(PATIENCE, pacer.answers.notified()).await.is_ok();
    }
}
