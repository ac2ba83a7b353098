# Two commands: `make gate` runs the gates on the built-in model, `make test` the project's own tests.
# Without CUDA builds of torch: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make gate

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INTEROP := .venv-interop
MUTATION := .venv-mutation
PADDED := compressed-tensors==0.17.1
SMOKE := ultra_low_bit or canary or codec or kernel
CORE := quantcheck/artifact_facts.py,quantcheck/baseline.py,quantcheck/changelog.py,quantcheck/cli.py,quantcheck/errors.py,quantcheck/gate.py,quantcheck/judging/*,quantcheck/known.py,quantcheck/known_gates.py,quantcheck/measurement.py,quantcheck/noise.py,quantcheck/orderings/*,quantcheck/outcomes.py,quantcheck/plan.py,quantcheck/policy.py,quantcheck/provenance.py,quantcheck/published/__init__.py,quantcheck/published/answer.py,quantcheck/published/bound.py,quantcheck/published/caveats.py,quantcheck/published/figures.py,quantcheck/record.py,quantcheck/registry.py,quantcheck/results.py,quantcheck/run_verdicts.py,quantcheck/spec.py,quantcheck/report/*,quantcheck/statistics/*,quantcheck/stopping.py

# stories260K with TinyStories: DATA holds models/stories260K and data/tinystories.
DATA ?= ../shared
STORIES = --quantcheck-model stories260K=$(DATA)/models/stories260K --quantcheck-windows 128 --quantcheck-text-separator '<|endoftext|>' \
	--quantcheck-text $(DATA)/data/tinystories/train_head.txt \
	--quantcheck-calibration $(DATA)/data/tinystories/valid_sample.txt --quantcheck-calibration-windows 30
STUDY := $(foreach method,rtn gptq awq,$(addprefix $(method)-w,2 3 4 8 2-g128 3-g128 4-g128)) \
	$(foreach bits,2 3 4,slimllm-w$(bits)-g128 slimllm-w$(bits)-g64 quip-w$(bits)) pbllm-w1.7-g128 pbllm-w2-g128 billm-w1.1-g128 \
	dbllm-w2-g128 nf4-w4 qlora-w4 irqlora-w4 smoothquant-w8a8 smoothquant-w6a6 smoothquant-w4a4
AT_32 := $(foreach method,rtn gptq awq,$(foreach bits,2 3 4,$(method)-w$(bits) $(method)-w$(bits)-g32)) \
	$(foreach bits,2 3 4,slimllm-w$(bits)-g16 quip-w$(bits)) pbllm-w1.7-g32 pbllm-w2-g32 billm-w1.1-g32 dbllm-w2-g32 \
	nf4-w4 fp4-w4 smoothquant-w8a8 smoothquant-w6a6 smoothquant-w4a4
VARIANTS := $(foreach bits,2 3,$(addprefix gptq-w$(bits)-g32-,mse icq block_size=32) gptq-w$(bits)-act_order-true_sequential) \
	$(foreach bits,2 3,$(addprefix awq-w$(bits)-g32-,clip=false scale=false)) rtn-w3-g32-mse rtn-w3-g32-icq rtn-w8a8-symr rtn-w4a4-symr \
	$(foreach bits,8a8 4a4,$(addprefix smoothquant-w$(bits)-,alpha=0.5 quantize_bmm_input=false)) smoothquant-w8a8-per_tensor \
	$(foreach bits,2 3,$(addprefix quip-w$(bits)-,rounding=ldlq_rg rounding=near kronecker incoherence=false)) quip-w8 \
	$(foreach bits,2 3,$(addprefix slimllm-w$(bits)-g16-,paper_salience double_pointer symmetric_start)) \
	$(foreach bits,1.7 2,$(addprefix pbllm-w$(bits)-g32-,alpha=binarized salient_metric=magnitude disable_gptq)) \
	$(addprefix billm-w1.1-g32-,search=weight_order1 search=weight_order2 salient_metric=magnitude disable_gptq) \
	$(addprefix dbllm-w2-g32-,steps=0 gamma=0 weight_lr=0.001) nf4-w4-double_quant=false nf4-w4-icq
empty :=
space := $(empty) $(empty)
comma := ,

.PHONY: gate test test-slow interop tables power mutation lint wheel clean

gate: $(VENV)/installed
	$(BIN)/pytest suites -n $(WORKERS) -m "$(SMOKE)" --quantcheck-report json:build/gate.json

test: lint
	$(BIN)/pytest tests -n $(WORKERS) -m "not slow" --ignore tests/unit --durations 40
	$(BIN)/coverage erase
	$(BIN)/coverage run --branch --include "$(CORE)" -m pytest tests/unit -n $(WORKERS) -m "not slow"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under 100

test-slow: $(VENV)/installed
	$(BIN)/pytest tests -n $(WORKERS) -m slow

# Our codecs beside the real libraries, in an environment of its own; a missing library is red here.
interop: $(INTEROP)/installed
	QUANTCHECK_INTEROP=required $(INTEROP)/bin/pytest tests/interop -W default --interop-table docs/interop.md
	$(INTEROP)/bin/pytest suites -n $(WORKERS) -W default -p quantcheck.interop -m "codec or kernel" \
		--quantcheck-specs 'bnb_blockwise*,bnb_int8*,torchao_int8*,torchao_intx*,gptqmodel_*,ct_library*'

# docs/methods.md. A gate that is red for want of a baseline does not keep its figures out.
tables: $(VENV)/installed
	-$(BIN)/pytest suites -q -n $(WORKERS) --quantcheck-report json:build/builtin.json \
		--quantcheck-specs '$(subst $(space),$(comma),$(strip $(STUDY)))'
	-$(BIN)/pytest suites -q -n $(WORKERS) $(STORIES) --quantcheck-report json:build/stories.json \
		--quantcheck-specs '$(subst $(space),$(comma),$(strip $(AT_32) $(VARIANTS)))'
	$(BIN)/python -m quantcheck.report.methods build/builtin.json build/stories.json --into docs/methods.md

# docs/power.md. An hour, kept below build/power: an interrupted one goes on where it stopped.
power: $(VENV)/installed
	PYTHONPATH=tests $(BIN)/python -m benchmarks.power --into docs/power.md

# docs/mutants.md: every statement of the verdict broken one at a time. A quarter of an hour.
mutation: $(VENV)/installed $(MUTATION)/installed
	PATH="$(CURDIR)/$(MUTATION)/bin:$$PATH" $(BIN)/python -m benchmarks.mutation --into docs/mutants.md

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/installed
	$(BIN)/python -m build --wheel

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

$(MUTATION)/installed:
	$(PYTHON) -m venv $(MUTATION)
	$(MUTATION)/bin/pip install --quiet cosmic-ray==8.7.0
	touch $@

$(INTEROP)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet "pip>=25.1"
	$(INTEROP)/bin/pip install --quiet --constraint constraints.txt --editable '.[interop]' --group dev
	$(INTEROP)/bin/pip check
	$(INTEROP)/bin/pip install --quiet --no-deps --upgrade --target $(INTEROP)/$(subst ==,-,$(PADDED)) $(PADDED)
	touch $@

clean:
	rm -rf $(VENV) $(INTEROP) $(MUTATION) build dist *.egg-info
