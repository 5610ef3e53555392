//! A model of several gateways in virtual time: a log that forgets old events and loses its end, gateways with real hubs that
//! attach to it, lose their links and begin anew, and clients that recover on other gateways.
//!
//! Checked: a client that is told `recovered: true` has got every event of its channel, once and in order. And the merged value
//! of a channel is the same on every gateway.
//!
//! `TICKGATE_SEEDS=10000 cargo test --release --lib replica::model` makes more runs, and `TICKGATE_SEED=7` only one.

mod gateway;
mod log;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Place, Reader};
use crate::broker::Readiness;
use crate::broker::link::End;
use crate::broker::message::{Decoder, Source};
use crate::event::{NewEvent, PublishOptions};
use crate::hub::{ChannelView, Epoch, PageLimit, Since};
use gateway::{Fault, Gateway};
use log::{Entry, Event, Log};
use tickgate_protocol::channel::Channel;

/// The runs of a test, within which every planted fault must be found.
const RUNS: u64 = 200;

const STEPS: usize = 600;

/// The channels: a busy one and others with few events, with histories; and one with merged records.
const CHANNELS: [&str; 4] = ["kept.busy", "kept.calm", "kept.rare", "rows.a"];
const ROWS: usize = 3;

/// Records of the merged value.
const RECORDS: u64 = 3;

/// Events of the histories. The log keeps one more of each channel.
const HISTORY: u32 = 10;

/// 2026-06-01T00:00:00Z, in Unix milliseconds.
const BEGIN_MS: u64 = 1_780_272_000_000;

fn channel(index: usize) -> Channel {
    Channel::parse(CHANNELS[index]).expect("valid")
}

fn of_channel(entries: &[Option<Event>], index: usize) -> Vec<u64> {
    let events = entries.iter().flatten();
    let of = |(channel, number): &Event| (*channel == index).then_some(*number);
    events.filter_map(of).collect()
}

/// A client that was disconnected, with the events of its channel that it has got.
struct Client {
    channel: usize,
    epoch: Epoch,
    position: u64,
    events: Vec<u64>,
}

struct World {
    random: StdRng,
    fault: Fault,
    log: Log,
    // The merged values that were handed over, each with the length of the log at that time.
    values: Vec<(usize, Bytes)>,
    incarnation: u64,
    // Whether a gateway has attached since the broker started.
    is_open: bool,
    clock_ms: u64,
    gateways: Vec<Gateway>,
    clients: Vec<Client>,
    // How many entries the log had when an epoch began. No hub of the epoch has what was before.
    epochs: BTreeMap<u64, usize>,
    events: u64,
    answers: u64,
}

