# Each target does all the set-up that it needs; the work is in scripts/, which CI runs too.
.DEFAULT_GOAL := help
.PHONY: help setup build test check try demo bundles results bench twin clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 16

setup:  ## system packages, virtual environment, Python packages, ROS
	@scripts/setup

build:  ## build the workspace with colcon into install/
	@scripts/build

test:  ## run every test (ARGS="-k name" chooses)
	@scripts/test $(ARGS)

check:  ## lint, format and types
	@scripts/check

try:  ## the policies that ship with DiWA, before and after fine-tuning: a table and films, in one to two minutes
	@scripts/try $(ARGS)

demo:  ## from nothing to three better policies, in 23 to 27 minutes on two cores (MODE=hybrid, vision: from cameras)
	@scripts/demo $(ARGS)

bundles:  ## make the policies that ship with DiWA anew, from the demo
	@scripts/bundles $(ARGS)

results:  ## all eight tasks, what they depend on and bad models, more than a day; writes docs/results and docs/results.md
	@scripts/results $(ARGS)

bench:  ## measure what the project claims; writes benchmarks/results.json and docs/performance.md
	@scripts/bench $(ARGS)

twin:  ## a bundle through ROS against the simulator (ARGS="BUNDLE STEPS [EPISODES [FIRST_SEED]]")
	@scripts/twin $(ARGS)

clean:  ## remove what was built; .venv and runs stay
	@rm -rf build install log .pytest_cache .mypy_cache .ruff_cache .hypothesis
