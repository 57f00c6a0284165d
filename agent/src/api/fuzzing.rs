//! The parser of requests, for [`crate::fuzzing`].

use super::request::Request;
use super::{embeddings, responses};

pub(crate) fn chat(body: &[u8]) {
    drop(Request::chat(body));
}

pub(crate) fn completion(body: &[u8]) {
    drop(Request::completion(body));
}

pub(crate) fn embedding(body: &[u8]) {
    drop(embeddings::Request::parse(body));
}

pub(crate) fn response(body: &[u8]) {
    drop(responses::parse(body));
}