impl World {
    fn new(seed: u64, fault: Fault) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let room = random.random_range(10..45);
        Self {
            random,
            fault,
            log: Log::new(HISTORY as usize + 1, room),
            values: Vec::new(),
            incarnation: 0,
            is_open: false,
            clock_ms: BEGIN_MS,
            gateways: (0..3).map(|index| Gateway::start(index, fault)).collect(),
            clients: Vec::new(),
            epochs: BTreeMap::new(),
            events: 0,
            answers: 0,
        }
    }

    fn store(&mut self, payload: Bytes, event: Option<Event>) -> u64 {
        self.log.append(Entry {
            event,
            payload,
            stored_ms: self.clock_ms,
            is_kept: true,
        })
    }

    /// Some gateway that is not in the model may publish at any time after one has attached to the broker.
    fn publish(&mut self) {
        if !self.is_open {
            return;
        }
        let index = match self.random.random_range(0..20) {
            0 => 2,
            1..6 => 1,
            _ => 0,
        };
        self.publish_to(index, (self.events + 1).to_string());
    }

    /// A gateway publishes to the channel with the merged value, and hands that over before the log forgets the event.
    fn publish_row(&mut self, index: usize) {
        while self.gateways[index].step(&self.log) {}
        if !self.gateways[index].replica.is_up() {
            return;
        }
        let number = self.events + 1;
        self.publish_to(ROWS, format!(r#"[{{"id":{},"n":{number}}}]"#, number % RECORDS));
        let gateway = &mut self.gateways[index];
        assert!(gateway.step(&self.log), "it was current");
        let value = gateway.replica.value(&channel(ROWS), usize::MAX).expect("a value");
        gateway.replica.value_answered(value.number, true);
        self.values.push((self.log.length(), value.payload));
    }

    fn publish_to(&mut self, index: usize, data: String) {
        self.events += 1;
        let event = NewEvent {
            channel: channel(index),
            name: "update".into(),
            data: data.into(),
            timestamp_ms: self.clock_ms,
            options: PublishOptions::default(),
        };
        let payload = Decoder::encode(&event, Source { gateway: 0, number: 0 }, None);
        self.store(payload, Some((index, self.events)));
    }

    fn attach(&mut self, index: usize) {
        let newest = self.log.newest_notice();
        let incarnation = self.incarnation.to_string();
        let gateway = &self.gateways[index].replica;
        let begins_epoch = newest.is_none();
        let notice = gateway.notice_at_attach(newest, self.log.extent(), &incarnation);
        if begins_epoch {
            self.epochs.insert(notice.epoch, self.log.length());
        }
        self.is_open = true;
        let payload = serde_json::to_vec(&notice).expect("JSON");
        let sequence = self.store(payload.into(), None);
        let place = Place {
            sequence,
            stored_ms: self.clock_ms,
            is_replayed: false,
        };
        let gateway = &self.gateways[index].replica;
        let table = gateway
            .attached_by(&notice, place)
            .expect("gateways write valid notices");
        let mut extent = self.log.extent();
        if !self.gateways[index].place(&table, extent) {
            let gateway = &self.gateways[index].replica;
            if let Some((_, payload)) = self.values.last()
                && self.fault != Fault::RestoresNothing
            {
                let name = gateway.decoder.name("", &channel(ROWS));
                let merged = gateway.read_merged((&name, payload), &table);
                merged.map(|merged| gateway.restore_merged(merged, self.clock_ms));
            }
            for _ in 0..self.random.random_range(0..8) {
                self.publish();
            }
            extent = self.log.extent();
            self.gateways[index].replica.read_back(table, extent);
            let applied = self.gateways[index].replica.position.lock().applied;
            self.gateways[index].followed = self.log.up_to(applied).iter().map(|entry| entry.event).collect();
        }
        let gateway = &mut self.gateways[index];
        gateway.reader = Some(Reader::new(&gateway.replica, extent.last));
    }

    fn crash(&mut self) {
        self.incarnation += 1;
        self.is_open = false;
        let left = self.log.length() - self.random.random_range(0..=self.log.length().min(6));
        self.log.truncate(left);
        self.values.retain(|(length, _)| *length <= left);
        // The clock may be set back while the broker starts, by less than the start takes.
        self.clock_ms = self.clock_ms + self.random.random_range(1000..3000) - self.random.random_range(0..1000);
        let end = End::Failed("the broker is gone".to_owned());
        self.gateways.iter_mut().for_each(|gateway| gateway.disconnect(&end));
    }

    fn leave(&mut self, index: usize) {
        let gateway = &self.gateways[index];
        if gateway.replica.is_up() {
            let channel = self.random.random_range(0..ROWS);
            self.clients.push(Client {
                channel,
                epoch: gateway.replica.hub.epoch(),
                position: gateway.replica.hub.newest_version(),
                events: of_channel(&gateway.followed, channel),
            });
        }
    }

    /// A client comes back. Returns what is wrong.
    fn recover(&mut self, index: usize) -> Option<String> {
        let Gateway { replica, followed, .. } = &self.gateways[index];
        if self.clients.is_empty() {
            return None;
        }
        // Most have not been away for long.
        let longest = if self.random.random_range(0..4) > 0 {
            4
        } else {
            self.clients.len()
        };
        let away = self.random.random_range(1..=longest.min(self.clients.len()));
        let client = &self.clients[self.clients.len() - away];
        let hub = &replica.hub;
        if client.epoch != hub.epoch() || replica.prepare(client.position) != Readiness::Ready {
            return None;
        }
        let position = hub.locate(client.position)?;
        let limit = PageLimit {
            events: usize::MAX,
            bytes: usize::MAX,
        };
        let mut covers = false;
        let now = replica.clock.now();
        let view = &mut |view: ChannelView<'_>| covers = view.covers(position);
        let page = hub.read(&channel(client.channel), Since::After(position), limit, now, view);
        if !covers || page.overtaken {
            return None;
        }
        self.answers += 1;
        let number =
            |event: &Arc<crate::event::Event>| -> u64 { serde_json::from_slice(&event.data).expect("a number") };
        let mut got = client.events.clone();
        got.extend(page.events.iter().map(number));
        let all = of_channel(followed, client.channel);
        (got != all).then(|| format!("{}: the client has {got:?} of {all:?}", CHANNELS[client.channel]))
    }

    /// A client asks for the merged value. Returns what is wrong.
    fn look(&self, index: usize) -> Option<String> {
        let Gateway { replica, followed, .. } = &self.gateways[index];
        if !replica.is_up() {
            return None;
        }
        let mut all = BTreeMap::new();
        for number in of_channel(&followed[self.epochs[&replica.hub.epoch().0]..], ROWS) {
            all.insert(number % RECORDS, number);
        }
        let last = replica.hub.last(&channel(ROWS), replica.clock.now());
        let records: Vec<BTreeMap<String, u64>> =
            last.map_or(Vec::new(), |last| serde_json::from_slice(&last.data).expect("records"));
        let got: BTreeMap<u64, u64> = records.iter().map(|record| (record["id"], record["n"])).collect();
        (got != all).then(|| format!("{}: a gateway has {got:?} instead of {all:?}", CHANNELS[ROWS]))
    }

    /// Every second a gateway writes a notice, unless another one has.
    fn write_notice(&mut self, index: usize) {
        let newest = self.log.newest_notice().map_or(0, |newest| newest.sequence);
        let gateway = &self.gateways[index];
        if gateway.reader.is_some()
            && let Ok((notice, after)) = gateway.replica.next_notice()
            && after == newest
        {
            self.store(serde_json::to_vec(&notice).expect("JSON").into(), None);
        }
    }

    fn step(&mut self) -> Option<String> {
        let index = self.random.random_range(0..self.gateways.len());
        self.clock_ms += self.random.random_range(0..3);
        match self.random.random_range(0..100) {
            0 => self.crash(),
            1..5 if self.gateways[index].reader.is_some() => {
                self.gateways[index].disconnect(&End::Failed("the link is cut".to_owned()));
            }
            1..15 if self.gateways[index].reader.is_none() => self.attach(index),
            15..16 => self.gateways[index] = Gateway::start(index, self.fault),
            1..40 => {
                for _ in 0..self.random.random_range(0..12) {
                    if !self.gateways[index].step(&self.log) {
                        break;
                    }
                }
            }
            40..65 => self.publish(),
            65..68 => self.publish_row(index),
            68..72 => self.write_notice(index),
            72..80 => self.leave(index),
            80..85 => return self.look(index),
            _ => return self.recover(index),
        }
        None
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeds() -> Range<u64> {
    match variable("TICKGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TICKGATE_SEEDS").unwrap_or(RUNS),
    }
}

/// Returns how many clients were told `recovered: true`, or what was wrong.
fn run(seed: u64, fault: Fault) -> Result<u64, String> {
    let mut world = World::new(seed, fault);
    for step in 0..STEPS {
        if let Some(wrong) = world.step() {
            return Err(format!("TICKGATE_SEED={seed}, step {step}: {wrong}"));
        }
    }
    Ok(world.answers)
}

#[test]
fn recovered_is_never_wrong_while_the_log_forgets_and_loses_events() {
    let (mut runs, mut answers) = (0, 0);
    for seed in seeds() {
        answers += run(seed, Fault::None).unwrap_or_else(|wrong| panic!("{wrong}"));
        runs += 1;
    }
    println!("{runs} runs, {answers} answers were true");
    assert!(runs == 1 || answers > 5 * runs, "{answers} answers in {runs} runs");
}

#[test]
fn planted_faults_of_reading_back_are_found() {
    for fault in [
        Fault::RestoresNothing,
        Fault::ReadsOnce,
        Fault::ForgetsNothing,
        Fault::IsTooSlow,
        Fault::ReadsAnotherLog,
        Fault::KeepsLostEvents,
        Fault::SeesNoGap,
    ] {
        let found = (0..RUNS).find_map(|seed| run(seed, fault).err());
        println!(
            "{fault:?}: {}",
            found.unwrap_or_else(|| panic!("{fault:?} is not found"))
        );
    }
}
