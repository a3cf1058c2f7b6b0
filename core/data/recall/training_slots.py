"""What training text alone composes templates of, and puts before and behind them.

See :mod:`.training_wording`.
"""

from __future__ import annotations

from megacontext.core.data.recall.wording import fragments

__all__ = [
    "BREAKS",
    "HAS",
    "LEADS",
    "LINKS",
    "MARKS",
    "OPENINGS",
    "QUESTION_LEADS",
    "ROLES",
    "SUBJECTS",
    "TAILS",
    "WHICH",
]

SUBJECTS = fragments(
    """the {a} around {k};the {a} beside {k};the {a} by {k};the {a} behind {k};the {a} near {k};
the {a} inside {k};the {a} that came with {k};the {a} that suits {k};the {a} {k} got;
the {a} {k} wants;the {a} {k} was given;the {a} {k} showed;the {a} we have for {k};
the {a} they gave {k};the {a} I saw on {k};the {a} made for {k};the {a} meant for {k};
the {a} found at {k};the {a} found with {k};the {a} sent to {k};the {a} written on {k};
the {a} named by {k};the {a} read from {k};the {a} bound to {k};the {a} owned by {k};
the {a} filed under {k};the {a} printed for {k};the {a} of our {k};the {a} of that {k};
the new {a} of {k};the last {a} of {k};the first {a} of {k};the true {a} of {k};
the real {a} for {k};the usual {a} for {k};the final {a} of {k};the full {a} of {k};
the best {a} for {k};the main {a} of {k};the given {a} of {k};the other {a} of {k};
the right {a} at {k};the chosen {a} for {k};the next {a} for {k};the expected {a} of {k};
its {a}, speaking of {k},;{k} and its {a},;{k} (the {a});{k} (by {a});{k}: the {a};
{k} - the {a} -;
a {a} of {k};a {a} for {k};one {a} of {k};any {a} of {k};this {a} for {k};that {a} of {k};
{a} for {k};{a} at {k};{a} on {k};{a} from {k};{k}/{a};{k}.{a};{k}::{a};{a}({k});{k} [{a}];
in {k} the {a};with {k} the {a};at {k} the {a};on {k} the {a};to {k} the {a};of {k} the {a}
""",
    ";",
)

LINKS = fragments(
    """amounts to;and that is;came to;came to be;comes down to;comes out at;comes to;comes up as;
could be;did become;did not change from;does read;ended as;ends up as;ever was;fell to;
followed as;
gave;gives;goes as;goes by;goes for;goes under;got to be;had become;had been;has always been;
has ever been;has got to be;has to be;is (still);is about;is again;is agreed to be;
is believed to be;
is but;is by now;is certainly;is clearly;is described as;is either nothing or;is entered as;
is equal to;is found in;is held to be;is in fact;is likely;is mostly;is named;is noted as;is only;
is often;is one:;is plainly;is printed as;is probably;is put at;is put down as;is quoted as;
is really;
is reported as;is right here:;is said to read;is seen as;is shown as;is spelled;is stated to be;
is taken to be;is the same as;is then;is thought to be;is to be;is today;is truly;is up to;
is what we call;lies at;looks like;looks to be;made;makes;may be;may become;might be;
must have been;
never was other than;now goes by;now reads;points to;proves to be;proved to be;ran to;ran as;
rose to;
runs as;shall be;should have been;should read;should say;sounds like;spells;stayed;stays;stays at;
stood as;swaps to;switched to;takes the form of;turned into;turns into;used to be;was always;
was called;was changed into;was entered as;was given the form;was heard as;was left as;was made;
was meant to be;was moved to;was named;was never but;was noted to be;was once;was put as;
was read as;
was recorded to be;was renamed;was reported to be;was said to be;was seen to be;was set at;
was shown as;
was spelled;was stated as;was then;was to be;was to become;was turned to;went to;will become;
will have been;will remain;will stay;would become;would have been;would read;=;==;~;->;=>;..;...;
:=;
, now,;, that is,;, i.e.,;, or;, being;, once more,;- namely -;(today);(as ever)""",
    ";",
)

