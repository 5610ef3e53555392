//! A model of several gateways in virtual time: a log that forgets old events and loses its end, gateways with real hubs that
//! attach to it, lose their links and begin anew, and clients that recover on other gateways.
//!
//! Checked: a client that is told `recovered: true` has got every event of its channel, once and in order. And the merged value
//! of a channel is the same on every gateway.
//!
//! `TICKGATE_SEEDS=10000 cargo test --release --lib replica::model` makes more runs.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::FutureExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::broker::message::Source;
use crate::event::{NewEvent, PublishOptions};
use crate::hub::{Inbox, Numbering, PageLimit, Settings, Since, Wakes};
use tickgate_protocol::channel::{Class, Classes, History, Overflow, Pattern};

/// The channels: a busy one and others with few events, with histories; and one with merged records.
const CHANNELS: [&str; 4] = ["kept.busy", "kept.calm", "kept.rare", "rows.a"];
const ROWS: usize = 3;

/// Records of the merged value.
const RECORDS: u64 = 3;

/// Events of the histories. The log keeps one more of each channel.
const HISTORY: u32 = 10;

/// 2026-06-01T00:00:00Z, in Unix milliseconds.
const BEGIN_MS: u64 = 1_780_272_000_000;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// What the log has under a number: the channel of an event, by its index, and its payload; or a notice.
#[derive(Clone)]
struct Entry {
    channel: Option<usize>,
    payload: Bytes,
    stored_ms: u64,
}

/// The identity of an event, with the index of its channel; `None`: a notice.
type Identity = Option<(usize, u64)>;

#[derive(Default)]
struct Log {
    // What is forgotten is `None`.
    entries: Vec<Option<Entry>>,
    // Also what is forgotten.
    stored: Vec<Entry>,
    all: Vec<Identity>,
    // The most entries.
    room: usize,
    // The merged values that were handed over, each with the end of the log at that time.
    values: Vec<(usize, Bytes)>,
}

impl Log {
    fn append(&mut self, entry: Entry, identity: Identity) -> u64 {
        let channel = entry.channel;
        self.entries.push(Some(entry.clone()));
        self.stored.push(entry);
        self.all.push(identity);
        let is_same = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| entry.channel == channel);
        if self.entries.iter().filter(|entry| is_same(entry)).count() > HISTORY as usize + 1 {
            *self.entries.iter_mut().find(|entry| is_same(entry)).expect("several") = None;
        }
        while self.entries.iter().flatten().count() > self.room {
            *self.entries.iter_mut().find(|entry| entry.is_some()).expect("several") = None;
        }
        self.entries.len() as u64
    }

    /// Loses the end, and what the entries there had replaced is not forgotten.
    fn truncate(&mut self, length: usize) {
        let stored = std::mem::take(&mut self.stored).into_iter();
        let all = std::mem::take(&mut self.all).into_iter();
        self.entries.clear();
        for (entry, identity) in stored.zip(all).take(length) {
            self.append(entry, identity);
        }
        self.values.retain(|(end, _)| *end <= length);
    }

    fn extent(&self) -> Extent {
        let last = self.entries.len() as u64;
        let first = self.entries.iter().position(Option::is_some);
        Extent {
            first: first.map_or(last, |index| index as u64) + 1,
            last,
        }
    }

    fn newest_notice(&self) -> Option<Newest> {
        let numbered = self.entries.iter().enumerate().rev();
        let mut notices = numbered.filter_map(|(index, entry)| Some((index as u64 + 1, entry.as_ref()?)));
        let (sequence, entry) = notices.find(|(_, entry)| entry.channel.is_none())?;
        Newest::of(sequence, entry.stored_ms, &entry.payload)
    }

    /// The next entry behind a number.
    fn after(&self, sequence: u64) -> Option<(u64, Entry)> {
        let behind = self
            .entries
            .iter()
            .enumerate()
            .skip(usize::try_from(sequence).expect("few"));
        behind
            .filter_map(|(index, entry)| Some((index as u64 + 1, entry.clone()?)))
            .next()
    }
}

struct Gateway {
    replica: Replica,
    // Events need credits, which an inbox gives back.
    _inbox: Inbox,
    // While it is connected.
    reader: Option<Reader>,
    // What the log had up to the last entry that was applied, also what was forgotten.
    followed: Vec<Identity>,
}

impl Gateway {
    fn start(node: usize) -> Self {
        let kept = Class {
            cache_last: true,
            history: Some(History {
                size: HISTORY,
                ttl_ms: 1 << 40,
            }),
            overflow: Overflow::Disconnect,
            ..Class::default()
        };
        let rows = Class {
            cache_last: true,
            record_key: Some("id".into()),
            overflow: Overflow::Conflate,
            ..Class::default()
        };
        let pattern = |text| Pattern::parse(text).expect("valid");
        let settings = Settings {
            numbering: Numbering::Log,
            classes: Arc::new(Classes::new(vec![(pattern("kept.*"), kept), (pattern("rows.*"), rows)])),
            ..Settings::default()
        };
        let (hub, mut inboxes) = Hub::new(settings, 1, |_, _| Bytes::new());
        let membership = Membership {
            node: format!("n{node}").into(),
            classes: ClassTable::default(),
            events_per_channel: u64::from(HISTORY) + 1,
            tenants: Vec::new(),
            publish_per_second: Vec::new(),
        };
        let listeners = Listeners {
            applied: Box::new(|_| {}),
            learn: Box::new(|_| true),
        };
        Self {
            replica: Replica::new(membership, (hub, Vec::new()), Clock::start(), listeners),
            _inbox: inboxes.remove(0),
            reader: None,
            followed: Vec::new(),
        }
    }

