//! Spans in the JSON encoding of OTLP (`ExportTraceServiceRequest`).
//!
//! Ids are hexadecimal, and 64-bit numbers are texts, as the encoding wants it.

use serde_json::{Value as Json, json};

use super::{Finished, Value};

/// What all spans of a gateway have in common.
pub(super) struct Resource {
    attributes: Json,
}

impl Resource {
    pub(super) fn new(service: &str, node: &str) -> Self {
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        Self {
            attributes: json!([
                text("service.name", service),
                text("service.version", env!("CARGO_PKG_VERSION")),
                text("service.instance.id", node),
            ]),
        }
    }

    /// The body of a request with these spans.
    pub(super) fn request(&self, spans: &[Finished]) -> String {
        let spans: Vec<Json> = spans.iter().map(span).collect();
        let scope = json!({"name": "tickgate", "version": env!("CARGO_PKG_VERSION")});
        json!({"resourceSpans": [{
            "resource": {"attributes": self.attributes},
            "scopeSpans": [{"scope": scope, "spans": spans}],
        }]})
        .to_string()
    }
}

fn span(span: &Finished) -> Json {
    let attribute = |(key, value): &(&str, Value)| {
        let value = match value {
            Value::Text(text) => json!({"stringValue": text}),
            Value::Number(number) => json!({"intValue": number.to_string()}),
        };
        json!({"key": key, "value": value})
    };
    let attributes: Vec<Json> = span.attributes.iter().map(attribute).collect();
    let end_unix_ns = span.begin_unix_ns + span.duration.as_nanos();
    let status = match &span.error {
        Some(message) => json!({"code": 2, "message": message}),
        None => json!({}),
    };
    let mut json = json!({
        "traceId": format!("{:032x}", span.trace_id),
        "spanId": format!("{:016x}", span.span_id),
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": span.begin_unix_ns.to_string(),
        "endTimeUnixNano": end_unix_ns.to_string(),
        "attributes": attributes,
        "status": status,
    });
    if let Some(parent_id) = span.parent_id {
        json["parentSpanId"] = format!("{parent_id:016x}").into();
    }
    json
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Kind;
    use super::*;

    #[test]
    fn a_span_is_encoded_as_the_specification_says() {
        let finished = Finished {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            parent_id: Some(1),
            kind: Kind::Client,
            name: "POST".into(),
            begin_unix_ns: 1_700_000_000_000_000_001,
            duration: Duration::from_nanos(41),
            attributes: vec![("events", Value::Number(3)), ("outcome", "failure".into())],
            error: Some("lost".into()),
        };
        let request = Resource::new("tickgate", "n1").request(&[finished]);
        let request: Json = serde_json::from_str(&request).expect("JSON");
        let resource = &request["resourceSpans"][0];
        assert_eq!(
            resource["resource"]["attributes"][2],
            json!({"key": "service.instance.id", "value": {"stringValue": "n1"}})
        );
        assert_eq!(
            resource["scopeSpans"][0]["spans"],
            json!([{
                "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331",
                "parentSpanId": "0000000000000001", "name": "POST", "kind": 3,
                "startTimeUnixNano": "1700000000000000001", "endTimeUnixNano": "1700000000000000042",
                "attributes": [
                    {"key": "events", "value": {"intValue": "3"}},
                    {"key": "outcome", "value": {"stringValue": "failure"}},
                ],
                "status": {"code": 2, "message": "lost"},
            }])
        );
    }
}
