//! Timeouts that a pause of the process does not shorten, and the pauses that long work makes for others.
//!
//! After the process was stopped, or had no CPU, timers run before the sockets are looked at. What a timeout waits for may
//! have been there for long. So a timeout that ends here looks once more behind its time, and one that ends much too late
//! begins again: nobody is blamed for a time in which nobody could be heard.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::time;

/// A timer that fires this much too late has been through a pause.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a timeout looks once more for what it waits for. Meanwhile the sockets are looked at.
const LAST_LOOK: Duration = Duration::from_millis(50);

/// The time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time was over")]
pub struct Elapsed;

impl From<Elapsed> for io::Error {
    fn from(_: Elapsed) -> Self {
        io::ErrorKind::TimedOut.into()
    }
}

/// Lets other threads and tasks go on in the middle of long work.
///
/// Tasks are not enough: a thread that has work keeps its core for milliseconds, unless it says that others may have it. On a
/// machine with few cores, a shard or the publisher of another tenant waits for that.
pub async fn give_way() {
    std::thread::yield_now();
    tokio::task::yield_now().await;
}

/// A deadline that a pause moves.
#[derive(Debug)]
pub struct Deadline {
    span: Duration,
    sleep: Pin<Box<time::Sleep>>,
    looks: bool,
}

impl Deadline {
    /// A deadline in `span` from now. Must be created within a tokio runtime.
    #[must_use]
    pub fn new(span: Duration) -> Self {
        Self {
            span,
            sleep: Box::pin(time::sleep(span)),
            looks: false,
        }
    }

    /// Waits until the time is over. What the time is for is polled first.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let due = self.sleep.deadline();
            ready!(self.sleep.as_mut().poll(cx));
            let now = time::Instant::now();
            let next = if now.duration_since(due) >= PAUSE {
                self.looks = false;
                self.span
            } else if std::mem::replace(&mut self.looks, true) {
                return Poll::Ready(());
            } else {
                LAST_LOOK
            };
            self.sleep.as_mut().reset(now + next);
        }
    }

    /// Moves the deadline to `span` from now.
    pub fn reset(&mut self, span: Duration) {
        self.span = span;
        self.looks = false;
        self.sleep.as_mut().reset(time::Instant::now() + span);
    }
}

/// Awaits `future` for at most `span`. After a pause, the whole time begins again.
///
/// # Errors
///
/// When the time is over. Then the future is dropped.
pub async fn timeout<F: Future>(span: Duration, future: F) -> Result<F::Output, Elapsed> {
    let (mut future, mut deadline) = (pin!(future), Deadline::new(span));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        deadline.poll(cx).map(|()| Err(Elapsed))
    })
    .await
}

/// hyper's timer, with such deadlines.
#[derive(Clone, Copy, Debug, Default)]
pub struct PauseTimer;

impl Timer for PauseTimer {
    fn sleep(&self, span: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Sleeping(Deadline::new(span)))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        match sleep.as_mut().downcast_mut_pin::<Sleeping>() {
            Some(sleeping) => sleeping
                .get_mut()
                .0
                .reset(deadline.saturating_duration_since(self.now())),
            None => *sleep = self.sleep_until(deadline),
        }
    }

    fn now(&self) -> Instant {
        time::Instant::now().into_std()
    }
}

struct Sleeping(Deadline);

impl Future for Sleeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx)
    }
}

impl Sleep for Sleeping {}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::advance;

    use super::*;

    const SPAN: Duration = Duration::from_secs(5);

    fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_ends_in_time_and_looks_once_more() {
        let begin = time::Instant::now();
        assert_eq!(timeout(SPAN, pending::<()>()).await, Err(Elapsed));
        assert_eq!(begin.elapsed(), SPAN + LAST_LOOK);
        let late = time::sleep(SPAN + LAST_LOOK / 2);
        assert_eq!(timeout(SPAN, late).await, Ok(()), "it came with the last look");
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_that_a_pause_went_through_begins_again() {
        let mut waiting = pin!(timeout(SPAN, pending::<()>()));
        assert!(poll_once(waiting.as_mut()).is_pending());
        // The process was stopped for an hour.
        advance(Duration::from_secs(3600)).await;
        let begin = time::Instant::now();
        assert_eq!(waiting.await, Err(Elapsed));
        assert_eq!(begin.elapsed(), SPAN + LAST_LOOK);
        let mut sleep = PauseTimer.sleep(SPAN);
        PauseTimer.reset(&mut sleep, PauseTimer.now() + 2 * SPAN);
        assert!(poll_once(sleep.as_mut()).is_pending());
        advance(Duration::from_secs(3600)).await;
        let begin = time::Instant::now();
        sleep.await;
        assert_eq!(begin.elapsed(), 2 * SPAN + LAST_LOOK);
    }
}
