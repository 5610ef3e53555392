//! What a planted fault does to a message on its way to a client.

use rand::RngExt;
use serde_json::{Value, json};
use tickgate_protocol::message::Cursor;

use super::World;
use crate::keeping::Fault;
use crate::keeping::store::CHANNELS;
use crate::wire::Received;

impl World {
    pub(super) fn inject_fault(&mut self, at: usize, frame: Received) -> Vec<Received> {
        let Received::Text(mut message) = frame else {
            return vec![frame];
        };
        self.summary.incomplete += u64::from(message["data"]["positions_complete"] == false);
        let resumes = self.clients[at].resumes(&message);
        let is_whole = message["data"]["recovered"] == true;
        self.summary.resumed += u64::from(resumes && is_whole);
        self.summary.resumed_in_part += u64::from(resumes && !is_whole);
        let is_history = message["offset"].is_u64();
        self.histories += u64::from(is_history);
        let strikes = self.histories.is_multiple_of(20);
        match self.fault {
            Fault::SkipsEvent if is_history && strikes => return Vec::new(),
            Fault::DoublesEvent if is_history && strikes => {
                return vec![Received::Text(message.clone()), Received::Text(message)];
            }
            Fault::LosesRecord => {
                if let Some(records) = message["data"].as_array_mut()
                    && records.len() > 2
                {
                    records.remove(0);
                }
            }
            Fault::LosesLevel => {
                if let Some(levels) = message.pointer_mut("/data/bids").and_then(Value::as_array_mut)
                    && levels.len() > 2
                {
                    levels.remove(0);
                }
            }
            Fault::RevivesRecord => {
                for record in message["data"].as_array_mut().into_iter().flatten() {
                    record["gone"] = false.into();
                }
            }
            Fault::HidesDeletion if message["event"] == "deleted" => return Vec::new(),
            Fault::KeepsOldValue if message["channel"] == "price.a" && self.rng.random_bool(0.3) => return Vec::new(),
            Fault::ClaimsRecovery => {
                if let Some(recovered) = message["data"]["recovered"].as_object_mut() {
                    recovered.values_mut().for_each(|told| *told = true.into());
                }
            }
            Fault::MovesPosition => {
                if let Some(positions) = message["data"]["positions"].as_object_mut() {
                    for position in positions.values_mut() {
                        position["offset"] = json!(position["offset"].as_u64().unwrap_or(0) + 50);
                    }
                }
            }
            Fault::MovesCursor => {
                if let Some(mut cursor) = message["cursor"].as_str().and_then(Cursor::parse) {
                    cursor.version += 5;
                    message["cursor"] = cursor.to_string().into();
                }
            }
            Fault::HidesOwedValues => {
                if let Some(mut cursor) = message["cursor"].as_str().and_then(Cursor::parse) {
                    cursor.owes_values = false;
                    message["cursor"] = cursor.to_string().into();
                }
            }
            Fault::ClaimsAll if self.clients[at].resumes(&message) => message["data"]["recovered"] = true.into(),
            Fault::HidesEvicted if message["type"] == "subscribed" => {
                let client = &self.clients[at];
                let without_position: Vec<&str> = (CHANNELS.iter().map(|(name, _)| *name))
                    .filter(|name| client.gave_no_position(&message, name))
                    .collect();
                let data = &mut message["data"];
                data["positions_complete"].take();
                if let Some(recovered) = data["recovered"].as_object_mut() {
                    recovered.retain(|name, told| *told == true || !without_position.contains(&name.as_str()));
                }
            }
            Fault::HidesDropped if message["type"] == "dropped" => return Vec::new(),
            _ => {}
        }
        vec![Received::Text(message)]
    }
}
