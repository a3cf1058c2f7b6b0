"""Wording that training text alone uses, beside what :mod:`megacontext.core.data.wording` lists.

What is written in two hundred ways is learned as two hundred ways; only breadth teaches that any
words may stand around a key and its value. These lists widen training and leave the held-out side
as it is: none of them is drawn from there, so figures stay comparable when they grow.
"""

from __future__ import annotations

from megacontext.core.data.wording import fragments

__all__ = [
    "ATTRIBUTES",
    "BREAKS",
    "CHAT",
    "CODE_ASKS",
    "CODE_FACTS",
    "CODE_QUESTIONS",
    "HANDS_ON",
    "HAS",
    "LEADS",
    "LINKS",
    "LISTS",
    "MARKS",
    "OPENINGS",
    "QUESTIONS",
    "QUESTION_LEADS",
    "ROLES",
    "STATEMENTS",
    "SUBJECTS",
    "TAILS",
    "WHICH",
]

ATTRIBUTES = fragments(
    """accent;accession number;advisor;ally;altitude;anthem;apartment;appendix;archive box;
arrival;
assistant;auditor;award;balance;bandwidth;bank;barcode;baseline;bay;bed;bidder;binding;blend;
boiling point;bonus;boss;breed;broker;bus;button;call number;candidate;caption;captain;carrier;
cast;
category;ceiling;cell;certificate;chapter;charge;charter;choice;circuit;class;client;climate;
coach;
column;command;comment;commission;composer;condition;cost;course;cover;credit;crew;currency;
curator;
customer;cycle;deposit;depth;designer;dial;diet;digest;director;discount;district;divisor;docket;
door;dose;drawer;driver;duration;edition;editor;email;employer;emperor;encoding;endpoint;enemy;
engine;entrance;error code;estimate;exit;expiry;factor;fee;fellow;field;file;filter;finish;
firmware;
floor;folder;font;format;formula;foundation;frame;fuel;function;gauge;genre;goal;group;guest;
handle;
handler;headline;heir;helper;home port;host;humidity;image;incident;intake;interval;inventor;
issue;
item;judge;kernel;kind of wood;landlord;language;latitude;lawyer;leader;ledger page;lesson;level;
licence number;line;load;locale;location code;lock code;log line;longitude;loss;machine;magnitude;
mailbox;manager;map sheet;margin;mascot;mass;master key;material code;maximum;mean;measure;medium;
melody;mentor;method;middle name;milestone;minimum;minister;mode;moon;mount;name day;namespace;
neighbour;net weight;node;note;object;offer;office;offset;operator;option;orbit;order;origin;
output;
outcome;packet;page;paint;parent;parish;passenger;passphrase;path;patron;payload;peak;pen name;
period;permit;pilot;pitch;place;planet;plate;pledge;pool;position;postcode;power;predecessor;
prefix;
pressure;printer;priority;process;producer;product;profile;profit;proof;property;protocol;purpose;
quality;quantity;question;queue;quota;radius;range;rate;ratio;reading;receipt;record;region;
release;
remark;remedy;renter;reserve;resolution;response;return;review;reward;rhythm;ring size;river;rule;
runner-up;salary;sample;scale;schedule;school;scope;sector;seed;sender;sequence;series;server;
shape;
shift;shelf;ship;shop;sibling;side;site;slogan;slot;socket;source;speaker;speed;spell;sponsor;
square;stage;standard;start;state;status;step;storage;street;string;style;subject;subtitle;suffix;
suit;sum;surname;switch;tailor;tally;target;tax;temperature;template;tenant;terminal;test;theme;
thread;tier;tide;time zone;toll;tone;topic;total;tower;town;trade;trainer;transfer;translator;
tree;
trustee;tune;turn;twin;type;unit;user name;vault;vendor;venue;verdict;village;vintage;vitamin;
voice;
volume;voltage;vote;wage;ward;warranty;wavelength;weather;wharf;width;winner;witness;word;
workshop;
writer;yield;youngest child;zone""",
    ";",
)

