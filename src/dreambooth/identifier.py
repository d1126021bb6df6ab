"""Rare tokens of a model's own tokenizer, one of which will name the subject (paper, section 3.1).

The paper wants an identifier with a weak prior in both the language model and the diffusion model. It looks
among the rare tokens of the vocabulary for those that decode to at most three characters without spaces, and
draws one uniformly. Existing words are bad (the model must first forget them); strings of random characters
are bad (they split into letters, each with a strong prior).

    >>> choose(tokenizer, "dog", seed=0)                              # doctest: +SKIP
    Identifier(text='ndc', token_ids=(47564,), rarity=0.96, warnings=())
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dreambooth.errors import IdentifierError

LONGEST_TEXT = 3  # characters
MOST_PIECES = 3  # tokens; the paper's k = 1..3
T5_WINDOW = (5000, 10000)  # ids, both ends included
RARE_SHARE = 0.25  # of other vocabularies, counted from their end

KNOWN = {
    "sks": "is the name of a rifle, and Stable Diffusion draws one; most public scripts hard-wire it anyway",
    "ohwx": "is the token of many tutorials, so merged and community models may know it as somebody already",
    "xxy5syt00": "is the paper's example of a bad one: random characters split into letters with priors",
    "v": "is how the paper writes 'the identifier goes here', not an identifier",
}


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer, fast or slow."""

    unk_token_id: Any
    all_special_ids: Any
    model_max_length: Any

    def get_vocab(self) -> dict[str, int]: ...

    def get_added_vocab(self) -> dict[str, int]: ...

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> Any: ...


@dataclass(frozen=True)
class Identifier:
    """A text that names the subject.

    Attributes:
        text: what stands in the prompt.
        token_ids: what the tokenizer makes of it there.
        rarity: place of its most common token in the vocabulary, from 0 (most frequent) to 1 (rarest).
        warnings: sentences that say why the paper advises against it; none for one of `finalists`.
    """

    text: str
    token_ids: tuple[int, ...]
    rarity: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probed:
    """An identifier and how strongly the frozen model reacts to it; lower is better."""

    identifier: Identifier
    reaction: float


def rare_window(tokenizer: Tokenizer) -> range:
    """The ids in which rare tokens are looked for.

    T5-like vocabularies are ordered by frequency: the paper takes 5000..10000 of T5-XXL's 32,000, which is
    kept for every vocabulary that has those ids. Byte-pair vocabularies are ordered by merges, frequent ones
    first (CLIP: id = 512 + rank of the merge): their last quarter, and that of small T5-like ones too.
    """
    size = _vocabulary_size(tokenizer)
    first, last = T5_WINDOW
    if _is_unigram(tokenizer) and size > last:
        return range(first, last + 1)
    return range(math.ceil(size * (1 - RARE_SHARE)), size)


def rare_tokens(tokenizer: Tokenizer, class_noun: str = "dog", window: range | None = None) -> list[Identifier]:
    """Every single token that could name a subject, rarest first.

    A candidate lies in the window, decodes to two or three small ASCII letters (so that anyone can type it), is no
    common word or abbreviation and no part of the class noun, and stands in "a [identifier] [class noun]" as
    exactly its own id between the unchanged others. Those with a known reputation carry it as a warning.
    """
    size, special = _vocabulary_size(tokenizer), _special_ids(tokenizer)
    noun_words = class_noun.lower().split()
    found: dict[str, Identifier] = {}
    for token_id in reversed(window or rare_window(tokenizer)):
        if token_id in special:
            continue
        text = str(tokenizer.decode([token_id])).strip()
        # Small letters only: pipelines with T5 write every prompt in them.
        typable = 1 < len(text) <= LONGEST_TEXT and text.isascii() and text.isalpha() and text.islower()
        if not typable or text.lower() in _WORDS or any(text.lower() in word for word in noun_words):
            continue
        if text not in found and _ids_in_prompt(tokenizer, text, class_noun) == [token_id]:
            found[text] = _identifier(text, [token_id], size, _reputation(text))
    return list(found.values())