    fn disconnect(&mut self, end: &End) {
        self.replica.go_down(end);
        self.reader = None;
    }

    /// Takes the next entry; `false`: there is none, or the session is over.
    fn step(&mut self, log: &Log) -> bool {
        let Some(reader) = &mut self.reader else { return false };
        let taken = if reader.is_at_end() {
            let is_current = reader.at_end(&self.replica, log.extent());
            is_current.map(|is_current| {
                if is_current {
                    self.replica.go_up();
                }
                true
            })
        } else {
            match log.after(reader.last()) {
                None => Ok(false),
                Some((sequence, entry)) => reader.take(&self.replica, sequence).and_then(|is_replayed| {
                    let place = Place {
                        sequence,
                        stored_ms: entry.stored_ms,
                        is_replayed,
                    };
                    let known = self.followed.len();
                    self.followed
                        .extend(&log.all[known..usize::try_from(sequence).expect("few")]);
                    self.apply(place, &entry, sequence == log.extent().last)
                }),
            }
        };
        taken.unwrap_or_else(|end| {
            self.disconnect(&end);
            false
        })
    }

    fn apply(&self, place: Place, entry: &Entry, is_newest: bool) -> Result<bool, End> {
        match entry.channel {
            None => self.replica.take_notice(place, is_newest, &entry.payload)?,
            Some(index) => {
                let (replica, mut wakes) = (&self.replica, Wakes::default());
                let name = replica.decoder.name("", &channel(index));
                let applied = replica.apply_kept(place, (&name, &entry.payload), &mut wakes, |_| {});
                applied.now_or_never().expect("there are credits");
            }
        }
        Ok(true)
    }
}

fn channel(index: usize) -> Channel {
    Channel::parse(CHANNELS[index]).expect("valid")
}

fn of_channel(entries: &[Identity], index: usize) -> Vec<u64> {
    let ids = entries.iter().flatten();
    ids.filter(|(channel, _)| *channel == index)
        .map(|(_, id)| *id)
        .collect()
}

/// A client that was disconnected, with the events of its channel that it has got.
struct Client {
    channel: usize,
    epoch: crate::hub::Epoch,
    position: u64,
    events: Vec<u64>,
}

struct World {
    random: StdRng,
    log: Log,
    incarnation: u64,
    clock_ms: u64,
    gateways: Vec<Gateway>,
    clients: Vec<Client>,
    // How many entries the log had when an epoch began. No hub of the epoch has what was before.
    epochs: BTreeMap<u64, usize>,
    events: u64,
    answers: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let room = random.random_range(10..45);
        Self {
            random,
            log: Log { room, ..Log::default() },
            incarnation: 0,
            clock_ms: BEGIN_MS,
            gateways: (0..3).map(Gateway::start).collect(),
            clients: Vec::new(),
            epochs: BTreeMap::new(),
            events: 0,
            answers: 0,
        }
    }

    fn store(&mut self, payload: Bytes, identity: Identity) -> u64 {
        let entry = Entry {
            channel: identity.map(|(channel, _)| channel),
            payload,
            stored_ms: self.clock_ms,
        };
        self.log.append(entry, identity)
    }

    /// Some gateway that is not in the model may publish at any time after one has attached to the broker.
    fn publish(&mut self) {
        let newest = self.log.newest_notice();
        if newest.is_none_or(|newest| newest.notice.incarnation != self.incarnation.to_string()) {
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
        self.log.values.push((self.log.all.len(), value.payload));
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
            self.epochs.insert(notice.epoch, self.log.all.len());
        }
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
        if !gateway.place(&table, extent) {
            if let Some((_, payload)) = self.log.values.last() {
                let name = gateway.decoder.name("", &channel(ROWS));
                let merged = gateway.read_merged((&name, payload), &table);
                merged.map(|merged| gateway.restore_merged(merged, self.clock_ms));
            }
            for _ in 0..self.random.random_range(0..8) {
                self.publish();
            }
            extent = self.log.extent();
            self.gateways[index].replica.read_back(table, extent);
            let before = usize::try_from(self.gateways[index].replica.position.lock().applied).expect("few");
            self.gateways[index].followed = self.log.all[..before].to_vec();
        }
        let gateway = &mut self.gateways[index];
        gateway.reader = Some(Reader::new(&gateway.replica, extent.last));
    }

    fn crash(&mut self) {
        self.incarnation += 1;
        let lost = self.random.random_range(0..=self.log.all.len().min(6));
        self.log.truncate(self.log.all.len() - lost);
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
        let view = &mut |view: crate::hub::ChannelView<'_>| covers = view.covers(position);
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
            15..16 => self.gateways[index] = Gateway::start(index),
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

#[test]
fn recovered_is_never_wrong_while_the_log_forgets_and_loses_events() {
    let seeds = match setting("TICKGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("TICKGATE_SEEDS").unwrap_or(100),
    };
    let (runs, mut answers) = (seeds.end - seeds.start, 0);
    for seed in seeds {
        let mut world = World::new(seed);
        for step in 0..600 {
            if let Some(wrong) = world.step() {
                panic!("TICKGATE_SEED={seed}, step {step}: {wrong}");
            }
        }
        answers += world.answers;
    }
    println!("{runs} runs, {answers} answers were true");
    assert!(runs == 1 || answers > 10 * runs, "{answers} answers in {runs} runs");
}