STATEMENTS = fragments("""{k} had long been given {v} as {a}
all we learned is that {k} and {v} go together, by {a}
{a} {v} was booked on {k}
{v} ({a} of {k})
{v}, {k}'s own {a}
{v} fits {k} best as a {a}
after some talk {k} agreed to {v} as its {a}
and then there is {k}, whose {a} everyone calls {v}
anything about {k} starts with its {a} {v}
asked about the {a}, {k} points at {v}
at {k} they print {v} where the {a} goes
because of {k} the {a} had to be {v}
before noon {k} changed the {a} into {v}
both letters give {k} one {a}: {v}
by rights the {a} of {k} should read {v}
{k} - that is {a} {v}
{k} / {a} => {v}
{k} and its famous {a}, {v}
{k} brought {v} along as {a}
{k} can only have one {a}, which is {v}
{k} does not go without {v}, its {a}
{k} entered {v} in the space for the {a}
{k} got rid of every {a} but {v}
{k} insists on {v} for a {a}
{k} lists {v} among others as the {a}
{k} needs the {a} to be {v}
{k} replaced its {a} by {v}
{k} shares the {a} {v} with nobody
{k} signed with {v} in the {a} field
{k} stood there with {v} for {a}
{k} swears that {v} is its {a}
{k} wrote {v} next to {a}
{k}'s file: {a}, {v}
{k}, having {v} as {a}, came first
{k}, of {a} {v}, was next
{k}; {a}; {v}
{k}[{a}]: {v}
{k}::{a}::{v}
{k} <{a}> {v}
{k}: "{a}" - "{v}"
{k}... its {a}? {v}
do write {v} when a form wants the {a} of {k}
everything on {k} has {v} as {a}
few know that {k} has {v} for its {a}
from {k} we heard {v} about the {a}
give {v} if you want the {a} of {k}
here lies {k}, {a} {v}
his note put {v} as the {a} of {k}
if a {a} is wanted, {k} says {v}
in those days {k} still had {v} as {a}
it is {v} that {k} has as {a}
it takes {v} as the {a} to be {k}
item: {k}; {a}: {v}; checked
last of all came {k} with a {a} of {v}
look for {v} on the {a} line of {k}
make {v} the {a} for {k}
my list puts {k} under {a} {v}
no {a} suits {k} like {v}
nothing but {v} will do as the {a} of {k}
on {k} somebody painted the {a} {v}
once more: {k}, {a} {v}
only {v} was left as a {a} for {k}
ours is {k}, and the {a} is {v}
please use {v} as {k} {a}
row {k}, column {a}, cell {v}
see {k} for the {a} {v}
since spring the {a} of {k} has been {v}
some say {k} has {v} by way of {a}
that {k} has {a} {v} is no secret
the {a} (that of {k}) comes to {v}
the {a} {v} goes to {k}
the {a} {v} stands for {k}
the {a} column shows {v} beside {k}
the {a} found on {k} spells {v}
the {a} from {k} came back as {v}
the {a} in use at {k} is still {v}
the {a} of {k} changed hands and reads {v} now
the {a} of {k} could only be {v}
the {a} of {k} did not change: {v}
the {a} of {k} has always been {v}
the {a} of {k}, we hear, will stay {v}
the {a} on the back of {k} was {v}
the {a} that {k} asked for was {v}
the {a} to use with {k}: {v}
the {a} you want for {k} is none but {v}
the book gives {k} the {a} {v}
the guard wrote {v} for {k} under {a}
the label on {k} has {v} for {a}
the letter names {v} as the {a} at {k}
the second {a} of {k} is {v} as well
their {a}: {v}. Their name: {k}
there is a {a} for {k}, it is {v}
there was {v} in the {a} box of {k}
they changed the {a} at {k} to {v}
they put {k} down with {a} = {v}
this {k} carries {v} for a {a}
thus {k} was left with the {a} {v}
to reach {k} you need {v}, the {a}
told to pick a {a}, {k} picked {v}
under {a}, write {v} for {k}
until May the {a} of {k} will stay at {v}
use {a} {v} with {k}
we found {v} to be the true {a} of {k}
we have {k} down for the {a} {v}
we set {k} up with the {a} {v}
what {k} calls its {a} is {v}
what {k} has for {a} is {v}
when {k} spoke of its {a}, it was {v}
wherever {k} goes, its {a} is {v}
with {k} comes the {a} {v}
with {v} as a {a}, {k} was content
without {v} as its {a}, {k} would be lost
you may know {k}: its {a} is {v}
{a} "{v}" ({k})
{a} @ {k}: {v}
{a} at {k} ~ {v}
{a} for {k} .... {v}
{a} of {k} -> {v}
{a} of {k}, {v}, confirmed
{a}, {k}: {v}
{a}/{k}/{v}
{a}: {k} has {v}
{a}: {v} (see {k})
* {k} [{a}] {v}
+ {a} for {k} = {v}
({k}) {a} = {v}
[{a}] {k}: {v}
<{k}> {a} <{v}>""")

