"""Fragments from which statements and questions are composed.

A statement is lead + core + tail, a question is lead + core, and both are then put into one of
many wrappers. Fields: ``{a}`` attribute, ``{k}`` key, ``{v}`` value. Each fragment is on one side
of the train / held-out split by its hash (:func:`.word_lists.side`); the
empty lead and tail belong to both.
"""

from __future__ import annotations

__all__ = [
    "ATTRIBUTES",
    "CODE_ASKS",
    "CODE_FACTS",
    "FAMILIES",
    "QUESTIONS",
    "QUESTION_LEADS",
    "STATEMENTS",
    "STATEMENT_LEADS",
    "STATEMENT_TAILS",
]


def fragments(text: str, separator: str = "\n") -> list[str]:
    """The items of a list written as a text; around ``separator`` line ends do not count."""
    return text.splitlines() if separator == "\n" else text.replace("\n", "").split(separator)


ATTRIBUTES = fragments(
    """code;password;number;secret number;magic number;access code;passcode;PIN;colour;
nickname;locker number;ticket;badge number;birthday;home town;address;seat;budget;deadline;room;
phone extension;price;weight;serial number;callsign;motto;token;account number;port;version;
checksum;score;rating;owner;destination;species;title;label;reference;codename;alias;key;symbol;
combination;registration;licence plate;favourite word;favourite animal;favourite city;hiding place;
contact;guardian;partner;teacher;supplier;best friend;flag;emblem;shelf mark;invoice number;
tracking number;case number;membership;index;identifier;size;length;height;capacity;limit;timeout;
threshold;rank;grade;result;answer;entry;value;setting;parameter;default;channel;frequency;gate;
platform;track;route;station;stop;cabin;desk;team;department;project;role;rank in the list;tag;
keyword;watchword;signal;greeting;signature;recipe;ingredient;spice;dish;drink;instrument;song;
hobby;sport;vehicle;tool;weapon;treasure;gift;prize;wish;secret;clue;riddle;hint;mark;seal;stamp;
date of arrival;date of birth;opening time;closing time;departure time;meeting point;place of birth;
next appointment;area code;zip code;order number;batch;model;brand;material;pattern;shade;lot number
""",
    ";",
)

STATEMENTS = fragments("""the {a} of {k} is {v}
{k}'s {a} is {v}
the {a} for {k} is {v}
{k} has the {a} {v}
{k} has {v} as {a}
the {a} assigned to {k} is {v}
for {k}, the {a} is {v}
{v} is the {a} of {k}
{v} is {k}'s {a}
{v} is the {a} for {k}
as for {k}, the {a} is {v}
they gave {k} the {a} {v}
{k} goes with the {a} {v}
{k} uses {v} as the {a}
somebody wrote down {v} as the {a} of {k}
the {a} belonging to {k} turned out to be {v}
{k}: {a} {v}
{a} of {k}: {v}
{k} ({a}: {v})
{k} - {a} - {v}
{k} | {a} | {v}
{k}, {a}: {v}
set the {a} of {k} to {v}
the {a} listed under {k} reads {v}
{k} was issued the {a} {v}
whoever asks for the {a} of {k} should hear {v}
it was agreed that {k} would have {v} for a {a}
{k} chose {v} for the {a}
people know {k} by the {a} {v}
the register shows {v} as the {a} for {k}
you will find {k} under the {a} {v}
the {a} of {k} was changed to {v}
the {a} that belongs to {k} is {v}
in the case of {k} the {a} is {v}
when it comes to {k}, the {a} would be {v}
{k} keeps {v} as a {a}
one of the special magic numbers for {k} is: {v}
the {a} which goes with {k} is called {v}
{k} is registered with {a} {v}
{k} is marked with the {a} {v}
the clerk noted the {a} of {k}, namely {v}
our records give {v} for the {a} of {k}
on the card for {k} the {a} is given as {v}
{k} answered that the {a} was {v}
the {a} printed on {k} says {v}
take {v} for the {a} of {k}
let the {a} of {k} be {v}
nobody but {k} has the {a} {v}
at the top of the page: {k}, with {a} {v}
concerning {k}: the {a} equals {v}
{k} received {v} as its {a}
the {a} we recorded for {k} was {v}
{k} now carries the {a} {v}
from today the {a} of {k} will be {v}
{k} can be identified by its {a}, {v}
the sheet says that {k}'s {a} is {v}
the correct {a} for {k} happens to be {v}
{v} was chosen to be the {a} of {k}
{v} serves as the {a} for {k}
under {k} we have the {a} {v}
if you meet {k}, the {a} is {v}
every visitor of {k} needs the {a} {v}
{a} ({k}) = {v}
{a}[{k}] = {v}
{k}.{a} is {v}
- {k} / {a}: {v}""")