HAS = fragments(
    """accepts;adopted;applied for;arrived with;asked to have;begins with;bought;brings;
came under;
claims;depends on;does have;earned;enjoys;expects;fell back on;found;gained;gave up all but;
goes about with;goes out with;had;has always had;has had;has kept;has to have;hides;hopes for;
is bound to;is content with;is entered with;is filed with;is found with;is given;is happy with;
is left with;is linked with;is noted with;is quoted with;is said to have;is seen with;
is sent with;
is stuck with;is tied to;is to get;is to have;is to take;is told to use;kept;leans on;likes;lists;
looks after;lost all but;made;makes use of;may have;might take;must have;names;never had but;
now has;offers;once had;ordered;pays for;points at;preferred;presents;proposes;puts down;
quotes;relies on;reports;requires;runs on;ran with;says;secured;seeks;sends;shall have;shared;
should get;showed;signed for;speaks of;starts with;stands by;stays with;still has;stores;
switched to;takes;takes on;tends to;tried;turned to;used;wanted;was found with;was given just;
was left;was left with;was offered;was sent;was shown;was told;went for;went with;will get;
will take;wished for;won;works with;would have;writes;has to do with;is after;is all about""",
    ";",
)

ROLES = fragments(
    """as a {a};as one {a};as that {a};as the only {a};as the new {a};as what we call a {a};
at the {a} line;beside the {a};by {a};for its {a};for {a};for want of a {a};if a {a} is asked for;
in its {a};in the {a} field;in the part on the {a};in the role of {a};in terms of {a};
instead of a {a};next to {a};on the {a} card;on the line of the {a};out of every {a};
to fill the {a};to serve as {a};to be the {a};to be used as {a};when it needs a {a};
where a {a} is due;where it says {a};where others have a {a};with regard to the {a};
[{a}];- {a};, the {a};, its {a};, speaking of the {a};({a});/ {a};: {a};, by {a};, as {a}""",
    ";",
)

BREAKS = [" -- ", " ; ", " ~ ", " * ", " + ", " <- ", " == ", " @ ", " & ", " // ", " \\ ", " > "]
BREAKS += [" < ", ":", "/", "=", "|", ",", ";", "->", "\t\t", "  ", "   ", " . ", ". ", "? ", "! "]
BREAKS += [" [", " (", " {", ' "', " '", " `", "::", "..", "__", " _ ", " # ", " % ", " ^ ", "\n"]

MARKS = [
    "@ ",
    "# ",
    "### ",
    "// ",
    "% ",
    "; ",
    "-- ",
    "a) ",
    "2. ",
    "10. ",
    "=> ",
    "-> ",
    "| ",
    "& ",
]
MARKS += ["(", "[", "<", '"', "'", "`", "! ", "$ ", "^ ", "* * ", "** ", "[ ] ", "(i) ", "No. 4: "]

OPENINGS = fragments(
    """and what is;and what was;any word on;anybody know;are you sure of;can I have;can you find;
can you name;can you see;check;complete;could it be that you know;did they mention;do tell;
do they give;do you have;do you see;enter;explain;fetch;fill in;find me;forward;get;get me;
go on with;guess;hand over;have we got;hear;how about;how goes;how is;how was;I ask for;
I forgot;I lost;I must know;I want;I wonder about;I would like;identify;in short,;is there;
it is time for;kindly give;let me know;let me see;let us have;list;look for;look into;may I have;
mention;my guess for;next,;now,;once more,;out with;pass on;pick out;please find;please recall;
please write;point out;print;provide;put down;question:;read;reply with;report;return;search for;
see;select;send;settle;should we know;someone wants;specify;spell;submit;supply;take down;
the text says what about;there was;they ask about;think of;type;we forgot;we must find;what are;
what became of;what can be;what did you note for;what else is;what had been;what has been;
what have you on;what is meant by;what is now;what is said of;what may be;what must be;
what remains of;what should be;what then is;what they call;what was said of;what were;
what will be;
where is;which one is;which was;who has;who knows;will you tell;would you know;would you say;
write;you know""",
    ";",
)

WHICH = fragments(
    """{k} comes with which {a}?;{k} goes by what {a}?;{k} is tied to which {a}?;
{k}, and its {a}?;
{k}: what {a} {h} it have?;about {k}: what {a}?;as to {k}, what {a}?;by {a}, what is {k}?;
from {k} came which {a}?;if it is {k}, which {a}?;in {k}, which {a}?;is it {k}? Then what {a}?;
of {k}, which {a}?;on {k} there is which {a}?;see {k}: which {a}?;take {k}. Which {a}?;
to {k} goes which {a}?;under {k}, what {a}?;what {a} goes under {k}?;what {a} is it with {k}?;
what {a} is there for {k}?;what {a} may {k} carry?;what {a} stands with {k}?;
what about {k} and {a}?;
what is, for {k}, the {a}?;what of {k}, what {a}?;what was there as {a} on {k}?;
which {a}, if any, {h} {k}?;which {a} came to {k}?;which {a} fits {k}?;
which {a} is it that {k} has?;
which {a} lies with {k}?;which {a} then {h} {k}?;which {a} would go with {k}?;
with {k}, what {a}?;with {k} we find what {a}?
""",
    ";",
)

