"""Keys and values for planted facts: names, places, things, made-up words, numbers, identifiers.

Every listed word belongs to one side of the train / held-out split by a hash of the word, so a
held-out name never occurs in a training fact. Made-up words and identifiers are split the same
way: a candidate of the wrong side is thrown away and drawn again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["KEY_KINDS", "VALUE_KINDS", "Split", "WordLists", "side", "word_pieces"]

Split = str  # "train" | "heldout"
_HELDOUT_OF = 6  # one listed word or template in six is held out
_POOL_OF = 6  # a pool is one in six of a side's
_POOL_DRAWS = 64  # then a list holds none of the pool, most likely


def words(text: str) -> list[str]:
    """The words of a list written as running text."""
    return text.split()


FIRST = words("""Ada Adam Agnes Aisha Alan Albert Alice Amara Amir Amos Ana Andre Anna Anton Arjun
Astrid Aurora Barbara Beatrix Bella Benjamin Bruno Camila Carl Carmen Cecil Chloe Clara Claude Colin
Cora Daniel Daphne David Diana Diego Dora Edgar Edith Eleanor Elias Elif Ella Emil Emma Enzo Erik
Esther Eva Felix Fiona Flora Frank Freya George Gloria Grace Greta Gustav Hana Hannah Harold Hassan
Hector Helen Henry Hilda Hugo Ida Igor Imani Ines Ingrid Irene Isaac Ivan Ivy Jack Jakob Jane Jasper
Joan Jonas Jorge Josef Judith Julia Kai Karen Karim Kate Keiko Kenji Lara Laura Leah Leo Liam Lila
Lina Lola Louis Lucia Luis Luna Maja Malik Marco Maria Marta Mateo Maya Mei Mila Mina Miriam Mona
Nadia Naomi Nina Noah Nora Olaf Olga Oliver Omar Oscar Otto Pablo Paul Pedro Petra Philip Priya
Quentin Rafael Rahul Rania Rebecca Rita Robin Rosa Ruth Salma Samuel Sara Selma Silas Simon Sofia
Stefan Sven Tara Theo Thomas Tilda Tomas Ulla Uma Victor Viola Walter Wanda Xavier Yara Yusuf Zara
Zoe""")
LAST = words("""Abbott Almeida Anders Arora Baker Barros Becker Bianchi Blake Brandt Carver Castro
Chen Cohen Costa Cruz Dahl Dalton Diaz Dietrich Dubois Eriksen Farrell Fischer Fontaine Garcia Grant
Greene Haddad Hansen Hayes Hoffman Holm Hughes Ibarra Ito Jansen Jensen Kaplan Keller Khan Kimura
Klein Koch Kovacs Kumar Lambert Larsen Lopez Lund Marsh Martin Mendes Meyer Moreau Morgan Nakamura
Nielsen Novak Okafor Olsen Ortega Patel Pereira Petrov Pine Quinn Ramos Reyes Rossi Sato Schmidt
Serrano Silva Singh Sorensen Stone Suzuki Tanaka Torres Turner Vance Vargas Vogel Wagner Walsh Weber
Wells Wood Yamada Young Zhang Ziegler""")
PLACES = words("""Aarhus Accra Athens Baku Bali Basel Beirut Bergen Berlin Bilbao Bogota Boston
Brest Bristol Cairo Cardiff Chennai Chicago Colombo Cork Cusco Dakar Dallas Delhi Denver Dover
Dublin Durban Essen Florence Geneva Genoa Ghent Glasgow Graz Hanoi Havana Helsinki Hobart Honolulu
Istanbul Jakarta Kyoto Lagos Leeds Leipzig Lima Lisbon Ljubljana London Lyon Madrid Malmo Manila
Memphis Milan Minsk Mombasa Montreal Mumbai Munich Nairobi Nantes Naples Odessa Osaka Oslo Oxford
Palermo Paris Perth Porto Prague Quebec Quito Reno Riga Rome Rotterdam Salzburg Santiago Seoul
Seville Sofia Split Sydney Tallinn Tampa Tokyo Toledo Toronto Trieste Tunis Turin Utrecht Venice
Verona Vienna Vilnius Warsaw York Zagreb Zurich""")
THINGS = words("""anchor apple archive attic badge barn basket bell bench bicycle blanket boat book
bottle box bridge bucket cabin cabinet camera candle canoe car castle cellar chair chest clock coat
compass copper corridor crate crown cup curtain desk diary dog door drawer drum engine envelope
factory fence ferry field flag flute folder fountain freezer garden gate glove guitar hall hammer
harbor hat helmet hotel jacket jar kettle key kitchen kite ladder lamp lantern ledger library
lighthouse lock locker machine map market mask medal mill mirror museum needle notebook office
orchard oven painting palace pantry parcel pencil piano pipe pocket pump radio ring river road robot
rope saddle safe school scooter shed shelf ship shop statue stove suitcase sword table telescope
temple tent ticket tower tractor train trunk tunnel umbrella vase vault violin wagon wallet
warehouse watch well wheel window workshop""")
QUALITIES = words("""amber ancient azure big black blue brass broken bronze brown coastal cold
copper crimson dark distant dusty eastern empty fast fragile golden grand green grey hidden hollow
iron ivory large little lower marble narrow new noisy northern old orange oval pale pink plain
polished private purple quiet red round royal rusty scarlet sealed secret second sharp silent silver
small smooth southern spare square steel stone striped tall tiny torn upper velvet violet warm
western white wide wild wooden yellow young""")
KINDS = words("""antelope badger basil beaver birch canary cedar cherry cobra cod coyote crab crane
cricket daisy dolphin eagle falcon fern finch fox garlic gazelle ginger goose hawk hazel heron ibis
iris jackal jasmine lemon lily lime linden lynx magpie mango maple marten melon mint moose moth
nutmeg oak olive onyx opal orchid otter owl panda parrot peach pear pepper pine plum poppy quail
quartz rabbit raven rose ruby sage salmon sapphire seal sparrow squid swan thyme tiger topaz trout
tulip turtle viper walnut weasel willow wolf yew zebra""")
MONTHS = words("""January February March April May June July August September October November
December""")
_ONSETS = words("""b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl
sn sp st str t th tr v w z""")
_VOWELS = words("""a e i o u ai ea ee ia io oa oo ou""")
_CODAS = ["", "", "", "b", "ck", "d", "ft", "g", "l", "ld", "m", "n", "nd", "ng", "nt", "p", "r"]
_CODAS += ["rk", "rn", "s", "sk", "st", "t", "th", "x", "z"]

_PUNCTUATION = " .,;:!?\"'()[]{}<>`*_=#-/\\|"


def side(text: str) -> Split:
    """Which side of the split a word or template is on, by its hash."""
    return "heldout" if zlib.crc32(text.lower().encode()) % _HELDOUT_OF == 0 else "train"


def word_pieces(vocabulary: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pieces of a vocabulary that begin a word, and those that go on with one; both or none."""
    letters = [piece for piece in vocabulary if piece.isascii() and piece.strip().isalpha()]
    starts = tuple(p.strip() for p in letters if p.startswith(" ") and 2 < len(p) < 13)
    tails = tuple(p for p in letters if p == p.strip() and p.islower() and 1 < len(p) < 6)
    return (starts, tails) if starts and tails else ((), ())