QUESTIONS = fragments("""what is the {a} of {k}?
what is {k}'s {a}?
what is the {a} for {k}?
which {a} does {k} have?
what {a} was given to {k}?
tell me the {a} of {k}.
can you recall the {a} for {k}?
{k} has which {a}?
what was the {a} listed for {k}?
name the {a} of {k}.
the {a} of {k}?
{k}'s {a}?
do you remember the {a} of {k}?
please give the {a} assigned to {k}.
what did the text say about the {a} of {k}?
which {a} belongs to {k}?
what {a} goes with {k}?
I need the {a} of {k}.
could you tell me {k}'s {a}?
what is the {a} that goes with {k}?
how does the {a} of {k} read?
what {a} is recorded for {k}?
state the {a} for {k}.
repeat the {a} of {k}.
{k}: which {a}?
{k}, {a}?
under which {a} is {k} known?
what should I write as the {a} of {k}?
what is the special magic number for {k} mentioned in the provided text?
look up the {a} of {k}.
which {a} was mentioned for {k}?
find the {a} belonging to {k}.
what would be the {a} of {k}?
someone asks for the {a} of {k}. What do you say?
what {a} does {k} use?
what {a} did {k} get?
what is written down as the {a} of {k}?
give me {k}'s {a}, please.
and the {a} of {k}?
does anyone know the {a} of {k}?
remind me of the {a} for {k}.
the {a} of {k} is what?
{k} is associated with which {a}?
of all things, what is the {a} of {k}?
fill in the {a} of {k}:
{a} of {k}?""")

STATEMENT_LEADS = fragments(
    """note that|remember that|for the record,|by the way,|
keep in mind that|it is known that
|as agreed,|please note:|important:|according to the file,|to be clear,|one more thing:|
it turns out that
|we were told that|do not forget:|FYI,|reminder:|update:|the list says that|as everybody knows,|
so,|well,
|listen:|in other news,|meanwhile,|in short,|he said that|she mentioned that|they confirmed that|
P.S.
|a small detail:|fact:|NOTE:|memo:|incidentally,|I should add that|let me repeat:|to this day,|
officially,
|it says here that|rumour has it that|this much is certain:|on that day,|strange as it sounds,
""",
    "|",
)

STATEMENT_TAILS = fragments(
    """, as far as we know|, remember it| for now|, and nothing else|
, which will matter later|, so they say
| at the moment|, as before| (do not lose it)|, which surprised nobody|, as the old note says|
, at least on paper
|, and that is final| until further notice|, as you can see|, by the way|, according to the log
""",
    "|",
)

QUESTION_LEADS = fragments(
    """according to the text,|from the above,|looking back,|
quick question:|one question:|just to check:
|based on what was said,|in the text above,|remember:|think back:|so,|now then,|tell me,|sorry,|
excuse me,|hm,|and
|now|as stated earlier,|before we go on:|to sum up,|if you remember,|for the form:|again,|
a last thing:
""",
    "|",
)