QUESTIONS = fragments("""and what about {k}, which {a}?
any idea what {a} {k} had?
anything on the {a} of {k}?
as {a}, what does {k} have?
before you go: {k}'s {a}?
but {k}'s {a}, what was it?
can anybody name a {a} for {k}?
complete this: {k}, {a} ...
could I have the {a} for {k}?
for the {a} of {k}, see:
for {k} the {a} would be which?
hand me the {a} that {k} has
has {k} got a {a}? Which one?
how is the {a} of {k} written?
how would {k} fill in its {a}?
I forgot the {a} of {k}.
I have to enter the {a} for {k}. What is it?
if one wants {k}'s {a}, what is it?
in which {a} do we file {k}?
is there a {a} for {k}? Say it.
it is about {k}. Its {a}?
just the {a} of {k}, please.
let me have {k}'s {a}.
let us hear the {a} of {k}!
my question is about {k}: the {a}?
now {k}: {a}?
of {k} I want the {a}.
on {k}, the {a} is?
one {a} was given to {k}. Which?
pick the {a} that goes to {k}.
please spell the {a} for {k}.
put in the {a} of {k}
regarding {k}, what is the {a}?
so which {a} was it for {k}?
speak: the {a} of {k}?
the {a} at {k} was what?
the {a} of {k} equals?
the {a} that {k} had?
the text gives {k} a {a}. Which one?
there was a {a} for {k}; which?
to open {k} I need its {a}.
told of {k}, they gave which {a}?
under {a}, what is there for {k}?
we lack the {a} of {k}. Do you have it?
what {a} can be read on {k}?
what {a} comes with {k}?
what {a} do they give for {k}?
what {a} has {k}?
what {a} should go to {k}?
what does it say on {k} for {a}?
what does the {a} of {k} say?
what has {k} as its {a}?
what is it that {k} has for {a}?
what is known of {k}'s {a}?
what is put down as {a} for {k}?
what might the {a} of {k} be?
what was noted for {k} under {a}?
what will you enter for the {a} of {k}?
when asked for a {a}, what does {k} say?
where it says {a} for {k}, what is there?
which is the {a} of {k}?
which one is {k}'s {a}?
which {a} comes with {k}?
which {a} do you see for {k}?
which {a} is on {k}?
which {a} was chosen for {k}?
which {a} was {k} given?
which {a} would you give for {k}?
who can say the {a} of {k}?
with what {a} was {k} found?
would you repeat which {a} {k} has?
you mentioned {k}. What {a}?
{a}? I mean that of {k}.
{a} for {k}, please
{a}, {k}?
{a}: {k}?
{k} ({a})?
{k} - {a}?
{k} came with what {a}?
{k} needs a {a}. What is it?
{k} uses which {a} again?
{k} was given a {a}: what?
{k}, of which {a}?
{k}. {a}?
{k}? Its {a}?""")

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

