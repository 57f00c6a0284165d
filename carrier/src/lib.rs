//! Carries a channel session over a WebSocket.
