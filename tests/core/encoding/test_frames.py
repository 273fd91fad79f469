"""The parts of a template have the tokens of the complete prompt."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from quernstone import ConfigError, InputError, InputTooLongError, PairTemplate
from quernstone.encoding.frames import TextFrame
from quernstone.encoding.prompts import CONTROL_TOKENS, RERANK_PREFIX, rerank_stem
from quernstone.encoding.templates import OFFICIAL
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.encoding.tokens import TokenEncoder
from quernstone.engines.padding import whole_ids

CHAT = "<|im_start|>system\n{query}<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>a\n"
TEMPLATES = {
    **OFFICIAL,
    "chat": PairTemplate(prefix=CHAT[0], suffix=CHAT[1]),
    "plain words": PairTemplate(prefix="query: {query}\ndocument: ", suffix="\nRelevance:"),
    "an instruction later": PairTemplate(
        prefix="<|im_start|>Q: {query}<|im_end|>{instruction} of Document:", suffix="\n"
    ),
    "an instruction first": PairTemplate(prefix="{instruction} {query}\n\nPassage's text ("),
    "several words after": PairTemplate(prefix="{query}<think>", suffix=" . Is it? yes<|im_end|>"),
    "all in one word": PairTemplate(prefix="<|im_start|>{query}\nd:", suffix="x"),
}


@pytest.fixture(scope="module")
def folder(checkpoints):
    return checkpoints("reranker-0.6b")


@pytest.fixture(scope="module")
def ours(folder):
    return Tokenizer(folder, 151669)


@pytest.fixture(scope="module")
def theirs(folder):
    return AutoTokenizer.from_pretrained(folder)


texts = st.text(
    st.sampled_from("ab1 \n\r\t.,?!'’:-_<>é́水語가각ß\u3000\u00a0{}"), max_size=12
) | st.sampled_from(["it's", " a  b ", "\n\n", "don't\n", "x.", "1,000", "? ", "́", "'s"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tokens_are_those_of_the_complete_prompt(name, ours, theirs):
    template = TEMPLATES[name]
    encoder = TokenEncoder(ours, max_length=1000)

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(texts, texts, texts)
    def check(query, document, instruction):
        [pair] = encoder.encode_pairs([(query, document, instruction)], template).sequences
        rendered = template.render(query, document, instruction)
        expected = theirs(rendered, add_special_tokens=False)["input_ids"]
        assert whole_ids(pair).tolist() == expected

    check()


def test_control_tokens_of_users_are_ordinary_text(ours):
    encoder = TokenEncoder(ours, max_length=1000)
    text = "".join(CONTROL_TOKENS)
    [pair] = encoder.encode_pairs([(text, text, "")], TEMPLATES["chat"]).sequences
    controls = [ours.token_id(token) for token in CONTROL_TOKENS]
    assert np.isin(whole_ids(pair), controls).sum() == 5


def test_what_is_shared(ours):
    encoder = TokenEncoder(ours, max_length=1000)
    pairs = [("a quern", "x", "find"), ("a quern", "y", "find"), ("a mill", "x", "find")]
    for name, stem in (
        ("card", RERANK_PREFIX + rerank_stem("find", "card")),
        ("chat", "<|im_start|>system"),
        ("an instruction first", ""),
    ):
        one, two, other = encoder.encode_pairs(pairs, TEMPLATES[name]).sequences
        assert one.prefix is two.prefix
        assert one.prefix != other.prefix
        expected = ours.frame_ids(stem).tolist() if stem else None
        parents = [each.prefix.parent for each in (one, other)]
        assert [parent and parent.ids.tolist() for parent in parents] == [expected] * 2


def test_only_the_document_is_cut_and_what_follows_it_stays(ours):
    template = TEMPLATES["plain words"]
    whole = TokenEncoder(ours, max_length=1000).encode_pairs([("q", "", "")], template)
    size = len(whole_ids(whole.sequences[0]))
    encoder = TokenEncoder(ours, max_length=size + 4)
    batch = encoder.encode_pairs([("q", "mill " * 50 + "end.", ""), ("q", "a", "")], template)
    assert batch.truncated == [0]
    cut, kept = (whole_ids(each) for each in batch.sequences)
    assert (len(cut), batch.tokens) == (size + 4, len(cut) + len(kept))
    suffix = ours.ids(["\nRelevance:"])[0].tolist()
    assert cut[-len(suffix) :].tolist() == suffix
    exact = TokenEncoder(ours, max_length=size + 4, truncate=False)
    with pytest.raises(InputTooLongError):
        exact.encode_pairs([("q", "mill " * 50, "")], template)
    with pytest.raises(InputTooLongError, match="the query with its instruction and template"):
        encoder.encode_pairs([("q " * 50, "a", "")], template)


def test_a_pair_of_two_plain_texts(ours):
    encoder = TokenEncoder(ours, max_length=100)
    template = PairTemplate(prefix="{query}")
    pairs = [("grain", "mill", ""), ("grain", "", ""), ("", "mill", "")]
    found = [whole_ids(each).tolist() for each in encoder.encode_pairs(pairs, template).sequences]
    grain, mill = (ids.tolist() for ids in ours.ids(["grain", "mill"]))
    assert found == [grain + mill, grain, mill]
    with pytest.raises(InputError, match="the query and the document are both empty") as error:
        encoder.encode_pairs([("", "", "")], template, offset=7)
    assert error.value.index == 7


def test_padding_at_the_end_is_dropped_for_a_classification_head(ours):
    template = PairTemplate(prefix="{query}<|endoftext|>", suffix="<|im_end|><|endoftext|>")
    encoder = TokenEncoder(ours, max_length=100, ignored=ours.eos_id)
    [pair] = encoder.encode_pairs([("a", "b", "")], template).sequences
    assert pair.ids[-1] == ours.token_id("<|im_end|>")
    assert pair.prefix.ids[-1] == ours.eos_id


@pytest.mark.parametrize("prefix", ["{query}\n", "{query}.", "<|im_start|>{query} \n"])
def test_a_template_without_a_place_to_cut_is_refused(prefix, ours):
    encoder = TokenEncoder(ours, max_length=100)
    with pytest.raises(ConfigError, match=r"no place to cut .* put a word, a punctuation mark and"):
        encoder.encode_pairs([("a", "b", "")], PairTemplate(prefix=prefix))


FRAMES = (
    "Instruct: Given a web search query, retrieve relevant passages\nQuery:",
    "Instruct: Answer.\nQuery: ",
    "Represent this sentence for searching relevant passages: ",
    "query: ",
    "x",
    " ",
    "問い：",
)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_texts_have_the_tokens_of_the_complete_prompt(ours, theirs, share_prefix):
    start, end = np.array([7], dtype=np.int32), [11]

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.sampled_from(FRAMES) | texts.filter(bool), texts)
    def check(before, text):
        frame = TextFrame(before, ours, start)
        [ids] = ours.ids([frame.rest + text])
        ids = np.concatenate((ids, end)).astype(np.int32)
        found = whole_ids(frame.encoded(ids, share_prefix=share_prefix)).tolist()
        assert found == [7, *theirs(before + text, add_special_tokens=False)["input_ids"], *end]
        assert frame.length == 1 + len(theirs(before, add_special_tokens=False)["input_ids"])

    check()


def test_an_instruction_is_tokenized_once(ours, monkeypatch):
    encoder = TokenEncoder(ours, max_length=1000)
    encoder.encode_queries(["a mill"], "Find a mill")
    asked, tokenize = [], Tokenizer.ids
    monkeypatch.setattr(
        Tokenizer, "ids", lambda self, texts: asked.extend(texts) or tokenize(self, texts)
    )
    encoder.encode_queries(["a mill", "a stone"], "Find a mill")
    assert asked == [":a mill", ":a stone"]


@pytest.mark.parametrize(("text", "crossing"), [("query:", "y:"), ("query: ", ": a")])
def test_a_frame_is_not_cut_where_a_token_of_the_vocabulary_crosses(text, crossing, tmp_path):
    """Without a pre-tokenizer, any characters may form a token together."""
    letters = sorted(set("query: a.1_" + crossing))
    merged = [crossing[:2], crossing][: len(crossing) - 1]
    pairs = [(crossing[0], crossing[1]), (crossing[:2], crossing[2:])][: len(crossing) - 1]
    vocabulary = {token: n for n, token in enumerate([*letters, *merged])}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, pairs, unk_token="_"))
    model.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path, 100)
    frame = TextFrame(text, tokenizer, np.empty(0, dtype=np.int32))
    assert frame.rest == text
    [ids] = tokenizer.ids([frame.rest + "a"])
    found = whole_ids(frame.encoded(ids, share_prefix=True))
    assert found.tolist() == tokenizer.ids([text + "a"])[0].tolist()
