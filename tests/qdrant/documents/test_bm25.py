"""BM25 vectors: the rule, and threads that share a client."""

import random
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models
from qdrant_client.http.models import QueryResponse
from tests.support.qdrant_server import running_server

from quernstone_qdrant import EdgeTarget, QdrantLoader, QdrantSearcher
from quernstone_qdrant.documents.bm25 import LANGUAGES, Bm25Text, encode_document, encode_query
from quernstone_qdrant.settings import BM25, CollectionSettings
from quernstone_qdrant.targets import ClientTarget, SearchRequest, as_target
from quernstone_qdrant.targets.requests import Bm25Stage

SETTINGS = CollectionSettings(bm25="sparse").resolved(4)
WORDS = "mill quern stone furrow river wheel oven bread grain hopper 4711 0x80070005".split()


def make_texts(count, seed=0):
    """Return different texts of three to nine words."""
    chooser = random.Random(seed)
    return [
        " ".join([f"n{n}", *chooser.choices(WORDS, k=chooser.randint(2, 8))]) for n in range(count)
    ]


def plain(vector):
    """Return a vector of any client as {index: value}."""
    return dict(zip(vector.indices, vector.values, strict=True))


def reference(text):
    return plain(encode_document(SETTINGS.bm25_text(text)))


LETTERS = {
    "chinese": "石磨把谷物成面粉。，",
    "japanese": "石臼で穀物を粉に挽くカタナー々。",
    "korean": "맷돌은곡식을가루로 .",
    "thai": "โม่หินใช้บดเมล็ดพืชให้เป็นแป้งทำ ",
    "lao": "ໂມ້ຫີນໃຊ້ບົດ ",
    "burmese": "ကြိတ်ဆုံမြန်မာ။",
    "khmer": "ត្បាល់កិនស្រូវ។",
}
"""Letters and punctuation of scripts whose words are not separated by spaces."""
DOCUMENTS = {
    "chinese": "石磨把谷物磨成面粉。水磨用河流的力量转动。",
    "japanese": "石臼で穀物を挽く。東京都の天気は晴れです。",
    "korean": "맷돌은 곡식을 가루로 빻는 도구입니다.",
    "thai": "โม่หินใช้บดเมล็ดพืชให้เป็นแป้ง",
    "mixed": "用PyTorch训练BERT模型v2，错误代码E-4711。",
    "wide": "ＡＰＩの呼び出しが失敗：コード４０４、ｻｰﾊﾞｰ停止",
    # nearly the same letters in another order, so that only terms of several letters tell
    "chinese letters": "面磨谷，粉石物，成把水，动量力，转流河。",
    "japanese letters": "臼石、物穀、京東、気天、挽。",
    "korean letters": "돌맷은 식곡을 루가로.",
    "mixed letters": "型模 v1, 练训, 4712.",
}
PHRASES = [
    ("chinese", "磨成面粉"),
    ("chinese", "谷物"),
    ("chinese", "河流的力量"),
    ("japanese", "穀物"),  # the same in Chinese: the language of a query is not known
    ("japanese", "東京"),
    ("japanese", "天気は晴れ"),
    ("korean", "곡식"),  # the document adds a particle
    ("korean", "가루로 빻는"),
    ("thai", "เมล็ดพืช"),
    ("thai", "แป้ง"),
    ("mixed", "BERT模型"),
    ("mixed", "训练"),
    ("mixed", "E-4711"),
    ("wide", "API"),
    ("wide", "404"),
    ("wide", "サーバー"),
]


