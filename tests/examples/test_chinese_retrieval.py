import pytest

QUESTIONS = {
    "E-4711 是什么意思？": "支付失败",
    "怎么申请电子发票？": "发票",
    "保修多长时间？": "保修",
    "优惠券过期了还能用吗？": "优惠券",
    "怎样修改收货地址？": "修改地址",
    "忘记密码了": "忘记密码",
}


@pytest.fixture
def example(monkeypatch):
    import chinese_retrieval

    monkeypatch.setattr(chinese_retrieval, "MODEL", "tiny")
    monkeypatch.setattr(chinese_retrieval, "RERANK_MODEL", "tiny")
    return chinese_retrieval


def test_words_find_pages_in_a_language_that_the_model_does_not_know(example):
    searcher = example.build_searcher(rerank=False)

    def found(hybrid):
        hits = [searcher.search(text, limit=2, hybrid=hybrid) for text in QUESTIONS]
        return [
            right in {hit.key for hit in top}
            for top, right in zip(hits, QUESTIONS.values(), strict=True)
        ]

    assert all(found(hybrid=True))
    assert not all(found(hybrid=False))


def test_the_instruction_is_english_and_read_with_the_chinese_question(example):
    prompt = example.build_searcher(rerank=False).embedder.format_query("保修多长时间？")
    assert prompt == f"Instruct: {example.INSTRUCTION}\nQuery:保修多长时间？"
    assert example.INSTRUCTION.isascii()


def test_main_prints_three_reranked_pages(example, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["chinese_retrieval.py", "怎么申请电子发票？"])
    example.main()
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    assert [score for score, _, _ in lines] == sorted((line[0] for line in lines), reverse=True)
    for _, title, text in lines:
        assert example.PAGES[title] == text
