"""Retrieve Chinese documents for Chinese questions: by meaning, by words, and reranked.

pip install "quernstone[torch]" quernstone-qdrant
python examples/chinese_retrieval.py 买的东西不想要了怎么办？

The first run downloads the models. With `QUERN_MODEL=tiny QUERN_RERANK_MODEL=tiny` it runs offline,
but the tiny models know English only, so only the words find anything.
"""

import os
import sys

from qdrant_client import QdrantClient

from quernstone import Embedder, Reranker
from quernstone_qdrant import QdrantLoader, QdrantSearcher

MODEL = os.environ.get("QUERN_MODEL", "Qwen/Qwen3-Embedding-0.6B")
RERANK_MODEL = os.environ.get("QUERN_RERANK_MODEL", "Qwen/Qwen3-Reranker-0.6B")

# Qwen advises English instructions for texts in any language: most of those in its training were.
INSTRUCTION = "Given a customer's question, retrieve the help page that answers it"

PAGES = {
    "退货": "商品签收后七天内，如不影响二次销售，可以申请无理由退货。退款会原路退回付款账户。",
    "发票": "订单完成后，可以在订单详情页申请开具电子发票，发票会发送到您填写的邮箱。",
    "运费": "订单满九十九元免运费，不满九十九元收取八元运费，偏远地区另计。",
    "发货": "下午四点前付款的订单当天发货，之后付款的订单次日发货，节假日顺延。",
    "支付失败": "支付时提示错误码 E-4711，说明银行卡超出当日限额，请更换银行卡或改天再试。",
    "忘记密码": "在登录页点击“忘记密码”，输入注册时的手机号，用短信验证码重新设置密码。",
    "会员": "一年内消费满两千元自动升级为金卡会员，享受九五折和专属客服。",
    "保修": "电器类商品自签收之日起保修一年，人为损坏不在保修范围内。",
    "优惠券": "每个订单只能使用一张优惠券，优惠券不能兑换现金，过期自动作废。",
    "修改地址": "订单发货前可以在订单详情页修改收货地址，发货后请联系快递公司。",
}


def build_searcher(rerank: bool = True) -> QdrantSearcher:
    """Load the pages into an embedded Qdrant. For a server, pass its URL to the client."""
    client = QdrantClient(":memory:")
    embedder = Embedder(MODEL, instruction=INSTRUCTION)
    # BM25 splits Chinese into characters and pairs of neighbors: no word segmentation is needed.
    loader = QdrantLoader(client, "help", embedder, hybrid=True, settings={"language": "chinese"})
    loader.load({"id": title, "text": f"{title}\n{text}"} for title, text in PAGES.items())
    reranker = Reranker(RERANK_MODEL, instruction=INSTRUCTION) if rerank else None
    return QdrantSearcher(client, "help", embedder, reranker)


def main() -> None:
    question = " ".join(sys.argv[1:]) or "买的东西不想要了怎么办？"
    for hit in build_searcher().search(question, limit=3):
        print(f"{hit.rerank_score:.3f}  {hit.key}  {hit.text.splitlines()[-1]}")


if __name__ == "__main__":
    main()
