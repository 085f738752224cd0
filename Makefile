# Everything runs from a fresh checkout: the targets below create .venv on first use and never do work twice.

PYTHON ?= python3
PY := .venv/bin/python
A := artifacts
IMAGE_FEATURES := none vector simscore cluster_id
RANKERS := $(IMAGE_FEATURES:%=$(A)/rankers/%)

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test test-random test-cases test-kill test-java cluster-env cluster-test lint bench bench-env clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(A)/report/metrics.json $(A)/serving.published ## logs to live endpoint on the shipped sample
	@echo
	@cat $(A)/report/table.txt
	@echo
	@$(PY) -m export.endpoint_check --base-path $(A)/serving --model $(A)/rankers/cluster_id

# A test that hangs ends its process, which says where it was: the slowest takes a minute.
test: .venv/.installed ## run the tests
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --max-worker-restart 2 \
		-o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true

test-random: .venv/.installed ## property tests with many random examples; CI does not wait for it
	HYPOTHESIS_PROFILE=random $(PY) -m pytest -m hypothesis --numprocesses auto --maxprocesses 4 --dist loadfile

test-cases: .venv/.installed ## what went wrong for others, if the cases are beside the repository
	$(PY) -m pytest -m cases

test-kill: .venv/.installed ## every method to pre-train, and the work of days, killed and resumed: the same to the last bit
	$(PY) -m pytest -m kill -rP tests/models tests/export/daily

test-java: .venv/.installed ## a published version in TensorFlow for Java; needs Java 17 and Maven
	mvn --batch-mode --quiet --file tests/export/java/pom.xml package
	$(PY) -m pytest -m java tests/export

cluster-env: .venv/.installed $(A)/cluster-env/.installed ## Flink, Spark, HDFS and what submits to them; needs Java 17 and Maven, Go for gs://

cluster-test: .venv/.installed ## builds on Flink and Spark over an object store, on machines made of namespaces; as root
	$(PY) -m pytest -m cluster

lint: .venv/.installed ## check style, formatting and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

BENCH_NEEDS := .venv/.installed bench-env $(A)/dataset/manifest.json $(A)/embeddings/metadata.json $(A)/clusters/metadata.json

bench: $(BENCH_NEEDS) ## a quick run of the benchmarks that need no other data; make bench-NAME runs one in full
	$(PY) -m benchmarks --quick

bench-%: $(BENCH_NEEDS)
	$(PY) -m benchmarks $*

bench-env: .venv-bench/.installed .venv-deepctr/.installed .venv-fuxictr/.installed .venv-mmrec/.installed ## install what benchmarks compare with

clean: ## remove everything that make made, the environment apart
	rm -rf $(A)

