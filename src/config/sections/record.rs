//! The values of `record_key` and `record_delete`.

use crate::config::source::{Content, Node};
use crate::config::value::{Refusal, Value, typed};
use tickgate_protocol::json::{Deleted, RecordDelete, RecordKey};

impl Value for RecordKey {
    fn kind() -> String {
        "string or array of strings".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        let fields = match &typed(node).content {
            Content::List(_) => Vec::<String>::read(node)?,
            _ => vec![String::read(node)?],
        };
        Self::new(fields).map_err(|error| Refusal::new(error.to_string()))
    }
    fn write(&self) -> Option<toml::Value> {
        let text = |field: &str| toml::Value::String(field.to_owned());
        match self.fields() {
            [field] => Some(text(field)),
            fields => Some(toml::Value::Array(fields.iter().map(|field| text(field)).collect())),
        }
    }
}

impl Value for RecordDelete {
    fn kind() -> String {
        "table".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        const WANTED: &str = "a table ({ field = \"status\", values = [\"Filled\"] })";
        let Content::Table(table) = &typed(node).content else {
            return Err(Refusal::wanted(WANTED, node));
        };
        let (mut field, mut values) = (String::new(), Vec::new());
        for (name, node) in table {
            let at = |refusal: Refusal| Refusal {
                origin: Some(node.origin.clone()),
                message: format!("{name}: {}", refusal.message),
            };
            match name.as_str() {
                "field" => field = String::read(node).map_err(at)?,
                "values" => {
                    values = Vec::<Deleted>::read(node).map_err(at)?;
                    if values.is_empty() {
                        return Err(at(Refusal::new(
                            "must not be empty: without it, any value of the field deletes",
                        )));
                    }
                }
                _ => return Err(at(Refusal::new("unknown key (known here: field, values)"))),
            }
        }
        if field.trim().is_empty() {
            return Err(Refusal::new(
                "field is missing: the member that says whether a record is deleted",
            ));
        }
        Ok(Self {
            field: field.into(),
            values: values.into(),
        })
    }
    fn write(&self) -> Option<toml::Value> {
        let mut table = toml::Table::new();
        table.insert("field".to_owned(), toml::Value::String(self.field.to_string()));
        if !self.values.is_empty() {
            let values = self.values.iter().filter_map(Value::write).collect();
            table.insert("values".to_owned(), toml::Value::Array(values));
        }
        Some(toml::Value::Table(table))
    }
}

impl Value for Deleted {
    fn kind() -> String {
        "string, integer or boolean".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        match &node.content {
            Content::Text(text) => Ok(Self::Text(text.as_str().into())),
            Content::Integer(number) => Ok(Self::Number((*number).into())),
            Content::Boolean(truth) => Ok(Self::Bool(*truth)),
            _ => Err(Refusal::wanted("a string, an integer or a boolean", node)),
        }
    }
    fn write(&self) -> Option<toml::Value> {
        Some(match self {
            Self::Text(text) => toml::Value::String(text.to_string()),
            Self::Number(number) => toml::Value::Integer(number.to_string().parse().ok()?),
            Self::Bool(truth) => toml::Value::Boolean(*truth),
        })
    }
}
