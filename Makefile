# make demo   draw flowers, train on them, predict one, show the picture
# make gallery   make the pictures and outputs of README and docs anew
# make docs     write docs/options.md and docs/files.md anew
# make test   check the code, and run all tests but those that are marked slow
# make test-all   everything that CI checks
# make thorough   the slowest tests, which look once more at what others look at; before a release
# make lowest   the tests with the lowest versions that the project allows, on Python 3.10
# make newest   the tests with the newest versions: make newest PYTHON=python3.13
# make browser   install Chromium and its driver, where apt can, for the tests of the page
# make runtime   take the newest onnxruntime-web into the package, for the page; needs npm
# All need Python 3.10 or newer and make; what else they need goes into .venv, once. `lowest` and `newest` have
# environments of their own, such as .venv-newest-python3.13.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
REQUIREMENTS = requirements.txt requirements-dev.txt pyproject.toml
FLOWERS ?= flowers
SHOWN = demo/flowers/test/54/drawn_000.jpg

.PHONY: setup demo gallery docs test test-all suite thorough lowest newest lint format browser runtime

setup: $(VENV)/installed

$(VENV)/installed: $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 10) and sys.exit("Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -r requirements-dev.txt $(INSTALL_OPTIONS)
	@touch $@

demo: setup
	$(BIN)/python -m flower_classifier.photos.demo demo/flowers
	$(BIN)/python train.py demo/flowers --arch cnn --save_dir demo --category_names cat_to_name.json
	$(BIN)/python predict.py $(SHOWN) demo/checkpoint.pth --top_k 3 --plot demo/prediction.png
	@echo "The picture shows a sunflower. Look at demo/prediction.png."

gallery: setup
	$(BIN)/python docs/gallery.py $(FLOWERS)

docs: setup
	$(BIN)/python docs/options.py
	$(BIN)/python docs/files.py

# Two tests at a time; threads that wait for each other leave the cores to the other one
PYTEST = OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2

test: setup lint browser
	$(PYTEST) -m "not slow and not thorough"

test-all: lint suite

suite: setup browser
	$(PYTEST) -m "not thorough"

thorough: setup browser
	$(PYTEST) -m thorough

lowest: PYTHON = python3.10
lowest newest: VENV = .venv-$@-$(notdir $(PYTHON))

# Each bound, package>=version, becomes the one version that pip may install
lowest:
	grep -Eoh '[a-z-]+>=[0-9.]+' $(REQUIREMENTS) | grep -v python | sed 's/>=/==/' | sort -u >.venv-lowest.txt
	$(MAKE) suite VENV=$(VENV) PYTHON=$(PYTHON) INSTALL_OPTIONS="--constraint .venv-lowest.txt"

newest:
	rm -f $(VENV)/installed
	$(MAKE) suite VENV=$(VENV) PYTHON=$(PYTHON) INSTALL_OPTIONS="--upgrade --upgrade-strategy eager"

# Without Chromium the tests of the page say that they are skipped
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } || \
	echo "There is no Chromium with its driver, and apt cannot install it here: the tests of the page will be skipped."

runtime: setup
	$(BIN)/python tools/vendoring.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
