# `make up` runs everything on this machine, `make test` tests it. Both install what they need.

PROFILE ?= release
# Cargo's directory for the profile: dev builds into target/debug.
BUILT := target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

.PHONY: up test chaos soak bench check fuzz openapi ensure-tools

up: ensure-tools
	@cargo build --profile $(PROFILE) --bin eventrail
	@$(BUILT)/eventrail up

test: ensure-tools
	@scripts/test

# Breaks everything under load and looks for what is lost: make chaos ARGS="--minutes 30 --seed 7"
chaos: ensure-tools
	@scripts/chaos $(ARGS)

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
		cargo doc --workspace --no-deps --document-private-items --locked

# Fuzzes each target, or TARGET, for SECONDS: `make fuzz TARGET=cursor SECONDS=600`.
SECONDS := 60
fuzz: ensure-tools
	@scripts/fuzz --seconds $(SECONDS) $(TARGET)

# Mixed traffic for MINUTES; fails if memory, descriptors, connections or tables go on growing, or if anything is lost.
MINUTES := 10
soak: ensure-tools
	@cargo build --profile $(PROFILE) -p eventrail -p eventrail-bench
	@$(BUILT)/eventrail-bench soak --minutes $(MINUTES)

# Measures speed beside its targets: make bench ARGS="--quick --json new.json --compare old.json" (docs/PERFORMANCE.md)
bench: ensure-tools
	@cargo build --profile $(PROFILE) -p eventrail -p eventrail-bench
	@$(BUILT)/eventrail-bench suite $(ARGS)

# Writes openapi.json from the handlers' annotations; a test holds it against them.
openapi:
	cargo test --quiet -p eventrail-api --test http -- --exact --ignored openapi::write_the_specification

ensure-tools:
	@scripts/ensure-rust
	@scripts/ensure-servers
