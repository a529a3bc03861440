# Everything runs in .venv, which the first command fills: python3, pip and make are enough to begin with.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.requirements
READY_DEV := $(VENV)/.requirements-dev
LOWEST := .venv-lowest

IMAGE ?= images/demo.jpg
OUTPUT ?= results/demo
WEIGHTS ?= photos
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo web test test-all test-lowest fuzz format bench evaluate upper-bound weights clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## all four tasks on IMAGE (images/demo.jpg); results go to OUTPUT (results/demo)
	@$(RUN) infer/infer_single_image_multi_task.py --image "$(IMAGE)" --output-dir "$(OUTPUT)" $(ARGS)
	@echo "The resulting images:" && find "$(abspath $(OUTPUT))" -name '*.png' | sort

web: $(READY) ## the page that detects in the browser with WEIGHTS (photos), in build/web; needs npm (docs/export.md)
	@$(PIP) -e '.[export]'
	@PYTHON="$(abspath $(RUN))" images/web/build.sh build/web "$(WEIGHTS)"

test: $(READY_DEV) ## style, then the quick tests
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --check . || { echo "run 'make format'"; exit 1; }
	@$(VENV)/bin/pytest $(ARGS)

test-all: $(READY_DEV) ## every test, the slow ones too
	@$(VENV)/bin/pytest -m "slow or not slow" $(ARGS)

test-lowest: ## the quick tests with the lowest versions that pyproject.toml admits, in a folder of their own
	@$(PYTHON) -m venv --clear $(LOWEST)
	@sed -n 's/^ *"\([A-Za-z0-9_-]*\)>=\([0-9.]*\)".*/\1==\2/p' pyproject.toml > $(LOWEST)/floors.txt
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/floors.txt -r requirements-dev.txt
	@$(LOWEST)/bin/python -m pytest $(ARGS)

fuzz: $(READY_DEV) ## a coverage-guided fuzzer on three readers of files, ten minutes each (Python 3.11 to 3.13)
	@$(PIP) atheris
	@for reader in checkpoint_index settings metadata; do \
		$(RUN) tests/fuzz/read.py $$reader -max_total_time=600 -max_len=8192 || exit 1; done

format: $(READY_DEV) ## format the code in the project's style
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: $(READY) ## the README's speed figures
	@$(RUN) bench/benchmark.py $(ARGS)

evaluate: $(READY) ## the figures of the scenes weights
	@$(RUN) evaluate/evaluate_multi_task.py --weights scenes --scenes-train 0 --scenes-val 500 --scenes-seed 1234 $(ARGS)

upper-bound: $(READY) ## scores of the ground truth itself after tokenizing; DATA_ROOT: a dataset in COCO's layout
	@$(RUN) evaluate/upper_bound.py --data-root "$(DATA_ROOT)" --image-size 640 --max-points 128 --max-objects 100 \
		--max-tokens 512 --crop-padding 0.5 $(ARGS)

weights: $(READY) ## train the scenes weights again (recipes/scenes.yaml)
	@$(RUN) train/train_multi_task.py --config scenes --overwrite $(ARGS)
	@cp runs/scenes/last.safetensors weights/scenes.safetensors

clean: ## remove results and the tools' caches; .venv, data, runs and weights stay
	@rm -rf results .pytest_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -type d -name __pycache__ -print | xargs rm -rf

$(READY): requirements.txt pyproject.toml
	@echo "Installing requirements.txt into $(VENV) (once; some minutes) ..."
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) -r requirements.txt
	@touch $@

$(READY_DEV): requirements-dev.txt $(READY)
	@echo "Installing requirements-dev.txt into $(VENV) (once) ..."
	@$(PIP) -r requirements-dev.txt
	@touch $@
