# The two commands of a fresh machine: `make demo` and `make test`. The rest are their parts.
.PHONY: demo asked test test-reproduce lint unit fuzz reproduce programs tools image image-nix relock

# cargo.sh builds for this target, so that programs stand in one place whoever built them.
programs_dir := target/x86_64-unknown-linux-gnu/debug

# Builds the image, boots it in QEMU beside a software TPM, verifies it, and asks it.
# PROMPT="…" asks one question and stops; MODEL=FOLDER serves another model (Hugging Face format).
# PORT=N chooses the port; FOLDER=DIR keeps the site, its keys and logs elsewhere.
demo: asked image programs
	@$(programs_dir)/demo $(if $(PROMPT),--prompt="$$PROMPT") $(if $(MODEL),--model="$$MODEL") \
		$(if $(PORT),--port="$$PORT") $(if $(FOLDER),--folder="$$FOLDER")
# What can be seen to be wrong at once is not seen after the build.
asked:
	@test -z "$$MODEL" || test -f "$$MODEL/config.json" || { \
		echo "MODEL=$$MODEL: no such model; give a folder that holds a config.json" >&2; exit 1; }
# A question is text: make must not expand what it holds.
override PROMPT := $(value PROMPT)
override MODEL := $(value MODEL)
override PORT := $(value PORT)
override FOLDER := $(value FOLDER)
export PROMPT MODEL PORT FOLDER

# The client and the operator's programs, for this machine.
programs:
	image/cargo.sh build --locked -p cloister-client -p cloister-release -p cloister-verity \
		-p cloister-tests --bins

# Everything that we assert: the house rules, every room, the image built twice, booted machines, and
# each parser of foreign bytes for some seconds under libFuzzer.
test: lint unit fuzz

# Linters come with a Rust toolchain of the host; the locked compiler has none.
lint:
ifeq ($(if $(CLOISTER_LOCKED_CARGO),,$(shell command -v cargo)),)
	@echo "SKIPPED, not checked: formatting, clippy and documentation (no Rust toolchain here)" >&2
else
	cargo fmt --all --check
	image/cargo.sh clippy --workspace --all-targets --features cloister-agent/insecure --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" image/cargo.sh doc --workspace --no-deps --locked \
		--document-private-items
endif

unit: image
	image/cargo.sh build --workspace --bins --features cloister-agent/insecure --locked
	image/cargo.sh test --workspace --features cloister-agent/insecure --locked

# Each fuzz target for SECONDS, guided by coverage; TARGETS="release-pe …" for some of them.
SECONDS ?= 10
fuzz:
	tests/fuzzer/run.sh $(SECONDS) $(TARGETS)

# Each operator of attest's checks changed in turn: a test must fail, or the mutant stands in
# tests/mutants/survivors.md with the reason. FILES="attest/src/snp/verify.rs …" for some files,
# SHARD=0/8 for a part, JOBS=2 for so many at a time. Takes hours for the whole.
.PHONY: mutants
mutants:
	JOBS=$(or $(JOBS),1) SHARD=$(or $(SHARD),0/1) tests/mutants/run.sh $(FILES)

# What takes too long for every change: the image built a second way in Nix's sandbox, twice, to the
# same bits.
test-reproduce:
	nix/compare.sh

# Real services of Sigstore on loopback, and other people's verifiers. Takes packages from the network.
.PHONY: test-sigstore
test-sigstore:
	image/cargo.sh build --locked -p cloister-release -p cloister-publish
	tests/sigstore/run.sh

# Builds the image twice, as two people would, and compares the bits; image/reproduce.sh --pack
# leaves out the compiler.
reproduce:
	image/reproduce.sh

# The locked tools (mkosi, QEMU, swtpm, …), unpacked into the cache. `image/enter.sh CMD` runs one
# of them.
tools:
	image/tree.sh tools

# The image, bit for bit the same from the same sources. PROFILE=production for the one that is
# shipped.
PROFILE ?= demo
image:
	image/build.sh --profile $(PROFILE) --output build/image/$(PROFILE)

# The same bits a second way, with Nix: this machine's, or the locked one if there is none.
image-nix:
	nix/build.sh --profile $(PROFILE) --output build/image-nix/$(PROFILE)

# The GPU's kernels as cubins, bit for bit those of kernels/cubins.sha256. The image has none of them
# yet.
.PHONY: kernels
kernels:
	kernels/build.sh --output build/kernels

# Makes image/deb.lock anew from the archive of today and prints what changed.
relock:
	image/relock.sh

# Size and licence of every locked input, for `cloister-release inputs` and the bill of materials.
.PHONY: licences
licences:
	release/licences.py

# Speed, always beside a peer in the same run; docs/performance.md has the last tables.
.PHONY: bench bench-verify bench-engine
bench: bench-verify bench-engine

# How long verifying evidence takes on one core, beside openssl's signature checks.
bench-verify:
	image/cargo.sh run --release --locked -p cloister-attest --example bench

# The engine beside torch and llama.cpp, in turn. SIZE=1b for the larger model. LLAMA_BENCH names
# llama.cpp's llama-bench; CLOISTER_PYTHON a Python with torch.
SIZE ?= 254m
bench-engine:
	image/cargo.sh build --release --locked -p cloister-agent --features insecure \
		--bin cloister-inference
	$${CLOISTER_PYTHON:-python3} tests/bench_engine.py --size $(SIZE) \
		target/x86_64-unknown-linux-gnu/release/cloister-inference