@pytest.fixture
def eager_switches():
    """Let threads take turns as often as Python can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def sent(monkeypatch):
    """A server's client, and lists of what it would send, prepared by our code and the client's."""
    client = QdrantClient(url="http://127.0.0.1:1", check_compatibility=False)
    written, searched = [], []

    def request(content, type_, **_):
        written.append(orjson.loads(content)["batch"])
        return type_(result=models.UpdateResult(status=models.UpdateStatus.COMPLETED))

    def query_points(collection_name, query, prefetch, **_):
        searched.append(prefetch)
        return QueryResponse(points=[])

    monkeypatch.setattr(client.http.client, "request", request)
    monkeypatch.setattr(client._client, "query_points", query_points)
    return client, written, searched


def test_threads_that_share_a_client_write_the_vectors_of_their_own_texts(sent, eager_switches):
    client, written, _ = sent
    target = ClientTarget(client, "docs")
    texts = make_texts(640)

    def write(start):
        batch = texts[start : start + 16]
        target.upsert(
            [str(UUID(int=start + n)) for n in range(len(batch))],
            [{"text": text} for text in batch],
            SETTINGS.vectors_to_write(np.ones((len(batch), 4), np.float32), batch),
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(0, len(texts), 16)))
    points = [
        (payload["text"], plain(models.SparseVector(**vector)))
        for batch in written
        for payload, vector in zip(batch["payloads"], batch["vectors"][BM25], strict=True)
    ]
    assert sorted(text for text, _ in points) == sorted(texts)
    assert [text for text, vector in points if vector != reference(text)] == []


def test_threads_that_share_a_client_search_for_their_own_words(sent, eager_switches):
    client, _, searched = sent
    target = ClientTarget(client, "docs")
    queries = make_texts(640)

    def search(number):
        query = SETTINGS.bm25_text(queries[number])
        # the number of hits says which search it is
        stage = Bm25Stage(using=BM25, sparse=True, query=query)
        vector = np.ones(4, np.float32)
        target.query(SearchRequest(vector=vector, limit=1, bm25=stage, depth=number + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(search, range(len(queries))))
    assert len(searched) == len(queries)
    for _, words in searched:
        query = SETTINGS.bm25_text(queries[words.limit - 1])
        assert plain(words.query) == plain(encode_query(query))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_an_encoder(language):
    for rule in (1, 2):
        assert len(encode_query(Bm25Text("E-4711", language, rule)).indices) > 0


def test_the_vectors_of_existing_collections_stay_the_same():
    """If a new version of qdrant-edge-py changes them, stored vectors and queries do not match."""
    terms = (756638508, 1020833743, 1312407056, 1616189168, 1701593959, 2011352240)
    singles = (761439103, 838175088)
    text = "The millers' querns, E-4711: 石磨 naïve"
    old = encode_document(Bm25Text(text, "english", 1))
    assert plain(old) == pytest.approx(dict.fromkeys(terms, 1.66528678), rel=1e-7)
    new = encode_document(Bm25Text(text, "english", 2))
    assert plain(new) == pytest.approx(dict.fromkeys(terms + singles, 1.65647054), rel=1e-7)


@pytest.mark.parametrize("script", LETTERS)
@given(data=st.data())
def test_any_part_of_a_document_has_terms_of_the_document(script, data):
    document = data.draw(st.text(LETTERS[script], min_size=1, max_size=30))
    start = data.draw(st.integers(0, len(document) - 1))
    part = document[start : data.draw(st.integers(start + 1, len(document)))]
    assert set(encode_query(SETTINGS.bm25_text(part)).indices) <= set(reference(document))


def test_each_letter_of_a_script_without_spaces_is_one_term():
    """`qdrant_edge.Bm25` must neither split nor drop a term."""
    blocks = ("CJK UNIFIED", "HIRAGANA", "KATAKANA", "HANGUL SYLLABLE", "THAI", "LAO", "KHMER")
    letters = [
        letter
        for letter in map(chr, range(0x0E00, 0xD7A4))
        if unicodedata.name(letter, "").startswith((*blocks, "MYANMAR LETTER"))
        and unicodedata.category(letter).startswith("L")
        and unicodedata.normalize("NFKC", letter) == letter
    ]
    assert len(letters) > 38_000
    for letter in letters:
        assert len(encode_query(SETTINGS.bm25_text(letter)).indices) == 1, letter
        assert len(reference(letter + "\u77f3")) == 3 - (letter == "\u77f3"), letter


@pytest.fixture(params=["embedded", "edge", "rest", "grpc"])
def target(request, tmp_path):
    if request.param == "edge":
        target = EdgeTarget(tmp_path, "docs")
        yield target
        target.close()
    elif request.param == "embedded":
        yield as_target(QdrantClient(":memory:"), "docs")
    else:
        with running_server() as server:
            yield as_target(server.client(prefer_grpc=request.param == "grpc"), "docs")


def test_a_phrase_of_any_script_ranks_first(target, embedder):
    loader = QdrantLoader(target, "docs", embedder, hybrid=True)
    loader.load([{"id": name, "text": text} for name, text in DOCUMENTS.items()])
    searcher = QdrantSearcher(target, "docs", embedder)
    first = {phrase: searcher.search(phrase, limit=2)[0].key for _, phrase in PHRASES}
    assert first == {phrase: name for name, phrase in PHRASES}
