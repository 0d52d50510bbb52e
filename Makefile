# The two commands of the README, for a fresh Debian 12 machine as root, and
# what .ci/run and developers type. Each installs what it lacks first.

SHELL    := /bin/bash
PACKAGES := bind9-dnsutils build-essential busybox-static cpio dnsmasq-base gcc-12 iproute2 iptables \
            iputils-ping ipvsadm kmod libelf1 libpcap-dev nftables procps qemu-system-x86 socat sparse tftp-hpa tshark
CARGO    ?= cargo

.PHONY: all build lab test upgrade-test fuzz corpus mutants swarm guest guest-figures lint deny bench bench-core packages toolchain \
	clean

all: build

# A three-host cluster on real kernels, in network namespaces: connections,
# one host killed half way, what happened. Leaves nothing behind.
lab: build
	target/release/clusterd lab run --nodes 3 --connections 10000 --concurrency 64 --kill h2@50%

# Everything that can be tested here; what needs root or a kernel feature skips with its reason.
# The guests compute all the time and get what the other tests, which mostly wait, leave of the
# processors. Of these three run at a time, as many as there is room for labs (`PLACES`).
test: build
	$(CARGO) test --release --workspace --no-run
	$(CARGO) test --release --workspace --test guest --no-run
	@guests=$$(mktemp); trap 'kill $$(jobs -p) 2>/dev/null; rm -f "$$guests"' EXIT; \
	chrt --idle 0 $(CARGO) test --release --workspace --test guest >"$$guests" 2>&1 & \
	RUST_TEST_THREADS=3 $(CARGO) test --release --workspace; status=$$?; \
	wait $$! || status=1; cat "$$guests"; exit $$status

# Hosts of the minor version before and of this one in one cluster, replaced one by one
# under load. The version before is built once, from the repository's history.
BEFORE     := 987862e
BEFORE_DIR  = $(abspath $(or $(CARGO_TARGET_DIR),target))/before-$(BEFORE)
upgrade-test: packages toolchain
	@if ! git cat-file -e '$(BEFORE)^{commit}' 2>/dev/null; then \
		echo "upgrade-test: skipped, commit $(BEFORE) is not in this clone's history"; exit 0; \
	fi; \
	set -e; \
	if [ ! -x $(BEFORE_DIR)/release/clusterd ]; then \
		mkdir -p $(BEFORE_DIR)/source; \
		git archive $(BEFORE) | tar -x -C $(BEFORE_DIR)/source; \
		$(CARGO) build --release --locked --manifest-path $(BEFORE_DIR)/source/Cargo.toml \
			--target-dir $(BEFORE_DIR); \
	fi; \
	CLUSTERD_BEFORE=$(BEFORE_DIR)/release/clusterd $(CARGO) test --release --test kernel upgrade

# Coverage-guided fuzzing of the decoder and of the protocol core, starting from the
# inputs in fuzz/corpus. Stable Rust does: without a sanitizer, since neither
# has a line of unsafe code. What fails is kept, with the command that repeats it.
FUZZ_SECONDS ?= 20
fuzz: packages toolchain
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz || { \
		echo "fuzz: skipped, cargo-fuzz cannot be installed here" >&2; \
		test -z "$$CLUSTERD_REQUIRE_KERNEL"; exit; }; \
	for name in decode core; do \
		mkdir -p fuzz/target/found/$$name && \
		$(CARGO) fuzz run --sanitizer none $$name fuzz/target/found/$$name fuzz/corpus/$$name -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=1500 -verbosity=0 -print_final_stats=1 || exit 1; \
	done

# Takes what the fuzzer has found into fuzz/corpus, which keeps one input for each branch.
corpus: packages toolchain
	@for name in decode core; do \
		cp fuzz/target/found/$$name/* fuzz/corpus/$$name && \
		$(CARGO) fuzz cmin --sanitizer none $$name -- -use_counters=0 -set_cover_merge=1 || exit 1; \
	done

# A thousand simulated clusters with faults and parameters drawn from their seeds.
SEEDS ?= 1000
swarm: toolchain
	$(CARGO) build --release -p clusterd-sim
	target/release/clusterd-sim swarm --seeds $(SEEDS)

# Each rule of the race catalogue, switched off, makes a test fail. With MUTANTS_SHARD=k/n only
# every nth of the edits, from the kth on.
mutants: packages toolchain
	$(CARGO) test --no-default-features --test mutants -- --ignored --nocapture

# The part of the tests that boots Debian's kernels under QEMU; and what a packet to a virtual IP
# costs there, in instructions, and clusterd beside CLUSTERIP.
guest: packages toolchain
	$(CARGO) test --release --workspace --test guest
guest-figures: packages toolchain
	$(CARGO) test --release --workspace --test guest -- --ignored --nocapture --test-threads 1 \
		what_a_packet_costs clusterd_beside_clusterip

bench: build
	target/release/clusterd lab bench

# What the core costs for each event and frame, with 10 000 and 1 000 000
# attempts in its table: the median's 95 % confidence interval of each. For one
# of them: cargo bench --no-default-features --bench core -- SynFirst
bench-core: toolchain
	$(CARGO) bench --no-default-features --bench core -- --verbose \
		| awk '/^(frame|[0-9]+ attempts)\// { print $$1 " " $$2 ($$3 == "time:" ? "" : " " $$3) } /^median/ { sub(/ med.*/, ""); print "    " $$0 }'

build: packages toolchain
	$(CARGO) build --release --workspace

lint: packages toolchain
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) check --lib --no-default-features
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items

deny:
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources
	$(CARGO) deny --manifest-path fuzz/Cargo.toml check bans licenses sources
	@if $(CARGO) deny fetch db >/dev/null 2>&1; then $(CARGO) deny check advisories; \
	else echo "advisories: skipped, the advisory database cannot be fetched from here"; fi

packages:
	@missing=$$(comm -13 \
		<(dpkg-query -W -f '$${Package} $${Status}\n' $(PACKAGES) 2>/dev/null \
			| awk '/ ok installed$$/ { print $$1 }' | sort) \
		<(printf '%s\n' $(PACKAGES) | sort)); \
	if [ -n "$$missing" ]; then \
		apt-get update && \
		DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $$missing; \
	fi

# Debian 12's own Rust is too old (1.63), so the toolchain is the one thing to bring along.
toolchain:
	@version=$$($(CARGO) --version 2>/dev/null | cut -d' ' -f2); \
	if ! printf '1.93\n%s\n' "$$version" | sort --check=quiet --version-sort; then \
		echo "clusterd needs Rust 1.93 or newer, found '$$version'; install it with rustup, see README" >&2; \
		exit 1; \
	fi

clean:
	$(CARGO) clean
