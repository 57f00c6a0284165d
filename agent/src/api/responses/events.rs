//! A response as it is made: the events that OpenAI's clients know.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use inference::Finish;
use serde_json::{Value, json};

use super::{Echo, Kind, item, status, usage};
use crate::api::answer::{Answer, as_events, fresh_id};
use crate::api::error::ApiError;
use crate::http::Response;

/// Sends the response as it is made.
pub(in crate::api) fn stream(answer: Answer, echo: Echo) -> Response {
    let events = Events {
        answer,
        echo,
        sequence: 0,
        items: Vec::new(),
        open: None,
        begun: false,
        ended: false,
        out: Vec::new(),
    };
    let frames = stream::unfold(events, |mut events| async {
        let bytes = events.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), events))
    });
    as_events(StreamBody::new(frames).boxed_unsync())
}

struct Events {
    answer: Answer,
    echo: Echo,
    /// Of the next event.
    sequence: u64,
    /// Items that have ended.
    items: Vec<Value>,
    open: Option<Open>,
    begun: bool,
    ended: bool,
    out: Vec<u8>,
}

/// An item that goes on.
struct Open {
    kind: Kind,
    id: String,
    text: String,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if !self.begun {
            self.begun = true;
            for name in ["response.created", "response.in_progress"] {
                let response = self.echo.response("in_progress", None, &[], Value::Null);
                self.event(name, json!({"response": response}));
            }
            return Some(std::mem::take(&mut self.out).into());
        }
        if let Err(error) = self.advance().await {
            self.fail(&error);
        }
        Some(std::mem::take(&mut self.out).into())
    }

    async fn advance(&mut self) -> Result<(), ApiError> {
        let pieces = self.answer.next_pieces().await?;
        self.add(Kind::Reasoning, &pieces.reasoning)?;
        self.add(Kind::Message, &pieces.text)?;
        let Some(finish) = pieces.finish else {
            return Ok(());
        };
        if self.open.is_none() || finish == Finish::Stop && !self.answers() {
            self.begin(Kind::Message)?;
        }
        let status = status(finish);
        self.close(status);
        self.ended = true;
        let usage = usage(self.answer.usage());
        let items = std::mem::take(&mut self.items);
        let response = self.echo.response(status, Some(finish), &items, usage);
        let name = format!("response.{status}");
        self.event(&name, json!({"response": response}));
        Ok(())
    }

    /// Whether a message is open.
    fn answers(&self) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| open.kind == Kind::Message)
    }

    fn add(&mut self, kind: Kind, text: &str) -> Result<(), ApiError> {
        if text.is_empty() {
            return Ok(());
        }
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.begin(kind)?;
        }
        if let Some(open) = &mut self.open {
            open.text.push_str(text);
        }
        let mut fields = self.place();
        fields["delta"] = text.into();
        if kind == Kind::Message {
            fields["logprobs"] = json!([]);
        }
        self.event(&format!("{}.delta", name_of(kind)), fields);
        Ok(())
    }

    /// Where the open item stands.
    fn place(&self) -> Value {
        let id = self.open.as_ref().map(|open| open.id.as_str());
        json!({"item_id": id, "output_index": self.items.len(), "content_index": 0})
    }

    fn begin(&mut self, kind: Kind) -> Result<(), ApiError> {
        self.close("completed");
        let id = fresh_id(match kind {
            Kind::Reasoning => "rs_",
            Kind::Message => "msg_",
        })?;
        let begun = item(kind, &id, "in_progress", None);
        let index = self.items.len();
        let added = json!({"output_index": index, "item": begun});
        self.event("response.output_item.added", added);
        self.open = Some(Open {
            kind,
            id,
            text: String::new(),
        });
        let mut fields = self.place();
        fields["part"] = kind.part("");
        self.event("response.content_part.added", fields);
        Ok(())
    }

    fn close(&mut self, status: &str) {
        let place = self.place();
        let Some(open) = self.open.take() else {
            return;
        };
        let mut fields = place.clone();
        fields["text"] = open.text.as_str().into();
        if open.kind == Kind::Message {
            fields["logprobs"] = json!([]);
        }
        self.event(&format!("{}.done", name_of(open.kind)), fields);
        let mut fields = place;
        fields["part"] = open.kind.part(&open.text);
        self.event("response.content_part.done", fields);
        let done = item(open.kind, &open.id, status, Some(&open.text));
        let fields = json!({"output_index": self.items.len(), "item": done});
        self.event("response.output_item.done", fields);
        self.items.push(done);
    }

    fn fail(&mut self, error: &ApiError) {
        self.ended = true;
        let items = std::mem::take(&mut self.items);
        let mut response = self.echo.response("failed", None, &items, Value::Null);
        let body = serde_json::to_value(error.body()).unwrap_or_default();
        let message = &body["error"]["message"];
        response["error"] = json!({"code": "server_error", "message": message});
        self.event("response.failed", json!({"response": response}));
    }

    fn event(&mut self, name: &str, mut fields: Value) {
        fields["type"] = name.into();
        fields["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        self.out
            .extend_from_slice(format!("event: {name}\ndata: {fields}\n\n").as_bytes());
    }
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Reasoning => "response.reasoning_text",
        Kind::Message => "response.output_text",
    }
}
