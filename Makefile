# Two commands on a fresh machine: make demo, make test. The rest is for developers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
DIGITS := demo-images
FAULTS := faults.json

.PHONY: demo demo-images test test-slow docs verification faults mutation fuzz bench-check check format clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/latentcast ingest data/ptbxl2980-100hz --out $(DEMO)/store
	$(BIN)/latentcast train conv-ecg-tiny --data $(DEMO)/store --out $(DEMO)/run
	$(BIN)/latentcast probe $(DEMO)/run --data $(DEMO)/store --cache $(DEMO)/features
	$(BIN)/latentcast report $(DEMO)/run --data $(DEMO)/store
# The encoder that ships, pretrained longer on the same recordings: few labels, lost leads, CV.
	$(BIN)/latentcast evaluate latentcast/conv-ecg-tiny --data $(DEMO)/store --head linear \
		--task superdiagnostic --labels-fraction 0.025 0.1 1 --cv --drop-leads 6 \
		--cache $(DEMO)/features --out $(DEMO)/shipped

# The same for images: scikit-learn's digits, bundled, scored by kNN and a linear head.
demo-images: $(VENV)/installed
	$(BIN)/latentcast ingest data/digits/digits.npz --out $(DIGITS)/store
	$(BIN)/latentcast train ijepa-image-digits --data $(DIGITS)/store --out $(DIGITS)/run
	$(BIN)/latentcast probe $(DIGITS)/run --data $(DIGITS)/store

# So many processes of one thread each; the files of tests are dealt out as they come.
PROCESSES ?= 2

test: check
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

# What takes minutes: many kills, the whole demo, large recipes.
test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

# Every claim of every recipe measured: reports in build/verification, the table in docs/verification.
verification: $(VENV)/installed
	$(BIN)/python scripts/build_verification.py

# Would the claims notice? Each bug of dev/faults laid over the source, or generated mutants of
# FILES, as: make mutation FILES="engine/ema.py nn/positions.py" SAMPLE=100
faults: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m dev.matrix --jobs 2 --json $(FAULTS)

mutation: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m dev.mutants $(FILES) --jobs 2 $(addprefix --sample ,$(SAMPLE))

# Damaged and hostile input: every path of dev/fuzz, or make fuzz PATHS="wfdb-* parquet" MUTATIONS=50
MUTATIONS ?= 1500

fuzz: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m dev.fuzz.run $(PATHS) --mutations $(MUTATIONS)

# Is a step slower beside its peers than when benchmarks/step.json was written? Minutes; no test.
bench-check: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/check.py

# The documentation as a site, build/site/index.html; a broken link or an unknown name ends it.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) $(DIGITS) $(FAULTS)

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "latentcast needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
