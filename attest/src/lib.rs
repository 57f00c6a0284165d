//! Who am I talking to? Turns evidence into a verified peer.