.venv/.installed: pyproject.toml $(wildcard .ci/constraints-*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	    { echo "Python 3.11 or 3.12 is needed: make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "venv is missing: apt-get install python3-venv"; exit 2; }
	@echo "installing (a few minutes and 3 GB the first time)"
	@constraints=.ci/constraints-$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt; \
	    $(PY) -m pip install --quiet $$(test -f $$constraints && echo --constraint $$constraints) --editable '.[dev]'
	@$(PY) -m pip check
	@touch $@

.venv-bench/.installed: benchmarks/requirements.txt
.venv-deepctr/.installed: benchmarks/requirements-deepctr.txt
.venv-fuxictr/.installed: benchmarks/requirements-fuxictr.txt
.venv-mmrec/.installed: benchmarks/requirements-mmrec.txt
.venv-bench/.installed .venv-deepctr/.installed .venv-fuxictr/.installed .venv-mmrec/.installed:
	@$(PYTHON) -m venv $(@D)
	@echo '*' > $(@D)/.gitignore
	@$(@D)/bin/python -m pip install --quiet --requirement $<
	@$(@D)/bin/python -m pip check
	@touch $@

# Jars that are there already are taken: of another Beam, or from another registry. Flink must be of the minor version that
# a job server's name says; Spark of the one that it was built with.
JARS := $(A)/cluster-env/jars

$(A)/cluster-env/.installed: tests/cluster/job-server.xml tests/cluster/hadoop.xml | .venv/.installed
	@mkdir -p $(JARS)
	@for engine in flink spark; do \
	    ls $(JARS)/beam-runners-$$engine-*.jar > /dev/null 2>&1 && continue; \
	    echo "making Beam's job server for $$engine"; \
	    mvn --batch-mode --quiet -Dstyle.color=never -P$$engine -Dwork=$(abspath $(@D))/job-server --file $< clean package \
	        && mv $(@D)/job-server/beam-runners-*.jar $(JARS) || exit 1; \
	done
	@rm -rf $(@D)/job-server
	@$(PY) -m pip install --quiet --no-deps --upgrade --target $(@D)/flink 'apache-flink-libraries==1.19.3'
	@$(PYTHON) -m venv $(@D)/spark
	@$(@D)/spark/bin/python -m pip install --quiet pyspark==$$($(PY) -c "import glob, zipfile; \
	    print(zipfile.ZipFile(glob.glob('$(JARS)/beam-runners-spark-*.jar')[0]).read('spark-version-info.properties') \
	    .decode().partition('version=')[2].split()[0])")
	@mvn --batch-mode --quiet -Dstyle.color=never --file tests/cluster/hadoop.xml dependency:copy-dependencies \
	    -DincludeScope=runtime -DoutputDirectory=$(abspath $(@D))/hadoop
	@$(PY) -m pip freeze --exclude-editable | grep == > $(@D)/installed.txt
	@$(PY) -m pip install --quiet --upgrade --target $(@D)/gcsfs --constraint $(@D)/installed.txt 'gcsfs>=2025.2'
	@if command -v go > /dev/null; then \
	    GOBIN=$(abspath $(@D))/bin go install github.com/fsouza/fake-gcs-server@v1.56.1; \
	else echo "no Go: tests of gs:// will be skipped"; fi
	@touch $@

# The stages. Each depends on the code it runs and on the artifact before it, so a change re-runs only what it touches.
# An artifact appears whole or not at all; its metadata stands for it here.

SAMPLE := $(wildcard beam_pipelines/datasets/sample_photos/*) beam_pipelines/datasets/sample_logs.py
code = $(shell find $(1) -name '*.py')
PIPELINE := $(call code,beam_pipelines)
READERS := $(call code,models/data models/training) models/config.py models/artifact.py models/training_options.py
VISION := $(call code,models/vision)

$(A)/sample_logs/logs.json: $(SAMPLE) | .venv/.installed
	$(PY) -m beam_pipelines.datasets.sample --output $(@D) --overwrite

$(A)/dataset/manifest.json: $(A)/sample_logs/logs.json $(PIPELINE)
	$(PY) -m beam_pipelines.build --runner=DirectRunner --logs $(<D) --output $(@D) --overwrite

$(A)/encoder/metadata.json: $(A)/dataset/manifest.json models/pretrain.py $(READERS) $(VISION) \
    $(call code,models/pretraining) models/configs/courier_cpu.yaml
	$(PY) -m models.pretrain --data $(<D) --output $(@D) --config courier_cpu --overwrite

$(A)/embeddings/metadata.json: $(A)/encoder/metadata.json models/embed.py models/embeddings/embed.py \
    models/embeddings/embeddings.py
	$(PY) -m models.embed --data $(A)/dataset --encoder $(<D) --output $(@D) --overwrite

$(A)/clusters/metadata.json: $(A)/embeddings/metadata.json models/cluster.py $(call code,models/embeddings models/clustering)
	$(PY) -m models.cluster --embeddings $(<D) --output $(@D) --overwrite

RANKER_CODE := models/train_ctr.py $(READERS) $(call code,models/ranker models/features models/layers models/metrics)
FEATURE_none :=
FEATURE_vector := --embeddings $(A)/embeddings
FEATURE_simscore := --embeddings $(A)/embeddings
FEATURE_cluster_id := --clusters $(A)/clusters

$(A)/rankers/%/metadata.json: $(A)/dataset/manifest.json $(A)/clusters/metadata.json $(RANKER_CODE)
	$(PY) -m models.train_ctr --data $(<D) --output $(@D) --image-feature $* $(FEATURE_$*) --overwrite

$(A)/report/metrics.json: $(RANKERS:%=%/metadata.json) models/evaluate.py $(call code,models/evaluation)
	$(PY) -m models.evaluate --data $(A)/dataset --model $(RANKERS) --output $(@D) --overwrite

$(A)/serving.published: $(A)/rankers/cluster_id/metadata.json $(A)/report/metrics.json $(call code,export)
	$(PY) -m export.saved_model --model $(<D) --base-path $(A)/serving --data $(A)/dataset --report $(A)/report
	@touch $@
