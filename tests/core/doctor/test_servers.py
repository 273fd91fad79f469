"""Servers that really run a model with exactly one thing broken: the doctor says which."""

import pytest
import torch
from tests.core.doctor.conftest import TINY, append, append_nothing, overflow

DIALECTS = ["openai", "vllm", "tei"]
EMBEDDING, RERANKER = TINY / "embedding", TINY / "reranker"


def show(report):
    return "\n".join(f"{f.verdict} {f.name}: {f.finding} | {f.fix}" for f in report.findings)


def check(report, *failed, says=(), fix=""):
    """The named checks failed and no others; the first one says what is wrong."""
    assert report.failed == failed, show(report)
    assert not report.healthy
    first = report[failed[0]]
    for words in says:
        assert words in first.finding, first.finding
    assert fix in first.fix, first.fix


# ------------------------------------------------------------------------------------ embedding


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_healthy_embedding_server(examine, dialect):
    report = examine(dialect=dialect, name="tiny")
    assert report.failed == (), show(report)
    sure = (
        "last token",
        "bare documents",
        "query prompt",
        "pooling",
        "alone or together",
        "tells apart",
        "published scores",
    )
    assert {name: report[name].verdict for name in sure} == dict.fromkeys(sure, "ok"), show(report)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tokenizer_that_appends_nothing(examine, copy, dialect):
    folder = copy()
    append_nothing(folder)
    report = examine(dialect=dialect, folder=folder)
    check(report, "last token", says=["the server appends nothing"], fix="tokenizer.json")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tokenizer_that_appends_im_end(examine, copy, dialect):
    folder = copy()
    append(folder, "<|im_end|>")
    report = examine(dialect=dialect, folder=folder)
    check(report, "last token", says=["appends `<|im_end|>` instead of `<|endoftext|>`"])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_pooling_that_averages(examine, dialect):
    report = examine(dialect=dialect, fault="mean")
    says = ["reports pooling `mean`"] if dialect == "tei" else ["the vector averages over tokens"]
    check(report, "pooling", says=says, fix="pool the last token")
    assert report["last token"].verdict == "ok"


def test_where_ids_are_refused_the_reference_finds_the_average(examine):
    report = examine(fault="mean", ids=False)
    assert report["pooling"].verdict == "skipped"
    assert "`--reference FOLDER`" in report["pooling"].fix
    report = examine(fault="mean", ids=False, reference="tiny")
    check(report, "reference", says=["an engine that averages all tokens (cosine 1.00000"])


def test_overflow_in_float16(examine, copy):
    folder = copy()
    overflow(folder, ["import", "importance"])
    report = examine(folder=folder, dtype=torch.float16)
    check(report, "finite values", says=["not finite", "'import"], fix="use bfloat16, or float32")
    for dtype in (torch.bfloat16, torch.float32):
        assert examine(folder=folder, dtype=dtype).healthy


def test_overflow_of_every_text_is_found_while_connecting(examine, copy):
    folder = copy()
    overflow(folder, ["<|endoftext|>"])  # the last token of every text
    report = examine(folder=folder, dtype=torch.float16)
    check(report, "opens", says=["not finite", "start the server with bfloat16 or float32"])
    assert len(report.findings) == 1


def test_answers_that_are_numbered_in_another_order(examine):
    report = examine(fault="renumbered", dialect="vllm")
    check(report, "alone or together", says=["vectors are returned for the wrong text"])


def test_padding_that_is_pooled(examine):
    report = examine(fault="padding")
    check(report, "alone or together", says=["depends on its batch"], fix="padding")


def test_a_default_prompt_hides_what_is_appended_and_the_reference_finds_it(examine):
    report = examine(fault="default prompt", dialect="tei", reference="tiny")
    assert report["bare documents"].verdict == report["last token"].verdict == "skipped"
    assert "--default-prompt" in report["bare documents"].fix
    check(
        report,
        "reference",
        says=["an engine that puts the query prompt before every text"],
        fix="without a default prompt",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (append_nothing, "an engine that appends nothing to a text (cosine 1.00000"),
        (lambda folder: append(folder, "<|im_end|>"), "an engine that appends `<|im_end|>`"),
    ],
)
def test_the_reference_names_the_token(examine, copy, change, words):
    folder = copy()
    change(folder)
    report = examine(folder=folder, reference=str(EMBEDDING))
    check(report, "last token", "reference")
    assert words in report["reference"].finding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_healthy_server_agrees_with_the_reference(examine, dtype):
    report = examine(reference="tiny", dtype=dtype)
    assert report.failed == (), show(report)
    assert report["reference"].verdict == "ok"


