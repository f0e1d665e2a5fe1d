//! Streaming answers: one message at once, another whenever what the caller sees has changed.

use std::sync::Arc;

use futures::{StreamExt, stream};
use tonic::Status;

use super::{Answers, Context, shutting_down};
use crate::{
    cache::{Subscription, view::View},
    workload::SelectorSet,
};

/// What a view means for a stream.
pub(super) enum Step<T> {
    /// Nothing new for the caller.
    Wait,
    /// This message.
    Send(T),
    /// The end of the stream.
    End(Status),
}

enum State {
    Starting,
    Following(Subscription),
    Ended,
}

/// The stream of a caller with these selectors. `next` is asked for every view the caller has not seen.
pub(super) fn follow<T: Send + 'static>(
    context: Context,
    selectors: Arc<SelectorSet>,
    next: impl FnMut(&Context, &View) -> Step<T> + Send + 'static,
) -> Answers<T> {
    let unfold = stream::unfold((State::Starting, next), move |(state, mut next)| {
        let (context, selectors) = (context.clone(), Arc::clone(&selectors));
        async move {
            let mut subscription = match state {
                State::Starting => {
                    if let Err(status) = context.synced().await {
                        return Some((Err(status), (State::Ended, next)));
                    }
                    context.cache.subscribe(&selectors)
                }
                State::Following(mut subscription) => {
                    if let Err(status) = change(&context, &mut subscription).await {
                        return Some((Err(status), (State::Ended, next)));
                    }
                    subscription
                }
                State::Ended => return None,
            };
            loop {
                let view = subscription.view();
                match next(&context, &view) {
                    Step::Send(message) => return Some((Ok(message), (State::Following(subscription), next))),
                    Step::End(status) => return Some((Err(status), (State::Ended, next))),
                    Step::Wait => {}
                }
                if let Err(status) = change(&context, &mut subscription).await {
                    return Some((Err(status), (State::Ended, next)));
                }
            }
        }
    });
    unfold.boxed()
}

async fn change(context: &Context, subscription: &mut Subscription) -> Result<(), Status> {
    tokio::select! {
        () = subscription.changed() => Ok(()),
        () = context.shutdown.cancelled() => Err(shutting_down()),
    }
}