@dataclass(frozen=True)
class WordLists:
    """Draws keys and values of one split.

    ``words`` are common words (from the vocabulary); ``text`` is a piece of real text whose word
    runs serve as wording, empty where none is at hand. With a ``pool`` other than 0, listed words
    and templates are drawn from a sixth of the side, which one is up to that number: then names,
    attributes and wording recur among the facts of a history, as they do on the small held-out
    side. ``starts`` and ``tails`` are pieces of the vocabulary that begin and go on words; with
    them, many words are put together from pieces.
    """

    split: Split
    words: tuple[str, ...]
    text: tuple[str, ...] = ()
    pool: int = 0
    starts: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()

    def pick(self, rng: np.random.Generator, items: Sequence[str]) -> str:
        """One item of this split's side, and of the pool if it has any of them."""
        for _ in range(_POOL_DRAWS if self.pool else 0):
            item = items[int(rng.integers(len(items)))]
            if side(item) == self.split and not zlib.crc32(item.encode(), self.pool) % _POOL_OF:
                return item
        while True:
            item = items[int(rng.integers(len(items)))]
            if side(item) == self.split:
                return item

    def word(self, rng: np.random.Generator) -> str:
        if self.starts and rng.random() < 0.5:
            return self.spliced(rng)
        return self.pick(rng, self.words)

    def spliced(self, rng: np.random.Generator) -> str:
        """A word of two or three pieces of the vocabulary, the first one often a word itself.

        A model that copies only the words of a list writes "raised" where a fact says "raises";
        so every piece has to be copied now and then, in words of this split.
        """
        while True:
            count = int(rng.integers(1, 3))
            tails = [self.tails[int(i)] for i in rng.integers(len(self.tails), size=count)]
            text = self.starts[int(rng.integers(len(self.starts)))] + "".join(tails)
            if len(text) < 20 and side(text) == self.split:
                return text

    def run(self, rng: np.random.Generator, count: int) -> list[str]:
        """``count`` words: consecutive ones of ``text``, or common words."""
        if len(self.text) > count and rng.random() < 0.7:
            start = int(rng.integers(len(self.text) - count))
            return list(self.text[start : start + count])
        return [self.word(rng) for _ in range(count)]

    def made_up(self, rng: np.random.Generator, syllables: int = 0) -> str:
        if self.starts and rng.random() < 0.3:
            return self.spliced(rng).lower()
        while True:
            count = syllables or int(rng.integers(1, 4))
            parts = []
            for _ in range(count):
                parts.append(_ONSETS[int(rng.integers(len(_ONSETS)))])
                parts.append(_VOWELS[int(rng.integers(len(_VOWELS)))])
                parts.append(_CODAS[int(rng.integers(len(_CODAS)))])
            text = "".join(parts)
            if len(text) > 3 and side(text) == self.split:
                return text

    def digits(self, rng: np.random.Generator, count: int = 0) -> str:
        count = count or int(rng.choice([2, 3, 4, 5, 5, 5, 6, 7, 8]))
        first = str(int(rng.integers(1, 10)))
        return first + "".join(str(int(d)) for d in rng.integers(0, 10, count - 1))

    def person(self, rng: np.random.Generator) -> str:
        first = self.pick(rng, FIRST)
        form = int(rng.integers(4))
        if form == 0:
            return f"{first} {self.pick(rng, LAST)}"
        if form == 1:
            return self.made_up(rng).capitalize()
        return first

    def phrase(self, rng: np.random.Generator) -> str:
        """Adjective and noun: distractors of one scene often share one of the two."""
        if rng.random() < 0.3:
            return f"{self.open_word(rng)} {self.open_word(rng)}"
        return f"{self.pick(rng, QUALITIES)} {self.pick(rng, THINGS)}"

    def open_word(self, rng: np.random.Generator) -> str:
        """Any word of the text at hand: no list that a model could learn by heart."""
        for _ in range(4):
            if self.text:
                word = self.text[int(rng.integers(len(self.text)))].strip(_PUNCTUATION)
                if len(word) > 2 and side(word) == self.split:
                    return word
        return self.word(rng)

    def open_words(self, rng: np.random.Generator) -> str:
        """One to four consecutive words of the text at hand."""
        words = " ".join(self.run(rng, int(rng.integers(1, 5)))).strip(_PUNCTUATION)
        return words or self.word(rng)

    def some_word(self, rng: np.random.Generator) -> str:
        form = int(rng.integers(8))
        if form == 0:
            return self.pick(rng, KINDS)
        if form == 1:
            return self.pick(rng, THINGS)
        if form < 4:
            return self.word(rng)
        return self.made_up(rng) if form < 6 else self.open_word(rng)

    def identifier(self, rng: np.random.Generator) -> str:
        parts = [self.some_word(rng).lower() for _ in range(int(rng.integers(1, 4)))]
        form = int(rng.integers(6))
        if form == 0:
            return "_".join(parts).upper()
        if form == 1:
            return parts[0] + "".join(p.capitalize() for p in parts[1:])
        if form == 2:
            return "".join(p.capitalize() for p in parts)
        if form == 3:
            return ".".join(parts)
        if form == 4 and len(parts) == 1:
            return f"{parts[0]}{int(rng.integers(1, 100))}"
        return "_".join(parts)

    def alnum(self, rng: np.random.Generator) -> str:
        alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
        size = int(rng.integers(4, 9))
        text = "".join(alphabet[int(i)] for i in rng.integers(0, len(alphabet), size))
        if rng.random() < 0.3:
            text = text.lower()
        return f"{text[:2]}-{text[2:]}" if rng.random() < 0.3 else text

    def words_value(self, rng: np.random.Generator) -> str:
        return " ".join(self.some_word(rng) for _ in range(int(rng.integers(2, 5))))

    def date(self, rng: np.random.Generator) -> str:
        day, year = int(rng.integers(1, 29)), int(rng.integers(1200, 2090))
        month = MONTHS[int(rng.integers(12))]
        form = int(rng.integers(3))
        if form == 0:
            return f"{day} {month} {year}"
        if form == 1:
            return f"{month} {day}"
        return f"{year}-{MONTHS.index(month) + 1:02d}-{day:02d}"

    def quantity(self, rng: np.random.Generator) -> str:
        form = int(rng.integers(5))
        if form == 0:
            return f"{int(rng.integers(0, 24)):02d}:{int(rng.integers(0, 60)):02d}"
        if form == 1:
            return (
                f"{int(rng.integers(1, 10))}.{int(rng.integers(0, 30))}.{int(rng.integers(0, 30))}"
            )
        if form == 2:
            return f"${int(rng.integers(1, 1000))}.{int(rng.integers(0, 100)):02d}"
        if form == 3:
            return f"{int(rng.integers(1, 1000))}.{int(rng.integers(0, 1000))}"
        units = ("kg", "km", "litres", "miles", "pounds", "percent", "hours", "pages", "ms", "GB")
        return f"{int(rng.integers(2, 5000))} {units[int(rng.integers(len(units)))]}"

    def path(self, rng: np.random.Generator) -> str:
        parts = [self.some_word(rng).lower() for _ in range(int(rng.integers(2, 4)))]
        return "/" + "/".join(parts) + ("" if rng.random() < 0.5 else ".txt")

    def key(self, rng: np.random.Generator, kind: str) -> str:
        return KEY_KINDS[kind](self, rng)

    def value(self, rng: np.random.Generator, kind: str) -> str:
        return VALUE_KINDS[kind](self, rng)

    def place(self, rng: np.random.Generator) -> str:
        return self.pick(rng, PLACES) if rng.random() < 0.7 else self.made_up(rng, 2).capitalize()


