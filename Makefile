# make demo: everything, from nothing, on real images.   make test: all tests.   make check: what CI runs.
# make explore: the model of make demo in the browser, with sliders.
# make docs: the documentation into build/site, where index.html opens without a server.
# make digits-model: trains the model that comes with glow anew, about 3 minutes; it is then in glow/shipped.
# make test-gpu: what only a GPU can show; make test hides GPUs.
# make test-slurm: the job scripts on a real SLURM that it starts on this machine; as root, about 5 minutes.
# make test-trackers: wandb and trackio without a network, in environments of their own, about 2 minutes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: digits-model demo explore test test-gpu test-slurm test-trackers check lint types docs clean

demo: .venv/demo
	$(BIN)/python -m pipelines.demo

explore: .venv/explore
	$(BIN)/glow explore --checkpoint runs/digits

digits-model: .venv/demo
	rm -rf build/shipped
	$(BIN)/python -m pipelines.demo --data build/shipped/data/digits --output build/shipped/runs/digits
	rm -rf glow/shipped/digits
	$(BIN)/python -m pipelines.export --checkpoint build/shipped/runs/digits --output glow/shipped/digits --license apache-2.0

test: .venv/test
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test-gpu: .venv/test
	$(BIN)/python -m pytest tests/gpu

# Each in an environment of its own over .venv, for their dependencies need not agree with those of glow.
test-trackers: .venv/test
	for name in wandb trackio; do \
		$(BIN)/python -m venv build/trackers/$$name && \
		$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
			> "$$(build/trackers/$$name/bin/python -c 'import site; print(site.getsitepackages()[0])')/glow.pth" && \
		build/trackers/$$name/bin/python -m pip install --quiet $$name && \
		build/trackers/$$name/bin/python -m pytest tests/trackers -m trackers -k $$name || exit 1; \
	done

test-slurm: .venv/test
	$(BIN)/python -m pytest tests/slurm -m slurm

check: lint types test

lint: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/test
	$(BIN)/mypy

# Strict: a broken link, a missing page or one outside of the navigation fails.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo build/site/index.html

# One virtual environment; the stamps say which extras are in it. Installing again is quick.
.venv/demo .venv/explore .venv/test .venv/docs: .venv/%: pyproject.toml | $(BIN)/python
	@echo "installing glow-flows[$*] into .venv: about 3 minutes and 5.5 GB the first time"
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' \
		|| { echo "error: $(PYTHON) has no ensurepip; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