# Families with their own relation: (statements, questions, key kind, value kind).
FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, str]] = {
    "where": (
        (
            "{k} is in {v}",
            "{k} lives in {v}",
            "{k} was last seen in {v}",
            "{k} moved to {v}",
            "you can find {k} in {v}",
            "{k} is kept in {v}",
            "they hid {k} in {v}",
            "{k} travelled to {v}",
            "{v} is where {k} stays",
        ),
        (
            "where is {k}?",
            "where can I find {k}?",
            "in which place is {k}?",
            "where was {k} last seen?",
            "what is the location of {k}?",
            "{k} is where?",
            "where did {k} go?",
        ),
        "person|phrase|proper|number",
        "place|phrase|proper",
    ),
    "who": (
        (
            "{v} owns {k}",
            "{k} belongs to {v}",
            "{k} was painted by {v}",
            "{v} takes care of {k}",
            "{v} is responsible for {k}",
            "{k} was found by {v}",
            "the owner of {k} is {v}",
            "ask {v} about {k}",
        ),
        (
            "who owns {k}?",
            "whose is {k}?",
            "who is in charge of {k}?",
            "who should be asked about {k}?",
            "to whom does {k} belong?",
            "who has to do with {k}?",
            "name the person behind {k}.",
        ),
        "phrase|number|made_up|place|identifier",
        "person|proper",
    ),
    "when": (
        (
            "{k} begins on {v}",
            "{k} opens at {v}",
            "{k} was built on {v}",
            "the date of {k} is {v}",
            "{k} is due {v}",
            "{k} happened on {v}",
            "we expect {k} on {v}",
        ),
        (
            "when does {k} begin?",
            "when is {k}?",
            "what is the date of {k}?",
            "on which day is {k}?",
            "when should we expect {k}?",
            "when did {k} happen?",
        ),
        "phrase|proper|two_words|place",
        "date|quantity",
    ),
    "likes": (
        (
            "{k} likes {v}",
            "{k} always orders {v}",
            "{k} collects {v}",
            "{k} is fond of {v}",
            "{k} cannot live without {v}",
            "{k} dreams of {v}",
            "what {k} wants is {v}",
        ),
        (
            "what does {k} like?",
            "what does {k} want?",
            "what is {k} fond of?",
            "what does {k} collect?",
            "what would make {k} happy?",
            "what does {k} dream of?",
        ),
        "person|proper",
        "word|phrase|words|made_up",
    ),
    "means": (
        (
            "{k} means {v}",
            "a {k} is a {v}",
            "{k} is defined as {v}",
            "by {k} we mean {v}",
            "the word {k} stands for {v}",
            "{k}: {v}",
            "{k} is short for {v}",
            "we call {v} a {k}",
            "the term {k} denotes {v}",
        ),
        (
            "what does {k} mean?",
            "what is a {k}?",
            "how is {k} defined?",
            "define {k}.",
            "what does the word {k} stand for?",
            "explain the term {k}.",
            "what is meant by {k}?",
        ),
        "made_up|alnum|pair|word",
        "words|phrase|person|word",
    ),
}

_CODE_FACTS = fragments(r"""{k} = {v}
{k} = "{v}"
{k} = '{v}'
{k}: str = "{v}"
const {k} = "{v}";
"{k}": "{v}",
"{k}": {v},
{k}: {v}
{k}={v}
export {k}={v}
# {k} is {v}
// {k}: {v}
--{k} {v}
{k} := {v}
let {k} = {v};
#define {k} {v}
self.{k} = {v}
config["{k}"] = "{v}"
settings.{k} = "{v}"
<{k}>{v}</{k}>
{k} -> {v}
{k} => {v}
{k}\t{v}
{k},{v}
| {k} | {v} |
[{k}] {v}
def {k}(): return {v}
def {k}():\n    return "{v}"
set({k}, {v})
register("{k}", "{v}")
@param {k} {v}
:{k}: {v}""")
# Line ends are written as ``\n`` above so that each template stays on one line.
CODE_FACTS = [line.replace("\\n", "\n").replace("\\t", "\t") for line in _CODE_FACTS]

# (prompt ending where the answer starts, text behind the answer)
CODE_ASKS: tuple[tuple[str, str], ...] = (
    ("assert {k} == ", "\n"),
    ("print({k})  # ", "\n"),
    (">>> {k}\n", "\n"),
    ("# value of {k}: ", "\n"),
    ("{k} = ", "\n"),
    ('{k} == "', '"\n'),
    ("echo ${k}\n", "\n"),
    ("// {k} is ", "\n"),
    ('"{k}": "', '",\n'),
    ("{k} -> ", "\n"),
    ("| {k} | ", " |\n"),
    ("# {k} was set to ", "\n"),
    ("{k}: ", "\n"),
)
