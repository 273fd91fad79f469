"""Texts to measure with: words of several languages, in the lengths that passages have."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import NormalDist

_MEDIAN, _P95 = 76, 507
"""Tokens of docstrings and passages of documentation, the mix of `docs/performance.md`."""
_LONGEST = 1200

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class _Language:
    words: tuple[str, ...]
    tokens_per_word: float
    """By Qwen3's tokenizer, with spaces and full stops."""
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
    """Texts whose lengths spread as those of passages do. Equal for equal arguments.

    Of Qwen3's tokens they have a median of about 76 and a 95th percentile of about 507, and so has
    every long enough piece of the list: lengths follow a log-normal distribution, taken at evenly
    spread quantiles instead of at random ones.
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
    """A short query that no other number has. All are of the same length in tokens."""
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
