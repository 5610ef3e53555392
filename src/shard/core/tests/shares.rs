//! Shares of a shard's time: clients that ask for much wait, and delay nobody else.

use super::*;
use crate::shard::ScanBudget;

const CHANNELS: u64 = 4_000;
/// A page of a scan is not cut short, and a request costs something before its first page.
const PAGE: usize = 1_200;
const SLICE: usize = 512;

/// A shard with many channels, and clients who may look at them once and a half at one time.
fn crowded() -> Rig {
    let settings = Settings {
        scan_budget: ScanBudget {
            per_second: 1000,
            burst: 6_000,
        },
        ..shard_settings()
    };
    let mut rig = Rig::of(settings, hub::Settings::default());
    for n in 0..CHANNELS {
        rig.event(&format!("market.s{n}.price"), "1");
    }
    rig
}

impl Rig {
    fn of_user(&mut self, user: &str) -> ConnectionId {
        let settings = session_settings(Mode::Required, Limits::default());
        self.connect_with(settings, Ok(Some(identity(Some(user)))), true)
    }

    /// Begins turns, a millisecond apart, for this time. Returns the steps of the longest, and of all of them.
    fn turns_for(&mut self, ms: u64, mut after: impl FnMut(&mut Self)) -> (usize, usize) {
        let (mut most, mut all) = (0, 0);
        for _ in 0..ms {
            self.core.begin_turn(self.now);
            let taken = self.core.recovery.steps_taken();
            (most, all) = (most.max(taken), all + taken);
            after(self);
            self.now = self.now.after_ms(1);
        }
        (most, all)
    }

    /// What this client received, without a turn.
    fn kinds(&mut self, id: ConnectionId) -> Vec<String> {
        let mut bytes = Vec::new();
        self.core.postpone(id);
        while self.write_some(id, usize::MAX, &mut bytes) == Some(Sent::More) {}
        received(&bytes).iter().map(|frame| frame.kind().to_owned()).collect()
    }

