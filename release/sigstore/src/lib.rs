//! Verifies Sigstore bundles of releases: who signed, which log saw it, when.