def finalists(
    tokenizer: Tokenizer,
    class_noun: str,
    seed: int,
    count: int = 8,
    length: int = 1,
    others: Sequence[Tokenizer] = (),
) -> list[Identifier]:
    """Up to `count` different identifiers of `length` tokens, drawn uniformly from `rare_tokens`.

    Args:
        others: further tokenizers of a model that reads its prompts twice; each token must be a rare one of theirs too.
        seed: the same seed, tokenizers and class noun give the same identifiers.
        length: tokens in each, 1 to 3 (the paper's k); tokens of one identifier are separated by blanks
            where the tokenizer decodes them so.

    Raises:
        IdentifierError: the vocabulary holds no rare token, or the length is not 1 to 3.
    """
    if not 1 <= length <= MOST_PIECES:
        raise IdentifierError(f"An identifier has 1 to {MOST_PIECES} tokens, not {length}.")
    pool = [
        candidate
        for candidate in rare_tokens(tokenizer, class_noun)
        if not candidate.warnings and all(_is_rare(other, candidate.text, class_noun) for other in others)
    ]
    if len(pool) < length:
        raise IdentifierError(
            "This model's vocabulary holds no rare short token that survives in a prompt; "
            "name a rare word yourself with --identifier."
        )
    size = _vocabulary_size(tokenizer)
    draw = random.Random(f"identifier {seed} {class_noun}")
    if length == 1:
        return draw.sample(pool, min(count, len(pool)))
    found: dict[str, Identifier] = {}
    for _ in range(20 * count):
        ids = [candidate.token_ids[0] for candidate in draw.sample(pool, length)]
        text = str(tokenizer.decode(ids)).strip()
        if len(found) < count and _ids_in_prompt(tokenizer, text, class_noun) == ids:
            found[text] = _identifier(text, ids, size, [])
    if not found:
        raise IdentifierError(f"No sequence of {length} rare tokens survives in a prompt; use one token.")
    return list(found.values())


def choose(
    tokenizer: Tokenizer, class_noun: str, seed: int, length: int = 1, others: Sequence[Tokenizer] = ()
) -> Identifier:
    """One rare identifier, drawn uniformly with this seed: the first of `finalists`, errors and all."""
    return finalists(tokenizer, class_noun, seed, count=1, length=length, others=others)[0]


def check(text: str, tokenizer: Tokenizer, class_noun: str, others: Sequence[Tokenizer] = ()) -> Identifier:
    """A user's own identifier, with warnings for all that the paper advises against, by any of the tokenizers.

    Raises:
        IdentifierError: it is empty, unknown to the tokenizer, or leaves no room in the prompt.
    """
    text = " ".join(text.split())
    if not text:
        raise IdentifierError("The identifier is empty; name a rare word, or leave it out and one is chosen.")
    warnings = _reputation(text)
    for one in (tokenizer, *others):
        warnings += _objections(one, text, _usable_ids(one, text, class_noun), class_noun)
    ids = _usable_ids(tokenizer, text, class_noun)
    return _identifier(text, ids, _vocabulary_size(tokenizer), list(dict.fromkeys(warnings)))