    /// Subscribes to everything again as soon as the last request is answered; returns how often it was.
    fn repeat(&mut self, id: ConnectionId) -> usize {
        let answers = self.kinds(id).iter().filter(|kind| *kind == "subscribed").count();
        for _ in 0..answers {
            self.say(id, r#"{"type":"unsubscribe","channels":["market.*"]}"#);
            self.subscribe(id, "market.*");
        }
        answers
    }
}

#[test]
fn clients_that_repeat_wide_subscribes_get_short_slices_and_a_part_of_the_time() {
    let mut rig = crowded();
    let greedy: Vec<_> = (0..10).map(|n| rig.of_user(&format!("u{n}"))).collect();
    let modest = rig.of_user("modest");
    for id in &greedy {
        rig.subscribe(*id, "market.*");
    }
    // Their bursts are served at once.
    rig.turns_for(100, |rig| greedy.iter().for_each(|id| _ = rig.repeat(*id)));
    let mut answered = vec![0; greedy.len()];
    let (most, all) = rig.turns_for(200, |rig| {
        for (count, id) in answered.iter_mut().zip(&greedy) {
            *count += rig.repeat(*id);
        }
    });
    // A slice of scans, and one of what they leave behind.
    assert!(most <= 2 * SLICE + PAGE, "{most} steps in a turn");
    assert!((100_000..400_000).contains(&all), "{all} steps in a fifth of a second");
    assert!(answered.iter().all(|count| *count >= 1), "shared fairly: {answered:?}");
    assert!(rig.metrics.read().delayed_subscribes > 10);

    // A client that has asked for little is not behind them.
    rig.subscribe(modest, "market.*");
    rig.turns_for(3, |_| ());
    assert!(rig.kinds(modest).contains(&"subscribed".to_owned()));
}

#[test]
fn a_newcomer_behind_a_shared_budget_is_ahead_of_those_that_overdrew_it() {
    let mut rig = crowded();
    let greedy: Vec<_> = (0..10).map(|_| rig.of_user("shared")).collect();
    for id in &greedy {
        rig.subscribe(*id, "market.*");
    }
    rig.turns_for(100, |rig| greedy.iter().for_each(|id| _ = rig.repeat(*id)));
    let newcomer = rig.of_user("shared");
    rig.subscribe(newcomer, "market.*");
    assert_eq!(rig.kinds(newcomer), [""; 0], "it is delayed");
    let mut before = 0;
    let mut is_answered = false;
    rig.turns_for(100, |rig| {
        before += greedy.iter().map(|id| rig.repeat(*id)).sum::<usize>() * usize::from(!is_answered);
        is_answered |= rig.kinds(newcomer).contains(&"subscribed".to_owned());
    });
    assert!(is_answered && before <= 2, "{before} before it");
    // Nobody is refused, and everybody is answered when the others have ended.
    for id in &greedy[1..] {
        rig.core.on_socket_error(*id, rig.now);
    }
    let mut answers = 0;
    rig.turns_for(100, |rig| answers += rig.repeat(greedy[0]));
    assert!(answers > 5, "{answers}");
}

#[test]
fn what_is_replayed_is_paid_for_as_well() {
    let mut rig = crowded();
    let id = rig.of_user("u");
    rig.subscribe(id, "market.*");
    // The steps of the scan are within the budget, and the values are not.
    let mut events = 0;
    rig.turns_for(200, |rig| {
        events += rig.kinds(id).iter().filter(|kind| *kind == "event").count()
    });
    assert_eq!(events as u64, CHANNELS);
    rig.subscribe(id, "stock.*");
    assert!(rig.kinds(id).is_empty() && rig.metrics.read().delayed_subscribes == 1);
    // The driver is told when to go on.
    assert!(rig.core.has_turn_to_begin() || rig.core.next_turn_ms().is_some());
    rig.turns_for(10, |_| ());
    assert_eq!(rig.kinds(id), ["subscribed"]);
    assert_eq!(rig.core.next_turn_ms(), None);
}

#[test]
fn what_overdrawn_clients_have_yet_to_read_comes_in_few_pages_a_turn() {
    const PAGE_EVENTS: usize = 64;
    const SLOW_PAGES: usize = 2;
    let values = usize::try_from(CHANNELS).expect("few");
    let mut rig = crowded();
    let mut clients: Vec<_> = (0..20).map(|n| rig.of_user(&format!("u{n}"))).collect();
    let greedy = clients.len();
    clients.push(rig.of_user("modest"));
    for id in &clients[..greedy] {
        rig.subscribe(*id, "market.*");
    }
    let mut got = vec![0; clients.len()];
    // A turn, in which the driver writes what there is. Returns how many events were read for the greedy ones.
    let turn = |rig: &mut Rig, got: &mut Vec<usize>| {
        rig.core.begin_turn(rig.now);
        let before: usize = got[..greedy].iter().sum();
        for (index, messages) in rig.flush_turn(&clients) {
            got[index] += messages;
        }
        rig.now = rig.now.after_ms(1);
        got[..greedy].iter().sum::<usize>() - before
    };
    // The scan and a third of the values are within the budget.
    while got[..greedy].iter().any(|got| *got < 2_100) {
        turn(&mut rig, &mut got);
    }
    rig.subscribe(clients[greedy], "market.*");
    let mut turns = 0;
    while got[..greedy].iter().any(|got| *got <= values) {
        let read = turn(&mut rig, &mut got);
        assert!(read <= SLOW_PAGES * PAGE_EVENTS, "{read} in a turn");
        let (least, most) = (got[..greedy].iter().min(), got[..greedy].iter().max());
        assert!(
            most <= least.map(|least| least + 3 * PAGE_EVENTS).as_ref(),
            "in turn: {got:?}"
        );
        turns += 1;
        if turns == 30 {
            assert!(got[greedy] >= 25 * PAGE_EVENTS, "a page in each turn: {}", got[greedy]);
        }
    }
    assert!(turns >= 30);
    // The answer, and each value once.
    assert!(got[..greedy].iter().all(|got| *got == values + 1), "{got:?}");
}

#[test]
fn a_client_that_has_overdrawn_its_budget_is_told_when_it_may_ask_for_a_history() {
    let mut rig = crowded();
    let (greedy, modest) = (rig.of_user("greedy"), rig.of_user("modest"));
    let ask = r#"{"type":"history","channel":"grid.a.order","id":"h"}"#;
    for _ in 0..2 {
        rig.subscribe(greedy, "market.*");
        rig.turns_for(10, |_| ());
        rig.say(greedy, r#"{"type":"unsubscribe","channels":["market.*"]}"#);
    }
    rig.kinds(greedy);
    rig.say(greedy, ask);
    let refused = rig.read(greedy);
    let error = refused
        .iter()
        .find(|frame| frame.kind() == "error")
        .expect("a refusal")
        .text();
    assert_eq!(
        (&error["id"], &error["error"]["code"]),
        (&"h".into(), &"RATE_LIMITED".into())
    );
    let wait_ms = error["data"]["retry_after_ms"].as_u64().expect("a time");
    assert_eq!(rig.metrics.refused_histories.get(), 1);
    rig.say(modest, ask);
    assert!(rig.kinds(modest).contains(&"history".to_owned()));

    rig.pass(wait_ms);
    rig.say(greedy, ask);
    assert!(rig.kinds(greedy).contains(&"history".to_owned()), "after {wait_ms} ms");
}
