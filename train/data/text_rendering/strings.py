"""Draw the strings of rendered text: words, sentences, numbers, prices, addresses, in several scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from numpy.random import Generator

from tadisr.errors import ConfigError

# Script -> characters of it that must all look different in a font that has it.
SCRIPTS = {
    "latin": "Agm5&",
    "chinese": "的永国龍语",
    "kana": "あのカグ",
    "hangul": "한글국어",
    "cyrillic": "ЖДяю",
    "greek": "Ωλψδ",
}

ENGLISH = (
    "the of and to in a is that it was for on are with as his they be at one have this from or had by hot but some "
    "what there we can out other were all your when up use word how said an each she which do their time if will way "
    "about many then them would write like so these her long make thing see him two has look more day could go come "
    "did my sound no most number who over know water than call first people may down side been now find any new work "
    "part take get place made live where after back little only round man year came show every good me give our under "
    "open coffee market street station hotel restaurant bakery school library garden bridge river mountain summer "
    "winter spring autumn fresh organic natural special offer sale price total discount free entry exit danger "
    "warning caution please do not enter push pull closed parking reserved private public police hospital pharmacy "
    "ticket platform departure arrival flight gate customs passport welcome thank menu breakfast lunch dinner salad "
    "soup bread butter cheese chicken beef pork fish rice noodle sugar salt pepper milk juice orange lemon apple "
    "chapter page figure table section volume edition author press university journal science history music theatre "
    "museum gallery photograph design studio office company limited service customer account number address email "
    "phone date signature invoice receipt payment cash credit card change quantity item description weight height "
    "ingredients contains keep refrigerated before best manufactured batch serial model voltage power battery input "
    "output made with love quick brown fox jumps lazy dog because through between another against without "
    "government country question important different nothing themselves everything whatever beautiful"
).split()

# The 3755 most common Han characters, in GB 2312's first level; the everyday ones below are drawn more often.
HAN = b"".join(bytes((high, low)) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF)).decode("gb2312", "ignore")
EVERYDAY = (
    "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起"
    "还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声"
    "全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由却代军产"
    "入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路期叫死常提感金何更反合放做系计或司利受光王"
    "果亲界及今京务制解各任至清物台象记边共风战干接它许八特觉望直服毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青"
    "管夫连远资队跟带花快条院变联言权往展该领传近留红治决周保达办运武半候七必城父强步完革深区即求品士转量空甚众技轻程告江语英基派满式"
    "李息写呢识极令黄德收脸钱党倒未持取设始版双历越史商千片容研像找友孩站广改议形委早房音火际则首单据导影失拿网香似斯专石若兵弟谁校读"
    "志飞观争究包组造落视济喜离虽坏客药饭店菜鱼肉酒茶水果面包票价元折免费营业时间地址电话出口入口小心禁止停车卫生银行医院学校图书馆"
)
KANA = "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをんアイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワヲンー"
HANGUL = "가나다라마바사아자차카타파하거너더러머버서어저고노도로모보소오조구누두루무부수우주그느드르므브스으즈기니디리미비시이지한국어글안녕세요감합니다서울부산시장음식"
CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюяАБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЭЮЯ"
GREEK = "αβγδεζηθικλμνξοπρστυφχψωΑΒΓΔΕΖΗΘΛΞΠΣΦΨΩ"
ALPHABETS = {"kana": KANA, "hangul": HANGUL, "cyrillic": CYRILLIC, "greek": GREEK}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CURRENCY = ("$", "£", "€", "¥", "")
FULL_STOPS = "，。、：！？；"


@dataclass(frozen=True)
class Lexicon:
    """Words and lines that rendered text is made of."""

    latin: tuple[str, ...] = tuple(ENGLISH)  # words
    chinese: tuple[str, ...] = ()  # lines of running text; empty: characters at random

    @classmethod
    def read(cls, files: tuple[Path, ...]) -> Lexicon:
        """Collect the words and Chinese lines of UTF-8 text files; no file: the built-in words.

        A word of Latin letters counts once however often it occurs; a run of 4 to 40 Chinese characters is a line.
        Raises ConfigError for a missing file.
        """
        return _read_lexicon(files) if files else cls()


@lru_cache(maxsize=2)
def _read_lexicon(files: tuple[Path, ...]) -> Lexicon:
    words: dict[str, None] = dict.fromkeys(ENGLISH)
    lines: dict[str, None] = {}
    for file in files:
        if not file.is_file():
            raise ConfigError(f"There is no word list {file}: data.words names UTF-8 text files.")
        text = file.read_text("utf-8", errors="ignore")
        words.update(dict.fromkeys(re.findall(r"[^\W\d_](?:[^\W\d_]|['-](?=\w)){1,15}", _without_han(text))))
        lines.update(dict.fromkeys(re.findall(r"[\u4e00-\u9fff，。、：；！？（）]{4,40}", text)))
    return Lexicon(tuple(word for word in words if word[0] < "\u0250"), tuple(lines))


def _without_han(text: str) -> str:
    return re.sub(r"[\u3040-\u30ff\u4e00-\u9fff]+", " ", text)


def pick_item(items: Sequence[str], rng: Generator) -> str:
    """Pick a random item."""
    return items[int(rng.integers(len(items)))]


def draw_number(rng: Generator) -> str:
    """Draw a price, a date, a telephone number, a percentage, a code or a plain number."""
    digits = [int(d) for d in rng.integers(0, 10, 12)]
    text = "".join(map(str, digits))
    return (
        f"{pick_item(CURRENCY, rng)}{int(text[:3])}.{text[3:5]}",
        f"20{text[:2]}-{digits[2] % 12 + 1:02d}-{digits[3] * 3 + 1:02d}",
        f"{digits[0] % 12 + 1}/{digits[1] * 3 + 1}/20{text[4:6]}",
        f"+{text[:2]} {text[2:5]} {text[5:9]}",
        f"{int(text[:2])}%",
        f"{pick_item(LETTERS, rng).upper()}{pick_item(LETTERS, rng).upper()}-{text[:5]}",
        f"{int(text[:4])}",
        f"{digits[0] % 24:02d}:{digits[1] * 6 % 60:02d}",
        f"{int(text[:2])}.{text[3]} x {int(text[5:7])} mm",
    )[int(rng.integers(9))]


def draw_word(rng: Generator, lexicon: Lexicon) -> str:
    """Draw a word of the lexicon; now and then letters at random, so that nothing can be guessed."""
    if rng.random() < 0.15:
        return "".join(pick_item(LETTERS, rng) for _ in range(int(rng.integers(2, 10))))
    return pick_item(lexicon.latin, rng)


def draw_latin(rng: Generator, words: int, lexicon: Lexicon) -> str:
    """Draw a line of so many words and numbers, cased as signs and sentences are."""
    text = " ".join(draw_word(rng, lexicon) if rng.random() > 0.08 else draw_number(rng) for _ in range(words))
    case = rng.random()
    if case < 0.25:
        return text.upper()
    if case < 0.45:
        return text.title()
    return text[:1].upper() + text[1:] + pick_item((".", ",", "!", "?", ":", "", ""), rng) if case < 0.85 else text


def draw_chinese(rng: Generator, characters: int, lexicon: Lexicon) -> str:
    """Draw about so many characters: a piece of the lexicon's lines, or characters at random with some numbers."""
    if lexicon.chinese and rng.random() < 0.6:
        text = "".join(pick_item(lexicon.chinese, rng) for _ in range(characters // 8 + 1))
        first = int(rng.integers(max(1, len(text) - characters + 1)))
        return text[first : first + characters]
    out = []
    for _ in range(characters):
        choice = rng.random()
        if choice < 0.06 and out:
            out.append(pick_item(FULL_STOPS, rng))
        elif choice < 0.1:
            out.append(str(rng.integers(0, 1000)))
        else:
            out.append(pick_item(EVERYDAY if choice < 0.55 else HAN, rng))
    return "".join(out)


def draw_other_script(script: str, rng: Generator, characters: int) -> str:
    """Draw characters of another script, with spaces."""
    letters = ALPHABETS[script]
    return "".join(" " if rng.random() < 0.12 else pick_item(letters, rng) for _ in range(characters)) or letters[0]


BUILT_IN = Lexicon()


def draw_line(script: str, rng: Generator, lexicon: Lexicon = BUILT_IN, *, numbers: bool = False) -> str:
    """Draw the text of a sign or a label: a few words, or a number."""
    if rng.random() < (0.6 if numbers else 0.15):
        return draw_number(rng) if not numbers else f"{draw_line(script, rng, lexicon)} {draw_number(rng)}"
    if script == "latin":
        return draw_latin(rng, int(rng.integers(1, 5)), lexicon)
    characters = int(rng.integers(2, 10))
    return draw_chinese(rng, characters, lexicon) if script == "chinese" else draw_other_script(script, rng, characters)


def draw_paragraph(script: str, rng: Generator, characters: int, lexicon: Lexicon = BUILT_IN) -> str:
    """Draw a line of running text, at least about `characters` long."""
    if script == "latin":
        return draw_latin(rng, characters // 5 + 1, lexicon)
    return draw_chinese(rng, characters, lexicon) if script == "chinese" else draw_other_script(script, rng, characters)
