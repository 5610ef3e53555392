//! Futures that wake themselves while they are polled.
//!
//! hyper wakes the task of a connection when the handler takes a part of the body, and the handler runs in that task. tokio
//! takes this for a task that has more to do, and wakes another thread for it. For a small request this costs more than the
//! rest of it. So a future that woke itself is polled once more at once, and the runtime learns nothing of it.
//!
//! Invariant: no wake-up is lost. One that comes while the future is polled leads to another poll, any other one to the
//! task's waker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// How often a future is polled at once. Then it has its next turn behind the other tasks.
const POLLS_MAX: usize = 4;

const IDLE: u8 = 0;
const POLLING: u8 = 1;
const WOKEN: u8 = 2;

/// Polls one future, again at once if it has woken itself.
#[derive(Debug)]
pub struct PollAgain {
    shared: Arc<Shared>,
    waker: Waker,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    // The waker of the task.
    task: Mutex<Waker>,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let while_polling = (self.state).compare_exchange(POLLING, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if while_polling == Err(IDLE) {
            self.task.lock().wake_by_ref();
        }
    }
}

impl Default for PollAgain {
    fn default() -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU8::new(IDLE),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self {
            waker: Waker::from(Arc::clone(&shared)),
            shared,
        }
    }
}

impl PollAgain {
    /// Polls the future by `poll`, once more for each time it was woken meanwhile.
    pub fn poll<T>(&self, cx: &mut Context<'_>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.shared.task.lock().clone_from(cx.waker());
        for _ in 0..POLLS_MAX {
            // Whatever a wake-up tells of that came before is seen by this poll.
            self.shared.state.swap(POLLING, Ordering::AcqRel);
            let polled = poll(&mut Context::from_waker(&self.waker));
            let was = self.shared.state.swap(IDLE, Ordering::AcqRel);
            if polled.is_ready() || was == POLLING {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::thread;
    use std::time::{Duration, Instant};

    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::ingress::http::http1;

    /// Counts wake-ups.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn task() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), Waker::from(count))
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_and_the_task_is_not_woken() {
        let (count, waker) = task();
        let again = PollAgain::default();
        let mut polls = 0;
        let polled = again.poll(&mut Context::from_waker(&waker), |cx| {
            polls += 1;
            if polls < 3 {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        assert_eq!((polled, polls), (Poll::Pending, 3));
        assert_eq!(count.0.load(Ordering::Acquire), 0);
    }

    #[test]
    fn a_future_that_goes_on_waking_itself_gives_way() {
        let (count, waker) = task();
        let mut polls = 0;
        let polled = PollAgain::default().poll(&mut Context::from_waker(&waker), |cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert_eq!((polled, polls), (Poll::Pending, POLLS_MAX));
        assert_eq!(count.0.load(Ordering::Acquire), 1);
    }

    #[test]
    fn a_wake_up_between_polls_is_the_tasks() {
        let (first, waker) = task();
        let (second, other_waker) = task();
        let again = PollAgain::default();
        let mut kept = None;
        let mut keep = |cx: &mut Context<'_>| {
            kept = Some(cx.waker().clone());
            Poll::<()>::Pending
        };
        assert!(again.poll(&mut Context::from_waker(&waker), &mut keep).is_pending());
        assert!(
            again
                .poll(&mut Context::from_waker(&other_waker), &mut keep)
                .is_pending()
        );
        kept.expect("it was polled").wake();
        let counts = [&first, &second].map(|count| count.0.load(Ordering::Acquire));
        assert_eq!(counts, [0, 1], "only the newest waker of the task counts");
    }

    #[test]
    fn no_wake_up_of_another_thread_is_lost() {
        const ROUNDS: usize = 20_000;
        let (count, waker) = task();
        let again = PollAgain::default();
        let sent = Arc::new(AtomicUsize::new(0));
        let (mut seen, mut woken) = (0, 0);
        let deadline = Instant::now() + Duration::from_secs(60);
        thread::scope(|scope| {
            let mut sender = None;
            while seen < ROUNDS {
                let polled = again.poll(&mut Context::from_waker(&waker), |cx| {
                    if sender.is_none() {
                        let (sent, waker) = (Arc::clone(&sent), cx.waker().clone());
                        sender = Some(scope.spawn(move || {
                            for round in 1..=ROUNDS {
                                sent.store(round, Ordering::Release);
                                waker.wake_by_ref();
                            }
                        }));
                    }
                    seen = sent.load(Ordering::Acquire);
                    if seen < ROUNDS { Poll::Pending } else { Poll::Ready(()) }
                });
                // A task that is not woken is not polled again.
                while polled.is_pending() && count.0.load(Ordering::Acquire) == woken {
                    assert!(Instant::now() < deadline, "a wake-up behind event {seen} was lost");
                    thread::yield_now();
                }
                woken = count.0.load(Ordering::Acquire);
            }
        });
    }

    #[tokio::test]
    async fn a_handler_that_reads_a_body_does_not_wake_its_connection() {
        let (mut client, server) = tokio::io::duplex(4096);
        let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
        client.write_all(request).await.expect("the pipe has room");
        let service = service_fn(|request: Request<Incoming>| async {
            let body = request
                .into_body()
                .collect()
                .await
                .expect("the body is whole")
                .to_bytes();
            Ok::<_, Infallible>(Response::new(Full::new(body)))
        });
        let http = http1(Duration::from_secs(60)).serve_connection(TokioIo::new(server), service);
        let mut http = pin!(http);
        let (count, waker) = task();
        let again = PollAgain::default();
        let polled = again.poll(&mut Context::from_waker(&waker), |cx| http.as_mut().poll(cx));
        assert!(polled.is_pending(), "the connection is kept for further requests");
        assert_eq!(count.0.load(Ordering::Acquire), 0);
        let mut answer = vec![0; 1024];
        let length = client.read(&mut answer).await.expect("the answer is written");
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhi"),
            "{answer}"
        );
    }
}