_Draw = Callable[[WordLists, np.random.Generator], str]
KEY_KINDS: dict[str, _Draw] = {
    "person": WordLists.person,
    "phrase": lambda x, rng: "the " + x.phrase(rng),
    "made_up": WordLists.made_up,
    "proper": lambda x, rng: x.made_up(rng).capitalize(),
    "word": WordLists.some_word,
    "place": WordLists.place,
    "pair": lambda x, rng: f"{x.some_word(rng)}-{x.some_word(rng)}",
    "two_words": lambda x, rng: f"{x.some_word(rng)} {x.some_word(rng)}",
    "identifier": WordLists.identifier,
    "number": lambda x, rng: f"{x.pick(rng, THINGS)} {int(rng.integers(1, 1000))}",
    "alnum": WordLists.alnum,
    "open": WordLists.open_words,
}
VALUE_KINDS: dict[str, _Draw] = {
    "digits": WordLists.digits,
    "code5": lambda x, rng: x.digits(rng, 5),
    "word": WordLists.some_word,
    "made_up": WordLists.made_up,
    "proper": lambda x, rng: x.made_up(rng).capitalize(),
    "person": WordLists.person,
    "place": WordLists.place,
    "phrase": WordLists.phrase,
    "words": WordLists.words_value,
    "date": WordLists.date,
    "quantity": WordLists.quantity,
    "alnum": WordLists.alnum,
    "identifier": WordLists.identifier,
    "path": WordLists.path,
    "open": WordLists.open_words,
}
