"""Generate texts to measure with: words in several languages, in realistic lengths."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import NormalDist

_MEDIAN, _P95 = 76, 507
"""Token counts of docstrings and documentation passages, the mix of `docs/performance.md`."""
_LONGEST = 1200

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class _Language:
    words: tuple[str, ...]
    tokens_per_word: float
    """Measured with Qwen3's tokenizer, including spaces and full stops."""
    space: str = " "
    stop: str = "."


_LANGUAGES = (
    _Language(
        tuple(
            """the a of and to in is for with on by from that this which when every between stone
            mill grain water river wheel flour bread miller village winter harvest measure engine
            index search vector document question answer returns value list function default
            number memory small large ground turned carried written stored slowly often""".split()
        ),
        1.11,
    ),
    _Language(
        tuple(
            """der die das und in mit von zu auf ist ein eine nicht wird werden für bei nach Mühle
            Getreide Wasser Mühlstein Bäckerei Handwerk Jahrhundert Landwirtschaft Geschwindigkeit
            Verarbeitung Speicher Antwort Frage Sammlung gemahlen gespeichert langsam regelmäßig
            zwischen während gegen Müller Dorf Winter Ernte klein groß alt neu""".split()
        ),
        1.71,
    ),
    _Language(
        tuple(
            """le la les de des et en un une dans pour avec par sur est sont qui que moulin grain
            farine rivière pierre meule boulanger récolte hiver village mémoire recherche réponse
            question document vitesse lentement souvent entre pendant chaque petit grand ancien
            nouveau tourne moudre conserver""".split()
        ),
        1.49,
    ),
    _Language(
        tuple(
            """el la los las de y en un una con para por sobre es son que molino grano harina río
            piedra panadero cosecha invierno pueblo memoria búsqueda respuesta pregunta documento
            velocidad despacio siempre entre durante cada pequeño grande antiguo nuevo gira muele
            guarda""".split()
        ),
        1.43,
    ),
    _Language(
        tuple(
            """и в на с по для из что это как при или мельница зерно мука река камень пекарь урожай
            зима деревня память поиск ответ вопрос документ скорость медленно часто между каждый
            маленький большой старый новый хранится вращается""".split()
        ),
        1.78,
    ),
    _Language(
        tuple(
            """的 在 和 是 了 有 磨坊 谷物 面粉 河流 石头 面包 收获 冬天 村庄 内存 搜索 答案 问题
            文档 速度 缓慢 经常 之间 每个 小 大 旧 新 储存 旋转 技术 计算 数据 语言 模型""".split()
        ),
        1.13,
        "",
        "。",
    ),
)


def passages(count: int, seed: int = 0) -> list[str]:
    """Return `count` texts whose lengths are distributed like passages. Deterministic.

    The median is about 76 Qwen3 tokens and the 95th percentile about 507, also within any long
    enough part of the list: lengths are log-normal, taken at evenly spread quantiles instead of
    random ones.
    """
    lengths = NormalDist(math.log(_MEDIAN), math.log(_P95 / _MEDIAN) / NormalDist().inv_cdf(0.95))
    chance = random.Random(seed)
    texts = []
    for number in range(count):
        quantile = (0.5 + number * _GOLDEN) % 1
        tokens = min(math.exp(lengths.inv_cdf(min(max(quantile, 1e-6), 1 - 1e-6))), _LONGEST)
        texts.append(_text(chance.choice(_LANGUAGES), tokens, chance))
    return texts


def query(number: int) -> str:
    """Return a short query, unique for its number. All queries have the same number of tokens."""
    return f"How was grain ground in a mill beside the river in winter {number:06d}"


def _text(language: _Language, tokens: float, chance: random.Random) -> str:
    words = max(1, round(tokens / language.tokens_per_word))
    sentences = []
    while words > 0:
        length = min(words, chance.randint(6, 18))
        chosen = chance.choices(language.words, k=length)
        sentence = language.space.join(chosen)
        sentences.append(sentence[0].upper() + sentence[1:] + language.stop)
        words -= length
    return language.space.join(sentences)
