"""Wording that training text alone uses, beside what :mod:`.wording` lists.

What is written in two hundred ways is learned as two hundred ways; only breadth teaches that any
words may stand around a key and its value. These lists widen training and leave the held-out side
as it is: none of them is drawn from there, so figures stay comparable when they grow.

What templates are composed of is in :mod:`.training_slots`, wording of code in
:mod:`.training_code`.
"""

from __future__ import annotations

from megacontext.core.data.recall.wording import fragments

__all__ = [
    "ATTRIBUTES",
    "CHAT",
    "LISTS",
    "QUESTIONS",
    "STATEMENTS",
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
