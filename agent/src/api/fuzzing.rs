//! The parser of requests, for [`crate::fuzzing`].

use super::request::Request;

pub(crate) fn chat(body: &[u8]) {
    drop(Request::chat(body));
}

pub(crate) fn completion(body: &[u8]) {
    drop(Request::completion(body));
}
