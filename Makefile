# Every task has one entry here. `make help` lists them.
CARGO ?= cargo
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: toolchain
toolchain:
	@command -v $(CARGO) >/dev/null || { echo "no cargo: install a Rust toolchain, https://rustup.rs"; exit 1; }
	@command -v cc >/dev/null || { echo "no cc: install a C compiler and linker, e.g. apt-get install gcc libc6-dev"; exit 1; }

.PHONY: demo
demo: lab ## Build, bring up a cluster in namespaces, check it, take it down
	target/release/selvedge-lab run

.PHONY: lab
lab: toolchain ## Build the product and the lab
	$(CARGO) build --release --package selvedge --package selvedge-lab

.PHONY: image
image: toolchain ## Build the container image and its SBOM into target/image, without a container engine
	deploy/image/build.sh target/image

.PHONY: test
test: toolchain ## Run every test; installs what the tests need beyond the product
	tests/run.sh

.PHONY: test-fast
test-fast: toolchain ## Run every test but those on a real Kubernetes
	tests/run.sh --fast

.PHONY: conformance
conformance: lab ## Upstream Kubernetes' conformance tests of the network, on a real Kubernetes (root)
	target/release/selvedge-lab conformance --nodes 2

.PHONY: churn
churn: lab ## 300 pods created and deleted, twice, under traffic, on a real Kubernetes (root)
	target/release/selvedge-lab run --kubernetes --nodes 2 --quick --churn 300x2

.PHONY: lint
lint: toolchain ## Formatting and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: fmt
fmt: toolchain ## Format everything
	$(CARGO) fmt --all

.PHONY: bench
bench: toolchain ## Throughput and round trip beside wireguard-go and boringtun-cli
	tests/setup.sh
	$(CARGO) bench --bench tunnel

.PHONY: reference
reference: toolchain ## Write the pages of docs/reference that are made from the program
	UPDATE_REFERENCE=1 $(CARGO) test --quiet --package selvedge --lib reference

MDBOOK = target/tools/bin/mdbook
$(MDBOOK): | toolchain
	$(CARGO) install --locked --root target/tools mdbook

.PHONY: book
book: $(MDBOOK) ## The documents as a browsable book in target/book
	$(MDBOOK) build docs

.PHONY: bench-cni
bench-cni: lab ## CNI ADD and DEL beside bridge and host-local of the CNI project
	mkdir -p target/bench
	target/release/selvedge-lab bench-cni --report target/bench/cni.md

.PHONY: bench-scale
bench-scale: lab ## One agent among 1,000 and 5,000 Nodes: time, CPU, memory, API requests
	mkdir -p target/bench
	target/release/selvedge-lab bench-scale --report target/bench/scale.md

.PHONY: bench-services
bench-services: lab ## Services beside kube-proxy: sync, changes, first packets, throughput, memory
	mkdir -p target/bench
	target/release/selvedge-lab bench-services --report target/bench/services.md

.PHONY: fuzz
fuzz: toolchain ## Fuzz every parser of foreign bytes for a minute each (needs nightly and cargo-fuzz)
	cd fuzz && for target in $$($(CARGO) fuzz list); do $(CARGO) +nightly fuzz run $$target -- -max_total_time=60 || exit 1; done

.PHONY: clean
clean: ## Remove what was built
	$(CARGO) clean