def _usable_ids(tokenizer: Tokenizer, text: str, class_noun: str) -> list[int]:
    """The ids of `text` in a prompt. Raises IdentifierError where there are none, or too many."""
    ids = _ids_in_prompt(tokenizer, text, class_noun)
    if not ids or tokenizer.unk_token_id in ids:
        raise IdentifierError(f"The model's tokenizer has no tokens for {text!r}; leave it out to have one chosen.")
    if len(ids) > min(tokenizer.model_max_length // 4, 32):
        raise IdentifierError(
            f"The identifier takes {len(ids)} tokens and leaves too little of the prompt; name a rare word."
        )
    return ids


def probe(
    candidates: Sequence[Identifier], react: Callable[[list[str]], Sequence[float]], class_noun: str
) -> list[Probed]:
    """Order candidates by the frozen model's own reaction to them; the first, the weakest, wins.

    Args:
        candidates: such as `finalists`.
        react: draws each prompt "a [identifier] [class noun]" with the frozen model and returns one number
            for each, such as how far its pictures are from those of "a [class noun]".

    Raises:
        IdentifierError: there are no candidates, or a reaction is missing or not finite.
    """
    prompts = [f"a {candidate.text} {class_noun}" for candidate in candidates]
    reactions = [float(value) for value in react(prompts)] if prompts else []
    if not prompts or len(reactions) != len(prompts) or not all(map(math.isfinite, reactions)):
        raise IdentifierError(
            f"The probe of {len(prompts)} identifiers gave no finite reaction for each; "
            "train without --probe-identifier."
        )
    probed = [Probed(candidate, value) for candidate, value in zip(candidates, reactions, strict=True)]
    return sorted(probed, key=lambda row: row.reaction)


def _is_rare(tokenizer: Tokenizer, text: str, class_noun: str) -> bool:
    ids = _ids_in_prompt(tokenizer, text, class_noun)
    return len(ids) == 1 and ids[0] in rare_window(tokenizer)


def _ids_in_prompt(tokenizer: Tokenizer, text: str, class_noun: str) -> list[int]:
    """The ids that `text` adds to "a [class noun]"; none when it changes its neighbours' ids."""
    head = tokenizer.encode("a", add_special_tokens=False)
    without = tokenizer.encode(f"a {class_noun}", add_special_tokens=False)
    prompt = tokenizer.encode(f"a {text} {class_noun}", add_special_tokens=False)
    tail = without[len(head) :]
    middle = prompt[len(head) : len(prompt) - len(tail)]
    return middle if head + middle + tail == prompt and head + tail == without else []


def _objections(tokenizer: Tokenizer, text: str, ids: list[int], class_noun: str) -> list[str]:
    """What the paper has against this text as an identifier."""
    frequent_below = rare_window(tokenizer).start if _is_unigram(tokenizer) else _vocabulary_size(tokenizer) // 2
    words = text.lower().split()
    single = len(ids) == 1
    told: list[str] = []
    if not text[0].isalnum():
        told.append(f"{text!r} begins with punctuation, which splits off as a common token of its own.")
    noun = class_noun.lower()
    if any(word in noun.split() for word in words) or noun in text.lower():
        told.append(f"{text!r} contains the class noun {class_noun!r}, whose meaning the training must keep.")
    elif common := [word for word in words if word in _WORDS]:
        told.append(f"{common[0]!r} is a common word; the model must first forget its meaning (paper, 3.1).")
    elif single and ids[0] < frequent_below:
        told.append(f"{text!r} is frequent in the model's vocabulary: it already means something (paper, 3.1).")
    elif single and len(text) > LONGEST_TEXT and not _reputation(text):
        told.append(f"{text!r} is one token of over three letters, most likely a word the model knows.")
    if len(ids) > MOST_PIECES or (not single and min(ids) < frequent_below):
        pieces = " + ".join(str(tokenizer.decode([token_id])).strip() for token_id in ids)
        told.append(
            f"{text!r} splits into {len(ids)} tokens ({pieces}), not all of them rare, so each adds its "
            "own meaning; the paper asks for one to three rare ones (3.1)."
        )
    return told


def _reputation(text: str) -> list[str]:
    words = [word.strip("<>[]{}*_") for word in text.lower().split()]
    return [f"{word!r} {KNOWN[word]}." for word in words if word in KNOWN]


def _identifier(text: str, ids: list[int], vocabulary_size: int, warnings: Sequence[str]) -> Identifier:
    rarity = min(1.0, min(ids) / max(1, vocabulary_size - 1))
    return Identifier(text, tuple(ids), rarity, tuple(warnings))


def _vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest learned id: special and added tokens follow it."""
    return 1 + max({*tokenizer.get_vocab().values()} - _special_ids(tokenizer), default=0)


def _special_ids(tokenizer: Tokenizer) -> set[int]:
    return {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}


def _is_unigram(tokenizer: Tokenizer) -> bool:
    """Whether ids are in the order of frequency (SentencePiece unigram, as T5) and not of merges (BPE)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return type(backend.model).__name__ == "Unigram"
    return "T5" in type(tokenizer).__name__


# Words, names and abbreviations of two and three letters that a text-to-image model has met. Longer words
# need no list: only tokens of at most three letters are candidates.
_WORD_LIST = """
    abc abs acc ace act ad add aff afk aft age ago ags ah aha ai aid ail aim air aka ale all alt am ama amd
    amg amp amy an ana and ann ans ant any aol ape app apr apt arc are ark arm art as ash ask asl asp ass at
    ate atm att aug aus ava ave avg avi awe aws ax axe aye bad bae bag ban bar bat bay bbc bbq bbs be bed bee
    beg bel ben bet bev bff bib bid big bin bio bit bmi bmw bmx boa bob bog boo bot bow box boy bps bra brb
    bro btc bts btw bub bud bug bum bun bus but buy by bye cab cad cal cam can cap car cat caw cbd cbs ccc
    cdc ceo cfo cgi chi chu cia cio cmu cna cnc cnn cob cod cog col com con coo cop cot cow cox coy cpa cpr
    cpu crm cry csi csp css csv cub cud cue cup cur cut dab dad dam dan dax day deb dec def dei del den des
    det dev dew dfw dhs dia did die dig dim din dip dis diy dmv dna do doc doe dog doj dom don dos dot dre
    drs dry dub dud due dug duh dui dun duo dvd dwi dye dyi ear eat ebb eco ed edm edu eea eel egg ego eh eke
    ela elf eli elk elm em emo ems emu end eng env eon epa epl era ere erg err esp esq est etc eth eu eva eve
    ewe ex ext eye fab fad fag fam fan fap faq far fas fat fax fay fbi fcc fck fda fdr feb fed fee fem fen
    few fey fez fib fie fig fin fir fit fix flo flu fly fml fob foe fog fop for fox fps fri fry fsu fta ftp
    ftw fuk fun fur fwd fyi gab gad gag gal gap gas gay gcc gdp ged gel gem gen ges get gif gig gil gin gis
    gmc gmo gmt gnu go god goo gop got gov gpa gps gpu grr gsa gta gti gum gun gus gut guy gym gyp ha had hag
    hak hal ham han has hat hay hbo hdd hdr he hem hen her hew hex hey hi hid him hip his hit hiv hmm ho hob
    hoe hog hop hot how hpv hrs hsu hub hue hug huh hum hut ian ibm ice icu icy id ida ied if ign ilk ill imo
    imp in inc ind ing ink inn int ion ios iot ipa ipl ipo ira ire irk irs is isa iso ist it ita its ivf ivy
    jab jag jai jam jan jap jar jaw jay jed jen jet jew jfk jib jig jim job jod joe jog jon jot joy jpg jpn
    jug jul jun jus jut kay keg ken key kfc kgb khz kia kid kim kin kip kit kkk koa koi kos la lab lac lad
    lag lam lap law lay lbs lcd lea led lee leg lei leo les let lex lid lie lil lip lit liv liz llc llp lo
    lob log lol loo lop lot lou low lox lsd ltd lug luv lux lye ma mac mad mae mag man map mar mat maw max
    may mba me med meg mel mem men met mew mgm mia mic mid mig min mis mit mix mlb mls mma mms mob mod moe
    mom mon moo mop mow mpg mph mr mri mrs ms msc msn mt mtv mud mug mum mvp my naa nab nad nag nah nan nap
    nay nba nbc nes net new nfc nfl nft ngo nhl nhs nib nil nip nit no nod nor not nov now npc npr nra nsa
    nsw nub nun nut ny nyc nye nyt nyu oaf oak oar oat oct odd ode oem of off oft oh ohh ohm oil ok old oli
    omg on one ono ooh ops opt or ora orb ore org osu ott our out ova ow owe owl own ox pa pac pad pal pam
    pan par pat paw pay paz pbs pc pcs pdf pea peg pen pep per pet pew pga pgs phd phi phl pho pi pic pie pig
    pin pit pls pm pmp png pod poi pop pos pot pow pox ppt pro prs pry psa psp psu pub pug pun pup pus put
    pvc pvp que rag raj ram ran rap rar ras rat raw ray rba rbi rds re red ref rem rep rex rgb rib rid rig
    rim rio rip rnb rnc rob rod roe ron rot row roy rpg rpm rps rss rtd rub rue rug rum run rut rvs rye sac
    sad sag sal sam san sap sat saw sax say sci sdk sea seb sec see seo sep set sew sex sfo sgt she shh sht
    shy sic sid sig sin sip sir sis sit six ski sky slr sly smh snl so sob soc sod son sop sot sow sox soy
    spa spy sql sri srt ssd ssh ssl ssr sst st stl stu sub sue sum sun sup sur suv svt swf tab tad tag tan
    tap tar tat tax tba tbd tbh tbt tcu tea tec ted tee ten tex the tho thu thx thy tia tic tie til tim tin
    tip tks tlc tmi tnt to toe tom ton too top tot tow toy try tub tue tug tun tut tux tv tvs two txt tyr uae
    ucd ucf uci uck ucl ufc ufo ugh uh uhh uhm uk um umd umm ump un und uni uno up ups urb url urn us usa usb
    usc usd use usn usu uzi van vat vet vex vhs via vie vip von vow vpn vue wad wag wan war was wat wax way
    we web wed wee wet who why wig wii wil win wit wiz woe wok won woo wow wrx wry wsj wtf wto wwe wwi www
    wyn xml xxx yah yak yam yap yaw yay ye yea yen yep yer yes yet yew yin yip yo you yrs yuk yum yup yvr zak
    zap zeb zee zen zig zip zit zoe zoo
"""
_WORDS = frozenset(_WORD_LIST.split())
