//! How do we talk? A Noise and ML-KEM session, sans I/O.
