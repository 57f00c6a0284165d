//! The person's side: ask, chat, verify.
