import subprocess
import sys

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, render_pair
from quernstone.engines.remote.template import chat_template

# As transformers (and so vLLM) and as SGLang set Jinja up.
ENVIRONMENTS = [
    ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True),
    jinja2.Environment(loader=jinja2.BaseLoader(), autoescape=False),
]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=["transformers", "sglang"])
@pytest.mark.parametrize("name", ["instruction", "instruct", None])
@pytest.mark.parametrize("document", ["a mill", "", ' {{ x }} "quoted" \\n <&> é 磨\n\n'])
def test_the_template_renders_our_prompt_byte_for_byte(environment, name, document):
    messages = [
        {"role": "query", "content": "grinding?"},
        {"role": "document", "content": document},
    ]
    given = {name: "Find mills"} if name else {}
    rendered = environment.from_string(chat_template()).render(messages=messages, **given)
    instruction = "Find mills" if name else DEFAULT_INSTRUCTION
    assert rendered == render_pair("grinding?", document, instruction)


def test_sglang_knows_the_model_by_its_template():
    assert 'answer can only be "yes" or "no"' in chat_template()


def test_it_can_be_written_to_a_file():
    command = [sys.executable, "-m", "quernstone.engines.remote.template"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == chat_template()
    assert done.stderr == ""
