//! Handlers that run to their end, whatever becomes of their connection.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The future panicked.
#[derive(Debug)]
pub(super) struct Panicked;

/// Runs a future where it is awaited. If it is dropped before it has ended, a task of its own runs it to its end.
///
/// The usual way is a task for each request. It costs two switches between threads, more than the rest of a small request.
pub(super) struct Completed<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send> + Send + 'static> Completed<F> {
    pub(super) fn new(future: F) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Completed<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else {
            return Poll::Ready(Err(Panicked));
        };
        // What the future holds is not used after a panic, only dropped.
        let ended = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(_) => Err(Panicked),
        };
        self.0 = None;
        Poll::Ready(ended)
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Completed<F> {
    fn drop(&mut self) {
        // Without a runtime the process ends.
        if let (Some(future), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(future);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_dropped_future_runs_to_its_end() {
        let (go, gone) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let mut future = Box::pin(Completed::new(async move {
            let _ = gone.await;
            let _ = end.send(7);
        }));
        assert!(
            future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        drop(future);
        go.send(()).expect("the future waits");
        assert_eq!(ended.await, Ok(7));
    }

    #[tokio::test]
    async fn a_future_that_has_ended_runs_once() {
        let (end, mut ended) = tokio::sync::mpsc::unbounded_channel();
        let output = Completed::new(async move { end.send(()).is_ok() }).await;
        assert!(matches!(output, Ok(true)));
        assert_eq!((ended.recv().await, ended.recv().await), (Some(()), None));
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error() {
        let output = Completed::new(async { [0u8; 0].iter().max().copied().expect("a planted panic") }).await;
        assert!(matches!(output, Err(Panicked)));
    }
}