LEADS = fragments(
    """above all,|actually,|after all,|again:|all told,|also,|and|anyway,|as a rule,|as a start,
|as far as I can tell,|as it happens,|as noted,|as planned,|as said,|as the story goes,
|as usual,|as we saw,
|at last,|at present,|back then|because|before we start,|besides,|briefly,|but|by law,|clearly,
|confirmed:
|correction:|curiously,|details:|did you know that|each year|elsewhere,|everyone says that
|finally,|first,
|footnote:|from then on|further,|given that|hence|here|however,|I am told that|I believe
|I found that
|I heard that|I know that|I think|I wrote that|if I recall,|in brief,|in fact,|in my notes,
|in the end|in time
|indeed,|info:|it happened that|it is said that|it may be that|it seems|it was noted that
|just so you know,
|last year|later|let us say|likewise,|look,|mind you,|more news:|moreover,|mostly
|my friend says that|news:
|next,|no doubt|not long ago|nota bene:|now|of course|often|oh,|okay,|on paper|on the whole|once
|one hears that
|only later|or rather,|our guide says that|ours says:|perhaps|plainly,|please,|point two:
|possibly|quote:|really,
|record:|right,|say,|second,|see:|since then|some think that|sometimes|soon|still,|such is life:
|summary:|sure,
|surely|tell them that|that is,|that said,|the fact is that|the point is that
|the report states that|then
|there it says that|therefore|they all know that|they say|this is how it is:|though|thus|tip:
|to begin with,
|to my mind|to repeat:|today|told you:|true:|under oath:|usually|very well:|warning:
|we agreed that|we believe
|we know that|we saw that|what is more,|whatever happens,|when I asked,|while|with luck
|without doubt|yes,|yet
|you see,|you should know that""",
    "|",
)

# Each begins with a mark, so that a value of several words does not run on into it.
TAILS = fragments(
    """, I am told|, I believe|, I guess|, I think|, after all|, all things considered
|, among others|, and more|, anyway|, as a matter of fact|, as always|, as ever|, as noted
|, as planned|, as said|, as usual|, be sure of it|, believe me|, by all accounts
|, for example|, for once|, for sure|, give or take|, he added|, if you ask me|, in a word
|, in brief|, indeed|, it seems|, it was said|, mark my words|, mind you|, more or less
|, no doubt|, no less|, of course|, perhaps|, right|, she wrote|, take note|, that is
|, they told us|, to be sure|, to my surprise|, we believe|, when asked|, who knew|, you see
| (again)| (checked)| (copy)| (draft)| (final)| (new)| (old)| (see above)| (sic)| (todo)
| [1]| [ok]| ...| --
""",
    "|",
)

QUESTION_LEADS = fragments(
    """a word:|actually,|after all this,|all right,|alright:|and so:|and then,|anyway,
|as for the above,|ask:|at last:
|back to the facts:|before I forget:|but|by the way,|can you tell me:|check:|come on,
|could you say:|dear reader,
|do you recall:|enough. Now|exam:|finally,|first,|for once,|for the log:|for the record:
|from memory:
|from what you read,|given all this,|given the text,|going by the text,|good. Now|hello,|help:
|here is one:|hey,
|honestly,|I ask:|I have forgotten:|I wonder:|if the text is right,|in all that,|in one word:
|in the document,
|in the end,|in your notes,|it was mentioned once:|last one:|let me ask:|let us check:
|let us see,|listen,|look,
|may I ask:|my next question:|next question:|next,|no. 7:|now tell me:|oh,|okay,|once more:
|one more:|or:|please,
|please answer:|pop quiz:|prompt:|puzzle:|question 3.|quick,|quiz:|reader,|really,|reply:|right,
|say,|see if you know:
|seriously,|short answer:|somewhere it said:|still,|tell us:|test:|the next one:|then,
|there was this:|thinking back,
|this one is easy:|time to ask:|to close:|to finish:|try this:|user asks:|wait,
|we read it earlier:|well then,|well,
|what do you think:|while we are here:|with that in mind,|yes, but|you read it:""",
    "|",
)