def test_another_checkpoint_is_not_the_reference(examine, checkpoints):
    folder = checkpoints("embedding-0.6b", layers=1, width=16)
    report = examine(reference=str(folder))
    check(report, "reference", says=["have 256 dimensions, the reference has 64"])


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, "mean"])
@pytest.mark.parametrize("layout", ["embedding-0.6b", "embedding-4b"])
def test_random_weights_alarm_nobody(examine, checkpoints, layout, fault):
    """What is found out is found out from random weights, too, and nothing else."""
    report = examine(folder=checkpoints(layout), fault=fault)
    assert report.failed == (("pooling",) if fault else ()), show(report)
    assert report["last token"].verdict == "ok"
    assert report["tells apart"].verdict == "warn"


# ------------------------------------------------------------------------------------ reranking


def rerank(examine, **settings):
    return examine("rerank", dialect="vllm", **settings)


def test_a_healthy_reranking_server(examine):
    report = rerank(examine, name="tiny", reference="tiny")
    assert report.failed == (), show(report)
    sure = (
        "template",
        "server's template",
        "tells apart",
        "instruction",
        "alone or together",
        "published scores",
        "reference",
    )
    assert {name: report[name].verdict for name in sure} == dict.fromkeys(sure, "ok"), show(report)


def test_a_server_without_the_template(examine):
    report = rerank(examine, fault="no template", reference="tiny")
    check(
        report,
        "template",
        "server's template",
        "instruction",
        "reference",
        says=["the server has no template: it puts nothing between a query and a document"],
        fix="--chat-template qwen3_reranker.jinja",
    )
    assert "an engine that has no template and puts" in report["reference"].finding
    assert report["tells apart"].verdict == "warn"


def test_a_server_with_another_template(examine):
    report = rerank(examine, fault="another template")
    check(
        report,
        "server's template",
        says=["the server's prompt is not the model card's"],
        fix="--chat-template",
    )


def test_a_server_that_ignores_the_instruction(examine):
    report = rerank(examine, fault="ignores instruction")
    check(
        report,
        "instruction",
        says=["the instruction is ignored: another one changes log-odds by 0.0e+00"],
        fix="the server's template must use the variable `instruction`",
    )


def test_a_server_that_sorts_its_results(examine):
    report = rerank(examine, fault="renumbered")
    check(
        report,
        "alone or together",
        says=["scores are returned for the wrong document", "sorted by score"],
        fix="`index`",
    )


def test_a_server_that_answers_no(examine):
    report = rerank(examine, fault="swapped", reference="tiny")
    check(report, "tells apart", "reference", says=["inverted"], fix="classifier_from_token")
    assert "returns P(no) instead of P(yes)" in report["reference"].finding


def test_overflow_of_a_reranker(examine, copy):
    folder = copy("rerank")
    overflow(folder, ["import", "importance"])
    report = rerank(examine, folder=folder, dtype=torch.float16)
    check(report, "finite values", says=["not finite"], fix="use bfloat16, or float32")


@pytest.mark.parametrize("fault", [None, "no template", "ignores instruction", "renumbered"])
def test_faults_show_on_random_weights(examine, checkpoints, fault):
    report = rerank(examine, folder=checkpoints("reranker-0.6b"), fault=fault)
    expected = {
        None: (),
        "no template": ("template", "server's template", "instruction"),
        "ignores instruction": ("instruction",),
        "renumbered": ("alone or together",),
    }
    assert report.failed == expected[fault], show(report)
    assert report["tells apart"].verdict == "warn"


def test_prompts_rendered_here_need_no_template_there(examine):
    from tests.support.model_server import ModelServer

    from quernstone.doctor import diagnose

    with ModelServer(RERANKER, "rerank", fault="no template", name="tiny", says="vllm") as server:
        report = diagnose(
            "tiny",
            engine="remote",
            engine_options={"endpoint": server.url, "dialect": "vllm", "template": "client"},
        )
    assert report.task == "rerank"
    assert report.failed == (), show(report)
    assert report["template"].verdict == "ok"
    assert report["published scores"].verdict == "ok"