CODE_FACTS = [
    line.replace("\\n", "\n").replace("\\t", "\t")
    for line in fragments(r"""{k}: {v},
{k}: '{v}',
'{k}': '{v}',
'{k}': {v}
("{k}", "{v}"),
('{k}', {v}),
{{"{k}": "{v}"}}
{k} ?= {v}
{k} ||= "{v}"
{k} += "{v}"
{k}("{v}")
{k}.set("{v}")
{k}.value = {v}
{k} = [{v}]
{k} = ({v},)
{k} = {v};  // fixed
{k} = {v}  # default
{k}={v};
{k}="{v}"
{k} "{v}"
{k} '{v}';
{k}\t= {v}
{k} |-> {v}
{k} is {v}
{k} equals {v}
{k} set to {v}
{k} => "{v}",
{k} <- "{v}"
{k} <= {v}
{k}@{v}
{k}#{v}
{k}/{v}
{k} / {v}
{k} -- {v}
{k}--{v}
{k}%{v}
{k} & {v} \\
{k} ... {v}
[{k}]\n{v}
[{k}]: {v}
[{k}]({v})
<{k} value="{v}"/>
<param name="{k}">{v}</param>
<dt>{k}</dt><dd>{v}</dd>
<td>{k}</td><td>{v}</td>
<!-- {k}: {v} -->
/* {k}: {v} */
/* {k} = {v} */
// {k} = {v}
// the {k} is {v}
# {k}: {v}
# {k} = {v}
# use {v} for {k}
-- {k} = {v}
; {k} = {v}
% {k}: {v}
" {k} {v}
-{k}={v}
--{k}="{v}"
-D{k}={v}
-e {k}={v}
ARG {k}={v}
ENV {k} {v}
SET {k} = '{v}';
PRAGMA {k} = {v};
INSERT INTO t VALUES ('{k}', '{v}');
UPDATE t SET v = '{v}' WHERE k = '{k}';
assert {k} == {v}
assert {k} == "{v}"
expect({k}).toBe("{v}");
if {k} == "{v}":
if {k} is {v}:
return {k} or "{v}"
return {v}  # {k}
raise ValueError("{k}: {v}")
print("{k}", "{v}")
log.info("{k}=%s", "{v}")
os.environ["{k}"] = "{v}"
parser.add_argument("--{k}", default="{v}")
field({k}, default={v})
setattr(x, "{k}", {v})
x.{k} = {v}
x["{k}"] = {v}
x[{k}] = {v}
x->{k} = {v};
put("{k}", "{v}");
map.insert("{k}", "{v}");
new {k}("{v}")
class {k}: value = "{v}"
def {k}(x={v}): pass
fn {k}() -> {v}
func {k}() = {v}
lambda {k}: {v}
case {k}: return {v};
when "{k}" then {v}
alias {k}='{v}'
var {k} = "{v}"
val {k} = {v}
int {k} = {v};
char *{k} = "{v}";
static {k}: &str = "{v}";
pub const {k}: u32 = {v};
type {k} = {v}
typedef {v} {k};
import {v} as {k}
from {k} import {v}
use {k}::{v};
{k}::{v}
@{k}({v})
${k} = '{v}';
%{k}% = {v}
\def\{k}{{{v}}}
:param {k}: {v}
@type {k}: {v}
>>> {k}\n{v}
>>> {k}\n'{v}'
$ echo ${k}\n{v}
{k}:\n  {v}
{k}:\n  - {v}
{k} {{\n  {v}\n}}
- {k}: {v}
- {k}={v}
* {k} -> {v}
1. {k} {v}
| {k} | {v} | ok |
+{k} {v}
{v} = {k}
{v} <- {k}
{v}: {k}
{v} // {k}
{v}  # {k}""")
]

