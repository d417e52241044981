# cxr-workbench: what can be done here. `make` alone lists it. Needs make and a Python >= 3.11; everything else goes into .venv.
#   PYTHON=python3.12   the Python that makes .venv          ARGS="..."   more arguments for lab, test, browser, demo, benchmarks
#   JOBS=2              test processes                       PAGES="..."  the notebooks of `make execute` (all where empty)

BIN := .venv/bin
JOBS ?= 2
ARGS ?=
PAGES ?=
export PYTHON
.DEFAULT_GOAL := help
.PHONY: help lab demo test browser docs mathjax export lint execute benchmarks wheel clean pages-ready dev-ready

help: ## list these commands
	@echo "usage: make COMMAND [ARGS=\"...\"]"
	@awk '/^[a-z]+:.*## / { name = $$0; sub(/:.*/, "", name); sub(/.*## /, ""); printf "  %-12s %s\n", name, $$0 }' Makefile

pages-ready:
	@sh scripts/install.sh diffusion,tables,app

dev-ready:
	@sh scripts/install.sh dev,dicom,diffusion,stream,app,cluster,docs

lab: pages-ready ## install, then open JupyterLab at nbs/index.ipynb (on this machine only, with its token)
	@root=; if [ "$$(id -u)" = 0 ]; then root=--allow-root; echo "--- running as root: JupyterLab is told that this is meant (--allow-root)"; fi; \
	echo "--- opening JupyterLab at nbs/index.ipynb; the address below holds its token, Ctrl-C twice ends it"; \
	PYTHONPATH="$(CURDIR)/scripts$${PYTHONPATH:+:$$PYTHONPATH}" \
	OMP_WAIT_POLICY="$${OMP_WAIT_POLICY:-PASSIVE}" \
	JUPYTER_CONFIG_PATH="$(CURDIR)/cxr_workbench/lab$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" \
	exec $(BIN)/python -m jupyterlab --ContentsManager.pre_save_hook=save_hook.keep_committed --ServerApp.ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/nbs/index.ipynb \
	    --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $$root $(ARGS)

demo: pages-ready ## install, then train on the phantom, print the per-label table, write an HTML report; no browser
	@$(BIN)/cxr-workbench demo $(ARGS)

test: dev-ready ## install what the tests need, then run them: every notebook section, the contract of methods, the rules of pages
	@echo "--- pytest, $(JOBS) processes; the slowest tests are listed at the end"
	@$(BIN)/python -m pytest tests --ignore=tests/browser -q -n $(JOBS) --durations=15 --durations-min=1 $(ARGS)

browser: dev-ready ## run every notebook in JupyterLab in headless Chromium and move its controls
	@browser="$$BROWSER_PATH"; for name in chromium chromium-browser google-chrome; do \
	    [ -n "$$browser" ] || browser=$$(command -v $$name || true); done; \
	if [ ! -x "$$browser" ]; then echo "No Chromium here (BROWSER_PATH=$$BROWSER_PATH). Install Debian's package chromium, or set BROWSER_PATH." >&2; exit 1; fi; \
	echo "--- pytest tests/browser with $$browser, $(JOBS) processes"; \
	BROWSER_PATH="$$browser" $(BIN)/python -m pytest tests/browser -q -n $(JOBS) --durations=15 --durations-min=1 $(ARGS)

docs: dev-ready ## build the site into _docs/: pages, reference, results; nothing is run or fetched; open _docs/index.html
	@$(BIN)/python scripts/build_docs.py $(ARGS)

mathjax: dev-ready ## once before docs: MathJax by npm into docs/mathjax/; without it equations are shown as their source
	@$(BIN)/python scripts/build_docs.py --mathjax

export: dev-ready ## write cxr_workbench/ from the notebooks
	@$(BIN)/nbdev_export && echo "--- cxr_workbench/ is what nbs/ exports"

lint: dev-ready ## look for long lines and likely errors in notebooks, tests, experiments, benchmarks, scripts and docs
	@$(BIN)/python -m ruff check .

execute: dev-ready ## run notebooks for committing (pictures kept, widget state dropped), then export; PAGES="nbs/00_core.ipynb" for some
	@$(BIN)/nbdev_export
	@$(BIN)/python scripts/execute.py $(PAGES)
	@$(BIN)/nbdev_export

benchmarks: dev-ready ## measure the speed against bare loops and copies; writes benchmarks/results.md
	@$(BIN)/python benchmarks/run.py $(ARGS)

wheel: dev-ready ## build sdist and wheel into dist/
	@rm -rf build dist
	@$(BIN)/python -m build --no-isolation

clean: ## remove what was built and cached; .venv and runs/ stay
	@rm -rf build dist _proc _docs .pytest_cache .hypothesis *.egg-info tests/browser/shots
	@find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
	@echo "removed what was built; .venv and runs/ stay"
