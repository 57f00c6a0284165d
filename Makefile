# The two commands of a fresh machine: `make demo` and `make test`. The rest are their parts.
.PHONY: test lint tools image relock

test: lint
	cargo test --workspace --locked

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --document-private-items

# The locked tools (mkosi, QEMU, swtpm, …), unpacked into the cache. `image/enter.sh CMD` runs one
# of them.
tools:
	image/tree.sh tools

# The image, bit for bit the same from the same sources. PROFILE=production for the one that is
# shipped.
PROFILE ?= demo
image:
	image/build.sh --profile $(PROFILE) --output build/image/$(PROFILE)

# Makes image/deb.lock anew from the archive of today and prints what changed.
relock:
	image/relock.sh
