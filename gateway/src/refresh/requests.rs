//! Refreshes of one relationship that somebody waits for. There is a queue for each relationship and most are always
//! empty, so an empty one takes no memory of its own.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use crate::{api::RefreshRequest, audit::Actor};

/// Refreshes of one relationship that may wait for their turn.
pub(super) const MAX_WAITING: usize = 16;

/// Somebody waits for a refresh.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) options: RefreshRequest,
    /// Who.
    pub(super) by: Actor,
    /// Answered with whether a new bundle is in force, or why the refresh failed.
    pub(super) reply: oneshot::Sender<Result<bool, String>>,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// [`MAX_WAITING`] wait already.
    Full,
    /// Nobody serves them any more.
    Closed,
}

/// The queue of one relationship.
#[derive(Debug, Default)]
pub(super) struct Requests {
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Request>,
    closed: bool,
}

impl Requests {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a request wait for its turn.
    pub(super) fn put(&self, request: Request) -> Result<(), NotTaken> {
        let mut queue = self.queue();
        if queue.closed {
            return Err(NotTaken::Closed);
        }
        if queue.waiting.len() >= MAX_WAITING {
            return Err(NotTaken::Full);
        }
        queue.waiting.push_back(request);
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }

    /// The next request, however long it takes. Nothing is lost when the call is given up.
    pub(super) async fn next(&self) -> Request {
        loop {
            if let Some(request) = self.take() {
                return request;
            }
            self.wake.notified().await;
        }
    }

    /// The next request, if one waits.
    pub(super) fn take(&self) -> Option<Request> {
        let mut queue = self.queue();
        let request = queue.waiting.pop_front();
        if queue.waiting.is_empty() {
            queue.waiting = VecDeque::new();
        }
        request
    }

    /// Takes no more requests; whoever waits learns that there will be no answer.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        queue.waiting.clear();
    }

    /// Whether nobody serves requests any more.
    pub(super) fn is_closed(&self) -> bool {
        self.queue().closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn request() -> (Request, oneshot::Receiver<Result<bool, String>>) {
        let (reply, answer) = oneshot::channel();
        (Request { options: RefreshRequest::default(), by: Actor::Gateway, reply }, answer)
    }

    #[tokio::test]
    async fn requests_wait_in_order_up_to_the_bound() {
        let requests = Requests::default();
        let mut answers = Vec::new();
        for _ in 0..MAX_WAITING {
            let (request, answer) = request();
            requests.put(request).unwrap();
            answers.push(answer);
        }
        assert_eq!(requests.put(request().0), Err(NotTaken::Full));
        for answer in &mut answers {
            requests.next().await.reply.send(Ok(true)).unwrap();
            assert_eq!(answer.try_recv(), Ok(Ok(true)));
        }
        assert!(requests.take().is_none());
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_and_a_closed_queue_answers_nobody() {
        let requests = Arc::new(Requests::default());
        let waiting = Arc::clone(&requests);
        let served = tokio::spawn(async move { waiting.next().await });
        tokio::task::yield_now().await;
        let (first, _answer) = request();
        requests.put(first).unwrap();
        served.await.unwrap();

        let (second, answer) = request();
        requests.put(second).unwrap();
        requests.close();
        assert!(answer.await.is_err() && requests.is_closed());
        assert_eq!(requests.put(request().0), Err(NotTaken::Closed));
    }
}
