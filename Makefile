# The commands that people type. Each is a script of scripts/, where the work is.

.DEFAULT_GOAL := help
.PHONY: help demo test conformance conformance-real setup guest build lint bench bench-api fuzz soak cycles kvm-lab kvm-lab-bench example clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Set the machine up, build Colibri, and watch it work
	@scripts/demo

test: ## Set the machine up, lint, run every test
	@scripts/test

conformance: ## Drive every operation with the AWS CLI, boto3, the JavaScript and the Rust SDK
	@scripts/conformance

conformance-real: ## The main path of each of these clients on real machines
	@scripts/conformance --real

setup: ## Install what is missing, prepare the guest's kernel and initramfs
	@scripts/setup

guest: ## Build the agent and pack the initramfs again
	@scripts/build-guest

build: ## Build the colibri binary (release)
	@cargo build --release --package colibri-cli

lint: ## Check format, clippy, shell scripts, dependencies
	@scripts/client-venv
	@scripts/lint

bench: ## Measure: launch, resume, suspend, density
	@scripts/bench

bench-api: ## Measure the control plane beside a Python emulator of AWS services
	@scripts/bench-api

fuzz: ## Fuzz what reads hostile bytes, a minute each (FUZZ_SECONDS)
	@scripts/fuzz

soak: ## Hundreds of operations on real machines while the daemon is killed; then an audit
	@scripts/soak

cycles: ## 500 sleeps of one MicroVM, its memory and disk checked
	@scripts/soak cycles

kvm-lab: ## Run the hypervisor's tests on real KVM inside an emulated host
	@scripts/kvm-lab

kvm-lab-bench: ## Run the benchmark on real KVM inside an emulated host: for correctness, not for its times
	@scripts/kvm-lab bench --samples 3 --classes 512 1024

example: ## Pack examples/flask-counter into target/examples/flask-counter.zip
	@python3 scripts/pack-example.py examples/flask-counter target/examples/flask-counter.zip
	@echo target/examples/flask-counter.zip

clean: ## Remove everything that was built or downloaded
	@rm -rf target