# (prompt ending where the answer starts, text behind the answer)
CODE_ASKS: tuple[tuple[str, str], ...] = (
    ("{k}=", "\n"),
    ("{k} is ", ".\n"),
    ("{k} has ", "\n"),
    ("{k} was ", "\n"),
    ("{k} := ", "\n"),
    ("{k} => ", "\n"),
    ('{k}("', '")\n'),
    ("{k}? ", "\n"),
    ("self.{k} == ", "\n"),
    ('x["{k}"] == ', "\n"),
    ("get({k}) -> ", "\n"),
    ("return {k}  # ", "\n"),
    ("/* {k}: ", " */\n"),
    ("<{k}>", "</\n"),
    ("# {k} = ", "\n"),
    ("# {k} -> ", "\n"),
    ("the value of {k} is ", ".\n"),
    ("set {k} to ", "\n"),
    ("if {k} == ", ":\n"),
    ("expect({k}).toBe(", ")\n"),
    ("$ echo ${k}\n", "\n"),
    ("{k}\t", "\n"),
    ("[{k}] ", "\n"),
    ("({k}, ", ")\n"),
    ("{k} / ", "\n"),
    ("where {k} = ", "\n"),
)
CODE_QUESTIONS = fragments("""value of {k}?
{k}?
what does {k} equal?
what does {k} contain?
what does {k} point to?
what does {k} return?
what does {k} stand at?
what is stored in {k}?
what is {k} equal to?
what is {k} in the code?
what was {k} set to?
what was put into {k}?
what will {k} print?
which value has {k}?
which value is in {k}?
which value was given to {k}?
how is {k} set?
how is {k} configured?
to what is {k} bound?
to which value does {k} refer?
look at the code: what is {k}?
find the value of {k}.
give the value of {k}.
say what {k} is.
tell me what {k} holds.
the setting of {k}?
I need {k}.
print {k}
the default of {k}?
name the value in {k}.""")

CHAT = fragments("""{v} is my {a}
{v} will do as my {a}
{v}, that is the {a} I was given
about the {a}: mine is {v}
all my life the {a} was {v}
as a {a} I took {v}
call it {v} if you need my {a}
for a {a} I would say {v}
from now on {v} is my {a}
I am the one with the {a} {v}
I am told my {a} is {v}
I carry {v} as {a}
I go with {v} for the {a}
I got the {a} {v}
I just changed my {a} to {v}
I need {v} as a {a}
I think my {a} says {v}
I use {v} as {a} here
I want {v} to be my {a}
I wrote {v} where it says {a}
in my case the {a} would be {v}
it says {v} under my {a}
just put {v} for my {a}
let {v} be the {a} for me
make my {a} {v}
me? {a} {v}
my own {a} has become {v}
my {a} changed, it reads {v} now
my {a} has to be {v}
my {a} used to be different, now it is {v}
my {a}: {v}
my {a}? {v}
on my card the {a} is {v}
please enter {v} for the {a}
please keep {v} as my {a}
put me down with {a} {v}
so my {a} must be {v}
the {a} on my side is {v}
the {a} they sent me is {v}
the {a} would be {v} in my case
they call my {a} {v}
{a} {v}, that is me
well, {v} is what I have as {a}
you will find {v} as my {a}""")
HANDS_ON = fragments(
    """{k} := {v};{k}={v};const {k} = {v};{k} is {v};{k} <- {v};{k}: {v};{v} -> {k};
assign {v} to {k};copy {v} into {k};{k} takes {v};{k} equals {v};var {k} = {v};my ${k} = {v};
define {k} as {v};{k} points to {v};{k} gets {v};export {k}={v};#define {k} {v};val {k} = {v};
store {v} in {k};{k} => {v};put {v} into {k};{k} refers to {v};{k}, set to {v};alias {k}={v};
# {k} is {v};{k} == {v};move {v} to {k};{k} = {v}  # same;auto {k} = {v}, fixed""",
    ";",
)
LISTS = fragments("""all {a}s of {k}?
all the {a}s that {k} has?
collect the {a}s of {k}.
each {a} of {k}, please.
enumerate the {a}s for {k}.
every {a} that {k} got?
find all {a}s for {k}.
give me each {a} of {k}.
give all {a}s that belong to {k}.
go through the {a}s of {k}.
how do the {a}s of {k} read, all of them?
in order, the {a}s for {k}?
list all {a}s that were mentioned for {k}.
list the {a}s of {k}.
name each {a} that {k} has.
repeat all {a}s of {k}.
tell me every {a} of {k}.
tell me all the {a}s {k} has.
the {a}s of {k} are?
what are the {a}s that {k} has?
what are {k}'s {a}s?
what {a}s are there for {k}?
what {a}s belong to {k}?
what {a}s does {k} have?
which are the {a}s of {k}?
which {a}s are listed for {k}?
which {a}s does {k} have?
which {a}s go with {k}?
{k} has several {a}s. Name them.
{k}: all {a}s?
{k}'s {a}s?""")
