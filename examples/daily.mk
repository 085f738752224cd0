# The work of a day, step by step, for schedulers that show each step and try it again on its own.
#
#     make --file examples/daily.mk DAY=2026-03-09 LOGS=logs/2026-03-09
#
# Each target is one task; in Airflow, for example, a BashOperator with the same command and `{{ ds }}` as the day. A step that
# is done is not done again, so `make` may be called as often as one likes. Exit code 2 in `check` means a bad day: see
# docs/daily.md.

PYTHON ?= .venv/bin/python
STATE ?= artifacts/daily
BASE_PATH ?= artifacts/serving
DAILY = $(PYTHON) -m export.daily --logs $(LOGS) --day $(DAY) --state $(STATE) --base-path $(BASE_PATH) $(OPTIONS)

.PHONY: day check build embed assign refresh evaluate publish train

day: train

check:
	$(DAILY) --until check

build: check
	$(DAILY) --until build

embed: build
	$(DAILY) --until embed

assign: embed
	$(DAILY) --until assign

refresh: assign
	$(DAILY) --until refresh

evaluate: refresh
	$(DAILY) --until evaluate

publish: evaluate
	$(DAILY) --until publish

train: publish
	$(DAILY)
