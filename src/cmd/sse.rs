//! Server-Sent Events, read.
//!
//! Owns the format (WHATWG HTML, section 9.2) as far as the hub writes it.

use anyhow::{Context, bail};
use bytes::BytesMut;
use serde_json::Value;

use super::WrongUsage;
use crate::client::Credentials;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
    /// Empty where it has none.
    pub(super) id: String,
}

/// A stream of them.
#[derive(Debug)]
pub(super) struct Events {
    answer: reqwest::Response,
    lines: Lines,
}

/// Who says what has been taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acks<'a> {
    /// The hub: what it has written counts as taken.
    Auto,
    /// The gateway, by calls of its own. It goes on after this id, or where its last ack was.
    Own(Option<&'a str>),
}

/// Opens a gateway's stream.
pub(super) async fn open(
    http: &str,
    credentials: &Credentials,
    gateway: &str,
    acks: Acks<'_>,
) -> anyhow::Result<Events> {
    let url = format!("{}/v1/gateways/{gateway}/stream", http.trim_end_matches('/'));
    let client = credentials.http().map_err(WrongUsage)?.build()?;
    let request = match acks {
        Acks::Auto => client.get(format!("{url}?ack=auto")),
        Acks::Own(None) => client.get(&url),
        Acks::Own(Some(id)) => client.get(&url).header("Last-Event-ID", id),
    };
    let answer = request.send().await.with_context(|| format!("{http} cannot be reached"))?;
    let status = answer.status();
    if !status.is_success() {
        let problem: Value = answer.json().await.unwrap_or_default();
        let why = problem["detail"].as_str().unwrap_or("without saying why").to_owned();
        match status.as_u16() {
            400..500 => return Err(WrongUsage(format!("the hub refuses the stream: {why}")).into()),
            _ => bail!("the hub cannot serve the stream ({status}): {why}"),
        }
    }
    Ok(Events { answer, lines: Lines::default() })
}

impl Events {
    /// The next event; `None` at the stream's end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            if let Some(event) = self.lines.event() {
                return Ok(Some(event));
            }
            match self.answer.chunk().await.context("the stream broke off")? {
                Some(chunk) => self.lines.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

#[derive(Debug, Default)]
struct Lines {
    buffer: BytesMut,
    event: Event,
}

impl Lines {
    /// The next event that is complete.
    fn event(&mut self) -> Option<Event> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(end + 1);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if !event.data.is_empty() {
                    return Some(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.event.name),
                "id" => value.clone_into(&mut self.event.id),
                "data" if self.event.data.is_empty() => value.clone_into(&mut self.event.data),
                "data" => {
                    self.event.data.push('\n');
                    self.event.data.push_str(value);
                }
                // Comments and pauses are of no interest here.
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let text = ": hello\n\nevent: change\nid: c1\ndata: {\"a\":\ndata: 1}\n\nevent: progress\r\ndata:{}\r\n\r\n";
        for cut in 1..text.len() {
            let mut lines = Lines::default();
            let mut events = Vec::new();
            for part in text.as_bytes().chunks(cut) {
                lines.buffer.extend_from_slice(part);
                events.extend(std::iter::from_fn(|| lines.event()));
            }
            let expected = [("change", "{\"a\":\n1}", "c1"), ("progress", "{}", "")];
            let expected =
                expected.map(|(name, data, id)| Event { name: name.into(), data: data.into(), id: id.into() });
            assert_eq!(events, expected, "cut {cut}");
        }
    }
}
